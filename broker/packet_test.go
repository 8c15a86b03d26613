package broker_test

import (
	"testing"

	"edgeclaim/internal/mqttwire"
)

// A packet is refused by its header, whoever sends it and whatever it is.
func TestPacketSize(t *testing.T) {
	b := start(t, &rule{login: knowsAll}, nil)
	const limit = 9 << 10
	t.Run("before login", func(t *testing.T) {
		c := connect(t, b)
		send(t, c, []byte{0x10, 0xff, 0xff, 0xff, 0x7f}) // a CONNECT of 256 MiB
		closed(t, c)
	})
	t.Run("length without end", func(t *testing.T) {
		c := connect(t, b)
		send(t, c, []byte{0x10, 0x80, 0x80, 0x80, 0x80, 0x01})
		closed(t, c)
	})
	t.Run("claimant", func(t *testing.T) {
		c := claimant(t, b, mqttwire.V5, "provision/response")
		m := mqttwire.Message{Topic: "provision/request", QoS: 1}
		m.Payload = make([]byte, limit-len(mqttwire.AppendPublish(nil, mqttwire.V5, &m))-1) // one more byte of length
		publish(t, c, m)                                                                    // a packet of the limit: the body is what is too large
		next(t, c, mqttwire.Publish)
		next(t, c, mqttwire.Puback)
		m.Payload = append(m.Payload, 0)
		_ = c.Publish(m) // the connection may be closed before all is written
		toldWhy(t, c, 0x95)
	})
	t.Run("device", func(t *testing.T) {
		id := deviceID(t, 1)
		for v, ended := range map[mqttwire.Version]func(testing.TB, *mqttwire.Client, byte){
			mqttwire.V311: hungUp, mqttwire.V5: toldWhy,
		} {
			c := device(t, b, v, id)
			m := mqttwire.Message{Topic: "devices/" + id.String() + "/telemetry", QoS: 1, Payload: make([]byte, 60<<10)}
			publish(t, c, m)
			next(t, c, mqttwire.Puback)
			m.Payload = make([]byte, 64<<10)
			_ = c.Publish(m)
			ended(t, c, 0x95)
		}
	})
	t.Run("device without a length", func(t *testing.T) {
		c := device(t, b, mqttwire.V5, deviceID(t, 1))
		if err := c.Send([]byte{0x30, 0x80, 0x80, 0x80, 0x80, 0x01}); err != nil {
			t.Fatal(err)
		}
		toldWhy(t, c, 0x81)
	})
	t.Run("device in one go", func(t *testing.T) { // the packet after CONNECT is judged as a device's
		id := deviceID(t, 1)
		login := deviceLogin(id)
		all := mqttwire.AppendConnect(nil, mqttwire.V5, &login)
		all = mqttwire.AppendPublish(all, mqttwire.V5, &mqttwire.Message{
			Topic: "devices/" + id.String() + "/events", QoS: 1, ID: 7, Payload: make([]byte, 20<<10),
		})
		c := mqttwire.New(connect(t, b), mqttwire.V5)
		if err := c.Send(all); err != nil {
			t.Fatal(err)
		}
		next(t, c, mqttwire.Connack)
		next(t, c, mqttwire.Puback)
	})
}

// toldWhy is that the broker said why, then closed the connection.
func toldWhy(t testing.TB, c *mqttwire.Client, reason byte) {
	t.Helper()
	if p := next(t, c, mqttwire.Disconnect); p.Code() != reason {
		t.Errorf("DISCONNECT with %#x, want %#x", p.Code(), reason)
	}
	hungUp(t, c, reason)
}
