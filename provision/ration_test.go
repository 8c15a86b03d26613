package provision_test

import (
	"fmt"
	"testing"
	"time"

	"edgeclaim/provision"
)

// TestRation: so many in any span, exactly, and no more names than there is room
// for.
func TestRation(t *testing.T) {
	r := provision.NewRation(2, time.Minute, 3)
	start := time.Now()
	for _, c := range []struct {
		name string
		at   time.Duration
		want time.Duration
	}{
		{"a", 0, 0}, {"a", 20 * time.Second, 0}, {"a", 30 * time.Second, 30 * time.Second}, {"b", 30 * time.Second, 0},
		{"a", time.Minute, 0}, {"a", 70 * time.Second, 10 * time.Second}, {"a", 80 * time.Second, 0},
		{"c", 81 * time.Second, 0}, {"a", 82 * time.Second, 38 * time.Second},
		{"d", 83 * time.Second, 0}, // b took longest ago, and is forgotten
		{"a", 84 * time.Second, 36 * time.Second},
	} {
		if got := r.Take(c.name, start.Add(c.at)); got != c.want {
			t.Errorf("%s at %s waits %s, want %s", c.name, c.at, got, c.want)
		}
	}
	for i := range 100 {
		r.Take(fmt.Sprint(i), start.Add(2*time.Minute))
	}
	if got := r.Names(); got != 3 {
		t.Errorf("%d names", got)
	}
}
