package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// Packet types (MQTT 3.1.1, section 2.2.1).
const (
	typeConnack  = 2
	typePublish  = 3
	typePuback   = 4
	typeSuback   = 9
	typePingresp = 13
)

// qos1 is QoS 1 in the flags of a PUBLISH (section 3.3.1.2).
const qos1 = 0x02

const (
	// connackRefusals is how many return codes refuse (section 3.2.2.3).
	connackRefusals = 5
	// subackOne is the length of a SUBACK to one topic filter.
	subackOne = 3
	// maxLengthBytes is how long the remaining length may be (section 2.2.3).
	maxLengthBytes = 4
)

// The ways a peer is not an MQTT 3.1.1 broker.
var (
	errNotMQTT     = errors.New("the peer does not speak MQTT 3.1.1")
	errNoConnack   = errors.New("the peer's first packet is not a CONNACK")
	errTwoConnacks = errors.New("the broker sent a second CONNACK")
)

// guard follows the packets that a broker sends, and sorts out what is passed
// on.
type guard struct {
	maxInbound int
	oversized  func(bytes int) // nil: a PUBLISH above maxInbound may not come
	discarded  func(id uint16) // told of each QoS 1 PUBLISH that was thrown away
	acks       acks
	pass       []byte // what may be passed on, in order

	connected bool
	state     readState
	skipping  bool // the packet is thrown away
	header    byte
	fixed     []byte // the fixed header, held back until the packet is admitted
	length    int    // remaining length
	shift     int
	seen      int     // how much of the body has come
	head      [2]byte // the first bytes of the packet's body
	id        [2]byte // the packet id, of a PUBLISH that is thrown away
}

type readState int

const (
	atHeader readState = iota
	atLength
	inBody
)

// read follows p, which comes next in the stream. Its error says what may not
// come, and is final.
func (g *guard) read(p []byte) error {
	for len(p) > 0 {
		n, err := 1, error(nil)
		switch g.state {
		case atHeader:
			g.header, g.length, g.shift, g.seen, g.state = p[0], 0, 0, 0, atLength
			g.fixed = append(g.fixed[:0], p[0])
		case atLength:
			g.fixed = append(g.fixed, p[0])
			err = g.readLength(p[0])
		case inBody:
			n, err = g.readBody(p)
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// readLength takes one byte of the remaining length (section 2.2.3).
func (g *guard) readLength(b byte) error {
	g.length |= int(b&0x7f) << g.shift
	g.shift += 7
	switch {
	case b&0x80 == 0:
		if err := g.admit(); err != nil {
			return err
		}
		if !g.skipping {
			g.pass = append(g.pass, g.fixed...)
		}
	case g.shift == 7*maxLengthBytes:
		return errNotMQTT
	}
	return nil
}

// readBody takes what p has of the packet's body and returns how much that is.
func (g *guard) readBody(p []byte) (int, error) {
	n := min(len(p), g.length-g.seen)
	if g.seen < len(g.head) {
		copy(g.head[g.seen:], p[:n])
	}
	if g.skipping {
		// The id stands behind the topic, whose length is in front.
		for i, at := 0, 2+int(binary.BigEndian.Uint16(g.head[:]))-g.seen; i < len(g.id); i++ {
			if at+i >= 0 && at+i < n {
				g.id[i] = p[at+i]
			}
		}
	} else {
		g.pass = append(g.pass, p[:n]...)
	}
	g.seen += n
	if g.seen < g.length {
		return n, nil
	}
	g.state = atHeader
	return n, g.finish()
}

// admit judges a packet by its fixed header, before anything is allocated for
// the rest.
func (g *guard) admit() error {
	g.state, g.skipping = inBody, false
	kind := g.header >> 4
	if !g.connected && kind != typeConnack {
		return errNoConnack
	}
	switch {
	case kind == typeConnack && g.connected:
		return errTwoConnacks
	case g.header == typeConnack<<4 && g.length == 2, g.header == typePuback<<4 && g.length == 2:
		return nil
	case g.header == typePingresp<<4 && g.length == 0:
		g.state = atHeader
		return nil
	case kind == typePublish && g.maxInbound > 0 && g.length > g.maxInbound && g.oversized != nil && g.header&0x04 == 0:
		g.skipping, g.id = true, [2]byte{}
		return nil
	case kind == typePublish && g.maxInbound > 0 && g.length > g.maxInbound:
		return fmt.Errorf("the broker sent a message of %d bytes, more than %d", g.length, g.maxInbound)
	case kind == typePublish && g.maxInbound > 0 && g.length >= 2:
		return nil
	case g.header == typeSuback<<4 && g.maxInbound > 0 && g.length == subackOne:
		return nil
	}
	return fmt.Errorf("the broker sent a packet of type %d, flags %d, length %d, which may not come here",
		kind, g.header&0x0f, g.length)
}

// finish acts on a packet that has come whole.
func (g *guard) finish() error {
	if g.skipping {
		g.oversized(g.length)
		if id := binary.BigEndian.Uint16(g.id[:]); g.header&0x06 == qos1 && id != 0 {
			g.discarded(id)
		}
		return nil
	}
	switch g.header >> 4 {
	case typeConnack:
		if code := g.head[1]; code > connackRefusals {
			return fmt.Errorf("the broker answered CONNECT with the unknown code %d", code)
		}
		g.connected = true
	case typePuback:
		g.acks.received(binary.BigEndian.Uint16(g.head[:]))
	}
	return nil
}

// acks knows which packet ids were sent in a QoS 1 PUBLISH and which of those
// a PUBACK came for. It is safe for concurrent use.
type acks struct {
	mu     sync.Mutex
	flight bitset
	acked  bitset
}

// sent notes a packet about to be written.
func (a *acks) sent(packet []byte) {
	id, ok := publishID(packet)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flight.set(id)
	a.acked.clear(id)
}

// received notes a PUBACK. One for what was not sent counts for nothing.
func (a *acks) received(id uint16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.flight.has(id) {
		a.flight.clear(id)
		a.acked.set(id)
	}
}

func (a *acks) has(id uint16) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.acked.has(id)
}

// publishID returns the packet id of a PUBLISH with QoS 1 (section 3.3.2).
func publishID(packet []byte) (uint16, bool) {
	if len(packet) < 2 || packet[0]>>4 != typePublish || packet[0]&0x06 != qos1 {
		return 0, false
	}
	at := 1
	for at < len(packet) && at < maxLengthBytes && packet[at]&0x80 != 0 {
		at++
	}
	at++
	if len(packet) < at+2 {
		return 0, false
	}
	at += 2 + int(binary.BigEndian.Uint16(packet[at:]))
	if len(packet) < at+2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(packet[at:]), true
}

// bitset holds packet ids: 8 KiB whatever happens.
type bitset [1 << 16 / 64]uint64

func (b *bitset) set(id uint16)      { b[id/64] |= 1 << (id % 64) }
func (b *bitset) clear(id uint16)    { b[id/64] &^= 1 << (id % 64) }
func (b *bitset) has(id uint16) bool { return b[id/64]&(1<<(id%64)) != 0 }
