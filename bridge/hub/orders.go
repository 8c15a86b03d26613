package hub

import (
	"context"
	"time"

	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

const (
	// ordersEvery is how often the registry is asked for commands that wait.
	ordersEvery = time.Second
	// orderAgain is how long a box is given to say a status of a command before
	// it is told again: messages down may be lost.
	orderAgain = 10 * time.Second
	// boxOrders is how many commands without a status a box is told at once. It
	// holds 256 in a letter of its own; those behind wait for these.
	boxOrders = 256
	// orderHead and orderRoom are more than a message of commands, and one of
	// its orders beside the payload, take.
	orderHead = 1024
	orderRoom = 256
)

// orders is what the applier remembers of the commands that wait. Nothing in it
// is needed: what is forgotten is told once more, which does nothing (P8).
type orders struct {
	next  time.Time // when the registry is asked again
	after int64     // where the round through the old ones stands
	known int64     // the newest command seen; those above it are new
}

// forBox is what one box is told in one go.
type forBox struct {
	session *session
	due     []registry.Due
}

// tellOrders tells the boxes that are welcome of the commands that wait for
// them: the new ones, and one page of the old ones, so that many waiting
// commands cost no more than few.
func (a *applier) tellOrders(ctx context.Context, now time.Time) {
	if now.Before(a.orders.next) || a.health.wait(nil, now) > 0 {
		return
	}
	a.orders.next = now.Add(ordersEvery)
	ctx, cancel := context.WithTimeout(ctx, a.conf.ApplyTimeout)
	defer cancel()
	due, err := a.dueOrders(ctx)
	if err == nil {
		err = a.tellAll(ctx, due, now)
	}
	if err != nil {
		// It says nothing of whether the registry takes what boxes tell.
		a.orders.next = time.Now().Add(a.conf.RetryLimit)
		a.logger.Error("commands could not be read, or noted as told", "err", err, "retry_in", a.conf.RetryLimit)
	}
}

// tellAll tells what is due to the boxes that are welcome.
func (a *applier) tellAll(ctx context.Context, due []registry.Due, now time.Time) error {
	var order []*forBox
	of := map[*session]*forBox{}
	for _, d := range due {
		s := a.sessions.byBox[d.Box.Box]
		if s == nil || !s.welcomed || s.names != d.Box || !s.mayOrder(&d, now) {
			continue
		}
		if of[s] == nil {
			of[s] = &forBox{session: s}
			order = append(order, of[s])
		}
		of[s].due = append(of[s].due, d)
	}
	for _, box := range order {
		if err := a.tellBox(ctx, box); err != nil {
			return err
		}
	}
	return nil
}

// dueOrders reads the next page of what waits, and what is new.
func (a *applier) dueOrders(ctx context.Context) ([]registry.Due, error) {
	begin := a.orders.after
	page, err := a.db.CommandsDue(ctx, begin)
	if err != nil {
		return nil, err
	}
	due, expired := page.Due, page.Expired
	a.orders.after = 0
	if page.More {
		a.orders.after = page.Last
	}
	if page.More && a.orders.known > page.Last {
		fresh, err := a.db.CommandsDue(ctx, a.orders.known)
		if err != nil {
			return nil, err
		}
		due, expired = append(due, fresh.Due...), expired || fresh.Expired
		a.orders.known = fresh.Last
	}
	a.orders.known = max(a.orders.known, page.Last)
	if begin == 0 && !page.More {
		a.sessions.forgetOrders(due)
	}
	if expired {
		return due, a.db.ExpireCommands(ctx)
	}
	return due, nil
}

// forgetOrders makes room for others when all that waits is known: of what does
// not wait any more, the boxes have said a status.
func (t *sessions) forgetOrders(due []registry.Due) {
	waits := make(map[orderKey]bool, len(due))
	for _, d := range due {
		waits[orderKey{d.Number, d.Cancel}] = true
	}
	for _, s := range t.byBox {
		for key := range s.ordered {
			if !waits[key] {
				delete(s.ordered, key)
			}
		}
	}
}

// mayOrder reports whether the box is to be told now, and notes it.
func (s *session) mayOrder(d *registry.Due, now time.Time) bool {
	key := orderKey{d.Number, d.Cancel}
	if at, told := s.ordered[key]; told && now.Sub(at) < orderAgain {
		return false
	}
	if len(s.ordered) >= boxOrders {
		for other, at := range s.ordered {
			if now.Sub(at) >= orderAgain {
				delete(s.ordered, other)
			}
		}
	}
	if len(s.ordered) >= boxOrders {
		return false
	}
	if s.ordered == nil {
		s.ordered = map[orderKey]time.Time{}
	}
	s.ordered[key] = now
	return true
}

// tellBox tells one box, in as many messages as it takes: what is due is noted
// as told before (it can be cancelled here no more).
func (a *applier) tellBox(ctx context.Context, box *forBox) error {
	orders, err := a.db.TellCommands(ctx, box.due)
	if err != nil {
		return err
	}
	s := box.session
	message, size := a.newCommands(s), orderHead
	send := func() {
		if n := len(message.Commands) + len(message.Cancel); n > 0 {
			a.say(s.names, wire.KindCommand, message)
			a.figures.count(func(f *Figures) { f.Orders += uint64(n) })
		}
		message, size = a.newCommands(s), orderHead
	}
	for _, d := range box.due {
		order, ok := orders[d.Number]
		if !ok && !d.Cancel {
			continue // it was cancelled meanwhile
		}
		length := orderRoom + len(order.Payload)
		if size+length > pageBytes {
			send()
		}
		size += length
		if d.Cancel {
			message.Cancel = append(message.Cancel, d.Name)
		} else {
			message.Commands = append(message.Commands, order)
		}
	}
	send()
	return nil
}

func (a *applier) newCommands(s *session) *wire.Commands {
	return &wire.Commands{Head: a.head(wire.TypeCommand, s.names, s.epoch, s.nonce)}
}
