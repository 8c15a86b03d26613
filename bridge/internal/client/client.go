// Package client is one honest MQTT 3.1.1 connection: it never connects again
// by itself, and says that a message arrived only when the broker's PUBACK for
// it came on this very connection. bridge/DESIGN.md says why the library under
// it is not believed.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"edgeclaim/bridge/internal/link"
)

const (
	qos1 = 1
	// version311 makes paho try MQTT 3.1.1 only; else it takes every refusal
	// for a broker of MQTT 3.1 and tries again.
	version311 = 4
	// subscribeRefused is the return code of a SUBACK that refuses (MQTT
	// 3.1.1, section 3.9.3).
	subscribeRefused = 0x80
	// pingTimeout is how long a PINGRESP may take at most; no longer than the
	// keep-alive, so that a short one means what it says.
	pingTimeout = 10 * time.Second
	// goodbye is how long the DISCONNECT may take to be written.
	goodbye = 250 * time.Millisecond
)

// Options is what one connection is for.
type Options struct {
	// ClientID is the MQTT client id where Config has none.
	ClientID string
	// Will is published by the broker when the connection ends without
	// Close; nil for none.
	Will *Message
	// MaxInbound is the largest message that may come, topic and payload
	// together, in bytes; a larger one is thrown away unread. At 0 no message
	// may come: one ends the connection, and Subscribe is an error.
	MaxInbound int
	// OnMessage is called for each message, one after the other in the order
	// they came. It must neither block for long nor call the Conn: nothing is
	// read while it runs. The payload is its own.
	OnMessage func(topic string, payload []byte, retained bool)
	// OnOversized is told of each message that was thrown away; nil for
	// nobody. It runs as OnMessage does, but concurrently with it.
	OnOversized func(bytes int)
	// OnLink is called when TCP, and TLS, stand, before CONNECT; nil for
	// nobody.
	OnLink func()
}

// Message is sent with QoS 1.
type Message struct {
	Topic    string
	Payload  []byte // must not be changed until its Delivery is done
	Retained bool
}

// Conn is one connection, with a paho client of its own: a client that
// connects again completes tokens for which no PUBACK ever came. Its methods
// are safe for concurrent use, but for Close, which comes last.
type Conn struct {
	conf    Config
	client  mqtt.Client
	link    *link.Link // set while connecting, constant then
	openErr error      // set while connecting, constant then
	since   time.Time  // set when CONNACK came, constant then
	inbound bool       // messages may come

	// release unties the link from Dial's context, set while connecting.
	release func() bool

	// ended is done when the connection is to be used no more, for its cause.
	ended context.Context
	end   context.CancelCauseFunc
	// gone is closed, by left, when paho has stopped all it runs for a
	// connection that it found lost, or that said DISCONNECT.
	gone chan struct{}
	left func()
}

// Dial connects. nil means that the broker has accepted CONNECT; ctx counts
// up to there. The connection has to be given back with Close or Cut. Errors
// hold no secret, see Words.
func Dial(ctx context.Context, conf Config, o Options) (*Conn, error) {
	target, err := parseTarget(conf.URL)
	if err != nil {
		return nil, err
	}
	c := &Conn{conf: conf, gone: make(chan struct{}), inbound: o.MaxInbound > 0}
	c.left = sync.OnceFunc(func() { close(c.gone) })
	c.ended, c.end = context.WithCancelCause(context.Background())
	options, err := c.options(target, &o)
	if err != nil {
		return nil, err
	}
	dialling, err := linkOptions(&conf, target, &o)
	if err != nil {
		return nil, err
	}
	options.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
		return c.open(ctx, dialling, o.OnLink)
	})
	c.client = mqtt.NewClient(options)
	token, ok := c.client.Connect().(*mqtt.ConnectToken)
	if !ok {
		return nil, errors.New("the MQTT client returned no token for CONNECT")
	}
	// Bounded: the link has a deadline, and ends with ctx.
	<-token.Done()
	if c.release != nil {
		c.release()
	}
	if err := token.Error(); err != nil {
		c.end(err)
		return nil, c.refusal(token.ReturnCode(), err)
	}
	c.since = time.Now()
	return c, nil
}

// open dials the link, TLS included.
func (c *Conn) open(ctx context.Context, o link.Options, onLink func()) (net.Conn, error) {
	l, err := link.Dial(ctx, o)
	if err != nil {
		c.openErr = err
		return nil, err
	}
	c.link = l
	if onLink != nil {
		onLink()
	}
	// A stop does not wait for a CONNACK.
	c.release = context.AfterFunc(ctx, func() { l.Fail(ErrStopped) })
	return l, nil
}

// linkOptions is the link under the connection.
func linkOptions(conf *Config, t target, o *Options) (link.Options, error) {
	secure, err := conf.tlsConfig(t)
	if err != nil {
		return link.Options{}, err
	}
	dialling := link.Options{
		Address: t.address, TLS: secure,
		ConnectTimeout: conf.ConnectTimeout, WriteTimeout: conf.WriteTimeout,
		MaxInbound: o.MaxInbound,
	}
	if o.MaxInbound > 0 {
		dialling.OnOversized = func(bytes int) {
			if o.OnOversized != nil {
				o.OnOversized(bytes)
			}
		}
	}
	return dialling, nil
}

// options is the client over the link.
func (c *Conn) options(t target, o *Options) (*mqtt.ClientOptions, error) {
	username, password, err := c.conf.login(t)
	if err != nil {
		return nil, err
	}
	clientID := c.conf.ClientID
	if clientID == "" {
		clientID = o.ClientID
	}
	p := mqtt.NewClientOptions()
	// The only honest combination, see DESIGN.md.
	p.SetAutoReconnect(false).SetConnectRetry(false).SetCleanSession(true)
	p.SetProtocolVersion(version311)
	p.AddBroker("tcp://" + t.address) // dialled by open, TLS included
	p.SetClientID(clientID).SetUsername(username).SetPassword(password.Reveal())
	if o.Will != nil {
		p.SetBinaryWill(o.Will.Topic, o.Will.Payload, qos1, o.Will.Retained)
	}
	p.SetKeepAlive(c.conf.KeepAlive).SetPingTimeout(min(pingTimeout, c.conf.KeepAlive))
	p.SetConnectTimeout(c.conf.ConnectTimeout).SetWriteTimeout(c.conf.WriteTimeout)
	// In order, though the handler must not block then: a goroutine a message
	// would let anybody upstream fill the memory.
	p.SetOrderMatters(true)
	if o.OnMessage != nil {
		p.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
			o.OnMessage(m.Topic(), m.Payload(), m.Retained())
		})
	}
	p.SetConnectionLostHandler(func(_ mqtt.Client, err error) {
		c.end(err)
		c.left()
	})
	return p, nil
}

// refusal says why CONNECT failed, better than paho's error does.
func (c *Conn) refusal(code byte, err error) error {
	switch {
	case c.openErr != nil:
		return c.openErr
	case code >= packets.ErrRefusedBadProtocolVersion && code <= packets.ErrRefusedNotAuthorised:
		return RefusedError(code)
	case isTimeout(c.link.Fault()):
		return ErrNoConnack
	}
	return c.because(err)
}

// Lasted returns how long ago the CONNACK came.
func (c *Conn) Lasted() time.Duration { return time.Since(c.since) }

// Delivery is a message on its way.
type Delivery struct {
	conn  *Conn
	token mqtt.Token
}

// Publish sends a message, with QoS 1. It does not wait for the PUBACK, but as
// long as the connection takes no more: bounded by the write timeout.
func (c *Conn) Publish(m Message) *Delivery {
	return &Delivery{conn: c, token: c.client.Publish(m.Topic, qos1, m.Retained, m.Payload)}
}

// Done is closed when the PUBACK came, or the message cannot arrive any more.
// A lost connection does not close it: see Conn.Done.
func (d *Delivery) Done() <-chan struct{} { return d.token.Done() }

// Err is nil when the PUBACK for the message came on its connection, once Done
// is closed. The library's word alone does not count: the link has to have
// seen it. It has to be asked within 32,768 messages, before the packet id
// comes round.
func (d *Delivery) Err() error {
	if err := d.token.Error(); err != nil {
		return d.conn.because(err)
	}
	publish, ok := d.token.(*mqtt.PublishToken)
	if !ok || !d.conn.link.Acked(publish.MessageID()) {
		return ErrForgedAck
	}
	return nil
}

// Wait waits for the PUBACK: ErrNoPuback after the timeout, ErrStopped when
// ctx ends before, the connection's cause when that does.
func (c *Conn) Wait(ctx context.Context, d *Delivery, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-d.Done():
		return d.Err()
	case <-c.ended.Done():
		return c.Cause()
	case <-ctx.Done():
		return ErrStopped
	case <-timer.C:
		return ErrNoPuback
	}
}

// Subscribe asks for topic filters, one a packet, and waits for each SUBACK. A
// filter that is refused is an error.
func (c *Conn) Subscribe(ctx context.Context, qos byte, filters ...string) error {
	if !c.inbound {
		return errors.New("subscribe: no message may come on this connection")
	}
	for _, filter := range filters {
		token := c.client.Subscribe(filter, qos, nil)
		select {
		case <-token.Done():
		case <-c.ended.Done():
			return c.Cause()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := token.Error(); err != nil {
			return c.because(err)
		}
		sub, ok := token.(*mqtt.SubscribeToken)
		if !ok {
			return errors.New("the MQTT client returned no token for SUBSCRIBE")
		}
		// The library's token has no error for a SUBACK that refuses, and no
		// code when something else completed it.
		if codes := sub.Result(); len(codes) != 1 {
			return ErrForgedAck
		}
		for _, code := range sub.Result() {
			if code >= subscribeRefused {
				return fmt.Errorf("%w: %s", ErrSubscription, filter)
			}
		}
	}
	return nil
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.ended.Done() }

// Cause returns why the connection ended: what the link saw, else what this
// side decided; nil while it has not.
func (c *Conn) Cause() error {
	if fault := c.fault(); fault != nil {
		return fault
	}
	return context.Cause(c.ended)
}

// because says an error of the library better, when the link saw why.
func (c *Conn) because(err error) error {
	if fault := c.fault(); err != nil && fault != nil {
		return fault
	}
	return err
}

// fault is what the link saw, nil for nothing, or for this side's own doing.
func (c *Conn) fault() error {
	if c.link == nil {
		return nil
	}
	if fault := c.link.Fault(); fault != nil && !errors.Is(fault, link.ErrClosed) {
		return fault
	}
	return nil
}

// Fail ends the connection for that reason, unless it has ended: Done is
// closed, and Cut or Close have to follow.
func (c *Conn) Fail(err error) { c.end(err) }

// Cut closes the connection without a DISCONNECT, so that the broker publishes
// the will, and waits, for the write timeout at most, until the library has
// stopped all it runs for it, so that nothing of it meets the next one.
func (c *Conn) Cut() {
	c.end(nil)
	c.link.Fail(ErrStopped)
	timer := time.NewTimer(c.conf.WriteTimeout)
	defer timer.Stop()
	select {
	case <-c.gone:
	case <-timer.C:
	}
}

// Close is the orderly end: it publishes last, nil for nothing, waits for its
// PUBACK while ctx lasts, and leaves with DISCONNECT, so that there is no will.
// Where that fails it cuts the connection, and returns why.
func (c *Conn) Close(ctx context.Context, last *Message) error {
	if last != nil {
		if err := c.farewell(ctx, c.Publish(*last)); err != nil {
			c.Cut()
			return err
		}
	}
	c.client.Disconnect(uint(goodbye.Milliseconds()))
	c.left()
	c.end(nil)
	c.link.Fail(ErrStopped)
	return nil
}

// farewell waits for the last PUBACK.
func (c *Conn) farewell(ctx context.Context, d *Delivery) error {
	select {
	case <-d.Done():
		return d.Err()
	case <-c.ended.Done():
		return c.Cause()
	case <-ctx.Done():
		return ErrNoPuback
	}
}

// OnEnd calls then, in a goroutine of its own, when the connection has ended;
// the function it returns takes that back.
func (c *Conn) OnEnd(then func()) (cancel func() bool) { return context.AfterFunc(c.ended, then) }
