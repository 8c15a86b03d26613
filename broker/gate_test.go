package broker_test

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edgeclaim/broker"
)

func sourceAt(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

// One is in at a time; the sources take turns, each its own in order, so that
// one login from elsewhere waits for one of a flood's at most.
func TestGateIsFair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := broker.NewGate()
		by := time.Now().Add(time.Hour)
		if !g.Enter(sourceAt(0), "", nil, by) {
			t.Fatal("nobody is in, and it may not enter")
		}
		var order []string
		var all sync.WaitGroup
		inside := atomic.Int64{}
		line := func(source, count int) {
			for n := range count {
				all.Go(func() {
					if !g.Enter(sourceAt(source), "", nil, by) {
						t.Errorf("source %d: may not enter", source)
						return
					}
					if inside.Add(1) != 1 {
						t.Error("two are in")
					}
					order = append(order, fmt.Sprint(source, n))
					inside.Add(-1)
					g.Leave(0)
				})
				synctest.Wait() // it waits in line
			}
		}
		line(0, 1) // the same source's: it is last
		line(1, 4)
		line(2, 1)
		line(3, 2)
		g.Leave(0)
		all.Wait()
		if want := []string{"1 0", "2 0", "3 0", "0 0", "1 1", "3 1", "1 2", "1 3"}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
		if waiting, sources, taken := g.Waiting(); waiting+sources > 0 || taken {
			t.Errorf("left: %d waiting, %d sources, taken %v", waiting, sources, taken)
		}
	})
}

// A source's names take turns too, however many log in with one of them, and
// cost the other sources no turn. More than a few of one name are refused at once.
func TestGateIsFairToNames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := broker.NewGate()
		by := time.Now().Add(time.Hour)
		g.Enter(sourceAt(1), "boss", nil, by)
		var order []string
		var all sync.WaitGroup
		refused := 0
		line := func(source int, name string, count int) {
			for range count {
				all.Go(func() {
					if !g.Enter(sourceAt(source), name, nil, by) {
						refused++
						return
					}
					order = append(order, fmt.Sprint(source, name))
					g.Leave(0)
				})
				synctest.Wait() // it waits in line, or was refused
			}
		}
		line(1, "boss", 60)
		if want := 60 - broker.MaxAtGateOfName; refused != want {
			t.Errorf("%d are refused at once, want %d", refused, want)
		}
		line(1, "narrow", 2)
		line(2, "reader", 2)
		line(1, "reader", 1)
		g.Leave(0)
		all.Wait()
		want := []string{
			"2reader", "1narrow", "2reader", "1reader", "1boss", "1narrow", "1boss", "1boss", "1boss",
		}
		if !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
		if waiting, sources, taken := g.Waiting(); waiting+sources > 0 || taken {
			t.Errorf("left: %d waiting, %d sources, taken %v", waiting, sources, taken)
		}
	})
}

// After a refusal nobody computes for a while; who waits for longer than he may,
// or is gone, leaves the line, and nothing of him is left.
func TestGateRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := broker.NewGate()
		began := time.Now()
		enter := func(source int, gone <-chan struct{}, within time.Duration) bool {
			return g.Enter(sourceAt(source), "", gone, time.Now().Add(within))
		}
		enter(0, nil, time.Second)
		g.Leave(3 * time.Second)
		if enter(1, nil, time.Second) {
			t.Error("it waited for longer than it may")
		}
		gone := make(chan struct{})
		close(gone)
		if enter(1, gone, time.Hour) {
			t.Error("it is in, and gone")
		}
		if !enter(2, nil, time.Hour) || time.Since(began) != 3*time.Second {
			t.Errorf("in after %v, want 3 s", time.Since(began))
		}
		var all sync.WaitGroup
		for n := range 3 { // all give up in line
			all.Go(func() {
				if enter(n/2, nil, time.Duration(n+1)*time.Second) {
					t.Error("two are in")
				}
			})
		}
		all.Wait()
		g.Leave(0)
		if waiting, sources, taken := g.Waiting(); waiting+sources > 0 || taken {
			t.Errorf("left: %d waiting, %d sources, taken %v", waiting, sources, taken)
		}
	})
}

func TestGateIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := broker.NewGate()
		by := time.Now().Add(time.Minute)
		g.Enter(sourceAt(0), "", nil, by)
		var all sync.WaitGroup
		refused := atomic.Int64{}
		for n := range broker.MaxAtGate + 50 {
			all.Go(func() {
				if !g.Enter(sourceAt(n/(broker.MaxAtGateOfSource+5)), fmt.Sprint(n), nil, by) {
					refused.Add(1)
				}
			})
			synctest.Wait()
		}
		waiting, _, _ := g.Waiting()
		if waiting != broker.MaxAtGate || refused.Load() != 50 {
			t.Errorf("%d wait, %d are refused", waiting, refused.Load())
		}
		all.Wait() // the others give up
		if waiting, sources, taken := g.Waiting(); waiting+sources > 0 || !taken {
			t.Errorf("left: %d waiting, %d sources, taken %v", waiting, sources, taken)
		}
	})
}

// Many come, give up and leave at random: one is in at a time, and the gate is
// free in the end.
func TestGateUnderLoad(t *testing.T) {
	t.Parallel()
	g := broker.NewGate()
	var all sync.WaitGroup
	var inside, entered atomic.Int64
	for n := range 64 {
		all.Go(func() {
			for k := range 200 {
				gone := make(chan struct{})
				if (n+k)%3 == 0 {
					close(gone)
				}
				if !g.Enter(sourceAt(n%5), fmt.Sprint(n%7), gone, time.Now().Add(time.Duration(k)*time.Microsecond)) {
					continue
				}
				entered.Add(1)
				if inside.Add(1) != 1 {
					t.Error("two are in")
				}
				inside.Add(-1)
				g.Leave(time.Duration(k%2) * time.Microsecond)
			}
		})
	}
	all.Wait()
	if waiting, sources, taken := g.Waiting(); waiting+sources > 0 || taken || entered.Load() == 0 {
		t.Errorf("left: %d waiting, %d sources, taken %v, %d entered", waiting, sources, taken, entered.Load())
	}
}
