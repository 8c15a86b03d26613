package broker

import (
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim"
)

// Inject publishes at QoS 1 as mochi's inline client does, which is how a
// message for a device will get in.
func (b *Broker) Inject(name string, payload []byte) error {
	inline := b.server.NewClient(nil, "local", "inline", true)
	return b.server.InjectPacket(inline, packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1},
		TopicName:   name,
		Payload:     payload,
		PacketID:    1,
	})
}

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

// Age makes what waits for a device two days old, lets mochi look for what it
// thinks expired, and returns how much is left.
func (b *Broker) Age(id edgeclaim.DeviceID) int {
	cl, ok := b.server.Clients.Get(id.String())
	if !ok {
		return 0
	}
	for _, pk := range cl.State.Inflight.GetAll(false) {
		pk.Created -= int64(48 * time.Hour / time.Second)
		cl.State.Inflight.Set(pk)
	}
	cl.ClearExpiredInflights(time.Now().Unix(), b.server.Options.Capabilities.MaximumMessageExpiryInterval)
	return cl.State.Inflight.Len()
}

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

// LastID is mochi's last packet id towards a device.
func (b *Broker) LastID(id edgeclaim.DeviceID) uint32 {
	cl, ok := b.server.Clients.Get(id.String())
	if !ok {
		return 0
	}
	return connOf(cl).ids.last.Load()
}

// Shown is the packet id that mochi is shown in place of one of a device's, when
// its own count towards the device is at last and those ids are on their way.
func (b *Broker) Shown(last, own uint16, onTheirWay ...uint16) uint16 {
	cl := b.server.NewClient(nil, "local", "x", false)
	for _, id := range onTheirWay {
		cl.State.Inflight.Set(packets.Packet{PacketID: id})
	}
	var ids packetIDs
	ids.last.Store(uint32(last))
	pk := packets.Packet{PacketID: own}
	ids.hide(cl, &pk)
	shown := pk.PacketID
	if ids.restore(&pk); pk.PacketID != own {
		return 0
	}
	return shown
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
