package bridge

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/internal/client"
	"edgeclaim/bridge/wire"
)

// The ways a session ends that no connection has words for.
var (
	// errRenewed: the outbox has begun another life, and everything that a
	// connection said of itself is of the one before.
	errRenewed = errors.New("the outbox has begun a new life")
	// errEnrolled: whom to trust has changed.
	errEnrolled = errors.New("the box was enrolled")
	// errNoProgress: the application is there, and commits nothing.
	errNoProgress = errors.New("connected, but the application stopped acknowledging")
)

// maxTopic is more than a topic takes that may come, in bytes.
const maxTopic = 1024

// session is one connection, in either mode.
type session struct {
	*Bridge
	epoch, previous string
	marks           map[edgeclaim.Lane]edgeclaim.LaneMarks // as the outbox last said
	key             ed25519.PublicKey                      // nil: not enrolled
	generation      uint64
	cursor          map[edgeclaim.Lane]uint64 // what upstream has, by earlier connections
	conn            *client.Conn              // nil until CONNACK
}

// run connects and tells records until the connection or ctx ends. Its error
// says why the connection ended; it is nil after an orderly stop.
func (s *session) run(ctx context.Context) error {
	var err error
	if s.epoch, s.previous, s.marks, err = s.parts.Outbox.Marks(ctx); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	s.generation, s.cursor = s.ledger.begin(s.epoch)
	s.key = s.trusted()
	speak, options := s.mode()
	will, err := s.state(wire.Offline)
	if err != nil {
		return err
	}
	options.ClientID, options.Will, options.OnLink = "edgeclaim-"+s.identity.Box, &will, s.lamps.link
	if s.conn, err = client.Dial(ctx, s.conf.Config, options); err != nil {
		return err
	}
	err = s.talk(ctx, speak)
	if err == nil {
		// Where this fails the connection is cut without a DISCONNECT, and the
		// broker says the same by the will.
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.conf.StopTimeout)
		defer cancel()
		return s.conn.Close(leaving, &will)
	}
	s.conn.Cut()
	return err
}

// mode returns what tells the records, and what the connection has to allow
// for it.
func (s *session) mode() (speak func(context.Context) error, options client.Options) {
	if s.conf.Ack == AckPuback {
		return newDrain(s).run, client.Options{}
	}
	if s.sent == nil || s.sent.epoch != s.epoch {
		s.sent = newReached(s.epoch)
	}
	c := newConversation(s)
	return c.run, client.Options{
		MaxInbound: wire.MaxMessage + maxTopic,
		OnMessage:  c.inbox.take,
		OnOversized: func(int) {
			s.alarms.raise(edgeclaim.AlarmOversized)
		},
	}
}

// talk is a connection from CONNACK to its last word. nil means that all that
// was on its way has arrived, and ctx has ended.
func (s *session) talk(ctx context.Context, speak func(context.Context) error) error {
	if s.conf.Ack == AckApp {
		subscribing, cancel := context.WithTimeoutCause(ctx, s.conf.AckTimeout, errNoSuback)
		defer cancel()
		if err := s.conn.Subscribe(subscribing, 0, s.names.Down("#"), wire.HostTopic); err != nil {
			return err
		}
	}
	online, err := s.state(wire.Online)
	if err != nil {
		return err
	}
	// The first PUBACK proves that something behind the CONNACK takes
	// messages, before anything is read from the outbox.
	if err := s.conn.Wait(ctx, s.conn.Publish(online), s.conf.AckTimeout); err != nil {
		return err
	}
	s.lamps.broker()
	s.logger.Info("upstream connected", "url", s.conf.Shown())
	stop := context.AfterFunc(ctx, func() {
		// From here on the acknowledgements still out have so long.
		time.AfterFunc(s.conf.StopTimeout, func() { s.conn.Fail(client.ErrStopped) })
	})
	defer stop()
	return speak(ctx)
}

// errNoSuback: a broker that takes a SUBSCRIBE and does not answer it.
var errNoSuback = errors.New("connected, but the broker did not answer SUBSCRIBE")

// state is what is said of the box in the retained message.
func (s *session) state(status string) (client.Message, error) {
	payload, err := wire.Encode(&wire.State{
		Status: status, Box: s.identity.Box, Epoch: s.epoch, Program: s.identity.Version,
	})
	return client.Message{Topic: s.names.State(), Payload: payload, Retained: true}, err
}

// lasted returns how long ago the CONNACK came, 0 for never.
func (s *session) lasted() time.Duration {
	if s.conn == nil {
		return 0
	}
	return s.conn.Lasted()
}
