package bridge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/bridge"
)

// patience is how long a test waits for what has to come.
const patience = 20 * time.Second

const (
	site = "plant-7"
	box  = "box42"
	root = "edgeclaim/v1/plant-7/box42"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick is a Config for tests: it fails and tries again within moments.
func quick(url string) bridge.Config {
	c := bridge.Defaults()
	c.URL = url
	c.BackoffBase, c.BackoffLimit = 10*time.Millisecond, 50*time.Millisecond
	c.AckFlush = 10 * time.Millisecond
	return c
}

// running is a bridge under test.
type running struct {
	*bridge.Bridge
	log  *buffer
	stop func() // ends Run and waits for it
}

func start(t testing.TB, conf bridge.Config, outbox *memory) *running {
	t.Helper()
	return startWith(t, conf, bridge.Parts{Outbox: outbox})
}

func startWith(t testing.TB, conf bridge.Config, parts bridge.Parts, before ...func(*bridge.Bridge)) *running {
	t.Helper()
	log := &buffer{}
	logger := slog.New(slog.NewJSONHandler(log, nil))
	b, err := bridge.New(conf, parts, bridge.Identity{Site: site, Box: box, Version: "1.2.3"}, logger)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range before {
		f(b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }() // owned by stop
	stop := sync.OnceFunc(func() {
		cancel()
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		case <-timer.C:
			t.Errorf("Run did not end within %v", patience)
		}
	})
	t.Cleanup(stop)
	return &running{Bridge: b, log: log, stop: stop}
}

// awaitStatus waits for a status that is wanted.
func (r *running) awaitStatus(t testing.TB, want func(edgeclaim.UpstreamStatus) bool) edgeclaim.UpstreamStatus {
	t.Helper()
	var last edgeclaim.UpstreamStatus
	eventually(t, func() bool { last = r.Status(); return want(last) }, func() string {
		return fmt.Sprintf("status %+v", last)
	})
	return last
}

func up(s edgeclaim.UpstreamStatus) bool { return s.Broker == edgeclaim.LampUp }

// eventually polls until ok, or fails with what is there instead.
func eventually(t testing.TB, ok func() bool, instead func() string) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, instead())
		}
	}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// told is the record of what an upstream was sent.
type told struct {
	mu       sync.Mutex
	payloads map[string]string // by event id
	ids      []string          // in order of arrival, resends too
	states   []string
	problems []string
}

// take notes a message of a bridge and returns the event's id, "" for none.
func (r *told) take(topic string, payload []byte) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if topic == root+"/st" {
		r.states = append(r.states, string(payload))
		return ""
	}
	var event struct {
		ID, Lane, Sequence string
	}
	if err := json.Unmarshal(payload, &event); err != nil || topic != root+"/up/"+event.Lane {
		r.problems = append(r.problems, fmt.Sprintf("on %s: %.80q: %v", topic, payload, err))
		return ""
	}
	if r.payloads == nil {
		r.payloads = map[string]string{}
	}
	if before, ok := r.payloads[event.ID]; ok && before != string(payload) {
		r.problems = append(r.problems, fmt.Sprintf("resent %s changed:\n%s\n%s", event.ID, before, payload))
	}
	r.payloads[event.ID] = string(payload)
	r.ids = append(r.ids, event.ID)
	return event.ID
}

func (r *told) snapshot() (ids, states []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.ids...), append([]string(nil), r.states...)
}

// check fails unless each of n records of a lane was told, none unknown, and
// every resend alike.
func (r *told) check(t testing.TB, lane edgeclaim.Lane, n int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, problem := range r.problems {
		t.Error(problem)
	}
	known := 0
	for sequence := 1; sequence <= n; sequence++ {
		if _, ok := r.payloads[eventID(lane, sequence)]; !ok {
			t.Errorf("never told: %s", eventID(lane, sequence))
			continue
		}
		known++
	}
	for id := range r.payloads {
		if strings.Contains(id, "-"+string(lane)+"-") {
			known--
		}
	}
	if known != 0 {
		t.Errorf("lane %s: %d records told that never were", lane, -known)
	}
}

func eventID(lane edgeclaim.Lane, sequence int) string {
	return fmt.Sprintf("%s-%s-%020d", epoch, lane, sequence)
}

// broker returns a script that acknowledges everything and notes it.
func (r *told) broker() func(*peer) {
	return func(p *peer) {
		if p.connack(packets.Accepted) == nil {
			return
		}
		p.publishes(func(m *packets.PublishPacket) bool {
			r.take(m.TopicName, m.Payload)
			p.puback(m.MessageID)
			return true
		})
	}
}

func TestTellsWhatIsThereAndWhatComes(t *testing.T) {
	var got told
	u := listen(t, "", got.broker())
	outbox := newMemory()
	outbox.add(edgeclaim.LaneEvt, 300)
	outbox.add(edgeclaim.LaneProv, 300)
	b := start(t, quick(u.url()), outbox)
	outbox.awaitAcked(t, edgeclaim.LaneProv, 300)
	outbox.awaitAcked(t, edgeclaim.LaneEvt, 300)
	outbox.add(edgeclaim.LaneProv, 1)
	outbox.awaitAcked(t, edgeclaim.LaneProv, 301)
	status := b.awaitStatus(t, up)
	want := edgeclaim.UpstreamStatus{
		Link: edgeclaim.LampUp, Broker: edgeclaim.LampUp, App: edgeclaim.LampOff, URL: u.url(),
		Ack: bridge.AckPuback,
	}
	if diff := cmp.Diff(want, status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	b.stop()

	got.check(t, edgeclaim.LaneProv, 301)
	got.check(t, edgeclaim.LaneEvt, 300)
	ids, states := got.snapshot()
	if len(ids) != 601 {
		t.Errorf("%d messages for 601 records on one good connection", len(ids))
	}
	for i := range 300 {
		if ids[i] != eventID(edgeclaim.LaneProv, i+1) || ids[300+i] != eventID(edgeclaim.LaneEvt, i+1) {
			t.Fatalf("message %d is %s, %d is %s: out of order", i, ids[i], 300+i, ids[300+i])
		}
	}
	wantStates := []string{
		`{"status":"online","box_id":"box42","epoch":"` + epoch + `","version":"1.2.3"}`,
		`{"status":"offline","box_id":"box42","epoch":"` + epoch + `","version":"1.2.3"}`,
	}
	if fmt.Sprint(states) != fmt.Sprint(wantStates) {
		t.Errorf("states %s\nwant %s", states, wantStates)
	}
}
