package broker

import (
	"net/netip"
	"time"

	"edgeclaim"
)

// Deliver tells users a device's message.
func (b *Broker) Deliver(name string, payload []byte, qos byte) { b.deliver(name, payload, qos) }

// Filters is how many filters users have subscribed to, all told.
func (b *Broker) Filters() int { return int(b.consumers.filters.Load()) }

// Rested is until when nobody computes.
func (b *Broker) Rested() time.Time {
	b.accounts.gate.mu.Lock()
	defer b.accounts.gate.mu.Unlock()
	return b.accounts.gate.rested
}

// MinutePasses has what a user lost said again.
func (b *Broker) MinutePasses() {
	s := b.consumers
	s.mu.RLock()
	defer s.mu.RUnlock()
	for k := range s.all {
		k.mu.Lock()
		k.said = k.said.Add(-consumerSaid)
		k.mu.Unlock()
	}
}

// Subscriptions is how many users have, members of groups among them.
func (b *Broker) Subscriptions() (n int) {
	s := b.consumers
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, table := range []map[string]*route{s.exact, s.wild} {
		for _, r := range table {
			n += len(r.direct)
			for _, g := range r.groups {
				n += len(g.members)
			}
		}
	}
	return n
}

// What may wait for one consumer.
const (
	ConsumerMessages = consumerMessages
	ConsumerBytes    = consumerBytes
	ConsumerInflight = consumerInflight
)

// ParseOrder is parseOrder.
func ParseOrder(body []byte, now time.Time) (edgeclaim.Order, error) { return parseOrder(body, now) }

// Gate is where logins wait.
type Gate struct{ g gate }

// NewGate returns one that nobody is in.
func NewGate() *Gate { return &Gate{newGate()} }

// How many may wait at a gate.
const (
	MaxAtGate         = maxAtGate
	MaxAtGateOfSource = maxAtGateOfSource
	MaxAtGateOfName   = maxAtGateOfName
)

// Enter is gate.enter.
func (g *Gate) Enter(source netip.Addr, name string, gone <-chan struct{}, by time.Time) bool {
	return g.g.enter(&attempt{name: name, source: source, gone: gone, by: by})
}

// Leave is gate.leave.
func (g *Gate) Leave(rest time.Duration) { g.g.leave(rest) }

// Waiting is how many wait, of all sources, and whether one is in.
func (g *Gate) Waiting() (waiting, sources int, taken bool) {
	g.g.mu.Lock()
	defer g.g.mu.Unlock()
	return g.g.waiting, len(g.g.order) + len(g.g.queues), g.g.taken
}
