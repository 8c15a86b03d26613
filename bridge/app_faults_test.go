package bridge_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/bridge/wire"
)

// TestAppRefused: a box that is refused tells nothing, says why, raises an
// alarm, asks again, and goes on when it is welcome.
func TestAppRefused(t *testing.T) {
	for code, kind := range map[wire.RefusedCode]edgeclaim.Alarm{
		wire.RefusedFenced:  edgeclaim.AlarmFenced,
		wire.RefusedVersion: edgeclaim.AlarmNotWelcome,
		wire.RefusedUnknown: edgeclaim.AlarmNotWelcome,
		"a later one":       edgeclaim.AlarmNotWelcome,
	} {
		t.Run(string(code), func(t *testing.T) {
			a := newApplication(t, nil)
			welcome := false
			a.onHello = func(a *application, _ *wire.Hello) bool {
				if !welcome {
					a.say(wire.KindControl, &wire.Refused{Head: a.head(wire.TypeRefused), Code: code, Reason: "secret-reason"})
				}
				return !welcome
			}
			m := newMemory()
			m.add(edgeclaim.LaneProv, 100)
			b := startWith(t, appConf(a), m.parts())
			status := b.awaitStatus(t, alarmed(kind, 2))
			if status.App != edgeclaim.LampDown || status.LastError == "" || status.Broker != edgeclaim.LampUp {
				t.Errorf("status %+v", status)
			}
			a.do(func() {
				if n := len(a.marks); n != 0 {
					t.Errorf("told %d lanes, though refused", n)
				}
				welcome = true
			})
			m.awaitAcked(t, edgeclaim.LaneProv, 100)
			if a.connections() != 1 {
				t.Errorf("%d connections, want one", a.connections())
			}
			if strings.Contains(b.log.String(), "secret-reason") {
				t.Error("the log repeats upstream's words")
			}
		})
	}
}

// TestAppRefusedLater: a refusal in the middle ends the telling.
func TestAppRefusedLater(t *testing.T) {
	a := newApplication(t, nil)
	refusing := true
	a.onBatch = func(a *application, b *wire.Batch) bool {
		if refusing {
			a.say(wire.KindControl, &wire.Refused{Head: a.head(wire.TypeRefused), Code: wire.RefusedFenced})
		}
		refusing = false
		return true
	}
	a.onHello = func(a *application, _ *wire.Hello) bool {
		if len(a.hellos) > 1 {
			a.onBatch = nil
		}
		return false
	}
	m := newMemory()
	m.add(edgeclaim.LaneProv, 300)
	b := startWith(t, appConf(a), m.parts())
	b.awaitStatus(t, alarmed(edgeclaim.AlarmFenced, 1))
	m.awaitAcked(t, edgeclaim.LaneProv, 300)
	a.check(t, edgeclaim.LaneProv, 300, 0)
}

// TestAppRefusedShowsNothingOnItsWay: what the session before had on its way and
// was allowed is not shown of a box that was refused.
func TestAppRefusedShowsNothingOnItsWay(t *testing.T) {
	a := newApplication(t, nil)
	a.onBatch = func(a *application, _ *wire.Batch) bool { return true }
	a.onHello = func(a *application, _ *wire.Hello) bool { return len(a.hellos) > 1 }
	m := newMemory()
	m.add(edgeclaim.LaneProv, 300)
	b := startWith(t, appConf(a), m.parts())
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.InFlight == 300 && s.Credit > 0 })
	a.do(func() {
		a.say(wire.KindControl, &wire.Refused{Head: a.head(wire.TypeRefused), Code: wire.RefusedFenced})
	})
	status := b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.App == edgeclaim.LampDown })
	if status.InFlight != 0 || status.Credit != 0 {
		t.Errorf("refused, %d of %d are on their way", status.InFlight, status.Credit)
	}
}

// TestAppNeverPubacks: a broker that passes on all and acknowledges nothing is
// given up before what it does not acknowledge fills the memory.
func TestAppNeverPubacks(t *testing.T) {
	a := newApplication(t, nil)
	a.noPuback = true
	m := newMemory()
	b := startWith(t, appConf(a), m.parts())
	b.awaitStatus(t, appUp)
	for n := uint64(1); a.connections() < 2; n++ {
		if n > 2000 {
			t.Fatal("2,000 messages without a PUBACK")
		}
		m.add(edgeclaim.LaneProv, 1)
		a.await(t, fmt.Sprint("record ", n), func() bool { return a.marks[epoch+"prov"] >= n })
	}
}

// TestNextLook: what is over by the last look is no reason to look at once, and
// what has passed since is one.
func TestNextLook(t *testing.T) {
	now := time.Now()
	for name, due := range bridge.NextLook(now, now.Add(-time.Nanosecond)) {
		if due.Before(now.Add(time.Minute)) {
			t.Errorf("%s: over, and looked at every moment", name)
		}
	}
	looked := now.Add(-time.Second)
	for name, due := range bridge.NextLook(looked, looked.Add(time.Nanosecond)) {
		if due.After(now) {
			t.Errorf("%s: over since the last look, and not looked at", name)
		}
	}
}

// TestAppOldCopy: a box that is an old copy of itself begins another life,
// however it is found out, and tells what is pending under it.
func TestAppOldCopy(t *testing.T) {
	for name, prepare := range map[string]func(a *application, h *wire.Hello) bool{
		"refused": func(a *application, h *wire.Hello) bool {
			a.say(wire.KindControl, &wire.Refused{Head: a.head(wire.TypeRefused), Code: wire.RefusedStale})
			return true
		},
		"mark above": func(a *application, h *wire.Hello) bool {
			a.marks[h.Epoch+"prov"] = 51
			return false
		},
		"another record": func(a *application, h *wire.Hello) bool {
			a.welcome = func(w *wire.Welcome) {
				w.Resume[edgeclaim.LaneProv] = wire.Resume{
					Upto: 30, Check: edgeclaim.Check{Sequence: 30, Hash: strings.Repeat("A", 22)},
				}
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApplication(t, newSigner(t))
			a.onHello = func(a *application, h *wire.Hello) bool {
				if h.Epoch == epoch {
					return prepare(a, h)
				}
				a.welcome = nil
				if h.Previous != epoch {
					a.problem("previous_epoch %q, want %q", h.Previous, epoch)
				}
				return false
			}
			m := newMemory()
			m.add(edgeclaim.LaneProv, 50)
			b := startWith(t, appConf(a), m.parts(), a.enrolled())
			b.awaitStatus(t, alarmed(edgeclaim.AlarmStale, 1))
			m.await(t, func() bool { return m.epoch != epoch && m.lanes[edgeclaim.LaneProv].acked == 50 },
				func() string { return fmt.Sprintf("epoch %s, acked %d", m.epoch, m.lanes[edgeclaim.LaneProv].acked) })
			if n := m.count("renew"); n != 1 {
				t.Errorf("renewed %d times, want once", n)
			}
		})
	}
}

// TestAppSameRecord: a check that names the box's own record is no
// contradiction.
func TestAppSameRecord(t *testing.T) {
	a := newApplication(t, nil)
	m := newMemory()
	m.add(edgeclaim.LaneProv, 50)
	record := m.lanes[edgeclaim.LaneProv].records[29]
	text, err := bridge.Encode(identity, epoch, &record)
	if err != nil {
		t.Fatal(err)
	}
	event, _ := wire.DecodeEvent(text)
	own, _ := event.Check()
	a.marks[epoch+"prov"] = 30
	a.welcome = func(w *wire.Welcome) { w.Resume[edgeclaim.LaneProv] = wire.Resume{Upto: 30, Check: own} }
	startWith(t, appConf(a), m.parts())
	m.awaitAcked(t, edgeclaim.LaneProv, 50)
	a.do(func() {
		if len(a.ids) != 20 {
			t.Errorf("%d records told, want 20", len(a.ids))
		}
	})
	if m.count("renew") != 0 {
		t.Error("renewed")
	}
}

// TestAppStaleForEver: an upstream that calls every epoch stale does not make
// the box begin life after life.
func TestAppStaleForEver(t *testing.T) {
	a := newApplication(t, nil)
	a.onHello = func(a *application, _ *wire.Hello) bool {
		a.say(wire.KindControl, &wire.Refused{Head: a.head(wire.TypeRefused), Code: wire.RefusedStale})
		return true
	}
	m := newMemory()
	m.add(edgeclaim.LaneProv, 5)
	conf := appConf(a)
	conf.ProbeLimit = time.Hour
	b := startWith(t, conf, m.parts())
	b.awaitStatus(t, alarmed(edgeclaim.AlarmNotWelcome, 1))
	if n := m.count("renew"); n != 1 {
		t.Errorf("renewed %d times, want once", n)
	}
}

// TestAppOperatorRenews: a session ends by itself when its epoch is none any
// more, and the next one tells the same records.
func TestAppOperatorRenews(t *testing.T) {
	a := newApplication(t, nil)
	m := newMemory()
	m.add(edgeclaim.LaneProv, 10)
	a.onBatch = func(a *application, b *wire.Batch) bool { return b.Epoch == epoch } // no ack
	startWith(t, appConf(a), m.parts())
	a.await(t, "a batch", func() bool { return strings.Contains(strings.Join(a.order, " "), "prov") })
	if _, err := m.Renew(context.Background()); err != nil {
		t.Fatal(err)
	}
	m.await(t, func() bool { return m.epoch != epoch && m.lanes[edgeclaim.LaneProv].acked == 10 }, func() string { return m.epoch })
}

// TestAppAttackers: an enrolled box forgets nothing on the word of anybody but
// its application, raises an alarm for each kind, and goes on meanwhile.
func TestAppAttackers(t *testing.T) {
	a := newApplication(t, newSigner(t))
	thief := newSigner(t)
	m := newMemory()
	m.add(edgeclaim.LaneProv, 10)
	var replay []byte
	a.onBatch = func(a *application, b *wire.Batch) bool { return b.Last > 10 && b.First <= 60 } // of these no ack
	conf := appConf(a)
	conf.AckTimeout = time.Minute
	b := startWith(t, conf, m.parts(), a.enrolled())
	m.awaitAcked(t, edgeclaim.LaneProv, 10)
	m.add(edgeclaim.LaneProv, 50)
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.InFlight == 50 })
	forget := func(edit func(*wire.Ack)) *wire.Ack {
		ack := &wire.Ack{Head: a.head(wire.TypeAck), Upto: map[edgeclaim.Lane]uint64{edgeclaim.LaneProv: 60}}
		edit(ack)
		return ack
	}
	ackTopic := a.names.Down(wire.KindAck)
	garbage := make([]byte, 300)
	for i := range garbage {
		garbage[i] = byte(rand.IntN(256))
	}
	attacks := []struct {
		kind edgeclaim.Alarm // empty: none
		do   func()
	}{
		{edgeclaim.AlarmForged, func() { a.sayAs(thief, wire.KindAck, forget(func(*wire.Ack) {})) }},
		{edgeclaim.AlarmForged, func() { a.sayAs(nil, wire.KindAck, forget(func(*wire.Ack) {})) }},
		{edgeclaim.AlarmForged, func() {
			a.sayAs(thief, wire.KindControl, &wire.Refused{Head: a.head(wire.TypeRefused), Code: wire.RefusedStale})
		}},
		{edgeclaim.AlarmForeign, func() {
			text, _ := wire.Seal(a.key, forget(func(k *wire.Ack) { k.Box = "another" }))
			a.raw(ackTopic, text, false)
		}},
		{edgeclaim.AlarmForeign, func() {
			a.say(wire.KindAck, forget(func(k *wire.Ack) { k.Epoch = "01K0ANOTHERXYZ0123456789AB" }))
		}},
		{"", func() { a.say(wire.KindAck, forget(func(k *wire.Ack) { k.Nonce = strings.Repeat("n", 22) })) }},
		{"", func() { a.raw(ackTopic, replay, true) }},
		{edgeclaim.AlarmAckAbove, func() { a.say(wire.KindAck, forget(func(k *wire.Ack) { k.Upto[edgeclaim.LaneProv] = 61 })) }},
		{edgeclaim.AlarmAckAbove, func() { a.say(wire.KindAck, forget(func(k *wire.Ack) { k.Upto[edgeclaim.LaneProv] = 1<<64 - 1 })) }},
		{edgeclaim.AlarmAckAbove, func() {
			a.say(wire.KindAck, forget(func(k *wire.Ack) {
				k.Upto, k.Nack = nil, []wire.Nack{{Lane: edgeclaim.LaneProv, Sequence: 62, Code: wire.NackPermanent}}
			}))
		}},
		{edgeclaim.AlarmMalformed, func() { a.raw(ackTopic, garbage, false) }},
		{edgeclaim.AlarmMalformed, func() { a.raw(ackTopic, []byte("[]"), false) }},
		{edgeclaim.AlarmMalformed, func() { a.raw(ackTopic, nil, false) }},
		{edgeclaim.AlarmMalformed, func() { a.raw(wire.HostTopic, []byte("{"), false) }},
		{edgeclaim.AlarmOversized, func() { a.raw(ackTopic, make([]byte, wire.MaxMessage+2000), false) }},
	}
	want := map[edgeclaim.Alarm]uint64{}
	a.do(func() {
		old := forget(func(k *wire.Ack) { k.Nonce = a.hellos[0].Nonce[1:] + "x" })
		replay, _ = wire.Seal(a.key, old)
		for range 10_000 / len(attacks) {
			for _, attack := range attacks {
				attack.do()
				if attack.kind != "" {
					want[attack.kind]++
				}
			}
		}
	})
	for kind, n := range want {
		b.awaitStatus(t, alarmed(kind, n))
	}
	if acked := m.acked(edgeclaim.LaneProv); acked != 10 {
		t.Errorf("the outbox was told up to %d, want 10", acked)
	}
	if m.count("renew")+m.count("park") > 0 {
		t.Error("an attacker renewed or parked")
	}
	if n := strings.Count(b.log.String(), "alarm about upstream"); n != len(want) {
		t.Errorf("%d lines about alarms, want one for each of %d kinds", n, len(want))
	}
	a.do(func() {
		a.marks[epoch+"prov"] = 60
		a.ack(edgeclaim.LaneProv)
		a.onBatch = nil
	})
	m.add(edgeclaim.LaneProv, 10)
	m.awaitAcked(t, edgeclaim.LaneProv, 70)
	if a.connections() != 1 {
		t.Errorf("%d connections, want one", a.connections())
	}
}

// TestAppAcksInAnyOrder: late, repeated and reordered acks change nothing that
// a newer one said.
func TestAppAcksInAnyOrder(t *testing.T) {
	a := newApplication(t, nil)
	a.onBatch = func(a *application, b *wire.Batch) bool {
		mark := a.marks[b.Epoch+"prov"]
		a.apply(b)
		for _, upto := range []uint64{mark, 0, a.marks[b.Epoch+"prov"], mark / 2, a.marks[b.Epoch+"prov"]} {
			a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Upto: map[edgeclaim.Lane]uint64{b.Lane: upto}})
		}
		return true
	}
	m := newMemory()
	b := startWith(t, appConf(a), m.parts())
	for i := range 20 {
		m.add(edgeclaim.LaneProv, 100)
		m.awaitAcked(t, edgeclaim.LaneProv, uint64(100*(i+1)))
	}
	a.check(t, edgeclaim.LaneProv, 2000, 0)
	if status := b.Status(); len(status.Alarms) > 0 {
		t.Errorf("alarms %+v", status.Alarms)
	}
}

// TestAppPartialAcks: acks that end within a batch.
func TestAppPartialAcks(t *testing.T) {
	a := newApplication(t, nil)
	a.onBatch = func(a *application, b *wire.Batch) bool {
		a.apply(b)
		for upto := b.First; upto <= b.Last; upto += 3 {
			a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Upto: map[edgeclaim.Lane]uint64{b.Lane: upto}})
		}
		a.ack(b.Lane)
		return true
	}
	m := newMemory()
	m.add(edgeclaim.LaneProv, 1000)
	startWith(t, appConf(a), m.parts())
	m.awaitAcked(t, edgeclaim.LaneProv, 1000)
	a.check(t, edgeclaim.LaneProv, 1000, 0)
}

// TestAppNoWelcome: hello is said again at growing intervals; the word that the
// application came brings the next one at once, however often it is said.
func TestAppNoWelcome(t *testing.T) {
	a := newApplication(t, nil)
	silent := true
	a.onHello = func(*application, *wire.Hello) bool { return silent }
	m := newMemory()
	m.add(edgeclaim.LaneProv, 10)
	conf := appConf(a)
	conf.WelcomeTimeout, conf.ProbeLimit = 50*time.Millisecond, time.Hour
	b := startWith(t, conf, m.parts())
	a.await(t, "three hellos", func() bool { return len(a.hellos) >= 3 })
	status := b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.LastError != "" })
	if status.App != edgeclaim.LampDown || status.Link != edgeclaim.LampUp {
		t.Errorf("status %+v", status)
	}
	a.do(func() {
		for _, h := range a.hellos {
			if h.Nonce != a.hellos[0].Nonce {
				t.Error("the nonce changed between two hellos of one session")
			}
		}
	})
	conf.WelcomeTimeout = time.Hour // a second bridge, which would wait for ever
	b.stop()
	startWith(t, conf, m.parts())
	a.await(t, "a hello", func() bool { return a.hello.Nonce != a.hellos[0].Nonce })
	before := 0
	a.do(func() {
		silent, before = false, len(a.hellos)
		for i := range 1000 {
			a.raw(wire.HostTopic, fmt.Appendf(nil, `{"status":"online","upstream_id":"hub-1","instance":"i%d","time":"2026-11-01T00:00:00Z"}`, i), false)
		}
	})
	m.awaitAcked(t, edgeclaim.LaneProv, 10)
	a.do(func() {
		if n := len(a.hellos) - before; n != 1 {
			t.Errorf("%d hellos after 1000 hints, want one", n)
		}
	})
}

// TestAppAgain: a session that the application has forgotten begins anew, with
// another nonce, on the same connection.
func TestAppAgain(t *testing.T) {
	a := newApplication(t, newSigner(t))
	forgotten := true
	a.onBatch = func(a *application, b *wire.Batch) bool {
		if !forgotten {
			return false
		}
		for range 100 { // one would do
			a.say(wire.KindControl, &wire.Again{Head: a.head(wire.TypeAgain)})
		}
		return true
	}
	nonces := map[string]bool{} // a hello may be said twice when the machine is slow
	a.onHello = func(_ *application, h *wire.Hello) bool {
		nonces[h.Nonce] = true
		forgotten = len(nonces) < 3
		return false
	}
	m := newMemory()
	m.add(edgeclaim.LaneProv, 500)
	startWith(t, appConf(a), m.parts(), a.enrolled())
	m.awaitAcked(t, edgeclaim.LaneProv, 500)
	a.check(t, edgeclaim.LaneProv, 500, 0)
	a.do(func() {
		if len(nonces) != 3 {
			t.Errorf("%d sessions, want three", len(nonces))
		}
	})
	if a.connections() != 1 {
		t.Errorf("%d connections, want one", a.connections())
	}
}

// TestAppAnotherInstance: the word that another instance of the application
// came is heeded however soon after a welcome it comes, once for many.
func TestAppAnotherInstance(t *testing.T) {
	a := newApplication(t, newSigner(t))
	startWith(t, appConf(a), newMemory().parts(), a.enrolled())
	for restart := range 3 {
		hellos := 0
		a.await(t, "a hello", func() bool { hellos = len(a.hellos); return hellos > 0 })
		a.do(func() {
			for range 50 {
				a.raw(wire.HostTopic, fmt.Appendf(nil, `{"status":"online","upstream_id":"hub-1","instance":"%d","time":"2026-11-01T00:00:00Z"}`, restart), false)
			}
		})
		a.await(t, "another hello", func() bool { return len(a.hellos) > hellos })
	}
	a.do(func() {
		if n := len(a.hellos); n > 10 { // four, and some said twice on a slow machine
			t.Errorf("%d hellos", n)
		}
	})
}

// TestAppGoes: the lamp goes out when the application says that it goes, and on
// when it does anything after all: comes back as it was, welcomes, acknowledges.
func TestAppGoes(t *testing.T) {
	a := newApplication(t, nil)
	m := newMemory()
	b := startWith(t, appConf(a), m.parts())
	b.awaitStatus(t, appUp)
	a.await(t, "a hello", func() bool { return a.hello != nil })
	host := func(status string) {
		a.do(func() {
			a.raw(wire.HostTopic, fmt.Appendf(nil, `{"status":%q,"upstream_id":"hub-1","instance":"i","time":"2026-11-01T00:00:00Z"}`, status), false)
		})
	}
	goes := func() {
		t.Helper()
		host(wire.Offline)
		b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool {
			return s.App == edgeclaim.LampDown && strings.Contains(s.LastError, "it goes")
		})
	}
	goes()
	m.add(edgeclaim.LaneProv, 1)
	b.awaitStatus(t, appUp)

	// Another instance: it welcomes the box. The same one once more: its link to
	// the broker was cut, and it knows the box.
	for range 2 {
		goes()
		host(wire.Online)
		b.awaitStatus(t, appUp)
	}

	// It goes while it is asked, and is there all the same.
	silent := true
	a.do(func() {
		a.onHello = func(*application, *wire.Hello) bool { return silent }
		a.say(wire.KindControl, &wire.Again{Head: a.head(wire.TypeAgain)})
	})
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return strings.Contains(s.LastError, "no application answers") })
	host(wire.Offline)
	a.do(func() { silent = false })
	b.awaitStatus(t, appUp)
}

// TestAppPutsOff: the lamp goes out when the application answers and takes
// nothing, as one whose disk is full does.
func TestAppPutsOff(t *testing.T) {
	a := newApplication(t, nil)
	full := true
	a.onBatch = func(a *application, b *wire.Batch) bool {
		if full {
			a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Nack: []wire.Nack{
				{Lane: b.Lane, Sequence: b.First, Code: wire.NackRetry, RetryAfter: 100, Reason: "the disk is full"},
			}})
		}
		return full
	}
	m := newMemory()
	m.add(edgeclaim.LaneProv, 10)
	conf := appConf(a)
	conf.AckTimeout = 500 * time.Millisecond
	b := startWith(t, conf, m.parts())
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool {
		return s.App == edgeclaim.LampDown && strings.Contains(s.LastError, "the disk is full")
	})
	a.do(func() { full = false })
	m.awaitAcked(t, edgeclaim.LaneProv, 10)
	b.awaitStatus(t, appUp)
}

// TestAppStuck: an application that is there and commits nothing is given up
// after the ack timeout, and everything is told again.
func TestAppStuck(t *testing.T) {
	a := newApplication(t, nil)
	a.onBatch = func(*application, *wire.Batch) bool { return a.connections() < 3 }
	m := newMemory()
	m.add(edgeclaim.LaneProv, 300)
	conf := appConf(a)
	conf.AckTimeout = 100 * time.Millisecond
	b := startWith(t, conf, m.parts())
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool {
		return strings.Contains(s.LastError, "application stopped acknowledging")
	})
	m.awaitAcked(t, edgeclaim.LaneProv, 300)
	a.check(t, edgeclaim.LaneProv, 300, 0)
}

// TestAppCut: connections that end at any point lose and double nothing.
func TestAppCut(t *testing.T) {
	a := newApplication(t, nil)
	a.onBatch = func(a *application, b *wire.Batch) bool {
		switch rand.IntN(6) {
		case 0:
			a.peer.Close()
			return true
		case 1: // committed, and the ack is lost
			a.apply(b)
			return true
		case 2:
			a.apply(b)
			a.peer.Close()
			return true
		}
		return false
	}
	m := newMemory()
	conf := appConf(a)
	conf.AckTimeout = 100 * time.Millisecond
	conf.Window = 200
	startWith(t, conf, m.parts())
	for range 30 {
		m.add(edgeclaim.LaneEvt, 50)
		m.add(edgeclaim.LaneProv, 50)
	}
	m.awaitAcked(t, edgeclaim.LaneProv, 1500)
	m.awaitAcked(t, edgeclaim.LaneEvt, 1500)
	a.check(t, edgeclaim.LaneProv, 1500, 0)
	a.check(t, edgeclaim.LaneEvt, 1500, 0)
}

// TestAppRetry: a lane waits as long as it was told, and goes on.
func TestAppRetry(t *testing.T) {
	a := newApplication(t, nil)
	var nacked time.Time
	a.onBatch = func(a *application, b *wire.Batch) bool {
		switch {
		case nacked.IsZero():
			nacked = time.Now()
		case time.Since(nacked) < 290*time.Millisecond && b.First == 1:
			// One that was on its way already may come, the first one not.
			a.problem("told again after %v, want 300 ms", time.Since(nacked))
		case b.First == 1:
			return false
		default:
			return a.marks[epoch+"prov"] == 0
		}
		a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Nack: []wire.Nack{
			{Lane: b.Lane, Sequence: 1, Code: wire.NackRetry, RetryAfter: 300},
		}})
		return true
	}
	m := newMemory()
	m.add(edgeclaim.LaneProv, 1000)
	startWith(t, appConf(a), m.parts())
	m.awaitAcked(t, edgeclaim.LaneProv, 1000)
	a.check(t, edgeclaim.LaneProv, 1000, 0)
}

// TestAppGaps: batches that are lost between broker and application are told
// again from where it says; one that asks for the same for ever gets it ever
// more slowly.
func TestAppGaps(t *testing.T) {
	t.Run("lossy", func(t *testing.T) {
		a := newApplication(t, nil)
		a.onBatch = func(*application, *wire.Batch) bool { return rand.IntN(4) == 0 }
		m := newMemory()
		conf := appConf(a)
		conf.AckTimeout = 200 * time.Millisecond
		startWith(t, conf, m.parts())
		for range 20 {
			m.add(edgeclaim.LaneProv, 100)
		}
		m.awaitAcked(t, edgeclaim.LaneProv, 2000)
		a.check(t, edgeclaim.LaneProv, 2000, 0)
	})
	t.Run("for ever", func(t *testing.T) {
		a := newApplication(t, nil)
		batches := 0
		a.onBatch = func(a *application, b *wire.Batch) bool {
			batches++
			a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Nack: []wire.Nack{{Lane: b.Lane, Sequence: 1, Code: wire.NackGap}}})
			return true
		}
		m := newMemory()
		m.add(edgeclaim.LaneProv, 10)
		startWith(t, appConf(a), m.parts())
		timer := time.NewTimer(time.Second)
		<-timer.C
		a.do(func() {
			if batches < 3 || batches > 6 {
				t.Errorf("%d batches in a second, want about five: at 0, 0, 100, 300 and 700 ms", batches)
			}
		})
	})
}

// TestAppPermanent: what upstream will never take goes into quarantine with
// the later records of its device, and holds nobody else up.
func TestAppPermanent(t *testing.T) {
	a := newApplication(t, newSigner(t))
	m := newMemory()
	bad := newRecord(edgeclaim.LaneProv, 1_000_000)
	for i := range 100 {
		switch i {
		case 40, 60, 61:
			m.append(edgeclaim.LaneProv, bad)
		default:
			m.add(edgeclaim.LaneProv, 1)
		}
	}
	a.onBatch = func(a *application, b *wire.Batch) bool {
		for i, text := range b.Events {
			if !bytes.Contains(text, []byte("board-1000000")) {
				continue
			}
			event, _ := wire.DecodeEvent(text)
			at, _ := event.Number()
			part := *b
			part.Last, part.Events = at-1, b.Events[:i]
			if i > 0 {
				a.apply(&part)
			}
			for range 3 { // said again by what was on its way
				a.say(wire.KindAck, &wire.Ack{
					Head: a.head(wire.TypeAck), Upto: map[edgeclaim.Lane]uint64{b.Lane: a.marks[epoch+"prov"]},
					Nack: []wire.Nack{{Lane: b.Lane, Sequence: at, Code: wire.NackPermanent, Reason: "tenant_id: not served"}},
				})
			}
			return true
		}
		return false
	}
	b := startWith(t, appConf(a), m.parts(), a.enrolled())
	m.awaitAcked(t, edgeclaim.LaneProv, 100)
	a.check(t, edgeclaim.LaneProv, 100, 3)
	want := []string{"prov 41 tenant_id: not served", "prov 61", "prov 62"}
	m.await(t, func() bool { return fmt.Sprint(m.parked) == fmt.Sprint(want) }, func() string { return fmt.Sprint(m.parked) })
	b.awaitStatus(t, alarmed(edgeclaim.AlarmQuarantine, 1))
}

// TestAppTooLarge: a record that no message can carry is parked, and the rest
// goes on.
func TestAppTooLarge(t *testing.T) {
	a := newApplication(t, nil)
	m := newMemory()
	m.add(edgeclaim.LaneEvt, 10)
	huge := newRecord(edgeclaim.LaneEvt, 11)
	huge.Type, huge.Data = "a.later.type", []byte(`{"x":"`+strings.Repeat("x", wire.MaxMessage)+`"}`)
	m.append(edgeclaim.LaneEvt, huge)
	m.add(edgeclaim.LaneEvt, 10)
	startWith(t, appConf(a), m.parts())
	m.awaitAcked(t, edgeclaim.LaneEvt, 21)
	a.check(t, edgeclaim.LaneEvt, 21, 1)
}

// TestAppCredit: no more is on its way than upstream allows, and with none
// nothing is, until it says so.
func TestAppCredit(t *testing.T) {
	a := newApplication(t, nil)
	a.credit = 0
	out := 0
	a.onBatch = func(a *application, b *wire.Batch) bool {
		if out += len(b.Events); out > 10 {
			a.problem("%d records on their way, want 10 at most", out)
		}
		a.apply(b)
		if a.marks[epoch+"prov"]%10 == 0 || b.Last == 95 {
			out = 0
			a.ack(b.Lane)
		}
		return true
	}
	m := newMemory()
	m.add(edgeclaim.LaneProv, 95)
	b := startWith(t, appConf(a), m.parts())
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return appUp(s) && strings.Contains(s.LastError, "no credit") })
	a.do(func() {
		if len(a.batches) > 0 {
			t.Error("told without credit")
		}
		ten := 10
		a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Credit: &ten})
	})
	m.awaitAcked(t, edgeclaim.LaneProv, 95)
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return appUp(s) && s.Credit == 10 && s.LastError == "" })
}

// TestAppSpread: after an outage everything but prov waits, prov never does.
func TestAppSpread(t *testing.T) {
	for name, edit := range map[string]func(*application, *bridge.Config){
		"the box's own": func(_ *application, c *bridge.Config) { c.StartSpread = 365 * 24 * time.Hour },
		"upstream's":    func(a *application, _ *bridge.Config) { a.welcome = func(w *wire.Welcome) { w.StartAfter = 1 << 60 } },
	} {
		t.Run(name, func(t *testing.T) {
			a := newApplication(t, nil)
			conf := appConf(a)
			edit(a, &conf)
			m := newMemory()
			m.add(edgeclaim.LaneEvt, 50)
			startWith(t, conf, m.parts())
			for i := range 20 {
				m.add(edgeclaim.LaneProv, 10)
				m.awaitAcked(t, edgeclaim.LaneProv, uint64(10*(i+1)))
			}
			if acked := m.acked(edgeclaim.LaneEvt); acked != 0 {
				t.Errorf("evt told up to %d", acked)
			}
		})
	}
	t.Run("it ends", func(t *testing.T) {
		a := newApplication(t, nil)
		a.welcome = func(w *wire.Welcome) { w.StartAfter = 150 }
		m := newMemory()
		m.add(edgeclaim.LaneEvt, 50)
		began := time.Now()
		startWith(t, appConf(a), m.parts())
		m.awaitAcked(t, edgeclaim.LaneEvt, 50)
		if took := time.Since(began); took < 150*time.Millisecond {
			t.Errorf("told after %v", took)
		}
	})
}

// TestAppBehind: an application that has lost what it acknowledged is told from
// what there is, with what is gone declared, and an alarm.
func TestAppBehind(t *testing.T) {
	a := newApplication(t, newSigner(t))
	m := newMemory()
	m.devices = someDevices(t, 10)
	m.add(edgeclaim.LaneProv, 100)
	b := startWith(t, appConf(a), m.parts(), a.enrolled())
	m.awaitAcked(t, edgeclaim.LaneProv, 100)
	a.do(func() { // restored from an old backup
		a.marks[epoch+"prov"] = 40
		a.ids = a.ids[:40]
		a.welcome = func(w *wire.Welcome) { w.Snapshot = len(a.pages) == 0 }
		a.peer.Close()
	})
	m.add(edgeclaim.LaneProv, 1)
	m.awaitAcked(t, edgeclaim.LaneProv, 101)
	b.awaitStatus(t, alarmed(edgeclaim.AlarmUpstreamBehind, 1))
	a.check(t, edgeclaim.LaneProv, 101, 60)
	a.await(t, "a snapshot", func() bool { return len(a.pages) == 1 })
}

// TestAppSnapshotGoesOn: a snapshot that connections cut goes on where it was,
// and tells each device once at least, also those that come meanwhile.
func TestAppSnapshotGoesOn(t *testing.T) {
	a := newApplication(t, nil)
	done, upto, cuts := false, uint64(0), 0
	got := map[string]bool{}
	ids := map[string]bool{}
	a.welcome = func(w *wire.Welcome) { w.Snapshot = !done }
	a.onPage = func(a *application, p *wire.SnapshotPage) bool {
		ids[p.ID] = true
		if p.Page == upto+1 {
			upto, done = p.Page, p.Last
			for _, d := range p.Devices {
				got[d.ID.String()] = true
			}
		}
		if cuts < 20 && rand.IntN(3) == 0 {
			cuts++
			a.peer.Close() // committed, and the ack is lost
			return true
		}
		a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Snapshot: &wire.SnapshotAck{ID: p.ID, Upto: upto}})
		return true
	}
	devices := someDevices(t, 2000)
	m := newMemory()
	for i, d := range devices {
		if i%10 != 0 {
			m.devices = append(m.devices, d)
		}
	}
	startWith(t, appConf(a), m.parts())
	a.await(t, "the second page", func() bool { return upto >= 2 })
	for i, d := range devices { // claimed while the snapshot runs
		if i%10 == 0 {
			if _, err := m.Adopt(t.Context(), []edgeclaim.Device{d}); err != nil {
				t.Fatal(err)
			}
		}
	}
	a.await(t, "the last page", func() bool { return done })
	a.do(func() {
		if len(ids) != 1 {
			t.Errorf("%d snapshots were begun, want one", len(ids))
		}
		for i, d := range devices {
			if i%10 != 0 && !got[d.ID.String()] {
				t.Fatalf("device %d was not told", i)
			}
		}
	})
}

// TestAppSnapshotOutgrown: a page that has outgrown its message when it is told
// again makes the box begin anew, at once.
func TestAppSnapshotOutgrown(t *testing.T) {
	a := newApplication(t, nil)
	all := someDevices(t, 2000)
	m := newMemory()
	for i := 0; i < len(all); i += 20 {
		m.devices = append(m.devices, all[i])
	}
	first := ""
	a.welcome = func(w *wire.Welcome) { w.Snapshot = true }
	a.onPage = func(a *application, p *wire.SnapshotPage) bool {
		if first != "" {
			return p.ID == first
		}
		first = p.ID
		if _, err := m.Adopt(context.Background(), all); err != nil {
			a.problem("adopt: %v", err)
		}
		a.peer.Close()
		return true
	}
	startWith(t, appConf(a), m.parts())
	a.await(t, "another snapshot, whole", func() bool {
		for _, devices := range a.pages {
			return len(devices) == len(all)
		}
		return false
	})
}

// TestAppSnapshotAnew: an application that has lost the pages it acknowledged,
// or never acknowledges any, is told another snapshot.
func TestAppSnapshotAnew(t *testing.T) {
	for name, answer := range map[string]func(a *application, p *wire.SnapshotPage){
		"lost": func(a *application, p *wire.SnapshotPage) {
			upto := uint64(2)
			if p.Page > 2 {
				upto = 0
			}
			a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Snapshot: &wire.SnapshotAck{ID: p.ID, Upto: min(upto, p.Page)}})
		},
		"silent": func(*application, *wire.SnapshotPage) {},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApplication(t, nil)
			first := ""
			a.welcome = func(w *wire.Welcome) { w.Snapshot = true }
			a.onPage = func(a *application, p *wire.SnapshotPage) bool {
				if first == "" {
					first = p.ID
				}
				if p.ID == first {
					answer(a, p)
				}
				return p.ID == first
			}
			m := newMemory()
			m.devices = someDevices(t, 600)
			conf := appConf(a)
			conf.AckTimeout = time.Second // a busy machine has to get a page acknowledged in it
			startWith(t, conf, m.parts())
			a.await(t, "another snapshot, whole", func() bool {
				for _, devices := range a.pages {
					return len(devices) == 600
				}
				return false
			})
		})
	}
}

// TestAppRecovers: an enrolled box asks for the devices that it has lost; one
// that is not says what enrolment would give.
func TestAppRecovers(t *testing.T) {
	lost := someDevices(t, 500)
	begin := func(t *testing.T, options ...func(*bridge.Bridge)) (*application, *memory, *running) {
		a := newApplication(t, newSigner(t))
		a.welcome = func(w *wire.Welcome) { w.Recover, w.Held = true, 500 }
		a.onWant = func(a *application, w *wire.Want) {
			a.came("want " + fmt.Sprint(w.Done))
			if w.Done {
				a.welcome = nil
				return
			}
			from := 0
			for from < len(lost) && lost[from].ID.String() <= w.After {
				from++
			}
			to := min(from+90, len(lost))
			page := &wire.RegistryPage{Head: a.head(wire.TypeRegistry), After: w.After, Devices: lost[from:to], More: to < len(lost)}
			a.say(wire.KindControl, page)
			a.say(wire.KindControl, page) // twice
		}
		m := newMemory()
		m.devices = append(m.devices, lost[3], lost[77])
		m.add(edgeclaim.LaneProv, 100)
		for i, option := range options {
			if option == nil {
				options[i] = a.enrolled()
			}
		}
		return a, m, startWith(t, appConf(a), m.parts(), options...)
	}
	t.Run("enrolled", func(t *testing.T) {
		a, m, _ := begin(t, nil)
		m.await(t, func() bool { return len(m.devices) == 500 }, func() string { return fmt.Sprint(len(m.devices)) })
		a.await(t, "done", func() bool { return strings.Contains(strings.Join(a.order, ","), "want true") })
		m.awaitAcked(t, edgeclaim.LaneProv, 100)
	})
	t.Run("not enrolled", func(t *testing.T) {
		a, m, b := begin(t)
		m.awaitAcked(t, edgeclaim.LaneProv, 100)
		eventually(t, func() bool { return strings.Contains(b.log.String(), "enrolled, it would take them back") }, b.log.String)
		a.do(func() {
			if len(m.devices) != 2 || strings.Contains(strings.Join(a.order, ","), "want") {
				t.Errorf("%d devices, order %v", len(m.devices), a.order)
			}
		})
	})
}

// TestAppOutboxFails: an outbox that cannot be read ends the connection, not
// the bridge.
func TestAppOutboxFails(t *testing.T) {
	a := newApplication(t, nil)
	m := newMemory()
	m.add(edgeclaim.LaneProv, 100)
	failing := 3
	m.fail = func(call string, _ edgeclaim.Lane) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if call == "next" && failing > 0 {
			failing--
			return edgeclaim.ErrUnavailable
		}
		return nil
	}
	startWith(t, appConf(a), m.parts())
	m.awaitAcked(t, edgeclaim.LaneProv, 100)
	a.check(t, edgeclaim.LaneProv, 100, 0)
}

// TestAppStop: a stop lets arrive what is on its way, says offline, and is
// bounded where nothing arrives.
func TestAppStop(t *testing.T) {
	t.Run("arrives", func(t *testing.T) {
		a := newApplication(t, nil)
		a.onBatch = func(a *application, b *wire.Batch) bool {
			a.apply(b)
			time.AfterFunc(100*time.Millisecond, func() { a.do(func() { a.ack(b.Lane) }) })
			return true
		}
		m := newMemory()
		m.add(edgeclaim.LaneProv, 30)
		conf := appConf(a)
		conf.StopTimeout = patience
		b := startWith(t, conf, m.parts())
		b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.InFlight == 30 })
		b.stop()
		if acked := m.acked(edgeclaim.LaneProv); acked != 30 {
			t.Errorf("told up to %d, want 30", acked)
		}
		// The stop ends with that word's PUBACK, which the rig says before it looks.
		a.await(t, "the last word is that the box goes", func() bool { return a.order[len(a.order)-1] == "st" })
	})
	t.Run("bounded", func(t *testing.T) {
		a := newApplication(t, nil)
		a.onBatch = func(*application, *wire.Batch) bool { return true }
		m := newMemory()
		m.add(edgeclaim.LaneProv, 30)
		conf := appConf(a)
		conf.StopTimeout = 100 * time.Millisecond
		b := startWith(t, conf, m.parts())
		b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.InFlight == 30 })
		began := time.Now()
		b.stop()
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the stop took %v", took)
		}
	})
}
