package broker_test

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

const groupFilter = "$share/g/devices/+/telemetry"

// A group's messages are dealt out in turn, each to one member; another group
// has them all too, and so has who subscribed plainly.
func TestGroupDeals(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, v mqttwire.Version) {
		l := startLine(t, nil)
		members := []*mqttwire.Client{
			l.user(t, v, "reader", groupFilter), l.user(t, v, "boss", groupFilter), l.user(t, v, "reader", groupFilter),
		}
		other := l.user(t, v, "reader", "$share/h/devices/+/telemetry")
		plain := l.user(t, v, "reader", "devices/+/telemetry")
		const rounds = 20
		for n := range rounds * len(members) {
			l.Deliver("devices/x/telemetry", number(n), 1)
		}
		for n := range rounds * len(members) {
			for _, c := range []*mqttwire.Client{members[n%len(members)], other, plain} {
				p := next(t, c, mqttwire.Publish)
				if got := numberOf(t, &p); got != n {
					t.Fatalf("message %d came, want %d", got, n)
				}
				confirm(t, c, p.ID)
			}
		}
		for _, c := range append(members, other, plain) {
			quiet(t, c)
		}
	})
}

// What was not acknowledged, and what waited, when a member goes is the others':
// nothing of QoS 1 is lost while one of them is there, and nothing is told twice
// that was acknowledged.
func TestGroupMemberGoes(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"crash", "disconnect", "unsubscribe"} {
		l := startLine(t, nil)
		login := userLogin("reader", userPassword)
		login.Properties.ReceiveMaximum = 10
		leaves, _ := dial(t, l.Broker, mqttwire.V5, login)
		subscribe(t, leaves, 1, groupFilter)
		for n := range 30 { // 10 on their way, 20 wait
			l.Deliver("devices/x/telemetry", number(n), 1)
		}
		for n := range 10 {
			p := next(t, leaves, mqttwire.Publish)
			if n < 4 {
				confirm(t, leaves, p.ID) // and 4 more come
			}
		}
		for range 4 {
			next(t, leaves, mqttwire.Publish)
		}
		stays := l.user(t, mqttwire.V311, "reader", groupFilter)
		want := 4
		switch end {
		case "crash":
			leaves.Close()
		case "disconnect":
			if err := leaves.Disconnect(); err != nil {
				t.Fatal(err)
			}
		case "unsubscribe": // what waits for it is still its own
			if err := leaves.Send(mqttwire.AppendUnsubscribe(nil, mqttwire.V5, 9, groupFilter)); err != nil {
				t.Fatal(err)
			}
			next(t, leaves, mqttwire.Unsuback)
			l.Deliver("devices/x/telemetry", number(30), 1)
			if p := next(t, stays, mqttwire.Publish); numberOf(t, &p) != 30 {
				t.Errorf("message %d came, want 30", numberOf(t, &p))
			}
			leaves.Close()
		}
		for n := want; n < 30; n++ {
			p := next(t, stays, mqttwire.Publish)
			if got := numberOf(t, &p); got != n || p.QoS != 1 || p.Dup {
				t.Fatalf("%s: message %d came, QoS %d, dup %v, want %d", end, got, p.QoS, p.Dup, n)
			}
			confirm(t, stays, p.ID)
		}
		quiet(t, stays)
	}
}

// A member that does not read, and one that does not acknowledge, get a few and
// then the others have the rest; what the first had comes to them when it is
// given up for dead.
func TestGroupMembersStall(t *testing.T) {
	t.Parallel()
	l := startLine(t, func(c *broker.Config) { c.WriteTimeout = 500 * time.Millisecond })
	deaf := l.user(t, mqttwire.V311, "reader", groupFilter)
	if err := deaf.Conn().(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	mute := l.user(t, mqttwire.V311, "reader", groupFilter) // reads, says nothing
	well := l.user(t, mqttwire.V5, "reader", groupFilter)
	const total = 6_000
	var mu sync.Mutex
	by := map[int]string{}
	var ended sync.WaitGroup
	for name, c := range map[string]*mqttwire.Client{"mute": mute, "well": well} {
		ended.Go(func() {
			for {
				p, err := c.Read()
				if err != nil {
					return
				}
				mu.Lock()
				by[numberOf(t, &p)] = name
				mu.Unlock()
				if name == "well" && c.Send(mqttwire.AppendPuback(nil, c.Version(), p.ID, 0)) != nil {
					return
				}
			}
		})
	}
	body := make([]byte, 20<<10)
	for n := range total {
		l.Deliver("devices/x/telemetry", append(number(n), body...), 1)
		if n%50 == 49 { // no faster than the one can
			eventually(t, "it has caught up", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(by) > n/2-1_500
			})
		}
	}
	eventually(t, "the one that does not read is gone", func() bool { return l.Connections().Consumers == 2 })
	eventually(t, "all are heard but those that wait for who says nothing", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(by) >= total-int(l.Consumers().Dropped)-64
	})
	mute.Close()
	eventually(t, "all are heard", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(by) >= total-int(l.Consumers().Dropped)
	})
	well.Close()
	ended.Wait()
	counts := map[string]int{}
	for _, name := range by {
		counts[name]++
	}
	if dropped := l.Consumers().Dropped; dropped > 0 || counts["well"] < total*9/10 {
		t.Errorf("%v, %d dropped", counts, dropped)
	}
}

// Members come and go at random, cut off in the middle of anything, while
// devices speak: as long as one stays, each message is heard.
func TestGroupChurn(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil)
	const talkers, each = 4, 1_500
	var mu sync.Mutex
	heard := map[int]int{}
	listen := func(c *mqttwire.Client, upto int) {
		for n := 0; n != upto; n++ {
			p, err := c.Read()
			if err != nil {
				return
			}
			mu.Lock()
			heard[numberOf(t, &p)]++
			mu.Unlock()
			if c.Send(mqttwire.AppendPuback(nil, c.Version(), p.ID, 0)) != nil {
				return
			}
		}
	}
	stays := l.user(t, mqttwire.V5, "boss", groupFilter)
	var all, talking sync.WaitGroup
	all.Go(func() { listen(stays, -1) })
	done := make(chan struct{})
	for range 3 {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				c := l.user(t, mqttwire.V311, "reader", groupFilter)
				listen(c, rand.IntN(200))
				c.Close()
			}
		})
	}
	for k := range talkers {
		talking.Go(func() {
			for n := range each {
				l.Deliver(fmt.Sprintf("devices/%d/telemetry", k), number(k*each+n), 1)
				if n%100 == 99 {
					eventually(t, "they follow", func() bool {
						mu.Lock()
						defer mu.Unlock()
						return len(heard) > talkers*n/2-400
					})
				}
			}
		})
	}
	talking.Wait()
	eventually(t, "each is heard", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(heard) == talkers*each
	})
	close(done)
	// Who comes and goes may be in the middle of listening.
	for n := 0; l.Connections().Consumers > 1 && n < 2_000; n++ {
		l.Deliver("devices/x/telemetry", number(talkers*each+n), 1)
	}
	eventually(t, "all have gone but one", func() bool {
		l.Deliver("devices/x/telemetry", number(0), 1)
		return l.Connections().Consumers == 1
	})
	stays.Close()
	all.Wait()
	if dropped := l.Consumers().Dropped; dropped > 1 {
		t.Errorf("%d dropped", dropped)
	}
}

// Messages of one device come in order to a plain subscriber, whoever else is
// there.
func TestOrderIsKept(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil)
	c := l.user(t, mqttwire.V5, "boss", "devices/#", "devices/+/telemetry")
	var talking sync.WaitGroup
	const talkers, each = 4, 200
	for k := range talkers {
		talking.Go(func() {
			for n := range each {
				l.Deliver(fmt.Sprintf("devices/%d/telemetry", k), number(n), byte(k%2))
			}
		})
	}
	at := map[string]int{}
	for range talkers * each {
		p := next(t, c, mqttwire.Publish)
		if got := numberOf(t, &p); got != at[p.Topic] {
			t.Fatalf("%s: %d came, want %d", p.Topic, got, at[p.Topic])
		}
		at[p.Topic]++
		if p.QoS > 0 {
			confirm(t, c, p.ID)
		}
	}
	talking.Wait()
	quiet(t, c)
}

// listener is a mosquitto_sub.
type listener struct {
	cmd  *exec.Cmd
	mu   sync.Mutex
	said []string // guarded by mu
	done chan struct{}
}

func (l *line) mosquitto(t *testing.T, program string, args ...string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(l.Addr().String())
	return exec.Command(tool(t, program), append([]string{"-h", host, "-p", port, "-u", "reader", "-P", userPassword}, args...)...)
}

func (l *line) listen(t *testing.T, args ...string) *listener {
	t.Helper()
	s := &listener{cmd: l.mosquitto(t, "mosquitto_sub", append([]string{"-q", "1", "-d"}, args...)...), done: make(chan struct{})}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process
		defer close(s.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.mu.Lock()
			s.said = append(s.said, lines.Text())
			s.mu.Unlock()
		}
		_ = s.cmd.Wait()
	}()
	t.Cleanup(s.stop)
	eventually(t, "mosquitto_sub has subscribed", func() bool { return s.count("Subscribed (mid: 1): 1") == 1 })
	return s
}

func (s *listener) stop() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

func (s *listener) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.said {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// mosquitto_sub as consumers of a group: they come, one is stopped, one is
// killed; what mosquitto_pub says as a device is heard once, or again by another
// where it was not acknowledged.
func TestMosquittoGroup(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"mqttv311", "mqttv5"} {
		l := startLine(t, nil)
		id := deviceID(t, 1)
		group := []string{"-V", version, "-t", "$share/plant/devices/+/telemetry"}
		first, second := l.listen(t, group...), l.listen(t, group...)
		plain := l.listen(t, "-V", version, "-t", "devices/+/telemetry", "-t", "devices/"+id.String()+"/telemetry")
		say := func(from, to int) {
			pub := l.mosquitto(t, "mosquitto_pub", "-u", id.String(), "-P", passwordOf(id), "-V", version, "-q", "1",
				"-t", "devices/"+id.String()+"/telemetry", "-l")
			var words bytes.Buffer
			for n := from; n < to; n++ {
				fmt.Fprintf(&words, "m%d\n", n)
			}
			pub.Stdin = &words
			if out, err := pub.CombinedOutput(); err != nil {
				t.Fatalf("%s: mosquitto_pub: %v: %s", version, err, out)
			}
		}
		say(0, 20)
		eventually(t, "each has its half", func() bool { return first.count("m") == 10 && second.count("m") == 10 })
		second.stop()
		eventually(t, "one has gone", func() bool { return l.Connections().Consumers == 2 })
		say(20, 40)
		eventually(t, "the other has all", func() bool { return first.count("m") == 30 })
		third := l.listen(t, group...)
		say(40, 60)
		eventually(t, "the third has its half", func() bool { return first.count("m") == 40 && third.count("m") == 10 })
		eventually(t, "and who is in no group has them once", func() bool { return plain.count("m") == 60 })
		if dropped := l.Consumers().Dropped; dropped > 0 {
			t.Errorf("%d dropped", dropped)
		}
	}
}
