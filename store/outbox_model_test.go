package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/store"
)

// toldRecord is a record of the model: where it is, whom it is about and what it says.
type toldRecord struct {
	sequence uint64
	epoch    string
	place    uint64 // its sequence, had there been one epoch only
	device   int
	text     string
}

// laneModel is what the provisioning lane and its quarantine should hold.
type laneModel struct {
	db              *store.DB
	epoch, previous string
	pending, held   []toldRecord // by place
	base            uint64
	last, front     uint64
	gaps            []gapData // that the event lane should hold
	told            int
}

// TestLaneModel compares the provisioning lane, which is never dropped, with a
// few slices, over records, parking, requeueing, discarding, acks, new epochs,
// compactions and reopens.
func TestLaneModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const devices = 4
		cfg := config(t)
		db, err := store.Open(cfg)
		noErr(t, err)
		k := stock(t, db)
		for n := range devices {
			noErr(t, claim(t, db, k, board(n)))
		}
		noErr(t, db.Ack(t.Context(), at(db, edgeclaim.LaneProv, devices)))
		m := &laneModel{db: db, epoch: db.Epoch(), last: devices, front: devices + 1}
		drawDevice := func(rt *rapid.T) int { return rapid.IntRange(0, devices-1).Draw(rt, "device") }
		drawSequence := func(rt *rapid.T) uint64 { return rapid.Uint64Range(0, m.last+1).Draw(rt, "sequence") }
		rt.Repeat(map[string]func(*rapid.T){
			"tell": func(rt *rapid.T) {
				for range rapid.IntRange(1, 8).Draw(rt, "records") {
					m.tell(t, drawDevice(rt))
				}
			},
			"park":    func(rt *rapid.T) { m.park(t, drawSequence(rt)) },
			"requeue": func(rt *rapid.T) { m.requeue(t, drawDevice(rt)) },
			"discard": func(rt *rapid.T) {
				if len(m.held) > 0 {
					m.discard(t, rapid.IntRange(0, len(m.held)-1).Draw(rt, "which"))
				}
			},
			"ack":   func(rt *rapid.T) { m.ack(t, drawSequence(rt)) },
			"renew": func(*rapid.T) { m.renew(t) },
			"reopen": func(rt *rapid.T) {
				checkAndClose(t, m.db)
				if rapid.Bool().Draw(rt, "compact") {
					_, _, err := store.Compact(cfg.Dir)
					noErr(t, err)
				}
				noErr(t, store.CheckFile(t.Context(), cfg.Dir))
				m.db, err = store.Open(cfg)
				noErr(t, err)
			},
			"": func(rt *rapid.T) { m.compare(t, rt) },
		})
		checkAndClose(t, m.db)
	})
}

func (m *laneModel) parked(device int) bool {
	return slices.ContainsFunc(m.held, func(r toldRecord) bool { return r.device == device })
}

func (m *laneModel) tell(t *testing.T, device int) {
	m.told++
	text := fmt.Sprint("name ", m.told)
	rename(t, m.db, device, text)
	m.append(toldRecord{device: device, text: `{"name":"` + text + `"}`})
}

func (m *laneModel) append(r toldRecord) {
	m.last++
	r.sequence, r.epoch, r.place = m.last, m.epoch, m.base+m.last
	if m.parked(r.device) {
		m.held = append(m.held, r)
	} else {
		m.pending = append(m.pending, r)
	}
}

func (m *laneModel) park(t *testing.T, sequence uint64) {
	err := m.db.Park(t.Context(), at(m.db, edgeclaim.LaneProv, sequence), "why")
	same := func(r toldRecord) bool { return r.place == m.base+sequence }
	i := slices.IndexFunc(m.pending, same)
	switch {
	case i >= 0:
		noErr(t, err)
	case sequence > 0 && slices.ContainsFunc(m.held, same):
		noErr(t, err)
		return
	default:
		wantErr(t, err, edgeclaim.ErrNotFound)
		return
	}
	device := m.pending[i].device
	m.pending = slices.DeleteFunc(m.pending, func(r toldRecord) bool {
		if r.device != device || r.sequence < sequence {
			return false
		}
		m.held = append(m.held, r)
		return true
	})
	slices.SortFunc(m.held, func(a, b toldRecord) int { return int(a.place) - int(b.place) })
}

func (m *laneModel) requeue(t *testing.T, device int) {
	n, err := m.db.Requeue(t.Context(), deviceID(t, device))
	if !m.parked(device) {
		wantErr(t, err, edgeclaim.ErrNotFound)
		return
	}
	noErr(t, err)
	var again []toldRecord
	m.held = slices.DeleteFunc(m.held, func(r toldRecord) bool {
		if r.device == device {
			again = append(again, r)
		}
		return r.device == device
	})
	equal(t, "requeued", n, len(again))
	for _, r := range again {
		m.append(r)
	}
}

func (m *laneModel) discard(t *testing.T, i int) {
	noErr(t, m.db.Discard(t.Context(), quarantine(t, m.db)[i].ID))
	r := m.held[i]
	m.held = slices.Delete(m.held, i, i+1)
	m.gaps = append(m.gaps, gapData{"prov", r.sequence, r.sequence, 1, "discarded", r.epoch})
}

func (m *laneModel) ack(t *testing.T, upto uint64) {
	foreign := at(m.db, edgeclaim.LaneProv, upto)
	if foreign.Epoch = m.previous; m.previous == "" {
		foreign.Epoch = "none"
	}
	wantErr(t, m.db.Ack(t.Context(), foreign), edgeclaim.ErrConflict)
	err := m.db.Ack(t.Context(), at(m.db, edgeclaim.LaneProv, upto))
	if upto > m.last {
		wantErr(t, err, edgeclaim.ErrInvalid)
		return
	}
	noErr(t, err)
	m.pending = slices.DeleteFunc(m.pending, func(r toldRecord) bool { return r.sequence <= upto })
	m.front = max(m.front, upto+1)
}

func (m *laneModel) renew(t *testing.T) {
	epoch, err := m.db.Renew(t.Context())
	noErr(t, err)
	m.previous, m.epoch = m.epoch, epoch
	forgotten := m.last
	if len(m.pending) > 0 {
		forgotten = m.pending[0].sequence - 1
	}
	m.base, m.last, m.front = m.base+forgotten, m.last-forgotten, 1
	for i := range m.pending {
		m.pending[i].sequence -= forgotten
		m.pending[i].epoch = epoch
	}
}

func (m *laneModel) compare(t *testing.T, rt *rapid.T) {
	records := pending(t, m.db, edgeclaim.LaneProv)
	held := quarantine(t, m.db)
	if len(records) != len(m.pending) || len(held) != len(m.held) {
		rt.Fatalf("%d pending and %d quarantined, want %d and %d", len(records), len(held), len(m.pending), len(m.held))
	}
	for i, r := range records {
		want := m.pending[i]
		if r.Sequence != want.sequence || r.Device != deviceID(t, want.device) || string(r.Data) != want.text {
			rt.Fatalf("pending %+v, want %+v", r, want)
		}
	}
	for i, q := range held {
		want := m.held[i]
		r, _, err := m.db.QuarantinedRecord(t.Context(), q.ID)
		noErr(t, err)
		if q.Sequence != want.sequence || q.Epoch != want.epoch || q.Device != deviceID(t, want.device) || string(r.Data) != want.text {
			rt.Fatalf("quarantined %+v, %s, want %+v", q, r.Data, want)
		}
	}
	if got := gaps(t, m.db); !slices.Equal(got, m.gaps) {
		rt.Fatalf("gaps %+v, want %+v", got, m.gaps)
	}
	s := stats(t, m.db, edgeclaim.LaneProv)
	if s.Appended != m.last || s.Quarantined != uint64(len(held)) || s.Dropped != 0 {
		rt.Fatalf("stats %+v, want %d appended, %d quarantined", s, m.last, len(held))
	}
	epoch, previous, marks, err := m.db.Marks(t.Context())
	noErr(t, err)
	if want := (edgeclaim.LaneMarks{First: m.front, Appended: m.last}); epoch != m.epoch || previous != m.previous || marks["prov"] != want {
		rt.Fatalf("marks %+v of %s after %s, want %+v of %s after %s", marks["prov"], epoch, previous, want, m.epoch, m.previous)
	}
}

// ledger counts what became of the event lane's records.
type ledger struct {
	db        *store.DB
	made      uint64 // records ever put in the lane, gap records included
	acked     uint64
	ackedTold uint64 // what the acked gap records told of

}

// TestEventLedger: whatever is done with a small event lane, each record that
// was ever in it is pending, in quarantine, acknowledged, or counted by exactly
// one gap record that is (P7).
func TestEventLedger(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := config(t)
		cfg.EvtMaxRecords = 24
		db, err := store.Open(cfg)
		noErr(t, err)
		l := &ledger{db: db}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				l.do(t, func() uint64 {
					for n := range rapid.IntRange(1, 30).Draw(rt, "records") {
						noErr(t, l.db.Append(t.Context(), about(t, rapid.IntRange(0, 4).Draw(rt, "device"), n)))
					}
					return 0
				})
			},
			"park": func(rt *rapid.T) {
				if all := sequences(t, l.db, evt); len(all) > 0 {
					which := rapid.SampledFrom(all).Draw(rt, "which")
					l.do(t, func() uint64 { noErr(t, l.db.Park(t.Context(), at(l.db, evt, which), "")); return 0 })
				}
			},
			"requeue": func(rt *rapid.T) {
				if all := quarantine(t, l.db); len(all) > 0 {
					l.do(t, func() uint64 { return l.requeue(t, rapid.SampledFrom(all).Draw(rt, "which")) })
				}
			},
			"discard": func(rt *rapid.T) {
				if all := quarantine(t, l.db); len(all) > 0 {
					which := rapid.SampledFrom(all).Draw(rt, "which")
					l.do(t, func() uint64 { noErr(t, l.db.Discard(t.Context(), which.ID)); return 0 })
				}
			},
			"ack": func(rt *rapid.T) {
				upto := rapid.Uint64Range(0, stats(t, l.db, evt).Appended).Draw(rt, "upto")
				l.ack(t, upto)
			},
			"renew": func(*rapid.T) {
				_, err := l.db.Renew(t.Context())
				noErr(t, err)
			},
			"reopen": func(*rapid.T) {
				checkAndClose(t, l.db)
				l.db, err = store.Open(cfg)
				noErr(t, err)
			},
			"": func(rt *rapid.T) { l.compare(t, rt, cfg.EvtMaxRecords) },
		})
		checkAndClose(t, l.db)
	})
}

// do counts what an operation appends, but for what it appends again.
func (l *ledger) do(t *testing.T, operate func() (again uint64)) {
	before := stats(t, l.db, evt).Appended
	again := operate()
	l.made += stats(t, l.db, evt).Appended - before - again
}

func (l *ledger) requeue(t *testing.T, q edgeclaim.Quarantined) uint64 {
	if q.Device.IsZero() {
		noErr(t, l.db.RequeueRecord(t.Context(), q.ID))
		return 1
	}
	n, err := l.db.Requeue(t.Context(), q.Device)
	noErr(t, err)
	return uint64(n)
}

func (l *ledger) ack(t *testing.T, upto uint64) {
	for _, r := range pending(t, l.db, evt) {
		if r.Sequence <= upto {
			l.acked++
			l.ackedTold += tells(t, r)
		}
	}
	noErr(t, l.db.Ack(t.Context(), at(l.db, evt, upto)))
}

// tells is how many records a gap record tells of.
func tells(t *testing.T, r edgeclaim.Record) uint64 {
	t.Helper()
	if r.Type != edgeclaim.TypeGap {
		return 0
	}
	var g gapData
	noErr(t, json.Unmarshal(r.Data, &g))
	if g.Lane != "evt" || g.From == 0 || g.From > g.To || g.Count == 0 || g.Epoch == "" {
		t.Errorf("gap %+v", g)
	}
	return g.Count
}

func (l *ledger) compare(t *testing.T, rt *rapid.T, quota uint64) {
	live, told := l.acked, l.ackedTold
	for _, r := range pending(t, l.db, evt) {
		live++
		told += tells(t, r)
	}
	for _, q := range quarantine(t, l.db) {
		r, _, err := l.db.QuarantinedRecord(t.Context(), q.ID)
		noErr(t, err)
		live++
		told += tells(t, r)
	}
	if live+told != l.made {
		rt.Fatalf("%d are somewhere, %d are told as lost, of %d", live, told, l.made)
	}
	if s := stats(t, l.db, evt); s.Pending+s.Quarantined > quota || s.Quarantined > quota/4 {
		rt.Fatalf("above the quota of %d: %+v", quota, s)
	}
}
