// Package hub is the application upstream: it takes what many boxes tell
// through any MQTT 3.1.1 broker, commits it in a registry and says so. It is
// the other end of docs/protocol.md, "Acknowledged by the application".
package hub

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim/bridge/hub/registry"
	"edgeclaim/internal/backoff"
)

// kindState is wire.ParseUp's kind of a box's retained state.
const kindState = "st"

// Hub answers boxes. It keeps these promises:
//
//   - P6: an acknowledgement goes out after the registry's commit of all that
//     it names, never before.
//   - P7: the queue, the sessions and what is on its way down are bounded, and
//     credit bounds what the boxes send.
//   - P8: a message may come twice, late or never, and the hub may be killed
//     at any point: its sessions are made anew by hellos, and its marks are
//     the registry's.
type Hub struct {
	conf     Config
	db       *registry.DB
	key      ed25519.PrivateKey
	upstream string // the registry's id
	instance string // new for each start
	logger   *slog.Logger

	intake  *intake
	out     outbound
	lamps   *lamps
	figures *figures
	pace    *backoff.Backoff // Run's alone
}

// New validates and returns a hub on a registry that the caller opened and
// closes after Run. key signs all that goes down. It touches no network.
// Errors are those of Config.Validate.
func New(conf Config, db *registry.DB, key ed25519.PrivateKey, logger *slog.Logger) (*Hub, error) {
	if err := conf.Validate(); err != nil {
		return nil, err
	}
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("hub: the signing key is not an Ed25519 key")
	}
	if conf.Now == nil {
		conf.Now = time.Now
	}
	pace, err := backoff.New(conf.BackoffBase, conf.BackoffLimit, nil)
	if err != nil {
		return nil, err
	}
	return &Hub{
		conf: conf, db: db, key: key, upstream: db.ID(), instance: rand.Text(), logger: logger,
		intake:  newIntake(conf.QueueMessages, conf.QueueBytes),
		lamps:   newLamps(conf.Broker.Shown()),
		figures: newFigures(),
		pace:    pace,
	}, nil
}

// Run connects, and connects again, until ctx ends; then it commits and
// answers what has come, and says offline, each for at most
// Config.StopTimeout. Whatever the broker and the registry do, it returns nil.
// It is called once.
func (h *Hub) Run(ctx context.Context) error {
	a, err := newApplier(h)
	if err != nil {
		return err
	}
	// The applier outlives ctx, to finish what has come.
	applying, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	ending := make(chan struct{})
	ended := make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		defer close(ended)
		a.run(applying, ending)
		return nil
	})
	finish := func() {
		close(ending)
		timer := time.NewTimer(h.conf.StopTimeout)
		defer timer.Stop()
		select {
		case <-ended:
		case <-timer.C:
			abandon()
		}
	}
	finished := false
	for ctx.Err() == nil {
		h.attempt(ctx, func() { finished = true; finish() })
	}
	if !finished { // it stopped while there was no connection
		finish()
	}
	return group.Wait()
}

// Status says how the hub's own way to the broker is.
func (h *Hub) Status() Status { return h.lamps.read(time.Now()) }

// Figures returns what the hub counted since it began.
func (h *Hub) Figures() Figures {
	f := h.figures.read()
	f.QueueMessages = len(h.intake.queue)
	return f
}

func (h *Hub) now() time.Time { return h.conf.Now() }
