package broker

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxAtGate is how many logins may wait for their turn to compute,
	// maxAtGateOfSource how many of one source.
	maxAtGate         = 256
	maxAtGateOfSource = 32
)

// gate lets one login at a time compute. The sources that wait take turns, so
// that a flood from one keeps nobody else out.
type gate struct {
	mu      sync.Mutex
	taken   bool
	holder  netip.Addr // whose turn it is; it is in order when that ends
	rested  time.Time  // nobody computes before that
	waiting int
	order   []netip.Addr // sources that wait, next first
	queues  map[netip.Addr][]chan struct{}
}

func newGate() gate { return gate{queues: map[netip.Addr][]chan struct{}{}} }

// enter waits for the turn, which is the caller's until leave when it returns
// true. It returns false where too many wait already, or it waited too long.
func (g *gate) enter(t *attempt) bool {
	turn := g.queue(t.source)
	if turn == nil {
		return false
	}
	late := time.NewTimer(time.Until(t.by))
	defer late.Stop()
	select {
	case <-turn:
	case <-t.gone:
		g.abandon(t.source, turn)
		return false
	case <-late.C:
		g.abandon(t.source, turn)
		return false
	}
	pause := time.NewTimer(g.pause())
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-t.gone:
	case <-late.C:
	}
	g.leave(0)
	return false
}

func (g *gate) pause() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Until(g.rested)
}

// queue returns what is closed when the turn has come; nil where too many wait.
func (g *gate) queue(source netip.Addr) chan struct{} {
	turn := make(chan struct{})
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.taken {
		g.taken, g.holder = true, source
		close(turn)
		return turn
	}
	before := g.queues[source]
	if g.waiting >= maxAtGate || len(before) >= maxAtGateOfSource {
		return nil
	}
	if len(before) == 0 && source != g.holder {
		g.order = append(g.order, source)
	}
	g.queues[source] = append(before, turn)
	g.waiting++
	return turn
}

// abandon gives up waiting, or the turn where it came meanwhile.
func (g *gate) abandon(source netip.Addr, turn chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := slices.Index(g.queues[source], turn)
	if at < 0 {
		g.passLocked()
		return
	}
	g.waiting--
	g.queues[source] = slices.Delete(g.queues[source], at, at+1)
	if len(g.queues[source]) == 0 {
		delete(g.queues, source)
		g.order = slices.DeleteFunc(g.order, func(s netip.Addr) bool { return s == source })
	}
}

// leave ends the turn. The next has to let that time pass.
func (g *gate) leave(rest time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if rest > 0 {
		g.rested = time.Now().Add(rest)
	}
	g.passLocked()
}

func (g *gate) passLocked() {
	if len(g.queues[g.holder]) > 0 {
		g.order = append(g.order, g.holder)
	}
	if len(g.order) == 0 {
		g.taken = false
		return
	}
	source := g.order[0]
	g.order = slices.Delete(g.order, 0, 1)
	turn := g.queues[source][0]
	if g.queues[source] = g.queues[source][1:]; len(g.queues[source]) == 0 {
		delete(g.queues, source)
	}
	g.holder = source
	g.waiting--
	close(turn)
}
