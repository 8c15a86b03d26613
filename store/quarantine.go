package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// MaxParkReason is the longest reason that is kept with a quarantined record,
// in bytes; a longer one is cut.
const MaxParkReason = 512

// parkedKey is where a lane's record lies in quarantine. The place it had is
// its key, so that those of a lane are in order of their sequences in all epochs.
func parkedKey(lane edgeclaim.Lane, place uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{laneTag(lane)}, place)
}

func parseParkedKey(key []byte) (edgeclaim.Lane, uint64, error) {
	if len(key) != 9 {
		return "", 0, damaged("quarantine", nil)
	}
	lane, err := laneOf(key[0])
	return lane, binary.BigEndian.Uint64(key[1:]), err
}

// parkedByKey is what all entries of a parked device begin with.
func parkedByKey(lane edgeclaim.Lane, device []byte) []byte {
	return append([]byte{laneTag(lane)}, device...)
}

// parked reports whether a lane's records of that device are in quarantine, so
// that later ones belong behind them. Where nothing is, it costs nothing.
func (b *batch) parked(lane edgeclaim.Lane, device edgeclaim.DeviceID) bool {
	if b.state.lane(lane).Held == 0 || device.IsZero() {
		return false
	}
	key := parkedByKey(lane, device.Bytes())
	found, _ := b.tx.Bucket(bucketParkedBy).Cursor().Seek(key)
	return bytes.HasPrefix(found, key)
}

// park puts a record in quarantine that has left its lane, or has a sequence
// and never came into it.
func (b *batch) park(lane edgeclaim.Lane, place uint64, record []byte, device edgeclaim.DeviceID, reason string) error {
	s := b.state.lane(lane)
	row := parkedRow{
		Record: record, Epoch: b.epoch, Sequence: place - s.Base,
		Reason: reason, ParkedAt: toInstant(b.db.cfg.Stamp().Time),
	}
	if !device.IsZero() {
		row.Device = device.Bytes()
	}
	value, err := cbor.Marshal(&row)
	if err != nil {
		return err
	}
	b.dirty = true
	s.Parked++
	s.Held++
	s.HeldBytes += uint64(len(record))
	if err := b.tx.Bucket(bucketParked).Put(parkedKey(lane, place), value); err != nil {
		return err
	}
	if row.Device != nil {
		key := binary.BigEndian.AppendUint64(parkedByKey(lane, row.Device), place)
		if err := b.tx.Bucket(bucketParkedBy).Put(key, key[:1]); err != nil {
			return err
		}
	}
	if !b.parkedTooMuch(lane) {
		return nil
	}
	var lost losses
	if err := b.trimParked(lane, &lost); err != nil {
		return err
	}
	return b.tellLosses(lost)
}

// unpark takes a record out of quarantine. With its last one there, a device is
// no longer parked.
func (b *batch) unpark(lane edgeclaim.Lane, place uint64, row *parkedRow) error {
	s := b.state.lane(lane)
	b.dirty = true
	s.Held -= min(s.Held, 1)
	s.HeldBytes -= min(s.HeldBytes, uint64(len(row.Record)))
	if err := b.tx.Bucket(bucketParked).Delete(parkedKey(lane, place)); err != nil {
		return err
	}
	if row.Device == nil {
		return nil
	}
	key := binary.BigEndian.AppendUint64(parkedByKey(lane, row.Device), place)
	return b.tx.Bucket(bucketParkedBy).Delete(key)
}

// parkedTooMuch reports whether more than its share of the event lane's quota
// is in quarantine: it would leave the lane no room. The provisioning lane is
// bounded by refusing claims, never by dropping (P6).
func (b *batch) parkedTooMuch(lane edgeclaim.Lane) bool {
	s := b.state.lane(lane)
	return lane == edgeclaim.LaneEvt && (s.Held > b.db.cfg.maxRecords(lane)/parkedShare ||
		s.HeldBytes > b.db.cfg.maxLaneBytes(lane)/parkedShare)
}

// trimParked discards the oldest of a lane's quarantine, some at once, so that
// one gap record tells of many.
func (b *batch) trimParked(lane edgeclaim.Lane, lost *losses) error {
	s := b.state.lane(lane)
	chunk := max(1, min(s.Held/dropShare, dropChunk))
	for dropped := uint64(0); dropped < chunk || b.parkedTooMuch(lane); dropped++ {
		key, value := b.tx.Bucket(bucketParked).Cursor().Seek([]byte{laneTag(lane)})
		if len(key) == 0 || key[0] != laneTag(lane) {
			return damaged("quarantine", nil)
		}
		_, place, row, err := decodeParked(key, value)
		if err != nil {
			return err
		}
		if err := b.unpark(lane, place, &row); err != nil {
			return err
		}
		lost.record(gap{Lane: lane, From: row.Sequence, Reason: gapQuarantine, Epoch: row.Epoch}, row.Record)
	}
	return nil
}

// decodeParked reads a row of the quarantine; it keeps nothing of value.
func decodeParked(key, value []byte) (lane edgeclaim.Lane, place uint64, row parkedRow, err error) {
	if lane, place, err = parseParkedKey(key); err != nil {
		return "", 0, row, err
	}
	if err := cbor.Unmarshal(value, &row); err != nil {
		return "", 0, parkedRow{}, damaged("quarantine", err)
	}
	return lane, place, row, nil
}

// epochLetters of the epoch in which it was parked end a quarantined record's
// ID: places begin anew when a registry is set aside, and an ID is for ever.
const epochLetters = 6

func parkedID(lane edgeclaim.Lane, place uint64, epoch string) string {
	return fmt.Sprintf("%s-%020d-%s", lane, place, epoch[:min(len(epoch), epochLetters)])
}

// parseParkedID reads what parkedID writes; ErrInvalid for all else.
func parseParkedID(id string) (lane edgeclaim.Lane, place uint64, err error) {
	parts := strings.Split(id, "-")
	if len(parts) == 3 && len(parts[1]) == 20 && knownLane(edgeclaim.Lane(parts[0])) == nil {
		if place, err := strconv.ParseUint(parts[1], 10, 64); err == nil {
			return edgeclaim.Lane(parts[0]), place, nil
		}
	}
	return "", 0, edgeclaim.Invalid("id", "want the id of a quarantined record")
}

// findParked reads a quarantined record by its ID.
func findParked(tx *bolt.Tx, id string) (lane edgeclaim.Lane, place uint64, row parkedRow, err error) {
	if lane, place, err = parseParkedID(id); err != nil {
		return "", 0, row, err
	}
	key := parkedKey(lane, place)
	value := tx.Bucket(bucketParked).Get(key)
	if value == nil {
		return "", 0, row, fmt.Errorf("quarantined record: %w", edgeclaim.ErrNotFound)
	}
	if lane, place, row, err = decodeParked(key, value); err == nil && parkedID(lane, place, row.Epoch) != id {
		err = fmt.Errorf("quarantined record: %w", edgeclaim.ErrNotFound)
	}
	return lane, place, row, err
}

// describe is a quarantined record as it is told to people, and the record.
func (db *DB) describe(lane edgeclaim.Lane, place uint64, row *parkedRow) (edgeclaim.Record, edgeclaim.Quarantined) {
	r, err := decodeRecord(lane, row.Sequence, row.Record)
	if err != nil {
		r = db.unreadable(lane, row.Sequence, err)
	}
	return r, edgeclaim.Quarantined{
		ID: parkedID(lane, place, row.Epoch), Lane: lane, Sequence: row.Sequence, Epoch: row.Epoch,
		Type: r.Type, Device: row.device(), Time: r.Time, Reason: row.Reason, ParkedAt: row.ParkedAt.time(),
	}
}

// Quarantine returns up to limit quarantined records in order of their IDs,
// those after the given one; "" means from the start, and one that has left is
// as good as any. ErrInvalid: not an ID.
func (db *DB) Quarantine(ctx context.Context, after string, limit int) ([]edgeclaim.Quarantined, error) {
	var start []byte
	if after != "" {
		lane, place, err := parseParkedID(after)
		if err != nil {
			return nil, err
		}
		start = parkedKey(lane, place)
	}
	var page []edgeclaim.Quarantined
	err := db.viewSettled(ctx, func(tx *bolt.Tx, _ *state) error {
		cursor := tx.Bucket(bucketParked).Cursor()
		k, v := cursor.Seek(start)
		if bytes.Equal(k, start) {
			k, v = cursor.Next()
		}
		for ; k != nil && len(page) < limit; k, v = cursor.Next() {
			lane, place, row, err := decodeParked(k, v)
			if err != nil {
				return err
			}
			_, q := db.describe(lane, place, &row)
			page = append(page, q)
		}
		return nil
	})
	return page, err
}

// QuarantinedRecord returns a quarantined record by its ID, with its data.
// ErrNotFound: it is not there, or no longer. ErrInvalid: not an ID.
func (db *DB) QuarantinedRecord(ctx context.Context, id string) (edgeclaim.Record, edgeclaim.Quarantined, error) {
	var record edgeclaim.Record
	var about edgeclaim.Quarantined
	err := db.view(ctx, func(tx *bolt.Tx) error {
		lane, place, row, err := findParked(tx, id)
		if err != nil {
			return err
		}
		record, about = db.describe(lane, place, &row)
		return nil
	})
	return record, about, err
}

// Discard throws away one quarantined record and tells upstream so by a gap
// record, in one transaction; nil means that this is durable. Those of its
// device behind it stay; with the last one, the device is no longer parked. What
// a discarded gap record told is told again beside its own loss. ErrNotFound,
// ErrInvalid as QuarantinedRecord.
func (db *DB) Discard(ctx context.Context, id string) error {
	return db.updateSettled(ctx, func(b *batch) error {
		lane, place, row, err := findParked(b.tx, id)
		if err != nil {
			return err
		}
		if err := b.unpark(lane, place, &row); err != nil {
			return halfDone(err)
		}
		var lost losses
		lost.record(gap{Lane: lane, From: row.Sequence, Reason: gapDiscarded, Epoch: row.Epoch}, row.Record)
		return halfDone(b.tellLosses(lost))
	})
}

// RequeueRecord appends a quarantined record that has no device anew, under a
// new sequence; nil means that this is durable. ErrConflict: it has a device,
// whose records go together, see Requeue. ErrNotFound, ErrInvalid as
// QuarantinedRecord.
func (db *DB) RequeueRecord(ctx context.Context, id string) error {
	return db.updateSettled(ctx, func(b *batch) error {
		lane, place, row, err := findParked(b.tx, id)
		if err != nil {
			return err
		}
		if row.Device != nil {
			return fmt.Errorf("record has a device: %w", edgeclaim.ErrConflict)
		}
		return halfDone(b.requeue(lane, place, &row))
	})
}

func (b *batch) requeue(lane edgeclaim.Lane, place uint64, row *parkedRow) error {
	if err := b.unpark(lane, place, row); err != nil {
		return err
	}
	return b.push(lane, row.Record)
}

// cutReason makes upstream's words fit to be kept: UTF-8, MaxParkReason bytes.
func cutReason(reason string) string {
	reason = strings.ToValidUTF8(reason, "?")
	if len(reason) <= MaxParkReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:MaxParkReason], "")
}

// device is whom a quarantined record is about, as it was when it was parked;
// zero for nobody.
func (row *parkedRow) device() edgeclaim.DeviceID {
	id, err := edgeclaim.DeviceIDFromBytes(row.Device)
	if err != nil {
		return edgeclaim.DeviceID{}
	}
	return id
}
