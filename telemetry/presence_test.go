package telemetry_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"edgeclaim"
)

// states says what Changed returns, as device number, presence and newest.
func (b *box) states(after uint64, most int, newest bool) (said []string, upto uint64) {
	b.t.Helper()
	b.until("those at work are listed", b.Listed)
	states, err := b.Changed(b.t.Context(), after, most, newest)
	if err != nil {
		b.t.Fatal(err)
	}
	upto = after
	for _, s := range states {
		if s.Version <= upto {
			b.t.Fatalf("version %d behind %d", s.Version, upto)
		}
		upto = s.Version
		word := fmt.Sprintf("%d %s", b.number(s.Device), s.Presence)
		if s.Newest != nil {
			word += fmt.Sprintf(" %d %s", s.Newest.Sequence, s.Newest.Payload)
		}
		said = append(said, word)
	}
	return said, upto
}

func (b *box) number(id edgeclaim.DeviceID) int {
	for n := range 100 {
		if admission(b.t, n).Device == id {
			return n
		}
	}
	return -1
}

// signalled reports whether there is a signal. One that somebody came is there
// once he is listed.
func (b *box) signalled() bool {
	b.t.Helper()
	b.until("those at work are listed", b.Listed)
	select {
	case <-b.StatesChanged():
		return true
	default:
		return false
	}
}

func TestPresence(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	if _, ok := b.State(admission(t, 1).Device); ok || b.signalled() {
		t.Error("who was never heard has a state")
	}
	b.say(1, `{"a":1}`)
	if !b.signalled() {
		t.Error("nothing is signalled")
	}
	got, ok := b.State(admission(t, 1).Device)
	want := edgeclaim.DeviceState{
		Device: admission(t, 1).Device, Tenant: admission(t, 1).Tenant, Presence: edgeclaim.PresenceOnline,
		Since: b.clock.stamp().Time, Seen: b.clock.stamp().Time, Version: got.Version,
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b edgeclaim.DeviceID) bool { return a == b }),
		cmp.Comparer(func(a, b edgeclaim.TenantID) bool { return a == b })); diff != "" || !ok {
		t.Error(diff, ok)
	}

	b.clock.pass(100 * time.Second)
	b.say(1, `{"a":2}`)
	if again, _ := b.State(admission(t, 1).Device); again.Since != want.Since || again.Seen != b.clock.stamp().Time {
		t.Errorf("%+v", again)
	}
	if b.signalled() {
		t.Error("that it speaks on is signalled")
	}
	b.clock.pass(119 * time.Second)
	b.say(2, `{"a":1}`)
	if n := b.Status().Online; n != 2 {
		t.Errorf("%d online", n)
	}
	b.clock.pass(time.Second)
	b.until("the silent one is away", func() bool { return b.Status().Online == 1 })
	if got, _ := b.State(admission(t, 1).Device); got.Presence != edgeclaim.PresenceOffline || got.Since != b.clock.stamp().Time {
		t.Errorf("%+v", got)
	}
	b.Gone(admission(t, 2).Device)
	b.Gone(admission(t, 2).Device)
	b.Gone(admission(t, 3).Device)
	if said, _ := b.states(0, 10, false); cmp.Diff([]string{"1 offline", "2 offline"}, said) != "" {
		t.Errorf("%q", said)
	}
	// What is not taken says nothing of being at work.
	_, _ = b.Telemetry(t.Context(), report(t, 4, `nonsense`))
	if _, ok := b.State(admission(t, 4).Device); ok {
		t.Error("nonsense makes a device be at work")
	}
	b.restart()
	if said, _ := b.states(0, 10, true); len(said) != 0 {
		t.Errorf("after a start: %q", said)
	}
}

func TestChanged(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	for n := range 5 {
		b.say(n, fmt.Sprintf(`{"n":%d}`, n))
	}
	first, upto := b.states(0, 3, false)
	rest, all := b.states(upto, 3, false)
	if diff := cmp.Diff([]string{"0 online", "1 online", "2 online", "3 online", "4 online"}, append(first, rest...)); diff != "" {
		t.Error(diff)
	}
	b.say(1, `{"n":11}`)
	b.Gone(admission(t, 3).Device)
	b.say(0, `{"n":10}`)
	if said, _ := b.states(all, 10, false); cmp.Diff([]string{"3 offline"}, said) != "" {
		t.Errorf("%q", said)
	}
	said, upto := b.states(all, 10, true)
	if diff := cmp.Diff([]string{`1 online 6 {"n":11}`, `3 offline 4 {"n":3}`, `0 online 7 {"n":10}`}, said); diff != "" {
		t.Error(diff)
	}
	if said, _ := b.states(upto, 10, true); len(said) != 0 {
		t.Errorf("%q", said)
	}
	b.ack(6)
	if said, _ := b.states(0, 10, true); cmp.Diff([]string{`0 online 7 {"n":10}`, "1 online", "2 online", "4 online", "3 offline"}, said) != "" {
		t.Errorf("%q", said)
	}
}

// TestChangedBehindWhoLeft: a page goes on where the last one ended, though that
// device has left, or is known no more.
func TestChangedBehindWhoLeft(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) { b.cfg.MaxPresent = 3 })
	for _, n := range []int{0, 2, 1} {
		b.say(n, `{"n":1}`)
	}
	b.say(1, `{"n":2}`)
	_, upto := b.states(0, 10, false)
	if _, upto = b.states(upto, 10, true); upto == 0 {
		t.Fatal("nothing was told")
	}
	b.Gone(admission(t, 1).Device)
	b.say(0, `{"n":3}`)
	said, upto := b.states(upto, 10, true)
	if diff := cmp.Diff([]string{`1 offline 4 {"n":2}`, `0 online 5 {"n":3}`}, said); diff != "" {
		t.Error(diff)
	}
	b.Gone(admission(t, 2).Device)
	_, upto = b.states(upto, 10, false)
	for n := 3; n < 7; n++ {
		b.say(n, `{"n":4}`)
		b.Gone(admission(t, n).Device)
	}
	if _, ok := b.State(admission(t, 2).Device); ok {
		t.Fatal("the page's last device is still known")
	}
	said, _ = b.states(upto, 10, false)
	if diff := cmp.Diff([]string{"4 offline", "5 offline", "6 offline"}, said); diff != "" {
		t.Error(diff)
	}
}

// TestPresenceBounded: beyond the limit, the one silent longest is away, and
// the one away longest is forgotten.
func TestPresenceBounded(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) { b.cfg.MaxPresent = 3 })
	for n := range 5 {
		b.say(n, `{"a":1}`)
	}
	b.say(2, `{"a":1}`)
	b.say(5, `{"a":1}`)
	said, _ := b.states(0, 10, false)
	if diff := cmp.Diff([]string{"2 online", "0 offline", "4 online", "1 offline", "5 online", "3 offline"}, said); diff != "" {
		t.Error(diff)
	}
	for n := 10; n < 13; n++ { // who says nothing of use takes no more room
		_, _ = b.Telemetry(t.Context(), report(t, n, `nonsense`))
	}
	if _, ok := b.State(admission(t, 3).Device); ok {
		t.Error("the one away longest is still known")
	}
	b.say(6, `{"a":1}`)
	if _, ok := b.State(admission(t, 0).Device); ok || b.Status().Online != 3 {
		t.Errorf("%+v", b.Status())
	}
}

// TestPresenceModel holds pages of states against all that happened.
func TestPresenceModel(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	rapid.Check(t, func(rt *rapid.T) {
		for n := range 6 {
			b.Gone(admission(t, n).Device)
		}
		_, upto := b.states(0, 1000, true)
		known, truth := map[int]string{}, map[int]string{}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			n := rapid.IntRange(0, 5).Draw(rt, "who")
			switch rapid.SampledFrom([]string{"say", "say", "gone", "page", "newest"}).Draw(rt, "do") {
			case "say":
				b.say(n, `{"a":1}`)
				truth[n] = "online"
			case "gone":
				if b.Gone(admission(t, n).Device); truth[n] != "" {
					truth[n] = "offline"
				}
			case "page":
				upto = b.learn(known, upto, rapid.IntRange(1, 3).Draw(rt, "most"), false)
			case "newest":
				upto = b.learn(known, upto, rapid.IntRange(1, 3).Draw(rt, "most"), true)
			}
		}
		for before := upto + 1; before != upto; {
			before, upto = upto, b.learn(known, upto, 2, rapid.Bool().Draw(rt, "newest"))
		}
		if diff := cmp.Diff(truth, known); diff != "" {
			rt.Fatalf("states (-truth +told):\n%s", diff)
		}
	})
}

// learn takes a page of states in.
func (b *box) learn(known map[int]string, upto uint64, most int, newest bool) uint64 {
	b.t.Helper()
	said, now := b.states(upto, most, newest)
	for _, word := range said {
		var n int
		var presence string
		if _, err := fmt.Sscan(word, &n, &presence); err != nil {
			b.t.Fatal(err)
		}
		known[n] = presence
	}
	return now
}
