package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/internal/protocolschema"
)

// TestTrust runs what follows over both databases, one server for all of it.
func TestTrust(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		for name, test := range map[string]func(*testing.T, opener){
			"swapped": testSwapped, "identity": testDecidedIdentity, "suspicions": testResolveLeavesSuspicions, "certificates": testCertificates,
			"held": testHeldInOverlap, "sealed": testSealed, "audit": testAuditHeads, "faults": testTrustFaults, "key": testBindKey,
		} {
			t.Run(name, func(t *testing.T) { test(t, open) })
		}
	})
}

// testSwapped: a swap changes the board that a device is known by, and no other
// box's word on it.
func testSwapped(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "swapped", registry.Config{})
	greet(t, db, hello("box-a", 1, 100))
	greet(t, db, hello("box-b", 1, 100))
	board := func(l line) line { return withBoard(l, hardware(9), 1) }
	shown := func() (string, []string) {
		t.Helper()
		devices, err := db.Devices(ctx, registry.DeviceFilter{Device: deviceID(t, 1)})
		if err != nil || len(devices) != 1 {
			t.Fatalf("%+v, %v", devices, err)
		}
		var held []string
		for _, box := range []string{"box-a", "box-b"} {
			rows, _, err := db.Held(ctx, box, edgeclaim.DeviceID{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			for i := range rows {
				held = append(held, fmt.Sprint(box, " ", rows[i].Hardware, " ", rows[i].Status))
			}
		}
		return devices[0].Hardware.String(), held
	}
	apply(t, db, prov(t, "box-a", 1, 1, provisioned(t, 1, 1, 1)), prov(t, "box-b", 1, 1, provisioned(t, 1, 1, 1)))
	apply(t, db, prov(t, "box-a", 2, 3, swapped(t, 2, 1, 9), board(provisioned(t, 3, 1, 2))))
	hw, held := shown()
	if diff := cmp.Diff([]string{"box-a board-9 active", "box-b board-1 active"}, held); diff != "" || hw != "board-9" {
		t.Errorf("%s (-want +got):\n%s", hw, diff)
	}
	// The board that was taken out is what box-b still says; its next
	// credential is a contradiction, its present one is not.
	if got := []string{verify(t, db, 1, 1), verify(t, db, 1, 2)}; !cmp.Equal(got, []string{"valid by box-b", "valid by box-a"}) {
		t.Error(got)
	}
	apply(t, db, prov(t, "box-b", 2, 2, provisioned(t, 2, 1, 3)))
	if got := verify(t, db, 1, 3); got != registry.KindIdentity {
		t.Error(got)
	}
	if got := kinds(t, db); len(got) != 2 || got[1] != "identity_mismatch open" {
		t.Error(got)
	}

	// By the word of a box that is not the first, while the first is valid,
	// the board is that box's alone; while it is not, it is the device's.
	empty(t, db)
	greet(t, db, hello("box-a", 1, 100))
	greet(t, db, hello("box-b", 1, 100))
	apply(t, db, prov(t, "box-a", 1, 1, provisioned(t, 1, 1, 1)))
	apply(t, db, prov(t, "box-b", 1, 2, provisioned(t, 1, 1, 1), swapped(t, 2, 1, 9)))
	if hw, _ := shown(); hw != "board-1" || verify(t, db, 1, 1) != "released" {
		t.Errorf("%s, %s", hw, verify(t, db, 1, 1))
	}
	apply(t, db, prov(t, "box-b", 3, 3, board(provisioned(t, 3, 1, 2))))
	if got := verify(t, db, 1, 2); got != registry.KindIdentity {
		t.Error(got)
	}
	apply(t, db, prov(t, "box-a", 2, 2, released(t, 2, 1)))
	apply(t, db, prov(t, "box-b", 4, 5, swapped(t, 4, 1, 9), board(provisioned(t, 5, 1, 3))))
	if hw, _ := shown(); hw != "board-9" || verify(t, db, 1, 3) != "valid by box-b" {
		t.Errorf("%s, %s", hw, verify(t, db, 1, 3))
	}
}

// testResolveLeavesSuspicions: what is decided over two boxes says nothing of a
// clone, and the other way round.
func testResolveLeavesSuspicions(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "suspicions", registry.Config{})
	greet(t, db, hello("box-a", 1, 100))
	greet(t, db, hello("box-b", 1, 100))
	apply(t, db, prov(t, "box-a", 1, 1, provisioned(t, 1, 1, 1)),
		prov(t, "box-b", 1, 2, provisioned(t, 1, 1, 2), suspected(t, 2, 1, edgeclaim.SuspicionNonce)))
	all := conflicts(t, db, registry.ConflictFilter{Open: true})
	if len(all) != 2 || all[1].Device != deviceID(t, 1) || !cmp.Equal(all[1].Boxes, []string{"box-b"}) {
		t.Fatalf("%+v", all)
	}
	if err := db.Resolve(ctx, all[1].ID, "box-a"); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("a box that did not say it: %v", err)
	}
	if err := db.Resolve(ctx, all[0].ID, "box-a"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"two_boxes operator box-a", "clone_suspected open"}, kinds(t, db)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := db.Resolve(ctx, all[1].ID, "box-b"); err != nil {
		t.Fatal(err)
	}
	if got := []string{verify(t, db, 1, 1), verify(t, db, 1, 2)}; !cmp.Equal(got, []string{"valid by box-a", "resolved"}) {
		t.Error(got)
	}
	err := db.Resolve(ctx, all[1].ID, "box-b")
	if !errors.Is(err, registry.ErrResolved) || !errors.Is(err, edgeclaim.ErrConflict) || strings.Count(err.Error(), "conflict") != 1 {
		t.Error(err)
	}
}

// testDecidedIdentity: whom an operator kept goes on through a rotation.
func testDecidedIdentity(t *testing.T, open opener) {
	db := open(t, "decided", registry.Config{})
	greet(t, db, hello("box-a", 1, 100))
	greet(t, db, hello("box-b", 1, 100))
	other := func(l line) line { return withBoard(l, hardware(9), 1) }
	apply(t, db, prov(t, "box-a", 1, 2, provisioned(t, 1, 1, 1), released(t, 2, 1)), prov(t, "box-b", 1, 1, other(provisioned(t, 1, 1, 2))))
	all := conflicts(t, db, registry.ConflictFilter{Open: true})
	if len(all) != 1 || all[0].Kind != registry.KindIdentity {
		t.Fatalf("%+v", all)
	}
	// Undecided, the successor is void as well.
	apply(t, db, prov(t, "box-b", 2, 2, other(rotated(t, 2, 1, 2, 3, time.Hour))))
	if got := verify(t, db, 1, 3); got != registry.KindIdentity {
		t.Error(got)
	}
	if err := db.Resolve(context.Background(), all[0].ID, "box-b"); err != nil {
		t.Fatal(err)
	}
	apply(t, db, prov(t, "box-b", 3, 3, other(rotated(t, 3, 1, 3, 4, time.Hour))))
	if got := []string{verifyOverlap(t, db, 1, 3), verify(t, db, 1, 4)}; !cmp.Equal(got, []string{"overlap", "valid by box-b"}) {
		t.Error(got)
	}
}

// testCertificates: a certificate ends by itself, and so does the one before it.
func testCertificates(t *testing.T, open opener) {
	cert := func(n int, notAfter time.Duration) string {
		return fmt.Sprintf(`{"type":"x509","fingerprint":%q,"not_after":%q}`, secret(1, n), at(notAfter))
	}
	claim := func(notAfter time.Duration) line {
		l := provisioned(t, 1, 1, 1)
		l.data = strings.Replace(l.data, fmt.Sprintf(`{"type":"api_key","sha256":%q}`, secret(1, 1)), cert(1, notAfter), 1)
		return l
	}
	renew := func(until, oldEnd, newEnd time.Duration) line {
		return about(t, 2, edgeclaim.TypeCredentialRotated, 1, fmt.Sprintf(`"credential":%s,"previous":%s,"previous_until":%q,"rotated_by":"device","rotated_at":%q`,
			cert(2, newEnd), cert(1, oldEnd), at(until), at(0)))
	}
	const hour = time.Hour
	for _, tc := range []struct {
		name  string
		lines []line
		want  string // of both, with the end in hours from now
	}{
		{"valid", []line{claim(hour)}, "yes until 1, unknown"},
		{"ends now", []line{claim(0)}, "expired, unknown"},
		{"expired", []line{claim(-hour)}, "expired, unknown"},
		{"renewed", []line{claim(hour), renew(2*hour, hour, 9*hour)}, "yes overlap until 1, yes until 9"},
		{"a short overlap", []line{claim(hour), renew(hour, 5*hour, 9*hour)}, "yes overlap until 1, yes until 9"},
		{"the old one expired in its overlap", []line{claim(hour), renew(hour, -hour, 9*hour)}, "expired, yes until 9"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db := open(t, "certificates", registry.Config{})
			empty(t, db)
			greet(t, db, hello("box-a", 1, 100))
			apply(t, db, prov(t, "box-a", 1, uint64(len(tc.lines)), tc.lines...))
			var got []string
			for n := 1; n <= 2; n++ {
				v, err := db.Verify(context.Background(), secret(1, n))
				if err != nil {
					t.Fatal(err)
				}
				text := v.Reason
				if v.Valid {
					text = "yes"
					if v.Overlap {
						text += " overlap"
					}
					text += fmt.Sprintf(" until %.0f", v.Until.Sub(now).Hours())
				}
				got = append(got, text)
			}
			if text := strings.Join(got, ", "); text != tc.want {
				t.Errorf("%s, want %s", text, tc.want)
			}
			devices, err := db.Devices(context.Background(), registry.DeviceFilter{})
			if err != nil || len(devices) != 1 || devices[0].Holdings[0].Valid != strings.HasPrefix(got[len(tc.lines)-1], "yes") {
				t.Errorf("%+v, %v", devices, err)
			}
		})
	}
}

// testHeldInOverlap: what a box takes back has the credential before the present
// one in it, as the box told it; of one that has ended, none.
func testHeldInOverlap(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "held", registry.Config{})
	greet(t, db, hello("box-a", 1, 100))
	want := rotatedRow(t, 1, 1, 2, time.Hour)
	want.RotatedBy = edgeclaim.RotatorDevice
	want.Credential.ConfirmedAt, want.Credential.NotAfter = now.Add(time.Minute), now.Add(time.Hour)
	want.Previous.NotAfter = now.Add(2 * time.Hour)
	apply(t, db, pageOf("box-a", "s1", 1, true, want))
	got, _, err := db.Held(ctx, "box-a", edgeclaim.DeviceID{}, 0)
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	compare := cmp.Comparer(func(x, y edgeclaim.KeyHash) bool { return x.Equal(y) })
	ids := cmp.AllowUnexported(edgeclaim.DeviceID{}, edgeclaim.TenantID{}, edgeclaim.HardwareID{}, edgeclaim.TemplateID{}, edgeclaim.KeyID{})
	if diff := cmp.Diff(want, got[0], compare, ids); diff != "" {
		t.Errorf("(-told +held):\n%s", diff)
	}
	// Whether the device ever used its new one is not known here: an old one
	// that has ended is not given back, whoever asked for the rotation.
	apply(t, db, pageOf("box-a", "s2", 1, true, rotatedRow(t, 1, 1, 2, 0)))
	if got, _, err = db.Held(ctx, "box-a", edgeclaim.DeviceID{}, 0); err != nil || len(got) != 1 || !got[0].Previous.Hash.IsZero() || got[0].PreviousValid(now) {
		t.Errorf("ended: %+v, %v", got, err)
	}
	apply(t, db, pageOf("box-a", "s3", 1, true, rotatedRow(t, 1, 1, 2, time.Hour)))
	apply(t, db, prov(t, "box-a", 1, 1, released(t, 1, 1)))
	if got, _, err = db.Held(ctx, "box-a", edgeclaim.DeviceID{}, 0); err != nil || len(got) != 1 || !got[0].Previous.Hash.IsZero() || !got[0].PreviousUntil.IsZero() {
		t.Errorf("released: %+v, %v", got, err)
	}
}

// testSealed: the newest PSK that somebody sealed for the hub.
func testSealed(t *testing.T, open opener) {
	ctx := context.Background()
	psk := func(n int, more string) string {
		return fmt.Sprintf(`"credential":{"type":"psk","sha256":%q%s}`, secret(1, n), more)
	}
	sealedAs := func(value string) string { return fmt.Sprintf(`,"sealed":{"key_id":"k","value":%q}`, value) }
	claim := func(more string) line {
		l := provisioned(t, 1, 1, 1)
		l.data = strings.Replace(l.data, fmt.Sprintf(`"credential":{"type":"api_key","sha256":%q}`, secret(1, 1)), psk(1, more), 1)
		return l
	}
	renew := func(sequence uint64, more string) line {
		return about(t, sequence, edgeclaim.TypeCredentialRotated, 1, fmt.Sprintf(
			`%s,"previous":{"type":"psk","sha256":%q},"previous_until":%q,"rotated_by":"device","rotated_at":%q`, psk(2, more), secret(1, 1), at(0), at(0)))
	}
	page := row(t, 1, 2)
	page.Credential.Type = edgeclaim.CredentialPSK
	for _, tc := range []struct {
		name  string
		items []registry.Item
		want  string
	}{
		{"none", []registry.Item{prov(t, "box-a", 1, 1, provisioned(t, 1, 1, 1))}, "not found"},
		{"nobody", nil, "not found"},
		{"not sealed", []registry.Item{prov(t, "box-a", 1, 1, claim(`,"unsealed":"no_upstream_key"`))}, "not found"},
		{"claimed", []registry.Item{prov(t, "box-a", 1, 1, claim(sealedAs("AQID")))}, "010203 of 1"},
		{"rotated", []registry.Item{prov(t, "box-a", 1, 2, claim(sealedAs("AQID")), renew(2, sealedAs("BAU")))}, "0405 of 2"},
		{"and told again in a page", []registry.Item{prov(t, "box-a", 1, 2, claim(sealedAs("AQID")), renew(2, sealedAs("BAU"))), pageOf("box-a", "s1", 1, true, page)},
			"0405 of 2"},
		{"rotated, not sealed", []registry.Item{prov(t, "box-a", 1, 2, claim(sealedAs("AQID")), renew(2, `,"unsealed":"no_upstream_key"`))}, "not found"},
		{"released", []registry.Item{prov(t, "box-a", 1, 2, claim(sealedAs("AQID")), released(t, 2, 1))}, "010203 of 1, released"},
		{"the valid one of two", []registry.Item{prov(t, "box-a", 1, 1, claim(sealedAs("AQID"))),
			prov(t, "box-b", 1, 3, claim(sealedAs("AQID")), renew(2, sealedAs("BAU")), released(t, 3, 1))}, "010203 of 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db := open(t, "sealed", registry.Config{})
			empty(t, db)
			greet(t, db, hello("box-a", 1, 100))
			greet(t, db, hello("box-b", 1, 100))
			apply(t, db, tc.items...)
			s, err := db.Sealed(ctx, deviceID(t, 1))
			got := ""
			switch {
			case errors.Is(err, edgeclaim.ErrNotFound):
				got = "not found"
			case err != nil:
				t.Fatal(err)
			default:
				n := 1
				if s.Hash.Equal(secret(1, 2)) {
					n = 2
				}
				got = fmt.Sprintf("%x of %d", s.Value, n)
				if !s.Valid {
					got += ", " + s.Reason
				}
			}
			if got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// testAuditHeads: the log's end goes on, or somebody has to look.
func testAuditHeads(t *testing.T, open opener) {
	evt := func(first uint64, heads ...line) registry.Item {
		for i := range heads {
			heads[i].sequence = first + uint64(i)
		}
		return batch(t, "box-a", 1, edgeclaim.LaneEvt, first, first+uint64(len(heads))-1, heads...)
	}
	db := open(t, "audit", registry.Config{})
	greet(t, db, hello("box-a", 1, 1000))
	last := uint64(0) // the last sequence told
	for _, tc := range []struct {
		name string
		told line
		end  uint64
		open int // conflicts, of which the first is resolved below
	}{
		{"an empty log", line{kind: edgeclaim.TypeAuditHead, data: `{"segment":"","sequence":0,"hash":"","time":"0001-01-01T00:00:00Z"}`}, 0, 0},
		{"the first", head(0, 10, "aa"), 10, 0},
		{"the next", head(0, 20, "bb"), 20, 0},
		{"again", head(0, 20, "bb"), 20, 0},
		{"an earlier one again", head(0, 10, "aa"), 20, 0},
		{"another hash", head(0, 20, "cc"), 20, 1},
		{"goes on", head(0, 30, "dd"), 30, 1},
		{"back", head(0, 15, "ee"), 15, 1},
		{"goes on from there", head(0, 16, "ff"), 16, 1},
	} {
		last++
		apply(t, db, evt(last, tc.told))
		boxes, err := db.Boxes(context.Background(), registry.BoxFilter{})
		if err != nil || len(boxes) != 1 || boxes[0].Audit == nil || boxes[0].Audit.Sequence != tc.end {
			t.Fatalf("%s: %+v, %v", tc.name, boxes, err)
		}
		all := conflicts(t, db, registry.ConflictFilter{Open: true})
		if len(all) != tc.open {
			t.Errorf("%s: %+v", tc.name, all)
		}
		if len(all) == 1 && (all[0].Kind != registry.KindRewritten || !cmp.Equal(all[0].Boxes, []string{"box-a"}) ||
			!strings.Contains(all[0].Detail, strings.Repeat("bb", 32))) {
			t.Errorf("%s: %+v", tc.name, all[0])
		}
	}
	all := conflicts(t, db, registry.ConflictFilter{Open: true})
	if err := db.Resolve(context.Background(), all[0].ID, "box-a"); err != nil {
		t.Fatal(err)
	}
	apply(t, db, evt(last+1, head(0, 17, "ab")))
	if left := conflicts(t, db, registry.ConflictFilter{Open: true}); len(left) != 0 {
		t.Errorf("%+v", left)
	}
	// Heads that are told for ever do not pile up.
	for i := range uint64(5) {
		var many []line
		for n := range uint64(100) {
			many = append(many, head(0, 100+i*100+n, "ab"))
		}
		if r := apply(t, db, evt(last+2+i*100, many...))[0]; r.Applied != len(many) {
			t.Fatalf("%+v", r)
		}
	}
	look := raw(t, db)
	defer look.Close()
	var kept int
	if err := look.QueryRow("SELECT COUNT(*) FROM audit_heads").Scan(&kept); err != nil || kept != 400 {
		t.Errorf("%d heads kept, %v", kept, err)
	}
}

// testTrustFaults: what is missing in a record is named, and it is parked.
func testTrustFaults(t *testing.T, open opener) {
	in := func(l line, old, new string) line {
		if !strings.Contains(l.data, old) {
			t.Fatalf("no %s in %s", old, l.data)
		}
		l.data = strings.Replace(l.data, old, new, 1)
		return l
	}
	sealed := in(rotated(t, 1, 1, 1, 2, 0), `"type":"api_key"`, `"type":"psk","sealed":{"key_id":"k","value":"A"}`)
	db := open(t, "faults", registry.Config{})
	for _, tc := range []struct {
		name   string
		lane   edgeclaim.Lane
		told   line
		reason string
	}{
		{"no credential", edgeclaim.LaneProv, in(rotated(t, 1, 1, 1, 2, 0), `"credential":`, `"x":`), "credential.type: missing"},
		{"no time", edgeclaim.LaneProv, in(rotated(t, 1, 1, 1, 2, 0), `"rotated_at":`, `"x":`), "rotated_at: missing"},
		{"a wrong time", edgeclaim.LaneProv, in(rotated(t, 1, 1, 1, 2, 0), `"previous_until":"`, `"previous_until":"x`), "previous_until: not what it should be"},
		{"a wrong sealed", edgeclaim.LaneProv, sealed, "credential.sealed: want 1 to 1024 bytes, base64url without padding"},
		{"nobody revoked", edgeclaim.LaneProv, in(revoked(t, 1, 1), `"device_id":`, `"x":`), "device_id: missing"},
		{"no kind", edgeclaim.LaneProv, in(suspected(t, 1, 1, edgeclaim.SuspicionNonce), `"kind":`, `"x":`), "kind: missing"},
		{"another's swap", edgeclaim.LaneProv, line{1, edgeclaim.TypeDeviceSwapped, deviceID(t, 2), swapped(t, 1, 1, 9).data}, "subject: not the device of the data"},
		{"no hash", edgeclaim.LaneEvt, in(head(1, 7, "aa"), `"hash":`, `"x":`), "hash: want 64 hexadecimal digits"},
		{"no hexadecimal", edgeclaim.LaneEvt, head(1, 7, "zz"), "hash: want 64 hexadecimal digits"},
		{"beyond", edgeclaim.LaneEvt, head(1, 1<<63, "aa"), "sequence: more than any log has"},
		{"the wrong lane", edgeclaim.LaneEvt, revoked(t, 1, 1), "lane: device.credential.revoked goes in prov"},
		{"the other wrong lane", edgeclaim.LaneProv, head(1, 7, "aa"), "lane: audit.head goes in evt"},
	} {
		empty(t, db)
		greet(t, db, hello("box-a", 1, 100))
		r := apply(t, db, batch(t, "box-a", 1, tc.lane, 1, 1, tc.told))[0]
		if r.Nack == nil || r.Nack.Reason != tc.reason {
			t.Errorf("%s: %+v, want %q", tc.name, r.Nack, tc.reason)
		}
	}
	// A tenant that is not served is not served in any record.
	strict := open(t, "strict", registry.Config{Tenants: []edgeclaim.TenantID{tenant(t, otherID)}})
	greet(t, strict, hello("box-a", 1, 100))
	for _, l := range []line{rotated(t, 1, 1, 1, 2, 0), revoked(t, 1, 1), swapped(t, 1, 1, 9), suspected(t, 1, 1, edgeclaim.SuspicionNonce)} {
		if r := apply(t, strict, prov(t, "box-a", 1, 1, l))[0]; r.Nack == nil || r.Nack.Reason != "tenant_id: not served here" {
			t.Errorf("%s: %+v", l.kind, r)
		}
	}
}

// TestRecordsAsPublished holds the records of these tests against the schemas:
// what is understood here is what a box says.
func TestRecordsAsPublished(t *testing.T) {
	for _, l := range []line{
		provisioned(t, 1, 1, 1), rotated(t, 1, 1, 1, 2, time.Hour), released(t, 1, 1), revoked(t, 1, 1), swapped(t, 1, 1, 9),
		suspected(t, 1, 1, edgeclaim.SuspicionTakeover),
	} {
		for _, event := range prov(t, "box-a", 1, 1, l).Batch.Events {
			if err := protocolschema.Check(names("box-a").Up("prov"), event); err != nil {
				t.Errorf("%s: %v", l.kind, err)
			}
		}
	}
	for _, event := range batch(t, "box-a", 1, edgeclaim.LaneEvt, 1, 1, head(1, 7, "aa")).Batch.Events {
		if err := protocolschema.Check(names("box-a").Up("evt"), event); err != nil {
			t.Error(err)
		}
	}
}

// testBindKey: a database knows whose it is.
func testBindKey(t *testing.T, open opener) {
	ctx := context.Background()
	db, other := open(t, "bind", registry.Config{}), open(t, "bind", registry.Config{})
	for _, tc := range []struct {
		id      string
		replace bool
		want    error
		bound   string
	}{
		{"one", false, nil, "one"},
		{"one", false, nil, "one"},
		{"two", false, edgeclaim.ErrConflict, "one"},
		{"two", true, nil, "two"},
		{"one", false, edgeclaim.ErrConflict, "two"},
	} {
		if err := db.BindKey(ctx, tc.id, tc.replace); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.id, err, tc.want)
		}
		if bound, err := other.SigningKey(ctx); err != nil || bound != tc.bound {
			t.Errorf("%s: bound to %q, %v", tc.id, bound, err)
		}
	}
}
