package bridge_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/protocolschema"
)

// application is a broker with an application behind it, in one. It keeps
// books as an application has to: each record once, in order, and nothing
// below its mark but what it applied or what a batch said will not come.
type application struct {
	*upstream
	names wire.Names
	key   ed25519.PrivateKey // nil: says bare messages
	// noPuback: it acknowledges nothing but the box's state; constant.
	noPuback bool

	// The hooks are the tests'; they are called with mu held, and return
	// whether they did all there is to do.
	onHello func(a *application, h *wire.Hello) bool
	onBatch func(a *application, b *wire.Batch) bool
	onPage  func(a *application, p *wire.SnapshotPage) bool
	onWant  func(a *application, w *wire.Want)
	onState func(a *application, s *wire.States) bool
	onRuled func(a *application, m any) // *wire.DocumentsReport, *wire.SharesWant
	credit  int
	welcome func(w *wire.Welcome)

	mu       sync.Mutex
	peer     *peer // of the last connection
	hello    *wire.Hello
	hellos   []wire.Hello
	marks    map[string]uint64             // by epoch and lane
	applied  map[string]string             // events by id
	ids      []string                      // in the order they were applied
	holes    map[string]int                // by epoch and lane: sequences that never came
	order    []string                      // what came, by kind, repeats left out
	batches  []wire.Batch                  // without their events
	pages    map[string][]edgeclaim.Device // by snapshot id
	stated   []wire.States
	problems []string
	changed  chan struct{} // closed and made anew by every message
}

func newApplication(t testing.TB, key ed25519.PrivateKey) *application {
	names, err := wire.NewNames(site, box)
	if err != nil {
		t.Fatal(err)
	}
	a := &application{
		names: names, key: key, credit: 1000,
		marks: map[string]uint64{}, applied: map[string]string{}, holes: map[string]int{},
		pages: map[string][]edgeclaim.Device{}, changed: make(chan struct{}),
	}
	a.upstream = listen(t, "", a.serve)
	t.Cleanup(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, problem := range a.problems {
			t.Error(problem)
		}
	})
	return a
}

// serve is one connection.
func (a *application) serve(p *peer) {
	if p.connack(packets.Accepted) == nil {
		return
	}
	// Here and not in take: the last words of the connection before may be taken
	// after the first ones of this one.
	a.do(func() { a.peer = p })
	for {
		switch packet := p.read().(type) {
		case *packets.SubscribePacket:
			ack, _ := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			ack.MessageID, ack.ReturnCodes = packet.MessageID, []byte{0}
			_ = ack.Write(p)
		case *packets.PublishPacket:
			if !a.noPuback || packet.TopicName == a.names.State() {
				p.puback(packet.MessageID)
			}
			a.take(packet.TopicName, packet.Payload)
		case *packets.PingreqPacket:
			_ = packets.NewControlPacket(packets.Pingresp).Write(p)
		case nil:
			return
		}
	}
}

func (a *application) take(topic string, payload []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() {
		close(a.changed)
		a.changed = make(chan struct{})
	}()
	if err := protocolschema.Check(topic, payload); err != nil {
		a.problem("on %s: %.600s", topic, err.Error())
	}
	if len(payload) > wire.MaxMessage {
		a.problem("a message of %d bytes", len(payload))
	}
	names, kind, ok := wire.ParseUp(topic)
	if !ok || names != a.names {
		a.problem("topic %s", topic)
		return
	}
	a.came(kind)
	switch kind {
	case "st":
	case "prov", "evt", "tel":
		a.takeBatch(payload)
	default:
		message, err := wire.DecodeUp(names, payload)
		if err != nil {
			a.problem("%s: %v", kind, err)
		}
		switch m := message.(type) {
		case *wire.Hello:
			a.takeHello(m)
		case *wire.SnapshotPage:
			a.takePage(m)
		case *wire.Want:
			if a.onWant != nil {
				a.onWant(a, m)
			}
		case *wire.States:
			a.takeStates(m)
		case *wire.DocumentsReport, *wire.SharesWant:
			if a.onRuled != nil {
				a.onRuled(a, m)
			}
		}
	}
}

func (a *application) came(kind string) {
	if n := len(a.order); n == 0 || a.order[n-1] != kind {
		a.order = append(a.order, kind)
	}
}

func (a *application) problem(format string, args ...any) {
	if len(a.problems) < 20 {
		a.problems = append(a.problems, fmt.Sprintf(format, args...))
	}
}

func (a *application) takeHello(h *wire.Hello) {
	a.hello = h
	a.hellos = append(a.hellos, *h)
	if a.onHello == nil || !a.onHello(a, h) {
		a.sayWelcome()
	}
}

func (a *application) sayWelcome() {
	w := &wire.Welcome{
		Head: a.head(wire.TypeWelcome), Version: wire.Version, Upstream: "hub-1", Credit: a.credit,
		Resume: map[edgeclaim.Lane]wire.Resume{},
	}
	for lane := range a.hello.Lanes {
		w.Resume[lane] = wire.Resume{Upto: a.marks[a.hello.Epoch+string(lane)]}
	}
	if a.welcome != nil {
		a.welcome(w)
	}
	a.say(wire.KindControl, w)
}

func (a *application) head(kind string) wire.Head {
	return wire.Head{Type: kind, Box: box, Epoch: a.hello.Epoch, Nonce: a.hello.Nonce, Time: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
}

func (a *application) takeBatch(payload []byte) {
	b, err := wire.DecodeBatch(a.names, payload)
	if err != nil {
		a.problem("batch: %v", err)
		return
	}
	if a.hello == nil || b.Nonce != a.hello.Nonce {
		return
	}
	if a.onBatch != nil && a.onBatch(a, &b) {
		return
	}
	if a.apply(&b) {
		a.ack(b.Lane)
	}
}

// apply takes a batch into the books; not one that leaves a gap.
func (a *application) apply(b *wire.Batch) bool {
	at := b.Epoch + string(b.Lane)
	mark := a.marks[at]
	if b.First > mark+1 {
		a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Nack: []wire.Nack{{Lane: b.Lane, Sequence: mark + 1, Code: wire.NackGap}}})
		return false
	}
	said := *b
	said.Events = nil
	a.batches = append(a.batches, said)
	for _, text := range b.Events {
		event, err := wire.DecodeEvent(text)
		if err != nil {
			a.problem("event: %v", err)
			continue
		}
		sequence, _ := event.Number()
		if before, ok := a.applied[event.ID]; ok && before != string(text) {
			a.problem("%s was told again in other bytes", event.ID)
		}
		if sequence <= mark {
			continue
		}
		a.holes[at] += int(sequence - mark - 1)
		mark = sequence
		a.applied[event.ID] = string(text)
		a.ids = append(a.ids, event.ID)
	}
	if b.Last > mark {
		a.holes[at] += int(b.Last - mark)
		mark = b.Last
	}
	a.marks[at] = mark
	return true
}

func (a *application) ack(lane edgeclaim.Lane) {
	a.say(wire.KindAck, &wire.Ack{
		Head: a.head(wire.TypeAck),
		Upto: map[edgeclaim.Lane]uint64{lane: a.marks[a.hello.Epoch+string(lane)]},
	})
}

func (a *application) takePage(p *wire.SnapshotPage) {
	if p.Nonce != a.hello.Nonce || a.onPage != nil && a.onPage(a, p) {
		return
	}
	a.pages[p.ID] = append(a.pages[p.ID], p.Devices...)
	a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Snapshot: &wire.SnapshotAck{ID: p.ID, Upto: p.Page}})
}

func (a *application) takeStates(s *wire.States) {
	if a.hello == nil || s.Nonce != a.hello.Nonce {
		return
	}
	a.stated = append(a.stated, *s)
	if a.onState == nil || !a.onState(a, s) {
		a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), State: &s.Upto})
	}
}

// say sends a message down, signed when there is a key.
func (a *application) say(kind string, message wire.Down) {
	a.sayAs(a.key, kind, message)
}

func (a *application) sayAs(key ed25519.PrivateKey, kind string, message wire.Down) {
	text, err := wire.Encode(message)
	if key != nil {
		text, err = wire.Seal(key, message)
	}
	if err != nil {
		a.problem("say: %v", err)
		return
	}
	if err := protocolschema.Check(a.names.Down(kind), text); err != nil && key != nil {
		a.problem("the test's own message: %v", err)
	}
	a.raw(a.names.Down(kind), text, false)
}

// raw sends any bytes on any topic.
func (a *application) raw(topic string, payload []byte, retained bool) {
	m, _ := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload, m.Retain = topic, payload, retained
	_ = m.Write(a.peer)
}

// await waits until something holds, which is asked with mu held.
func (a *application) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		a.mu.Lock()
		done, changed := ok(), a.changed
		a.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// do runs something with the books held.
func (a *application) do(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// check fails unless each record of a lane up to n was applied once, but for
// holes.
func (a *application) check(t testing.TB, lane edgeclaim.Lane, n, holes int) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	came := 0
	last := ""
	for _, id := range a.ids {
		if strings.HasPrefix(id, epoch+"-"+string(lane)+"-") {
			came++
			if id <= last {
				t.Fatalf("%s applied after %s", id, last)
			}
			last = id
		}
	}
	if mark := a.marks[epoch+string(lane)]; mark != uint64(n) || a.holes[epoch+string(lane)] != holes || came != n-holes {
		t.Errorf("lane %s: mark %d, %d applied, %d holes; want %d, %d, %d",
			lane, mark, came, a.holes[epoch+string(lane)], n, n-holes, holes)
	}
}

// appConf is quick, in the application's mode and without a spread.
func appConf(a *application) bridge.Config {
	c := quick(a.url())
	c.Ack = bridge.AckApp
	c.StartSpread = 0
	c.WelcomeTimeout, c.ProbeLimit = 200*time.Millisecond, 400*time.Millisecond
	return c
}

func newSigner(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// enrolled has the bridge trust the application.
func (a *application) enrolled() func(*bridge.Bridge) {
	return func(b *bridge.Bridge) { b.Enrol(a.key.Public().(ed25519.PublicKey), "hub-1") }
}

func appUp(s edgeclaim.UpstreamStatus) bool { return s.App == edgeclaim.LampUp }

func alarmed(kind edgeclaim.Alarm, atLeast uint64) func(edgeclaim.UpstreamStatus) bool {
	return func(s edgeclaim.UpstreamStatus) bool {
		for _, one := range s.Alarms {
			if one.Alarm == kind {
				return one.Count >= atLeast
			}
		}
		return false
	}
}

// TestAppTellsInOrder: prov, the registry when it is asked for, evt; then what
// comes; and everything that is sent keeps its schema.
func TestAppTellsInOrder(t *testing.T) {
	a := newApplication(t, newSigner(t))
	a.welcome = func(w *wire.Welcome) { w.Snapshot = len(a.pages) == 0 }
	m := newMemory()
	m.devices = someDevices(t, 1000)
	m.add(edgeclaim.LaneEvt, 700)
	m.add(edgeclaim.LaneProv, 700)
	b := startWith(t, appConf(a), m.parts(), a.enrolled())
	m.awaitAcked(t, edgeclaim.LaneProv, 700)
	m.awaitAcked(t, edgeclaim.LaneEvt, 700)
	m.add(edgeclaim.LaneProv, 1)
	m.awaitAcked(t, edgeclaim.LaneProv, 701)
	status := b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return appUp(s) && s.InFlight == 0 })
	if !status.Enrolled || status.UpstreamID != "hub-1" || status.Ack != bridge.AckApp || status.Credit == 0 || len(status.Alarms) != 0 {
		t.Errorf("status %+v", status)
	}
	b.stop()
	a.check(t, edgeclaim.LaneProv, 701, 0)
	a.check(t, edgeclaim.LaneEvt, 700, 0)
	if got := strings.Join(a.order, " "); got != "st ctl prov snap evt prov st" {
		t.Errorf("came in the order %s", got)
	}
	for id, devices := range a.pages {
		if len(devices) != 1000 {
			t.Errorf("snapshot %s told %d devices, want 1000", id, len(devices))
		}
	}
	if n := len(a.batches); n > 30 {
		t.Errorf("%d batches for 1401 records", n)
	}
	check := m.lanes[edgeclaim.LaneEvt].check
	last, _ := wire.DecodeEvent([]byte(a.applied[eventID(edgeclaim.LaneEvt, 700)]))
	if want, _ := last.Check(); check != want {
		t.Errorf("the lane's check is %+v, want %+v", check, want)
	}
	if raised := m.clock.at(); raised.IsZero() {
		t.Error("the time that upstream signed was not taken")
	}
}

// TestAppLoneClaim: a record that comes alone is told at once, and does not
// wait for a full message or for those before it.
func TestAppLoneClaim(t *testing.T) {
	a := newApplication(t, nil)
	hold := true
	a.onBatch = func(a *application, b *wire.Batch) bool {
		a.apply(b)
		return hold // no ack
	}
	m := newMemory()
	startWith(t, appConf(a), m.parts())
	for i := range 3 {
		m.add(edgeclaim.LaneProv, 1)
		a.await(t, fmt.Sprintf("claim %d", i+1), func() bool { return a.marks[epoch+"prov"] == uint64(i+1) })
	}
	a.do(func() { hold = false })
	m.add(edgeclaim.LaneProv, 1)
	m.awaitAcked(t, edgeclaim.LaneProv, 4)
}

// TestAppHoles: what was dropped is declared, in front, between and behind.
func TestAppHoles(t *testing.T) {
	for _, tc := range []struct {
		name  string
		drop  func(uint64) bool
		holes int
	}{
		{"in front", func(s uint64) bool { return s <= 20 }, 20},
		{"between", func(s uint64) bool { return s%7 == 0 }, 14},
		{"behind", func(s uint64) bool { return s > 90 }, 10},
		{"all", func(uint64) bool { return true }, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newApplication(t, nil)
			m := newMemory()
			m.add(edgeclaim.LaneEvt, 100)
			m.drop(edgeclaim.LaneEvt, tc.drop)
			startWith(t, appConf(a), m.parts())
			m.awaitAcked(t, edgeclaim.LaneEvt, 100)
			a.check(t, edgeclaim.LaneEvt, 100, tc.holes)
		})
	}
}

// TestAppUnsigned: a box that is not enrolled takes what comes, bare or in an
// envelope, and warns once a session. Its clock takes nothing.
func TestAppUnsigned(t *testing.T) {
	for name, key := range map[string]ed25519.PrivateKey{"bare": nil, "enveloped": newSigner(t)} {
		t.Run(name, func(t *testing.T) {
			a := newApplication(t, key)
			m := newMemory()
			m.add(edgeclaim.LaneProv, 500)
			b := startWith(t, appConf(a), m.parts())
			m.awaitAcked(t, edgeclaim.LaneProv, 500)
			if n := strings.Count(b.log.String(), "not enrolled"); n != 1 {
				t.Errorf("%d warnings, want one", n)
			}
			if !m.clock.at().IsZero() {
				t.Error("the clock took an unsigned time")
			}
		})
	}
}

// TestAppEnrolWhileRunning: from then on only what is signed counts.
func TestAppEnrolWhileRunning(t *testing.T) {
	a := newApplication(t, newSigner(t))
	m := newMemory()
	m.add(edgeclaim.LaneProv, 10)
	b := startWith(t, appConf(a), m.parts())
	m.awaitAcked(t, edgeclaim.LaneProv, 10)
	other := newSigner(t)
	b.Enrol(other.Public().(ed25519.PublicKey), "hub-2")
	m.add(edgeclaim.LaneProv, 10)
	b.awaitStatus(t, alarmed(edgeclaim.AlarmForged, 1))
	if acked := m.acked(edgeclaim.LaneProv); acked != 10 {
		t.Errorf("told up to %d on a word that is not trusted", acked)
	}
	a.enrolled()(b.Bridge)
	m.awaitAcked(t, edgeclaim.LaneProv, 20)
}

// someDevices makes n devices, in the order of their ids.
func someDevices(t testing.TB, n int) []edgeclaim.Device {
	t.Helper()
	m := newMemory()
	list := make([]edgeclaim.Device, n)
	tenantID, err := edgeclaim.ParseTenantID(tenant)
	if err != nil {
		t.Fatal(err)
	}
	template, _ := edgeclaim.ParseTemplateID("t1")
	keyID, _ := edgeclaim.ParseKeyID("k1")
	for i := range list {
		hardware, err := edgeclaim.ParseHardwareID(fmt.Sprintf("some-%d", i))
		if err != nil {
			t.Fatal(err)
		}
		list[i] = edgeclaim.Device{
			ID: edgeclaim.NewDeviceID(tenantID, hardware, 1), Tenant: tenantID, Hardware: hardware,
			Name: "device " + hardware.String(), Template: template, Key: keyID, Generation: 1,
			Status: edgeclaim.DeviceActive, ClaimedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), ClaimedVia: edgeclaim.ViaMQTT,
			Credential: edgeclaim.Credential{
				Type: edgeclaim.CredentialAPIKey, Hash: edgeclaim.NewSecret(hardware.String()).Hash(),
				IssuedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
			},
		}
	}
	if _, err := m.Adopt(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	return m.devices
}
