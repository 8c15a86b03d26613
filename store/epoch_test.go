package store_test

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/store"
)

func TestMarksAndChecks(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	appendAbout(t, db, 0, 0, 0, 0)
	marks := func() edgeclaim.LaneMarks {
		epoch, previous, all, err := db.Marks(ctx)
		noErr(t, err)
		if epoch != db.Epoch() || previous != "" || len(all) != 2 {
			t.Fatalf("marks of %q after %q: %v", epoch, previous, all)
		}
		return all[evt]
	}
	equal(t, "new", marks(), edgeclaim.LaneMarks{First: 1, Appended: 4})
	check := func(sequence uint64, hash string) edgeclaim.Check {
		return edgeclaim.Check{Sequence: sequence, Hash: hash}
	}
	for _, step := range []struct {
		upto  uint64
		check edgeclaim.Check
		want  edgeclaim.LaneMarks
	}{
		{2, check(2, "two"), edgeclaim.LaneMarks{First: 3, Appended: 4, Check: check(2, "two")}},
		{1, check(1, "one"), edgeclaim.LaneMarks{First: 3, Appended: 4, Check: check(2, "two")}},   // late
		{3, edgeclaim.Check{}, edgeclaim.LaneMarks{First: 4, Appended: 4, Check: check(2, "two")}}, // unknown
		{3, check(3, "three"), edgeclaim.LaneMarks{First: 4, Appended: 4, Check: check(3, "three")}},
	} {
		mark := at(db, evt, step.upto)
		mark.Check = step.check
		noErr(t, db.Ack(ctx, mark))
		equal(t, "marks", marks(), step.want)
	}
	mark := at(db, evt, 3)
	mark.Check = check(4, "above")
	wantErr(t, db.Ack(ctx, mark), edgeclaim.ErrInvalid)
	mark = at(db, evt, 4)
	mark.Epoch = "another"
	wantErr(t, db.Ack(ctx, mark), edgeclaim.ErrConflict)
	_, err = db.Next(ctx, mark, 1)
	wantErr(t, err, edgeclaim.ErrConflict)
	before := marks()
	checkAndClose(t, db)
	db = open(t, cfg)
	equal(t, "marks after a reopen", marks(), before)
	none, err := db.Next(ctx, at(db, evt, ^uint64(0)), 10)
	if err != nil || len(none) > 0 {
		t.Errorf("after the last sequence there can be: %v, %v", none, err)
	}
}

func TestRenew(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	old := db.Epoch()
	appendAbout(t, db, 0, 0, 1, 2, 3, 1, 2)
	noErr(t, db.Park(ctx, at(db, evt, 3), "")) // 3 and 6 are holes
	mark := at(db, evt, 2)
	mark.Check = edgeclaim.Check{Sequence: 2, Hash: "two"}
	noErr(t, db.Ack(ctx, mark))
	var want []string
	for _, r := range pending(t, db, evt) {
		want = append(want, string(r.Data))
	}
	<-db.Appended()

	epoch, err := db.Renew(ctx)
	noErr(t, err)
	<-db.Appended()
	if epoch == old || db.Epoch() != epoch {
		t.Errorf("epoch %s after %s, renewed as %s", db.Epoch(), old, epoch)
	}
	wantErr(t, db.Ack(ctx, mark), edgeclaim.ErrConflict)
	check := func() {
		t.Helper()
		equal(t, "sequences", sequences(t, db, evt), "[1 2 4]")
		for i, r := range pending(t, db, evt) {
			equal(t, "record", string(r.Data), want[i])
		}
		now, before, marks, err := db.Marks(ctx)
		noErr(t, err)
		if now != epoch || before != old || marks[evt] != (edgeclaim.LaneMarks{First: 1, Appended: 4}) {
			t.Errorf("marks of %s after %s: %+v", now, before, marks)
		}
		s := stats(t, db, evt)
		if s.Acked != 0 || s.Dropped != 0 || s.Pending != 3 || s.Quarantined != 2 {
			t.Errorf("stats %+v", s)
		}
		for i, q := range quarantine(t, db) {
			if q.Epoch != old || q.Sequence != uint64(3+3*i) {
				t.Errorf("quarantined %+v", q)
			}
		}
	}
	check()
	checkAndClose(t, db)
	db, err = store.Open(cfg)
	noErr(t, err)
	check()
	n, err := db.Requeue(ctx, deviceID(t, 1))
	noErr(t, err)
	equal(t, "requeued", n, 2)
	equal(t, "sequences", sequences(t, db, evt), "[1 2 4 5 6]")
	noErr(t, db.Ack(ctx, at(db, evt, 6)))
	again, err := db.Renew(ctx)
	noErr(t, err)
	if _, before, marks, _ := db.Marks(ctx); before != epoch || marks[evt] != (edgeclaim.LaneMarks{First: 1}) {
		t.Errorf("renewed with nothing pending: after %s, %+v", before, marks)
	}
	appendAbout(t, db, 1)
	equal(t, "sequences", sequences(t, db, evt), "[1]")
	checkAndClose(t, db)
	db = open(t, cfg)
	equal(t, "epoch", db.Epoch(), again)
}

// unpack makes a committed registry a store's, and checks it as it is.
func unpack(t *testing.T, cfg store.Config, name string) {
	t.Helper()
	packed, err := os.Open(filepath.Join("testdata", name))
	noErr(t, err)
	defer packed.Close() //nolint:errcheck // only read
	unpacked, err := gzip.NewReader(packed)
	noErr(t, err)
	data, err := io.ReadAll(unpacked)
	noErr(t, err)
	noErr(t, os.WriteFile(registry(cfg), data, 0o600))
	noErr(t, store.CheckFile(t.Context(), cfg.Dir))
}

// TestMigrationFromVersion1 opens a registry that version 1 of the program
// left: 12 devices claimed, 5 records acknowledged, and an event lane of 16
// that has dropped 8 of 24.
func TestMigrationFromVersion1(t *testing.T) {
	const epoch = "5Z6XBOEW7MWG24PW5Y4GJMNTUQ"
	cfg := config(t)
	unpack(t, cfg, "registry-v1.db.gz")
	_, _, err := store.Compact(cfg.Dir)
	noErr(t, err)

	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	for life := range 2 {
		_, previous, marks, err := db.Marks(ctx)
		noErr(t, err)
		equal(t, "marks", marks, map[edgeclaim.Lane]edgeclaim.LaneMarks{
			"prov": {First: 6, Appended: 12}, "evt": {First: 9, Appended: 24},
		})
		if n, err := db.Count(ctx); err != nil || n != 12 || db.Epoch() != epoch || previous != "" || db.Info().SetAside != "" {
			t.Errorf("life %d: %d devices, %v, epoch %s after %q, set aside %q", life, n, err, db.Epoch(), previous, db.Info().SetAside)
		}
		equal(t, "prov", sequences(t, db, edgeclaim.LaneProv), "[6 7 8 9 10 11 12]")
		equal(t, "events", len(sequences(t, db, evt)), 16)
		if s := stats(t, db, evt); s.Dropped != 8 || s.Bytes != 934 {
			t.Errorf("stats %+v", s)
		}
		checkAndClose(t, db)
		db, err = store.Open(cfg)
		noErr(t, err)
	}
	defer checkAndClose(t, db)
	noErr(t, db.Park(ctx, at(db, edgeclaim.LaneProv, 7), ""))
	noErr(t, db.Ack(ctx, at(db, edgeclaim.LaneProv, 10)))
	_, err = db.Renew(ctx)
	noErr(t, err)
	equal(t, "prov", sequences(t, db, edgeclaim.LaneProv), "[1 2]")
	noErr(t, claim(t, db, key(t, "key-1", "template-1"), board(99)))
}

// TestMigrationFromVersion2 opens a registry that version 2 of the program left:
// 98 devices claimed, of which board-3 is released and board-4 revoked; two
// adopted, one of them swapped; 40 of 100 records acknowledged; events of board-2
// in quarantine. Each row is what it was, and nobody is told of devices that
// never noted their first use.
func TestMigrationFromVersion2(t *testing.T) {
	cfg := config(t)
	unpack(t, cfg, "registry-v2.db.gz")
	said := logged(&cfg)
	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	k := key(t, "key-1", "template-1")
	for life := range 2 {
		devices, err := db.Devices(ctx, edgeclaim.DeviceID{}, 1000)
		noErr(t, err)
		equal(t, "devices", len(devices), 100)
		for n := range 98 {
			want := told(t, k, board(n), 1)
			want.Told = true
			switch n {
			case 3:
				want.Status, want.Credential = edgeclaim.DeviceReleased, edgeclaim.Credential{}
			case 4:
				want.Status, want.Credential = edgeclaim.DeviceRevoked, edgeclaim.Credential{}
			}
			equal(t, "device", devices[n], want)
			byID, err := db.Device(ctx, want.ID)
			noErr(t, err)
			equal(t, "device by its id", byID, want)
		}
		if p := look(t, db, k, "new-board"); p.Known == nil || p.Known.ID != derived(t, "old-board", 1) {
			t.Errorf("life %d: the swapped board sees %+v", life, p)
		}
		if p := look(t, db, k, "old-board"); p.Known == nil || p.Generation != 2 {
			t.Errorf("life %d: the board that was swapped out sees %+v", life, p)
		}
		if s := stats(t, db, edgeclaim.LaneProv); s.Appended != 100 || s.Pending != 60 {
			t.Errorf("life %d: stats %+v", life, s)
		}
		equal(t, "quarantined", quarantined(t, db), []uint64{2, 4})
		floor, err := db.TimeFloor(ctx)
		if err != nil || !floor.Equal(moment.Add(time.Hour)) {
			t.Errorf("life %d: floor %v, %v", life, floor, err)
		}
		checkAndClose(t, db)
		db, err = store.Open(cfg)
		noErr(t, err)
	}
	defer checkAndClose(t, db)
	if strings.Contains(said.String(), "box key") { // it was never there, so that none is missed
		t.Errorf("logged: %s", said)
	}
	noErr(t, db.Deny(ctx, denied(t, "bad", true), nil))
	_, err = swap(t, db, deviceID(t, 1), "other")
	noErr(t, err)
	noErr(t, claim(t, db, k, board(3)))
	equal(t, "found", finds(t, db, secretOf(deviceID(t, 5))), deviceID(t, 5))
	ref := refer(t, k, "later")
	noErr(t, db.Mint(ctx, ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		minted, err := mint(ref)(p)
		minted.Device.Credential.IssuedAt = moment.Add(2 * time.Hour) // after the migration
		return minted, err
	}))
	if d, err := holder(db, "later"); err != nil || d.Told {
		t.Errorf("device is %+v, %v", d, err)
	}
}
