// Package clock tells the box's time without trusting the wall clock more than
// it deserves (P10). A box without a battery wakes up in 1970, a technician
// sets the year by hand, a time server steps the clock by a day: expiry is
// judged by the later of the wall clock and a floor, and only trustworthy time
// raises the floor.
package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"edgeclaim"
)

// Limits of the clock.
const (
	// DefaultSaveEvery is how often a floor that moved is made durable. A crash
	// loses at most that much of it, which the wall clock or the next
	// synchronisation gives back; more often would wear the flash for nothing.
	DefaultSaveEvery = 10 * time.Minute
	// lookEvery is how old the kernel's word on synchronisation may be.
	lookEvery = time.Second
	// watchEvery is how often an idle box looks for a step of the wall clock.
	watchEvery = 10 * time.Second
	// stepAtLeast is the smallest difference of wall clock and running time
	// between two looks that is called a step. Slewing is at most 0.05 %: 5 ms
	// between two looks of an idle box.
	stepAtLeast = 2 * time.Second
	// readWithin is how long a look may take; a process that was stopped within
	// one has seen no step, and no reading that it could trust.
	readWithin = 100 * time.Millisecond
	// saveWithin bounds the last save, when the program stops.
	saveWithin = 5 * time.Second
)

// Keeper holds the floor across restarts. *store.DB is one.
type Keeper interface {
	// TimeFloor returns what SetTimeFloor last stored, the zero time for
	// nothing yet.
	TimeFloor(ctx context.Context) (time.Time, error)
	// SetTimeFloor stores exactly what it is given, lower values too; nil means
	// durable.
	SetTimeFloor(ctx context.Context, floor time.Time) error
}

// Change is a step of the wall clock, as far as the box saw it.
type Change struct {
	Before time.Time            // what the wall clock would read now without the step
	After  time.Time            // what it reads
	State  edgeclaim.ClockState // after the step
}

// Offset is how far the wall clock was moved; negative for back.
func (c Change) Offset() time.Duration { return c.After.Sub(c.Before) }

// Config is where a clock gets its readings from. A nil function is replaced
// by the system's own.
type Config struct {
	// Wall reads the wall clock.
	Wall func() time.Time
	// Uptime reads the time since boot, suspension included (CLOCK_BOOTTIME).
	Uptime func() time.Duration
	// Synced reports whether the kernel holds the wall clock for synchronised
	// (adjtimex: STA_UNSYNC clear and no TIME_ERROR).
	Synced func() bool
	// Boot is the kernel's boot id.
	Boot string
	// Build is when the program was built: it cannot be earlier than that. It
	// is the least floor, and the one an operator can go back to.
	Build time.Time
	// SaveEvery is how often Run makes a moved floor durable; 0 for
	// DefaultSaveEvery.
	SaveEvery time.Duration
}

// Clock is the box's clock. It is safe for concurrent use. Now and Stamp never
// block on anything but its own lock and never call the Keeper, so that they
// may be used within a transaction of the store.
type Clock struct {
	cfg Config
	log *slog.Logger

	saving sync.Mutex // held over calls of the keeper; taken before mu
	keeper Keeper     // set by Load, under saving
	saved  time.Time  // what the keeper has, under saving

	mu      sync.Mutex
	floor   time.Time
	synced  bool          // whether the last look's reading was synchronised
	looked  bool          // whether there was a look at all
	atWall  time.Time     // the wall clock at the last look
	atUp    time.Duration // the uptime at the last look
	pending *Change       // steps not yet told, merged into one
	wake    chan struct{} // capacity 1: pending was set
}

// New makes a clock whose floor is the build's date. Load brings back the floor
// of earlier runs.
func New(cfg Config, log *slog.Logger) *Clock {
	if cfg.Wall == nil {
		cfg.Wall = time.Now
	}
	if cfg.Uptime == nil {
		cfg.Uptime = uptime
	}
	if cfg.Synced == nil {
		cfg.Synced = synced
	}
	if cfg.Boot == "" {
		cfg.Boot = bootID()
	}
	if cfg.SaveEvery <= 0 {
		cfg.SaveEvery = DefaultSaveEvery
	}
	cfg.Build = cfg.Build.UTC().Round(0)
	return &Clock{cfg: cfg, log: log, floor: cfg.Build, wake: make(chan struct{}, 1)}
}

// Load raises the floor to what keeper has and remembers keeper for later
// saves. An error is the keeper's; the floor is then the build's date.
func (c *Clock) Load(ctx context.Context, keeper Keeper) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	floor, err := keeper.TimeFloor(ctx)
	if err != nil {
		return fmt.Errorf("clock: reading the time floor: %w", err)
	}
	c.keeper, c.saved = keeper, floor
	c.Raise(floor)
	if status := c.Status(); status.Wall.Before(status.Floor) {
		c.log.Warn("the wall clock is behind the time floor; expiry is judged by the floor",
			"wall", status.Wall, "floor", status.Floor)
	}
	return nil
}

// Now returns the later of the wall clock and the floor, in UTC. It is what
// expiry is judged by, and nothing else: ages come from Stamp.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, _ := c.read()
	if wall.Before(c.floor) {
		return c.floor
	}
	return wall
}

// Stamp returns when it is, as well as the box can tell.
func (c *Clock) Stamp() edgeclaim.Stamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, up := c.read()
	return edgeclaim.Stamp{Time: wall, Clock: c.state(), Boot: c.cfg.Boot, Uptime: up}
}

// Status returns the clock at a glance.
func (c *Clock) Status() edgeclaim.ClockStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, _ := c.read()
	return edgeclaim.ClockStatus{Wall: wall, Floor: c.floor, State: c.state()}
}

// Raise raises the floor to t, when t is later. Only trustworthy time may be
// given: a signed document's, an enrolled upstream's.
func (c *Clock) Raise(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raise(t)
}

// Reset sets the floor back to the build's date, durably. It is for an operator
// whose box once believed a wrong time. A synchronised wall clock raises the
// floor again at once. After an error, the keeper's, the floor is what it was.
func (c *Clock) Reset(ctx context.Context) (edgeclaim.ClockStatus, error) {
	c.saving.Lock()
	defer c.saving.Unlock()
	if err := c.keep(ctx, c.cfg.Build); err != nil {
		return edgeclaim.ClockStatus{}, err
	}
	c.mu.Lock()
	c.floor = c.cfg.Build
	c.mu.Unlock()
	return c.Status(), nil
}

// Run watches for steps of the wall clock, tells each to changed, and saves the
// floor. It returns nil when ctx ends, after a last save. changed is called by
// Run alone, may block and may use the store; steps that come while it does are
// merged into one.
func (c *Clock) Run(ctx context.Context, changed func(context.Context, Change)) error {
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	save := time.NewTicker(c.cfg.SaveEvery)
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveWithin)
			defer cancel()
			c.saveOrWarn(last)
			return nil
		case <-watch.C:
			c.Status()
		case <-save.C:
			c.saveOrWarn(ctx)
		case <-c.wake:
			if change, ok := c.takePending(); ok {
				c.log.Warn("the wall clock was stepped", "before", change.Before, "after", change.After,
					"offset_seconds", change.Offset().Seconds(), "clock_state", string(change.State))
				changed(ctx, change)
			}
		}
	}
}

// saveOrWarn saves; a box that cannot (disk full) goes on with the floor it has
// in memory.
func (c *Clock) saveOrWarn(ctx context.Context) {
	if err := c.save(ctx); err != nil && !errors.Is(err, context.Canceled) {
		c.log.Warn("the time floor could not be saved", "err", err)
	}
}

func (c *Clock) save(ctx context.Context) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.Lock()
	floor := c.floor
	c.mu.Unlock()
	if floor.Equal(c.saved) {
		return nil
	}
	return c.keep(ctx, floor)
}

// keep makes floor durable, where there is a keeper. With saving held.
func (c *Clock) keep(ctx context.Context, floor time.Time) error {
	if c.keeper == nil {
		return nil
	}
	if err := c.keeper.SetTimeFloor(ctx, floor); err != nil {
		c.saved = time.Time{} // it may have been stored all the same: the next save writes again
		return fmt.Errorf("clock: saving the time floor: %w", err)
	}
	c.saved = floor
	return nil
}

func (c *Clock) takePending() (Change, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending == nil {
		return Change{}, false
	}
	change := *c.pending
	c.pending = nil
	return change, true
}

// read reads both clocks and, when the last look is old, looks. With mu held.
func (c *Clock) read() (wall time.Time, up time.Duration) {
	up = c.cfg.Uptime()
	if c.looked && up-c.atUp < lookEvery {
		return c.wall(), up
	}
	return c.look(up), up
}

func (c *Clock) wall() time.Time { return c.cfg.Wall().UTC().Round(0) }

// look reads the wall clock, asks the kernel, raises the floor and finds steps.
// With mu held.
//
// The kernel is asked before and after the reading, and the floor is raised by
// no other: setting the clock by hand makes it unsynchronised, and a time server
// that then sets it right makes it synchronised, so that either answer alone may
// belong to another time than the one read. Both may, when the process was
// stopped in between: then nothing is believed, and the next reading looks again.
func (c *Clock) look(up time.Duration) time.Time {
	before := c.cfg.Synced()
	wall := c.wall()
	after := c.cfg.Synced()
	quick := c.cfg.Uptime()-up < readWithin
	c.synced = before && after && quick
	if c.synced {
		c.raise(wall)
	}
	if quick {
		c.compare(wall, up)
	}
	return wall
}

// compare finds steps between the last look and this one. With mu held.
func (c *Clock) compare(wall time.Time, up time.Duration) {
	before := c.atWall.Add(up - c.atUp)
	if off := wall.Sub(before).Abs(); c.looked && off > stepAtLeast {
		c.report(before, wall)
	}
	c.looked, c.atWall, c.atUp = true, wall, up
}

// report adds a step to the pending one. With mu held.
func (c *Clock) report(before, after time.Time) {
	if p := c.pending; p != nil {
		// What the clock would read without either step.
		before = before.Add(-p.Offset())
	}
	c.pending = &Change{Before: before, After: after, State: c.state()}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Clock) raise(t time.Time) {
	if t = t.UTC().Round(0); t.After(c.floor) {
		c.floor = t
	}
}

func (c *Clock) state() edgeclaim.ClockState {
	if c.synced {
		return edgeclaim.ClockSynced
	}
	return edgeclaim.ClockUnsynced
}
