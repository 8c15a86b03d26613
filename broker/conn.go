package broker

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
)

// conn is one connection, between the socket (or, one day, TLS over it) and
// mochi. It is where mochi's want of deadlines and limits is made good:
// a deadline until CONNECT and on every write, a limit on packets that depends
// on who is connected, an idle time that pings do not prolong.
//
// mochi reads from one goroutine, and writes from several, one at a time.
type conn struct {
	net.Conn
	cfg *Config

	session // who it is

	// Of the reading goroutine.
	frame framer
	rest  []byte // read from the socket already, after CONNECT

	// Of the writing goroutine, which holds mochi's lock on the client.
	writeBy time.Time // the write deadline that is set

	once   sync.Once
	closed atomic.Bool
}

func newConn(nc net.Conn, cfg *Config, now time.Time) (*conn, error) {
	c := &conn{Conn: nc, cfg: cfg}
	c.frame.limit = cfg.MaxClaimantPacket
	return c, nc.SetReadDeadline(now.Add(cfg.ConnectTimeout))
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
	n, err := 0, error(nil)
	if len(c.rest) > 0 {
		n = copy(p, c.rest)
		c.rest = c.rest[n:]
	} else if n, err = c.Conn.Read(p); n == 0 {
		return 0, err
	}
	for at := 0; at < n; {
		step, ended, ferr := c.frame.feed(p[at:n])
		if ferr != nil {
			return 0, ferr
		}
		at += step
		if ended && c.role == roleConnecting && at < n {
			c.rest = append([]byte(nil), p[at:n]...)
			return at, nil
		}
	}
	return n, err
}

// Write blocks for at most twice the write timeout. What a failed write leaves
// of a packet on the wire cannot be mended, so it closes the connection.
func (c *conn) Write(p []byte) (int, error) {
	if c.client != nil && c.client.Properties.ProtocolVersion < 5 && len(p) == 2 && p[0] == disconnectHeader {
		return len(p), nil // MQTT 3.1.1 has none from a server (section 3.14); mochi sends it
	}
	// Setting a deadline costs a third of a small write: one is good until
	// less than the timeout is left of it.
	if now := time.Now(); c.writeBy.Sub(now) < c.cfg.WriteTimeout {
		c.writeBy = now.Add(2 * c.cfg.WriteTimeout)
		if err := c.SetWriteDeadline(c.writeBy); err != nil {
			c.Close()
			return 0, err
		}
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
	if c.role == roleClaimant {
		if idle := c.active.Add(c.cfg.IdleTimeout); t.IsZero() || idle.Before(t) {
			t = idle
		}
	}
	return c.SetReadDeadline(t)
}

// Close may be called any number of times, from any goroutine.
func (c *conn) Close() error {
	var err error
	c.once.Do(func() {
		c.closed.Store(true)
		err = c.Conn.Close()
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
