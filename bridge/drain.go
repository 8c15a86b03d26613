package bridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/bridge/internal/client"
	"edgeclaim/bridge/wire"
)

// drain tells records one by one, and takes the broker's PUBACK for their
// arrival: AckPuback.
type drain struct {
	*session
	room    *room
	flight  chan sent // what is on its way, in order; the sender closes it
	sources []source  // in the order they are told

	// The sender's alone.
	begun   bool      // telemetry can be read
	resting time.Time // when not, it is not before
	behind  backlog   // how far telemetry is sent
	stated  uint64    // states are told up to here
	stating time.Time // the next are told then at the soonest
	more    bool      // there are more states than were told
}

// source is something that a drain tells. What goes before it may come while
// it waits for room.
type source struct {
	// signal carries that something came; nil where there is nothing that
	// another source's signal does not say as well.
	signal <-chan struct{}
	// read returns the next to be told, some at once; none when there is nothing
	// now.
	read func(ctx context.Context) ([]parcel, error)
}

// parcel is one message that is to be told.
type parcel struct {
	record  *edgeclaim.Record
	message *client.Message // of a state, which is no record
	place
}

// place is what is known to be told when a parcel has arrived.
type place struct {
	lane     edgeclaim.Lane // empty for a state: told anew on each connection
	sequence uint64
	live     bool // of telemetry: it came since the connection began
	caughtUp bool // of telemetry: with it, all that waited then is told
}

// sent is a parcel on its way.
type sent struct {
	*client.Delivery // nil: there was nothing to send
	place
	weight int
}

// beforeStates is how many sources go before the states.
const beforeStates = 2

func newDrain(s *session) *drain {
	d := &drain{session: s, room: newRoom(s.conf.Window), flight: make(chan sent, s.conf.Window)}
	d.sources = []source{
		{signal: s.parts.Outbox.Appended(), read: d.lane(edgeclaim.LaneProv)},
		{read: d.lane(edgeclaim.LaneEvt)},
	}
	if s.parts.States != nil && len(s.topics.presence.parts) > 0 {
		d.sources = append(d.sources, source{signal: s.parts.States.StatesChanged(), read: d.states})
	}
	if s.parts.Telemetry != nil {
		d.sources = append(d.sources, source{signal: s.parts.Telemetry.Appended(), read: d.live}, source{read: d.waiting})
	}
	return d
}

// run tells what the outbox holds, and then what comes, until ctx or the
// connection ends.
func (d *drain) run(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { d.send(ctx); return nil })
	group.Go(func() error { d.collect(); return nil })
	_ = group.Wait() // the connection knows why it ended
	return d.conn.Cause()
}

// send tells what the outbox holds, and then what comes, until ctx or the
// connection ends. From here on the cursor is the sender's alone: sent up to
// there.
func (d *drain) send(ctx context.Context) {
	defer close(d.flight)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer d.conn.OnEnd(cancel)()
	for ctx.Err() == nil {
		err := d.pending(ctx, d.sources)
		if err == nil {
			_, err = d.await(ctx, d.sources, d.later())
		}
		if err != nil {
			if ctx.Err() == nil {
				d.conn.Fail(err)
			}
			return
		}
	}
}

// later is when there may be something to tell that no signal says.
func (d *drain) later() time.Time {
	var at time.Time
	if d.parts.Telemetry != nil && !d.begun {
		at = d.resting
	}
	if d.more && (at.IsZero() || d.stating.Before(at)) {
		at = d.stating
	}
	return at
}

// pending tells everything that the sources have, each before the next.
func (d *drain) pending(ctx context.Context, sources []source) error {
	for i, s := range sources {
		for {
			parcels, err := s.read(ctx)
			if err != nil {
				return err
			}
			if len(parcels) == 0 {
				break
			}
			for j := range parcels {
				if err := d.tell(ctx, &parcels[j], sources[:i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// lane reads one of the outbox's.
func (d *drain) lane(lane edgeclaim.Lane) func(context.Context) ([]parcel, error) {
	return func(ctx context.Context) ([]parcel, error) {
		after := edgeclaim.Mark{Epoch: d.epoch, Lane: lane, Upto: d.cursor[lane]}
		records, err := d.parts.Outbox.Next(ctx, after, d.conf.ReadBatch)
		if errors.Is(err, edgeclaim.ErrConflict) {
			return nil, errRenewed
		}
		if err != nil {
			return nil, fmt.Errorf("outbox: %w", err)
		}
		return parcels(records, false), nil
	}
}

// parcels makes records ready to be told.
func parcels(records []edgeclaim.Record, live bool) []parcel {
	list := make([]parcel, len(records))
	for i := range records {
		r := &records[i]
		list[i] = parcel{record: r, place: place{lane: r.Lane, sequence: r.Sequence, live: live}}
	}
	return list
}

// tell sends a parcel, and before it what has come in the sources that go
// first: it takes the room that there is.
func (d *drain) tell(ctx context.Context, p *parcel, first []source) error {
	message, err := d.message(p)
	if err != nil {
		return err
	}
	telemetry := p.lane == edgeclaim.LaneTel
	on := sent{place: p.place, weight: 1}
	if message != nil && (telemetry || p.lane == edgeclaim.LaneEvt) {
		on.weight = d.room.weigh(len(message.Payload))
	}
	states := d.more && len(first) > beforeStates && !time.Now().Before(d.stating)
	news := came(first) || states
	for {
		if news {
			if err := d.pending(ctx, first); err != nil {
				return err
			}
		}
		if telemetry && !p.live && d.behind.caughtUp {
			return nil // meanwhile it was lost, and a gap told of it
		}
		if d.room.take(on.weight, telemetry) {
			break
		}
		var until time.Time
		if d.more && len(first) > beforeStates {
			until = d.stating
		}
		if news, err = d.await(ctx, first, until); err != nil {
			return err
		}
	}
	if message != nil {
		on.Delivery = d.conn.Publish(*message)
	}
	d.moved(p.place)
	// Never blocks: it has as much room as there is.
	d.flight <- on
	return nil
}

// message is what a parcel is on the wire; nil for none.
func (d *drain) message(p *parcel) (*client.Message, error) {
	if p.record == nil {
		return p.message, nil
	}
	if topic, ok := d.raw(p.record); ok {
		return &client.Message{Topic: topic, Payload: p.record.Payload}, nil
	}
	payload, err := wire.EncodeEvent(d.names, d.epoch, p.record)
	return &client.Message{Topic: d.names.Up(string(p.lane)), Payload: payload}, err
}

// moved notes that a parcel was sent.
func (d *drain) moved(p place) {
	switch p.lane {
	case "":
		d.stated = p.sequence
	case edgeclaim.LaneTel:
		d.behind.move(p)
	default:
		d.cursor[p.lane] = p.sequence
	}
}

// signals are those of some sources.
func signals(sources []source) (all [3]<-chan struct{}) {
	n := 0
	for _, s := range sources {
		if s.signal != nil {
			all[n] = s.signal
			n++
		}
	}
	return all
}

// came reports whether something has come in some sources.
func came(sources []source) bool {
	s := signals(sources)
	select {
	case <-s[0]:
	case <-s[1]:
	case <-s[2]:
	default:
		return false
	}
	return true
}

// await waits until something has come in some sources, or for room, or until a
// time that is not zero.
func (d *drain) await(ctx context.Context, sources []source, until time.Time) (news bool, err error) {
	var due <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		due = timer.C
	}
	s := signals(sources)
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-s[0]:
	case <-s[1]:
	case <-s[2]:
	case <-due:
	case <-d.room.freed:
		return false, nil
	}
	return true, nil
}

// collect takes the PUBACKs in the order of sending, so that what it writes
// into the ledger is always a whole prefix. It returns when the sender has
// stopped and all has arrived, or the connection has ended.
func (d *drain) collect() {
	patience := time.NewTimer(d.conf.AckTimeout)
	defer patience.Stop()
	var arrived backlog // how far telemetry has
	for oldest := range d.flight {
		if oldest.Delivery != nil {
			patience.Reset(d.conf.AckTimeout)
			if !d.arrive(oldest.Delivery, patience.C) {
				return
			}
		}
		upto := oldest.sequence
		if oldest.lane == edgeclaim.LaneTel {
			arrived.move(oldest.place)
			upto = arrived.prefix()
		}
		if oldest.lane != "" {
			d.ledger.put(d.generation, edgeclaim.Mark{Epoch: d.epoch, Lane: oldest.lane, Upto: upto}, 1)
		}
		d.room.free(oldest.weight, oldest.lane == edgeclaim.LaneTel)
	}
}

// arrive waits for a PUBACK. It returns false when the connection is to end, or
// has, without it.
func (d *drain) arrive(on *client.Delivery, patience <-chan time.Time) bool {
	select {
	case <-on.Done():
	case <-d.conn.Done():
		// What arrived before the end still counts.
		if !isDone(on) {
			return false
		}
	case <-patience:
		d.conn.Fail(client.ErrNoPuback)
		return false
	}
	if err := on.Err(); err != nil {
		d.conn.Fail(err)
		return false
	}
	return true
}
