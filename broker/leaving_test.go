package broker_test

import (
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// willLogin is a device's with a will, delayed by so many seconds in MQTT 5.
func willLogin(v mqttwire.Version, id edgeclaim.DeviceID, name string, delay uint32) []byte {
	login := deviceLogin(id)
	login.Will = &mqttwire.Message{Topic: name, Payload: []byte(`{"n":"will"}`), QoS: 1}
	packet := mqttwire.AppendConnect(nil, v, &login)
	if delay == 0 {
		return packet
	}
	// The will's properties follow the client id (MQTT 5.0, section 3.1.3.2).
	at := strings.Index(string(packet), login.ClientID) + len(login.ClientID)
	return withProperty(packet, at, binary.BigEndian.AppendUint32([]byte{5, 0x18}, delay))
}

// withProperty puts properties, with their length, where a packet says that it
// has none.
func withProperty(packet []byte, at int, properties []byte) []byte {
	_, n := binary.Uvarint(packet[1:])
	out := binary.AppendUvarint([]byte{packet[0]}, uint64(len(packet)-2-n+len(properties)))
	out = append(out, packet[1+n:at]...)
	return append(append(out, properties...), packet[at+1:]...)
}

func loginWith(t *testing.T, b *broker.Broker, v mqttwire.Version, connect []byte) *mqttwire.Client {
	t.Helper()
	nc, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := mqttwire.New(nc, v)
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(connect); err != nil {
		t.Fatal(err)
	}
	if ack := next(t, c, mqttwire.Connack); ack.Code() != 0 {
		t.Fatalf("CONNACK %#x", ack.Code())
	}
	return c
}

// A will is what the device says last; it, and a DISCONNECT, say that the device
// has left. A lost connection without one, and a takeover, do not.
func TestLeaving(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		for _, tt := range []struct {
			name  string
			will  bool
			delay uint32 // without a session, there is nothing to wait for
			leave func(*mqttwire.Client) error
			says  bool
			gone  int
		}{
			{"lost", false, 0, func(c *mqttwire.Client) error { return c.Close() }, false, 0},
			{"lost, with a will", true, 0, func(c *mqttwire.Client) error { return c.Close() }, true, 1},
			{"lost, with a delayed will", true, 3600, func(c *mqttwire.Client) error { return c.Close() }, true, 1},
			{"disconnected", false, 0, (*mqttwire.Client).Disconnect, false, 1},
			{"disconnected, with a will", true, 0, (*mqttwire.Client).Disconnect, false, 1},
			{"disconnected, asking for the will", true, 0, func(c *mqttwire.Client) error {
				if c.Version() < mqttwire.V5 {
					return c.Close()
				}
				return c.Send([]byte{0xe0, 2, 4, 0})
			}, true, 1},
		} {
			if tt.delay > 0 && v < mqttwire.V5 {
				continue
			}
			id := deviceID(t, 1)
			b, n := deskOf(t, nil, nil)
			connect := mqttwire.AppendConnect(nil, v, new(deviceLogin(id)))
			if tt.will {
				connect = willLogin(v, id, eventsOf(id), tt.delay)
			}
			c := loginWith(t, b, v, connect)
			if err := tt.leave(c); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the connection has ended", func() bool { return b.Open() == 0 })
			got := n.notes()
			if said := len(got) == 1 && got[0].event && got[0].body == `{"n":"will"}` && got[0].device == id; said != tt.says || len(got) > 1 {
				t.Errorf("%s: said %+v", tt.name, got)
			}
			if n.left() != tt.gone {
				t.Errorf("%s: left %d times, want %d", tt.name, n.left(), tt.gone)
			}
		}
	})
}

// Nothing more is heard of a device whose credential is void.
func TestVoidDeviceHasNoWill(t *testing.T) {
	id := deviceID(t, 1)
	b, n := deskOf(t, nil, nil)
	c := loginWith(t, b, mqttwire.V5, willLogin(mqttwire.V5, id, eventsOf(id), 0))
	b.Disconnect(id)
	gone(t, c)
	eventually(t, "the connection has ended", func() bool { return b.Open() == 0 })
	if got := n.notes(); len(got) != 0 {
		t.Errorf("said %+v", got)
	}
}

// A device that takes over its own old connection has not left, whatever its old
// will says.
func TestTakeoverIsNotLeaving(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		b, n := deskOf(t, nil, nil)
		old := loginWith(t, b, v, willLogin(v, id, telemetryOf(id), 0))
		c := device(t, b, v, id)
		gone(t, old)
		eventually(t, "one is left", func() bool { return b.Open() == 1 })
		quiet(t, c)
		if n.left() != 0 {
			t.Error("it has left")
		}
	})
}

// A delayed will comes when its time has, and not when the device is back by then.
func TestDelayedWill(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for seconds")
	}
	id, back := deviceID(t, 1), deviceID(t, 2)
	b, n := deskOf(t, nil, nil)
	for _, i := range []edgeclaim.DeviceID{id, back} {
		loginWith(t, b, mqttwire.V5, sleeperLogin(i)).Close()
	}
	eventually(t, "both are away", func() bool { return b.Open() == 0 })
	c, _ := dial(t, b, mqttwire.V5, sessionLogin(mqttwire.V5, back))
	if n.left() != 0 {
		t.Error("the will did not wait")
	}
	for _, got := range n.awaitNotes(t, 1) {
		if got.device != id || got.body != `{"n":"will"}` {
			t.Errorf("heard %+v", got)
		}
	}
	eventually(t, "it has left", func() bool { return n.left() == 1 })
	quiet(t, c)
	if got := n.notes(); len(got) != 1 {
		t.Errorf("heard %+v", got)
	}
}

// sleeperLogin is a device's that is remembered for a minute, with a will that is
// put off by a second.
func sleeperLogin(id edgeclaim.DeviceID) []byte {
	packet := willLogin(mqttwire.V5, id, eventsOf(id), 1)
	at := strings.Index(string(packet), "MQTT") + len("MQTT") + 4 // behind version, flags, keep-alive
	return withProperty(packet, at, []byte{5, 0x11, 0, 0, 0, 60})
}

// A session that goes on has no will: not even one that was put off in the moment
// in which the device came back.
func TestTakeoverHasNoDelayedWill(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for seconds")
	}
	b, n := deskOf(t, nil, nil)
	const devices = 200
	for i := range devices {
		loginWith(t, b, mqttwire.V5, sleeperLogin(deviceID(t, i)))
	}
	back := make([]*mqttwire.Client, devices)
	var group sync.WaitGroup
	for i := range devices {
		group.Go(func() { back[i], _ = dial(t, b, mqttwire.V5, sessionLogin(mqttwire.V5, deviceID(t, i))) })
	}
	group.Wait()
	last := deviceID(t, devices) // its will is due after all of theirs
	loginWith(t, b, mqttwire.V5, sleeperLogin(last)).Close()
	eventually(t, "the will of one that is away", func() bool { return n.left() > 0 && b.Open() == devices && said(n, last) })
	for _, c := range back {
		quiet(t, c)
	}
	if got := n.notes(); len(got) != 1 || n.left() != 1 {
		t.Errorf("%d wills of devices that are there, %d of them have left", len(got)-1, n.left()-1)
	}
}

func said(n *notebook, id edgeclaim.DeviceID) bool {
	return slices.ContainsFunc(n.notes(), func(x note) bool { return x.device == id })
}
