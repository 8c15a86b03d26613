// Package bridge is the way up: it tells the records of the outbox to an MQTT
// broker, as CloudEvents, and tells the outbox which of them arrived, on the
// word of that broker or of an application behind it. docs/protocol.md is what
// it speaks; DESIGN.md says why it works as it does.
package bridge

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/bridge/internal/client"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/backoff"
)

// Identity is who the box is upstream.
type Identity struct {
	// Site and Box are one topic level each: 1 to 64 characters of A-Z, a-z,
	// 0-9, '.', '_' and '-'.
	Site, Box string
	// Version is the program's, said in the retained state; empty for none.
	Version string
}

// Bridge tells the outbox's records upstream, each at least once, in the order
// of its lane and LaneProv first. It keeps these promises:
//
//   - P2: New and Run need no upstream; nothing waits for one.
//   - P6: a record is acknowledged to the outbox only when upstream has said
//     that it and all before it arrived, on the connection it was sent on:
//     with AckPuback by the broker's PUBACK, with AckApp by a message of the
//     application for this box, this epoch and this session.
//   - P7: at most Config.Window records are on their way, and one message for
//     each lane is kept ready.
//   - P8: a record told again has the same bytes.
type Bridge struct {
	conf     Config
	names    wire.Names
	topics   topics
	identity Identity
	parts    Parts
	logger   *slog.Logger
	lamps    *lamps
	alarms   *alarms
	ledger   *ledger
	// confirmEvery is confirmEvery, but in tests.
	confirmEvery time.Duration

	reenrolled chan struct{} // capacity 1: the key may be another
	mu         sync.Mutex
	key        ed25519.PublicKey // guarded by mu; nil: not enrolled

	// What outlives a connection; all of it is Run's alone.
	backoff    *backoff.Backoff
	upstream   string    // the application that welcomed the box last
	alive      time.Time // when an application last had the box welcomed
	spread     time.Time // nothing but LaneProv is told before
	renewed    time.Time // when the outbox began another life
	recovering bool      // devices are to be taken back
	snapshot   *snapshot // nil: nobody wants one
	sent       *reached  // of the present epoch; its figures are read by inboxes
}

// New validates and returns a bridge; it touches neither network nor files.
// Errors are those of Config.Validate, or name "site" or "box_id".
func New(conf Config, parts Parts, identity Identity, logger *slog.Logger) (*Bridge, error) {
	if err := conf.Validate(); err != nil {
		return nil, err
	}
	if err := parts.validate(conf.Ack); err != nil {
		return nil, err
	}
	names, err := wire.NewNames(identity.Site, identity.Box)
	if err != nil {
		return nil, err
	}
	topics, err := newTopics(&conf, names)
	if err != nil {
		return nil, err
	}
	pace, err := backoff.New(conf.BackoffBase, conf.BackoffLimit, nil)
	if err != nil {
		return nil, err
	}
	return &Bridge{
		conf:         conf,
		names:        names,
		topics:       topics,
		identity:     identity,
		parts:        parts,
		logger:       logger,
		lamps:        newLamps(conf.Shown(), conf.Ack),
		alarms:       newAlarms(conf.Now, logger),
		ledger:       newLedger(parts, conf.AckFlush, conf.StopTimeout, logger),
		reenrolled:   make(chan struct{}, 1),
		confirmEvery: confirmEvery,
		backoff:      pace,
	}, nil
}

// Enrol makes the box take nothing from upstream that this key has not signed;
// nil takes the enrolment back. upstream is the id of the application whose
// key it is. It may be called at any time; a connection to an application
// begins anew by it.
func (b *Bridge) Enrol(key ed25519.PublicKey, upstream string) {
	b.mu.Lock()
	b.key = key
	b.mu.Unlock()
	b.lamps.enrolled(key != nil, name(upstream))
	signal(b.reenrolled)
}

// trusted is the key that messages from upstream have to be signed by.
func (b *Bridge) trusted() ed25519.PublicKey {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.key
}

// Run connects, and connects again, until ctx ends; then it waits for what is
// on its way, says offline, and tells the outbox what arrived, each for at most
// Config.StopTimeout. Whatever upstream does, it returns nil. It is called
// once.
func (b *Bridge) Run(ctx context.Context) error {
	// The ledger outlives the last connection, to write down its
	// acknowledgements.
	flushing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var group errgroup.Group
	group.Go(func() error {
		b.ledger.run(flushing)
		return nil
	})
	for ctx.Err() == nil {
		b.attempt(ctx)
	}
	stop()
	return group.Wait()
}

// attempt is one connection, and the wait after it.
func (b *Bridge) attempt(ctx context.Context) {
	s := &session{Bridge: b}
	err := s.run(ctx)
	if ctx.Err() != nil {
		b.lamps.stopped()
		return
	}
	wait := b.pause(s, err)
	why := client.Words(err)
	b.lamps.down(why, time.Now().Add(wait))
	if deliberate(err) {
		b.logger.Info("upstream is connected to anew", "url", b.conf.Shown(), "reason", why)
	} else {
		b.logger.Warn("upstream is not reachable", "url", b.conf.Shown(), "err", why, "retry_in", wait)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		b.lamps.stopped()
	case <-timer.C:
	}
}

// pause returns how long to wait after a connection.
func (b *Bridge) pause(s *session, err error) time.Duration {
	if deliberate(err) {
		return b.conf.BackoffBase
	}
	// Proven good is a connection that lasted and did not end for want of
	// acknowledgements; CONNACK alone proves nothing.
	if s.lasted() >= b.conf.StableAfter && !errors.Is(err, client.ErrNoPuback) && !errors.Is(err, errNoProgress) {
		b.backoff.Reset()
	}
	return b.backoff.Next()
}

// deliberate reports whether the box itself ended a connection that was good.
func deliberate(err error) bool { return errors.Is(err, errRenewed) || errors.Is(err, errEnrolled) }

// Status says how the way up is. The broker's lamp is lit by its first PUBACK
// on a connection, not by its CONNACK; the application's by its welcome, and it
// is off with AckPuback: a plain broker has nobody behind it who could light
// it.
func (b *Bridge) Status() edgeclaim.UpstreamStatus {
	status := b.lamps.read(time.Now())
	status.Alarms = b.alarms.read()
	return status
}
