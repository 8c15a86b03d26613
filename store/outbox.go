package store

import (
	"context"
	"encoding/json"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

const (
	// ackChunk is how many records one transaction forgets at most, so that
	// claims never wait behind a large deletion.
	ackChunk = 512
	// dropShare of a full event lane goes at once, oldest first, so that a
	// lane that stays full leaves one gap record for many, not one for each;
	// but no more than dropChunk, for the sake of those who wait.
	dropShare = 16
	dropChunk = 1024
	// gapRoom is more than a gap record takes, in encoded bytes.
	gapRoom = 1024
)

// gap is the data of a gap record: count records between the sequences from
// and to are lost, those that earlier lost gap records told of included.
type gap struct {
	Lane   edgeclaim.Lane `json:"lane"`
	From   uint64         `json:"from"`
	To     uint64         `json:"to"`
	Count  uint64         `json:"count"`
	Reason string         `json:"reason"`
}

// Append puts one record in the event lane, dropping the oldest when it is
// full (P7); nil means that it is durable. ErrInvalid: it is larger than
// MaxRecord, or meant for another lane.
func (db *DB) Append(ctx context.Context, r edgeclaim.Record) error {
	return db.update(ctx, func(b *batch) error {
		value, err := b.admit(edgeclaim.LaneEvt, &r)
		if err != nil {
			return err
		}
		return halfDone(b.append(edgeclaim.LaneEvt, value))
	})
}

// admit encodes a record and makes sure that there is, or can be made, room
// for it. It changes nothing.
func (b *batch) admit(lane edgeclaim.Lane, r *edgeclaim.Record) ([]byte, error) {
	if r.Lane != "" && r.Lane != lane {
		return nil, fmt.Errorf("record for lane %s in lane %s: %w", r.Lane, lane, edgeclaim.ErrInvalid)
	}
	value, err := encodeRecord(r)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	if len(value) > MaxRecord {
		return nil, fmt.Errorf("record of %d bytes, at most %d: %w", len(value), MaxRecord, edgeclaim.ErrInvalid)
	}
	if lane == edgeclaim.LaneProv && b.full(lane, 1, uint64(len(value))) {
		return nil, fmt.Errorf("provisioning lane is full: %w", edgeclaim.ErrUnavailable)
	}
	return value, nil
}

func (b *batch) full(lane edgeclaim.Lane, records, bytes uint64) bool {
	s := b.state.lane(lane)
	return s.pending()+records > b.db.cfg.maxRecords(lane) || s.Bytes+bytes > b.db.cfg.maxLaneBytes(lane)
}

// append puts an admitted record at the end of its lane.
func (b *batch) append(lane edgeclaim.Lane, value []byte) error {
	if lane == edgeclaim.LaneEvt && b.full(lane, 1, uint64(len(value))) {
		gapRecord, err := b.makeRoom(lane, uint64(len(value)))
		if err != nil {
			return err
		}
		if err := b.push(lane, gapRecord); err != nil {
			return err
		}
	}
	return b.push(lane, value)
}

func (b *batch) push(lane edgeclaim.Lane, value []byte) error {
	s := b.state.lane(lane)
	b.dirty, b.appended = true, true
	s.Appended++
	s.Bytes += uint64(len(value))
	return b.ascending(laneBucket(lane)).Put(number(s.Appended), value)
}

// makeRoom drops the oldest records of a full lane, and returns the gap record
// that says so.
func (b *batch) makeRoom(lane edgeclaim.Lane, need uint64) ([]byte, error) {
	s := b.state.lane(lane)
	lost := gap{Lane: lane, From: s.front(), Reason: "quota"}
	count := func(seq uint64, value []byte) error { return lost.add(lane, seq, value) }
	chunk := max(1, min(s.pending()/dropShare, dropChunk))
	for dropped := uint64(0); dropped < chunk || b.full(lane, 2, need+gapRoom); dropped++ {
		if err := b.shift(lane, 1, count); err != nil {
			return nil, err
		}
		s.Dropped++
	}
	data, err := json.Marshal(&lost)
	if err != nil {
		return nil, err
	}
	return encodeRecord(&edgeclaim.Record{Type: edgeclaim.TypeGap, Stamp: b.db.cfg.Stamp(), Data: data})
}

// add counts a record that is being dropped. A gap record that nobody has
// heard passes its count on.
func (g *gap) add(lane edgeclaim.Lane, sequence uint64, value []byte) error {
	g.To = sequence
	g.Count++
	r, err := decodeRecord(lane, sequence, value)
	if err != nil {
		return err
	}
	if r.Type != edgeclaim.TypeGap {
		return nil
	}
	var earlier gap
	if err := json.Unmarshal(r.Data, &earlier); err != nil {
		return damaged("gap record", err)
	}
	g.From = min(g.From, earlier.From)
	g.Count += earlier.Count
	return nil
}

// shift deletes n records from the front of a lane, showing each to seen
// unless that is nil. The caller counts them as acked or dropped.
func (b *batch) shift(lane edgeclaim.Lane, n uint64, seen func(uint64, []byte) error) error {
	s := b.state.lane(lane)
	bucket := b.tx.Bucket(laneBucket(lane))
	first := s.front()
	b.dirty = b.dirty || n > 0
	for seq := first; seq < first+n; seq++ {
		key := number(seq)
		value := bucket.Get(key)
		if value == nil {
			return damaged("outbox", nil)
		}
		if seen != nil {
			if err := seen(seq, value); err != nil {
				return err
			}
		}
		s.Bytes -= min(s.Bytes, uint64(len(value)))
		if err := bucket.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// Epoch returns the name of this life of the outbox, 26 characters of A-Z and
// 2-7. Sequences start again at 1 with a new epoch.
func (db *DB) Epoch() string { return db.epoch }

// Appended signals, some time after records were committed, that there are
// some. It has room for one signal, and one consumer.
func (db *DB) Appended() <-chan struct{} { return db.appended }

// Next returns up to max pending records of a lane with a sequence above
// after, oldest first, and removes none.
func (db *DB) Next(ctx context.Context, lane edgeclaim.Lane, after uint64, maximum int) ([]edgeclaim.Record, error) {
	if err := knownLane(lane); err != nil {
		return nil, err
	}
	var records []edgeclaim.Record
	err := db.view(ctx, func(tx *bolt.Tx) error {
		cursor := tx.Bucket(laneBucket(lane)).Cursor()
		for k, v := cursor.Seek(number(after + 1)); k != nil && len(records) < maximum; k, v = cursor.Next() {
			sequence, err := parseNumber(k)
			if err != nil {
				return err
			}
			r, err := decodeRecord(lane, sequence, v)
			if err != nil {
				r = db.unreadable(lane, sequence, err)
			}
			records = append(records, r)
		}
		return nil
	})
	return records, err
}

// tellSetAside tells upstream that what the damaged registry had not sent is
// lost, however many records that were (P7). A box that cannot say so starts
// all the same.
func (db *DB) tellSetAside() {
	for _, lane := range edgeclaim.Lanes() {
		err := db.Append(context.Background(), edgeclaim.Record{
			Type: edgeclaim.TypeGap, Stamp: db.cfg.Stamp(), Data: fmt.Appendf(nil, `{"lane":%q,"reason":"registry_set_aside"}`, lane),
		})
		if err != nil {
			db.cfg.Logger.Error("upstream will not hear of the lost records", "lane", lane, "err", err)
		}
	}
}

// unreadable stands in for a record that cannot be read: a gap record under the
// same sequence, the same on every send. The lane goes on, and upstream hears
// what it has lost; failing here would stop both lanes for ever.
func (db *DB) unreadable(lane edgeclaim.Lane, sequence uint64, why error) edgeclaim.Record {
	db.cfg.Logger.Error("outbox record cannot be read and is told as a gap", "lane", lane, "sequence", sequence, "err", why)
	return edgeclaim.Record{
		Lane: lane, Sequence: sequence, Type: edgeclaim.TypeGap, Stamp: edgeclaim.Stamp{Clock: edgeclaim.ClockUnsynced},
		Data: fmt.Appendf(nil, `{"lane":%q,"from":%d,"to":%d,"count":1,"reason":"damaged"}`, lane, sequence, sequence),
	}
}

// fullMarks are the shares of the provisioning lane, in percent, at which the
// log warns that claims will be refused when it is full (P6).
var fullMarks = [...]uint64{50, 80, 95}

// warnFull warns once for each mark that the lane has risen above. The leader
// calls it.
func (db *DB) warnFull() {
	s := db.state.lane(edgeclaim.LaneProv)
	share := max(100*s.pending()/db.cfg.ProvMaxRecords, 100*s.Bytes/db.cfg.ProvMaxBytes)
	passed := 0
	for _, mark := range fullMarks {
		if share >= mark {
			passed++
		}
	}
	if passed > db.warned {
		db.cfg.Logger.Warn("provisioning lane is filling up; full, claims are refused",
			"percent", share, "pending", s.pending(), "bytes", s.Bytes)
	}
	db.warned = passed
}

// Ack forgets all records of a lane up to and with upto; nil means that this
// is durable. It may be repeated, and upto may be long forgotten. ErrInvalid:
// upto was never appended. ErrUnavailable: try later; a part may be forgotten.
func (db *DB) Ack(ctx context.Context, lane edgeclaim.Lane, upto uint64) error {
	if err := knownLane(lane); err != nil {
		return err
	}
	for done := false; !done; {
		err := db.update(ctx, func(b *batch) (err error) {
			done, err = b.ack(lane, upto)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) ack(lane edgeclaim.Lane, upto uint64) (done bool, err error) {
	s := b.state.lane(lane)
	if upto > s.Appended {
		return false, fmt.Errorf("ack %d of lane %s, which ends at %d: %w", upto, lane, s.Appended, edgeclaim.ErrInvalid)
	}
	if upto < s.front() {
		return true, nil
	}
	n := min(ackChunk, upto-s.front()+1)
	if err := b.shift(lane, n, nil); err != nil {
		return false, halfDone(err)
	}
	s.Acked += n
	return upto < s.front(), nil
}

func knownLane(lane edgeclaim.Lane) error {
	for _, known := range edgeclaim.Lanes() {
		if lane == known {
			return nil
		}
	}
	return fmt.Errorf("lane: %w", edgeclaim.ErrInvalid)
}

// LaneStats returns the state of all lanes, without reading the backlog.
func (db *DB) LaneStats(ctx context.Context) (map[edgeclaim.Lane]edgeclaim.LaneStats, error) {
	stats := make(map[edgeclaim.Lane]edgeclaim.LaneStats)
	now := db.cfg.Stamp()
	err := db.view(ctx, func(tx *bolt.Tx) error {
		s, err := readState(tx) // not db.state: that may be newer than tx
		if err != nil {
			return err
		}
		for _, lane := range edgeclaim.Lanes() {
			l := s.lane(lane)
			stat := edgeclaim.LaneStats{
				Pending: l.pending(), Bytes: l.Bytes,
				Appended: l.Appended, Acked: l.Acked, Dropped: l.Dropped,
			}
			if v := tx.Bucket(laneBucket(lane)).Get(number(l.front())); v != nil {
				r, err := decodeRecord(lane, l.front(), v)
				if err != nil {
					return err
				}
				stat.OldestAge = age(now, r.Stamp)
			}
			stats[lane] = stat
		}
		return nil
	})
	return stats, err
}

// age is how long ago then was, in seconds: by the monotonic clock within one
// boot, else by the wall clock, which may have been set meanwhile; never
// negative (P10).
func age(now, then edgeclaim.Stamp) float64 {
	passed := now.Time.Sub(then.Time)
	if now.Boot != "" && now.Boot == then.Boot {
		passed = now.Uptime - then.Uptime
	}
	return max(0, passed.Seconds())
}
