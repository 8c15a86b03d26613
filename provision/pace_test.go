package provision_test

import (
	"fmt"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision"
)

func keyID(t testing.TB, text string) edgeclaim.KeyID {
	t.Helper()
	id, err := edgeclaim.ParseKeyID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestPaceCountsExactly: never more than the limit in any sixty seconds, not
// even across the edge of two minutes.
func TestPaceCountsExactly(t *testing.T) {
	p, key, start := provision.NewPace(), keyID(t, "k"), time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	for _, step := range []struct {
		second int
		ok     bool
		wait   int
	}{
		{0, true, 0}, {30, true, 0}, {59, true, 0}, {59, false, 1},
		{60, true, 0}, {61, false, 29}, {90, true, 0}, {91, false, 28}, {119, true, 0},
	} {
		wait, ok := p.Take(key, 3, at(step.second))
		if ok != step.ok || wait != time.Duration(step.wait)*time.Second {
			t.Errorf("second %d: %v, wait %v; want %v, %ds", step.second, ok, wait, step.ok, step.wait)
		}
	}
}

func TestPaceGivesBack(t *testing.T) {
	p, key, now := provision.NewPace(), keyID(t, "k"), time.Now()
	p.Take(key, 1, now)
	if _, ok := p.Take(key, 1, now); ok {
		t.Fatal("a second claim passed a limit of one")
	}
	p.GiveBack(key, now)
	if _, ok := p.Take(key, 1, now); !ok {
		t.Error("a claim that made no device still counts")
	}
}

// TestPaceForgets: what is kept is bounded by the last minute (P7).
func TestPaceForgets(t *testing.T) {
	p, now := provision.NewPace(), time.Now()
	for i := range 1000 {
		p.Take(keyID(t, fmt.Sprint(i)), 1, now)
	}
	p.Take(keyID(t, "last"), 1, now.Add(2*time.Minute))
	if got := p.Keys(); got != 1 {
		t.Errorf("%d keys are kept after two minutes, want 1", got)
	}
	if _, ok := p.Take(keyID(t, "free"), 0, now); !ok || p.Keys() != 1 {
		t.Error("a key without a limit is counted")
	}
}
