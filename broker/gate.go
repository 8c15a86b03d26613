package broker

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxAtGate is how many logins may wait for their turn to compute,
	// maxAtGateOfSource how many of one source, maxAtGateOfName how many of those
	// with one name: whoever is right lets the others in that are.
	maxAtGate         = 256
	maxAtGateOfSource = 32
	maxAtGateOfName   = 4
)

// gate lets one login at a time compute. The sources that wait take turns, and
// in each its names do, so that a flood from one, or for one, keeps nobody else
// out. Names are as they were sent: to treat those that nobody has otherwise
// would tell which somebody has (P3).
type gate struct {
	mu      sync.Mutex
	taken   bool
	holder  caller    // whose turn it is; it is in order when that ends
	rested  time.Time // nobody computes before that
	waiting int
	order   []netip.Addr // sources that wait, next first
	queues  map[netip.Addr]*sourceQueue
}

type caller struct {
	source netip.Addr
	name   string
}

// sourceQueue is the logins of one source that wait: one at least.
type sourceQueue struct {
	waiting int
	order   []string // names that wait, next first
	turns   map[string][]chan struct{}
}

func newGate() gate { return gate{queues: map[netip.Addr]*sourceQueue{}} }

// enter waits for the turn, which is the caller's until leave when it returns
// true. It returns false where too many wait already, or it waited too long.
func (g *gate) enter(t *attempt) bool {
	at := caller{source: t.source, name: t.name}
	turn := g.queue(at)
	if turn == nil {
		return false
	}
	late := time.NewTimer(time.Until(t.by))
	defer late.Stop()
	select {
	case <-turn:
	case <-t.gone:
		g.abandon(at, turn)
		return false
	case <-late.C:
		g.abandon(at, turn)
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
func (g *gate) queue(at caller) chan struct{} {
	turn := make(chan struct{})
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.taken {
		g.taken, g.holder = true, at
		close(turn)
		return turn
	}
	q := g.queues[at.source]
	if g.waiting >= maxAtGate || q != nil && (q.waiting >= maxAtGateOfSource || len(q.turns[at.name]) >= maxAtGateOfName) {
		return nil
	}
	if q == nil {
		q = &sourceQueue{turns: map[string][]chan struct{}{}}
		g.queues[at.source] = q
		if at.source != g.holder.source {
			g.order = append(g.order, at.source)
		}
	}
	if len(q.turns[at.name]) == 0 && at != g.holder {
		q.order = append(q.order, at.name)
	}
	q.turns[at.name] = append(q.turns[at.name], turn)
	q.waiting++
	g.waiting++
	return turn
}

// abandon gives up waiting, or the turn where it came meanwhile.
func (g *gate) abandon(at caller, turn chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q, n := g.queues[at.source], -1
	if q != nil {
		n = slices.Index(q.turns[at.name], turn)
	}
	if n < 0 {
		g.passLocked()
		return
	}
	g.removeLocked(at, n)
	if len(q.turns[at.name]) == 0 {
		q.order = slices.DeleteFunc(q.order, func(s string) bool { return s == at.name })
	}
	if q.waiting == 0 {
		g.order = slices.DeleteFunc(g.order, func(s netip.Addr) bool { return s == at.source })
	}
}

// removeLocked takes the nth of those that wait as at does.
func (g *gate) removeLocked(at caller, n int) {
	q := g.queues[at.source]
	q.turns[at.name] = slices.Delete(q.turns[at.name], n, n+1)
	if len(q.turns[at.name]) == 0 {
		delete(q.turns, at.name)
	}
	q.waiting--
	g.waiting--
	if q.waiting == 0 {
		delete(g.queues, at.source)
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
	if q := g.queues[g.holder.source]; q != nil {
		g.order = append(g.order, g.holder.source)
		if len(q.turns[g.holder.name]) > 0 {
			q.order = append(q.order, g.holder.name)
		}
	}
	if len(g.order) == 0 {
		g.taken = false
		return
	}
	source := g.order[0]
	g.order = slices.Delete(g.order, 0, 1)
	q := g.queues[source]
	g.holder = caller{source: source, name: q.order[0]}
	q.order = slices.Delete(q.order, 0, 1)
	turn := q.turns[g.holder.name][0]
	g.removeLocked(g.holder, 0)
	close(turn)
}
