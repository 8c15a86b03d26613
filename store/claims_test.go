package store_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/store"
)

func TestClaimStoresAllOrNothing(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	ctx := t.Context()
	ref := refer(t, k, "AA:BB:CC:00:11:22")

	present, err := db.Look(ctx, ref)
	noErr(t, err)
	want, err := mint(ref)(present)
	noErr(t, err)
	noErr(t, claim(t, db, k, "AA:BB:CC:00:11:22"))

	got, err := holder(db, ref.Hardware.String())
	noErr(t, err)
	if diff := cmp.Diff(fmt.Sprintf("%+v", want.Device), fmt.Sprintf("%+v", got)); diff != "" {
		t.Errorf("device changed on its way through the store:\n%s", diff)
	}
	byID, err := db.Device(ctx, want.Device.ID)
	noErr(t, err)
	if fmt.Sprint(byID) != fmt.Sprint(got) {
		t.Errorf("Device and Holder differ: %v, %v", byID, got)
	}
	stored, err := db.Key(ctx, k.ID)
	noErr(t, err)
	if fmt.Sprint(stored) != fmt.Sprint(want.Key) {
		t.Errorf("key is %v, want %v", stored, want.Key)
	}
	records, err := db.Next(ctx, at(db, edgeclaim.LaneProv, 0), 10)
	noErr(t, err)
	want.Record.Sequence = 1
	if len(records) != 1 || fmt.Sprint(records[0]) != fmt.Sprint(*want.Record) {
		t.Errorf("records are %v, want %v", records, *want.Record)
	}
	if n, err := db.Count(ctx); err != nil || n != 1 {
		t.Errorf("count is %d, %v", n, err)
	}
}

func TestClaimRefusedLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	other := edgeclaim.NewDeviceID(tenant(t), hardware(t, "other"), 1)
	tests := []struct {
		name   string
		key    string
		decide func(m *edgeclaim.Minted) (*edgeclaim.Minted, error)
		want   error
	}{
		{"unknown key", "key-9", nil, edgeclaim.ErrNotFound},
		{"decided against", "key-1", func(*edgeclaim.Minted) (*edgeclaim.Minted, error) { return nil, boom }, boom},
		{"nothing to store", "key-1", func(*edgeclaim.Minted) (*edgeclaim.Minted, error) { return nil, nil }, nil},
		{"another device", "key-1", func(m *edgeclaim.Minted) (*edgeclaim.Minted, error) {
			m.Device.ID = other
			return m, nil
		}, edgeclaim.ErrInvalid},
		{"another hardware", "key-1", func(m *edgeclaim.Minted) (*edgeclaim.Minted, error) {
			m.Device.Hardware = hardware(t, "other")
			return m, nil
		}, edgeclaim.ErrInvalid},
		{"another generation", "key-1", func(m *edgeclaim.Minted) (*edgeclaim.Minted, error) {
			m.Device.Generation++
			return m, nil
		}, edgeclaim.ErrInvalid},
		{"record too large", "key-1", func(m *edgeclaim.Minted) (*edgeclaim.Minted, error) {
			m.Record.Data = make([]byte, store.MaxRecord)
			return m, nil
		}, edgeclaim.ErrInvalid},
		{"record for another lane", "key-1", func(m *edgeclaim.Minted) (*edgeclaim.Minted, error) {
			m.Record.Lane = edgeclaim.LaneEvt
			return m, nil
		}, edgeclaim.ErrInvalid},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			db := open(t, config(t))
			stock(t, db)
			before := snapshot(t, db)
			ref := refer(t, key(t, tc.key, "template-1"), "board-1")
			err := db.Mint(t.Context(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
				m, err := mint(ref)(p)
				if err != nil {
					return nil, err
				}
				return tc.decide(m)
			})
			wantErr(t, err, tc.want)
			if diff := cmp.Diff(before, snapshot(t, db)); diff != "" {
				t.Errorf("left behind:\n%s", diff)
			}
		})
	}
}

func TestPanicOfDecideIsTheCallersError(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	ref := refer(t, k, "board-1")
	err := db.Mint(t.Context(), ref, func(edgeclaim.Present) (*edgeclaim.Minted, error) { panic("oops") })
	if err == nil || db.Err() != nil {
		t.Fatalf("claim: %v, store: %v", err, db.Err())
	}
	noErr(t, claim(t, db, k, "board-1"))
}

// snapshot is all that a caller can see of a store.
func snapshot(tb testing.TB, db *store.DB) []string {
	tb.Helper()
	ctx := tb.Context()
	stats, err := db.LaneStats(ctx)
	noErr(tb, err)
	keys, err := db.Keys(ctx, edgeclaim.KeyID{}, 1000)
	noErr(tb, err)
	devices, err := db.Devices(ctx, edgeclaim.DeviceID{}, 1000)
	noErr(tb, err)
	templates, err := db.Templates(ctx)
	noErr(tb, err)
	count, err := db.Count(ctx)
	noErr(tb, err)
	denials, err := db.Denials(ctx, edgeclaim.Denial{}, 1000)
	noErr(tb, err)
	waiting, err := db.PendingClaims(ctx, edgeclaim.DeviceID{}, 1000)
	noErr(tb, err)
	return []string{fmt.Sprint(denials), fmt.Sprint(waiting), fmt.Sprint(stats), fmt.Sprint(keys), fmt.Sprint(devices), fmt.Sprint(templates), fmt.Sprint(count)}
}

func TestManyClaimsAtOnceAreOneDeviceEach(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	var g errgroup.Group
	for w := range 64 {
		g.Go(func() error {
			for n := range 50 { // each board is claimed by 64 callers
				hw := board((n*7 + w) % 50)
				if err := claim(t, db, k, hw); err != nil {
					return err
				}
				if _, err := holder(db, hw); err != nil {
					return fmt.Errorf("claimed and not there: %w", err)
				}
			}
			return nil
		})
	}
	noErr(t, g.Wait())
	stats, err := db.LaneStats(t.Context())
	noErr(t, err)
	stored, err := db.Key(t.Context(), k.ID)
	noErr(t, err)
	count, err := db.Count(t.Context())
	noErr(t, err)
	if count != 50 || stored.Claims != 50 || stats[edgeclaim.LaneProv].Appended != 50 {
		t.Fatalf("%d devices, %d claims, %v: want 50 of each", count, stored.Claims, stats)
	}
}

func TestReleaseAndClaimAgain(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	ctx := t.Context()
	noErr(t, claim(t, db, k, "board-1"))
	noErr(t, claim(t, db, k, "board-2"))
	id := edgeclaim.NewDeviceID(tenant(t), hardware(t, "board-1"), 1)

	released, err := db.ChangeDevice(ctx, id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.Status, d.Credential = edgeclaim.DeviceReleased, edgeclaim.Credential{}
		return &edgeclaim.Record{Type: edgeclaim.TypeDeviceReleased, Device: d.ID}, nil
	})
	noErr(t, err)
	got, err := db.Device(ctx, id)
	noErr(t, err)
	if got.Status != edgeclaim.DeviceReleased || !got.Credential.Hash.IsZero() || fmt.Sprint(got) != fmt.Sprint(released) {
		t.Fatalf("released device is %+v", got)
	}
	noErr(t, claim(t, db, k, "board-1"))
	got, err = db.Device(ctx, id)
	noErr(t, err)
	if got.Status != edgeclaim.DeviceActive || got.Credential.Hash.IsZero() {
		t.Fatalf("claimed again, device is %+v", got)
	}
	records, err := db.Next(ctx, at(db, edgeclaim.LaneProv, 0), 10)
	noErr(t, err)
	var types []edgeclaim.RecordType
	for _, r := range records {
		types = append(types, r.Type)
	}
	want := []edgeclaim.RecordType{
		edgeclaim.TypeDeviceProvisioned, edgeclaim.TypeDeviceProvisioned,
		edgeclaim.TypeDeviceReleased, edgeclaim.TypeDeviceProvisioned,
	}
	if !slices.Equal(types, want) {
		t.Fatalf("records are %v, want %v", types, want)
	}
	if n, err := db.Count(ctx); err != nil || n != 2 {
		t.Fatalf("count is %d, %v", n, err)
	}
}

func TestChangeDeviceRefusals(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	ctx := t.Context()
	noErr(t, claim(t, db, k, "board-1"))
	id := edgeclaim.NewDeviceID(tenant(t), hardware(t, "board-1"), 1)
	before := snapshot(t, db)

	_, err := db.ChangeDevice(ctx, edgeclaim.NewDeviceID(tenant(t), hardware(t, "x"), 1), nil)
	wantErr(t, err, edgeclaim.ErrNotFound)
	_, err = db.ChangeDevice(ctx, id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.Name = "changed"
		return nil, edgeclaim.ErrExists
	})
	wantErr(t, err, edgeclaim.ErrExists)
	_, err = db.ChangeDevice(ctx, id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.ID = edgeclaim.DeviceID{}
		return nil, nil
	})
	wantErr(t, err, edgeclaim.ErrInvalid)
	_, err = db.ChangeDevice(ctx, id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.Hardware = hardware(t, "board-2")
		return nil, nil
	})
	wantErr(t, err, edgeclaim.ErrInvalid)
	if diff := cmp.Diff(before, snapshot(t, db)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

func TestDevicesPages(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	for n := range 25 {
		noErr(t, claim(t, db, k, board(n)))
	}
	var names []string
	for after := (edgeclaim.DeviceID{}); ; {
		page, err := db.Devices(t.Context(), after, 10)
		noErr(t, err)
		if len(page) == 0 {
			break
		}
		for _, d := range page {
			names = append(names, d.Hardware.String())
		}
		after = page[len(page)-1].ID
	}
	if len(names) != 25 || names[0] != board(0) || names[24] != board(24) {
		t.Fatalf("pages hold %v", names)
	}
	_, err := db.Devices(t.Context(), edgeclaim.NewDeviceID(tenant(t), hardware(t, "x"), 1), 10)
	wantErr(t, err, edgeclaim.ErrNotFound)
}

// TestIndexFolds claims more devices than a round of folds needs, reopening on
// the way, so that rows are found in the tail, in the index, and in a tail
// that was rebuilt.
func TestIndexFolds(t *testing.T) {
	devices := 70_000
	if testing.Short() {
		devices = 20_000
	}
	cfg := config(t)
	for from := 0; from < devices; from += devices / 4 {
		db, err := store.Open(cfg)
		noErr(t, err)
		k := key(t, "key-1", "template-1")
		if from == 0 {
			stock(t, db)
		}
		fill(t, db, always(k), from, from+devices/4, 128)
		for n := 0; n < from+devices/4; n += 37 {
			if _, err := holder(db, board(n)); err != nil {
				t.Fatalf("device %d: %v", n, err)
			}
			if err := claim(t, db, k, board(n)); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := db.Count(t.Context()); err != nil || n != uint64(from+devices/4) {
			t.Fatalf("count is %d, %v", n, err)
		}
		inTail := store.TailLen(db)
		checkAndClose(t, db)
		if indexed := entries(t, cfg, "device_index"); inTail == 0 || indexed == 0 || inTail+indexed != from+devices/4 {
			t.Fatalf("%d ids in the tail and %d in the index, of %d", inTail, indexed, from+devices/4)
		}
	}
}

// entries counts what is in a bucket of a closed store.
func entries(t *testing.T, cfg store.Config, bucket string) (n int) {
	t.Helper()
	db, err := bolt.Open(registry(cfg), 0o600, &bolt.Options{ReadOnly: true})
	noErr(t, err)
	noErr(t, db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket([]byte(bucket)).Stats().KeyN
		return nil
	}))
	noErr(t, db.Close())
	return n
}

// TestManyShortLivesStillFold: a box that is restarted after every few claims
// must not put off the folding for ever, or its tail grows without bound.
func TestManyShortLivesStillFold(t *testing.T) {
	cfg := config(t)
	for life := range 10 {
		db, err := store.Open(cfg)
		noErr(t, err)
		k := key(t, "key-1", "template-1")
		if life == 0 {
			stock(t, db)
		}
		fill(t, db, always(k), life*20, life*20+20, 4)
		checkAndClose(t, db)
	}
	if n := entries(t, cfg, "device_folds"); n < 3 {
		t.Errorf("%d partitions folded after 200 claims, want 3", n)
	}
}
