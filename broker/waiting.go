package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/sync/errgroup"

	"edgeclaim"
)

// waiter is a claim that was told to wait for an operator, and the connection
// that waits with it.
type waiter struct {
	c   *conn
	cl  *mqtt.Client
	ask edgeclaim.Ask
	q   question // the answer goes where it says

	// Guarded by waiting.mu.
	ref    edgeclaim.ClaimRef
	asking bool // it is being asked again
}

// waiting is the claims that wait for approval: one at most of a connection, so
// they are bounded as claimants are. It forgets nothing else: who is decided on
// while nobody waits claims again by himself.
type waiting struct {
	mu        sync.Mutex
	byRef     map[edgeclaim.ClaimRef]map[*waiter]struct{}
	byConn    map[*conn]*waiter // those being asked again as well
	due       []*waiter
	decisions uint64
	signal    chan struct{} // some are due; capacity 1
}

func newWaiting() waiting {
	return waiting{
		byRef:  map[edgeclaim.ClaimRef]map[*waiter]struct{}{},
		byConn: map[*conn]*waiter{},
		signal: make(chan struct{}, 1),
	}
}

// begin says that c asks something: what waits there waits no more. What it
// returns is for park.
func (w *waiting) begin(c *conn) (decisions uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.byConn[c]; x != nil {
		w.removeLocked(x)
	}
	return w.decisions
}

// park has x wait for ref. Where something was decided since begin, which may
// have been about x, it is due at once: to ask once too often harms nobody.
func (w *waiting) park(x *waiter, ref edgeclaim.ClaimRef, decisions uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x.asking && w.byConn[x.c] != x {
		return // its connection ended while it was asked again
	}
	x.asking, x.ref = false, ref
	w.byConn[x.c] = x
	if w.decisions != decisions {
		w.due = append(w.due, x)
		w.wake()
		return
	}
	same := w.byRef[x.ref]
	if same == nil {
		same = map[*waiter]struct{}{}
		w.byRef[x.ref] = same
	}
	same[x] = struct{}{}
}

// decided makes due who waits for that decision.
func (w *waiting) decided(ref edgeclaim.ClaimRef) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decisions++
	for x := range w.byRef[ref] {
		w.due = append(w.due, x)
	}
	delete(w.byRef, ref)
	w.wake()
}

// next is one that is due, to be asked again; nil for none.
func (w *waiting) next() *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.due) > 0 {
		x := w.due[0]
		w.due[0] = nil
		if w.due = w.due[1:]; len(w.due) == 0 {
			w.due = nil
		}
		if w.byConn[x.c] == x {
			x.asking = true
			return x
		}
	}
	return nil
}

// again reports whether x is still what its connection waits for, and how many
// decisions there were; see begin.
func (w *waiting) again(x *waiter) (decisions uint64, waits bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.decisions, w.byConn[x.c] == x
}

// holds reports whether c only waits.
func (w *waiting) holds(c *conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.byConn[c]
	return x != nil && !x.asking
}

// len is how many wait.
func (w *waiting) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.byConn)
}

func (w *waiting) removeLocked(x *waiter) {
	delete(w.byConn, x.c)
	if same := w.byRef[x.ref]; same != nil {
		delete(same, x)
		if len(same) == 0 {
			delete(w.byRef, x.ref)
		}
	}
}

func (w *waiting) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// Decided says that an operator has approved or refused: who waits for it over
// this face is told. It never blocks.
func (b *Broker) Decided(ref edgeclaim.ClaimRef) { b.waiting.decided(ref) }

// askAgainAtOnce is how many waiting claims are asked again side by side.
const askAgainAtOnce = 16

// tellDecided asks again for those that are due, until the broker stops. Run
// starts and awaits it.
func (b *Broker) tellDecided() {
	var group errgroup.Group
	group.SetLimit(askAgainAtOnce)
	defer func() { _ = group.Wait() }() // askAgain has no error
	for {
		select {
		case <-b.stopped:
			return
		case <-b.waiting.signal:
		}
		for x := b.waiting.next(); x != nil; x = b.waiting.next() {
			group.Go(func() error {
				b.askAgain(x)
				return nil
			})
		}
	}
}

// askAgain puts a claim that waited to the rule once more, and writes the
// answer unless it is to wait on. There is no second PUBACK.
func (b *Broker) askAgain(x *waiter) {
	defer func() {
		if v := recover(); v != nil {
			b.logPanic("ask again", v)
			x.c.Close()
		}
	}()
	x.c.turn.Lock()
	defer x.c.turn.Unlock()
	decisions, waits := b.waiting.again(x)
	if !waits { // it asked something else meanwhile, or went
		return
	}
	defer b.stopping(x.cl)         // a stop leaves alone who is being asked for
	if !listens(x.cl, x.q.where) { // nothing is made for who would not hear of it
		b.waiting.begin(x.c)
		b.unpark(x.c)
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.ClaimTimeout)
	defer cancel()
	ask := x.ask
	ask.ReceivedAt = time.Now()
	ans := b.parts.Claims.Answer(ctx, ask)
	if !ans.Waiting.IsZero() {
		b.waiting.park(x, ans.Waiting, decisions)
		return
	}
	b.waiting.begin(x.c)
	b.write(x.c, x.cl, appendAnswer(nil, x.cl, &x.q, ans.Body))
	b.log.LogAttrs(b.ctx, slog.LevelDebug, "claim answered after a wait",
		slog.Any("source", x.c.source()), slog.Int("code", int(ans.Code)))
	b.unpark(x.c)
	b.judge(x.c, x.cl, ans.Code)
}

// unpark makes a claimant that waited an idle one.
func (b *Broker) unpark(c *conn) {
	c.act()
	c.parked.Store(false)
	b.claimants.rest(c)
	_ = c.SetReadDeadline(c.idleAt()) // until its next packet; a closed one has ended anyway
}

// judge ends a connection whose claim was not decided, so that it is sent
// again on the next, or that was refused too often. The caller holds its turn.
func (b *Broker) judge(c *conn, cl *mqtt.Client, code edgeclaim.Code) {
	switch {
	case undecided(code):
		b.hangUp(cl, packets.ErrServerBusy)
	case refusal(code):
		if c.refused++; c.refused >= b.cfg.MaxRefused {
			b.hangUp(cl, packets.ErrQuotaExceeded)
		}
	}
}

// refusal reports whether that code counts as one refused claim.
func refusal(code edgeclaim.Code) bool {
	return code == edgeclaim.CodePermissionDenied || code == edgeclaim.CodeInvalidArgument ||
		code == edgeclaim.CodeResourceExhausted
}

// stopping ends a connection that is through with its work once the broker
// stops.
func (b *Broker) stopping(cl *mqtt.Client) {
	select {
	case <-b.stopped:
		b.hangUp(cl, packets.ErrServerShuttingDown)
	default:
	}
}
