package broker_test

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// Those who send nothing, or half of a handshake, keep nobody out, however few
// handshakes may compute at once; and they go.
func TestSlowHandshakes(t *testing.T) {
	s := startSecure(t, &rule{}, func(c *broker.Config) {
		c.MaxHandshakes, c.ConnectTimeout = 1, 500*time.Millisecond
	})
	hello := helloOf(t)
	var slow []net.Conn
	began := time.Now()
	for i := range 20 {
		nc, err := net.Dial("tcp", s.TLSAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		switch i % 3 {
		case 1:
			send(t, nc, hello[:len(hello)/2])
		case 2:
			send(t, nc, hello) // and never answers
		}
		slow = append(slow, nc)
	}
	done, err := s.connect(t, s.client()) // the handshake, and no CONNECT
	if err != nil {
		t.Fatal(err)
	}
	slow = append(slow, done)
	if _, ack := s.dial(t, mqttwire.V5, mqttwire.Login{Clean: true}); ack.Code() != 0 {
		t.Errorf("CONNACK %#x", ack.Code())
	}
	if took := time.Since(began); took > 450*time.Millisecond {
		t.Skipf("too slow a machine to tell: %v", took)
	}
	for i, nc := range slow {
		buf := make([]byte, 8192)
		for err = nil; err == nil; _, err = nc.Read(buf) { //nolint:revive // reads to the end
		}
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatalf("connection %d is still open", i)
		}
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the last went after %v", took)
	}
}

// helloOf is a ClientHello.
func helloOf(t *testing.T) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() { // ends when ours is closed
		defer theirs.Close()
		_ = tls.Client(theirs, &tls.Config{ServerName: "localhost"}).Handshake() //nolint:gosec // it ends with the hello
	}()
	buf := make([]byte, 8192)
	n, err := ours.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// What a client may send in its handshake is bounded.
func TestLargeHandshake(t *testing.T) {
	s := startSecure(t, &rule{}, nil)
	for size, good := range map[int]bool{10_000: true, 20_000: false, 30_000: false} {
		c, err := s.connect(t, s.client(selfSigned(t, "x", size)))
		if err == nil {
			_, err = mqttwire.New(c, mqttwire.V5).Login(mqttwire.Login{Clean: true})
		}
		if ne, ok := err.(net.Error); ok && ne.Timeout() || (err == nil) != good {
			t.Errorf("a certificate of %d bytes: %v", 2*size, err) // it has the name twice
		}
		c.Close()
	}
	eventually(t, "gone", func() bool { return s.Open() == 0 })
}

// What speaks no TLS gets no word.
func TestPlainOnTLS(t *testing.T) {
	s := startSecure(t, &rule{}, nil)
	nc, err := net.Dial("tcp", s.TLSAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	login := mqttwire.Login{Clean: true}
	send(t, nc, mqttwire.AppendConnect(nil, mqttwire.V5, &login))
	closed(t, nc)
}
