package backoff_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"edgeclaim/internal/backoff"
)

func lowest(int64) int64    { return 0 }
func highest(n int64) int64 { return n - 1 }

func TestNext(t *testing.T) {
	const s = time.Second
	for _, tc := range []struct {
		name  string
		limit time.Duration
		draw  func(int64) int64
		want  []time.Duration
	}{
		{"luckiest stays at the base", 300 * s, lowest, []time.Duration{2 * s, 2 * s, 2 * s}},
		{"unluckiest triples to the limit", 30 * s, highest, []time.Duration{6*s - 1, 18*s - 4, 30*s - 1, 30*s - 1}},
		{"limit equal to the base", 2 * s, highest, []time.Duration{2 * s, 2 * s}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := backoff.New(2*s, tc.limit, tc.draw)
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range tc.want {
				if got := b.Next(); got != want {
					t.Errorf("wait %d = %v, want %v", i, got, want)
				}
			}
		})
	}
}

func TestReset(t *testing.T) {
	b, err := backoff.New(time.Second, time.Hour, highest)
	if err != nil {
		t.Fatal(err)
	}
	first := b.Next()
	if second := b.Next(); second <= first {
		t.Fatalf("second wait %v, want more than the first %v", second, first)
	}
	b.Reset()
	if got := b.Next(); got != first {
		t.Errorf("wait after Reset = %v, want the first again, %v", got, first)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tc := range []struct{ base, limit time.Duration }{
		{0, time.Second}, {-1, time.Second}, {time.Second, time.Second - 1},
	} {
		if _, err := backoff.New(tc.base, tc.limit, nil); err == nil {
			t.Errorf("New(%v, %v) succeeded", tc.base, tc.limit)
		}
	}
}

// TestWaitsStayInRange: whatever is drawn, no wait leaves [base, limit] nor
// exceeds three times the one before it.
func TestWaitsStayInRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Int64Range(1, math.MaxInt64).Draw(t, "base")
		limit := rapid.Int64Range(base, math.MaxInt64).Draw(t, "limit")
		draw := func(n int64) int64 {
			if n <= 0 {
				t.Fatalf("draw called with %d", n)
			}
			return rapid.Int64Range(0, n-1).Draw(t, "drawn")
		}
		b, err := backoff.New(time.Duration(base), time.Duration(limit), draw)
		if err != nil {
			t.Fatal(err)
		}
		last := base
		for range 20 {
			wait := int64(b.Next())
			if wait < base || wait > limit {
				t.Fatalf("wait %d outside [%d, %d]", wait, base, limit)
			}
			if wait/3 > last {
				t.Fatalf("wait %d after %d: grew by more than three", wait, last)
			}
			last = wait
		}
	})
}

// TestDefaultDrawSpreads fails if the waits of many boxes fall together.
func TestDefaultDrawSpreads(t *testing.T) {
	seen := map[time.Duration]bool{}
	const boxes = 100
	for range boxes {
		b, err := backoff.New(2*time.Second, 5*time.Minute, nil)
		if err != nil {
			t.Fatal(err)
		}
		seen[b.Next()] = true
	}
	if len(seen) < boxes*9/10 {
		t.Errorf("%d boxes drew only %d different first waits", boxes, len(seen))
	}
}
