package throttle_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"edgeclaim/internal/throttle"
)

// clock is a time that goes when it is told to.
type clock struct{ at time.Time }

func (c *clock) now() time.Time          { return c.at }
func (c *clock) advance(d time.Duration) { c.at = c.at.Add(d) }

func newThrottle(t testing.TB, cfg throttle.Config) (*throttle.Throttle, *clock) {
	t.Helper()
	c := &clock{at: time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)} // a box without a battery
	cfg.Now = c.now
	th, err := throttle.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return th, c
}

// source is the n-th IPv4 address of 10.0.0.0/8.
func source(n int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24|uint32(n))
	return netip.AddrFrom4(b)
}

// fail is what a caller does for a claim that it refuses, and how often it was
// let through.
func fail(th *throttle.Throttle, from netip.Addr, times int) (told int) {
	for range times {
		if th.Wait(from) == 0 {
			th.Fail(from)
			told++
		}
	}
	return told
}

// A burst of 100, then 20 a second.
func TestBurstThenRate(t *testing.T) {
	th, clock := newThrottle(t, throttle.Defaults())
	if told := fail(th, source(1), 1000); told != 100 {
		t.Errorf("a burst of %d, want 100", told)
	}
	if wait := th.Wait(source(1)); wait != 50*time.Millisecond {
		t.Errorf("wait %v, want 50ms", wait)
	}
	if told := fail(th, source(2), 1000); told != 100 {
		t.Errorf("another source: a burst of %d, want 100", told)
	}
	told := 0
	for range 10_000 { // 10 s
		clock.advance(time.Millisecond)
		told += fail(th, source(1), 10)
	}
	if told != 200 {
		t.Errorf("%d in 10 s, want 200", told)
	}
	clock.advance(5*time.Second - time.Millisecond)
	if told := fail(th, source(1), 1000); told != 99 {
		t.Errorf("%d just before it is made good, want 99", told)
	}
	clock.advance(time.Hour)
	if told := fail(th, source(1), 1000); told != 100 {
		t.Errorf("%d after an hour, want 100", told)
	}
}

// What was let through together is owed together, yet nobody waits longer than
// a burst takes to come back.
func TestDebt(t *testing.T) {
	th, clock := newThrottle(t, throttle.Defaults())
	for range 150 {
		th.Fail(source(1))
	}
	if wait := th.Wait(source(1)); wait != 51*50*time.Millisecond {
		t.Errorf("150 at once: wait %v, want 2.55s", wait)
	}
	for range 100_000 {
		th.Fail(source(1))
	}
	wait := th.Wait(source(1))
	if wait != 101*50*time.Millisecond {
		t.Errorf("any number at once: wait %v, want 5.05s", wait)
	}
	clock.advance(wait)
	if told := fail(th, source(1), 10); told != 1 {
		t.Errorf("after the wait it was told: %d, want 1", told)
	}
}

func TestSources(t *testing.T) {
	for _, tt := range []struct {
		name, failed, asks string
		same               bool
	}{
		{"the same", "192.0.2.1", "192.0.2.1", true},
		{"its neighbour", "192.0.2.1", "192.0.2.2", false},
		{"mapped into IPv6", "192.0.2.1", "::ffff:192.0.2.1", true},
		{"its neighbour, mapped", "::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
		{"one /64", "2001:db8::1", "2001:db8::ffff:1", true},
		{"the next /64", "2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"any zone", "fe80::1%eth0", "fe80::2%eth1", true},
		{"loopback", "127.0.0.1", "127.0.0.1", true},
		{"loopback's neighbour", "127.0.0.1", "127.0.0.2", false},
		{"IPv6's loopback", "::1", "::1", true},
		{"none", "", "", true},
		{"none and the unspecified", "", "::", false},
		{"IPv4 and a /64 that looks like it", "0.0.0.0", "::", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed, _ := netip.ParseAddr(tt.failed) // "" is no address
			asks, _ := netip.ParseAddr(tt.asks)
			cfg := throttle.Defaults()
			th, _ := newThrottle(t, cfg)
			fail(th, failed, cfg.Burst)
			if waits := th.Wait(asks) > 0; waits != tt.same {
				t.Errorf("%s waits: %v, want %v", tt.asks, waits, tt.same)
			}
		})
	}
}

func TestSpareLoopback(t *testing.T) {
	cfg := throttle.Defaults()
	cfg.SpareLoopback = true
	th, _ := newThrottle(t, cfg)
	for text, want := range map[string]int{
		"127.0.0.1": 1000, "127.1.2.3": 1000, "::1": 1000, "::ffff:127.0.0.1": 1000, "192.0.2.1": 100, "": 100,
	} {
		from, _ := netip.ParseAddr(text)
		if told := fail(th, from, 1000); told != want {
			t.Errorf("%q: let through %d of 1000, want %d", text, told, want)
		}
	}
}

// Somebody with any number of addresses neither has a throttled one forgotten,
// nor makes those wait who have a place.
func TestFullTable(t *testing.T) {
	cfg := throttle.Config{Burst: 100, PerSecond: 20, MaxSources: 1000}
	th, clock := newThrottle(t, cfg)
	guesser, honest := source(0), source(1)
	fail(th, guesser, 100)
	fail(th, honest, 1)
	for i := range 998 {
		fail(th, source(2+i), 100)
	}
	told := 0
	for i := range 100_000 {
		told += fail(th, source(1000+i), 1)
	}
	if told != 100 {
		t.Errorf("all newcomers together: %d, want a burst of 100", told)
	}
	if th.Crowded() != 100 {
		t.Errorf("crowded %d, want 100", th.Crowded())
	}
	if wait := th.Wait(guesser); wait != 50*time.Millisecond {
		t.Errorf("the guesser waits %v, want 50ms", wait)
	}
	if told := fail(th, honest, 1000); told != 99 {
		t.Errorf("who has a place: %d more, want 99", told)
	}
	clock.advance(5 * time.Second) // all is made good
	for i := range 1000 {
		if told := fail(th, source(200_000+i), 101); told != 100 {
			t.Fatalf("newcomer %d has %d, want 100: places are not used again", i, told)
		}
	}
	if th.Crowded() != 100 {
		t.Errorf("crowded %d, want still 100", th.Crowded())
	}
}

// A failure takes its place for 50 ms only, so that a real flood from ever new
// addresses leaves places free: 50,000 a second need 2,500.
func TestFloodLeavesPlaces(t *testing.T) {
	th, clock := newThrottle(t, throttle.Defaults())
	guesser := source(0)
	fail(th, guesser, 100)
	told := 0
	for i := range 500_000 { // 10 s
		clock.advance(20 * time.Microsecond)
		th.Fail(source(1 + i))
		told += fail(th, guesser, 1)
	}
	if told != 200 {
		t.Errorf("the guesser got %d in 10 s, want 200", told)
	}
	if n := th.Crowded(); n > 500 { // a thousandth: the hand looks at a few places only
		t.Errorf("%d of 500,000 found no place", n)
	}
}

func TestClockBackwards(t *testing.T) {
	th, clock := newThrottle(t, throttle.Defaults())
	clock.advance(time.Hour)
	fail(th, source(1), 100)
	clock.advance(-time.Hour)
	if wait := th.Wait(source(1)); wait != 50*time.Millisecond {
		t.Errorf("wait %v, want 50ms", wait)
	}
}

// bucket is the textbook's: tokens that come back at a rate. model is one for
// each source, and one for all who come when that many are not full.
type bucket struct{ tokens, at time.Duration } // a token is as long as it takes to come back

type model struct {
	each  time.Duration
	burst time.Duration
	max   int
	own   map[netip.Addr]*bucket
	crowd *bucket
}

func (m *model) of(source netip.Addr, now time.Duration) *bucket {
	for s, b := range m.own {
		b.tokens = min(m.burst*m.each, b.tokens+now-b.at)
		if b.at = now; b.tokens == m.burst*m.each {
			delete(m.own, s)
		}
	}
	m.crowd.tokens = min(m.burst*m.each, m.crowd.tokens+now-m.crowd.at)
	m.crowd.at = now
	switch b, ok := m.own[source]; {
	case ok:
		return b
	case len(m.own) < m.max:
		return &bucket{tokens: m.burst * m.each, at: now}
	default:
		return m.crowd
	}
}

func (m *model) wait(source netip.Addr, now time.Duration) time.Duration {
	return max(0, m.each-m.of(source, now).tokens)
}

func (m *model) fail(source netip.Addr, now time.Duration) {
	b := m.of(source, now)
	b.tokens = max(-m.burst*m.each, b.tokens-m.each)
	if b != m.crowd {
		m.own[source] = b
	}
}

// The table tells to the nanosecond what the model does, which forgets nobody
// who is owed anything. It is small, so that one look goes round it.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		burst := rapid.IntRange(1, 5).Draw(rt, "burst")
		sources := rapid.IntRange(1, 8).Draw(rt, "max sources")
		each := time.Duration(rapid.IntRange(1, 1000).Draw(rt, "each")) * time.Millisecond
		th, clock := newThrottle(t, throttle.Config{
			Burst: burst, PerSecond: float64(time.Second) / float64(each), MaxSources: sources,
		})
		m := &model{
			each: each, burst: time.Duration(burst), max: sources, own: map[netip.Addr]*bucket{},
			crowd: &bucket{tokens: time.Duration(burst) * each},
		}
		now := time.Duration(0)
		check := func(from netip.Addr) {
			if got, want := th.Wait(from), m.wait(from, now); got != want {
				rt.Fatalf("%v at %v: wait %v, want %v", from, now, got, want)
			}
		}
		drawn := func() netip.Addr { return source(rapid.IntRange(0, 11).Draw(rt, "source")) }
		rt.Repeat(map[string]func(*rapid.T){
			"fail": func(*rapid.T) {
				from := drawn()
				th.Fail(from)
				m.fail(from, now)
				check(from)
			},
			"fail if let through": func(*rapid.T) {
				from := drawn()
				check(from)
				if th.Wait(from) == 0 {
					th.Fail(from)
					m.fail(from, now)
				}
			},
			"time goes": func(*rapid.T) {
				d := time.Duration(rapid.Int64Range(0, int64(2*each)).Draw(rt, "for"))
				clock.advance(d)
				now += d
			},
			"": func(*rapid.T) {
				for i := range 12 {
					check(source(i))
				}
			},
		})
	})
}

// Many at once lose no count.
func TestConcurrent(t *testing.T) {
	cfg := throttle.Config{Burst: 1000, PerSecond: 1, MaxSources: 16}
	th, _ := newThrottle(t, cfg)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1600 {
				th.Wait(source(i % 20))
				th.Fail(source(i % 16))
			}
		})
	}
	wg.Wait()
	for i := range 16 { // 800 each
		if told := fail(th, source(i), 1000); told != 200 {
			t.Errorf("source %d: %d left, want 200", i, told)
		}
	}
}

// flood has n sources fail, each once, a microsecond apart.
func flood(th *throttle.Throttle, clock *clock, n int) {
	for i := range n {
		clock.advance(time.Microsecond)
		th.Wait(source(i))
		th.Fail(source(i))
	}
}

// heap is what is in use, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// However many sources there are, the table stays below a megabyte. (It doubles
// once, when the map has seen enough of them come and go.)
func TestMemory(t *testing.T) {
	before := heap()
	th, clock := newThrottle(t, throttle.Defaults())
	for _, n := range []int{10_000, 1_000_000, 1_000_000} {
		flood(th, clock, n)
		if took := heap() - before; took > 1<<20 {
			t.Errorf("after %d sources: %d bytes", n, took)
		}
	}
	runtime.KeepAlive(th)
}

func TestNewRefuses(t *testing.T) {
	nan := 0.0
	nan /= nan
	for key, changes := range map[string][]func(*throttle.Config){
		"burst": {func(c *throttle.Config) { c.Burst = 0 }, func(c *throttle.Config) { c.Burst = 1_000_001 }},
		"per_second": {
			func(c *throttle.Config) { c.PerSecond = 0 }, func(c *throttle.Config) { c.PerSecond = 1e7 },
			func(c *throttle.Config) { c.PerSecond = nan },
		},
		"max_sources": {func(c *throttle.Config) { c.MaxSources = 0 }, func(c *throttle.Config) { c.MaxSources = 2_000_000 }},
	} {
		for i, change := range changes {
			cfg := throttle.Defaults()
			if _, err := throttle.New(cfg); err != nil {
				t.Fatalf("the defaults: %v", err)
			}
			change(&cfg)
			if _, err := throttle.New(cfg); err == nil || !strings.HasPrefix(err.Error(), "throttle: "+key+":") {
				t.Errorf("%s, change %d: %v", key, i, err)
			}
		}
	}
}

// naive is the peer: a bucket for each source, and never one forgotten.
type naive struct {
	mu  sync.Mutex
	all map[netip.Addr]*bucket
}

func (n *naive) fail(source netip.Addr, now time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.all[source]
	if b == nil {
		b = &bucket{tokens: 5 * time.Second}
		n.all[source] = b
	}
	b.tokens = min(5*time.Second, b.tokens+now-b.at) - 50*time.Millisecond
	b.at = now
}

// BenchmarkFail is one failure, asked about and counted, and the memory that
// all sources together leave in use.
func BenchmarkFail(b *testing.B) {
	for _, sources := range []int{1, 1_000_000} {
		b.Run(fmt.Sprintf("impl=throttle/sources=%d", sources), func(b *testing.B) {
			before := heap()
			th, clock := newThrottle(b, throttle.Defaults())
			flood(th, clock, sources)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				clock.advance(time.Microsecond)
				th.Wait(source(i % sources))
				th.Fail(source(i % sources))
			}
			b.ReportMetric(float64(heap()-before), "heap-bytes")
			runtime.KeepAlive(th)
		})
		b.Run(fmt.Sprintf("impl=map/sources=%d", sources), func(b *testing.B) {
			before := heap()
			n := &naive{all: map[netip.Addr]*bucket{}}
			for i := range sources {
				n.fail(source(i), time.Duration(i))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				n.fail(source(i%sources), time.Duration(sources+i))
			}
			b.ReportMetric(float64(heap()-before), "heap-bytes")
			runtime.KeepAlive(n)
		})
	}
}
