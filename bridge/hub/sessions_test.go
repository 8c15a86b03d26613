package hub_test

import (
	"fmt"
	"testing"
	"time"

	"edgeclaim/bridge/hub"
)

func TestCreditIsShared(t *testing.T) {
	conf := hub.Defaults()
	for _, c := range []struct{ telling, want int }{{0, 4096}, {1, 4096}, {12, 3846}, {49, 1000}, {199, 256}, {5000, 256}} {
		s := hub.NewSessions(&conf)
		now := time.Unix(1e9, 0)
		s.Greet("idle", now)
		for i := range c.telling {
			box := fmt.Sprint(i)
			s.Greet(box, now)
			s.Tell(box, now)
		}
		if got := s.Sweep(now); got != c.telling+1 {
			t.Errorf("%d welcome, want %d", got, c.telling+1)
		}
		if got := s.Credit(); got != c.want {
			t.Errorf("%d telling: credit %d, want %d", c.telling, got, c.want)
		}
		s.Sweep(now.Add(10 * time.Second))
		if got := s.Credit(); got != 4096 {
			t.Errorf("ten seconds later: credit %d", got)
		}
	}
}

func TestRush(t *testing.T) {
	conf := hub.Defaults()
	s := hub.NewSessions(&conf)
	now := time.Unix(1e9, 0)
	for i := range 500 {
		want := max(0, time.Duration(i+1-conf.RushBoxes)*conf.RushStep)
		if got := s.Rush(now.Add(time.Duration(i) * time.Millisecond)); got != want {
			t.Fatalf("hello %d waits %v, want %v", i+1, got, want)
		}
	}
	for range 11_000 {
		if got := s.Rush(now); got > conf.RushLimit {
			t.Fatalf("waits %v", got)
		}
	}
	if got := s.Rush(now.Add(11 * time.Second)); got != 0 {
		t.Errorf("waits %v after the rush", got)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	conf := hub.Defaults()
	conf.MaxBoxes = 3
	s := hub.NewSessions(&conf)
	now := time.Unix(1e9, 0)
	for i := range 3 {
		if !s.Greet(fmt.Sprint(i), now.Add(time.Duration(i)*time.Second)) {
			t.Fatal("no room")
		}
	}
	now = now.Add(30 * time.Second)
	if s.Greet("3", now) {
		t.Error("took the place of a box that spoke a moment ago")
	}
	s.Tell("0", now)
	if now = now.Add(40 * time.Second); !s.Greet("3", now) {
		t.Error("no room though one is silent")
	}
	if s.Knows("1") || !s.Knows("0") || !s.Knows("2") || !s.Knows("3") {
		t.Error("not the one silent longest was forgotten")
	}
	s.Sweep(now.Add(conf.SessionIdle + time.Second))
	if s.Knows("3") {
		t.Error("silent too long, and not forgotten")
	}
}

// A flood of made-up names takes no session's place: whoever never said hello
// goes first.
func TestSessionsWithoutHelloGoFirst(t *testing.T) {
	conf := hub.Defaults()
	conf.MaxBoxes = 2
	s := hub.NewSessions(&conf)
	now := time.Unix(1e9, 0)
	s.Greet("good", now)
	now = now.Add(time.Hour / 2)
	for i := range 10 {
		now = now.Add(time.Second)
		s.MayAsk(fmt.Sprint("made-up-", i), now, time.Second)
	}
	if !s.Knows("good") {
		t.Error("a session was forgotten for names that never said hello")
	}
}

func TestMayAsk(t *testing.T) {
	conf := hub.Defaults()
	s := hub.NewSessions(&conf)
	now := time.Unix(1e9, 0)
	ask := func(after time.Duration) bool { return s.MayAsk("box", now.Add(after), 5*time.Second) }
	if !ask(0) || ask(time.Second) || !ask(5*time.Second) {
		t.Error("asked too often, or not at all")
	}
	s.Greet("box", now.Add(20*time.Second))
	if ask(21*time.Second) || !ask(25*time.Second) {
		t.Error("just greeted, it was asked; or never")
	}
}

// A box for which the registry fails leaves it alone, longer each time; the
// others do not, until it has failed for three of them in a row.
func TestHealth(t *testing.T) {
	conf := hub.Defaults()
	h, err := hub.NewHealth(&conf)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	for i := range 40 {
		h.Failed("bad", now)
		want := conf.RetryLimit
		if i < 6 {
			want = conf.RetryBase << i
		}
		if got := h.Wait("bad", now); got != want {
			t.Fatalf("failure %d: waits %v, want %v", i+1, got, want)
		}
		if got := h.Wait("good", now); got != 0 {
			t.Fatalf("failure %d: another waits %v", i+1, got)
		}
	}
	if !h.Worked("good") || h.Worked("good") {
		t.Error("working again is not said, or twice")
	}
	if h.Wait("bad", now) == 0 {
		t.Error("it works for the good one, and so the bad one need not wait")
	}
	for _, box := range []string{"a", "b"} {
		h.Failed(box, now)
		if h.Wait("good", now) != 0 {
			t.Error("down too soon")
		}
	}
	h.Failed("c", now)
	if got := h.Wait("good", now); got < conf.RetryBase || got > conf.RetryLimit {
		t.Errorf("it failed for three in a row, and another waits %v", got)
	}
	if h.Wait("good", now.Add(conf.RetryLimit)) != 0 {
		t.Error("down for good")
	}
	h.Worked("c")
	if h.Wait("good", now) != 0 || h.Wait("c", now) != 0 || h.Wait("a", now) == 0 {
		t.Error("up again: the good one waits, or the one it worked for, or not the one it failed for")
	}
}
