package broker

import (
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"edgeclaim"
)

// Known reports whether mochi has a client of that id on its map, connected or
// not.
func (b *Broker) Known(id edgeclaim.DeviceID) bool {
	_, ok := b.server.Clients.Get(id.String())
	return ok
}

// Clients is how many mochi has on its map.
func (b *Broker) Clients() int { return b.server.Clients.Len() }

// PanicsSaid is how many panics are logged in a minute.
const PanicsSaid = panicsSaid

// UndecidedSaid is how many undecided logins are logged in a second.
const UndecidedSaid = undecidedSaid

// SayPanics has so many of them logged.
func (b *Broker) SayPanics(most int) { b.panics.most = most }

// Framer is the one of a connection.
type Framer struct{ f framer }

// NewFramer returns a framer with that limit.
func NewFramer(limit int) *Framer { return &Framer{framer{limit: limit}} }

// Feed is framer.feed.
func (f *Framer) Feed(p []byte) (int, bool, error) { return f.f.feed(p) }

// KeepAlive is the keep-alive that holds for a device, in seconds.
func (b *Broker) KeepAlive(id edgeclaim.DeviceID) uint16 {
	cl, ok := b.server.Clients.Get(id.String())
	if !ok {
		return 0
	}
	return cl.State.Keepalive
}

// Lock takes a device's lock.
func (b *Broker) Lock(id edgeclaim.DeviceID) (unlock func()) { return b.ids.lock(id) }

// Writing reports whether somebody writes to a device.
func (b *Broker) Writing(id edgeclaim.DeviceID) bool {
	cl, ok := b.server.Clients.Get(id.String())
	if !ok || !cl.TryLock() {
		return ok
	}
	cl.Unlock()
	return false
}

// Open is how many connections there are, whoever is on them.
func (b *Broker) Open() int { return len(b.all()) }

// FailAccepts makes the first n accepts fail, as they do for want of file
// descriptors. Call it before Run.
func (b *Broker) FailAccepts(n int64) {
	f := &flaky{Listener: b.doors[0].ln}
	f.left.Store(n)
	b.doors[0].ln = f
}

// flaky is a listener that fails.
type flaky struct {
	net.Listener
	left atomic.Int64
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.left.Add(-1) >= 0 {
		return nil, syscall.EMFILE
	}
	return f.Listener.Accept()
}

// Waiting is how many claims wait for approval.
func (b *Broker) Waiting() int { return b.waiting.len() }

// Displaced is how a connection was used that is taken over.
type Displaced struct{ Age, Silent time.Duration }

// Clones is what a broker remembers of takeovers.
type Clones struct{ k clones }

// NewClones remembers nothing.
func NewClones() *Clones { return &Clones{newClones()} }

// TakenOver is clones.takenOver.
func (c *Clones) TakenOver(now time.Time, id edgeclaim.DeviceID, from, to netip.Addr, was Displaced) (edgeclaim.Suspicion, bool) {
	return c.k.takenOver(now, id, displaced{source: from, age: was.Age, silent: was.Silent}, to)
}

// Len is how many devices are remembered.
func (c *Clones) Len() int {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	return min(len(c.k.byID), c.k.order.Len())
}

// Errands is how many devices there may be something for.
func (b *Broker) Errands() int {
	b.couriers.mu.Lock()
	defer b.couriers.mu.Unlock()
	return len(b.couriers.errands) + len(b.couriers.failed)
}

// Subscribed reports whether a device is subscribed to anything.
func (b *Broker) Subscribed(id edgeclaim.DeviceID) bool {
	cl, ok := b.server.Clients.Get(id.String())
	return ok && cl.State.Subscriptions.Len() > 0
}

// RoundStep and RoundEvery are the pace of rounds.
const (
	RoundStep  = roundStep
	RoundEvery = roundEvery
)

// Rounding reports whether a round is under way, or asked for.
func (b *Broker) Rounding() bool {
	b.couriers.mu.Lock()
	defer b.couriers.mu.Unlock()
	return len(b.couriers.round.left) > 0 || b.couriers.round.again
}
