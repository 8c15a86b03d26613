package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/bridge/internal/link"
)

const (
	qos1 = 1
	// version311 makes paho try MQTT 3.1.1 only; else it takes every refusal
	// for a broker of MQTT 3.1 and tries again.
	version311 = 4
	// pingTimeout is how long a PINGRESP may take.
	pingTimeout = 10 * time.Second
	// goodbye is how long the DISCONNECT may take to be written.
	goodbye = 250 * time.Millisecond
)

// session is one connection, with a paho client of its own: a client that
// connects again completes tokens for which no PUBACK ever came.
type session struct {
	*Bridge
	epoch      string
	generation uint64
	cursor     map[edgeclaim.Lane]uint64 // the sender's alone; sent up to here
	client     mqtt.Client
	link       *link.Link // set while connecting, constant then
	openErr    error      // set while connecting, constant then
	connected  time.Time  // zero until CONNACK

	// release unties the link from Run's context, set while connecting.
	release func() bool

	// ended is done when the connection is to be used no more, for its cause.
	ended context.Context
	end   context.CancelCauseFunc
	// gone is closed when paho has stopped all it runs for a connection that
	// it found lost.
	gone     chan struct{}
	departed bool // run's alone; this side said DISCONNECT, so gone stays open

	slots  chan struct{} // holds one for each record on its way
	flight chan sent     // the records on their way, in order; the sender closes it
}

// sent is a record on its way.
type sent struct {
	token    mqtt.Token
	lane     edgeclaim.Lane
	sequence uint64
}

func newSession(b *Bridge) *session {
	s := &session{
		Bridge: b,
		epoch:  b.outbox.Epoch(),
		gone:   make(chan struct{}),
		slots:  make(chan struct{}, b.conf.Window),
		flight: make(chan sent, b.conf.Window),
	}
	s.generation, s.cursor = b.ledger.begin()
	s.ended, s.end = context.WithCancelCause(context.Background())
	return s
}

// run connects and tells records until the connection or ctx ends. Its error
// says why the connection ended; it is nil after an orderly stop.
func (s *session) run(ctx context.Context) error {
	defer s.end(nil)
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer s.cut()
	// The first PUBACK proves that something behind the CONNACK takes
	// messages, before anything is read from the outbox.
	if err := s.say(ctx, stateOnline, s.conf.AckTimeout); err != nil {
		return s.cause(err)
	}
	s.lamps.broker()
	s.logger.Info("upstream connected", "url", s.target.shown())

	stop := context.AfterFunc(ctx, func() {
		// From here on the PUBACKs still out have so long.
		time.AfterFunc(s.conf.StopTimeout, func() { s.end(errStopped) })
	})
	defer stop()
	var group errgroup.Group
	group.Go(func() error { s.send(ctx); return nil })
	group.Go(func() error { s.collect(); return nil })
	if err := group.Wait(); err != nil {
		return err
	}
	if s.ended.Err() != nil {
		return s.cause(nil)
	}
	// Where this fails the connection is cut without a DISCONNECT, and the
	// broker says the same by the will.
	if err := s.say(context.WithoutCancel(ctx), stateOffline, s.conf.StopTimeout); err != nil {
		return s.cause(err)
	}
	s.departed = true
	s.client.Disconnect(uint(goodbye.Milliseconds()))
	return nil
}

// lasted returns how long ago the CONNACK came, 0 for never.
func (s *session) lasted() time.Duration {
	if s.connected.IsZero() {
		return 0
	}
	return time.Since(s.connected)
}

// connect returns nil once the broker has accepted CONNECT.
func (s *session) connect(ctx context.Context) error {
	options, err := s.options(ctx)
	if err != nil {
		return err
	}
	s.client = mqtt.NewClient(options)
	token, ok := s.client.Connect().(*mqtt.ConnectToken)
	if !ok {
		return errors.New("the MQTT client returned no token for CONNECT")
	}
	// Bounded: the link has a deadline, and ends with ctx.
	<-token.Done()
	if s.release != nil {
		s.release()
	}
	if err := token.Error(); err != nil {
		return s.refusal(token.ReturnCode(), err)
	}
	s.connected = time.Now()
	return nil
}

// refusal says why CONNECT failed, better than paho's error does.
func (s *session) refusal(code byte, err error) error {
	switch {
	case s.openErr != nil:
		return s.openErr
	case code >= packets.ErrRefusedBadProtocolVersion && code <= packets.ErrRefusedNotAuthorised:
		return refusedError(code)
	case isTimeout(s.link.Fault()):
		return errNoConnack
	}
	return s.cause(err)
}

func (s *session) options(ctx context.Context) (*mqtt.ClientOptions, error) {
	secure, err := s.conf.tlsConfig(s.target)
	if err != nil {
		return nil, err
	}
	username, password, err := s.conf.login(s.target)
	if err != nil {
		return nil, err
	}
	will, err := s.state(stateOffline)
	if err != nil {
		return nil, err
	}
	clientID := s.conf.ClientID
	if clientID == "" {
		clientID = "edgeclaim-" + s.identity.Box
	}
	o := mqtt.NewClientOptions()
	// The only honest combination, see DESIGN.md.
	o.SetAutoReconnect(false).SetConnectRetry(false).SetCleanSession(true)
	o.SetProtocolVersion(version311)
	o.AddBroker("tcp://" + s.target.address) // dialled by open, TLS included
	o.SetClientID(clientID).SetUsername(username).SetPassword(password.Reveal())
	o.SetBinaryWill(s.names.st, will, qos1, true)
	o.SetKeepAlive(s.conf.KeepAlive).SetPingTimeout(pingTimeout)
	o.SetConnectTimeout(s.conf.ConnectTimeout).SetWriteTimeout(s.conf.WriteTimeout)
	o.SetOrderMatters(false)
	o.SetConnectionLostHandler(func(_ mqtt.Client, err error) {
		s.end(err)
		close(s.gone)
	})
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
		l, err := link.Dial(ctx, link.Options{
			Address: s.target.address, TLS: secure,
			ConnectTimeout: s.conf.ConnectTimeout, WriteTimeout: s.conf.WriteTimeout,
		})
		if err != nil {
			s.openErr = err
			return nil, err
		}
		s.link = l
		s.lamps.link()
		// A stop does not wait for a CONNACK.
		s.release = context.AfterFunc(ctx, func() { l.Fail(errStopped) })
		return l, nil
	})
	return o, nil
}

// state is what is said of the box in the retained message.
func (s *session) state(status string) ([]byte, error) {
	return line(state{Status: status, BoxID: s.identity.Box, Epoch: s.epoch, Version: s.identity.Version})
}

// say publishes the state and waits for its PUBACK.
func (s *session) say(ctx context.Context, status string, timeout time.Duration) error {
	payload, err := s.state(status)
	if err != nil {
		return err
	}
	token := s.client.Publish(s.names.st, qos1, true, payload)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-token.Done():
		return s.arrived(token)
	case <-s.ended.Done():
		return s.cause(nil)
	case <-ctx.Done():
		return errStopped
	case <-timer.C:
		return errNoPuback
	}
}

// arrived reports whether a completed token stands for a PUBACK that came on
// this connection. A nil error alone does not: the link has to have seen it.
func (s *session) arrived(token mqtt.Token) error {
	if err := token.Error(); err != nil {
		return err
	}
	publish, ok := token.(*mqtt.PublishToken)
	if !ok || !s.link.Acked(publish.MessageID()) {
		return errForgedAck
	}
	return nil
}

// cause returns why the connection ended: what the link saw, else what this
// side decided, else err.
func (s *session) cause(err error) error {
	if s.link != nil {
		if fault := s.link.Fault(); fault != nil && !errors.Is(fault, link.ErrClosed) {
			return fault
		}
	}
	if s.ended.Err() != nil {
		return context.Cause(s.ended)
	}
	return err
}

// cut closes the connection and waits until paho has stopped all it runs for
// it, so that nothing of it meets the next one.
func (s *session) cut() {
	s.link.Fail(errStopped)
	if s.departed {
		return
	}
	pause(context.Background(), s.conf.WriteTimeout, s.gone)
}

// refusedError is the return code of a CONNACK that refuses (MQTT 3.1.1,
// section 3.2.2.3).
type refusedError byte

func (e refusedError) Error() string {
	why := map[refusedError]string{
		packets.ErrRefusedBadProtocolVersion:    "it does not speak MQTT 3.1.1",
		packets.ErrRefusedIDRejected:            "it does not take the client id",
		packets.ErrRefusedServerUnavailable:     "it is not available",
		packets.ErrRefusedBadUsernameOrPassword: "wrong user name or password",
		packets.ErrRefusedNotAuthorised:         "not authorised",
	}[e]
	return fmt.Sprintf("the broker refused the connection: %s (code %d)", why, byte(e))
}
