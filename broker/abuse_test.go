package broker_test

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// Refused too often, a connection ends: with the last refusal said.
func TestMaxRefused(t *testing.T) {
	for _, tt := range []struct {
		code edgeclaim.Code
		ends bool
	}{
		{edgeclaim.CodePermissionDenied, true}, {edgeclaim.CodeInvalidArgument, true},
		{edgeclaim.CodeResourceExhausted, true}, {edgeclaim.CodeOK, false},
	} {
		b := start(t, &rule{answer: func(edgeclaim.Ask) edgeclaim.Answer {
			return edgeclaim.Answer{Code: tt.code, Body: []byte("x")}
		}}, func(c *broker.Config) { c.MaxRefused = 3 })
		versions(t, func(t *testing.T, v mqttwire.Version) {
			c := claimant(t, b, v, "provision/response")
			for range 3 {
				publish(t, c, mqttwire.Message{Topic: "provision/request", Payload: []byte("{}"), QoS: 1})
				next(t, c, mqttwire.Publish)
				next(t, c, mqttwire.Puback)
			}
			if tt.ends {
				hungUp(t, c, 0x97)
			} else {
				quiet(t, c)
			}
		})
	}
}

// One source takes so many connections and no more, until they log in or go.
func TestMaxPerSource(t *testing.T) {
	address := outside(t)
	b := start(t, &rule{login: knowsAll}, func(c *broker.Config) { c.Address, c.MaxPerSource = address+":0", 3 })
	at := mqttwire.Login{Clean: true, KeepAlive: 30}
	var open []*mqttwire.Client
	for range 3 {
		c, ack := dial(t, b, mqttwire.V5, at)
		if ack.Code() != 0 {
			t.Fatalf("CONNACK %#x", ack.Code())
		}
		open = append(open, c)
	}
	closed(t, connect(t, b))
	quiet(t, open[0])
	open[0].Close()
	eventually(t, "one left", func() bool { return b.Open() == 2 })
	for i := range 5 { // devices count until they log in
		device(t, b, mqttwire.V5, deviceID(t, i))
	}
	connect(t, b)
	eventually(t, "all places taken", func() bool { return b.Open() == 8 })
	closed(t, connect(t, b))
}

// outside is an address of this machine that is not loopback.
func outside(t *testing.T) string {
	t.Helper()
	found, err := net.InterfaceAddrs()
	if err != nil {
		t.Skip(err)
	}
	for _, address := range found {
		if network, ok := address.(*net.IPNet); ok && network.IP.To4() != nil && !network.IP.IsLoopback() {
			return network.IP.String()
		}
	}
	t.Skip("no address but loopback")
	return ""
}

// A device that floods is slowed down, loses nothing and keeps its connection;
// another is not slowed down.
func TestDeviceFlood(t *testing.T) {
	var slow, quick = deviceID(t, 1), deviceID(t, 2)
	b := start(t, &rule{login: knowsAll}, func(c *broker.Config) { c.MaxDeviceRate, c.MaxDeviceBurst = 10, 20 })
	login := deviceLogin(slow)
	login.KeepAlive = 1 // less than it waits between two reads
	c, _ := dial(t, b, mqttwire.V5, login)
	d := device(t, b, mqttwire.V5, quick)
	const packets = 60
	began := time.Now()
	var sent atomic.Bool
	go func() { // ends when all is sent, or with the connection
		for i := range packets {
			if c.Send(mqttwire.AppendPublish(nil, mqttwire.V5, &mqttwire.Message{
				Topic: "devices/" + slow.String() + "/events", QoS: 1, ID: uint16(i + 1),
			})) != nil {
				return
			}
		}
		sent.Store(true)
	}()
	quiet(t, d)
	if took := time.Since(began); took > time.Second {
		t.Errorf("another device waits %v", took)
	}
	for i := range packets {
		if ack := next(t, c, mqttwire.Puback); int(ack.ID) != i+1 {
			t.Fatalf("PUBACK of %d, want %d", ack.ID, i+1)
		}
	}
	if took := time.Since(began); took < 1500*time.Millisecond {
		t.Errorf("%d packets in %v", packets, took)
	}
	if !sent.Load() {
		t.Error("not all was sent")
	}
}

// Whoever waits for its turn to be read can still be put out.
func TestFloodEndsAtOnce(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll}, func(c *broker.Config) { c.MaxDeviceRate, c.MaxDeviceBurst = 1, 1 })
	c := device(t, b, mqttwire.V5, id)
	for range 100 {
		if err := c.Ping(); err != nil {
			t.Fatal(err)
		}
	}
	next(t, c, mqttwire.Pingresp)
	began := time.Now()
	b.Disconnect(id)
	eventually(t, "gone", func() bool { return b.Open() == 0 })
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// Claims are not held to the rate of packets: their pace is the rule's.
func TestClaimsAreNotPaced(t *testing.T) {
	b := start(t, &rule{}, func(c *broker.Config) { c.MaxDeviceRate, c.MaxDeviceBurst = 1, 5 })
	c := claimant(t, b, mqttwire.V5, "provision/response")
	began := time.Now()
	for range 100 {
		publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: 1})
		next(t, c, mqttwire.Publish)
		next(t, c, mqttwire.Puback)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

// Nor are acknowledgements, but those of nothing are.
func TestAcknowledgementsAreNotPaced(t *testing.T) {
	id := deviceID(t, 1)
	r := &rule{login: knowsAll}
	b := start(t, r, func(c *broker.Config) { c.MaxDeviceRate, c.MaxDeviceBurst = 10, 10 })
	c := device(t, b, mqttwire.V5, id)
	commands := "devices/" + id.String() + "/commands"
	subscribe(t, c, 1, commands)
	began := time.Now()
	for range 100 {
		r.tell(b, id, []byte("x"))
		p := next(t, c, mqttwire.Publish)
		if err := c.Send(mqttwire.AppendPuback(nil, mqttwire.V5, p.ID, 0)); err != nil {
			t.Fatal(err)
		}
	}
	quiet(t, c)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	began = time.Now()
	for range 30 {
		if err := c.Send(mqttwire.AppendPuback(nil, mqttwire.V5, 60_000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	quiet(t, c)
	quiet(t, c) // the first may have come with them
	if took := time.Since(began); took < time.Second {
		t.Errorf("acknowledged nothing 30 times in %v", took)
	}
}
