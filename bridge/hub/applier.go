package hub

import (
	"context"
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

// tickEvery is how often the sessions are looked through, and what waits for
// the registry is tried again.
const tickEvery = 250 * time.Millisecond

// applier is the one that changes the registry: it takes what has come, in
// order, commits it in groups and answers. All in it is its goroutine's alone.
type applier struct {
	*Hub
	sessions *sessions
	states   map[string]registry.BoxState // by box, not stored yet
	health   *health
	orders   orders

	documents documents
	verdicts  verdicts
}

func newApplier(h *Hub) (*applier, error) {
	health, err := newHealth(&h.conf)
	if err != nil {
		return nil, err
	}
	return &applier{Hub: h, sessions: newSessions(&h.conf), states: map[string]registry.BoxState{}, health: health}, nil
}

// run works until ending is closed, and then until the queue is empty or ctx
// ends.
func (a *applier) run(ctx context.Context, ending <-chan struct{}) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case it := <-a.intake.queue:
			a.group(ctx, it)
		case <-tick.C:
			a.tick(ctx)
		case <-ending:
			a.drain(ctx)
			return
		}
	}
}

// drain takes what is left.
func (a *applier) drain(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case it := <-a.intake.queue:
			a.group(ctx, it)
		default:
			a.storeStates(ctx)
			return
		}
	}
}

// tick does what waits for its time.
func (a *applier) tick(ctx context.Context) {
	now := time.Now()
	welcome := a.sessions.sweep(now)
	a.figures.count(func(f *Figures) { f.Sessions = welcome })
	a.storeStates(ctx)
	for _, s := range a.sessions.byBox {
		// A box that said hello while the registry failed hears of it at once
		// when that works again.
		if s.hello != nil && ctx.Err() == nil {
			a.greet(ctx, s, s.hello.names, s.hello.hello)
		}
	}
	a.tellOrders(ctx, now)
	a.tellDocuments(ctx, now)
	a.tellShares(ctx, now)
	a.tellVerdicts(ctx, now)
}

// group takes an item and what is behind it, and commits all batches, pages,
// states, reports and wishes among them together.
func (a *applier) group(ctx context.Context, first item) {
	items := a.intake.more(first, a.conf.GroupMessages, a.conf.GroupBytes)
	defer a.intake.done(items)
	var pending []work
	for i := range items {
		n := items[i].names
		s := a.sessions.of(n, time.Now())
		switch m := items[i].message.(type) {
		case *wire.Batch:
			if a.admit(s, n, m.Epoch, m.Nonce) {
				pending = append(pending, work{s, registry.Item{Names: n, Batch: m}})
			}
		case *wire.SnapshotPage:
			if a.admit(s, n, m.Epoch, m.Nonce) {
				pending = append(pending, work{s, registry.Item{Names: n, Page: m}})
			}
		case *wire.States:
			if a.admit(s, n, m.Epoch, m.Nonce) {
				pending = append(pending, work{s, registry.Item{Names: n, States: m}})
			}
		case *wire.DocumentsReport:
			if a.admit(s, n, m.Epoch, m.Nonce) {
				pending = append(pending, work{s, registry.Item{Names: n, Report: m}})
			}
		case *wire.SharesWant:
			if a.admit(s, n, m.Epoch, m.Nonce) && s.shares.takes {
				pending = append(pending, work{s, registry.Item{Names: n, Wish: m}})
			}
		case *wire.Hello:
			// What came before it belongs to the session before it.
			if slices.ContainsFunc(pending, func(w work) bool { return w.session == s }) {
				a.apply(ctx, pending)
				pending = nil
			}
			a.hello(ctx, s, n, m)
		case *wire.Want:
			if a.admit(s, n, m.Epoch, m.Nonce) {
				a.want(ctx, s, m)
			}
		case *wire.State:
			a.note(s, n, m)
		case malformed:
			a.grumble(s, n, m.err)
		}
	}
	a.apply(ctx, pending)
}

// admit reports whether a message is of its box's session, and asks the box
// for a hello when it is not.
func (a *applier) admit(s *session, n wire.Names, epoch, nonce string) bool {
	now := time.Now()
	if s != nil && s.speaks(n, epoch, nonce) {
		s.told = now
		return s.welcomed // refused, it was told so
	}
	a.figures.count(func(f *Figures) { f.Foreign++ })
	if s == nil || !s.mayAsk(now, a.conf.AgainEvery) {
		return false
	}
	a.figures.count(func(f *Figures) { f.Asked++ })
	a.say(n, wire.KindControl, &wire.Again{Head: a.head(wire.TypeAgain, n, epoch, nonce)})
	return false
}

// note keeps a box's state for the registry.
func (a *applier) note(s *session, n wire.Names, m *wire.State) {
	if m.Box != n.Box || (m.Status != wire.Online && m.Status != wire.Offline) || !wire.IsEpoch(m.Epoch) {
		a.grumble(s, n, edgeclaim.Invalid("status", "want online or offline of the topic's box, and its epoch"))
		return
	}
	online := m.Status == wire.Online
	a.remember(registry.BoxState{
		Names: n, Online: online, Epoch: m.Epoch, At: a.now(),
		App: online && s != nil && s.welcomed && s.names == n && s.epoch == m.Epoch,
	})
}

// remember keeps a state for the registry; the last one of each box counts.
// Above the bound it is lost: the broker tells all states again when the hub
// next connects.
func (a *applier) remember(state registry.BoxState) {
	if _, waits := a.states[state.Names.Box]; waits || len(a.states) < a.conf.MaxBoxes {
		a.states[state.Names.Box] = state
	}
}

// storeStates gives the boxes' states to the registry.
func (a *applier) storeStates(ctx context.Context) {
	if len(a.states) == 0 || a.health.wait(nil, time.Now()) > 0 {
		return
	}
	list := make([]registry.BoxState, 0, len(a.states))
	for _, state := range a.states {
		list = append(list, state)
	}
	ctx, cancel := context.WithTimeout(ctx, a.conf.ApplyTimeout)
	defer cancel()
	if err := a.db.SetStates(ctx, list); err != nil {
		a.failed(nil, err)
		return
	}
	a.worked()
	clear(a.states)
}

// grumble counts a message that nobody can read, and logs it, once a minute for
// each box. err names a member and never repeats what was in it (P5).
func (a *applier) grumble(s *session, n wire.Names, err error) {
	a.figures.count(func(f *Figures) { f.Malformed++ })
	if s != nil && s.mayGrumble(time.Now()) {
		a.logger.Warn("message is malformed", "site", n.Site, "box_id", n.Box, "err", err)
	}
}

// head begins a message to a box.
func (a *applier) head(kind string, n wire.Names, epoch, nonce string) wire.Head {
	return wire.Head{Type: kind, Box: n.Box, Epoch: epoch, Nonce: nonce, Time: a.now().UTC()}
}

// say signs a message and sends it down, and reports whether it is on its way.
// One that cannot be sent is not kept: the box asks again, or is told again.
func (a *applier) say(n wire.Names, kind string, message wire.Down) bool {
	payload, err := wire.Seal(a.key, message)
	if err != nil {
		a.logger.Error("message could not be written", "kind", kind, "err", err)
		return false
	}
	if !a.out.send(n.Down(kind), payload) {
		a.figures.count(func(f *Figures) { f.Unsent++ })
		return false
	}
	return true
}
