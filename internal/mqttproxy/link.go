package mqttproxy

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"edgeclaim/internal/mqttwire"
)

// maxPacket bounds what is read for one packet, in bytes.
const maxPacket = 16 << 20

// reorderBy is how far a reordered packet falls behind.
const reorderBy = 5 * time.Millisecond

var errTooLarge = errors.New("mqttproxy: packet above 16 MiB")

// link is one client's connection and the proxy's own to the broker.
type link struct {
	proxy     *Proxy
	near, far net.Conn
	up, down  *queue

	// Under the proxy's lock.
	silenced Way
	greeted  bool // a CONNACK went to the client
	finished int  // ends that have closed, of two
}

func newLink(p *Proxy, near, far net.Conn) *link {
	return &link{proxy: p, near: near, far: far, up: newQueue(far), down: newQueue(near)}
}

func (l *link) silence(w Way) { l.silenced |= w }

// reset ends both connections with a RST.
func (l *link) reset() {
	for _, conn := range []net.Conn{l.near, l.far} {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // it may be closed already
		}
	}
	l.close()
}

func (l *link) close() {
	l.near.Close()
	l.far.Close()
	l.up.end()
	l.down.end()
}

// read takes packets off one end and lays them in the queue to the other,
// until the end closes.
func (l *link) read(from net.Conn, w Way, to *queue) {
	r := bufio.NewReaderSize(from, 64<<10)
	for {
		packet, err := readPacket(r)
		if err != nil {
			break
		}
		l.proxy.pass(l, w, packet, to)
	}
	l.proxy.finish(l, w, to)
}

// finish is the end of what comes from one end of a link.
func (p *Proxy) finish(l *link, w Way, to *queue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A silent link does not carry a FIN either: the other end has to find out
	// by itself.
	if l.silenced&w == 0 {
		to.push(piece{last: true, due: to.inOrder(time.Now(), p.faults.Delay)})
	}
	if l.finished++; l.finished == 2 {
		l.close()
		delete(p.links, l)
	}
}

// pass judges a packet and queues what is left of it.
func (p *Proxy) pass(l *link, w Way, packet []byte, to *queue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.silenced&w != 0 {
		return
	}
	now := time.Now()
	kind := mqttwire.Type(packet[0] >> 4)
	if w == Up || (kind != mqttwire.Publish && kind != mqttwire.Puback && kind != mqttwire.Connack) {
		to.push(piece{bytes: packet, due: to.inOrder(now, p.faults.Delay)})
		return
	}
	switch f := &p.faults; {
	case kind == mqttwire.Connack:
		l.greeted = true
		to.push(piece{bytes: packet, due: to.inOrder(now, f.Delay)})
		if p.drawn(f.Kick, &p.counts.Kicked) {
			to.push(piece{kick: l, due: to.inOrder(now, f.Delay)})
		}
	case kind == mqttwire.Puback && p.drawn(f.PubackLost, &p.counts.PubacksLost),
		kind == mqttwire.Publish && p.drawn(f.Lost, &p.counts.Lost):
	case kind == mqttwire.Publish && p.drawn(f.Twice, &p.counts.Twice):
		to.push(piece{bytes: packet, due: to.inOrder(now, f.Delay)})
		to.push(piece{bytes: packet, due: now.Add(f.Delay + p.upTo(f.LateBy))})
	case kind == mqttwire.Publish && p.drawn(f.Late, &p.counts.Late):
		to.push(piece{bytes: packet, due: now.Add(f.Delay + p.upTo(f.LateBy))})
	case kind == mqttwire.Publish && p.drawn(f.Reordered, &p.counts.Reordered):
		to.push(piece{bytes: packet, due: now.Add(f.Delay + reorderBy)})
	default:
		to.push(piece{bytes: packet, due: to.inOrder(now, f.Delay)})
	}
}

// drawn draws a chance and counts a hit.
func (p *Proxy) drawn(chance float64, count *int) bool {
	if chance <= 0 || p.chance.Float64() >= chance {
		return false
	}
	*count++
	return true
}

func (p *Proxy) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(p.chance.Int64N(int64(d)))
}

// readPacket returns the next packet as it is, header and all.
func readPacket(r *bufio.Reader) ([]byte, error) {
	head, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	size, err := binary.ReadUvarint(r) // MQTT's form, section 2.2.3, is the same
	if err != nil {
		return nil, err
	}
	if size > maxPacket {
		return nil, errTooLarge
	}
	packet := binary.AppendUvarint([]byte{head}, size)
	start := len(packet)
	packet = append(packet, make([]byte, size)...)
	_, err = io.ReadFull(r, packet[start:])
	return packet, err
}
