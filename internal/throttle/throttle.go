// Package throttle counts failed claims by where they come from, and says how
// long a source that failed too often has to wait.
//
// It never stands between a good claim and its answer. The caller decides
// first, and asks only about a claim that it is going to refuse:
//
//	if !errors.Is(err, edgeclaim.ErrDenied) {
//		return answer // whoever else fails from that address
//	}
//	if wait := failures.Wait(source); wait > 0 {
//		return tooMany(wait) // not counted
//	}
//	failures.Fail(source)
//	return refusal
//
// So a device with a good key gets through while somebody behind the same
// address guesses. A malformed claim is no failure, for it tells the asker
// nothing, nor is one that the box could not commit. Both answers above are held
// back until edgeclaim.RefusalDelay is over: an early "too many" would tell by
// its time how far the claim got (P3).
//
// What is bounded is how many refusals a source gets to hear, hence how fast it
// can guess. DESIGN.md says why the table cannot be made to forget.
package throttle

import (
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Bounds of a Config.
const (
	// maxBurst, with minPerSecond, keeps every sum of times within 64 bits.
	maxBurst     = 1_000_000
	minPerSecond = 0.001
	maxPerSecond = 1_000_000
	// maxMaxSources is some 200 MiB.
	maxMaxSources = 1_000_000
)

// debt is how many times Burst a source can owe: failures that were under way
// together are told after the last of them was let through. It also bounds the
// longest wait, to (debt-1)*Burst+1 failures' worth of time.
const debt = 2

// reach is how many places of a full table are looked at for one that may be
// reused: enough to find one where one in three may, and not so many that it
// takes time.
const reach = 8

// Config says how often a source may fail, and what is remembered (P7).
type Config struct {
	// Burst is how many failures a source has at once, 1 to 1,000,000.
	Burst int
	// PerSecond is at what rate it gets them back, 0.001 to 1,000,000.
	PerSecond float64
	// MaxSources bounds the sources that are counted each by itself, 1 to
	// 1,000,000; those beyond are counted together. Some 200 bytes each.
	MaxSources int
	// SpareLoopback never makes who is on the box itself wait.
	SpareLoopback bool
	// Now is the time, whose monotonic reading is used where it has one; nil
	// for time.Now.
	Now func() time.Time
}

// Defaults returns the configuration of a box that nobody configured.
func Defaults() Config {
	return Config{Burst: 100, PerSecond: 20, MaxSources: 4_096}
}

// Validate returns an error that names the first key at fault, as it is spelled
// in the configuration file.
func (c *Config) Validate() error {
	switch {
	case c.Burst < 1 || c.Burst > maxBurst:
		return fmt.Errorf("burst: want 1 to %d", maxBurst)
	case !(c.PerSecond >= minPerSecond && c.PerSecond <= maxPerSecond): // nor NaN
		return fmt.Errorf("per_second: want %v to %d", minPerSecond, maxPerSecond)
	case c.MaxSources < 1 || c.MaxSources > maxMaxSources:
		return fmt.Errorf("max_sources: want 1 to %d", maxMaxSources)
	}
	return nil
}

// Throttle is a token bucket for each source. It is safe for concurrent use, and
// takes the same time whatever it holds. A restart forgets it.
type Throttle struct {
	max   int
	spare bool
	clock func() time.Time
	start time.Time
	each  time.Duration // that a failure takes to be made good
	whole time.Duration // Burst of them

	mu      sync.Mutex // guards what follows, for the length of a look-up
	now     time.Duration
	at      map[netip.Addr]int
	places  []place
	hand    int           // the place to look at next, once there are max of them
	crowd   time.Duration // good, of all those who found no place
	crowded uint64
}

// place is one source's bucket, kept as the moment at which it is full again. One
// that is full already says no more than none at all.
type place struct {
	source netip.Addr
	good   time.Duration // since start
}

// New validates cfg.
func New(cfg Config) (*Throttle, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("throttle: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	each := time.Duration(float64(time.Second)/cfg.PerSecond + 0.5)
	return &Throttle{
		max: cfg.MaxSources, spare: cfg.SpareLoopback, clock: cfg.Now, start: cfg.Now(),
		each: each, whole: time.Duration(cfg.Burst) * each,
		at: map[netip.Addr]int{},
	}, nil
}

// Wait says how long the source has to wait until it may fail again; 0: go on. It
// counts nothing.
func (t *Throttle) Wait(source netip.Addr) time.Duration {
	if t.spared(source) {
		return 0
	}
	source = network(source)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tickLocked()
	good := t.crowd
	if i, ok := t.at[source]; ok {
		good = t.places[i].good
	} else if t.roomLocked() {
		return 0
	}
	return max(0, good-t.now-(t.whole-t.each))
}

// Fail counts a failure of the source. It is called for what Wait let through,
// at once, before the refusal is held back or written.
func (t *Throttle) Fail(source netip.Addr) {
	if t.spared(source) {
		return
	}
	source = network(source)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tickLocked()
	good := &t.crowd
	if i, ok := t.at[source]; ok {
		good = &t.places[i].good
	} else if t.roomLocked() {
		good = &t.places[t.takeLocked(source)].good
	} else {
		t.crowded++
	}
	*good = min(max(*good, t.now)+t.each, t.now+debt*t.whole)
}

// Crowded is how many failures were counted together, because more sources had
// failed than can be told apart. Above 0 somebody has thousands of addresses.
func (t *Throttle) Crowded() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.crowded
}

func (t *Throttle) spared(source netip.Addr) bool {
	return t.spare && source.Unmap().IsLoopback()
}

// network is what counts as one source: an IPv4 address, also where it is mapped
// into IPv6, or the /64 within which one host of IPv6 has any address it likes
// (RFC 4291, section 2.5.1). Those without an address, not being TCP, are one.
func network(source netip.Addr) netip.Addr {
	source = source.Unmap()
	if !source.Is6() {
		return source
	}
	return netip.PrefixFrom(source.WithZone(""), 64).Masked().Addr()
}

// tickLocked looks at the clock. One that goes backwards stands still.
func (t *Throttle) tickLocked() { t.now = max(t.now, t.clock().Sub(t.start)) }

// roomLocked reports whether a newcomer can have a place, and leaves the hand at
// one if all are taken: at one whose bucket is full again, never at another.
func (t *Throttle) roomLocked() bool {
	if len(t.places) < t.max {
		return true
	}
	for range min(reach, t.max) {
		if t.places[t.hand].good <= t.now {
			return true
		}
		t.hand = (t.hand + 1) % t.max
	}
	return false
}

// takeLocked gives the source the place that roomLocked found, and returns which.
func (t *Throttle) takeLocked(source netip.Addr) int {
	i := t.hand
	if len(t.places) < t.max {
		i = len(t.places)
		t.places = append(t.places, place{})
	} else {
		delete(t.at, t.places[i].source)
	}
	t.places[i] = place{source: source}
	t.at[source] = i
	return i
}
