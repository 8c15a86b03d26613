package store

import (
	"context"
	"encoding/json"
	"fmt"

	"edgeclaim"
)

// gapTooLarge is the reason of a gap in the place of an event that no record
// holds.
const gapTooLarge = "too_large"

// TakeEvents puts devices' events in the event lane, in their order, and notes
// that they are taken up to and with that place of where they lay before, in one
// transaction; nil means that this is durable. What was taken already, upto or
// less, changes nothing, so that each goes in once (P8). A full lane drops its
// oldest, as with Append (P7). One that is larger than MaxRecord is told as a
// gap, rather than hold up those behind it for ever.
func (db *DB) TakeEvents(ctx context.Context, upto uint64, records []edgeclaim.Record) error {
	if len(records) > MaxChange {
		return edgeclaim.Invalid("events", "want at most %d", MaxChange)
	}
	return db.update(ctx, func(b *batch) error {
		if upto <= b.state.Events {
			return nil
		}
		values := make([][]byte, len(records))
		for i := range records {
			var err error
			if values[i], err = b.admitEvent(&records[i]); err != nil {
				return err
			}
		}
		for i, value := range values {
			if err := b.append(edgeclaim.LaneEvt, records[i].Device, value); err != nil {
				return halfDone(err)
			}
		}
		b.dirty = true
		b.state.Events = upto
		return nil
	})
}

// admitEvent encodes an event, or the gap record that stands for one that is too
// large.
func (b *batch) admitEvent(r *edgeclaim.Record) ([]byte, error) {
	if r.Lane != "" && r.Lane != edgeclaim.LaneEvt {
		return nil, fmt.Errorf("record for lane %s among the events: %w", r.Lane, edgeclaim.ErrInvalid)
	}
	value, err := encodeRecord(r)
	if err != nil || len(value) <= MaxRecord {
		return value, err
	}
	data, err := json.Marshal(&gap{Lane: edgeclaim.LaneEvt, Count: 1, Reason: gapTooLarge, Epoch: b.epoch})
	if err != nil {
		return nil, err
	}
	b.db.cfg.Logger.Warn("an event is too large for a record and is told as a gap", "device_id", r.Device, "bytes", len(value))
	return encodeRecord(&edgeclaim.Record{Type: edgeclaim.TypeGap, Device: r.Device, Stamp: r.Stamp, Data: data})
}

// EventsTaken returns up to and with which place TakeEvents has taken events; 0
// for none.
func (db *DB) EventsTaken(ctx context.Context) (upto uint64, err error) {
	if err := db.readable(ctx); err != nil {
		return 0, err
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.state.Events, nil
}

// EventRoom returns how many events may be taken until the event lane is half
// full, so that devices never push out what the box itself has to tell.
func (db *DB) EventRoom(ctx context.Context) (records int, err error) {
	if err := db.readable(ctx); err != nil {
		return 0, err
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	evt := &db.state.Evt
	half, halfBytes := db.cfg.EvtMaxRecords/2, db.cfg.EvtMaxBytes/2
	held, heldBytes := evt.pending()+evt.Held, evt.Bytes+evt.HeldBytes
	if held >= half || heldBytes >= halfBytes {
		return 0, nil
	}
	return int(min(half-held, (halfBytes-heldBytes+MaxRecord-1)/MaxRecord)), nil
}
