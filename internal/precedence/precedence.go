// Package precedence lets claims go before telemetry on the processors of a
// small box. Go's scheduler knows no priorities: without it a claim waits behind
// every connection that has just said something.
package precedence

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// StandsBack is how long telemetry stands back for claims at the most. Then
	// it goes on for as long, however many claims there are: both are served.
	StandsBack = 10 * time.Millisecond
	// Lately is how long after a claim telemetry leaves half of the processors
	// to the next one.
	Lately = time.Second
)

// Gate is what claims and telemetry pass. Its methods may be called from many
// goroutines at once.
type Gate struct {
	processors, claiming int64 // how many turns there are, and how many a turn counts as while devices claim
	turns                *semaphore.Weighted

	mu     sync.Mutex // guards what follows
	claims int
	last   time.Time     // when a claim began last
	since  time.Time     // telemetry stands back since then; where it is to come, telemetry goes on until then
	open   chan struct{} // closed when the last claim is decided; nil: nobody waits for that
}

// New returns the gate of this process. Telemetry never uses more processors
// than there are, and half of them, at least one, while devices claim.
func New() *Gate { return newGate(int64(runtime.GOMAXPROCS(0))) }

func newGate(processors int64) *Gate {
	return &Gate{
		processors: processors, claiming: processors / max(processors/2, 1),
		turns: semaphore.NewWeighted(processors),
	}
}

// Enter begins the decision of a claim; Leave ends it.
func (g *Gate) Enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = time.Now()
	if g.claims == 0 && g.last.After(g.since) {
		g.since = g.last
	}
	g.claims++
}

// Leave ends what Enter began.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.claims--; g.claims == 0 && g.open != nil {
		close(g.open)
		g.open = nil
	}
}

// Turn is leave to use a processor for telemetry. It belongs to one goroutine;
// its zero value is none.
type Turn struct{ weight int64 }

// Take waits for a turn, where there is none yet: until fewer have theirs, and
// while claims are decided. Who has a turn waits for nothing but processors, so
// that this takes tens of milliseconds at the worst.
func (g *Gate) Take(t *Turn) {
	if t.weight > 0 {
		return
	}
	t.weight = g.weight()
	_ = g.turns.Acquire(context.Background(), t.weight) // the context's error alone
	for open, most := g.shut(); open != nil; open, most = g.shut() {
		wait(open, most)
	}
}

// Give ends a turn, where there is one.
func (g *Gate) Give(t *Turn) {
	if t.weight > 0 {
		g.turns.Release(t.weight)
		t.weight = 0
	}
}

// weight is how many turns the next counts as.
func (g *Gate) weight() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.claims > 0 || !g.last.IsZero() && time.Since(g.last) < Lately {
		return g.claiming
	}
	return 1
}

// shut returns what tells that the claims are decided, and how long to wait for
// it at the most; nil where telemetry may go on.
func (g *Gate) shut() (open <-chan struct{}, most time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.claims == 0 || now.Before(g.since) {
		return nil, 0
	}
	most = StandsBack - now.Sub(g.since)
	if most <= 0 {
		g.since = now.Add(StandsBack)
		return nil, 0
	}
	if g.open == nil {
		g.open = make(chan struct{})
	}
	return g.open, most
}

func wait(open <-chan struct{}, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-open:
	case <-timer.C:
	}
}
