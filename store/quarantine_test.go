package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/store"
)

// about makes an event of a device; 0 is the box itself.
func about(tb testing.TB, device, n int) edgeclaim.Record {
	r := event(n)
	if device > 0 {
		r.Device = deviceID(tb, device)
	}
	return r
}

func deviceID(tb testing.TB, n int) edgeclaim.DeviceID {
	return edgeclaim.NewDeviceID(tenant(tb), hardware(tb, board(n)), 1)
}

// appendAbout appends events of these devices, in this order.
func appendAbout(tb testing.TB, db *store.DB, devices ...int) {
	tb.Helper()
	for n, device := range devices {
		noErr(tb, db.Append(tb.Context(), about(tb, device, n)))
	}
}

func sequences(tb testing.TB, db *store.DB, lane edgeclaim.Lane) (all []uint64) {
	tb.Helper()
	for _, r := range pending(tb, db, lane) {
		all = append(all, r.Sequence)
	}
	return all
}

func quarantine(tb testing.TB, db *store.DB) []edgeclaim.Quarantined {
	tb.Helper()
	var all []edgeclaim.Quarantined
	for after := ""; ; after = all[len(all)-1].ID {
		page, err := db.Quarantine(tb.Context(), after, 3)
		noErr(tb, err)
		if all = append(all, page...); len(page) == 0 {
			return all
		}
	}
}

func quarantined(tb testing.TB, db *store.DB) (sequences []uint64) {
	tb.Helper()
	for _, q := range quarantine(tb, db) {
		sequences = append(sequences, q.Sequence)
	}
	return sequences
}

func equal(tb testing.TB, what string, got, want any) {
	tb.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		tb.Errorf("%s: got %v, want %v", what, got, want)
	}
}

const evt = edgeclaim.LaneEvt

func TestParkTakesTheDevicesLaterRecords(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	appendAbout(t, db, 1, 2, 1, 0, 2, 1)
	noErr(t, db.Park(ctx, at(db, evt, 3), "no such\xff thing"+strings.Repeat("é", 400)))
	appendAbout(t, db, 1, 2, 0) // 7 is a hole from the start
	equal(t, "pending", sequences(t, db, evt), "[1 2 4 5 8 9]")
	equal(t, "quarantined", quarantined(t, db), "[3 6 7]")
	for n, q := range quarantine(t, db) {
		if q.Device != deviceID(t, 1) || q.Lane != evt || q.Epoch != db.Epoch() || q.Type != edgeclaim.TypeClaimRefused ||
			!q.ParkedAt.Equal(moment) || q.Time.IsZero() {
			t.Errorf("quarantined %+v", q)
		}
		if n == 0 && (!strings.HasPrefix(q.Reason, "no such? thingé") || len(q.Reason) > store.MaxParkReason || !strings.HasSuffix(q.Reason, "é")) ||
			n > 0 && q.Reason != "" {
			t.Errorf("%d: reason %q", n, q.Reason)
		}
		r, same, err := db.QuarantinedRecord(ctx, q.ID)
		noErr(t, err)
		if same != q || r.Sequence != q.Sequence || len(r.Data) == 0 {
			t.Errorf("%+v is shown as %+v, %+v", q, r, same)
		}
	}
	want := edgeclaim.LaneStats{Pending: 6, Appended: 9, Parked: 3, Quarantined: 3}
	got := stats(t, db, evt)
	want.Bytes = got.Bytes
	equal(t, "stats", got, want)

	noErr(t, db.Park(ctx, at(db, evt, 3), "said again"))
	wantErr(t, db.Park(ctx, at(db, evt, 10), ""), edgeclaim.ErrNotFound)
	wantErr(t, db.Park(ctx, at(db, evt, 0), ""), edgeclaim.ErrNotFound)
	wantErr(t, db.Park(ctx, edgeclaim.Mark{Epoch: "other", Lane: evt, Upto: 4}, ""), edgeclaim.ErrConflict)
	wantErr(t, db.Park(ctx, at(db, "tel", 4), ""), edgeclaim.ErrInvalid)
	noErr(t, db.Park(ctx, at(db, evt, 4), "")) // without a device: alone
	equal(t, "pending", sequences(t, db, evt), "[1 2 5 8 9]")

	noErr(t, db.Ack(ctx, at(db, evt, 7)))
	equal(t, "pending after an ack over holes", sequences(t, db, evt), "[8 9]")
	if s := stats(t, db, evt); s.Acked != 3 || s.Parked != 4 {
		t.Errorf("acked over holes: %+v", s)
	}
	checkAndClose(t, db)
	db = open(t, cfg)
	appendAbout(t, db, 1)
	equal(t, "quarantined after a reopen", quarantined(t, db), "[3 4 6 7 10]")
	if _, _, marks, err := db.Marks(ctx); err != nil || marks[evt].First != 8 || marks[evt].Appended != 10 {
		t.Errorf("marks %+v, %v", marks, err)
	}
	wantErr(t, db.Ack(ctx, at(db, evt, 11)), edgeclaim.ErrInvalid)
	noErr(t, db.Ack(ctx, at(db, evt, 10)))
	if _, _, marks, err := db.Marks(ctx); err != nil || marks[evt].First != 11 || marks[evt].Appended != 10 {
		t.Errorf("marks %+v, %v", marks, err)
	}
}

// TestParkIsOfOneLane: what becomes of a device's events does not stop what has
// to be told of the device itself.
func TestParkIsOfOneLane(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	k := stock(t, db)
	noErr(t, claim(t, db, k, board(1)))
	appendAbout(t, db, 1, 1)
	noErr(t, db.Park(ctx, at(db, evt, 1), ""))
	rename(t, db, 1, "new")
	equal(t, "prov", sequences(t, db, edgeclaim.LaneProv), "[1 2]")
	noErr(t, db.Park(ctx, at(db, edgeclaim.LaneProv, 2), ""))
	rename(t, db, 1, "newer")
	equal(t, "prov", sequences(t, db, edgeclaim.LaneProv), "[1]")
	var ids []string
	for _, q := range quarantine(t, db) {
		ids = append(ids, q.ID)
	}
	if len(ids) != 4 || !slices.IsSorted(ids) || ids[0][:4] != "evt-" || ids[3][:5] != "prov-" {
		t.Errorf("ids %v", ids)
	}
	n, err := db.Requeue(ctx, deviceID(t, 1))
	noErr(t, err)
	equal(t, "requeued", n, 4)
	equal(t, "evt", sequences(t, db, evt), "[3 4]")
	equal(t, "prov", sequences(t, db, edgeclaim.LaneProv), "[1 4 5]")
}

// rename makes one record of a device in the provisioning lane.
func rename(tb testing.TB, db *store.DB, device int, name string) {
	tb.Helper()
	_, err := db.ChangeDevice(tb.Context(), deviceID(tb, device), func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.Name = name
		r := record(d.ID)
		r.Data, _ = json.Marshal(map[string]string{"name": name})
		return r, nil
	})
	noErr(tb, err)
}

func TestRequeueKeepsTheDevicesOrder(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	var devices []int
	for range 600 { // more than one transaction moves, and more than one page holds
		devices = append(devices, 1, 2, 3, 0, 2, 3, 0, 2)
	}
	appendAbout(t, db, devices...)
	noErr(t, db.Park(ctx, at(db, evt, 9), "why"))
	if s := stats(t, db, evt); s.Quarantined != 599 || s.Pending != 4800-599 {
		t.Fatalf("parked %+v", s)
	}
	<-db.Appended()
	var want []string
	for _, q := range quarantine(t, db) {
		r, _, err := db.QuarantinedRecord(ctx, q.ID)
		noErr(t, err)
		want = append(want, string(r.Data))
	}
	n, err := db.Requeue(ctx, deviceID(t, 1))
	noErr(t, err)
	equal(t, "requeued", n, 599)
	<-db.Appended()
	appendAbout(t, db, 1)
	records, err := db.Next(ctx, at(db, evt, 4800), 1000)
	noErr(t, err)
	if len(records) != 600 || records[599].Sequence != 5400 {
		t.Fatalf("%d records behind", len(records))
	}
	for i, text := range want {
		if string(records[i].Data) != text || records[i].Device != deviceID(t, 1) {
			t.Fatalf("record %d is %+v, want %s", i, records[i], text)
		}
	}
	_, err = db.Requeue(ctx, deviceID(t, 1))
	wantErr(t, err, edgeclaim.ErrNotFound)
	equal(t, "quarantined", quarantined(t, db), "[]")
}

func TestRequeueRecordWithoutDevice(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	appendAbout(t, db, 0, 1)
	noErr(t, db.Park(ctx, at(db, evt, 1), ""))
	noErr(t, db.Park(ctx, at(db, evt, 2), ""))
	held := quarantine(t, db)
	wantErr(t, db.RequeueRecord(ctx, held[1].ID), edgeclaim.ErrConflict)
	noErr(t, db.RequeueRecord(ctx, held[0].ID))
	wantErr(t, db.RequeueRecord(ctx, held[0].ID), edgeclaim.ErrNotFound)
	equal(t, "pending", sequences(t, db, evt), "[3]")
	for _, id := range []string{"", "evt-1-ABCDEF", "tel-00000000000000000002-ABCDEF", held[1].ID + "-x", "evt-0000000000000000000x-ABCDEF"} {
		wantErr(t, db.RequeueRecord(ctx, id), edgeclaim.ErrInvalid)
	}
	other := held[1].ID[:len(held[1].ID)-6] + "222222"
	if other == held[1].ID {
		t.Skip("one in a thousand million")
	}
	wantErr(t, db.Discard(ctx, other), edgeclaim.ErrNotFound) // of a registry that was set aside
	_, err := db.Quarantine(ctx, "evt", 1)
	wantErr(t, err, edgeclaim.ErrInvalid)
}

// gaps returns the gap records of the event lane, oldest first.
func gaps(tb testing.TB, db *store.DB) (all []gapData) {
	tb.Helper()
	for _, r := range pending(tb, db, evt) {
		if r.Type == edgeclaim.TypeGap {
			var g gapData
			noErr(tb, json.Unmarshal(r.Data, &g))
			all = append(all, g)
		}
	}
	return all
}

func TestDiscardLeavesAGap(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	k := stock(t, db)
	noErr(t, claim(t, db, k, board(1)))
	rename(t, db, 1, "new")
	noErr(t, db.Park(ctx, at(db, edgeclaim.LaneProv, 1), "why"))
	first, second := quarantine(t, db)[0].ID, quarantine(t, db)[1].ID
	noErr(t, db.Discard(ctx, first))
	wantErr(t, db.Discard(ctx, first), edgeclaim.ErrNotFound)
	epoch := db.Epoch()
	equal(t, "gaps", gaps(t, db), []gapData{{"prov", 1, 1, 1, "discarded", epoch}})
	rename(t, db, 1, "newer")
	equal(t, "still parked", quarantined(t, db), "[2 3]")
	renewed, err := db.Renew(ctx)
	noErr(t, err)
	noErr(t, db.Discard(ctx, second))
	equal(t, "gaps", gaps(t, db)[1], gapData{"prov", 2, 2, 1, "discarded", epoch})
	noErr(t, db.Discard(ctx, quarantine(t, db)[0].ID))
	rename(t, db, 1, "newest")
	if got := pending(t, db, edgeclaim.LaneProv); len(got) != 1 || got[0].Sequence != 1 || db.Epoch() != renewed {
		t.Errorf("with its last one discarded, the device is still parked: %v", got)
	}
}

// TestGapRecordsAreNeverLostSilently: parked, requeued, dropped or discarded,
// what they told is told.
func TestGapRecordsAreNeverLostSilently(t *testing.T) {
	cfg := config(t)
	cfg.EvtMaxRecords = 16
	db := open(t, cfg)
	ctx := t.Context()
	appendAbout(t, db, 1, 1, 1)
	noErr(t, db.Park(ctx, at(db, evt, 1), ""))
	for _, q := range quarantine(t, db)[:2] {
		noErr(t, db.Discard(ctx, q.ID))
	}
	epoch := db.Epoch()
	equal(t, "gaps", gaps(t, db), []gapData{{"evt", 1, 1, 1, "discarded", epoch}, {"evt", 2, 2, 1, "discarded", epoch}})
	noErr(t, db.Park(ctx, at(db, evt, 4), "no gaps here"))
	equal(t, "parked gap", quarantined(t, db), "[3 4]")
	noErr(t, db.Discard(ctx, quarantine(t, db)[1].ID))
	equal(t, "gaps", gaps(t, db)[1:], []gapData{{"evt", 1, 4, 2, "discarded", epoch}})

	renewed, err := db.Renew(ctx)
	noErr(t, err)
	for n := range 200 { // the lane drops the gap records of both epochs
		noErr(t, db.Append(ctx, event(n)))
	}
	sums := map[string]uint64{}
	for _, g := range gaps(t, db) {
		if g.From == 0 || g.From > g.To || g.Epoch != epoch && g.Epoch != renewed {
			t.Errorf("gap %+v", g)
		}
		sums[g.Epoch] += g.Count
	}
	if sums[epoch] != 3 { // 1, 2 and the gap record 4 of the old epoch
		t.Errorf("the old epoch lost %d, want 3: %+v", sums[epoch], gaps(t, db))
	}
}

func TestQuarantineCountsInTheProvLanesQuota(t *testing.T) {
	cfg := config(t)
	cfg.ProvMaxRecords = 16
	db := open(t, cfg)
	ctx := t.Context()
	k := stock(t, db)
	for n := range 16 {
		noErr(t, claim(t, db, k, board(n)))
	}
	noErr(t, db.Park(ctx, at(db, edgeclaim.LaneProv, 3), ""))
	noErr(t, db.Ack(ctx, at(db, edgeclaim.LaneProv, 2)))
	noErr(t, claim(t, db, k, board(16)))
	noErr(t, claim(t, db, k, board(17)))
	wantErr(t, claim(t, db, k, board(18)), edgeclaim.ErrUnavailable)
	_, err := db.Requeue(ctx, deviceID(t, 2))
	noErr(t, err) // full or not: it is counted already
	wantErr(t, claim(t, db, k, board(18)), edgeclaim.ErrUnavailable)
	if s := stats(t, db, edgeclaim.LaneProv); s.Pending != 16 || s.Quarantined != 0 || s.Dropped != 0 {
		t.Errorf("lane %+v", s)
	}
}

// TestQuarantinedEventsAreBounded: a quarter of the lane's quota, and what is
// above leaves gap records.
func TestQuarantinedEventsAreBounded(t *testing.T) {
	for name, limit := range map[string]func(*store.Config){
		"records": func(c *store.Config) { c.EvtMaxRecords = 400 },
		"bytes":   func(c *store.Config) { c.EvtMaxBytes = 1 << 20 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			limit(&cfg)
			db := open(t, cfg)
			const events = 300
			for n := range events {
				r := about(t, 1+n%2, n)
				r.Data, _ = json.Marshal(map[string]any{"n": n, "fill": make([]byte, 2000)})
				noErr(t, db.Append(t.Context(), r))
				if n == 1 {
					noErr(t, db.Park(t.Context(), at(db, evt, 1), ""))
				}
			}
			s := stats(t, db, evt)
			if s.Quarantined > 100 || s.Quarantined < 50 || s.Pending+s.Quarantined > 400 {
				t.Errorf("lane %+v", s)
			}
			lost, kept := uint64(0), s.Pending+s.Quarantined
			for _, g := range gaps(t, db) {
				if g.Reason != "quarantine_full" && g.Reason != "quota" {
					t.Errorf("gap %+v", g)
				}
				lost += g.Count
			}
			made := s.Appended - events
			if kept+lost != events+made || made > 40 || made == 0 {
				t.Errorf("%d kept, %d lost of %d events and %d gap records", kept, lost, events, made)
			}
		})
	}
}

// TestParkBeforeATrailingHole: the lane may end with holes of another device.
func TestParkBeforeATrailingHole(t *testing.T) {
	db := open(t, config(t))
	appendAbout(t, db, 1, 2, 1, 2)
	noErr(t, db.Park(t.Context(), at(db, evt, 2), ""))
	noErr(t, db.Park(t.Context(), at(db, evt, 1), ""))
	equal(t, "quarantined", quarantined(t, db), "[1 2 3 4]")
	noErr(t, db.Ack(t.Context(), at(db, evt, 4)))
	appendAbout(t, db, 0)
	equal(t, "pending", sequences(t, db, evt), "[5]")
}

// TestParkGivesWayToTheQuota: a device whose first records the full quarantine
// has discarded has nothing to stay behind; the rest goes up.
func TestParkGivesWayToTheQuota(t *testing.T) {
	cfg := config(t)
	cfg.EvtMaxRecords = 400 // a quarter, 100, may be in quarantine
	db, err := store.Open(cfg)
	noErr(t, err)
	appendAbout(t, db, slices.Concat(slices.Repeat([]int{1}, 20), slices.Repeat([]int{2}, 95))...)
	noErr(t, db.Park(t.Context(), at(db, evt, 21), ""))
	noErr(t, db.Park(t.Context(), at(db, evt, 1), ""))
	for _, q := range quarantine(t, db) {
		if q.Device != deviceID(t, 2) {
			t.Fatalf("left behind: %+v", q)
		}
	}
	equal(t, "quarantined", len(quarantined(t, db)), 95)
	equal(t, "pending", sequences(t, db, evt), "[7 8 9 10 11 12 13 14 15 16 17 18 19 20 116]")
	equal(t, "gaps", gaps(t, db), []gapData{{"evt", 1, 6, 6, "quarantine_full", db.Epoch()}})

	checkAndClose(t, db)
	cfg.EvtMaxRecords = 16
	db = open(t, cfg)
	appendAbout(t, db, 0)
	if s := stats(t, db, evt); s.Pending+s.Quarantined > 16 || s.Quarantined > 4 {
		t.Errorf("with a smaller quota: %+v", s)
	}
}
