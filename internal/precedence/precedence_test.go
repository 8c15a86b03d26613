package precedence

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Telemetry waits while a claim is decided, and goes on when it is.
func TestStandsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate(2)
		g.Enter()
		began := time.Now()
		go func() {
			pass(StandsBack / 2)
			g.Leave()
		}()
		var turn Turn
		g.Take(&turn)
		if took := time.Since(began); took != StandsBack/2 {
			t.Errorf("waited %v, want as long as the claim took", took)
		}
		g.Take(&turn) // it has one
		g.Give(&turn)
		g.Give(&turn)
		began = time.Now()
		g.Take(&turn)
		if took := time.Since(began); took != 0 {
			t.Errorf("waited %v with no claim about", took)
		}
	})
}

// However many claims there are, one after the other or one that never ends,
// telemetry has half of the time.
func TestNeverStarves(t *testing.T) {
	t.Parallel()
	for name, claim := range map[string]time.Duration{"a long one": time.Hour, "many": time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(2)
			end := time.Now().Add(time.Second)
			for i := range 3 { // one enters before the other leaves
				go func() {
					pass(min(claim, time.Millisecond) / 3 * time.Duration(i))
					for time.Now().Before(end) {
						g.Enter()
						pass(min(claim, time.Until(end)))
						g.Leave()
					}
				}()
			}
			synctest.Wait()
			var turns int
			for time.Now().Before(end) {
				var turn Turn
				g.Take(&turn)
				pass(time.Millisecond)
				g.Give(&turn)
				turns++
			}
			pass(claim) // the claims end
			if turns < 450 || turns > 560 {
				t.Errorf("%s: %d turns of a millisecond in a second of claims, want half", name, turns)
			}
		})
	}
}

// While devices claim, and for a while after, telemetry leaves half of the
// processors free; else it may have all.
func TestHalfOfTheProcessors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ processors, calm, claiming int64 }{{1, 1, 1}, {2, 2, 1}, {3, 3, 1}, {4, 4, 2}, {8, 8, 4}} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(c.processors)
			most := func() int64 {
				var now, most atomic.Int64
				for range 3 * c.processors {
					go func() {
						var turn Turn
						g.Take(&turn)
						most.Store(max(most.Load(), now.Add(1)))
						pass(time.Millisecond)
						now.Add(-1)
						g.Give(&turn)
					}()
				}
				pass(time.Second / 2)
				return most.Load()
			}
			if got := most(); got != c.calm {
				t.Errorf("%d processors: %d turns at once, want %d", c.processors, got, c.calm)
			}
			g.Enter()
			g.Leave()
			if got := most(); got != c.claiming {
				t.Errorf("%d processors, after a claim: %d turns at once, want %d", c.processors, got, c.claiming)
			}
			pass(Lately)
			if got := most(); got != c.calm {
				t.Errorf("%d processors, long after it: %d turns at once, want %d", c.processors, got, c.calm)
			}
		})
	}
}

// pass lets time pass in the bubble.
func pass(d time.Duration) { <-time.After(d) }
