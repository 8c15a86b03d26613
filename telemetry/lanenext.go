package telemetry

import (
	"context"
	"fmt"
	"slices"

	"edgeclaim"
	"edgeclaim/internal/seglog"
)

// Next returns up to limit pending records with a sequence above after.Upto,
// oldest first, and removes none; fewer than there are, where these are large. A
// sequence that is left out will never come: the gap record behind it says why.
// ErrConflict: after is of another epoch.
func (l *Lane) Next(_ context.Context, after edgeclaim.Mark, limit int) ([]edgeclaim.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.knows(after); err != nil {
		return nil, err
	}
	if after.Upto >= l.log.Bounds().Last-l.own.Base {
		return nil, nil
	}
	entries, err := l.log.Read(l.own.Base+after.Upto, limit, readBytes)
	if err != nil {
		return nil, unavailable("read", err)
	}
	records := make([]edgeclaim.Record, 0, len(entries))
	for i := range entries {
		records = append(records, l.record(&entries[i]))
	}
	return records, nil
}

// record makes of an entry what is told upstream. With mu held.
func (l *Lane) record(from *seglog.Entry) edgeclaim.Record {
	if from.Lost > 0 {
		return l.lost(from)
	}
	e, err := parseEntry(from.Payload)
	if err != nil {
		return l.damaged(from.Place, 1)
	}
	if l.refuses(from.Place, e.device) {
		if at, known := slices.BinarySearch(l.parked, from.Place); !known && len(l.parked) < maxParked {
			l.parked = slices.Insert(l.parked, at, from.Place)
		}
		r := l.gap(from.Place, 1, gapRefused)
		r.Device, r.Stamp = e.device, e.stamp
		return r
	}
	r, err := telemetryRecord(&e)
	if err != nil {
		return l.damaged(from.Place, 1)
	}
	r.Sequence = from.Place - l.own.Base
	return r
}

// telemetryRecord is what upstream is told of a point, but for its sequence.
func telemetryRecord(e *entry) (edgeclaim.Record, error) {
	p := point{form: e.form, raw: e.payload}
	switch e.form {
	case formFlat:
	case formPlatform:
		if err := p.split(); err != nil {
			return edgeclaim.Record{}, err
		}
	default:
		return edgeclaim.Record{}, errEntry
	}
	return edgeclaim.Record{
		Lane: edgeclaim.LaneTel, Type: edgeclaim.TypeTelemetry, Device: e.device, Stamp: e.stamp,
		Data: p.data(e), Payload: e.payload,
	}, nil
}

// split finds again what stands in a point that was looked through before it
// was kept.
func (p *point) split() error {
	if _, _, ok := document(p.raw); !ok || p.raw[0] != '{' {
		return errEntry
	}
	for m := membersOf(p.raw); ; {
		name, val, ok := m.next()
		if !ok {
			return nil
		}
		switch string(unquote(name)) {
		case memberNumbers:
			p.numbers = val
		case memberTexts:
			p.texts = val
		case memberTime:
			when, f := parseTime(val)
			if f != nil {
				return f.err()
			}
			p.when = when
		}
	}
}

// lost tells of places that are no more. With mu held.
func (l *Lane) lost(from *seglog.Entry) edgeclaim.Record {
	if from.Damaged {
		return l.damaged(from.Place, from.Lost)
	}
	l.told = max(l.told, from.Place)
	r := l.gap(from.Place, from.Lost, gapQuota)
	r.Stamp = l.own.AckedAt.stamp()
	return r
}

// damaged tells of places that cannot be read. With mu held.
func (l *Lane) damaged(upto, count uint64) edgeclaim.Record {
	hole := stretch{upto - count, upto}
	if len(l.holes) < maxHoles && !slices.Contains(l.holes, hole) {
		l.logger.Error("telemetry cannot be read and is told as a gap",
			"sequence", upto-l.own.Base, "count", count)
		l.holes = append(l.holes, hole)
	}
	r := l.gap(upto, count, gapDamaged)
	r.Stamp = l.own.Began.stamp()
	return r
}

// gap tells of the count places up to and with upto. It says the same whenever
// it is told, as long as the log says the same of them (P8).
func (l *Lane) gap(upto, count uint64, why string) edgeclaim.Record {
	to := upto - l.own.Base
	return edgeclaim.Record{
		Lane: edgeclaim.LaneTel, Sequence: to, Type: edgeclaim.TypeGap,
		Data: fmt.Appendf(nil, `{"lane":%q,"from":%d,"to":%d,"count":%d,"reason":%q,"epoch":%q}`,
			edgeclaim.LaneTel, to-count+1, to, count, why, l.own.Epoch),
	}
}

// Ack forgets all up to and with upto; nil means that this is durable. It may be
// repeated. An ack into what the quota took changes nothing until the gap record
// that tells of it is acknowledged: this must stay what it was when it was told.
// ErrInvalid: upto was never appended. ErrConflict: of another epoch.
func (l *Lane) Ack(_ context.Context, upto edgeclaim.Mark) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.knows(upto); err != nil {
		return err
	}
	b := l.log.Bounds()
	place := l.own.Base + upto.Upto
	if upto.Upto > b.Last-l.own.Base || upto.Check.Sequence > upto.Upto {
		return fmt.Errorf("telemetry: ack %d of a lane that ends at %d: %w", upto.Upto, b.Last-l.own.Base, edgeclaim.ErrInvalid)
	}
	newer := upto.Check.Sequence > l.own.CheckAt
	if place < b.Lost || place <= b.Acked && !newer {
		return nil
	}
	next := l.own
	if newer {
		next.CheckAt, next.Check = upto.Check.Sequence, upto.Check.Hash
	}
	if place > b.Acked {
		l.account(&next, b, place)
		next.AckedAt = keepStamp(l.stamp())
	}
	place = max(place, b.Acked)
	if err := l.log.Ack(place, next.encode()); err != nil {
		return unavailable("ack", err)
	}
	l.own = next
	l.forget(place)
	return nil
}

// account counts what leaves when all up to place does. What the quota took had
// been sent before, where nobody was told of the loss in this run, for what is
// acknowledged was told. With mu held.
func (l *Lane) account(next *marks, b seglog.Bounds, place uint64) {
	leaving := place - b.Acked
	dropped := uint64(0)
	if upto := min(l.told, b.Lost, place); upto > b.Acked {
		dropped = upto - b.Acked
	}
	for _, hole := range l.holes {
		if hole.upto <= place && hole.after >= b.Acked {
			dropped += hole.upto - hole.after
		}
	}
	parked, _ := slices.BinarySearch(l.parked, place+1)
	dropped = min(dropped, leaving)
	refused := min(uint64(parked), leaving-dropped)
	next.Dropped += dropped
	next.Parked += refused
	next.Acked += leaving - dropped - refused
}

// forget forgets what was remembered of places that have left. With mu held.
func (l *Lane) forget(place uint64) {
	l.holes = slices.DeleteFunc(l.holes, func(h stretch) bool { return h.upto <= place })
	gone, _ := slices.BinarySearch(l.parked, place+1)
	l.parked = slices.Delete(l.parked, 0, gone)
	l.forgetRefused(place)
}
