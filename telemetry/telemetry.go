// Package telemetry takes what devices say: points, events, and by both that
// they are at work. It keeps points in a log of segment files beside the
// registry, from where they go upstream as edgeclaim.LaneTel, and hands events
// over to the registry's own lane.
//
// Nothing here waits for the disk, or for the registry, on behalf of a claim:
// the two share neither file nor lock. DESIGN.md says what is promised.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/internal/seglog"
)

// folder is where the logs lie in the data folder.
const folder = "telemetry"

// EventStore takes devices' events into the registry's event lane. All methods
// are safe for concurrent use.
type EventStore interface {
	// TakeEvents appends records to edgeclaim.LaneEvt, and notes that all up to
	// and with the place upto are there, in one transaction; nil means that both
	// are durable. A place that is there already changes nothing (P8). No event
	// is too large: one that no record holds is told as a gap. ErrUnavailable:
	// nothing was done, and trying later helps.
	TakeEvents(ctx context.Context, upto uint64, records []edgeclaim.Record) error
	// EventsTaken returns the place that TakeEvents noted last, 0 for none.
	EventsTaken(ctx context.Context) (upto uint64, err error)
	// EventRoom says how many records devices may put in the lane now.
	EventRoom(ctx context.Context) (records int, err error)
}

// Answers hears what devices say of the commands that they were given. It is
// safe for concurrent use.
type Answers interface {
	// Answer takes a device's answer, a JSON object with a command_id; nil
	// means that what it changes is durable. It may be repeated (P8).
	// ErrNotFound: the device was never given such a command, or it has come to
	// another end than it says. ErrInvalid: the answer is none.
	Answer(ctx context.Context, device edgeclaim.DeviceID, body []byte) error
}

// Parts are the box's other halves.
type Parts struct {
	// Stamp says what time it is. It must not block.
	Stamp func() edgeclaim.Stamp
	// Epoch names the present life of the outbox.
	Epoch  func() string
	Events EventStore
	// Answers may be nil: answers are events like others then.
	Answers Answers
	// Told reports whether the way up takes telemetry now; nil: never.
	Told func() bool
	// Inherited is what the devices of a tenant and profile inherit, from memory;
	// nil: nothing. It never blocks, and what it returns is never changed.
	Inherited func(tenant edgeclaim.TenantID, profile string) edgeclaim.Inherited
	// Observe hears of what an operator has to know; nil: nobody does. It must
	// not block.
	Observe func(alarm edgeclaim.Alarm)
}

// Service takes what devices say. All methods are safe for concurrent use.
type Service struct {
	cfg    Config
	parts  Parts
	logger *slog.Logger

	points *seglog.Log
	events *seglog.Log

	lane     *Lane
	presence *presence
	schemas  *schemas
	count    counters
	// before is what lay in the logs when they were opened.
	before  struct{ points, events uint64 }
	boot    atomic.Pointer[bootName]
	scratch sync.Pool // of *scratch
	// listEvery is onlineEvery, but in tests.
	listEvery time.Duration
}

// Open opens the logs, and makes what is missing of them; nothing is taken
// before Run. The caller has to Close it.
func Open(cfg Config, parts Parts, logger *slog.Logger) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if parts.Stamp == nil || parts.Epoch == nil || parts.Events == nil {
		return nil, errors.New("telemetry: want a clock, an epoch and a place for events")
	}
	points, err := seglog.Open(cfg.log("points", cfg.MaxBytes, logger))
	if err != nil {
		return nil, fmt.Errorf("telemetry: points: %w", err)
	}
	events, err := seglog.Open(cfg.log("events", cfg.EventsMaxBytes, logger))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("telemetry: events: %w", err), points.Close())
	}
	s := &Service{
		cfg: cfg, parts: parts, logger: logger,
		points: points, events: events,
		lane:     newLane(points, filepath.Join(cfg.Dir, folder), parts.Stamp, logger),
		presence: newPresence(cfg, parts.Inherited), schemas: newSchemas(), listEvery: onlineEvery,
	}
	s.before.points, s.before.events = points.Bounds().Last, events.Bounds().Last
	s.scratch.New = func() any { return newScratch() }
	s.recall()
	// The way up says the epoch again, and tells nothing before.
	if err := s.lane.Begin(context.Background(), parts.Epoch()); err != nil {
		logger.Warn("the telemetry lane does not know its epoch yet", "err", err)
	}
	return s, nil
}

func (c *Config) log(name string, most int64, logger *slog.Logger) seglog.Config {
	return seglog.Config{
		Dir: filepath.Join(c.Dir, folder, name), SegmentBytes: c.SegmentBytes, MaxBytes: most,
		MaxUnsynced: c.MaxUnsynced, Reserve: c.DiskReserve, Logger: logger.With("log", name),
	}
}

// Run writes what is taken to the disk, hands events over, and notices who has
// fallen silent. It blocks until ctx ends; nothing is taken after that.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.points.Run(ctx) })
	group.Go(func() error { return s.runEvents(ctx) })
	group.Go(func() error { return s.watch(ctx) })
	return group.Wait()
}

// Close closes the logs. Run has to have returned.
func (s *Service) Close() error { return errors.Join(s.points.Close(), s.events.Close()) }

// Lane returns edgeclaim.LaneTel, which the points lie in.
func (s *Service) Lane() *Lane { return s.lane }

// State returns what is known of a device at work since the program began.
func (s *Service) State(id edgeclaim.DeviceID) (edgeclaim.DeviceState, bool) {
	return s.presence.state(id)
}

// Gone notes that a device has left: by a DISCONNECT, by its will, or because
// its credential is void.
func (s *Service) Gone(id edgeclaim.DeviceID) {
	s.presence.gone(id, s.parts.Stamp())
}

// StatesChanged signals, some time after a device came or went, that Changed
// has something to say. It has room for one signal, and one consumer. That a
// device at work has spoken again is not signalled: ask once in a while.
func (s *Service) StatesChanged() <-chan struct{} { return s.presence.changed }
