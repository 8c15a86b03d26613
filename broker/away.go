package broker

import (
	"container/list"
	"context"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"edgeclaim"
)

// away is the sessions of devices that asked to be remembered and are not
// connected. mochi would keep any number, for as long as a device says, and
// leaves an expired one's subscriptions behind.
type away struct {
	mu     sync.Mutex
	order  *list.List // of absent, longest away first
	byID   map[edgeclaim.DeviceID]*list.Element
	max    int
	signal chan struct{} // some are due; capacity 1
}

type absent struct {
	id    edgeclaim.DeviceID
	cl    *mqtt.Client
	until time.Time
}

func newAway(limit int) away {
	return away{
		order:  list.New(),
		byID:   map[edgeclaim.DeviceID]*list.Element{},
		max:    limit,
		signal: make(chan struct{}, 1),
	}
}

func (a *away) add(s absent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e, ok := a.byID[s.id]; ok {
		a.order.Remove(e)
	}
	a.byID[s.id] = a.order.PushBack(s)
	if a.order.Len() > a.max {
		a.wake()
	}
}

// remove takes cl's session off the list; any client's of that id when cl is
// nil.
func (a *away) remove(id edgeclaim.DeviceID, cl *mqtt.Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.byID[id]
	if !ok {
		return
	}
	if s, ok := e.Value.(absent); ok && (cl == nil || s.cl == cl) {
		a.order.Remove(e)
		delete(a.byID, id)
	}
}

// void makes the session of id due, if it is on the list.
func (a *away) void(id edgeclaim.DeviceID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.byID[id]
	if !ok {
		return
	}
	if s, ok := e.Value.(absent); ok {
		s.until = time.Time{}
		e.Value = s
	}
	a.wake()
}

// wake has the list looked through.
func (a *away) wake() {
	select {
	case a.signal <- struct{}{}:
	default:
	}
}

// due returns those to be forgotten: too many, the longest away first, and
// those whose time has come. They stay until they are removed.
func (a *away) due(now time.Time) []absent {
	a.mu.Lock()
	defer a.mu.Unlock()
	var due []absent
	over := a.order.Len() - a.max
	for e := a.order.Front(); e != nil; e = e.Next() {
		s, ok := e.Value.(absent)
		if ok && (over > 0 || now.After(s.until)) {
			due = append(due, s)
		}
		over--
	}
	return due
}

// houseInterval is how often expired sessions are looked for.
const houseInterval = 30 * time.Second

// keepHouse forgets sessions until ctx is done. It takes one device's lock at a
// time, which those who overfill the house could not: they hold their own.
func (b *Broker) keepHouse(ctx context.Context) {
	tick := time.NewTicker(houseInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-b.away.signal:
		}
		for _, s := range b.away.due(time.Now()) {
			b.forgetAway(s)
		}
	}
}

func (b *Broker) forgetAway(s absent) {
	unlock := b.ids.lock(s.id)
	defer unlock()
	b.away.remove(s.id, s.cl)
	b.forget(s.cl) // unless it came back meanwhile: then it is another client's place
}
