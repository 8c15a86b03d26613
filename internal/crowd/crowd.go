// Package crowd bounds how many connections one source may have open, so that a
// single machine on the line cannot take every place there is (P7).
package crowd

import (
	"net"
	"net/netip"
	"sync"
)

// sourcePrefix is the part of an IPv6 address within which one host has any
// address it likes, in bits.
const sourcePrefix = 64

// Loopback exempts the box itself: what runs there is not a stranger.
func Loopback(source netip.Addr) bool { return source.Unmap().IsLoopback() }

// Crowd counts connections by source: an IPv4 address, or a /64 of IPv6. It
// takes memory for the sources that are connected, and for no other. Its
// methods may be called from many goroutines at once.
type Crowd struct {
	max    int
	exempt func(netip.Addr) bool // nil: nobody

	mu   sync.Mutex
	open map[netip.Addr]int // guarded by mu; no entry is 0
}

// New returns a crowd that lets each source have limit connections, at least 1,
// but those that exempt names, which are not counted. A nil exempt names none.
func New(limit int, exempt func(netip.Addr) bool) *Crowd {
	return &Crowd{max: max(limit, 1), exempt: exempt, open: map[netip.Addr]int{}}
}

// Enter counts one more connection of source. It returns false, and counts
// nothing, when source has as many as it may have.
func (c *Crowd) Enter(source netip.Addr) bool {
	if c.exempt != nil && c.exempt(source) {
		return true
	}
	source = fold(source)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[source] >= c.max {
		return false
	}
	c.open[source]++
	return true
}

// Leave takes back one Enter that returned true.
func (c *Crowd) Leave(source netip.Addr) {
	if c.exempt != nil && c.exempt(source) {
		return
	}
	source = fold(source)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[source]--; c.open[source] <= 0 {
		delete(c.open, source)
	}
}

// fold maps an address to what is counted as one source. What is no IP address
// is one source too.
func fold(source netip.Addr) netip.Addr {
	source = source.Unmap()
	if !source.Is6() {
		return source
	}
	return netip.PrefixFrom(source.WithZone(""), sourcePrefix).Masked().Addr()
}

// Listener closes what it accepts from a source that has as many connections as
// it may have, before anything else is spent on it.
func Listener(ln net.Listener, crowd *Crowd) net.Listener {
	return &listener{Listener: ln, crowd: crowd}
}

type listener struct {
	net.Listener
	crowd *Crowd
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := sourceOf(nc)
		if l.crowd.Enter(source) {
			return &conn{Conn: nc, crowd: l.crowd, source: source}, nil
		}
		_ = nc.Close() // nobody is told
	}
}

// sourceOf is the peer's address, invalid when it is not TCP.
func sourceOf(nc net.Conn) netip.Addr {
	if addr, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return addr.AddrPort().Addr()
	}
	return netip.Addr{}
}

// conn leaves the crowd once, when it is closed.
type conn struct {
	net.Conn
	crowd  *Crowd
	source netip.Addr
	once   sync.Once
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.crowd.Leave(c.source) })
	return err
}
