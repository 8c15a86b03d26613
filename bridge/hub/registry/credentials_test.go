package registry_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
)

// about is a record of a device, with the members that all of them have.
func about(t testing.TB, sequence uint64, kind edgeclaim.RecordType, n int, members string) line {
	t.Helper()
	id := deviceID(t, n)
	return line{sequence, kind, id, fmt.Sprintf(`{"device_id":%q,"tenant_id":%q,"hardware_id":%q,"box_id":"b","site":"s",%s}`,
		id, tenantID, hardware(n), members)}
}

// at is a time as a record has it: so long after the registries' now.
func at(after time.Duration) string { return now.Add(after).Format(time.RFC3339Nano) }

// rotated says that device n's credential to took the place of from, which stays
// valid for that long.
func rotated(t testing.TB, sequence uint64, n, from, to int, overlap time.Duration) line {
	t.Helper()
	return about(t, sequence, edgeclaim.TypeCredentialRotated, n, fmt.Sprintf(
		`"credential":{"type":"api_key","sha256":%q},"previous":{"type":"api_key","sha256":%q},"previous_until":%q,"rotated_by":"operator","rotated_at":%q`,
		secret(n, to), secret(n, from), at(overlap), at(0)))
}

func revoked(t testing.TB, sequence uint64, n int) line {
	t.Helper()
	return about(t, sequence, edgeclaim.TypeCredentialRevoked, n, fmt.Sprintf(`"reason":"stolen","revoked_at":%q,"by":"uid:0"`, at(0)))
}

// swapped says that the device of hardware from has the board to from now on.
func swapped(t testing.TB, sequence uint64, from, to int) line {
	t.Helper()
	l := about(t, sequence, edgeclaim.TypeDeviceSwapped, from, fmt.Sprintf(
		`"old_hardware_id":%q,"generation":1,"swapped_at":%q,"by":"uid:0"`, hardware(from), at(0)))
	l.data = strings.Replace(l.data, fmt.Sprintf(`"hardware_id":%q,"box_id"`, hardware(from)), fmt.Sprintf(`"hardware_id":%q,"box_id"`, hardware(to)), 1)
	return l
}

// withBoard is a record of a device under another board's id.
func withBoard(l line, board edgeclaim.HardwareID, was int) line {
	l.data = strings.Replace(l.data, fmt.Sprintf(`"hardware_id":%q`, hardware(was)), fmt.Sprintf(`"hardware_id":%q`, board), 1)
	return l
}

func suspected(t testing.TB, sequence uint64, n int, kind edgeclaim.SuspicionKind) line {
	t.Helper()
	return about(t, sequence, edgeclaim.TypeCloneSuspected, n, fmt.Sprintf(`"kind":%q,"count":4,"window_seconds":60,"sources":["192.0.2.1"]`, kind))
}

// head says where a box's audit log ends.
func head(sequence, entry uint64, hash string) line {
	return line{sequence: sequence, kind: edgeclaim.TypeAuditHead, data: fmt.Sprintf(
		`{"segment":"000000000001.log","sequence":%d,"hash":%q,"time":%q,"box_id":"b","site":"s"}`, entry, strings.Repeat(hash, 32), at(0))}
}

// rotatedRow is a box's row of a device in a rotation.
func rotatedRow(t testing.TB, n, from, to int, overlap time.Duration) edgeclaim.Device {
	t.Helper()
	d := row(t, n, to)
	d.Previous = edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: secret(n, from), IssuedAt: now}
	d.PreviousUntil, d.RotatedBy = now.Add(overlap), edgeclaim.RotatorOperator
	return d
}

// TestCredentials tells the story of one device, and asks whom its first three
// credentials let in afterwards.
func TestCredentials(t *testing.T) {
	const hour = time.Hour
	a, b := "box-a", "box-b"
	claimed := func(sequence uint64, credential int) line { return provisioned(t, sequence, 1, credential) }
	rotate := func(sequence uint64, from, to int, overlap time.Duration) line {
		return rotated(t, sequence, 1, from, to, overlap)
	}
	rotateAlone := func(sequence uint64, to int) line {
		return about(t, sequence, edgeclaim.TypeCredentialRotated, 1, fmt.Sprintf(
			`"credential":{"type":"api_key","sha256":%q},"rotated_by":"claim","rotated_at":%q`, secret(1, to), at(0)))
	}
	ended := row(t, 1, 1) // as the box has it when its credential is void
	ended.Status, ended.Credential = edgeclaim.DeviceRevoked, edgeclaim.Credential{}
	each(t, func(t *testing.T, open opener) {
		for _, tc := range []struct {
			name      string
			policy    registry.Policy
			items     []registry.Item
			want      [3]string
			conflicts []string
		}{
			{name: "rotated", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotate(2, 1, 2, hour))},
				want: [3]string{"overlap", "valid by box-a", "unknown"}},
			{name: "rotated without overlap", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotate(2, 1, 2, 0))},
				want: [3]string{"rotated", "valid by box-a", "unknown"}},
			{name: "rotated, and the old one is not named", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotateAlone(2, 2))},
				want: [3]string{"rotated", "valid by box-a", "unknown"}},
			{name: "and then a page from before", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotateAlone(2, 2)), pageOf(a, "s1", 1, true, row(t, 1, 1))},
				want: [3]string{"rotated", "valid by box-a", "unknown"}},
			{name: "the overlap has ended", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotate(2, 1, 2, -hour))},
				want: [3]string{"rotated", "valid by box-a", "unknown"}},
			{name: "twice: at most two", items: []registry.Item{prov(t, a, 1, 3, claimed(1, 1), rotate(2, 1, 2, hour), rotate(3, 2, 3, hour))},
				want: [3]string{"unknown", "overlap", "valid by box-a"}},
			{name: "the record counts, not what was stored", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotate(2, 2, 3, hour))},
				want: [3]string{"unknown", "overlap", "valid by box-a"}},
			{name: "of a device that nobody told", items: []registry.Item{prov(t, a, 1, 1, rotate(1, 1, 2, hour))},
				want: [3]string{"overlap", "valid by box-a", "unknown"}},
			{name: "revoked in an overlap", items: []registry.Item{prov(t, a, 1, 3, claimed(1, 1), rotate(2, 1, 2, hour), revoked(t, 3, 1))},
				want: [3]string{"revoked", "revoked", "unknown"}},
			{name: "released in an overlap", items: []registry.Item{prov(t, a, 1, 3, claimed(1, 1), rotate(2, 1, 2, hour), released(t, 3, 1))},
				want: [3]string{"released", "released", "unknown"}},
			{name: "reinstated, claimed anew", items: []registry.Item{prov(t, a, 1, 4, claimed(1, 1), revoked(t, 2, 1), released(t, 3, 1), claimed(4, 2))},
				want: [3]string{"unknown", "valid by box-a", "unknown"}},
			{name: "a rotation revives nothing", items: []registry.Item{prov(t, a, 1, 3, claimed(1, 1), revoked(t, 2, 1), rotate(3, 1, 2, hour))},
				want: [3]string{"revoked", "revoked", "unknown"}},

			{name: "a page of the same", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotate(2, 1, 2, hour)),
				pageOf(a, "s1", 1, true, rotatedRow(t, 1, 1, 2, hour))}, want: [3]string{"overlap", "valid by box-a", "unknown"}},
			{name: "a page alone", items: []registry.Item{pageOf(a, "s1", 1, true, rotatedRow(t, 1, 1, 2, hour))},
				want: [3]string{"overlap", "valid by box-a", "unknown"}},
			{name: "a page of an earlier program", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotate(2, 1, 2, hour)), pageOf(a, "s1", 1, true, row(t, 1, 2))},
				want: [3]string{"unknown", "valid by box-a", "unknown"}},
			{name: "a page older than the rotation", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotate(2, 1, 2, hour)),
				pageOf(a, "s1", 1, true, row(t, 1, 1))}, want: [3]string{"overlap", "valid by box-a", "unknown"}},
			{name: "a page older than the release of both", items: []registry.Item{prov(t, a, 1, 3, claimed(1, 1), rotate(2, 1, 2, hour), released(t, 3, 1)),
				pageOf(a, "s1", 1, true, row(t, 1, 1))}, want: [3]string{"released", "released", "unknown"}},
			{name: "a page newer than the records", items: []registry.Item{pageOf(a, "s1", 1, true, rotatedRow(t, 1, 1, 2, hour)),
				prov(t, a, 1, 2, claimed(1, 1), rotate(2, 1, 2, hour))}, want: [3]string{"overlap", "valid by box-a", "unknown"}},
			{name: "a page with a void credential", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotate(2, 1, 2, hour)), pageOf(a, "s1", 1, true, ended)},
				want: [3]string{"revoked", "revoked", "unknown"}},

			{name: "two boxes, one rotates", items: []registry.Item{prov(t, a, 1, 1, claimed(1, 1)), prov(t, b, 1, 2, claimed(1, 2), rotate(2, 2, 3, hour))},
				want: [3]string{"valid by box-a", "overlap", "valid by box-b"}, conflicts: []string{"two_boxes open"}},
			{name: "first, the later one rotates: void stays void", policy: registry.PolicyFirst,
				items: []registry.Item{prov(t, a, 1, 1, claimed(1, 1)), prov(t, b, 1, 2, claimed(1, 2), rotate(2, 2, 3, hour))},
				want:  [3]string{"valid by box-a", "first", "first"}, conflicts: []string{"two_boxes first box-a"}},
			{name: "first, the first one rotates", policy: registry.PolicyFirst,
				items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), rotate(2, 1, 3, hour)), prov(t, b, 1, 1, claimed(1, 2))},
				want:  [3]string{"overlap", "first", "valid by box-a"}, conflicts: []string{"two_boxes first box-a"}},
			{name: "one credential on two boxes, one rotates", items: []registry.Item{prov(t, a, 1, 1, claimed(1, 1)),
				prov(t, b, 1, 2, claimed(1, 1), rotate(2, 1, 2, hour))}, want: [3]string{"valid by box-a", "valid by box-b", "unknown"}},
			{name: "first, one credential on two boxes, one rotates", policy: registry.PolicyFirst, items: []registry.Item{prov(t, a, 1, 1, claimed(1, 1)),
				prov(t, b, 1, 2, claimed(1, 1), rotate(2, 1, 2, hour))}, want: [3]string{"valid by box-a", "valid by box-b", "unknown"}},
			{name: "and the other says it again", policy: registry.PolicyFirst, items: []registry.Item{prov(t, a, 1, 1, claimed(1, 1)),
				prov(t, b, 1, 2, claimed(1, 1), rotate(2, 1, 2, hour)), pageOf(a, "s1", 1, true, row(t, 1, 1))},
				want: [3]string{"valid by box-a", "valid by box-b", "unknown"}},
			{name: "and its overlap has ended: deny wins", items: []registry.Item{prov(t, a, 1, 1, claimed(1, 1)),
				prov(t, b, 1, 2, claimed(1, 1), rotate(2, 1, 2, -hour))}, want: [3]string{"rotated", "valid by box-b", "unknown"}},
			{name: "two boxes, one is revoked", items: []registry.Item{prov(t, a, 1, 1, claimed(1, 1)), prov(t, b, 1, 2, claimed(1, 2), revoked(t, 2, 1))},
				want: [3]string{"valid by box-a", "revoked", "unknown"}, conflicts: []string{"two_boxes released box-a"}},

			{name: "a suspicion voids nothing", items: []registry.Item{prov(t, a, 1, 3, claimed(1, 1), suspected(t, 2, 1, edgeclaim.SuspicionTakeover),
				suspected(t, 3, 1, edgeclaim.SuspicionTakeover))}, want: [3]string{"valid by box-a", "unknown", "unknown"}, conflicts: []string{"clone_suspected open"}},
			{name: "a box contradicts itself", items: []registry.Item{prov(t, a, 1, 2, claimed(1, 1), withBoard(claimed(2, 1), hardware(7), 1))},
				want: [3]string{"identity_mismatch", "unknown", "unknown"}, conflicts: []string{"identity_mismatch open"}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				db := open(t, "credentials", registry.Config{Policy: tc.policy})
				ways := []string{"at once", "one by one", "again"}
				if driver, _ := registry.Source(db); testing.Short() && driver == "pgx" {
					ways = ways[1:2] // each empties the database, which takes it long
				}
				for _, way := range ways {
					if way != "again" {
						empty(t, db)
						greet(t, db, hello(a, 1, 100))
						greet(t, db, hello(b, 1, 100))
					}
					for _, item := range tc.items {
						if way != "at once" {
							apply(t, db, item)
						}
					}
					if way == "at once" {
						apply(t, db, tc.items...)
					}
					var got [3]string
					for i := range got {
						got[i] = verifyOverlap(t, db, 1, i+1)
					}
					if diff := cmp.Diff(tc.want, got); diff != "" {
						t.Errorf("%s (-want +got):\n%s", way, diff)
					}
					if diff := cmp.Diff(tc.conflicts, kinds(t, db)); diff != "" {
						t.Errorf("%s: conflicts (-want +got):\n%s", way, diff)
					}
				}
			})
		}
	})
}

// verifyOverlap is verify, and says of a credential in its overlap that it is.
func verifyOverlap(t testing.TB, db *registry.DB, device, credential int) string {
	t.Helper()
	v, err := db.Verify(context.Background(), secret(device, credential))
	if err != nil {
		t.Fatal(err)
	}
	if v.Overlap != (v.Valid && !v.Until.IsZero()) {
		t.Errorf("%+v: an overlap has an end, and of these only an overlap", v)
	}
	if v.Overlap {
		return "overlap"
	}
	return verify(t, db, device, credential)
}

func kinds(t testing.TB, db *registry.DB) []string {
	t.Helper()
	var got []string
	for _, c := range conflicts(t, db, registry.ConflictFilter{}) {
		text := c.Kind + " open"
		if c.Resolution != "" {
			text = c.Kind + " " + c.Resolution + " " + c.Kept
		}
		got = append(got, text)
	}
	return got
}
