package telemetry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/store"
	"edgeclaim/telemetry"
)

// event has a device say an event and waits until it is durable.
func (b *box) event(device int, body string) {
	b.t.Helper()
	receipt, err := b.Event(b.t.Context(), report(b.t, device, body))
	if err == nil {
		err = receipt.Commit.Wait(b.t.Context())
	}
	if err != nil || receipt.Accepted != 1 || receipt.Rejected != 0 {
		b.t.Fatalf("%s: %+v, %v", body, receipt, err)
	}
}

// moved waits until the registry has n records, and returns them.
func (b *box) moved(n int) []edgeclaim.Record {
	b.t.Helper()
	b.until(fmt.Sprintf("%d records are in the registry", n), func() bool { return len(b.events.all()) >= n })
	records := b.events.all()
	if len(records) != n {
		b.t.Fatalf("%d records, want %d", len(records), n)
	}
	return records
}

func TestEvents(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	by := admission(t, 1)
	b.event(1, ` {"door":"open", "nested":{"a":[1,null,true]},"command_id":"c"}`)
	r := b.moved(1)[0]
	want := edgeclaim.Record{
		Lane: edgeclaim.LaneEvt, Type: edgeclaim.TypeDeviceEvent, Device: by.Device, Stamp: b.clock.stamp(),
		Data: []byte(`{"device_id":"` + by.Device.String() + `","tenant_id":"` + by.Tenant.String() +
			`","event":{"door":"open", "nested":{"a":[1,null,true]},"command_id":"c"}}`),
	}
	if text(r) != text(want) {
		t.Errorf("%s, want\n%s", text(r), text(want))
	}
	for body, problem := range map[string]string{
		``: "body: not JSON", `"text"`: "body: want an object", `[{}]`: "body: want an object", `7`: "body: want an object",
		`{"a":1,"\u0061":2}`: "body: a member twice", "{\"a\":\"\xff\"}": "body: not JSON",
		`{"a":"` + strings.Repeat("x", telemetry.MaxEvent) + `"}`: "body: larger than an event may be",
	} {
		got, err := b.Event(t.Context(), report(t, 1, body))
		if !errors.Is(err, edgeclaim.ErrInvalid) || err.Error() != problem || got.Rejected != 1 || got.Accepted != 0 {
			t.Errorf("%.40s: %+v, %v, want %s", body, got, err, problem)
		}
	}
	for i := range 600 {
		if _, err := b.Event(t.Context(), report(t, i%7, fmt.Sprintf(`{"n":%d}`, i))); err != nil {
			t.Fatal(err)
		}
	}
	records := b.moved(601)
	for i, r := range records[1:] {
		if !strings.HasSuffix(string(r.Data), fmt.Sprintf(`"event":{"n":%d}}`, i)) {
			t.Fatalf("%d is %s", i, r.Data)
		}
	}
	b.until("nothing waits", func() bool { return b.Status().EventsWaiting == 0 })
	b.restart()
	b.event(1, `{}`)
	b.moved(602)
}

// TestEventsWait: while the registry is full, or at fault, events wait, and
// then each goes in once.
func TestEventsWait(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) { b.events.room = 0 })
	for i := range 10 {
		b.event(1, fmt.Sprintf(`{"n":%d}`, i))
	}
	if got := b.Status().EventsWaiting; got != 10 {
		t.Errorf("%d wait", got)
	}
	failures := 2
	b.events.set(func() {
		b.events.room = 3
		b.events.fail = func() error {
			if failures--; failures >= 0 {
				return edgeclaim.ErrUnavailable
			}
			return nil
		}
	})
	b.moved(10)
	b.until("nothing waits", func() bool { return b.Status().EventsWaiting == 0 })
}

// TestEventsFull: events that were lost before the registry had room are told
// as one gap.
func TestEventsFull(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) {
		b.events.room = 0
		b.cfg.EventsMaxBytes = 4 * b.cfg.SegmentBytes
	})
	said := uint64(0)
	for b.Events().Bounds().Dropped == 0 {
		b.event(1, `{"text":"`+strings.Repeat("x", 4000)+`"}`)
		said++
	}
	b.events.set(func() { b.events.room = 1 << 20 })
	b.until("all is moved", func() bool { return b.Status().EventsWaiting == 0 })
	records := b.events.all()
	if b.events.taken != said {
		t.Errorf("taken up to %d of %d", b.events.taken, said)
	}
	g := gapOf(t, records[0])
	if g.Lane != "evt" || g.Reason != "device_events_full" || g.Count == 0 || g.Count+uint64(len(records)-1) != said {
		t.Errorf("%+v and %d events of %d", g, len(records)-1, said)
	}
	if got := b.Status().EventsDropped; got != g.Count {
		t.Errorf("%d dropped, want %d", got, g.Count)
	}
}

// TestEventsLogLost: a log that was lost begins again at place 1; the
// registry's note does not hide what comes.
func TestEventsLogLost(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	for i := range 5 {
		b.event(1, fmt.Sprintf(`{"n":%d}`, i))
	}
	b.moved(5)
	b.stop()
	if err := os.RemoveAll(filepath.Join(b.cfg.Dir, "telemetry", "events")); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.event(1, `{"n":5}`)
	b.moved(6)
	b.restart()
	b.event(1, `{"n":6}`)
	b.moved(7)
	// The other way round: the registry was set aside, and knows nothing.
	b.stop()
	b.events.set(func() { b.events.taken, b.events.records = 0, nil })
	b.start()
	b.event(1, `{"n":7}`)
	if r := b.moved(1)[0]; !strings.HasSuffix(string(r.Data), `{"n":7}}`) {
		t.Errorf("%s", r.Data)
	}
}

// answers is what hears of commands.
type answers struct {
	mu    sync.Mutex
	heard []string
	err   error
}

func (a *answers) Answer(_ context.Context, _ edgeclaim.DeviceID, body []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = append(a.heard, string(body))
	return a.err
}

// TestAnswers: an answer is decided before its receipt, and is no event.
func TestAnswers(t *testing.T) {
	t.Parallel()
	a := &answers{}
	b := newBox(t, func(b *box) { b.parts.Answers = a })
	body := `{"status":"successful","command_id":"c1"}`
	for _, c := range []struct {
		err, want error
		kept      int
	}{
		{nil, nil, 0},
		{edgeclaim.Invalid("status", "want another"), edgeclaim.ErrInvalid, 0},
		{edgeclaim.ErrUnavailable, edgeclaim.ErrUnavailable, 0},
		{fmt.Errorf("command: %w", edgeclaim.ErrNotFound), nil, 1},
	} {
		a.err = c.err
		got, err := b.Event(t.Context(), report(t, 1, body))
		if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%v: %v", c.err, err)
		}
		if (got.Commit != nil) != (c.kept > 0) || err == nil && got.Accepted != 1 {
			t.Errorf("%v: %+v", c.err, got)
		}
		if err := got.Commit.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	b.event(1, `{"status":"successful","nested":{"command_id":"c1"}}`)
	b.moved(2)
	if diff := cmp.Diff([]string{body, body, body, body}, a.heard); diff != "" {
		t.Error(diff)
	}
}

// TestEventsIntoTheRegistry: with the real one, through restarts of both.
func TestEventsIntoTheRegistry(t *testing.T) {
	t.Parallel()
	cfg := store.Defaults()
	cfg.Dir = t.TempDir()
	var db *store.DB
	open := func() {
		var err error
		if db, err = store.Open(cfg); err != nil {
			t.Fatal(err)
		}
	}
	open()
	b := newBox(t, func(b *box) { b.parts.Events = db })
	large := `{"text":"` + strings.Repeat("x", telemetry.MaxEvent-20) + `"}`
	const most = 300
	for i := range most {
		body := fmt.Sprintf(`{"n":%d}`, i)
		if i == 100 {
			body = large
		}
		b.event(i%5, body)
		if i%100 == 50 {
			b.stop()
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			open()
			b.parts.Events = db
			b.start()
		}
	}
	b.until("all is moved", func() bool { return b.Status().EventsWaiting == 0 })
	records, err := db.Next(t.Context(), edgeclaim.Mark{Epoch: db.Epoch(), Lane: edgeclaim.LaneEvt}, 1000)
	if err != nil || len(records) != most {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for i, r := range records {
		var data struct{ Event struct{ N int } }
		if err := json.Unmarshal(r.Data, &data); err != nil || r.Type != edgeclaim.TypeDeviceEvent || data.Event.N != i && i != 100 {
			t.Fatalf("%d is %s %.80s, %v", i, r.Type, r.Data, err)
		}
	}
	b.stop()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEventsRegistryAtFault: a registry that is at fault at the start holds
// events up, and nothing else.
func TestEventsRegistryAtFault(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) { b.parts.Events = &faulty{registry: b.events, failures: 1} })
	b.say(1, `{"a":1}`)
	b.event(1, `{"a":1}`)
	b.moved(1)
}

// faulty does not know at first what it took.
type faulty struct {
	*registry
	mu       sync.Mutex
	failures int
}

func (f *faulty) EventsTaken(ctx context.Context) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failures--; f.failures >= 0 {
		return 0, errDisk
	}
	return f.registry.EventsTaken(ctx)
}
