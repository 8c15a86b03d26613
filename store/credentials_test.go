package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/store"
)

// finds reports which device a secret finds; zero for none.
func finds(tb testing.TB, db *store.DB, secret edgeclaim.Secret) edgeclaim.DeviceID {
	tb.Helper()
	d, err := db.DeviceByCredential(tb.Context(), secret.Hash())
	if err != nil {
		wantErr(tb, err, edgeclaim.ErrNotFound)
	}
	return d.ID
}

// TestDeviceByCredential asks before and after each change, and after a reopen:
// an index that is built and one that is kept must say the same.
func TestDeviceByCredential(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	ctx := t.Context()
	const count = 3000 // more than a page
	fill(t, db, always(k), 0, count, 64)
	id := deviceID(t, 7)
	first, second, third := secretOf(id), edgeclaim.NewSecret("second"), edgeclaim.NewSecret("third")
	rotate := func(to edgeclaim.Secret) {
		_, err := db.ChangeDevice(ctx, id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
			d.Previous, d.Credential.Hash = d.Credential, to.Hash()
			return nil, nil
		})
		noErr(t, err)
	}
	expect := func(want ...edgeclaim.Secret) {
		t.Helper()
		for life := range 2 {
			for _, s := range []edgeclaim.Secret{first, second, third} {
				found := finds(t, db, s) == id
				wanted := false
				for _, w := range want {
					wanted = wanted || w.Equal(s)
				}
				if found != wanted {
					t.Errorf("life %d: %q finds the device: %v", life, s.Reveal(), found)
				}
			}
			if life == 0 {
				checkAndClose(t, db)
				db = open(t, cfg)
			}
		}
	}
	rotate(second)
	expect(first, second)
	if got := finds(t, db, first); got != id {
		t.Fatalf("found %s", got)
	}
	rotate(third)
	if finds(t, db, first) == id {
		t.Error("a credential that is gone finds the device")
	}
	expect(second, third)
	_, err := swap(t, db, id, "new")
	noErr(t, err)
	expect()
	for n := range count {
		if own := deviceID(t, n); n != 7 && finds(t, db, secretOf(own)) != own {
			t.Fatalf("device %d is not found", n)
		}
	}
	if d, err := db.DeviceByCredential(ctx, edgeclaim.KeyHash{}); err == nil {
		t.Errorf("no credential finds %s", d.ID)
	}
}

// TestDeviceByCredentialWhileClaiming builds the index while devices are made,
// rotated and taken out: nobody who was acknowledged is missed.
func TestDeviceByCredentialWhileClaiming(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	fill(t, db, always(k), 0, 10_000, 256)
	var g errgroup.Group
	for w := range 16 {
		g.Go(func() error {
			for n := w; n < 1600; n += 16 {
				fresh := board(20_000 + n)
				if err := claim(t, db, k, fresh); err != nil {
					return err
				}
				if id := derived(t, fresh, 1); finds(t, db, secretOf(id)) != id {
					return fmt.Errorf("%s is claimed and not found", fresh)
				}
				id, rotated := deviceID(t, n), edgeclaim.NewSecret("rotated-"+board(n))
				if _, err := db.ChangeDevice(t.Context(), id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
					d.Previous, d.Credential.Hash = edgeclaim.Credential{}, rotated.Hash()
					return nil, nil
				}); err != nil {
					return err
				}
				if finds(t, db, rotated) != id || finds(t, db, secretOf(id)) == id {
					return fmt.Errorf("board %d is rotated and not found, or found by what it had", n)
				}
			}
			return nil
		})
	}
	noErr(t, g.Wait())
}

// TestBuildGoesOnWhereItWasCutShort: a caller who gives up costs the next one
// nothing, and those who wait are not cut short with it.
func TestBuildGoesOnWhereItWasCutShort(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	fill(t, db, always(k), 0, 5000, 256)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := db.DeviceByCredential(ctx, hashOf("x"))
	wantErr(t, err, context.Canceled)
	id := deviceID(t, 4999)
	equal(t, "found", finds(t, db, secretOf(id)), id)
}

// TestBuildWaitsForTheCommitUnderWay: a device whose commit began before the
// index was asked for, and ended after, is in it.
func TestBuildWaitsForTheCommitUnderWay(t *testing.T) {
	cfg := config(t)
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(cfg)
		noErr(t, err)
		k := stock(t, db)
		held, release := hold(t, db, k), make(chan struct{})
		var g errgroup.Group
		g.Go(func() error { return claim(t, db, k, board(0)) })
		synctest.Wait()
		g.Go(func() error { // the next in the same transaction
			return db.Mint(t.Context(), refer(t, k, board(1)), func(edgeclaim.Present) (*edgeclaim.Minted, error) {
				<-release
				return nil, nil
			})
		})
		held.open(t)
		synctest.Wait()
		g.Go(func() error {
			_, err := db.DeviceByCredential(t.Context(), hashOf("nobody's"))
			if !errors.Is(err, edgeclaim.ErrNotFound) {
				return err
			}
			return nil
		})
		synctest.Wait()
		close(release)
		noErr(t, g.Wait())
		equal(t, "found", finds(t, db, secretOf(deviceID(t, 0))), deviceID(t, 0))
		checkAndClose(t, db)
	})
}

// TestHashesThatStartAlike: the index knows the first 8 bytes alone.
func TestHashesThatStartAlike(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	alike := func(last byte) edgeclaim.KeyHash {
		return must(edgeclaim.KeyHashFromBytes(append(bytes.Repeat([]byte{7}, 31), last)))(t)
	}
	fill(t, db, always(k), 0, 3, 1)
	check := func(want map[byte]int) {
		t.Helper()
		for last := range byte(5) {
			d, err := db.DeviceByCredential(t.Context(), alike(last))
			if n, ok := want[last]; !ok {
				wantErr(t, err, edgeclaim.ErrNotFound)
			} else if err != nil || d.ID != deviceID(t, n) {
				t.Errorf("hash %d finds %s, %v, want board %d", last, d.ID, err, n)
			}
		}
	}
	give := func(n int, last byte) {
		t.Helper()
		_, err := db.ChangeDevice(t.Context(), deviceID(t, n), func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
			d.Credential.Hash = alike(last)
			return nil, nil
		})
		noErr(t, err)
	}
	give(0, 0)
	check(map[byte]int{0: 0}) // built here, kept from here on
	give(1, 1)
	give(2, 2)
	check(map[byte]int{0: 0, 1: 1, 2: 2})
	give(0, 3)
	check(map[byte]int{1: 1, 2: 2, 3: 0})
	for round := range 100 {
		give(1, byte(round%2)*4)
	}
	check(map[byte]int{2: 2, 3: 0, 4: 1})
	equal(t, "entries", store.CredentialEntries(db), 3)
}

// TestFirstUseErasesTheSalt reads the row as it lies in the file.
func TestFirstUseErasesTheSalt(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	salt := [32]byte([]byte("a salt of thirty-two bytes, a-z."))
	ref := refer(t, k, "board-0")
	noErr(t, db.Mint(t.Context(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		minted, err := mint(ref)(p)
		minted.Device.Mint = &edgeclaim.Mint{
			Salt: salt, Proof: hashOf("proof"), Certificate: []byte("certificate"), Chain: [][]byte{[]byte("root")}, SealedKey: []byte("sealed key"),
		}
		return minted, err
	}))
	row := func() (row []byte) {
		t.Helper()
		checkAndClose(t, db)
		edit(t, cfg, func(tx *bolt.Tx) error {
			row = bytes.Clone(tx.Bucket([]byte("devices")).Get(ascendingKey(1)))
			return nil
		})
		db = open(t, cfg)
		return row
	}
	secrets := [][]byte{salt[:], hashOf("proof").Bytes(), []byte("certificate"), []byte("root"), []byte("sealed key")}
	before := row()
	for _, s := range secrets {
		if !bytes.Contains(before, s) {
			t.Fatalf("the row does not hold %q", s)
		}
	}
	d, err := holder(db, "board-0")
	if err != nil || d.Mint == nil || d.Mint.Salt != salt || d.Mint.Proof != hashOf("proof") || string(d.Mint.SealedKey) != "sealed key" {
		t.Fatalf("device is %+v, %v", d, err)
	}
	_, err = db.ChangeDevice(t.Context(), d.ID, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.Mint, d.Credential.ConfirmedAt = nil, moment
		return nil, nil
	})
	noErr(t, err)
	after := row()
	for _, s := range secrets {
		if bytes.Contains(after, s) {
			t.Errorf("after the first use the row holds %q", s)
		}
	}
	if s := stats(t, db, edgeclaim.LaneProv); s.Appended != 1 {
		t.Errorf("a first use is told: %+v", s)
	}
}

func TestBoxKey(t *testing.T) {
	cfg := config(t)
	name := cfg.Dir + "/box.key"
	db := open(t, cfg)
	key := db.BoxKey()
	info, err := os.Stat(name)
	noErr(t, err)
	if raw := must(os.ReadFile(name))(t); len(raw) != 32 || string(raw) != key.Reveal() || info.Mode().Perm() != 0o600 {
		t.Fatalf("%d bytes, mode %v", len(raw), info.Mode())
	}
	if data := must(os.ReadFile(registry(cfg)))(t); bytes.Contains(data, []byte(key.Reveal())) {
		t.Error("the box key is in the registry")
	}
	checkAndClose(t, db)
	noErr(t, os.Chmod(name, 0o644)) //nolint:gosec // that is the case
	db = open(t, cfg)
	info, err = os.Stat(name)
	noErr(t, err)
	if !db.BoxKey().Equal(key) || info.Mode().Perm() != 0o600 {
		t.Errorf("another key, or mode %v", info.Mode())
	}
	checkAndClose(t, db)
	for _, damage := range [][]byte{{}, make([]byte, 31), make([]byte, 33)} {
		noErr(t, os.WriteFile(name, damage, 0o600))
		_, err := store.Open(cfg)
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte("box.key")) {
			t.Fatalf("%d bytes: %v", len(damage), err)
		}
		if raw := must(os.ReadFile(name))(t); !bytes.Equal(raw, damage) {
			t.Errorf("a damaged key was written over")
		}
	}
	noErr(t, os.Remove(name))
	warned := logged(&cfg)
	db = open(t, cfg)
	if db.BoxKey().Equal(key) || db.BoxKey().IsZero() || !bytes.Contains(warned.Bytes(), []byte("box key was missing")) {
		t.Errorf("a lost key is made anew: %s", warned)
	}
}

func TestNewBoxKeyOfANewBoxIsNoNews(t *testing.T) {
	cfg := config(t)
	said := logged(&cfg)
	open(t, cfg)
	if said.Len() > 0 {
		t.Errorf("logged: %s", said)
	}
}

// logged makes a store's log readable.
func logged(cfg *store.Config) *bytes.Buffer {
	var said bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&said, nil))
	return &said
}
