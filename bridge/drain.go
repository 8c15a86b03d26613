package bridge

import (
	"context"
	"fmt"
	"time"

	"edgeclaim"
)

// send tells what the outbox holds, and then what comes, until ctx or the
// connection ends.
func (s *session) send(ctx context.Context) {
	defer close(s.flight)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ended, cancel)()
	for ctx.Err() == nil {
		if err := s.drain(ctx, edgeclaim.Lanes()); err != nil {
			if ctx.Err() == nil {
				s.end(err)
			}
			return
		}
		select {
		case <-ctx.Done():
		case <-s.outbox.Appended():
		}
	}
}

// drain tells everything pending in the lanes, each before the next.
func (s *session) drain(ctx context.Context, lanes []edgeclaim.Lane) error {
	for i, lane := range lanes {
		for {
			records, err := s.outbox.Next(ctx, lane, s.cursor[lane], s.conf.ReadBatch)
			if err != nil {
				return fmt.Errorf("outbox: %w", err)
			}
			if len(records) == 0 {
				break
			}
			if err := s.tell(ctx, records, lanes[:i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// tell sends the records of one lane, and before each what has come in the
// lanes that go first.
func (s *session) tell(ctx context.Context, records []edgeclaim.Record, first []edgeclaim.Lane) error {
	for i := range records {
		if err := s.slot(ctx, first); err != nil {
			return err
		}
		r := &records[i]
		payload, err := s.names.encode(s.epoch, r)
		if err != nil {
			return err
		}
		token := s.client.Publish(s.names.up[r.Lane], qos1, false, payload)
		s.cursor[r.Lane] = r.Sequence
		// Never blocks: it has as much room as there are slots.
		s.flight <- sent{token: token, lane: r.Lane, sequence: r.Sequence}
	}
	return nil
}

// slot waits for room in the window. What has come in the lanes that go first
// takes the room that there is.
func (s *session) slot(ctx context.Context, first []edgeclaim.Lane) error {
	var appended <-chan struct{}
	if len(first) > 0 {
		appended = s.outbox.Appended()
	}
	for {
		select {
		case <-appended:
			if err := s.drain(ctx, first); err != nil {
				return err
			}
		default:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-appended:
			if err := s.drain(ctx, first); err != nil {
				return err
			}
		case s.slots <- struct{}{}:
			return nil
		}
	}
}

// collect takes the PUBACKs in the order of sending, so that what it writes
// into the ledger is always a whole prefix. It returns when the sender has
// stopped and all has arrived, or the connection has ended.
func (s *session) collect() {
	patience := time.NewTimer(s.conf.AckTimeout)
	defer patience.Stop()
	for oldest := range s.flight {
		patience.Reset(s.conf.AckTimeout)
		select {
		case <-oldest.token.Done():
		case <-s.ended.Done():
			// What arrived before the end still counts.
			select {
			case <-oldest.token.Done():
			default:
				return
			}
		case <-patience.C:
			s.end(errNoPuback)
			return
		}
		if err := s.arrived(oldest.token); err != nil {
			s.end(err)
			return
		}
		s.ledger.put(s.generation, oldest.lane, oldest.sequence)
		<-s.slots
	}
}
