package bridge

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"edgeclaim"
)

const (
	// flushCount is how many acknowledged records are enough for a commit of
	// their own in the outbox.
	flushCount = 256
	// flushRetry is how long an outbox that could not take an acknowledgement
	// is left alone.
	flushRetry = time.Second
	// finalRetry is the same while stopping, when there is less time.
	finalRetry = 50 * time.Millisecond
)

// ledger knows what upstream has, and tells the outbox in batches: each is a
// commit in the file that claims wait for. It outlives connections. One highest
// sequence a lane is all its state, so that nothing it holds back can grow.
type ledger struct {
	parts  Parts // of which it tells the lanes' outboxes
	every  time.Duration
	final  time.Duration
	logger *slog.Logger

	wake chan struct{} // capacity 1: there is something to tell
	full chan struct{} // capacity 1: there is enough to tell now

	mu         sync.Mutex
	generation uint64                            // guarded by mu; of the connection whose word counts
	epoch      string                            // guarded by mu; of all marks here
	acked      map[edgeclaim.Lane]edgeclaim.Mark // guarded by mu; upstream has everything up to here
	told       map[edgeclaim.Lane]uint64         // guarded by mu; the outbox knows up to here
	fresh      int                               // guarded by mu; how many since the last telling, without edgeclaim.LaneTel
}

func newLedger(parts Parts, every, final time.Duration, logger *slog.Logger) *ledger {
	return &ledger{
		parts: parts, every: every, final: final, logger: logger,
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
		acked: map[edgeclaim.Lane]edgeclaim.Mark{}, told: map[edgeclaim.Lane]uint64{},
	}
}

// begin starts a generation: the word of every earlier connection counts for
// nothing from now on, and what was known of another epoch is forgotten. It
// returns the generation and where each lane goes on.
func (l *ledger) begin(epoch string) (uint64, map[edgeclaim.Lane]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	if epoch != l.epoch {
		l.epoch = epoch
		clear(l.acked)
		clear(l.told)
	}
	cursor := map[edgeclaim.Lane]uint64{}
	for lane, mark := range l.acked {
		cursor[lane] = mark.Upto
	}
	return l.generation, cursor
}

// put notes that upstream has a lane's records up to a mark, on the word of a
// connection of that generation; so many are new by it.
func (l *ledger) put(generation uint64, mark edgeclaim.Mark, records int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if generation != l.generation || mark.Epoch != l.epoch || mark.Upto <= l.acked[mark.Lane].Upto {
		return
	}
	l.acked[mark.Lane] = mark
	// Telemetry comes so fast that it would be told without a pause, each time
	// at the cost of a write to the disk that claims wait for.
	if mark.Lane != edgeclaim.LaneTel {
		l.fresh += records
	}
	signal(l.wake)
	if l.fresh >= flushCount {
		signal(l.full)
	}
}

// run tells the outbox until ctx ends, and once more then.
func (l *ledger) run(ctx context.Context) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			l.finish(ctx)
			return
		case <-l.wake:
		}
		pause(ctx, l.every, l.full)
		err := l.flush(ctx)
		if err == nil {
			failing = false
			continue
		}
		if !failing && ctx.Err() == nil {
			l.logger.Warn("outbox did not take acknowledgements", "err", err)
		}
		failing = true
		pause(ctx, flushRetry, nil)
		signal(l.wake)
	}
}

// finish tells the outbox what is left. What it cannot tell in time is only
// sent again after the next start (P8).
func (l *ledger) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.final)
	defer cancel()
	for {
		err := l.flush(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			l.logger.Warn("outbox did not take the last acknowledgements", "err", err)
			return
		}
		pause(ctx, finalRetry, nil)
	}
}

// flush tells the outbox everything it does not know yet.
func (l *ledger) flush(ctx context.Context) error {
	for _, lane := range edgeclaim.Lanes() {
		l.mu.Lock()
		mark, told := l.acked[lane], l.told[lane]
		l.fresh = 0
		l.mu.Unlock()
		if mark.Upto == told {
			continue
		}
		err := l.parts.outbox(lane).Ack(ctx, mark)
		switch {
		case errors.Is(err, edgeclaim.ErrConflict):
			// The outbox has begun another life, in which these records are
			// pending under other sequences; the next generation knows.
		case errors.Is(err, edgeclaim.ErrInvalid):
			// The outbox never had it, so there is nothing to forget, and
			// asking again would not help.
			l.logger.Error("outbox refused an acknowledgement", "lane", lane, "upto", mark.Upto, "err", err)
		case err != nil:
			return err
		}
		l.mu.Lock()
		if l.epoch == mark.Epoch {
			l.told[lane] = mark.Upto
		}
		l.mu.Unlock()
	}
	return nil
}

// signal leaves a signal in a channel of capacity 1.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits for d, early, or the end of ctx.
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-early:
	case <-timer.C:
	}
}
