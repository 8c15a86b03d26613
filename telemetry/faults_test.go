package telemetry_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/telemetry"
)

// TestTooMuchAtOnce: what a small log can never take is refused for good, or its
// device would send it again for ever.
func TestTooMuchAtOnce(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) { b.cfg.MaxBytes = 2 * b.cfg.SegmentBytes })
	point := `{"string_values":{"text":"` + strings.Repeat("x", 4000) + `"}}`
	body := "[" + strings.Repeat(point+",", 29) + point + "]"
	got, err := b.Telemetry(t.Context(), report(t, 1, body))
	if !errors.Is(err, edgeclaim.ErrInvalid) || errors.Is(err, edgeclaim.ErrUnavailable) || got.Accepted != 0 || got.Rejected != 30 {
		t.Errorf("%+v, %v", got, err)
	}
	if got := b.Status().Rejected["too_large"]; got != 30 {
		t.Errorf("%d are counted as too large", got)
	}
	b.say(1, `{"a":1}`)
}

// TestNewestUnreadable: states are told though the disk does not have what a
// device said last.
func TestNewestUnreadable(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.say(1, `{"a":1}`)
	files, err := filepath.Glob(filepath.Join(b.cfg.Dir, "telemetry", "points", "*.seg"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := errors.Join(os.Remove(files[0]), os.Mkdir(files[0], 0o700)); err != nil { // reading it fails, even for root
		t.Fatal(err)
	}
	states, err := b.Changed(t.Context(), 0, 10, true)
	if err != nil || len(states) != 1 || states[0].Presence != edgeclaim.PresenceOnline || states[0].Newest != nil {
		t.Errorf("%+v, %v", states, err)
	}
}

// TestAckBeyondNumbers: an ack that no lane can reach is refused, whatever it
// comes to in 64 bits.
func TestAckBeyondNumbers(t *testing.T) {
	t.Parallel()
	epoch := "EPOCH1"
	b := newBox(t, func(b *box) { b.parts.Epoch = func() string { return epoch } })
	b.say(1, `{"a":1}`)
	b.ack(1)
	epoch = "EPOCH2"
	if err := b.Lane().Begin(t.Context(), epoch); err != nil {
		t.Fatal(err)
	}
	b.say(1, `{"a":2}`)
	far := b.mark(math.MaxUint64)
	far.Check = edgeclaim.Check{Sequence: math.MaxUint64, Hash: "evil"}
	if err := b.Lane().Ack(t.Context(), far); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("acknowledged: %v", err)
	}
	if records, err := b.Lane().Next(t.Context(), far, 10); err != nil || len(records) > 0 {
		t.Errorf("behind the end: %v, %v", records, err)
	}
	_, _, marks, _ := b.Lane().Marks(t.Context())
	if check := marks[edgeclaim.LaneTel].Check; !check.IsZero() {
		t.Errorf("%+v is kept", check)
	}
}

// TestEventsMarksLost: the log's marks, and with them what the registry's places
// are ahead by, are lost; what it has not is told all the same.
func TestEventsMarksLost(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) { b.events.taken = 500 }) // a log was lost before
	for i := range 5 {
		b.event(1, fmt.Sprintf(`{"n":%d}`, i))
	}
	b.moved(5)
	b.events.set(func() { b.events.room = 0 })
	b.event(1, `{"n":5}`)
	b.stop()
	if err := os.Remove(filepath.Join(b.cfg.Dir, "telemetry", "events", "marks")); err != nil {
		t.Fatal(err)
	}
	b.events.set(func() { b.events.room = 1 << 20 })
	b.start()
	b.until("what waited is told", func() bool {
		all := b.events.all()
		return strings.HasSuffix(string(all[len(all)-1].Data), `{"n":5}}`)
	})
}

// TestEventsNobodyKnows: a box that ends before the registry could say what it
// has stores no event, which the next run might take for one from before.
func TestEventsNobodyKnows(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) {
		b.events.taken = 500
		b.parts.Events = &faulty{registry: b.events, failures: math.MaxInt}
	})
	receipt, err := b.Event(t.Context(), report(t, 1, `{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	if err := receipt.Commit.Wait(t.Context()); !errors.Is(err, edgeclaim.ErrUnavailable) {
		t.Errorf("stored: %v", err)
	}
}

// TestNestedTwice: what RFC 7493 does not have is no event, however deep: nobody
// upstream could read it.
func TestNestedTwice(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	for _, body := range []string{
		`{"a":{"b":1,"b":2}}`, `{"a":[0,[{"b":1,"c":{"d":{}, "\u0064" :1}}]]}`,
	} {
		_, err := b.Event(t.Context(), report(t, 1, body))
		if !errors.Is(err, edgeclaim.ErrInvalid) || err.Error() != "body: a member twice" {
			t.Errorf("%s: %v", body, err)
		}
	}
	b.event(1, `{"a":{"b":1},"c":[{"b":1},{"b":1}],"b":"{\"b\":1,\"b\":2}"}`)
	deep := strings.Repeat(`{"a":[`, 31) + strings.Repeat(`]}`, 31)
	b.event(1, deep)
	if len(deep) > telemetry.MaxEvent {
		t.Error("too long a text")
	}
}

// TestThrottledByBytes: few large points are as much as many small ones, or one
// device would push out what all others said before upstream has it.
func TestThrottledByBytes(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) { b.cfg.MaxDevicePoints = 10 })
	large := `{"a":"` + strings.Repeat("x", 4000) + `"}` // four points' worth
	for range 5 {
		b.say(1, large)
	}
	if _, err := b.Telemetry(t.Context(), report(t, 1, large)); !errors.Is(err, edgeclaim.ErrThrottled) {
		t.Errorf("taken: %v", err)
	}
	if _, err := b.Event(t.Context(), report(t, 1, large)); !errors.Is(err, edgeclaim.ErrThrottled) {
		t.Errorf("an event is taken: %v", err)
	}
	b.say(2, large)
	b.clock.pass(2 * time.Second)
	b.event(1, `{"a":"`+strings.Repeat("x", 60_000)+`"}`) // of a device that was quiet
	if _, err := b.Telemetry(t.Context(), report(t, 1, `{"a":1}`)); !errors.Is(err, edgeclaim.ErrThrottled) {
		t.Errorf("taken behind it: %v", err)
	}
}
