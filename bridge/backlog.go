package bridge

import (
	"context"
	"time"

	"github.com/go-json-experiment/json"

	"edgeclaim"
)

// restShare is the part of Config.BackoffLimit that telemetry rests when it
// could not be read: 30 s by default.
const restShare = 10

// rest is how long telemetry that cannot be read is left alone.
func (s *session) rest() time.Duration { return s.conf.BackoffLimit / restShare }

// beginTelemetry has the lane of telemetry live the outbox's life, and notes
// where it stands. Where that fails, or there is none, it returns false, and
// nothing is told of it.
func (s *session) beginTelemetry(ctx context.Context) bool {
	if s.parts.Telemetry == nil {
		return false
	}
	delete(s.marks, edgeclaim.LaneTel)
	err := s.parts.Telemetry.Begin(ctx, s.epoch)
	if err == nil {
		var life string
		var marks map[edgeclaim.Lane]edgeclaim.LaneMarks
		if life, _, marks, err = s.parts.Telemetry.Marks(ctx); err == nil && life != s.epoch {
			err = edgeclaim.ErrConflict
		}
		if err == nil {
			s.marks[edgeclaim.LaneTel] = marks[edgeclaim.LaneTel]
			return true
		}
	}
	s.unreadable(ctx, err)
	return false
}

// unreadable says that telemetry could not be read. Whatever it is, the other lanes
// go on.
func (s *session) unreadable(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	s.alarms.raise(edgeclaim.AlarmTelemetryUnread)
	s.logger.Error("telemetry cannot be told for a while", "err", err, "retry_in", s.rest())
}

// backlog is how far a connection has come in the lane of telemetry. What was
// there when it began waits behind what comes from then on: after an outage
// upstream hears how things are before it hears how they were.
type backlog struct {
	low      uint64 // of what waits, all is told up to here
	high     uint64 // where it ends
	caughtUp bool   // all of it is told
	live     uint64 // what came since is told up to here
}

// move notes that something is told.
func (b *backlog) move(p place) {
	if p.live {
		b.live = max(b.live, p.sequence)
	}
	if !p.live || p.caughtUp {
		b.low = max(b.low, p.sequence)
	}
	if p.caughtUp {
		b.caughtUp = true
		b.live = max(b.live, b.low) // a gap may reach beyond high
	}
}

// prefix is up to where all is told.
func (b *backlog) prefix() uint64 {
	if b.caughtUp {
		return b.live
	}
	return b.low
}

// rested reports whether telemetry can be read. When it could not, it begins
// anew with where the lane stands.
func (d *drain) rested(ctx context.Context) bool {
	if d.begun {
		return true
	}
	if !d.resting.IsZero() && time.Now().Before(d.resting) {
		return false
	}
	if d.begun = d.beginTelemetry(ctx); !d.begun {
		d.resting = time.Now().Add(d.rest())
		return false
	}
	d.resting = time.Time{}
	if d.behind == (backlog{}) {
		marks := d.marks[edgeclaim.LaneTel]
		low := max(d.cursor[edgeclaim.LaneTel], marks.First-1)
		high := max(low, marks.Appended)
		d.behind = backlog{low: low, high: high, live: high}
	}
	return true
}

// telemetry reads up to limit records of its lane, behind a sequence; none, and
// no more for a while, when it cannot be read.
func (d *drain) telemetry(ctx context.Context, after uint64, limit int) ([]edgeclaim.Record, error) {
	records, err := d.parts.Telemetry.Next(ctx, edgeclaim.Mark{Epoch: d.epoch, Lane: edgeclaim.LaneTel, Upto: after}, limit)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		d.unreadable(ctx, err)
		d.begun, d.resting = false, time.Now().Add(d.rest())
		return nil, nil
	}
	return records, nil
}

// live reads what came since the connection began.
func (d *drain) live(ctx context.Context) ([]parcel, error) {
	if !d.rested(ctx) {
		return nil, nil
	}
	records, err := d.telemetry(ctx, d.behind.live, d.conf.ReadBatch)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	list := parcels(records, true)
	if records[0].Type == edgeclaim.TypeGap && !d.behind.caughtUp {
		// A lane that is full loses its oldest first, so it may be that the gap
		// begins with what waits, and that nothing waits any more.
		oldest, err := d.telemetry(ctx, d.behind.low, 1)
		if err != nil {
			return nil, err
		}
		if !d.begun {
			return nil, nil
		}
		list[0].caughtUp = len(oldest) > 0 && oldest[0].Sequence >= records[0].Sequence
	}
	return list, nil
}

// waiting reads what was there when the connection began.
func (d *drain) waiting(ctx context.Context) ([]parcel, error) {
	b := &d.behind
	if !d.rested(ctx) || b.caughtUp {
		return nil, nil
	}
	var records []edgeclaim.Record
	if b.low < b.high {
		var err error
		records, err = d.telemetry(ctx, b.low, d.conf.ReadBatch)
		if err != nil || !d.begun {
			return nil, err
		}
	}
	n := 0
	for n < len(records) && records[n].Sequence <= b.high {
		n++
	}
	switch {
	case n > 0:
		return parcels(records[:n], false), nil
	case len(records) > 0 && records[0].Type == edgeclaim.TypeGap:
		// Of this gap a part was told already, as what came since. Better twice
		// than never.
		list := parcels(records[:1], false)
		list[0].caughtUp = true
		return list, nil
	}
	return []parcel{{place: place{lane: edgeclaim.LaneTel, sequence: b.high, caughtUp: true}}}, nil
}

// raw returns where a point goes as it came; false for other records, and for
// one that only a fault of the box leaves without what it came as.
func (d *drain) raw(r *edgeclaim.Record) (topic string, ok bool) {
	if r.Type != edgeclaim.TypeTelemetry || r.Payload == nil {
		return "", false
	}
	var tenant edgeclaim.TenantID
	if d.topics.telemetry.tenant {
		var data struct {
			Tenant edgeclaim.TenantID `json:"tenant_id"`
		}
		if json.Unmarshal(r.Data, &data) != nil || data.Tenant.IsZero() {
			return "", false
		}
		tenant = data.Tenant
	}
	return d.topics.telemetry.fill(d.names, r.Device, tenant.String()), true
}
