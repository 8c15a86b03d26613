package broker_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// What looks like two boards with one identity, and what does not.
func TestClones(t *testing.T) {
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	used := broker.Displaced{Age: 10 * time.Second, Silent: time.Second}
	type step struct {
		after    time.Duration
		old, new netip.Addr
		was      broker.Displaced
	}
	repeat := func(n int, steps ...step) (all []step) {
		for i := range n {
			all = append(all, steps[i%len(steps)])
		}
		return all
	}
	for _, tt := range []struct {
		name  string
		steps []step
		count int // of the suspicion; 0: none
	}{
		{"two sources in turn", repeat(4, step{5 * time.Second, a, b, used}, step{5 * time.Second, b, a, used}), 4},
		{"two sources in turn, not often", repeat(3, step{5 * time.Second, a, b, used}, step{5 * time.Second, b, a, used}), 0},
		{"two sources in turn, slowly", repeat(20, step{25 * time.Second, a, b, used}, step{25 * time.Second, b, a, used}), 0},
		{"two sources that give each other no time", repeat(4, step{50 * time.Millisecond, a, b, broker.Displaced{Age: 50 * time.Millisecond}}, step{50 * time.Millisecond, b, a, broker.Displaced{Age: 50 * time.Millisecond}}), 4},
		{"one source often", repeat(8, step{6 * time.Second, a, a, used}), 8},
		{"one source, not so often", repeat(7, step{6 * time.Second, a, a, used}), 0},
		{"one source slowly", repeat(50, step{9 * time.Second, a, a, used}), 0},
		{"a device that wanders", []step{{time.Second, a, b, used}, {time.Second, b, c, used}, {time.Second, c, c, used}, {time.Second, c, c, used}}, 0},
		{"a link that flaps: the old connection is long silent", repeat(30, step{2 * time.Second, a, a, broker.Displaced{Age: time.Minute, Silent: 16 * time.Second}}), 0},
		{"a device that logs in again at once", repeat(100, step{100 * time.Millisecond, a, a, broker.Displaced{Age: 100 * time.Millisecond}}), 0},
	} {
		k := broker.NewClones()
		now := time.Now()
		var got []edgeclaim.Suspicion
		for _, s := range tt.steps {
			now = now.Add(s.after)
			if found, ok := k.TakenOver(now, deviceID(t, 1), s.old, s.new, s.was); ok {
				got = append(got, found)
			}
		}
		switch {
		case tt.count == 0 && len(got) > 0, tt.count > 0 && len(got) != 1:
			t.Errorf("%s: suspected %+v", tt.name, got)
		case tt.count > 0 && (got[0].Count != tt.count || got[0].Kind != edgeclaim.SuspicionTakeover || got[0].Device != deviceID(t, 1) ||
			len(got[0].Sources) == 0 || got[0].Window != time.Minute):
			t.Errorf("%s: suspected %+v", tt.name, got[0])
		}
	}
}

// A war is told once in ten minutes; and of however many devices, few are
// remembered.
func TestClonesAreToldSeldom(t *testing.T) {
	k := broker.NewClones()
	a := netip.MustParseAddr("192.0.2.1")
	now, told := time.Now(), 0
	for range 30 * 60 {
		now = now.Add(time.Second)
		if _, ok := k.TakenOver(now, deviceID(t, 1), a, a, broker.Displaced{Age: 2 * time.Second}); ok {
			told++
		}
	}
	if told != 3 {
		t.Errorf("told %d times in half an hour", told)
	}
	for i := range 10_000 {
		k.TakenOver(now, deviceID(t, i), a, a, broker.Displaced{Age: 2 * time.Second})
	}
	if n := k.Len(); n != 4096 {
		t.Errorf("%d devices remembered", n)
	}
}

// Two boards that take the connection from each other, over the wire: behind
// one address, and from two.
func TestTakeoverWar(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 9 s")
	}
	for _, tt := range []struct {
		sources []string
		count   int
	}{
		{[]string{"127.0.0.1"}, 8},
		{[]string{"127.0.0.1", "127.0.0.2"}, 4},
	} {
		t.Run(fmt.Sprintf("sources=%d", len(tt.sources)), func(t *testing.T) {
			t.Parallel()
			takeoverWar(t, tt.sources, tt.count)
		})
	}
}

func takeoverWar(t *testing.T, sources []string, count int) {
	id := deviceID(t, 1)
	told := make(chan edgeclaim.Suspicion, 16)
	b := start(t, &rule{login: knowsAll}, func(c *broker.Config) { c.Suspect = func(s edgeclaim.Suspicion) { told <- s } })
	last := deviceFrom(t, b, sources[0], id)
	for n := range count {
		began := time.Now()
		eventually(t, "settled", func() bool { return time.Since(began) > 1050*time.Millisecond })
		quiet(t, last)
		next := deviceFrom(t, b, sources[(n+1)%len(sources)], id)
		hungUp(t, last, 0x8e)
		last = next
	}
	select {
	case s := <-told:
		if s.Device != id || s.Count != count || len(s.Sources) != len(sources) || !s.Sources[0].IsLoopback() {
			t.Errorf("suspected %+v", s)
		}
	case <-time.After(patience):
		t.Error("not suspected")
	}
	quiet(t, last) // nobody is locked out
}

// deviceFrom logs in from an address of this machine.
func deviceFrom(t *testing.T, b *broker.Broker, source string, id edgeclaim.DeviceID) *mqttwire.Client {
	t.Helper()
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	nc, err := d.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	c := mqttwire.New(nc, mqttwire.V5)
	if ack, err := c.Login(deviceLogin(id)); err != nil || ack.Code() != 0 {
		t.Fatalf("CONNACK %#x, %v", ack.Code(), err)
	}
	return c
}

// A device whose connections end before the next begins is no clone, however
// often it comes.
func TestFlappingDevice(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll}, func(c *broker.Config) {
		c.Suspect = func(s edgeclaim.Suspicion) { t.Errorf("suspected %+v", s) }
	})
	for range 50 {
		c := device(t, b, mqttwire.V311, id)
		quiet(t, c)
		c.Close()
		eventually(t, "gone", func() bool { return b.Open() == 0 })
	}
	for range 50 { // and in a storm of logins
		device(t, b, mqttwire.V311, id)
	}
}
