package hub_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttproxy"
)

const prov, evt = edgeclaim.LaneProv, edgeclaim.LaneEvt

func TestConversation(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	w := b.hello()
	want := &wire.Welcome{
		Head: w.Head, Version: wire.Version, Upstream: r.db.ID(), Credit: 4096,
		Resume: map[edgeclaim.Lane]wire.Resume{prov: {}, evt: {}, edgeclaim.LaneTel: {}},
	}
	if diff := cmp.Diff(want, w); diff != "" {
		t.Errorf("welcome (-want +got):\n%s", diff)
	}

	b.tell(prov, 1, 20)
	b.ack(prov, 20)
	b.tell(prov, 11, 20) // told twice
	b.ack(prov, 20)
	b.tell(prov, 15, 30) // half of it
	b.ack(prov, 30)
	b.tell(evt, 1, 5)
	if a := b.ack(evt, 5); a.Credit == nil || *a.Credit != 4096 {
		t.Errorf("credit %v in the ack", a.Credit)
	}

	b.tell(prov, 36, 40) // 31 to 35 are missing
	a := next[*wire.Ack](b)
	if diff := cmp.Diff([]wire.Nack{{Lane: prov, Sequence: 31, Code: wire.NackGap}}, a.Nack); diff != "" || a.Upto[prov] != 30 {
		t.Errorf("ack %+v, nack (-want +got):\n%s", a, diff)
	}
	b.tell(prov, 31, 40)
	b.ack(prov, 40)

	empty := b.batch(prov, 41, 40)
	empty.Last = 50 // all dropped
	b.publish(b.names.Up("prov"), b.encode(empty), false)
	b.ack(prov, 50)

	if f := r.hub.Figures(); f.Records != 45 || f.Nacks[wire.NackGap] != 1 || f.Welcomes != 1 || f.Malformed+f.Foreign != 0 {
		t.Errorf("figures %+v", f)
	}
	devices, err := r.db.Devices(t.Context(), registry.DeviceFilter{})
	if err != nil || len(devices) != 40 {
		t.Errorf("%d devices, want 40; %v", len(devices), err)
	}
	await(t, "the session to be counted", func() bool { return r.hub.Figures().Sessions == 1 })
}

// A record that can never be taken stops its lane there, and nothing else; the
// box goes on without it.
func TestPermanentNack(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	batch := b.batch(prov, 1, 5)
	batch.Events[2] = bytes.Replace(batch.Events[2], []byte(`"name"`), []byte(`"nome"`), 1)
	b.publish(b.names.Up("prov"), b.encode(batch), false)
	a := b.ack(prov, 2)
	if len(a.Nack) != 1 || a.Nack[0].Code != wire.NackPermanent || a.Nack[0].Sequence != 3 || !strings.Contains(a.Nack[0].Reason, "name") {
		t.Errorf("nack %+v", a.Nack)
	}
	b.tell(evt, 1, 1)
	b.ack(evt, 1)
	batch = b.batch(prov, 3, 5)
	batch.Events = batch.Events[1:] // parked
	b.publish(b.names.Up("prov"), b.encode(batch), false)
	b.ack(prov, 5)
}

// What is on its way behind a gap does not make a nack of its own each.
func TestGapIsSaidOnce(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir(), func(c *hub.Config) { c.GroupMessages = 1 })
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	for i := range uint64(20) {
		b.tell(prov, 10*i+11, 10*i+20)
	}
	b.tell(evt, 1, 1)
	b.ack(evt, 1)
	if n := r.hub.Figures().Nacks[wire.NackGap]; n < 1 || n > 5 {
		t.Errorf("%d nacks for one gap", n)
	}
}

func TestRecordsOfNoSession(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	b.nonce = "a-nonce-nobody-heard-of"
	b.tell(prov, 1, 5)
	next[*wire.Again](b)
	b.tell(prov, 1, 5) // it was asked just now
	if w := b.silent(); w.Resume[prov].Upto != 0 {
		t.Errorf("resume %+v after records of no session", w.Resume)
	}
	b.tell(prov, 1, 5)
	b.ack(prov, 5)
	former := b.nonce
	b.hello()
	present := b.nonce
	b.nonce = former // on its way since before the hello
	b.tell(prov, 6, 9)
	b.nonce = present
	if w := b.silent(); w.Resume[prov].Upto != 5 {
		t.Errorf("resume %+v after records of a former session", w.Resume)
	}
	if f := r.hub.Figures(); f.Foreign != 3 || f.Asked != 1 {
		t.Errorf("figures %+v", f)
	}
}

// Nothing that anybody says stops the hub, or another's session.
func TestGarbage(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	other := newBox(t, broker, "box-2", r.public())
	b.hello()
	other.hello()
	b.tell(prov, 1, 3)
	b.ack(prov, 3)

	foreign := other.batch(prov, 1, 1) // under this box's topic
	wrongLane := b.batch(evt, 1, 1)
	garbage := []struct {
		kind    string
		payload []byte
	}{
		{"prov", nil}, {"prov", []byte("{")}, {"prov", []byte(`{"type":"batch"}`)}, {"prov", []byte{0xff, 0xfe}},
		{"prov", other.encode(foreign)}, {"prov", b.encode(wrongLane)}, {"evt", []byte("[]")},
		{"ctl", []byte(`{"type":"hello","box_id":"box-1"}`)}, {"ctl", []byte(`{"type":"hello","box_id":"box-2"}`)},
		{"snap", []byte(`{"type":"snapshot","box_id":"box-1","page":0}`)}, {"ctl", []byte(`"text"`)},
		{"prov", bytes.Repeat([]byte("["), wire.MaxMessage)},
	}
	for range 3 {
		for _, g := range garbage {
			b.publish(b.names.Up(g.kind), g.payload, false)
		}
	}
	fine := [][2]string{ // of a later version
		{b.names.Up("log"), "anything"}, {b.names.Up("ctl"), `{"type":"later","box_id":"box-1"}`}, {b.names.State(), ""},
	}
	for _, m := range fine {
		b.publish(m[0], []byte(m[1]), false)
	}
	b.publish(b.names.State(), []byte(`{"status":"perhaps","box_id":"box-1","epoch":"`+b.epoch+`"}`), false)
	b.publish(b.names.Up("prov"), make([]byte, 3*wire.MaxMessage), false)
	b.publish("edgeclaim/v1/site with blanks/box/up/prov", []byte("{}"), false)

	b.tell(prov, 4, 5)
	b.ack(prov, 5)
	other.tell(prov, 1, 1)
	other.ack(prov, 1)
	f := r.hub.Figures()
	if want := uint64(3*len(garbage) + 2); f.Malformed != want || f.Oversized != 1 || f.Foreign != 0 {
		t.Errorf("malformed %d, want %d; oversized %d; foreign %d", f.Malformed, want, f.Oversized, f.Foreign)
	}
	if n := strings.Count(r.log.String(), "message is malformed"); n != 1 {
		t.Errorf("%d lines of one box's garbage in the log, want 1", n)
	}
}

// A retained message under up/ says what was: it is not taken.
func TestRetainedIsNotTaken(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	dir := t.TempDir()
	first := start(t, broker, dir)
	b := newBox(t, broker, "box-1", first.public())
	b.hello()
	first.stop()
	b.publish(b.names.Up("prov"), b.encode(b.batch(prov, 1, 2)), true)
	again := start(t, broker, dir)
	await(t, "the retained message", func() bool { return again.hub.Figures().Retained == 1 })
	if w := b.hello(); w.Resume[prov].Upto != 0 {
		t.Errorf("resume %+v", w.Resume)
	}
}

// A hub that starts again knows its marks and not its sessions.
func TestRestart(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	dir := t.TempDir()
	r := start(t, broker, dir)
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	b.tell(prov, 1, 10)
	b.ack(prov, 10)
	r.stop()
	b.tell(prov, 11, 20) // nobody is there
	r = start(t, broker, dir)
	b.tell(prov, 21, 30)
	next[*wire.Again](b)
	w := b.hello()
	if w.Resume[prov].Upto != 10 || w.Resume[prov].Check.Sequence != 10 || w.Held != 10 {
		t.Errorf("welcome %+v", w)
	}
	b.tell(prov, 11, 30)
	b.ack(prov, 30)
	for _, status := range []string{wire.Online, wire.Offline, wire.Online} {
		h := b.nextHost()
		if h.Status != status || h.Upstream != r.db.ID() || h.Instance == "" {
			t.Errorf("host %+v, want %s", h, status)
		}
	}
}

// The hub's link to the broker is cut: the broker says so by the will, boxes
// hear when it is back, and what was lost between is a gap that is told again.
func TestLinkIsCut(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	cable := mqttproxy.Start(t, broker, 1)
	r := start(t, cable.Addr(), t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	b.tell(prov, 1, 10)
	b.ack(prov, 10)
	cable.Refuse()
	cable.Reset()
	await(t, "the loss to be seen", func() bool { return r.hub.Status().Broker == edgeclaim.LampDown && r.hub.Status().LastError != "" })
	var said []wire.Host
	said = append(said, b.nextHost(), b.nextHost())
	b.tell(prov, 11, 20) // lost: the hub's session was a clean one
	cable.Heal()
	r.awaitUp()
	said = append(said, b.nextHost())
	if said[1].Status != wire.Offline || said[2].Status != wire.Online || said[0].Instance != said[2].Instance {
		t.Errorf("the hub said %+v", said)
	}
	b.tell(prov, 21, 30) // the session is the same
	if a := next[*wire.Ack](b); len(a.Nack) != 1 || a.Nack[0].Sequence != 11 {
		t.Errorf("ack %+v, want a gap at 11", a)
	}
	b.tell(prov, 11, 30)
	b.ack(prov, 30)
}

func TestRefusals(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	h := b.greeting()
	h.Versions = []int{2, 3}
	b.say(wire.KindControl, h)
	refused := next[*wire.Refused](b)
	if refused.Code != wire.RefusedVersion || !cmp.Equal(refused.Versions, []int{wire.Version}) {
		t.Errorf("refused %+v", refused)
	}

	b.hello()
	b.tell(prov, 1, 5)
	b.ack(prov, 5)
	b.appended[prov] = 3 // an old copy of itself
	b.say(wire.KindControl, b.greeting())
	if got := next[*wire.Refused](b); got.Code != wire.RefusedStale {
		t.Errorf("refused %+v", got)
	}
	b.tell(prov, 6, 6) // refused, it was told so: nothing comes
	clone := newBox(t, broker, "box-1", r.public())
	clone.epoch = epochOf("box-1", 2)
	clone.hello()
	clone.tell(prov, 1, 1)
	clone.ack(prov, 1)

	// Both hear what comes down; the first one's name is in none of it.
	for len(b.down) > 0 {
		if m := b.nextDown(); m.Header().Epoch == b.epoch {
			t.Errorf("%T came down to a refused box", m)
		}
	}
	b.appended[prov] = 9
	b.say(wire.KindControl, b.greeting())
	if got := clone.nextDown().(*wire.Refused); got.Code != wire.RefusedFenced || got.Epoch != b.epoch {
		t.Errorf("refused %+v", got)
	}
	clone.tell(prov, 2, 2) // its session is as good as before
	clone.ack(prov, 2)
	f := r.hub.Figures()
	if f.Refusals[wire.RefusedFenced] != 1 || f.Refusals[wire.RefusedStale] != 1 || f.Refusals[wire.RefusedVersion] != 1 || f.Asked != 0 {
		t.Errorf("figures %+v", f)
	}
}

// An old copy of a box that goes on is found out in the middle of a session.
func TestRefusedLater(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	b.tell(prov, 1, 5)
	b.ack(prov, 5)
	other := b.batch(prov, 5, 5)
	other.Events[0] = bytes.Replace(other.Events[0], []byte("Pump 5"), []byte("Pump X"), 1)
	b.publish(b.names.Up("prov"), b.encode(other), false)
	if got := next[*wire.Refused](b); got.Code != wire.RefusedStale {
		t.Errorf("refused %+v", got)
	}
}

// The box's state, retained, is known as soon as the hub is.
func TestStates(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	dir := t.TempDir()
	r := start(t, broker, dir)
	b := newBox(t, broker, "box-1", r.public())
	say := func(status string) {
		t.Helper()
		payload, err := wire.Encode(&wire.State{Status: status, Box: "box-1", Epoch: b.epoch})
		if err != nil {
			t.Fatal(err)
		}
		b.publish(b.names.State(), payload, true)
	}
	is := func(online, app bool) func() bool {
		return func() bool { got := r.boxOf("box-1"); return got.Online == online && got.App == app }
	}
	b.hello()
	await(t, "online and in a session", is(true, true))
	say(wire.Offline)
	await(t, "offline", is(false, false))
	r.stop()
	say(wire.Online)
	r = start(t, broker, dir)
	await(t, "online and in no session", is(true, false))
	b.hello()
	await(t, "in a session", is(true, true))
}

// A box that has lost its registry gets it back, in pages that fit.
func TestRegistryPages(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	const devices = 600
	for first := uint64(1); first <= devices; first += 100 {
		b.tell(prov, first, first+99)
	}
	b.ack(prov, devices)
	b.epoch, b.appended[prov] = epochOf("box-1", 2), 0
	if w := b.hello(); !w.Recover || w.Held != devices {
		t.Fatalf("welcome %+v", w)
	}
	got := map[edgeclaim.DeviceID]edgeclaim.Device{}
	after, pages := "", 0
	for more := true; more; pages++ {
		b.say(wire.KindControl, &wire.Want{Type: wire.TypeWant, Box: "box-1", Epoch: b.epoch, Nonce: b.nonce, What: wire.WantRegistry, After: after})
		page := next[*wire.RegistryPage](b)
		if page.After != after || len(page.Devices) == 0 {
			t.Fatalf("page of %d devices after %q, want after %q", len(page.Devices), page.After, after)
		}
		for _, d := range page.Devices {
			got[d.ID] = d
		}
		after, more = page.Devices[len(page.Devices)-1].ID.String(), page.More
	}
	for n := uint64(1); n <= devices; n++ {
		d := got[b.device(n)]
		if !d.Credential.Hash.Equal(edgeclaim.NewSecret(b.secret(n)).Hash()) || d.Status != edgeclaim.DeviceActive {
			t.Fatalf("device %d came back as %+v", n, d)
		}
	}
	if len(got) != devices || pages < 3 {
		t.Errorf("%d devices on %d pages", len(got), pages)
	}
	b.say(wire.KindControl, &wire.Want{Type: wire.TypeWant, Box: "box-1", Epoch: b.epoch, Nonce: b.nonce, What: wire.WantRegistry, Done: true})
	if w := b.hello(); w.Recover {
		t.Error("it is offered again what it has")
	}
}

// A hub that has lost what a box told asks for its registry.
func TestSnapshot(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	b.first[prov], b.appended[prov] = 4, 3
	if w := b.hello(); !w.Snapshot {
		t.Fatalf("welcome %+v", w)
	}
	gone := b.batch(prov, 1, 0)
	gone.Last = 3
	b.publish(b.names.Up("prov"), b.encode(gone), false)
	b.ack(prov, 3)
	page := func(n uint64, last bool, more string) {
		tenant, _ := edgeclaim.ParseTenantID(tenantID)
		template, _ := edgeclaim.ParseTemplateID("t-1")
		key, _ := edgeclaim.ParseKeyID("k-1")
		text, err := wire.Encode(&wire.SnapshotPage{
			Type: wire.TypeSnapshot, Box: "box-1", Epoch: b.epoch, Nonce: b.nonce, ID: "s-1", Page: n, Last: last,
			Devices: []edgeclaim.Device{{
				ID: b.device(n), Tenant: tenant, Hardware: b.hardware(n), Name: "Pump", Template: template, Key: key, Generation: 1,
				Status:     edgeclaim.DeviceActive,
				Credential: edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: edgeclaim.NewSecret(b.secret(n)).Hash()},
				ClaimedAt:  time.Now(), ClaimedVia: edgeclaim.ViaMQTT,
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		b.publish(b.names.Up(wire.KindSnapshot), bytes.Replace(text, []byte(`"devices":[`), []byte(`"devices":[`+more), 1), false)
		if a := next[*wire.Ack](b); !cmp.Equal(a.Snapshot, &wire.SnapshotAck{ID: "s-1", Upto: n}) {
			t.Errorf("ack %+v of page %d", a, n)
		}
	}
	page(1, false, "")
	page(2, false, "{},") // one that names nobody
	page(3, true, "")
	if f := r.hub.Figures(); f.Skipped != 1 || strings.Count(r.log.String(), "devices of a box are not taken") != 1 {
		t.Errorf("figures %+v, log:\n%s", f, r.log)
	}
	if w := b.hello(); w.Snapshot || w.Held != 3 {
		t.Errorf("welcome %+v after the snapshot", w)
	}
}

// A stop commits and answers what has come, and says offline.
func TestStopAnswersWhatHasCome(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	var open func()
	r := start(t, broker, t.TempDir(), func(c *hub.Config) { c.GroupMessages = 1; _, open = gate(c) })
	defer open()
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	for i := range uint64(50) {
		b.tell(prov, 10*i+1, 10*i+10)
	}
	await(t, "a full queue", func() bool { return r.hub.Figures().QueueMessages >= 15 }) // the broker has 20 on their way
	stopped := make(chan struct{})
	go func() { defer close(stopped); r.stop() }()
	open()
	<-stopped
	for _, status := range []string{wire.Online, wire.Offline} { // it comes after the last ack
		if h := b.nextHost(); h.Status != status {
			t.Errorf("host %+v, want %s", h, status)
		}
	}
	upto := uint64(0)
	for len(b.down) > 0 {
		upto = max(upto, next[*wire.Ack](b).Upto[prov])
	}
	if left := r.hub.Figures().QueueMessages; left != 0 {
		t.Errorf("%d messages came and were left", left)
	}
	if applied := r.hub.Figures().Records; upto != applied {
		t.Errorf("acknowledged up to %d, committed %d", upto, applied)
	}
}

// What came before a hello belongs to the session before: the welcome knows of
// it, and no ack of the new session names it.
func TestHelloBehindRecords(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	var waiting <-chan struct{}
	var open func()
	r := start(t, broker, t.TempDir(), func(c *hub.Config) { waiting, open = gate(c) })
	defer open()
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	b.tell(prov, 1, 5)
	<-waiting
	b.tell(prov, 6, 10)
	b.say(wire.KindControl, b.greeting())
	await(t, "both to come", func() bool { return r.hub.Figures().QueueMessages == 2 })
	open()
	for {
		if w, ok := b.nextDown().(*wire.Welcome); ok {
			if w.Resume[prov].Upto != 10 {
				t.Errorf("resume %+v", w.Resume)
			}
			break
		}
	}
	b.tell(prov, 11, 12)
	b.ack(prov, 12)
}

// A hello that the network brings again, late, says what was true when it was
// said first (P8): no box is refused for it, and none fenced.
func TestLateHello(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	first := b.greeting()
	b.say(wire.KindControl, first)
	next[*wire.Welcome](b)
	b.tell(prov, 1, 3)
	b.ack(prov, 3)
	b.say(wire.KindControl, first) // of the present session
	if w := next[*wire.Welcome](b); w.Resume[prov].Upto != 3 {
		t.Errorf("resume %+v", w.Resume)
	}
	b.hello()
	b.say(wire.KindControl, first) // of the session before
	b.tell(prov, 4, 5)
	b.ack(prov, 5)

	b.epoch, b.appended = epochOf("box-1", 2), map[edgeclaim.Lane]uint64{}
	renewed := b.greeting()
	renewed.Previous = first.Epoch
	b.say(wire.KindControl, renewed)
	next[*wire.Welcome](b)
	b.say(wire.KindControl, first) // of the epoch before
	b.tell(prov, 1, 2)
	b.ack(prov, 2)
	conflicts, err := r.db.Conflicts(t.Context(), registry.ConflictFilter{})
	if err != nil || len(conflicts) > 0 {
		t.Errorf("conflicts %+v, error %v", conflicts, err)
	}
	for code, n := range r.hub.Figures().Refusals {
		if n > 0 {
			t.Errorf("%d refusals: %s", n, code)
		}
	}
}

// More comes than the queue takes: the broker waits, nothing is lost.
func TestQueueIsFull(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir(), func(c *hub.Config) {
		c.QueueMessages, c.QueueBytes, c.GroupMessages = 2, wire.MaxMessage+1024, 1
	})
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	for i := range uint64(200) {
		b.tell(prov, 5*i+1, 5*i+5)
	}
	b.ack(prov, 1000)
	if f := r.hub.Figures(); f.Records != 1000 || f.Nacks[wire.NackGap] != 0 {
		t.Errorf("figures %+v", f)
	}
}

// There is room for so many boxes; one above is refused, and the hub lives.
func TestTooManyBoxes(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir(), func(c *hub.Config) { c.MaxBoxes = 2 })
	var boxes []*box
	for i := range 3 {
		boxes = append(boxes, newBox(t, broker, fmt.Sprintf("box-%d", i), r.public()))
	}
	boxes[0].hello()
	boxes[1].hello()
	boxes[2].say(wire.KindControl, boxes[2].greeting())
	if got := next[*wire.Refused](boxes[2]); got.Code != wire.RefusedUnknown {
		t.Errorf("refused %+v", got)
	}
	boxes[2].tell(prov, 1, 1)
	boxes[0].tell(prov, 1, 1)
	boxes[0].ack(prov, 1)
}

func TestNewRefusesAKeyThatIsNone(t *testing.T) {
	db, err := registry.Open(context.Background(), registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := hub.New(hub.Defaults(), db, nil, nil); err == nil {
		t.Error("no error")
	}
}
