package bridge_test

import (
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"edgeclaim"
	"edgeclaim/bridge"
)

// refuse answers CONNECT with a code.
func refuse(code byte) func(*peer) { return func(p *peer) { p.connack(code) } }

// say answers the first record with raw bytes, and reads on. The place of the
// record's packet id is marked by "id".
func say(raw string) func(*peer) {
	return func(p *peer) {
		if p.online() != nil {
			return
		}
		p.publishes(func(m *packets.PublishPacket) bool {
			id := string([]byte{byte(m.MessageID >> 8), byte(m.MessageID)})
			_, err := p.Write([]byte(strings.ReplaceAll(raw, "id", id)))
			return err == nil
		})
	}
}

// TestUpstreamsAtFault: whatever is at the other end, the bridge says what is
// wrong, tells the outbox nothing, tries again with a pause, and stops at once.
func TestUpstreamsAtFault(t *testing.T) {
	const pause = 100 * time.Millisecond
	for _, tc := range []struct {
		name   string
		script func(*peer) // nil: nothing listens
		want   string
	}{
		{"absent", nil, "nothing listens there"},
		{"closes at once", func(*peer) {}, "closed the connection"},
		{"closes after CONNECT", func(p *peer) { p.read() }, "closed the connection"},
		{"refuses with 1", refuse(1), "does not speak MQTT 3.1.1 (code 1)"},
		{"refuses with 2", refuse(2), "does not take the client id (code 2)"},
		{"refuses with 3", refuse(3), "is not available (code 3)"},
		{"refuses with 4", refuse(4), "wrong user name or password (code 4)"},
		{"refuses with 5", refuse(5), "not authorised (code 5)"},
		{"refuses with 6", refuse(6), "unknown code 6"},
		{"refuses with 255", refuse(255), "unknown code 255"},
		{"hangs before CONNACK", (*peer).hang, "no answer to CONNECT"},
		{"half a CONNACK", func(p *peer) { _, _ = p.Write([]byte{0x20}); p.hang() }, "no answer to CONNECT"},
		{"answers as a web server", func(p *peer) { _, _ = p.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, "not a CONNACK"},
		{"endless length", func(p *peer) { _, _ = p.Write([]byte("\x20\xff\xff\xff\xff\xff")); p.hang() }, "does not speak MQTT"},
		{"256 MiB to come", func(p *peer) { _, _ = p.Write([]byte("\x20\xff\xff\xff\x7f")); p.hang() }, "may not come"},
		{"kicks after CONNACK", refuse(packets.Accepted), "closed the connection"},
		{"never acknowledges", func(p *peer) {
			p.connack(packets.Accepted)
			p.publishes(func(*packets.PublishPacket) bool { return true })
		}, "stopped acknowledging"},
		{"acknowledges the state only", say(""), "stopped acknowledging"},
		{"reads nothing after the state", func(p *peer) { _ = p.online(); p.hang() }, "stopped acknowledging"},
		{"acknowledges what was not sent", say("\x40\x02\x77\x77"), "stopped acknowledging"},
		{"completes with PUBCOMP", say("\x70\x02id"), "packet of type 7"},
		{"completes with SUBACK", say("\x90\x03id\x00"), "packet of type 9"},
		{"completes with UNSUBACK", say("\xb0\x02id"), "packet of type 11"},
		{"sends a message", say("\x30\x04\x00\x01ax"), "packet of type 3"},
		{"says CONNACK twice", say("\x20\x02\x00\x00"), "second CONNACK"},
		{"garbage after the state", say("\x40\xff\xff\xff\xff\x7f"), "does not speak MQTT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			address := "127.0.0.1:1" // nobody's
			connections := func() int { return 0 }
			if tc.script != nil {
				u := listen(t, "", tc.script)
				address, connections = u.listener.Addr().String(), u.connections
			}
			conf := quick("mqtt://" + address)
			conf.BackoffBase, conf.BackoffLimit = pause, 2*pause
			conf.ConnectTimeout, conf.AckTimeout = 300*time.Millisecond, 300*time.Millisecond
			outbox := newMemory()
			outbox.add(edgeclaim.LaneProv, 10)
			began := time.Now()
			b := start(t, conf, outbox)
			status := b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.LastError != "" })
			if !strings.Contains(status.LastError, tc.want) {
				t.Errorf("last error %q, want %q in it", status.LastError, tc.want)
			}
			b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.NextTrySeconds > 0 || connections() > 2 })
			b.stop()
			if most := int(time.Since(began)/pause) + 1; connections() > most {
				t.Errorf("%d connections in %v, want at most %d", connections(), time.Since(began), most)
			}
			if got := outbox.count("ack"); got != 0 {
				t.Errorf("the outbox was told %d times of records that never arrived", got)
			}
		})
	}
}

// TestStopsAtOnce: a stop waits neither for a CONNACK nor for a backoff.
func TestStopsAtOnce(t *testing.T) {
	conf := quick(listen(t, "", (*peer).hang).url())
	conf.ConnectTimeout = time.Hour
	b := start(t, conf, newMemory())
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.Link == edgeclaim.LampUp })
	b.stop() // fails by itself when it takes too long

	conf = quick("mqtt://127.0.0.1:1")
	conf.BackoffBase, conf.BackoffLimit = time.Hour, time.Hour
	b = start(t, conf, newMemory())
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.NextTrySeconds > 3000 })
	b.stop()
}

// TestPeerThatStopsReading is found by the deadline on writes, long before the
// acknowledgements' time is up.
func TestPeerThatStopsReading(t *testing.T) {
	u := listen(t, "", func(p *peer) {
		if tcp, ok := p.Conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(4 << 10)
		}
		_ = p.online()
		p.hang()
	})
	conf := quick(u.url())
	conf.WriteTimeout = 200 * time.Millisecond
	conf.AckTimeout = time.Hour
	conf.Window = bridge.MaxWindow // enough bytes to fill both ends' buffers
	outbox := newMemory()
	outbox.add(edgeclaim.LaneProv, bridge.MaxWindow)
	b := start(t, conf, outbox)
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool {
		return s.Broker == edgeclaim.LampDown && strings.Contains(s.LastError, "no answer in time")
	})
}

// TestTokensOfPahoLie pins why no client of ours connects again by itself: its
// token completes without an error although no PUBACK ever came. Should this
// fail one day, the library has been cured.
func TestTokensOfPahoLie(t *testing.T) {
	silent := func(p *peer) {
		p.connack(packets.Accepted)
		p.publishes(func(*packets.PublishPacket) bool { return p.number > 1 }) // the first PUBLISH ends the first connection
	}
	u := listen(t, "", silent)
	options := mqtt.NewClientOptions().AddBroker("tcp://" + u.listener.Addr().String()).SetClientID("liar")
	client := mqtt.NewClient(options.SetProtocolVersion(4).SetMaxReconnectInterval(time.Second))
	if token := client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("CONNECT: %v", token.Error())
	}
	defer client.Disconnect(100)
	token := client.Publish("t", 1, false, "x")
	if !token.WaitTimeout(patience) || token.Error() != nil {
		t.Errorf("token: done %v, error %v; want the lie", token.WaitTimeout(0), token.Error())
	}
}

// TestLostPubacks: what was sent and not acknowledged is sent again, in the
// same bytes, and from the first gap on.
func TestLostPubacks(t *testing.T) {
	const n = 50
	var got told
	all := got.broker()
	u := listen(t, "", func(p *peer) {
		if p.number > 3 {
			all(p)
			return
		}
		if p.online() != nil {
			return
		}
		taken := 0
		p.publishes(func(m *packets.PublishPacket) bool {
			got.take(m.TopicName, m.Payload)
			taken++
			if taken%10 != 0 { // the gap: the tenth and all tens after it
				p.puback(m.MessageID)
			}
			return taken < 20
		})
	})
	outbox := newMemory()
	outbox.add(edgeclaim.LaneProv, n)
	start(t, quick(u.url()), outbox)
	outbox.awaitAcked(t, edgeclaim.LaneProv, n)
	got.check(t, edgeclaim.LaneProv, n)
	ids, _ := got.snapshot()
	start := 1
	for connection := range 3 {
		sent := ids[connection*20:][:20]
		// Nine arrived in a row; how many PUBACKs were read before the cut is
		// the network's affair.
		before := start
		for sent[0] != eventID(edgeclaim.LaneProv, start) && start < before+9 {
			start++
		}
		for i, id := range sent {
			if want := eventID(edgeclaim.LaneProv, start+i); id != want {
				t.Fatalf("connection %d, message %d: %s, want %s", connection+1, i+1, id, want)
			}
		}
	}
}

// TestNothingBeyondAGap: PUBACKs for all but the first record acknowledge
// nothing, and the missing one does not stall the lane for ever.
func TestNothingBeyondAGap(t *testing.T) {
	var got told
	all := got.broker()
	gap := make(chan struct{})
	u := listen(t, "", func(p *peer) {
		if p.number > 1 {
			<-gap
			all(p)
			return
		}
		if p.online() != nil {
			return
		}
		first := true
		p.publishes(func(m *packets.PublishPacket) bool {
			if !first {
				p.puback(m.MessageID)
			}
			first = false
			return true
		})
	})
	conf := quick(u.url())
	conf.AckTimeout = 300 * time.Millisecond
	outbox := newMemory()
	outbox.add(edgeclaim.LaneProv, 40)
	b := start(t, conf, outbox)
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return strings.Contains(s.LastError, "stopped acknowledging") })
	if acked := outbox.acked(edgeclaim.LaneProv); acked != 0 {
		t.Errorf("told up to %d although the first never arrived", acked)
	}
	close(gap)
	outbox.awaitAcked(t, edgeclaim.LaneProv, 40)
	got.check(t, edgeclaim.LaneProv, 40)
}

// TestWindow: the window fills, and no record more is sent until a PUBACK.
func TestWindow(t *testing.T) {
	const window, n = 7, 10 * 7
	var got told
	beyond := make(chan bool, n)
	u := listen(t, "", func(p *peer) {
		if p.online() != nil {
			return
		}
		var out []uint16
		p.publishes(func(m *packets.PublishPacket) bool {
			got.take(m.TopicName, m.Payload)
			if out = append(out, m.MessageID); len(out) < window {
				return true
			}
			_ = p.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, err := p.reader.Peek(1)
			_ = p.SetReadDeadline(time.Time{})
			beyond <- err == nil
			for _, id := range out {
				p.puback(id)
			}
			out = nil
			return true
		})
	})
	conf := quick(u.url())
	conf.Window, conf.StopTimeout = window, 50*time.Millisecond
	outbox := newMemory()
	outbox.add(edgeclaim.LaneProv, n)
	b := start(t, conf, outbox)
	outbox.awaitAcked(t, edgeclaim.LaneProv, n)
	b.stop()
	for i := range n / window {
		if <-beyond {
			t.Errorf("window %d: more than %d records on their way", i+1, window)
		}
	}
	got.check(t, edgeclaim.LaneProv, n)
}

// TestProvGoesFirst: records of the prov lane that come while the evt lane
// drains overtake all of it that is not on its way yet.
func TestProvGoesFirst(t *testing.T) {
	var got told
	step := make(chan struct{})
	u := listen(t, "", func(p *peer) {
		if p.online() != nil {
			return
		}
		p.publishes(func(m *packets.PublishPacket) bool {
			got.take(m.TopicName, m.Payload)
			select {
			case <-step:
			case <-p.done:
				return false
			}
			p.puback(m.MessageID)
			return true
		})
	})
	conf := quick(u.url())
	conf.Window = 1
	outbox := newMemory()
	outbox.add(edgeclaim.LaneEvt, 20)
	start(t, conf, outbox)
	step <- struct{}{} // evt 1 arrived
	step <- struct{}{} // evt 2 arrived
	outbox.add(edgeclaim.LaneProv, 3)
	close(step)
	outbox.awaitAcked(t, edgeclaim.LaneEvt, 20)
	ids, _ := got.snapshot()
	for i, id := range ids {
		if strings.Contains(id, "-prov-") {
			// Evt 3 may have had its place before the prov records came.
			if i > 3 {
				t.Errorf("the first prov record was message %d: %v", i+1, ids)
			}
			break
		}
	}
	got.check(t, edgeclaim.LaneProv, 3)
	got.check(t, edgeclaim.LaneEvt, 20)
}

// TestStopLetsArrive: a stop waits for the PUBACKs of what is on its way, tells
// the outbox, says offline, and leaves with a DISCONNECT.
func TestStopLetsArrive(t *testing.T) {
	const n = 30
	var ids []uint16
	all, stopping := make(chan struct{}), make(chan struct{})
	last := make(chan []byte, 1)
	disconnected := make(chan bool, 1)
	u := listen(t, "", func(p *peer) {
		if p.online() != nil {
			return
		}
		for len(ids) < n {
			m, ok := p.read().(*packets.PublishPacket)
			if !ok {
				return
			}
			ids = append(ids, m.MessageID)
		}
		close(all)
		<-stopping
		for _, id := range ids {
			p.puback(id)
		}
		if m, ok := p.read().(*packets.PublishPacket); ok {
			p.puback(m.MessageID)
			last <- m.Payload
		}
		_, ok := p.read().(*packets.DisconnectPacket)
		disconnected <- ok
	})
	conf := quick(u.url())
	conf.StopTimeout = patience
	outbox := newMemory()
	outbox.add(edgeclaim.LaneProv, n)
	b := start(t, conf, outbox)
	<-all
	time.AfterFunc(50*time.Millisecond, func() { close(stopping) })
	b.stop()
	if acked := outbox.acked(edgeclaim.LaneProv); acked != n {
		t.Errorf("the outbox was told up to %d, want %d", acked, n)
	}
	var state struct{ Status string }
	if err := json.Unmarshal(<-last, &state); err != nil || state.Status != "offline" {
		t.Errorf("last state %q, %v, want offline", state.Status, err)
	}
	if !<-disconnected {
		t.Error("no DISCONNECT")
	}
}

// TestStopIsBounded: an upstream that has gone silent holds a stop up for the
// stop timeout only.
func TestStopIsBounded(t *testing.T) {
	u := listen(t, "", func(p *peer) { _ = p.online(); p.hang() })
	conf := quick(u.url())
	conf.StopTimeout = 100 * time.Millisecond
	outbox := newMemory()
	outbox.add(edgeclaim.LaneProv, 5)
	b := start(t, conf, outbox)
	b.awaitStatus(t, up)
	began := time.Now()
	b.stop()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the stop took %v, want some %v", took, conf.StopTimeout)
	}
}

// TestShortConnectionsAreNotStable: CONNACK and a PUBACK alone do not make the
// next wait a short one; a connection that lasted does.
func TestShortConnectionsAreNotStable(t *testing.T) {
	const base, kicks = 2 * time.Millisecond, 25
	longest := func(stable time.Duration) time.Duration {
		u := listen(t, "", func(p *peer) { _ = p.online() }) // kicks after the first PUBACK
		conf := quick(u.url())
		conf.BackoffBase, conf.BackoffLimit, conf.StableAfter = base, 200*time.Millisecond, stable
		b := start(t, conf, newMemory())
		eventually(t, func() bool { return u.connections() > kicks }, func() string { return "too few connections" })
		b.stop()
		var most time.Duration
		for line := range strings.Lines(b.log.String()) {
			var entry struct {
				RetryIn time.Duration `json:"retry_in"`
			}
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Fatal(err)
			}
			most = max(most, entry.RetryIn)
		}
		return most
	}
	if most := longest(time.Nanosecond); most > 3*base {
		t.Errorf("after stable connections the longest wait was %v, want at most %v", most, 3*base)
	}
	if most := longest(time.Hour); most <= 3*base {
		t.Errorf("after unstable connections the longest wait was %v, want more than %v", most, 3*base)
	}
}
