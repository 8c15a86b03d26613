// Package command is what devices are told: commands, kept until the device has
// answered, they expire or are taken back; and the devices' configurations.
// DESIGN.md in this folder says how and why.
package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"edgeclaim"
)

const (
	// loadPage is how many commands New reads in one transaction.
	loadPage = 1000
	// longestPause is how long Run rests at most while something waits: a step of
	// the wall clock is noticed by then.
	longestPause = 10 * time.Second
	// shortestPause is how long it rests at least. What is due is sent by whoever
	// asks, and nothing is sent late: no harm in being told of an end so much later.
	shortestPause = 100 * time.Millisecond
)

// Service is the rule of commands. It is safe for many goroutines.
type Service struct {
	cfg    Config
	store  Store
	parts  Parts
	clock  Clock
	logger *slog.Logger
	bases  *bases

	// mu guards what waits, and who waits for it. It is never held over a call of
	// the store, or of Wake.
	mu      sync.Mutex
	index   index
	pollers map[edgeclaim.DeviceID]*poll
	retold  map[uint64]time.Duration // when upstream was told a status again, by number
	refused map[refusedKey]fate      // what upstream was told of orders that were not taken

	nudge chan struct{} // capacity 1: Run is to look again
}

// New makes the service, and reads the commands that wait, without what they
// say: there are Config.MaxWaiting at most (P7).
func New(cfg Config, parts Parts, logger *slog.Logger) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("commands: %w", err)
	}
	if err := parts.validate(logger); err != nil {
		return nil, fmt.Errorf("commands: %w", err)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(edgeclaim.CommandStatus) {}
	}
	if parts.Wake == nil {
		parts.Wake = func(edgeclaim.DeviceID) {}
	}
	if parts.WakeAll == nil {
		parts.WakeAll = func() {}
	}
	if parts.Auditor == nil {
		parts.Auditor = nobody{}
	}
	s := &Service{
		cfg: cfg, store: parts.Store, parts: parts, clock: parts.Clock, logger: logger, bases: newBases(),
		index: newIndex(), pollers: map[edgeclaim.DeviceID]*poll{}, retold: map[uint64]time.Duration{}, refused: map[refusedKey]fate{},
		nudge: make(chan struct{}, 1),
	}
	for after := uint64(0); ; {
		page, err := s.store.LiveCommands(context.Background(), after, loadPage)
		if err != nil {
			return nil, fmt.Errorf("commands: %w", err)
		}
		for i := range page {
			s.index.add(&page[i], 0)
			after = page[i].Number
		}
		if len(page) < loadPage {
			return s, nil
		}
	}
}

// Run ends the commands whose time is over, and has those looked at that are to
// be sent again. It blocks until ctx ends, and returns nil then. What it cannot
// store it tries again: nothing that is over is sent meanwhile.
func (s *Service) Run(ctx context.Context) error {
	s.cancelRevoked(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for nudged := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-s.nudge:
			if !nudged { // or who nudges all the time would put it off for ever
				timer.Reset(shortestPause)
			}
			nudged = true
			continue
		case <-timer.C:
		}
		pause, err := s.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			s.logger.Warn("commands that are over are not ended yet", "err", err)
			pause = longestPause
		}
		if nudged = false; pause > 0 {
			timer.Reset(max(pause, shortestPause))
		}
	}
}

// sweep ends what is over and wakes who has something due. It returns after
// which pause to look again; 0: when nudged.
func (s *Service) sweep(ctx context.Context) (pause time.Duration, err error) {
	m := s.moment()
	s.mu.Lock()
	over, wake, pause := s.index.look(m, &s.cfg, longestPause)
	s.mu.Unlock()
	slices.Sort(over)
	for _, device := range wake {
		s.wake(device)
	}
	return pause, s.endAll(ctx, over, func(c *edgeclaim.Command) verdict {
		if c.Status == edgeclaim.CommandQueued { // sent is durable before it is written
			return verdict{status: edgeclaim.CommandExpired, reason: reasonNotSent}
		}
		return verdict{status: edgeclaim.CommandExpired, reason: reasonNoAnswer}
	})
}

// cancelRevoked does what Voided could not do before the program ended.
func (s *Service) cancelRevoked(ctx context.Context) {
	s.mu.Lock()
	devices := make([]edgeclaim.DeviceID, 0, len(s.index.devices))
	for device := range s.index.devices {
		devices = append(devices, device)
	}
	s.mu.Unlock()
	for _, device := range devices {
		if err := s.voided(ctx, device); err != nil && !errors.Is(err, edgeclaim.ErrNotFound) {
			s.logger.Warn("commands are not looked through for revoked devices", "err", err)
			return
		}
	}
}

// moment is one look at the clock. It is taken under mu where what it is compared
// with must not be younger.
func (s *Service) moment() moment {
	return moment{now: s.clock.Now(), up: s.clock.Stamp().Uptime}
}

// lookAgain has Run look at once.
func (s *Service) lookAgain() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// Show returns a command, ErrNotFound when there is none.
func (s *Service) Show(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID) (edgeclaim.Command, error) {
	return s.store.Command(ctx, device, id)
}

// List returns up to limit commands, the newest first, those with a Number below
// before, 0 for all; of one device, the zero device for all. Those that have
// come to their end are there until too many newer ones have.
func (s *Service) List(ctx context.Context, device edgeclaim.DeviceID, before uint64, limit int) ([]edgeclaim.Command, error) {
	return s.store.Commands(ctx, device, before, limit)
}

// Status counts the commands.
func (s *Service) Status() edgeclaim.CommandsStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return edgeclaim.CommandsStatus{Waiting: len(s.index.entries)}
}
