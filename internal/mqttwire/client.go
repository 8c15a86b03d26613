package mqttwire

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"time"
)

// Limits of a Client.
const (
	// ReadBuffer is its read buffer, in bytes: small, for hundreds of them.
	ReadBuffer = 512
	// MaxPacket is the largest remaining length it takes, in bytes.
	MaxPacket = 1 << 20
)

// Client is one connection, for one goroutine at a time. Every method obeys the
// deadline of SetDeadline; there is none to begin with.
type Client struct {
	conn   net.Conn
	r      *bufio.Reader
	v      Version
	lastID uint16
	buf    []byte
}

// New wraps a connection on which nothing was said yet.
func New(conn net.Conn, v Version) *Client {
	return &Client{conn: conn, r: bufio.NewReaderSize(conn, ReadBuffer), v: v}
}

// Dial connects to addr and says CONNECT. The packet is the server's CONNACK,
// whatever its code: look at it. A deadline of ctx holds for both steps, and is
// taken off afterwards.
func Dial(ctx context.Context, addr string, v Version, login Login) (*Client, Packet, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, Packet{}, err
	}
	c := New(conn, v)
	if deadline, ok := ctx.Deadline(); ok {
		err = c.SetDeadline(deadline)
	}
	var ack Packet
	if err == nil {
		ack, err = c.Login(login)
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, Packet{}, err
	}
	return c, ack, nil
}

// Login says CONNECT and returns the CONNACK.
func (c *Client) Login(login Login) (Packet, error) {
	c.buf = AppendConnect(c.buf[:0], c.v, &login)
	if err := c.Send(c.buf); err != nil {
		return Packet{}, err
	}
	return c.expect(Connack)
}

// Subscribe asks for filters at QoS 1 and returns the SUBACK, whatever its
// codes. What else arrives before it is an error.
func (c *Client) Subscribe(filters ...string) (Packet, error) {
	c.buf = AppendSubscribe(c.buf[:0], c.v, c.NextID(), 1, filters...)
	if err := c.Send(c.buf); err != nil {
		return Packet{}, err
	}
	return c.expect(Suback)
}

// Publish sends m, at QoS 1 and 2 with the next packet id unless it has one. It
// waits for nothing: the acknowledgement is read with Read.
func (c *Client) Publish(m Message) error {
	if m.QoS > 0 && m.ID == 0 {
		m.ID = c.NextID()
	}
	c.buf = AppendPublish(c.buf[:0], c.v, &m)
	return c.Send(c.buf)
}

// Ping sends a PINGREQ; the PINGRESP is read with Read.
func (c *Client) Ping() error { return c.Send([]byte{byte(Pingreq) << 4, 0}) }

// Disconnect says DISCONNECT and closes the connection.
func (c *Client) Disconnect() error {
	err := c.Send(AppendDisconnect(nil, c.v, 0))
	if cerr := c.conn.Close(); err == nil {
		err = cerr
	}
	return err
}

// Close closes the connection without a word, as a crash does.
func (c *Client) Close() error { return c.conn.Close() }

// Send writes bytes as they are.
func (c *Client) Send(b []byte) error {
	_, err := c.conn.Write(b)
	return err
}

// Read returns the next packet. Its Payload and CorrelationData are its own.
func (c *Client) Read() (Packet, error) { return Read(c.r, c.v, MaxPacket) }

// SetDeadline bounds everything that follows; the zero time lifts the bound.
func (c *Client) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }

// Conn is the connection underneath.
func (c *Client) Conn() net.Conn { return c.conn }

// Version is the protocol level that the client speaks.
func (c *Client) Version() Version { return c.v }

// NextID returns a packet id, never 0, the same again after 65,535 others.
func (c *Client) NextID() uint16 {
	c.lastID++
	if c.lastID == 0 {
		c.lastID = 1
	}
	return c.lastID
}

func (c *Client) expect(want Type) (Packet, error) {
	p, err := c.Read()
	if err != nil {
		return Packet{}, err
	}
	if p.Type != want {
		return p, fmt.Errorf("mqttwire: packet type %d, want %d", p.Type, want)
	}
	return p, nil
}
