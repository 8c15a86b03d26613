package broker

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim/internal/mqttwire"
)

// What a user's connection may have waiting for it (P7). What is above costs
// the oldest; see consumer.
const (
	consumerMessages = 1_024
	consumerBytes    = 4 << 20
	// consumerInflight is how many messages of QoS 1 may wait for their PUBACK;
	// MQTT 5's Receive Maximum makes it less.
	consumerInflight = 256
	// consumerBatch is about how many bytes go out in one write.
	consumerBatch = 64 << 10
	// consumerReady is how many messages may wait for a member of a group before
	// the others have the next.
	consumerReady = 64
	// consumerMute is for how long a member may acknowledge nothing, with all on
	// its way that may be, before the others have the next.
	consumerMute = time.Second
	// consumerSaid is how often it is said at most what one has lost.
	consumerSaid = time.Minute
	// parcelCost is what a waiting message costs besides its bytes.
	parcelCost = 64
)

// consumer is a named user's connection, as far as it is told what devices say.
// Devices put messages into its queue, which never blocks; one goroutine writes
// them. Full, the oldest is dropped: a consumer that is slow is told what is new,
// and what must not be lost is upstream's. What waited for it when it ends, or
// was not acknowledged, is the other members' of the group that it was for.
type consumer struct {
	b    *Broker
	c    *conn
	cl   *mqtt.Client
	user *User

	version mqttwire.Version
	window  int // messages of QoS 1 that may wait for a PUBACK
	limit   int // of a packet, in bytes; 0: none of its own
	// signal says that there may be something to write; capacity 1.
	signal chan struct{}
	// ended is closed when the writing goroutine has; nil: it never began. Of
	// the reading goroutine.
	ended chan struct{}

	mu       sync.Mutex // guards what follows; nothing blocks under it
	queue    []parcel   // oldest first
	inflight map[uint16]parcel
	bytes    int // of queue and inflight
	lastID   uint16
	heard    time.Time // when the last PUBACK came
	gone     bool
	held     bool      // nothing is written for now
	dropped  uint64    // since it was said
	said     time.Time // when that was; monotonic
}

// parcel is a message on its way to one consumer.
type parcel struct {
	topic   string
	payload []byte // many consumers'; nobody changes it
	qos     byte
	group   *group // nil: it is for this consumer alone
}

func (p *parcel) cost() int { return len(p.topic) + len(p.payload) + parcelCost }

// fits reports whether it fits into a packet of that size, in bytes: the fixed
// header's type, up to 4 bytes of length, the topic's length, the packet id and
// no properties around it.
func (p *parcel) fits(limit int) bool {
	const most = 1 + 4 + 2 + 2 + 1
	size := len(p.topic) + len(p.payload)
	if limit == 0 || size+most <= limit {
		return true
	}
	return len(mqttwire.AppendPublish(nil, mqttwire.V5, &mqttwire.Message{Topic: p.topic, Payload: p.payload, QoS: p.qos, ID: 1})) <= limit
}

func newConsumer(b *Broker, c *conn, cl *mqtt.Client, user *User) *consumer {
	return &consumer{
		b: b, c: c, cl: cl, user: user, version: mqttwire.Version(cl.Properties.ProtocolVersion), window: consumerInflight,
		signal: make(chan struct{}, 1), inflight: map[uint16]parcel{},
	}
}

// listensTo takes what a CONNECT says of how much its client takes at once
// (MQTT 5.0, section 3.1.2.11); mochi's copy of it is not to be relied on.
func (k *consumer) listensTo(pk *packets.Packet) {
	if most := int(pk.Properties.ReceiveMaximum); most > 0 {
		k.window = min(k.window, most)
	}
	k.limit = int(pk.Properties.MaximumPacketSize)
}

// manner is how a message is offered to a consumer.
type manner byte

const (
	whenReady manner = iota // refused unless little waits for it
	whenRoom                // refused when it is full
	atAnyCost               // the oldest that waits gives way
)

// put puts a message into the queue, and returns false where it is not taken.
// What was dropped for it is counted. It never blocks.
func (k *consumer) put(p parcel, how manner) bool {
	taken, dropped := k.push(&p, how)
	if dropped > 0 {
		k.b.consumers.dropped.Add(dropped)
		k.sayDropped(consumerSaid)
	}
	return taken
}

func (k *consumer) push(p *parcel, how manner) (taken bool, dropped uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer func() { k.dropped += dropped }() // under the lock: what end does not see is not taken
	if k.gone || !p.fits(k.limit) && how != atAnyCost {
		return false, 0
	}
	if !p.fits(k.limit) { // it may not be sent, and is treated as if it were (section 3.1.2.11.4)
		return true, 1
	}
	if how == whenReady && !k.readyLocked() {
		return false, 0
	}
	for len(k.queue) >= consumerMessages || k.bytes+p.cost() > consumerBytes {
		if how != atAnyCost {
			return false, 0
		}
		dropped++
		if len(k.queue) == 0 { // what was not acknowledged takes all the room
			return true, dropped
		}
		k.shiftLocked()
	}
	k.queue = append(k.queue, *p)
	k.bytes += p.cost()
	k.wake()
	return true, dropped
}

// readyLocked reports whether a message would be written soon. One that has as
// much on its way as may be is ready while it acknowledges.
func (k *consumer) readyLocked() bool {
	return len(k.queue) < consumerReady && (len(k.inflight) < k.window || time.Since(k.heard) < consumerMute)
}

// shiftLocked takes the oldest out of the queue.
func (k *consumer) shiftLocked() parcel {
	p := k.queue[0]
	k.queue[0] = parcel{}
	k.queue = k.queue[1:]
	k.bytes -= p.cost()
	return p
}

func (k *consumer) wake() {
	select {
	case k.signal <- struct{}{}:
	default:
	}
}

// sayDropped says what was dropped since it was said last, if that is so long
// ago. It is called without consumer.mu.
func (k *consumer) sayDropped(every time.Duration) {
	now := time.Now()
	k.mu.Lock()
	dropped := k.dropped
	if dropped == 0 || now.Sub(k.said) < every {
		k.mu.Unlock()
		return
	}
	k.dropped, k.said = 0, now
	k.mu.Unlock()
	k.b.log.LogAttrs(context.Background(), slog.LevelWarn, "user is too slow, messages were dropped",
		slog.String("user", k.user.Name), slog.Any("source", k.c.source()), slog.Uint64("dropped", dropped))
}

// hold has nothing written until start: a SUBACK is on its way.
func (k *consumer) hold() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held = true
}

// start has the queue written from now on, by a goroutine that ends with the
// connection and is awaited by leave.
func (k *consumer) start() {
	k.mu.Lock()
	k.held = false
	k.mu.Unlock()
	k.wake()
	if k.ended != nil {
		return
	}
	k.ended = make(chan struct{})
	go k.write()
}

func (k *consumer) write() {
	defer close(k.ended)
	var out []byte
	for {
		select {
		case <-k.c.gone:
			return
		case <-k.signal:
		}
		for out = k.take(out[:0]); len(out) > 0; out = k.take(out[:0]) {
			k.b.write(k.c, k.cl, out)
			select {
			case <-k.c.gone: // what is left is others', or nobody's
				return
			default:
			}
		}
		if cap(out) > 2*consumerBatch {
			out = nil // a large message is no reason to keep its room
		}
	}
}

// take appends the packets of what is to be written next.
func (k *consumer) take(out []byte) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.queue) > 0 && len(out) < consumerBatch && !k.gone && !k.held {
		m := mqttwire.Message{Topic: k.queue[0].topic, Payload: k.queue[0].payload, QoS: k.queue[0].qos}
		if m.QoS > 0 {
			if len(k.inflight) >= k.window {
				break
			}
			m.ID = k.nextIDLocked()
		}
		p := k.shiftLocked()
		out = mqttwire.AppendPublish(out, k.version, &m)
		k.b.consumers.delivered.Add(1)
		if m.QoS == 0 {
			continue
		}
		if p.group == nil {
			p = parcel{} // nobody will want it again
		}
		k.inflight[m.ID] = p
		k.bytes += p.cost()
	}
	return out
}

// nextIDLocked is a packet id that is not on its way: there are more of them
// than may be.
func (k *consumer) nextIDLocked() uint16 {
	for {
		k.lastID++
		if _, taken := k.inflight[k.lastID]; !taken && k.lastID != 0 {
			return k.lastID
		}
	}
}

// acknowledged takes a PUBACK, and reports whether it was waited for.
func (k *consumer) acknowledged(id uint16) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, ok := k.inflight[id]
	if ok {
		delete(k.inflight, id)
		k.bytes -= p.cost()
		k.heard = time.Now()
		k.wake()
	}
	return ok
}

// end takes no more, and returns what others of a group may have instead, the
// oldest first: what was written and not acknowledged, then what waited.
func (k *consumer) end() []parcel {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = true
	ids := make([]uint16, 0, len(k.inflight))
	for id := range k.inflight {
		ids = append(ids, id)
	}
	first := k.lastID + 1 // the ids run in a ring, the last one is the newest
	slices.SortFunc(ids, func(a, b uint16) int { return int(a-first) - int(b-first) })
	all := make([]parcel, 0, len(ids)+len(k.queue))
	for _, id := range ids {
		all = append(all, k.inflight[id])
	}
	all = append(all, k.queue...)
	k.queue, k.inflight, k.bytes = nil, nil, 0
	return slices.DeleteFunc(all, func(p parcel) bool { return p.group == nil })
}
