// Package link is the connection under an MQTT 3.1.1 client: dialled with a
// deadline over everything, a deadline on every write, and a guard that reads
// along and passes on only what may come at that point.
//
// The guard exists because the client library above trusts its peer: an
// unknown CONNACK code counts as success, a SUBACK or PUBCOMP with the number
// of a message in flight completes that message, one SUBACK code too many is
// an index out of range in a goroutine that nothing recovers, and a length of
// 256 MiB is allocated before a byte of it has come.
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// TCP's own view of a dead peer: probes while idle. A limit on how long sent
// bytes may stay unacknowledged is set where the system has one.
const (
	keepAliveIdle     = 20 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
)

// chunkSize is how much one read of the connection takes at most, in bytes.
const chunkSize = 16 << 10

// ErrClosed is the fault of a link that this side closed.
var ErrClosed = errors.New("connection closed by this side")

// Options is how to reach a broker and what it may send.
type Options struct {
	// Address is host:port.
	Address string
	// TLS, when not nil, is the configuration of a TLS client.
	TLS *tls.Config
	// ConnectTimeout bounds name lookup, TCP and TLS together.
	ConnectTimeout time.Duration
	// WriteTimeout bounds every single write.
	WriteTimeout time.Duration
	// MaxInbound is the largest PUBLISH that may come, in bytes after its
	// fixed header. At 0 neither PUBLISH nor SUBACK may come at all.
	MaxInbound int
	// OnOversized, when not nil, is told of a PUBLISH above MaxInbound, with
	// QoS 0 or 1, that was read over and not passed on; of QoS 1 the link
	// acknowledges it itself, or the broker would keep it in flight for ever.
	// nil: such a PUBLISH ends the link.
	OnOversized func(bytes int)
}

// Link is a net.Conn. It closes itself on the first failed write and on the
// first packet that may not come; Fault then says why.
type Link struct {
	net.Conn
	writeTimeout time.Duration

	guard guard  // the reader's alone, but for its acks
	chunk []byte // the reader's; what one read of the connection takes
	ready []byte // the reader's; a part of guard.pass, not yet passed on

	mu    sync.Mutex
	fault error // guarded by mu; the first reason the link ended
}

// Dial opens a link. It returns as soon as ctx ends.
func Dial(ctx context.Context, o Options) (*Link, error) {
	ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
	defer cancel()
	dialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount,
		},
		Control: limitUnacknowledged,
	}
	conn, err := dialer.DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return nil, err
	}
	if o.TLS != nil {
		secure := tls.Client(conn, o.TLS)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, fmt.Errorf("tls: %w", err)
		}
		conn = secure
	}
	l := &Link{Conn: conn, writeTimeout: o.WriteTimeout, chunk: make([]byte, chunkSize)}
	l.guard = guard{maxInbound: o.MaxInbound, oversized: o.OnOversized, discarded: l.acknowledge}
	return l, nil
}

// acknowledge sends the PUBACK of a message that is not passed on.
func (l *Link) acknowledge(id uint16) {
	_, _ = l.Write([]byte{typePuback << 4, 2, byte(id >> 8), byte(id)}) // a failure has ended the link
}

// Read passes on what the peer sent, up to the first packet that may not come.
// Its error is always the link's fault: the library above takes the standard
// library's error for a closed connection as its own doing, and would stay.
func (l *Link) Read(p []byte) (int, error) {
	for len(l.ready) == 0 {
		n, err := l.Conn.Read(l.chunk)
		l.guard.pass = l.guard.pass[:0]
		if bad := l.guard.read(l.chunk[:n]); bad != nil {
			return 0, l.end(bad)
		}
		l.ready = l.guard.pass
		if err != nil {
			// What came with it is passed on first; asked again, the
			// connection gives the same or a like error.
			fault := l.end(err)
			if len(l.ready) == 0 {
				return 0, fault
			}
		}
	}
	n := copy(p, l.ready)
	l.ready = l.ready[n:]
	return n, nil
}

// Write sends one whole packet within the write timeout.
func (l *Link) Write(p []byte) (int, error) {
	l.guard.acks.sent(p)
	if err := l.Conn.SetWriteDeadline(time.Now().Add(l.writeTimeout)); err != nil {
		return 0, l.end(err)
	}
	n, err := l.Conn.Write(p)
	if err != nil {
		return n, l.end(err)
	}
	return n, nil
}

// SetDeadline sets the deadline of reads; every write has its own already.
func (l *Link) SetDeadline(t time.Time) error { return l.SetReadDeadline(t) }

// SetWriteDeadline does nothing: every write has its own already, and clearing
// it after one would clear that of another.
func (*Link) SetWriteDeadline(time.Time) error { return nil }

// Close closes the link; its fault is ErrClosed unless it has one already.
func (l *Link) Close() error {
	l.Fail(ErrClosed)
	return nil
}

// Fail closes the link for that reason, unless it has one already.
func (l *Link) Fail(reason error) { _ = l.end(reason) }

// Fault returns why the link ended, nil while it is open.
func (l *Link) Fault() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

// Acked reports whether the peer sent a PUBACK for the packet id of a PUBLISH,
// after the last PUBLISH with that id was written to this link.
func (l *Link) Acked(id uint16) bool { return l.guard.acks.has(id) }

// end records the first reason and closes the connection; it returns the
// reason recorded.
func (l *Link) end(reason error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == nil {
		l.fault = reason
		// Closed at once, not at leisure: a TLS close_notify to a peer that
		// stopped reading would wait for its own timeout.
		if secure, ok := l.Conn.(*tls.Conn); ok {
			secure.NetConn().Close()
		}
		l.Conn.Close()
	}
	return l.fault
}
