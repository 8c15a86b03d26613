package store_test

import (
	"errors"
	"testing"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/store"
)

// claimModel is what a store should hold after claims, releases, changes of
// keys, and reopens.
type claimModel struct {
	devices map[string]edgeclaim.DeviceStatus // by hardware
	claims  map[string]uint32                 // by key
	revoked map[string]bool                   // keys
	records uint64
}

// TestClaimsModel compares the store with a few maps.
func TestClaimsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := config(t)
		db, err := store.Open(cfg)
		noErr(t, err)
		noErr(t, db.CreateTemplate(t.Context(), template(t, "template-1")))
		m := claimModel{devices: map[string]edgeclaim.DeviceStatus{}, claims: map[string]uint32{}, revoked: map[string]bool{}}
		keys := []edgeclaim.Key{key(t, "key-1", "template-1"), key(t, "key-2", "template-1"), key(t, "key-3", "template-1")}
		noErr(t, db.AddKeys(t.Context(), keys))
		drawKey := func(rt *rapid.T) edgeclaim.Key { return rapid.SampledFrom(keys).Draw(rt, "key") }
		drawBoard := func(rt *rapid.T) string { return board(rapid.IntRange(0, 8).Draw(rt, "board")) }
		rt.Repeat(map[string]func(*rapid.T){
			"claim": func(rt *rapid.T) { m.claim(t, db, drawKey(rt), drawBoard(rt)) },
			"release": func(rt *rapid.T) {
				hw := drawBoard(rt)
				_, err := db.ChangeDevice(t.Context(), edgeclaim.NewDeviceID(tenant(t), hardware(t, hw), 1),
					func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
						d.Status = edgeclaim.DeviceReleased
						return nil, nil
					})
				if m.devices[hw] == "" {
					wantErr(t, err, edgeclaim.ErrNotFound)
					return
				}
				noErr(t, err)
				m.devices[hw] = edgeclaim.DeviceReleased
			},
			"revoke": func(rt *rapid.T) {
				k := drawKey(rt)
				_, err := db.ChangeKey(t.Context(), k.ID, func(k *edgeclaim.Key) error {
					k.Status = edgeclaim.KeyRevoked
					return nil
				})
				noErr(t, err)
				m.revoked[k.ID.String()] = true
			},
			"reopen": func(*rapid.T) {
				checkAndClose(t, db)
				db, err = store.Open(cfg)
				noErr(t, err)
			},
			"": func(*rapid.T) { m.compare(t, db, keys) },
		})
		checkAndClose(t, db)
	})
}

func (m *claimModel) claim(t *testing.T, db *store.DB, k edgeclaim.Key, hw string) {
	t.Helper()
	err := claim(t, db, k, hw)
	switch {
	case m.devices[hw] == edgeclaim.DeviceActive:
		noErr(t, err)
	case m.revoked[k.ID.String()]:
		wantErr(t, err, edgeclaim.ErrDenied)
	default:
		noErr(t, err)
		m.devices[hw] = edgeclaim.DeviceActive
		m.claims[k.ID.String()]++
		m.records++
	}
}

func (m *claimModel) compare(t *testing.T, db *store.DB, keys []edgeclaim.Key) {
	t.Helper()
	for n := range 9 {
		d, err := db.Holder(t.Context(), tenant(t), hardware(t, board(n)))
		if err != nil && !errors.Is(err, edgeclaim.ErrNotFound) || d.Status != m.devices[board(n)] {
			t.Fatalf("%s is %q, %v, want %q", board(n), d.Status, err, m.devices[board(n)])
		}
	}
	for _, k := range keys {
		got, err := db.Key(t.Context(), k.ID)
		if err != nil || got.Claims != m.claims[k.ID.String()] || (got.Status == edgeclaim.KeyRevoked) != m.revoked[k.ID.String()] {
			t.Fatalf("key is %+v, %v, want %d claims, revoked %v", got, err, m.claims[k.ID.String()], m.revoked[k.ID.String()])
		}
	}
	if s := stats(t, db, edgeclaim.LaneProv); s.Appended != m.records || s.Pending != m.records {
		t.Fatalf("lane is %+v, want %d records", s, m.records)
	}
	if n, err := db.Count(t.Context()); err != nil || n != uint64(len(m.devices)) {
		t.Fatalf("count is %d, %v, want %d", n, err, len(m.devices))
	}
}

// TestAliasIsFollowed: nothing writes aliases yet, but one that is there
// decides which device a hardware is.
func TestAliasIsFollowed(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	k := stock(t, db)
	noErr(t, claim(t, db, k, "old-board"))
	checkAndClose(t, db)
	id := edgeclaim.NewDeviceID(tenant(t), hardware(t, "old-board"), 1)
	edit(t, cfg, func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("device_aliases")).Put([]byte(tenantText+"/new-board"), id.Bytes())
	})
	db = open(t, cfg)
	got, err := db.Holder(t.Context(), tenant(t), hardware(t, "new-board"))
	noErr(t, err)
	if got.ID != id {
		t.Errorf("holder is %s, want %s", got.ID, id)
	}
	ref := refer(t, k, "new-board")
	noErr(t, db.Claim(t.Context(), ref, func(_ edgeclaim.Grant, known *edgeclaim.Device) (*edgeclaim.Minted, error) {
		if known == nil || known.ID != id {
			t.Errorf("the claim sees %+v, want %s", known, id)
		}
		return nil, nil
	}))
}
