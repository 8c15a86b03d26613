package bridge_test

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// TestAppTelemetry: tel comes behind the others, with its states before; all of
// it keeps its schema.
func TestAppTelemetry(t *testing.T) {
	a := newApplication(t, newSigner(t))
	m := newMemory()
	states := newPresences()
	for i := range 10 {
		states.set(i, edgeclaim.PresenceOnline, nil)
	}
	m.add(edgeclaim.LaneTel, 1000)
	m.add(edgeclaim.LaneEvt, 10)
	m.add(edgeclaim.LaneProv, 10)
	parts := m.withTelemetry()
	parts.States = states
	b := startWith(t, appConf(a), parts, a.enrolled())
	m.awaitAcked(t, edgeclaim.LaneTel, 1000)
	a.await(t, "states", func() bool { return len(a.stated) > 0 })
	states.set(3, edgeclaim.PresenceOffline, nil)
	a.await(t, "the change", func() bool { return len(a.stated) > 1 })
	m.add(edgeclaim.LaneTel, 1)
	m.awaitAcked(t, edgeclaim.LaneTel, 1001)
	status := b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return appUp(s) && s.InFlight == 0 })
	if len(status.Alarms) != 0 {
		t.Errorf("alarms %+v", status.Alarms)
	}
	b.stop()
	a.check(t, edgeclaim.LaneProv, 10, 0)
	a.check(t, edgeclaim.LaneEvt, 10, 0)
	a.check(t, edgeclaim.LaneTel, 1001, 0)
	a.mu.Lock()
	defer a.mu.Unlock()
	if got := strings.Join(a.order, " "); !strings.HasPrefix(got, "st ctl prov ctl evt tel ctl tel") {
		t.Errorf("came in the order %s", got)
	}
	first, second := a.stated[0], a.stated[1]
	if !first.Reset || len(first.Devices) != 10 || first.Upto != 10 {
		t.Errorf("the first states are %+v", first)
	}
	if second.Reset || len(second.Devices) != 1 || second.Upto != 11 || second.Devices[0].Presence != edgeclaim.PresenceOffline {
		t.Errorf("the second states are %+v", second)
	}
	if hello := a.hellos[0]; hello.Lanes[edgeclaim.LaneTel].Appended != 1000 {
		t.Errorf("hello says %+v", hello.Lanes)
	}
}

// TestAppOfBefore: an application that does not know the lane is told nothing of
// it, and no states; and it is not taken for one that has lost what it had.
func TestAppOfBefore(t *testing.T) {
	a := newApplication(t, nil)
	a.welcome = func(w *wire.Welcome) { delete(w.Resume, edgeclaim.LaneTel) }
	m := newMemory()
	states := newPresences()
	states.set(1, edgeclaim.PresenceOnline, nil)
	m.add(edgeclaim.LaneTel, 10)
	m.lanes[edgeclaim.LaneTel].check = edgeclaim.Check{Sequence: 5, Hash: strings.Repeat("h", 22)}
	parts := m.withTelemetry()
	parts.States = states
	b := startWith(t, appConf(a), parts)
	for i := range 3 {
		m.add(edgeclaim.LaneEvt, 1)
		m.awaitAcked(t, edgeclaim.LaneEvt, uint64(i+1))
	}
	alarms := b.Status().Alarms
	a.do(func() {
		if strings.Contains(strings.Join(a.order, " "), "tel") || len(a.stated) > 0 || len(alarms) > 0 {
			t.Errorf("came %v, %d states, alarms %v", a.order, len(a.stated), alarms)
		}
	})
}

// TestAppTelemetryLeavesRoom: however much telemetry is on its way, a claim is
// told at once.
func TestAppTelemetryLeavesRoom(t *testing.T) {
	a := newApplication(t, nil)
	a.credit = 1000
	a.onBatch = func(a *application, b *wire.Batch) bool {
		a.apply(b)
		return true // no ack
	}
	m := newMemory()
	m.add(edgeclaim.LaneTel, 5000)
	b := startWith(t, appConf(a), m.withTelemetry())
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.InFlight > 500 })
	for i := range 3 {
		m.add(edgeclaim.LaneProv, 1)
		a.await(t, "the claim", func() bool { return a.marks[epoch+"prov"] == uint64(i+1) })
	}
	a.do(func() {
		if came := a.marks[epoch+"tel"]; came > 750 {
			t.Errorf("%d points on their way, of a window of 1000", came)
		}
	})
}

// TestAppStatesPages: of many devices each is told once, in messages that fit;
// what a session ends with comes again in the next.
func TestAppStatesPages(t *testing.T) {
	a := newApplication(t, nil)
	m := newMemory()
	states := newPresences()
	for i := range 1000 {
		states.set(i, edgeclaim.PresenceOnline, nil)
	}
	parts := m.withTelemetry()
	parts.States = states
	startWith(t, appConf(a), parts)
	pages := (1000 + 255) / 256
	a.await(t, "all", func() bool { return len(a.stated) == pages })
	a.do(func() {
		told := map[edgeclaim.DeviceID]bool{}
		for i, s := range a.stated {
			if s.Reset != (i == 0) {
				t.Errorf("message %d: reset %v", i, s.Reset)
			}
			for _, d := range s.Devices {
				told[d.Device] = true
			}
		}
		if len(told) != 1000 {
			t.Errorf("%d devices told of 1000", len(told))
		}
		a.say(wire.KindControl, &wire.Again{Head: a.head(wire.TypeAgain)})
	})
	a.await(t, "all again", func() bool { return len(a.stated) == 2*pages })
	a.do(func() {
		if !a.stated[pages].Reset || len(a.hellos) != 2 {
			t.Errorf("reset %v after %d hellos", a.stated[pages].Reset, len(a.hellos))
		}
	})
}

// TestAppNoDevices: that there are none is said once, for those of before the
// start.
func TestAppNoDevices(t *testing.T) {
	a := newApplication(t, nil)
	m := newMemory()
	parts := m.withTelemetry()
	states := newPresences()
	parts.States = states
	startWith(t, appConf(a), parts)
	a.await(t, "a reset", func() bool { return len(a.stated) == 1 && a.stated[0].Reset && len(a.stated[0].Devices) == 0 })
	states.set(1, edgeclaim.PresenceOnline, nil)
	a.await(t, "a state", func() bool { return len(a.stated) == 2 && !a.stated[1].Reset && len(a.stated[1].Devices) == 1 })
}

// TestAppStatesAgain: states that are not acknowledged are told again, one
// message at a time, whatever else goes on; a word above them is an alarm.
func TestAppStatesAgain(t *testing.T) {
	a := newApplication(t, nil)
	a.onState = func(a *application, s *wire.States) bool {
		if len(a.stated) == 1 {
			above := s.Upto + 1
			a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), State: &above})
		}
		return len(a.stated) < 3
	}
	m := newMemory()
	states := newPresences()
	states.set(1, edgeclaim.PresenceOnline, nil)
	parts := m.withTelemetry()
	parts.States = states
	conf := appConf(a)
	conf.AckTimeout = 100 * time.Millisecond
	b := startWith(t, conf, parts)
	a.await(t, "the first", func() bool { return len(a.stated) == 1 })
	states.set(2, edgeclaim.PresenceOnline, nil)
	a.await(t, "the third", func() bool { return len(a.stated) == 3 })
	b.awaitStatus(t, alarmed(edgeclaim.AlarmAckAbove, 1))
	a.do(func() {
		if s := a.stated[2]; !s.Reset || len(s.Devices) != 2 || len(a.hellos) != 1 {
			t.Errorf("told again %+v, after %d hellos", s, len(a.hellos))
		}
	})
	states.set(1, edgeclaim.PresenceOffline, nil)
	a.await(t, "the change", func() bool { return len(a.stated) == 4 && !a.stated[3].Reset })
}

// TestAppNewest: while the lane is far behind, states bring the newest of each
// device, in the bytes that the lane tells it in later.
func TestAppNewest(t *testing.T) {
	a := newApplication(t, nil)
	hold := true
	a.onBatch = func(_ *application, b *wire.Batch) bool { return hold && b.Lane == edgeclaim.LaneTel }
	m := newMemory()
	m.add(edgeclaim.LaneTel, 2000)
	states := newPresences()
	newest := newPoint(1999)
	newest.Lane, newest.Sequence = edgeclaim.LaneTel, 1999
	large := newest
	large.Data = []byte(`{"x":"` + strings.Repeat("x", wire.MaxMessage) + `"}`)
	states.set(1, edgeclaim.PresenceOnline, &large)
	for i := 2; i < 500; i++ {
		states.set(i, edgeclaim.PresenceOnline, &newest)
	}
	parts := m.withTelemetry()
	parts.States = states
	conf := appConf(a)
	conf.Window = 1000
	startWith(t, conf, parts)
	a.await(t, "all", func() bool {
		n := 0
		for _, s := range a.stated {
			n += len(s.Devices)
		}
		return n == 499
	})
	a.do(func() {
		for _, s := range a.stated {
			for i := range s.Devices {
				d := &s.Devices[i]
				if d.Device == deviceAt(1) != (d.Telemetry == nil) {
					t.Errorf("%s comes with %.100s", d.Device, d.Telemetry)
				}
			}
		}
	})
	states.speak(7, &newest)
	a.await(t, "who spoke", func() bool { return len(a.stated[len(a.stated)-1].Devices) == 1 })
	a.do(func() {
		hold = false
		for _, b := range []wire.NackCode{wire.NackGap} {
			a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Nack: []wire.Nack{{Lane: edgeclaim.LaneTel, Sequence: 1, Code: b}}})
		}
	})
	m.awaitAcked(t, edgeclaim.LaneTel, 2000)
	a.do(func() {
		if said, told := string(a.stated[0].Devices[1].Telemetry), a.applied[eventID(edgeclaim.LaneTel, 1999)]; said != told {
			t.Errorf("said\n%s\ntold\n%s", said, told)
		}
		if states.mu.Lock(); !states.asked[0] {
			t.Error("the newest were not asked for")
		}
		states.mu.Unlock()
	})
	states.set(1, edgeclaim.PresenceOffline, nil)
	a.await(t, "the change", func() bool { return a.stated[len(a.stated)-1].Devices[0].Device == deviceAt(1) })
	states.mu.Lock()
	defer states.mu.Unlock()
	if states.asked[len(states.asked)-1] {
		t.Error("the newest were asked for, though nothing waits")
	}
}

// TestAppPointTooLarge: a point that no message can carry is told as lost, and its
// device's others go on.
func TestAppPointTooLarge(t *testing.T) {
	a := newApplication(t, nil)
	m := newMemory()
	m.add(edgeclaim.LaneTel, 1)
	large := newPoint(2)
	large.Data = []byte(`{"x":"` + strings.Repeat("x", wire.MaxMessage) + `"}`)
	m.append(edgeclaim.LaneTel, large)
	m.add(edgeclaim.LaneTel, 20)
	b := startWith(t, appConf(a), m.withTelemetry())
	m.awaitAcked(t, edgeclaim.LaneTel, 22)
	b.awaitStatus(t, alarmed(edgeclaim.AlarmQuarantine, 1))
	a.check(t, edgeclaim.LaneTel, 22, 0)
	a.mu.Lock()
	defer a.mu.Unlock()
	if text := a.applied[eventID(edgeclaim.LaneTel, 2)]; !strings.Contains(text, `"from":2,"to":2,"count":1,"reason":"too_large"`) {
		t.Errorf("told %s", text)
	}
	if strings.Contains(a.applied[eventID(edgeclaim.LaneTel, 12)], "gap") {
		t.Error("its device is told of no more")
	}
}

// TestAppRefusesPoint: what the application will never take is told as a gap.
func TestAppRefusesPoint(t *testing.T) {
	a := newApplication(t, nil)
	refused := false
	a.onBatch = func(a *application, b *wire.Batch) bool {
		if b.Lane != edgeclaim.LaneTel || refused {
			return false
		}
		refused = true
		a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Nack: []wire.Nack{{
			Lane: edgeclaim.LaneTel, Sequence: 5, Code: wire.NackPermanent, Reason: "no such device",
		}}})
		return true
	}
	m := newMemory()
	m.add(edgeclaim.LaneTel, 30)
	startWith(t, appConf(a), m.withTelemetry())
	m.awaitAcked(t, edgeclaim.LaneTel, 30)
	a.check(t, edgeclaim.LaneTel, 30, 0)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(m.parked, "tel 5 no such device") {
		t.Errorf("refused %v", m.parked)
	}
	for _, n := range []int{5, 15, 25} {
		if !strings.Contains(a.applied[eventID(edgeclaim.LaneTel, n)], `"type":"gap"`) {
			t.Errorf("%d is no gap", n)
		}
	}
}

// TestAppUnreadable: a lane of telemetry that cannot be read ends no session and
// keeps nothing else; it is told once it can be.
func TestAppUnreadable(t *testing.T) {
	for _, broken := range []string{"begin", "marks", "next"} {
		t.Run(broken, func(t *testing.T) {
			a := newApplication(t, nil)
			m := newMemory()
			mend := m.breakTelemetry(broken)
			b := startWith(t, appConf(a), m.withTelemetry())
			m.awaitAcked(t, edgeclaim.LaneProv, 10)
			m.awaitAcked(t, edgeclaim.LaneEvt, 10)
			b.awaitStatus(t, alarmed(edgeclaim.AlarmTelemetryUnread, 2))
			mend()
			m.awaitAcked(t, edgeclaim.LaneTel, 10)
			if n := a.connections(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestAppRenewsTelemetry: with the outbox's new life, the lane has one too.
func TestAppRenewsTelemetry(t *testing.T) {
	a := newApplication(t, nil)
	first := true
	a.onHello = func(a *application, _ *wire.Hello) bool {
		if first {
			first = false
			a.say(wire.KindControl, &wire.Refused{Head: a.head(wire.TypeRefused), Code: wire.RefusedStale})
			return true
		}
		return false
	}
	m := newMemory()
	m.add(edgeclaim.LaneTel, 50)
	m.drop(edgeclaim.LaneTel, func(s uint64) bool { return s <= 20 })
	startWith(t, appConf(a), m.withTelemetry())
	m.awaitAcked(t, edgeclaim.LaneTel, 30)
	a.do(func() {
		if mark := a.marks[a.hello.Epoch+"tel"]; mark != 30 || a.hello.Epoch == epoch {
			t.Errorf("told up to %d of epoch %s", mark, a.hello.Epoch)
		}
	})
}

// TestStickTelemetry: the lane goes out on a stick as the others do, and its
// acknowledgement comes back; unreadable, the rest goes without it.
func TestStickTelemetry(t *testing.T) {
	key := newSigner(t)
	m := newMemory()
	m.add(edgeclaim.LaneProv, 3)
	m.add(edgeclaim.LaneTel, 700)
	s := newStick(m, key.Public().(ed25519.PublicKey))
	s.Parts = m.withTelemetry()
	out := export(t, s)
	n := 0
	for _, b := range out.batches {
		if b.Lane == edgeclaim.LaneTel {
			n += len(b.Events)
		}
	}
	if n != 700 || out.hello.Lanes[edgeclaim.LaneTel].Appended != 700 {
		t.Errorf("%d points on the stick; hello %+v", n, out.hello.Lanes)
	}
	ack := wire.Ack{
		Head: wire.Head{Type: wire.TypeAck, Box: box, Epoch: epoch, Nonce: out.hello.Nonce, Time: time.Now()},
		Upto: map[edgeclaim.Lane]uint64{edgeclaim.LaneProv: 3, edgeclaim.LaneTel: 600},
		Nack: []wire.Nack{{Lane: edgeclaim.LaneTel, Sequence: 601, Code: wire.NackPermanent, Reason: "no"}},
	}
	text, err := wire.Seal(key, &ack)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := s.AcceptAck(t.Context(), strings.NewReader(string(text)))
	if err != nil || accepted.Upto[edgeclaim.LaneTel] != 600 || accepted.Parked != 1 {
		t.Fatalf("%+v, %v", accepted, err)
	}
	if acked := m.acked(edgeclaim.LaneTel); acked != 600 {
		t.Errorf("forgotten up to %d", acked)
	}
	broken, reads := "next", 0
	m.fail = func(call string, lane edgeclaim.Lane) error {
		if lane == edgeclaim.LaneTel && call == broken {
			if reads++; reads > 2 {
				return errors.New("no such disk")
			}
		}
		return nil
	}
	m.add(edgeclaim.LaneTel, 2000)
	out = export(t, s)
	at := slices.IndexFunc(s.Exports.(exports)[out.hello.Nonce], func(m edgeclaim.Mark) bool { return m.Lane == edgeclaim.LaneTel })
	mark := s.Exports.(exports)[out.hello.Nonce][at].Upto
	if last := out.batches[len(out.batches)-1]; mark == 0 || mark >= 2700 || last.Lane != edgeclaim.LaneTel || last.Last != mark {
		t.Errorf("the export is known up to %d, and holds up to %d", mark, last.Last)
	}
	broken, reads = "begin", 100
	m.add(edgeclaim.LaneEvt, 1)
	out = export(t, s)
	if _, said := out.hello.Lanes[edgeclaim.LaneTel]; said || len(out.batches) == 0 {
		t.Errorf("hello %+v, %d batches", out.hello.Lanes, len(out.batches))
	}
}

// TestAppCheckOfWhatIsLost: upstream names the last point it has, which the box
// has lost since, before it heard so: that is no sign of an old copy.
func TestAppCheckOfWhatIsLost(t *testing.T) {
	a := newApplication(t, nil)
	a.marks[epoch+"tel"] = 50
	a.welcome = func(w *wire.Welcome) {
		w.Resume[edgeclaim.LaneTel] = wire.Resume{Upto: 50, Check: edgeclaim.Check{Sequence: 50, Hash: strings.Repeat("h", 22)}}
	}
	m := newMemory()
	m.add(edgeclaim.LaneTel, 60)
	m.lose(50)
	b := startWith(t, appConf(a), m.withTelemetry())
	m.awaitAcked(t, edgeclaim.LaneTel, 60)
	b.stop()
	if alarms := b.Status().Alarms; len(alarms) > 0 || m.count("renew") > 0 {
		t.Errorf("alarms %+v, %d renewals", alarms, m.count("renew"))
	}
}
