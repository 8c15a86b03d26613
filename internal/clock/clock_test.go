package clock_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edgeclaim"
	"edgeclaim/internal/clock"
)

var (
	build   = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	present = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	epoch   = time.Unix(0, 0).UTC()
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// machine is a machine's clocks, set by hand.
type machine struct {
	mu     sync.Mutex
	wall   time.Time
	up     time.Duration
	synced bool
	// stall is how long the process is stopped before the next reading of the
	// wall clock.
	stall time.Duration
	// around, when set, is called once, before and after the next reading of the
	// wall clock.
	around struct{ before, after func() }
}

func (m *machine) Wall() time.Time {
	around := m.around
	m.around.before, m.around.after = nil, nil
	if around.before != nil {
		around.before()
	}
	if around.after != nil {
		defer around.after()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall, m.up, m.stall = m.wall.Add(m.stall), m.up+m.stall, 0
	return m.wall
}

func (m *machine) Uptime() time.Duration { m.mu.Lock(); defer m.mu.Unlock(); return m.up }

func (m *machine) Synced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.synced
}

// pass lets time go by.
func (m *machine) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall, m.up = m.wall.Add(d), m.up+d
}

// set sets the wall clock, as settimeofday does: synchronisation is gone.
func (m *machine) set(wall time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall, m.synced = wall, false
}

// sync is a time server's word.
func (m *machine) sync(wall time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall, m.synced = wall, true
}

func (m *machine) clock() *clock.Clock {
	return clock.New(clock.Config{
		Wall: m.Wall, Uptime: m.Uptime, Synced: m.Synced, Boot: "boot-1", Build: build,
	}, slog.New(slog.NewTextHandler(io.Discard, nil)))
}

// keeper is a Keeper in memory.
type keeper struct {
	mu    sync.Mutex
	floor time.Time
	saves int
	fail  error
	// stores: a SetTimeFloor that fails has stored all the same.
	stores bool
}

func (k *keeper) TimeFloor(context.Context) (time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.floor, k.fail
}

func (k *keeper) SetTimeFloor(_ context.Context, floor time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		if k.stores {
			k.floor = floor
		}
		return k.fail
	}
	k.floor = floor
	k.saves++
	return nil
}

func (k *keeper) get() (time.Time, int) { k.mu.Lock(); defer k.mu.Unlock(); return k.floor, k.saves }

func TestNowIsTheLaterOfWallAndFloor(t *testing.T) {
	tests := []struct {
		name      string
		kept      time.Time // floor of an earlier run
		before    bool      // synchronised at present before the step
		step      func(*machine)
		wantNow   time.Time
		wantFloor time.Time
	}{
		{"unsynchronised and right", epoch, false, func(*machine) {}, present, build},
		{"synchronised", epoch, true, func(*machine) {}, present, present},
		{"set back a day by hand", epoch, true, func(m *machine) { m.set(present.Add(-day)) }, present, present},
		{"set back a day by a time server", epoch, true, func(m *machine) { m.sync(present.Add(-day)) }, present, present},
		{"set forward a year by hand", epoch, true, func(m *machine) { m.set(present.Add(year)) }, present.Add(year), present},
		{"set forward a year by a time server", epoch, true, func(m *machine) { m.sync(present.Add(year)) }, present.Add(year), present.Add(year)},
		{"forward by hand and back again", epoch, true, func(m *machine) { m.set(present.Add(year)); m.pass(time.Hour); m.set(present) }, present, present},
		{"1970, never synchronised", time.Time{}, false, func(m *machine) { m.set(epoch) }, build, build},
		{"1970, synchronised before", epoch, true, func(m *machine) { m.set(epoch) }, present, present},
		{"1970, synchronised in an earlier run", present.Add(-day), false, func(m *machine) { m.set(epoch) }, present.Add(-day), present.Add(-day)},
		{"1970, then a time server", present.Add(-day), false, func(m *machine) { m.set(epoch); m.pass(time.Hour); m.sync(present) }, present, present},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &machine{wall: present, synced: tt.before}
			c := m.clock()
			if err := c.Load(t.Context(), &keeper{floor: tt.kept}); err != nil {
				t.Fatal(err)
			}
			c.Now()
			tt.step(m)
			m.up += 2 * time.Second // running time only: the kernel's word is asked for again
			if got := c.Now(); !got.Equal(tt.wantNow) {
				t.Errorf("Now() = %v, want %v", got, tt.wantNow)
			}
			if got := c.Status().Floor; !got.Equal(tt.wantFloor) {
				t.Errorf("floor = %v, want %v", got, tt.wantFloor)
			}
		})
	}
}

// A wrong year set by hand within the second in which the kernel's word is
// remembered must not count as synchronised.
func TestRememberedWordRaisesNothing(t *testing.T) {
	m := &machine{wall: present, synced: true}
	c := m.clock()
	c.Now()
	m.set(present.Add(year))
	c.Now()
	m.pass(5 * time.Second)
	c.Now()
	if floor := c.Status().Floor; !floor.Equal(present) {
		t.Errorf("floor = %v, want %v", floor, present)
	}
}

// What the kernel says of one time must not count for the reading of another.
func TestLookThatTheClockChangesUnder(t *testing.T) {
	wrong := func(m *machine) func() { return func() { m.set(present.Add(year)) } }
	right := func(m *machine) func() { return func() { m.sync(present) } }
	tests := []struct {
		name   string
		change func(*machine)
	}{
		{"wrong, set right after it was read", func(m *machine) { m.wall, m.around.after = present.Add(year), right(m) }},
		{"right, set wrong before it is read", func(m *machine) { m.synced, m.around.before = true, wrong(m) }},
		{"both, while the process is stopped", func(m *machine) {
			m.synced, m.stall = true, time.Minute
			m.around.before, m.around.after = wrong(m), right(m)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &machine{wall: present}
			tt.change(m)
			c := m.clock()
			if stamp := c.Stamp(); stamp.Clock != edgeclaim.ClockUnsynced {
				t.Errorf("Stamp() = %+v, want it unsynchronised", stamp)
			}
			m.up += 2 * time.Second
			m.set(present)
			if floor := c.Status().Floor; !floor.Equal(build) {
				t.Errorf("floor = %v, want the build's date", floor)
			}
			m.up += 2 * time.Second
			m.sync(present)
			if floor := c.Status().Floor; !floor.Equal(present) {
				t.Errorf("floor = %v after a sound look, want %v", floor, present)
			}
		})
	}
}

func TestRaise(t *testing.T) {
	m := &machine{wall: epoch}
	c := m.clock()
	c.Raise(present)
	c.Raise(present.Add(-day))
	if got := c.Now(); !got.Equal(present) {
		t.Errorf("Now() = %v, want %v", got, present)
	}
}

func TestStamp(t *testing.T) {
	m := &machine{wall: present.In(time.FixedZone("somewhere", 7200)), up: time.Minute, synced: true}
	c := m.clock()
	c.Raise(present.Add(year)) // a stamp tells the wall clock, whatever the floor
	want := edgeclaim.Stamp{Time: present, Clock: edgeclaim.ClockSynced, Boot: "boot-1", Uptime: time.Minute}
	if got := c.Stamp(); got != want {
		t.Errorf("Stamp() = %+v, want %+v", got, want)
	}
}

func TestStepsAreTold(t *testing.T) {
	type step struct {
		before, after time.Time
		state         edgeclaim.ClockState
	}
	tests := []struct {
		name string
		do   func(*machine)
		want []step
	}{
		{"none", func(m *machine) { m.pass(time.Hour) }, nil},
		{"slewed", func(m *machine) { m.pass(time.Minute); m.set(m.wall.Add(time.Second)) }, nil},
		{"stopped between two readings", func(m *machine) { m.stall = time.Minute }, nil},
		{"back a day", func(m *machine) { m.pass(time.Minute); m.set(m.wall.Add(-day)) },
			[]step{{present.Add(time.Minute), present.Add(time.Minute - day), edgeclaim.ClockUnsynced}}},
		{"forward a year, synchronised", func(m *machine) { m.pass(time.Minute); m.sync(m.wall.Add(year)) },
			[]step{{present.Add(time.Minute), present.Add(time.Minute + year), edgeclaim.ClockSynced}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &machine{wall: present}
				c := m.clock()
				c.Now()
				tt.do(m)
				m.pass(2 * time.Second)
				var got []step
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					done <- c.Run(ctx, func(_ context.Context, change clock.Change) {
						got = append(got, step{change.Before, change.After, change.State})
					})
				}()
				// Nobody asks for the time: Run itself finds the step.
				select {
				case <-time.After(30 * time.Second):
				case <-done:
				}
				cancel()
				synctest.Wait()
				if len(got) != len(tt.want) {
					t.Fatalf("told %+v, want %+v", got, tt.want)
				}
				for i, want := range tt.want {
					want.before, want.after = want.before.Add(2*time.Second), want.after.Add(2*time.Second)
					if got[i] != want {
						t.Errorf("told %+v, want %+v", got[i], want)
					}
				}
			})
		})
	}
}

func TestStepsNotYetToldAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{wall: present}
		c := m.clock()
		c.Now()
		for _, offset := range []time.Duration{day, year, -time.Hour} {
			m.pass(10 * time.Second)
			m.set(m.wall.Add(offset))
			c.Now()
		}
		ctx, cancel := context.WithCancel(t.Context())
		var got []clock.Change
		done := make(chan error, 1)
		go func() {
			done <- c.Run(ctx, func(_ context.Context, change clock.Change) { got = append(got, change) })
		}()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 {
			t.Fatalf("told %d steps, want 1", len(got))
		}
		if want := present.Add(30 * time.Second); !got[0].Before.Equal(want) {
			t.Errorf("before = %v, want %v", got[0].Before, want)
		}
		if want := day + year - time.Hour; got[0].Offset() != want {
			t.Errorf("offset = %v, want %v", got[0].Offset(), want)
		}
	})
}

func TestFloorIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{wall: present, synced: true}
		c := m.clock()
		k := &keeper{}
		if err := c.Load(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx, func(context.Context, clock.Change) {}) }()

		<-time.After(clock.DefaultSaveEvery + time.Second)
		synctest.Wait()
		if floor, saves := k.get(); !floor.Equal(present) || saves != 1 {
			t.Errorf("after the interval: floor %v, %d saves; want %v, 1", floor, saves, present)
		}
		<-time.After(clock.DefaultSaveEvery)
		synctest.Wait()
		if _, saves := k.get(); saves != 1 {
			t.Errorf("a floor that did not move was saved %d times", saves)
		}
		m.pass(time.Hour)
		c.Now()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if floor, saves := k.get(); !floor.Equal(present.Add(time.Hour)) || saves != 2 {
			t.Errorf("after the stop: floor %v, %d saves; want %v, 2", floor, saves, present.Add(time.Hour))
		}
	})
}

func TestReset(t *testing.T) {
	m := &machine{wall: present}
	c := m.clock()
	k := &keeper{floor: present.Add(year)}
	if err := c.Load(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	status, err := c.Reset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !status.Floor.Equal(build) {
		t.Errorf("floor = %v, want the build's date", status.Floor)
	}
	if floor, _ := k.get(); !floor.Equal(build) {
		t.Errorf("kept floor = %v, want the build's date", floor)
	}
	if got := c.Now(); !got.Equal(present) {
		t.Errorf("Now() = %v, want the wall clock %v", got, present)
	}
}

func TestKeeperFails(t *testing.T) {
	m := &machine{wall: epoch}
	c := m.clock()
	broken := errors.New("broken")
	if err := c.Load(t.Context(), &keeper{fail: broken}); !errors.Is(err, broken) {
		t.Errorf("Load: %v, want the keeper's error", err)
	}
	if got := c.Now(); !got.Equal(build) {
		t.Errorf("Now() = %v, want the build's date", got)
	}
	k := &keeper{floor: present}
	if err := c.Load(t.Context(), k); err != nil {
		t.Fatal(err)
	}
}

// A reset that failed changed nothing, and what the keeper stored all the same
// is mended by the next save.
func TestResetFails(t *testing.T) {
	for name, stored := range map[string]bool{"failed": false, "failed but stored": true} {
		t.Run(name, func(t *testing.T) {
			c := (&machine{wall: epoch}).clock()
			k := &keeper{floor: present}
			if err := c.Load(t.Context(), k); err != nil {
				t.Fatal(err)
			}
			k.fail, k.stores = errors.New("broken"), stored
			if _, err := c.Reset(t.Context()); !errors.Is(err, k.fail) {
				t.Errorf("Reset: %v, want the keeper's error", err)
			}
			if got := c.Now(); !got.Equal(present) {
				t.Errorf("Now() = %v after a reset that failed, want the floor %v", got, present)
			}
			k.fail = nil
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := c.Run(ended, func(context.Context, clock.Change) {}); err != nil {
				t.Fatal(err)
			}
			if floor, _ := k.get(); !floor.Equal(present) {
				t.Errorf("kept floor = %v after the last save, want %v", floor, present)
			}
		})
	}
}

// The system's own readings, as far as they can be judged without knowing what
// time it is.
func TestSystem(t *testing.T) {
	c := clock.New(clock.Config{Build: build}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	a, b := c.Stamp(), c.Stamp()
	if a.Uptime <= 0 || b.Uptime < a.Uptime {
		t.Errorf("uptime goes from %v to %v", a.Uptime, b.Uptime)
	}
	if len(a.Boot) != 36 && a.Boot != "unknown" {
		t.Errorf("boot id %q", a.Boot)
	}
	if a.Time.Location() != time.UTC {
		t.Errorf("stamp in %v", a.Time.Location())
	}
}

func BenchmarkNow(b *testing.B) {
	c := clock.New(clock.Config{Build: build}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	for b.Loop() {
		c.Now()
	}
}
