package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// conn is one connection, between the socket, or TLS over it, and mochi. It is
// where mochi's want of deadlines and limits is made good: a deadline until
// CONNECT and on every write, a limit on packets that depends on who is
// connected, an idle time that pings do not prolong, a rate of packets.
//
// mochi reads from one goroutine, and writes from several, one at a time.
type conn struct {
	net.Conn // what mochi's bytes go over: sock, or TLS over it
	sock     socket
	cfg      *Config
	b        *Broker
	born     time.Time     // with a monotonic reading
	gone     chan struct{} // closed by Close

	session // who it is

	// Of the reading goroutine.
	frame  framer
	rest   []byte // read from the socket already, after CONNECT
	readBy time.Time
	pace   pace

	once sync.Once
}

// newConn takes a connection that was just accepted; secure is nil for a plain
// one.
func newConn(b *Broker, nc net.Conn, secure *tls.Config, now time.Time) (*conn, error) {
	cfg := &b.cfg
	c := &conn{sock: socket{Conn: nc, timeout: cfg.WriteTimeout}, cfg: cfg, b: b, born: now, gone: make(chan struct{})}
	c.Conn = &c.sock
	if secure != nil {
		c.Conn = tls.Server(&c.sock, secure)
	}
	c.frame.limit = cfg.MaxClaimantPacket
	return c, nc.SetReadDeadline(now.Add(cfg.ConnectTimeout))
}

// handshake is TLS's, if there is TLS. It proves that the client holds the key
// of the certificate it shows; who that is, is asked at CONNECT.
func (c *conn) handshake(turns chan struct{}) error {
	secure, ok := c.Conn.(*tls.Conn)
	if !ok {
		return nil
	}
	h := &handshake{turns: turns, by: c.born.Add(c.cfg.ConnectTimeout), gone: c.gone, left: maxHandshake}
	c.sock.shaking = h
	defer func() {
		h.rest()
		c.sock.shaking = nil
	}()
	return secure.Handshake() // without a context, which costs a goroutine: reads and writes have deadlines
}

// chain is the certificates that the client has shown in the handshake.
func (c *conn) chain() []*x509.Certificate {
	secure, ok := c.Conn.(*tls.Conn)
	if !ok {
		return nil
	}
	return secure.ConnectionState().PeerCertificates
}

// disconnectHeader is the first byte of a DISCONNECT.
const disconnectHeader = 0xe0

// connOf is the connection that mochi's client has, or had.
func connOf(cl *mqtt.Client) *conn {
	c, _ := cl.Net.Conn.(*conn)
	return c
}

// Read hands out nothing after the CONNECT until it is known who is there, so
// that a packet sent along with it is judged by the right limit.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.b.pay(c, c.client); err != nil {
		return 0, err
	}
	if err := c.keepPace(); err != nil {
		return 0, err
	}
	n, err := 0, error(nil)
	if len(c.rest) > 0 {
		n = copy(p, c.rest)
		c.rest = c.rest[n:]
	} else if n, err = c.Conn.Read(p); n == 0 {
		return 0, err
	}
	packets := 0
	for at := 0; at < n; {
		step, ended, ferr := c.frame.feed(p[at:n])
		if ferr != nil {
			c.sayWhy(ferr)
			return 0, ferr
		}
		at += step
		if !ended {
			continue
		}
		packets++
		if c.role == roleConnecting && at < n {
			c.rest = append([]byte(nil), p[at:n]...)
			return at, nil
		}
	}
	if c.role != roleConnecting {
		now := time.Now()
		c.heard.Store(int64(now.Sub(c.born)))
		c.pace.spend(now, packets)
	}
	return n, err
}

// sayWhy tells a client of MQTT 5 that is let in what is wrong with the packet
// that ends its connection (MQTT 5.0, section 3.14.2.1): whoever is told nothing
// sends it again. Before login nobody is told anything.
func (c *conn) sayWhy(err error) {
	switch {
	case c.role == roleConnecting:
	case errors.Is(err, errPacketTooLarge):
		c.b.farewell(c.client, packets.ErrPacketTooLarge)
	default:
		c.b.farewell(c.client, packets.ErrMalformedPacket)
	}
}

// keepPace leaves the next bytes in the socket while the client is ahead of its
// rate: TCP tells it to slow down, and nothing is lost. That time is not held
// against it.
func (c *conn) keepPace() error {
	began := time.Now()
	pause := c.pace.ahead(began)
	if pause <= 0 {
		return nil
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-c.gone:
		return net.ErrClosed
	case <-t.C:
	}
	return c.putOff(time.Since(began))
}

// putOff moves the read deadline by the time in which nothing was read.
func (c *conn) putOff(d time.Duration) error {
	if c.readBy.IsZero() {
		return nil
	}
	c.readBy = c.readBy.Add(d)
	return c.SetReadDeadline(c.readBy)
}

// Write blocks for at most twice the write timeout. What a failed write leaves
// of a packet on the wire cannot be mended, so it closes the connection.
func (c *conn) Write(p []byte) (int, error) {
	if c.client != nil && c.client.Properties.ProtocolVersion < 5 && len(p) == 2 && p[0] == disconnectHeader {
		return len(p), nil // MQTT 3.1.1 has none from a server (section 3.14); mochi sends it
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		c.Close()
	}
	return n, err
}

// SetDeadline is how mochi says how long the next packet may take, by the
// client's keep-alive. It acts on reads alone: the same deadline on writes
// would let a client that stops reading block those who publish to it.
func (c *conn) SetDeadline(t time.Time) error {
	if c.role == roleClaimant && !c.parked.Load() {
		if idle := c.idleAt(); t.IsZero() || idle.Before(t) {
			t = idle
		}
	}
	c.readBy = t
	return c.SetReadDeadline(t)
}

// idleAt is when a claimant that does nothing more has been idle for too long.
func (c *conn) idleAt() time.Time {
	return c.born.Add(time.Duration(c.active.Load()) + c.cfg.IdleTimeout)
}

// act counts as activity of a claimant.
func (c *conn) act() { c.active.Store(int64(time.Since(c.born))) }

// Close may be called any number of times, from any goroutine. It waits for
// nothing: TLS would first say that it ends, for up to 5 s. MQTT's packets
// have lengths, so nobody can pass a cut stream for a whole one.
func (c *conn) Close() error {
	var err error
	c.once.Do(func() {
		close(c.gone)
		err = c.sock.Close()
	})
	return err
}

// source is the peer's address, invalid when it is not TCP.
func (c *conn) source() netip.Addr {
	if addr, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return addr.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
