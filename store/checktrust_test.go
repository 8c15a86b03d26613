package store_test

import (
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
	"edgeclaim/internal/token"
	"edgeclaim/store"
)

// TestCheckOfAdmission: a row too many, too few or unreadable in each list is
// found.
func TestCheckOfAdmission(t *testing.T) {
	id := string(derived(t, "wish", 1).Bytes())
	denial := string(tenant(t).Bytes()) + "bad"
	first := func(bucket string, change func(*bolt.Bucket, []byte) error) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucket))
			k, _ := b.Cursor().First()
			return change(b, k)
		}
	}
	drop := func(b *bolt.Bucket, k []byte) error { return b.Delete(k) }
	spoil := func(b *bolt.Bucket, k []byte) error { return b.Put(k, []byte{0xff}) }
	again := func(suffix string) func(*bolt.Bucket, []byte) error {
		return func(b *bolt.Bucket, k []byte) error {
			return b.Put(append([]byte(suffix), k[len(suffix):]...), b.Get(k))
		}
	}
	tests := []struct {
		name   string
		change func(*bolt.Tx) error
	}{
		{"denial missing", first("denied", drop)},
		{"denial unreadable", first("denied", spoil)},
		{"denial too many", first("denied", again("x"))},
		{"denial of nobody", func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("denied"))
			value := b.Get([]byte(denial))
			return first("denied", func(b *bolt.Bucket, k []byte) error {
				if err := b.Put([]byte(denial[:16]), value); err != nil {
					return err
				}
				return b.Delete([]byte(denial))
			})(tx)
		}},
		{"pending missing", first("pending", drop)},
		{"pending unreadable", first("pending", spoil)},
		{"pending too many", first("pending", again("x"))},
		{"manifest row missing", first("manifest", drop)},
		{"manifest row unreadable", first("manifest", spoil)},
		{"manifest without template", func(tx *bolt.Tx) error {
			return first("manifest", func(b *bolt.Bucket, k []byte) error {
				if err := again("xxxxxxxx")(b, k); err != nil {
					return err
				}
				return b.Delete(k)
			})(tx)
		}},
		{"token missing", first("tokens", drop)},
		{"token unreadable", first("tokens", spoil)},
		{"token too many", first("tokens", again("0000"))},
		{"alias unreadable", first("device_aliases", spoil)},
		{"alias of nobody", func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("device_aliases")).Put([]byte(tenantText), []byte(id))
		}},
		{"alias of another tenant", func(tx *bolt.Tx) error {
			key := strings.Repeat("0", 8) + tenantText[8:] + "/new"
			return tx.Bucket([]byte("device_aliases")).Put([]byte(key), derived(t, "old", 1).Bytes())
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t)
			db, err := store.Open(cfg)
			noErr(t, err)
			fillLists(t, db)
			checkAndClose(t, db)
			noErr(t, store.CheckFile(t.Context(), cfg.Dir))
			edit(t, cfg, tc.change)
			if err := store.CheckFile(t.Context(), cfg.Dir); err == nil {
				t.Error("the check finds nothing")
			}
		})
	}
}

// fillLists puts one row in each list, and an alias.
func fillLists(t *testing.T, db *store.DB) {
	t.Helper()
	ctx := t.Context()
	k := stock(t, db)
	noErr(t, claim(t, db, k, "old"))
	_, err := swap(t, db, derived(t, "old", 1), "new")
	noErr(t, err)
	_, err = db.Undeny(ctx, tenant(t), hardware(t, "old"))
	noErr(t, err)
	noErr(t, db.Deny(ctx, denied(t, "bad", true), nil))
	_, err = db.Pend(ctx, edgeclaim.Pending{
		ID: derived(t, "wish", 1), Tenant: tenant(t), Hardware: hardware(t, "wish"), Template: k.Template, Key: k.ID, AskedAt: moment,
	})
	noErr(t, err)
	_, _, err = db.ImportManifest(ctx, k.Template, []edgeclaim.ManifestRow{{Hardware: hardware(t, "listed")}})
	noErr(t, err)
	made, _, err := token.New("ops", token.ScopeRead, moment, moment.Add(time.Hour))
	noErr(t, err)
	noErr(t, db.PutToken(ctx, made))
}
