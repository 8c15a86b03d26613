package mqttproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttproxy"
	"edgeclaim/internal/mqttwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon bounds what should happen, quiet is how long nothing may.
const (
	soon  = 10 * time.Second
	quiet = 150 * time.Millisecond
)

func proxied(t *testing.T, seed uint64) (*mqttproxy.Proxy, *mosquitto.Server) {
	t.Helper()
	broker := mosquitto.Start(t, mosquitto.Options{})
	return mqttproxy.Start(t, broker.Addr(), seed), broker
}

func dial(addr, id string) (*mqttwire.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	client, ack, err := mqttwire.Dial(ctx, addr, mqttwire.V311, mqttwire.Login{ClientID: id, Clean: true, KeepAlive: 60})
	if err != nil {
		return nil, err
	}
	if ack.Code() != 0 {
		client.Close()
		return nil, fmt.Errorf("connack %#x", ack.Code())
	}
	return client, client.SetDeadline(time.Now().Add(soon))
}

// connected is a client that has subscribed to filters.
func connected(t *testing.T, addr, id string, filters ...string) *mqttwire.Client {
	t.Helper()
	client, err := dial(addr, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if len(filters) == 0 {
		return client
	}
	if _, err := client.Subscribe(filters...); err != nil {
		t.Fatal(err)
	}
	return client
}

// say publishes count numbered messages, at QoS 0 and straight to the broker.
func say(t *testing.T, client *mqttwire.Client, count int) {
	t.Helper()
	for i := range count {
		if err := client.Publish(mqttwire.Message{Topic: "t", Payload: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
}

// hear reads payloads until nothing more comes.
func hear(t *testing.T, client *mqttwire.Client) []string {
	t.Helper()
	var heard []string
	for {
		if err := client.SetDeadline(time.Now().Add(quiet)); err != nil {
			t.Fatal(err)
		}
		p, err := client.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if err := client.SetDeadline(time.Now().Add(soon)); err != nil {
				t.Fatal(err)
			}
			return heard
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.Type == mqttwire.Publish {
			heard = append(heard, string(p.Payload))
		}
	}
}

func numbers(count int) []string {
	var all []string
	for i := range count {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

func TestCarries(t *testing.T) {
	p, broker := proxied(t, 1)
	listener := connected(t, p.Addr(), "near", "t")
	say(t, connected(t, broker.Addr(), "far"), 500)
	if heard := hear(t, listener); !slices.Equal(heard, numbers(500)) {
		t.Errorf("heard %d messages, want 500 in order", len(heard))
	}
	if err := listener.Disconnect(); err != nil {
		t.Error(err)
	}
}

// TestPublishFaults: each fault alone, on every packet.
func TestPublishFaults(t *testing.T) {
	const count = 20
	for name, c := range map[string]struct {
		faults mqttproxy.Faults
		holds  func(heard []string, n mqttproxy.Counts) bool
	}{
		"lost": {mqttproxy.Faults{Lost: 1}, func(heard []string, n mqttproxy.Counts) bool {
			return len(heard) == 0 && n.Lost == count
		}},
		"twice": {mqttproxy.Faults{Twice: 1, LateBy: 20 * time.Millisecond}, func(heard []string, n mqttproxy.Counts) bool {
			slices.Sort(heard)
			return len(heard) == 2*count && len(slices.Compact(heard)) == count && n.Twice == count
		}},
		"late": {mqttproxy.Faults{Late: 1, LateBy: 50 * time.Millisecond}, func(heard []string, n mqttproxy.Counts) bool {
			return len(heard) == count && !slices.Equal(heard, numbers(count)) && n.Late == count
		}},
		"reordered": {mqttproxy.Faults{Reordered: .5}, func(heard []string, n mqttproxy.Counts) bool {
			return len(heard) == count && !slices.Equal(heard, numbers(count)) && n.Reordered > 0
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p, broker := proxied(t, 7)
			listener := connected(t, p.Addr(), "near", "t")
			speaker := connected(t, broker.Addr(), "far")
			p.Set(c.faults)
			say(t, speaker, count)
			if heard, n := hear(t, listener), p.Counts(); !c.holds(heard, n) {
				t.Errorf("heard %q, counts %+v", heard, n)
			}
			p.Heal()
			say(t, speaker, count)
			if heard := hear(t, listener); !slices.Equal(heard, numbers(count)) {
				t.Errorf("healed, heard %q", heard)
			}
		})
	}
}

// TestSeedReplays: the same seed loses the same packets, another one others.
func TestSeedReplays(t *testing.T) {
	lose := func(seed uint64) []string {
		p, broker := proxied(t, seed)
		listener := connected(t, p.Addr(), "near", "t")
		p.Set(mqttproxy.Faults{Lost: .5})
		say(t, connected(t, broker.Addr(), "far"), 64)
		return hear(t, listener)
	}
	first := lose(11)
	if again := lose(11); !slices.Equal(first, again) {
		t.Errorf("seed 11 let through %q, then %q", first, again)
	}
	if other := lose(12); slices.Equal(first, other) || len(first) == 0 {
		t.Errorf("seeds 11 and 12 both let through %q", first)
	}
}

func TestPubackLost(t *testing.T) {
	p, _ := proxied(t, 1)
	client := connected(t, p.Addr(), "near")
	p.Set(mqttproxy.Faults{PubackLost: 1})
	if err := client.Publish(mqttwire.Message{Topic: "t", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if err := client.SetDeadline(time.Now().Add(quiet)); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Read(); !errors.Is(err, os.ErrDeadlineExceeded) || p.Counts().PubacksLost != 1 {
		t.Errorf("read %+v, %v; counts %+v", got, err, p.Counts())
	}
}

// TestCut: silent is not closed. Neither end hears of it, new connections are
// the same, and after Heal only new ones work.
func TestCut(t *testing.T) {
	for name, way := range map[string]mqttproxy.Way{"both": mqttproxy.Both, "up": mqttproxy.Up, "down": mqttproxy.Down} {
		t.Run(name, func(t *testing.T) {
			p, broker := proxied(t, 1)
			near := connected(t, p.Addr(), "near", "t")
			far := connected(t, broker.Addr(), "far", "u")
			p.Cut(way)
			say(t, far, 1)
			if err := near.Publish(mqttwire.Message{Topic: "u", Payload: []byte("up")}); err != nil {
				t.Fatal(err)
			}
			if heard := hear(t, near); (len(heard) == 0) != (way&mqttproxy.Down != 0) {
				t.Errorf("the client heard %q", heard)
			}
			if heard := hear(t, far); (len(heard) == 0) != (way&mqttproxy.Up != 0) {
				t.Errorf("the broker's side heard %q", heard)
			}
			silentLogin(t, p.Addr())
			p.Heal()
			say(t, far, 1)
			if heard := hear(t, near); (len(heard) == 0) != (way&mqttproxy.Down != 0) {
				t.Errorf("healed, the old connection heard %q", heard)
			}
			again := connected(t, p.Addr(), "again", "t")
			say(t, far, 1)
			if heard := hear(t, again); len(heard) != 1 {
				t.Errorf("healed, a new connection heard %q", heard)
			}
		})
	}
}

// silentLogin connects and must hear neither a CONNACK nor an end.
func silentLogin(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := mqttwire.New(conn, mqttwire.V311)
	if err := client.SetDeadline(time.Now().Add(quiet)); err != nil {
		t.Fatal(err)
	}
	if ack, err := client.Login(mqttwire.Login{ClientID: "silent", Clean: true}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a new connection got %+v, %v", ack, err)
	}
}

func TestResetRefuseAndKick(t *testing.T) {
	p, _ := proxied(t, 1)
	client := connected(t, p.Addr(), "near")
	p.Reset()
	if _, err := client.Read(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: %v", err)
	}
	p.Refuse()
	if client, err := dial(p.Addr(), "near"); err == nil {
		client.Close()
		t.Error("a refused connection was taken")
	}
	p.Heal()
	p.Set(mqttproxy.Faults{Kick: 1})
	client, err := dial(p.Addr(), "near")
	if err == nil { // the reset may overtake the CONNACK that it comes behind
		defer client.Close()
		_, err = client.Read()
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("kick: %v", err)
	}
	if n := p.Counts(); n.Kicked != 1 || n.Reset != 1 {
		t.Errorf("counts %+v", n)
	}
}

func TestInject(t *testing.T) {
	p, _ := proxied(t, 1)
	client := connected(t, p.Addr(), "near")
	for _, payload := range [][]byte{nil, {0xff, 0, 0x7f}, make([]byte, 500_000)} {
		if told := p.Inject("any/topic", payload); told != 1 {
			t.Fatalf("told %d clients", told)
		}
		got, err := client.Read()
		if err != nil || got.Topic != "any/topic" || string(got.Payload) != string(payload) {
			t.Errorf("injected %d bytes: %v, topic %q, %d bytes", len(payload), err, got.Topic, len(got.Payload))
		}
	}
}

// TestDelay: a round trip takes both ways' delay, a thousand at once no longer.
func TestDelay(t *testing.T) {
	const delay, many = 40 * time.Millisecond, 1000
	p, _ := proxied(t, 1)
	client := connected(t, p.Addr(), "near")
	p.Set(mqttproxy.Faults{Delay: delay})
	start := time.Now()
	for range many {
		if err := client.Publish(mqttwire.Message{Topic: "t", QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for range many {
		if got, err := client.Read(); err != nil || got.Type != mqttwire.Puback {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if took := time.Since(start); took < 2*delay || took > 20*delay {
		t.Errorf("%d round trips at once took %v", many, took)
	}
}

// TestEndsArePassedOn: a close of either end closes the other, after what was
// said before.
func TestEndsArePassedOn(t *testing.T) {
	p, broker := proxied(t, 1)
	p.Set(mqttproxy.Faults{Delay: 20 * time.Millisecond})
	client := connected(t, p.Addr(), "near", "t")
	say(t, connected(t, broker.Addr(), "far"), 3)
	if heard := hear(t, client); len(heard) != 3 {
		t.Errorf("heard %q", heard)
	}
	if err := client.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	broker.Kill()
	if _, err := client.Read(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the broker's end: %v", err)
	}
}
