package bridge_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edgeclaim"
	"edgeclaim/bridge"
)

const (
	every = 200 * time.Millisecond
	final = 2 * time.Second
)

// withLedger runs a ledger and its outbox, which holds n records a lane, inside
// a bubble of fake time. The body's stop ends the ledger and waits.
func withLedger(t *testing.T, n int, body func(t *testing.T, outbox *memory, l *bridge.Ledger, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		outbox := newMemory()
		for _, lane := range edgeclaim.Lanes() {
			outbox.add(lane, n)
		}
		l := bridge.NewLedger(outbox, every, final, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { // owned by stop
			defer close(done)
			bridge.LedgerRun(l, ctx)
		}()
		stop := func() { cancel(); <-done }
		defer stop()
		body(t, outbox, l, stop)
	})
}

func TestLedgerBatches(t *testing.T) {
	withLedger(t, 1000, func(t *testing.T, outbox *memory, l *bridge.Ledger, _ func()) {
		generation, _ := bridge.LedgerBegin(l, epoch)
		put := func(from, to uint64) {
			for sequence := from; sequence <= to; sequence++ {
				bridge.LedgerPut(l, generation, edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneProv, Upto: sequence}, 1)
			}
			synctest.Wait()
		}
		put(1, 255)
		if n := outbox.count("ack"); n != 0 {
			t.Fatalf("told after %d of 256", n)
		}
		put(256, 256)
		if acked := outbox.acked(edgeclaim.LaneProv); acked != 256 {
			t.Fatalf("told up to %d after 256, want 256 at once", acked)
		}
		began := time.Now()
		put(257, 300)
		outbox.awaitAcked(t, edgeclaim.LaneProv, 300)
		if waited := time.Since(began); waited != every {
			t.Errorf("a small batch waited %v, want %v", waited, every)
		}
		if n := outbox.count("ack"); n != 2 {
			t.Errorf("%d commits for two batches", n)
		}
	})
}

func TestLedgerRetries(t *testing.T) {
	var failing atomic.Bool
	failing.Store(true)
	withLedger(t, 10, func(t *testing.T, outbox *memory, l *bridge.Ledger, _ func()) {
		outbox.fail = func(string, edgeclaim.Lane) error {
			if failing.Load() {
				return fmt.Errorf("%w: disk full", edgeclaim.ErrUnavailable)
			}
			return nil
		}
		generation, _ := bridge.LedgerBegin(l, epoch)
		bridge.LedgerPut(l, generation, edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneProv, Upto: 10}, 1)
		timer := time.NewTimer(10 * time.Second)
		<-timer.C
		if n := outbox.count("ack"); n < 5 || n > 11 {
			t.Errorf("%d tries in ten seconds, want about one a second", n)
		}
		failing.Store(false)
		outbox.awaitAcked(t, edgeclaim.LaneProv, 10)
	})
}

func TestLedgerTellsAtStop(t *testing.T) {
	withLedger(t, 10, func(t *testing.T, outbox *memory, l *bridge.Ledger, stop func()) {
		tries := 0 // the ledger's goroutine's
		outbox.fail = func(string, edgeclaim.Lane) error {
			if tries++; tries < 3 {
				return fmt.Errorf("%w: busy", edgeclaim.ErrUnavailable)
			}
			return nil
		}
		generation, _ := bridge.LedgerBegin(l, epoch)
		bridge.LedgerPut(l, generation, edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneProv, Upto: 7}, 1)
		bridge.LedgerPut(l, generation, edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneEvt, Upto: 3}, 1)
		stop()
		if prov, evt := outbox.acked(edgeclaim.LaneProv), outbox.acked(edgeclaim.LaneEvt); prov != 7 || evt != 3 {
			t.Errorf("told up to %d and %d, want 7 and 3", prov, evt)
		}
	})
}

// TestLedgerStopIsBounded: an outbox that takes nothing does not hold a stop.
func TestLedgerStopIsBounded(t *testing.T) {
	withLedger(t, 10, func(t *testing.T, outbox *memory, l *bridge.Ledger, stop func()) {
		outbox.fail = func(string, edgeclaim.Lane) error { return edgeclaim.ErrUnavailable }
		generation, _ := bridge.LedgerBegin(l, epoch)
		bridge.LedgerPut(l, generation, edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneProv, Upto: 1}, 1)
		began := time.Now()
		stop()
		if took := time.Since(began); took > final+every {
			t.Errorf("the stop took %v, want at most %v", took, final+every)
		}
	})
}

// TestLedgerIgnoresOlderConnections: a late word of a connection that has been
// replaced acknowledges nothing, whatever it says.
func TestLedgerIgnoresOlderConnections(t *testing.T) {
	withLedger(t, 10, func(t *testing.T, outbox *memory, l *bridge.Ledger, stop func()) {
		older, _ := bridge.LedgerBegin(l, epoch)
		bridge.LedgerPut(l, older, edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneProv, Upto: 4}, 1)
		newer, cursor := bridge.LedgerBegin(l, epoch)
		if cursor[edgeclaim.LaneProv] != 4 {
			t.Errorf("the next connection goes on after %d, want 4", cursor[edgeclaim.LaneProv])
		}
		bridge.LedgerPut(l, older, edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneProv, Upto: 9}, 1)
		bridge.LedgerPut(l, newer, edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneProv, Upto: 5}, 1)
		bridge.LedgerPut(l, newer, edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneProv, Upto: 3}, 1)
		stop()
		if acked := outbox.acked(edgeclaim.LaneProv); acked != 5 {
			t.Errorf("told up to %d, want 5", acked)
		}
	})
}

// TestLedgerGivesUpWhatIsRefused: an acknowledgement that the outbox calls
// invalid is not said again and again.
func TestLedgerGivesUpWhatIsRefused(t *testing.T) {
	withLedger(t, 0, func(t *testing.T, outbox *memory, l *bridge.Ledger, _ func()) {
		generation, _ := bridge.LedgerBegin(l, epoch)
		bridge.LedgerPut(l, generation, edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneProv, Upto: 1}, 1)
		timer := time.NewTimer(time.Minute)
		<-timer.C
		if n := outbox.count("ack"); n != 1 {
			t.Errorf("asked %d times, want once", n)
		}
	})
}
