package registry

import (
	"cmp"
	"context"
	"database/sql"
	"math"
	"slices"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// stateKey is whose word it is, and on whom.
type stateKey struct {
	device edgeclaim.DeviceID
	box    int64
}

// deviceState is a row of states that is to be written.
type deviceState struct {
	online      bool
	since, seen int64
	// newest is the newest telemetry, of epoch and sequence; nil for none.
	newest          []byte
	epoch, sequence int64
}

// states applies what a box says of its devices at work. It keeps the last word
// of each, and knows by the session's nonce and Upto what it has applied: a
// message that the network brings late or twice changes nothing (P8).
func (a *applier) states(ctx context.Context, n wire.Names, m *wire.States) (Result, error) {
	b, refused, err := a.admit(ctx, m.Box, m.Epoch)
	if refused != nil || err != nil {
		return Result{Refused: refused}, err
	}
	upto := int64(min(m.Upto, math.MaxInt64))
	r := Result{State: &m.Upto}
	if b.stateNonce == m.Nonce && upto <= b.stateUpto {
		return r, nil
	}
	b.stateNonce, b.stateUpto, b.isDirty = m.Nonce, upto, true
	if m.Reset {
		if err := a.allOffline(ctx, b); err != nil {
			return Result{}, err
		}
	}
	for i := range m.Devices {
		d := &m.Devices[i]
		if !a.serves(d.Tenant) {
			r.Skipped++
			continue
		}
		a.state(n, b, d)
		r.Applied++
	}
	return r, nil
}

// state notes one device's state, to be written with the others.
func (a *applier) state(n wire.Names, b *box, d *wire.DeviceState) {
	key := stateKey{d.Device, b.number}
	row := deviceState{online: d.Presence == edgeclaim.PresenceOnline, since: micros(d.Since), seen: micros(d.Seen)}
	if before, ok := a.present[key]; ok {
		row.newest, row.epoch, row.sequence = before.newest, before.epoch, before.sequence
	}
	if sequence := newestOf(n, b, d); sequence > row.sequence {
		row.newest, row.epoch, row.sequence = d.Telemetry, b.epoch, sequence
	}
	a.present[key] = row
}

// newestOf is the sequence of the telemetry that a state carries; 0 for none,
// or one that is not the device's. It is only a hint ahead of its lane, which
// is where a fault in it is answered.
func newestOf(n wire.Names, b *box, d *wire.DeviceState) int64 {
	if d.Telemetry == nil {
		return 0
	}
	e, err := wire.DecodeEvent(d.Telemetry)
	if err != nil || e.Epoch != b.epochName || e.Lane != edgeclaim.LaneTel || e.Source != n.Source() || e.Subject != d.Device.String() {
		return 0
	}
	sequence, err := e.Number()
	if err != nil || sequence > maxSequence {
		return 0
	}
	return int64(sequence)
}

// allOffline begins a session's states: whoever is not told again is offline.
func (a *applier) allOffline(ctx context.Context, b *box) error {
	if err := a.flushStates(ctx); err != nil {
		return err
	}
	return a.run(ctx, `UPDATE states SET online = 0, since = ? WHERE box = ? AND online = 1`, a.now, b.number)
}

const stateColumns = 8

func insertStates() bulk {
	const newer = `WHEN excluded.newest IS NOT NULL AND (excluded.newest_epoch > states.newest_epoch OR
		excluded.newest_epoch = states.newest_epoch AND excluded.newest_sequence > states.newest_sequence) THEN excluded.`
	return bulk{
		head:    `INTO states (device, box, online, since, seen, newest_epoch, newest_sequence, newest) VALUES `,
		columns: stateColumns,
		tail: ` ON CONFLICT (device, box) DO UPDATE SET online = excluded.online, since = excluded.since, seen = excluded.seen,
			newest = CASE ` + newer + `newest ELSE states.newest END,
			newest_sequence = CASE ` + newer + `newest_sequence ELSE states.newest_sequence END,
			newest_epoch = CASE ` + newer + `newest_epoch ELSE states.newest_epoch END`,
	}
}

// flushStates writes the states noted so far, in the order of the devices.
func (a *applier) flushStates(ctx context.Context) error {
	if len(a.present) == 0 {
		return nil
	}
	keys := make([]stateKey, 0, len(a.present))
	for key := range a.present {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(x, y stateKey) int {
		return cmp.Or(slices.Compare(x.device.Bytes(), y.device.Bytes()), cmp.Compare(x.box, y.box))
	})
	args := make([]any, 0, len(keys)*stateColumns)
	for _, key := range keys {
		row := a.present[key]
		var newest any
		if row.newest != nil {
			newest = row.newest
		}
		args = append(args, key.device.Bytes(), key.box, flag(row.online), row.since, row.seen, row.epoch, row.sequence, newest)
	}
	clear(a.present)
	return a.insert(ctx, insertStates(), args)
}

// shownState is a state as a query finds it, or none.
type shownState struct {
	boxOnline   bool
	online      sql.NullBool // no value: the box said nothing of the device
	since, seen int64
	newest      []byte
}

// into adds the state to what is shown of a holding.
func (s *shownState) into(h *Holding) {
	h.BoxOnline = s.boxOnline
	if !s.online.Valid {
		return
	}
	h.Presence = edgeclaim.PresenceOffline
	if s.online.Bool {
		h.Presence = edgeclaim.PresenceOnline
	}
	h.Since, h.Seen, h.Newest = fromMicros(s.since), fromMicros(s.seen), s.newest
}
