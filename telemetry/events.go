package telemetry

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
)

const (
	// moveRecords and moveBytes are how much one transaction of the registry
	// takes over: claims wait for no more than that now and then.
	moveRecords = 256
	moveBytes   = 256 << 10
	// moveAgain is how long a full lane, or a disk at fault, is left alone.
	moveAgain = time.Second
)

// Why the gap records of device.event tell of events.
const (
	gapEventsFull    = "device_events_full"
	gapEventsDamaged = gapDamaged
)

// mover takes events out of their log into the registry's event lane, each
// once. It is of one goroutine.
type mover struct {
	*Service
	// taken is the place up to which the registry has them.
	taken uint64
	// offset is what the registry's places are ahead of the log's: a log that
	// was lost begins again at place 1, the registry's note does not. It is the
	// log's own bytes.
	offset uint64
}

// runEvents writes events and moves them, until ctx ends. The registry is asked
// where it is before anything is written, so that no event can be taken for one
// from before the log was lost.
func (s *Service) runEvents(ctx context.Context) error {
	again := time.NewTicker(moveAgain)
	defer again.Stop()
	m, err := s.newMover(ctx)
	for ; err != nil && ctx.Err() == nil; m, err = s.newMover(ctx) {
		s.logger.Error("devices' events wait: nobody knows which the registry has", "err", err)
		select {
		case <-ctx.Done():
		case <-again.C:
		}
	}
	if err != nil {
		return s.events.Close() // ends what waits, and stores none of it
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.events.Run(ctx) })
	group.Go(func() error { return m.run(ctx) })
	return group.Wait()
}

// newMover finds out where the registry is.
func (s *Service) newMover(ctx context.Context) (*mover, error) {
	taken, err := s.parts.Events.EventsTaken(ctx)
	if err != nil {
		return nil, fmt.Errorf("telemetry: events taken over: %w", err)
	}
	m := &mover{Service: s}
	b, own := s.events.Bounds(), s.events.Own()
	at := b.Last // all that is there is older than the registry's note
	if len(own) == 8 {
		m.offset = binary.LittleEndian.Uint64(own)
	} else {
		at = b.Acked // or the marks are lost, and some are told twice rather than never
	}
	if taken > m.offset+b.Last {
		s.logger.Error("the log of events is behind the registry: it was lost, or its marks were, and begins anew",
			"registry_place", taken, "log_place", m.offset+b.Last)
		m.offset = taken - at
	}
	m.taken = max(max(taken, m.offset)-m.offset, b.Acked)
	if err := m.forget(); err != nil {
		return nil, unavailable("events", err)
	}
	return m, nil
}

// forget lets the log go what the registry has.
func (m *mover) forget() error {
	return m.events.Ack(m.taken, binary.LittleEndian.AppendUint64(nil, m.offset))
}

// run moves what comes, until ctx ends.
func (m *mover) run(ctx context.Context) error {
	again := time.NewTicker(moveAgain)
	defer again.Stop()
	for {
		for {
			moved, err := m.move(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				m.logger.Warn("devices' events wait for the registry", "err", err)
			}
			if !moved {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.events.Appended():
		case <-again.C:
		}
	}
}

// move takes over what one transaction may; moved says that there may be more.
func (m *mover) move(ctx context.Context) (moved bool, err error) {
	if m.events.Bounds().Last <= m.taken {
		return false, nil
	}
	room, err := m.parts.Events.EventRoom(ctx)
	if err != nil || room <= 0 {
		return false, err
	}
	entries, err := m.events.Read(m.taken, min(room, moveRecords), moveBytes)
	if err != nil || len(entries) == 0 {
		return false, err
	}
	records := make([]edgeclaim.Record, 0, len(entries))
	dropped, before := uint64(0), m.taken
	for i := range entries {
		place := entries[i].Place
		e, err := parseEntry(entries[i].Payload)
		switch {
		case entries[i].Lost > 0 || err != nil:
			lost, why := place-before, gapEventsFull
			if err != nil && entries[i].Lost == 0 || entries[i].Damaged {
				why = gapEventsDamaged
			}
			dropped += lost
			records = append(records, m.eventsGap(lost, why))
		default:
			records = append(records, eventRecord(&e))
		}
		before = place
	}
	if err := m.parts.Events.TakeEvents(ctx, before+m.offset, records); err != nil {
		return false, err
	}
	m.taken = before
	m.count.eventsDropped.Add(dropped)
	if err := m.forget(); err != nil {
		return true, fmt.Errorf("forget: %w", err) // the registry's note says it too
	}
	return true, nil
}

// eventRecord is what upstream is told of an event.
func eventRecord(e *entry) edgeclaim.Record {
	data := make([]byte, 0, len(e.payload)+128)
	data = append(data, `{"device_id":"`...)
	data = append(data, e.device.String()...)
	data = append(data, `","tenant_id":"`...)
	data = append(data, e.tenant.String()...)
	data = append(data, `","event":`...)
	data = append(data, e.payload...)
	return edgeclaim.Record{
		Lane: edgeclaim.LaneEvt, Type: edgeclaim.TypeDeviceEvent, Device: e.device,
		Stamp: e.stamp, Data: append(data, '}'),
	}
}

// eventsGap is what upstream is told of events that are no more.
func (m *mover) eventsGap(count uint64, why string) edgeclaim.Record {
	return edgeclaim.Record{
		Lane: edgeclaim.LaneEvt, Type: edgeclaim.TypeGap, Stamp: m.parts.Stamp(),
		Data: fmt.Appendf(nil, `{"lane":"evt","count":%d,"reason":%q}`, count, why),
	}
}
