package broker_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// confirm acknowledges a message of QoS 1.
func confirm(t testing.TB, c *mqttwire.Client, ids ...uint16) {
	t.Helper()
	var out []byte
	for _, id := range ids {
		out = mqttwire.AppendPuback(out, c.Version(), id, 0)
	}
	if err := c.Send(out); err != nil {
		t.Fatal(err)
	}
}

// number is a payload, and numberOf what it says.
func number(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

func numberOf(t testing.TB, p *mqttwire.Packet) int {
	t.Helper()
	if len(p.Payload) < 4 {
		t.Fatalf("payload %q", p.Payload)
	}
	return int(binary.BigEndian.Uint32(p.Payload))
}

// What a device says is heard by those who listen, as it said it, with the lower
// of the two QoS, and not retained.
func TestUserHears(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, v mqttwire.Version) {
		l := startLine(t, nil)
		one := "devices/" + deviceID(t, 1).String()
		all := l.user(t, v, "reader", "devices/+/telemetry", "devices/+/events")
		narrow := l.user(t, v, "narrow")
		if err := narrow.Send(mqttwire.AppendSubscribe(nil, v, 1, 0, one+"/events")); err != nil {
			t.Fatal(err)
		}
		next(t, narrow, mqttwire.Suback)
		d := device(t, l.Broker, v, deviceID(t, 1))
		for n, m := range []mqttwire.Message{
			{Topic: one + "/telemetry", Payload: []byte(`{"t":1}`), QoS: 1},
			{Topic: one + "/telemetry", Payload: []byte{0, 0xff}},
			{Topic: one + "/events", Payload: nil, QoS: 1},
			{Topic: one + "/events", Payload: bytes.Repeat([]byte("x"), 60<<10), QoS: 1},
		} {
			publish(t, d, m)
			if m.QoS > 0 {
				next(t, d, mqttwire.Puback)
			}
			got := next(t, all, mqttwire.Publish)
			if got.Topic != m.Topic || !bytes.Equal(got.Payload, m.Payload) || got.QoS != m.QoS || got.Retain || got.Dup {
				t.Errorf("message %d came as %s %.20q QoS %d retain %v dup %v", n, got.Topic, got.Payload, got.QoS, got.Retain, got.Dup)
			}
			if got.QoS > 0 {
				confirm(t, all, got.ID)
			}
			if strings.HasSuffix(m.Topic, "events") {
				if got := next(t, narrow, mqttwire.Publish); !bytes.Equal(got.Payload, m.Payload) || got.QoS != 0 {
					t.Errorf("narrow: message %d came as %.20q QoS %d", n, got.Payload, got.QoS)
				}
			}
		}
		other := device(t, l.Broker, v, deviceID(t, 2))
		publish(t, other, mqttwire.Message{Topic: "devices/" + deviceID(t, 2).String() + "/events", Payload: []byte("y"), QoS: 1})
		next(t, other, mqttwire.Puback)
		confirm(t, all, next(t, all, mqttwire.Publish).ID)
		quiet(t, narrow)
		quiet(t, d)
		if got := l.Consumers(); got.Delivered != 7 || got.Dropped != 0 || got.Connected != 2 {
			t.Errorf("%+v", got)
		}
	})
}

// Filters that overlap have a message come once, with the highest QoS; groups
// are another matter each.
func TestUserOverlaps(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, v mqttwire.Version) {
		l := startLine(t, nil)
		one := "devices/" + deviceID(t, 1).String()
		c := l.user(t, v, "boss")
		for n, s := range []struct {
			filter string
			qos    byte
		}{
			{"devices/#", 0},
			{one + "/telemetry", 1},
			{"devices/+/telemetry", 0},
			{"$share/a/devices/+/telemetry", 0},
			{"$share/b/devices/+/telemetry", 0},
		} {
			if err := c.Send(mqttwire.AppendSubscribe(nil, v, uint16(n+1), s.qos, s.filter)); err != nil {
				t.Fatal(err)
			}
			if got := next(t, c, mqttwire.Suback); got.Code() != s.qos {
				t.Errorf("%s: granted %#x", s.filter, got.Code())
			}
		}
		counts := func(name string) (plain, atOne int) {
			l.Deliver(name, []byte("x"), 1)
			l.Deliver("devices/end/events", []byte("end"), 0)
			for {
				p := next(t, c, mqttwire.Publish)
				if string(p.Payload) == "end" {
					return plain, atOne
				}
				plain++
				if p.QoS == 1 {
					atOne++
					confirm(t, c, p.ID)
				}
			}
		}
		if n, atOne := counts(one + "/telemetry"); n != 3 || atOne != 1 {
			t.Errorf("%d came, %d of them at QoS 1, want 3 and 1", n, atOne)
		}
		if n, atOne := counts(one + "/events"); n != 1 || atOne != 0 {
			t.Errorf("%d came, %d of them at QoS 1, want 1 and 0", n, atOne)
		}
		// Asked for again, a filter has the newer QoS.
		if err := c.Send(mqttwire.AppendSubscribe(nil, v, 9, 0, one+"/telemetry")); err != nil {
			t.Fatal(err)
		}
		next(t, c, mqttwire.Suback)
		if n, atOne := counts(one + "/telemetry"); n != 3 || atOne != 0 {
			t.Errorf("%d came, %d of them at QoS 1, want 3 and 0", n, atOne)
		}
	})
}

// No more are on their way than the client says, or the box allows; each PUBACK
// lets one more go; in order; a PUBACK that nobody waits for changes nothing.
func TestUserReceiveMaximum(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		v      mqttwire.Version
		says   uint16
		window int
	}{
		{mqttwire.V5, 3, 3}, {mqttwire.V5, 0, broker.ConsumerInflight}, {mqttwire.V5, 60_000, broker.ConsumerInflight},
		{mqttwire.V311, 0, broker.ConsumerInflight},
	} {
		l := startLine(t, nil)
		login := userLogin("reader", userPassword)
		login.Properties.ReceiveMaximum = tt.says
		c, _ := dial(t, l.Broker, tt.v, login)
		subscribe(t, c, 1, "devices/+/telemetry")
		const more = 40
		for n := range tt.window + more {
			l.Deliver("devices/x/telemetry", number(n), 1)
		}
		ids := map[uint16]bool{}
		take := func(n int) uint16 {
			p := next(t, c, mqttwire.Publish)
			if got := numberOf(t, &p); got != n {
				t.Fatalf("window %d: message %d came, want %d", tt.window, got, n)
			}
			if ids[p.ID] || p.ID == 0 {
				t.Fatalf("window %d: packet id %d is on its way already", tt.window, p.ID)
			}
			ids[p.ID] = true
			return p.ID
		}
		var onWay []uint16
		for n := range tt.window {
			onWay = append(onWay, take(n))
		}
		confirm(t, c, 65_000)
		quiet(t, c)
		for n := range more {
			confirm(t, c, onWay[n])
			delete(ids, onWay[n])
			onWay = append(onWay, take(tt.window+n))
			if n < 3 {
				quiet(t, c)
			}
		}
	}
}

// PUBACKs do not count against the pace at which a client is read.
func TestUserPace(t *testing.T) {
	t.Parallel()
	l := startLine(t, func(c *broker.Config) { c.MaxDeviceRate, c.MaxDeviceBurst = 1, 10 })
	c := l.user(t, mqttwire.V5, "reader", "devices/+/telemetry")
	began := time.Now()
	for n := range 2_000 {
		l.Deliver("devices/x/telemetry", number(n), 1)
		confirm(t, c, next(t, c, mqttwire.Publish).ID)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("2,000 messages took %v", took)
	}
}

// One that reads but does not acknowledge loses the oldest, is told the newest,
// and the log says so once.
func TestUserTooSlow(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil)
	c := l.user(t, mqttwire.V311, "reader", "devices/+/telemetry")
	const more = 50
	total := broker.ConsumerInflight + broker.ConsumerMessages + more
	var ids []uint16
	for n := range total {
		l.Deliver("devices/x/telemetry", number(n), 1)
		if n < broker.ConsumerInflight {
			ids = append(ids, next(t, c, mqttwire.Publish).ID)
		}
	}
	if got := l.Consumers(); got.Dropped != more {
		t.Errorf("%d were dropped, want %d", got.Dropped, more)
	}
	for n := broker.ConsumerInflight + more; n < total; n++ {
		confirm(t, c, ids[0])
		p := next(t, c, mqttwire.Publish)
		ids = append(ids[1:], p.ID)
		if got := numberOf(t, &p); got != n {
			t.Fatalf("message %d came, want %d", got, n)
		}
	}
	said := l.said()
	if n := strings.Count(said, "user is too slow"); n != 1 || !strings.Contains(said, "user=reader") {
		t.Errorf("said %d times: %s", n, said)
	}
}

// What one lost is in the log to the last message: once a minute while it lasts,
// and the rest when the connection ends.
func TestUserTooSlowIsCounted(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil)
	c := l.user(t, mqttwire.V5, "reader", "devices/+/telemetry")
	n := 0
	put := func(more int) {
		for range more {
			l.Deliver("devices/x/telemetry", number(n), 1)
			n++
		}
	}
	says := func(counts ...int) {
		t.Helper()
		said := l.said()
		for _, count := range counts {
			if !strings.Contains(said, fmt.Sprintf(" dropped=%d\n", count)) {
				t.Errorf("%d dropped are not said: %s", count, said)
			}
		}
		if lines := strings.Count(said, "user is too slow"); lines != len(counts) {
			t.Errorf("said %d times, want %d: %s", lines, len(counts), said)
		}
	}
	for n < broker.ConsumerInflight {
		put(1)
		next(t, c, mqttwire.Publish)
	}
	put(broker.ConsumerMessages)
	says()
	put(1_420)
	says(1)
	l.MinutePasses()
	put(1)
	says(1, 1_420)
	put(30)
	says(1, 1_420)
	c.Close()
	eventually(t, "the rest is said", func() bool { return strings.Count(l.said(), "user is too slow") == 3 })
	says(1, 1_420, 30)
	if got := l.Consumers().Dropped; got != 1_451 {
		t.Errorf("%d dropped, want 1451", got)
	}
}

// Large messages are bounded by their bytes, also while they wait for a PUBACK.
func TestUserTooSlowBytes(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil)
	login := userLogin("boss", userPassword)
	login.Properties.ReceiveMaximum = 1
	c, _ := dial(t, l.Broker, mqttwire.V5, login)
	subscribe(t, c, 1, "devices/+/telemetry", "$share/g/devices/+/events")
	const size = 200 << 10
	body := func(n int) []byte { return append(number(n), make([]byte, size-4)...) }
	room := broker.ConsumerBytes / size
	l.Deliver("devices/x/events", body(0), 1) // the group's: it is kept until it is acknowledged
	first := next(t, c, mqttwire.Publish)
	for n := range 2 * room {
		l.Deliver("devices/x/telemetry", body(n), 1)
	}
	dropped := l.Consumers().Dropped
	if kept := 2*room - int(dropped); kept < room-2 || kept > room {
		t.Errorf("%d of %d bytes are kept in a room of %d", kept, size, broker.ConsumerBytes)
	}
	confirm(t, c, first.ID)
	p := next(t, c, mqttwire.Publish)
	if got := numberOf(t, &p); got != int(dropped) {
		t.Errorf("the oldest is %d, want %d", got, dropped)
	}
}

// What is larger than the client takes is not sent, and holds nothing up.
func TestUserMaximumPacketSize(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil)
	login := userLogin("boss", userPassword)
	login.Properties.MaximumPacketSize = 200
	small, _ := dial(t, l.Broker, mqttwire.V5, login)
	subscribe(t, small, 1, "devices/+/telemetry", "$share/g/devices/+/events")
	large := l.user(t, mqttwire.V5, "boss", "$share/g/devices/+/events")
	topic := "devices/x/telemetry"
	fits := 200 - 1 - 2 - 2 - len(topic) - 2 - 1
	for _, size := range []int{fits + 1, fits + 1000, fits} {
		l.Deliver(topic, bytes.Repeat([]byte("x"), size), 1)
	}
	if p := next(t, small, mqttwire.Publish); len(p.Payload) != fits {
		t.Errorf("%d bytes came, want %d", len(p.Payload), fits)
	}
	for n := range 6 { // another member of the group takes it
		l.Deliver("devices/x/events", append(number(n), make([]byte, 300)...), 1)
		if p := next(t, large, mqttwire.Publish); numberOf(t, &p) != n {
			t.Errorf("message %d is not heard", n)
		}
	}
	quiet(t, small)
	if got := l.Consumers().Dropped; got != 2 {
		t.Errorf("%d dropped, want 2", got)
	}
}

// One that stops reading costs devices and other users nothing, and is gone by
// the deadline of a write.
func TestUserThatDoesNotRead(t *testing.T) {
	t.Parallel()
	l := startLine(t, func(c *broker.Config) { c.WriteTimeout = time.Second })
	stuck := l.user(t, mqttwire.V311, "reader", "devices/+/telemetry")
	if err := stuck.Conn().(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	well := l.user(t, mqttwire.V5, "reader", "devices/+/telemetry")
	id := deviceID(t, 1)
	d := device(t, l.Broker, mqttwire.V5, id)
	heard := make(chan int)
	go func() { // ends with the connection
		defer close(heard)
		for n := 0; ; n++ {
			p, err := well.Read()
			if err != nil || well.Send(mqttwire.AppendPuback(nil, mqttwire.V5, p.ID, 0)) != nil || string(p.Payload) == "end" {
				heard <- n
				return
			}
		}
	}()
	var slowest time.Duration
	sent, body := 0, bytes.Repeat([]byte("x"), 50<<10)
	for ; l.Connections().Consumers == 2; sent++ {
		began := time.Now()
		publish(t, d, mqttwire.Message{Topic: "devices/" + id.String() + "/telemetry", Payload: body, QoS: 1})
		next(t, d, mqttwire.Puback)
		slowest = max(slowest, time.Since(began))
		if sent == 20_000 {
			t.Fatal("it is still there")
		}
	}
	publish(t, d, mqttwire.Message{Topic: "devices/" + id.String() + "/telemetry", Payload: []byte("end"), QoS: 1})
	if n := <-heard; n < sent*9/10 {
		t.Errorf("the other heard %d of %d", n, sent)
	}
	if slowest > 800*time.Millisecond { // a write to who does not read takes a second
		t.Errorf("a device waited %v", slowest)
	}
}

// A user's connections end with the broker, however much waits for them.
func TestUserStop(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil)
	for n := range 8 {
		c := l.user(t, mqttwire.V5, "boss", "devices/#", fmt.Sprintf("$share/%d/devices/#", n%2))
		_ = c.Conn().(*net.TCPConn).SetReadBuffer(4 << 10)
	}
	for n := range 3_000 {
		l.Deliver("devices/x/telemetry", append(number(n), make([]byte, 4000)...), byte(n%2))
	}
}

// What waits for a user takes no more memory than is counted: a point keeps
// nothing of the array in which it came.
func TestUserMemory(t *testing.T) {
	l := startLine(t, nil)
	c := l.user(t, mqttwire.V5, "reader", "devices/+/telemetry")
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const many, large = 1_000, 128 << 10
	for range many { // more than may be on their way
		body := make([]byte, large)
		l.HearTelemetry(deviceID(t, 1), append(body[:0], `{"n":1}`...))
	}
	if grown := int64(heap()) - int64(before); grown > many*large/4 {
		t.Errorf("%d small messages take %d bytes", many, grown)
	}
	hears(t, c, telemetryOf(deviceID(t, 1)), `{"n":1}`)
}
