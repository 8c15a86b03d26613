package store_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/store"
)

// swap swaps a device as the rule does.
func swap(tb testing.TB, db *store.DB, id edgeclaim.DeviceID, to string) (edgeclaim.Device, error) {
	tb.Helper()
	return db.Swap(tb.Context(), id, hardware(tb, to), func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		void(d)
		r := record(d.ID)
		r.Type = edgeclaim.TypeDeviceSwapped
		return r, nil
	})
}

// look is what is present for a hardware of the one tenant.
func look(tb testing.TB, db *store.DB, k edgeclaim.Key, hw string) edgeclaim.Present {
	tb.Helper()
	return must(db.Look(tb.Context(), refer(tb, k, hw)))(tb)
}

// TestSwappedBoardComesBackAsAnother is the whole life of two boards: the new
// one has the old one's place, the old one is refused, is let back in as another
// device, and never sees the first one again.
func TestSwappedBoardComesBackAsAnother(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	ctx := t.Context()
	noErr(t, claim(t, db, k, "old"))
	first := derived(t, "old", 1)
	swapped, err := swap(t, db, first, "new")
	noErr(t, err)
	if swapped.ID != first || swapped.Hardware.String() != "new" {
		t.Fatalf("swapped is %+v", swapped)
	}
	p := look(t, db, k, "old")
	want := edgeclaim.Denial{
		Tenant: tenant(t), Hardware: hardware(t, "old"), Reason: edgeclaim.DeniedSwapped, At: moment, Device: first,
	}
	if p.Denied == nil || *p.Denied != want || p.Known != nil || !p.Next.IsZero() {
		t.Errorf("the old board sees %+v", p)
	}
	wantErr(t, claim(t, db, k, "old"), edgeclaim.ErrDenied)
	noErr(t, claim(t, db, k, "new"))
	if d, err := holder(db, "new"); err != nil || d.ID != first || d.Status != edgeclaim.DeviceActive || d.Generation != 1 {
		t.Errorf("the new board is %+v, %v", d, err)
	}

	lifted, err := db.Undeny(ctx, tenant(t), hardware(t, "old"))
	noErr(t, err)
	equal(t, "lifted", lifted, want)
	noErr(t, claim(t, db, k, "old"))
	if d, err := holder(db, "old"); err != nil || d.ID != derived(t, "old", 2) || d.Generation != 2 {
		t.Errorf("the old board's next life is %+v, %v", d, err)
	}
	_, err = swap(t, db, first, "old") // it is another device by now
	wantErr(t, err, edgeclaim.ErrConflict)
	_, err = db.Undeny(ctx, tenant(t), hardware(t, "old"))
	wantErr(t, err, edgeclaim.ErrNotFound)
	equal(t, "records", len(sequences(t, db, edgeclaim.LaneProv)), 4)
}

func TestSwapBack(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	noErr(t, claim(t, db, k, "old"))
	id := derived(t, "old", 1)
	for range 3 {
		_, err := swap(t, db, id, "new")
		noErr(t, err)
		_, err = swap(t, db, id, "old")
		noErr(t, err)
		if p := look(t, db, k, "old"); p.Denied != nil || p.Known == nil || p.Known.ID != id {
			t.Errorf("swapped back, the board sees %+v", p)
		}
		if p := look(t, db, k, "new"); p.Denied == nil || p.Known != nil {
			t.Errorf("swapped out, the new board sees %+v", p)
		}
	}
	denials, err := db.Denials(t.Context(), edgeclaim.Denial{}, 10)
	if err != nil || len(denials) != 1 {
		t.Errorf("denials are %v, %v", denials, err)
	}
}

// TestSwapBackAfterUndeny: the board that was let back in and has not claimed
// takes its old place, and nothing leads it elsewhere.
func TestSwapBackAfterUndeny(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	noErr(t, claim(t, db, k, "old"))
	id := derived(t, "old", 1)
	_, err := swap(t, db, id, "new")
	noErr(t, err)
	_, err = db.Undeny(t.Context(), tenant(t), hardware(t, "old"))
	noErr(t, err)
	_, err = swap(t, db, id, "old")
	noErr(t, err)
	if p := look(t, db, k, "old"); p.Denied != nil || p.Known == nil || p.Known.ID != id || p.Next != id {
		t.Errorf("swapped back, the board sees %+v", p)
	}
	noErr(t, claim(t, db, k, "old#2")) // whose id is nobody's any more
}

// TestSwapIsSeenInItsOwnCommit: a claim that shares the first swap's transaction
// follows its alias and minds its denial.
func TestSwapIsSeenInItsOwnCommit(t *testing.T) {
	cfg := config(t)
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(cfg)
		noErr(t, err)
		k := stock(t, db)
		noErr(t, claim(t, db, k, "old"))
		noErr(t, claim(t, db, k, "third"))
		held := hold(t, db, k)
		var g errgroup.Group
		g.Go(func() error { return claim(t, db, k, "fourth") }) // asks for aliases: there are none yet
		synctest.Wait()
		g.Go(func() error {
			_, err := swap(t, db, derived(t, "old", 1), "new")
			return err
		})
		synctest.Wait()
		g.Go(func() error { return claim(t, db, k, "new") })
		synctest.Wait()
		var refused error
		g.Go(func() error {
			refused = claim(t, db, k, "old")
			return nil
		})
		held.open(t)
		noErr(t, g.Wait())
		wantErr(t, refused, edgeclaim.ErrDenied)
		if d, err := holder(db, "new"); err != nil || d.ID != derived(t, "old", 1) || d.Status != edgeclaim.DeviceActive {
			t.Errorf("the new board is %+v, %v", d, err)
		}
		checkAndClose(t, db)
	})
}

// TestNextGenerationIsNobodys: whatever devices there are, an undenied board
// gets an id that none of them has, and none gets it before the board has
// claimed.
func TestNextGenerationIsNobodys(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprintf("the namesake comes first=%v", early), func(t *testing.T) {
			db := open(t, config(t))
			k := stock(t, db)
			ctx := t.Context()
			noErr(t, claim(t, db, k, "old"))
			if early {
				noErr(t, claim(t, db, k, "old#2")) // derived(old, 2) is derived(old#2, 1)
			}
			_, err := swap(t, db, derived(t, "old", 1), "new")
			noErr(t, err)
			_, err = db.Undeny(ctx, tenant(t), hardware(t, "old"))
			noErr(t, err)
			want := 2
			if early {
				want = 3
			} else {
				wantErr(t, claim(t, db, k, "old#2"), edgeclaim.ErrDenied)
				_, err := swap(t, db, derived(t, "old", 1), "old#2")
				wantErr(t, err, edgeclaim.ErrConflict)
				if p := look(t, db, k, "old#2"); p.Denied == nil || !p.Next.IsZero() {
					t.Errorf("the namesake sees %+v", p)
				}
			}
			noErr(t, claim(t, db, k, "old"))
			if d, err := holder(db, "old"); err != nil || d.ID != derived(t, "old", want) || d.Generation != want {
				t.Errorf("the board is %+v, %v, want generation %d", d, err, want)
			}
			if early {
				return
			}
			wantErr(t, claim(t, db, k, "old#2"), edgeclaim.ErrDenied) // it is another board's, for good
			_, err = db.Undeny(ctx, tenant(t), hardware(t, "old#2"))  // and this is the way out
			noErr(t, err)
			noErr(t, claim(t, db, k, "old#2"))
			if d, err := holder(db, "old#2"); err != nil || d.ID != derived(t, "old#2", 2) {
				t.Errorf("the namesake is %+v, %v", d, err)
			}
		})
	}
}

// TestLostDenialStillDenies: a box that lost its file hears of the device from
// upstream, and not of the denial.
func TestLostDenialStillDenies(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	device := told(t, k, "new", 1)
	device.ID = derived(t, "old", 1)
	n, err := db.Adopt(t.Context(), []edgeclaim.Device{device})
	noErr(t, err)
	equal(t, "adopted", n, 1)
	p := look(t, db, k, "old")
	if p.Denied == nil || p.Denied.Reason != edgeclaim.DeniedSwapped || p.Denied.Device != device.ID || p.Known != nil || !p.Next.IsZero() {
		t.Fatalf("the old board sees %+v", p)
	}
	ref := refer(t, k, "old")
	err = db.Mint(t.Context(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		p.Denied, p.Next, p.Generation = nil, device.ID, 1 // a rule that does not look
		return mint(ref)(p)
	})
	wantErr(t, err, edgeclaim.ErrInvalid)
	lifted, err := db.Undeny(t.Context(), tenant(t), hardware(t, "old"))
	if err != nil || lifted.Device != device.ID {
		t.Fatalf("lifted %+v, %v", lifted, err)
	}
	noErr(t, claim(t, db, k, "old"))
	if d, err := holder(db, "old"); err != nil || d.Generation != 2 {
		t.Errorf("the old board is %+v, %v", d, err)
	}
}

func TestSwapRefusedLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	id := derived(t, "old", 1)
	keep := func(*edgeclaim.Device) (*edgeclaim.Record, error) { return nil, nil }
	tests := []struct {
		name   string
		id     edgeclaim.DeviceID
		to     string
		change func(*edgeclaim.Device) (*edgeclaim.Record, error)
		want   error
	}{
		{"unknown device", derived(t, "x", 1), "new", keep, edgeclaim.ErrNotFound},
		{"its own hardware", id, "old", keep, edgeclaim.ErrConflict},
		{"another device's", id, "other", keep, edgeclaim.ErrConflict},
		{"denied", id, "bad", keep, edgeclaim.ErrConflict},
		{"denied for all tenants", id, "bad-everywhere", keep, edgeclaim.ErrConflict},
		{"decided against", id, "new", func(*edgeclaim.Device) (*edgeclaim.Record, error) { return nil, boom }, boom},
		{"another id", id, "new", func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
			d.ID = derived(t, "x", 1)
			return nil, nil
		}, edgeclaim.ErrInvalid},
		{"another hardware", id, "new", func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
			d.Hardware = hardware(t, "x")
			return nil, nil
		}, edgeclaim.ErrInvalid},
		{"record too large", id, "new", func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
			r := record(d.ID)
			r.Data = make([]byte, store.MaxRecord)
			return r, nil
		}, edgeclaim.ErrInvalid},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			db := open(t, config(t))
			k := stock(t, db)
			noErr(t, claim(t, db, k, "old"))
			noErr(t, claim(t, db, k, "other"))
			noErr(t, db.Deny(t.Context(), denied(t, "bad", true), nil))
			noErr(t, db.Deny(t.Context(), denied(t, "bad-everywhere", false), nil))
			before := snapshot(t, db)
			_, err := db.Swap(t.Context(), tc.id, hardware(t, tc.to), tc.change)
			wantErr(t, err, tc.want)
			if diff := cmp.Diff(before, snapshot(t, db)); diff != "" {
				t.Errorf("left behind:\n%s", diff)
			}
			if p := look(t, db, k, "new"); p.Known != nil || p.Next != derived(t, "new", 1) {
				t.Errorf("the new board sees %+v", p)
			}
		})
	}
}

func TestSwapWithAFullLaneLeavesNothing(t *testing.T) {
	cfg := config(t)
	cfg.ProvMaxRecords = 16
	db := open(t, cfg)
	k := stock(t, db)
	for n := range 16 {
		noErr(t, claim(t, db, k, board(n)))
	}
	_, err := swap(t, db, derived(t, board(1), 1), "other") // there is room for one beyond the claims
	noErr(t, err)
	before := snapshot(t, db)
	_, err = swap(t, db, derived(t, board(0), 1), "new")
	wantErr(t, err, edgeclaim.ErrUnavailable)
	wantErr(t, db.Deny(t.Context(), denied(t, "bad", true), record(derived(t, "bad", 1))), edgeclaim.ErrUnavailable)
	if diff := cmp.Diff(before, snapshot(t, db)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

// TestOperatorsDenialOutlivesASwap: what an operator denied stays so.
func TestOperatorsDenialOutlivesASwap(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	noErr(t, claim(t, db, k, "old"))
	noErr(t, db.Deny(t.Context(), denied(t, "old", true), nil))
	id := derived(t, "old", 1)
	_, err := swap(t, db, id, "new")
	noErr(t, err)
	_, err = swap(t, db, id, "old")
	wantErr(t, err, edgeclaim.ErrConflict)
	lifted, err := db.Undeny(t.Context(), tenant(t), hardware(t, "old"))
	if err != nil || lifted.Reason != edgeclaim.DeniedByOperator {
		t.Fatalf("lifted %+v, %v", lifted, err)
	}
	if p := look(t, db, k, "old"); p.Denied == nil || p.Denied.Reason != edgeclaim.DeniedSwapped {
		t.Errorf("the swapped board sees %+v", p)
	}
}

// TestAliasOfAnotherBoard: an alias alone, whoever wrote it, gives no board a
// device that goes by another hardware.
func TestAliasOfAnotherBoard(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	k := stock(t, db)
	noErr(t, claim(t, db, k, "old-board"))
	checkAndClose(t, db)
	edit(t, cfg, func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("device_aliases")).Put([]byte(tenantText+"/new-board"), derived(t, "old-board", 1).Bytes())
	})
	db = open(t, cfg)
	if p := look(t, db, k, "new-board"); p.Known != nil || p.Denied == nil {
		t.Errorf("the other board sees %+v", p)
	}
	wantErr(t, claim(t, db, k, "new-board"), edgeclaim.ErrDenied)
}
