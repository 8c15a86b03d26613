package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

const (
	// ackChunk is how many records one transaction forgets at most, so that
	// claims never wait behind a large deletion.
	ackChunk = 512
)

// Append puts one record in the event lane, dropping the oldest when it is
// full (P7); nil means that it is durable. ErrInvalid: it is larger than
// MaxRecord, or meant for another lane.
func (db *DB) Append(ctx context.Context, r edgeclaim.Record) error {
	return db.update(ctx, func(b *batch) error {
		value, err := b.admit(edgeclaim.LaneEvt, &r)
		if err != nil {
			return err
		}
		return halfDone(b.append(edgeclaim.LaneEvt, r.Device, value))
	})
}

// admit encodes a record and makes sure that there is, or can be made, room
// for it. It changes nothing.
func (b *batch) admit(lane edgeclaim.Lane, r *edgeclaim.Record) ([]byte, error) {
	return b.admitBeside(lane, r, 0, 0)
}

// admitBeside is admit beside so many records of so many bytes that were
// admitted and are not in the lane yet.
func (b *batch) admitBeside(lane edgeclaim.Lane, r *edgeclaim.Record, records, bytes uint64) ([]byte, error) {
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
	records, bytes = records+1, bytes+uint64(len(value))
	if lane == edgeclaim.LaneProv && b.full(lane, records, bytes) && !b.spared(r, records, bytes) {
		return nil, fmt.Errorf("provisioning lane is full: %w", edgeclaim.ErrUnavailable)
	}
	return value, nil
}

// full reports whether so much more would not fit. What is in quarantine counts
// too: it comes back one day.
func (b *batch) full(lane edgeclaim.Lane, records, bytes uint64) bool {
	s := b.state.lane(lane)
	return s.pending()+s.Held+records > b.db.cfg.maxRecords(lane) || s.Bytes+s.HeldBytes+bytes > b.db.cfg.maxLaneBytes(lane)
}

// spareShare is which part of the provisioning lane's limits there is beyond
// them, for what takes a credential away: whoever has a good key can fill the
// lane with claims, and is not to keep an operator from revoking them.
const spareShare = 16

// spared reports whether a record may go beyond the limits, and has room there.
func (b *batch) spared(r *edgeclaim.Record, records, bytes uint64) bool {
	switch r.Type {
	case edgeclaim.TypeCredentialRevoked, edgeclaim.TypeDeviceReleased, edgeclaim.TypeDeviceSwapped,
		edgeclaim.TypeDeviceConflict:
		s, cfg := &b.state.Prov, &b.db.cfg
		return s.pending()+s.Held+records <= cfg.ProvMaxRecords+cfg.ProvMaxRecords/spareShare &&
			s.Bytes+s.HeldBytes+bytes <= cfg.ProvMaxBytes+cfg.ProvMaxBytes/spareShare
	default:
		return false
	}
}

// append puts an admitted record at the end of its lane, or, where the device's
// earlier ones are in quarantine, behind them: its sequence is then a hole.
func (b *batch) append(lane edgeclaim.Lane, device edgeclaim.DeviceID, value []byte) error {
	if lane == edgeclaim.LaneEvt && b.full(lane, 1, uint64(len(value))) {
		gaps, err := b.makeRoom(lane, uint64(len(value)))
		if err != nil {
			return err
		}
		for _, g := range gaps {
			if err := b.push(lane, g); err != nil {
				return err
			}
		}
	}
	if !b.parked(lane, device) {
		return b.push(lane, value)
	}
	s := b.state.lane(lane)
	s.Appended++
	return b.park(lane, s.place(s.Appended), value, device, "")
}

func (b *batch) push(lane edgeclaim.Lane, value []byte) error {
	s := b.state.lane(lane)
	b.dirty, b.appended = true, true
	s.Appended++
	s.Bytes += uint64(len(value))
	return b.ascending(laneBucket(lane)).Put(number(s.place(s.Appended)), value)
}

// take removes the record at a place from its lane and returns it. The caller
// counts it as acked, dropped or parked.
func (b *batch) take(lane edgeclaim.Lane, place uint64) ([]byte, error) {
	s := b.state.lane(lane)
	bucket, key := b.tx.Bucket(laneBucket(lane)), number(place)
	value := slices.Clone(bucket.Get(key))
	if value == nil {
		return nil, damaged("outbox", nil)
	}
	b.dirty = true
	s.Bytes -= min(s.Bytes, uint64(len(value)))
	return value, bucket.Delete(key)
}

// oldest returns the places of up to n records at the front of a lane, none
// after the sequence upto. A record that is missing where none was parked is
// damage.
func (b *batch) oldest(lane edgeclaim.Lane, n int, upto uint64) ([]uint64, error) {
	s := b.state.lane(lane)
	front, end := s.place(s.Front), s.place(upto)
	var places []uint64
	cursor := b.tx.Bucket(laneBucket(lane)).Cursor()
	for k, _ := cursor.Seek(number(front)); k != nil && len(places) < n; k, _ = cursor.Next() {
		place, err := parseNumber(k)
		if err != nil {
			return nil, err
		}
		if place > end {
			break
		}
		places = append(places, place)
	}
	if len(places) == n {
		end = places[n-1]
	}
	if end+1-front-uint64(len(places)) > s.holes() {
		return nil, damaged("outbox", nil)
	}
	return places, nil
}

// Epoch returns the name of this life of the outbox, 26 characters of A-Z and
// 2-7. Sequences start again at 1 with a new epoch.
func (db *DB) Epoch() string {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.epoch
}

// Appended signals, some time after records were committed, or a new epoch was,
// that there is something to tell. It has room for one signal, and one consumer.
func (db *DB) Appended() <-chan struct{} { return db.appended }

// Marks returns the present epoch, the one whose place it took, "" when there
// was none or nobody knows, and where the box stands in each lane.
func (db *DB) Marks(ctx context.Context) (epoch, previous string, marks map[edgeclaim.Lane]edgeclaim.LaneMarks, err error) {
	marks = make(map[edgeclaim.Lane]edgeclaim.LaneMarks)
	err = db.view(ctx, func(tx *bolt.Tx) error {
		s, err := readState(tx) // not db.state: that may be newer than tx
		if err != nil {
			return err
		}
		meta := tx.Bucket(bucketMeta)
		epoch, previous = string(meta.Get(metaEpoch)), string(meta.Get(metaBefore))
		for _, lane := range lanes() {
			l := s.lane(lane)
			marks[lane] = edgeclaim.LaneMarks{
				First: l.Front, Appended: l.Appended,
				Check: edgeclaim.Check{Sequence: l.CheckAt, Hash: l.CheckHash},
			}
		}
		return nil
	})
	return epoch, previous, marks, err
}

// Renew begins a new epoch and returns its name; nil means that this is
// durable. What is pending gets sequences from 1, in the same order, holes where
// records were parked included; nothing is copied, so that the backlog does not
// matter. The marks and counters of the lanes begin anew, the quarantine stays.
func (db *DB) Renew(ctx context.Context) (string, error) {
	epoch := rand.Text()
	err := db.updateSettled(ctx, func(b *batch) error { return b.renew(epoch) })
	if err != nil {
		return "", err
	}
	return epoch, nil
}

func (b *batch) renew(epoch string) error {
	for _, lane := range lanes() {
		s := b.state.lane(lane)
		places, err := b.oldest(lane, 1, s.Appended)
		if err != nil {
			return err
		}
		end := s.place(s.Appended)
		base := end // nothing is pending: trailing holes are of no use to anybody
		if len(places) > 0 {
			base = places[0] - 1
		}
		pending := s.pending()
		*s = laneState{
			Base: base, Front: 1, Appended: end - base, Parked: end - base - pending,
			Bytes: s.Bytes, Held: s.Held, HeldBytes: s.HeldBytes,
		}
	}
	b.dirty, b.appended = true, true
	meta := b.tx.Bucket(bucketMeta)
	if err := errors.Join(meta.Put(metaBefore, []byte(b.epoch)), meta.Put(metaEpoch, []byte(epoch))); err != nil {
		return halfDone(err)
	}
	b.epoch = epoch
	return nil
}

// Next returns up to maximum pending records of after's lane, oldest first,
// those with a sequence above after.Upto, and removes none. A sequence that is
// left out will never come. ErrConflict: after.Epoch is not the present one.
func (db *DB) Next(ctx context.Context, after edgeclaim.Mark, maximum int) ([]edgeclaim.Record, error) {
	lane := after.Lane
	if err := knownLane(lane); err != nil {
		return nil, err
	}
	var records []edgeclaim.Record
	err := db.viewSettled(ctx, func(tx *bolt.Tx, s *state) error {
		if err := sameEpoch(after.Epoch, string(tx.Bucket(bucketMeta).Get(metaEpoch))); err != nil {
			return err
		}
		l := s.lane(lane)
		if after.Upto >= l.Appended {
			return nil
		}
		cursor := tx.Bucket(laneBucket(lane)).Cursor()
		for k, v := cursor.Seek(number(l.place(after.Upto + 1))); k != nil && len(records) < maximum; k, v = cursor.Next() {
			place, err := parseNumber(k)
			if err != nil {
				return err
			}
			if place <= l.Base {
				return damaged("outbox", nil)
			}
			r, err := decodeRecord(lane, place-l.Base, v)
			if err != nil {
				r = db.unreadable(lane, place-l.Base, err)
			}
			records = append(records, r)
		}
		return nil
	})
	return records, err
}

func sameEpoch(asked, present string) error {
	if asked != present {
		return fmt.Errorf("epoch: %w", edgeclaim.ErrConflict)
	}
	return nil
}

// fullMarks are the shares of the provisioning lane, in percent, at which the
// log warns that claims will be refused when it is full (P6).
var fullMarks = [...]uint64{50, 80, 95}

// warnFull warns once for each mark that the lane has risen above. The leader
// calls it.
func (db *DB) warnFull() {
	s := db.state.lane(edgeclaim.LaneProv)
	share := max(100*(s.pending()+s.Held)/db.cfg.ProvMaxRecords, 100*(s.Bytes+s.HeldBytes)/db.cfg.ProvMaxBytes)
	passed := 0
	for _, mark := range fullMarks {
		if share >= mark {
			passed++
		}
	}
	if passed > db.warned {
		db.cfg.Logger.Warn("provisioning lane is filling up; full, claims are refused",
			"percent", share, "pending", s.pending(), "quarantined", s.Held, "bytes", s.Bytes+s.HeldBytes)
	}
	db.warned = passed
}

// Ack forgets all records of a lane up to and with upto.Upto, and keeps
// upto.Check, when it is not zero, as that of the lane; nil means that this is
// durable. It may be repeated, and upto may be long forgotten. ErrConflict: of
// another epoch. ErrInvalid: never appended, or a check of what is above.
// ErrUnavailable: try later; a part may be forgotten.
func (db *DB) Ack(ctx context.Context, upto edgeclaim.Mark) error {
	if err := knownLane(upto.Lane); err != nil {
		return err
	}
	for done := false; !done; {
		err := db.updateSettled(ctx, func(b *batch) (err error) {
			done, err = b.ack(upto)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) ack(upto edgeclaim.Mark) (done bool, err error) {
	if err := sameEpoch(upto.Epoch, b.epoch); err != nil {
		return false, err
	}
	s := b.state.lane(upto.Lane)
	if upto.Upto > s.Appended || upto.Check.Sequence > upto.Upto {
		return false, fmt.Errorf("ack %d of lane %s, which ends at %d: %w", upto.Upto, upto.Lane, s.Appended, edgeclaim.ErrInvalid)
	}
	if upto.Upto >= s.Front {
		places, err := b.oldest(upto.Lane, ackChunk, upto.Upto)
		if err != nil {
			return false, halfDone(err)
		}
		for _, place := range places {
			if _, err := b.take(upto.Lane, place); err != nil {
				return false, halfDone(err)
			}
		}
		b.dirty = true
		s.Acked += uint64(len(places))
		if len(places) == ackChunk {
			s.Front = places[ackChunk-1] - s.Base + 1
		} else {
			s.Front = upto.Upto + 1
		}
		if s.Front <= upto.Upto {
			return false, nil
		}
	}
	if upto.Check.Sequence > s.CheckAt {
		s.CheckAt, s.CheckHash = upto.Check.Sequence, upto.Check.Hash
		b.dirty = true
	}
	return true, nil
}

func knownLane(lane edgeclaim.Lane) error {
	for _, known := range lanes() {
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
		for _, lane := range lanes() {
			l := s.lane(lane)
			stat := edgeclaim.LaneStats{
				Pending: l.pending(), Bytes: l.Bytes,
				Appended: l.Appended, Acked: l.Acked, Dropped: l.Dropped,
				Parked: l.Parked, Quarantined: l.Held,
			}
			if k, v := tx.Bucket(laneBucket(lane)).Cursor().First(); k != nil {
				// One that cannot be read has no age; Next tells it as a gap.
				if r, err := decodeRecord(lane, 0, v); err == nil {
					stat.OldestAge = age(now, r.Stamp)
				}
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
