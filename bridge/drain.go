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
	slots  chan struct{} // holds one for each record on its way
	flight chan sent     // the records on their way, in order; the sender closes it
}

// sent is a record on its way.
type sent struct {
	*client.Delivery
	lane     edgeclaim.Lane
	sequence uint64
}

func newDrain(s *session) *drain {
	return &drain{
		session: s,
		slots:   make(chan struct{}, s.conf.Window),
		flight:  make(chan sent, s.conf.Window),
	}
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
		if err := d.pending(ctx, d.parts.lanes()); err != nil {
			if ctx.Err() == nil {
				d.conn.Fail(err)
			}
			return
		}
		select {
		case <-ctx.Done():
		case <-d.parts.Outbox.Appended():
		}
	}
}

// pending tells everything pending in the lanes, each before the next.
func (d *drain) pending(ctx context.Context, lanes []edgeclaim.Lane) error {
	for i, lane := range lanes {
		for {
			after := edgeclaim.Mark{Epoch: d.epoch, Lane: lane, Upto: d.cursor[lane]}
			records, err := d.parts.Outbox.Next(ctx, after, d.conf.ReadBatch)
			if errors.Is(err, edgeclaim.ErrConflict) {
				return errRenewed
			}
			if err != nil {
				return fmt.Errorf("outbox: %w", err)
			}
			if len(records) == 0 {
				break
			}
			if err := d.tell(ctx, records, lanes[:i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// tell sends the records of one lane, and before each what has come in the
// lanes that go first.
func (d *drain) tell(ctx context.Context, records []edgeclaim.Record, first []edgeclaim.Lane) error {
	for i := range records {
		if err := d.slot(ctx, first); err != nil {
			return err
		}
		r := &records[i]
		payload, err := wire.EncodeEvent(d.names, d.epoch, r)
		if err != nil {
			return err
		}
		delivery := d.conn.Publish(client.Message{Topic: d.names.Up(string(r.Lane)), Payload: payload})
		d.cursor[r.Lane] = r.Sequence
		// Never blocks: it has as much room as there are slots.
		d.flight <- sent{Delivery: delivery, lane: r.Lane, sequence: r.Sequence}
	}
	return nil
}

// slot waits for room in the window. What has come in the lanes that go first
// takes the room that there is.
func (d *drain) slot(ctx context.Context, first []edgeclaim.Lane) error {
	var appended <-chan struct{}
	if len(first) > 0 {
		appended = d.parts.Outbox.Appended()
	}
	for {
		select {
		case <-appended:
			if err := d.pending(ctx, first); err != nil {
				return err
			}
		default:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-appended:
			if err := d.pending(ctx, first); err != nil {
				return err
			}
		case d.slots <- struct{}{}:
			return nil
		}
	}
}

// collect takes the PUBACKs in the order of sending, so that what it writes
// into the ledger is always a whole prefix. It returns when the sender has
// stopped and all has arrived, or the connection has ended.
func (d *drain) collect() {
	patience := time.NewTimer(d.conf.AckTimeout)
	defer patience.Stop()
	for oldest := range d.flight {
		patience.Reset(d.conf.AckTimeout)
		select {
		case <-oldest.Done():
		case <-d.conn.Done():
			// What arrived before the end still counts.
			select {
			case <-oldest.Done():
			default:
				return
			}
		case <-patience.C:
			d.conn.Fail(client.ErrNoPuback)
			return
		}
		if err := oldest.Err(); err != nil {
			d.conn.Fail(err)
			return
		}
		d.ledger.put(d.generation, edgeclaim.Mark{Epoch: d.epoch, Lane: oldest.lane, Upto: oldest.sequence}, 1)
		<-d.slots
	}
}
