// Package bridge is the way up: it tells the records of the outbox to an MQTT
// broker, as CloudEvents, and tells the outbox which of them arrived.
//
// It is the only importer of the MQTT client, whose tokens it trusts only as
// far as DESIGN.md says.
package bridge

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/internal/backoff"
)

// Outbox is where the records lie until upstream has them (P6). All methods
// are safe for concurrent use and may be retried.
type Outbox interface {
	// Epoch names this life of the outbox: 26 to 36 characters of A-Z, a-z and
	// 0-9. It does not change while the program runs.
	Epoch() string
	// Next returns up to limit pending records of a lane with a sequence above
	// after, oldest first, and removes none. None pending is no error.
	Next(ctx context.Context, lane edgeclaim.Lane, after uint64, limit int) ([]edgeclaim.Record, error)
	// Ack forgets a lane's records up to and with upto; nil means that this is
	// durable. It is idempotent. ErrUnavailable: nothing was forgotten, and
	// trying later helps. ErrInvalid: upto is above what was ever appended.
	Ack(ctx context.Context, lane edgeclaim.Lane, upto uint64) error
	// Appended carries a signal some time after records were committed. Its
	// capacity is 1; many commits may share one signal. It has one consumer.
	Appended() <-chan struct{}
}

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
//   - P6: a record is acknowledged to the outbox only when the broker sent
//     PUBACK for it on the connection it was sent on, and for all before it.
//   - P7: at most Config.Window records and one batch are in memory.
//   - P8: a record told again has the same bytes.
type Bridge struct {
	conf     Config
	target   target
	names    names
	identity Identity
	outbox   Outbox
	logger   *slog.Logger
	lamps    *lamps
	ledger   *ledger
	backoff  *backoff.Backoff // Run's alone
}

// New validates and returns a bridge; it touches neither network nor files.
// Errors are those of Config.Validate, or name "site" or "box_id".
func New(conf Config, outbox Outbox, identity Identity, logger *slog.Logger) (*Bridge, error) {
	if err := conf.Validate(); err != nil {
		return nil, err
	}
	target, err := parseTarget(conf.URL)
	if err != nil {
		return nil, err
	}
	names, err := newNames(identity)
	if err != nil {
		return nil, err
	}
	pace, err := backoff.New(conf.BackoffBase, conf.BackoffLimit, nil)
	if err != nil {
		return nil, err
	}
	return &Bridge{
		conf:     conf,
		target:   target,
		names:    names,
		identity: identity,
		outbox:   outbox,
		logger:   logger,
		lamps:    newLamps(target.shown()),
		ledger:   newLedger(outbox, conf.AckFlush, conf.StopTimeout, logger),
		backoff:  pace,
	}, nil
}

// Run connects, and connects again, until ctx ends; then it waits for what is
// on its way, says offline, and tells the outbox what arrived, each for at most
// Config.StopTimeout. Whatever upstream does, it returns nil. It is called
// once.
func (b *Bridge) Run(ctx context.Context) error {
	// The ledger outlives the last connection, to write down its PUBACKs.
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
	s := newSession(b)
	err := s.run(ctx)
	if ctx.Err() != nil {
		b.lamps.stopped()
		return
	}
	// Proven good is a connection that lasted and did not end for want of a
	// PUBACK; CONNACK alone proves nothing.
	if s.lasted() >= b.conf.StableAfter && !errors.Is(err, errNoPuback) {
		b.backoff.Reset()
	}
	wait := b.backoff.Next()
	why := words(err)
	b.lamps.down(why, time.Now().Add(wait))
	b.logger.Warn("upstream is not reachable", "url", b.target.shown(), "err", why, "retry_in", wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		b.lamps.stopped()
	case <-timer.C:
	}
}

// Status says how the way up is. The application's lamp is off: a plain broker
// has nobody behind it who could light it. The broker's lamp is lit by its
// first PUBACK on a connection, not by its CONNACK.
func (b *Bridge) Status() edgeclaim.UpstreamStatus { return b.lamps.read(time.Now()) }
