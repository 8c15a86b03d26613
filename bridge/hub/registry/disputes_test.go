package registry_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
)

// disputed says what a box made of a document or verdict.
func disputed(t testing.TB, sequence uint64, n int, kind, members string) line {
	t.Helper()
	return about(t, sequence, edgeclaim.TypeDeviceConflict, n, fmt.Sprintf(`"kind":%q,"claimed_at":%q,"at":%q%s`, kind, at(0), at(0), members))
}

// testRevoked: what a document revokes lets nobody in, whatever box says so, and
// whoever it is for; taken back by name, it does again.
func testRevoked(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "revoked", registry.Config{})
	a, b := "box-a", "box-b"
	greet(t, db, hello(a, 1, 100))
	greet(t, db, hello(b, 1, 100))
	apply(t, db, prov(t, a, 1, 4, provisioned(t, 1, 1, 1), provisioned(t, 2, 2, 1), provisioned(t, 3, 3, 1), rotated(t, 4, 3, 1, 2, 3600e9)),
		prov(t, b, 1, 1, provisioned(t, 1, 1, 2)))
	all := func() []string {
		return []string{verify(t, db, 1, 1), verify(t, db, 1, 2), verify(t, db, 2, 1), verifyOverlap(t, db, 3, 1), verify(t, db, 3, 2)}
	}
	is := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, all()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	is("valid by box-a", "valid by box-b", "valid by box-a", "overlap", "valid by box-a")
	body := fmt.Sprintf(`"devices":[%q],"hardware":["board-3"],"keys":[%q]`, deviceID(t, 1), secret(1000, 0))
	if became := publish(t, db, revocations(t, 1, `"box_id":"box-z",`, body)); became != "new" {
		t.Fatal(became)
	}
	is("revoked", "revoked", "valid by box-a", "revoked", "revoked") // device 2 was made with k-1: a key is not its devices
	held, err := db.Devices(ctx, registry.DeviceFilter{Device: deviceID(t, 1)})
	if err != nil || len(held) != 1 || len(held[0].Holdings) != 2 || held[0].Holdings[0].Valid || !held[0].Holdings[0].Revoked || held[0].Holdings[0].Status != edgeclaim.DeviceActive {
		t.Errorf("%+v, %v", held, err)
	}
	// One that is told later is revoked from the beginning, a new life too.
	apply(t, db, prov(t, b, 2, 2, provisioned(t, 2, 3, 9)))
	if got := verify(t, db, 3, 9); got != "revoked" {
		t.Error(got)
	}
	back := fmt.Sprintf(`"hardware":["board-3"],"keys":[%q],"reinstated":{"devices":[%q]}`, secret(1000, 0), deviceID(t, 1))
	if became := publish(t, db, revocations(t, 2, "", back)); became != "new" {
		t.Fatal(became)
	}
	is("valid by box-a", "valid by box-b", "valid by box-a", "revoked", "revoked")
	// Two documents in force count together.
	if became := publish(t, db, revocations(t, 3, `"box_id":"box-z",`, strings.Replace(back, `"hardware":["board-3"]`, `"hardware":["board-2","board-3"]`, 1))); became != "new" {
		t.Fatal(became)
	}
	is("valid by box-a", "valid by box-b", "revoked", "revoked", "revoked")
	if became := publish(t, db, revocations(t, 4, "", `"reinstated":{"hardware":["board-2","board-3"],"keys":["`+secret(1000, 0).String()+`"]}`)); became != "new" {
		t.Fatal(became)
	}
	is("valid by box-a", "valid by box-b", "valid by box-a", "overlap", "valid by box-a")
}

// due are the verdicts that wait.
func verdictsDue(t testing.TB, db *registry.DB) (all []string) {
	t.Helper()
	page, err := db.Verdicts(context.Background(), registry.VerdictMark{})
	if err != nil || page.More {
		t.Fatal(page, err)
	}
	for _, v := range page.Verdicts {
		which := func(hash edgeclaim.KeyHash) string {
			for n := range 20 {
				if secret(1, n).Equal(hash) {
					return fmt.Sprint(n)
				}
			}
			return "?"
		}
		all = append(all, fmt.Sprintf("%s: %s of %s stays, not %s", v.Box.Box, which(v.Device.Credential.Hash), v.KeptBox, which(v.Void)))
		if v.Device.ID != deviceID(t, 1) || v.Device.Hardware != hardware(1) || v.Device.Name == "" || v.Device.Key != keyID(t, "k-1") {
			t.Errorf("%+v", v.Device)
		}
	}
	return all
}

// testVerdicts: what was decided is due until the box has done it, by a record or
// a page, and only to boxes that take what is signed.
func testVerdicts(t *testing.T, open opener) {
	ctx := context.Background()
	a, b, c := "box-a", "box-b", "box-c"
	superseded := func(sequence uint64, members string) line { return disputed(t, sequence, 1, "superseded", members) }
	byName := fmt.Sprintf(`,"credential":{"type":"api_key","sha256":%q}`, secret(1, 1))
	adopted := row(t, 1, 1)
	adopted.ClaimedAt = now
	for name, tc := range map[string]struct {
		obey registry.Item
		is   string
	}{
		"a record":                     {prov(t, b, 2, 2, superseded(2, "")), "valid by box-a"},
		"a record with the hash":       {prov(t, b, 2, 2, superseded(2, byName)), "valid by box-a"},
		"a page":                       {pageOf(b, "s1", 1, true, adopted), "valid by box-a"},
		"another claim":                {prov(t, b, 2, 3, released(t, 2, 1), provisioned(t, 3, 1, 3)), ""},
		"it released the device":       {prov(t, b, 2, 2, released(t, 2, 1)), ""},
		"it was revoked there as well": {prov(t, b, 2, 2, disputed(t, 2, 1, "revoked", "")), ""},
	} {
		for _, policy := range []registry.Policy{registry.PolicyOperator, registry.PolicyFirst} {
			db := open(t, "verdicts", registry.Config{Policy: policy})
			emptyDocuments(t, db)
			for _, box := range []string{a, b, c} {
				h := hello(box, 1, 100)
				h.Enrolled = box != c
				greet(t, db, h)
			}
			apply(t, db, prov(t, a, 1, 1, provisioned(t, 1, 1, 1)), prov(t, b, 1, 1, provisioned(t, 1, 1, 2)))
			if policy == registry.PolicyOperator {
				if got := verdictsDue(t, db); len(got) != 0 {
					t.Fatalf("before anybody decided: %v", got)
				}
				if err := db.Resolve(ctx, conflicts(t, db, registry.ConflictFilter{})[0].ID, a); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff([]string{"box-b: 1 of box-a stays, not 2"}, verdictsDue(t, db)); diff != "" {
				t.Fatalf("%s, %s (-want +got):\n%s", name, policy, diff)
			}
			apply(t, db, tc.obey)
			if got := verdictsDue(t, db); len(got) != 0 && tc.is != "" {
				t.Errorf("%s, %s: still due: %v", name, policy, got)
			}
			if tc.is == "" {
				continue
			}
			rows, _, err := db.Held(ctx, b, edgeclaim.DeviceID{}, 0)
			if err != nil || len(rows) != 1 || !rows[0].Credential.Hash.Equal(secret(1, 1)) || rows[0].Status != edgeclaim.DeviceActive {
				t.Errorf("%s, %s: %+v, %v", name, policy, rows, err)
			}
			if got := []string{verify(t, db, 1, 1), verify(t, db, 1, 2)}; !cmp.Equal(got, []string{tc.is, "unknown"}) {
				t.Errorf("%s, %s: %v", name, policy, got)
			}
			if open := conflicts(t, db, registry.ConflictFilter{Open: true}); len(open) != 0 {
				t.Errorf("%s, %s: %+v", name, policy, open)
			}
			// A third box that takes no verdicts is told none.
			apply(t, db, prov(t, c, 1, 1, provisioned(t, 1, 1, 5)))
			if policy == registry.PolicyFirst {
				if got := verdictsDue(t, db); len(got) != 0 || verify(t, db, 1, 5) != "first" {
					t.Errorf("%v, %s", got, verify(t, db, 1, 5))
				}
			}
		}
	}
	// While two others are valid, nobody has decided between them.
	db := open(t, "verdicts of three", registry.Config{})
	for _, box := range []string{a, b, c} {
		h := hello(box, 1, 100)
		h.Enrolled = true
		greet(t, db, h)
	}
	apply(t, db, prov(t, a, 1, 1, provisioned(t, 1, 1, 1)), prov(t, b, 1, 1, provisioned(t, 1, 1, 2)))
	if err := db.Resolve(ctx, conflicts(t, db, registry.ConflictFilter{})[0].ID, a); err != nil {
		t.Fatal(err)
	}
	apply(t, db, prov(t, c, 1, 1, provisioned(t, 1, 1, 3)))
	if got := verdictsDue(t, db); len(got) != 0 {
		t.Error(got)
	}
	still := conflicts(t, db, registry.ConflictFilter{Open: true})
	if len(still) != 1 || db.Resolve(ctx, still[0].ID, c) != nil {
		t.Fatalf("%+v", still)
	}
	if diff := cmp.Diff([]string{"box-a: 3 of box-c stays, not 1", "box-b: 3 of box-c stays, not 2"}, verdictsDue(t, db)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// A box that obeyed when nobody knows any more what: its registry is asked for.
	apply(t, db, prov(t, c, 2, 2, released(t, 2, 1)), prov(t, a, 2, 2, superseded(2, "")))
	if boxes, err := db.Boxes(ctx, registry.BoxFilter{Box: a}); err != nil || !boxes[0].Snapshot || verify(t, db, 1, 1) != "unknown" {
		t.Errorf("%+v, %v, %s", boxes, err, verify(t, db, 1, 1))
	}
}

// testNoVerdictBetweenBoards: where two boxes know a device by two boards, keeping
// one box's credential gives it to no other board.
func testNoVerdictBetweenBoards(t *testing.T, open opener) {
	db := open(t, "two boards", registry.Config{})
	for _, box := range []string{"box-a", "box-b"} {
		h := hello(box, 1, 100)
		h.Enrolled = true
		greet(t, db, h)
	}
	apply(t, db, prov(t, "box-a", 1, 1, provisioned(t, 1, 1, 1)), prov(t, "box-b", 1, 1, withBoard(provisioned(t, 1, 1, 2), hardware(9), 1)))
	found := conflicts(t, db, registry.ConflictFilter{Open: true})
	if len(found) != 1 || found[0].Kind != registry.KindIdentity {
		t.Fatalf("%+v", found)
	}
	if err := db.Resolve(context.Background(), found[0].ID, "box-b"); err != nil {
		t.Fatal(err)
	}
	if got := []string{verify(t, db, 1, 1), verify(t, db, 1, 2)}; !cmp.Equal(got, []string{"resolved", "valid by box-b"}) {
		t.Fatal(got)
	}
	if got := verdictsDue(t, db); len(got) != 0 {
		t.Error(got)
	}
}

// testDisputes: each kind of device.conflict ends or opens what it means, and a
// kind of a later version is kept.
func testDisputes(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "disputes", registry.Config{})
	a := "box-a"
	greet(t, db, hello(a, 1, 100))
	other := fmt.Sprintf(`,"other_device_id":%q`, deviceID(t, 77))
	apply(t, db, prov(t, a, 1, 6, provisioned(t, 1, 1, 1), provisioned(t, 2, 2, 1), provisioned(t, 3, 3, 1),
		disputed(t, 4, 1, "revoked", ""), disputed(t, 5, 2, "of a later version", ""), disputed(t, 6, 3, "id_differs", other)))
	if got := []string{verify(t, db, 1, 1), verify(t, db, 2, 1), verify(t, db, 3, 1)}; !cmp.Equal(got, []string{"revoked", "valid by box-a", "valid by box-a"}) {
		t.Error(got)
	}
	found := conflicts(t, db, registry.ConflictFilter{})
	if len(found) != 1 || found[0].Kind != registry.KindIdentity || found[0].Device != deviceID(t, 3) || !cmp.Equal(found[0].Boxes, []string{a}) ||
		!strings.Contains(found[0].Detail, deviceID(t, 77).String()) {
		t.Fatalf("%+v", found)
	}
	apply(t, db, prov(t, a, 7, 8, disputed(t, 7, 3, "id_differs", other), released(t, 8, 3)))
	if found := conflicts(t, db, registry.ConflictFilter{}); len(found) != 1 || found[0].Resolution != "released" || found[0].Kept != a {
		t.Errorf("%+v", found)
	}
	// An operator may close it; nothing is void by that.
	apply(t, db, prov(t, a, 9, 9, disputed(t, 9, 2, "id_differs", "")))
	open2 := conflicts(t, db, registry.ConflictFilter{Open: true})
	if len(open2) != 1 || db.Resolve(ctx, open2[0].ID, a) != nil || verify(t, db, 2, 1) != "valid by box-a" {
		t.Errorf("%+v, %s", open2, verify(t, db, 2, 1))
	}
	for members, fault := range map[string]string{`"kind":""`: "kind: missing", `"kind":7`: "kind: not what it should be"} {
		results := apply(t, db, prov(t, a, 10, 10, about(t, 10, edgeclaim.TypeDeviceConflict, 1, members)))
		if results[0].Nack == nil || results[0].Nack.Reason != fault {
			t.Errorf("%s: %+v", members, results[0].Nack)
		}
	}
}

// testSwappedElsewhere: one box swaps a board while the old one claims on another.
// The document of aliases that follows brings both to the same.
func testSwappedElsewhere(t *testing.T, open opener) {
	ctx := context.Background()
	for _, first := range []string{"box-a", "box-b"} {
		db := open(t, "swapped elsewhere", registry.Config{})
		emptyDocuments(t, db)
		greet(t, db, hello("box-a", 1, 100))
		greet(t, db, hello("box-b", 1, 100))
		oldBoard := prov(t, "box-b", 1, 1, provisioned(t, 1, 1, 5))
		if first == "box-b" {
			apply(t, db, oldBoard)
		}
		apply(t, db, prov(t, "box-a", 1, 3, provisioned(t, 1, 1, 1), swapped(t, 2, 1, 9), withBoard(provisioned(t, 3, 1, 2), hardware(9), 1)))
		if first == "box-a" {
			apply(t, db, oldBoard)
		}
		swaps, err := db.Swaps(ctx, tenant(t, tenantID), edgeclaim.HardwareID{}, 0)
		if err != nil || len(swaps) != 1 || swaps[0].Alias != (edgeclaim.Alias{Hardware: hardware(9), Device: deviceID(t, 1), Replaces: hardware(1)}) || swaps[0].Box != "box-a" {
			t.Errorf("%s first: %+v, %v", first, swaps, err)
		}
		// box-b took the document: the old board's credential is void there.
		l := withBoard(disputed(t, 2, 1, "swapped", fmt.Sprintf(`,"old_hardware_id":%q`, hardware(1))), hardware(9), 1)
		apply(t, db, prov(t, "box-b", 2, 2, l))
		devices, err := db.Devices(ctx, registry.DeviceFilter{Device: deviceID(t, 1)})
		if err != nil || len(devices) != 1 || devices[0].Hardware != hardware(9) {
			t.Errorf("%s first: %+v, %v", first, devices, err)
		}
		if got := verify(t, db, 1, 5); got != "released" {
			t.Errorf("%s first: the old board's is %s", first, got)
		}
		still := conflicts(t, db, registry.ConflictFilter{Open: true})
		if first == "box-a" && (len(still) != 0 || verify(t, db, 1, 2) != "valid by box-a") {
			t.Errorf("%s first: %+v, %s", first, still, verify(t, db, 1, 2))
		}
		// The next swap takes the place of this one: an alias of it would undo that.
		apply(t, db, prov(t, "box-a", 4, 4, withBoard(strangeSwap(t, 4, 1, 9, 10), hardware(10), 1)))
		if swaps, err := db.Swaps(ctx, tenant(t, tenantID), edgeclaim.HardwareID{}, 0); err != nil || len(swaps) != 1 || swaps[0].Hardware != hardware(10) || swaps[0].Replaces != hardware(9) {
			t.Errorf("%s first: %+v, %v", first, swaps, err)
		}
	}
}

// strangeSwap says that the device of hardware n had the board from, and has to.
func strangeSwap(t testing.TB, sequence uint64, n, from, to int) line {
	t.Helper()
	return about(t, sequence, edgeclaim.TypeDeviceSwapped, n, fmt.Sprintf(`"old_hardware_id":%q,"generation":1,"swapped_at":%q,"by":"uid:0"`, hardware(from), at(0)))
}

// testTags: tags come by records and pages, and go back as they came.
func testTags(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "tags", registry.Config{})
	greet(t, db, hello("box-a", 1, 100))
	tagged := provisioned(t, 1, 1, 1)
	tagged.data = strings.Replace(tagged.data, `"groups"`, `"profile_id":"pump","tags":{"line":"7","zero":"a\u0000b"},"groups"`, 1)
	paged := row(t, 2, 1)
	paged.Tags = map[string]string{"hall": "Ü"}
	apply(t, db, prov(t, "box-a", 1, 2, tagged, provisioned(t, 2, 3, 1)), pageOf("box-a", "s1", 1, true, paged))
	rows, _, err := db.Held(ctx, "box-a", edgeclaim.DeviceID{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := map[edgeclaim.DeviceID]map[string]string{}
	for i := range rows {
		got[rows[i].ID] = rows[i].Tags
	}
	want := map[edgeclaim.DeviceID]map[string]string{
		deviceID(t, 1): {"line": "7", "zero": "ab"}, deviceID(t, 2): {"hall": "Ü"}, deviceID(t, 3): nil,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	shown, err := db.Devices(ctx, registry.DeviceFilter{Device: deviceID(t, 1)})
	if err != nil || len(shown) != 1 || shown[0].Holdings[0].Tags["line"] != "7" || shown[0].Holdings[0].Profile != "pump" {
		t.Errorf("%+v, %v", shown, err)
	}
}

// testExpected: announced boards, and what became of them.
func testExpected(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "expected", registry.Config{})
	greet(t, db, hello("box-a", 1, 100))
	greet(t, db, hello("box-b", 1, 100))
	template, err := edgeclaim.ParseTemplateID("t-1")
	if err != nil {
		t.Fatal(err)
	}
	board := func(n int) registry.Expected {
		return registry.Expected{
			Tenant: tenant(t, tenantID), Template: template,
			ManifestRow: edgeclaim.ManifestRow{Hardware: hardware(n), Name: "Pump", Groups: []string{"g"}, Tags: map[string]string{"line": "7"}, Profile: "p"},
		}
	}
	known := board(4)
	known.Device = deviceID(t, 44) // by the platform's own id
	rows := []registry.Expected{board(1), board(2), board(3), known, board(1), board(9)}
	if added, err := db.PutExpected(ctx, rows); added != 5 || err != nil {
		t.Errorf("%d, %v", added, err)
	}
	if added, err := db.PutExpected(ctx, rows[:2]); added != 0 || err != nil {
		t.Errorf("again: %d, %v", added, err)
	}
	alias := withBoard(provisioned(t, 3, 44, 1), hardware(4), 44)
	apply(t, db, prov(t, "box-a", 1, 5, provisioned(t, 1, 1, 1), provisioned(t, 2, 2, 1), alias, swapped(t, 4, 2, 9),
		withBoard(provisioned(t, 5, 2, 2), hardware(9), 2)), prov(t, "box-b", 1, 1, provisioned(t, 1, 1, 1)))
	var got []string
	for f := (registry.ExpectedFilter{Tenant: tenant(t, tenantID), Limit: 2}); ; {
		page, err := db.ExpectedRows(ctx, f)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			if e.Name != "Pump" || e.Profile != "p" || !cmp.Equal(e.Groups, []string{"g"}) || e.Tags["line"] != "7" || e.Template != template || !e.ImportedAt.Equal(now) {
				t.Errorf("%+v", e)
			}
			of := "nobody"
			for _, n := range []int{1, 2, 3, 9, 44} {
				if e.Claimed == deviceID(t, n) {
					of = fmt.Sprint("device ", n)
				}
			}
			got = append(got, fmt.Sprint(e.Hardware, ": ", of, " ", e.Status, " ", e.Boxes))
			f.AfterHardware, f.AfterTemplate = e.Hardware, e.Template
		}
	}
	if diff := cmp.Diff([]string{
		"board-1: device 1 active [box-a box-b]", "board-2: nobody  []", "board-3: nobody  []",
		"board-4: device 44 active [box-a]", "board-9: device 2 active [box-a]",
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := db.RemoveExpected(ctx, tenant(t, tenantID), template, []edgeclaim.HardwareID{hardware(1), hardware(77)}); err == nil {
		t.Error("one that was never announced")
	}
	if err := db.RemoveExpected(ctx, tenant(t, tenantID), template, []edgeclaim.HardwareID{hardware(1)}); err != nil {
		t.Error(err)
	}
	left, err := db.ExpectedRows(ctx, registry.ExpectedFilter{Tenant: tenant(t, tenantID), Template: template, Hardware: hardware(1)})
	if err != nil || len(left) != 0 {
		t.Errorf("%+v, %v", left, err)
	}
	if _, err := db.PutExpected(ctx, []registry.Expected{{Tenant: tenant(t, tenantID), Template: template}}); err == nil {
		t.Error("without a board")
	}
}
