package broker_test

import (
	"bufio"
	"bytes"
	"context"
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

// A member that does not read gets no more than there is room for, the others
// have the rest; what it had is theirs when it is given up for dead.
func TestGroupMemberIsDeaf(t *testing.T) {
	t.Parallel()
	l := startLine(t, func(c *broker.Config) { c.WriteTimeout = 500 * time.Millisecond })
	deaf := l.user(t, mqttwire.V311, "reader", groupFilter)
	if err := deaf.Conn().(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	const total, size = 1_000, 60 << 10
	room := make(chan struct{}, broker.ConsumerBytes/size+30) // of what is said and not heard yet
	heard := make(chan int, total)
	var ended sync.WaitGroup
	for range 3 {
		c := l.user(t, mqttwire.V5, "reader", groupFilter)
		ended.Go(func() {
			for {
				p, err := c.Read()
				if err != nil || c.Send(mqttwire.AppendPuback(nil, c.Version(), p.ID, 0)) != nil {
					return
				}
				heard <- numberOf(t, &p)
				<-room
			}
		})
		defer c.Close()
	}
	body := make([]byte, size)
	for n := range total {
		room <- struct{}{} // while it waits, what the deaf one has is to come
		l.Deliver("devices/x/telemetry", append(number(n), body...), 1)
	}
	seen := map[int]bool{}
	for range total {
		select {
		case n := <-heard:
			if seen[n] {
				t.Errorf("message %d came twice", n)
			}
			seen[n] = true
		case <-time.After(patience):
			t.Fatalf("%d of %d are heard, %+v", len(seen), total, l.Consumers())
		}
	}
	if got := l.Consumers(); got.Dropped != 0 || got.Connected != 3 {
		t.Errorf("%+v", got)
	}
}

// A member that acknowledges nothing gets as much as may be on its way and a
// little more, the others have the rest, and what it had when it goes.
func TestGroupMemberIsMute(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil)
	mute := l.user(t, mqttwire.V311, "reader", groupFilter)
	well := l.user(t, mqttwire.V5, "boss", groupFilter)
	const total = 2_000
	seen := map[int]bool{}
	hear := func(n int) {
		for range n {
			p := next(t, well, mqttwire.Publish)
			confirm(t, well, p.ID)
			seen[numberOf(t, &p)] = true
		}
	}
	for n := range total {
		if n == 2*broker.ConsumerInflight {
			eventually(t, "no more may be on its way to the one", func() bool { return l.Consumers().Delivered == uint64(n) })
		}
		l.Deliver("devices/x/telemetry", number(n), 1)
		if n%2 == 1 || n >= 2*broker.ConsumerInflight {
			hear(1)
		}
	}
	if len(seen) != total-broker.ConsumerInflight {
		t.Errorf("%d of %d are heard", len(seen), total)
	}
	mute.Close()
	hear(broker.ConsumerInflight)
	if len(seen) != total || l.Consumers().Dropped != 0 {
		t.Errorf("%d of %d are heard, %+v", len(seen), total, l.Consumers())
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
	room := make(chan struct{}, 500) // of what is said and not heard yet
	listen := func(c *mqttwire.Client, upto int) {
		for n := 0; n != upto; n++ {
			p, err := c.Read()
			if err != nil {
				return
			}
			mu.Lock()
			heard[numberOf(t, &p)]++
			first := heard[numberOf(t, &p)] == 1
			mu.Unlock()
			if first {
				select {
				case <-room:
				default:
				}
			}
			if c.Send(mqttwire.AppendPuback(nil, c.Version(), p.ID, 0)) != nil {
				return
			}
		}
	}
	stays := l.user(t, mqttwire.V5, "boss", groupFilter)
	var all, talking, coming sync.WaitGroup
	all.Go(func() { listen(stays, -1) })
	done := make(chan struct{})
	for range 3 {
		coming.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				c, _, err := mqttwire.Dial(ctx, l.Addr().String(), mqttwire.V311, userLogin("reader", userPassword))
				cancel()
				if err == nil {
					_, err = c.Subscribe(groupFilter)
				}
				if err != nil {
					t.Errorf("subscribe: %v", err)
					return
				}
				listen(c, rand.IntN(200))
				c.Close()
			}
		})
	}
	for k := range talkers {
		talking.Go(func() {
			for n := range each {
				room <- struct{}{}
				l.Deliver(fmt.Sprintf("devices/%d/telemetry", k), number(k*each+n), 1)
			}
		})
	}
	talking.Wait()
	eventually(t, "each is heard", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(heard) == talkers*each
	})
	if dropped := l.Consumers().Dropped; dropped > 0 {
		t.Errorf("%d dropped", dropped)
	}
	close(done)
	none := make(chan struct{})
	all.Go(func() { // ends with those that come and go
		coming.Wait()
		close(none)
	})
	eventually(t, "all have gone but one", func() bool { // who is listening has to hear enough first
		l.Deliver("devices/x/telemetry", number(0), 1)
		select {
		case <-none:
			return true
		default:
			return false
		}
	})
	stays.Close()
	all.Wait()
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
	before := l.Subscriptions()
	s := &listener{cmd: l.mosquitto(t, "mosquitto_sub", append([]string{"-q", "1"}, args...)...), done: make(chan struct{})}
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
	eventually(t, "mosquitto_sub has subscribed", func() bool { return l.Subscriptions() > before })
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
