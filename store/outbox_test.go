package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/store"
)

func pending(tb testing.TB, db *store.DB, lane edgeclaim.Lane) []edgeclaim.Record {
	tb.Helper()
	all, err := db.Next(tb.Context(), at(db, lane, 0), 1_000_000)
	noErr(tb, err)
	return all
}

func stats(tb testing.TB, db *store.DB, lane edgeclaim.Lane) edgeclaim.LaneStats {
	tb.Helper()
	all, err := db.LaneStats(tb.Context())
	noErr(tb, err)
	s := all[lane]
	if s.Appended != s.Acked+s.Dropped+s.Parked+s.Pending {
		tb.Fatalf("appended %d is not acked %d + dropped %d + parked %d + pending %d", s.Appended, s.Acked, s.Dropped, s.Parked, s.Pending)
	}
	return s
}

func TestNextAndAck(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	for n := 1; n <= 1500; n++ { // more than one ack may delete in a transaction
		noErr(t, db.Append(ctx, event(n)))
		if n == 10 {
			first := pending(t, db, edgeclaim.LaneEvt)
			again := pending(t, db, edgeclaim.LaneEvt)
			if len(first) != 10 || fmt.Sprint(first) != fmt.Sprint(again) {
				t.Fatalf("Next removes or changes records: %v, %v", first, again)
			}
		}
	}
	page, err := db.Next(ctx, at(db, edgeclaim.LaneEvt, 7), 3)
	noErr(t, err)
	if len(page) != 3 || page[0].Sequence != 8 || page[2].Sequence != 10 {
		t.Fatalf("page is %v", page)
	}
	wantErr(t, db.Ack(ctx, at(db, edgeclaim.LaneEvt, 1501)), edgeclaim.ErrInvalid)
	wantErr(t, db.Ack(ctx, at(db, "tel", 1)), edgeclaim.ErrInvalid)
	for _, upto := range []uint64{0, 3, 3, 1, 1400, 2} {
		noErr(t, db.Ack(ctx, at(db, edgeclaim.LaneEvt, upto)))
	}
	left := pending(t, db, edgeclaim.LaneEvt)
	if s := stats(t, db, edgeclaim.LaneEvt); len(left) != 100 || left[0].Sequence != 1401 || s.Acked != 1400 || s.Pending != 100 {
		t.Fatalf("%d left, %+v", len(left), s)
	}
	noErr(t, db.Ack(ctx, at(db, edgeclaim.LaneEvt, 1500)))
	if s := stats(t, db, edgeclaim.LaneEvt); s.Bytes != 0 || s.Pending != 0 || s.OldestAge != 0 {
		t.Fatalf("empty lane is %+v", s)
	}
	noErr(t, db.Append(ctx, event(1)))
	if left := pending(t, db, edgeclaim.LaneEvt); len(left) != 1 || left[0].Sequence != 1501 {
		t.Fatalf("after a drain: %v", left)
	}
}

// TestMissingRecordIsDamage: a record that is missing where none was parked is
// no hole. The store fails, rather than to acknowledge what it does not have.
func TestMissingRecordIsDamage(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	appendAbout(t, db, 1, 0, 2, 0)
	noErr(t, db.Park(t.Context(), at(db, evt, 1), ""))
	checkAndClose(t, db)
	edit(t, cfg, func(tx *bolt.Tx) error { return tx.Bucket([]byte("outbox_evt")).Delete(ascendingKey(3)) })
	db, err = store.Open(cfg)
	noErr(t, err)
	noErr(t, db.Ack(t.Context(), at(db, evt, 2)))
	wantErr(t, db.Ack(t.Context(), at(db, evt, 4)), edgeclaim.ErrUnavailable)
	<-db.Fatal()
	noErr(t, db.Close())
	db = open(t, cfg)
	if db.Info().SetAside == "" {
		t.Error("the next start takes it for sound")
	}
}

func TestAppendedSignals(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	select {
	case <-db.Appended():
		t.Fatal("signal without a record")
	default:
	}
	noErr(t, claim(t, db, k, "board-1"))
	noErr(t, db.Append(t.Context(), event(1)))
	<-db.Appended()
	select {
	case <-db.Appended():
		t.Fatal("more than one signal waits")
	default:
	}
	noErr(t, db.Append(t.Context(), event(2)))
	<-db.Appended()
}

// TestProvLaneIsNeverDropped: full, by number or by bytes, it refuses claims
// until upstream has taken some (P6).
func TestProvLaneIsNeverDropped(t *testing.T) {
	for name, limit := range map[string]func(*store.Config){
		"records": func(c *store.Config) { c.ProvMaxRecords = 20 },
		"bytes":   func(c *store.Config) { c.ProvMaxBytes = 1 << 20 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			limit(&cfg)
			db := open(t, cfg)
			k := stock(t, db)
			n := 0
			var err error
			for ; err == nil; n++ {
				err = claim(t, db, k, board(n))
			}
			wantErr(t, err, edgeclaim.ErrUnavailable)
			full := stats(t, db, edgeclaim.LaneProv)
			if full.Dropped != 0 || full.Pending != uint64(n-1) || full.Pending < 20 || full.Bytes > cfg.ProvMaxBytes {
				t.Fatalf("full lane is %+v after %d claims", full, n-1)
			}
			_, err = db.ChangeDevice(t.Context(), edgeclaim.NewDeviceID(tenant(t), hardware(t, board(0)), 1),
				func(d *edgeclaim.Device) (*edgeclaim.Record, error) { return record(d.ID), nil })
			wantErr(t, err, edgeclaim.ErrUnavailable)
			noErr(t, db.Append(t.Context(), event(1))) // the other lane has room
			noErr(t, claim(t, db, k, board(0)))        // nothing to append

			noErr(t, db.Ack(t.Context(), at(db, edgeclaim.LaneProv, 5)))
			noErr(t, claim(t, db, k, board(n)))
		})
	}
}

// TestFullLaneStillRevokes: whoever fills the lane with claims keeps nobody from
// taking their credentials away, within a bound.
func TestFullLaneStillRevokes(t *testing.T) {
	for name, limit := range map[string]func(*store.Config){
		"records": func(c *store.Config) { c.ProvMaxRecords = 64 },
		"bytes":   func(c *store.Config) { c.ProvMaxBytes = 1 << 20 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			limit(&cfg)
			db := open(t, cfg)
			k := stock(t, db)
			claims := uint64(0)
			for claim(t, db, k, board(int(claims))) == nil {
				claims++
			}
			kinds := []edgeclaim.RecordType{
				edgeclaim.TypeCredentialRevoked, edgeclaim.TypeDeviceReleased, edgeclaim.TypeDeviceSwapped,
			}
			taken := uint64(0)
			for ; ; taken++ {
				_, err := db.ChangeDevice(t.Context(), deviceID(t, int(taken)), func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
					d.Status = edgeclaim.DeviceRevoked
					r := record(d.ID)
					r.Type = kinds[int(taken)%len(kinds)]
					return r, nil
				})
				if err != nil {
					wantErr(t, err, edgeclaim.ErrUnavailable)
					break
				}
			}
			if taken < claims/16-1 || taken > claims/16+1 {
				t.Errorf("%d taken away beyond %d claims, want a sixteenth", taken, claims)
			}
			wantErr(t, claim(t, db, k, board(int(claims))), edgeclaim.ErrUnavailable)
			if s := stats(t, db, edgeclaim.LaneProv); s.Dropped != 0 || s.Pending != claims+taken {
				t.Errorf("lane %+v", s)
			}
		})
	}
}

type gapData struct {
	Lane            string
	From, To, Count uint64
	Reason          string
	Epoch           string
}

// TestEvtLaneDropsTheOldestAndSaysSo: what is pending and what the pending gap
// records tell of is all that was ever appended (P7).
func TestEvtLaneDropsTheOldestAndSaysSo(t *testing.T) {
	for name, limit := range map[string]func(*store.Config){
		"records": func(c *store.Config) { c.EvtMaxRecords = 64 },
		"bytes":   func(c *store.Config) { c.EvtMaxBytes = 1 << 20 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			limit(&cfg)
			db := open(t, cfg)
			const events = 400
			for n := 1; n <= events; n++ {
				r := event(n)
				r.Data, _ = json.Marshal(map[string]any{"n": n, "fill": make([]byte, 3000)})
				noErr(t, db.Append(t.Context(), r))
				if s := stats(t, db, edgeclaim.LaneEvt); s.Pending > cfg.EvtMaxRecords || s.Bytes > cfg.EvtMaxBytes {
					t.Fatalf("over its limit: %+v", s)
				}
			}
			var gaps, lost, kept uint64
			for _, r := range pending(t, db, edgeclaim.LaneEvt) {
				if r.Type != edgeclaim.TypeGap {
					kept++
					continue
				}
				var g gapData
				noErr(t, json.Unmarshal(r.Data, &g))
				if g.Lane != "evt" || g.Reason != "quota" || g.From > g.To || g.To >= r.Sequence || !r.Time.Equal(moment) {
					t.Errorf("gap %+v in %+v", g, r)
				}
				gaps++
				lost += g.Count
			}
			s := stats(t, db, edgeclaim.LaneEvt)
			// Each gap record that was dropped counts itself beside what it told of.
			made := s.Appended - events
			if kept+lost != events+(made-gaps) {
				t.Errorf("%d kept and %d lost of %d events, %d of %d gap records left", kept, lost, events, gaps, made)
			}
			if s.Dropped == 0 || made*3 > s.Dropped {
				t.Errorf("%d gap records for %d drops: not coalesced", made, s.Dropped)
			}
			last := pending(t, db, edgeclaim.LaneEvt)
			if tail := last[len(last)-1]; tail.Sequence != s.Appended || tail.Type == edgeclaim.TypeGap {
				t.Errorf("the newest record is %+v", tail)
			}
		})
	}
}

func TestOldestAge(t *testing.T) {
	const boot, other = "boot-1", "boot-2"
	tests := []struct {
		name string
		now  edgeclaim.Stamp
		want float64
	}{
		{"same boot, clock set back", edgeclaim.Stamp{Time: moment.Add(-24 * time.Hour), Boot: boot, Uptime: 90 * time.Second}, 80},
		{"other boot, by the wall clock", edgeclaim.Stamp{Time: moment.Add(time.Minute), Boot: other, Uptime: time.Second}, 60},
		{"other boot, clock set back", edgeclaim.Stamp{Time: moment.Add(-time.Hour), Boot: other}, 0},
		{"no boot id", edgeclaim.Stamp{Time: moment.Add(time.Hour)}, 3600},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t)
			cfg.Stamp = func() edgeclaim.Stamp { return tc.now }
			db := open(t, cfg)
			r := event(0)
			r.Stamp = edgeclaim.Stamp{Time: moment, Boot: boot, Uptime: 10 * time.Second}
			noErr(t, db.Append(t.Context(), r))
			if got := stats(t, db, edgeclaim.LaneEvt).OldestAge; got != tc.want {
				t.Errorf("age is %v s, want %v", got, tc.want)
			}
		})
	}
}

// TestOutboxModel compares the event lane with a slice, over appends, acks,
// drops and reopens.
func TestOutboxModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := config(t)
		cfg.EvtMaxRecords = 40
		db, err := store.Open(cfg)
		noErr(t, err)
		epoch := db.Epoch()
		var model []uint64 // the pending sequences
		last := uint64(0)
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				for n := range rapid.IntRange(1, 30).Draw(rt, "records") {
					noErr(t, db.Append(t.Context(), event(n)))
					last++
					if len(model) == 40 { // a gap record takes a place too
						for len(model) > 40-40/16 {
							model = model[1:]
						}
						model = append(model, last)
						last++
					}
					model = append(model, last)
				}
			},
			"ack": func(rt *rapid.T) {
				upto := rapid.Uint64Range(0, last+1).Draw(rt, "upto")
				err := db.Ack(t.Context(), at(db, edgeclaim.LaneEvt, upto))
				if upto > last {
					wantErr(t, err, edgeclaim.ErrInvalid)
					return
				}
				noErr(t, err)
				model = slices.DeleteFunc(model, func(seq uint64) bool { return seq <= upto })
			},
			"reopen": func(*rapid.T) {
				checkAndClose(t, db)
				db, err = store.Open(cfg)
				noErr(t, err)
			},
			"": func(rt *rapid.T) {
				var got []uint64
				for _, r := range pending(t, db, edgeclaim.LaneEvt) {
					got = append(got, r.Sequence)
				}
				if !slices.Equal(got, model) || db.Epoch() != epoch {
					rt.Fatalf("pending %v, want %v", got, model)
				}
				if s := stats(t, db, edgeclaim.LaneEvt); s.Appended != last || s.Pending != uint64(len(model)) {
					rt.Fatalf("stats %+v, want %d appended, %d pending", s, last, len(model))
				}
			},
		})
		checkAndClose(t, db)
	})
}
