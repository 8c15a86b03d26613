package registry_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

func verify(t testing.TB, db *registry.DB, device, credential int) string {
	t.Helper()
	v, err := db.Verify(context.Background(), secret(device, credential))
	if err != nil {
		t.Fatal(err)
	}
	if v.Valid != (v.Reason == "") {
		t.Errorf("valid %v with the reason %q", v.Valid, v.Reason)
	}
	if v.Valid && (v.Device != deviceID(t, device) || v.Tenant.String() != tenantID || v.Credential != edgeclaim.CredentialAPIKey) {
		t.Errorf("verified as %+v", v)
	}
	if v.Valid {
		return "valid by " + v.Box
	}
	return v.Reason
}

func conflicts(t testing.TB, db *registry.DB, f registry.ConflictFilter) []registry.Conflict {
	t.Helper()
	found, err := db.Conflicts(context.Background(), f)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func pageOf(box string, id string, page uint64, last bool, devices ...edgeclaim.Device) registry.Item {
	return registry.Item{Names: names(box), Page: &wire.SnapshotPage{
		Type: wire.TypeSnapshot, Box: box, Epoch: epoch(box, 1), Nonce: "AAAAAAAAAAAAAAAAAAAAAA", ID: id, Page: page, Last: last, Devices: devices,
	}}
}

// row is a device as a box has it in its registry.
func row(t testing.TB, n, credential int) edgeclaim.Device {
	t.Helper()
	template, _ := edgeclaim.ParseTemplateID("t-1")
	key, _ := edgeclaim.ParseKeyID("k-1")
	return edgeclaim.Device{
		ID: deviceID(t, n), Tenant: tenant(t, tenantID), Hardware: hardware(n), Name: "Pump", Template: template, Key: key,
		Groups: []string{"line-1"}, Generation: 1, Status: edgeclaim.DeviceActive, ClaimedAt: now, ClaimedVia: edgeclaim.ViaMQTT,
		Credential: edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: secret(n, credential), IssuedAt: now},
	}
}

// TestMerge tells one device's story in each case and asks whom its two
// credentials let in afterwards.
func TestMerge(t *testing.T) {
	a, b := "box-a", "box-b"
	rowWith := func(credential int, status edgeclaim.DeviceStatus) edgeclaim.Device {
		d := row(t, 1, credential)
		d.Status = status
		return d
	}
	other := provisioned(t, 1, 1, 2)
	other.data = strings.Replace(other.data, `"hardware_id":"board-1"`, `"hardware_id":"board-x"`, 1)
	each(t, func(t *testing.T, open opener) {
		for _, tc := range []struct {
			name        string
			policy      registry.Policy
			items       []registry.Item
			first, then string // of credential 1 and 2
			conflicts   []string
		}{
			{name: "one box", items: []registry.Item{prov(t, a, 1, 1, provisioned(t, 1, 1, 1))}, first: "valid by box-a", then: "unknown"},
			{name: "released", items: []registry.Item{prov(t, a, 1, 2, provisioned(t, 1, 1, 1), released(t, 2, 1))}, first: "released", then: "unknown"},
			{name: "released, never told", items: []registry.Item{prov(t, a, 1, 1, released(t, 1, 1))}, first: "unknown", then: "unknown"},
			{name: "claimed anew", items: []registry.Item{prov(t, a, 1, 3, provisioned(t, 1, 1, 1), released(t, 2, 1), provisioned(t, 3, 1, 2))},
				first: "unknown", then: "valid by box-a"},
			{name: "one credential on two boxes", items: []registry.Item{prov(t, a, 1, 1, provisioned(t, 1, 1, 1)), prov(t, b, 1, 1, provisioned(t, 1, 1, 1))},
				first: "valid by box-a", then: "unknown"},
			{name: "one credential, released by one", items: []registry.Item{prov(t, a, 1, 1, provisioned(t, 1, 1, 1)),
				prov(t, b, 1, 2, provisioned(t, 1, 1, 1), released(t, 2, 1))}, first: "released", then: "unknown"},
			{name: "two boxes", items: []registry.Item{prov(t, a, 1, 1, provisioned(t, 1, 1, 1)), prov(t, b, 1, 1, provisioned(t, 1, 1, 2))},
				first: "valid by box-a", then: "valid by box-b", conflicts: []string{"two_boxes open"}},
			{name: "two boxes, first", policy: registry.PolicyFirst, items: []registry.Item{prov(t, a, 1, 1, provisioned(t, 1, 1, 1)),
				prov(t, b, 1, 1, provisioned(t, 1, 1, 2))}, first: "valid by box-a", then: "first", conflicts: []string{"two_boxes first box-a"}},
			{name: "two boxes, told again", items: []registry.Item{prov(t, a, 1, 1, provisioned(t, 1, 1, 1)), prov(t, b, 1, 1, provisioned(t, 1, 1, 2)),
				pageOf(a, "s1", 1, true, row(t, 1, 1)), pageOf(b, "s1", 1, true, row(t, 1, 2))},
				first: "valid by box-a", then: "valid by box-b", conflicts: []string{"two_boxes open"}},
			{name: "first, told again", policy: registry.PolicyFirst, items: []registry.Item{prov(t, a, 1, 1, provisioned(t, 1, 1, 1)),
				prov(t, b, 1, 1, provisioned(t, 1, 1, 2)), pageOf(b, "s1", 1, true, row(t, 1, 2))},
				first: "valid by box-a", then: "first", conflicts: []string{"two_boxes first box-a"}},
			{name: "two boxes, one releases", items: []registry.Item{prov(t, a, 1, 1, provisioned(t, 1, 1, 1)),
				prov(t, b, 1, 2, provisioned(t, 1, 1, 2), released(t, 2, 1))},
				first: "valid by box-a", then: "released", conflicts: []string{"two_boxes released box-a"}},
			{name: "released before the other claims", items: []registry.Item{prov(t, a, 1, 2, provisioned(t, 1, 1, 1), released(t, 2, 1)),
				prov(t, b, 1, 1, provisioned(t, 1, 1, 2))}, first: "released", then: "valid by box-b"},
			{name: "another hardware", items: []registry.Item{prov(t, a, 1, 1, provisioned(t, 1, 1, 1)), prov(t, b, 1, 1, other)},
				first: "valid by box-a", then: "identity_mismatch", conflicts: []string{"identity_mismatch open"}},
			{name: "a page older than the release", items: []registry.Item{prov(t, a, 1, 2, provisioned(t, 1, 1, 1), released(t, 2, 1)),
				pageOf(a, "s1", 1, true, row(t, 1, 1))}, first: "released", then: "unknown"},
			{name: "a page newer than the records", items: []registry.Item{pageOf(a, "s1", 1, true, row(t, 1, 2)),
				prov(t, a, 1, 3, provisioned(t, 1, 1, 1), released(t, 2, 1), provisioned(t, 3, 1, 2))}, first: "unknown", then: "valid by box-a"},
			{name: "a page with a revoked device", items: []registry.Item{pageOf(a, "s1", 1, true, rowWith(1, edgeclaim.DeviceRevoked))},
				first: "revoked", then: "unknown"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				db := open(t, "merge", registry.Config{Policy: tc.policy})
				empty(t, db)
				greet(t, db, hello(a, 1, 100))
				greet(t, db, hello(b, 1, 100))
				// One transaction, one for each item, and all of it twice: the same.
				for _, way := range []string{"at once", "one by one", "again"} {
					if way == "one by one" {
						empty(t, db)
						greet(t, db, hello(a, 1, 100))
						greet(t, db, hello(b, 1, 100))
					}
					if way == "at once" {
						apply(t, db, tc.items...)
					} else {
						for _, item := range tc.items {
							apply(t, db, item)
						}
					}
					if first, then := verify(t, db, 1, 1), verify(t, db, 1, 2); first != tc.first || then != tc.then {
						t.Errorf("%s: %q and %q, want %q and %q", way, first, then, tc.first, tc.then)
					}
					var got []string
					for _, c := range conflicts(t, db, registry.ConflictFilter{}) {
						text := c.Kind + " open"
						if c.Resolution != "" {
							text = c.Kind + " " + c.Resolution + " " + c.Kept
						}
						got = append(got, text)
						if c.Device != deviceID(t, 1) || !cmp.Equal(c.Boxes, []string{a, b}) {
							t.Errorf("%s: conflict %+v", way, c)
						}
					}
					if diff := cmp.Diff(tc.conflicts, got); diff != "" {
						t.Errorf("%s: conflicts (-want +got):\n%s", way, diff)
					}
				}
			})
		}
	})
}

func TestResolve(t *testing.T) {
	ctx := context.Background()
	each(t, func(t *testing.T, open opener) {
		db := open(t, "resolve", registry.Config{})
		for _, name := range []string{"box-a", "box-b", "box-c"} {
			greet(t, db, hello(name, 1, 100))
		}
		apply(t, db, prov(t, "box-a", 1, 1, provisioned(t, 1, 1, 1)), prov(t, "box-b", 1, 1, provisioned(t, 1, 1, 2)),
			prov(t, "box-c", 1, 1, provisioned(t, 1, 1, 2)))
		open1 := conflicts(t, db, registry.ConflictFilter{Open: true})
		if len(open1) != 2 { // a and b, a and c; b and c hold the same
			t.Fatalf("open: %+v", open1)
		}
		for _, tc := range []struct {
			id   int64
			keep string
			want error
		}{
			{999, "box-a", edgeclaim.ErrNotFound},
			{open1[0].ID, "box-9", edgeclaim.ErrInvalid},
			{open1[0].ID, "box-c", edgeclaim.ErrInvalid},
			{open1[0].ID, "box-b", nil},
			{open1[0].ID, "box-b", edgeclaim.ErrConflict},
		} {
			if err := db.Resolve(ctx, tc.id, tc.keep); !errors.Is(err, tc.want) {
				t.Errorf("resolve %d for %s: %v, want %v", tc.id, tc.keep, err, tc.want)
			}
		}
		if left := conflicts(t, db, registry.ConflictFilter{Open: true}); len(left) != 0 {
			t.Errorf("still open: %+v", left)
		}
		want := func(first, second, third string) {
			t.Helper()
			got := []string{verify(t, db, 1, 1), verify(t, db, 1, 2), verify(t, db, 1, 3)}
			if diff := cmp.Diff([]string{first, second, third}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		want("resolved", "valid by box-b", "unknown")
		// What is void stays void when it is told again.
		apply(t, db, pageOf("box-a", "s1", 1, true, row(t, 1, 1)))
		want("resolved", "valid by box-b", "unknown")
		// A new credential is a new contradiction.
		apply(t, db, prov(t, "box-a", 2, 3, released(t, 2, 1), provisioned(t, 3, 1, 3)))
		want("unknown", "valid by box-b", "valid by box-a")
		if left := conflicts(t, db, registry.ConflictFilter{Open: true}); len(left) != 2 {
			t.Errorf("open again: %+v", left)
		}
	})
}
