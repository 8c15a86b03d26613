package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

func commandsOf(id edgeclaim.DeviceID) string { return "devices/" + id.String() + "/commands" }

func configOf(id edgeclaim.DeviceID) string { return "devices/" + id.String() + "/config" }

func ack(t *testing.T, c *mqttwire.Client, id uint16, reason byte) {
	t.Helper()
	if err := c.Send(mqttwire.AppendPuback(nil, c.Version(), id, reason)); err != nil {
		t.Fatal(err)
	}
}

// hears is the next packet, which must be that message.
func hears(t *testing.T, c *mqttwire.Client, name, payload string) mqttwire.Packet {
	t.Helper()
	p := next(t, c, mqttwire.Publish)
	if p.Topic != name || string(p.Payload) != payload || p.Retain || p.Dup {
		t.Fatalf("heard %q on %s, want %q on %s", p.Payload, p.Topic, payload, name)
	}
	return p
}

// A command is written when that is durable, not before, and delivered when the
// device has acknowledged it.
func TestCommandIsSentDurably(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		committing, committed := make(chan struct{}), make(chan struct{})
		r := &rule{login: knowsAll}
		r.fail = func(method string) error {
			if method == "sent" {
				committing <- struct{}{}
				<-committed
			}
			return nil
		}
		b := start(t, r, nil)
		c := device(t, b, v, id)
		subscribe(t, c, 1, commandsOf(id))
		cid := r.tell(b, id, []byte("blink"))
		<-committing
		quiet(t, c)
		later := r.tell(b, id, []byte("what came meanwhile"))
		close(committed)
		p := hears(t, c, commandsOf(id), "blink")
		if sent, delivered := r.state(id, cid); sent != 1 || delivered {
			t.Errorf("sent %d times, delivered: %v", sent, delivered)
		}
		select {
		case <-committing:
		case <-time.After(patience):
			t.Fatal("what came meanwhile is forgotten")
		}
		ack(t, c, hears(t, c, commandsOf(id), "what came meanwhile").ID, 0)
		ack(t, c, p.ID, 0)
		quiet(t, c)
		for _, each := range []edgeclaim.CommandID{cid, later} {
			if sent, delivered := r.state(id, each); sent != 1 || !delivered || p.QoS != 1 {
				t.Errorf("sent %d times, delivered: %v, at QoS %d", sent, delivered, p.QoS)
			}
		}
	})
}

// What waits comes when the device subscribes, behind the SUBACK, in order; then
// what comes later, at once, and to nobody else.
func TestCommandsWait(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id, other := deviceID(t, 1), deviceID(t, 2)
		r := &rule{login: knowsAll}
		b := start(t, r, nil)
		const many = 40
		for i := range many {
			r.tell(b, id, fmt.Appendf(nil, "%d", i))
		}
		c, z := device(t, b, v, id), device(t, b, v, other)
		subscribe(t, z, 1, commandsOf(other))
		quiet(t, c)
		subscribe(t, c, 1, commandsOf(id))
		for i := range many {
			ack(t, c, hears(t, c, commandsOf(id), fmt.Sprint(i)).ID, 0)
		}
		r.tell(b, id, []byte("now"))
		ack(t, c, hears(t, c, commandsOf(id), "now").ID, 0)
		quiet(t, c)
		quiet(t, z)
		if n := r.listened(id); n != 1 {
			t.Errorf("it listened %d times", n)
		}
		if err := c.Send(mqttwire.AppendUnsubscribe(nil, v, 9, commandsOf(id))); err != nil {
			t.Fatal(err)
		}
		next(t, c, mqttwire.Unsuback)
		cid := r.tell(b, id, []byte("nobody listens"))
		quiet(t, c)
		if sent, _ := r.state(id, cid); sent != 0 {
			t.Error("sent to who does not listen")
		}
		subscribe(t, c, 1, commandsOf(id))
		hears(t, c, commandsOf(id), "nobody listens")
	})
}

// Who subscribes at QoS 0 has nothing to acknowledge; what a device refuses is not
// delivered.
func TestCommandIsNotDelivered(t *testing.T) {
	id := deviceID(t, 1)
	r := &rule{login: knowsAll}
	b := start(t, r, nil)
	c := device(t, b, mqttwire.V5, id)
	if err := c.Send(mqttwire.AppendSubscribe(nil, mqttwire.V5, 1, 0, commandsOf(id))); err != nil {
		t.Fatal(err)
	}
	next(t, c, mqttwire.Suback)
	first := r.tell(b, id, []byte("0"))
	if p := hears(t, c, commandsOf(id), "0"); p.QoS != 0 {
		t.Errorf("at QoS %d", p.QoS)
	}
	// Else it could come, at the old QoS, before the SUBACK.
	if err := c.Send(mqttwire.AppendUnsubscribe(nil, mqttwire.V5, 2, commandsOf(id))); err != nil {
		t.Fatal(err)
	}
	next(t, c, mqttwire.Unsuback)
	subscribe(t, c, 1, commandsOf(id))
	again := hears(t, c, commandsOf(id), "0") // it was not delivered
	ack(t, c, again.ID, 0x97)
	ack(t, c, again.ID, 0) // of nothing any more
	ack(t, c, 77, 0)
	quiet(t, c)
	if sent, delivered := r.state(id, first); sent != 2 || delivered {
		t.Errorf("sent %d times, delivered: %v", sent, delivered)
	}
}

// No more are on their way than the device takes (MQTT 5.0, section 3.3.4).
func TestCommandsHeedReceiveMaximum(t *testing.T) {
	id := deviceID(t, 1)
	r := &rule{login: knowsAll}
	b := start(t, r, nil)
	login := deviceLogin(id)
	login.Properties.ReceiveMaximum = 3
	c, _ := dial(t, b, mqttwire.V5, login)
	subscribe(t, c, 1, commandsOf(id))
	for i := range 10 {
		r.tell(b, id, fmt.Appendf(nil, "%d", i))
	}
	var open []uint16
	for i := range 3 {
		open = append(open, hears(t, c, commandsOf(id), fmt.Sprint(i)).ID)
	}
	silent(t, c)
	for i := 3; i < 10; i++ {
		ack(t, c, open[0], 0)
		open = append(open[1:], hears(t, c, commandsOf(id), fmt.Sprint(i)).ID)
	}
	quiet(t, c)
}

// What expires while it becomes durable is not written (P10: by the clock that is
// given).
func TestExpiredCommandIsNotSent(t *testing.T) {
	id := deviceID(t, 1)
	var hours atomic.Int64
	now := time.Now()
	r := &rule{login: knowsAll, change: func(p *broker.Parts) {
		p.Now = func() time.Time { return now.Add(time.Duration(hours.Load()) * time.Hour) }
		p.Encode = func(c edgeclaim.Command) ([]byte, error) {
			if string(c.Payload) == "hardly any time" {
				return nil, edgeclaim.ErrConflict
			}
			return fmt.Appendf(nil, "%s %s", c.Payload, c.ExpiresAt.Sub(p.Now())), nil
		}
	}}
	r.fail = func(method string) error {
		if method == "sent" {
			hours.Add(2)
		}
		return nil
	}
	b := start(t, r, nil)
	c := device(t, b, mqttwire.V5, id)
	subscribe(t, c, 1, commandsOf(id))
	r.put(id, []byte("late"), now.Add(time.Hour))
	r.put(id, []byte("hardly any time"), now.Add(3*time.Hour))
	r.tellUntil(b, id, []byte("in time"), now.Add(5*time.Hour))
	p := hears(t, c, commandsOf(id), "in time 3h0m0s")
	if e := p.Properties.MessageExpiryInterval; e != 3*3600 {
		t.Errorf("expires in %d s", e)
	}
	quiet(t, c)
}

// What cannot be had from the disk is tried again.
func TestCommandsAreTriedAgain(t *testing.T) {
	for _, method := range []string{"due", "sent", "config", "delivered"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			id := deviceID(t, 1)
			var failures atomic.Int64
			r := &rule{login: knowsAll}
			r.fail = func(m string) error {
				if m == method && failures.Add(1) == 1 {
					if method == "due" {
						panic("on fire")
					}
					return edgeclaim.ErrUnavailable
				}
				return nil
			}
			b := start(t, r, nil)
			c := device(t, b, mqttwire.V5, id)
			subscribe(t, c, 1, commandsOf(id), configOf(id))
			quiet(t, c)
			r.setConfig(b, id, `{"interval":5}`)
			cid := r.tell(b, id, []byte("blink"))
			heard := map[string]uint16{}
			for range 2 {
				p := next(t, c, mqttwire.Publish)
				heard[string(p.Payload)] = p.ID
			}
			if len(heard) != 2 || heard["blink"] == 0 {
				t.Fatalf("heard %v", heard)
			}
			ack(t, c, heard["blink"], 0)
			quiet(t, c)
			if _, delivered := r.state(id, cid); delivered == (method == "delivered") {
				t.Errorf("delivered: %v", delivered)
			}
		})
	}
}

// A device is told its configuration when it subscribes, when it changes, and not
// a second time.
func TestConfigReachesTheDevice(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		r := &rule{login: knowsAll}
		b := start(t, r, nil)
		c := device(t, b, v, id)
		subscribe(t, c, 1, configOf(id))
		b.Wake(id)
		quiet(t, c) // nobody has set anything
		r.setConfig(b, id, `{"interval":5}`)
		p := hears(t, c, configOf(id), `{"version":1,"config":{"interval":5}}`)
		ack(t, c, p.ID, 0)
		b.Wake(id)
		silent(t, c)
		r.setConfig(b, id, `{"interval":6}`)
		hears(t, c, configOf(id), `{"version":2,"config":{"interval":6}}`)
		subscribe(t, c, 1, configOf(id))
		hears(t, c, configOf(id), `{"version":2,"config":{"interval":6}}`)
		quiet(t, c)
		c.Close()
		c, _ = dial(t, b, v, sessionLogin(v, id))
		subscribe(t, c, 1, configOf(id))
		hears(t, c, configOf(id), `{"version":2,"config":{"interval":6}}`)
		c.Close()
		eventually(t, "away", func() bool { return b.Connections().Devices == 0 })
		c, _ = dial(t, b, v, sessionLogin(v, id)) // with its subscription
		hears(t, c, configOf(id), `{"version":2,"config":{"interval":6}}`)
	})
}

// A message that is too large for a device is not sent to it, and keeps no other
// up (MQTT 5.0, section 3.1.2.11.4).
func TestCommandTooLarge(t *testing.T) {
	id := deviceID(t, 1)
	r := &rule{login: knowsAll}
	b := start(t, r, nil)
	login := deviceLogin(id)
	login.Properties.MaximumPacketSize, login.Properties.ReceiveMaximum = 300, 1
	c, _ := dial(t, b, mqttwire.V5, login)
	subscribe(t, c, 1, commandsOf(id))
	r.tell(b, id, make([]byte, 1000))
	r.tell(b, id, []byte("small"))
	hears(t, c, commandsOf(id), "small")
	quiet(t, c)
}

// A subscription's identifier comes back with each message (MQTT 5.0, section
// 3.3.2.3.8).
func TestSubscriptionIdentifier(t *testing.T) {
	id := deviceID(t, 1)
	r := &rule{login: knowsAll}
	b := start(t, r, nil)
	c := device(t, b, mqttwire.V5, id)
	packet := mqttwire.AppendSubscribe(nil, mqttwire.V5, 1, 1, commandsOf(id))
	if err := c.Send(withProperty(packet, 4, []byte{2, 0x0b, 42})); err != nil {
		t.Fatal(err)
	}
	next(t, c, mqttwire.Suback)
	r.tell(b, id, []byte("blink"))
	head := make([]byte, 256)
	n, err := c.Conn().Read(head)
	if err != nil || !slices.Contains(head[:n], 0x0b) || head[slices.Index(head[:n], 0x0b)+1] != 42 {
		t.Errorf("got %x, %v", head[:n], err)
	}
}

// Many devices are told at once, each only what is its own.
func TestManyAreTold(t *testing.T) {
	r := &rule{login: knowsAll}
	b := start(t, r, nil)
	const devices, each = 100, 5
	var group errgroup.Group
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for i := range devices {
		id := deviceID(t, i+1)
		group.Go(func() error {
			c, _, err := mqttwire.Dial(ctx, b.Addr().String(), mqttwire.V311, deviceLogin(id))
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
				return err
			}
			if _, err := c.Subscribe(commandsOf(id)); err != nil {
				return err
			}
			for n := range each {
				r.tell(b, id, fmt.Appendf(nil, "%v %d", id, n))
			}
			for n := range each {
				p, err := c.Read()
				if err != nil || string(p.Payload) != fmt.Sprintf("%v %d", id, n) {
					return errors.Join(err, fmt.Errorf("%v heard %q", id, p.Payload))
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	eventually(t, "nobody is waited for", func() bool { return b.Errands() == 0 })
}

// Wake is for anybody at any time: who is not there is told when he comes.
func TestWakeOfNobody(t *testing.T) {
	b := start(t, &rule{login: knowsAll}, nil)
	for i := range 1000 {
		b.Wake(deviceID(t, i))
	}
	if n := b.Errands(); n != 0 {
		t.Errorf("%d are remembered", n)
	}
}

// A device that comes back while it is being marked as told is told on its new
// connection, and at once.
func TestCommandFollowsTheDevice(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		committing, committed := make(chan struct{}), make(chan struct{})
		var first atomic.Bool
		r := &rule{login: knowsAll}
		r.fail = func(method string) error {
			if method == "sent" && first.CompareAndSwap(false, true) {
				close(committing)
				<-committed
			}
			return nil
		}
		b := start(t, r, nil)
		old := device(t, b, v, id)
		subscribe(t, old, 1, commandsOf(id))
		cid := r.tell(b, id, []byte("blink"))
		<-committing
		c := device(t, b, v, id)
		gone(t, old)
		subscribe(t, c, 1, commandsOf(id))
		quiet(t, c)
		close(committed)
		hears(t, c, commandsOf(id), "blink")
		if sent, _ := r.state(id, cid); sent != 2 {
			t.Errorf("sent %d times", sent)
		}
	})
}
