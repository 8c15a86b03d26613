package broker_test

import (
	"io"
	"net"
	"testing"
	"time"
)

// TestConnackSpeaksThreeOneOne: MQTT 3.1.1 has five words for a refusal
// (section 3.2.2.3), and a zero-length password is not a fault in it.
func TestConnackSpeaksThreeOneOne(t *testing.T) {
	b := start(t, &rule{}, nil)
	const clean, reserved, username, password, willRetain = 0x02, 0x01, 0x80, 0x40, 0x24
	for _, c := range []struct {
		name    string
		level   byte
		flags   byte
		payload string
		want    byte
	}{
		{"claimant with an empty password", 4, clean | username | password, "\x00\x01x\x00\x09provision\x00\x00", 0},
		{"neither name nor password, both said", 4, clean | username | password, "\x00\x01x\x00\x00\x00\x00", 0},
		{"no client id, and a session", 4, 0, "\x00\x00", 2},
		{"level 6", 6, clean, "\x00\x01x", 1},
		{"reserved flag", 4, clean | reserved, "\x00\x01x", 5},
		{"will with retain", 4, clean | username | willRetain, "\x00\x01x\x00\x01t\x00\x01m\x00\x09provision", 5},
		{"nobody's name", 4, clean | username, "\x00\x01x\x00\x06nobody", 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := append([]byte("\x00\x04MQTT"), c.level, c.flags, 0, 30)
			body = append(body, c.payload...)
			conn, err := net.Dial("tcp", b.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(append([]byte{0x10, byte(len(body))}, body...)); err != nil {
				t.Fatal(err)
			}
			var ack [4]byte
			if _, err := io.ReadFull(conn, ack[:]); err != nil {
				t.Fatal(err)
			}
			if ack[0] != 0x20 || ack[3] != c.want {
				t.Errorf("CONNACK % x, want code %d", ack, c.want)
			}
		})
	}
}
