package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"edgeclaim"
	"edgeclaim/bridge"
)

// line is a broker that notes what comes, in order, and acknowledges so much of
// it as it is told to.
type line struct {
	*upstream

	mu      sync.Mutex
	budget  int    // PUBACKs to give
	held    []held // in order
	peer    *peer
	came    []message
	arrived map[string]bool // by payload: PUBACK was sent
	changed chan struct{}
}

// held is a message that waits for its PUBACK.
type held struct {
	id      uint16
	payload string
}

type message struct {
	topic, payload string
	retained       bool
}

func newLine(t testing.TB, budget int) *line {
	l := &line{budget: budget, arrived: map[string]bool{}, changed: make(chan struct{})}
	l.upstream = listen(t, "", func(p *peer) {
		if p.connack(packets.Accepted) == nil {
			return
		}
		l.mu.Lock()
		l.peer, l.held = p, nil
		l.mu.Unlock()
		p.publishes(func(m *packets.PublishPacket) bool {
			l.take(p, m)
			return true
		})
	})
	return l
}

func (l *line) take(p *peer, m *packets.PublishPacket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.HasSuffix(m.TopicName, "/st") {
		p.puback(m.MessageID)
		return
	}
	l.came = append(l.came, message{m.TopicName, string(m.Payload), m.Retain})
	if l.budget > 0 {
		l.budget--
		l.arrived[string(m.Payload)] = true
		p.puback(m.MessageID)
	} else {
		l.held = append(l.held, held{m.MessageID, string(m.Payload)})
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// release acknowledges so many more, those held back first.
func (l *line) release(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; n > 0 && len(l.held) > 0; n-- {
		l.arrived[l.held[0].payload] = true
		l.peer.puback(l.held[0].id)
		l.held = l.held[1:]
	}
	l.budget += n
}

// await waits until something holds of what came.
func (l *line) await(t testing.TB, what string, ok func(came []message) bool) []message {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		l.mu.Lock()
		came, changed := append([]message(nil), l.came...), l.changed
		l.mu.Unlock()
		if ok(came) {
			return came
		}
		select {
		case <-changed:
		case <-timer.C:
			t.Fatalf("not within %v: %s; %d messages came", patience, what, len(came))
		}
	}
}

// kinds says what came in one letter each: points by whether they are above
// high, gaps, the other lanes, presence.
func kinds(came []message, high int) string {
	var b strings.Builder
	for _, m := range came {
		n := 0
		switch {
		case strings.HasSuffix(m.topic, "/presence"):
			b.WriteByte('s')
		case strings.HasSuffix(m.topic, "/up/prov"):
			b.WriteByte('p')
		case strings.HasSuffix(m.topic, "/up/evt"):
			b.WriteByte('e')
		case strings.HasSuffix(m.topic, "/up/tel"):
			b.WriteByte('g')
		default:
			if _, err := fmt.Sscanf(m.payload, `{"n": %d}`, &n); err != nil {
				b.WriteByte('?')
			} else if n > high {
				b.WriteByte('N')
			} else {
				b.WriteByte('o')
			}
		}
	}
	return b.String()
}

func atLeast(n int) func([]message) bool { return func(came []message) bool { return len(came) >= n } }

// TestPubackTelemetryAsItCame: topic by the template, payload as the device said
// it.
func TestPubackTelemetryAsItCame(t *testing.T) {
	l := newLine(t, 1000)
	conf := quick(l.url())
	conf.TelemetryTopic = "{tenant_id}/{site}/x/{box_id}/{device_id}"
	m := newMemory()
	m.add(edgeclaim.LaneTel, 2)
	spoilt := newPoint(3) // without a tenant there is no topic: it is told as other records are
	spoilt.Data = []byte(`{}`)
	m.append(edgeclaim.LaneTel, spoilt)
	startWith(t, conf, m.withTelemetry())
	m.awaitAcked(t, edgeclaim.LaneTel, 3)
	came := l.await(t, "all", atLeast(3))
	for i, want := range []message{
		{tenant + "/" + site + "/x/" + box + "/" + deviceAt(1).String(), `{"n": 1}`, false},
		{tenant + "/" + site + "/x/" + box + "/" + deviceAt(2).String(), `{"n": 2}`, false},
	} {
		if came[i] != want {
			t.Errorf("message %d is %+v, want %+v", i, came[i], want)
		}
	}
	if came[2].topic != root+"/up/tel" || !strings.Contains(came[2].payload, `"type":"telemetry"`) {
		t.Errorf("a point without a tenant is told as %+v", came[2])
	}
}

// TestPubackNewestFirst: what came since the connection stands goes before what
// waited, and prov before both. Nothing is forgotten before all before it
// arrived.
func TestPubackNewestFirst(t *testing.T) {
	l := newLine(t, 0)
	conf := quick(l.url())
	conf.Window = 16 // of which telemetry has 12
	m := newMemory()
	m.add(edgeclaim.LaneTel, 100)
	startWith(t, conf, m.withTelemetry())
	l.await(t, "a window of the backlog", atLeast(12))
	m.add(edgeclaim.LaneTel, 20)
	m.add(edgeclaim.LaneProv, 3)
	m.add(edgeclaim.LaneEvt, 1)
	// The claims do not wait for telemetry to arrive.
	came := l.await(t, "the claims", atLeast(16))
	if got := kinds(came, 100); got != strings.Repeat("o", 12)+"pppe" {
		t.Errorf("came %s", got)
	}
	l.release(16 + 20)
	m.awaitAcked(t, edgeclaim.LaneTel, 12)
	came = l.await(t, "what is new", atLeast(16+20+12))
	got := kinds(came, 100)
	if want := strings.Repeat("o", 12) + "pppe" + strings.Repeat("N", 20) + strings.Repeat("o", 12); got != want {
		t.Errorf("came %s\nwant %s", got, want)
	}
	if acked := m.acked(edgeclaim.LaneTel); acked != 12 {
		t.Errorf("forgotten up to %d, and 13 never arrived", acked)
	}
	l.release(1000)
	m.awaitAcked(t, edgeclaim.LaneTel, 120)
	m.add(edgeclaim.LaneTel, 1)
	m.awaitAcked(t, edgeclaim.LaneTel, 121)
	if came := l.await(t, "all", atLeast(125)); len(came) != 125 {
		t.Errorf("%d messages for 125 records on one good connection", len(came))
	}
}

// strict is a lane of telemetry that fails the test when it is to forget what did
// not arrive.
type strict struct {
	bridge.Telemetry
	t    *testing.T
	line *line
}

func (s *strict) Ack(ctx context.Context, upto edgeclaim.Mark) error {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	for n := uint64(1); n <= upto.Upto; n++ {
		if !s.line.arrived[string(newPoint(n).Payload)] {
			s.t.Errorf("point %d is forgotten, by a mark up to %d, and did not arrive", n, upto.Upto)
			break
		}
	}
	return s.Telemetry.Ack(ctx, upto)
}

// TestPubackCutInBetween: wherever the connection is lost, nothing is forgotten
// that did not arrive, and everything does.
func TestPubackCutInBetween(t *testing.T) {
	l := newLine(t, 0)
	conf := quick(l.url())
	conf.Window, conf.AckFlush, conf.WriteTimeout = 8, time.Millisecond, 100*time.Millisecond
	m := newMemory()
	m.add(edgeclaim.LaneTel, 60)
	parts := m.withTelemetry()
	parts.Telemetry = &strict{parts.Telemetry, t, l}
	startWith(t, conf, parts)
	for i := range 12 {
		connection, came := l.connections(), len(l.await(t, "anything", atLeast(1)))
		m.add(edgeclaim.LaneTel, 5)
		l.release(3 + i)
		l.await(t, "more", atLeast(came+1))
		l.cut()
		eventually(t, func() bool { return l.connections() > connection }, func() string { return "no other connection" })
	}
	l.release(10_000)
	m.awaitAcked(t, edgeclaim.LaneTel, 120)
}

// TestPubackGaps: whatever of the lane is lost while it is told, one gap record
// says so, and all the rest is told.
func TestPubackGaps(t *testing.T) {
	for _, upto := range []uint64{50, 100, 105, 110} {
		t.Run(fmt.Sprintf("upto=%d", upto), func(t *testing.T) {
			l := newLine(t, 0)
			conf := quick(l.url())
			conf.Window, conf.ReadBatch = 8, 6
			m := newMemory()
			m.add(edgeclaim.LaneTel, 100)
			startWith(t, conf, m.withTelemetry())
			l.await(t, "a window", atLeast(6))
			m.quietly(func() { m.add(edgeclaim.LaneTel, 10) })
			m.lose(upto)
			signalTo(m.came)
			l.release(1000)
			m.awaitAcked(t, edgeclaim.LaneTel, 110)
			gaps := 0
			told := map[uint64]int{}
			for _, one := range l.await(t, "all", func(came []message) bool { return len(came) >= 6+1+int(110-upto) }) {
				var n uint64
				if _, err := fmt.Sscanf(one.payload, `{"n": %d}`, &n); err == nil {
					told[n]++
					if gaps > 0 && n <= upto {
						t.Errorf("point %d is told after the gap that says it is lost", n)
					}
				} else if gaps++; !strings.Contains(one.payload, fmt.Sprintf(`"to":%d`, upto)) {
					t.Errorf("told %s", one.payload)
				}
			}
			if gaps != 1 {
				t.Errorf("%d gaps told, want 1", gaps)
			}
			for n := uint64(1); n <= 110; n++ {
				if told[n] > 1 || told[n] == 0 && n > upto {
					t.Errorf("point %d was told %d times", n, told[n])
				}
			}
		})
	}
}

// quietly runs f and takes the signal back that it gave for telemetry.
func (m *memory) quietly(f func()) {
	f()
	select {
	case <-m.came:
	default:
	}
}

// TestPubackUnreadable: a lane of telemetry that cannot be read keeps nothing
// else, and is told once it can be.
func TestPubackUnreadable(t *testing.T) {
	for _, broken := range []string{"begin", "marks", "next"} {
		t.Run(broken, func(t *testing.T) {
			l := newLine(t, 1000)
			m := newMemory()
			mend := m.breakTelemetry(broken)
			b := startWith(t, quick(l.url()), m.withTelemetry())
			m.awaitAcked(t, edgeclaim.LaneProv, 10)
			m.awaitAcked(t, edgeclaim.LaneEvt, 10)
			b.awaitStatus(t, alarmed(edgeclaim.AlarmTelemetryUnread, 2))
			if n := l.connections(); n != 1 {
				t.Errorf("%d connections", n)
			}
			mend()
			m.awaitAcked(t, edgeclaim.LaneTel, 10)
		})
	}
}

// TestPubackPresence: all of it on each connection, retained, then what changes.
func TestPubackPresence(t *testing.T) {
	l := newLine(t, 10_000)
	m := newMemory()
	states := newPresences()
	for i := range 600 {
		states.set(i, edgeclaim.PresenceOnline, nil)
	}
	parts := m.withTelemetry()
	parts.States = states
	m.add(edgeclaim.LaneTel, 1)
	startWith(t, quick(l.url()), parts)
	came := l.await(t, "all", atLeast(601))
	if got := kinds(came, 0); got != strings.Repeat("s", 600)+"N" {
		t.Errorf("came %s", got)
	}
	want := message{
		"devices/" + deviceAt(0).String() + "/presence",
		`{"device_id":"` + deviceAt(0).String() + `","presence":"online","presence_since":"2026-10-04T09:00:00Z"}`, true,
	}
	if came[0] != want {
		t.Errorf("told %+v, want %+v", came[0], want)
	}
	states.set(3, edgeclaim.PresenceOffline, nil)
	came = l.await(t, "the change", atLeast(602))
	if !strings.Contains(came[601].payload, `"presence":"offline"`) {
		t.Errorf("told %+v", came[601])
	}
	l.cut()
	came = l.await(t, "all again", atLeast(602+600))
	if len(came) != 1202 {
		t.Errorf("%d messages", len(came))
	}
}

func TestPubackNoPresence(t *testing.T) {
	l := newLine(t, 10_000)
	conf := quick(l.url())
	conf.PresenceTopic = ""
	m := newMemory()
	states := newPresences()
	states.set(1, edgeclaim.PresenceOnline, nil)
	parts := m.withTelemetry()
	parts.States = states
	m.add(edgeclaim.LaneTel, 1)
	startWith(t, conf, parts)
	m.awaitAcked(t, edgeclaim.LaneTel, 1)
	if got := kinds(l.await(t, "all", atLeast(1)), 0); got != "N" {
		t.Errorf("came %s", got)
	}
}

// TestPubackLargeRecords: a window of the largest that devices say does not fit
// into memory, so that fewer are on their way at once.
func TestPubackLargeRecords(t *testing.T) {
	for _, tt := range []struct {
		lane edgeclaim.Lane
		most int
	}{{edgeclaim.LaneTel, 1024 * 3 / 4 / 65}, {edgeclaim.LaneEvt, 1024 / 65}} {
		t.Run(string(tt.lane), func(t *testing.T) {
			l := newLine(t, 0)
			m := newMemory()
			for i := range 200 {
				r := newPoint(uint64(i + 1))
				r.Payload = []byte(`"` + strings.Repeat("x", edgeclaim.MaxReport) + `"`)
				if tt.lane == edgeclaim.LaneEvt {
					r.Type, r.Data, r.Payload = edgeclaim.TypeDeviceEvent, r.Payload, nil
				}
				m.append(tt.lane, r)
			}
			conf := quick(l.url())
			conf.Window = 1024
			startWith(t, conf, m.withTelemetry())
			l.await(t, "a window", atLeast(tt.most))
			m.add(edgeclaim.LaneProv, 1)
			came := l.await(t, "the claim", func(came []message) bool { return strings.HasSuffix(came[len(came)-1].topic, "prov") })
			if len(came) != tt.most+1 {
				t.Errorf("%d on their way at once, want %d", len(came)-1, tt.most)
			}
			l.release(1000)
			m.awaitAcked(t, tt.lane, 200)
		})
	}
}

// breakTelemetry has each lane hold ten records, and that call fail on the lane
// of telemetry until mend.
func (m *memory) breakTelemetry(call string) (mend func()) {
	var mended atomic.Bool
	m.fail = func(called string, lane edgeclaim.Lane) error {
		if !mended.Load() && lane == edgeclaim.LaneTel && called == call {
			return errors.New("no such disk")
		}
		return nil
	}
	for _, lane := range edgeclaim.Lanes() {
		m.add(lane, 10)
	}
	return func() { mended.Store(true) }
}
