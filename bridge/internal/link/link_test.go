package link_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"

	"edgeclaim/bridge/internal/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	connack  = "\x20\x02\x00\x00"
	pingresp = "\xd0\x00"
)

// pair returns a link and the far end of its connection.
func pair(t *testing.T, o link.Options) (*link.Link, net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	o.Address, o.ConnectTimeout = listener.Addr().String(), 5*time.Second
	if o.WriteTimeout == 0 {
		o.WriteTimeout = 5 * time.Second
	}
	l, err := link.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	far, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); far.Close() })
	return l, far
}

// publish is a QoS 1 PUBLISH to topic "t" with that packet id.
func publish(id uint16) []byte {
	return []byte{0x32, 6, 0, 1, 't', byte(id >> 8), byte(id), 'x'}
}

func puback(id uint16) string { return string([]byte{0x40, 2, byte(id >> 8), byte(id)}) }

func TestAckedNeedsBoth(t *testing.T) {
	l, far := pair(t, link.Options{})
	read := func(text string) {
		t.Helper()
		if _, err := far.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		// Byte by byte: a packet may come in any pieces.
		if _, err := io.ReadFull(iotest.OneByteReader(l), make([]byte, len(text))); err != nil {
			t.Fatal(err)
		}
	}
	write := func(id uint16) {
		t.Helper()
		if _, err := l.Write(publish(id)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, id uint16, want bool) {
		t.Helper()
		if l.Acked(id) != want {
			t.Errorf("%s: Acked(%d) = %v", when, id, !want)
		}
	}
	read(connack)
	read(puback(258))
	check("PUBACK before the PUBLISH", 258, false)
	write(258)
	check("PUBLISH alone", 258, false)
	read(puback(259) + pingresp)
	check("PUBACK of another", 258, false)
	check("PUBACK of what was never sent", 259, false)
	read(puback(258))
	check("both", 258, true)
	write(258)
	check("the id's next PUBLISH", 258, false)
	if _, err := l.Write([]byte{0x30, 4, 0, 1, 't', 'x'}); err != nil { // QoS 0 has no id
		t.Fatal(err)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, in   string
		maxInbound int
		want       string
	}{
		{"no CONNACK first", pingresp, 0, "not a CONNACK"},
		{"two CONNACKs", connack + connack, 0, "second CONNACK"},
		{"unknown code", "\x20\x02\x00\x06", 0, "unknown code 6"},
		{"long CONNACK", "\x20\x03\x00\x00\x00", 0, "length 3"},
		{"flags on PUBACK", connack + "\x41\x02\x00\x01", 0, "flags 1"},
		{"five bytes of length", connack + "\x40\x80\x80\x80\x80\x01", 0, "does not speak"},
		{"PUBLISH uncalled for", connack + "\x30\x04\x00\x01tx", 0, "type 3"},
		{"SUBACK uncalled for", connack + "\x90\x03\x00\x01\x00", 0, "type 9"},
		{"long PUBLISH", connack + "\x30\x65", 100, "101 bytes"},
		{"two codes in a SUBACK", connack + "\x90\x04\x00\x01\x00\x00", 100, "type 9"},
		{"PUBREC", connack + "\x50\x02\x00\x01", 100, "type 5"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, far := pair(t, link.Options{MaxInbound: tc.maxInbound})
			if _, err := far.Write([]byte(tc.in)); err != nil {
				t.Fatal(err)
			}
			_, err := io.Copy(io.Discard, l)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !errors.Is(l.Fault(), err) {
				t.Errorf("error %v, fault %v, want %q", err, l.Fault(), tc.want)
			}
			if _, err := far.Read(make([]byte, 1)); err == nil {
				t.Error("the connection is still open")
			}
		})
	}
}

func TestReadPassesOn(t *testing.T) {
	in := connack + pingresp + "\x90\x03\x00\x01\x00" + "\x30\x04\x00\x01tx" + puback(7)
	l, far := pair(t, link.Options{MaxInbound: 100})
	if _, err := far.Write([]byte(in)); err != nil {
		t.Fatal(err)
	}
	far.Close()
	got, err := io.ReadAll(l)
	if string(got) != in {
		t.Errorf("passed on %q, %v; want %q", got, err, in)
	}
}

// TestOversizedIsThrownAway: a message above the limit is read over, however
// it is cut into pieces; with QoS 1 the link acknowledges it; what comes
// around it is passed on.
func TestOversizedIsThrownAway(t *testing.T) {
	const small = "\x30\x04\x00\x01tx"
	large := string(append([]byte{0x30, 0xac, 0x02, 0, 1, 't'}, make([]byte, 297)...))              // 300 bytes, QoS 0
	large1 := string(append([]byte{0x32, 0xac, 0x02, 0, 1, 't', 0x12, 0x34}, make([]byte, 295)...)) // and QoS 1
	in := connack + small + large + small + large1 + puback(7)
	want := connack + small + small + puback(7)
	for name, cut := range map[string]func(io.Writer) error{
		"whole": func(w io.Writer) error { _, err := io.WriteString(w, in); return err },
		"byte by byte": func(w io.Writer) error {
			_, err := io.Copy(w, iotest.OneByteReader(strings.NewReader(in)))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var sizes []int
			l, far := pair(t, link.Options{MaxInbound: 100, OnOversized: func(n int) { sizes = append(sizes, n) }})
			if tcp, ok := far.(*net.TCPConn); ok {
				_ = tcp.SetNoDelay(true)
			}
			sent := make(chan error, 1)
			go func() { sent <- cut(onlyWriter{far}) }() // awaited below
			got := make([]byte, len(want))
			if _, err := io.ReadFull(l, got); err != nil || string(got) != want {
				t.Errorf("passed on %q, %v; want %q", got, err, want)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if len(sizes) != 2 || sizes[0] != 300 || sizes[1] != 300 {
				t.Errorf("told of %v, want 300 twice", sizes)
			}
			ack := make([]byte, 4)
			if _, err := io.ReadFull(far, ack); err != nil || string(ack) != puback(0x1234) {
				t.Errorf("acknowledged with %x, %v", ack, err)
			}
		})
	}
	t.Run("with QoS 2 it ends the link", func(t *testing.T) {
		l, far := pair(t, link.Options{MaxInbound: 100, OnOversized: func(int) {}})
		if _, err := io.WriteString(far, connack+"\x34\xac\x02"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, l); err == nil || !strings.Contains(err.Error(), "300 bytes") {
			t.Errorf("error %v", err)
		}
	})
}

// onlyWriter hides ReadFrom, so that every write is a packet of its own.
type onlyWriter struct{ io.Writer }

func TestWriteDeadline(t *testing.T) {
	const timeout = 100 * time.Millisecond
	l, far := pair(t, link.Options{WriteTimeout: timeout})
	if tcp, ok := far.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(4 << 10)
	}
	began, chunk := time.Now(), make([]byte, 1<<20)
	var err error
	for err == nil && time.Since(began) < 10*time.Second {
		_, err = l.Write(chunk)
		// What the library above does must not lift the deadline.
		_ = l.SetWriteDeadline(time.Time{})
		_ = l.SetDeadline(time.Time{})
	}
	var timedOut net.Error
	if !errors.As(err, &timedOut) || !timedOut.Timeout() || !errors.Is(l.Fault(), err) {
		t.Errorf("writing to a peer that does not read: %v, fault %v", err, l.Fault())
	}
}

// TestCloseIsAFault: after its own Close a link gives an error that the client
// library above does not take for its own doing.
func TestCloseIsAFault(t *testing.T) {
	l, _ := pair(t, link.Options{})
	l.Close()
	if _, err := l.Read(make([]byte, 1)); !errors.Is(err, link.ErrClosed) || strings.Contains(err.Error(), "use of closed network connection") {
		t.Errorf("Read after Close: %v", err)
	}
	l.Fail(io.EOF)
	if !errors.Is(l.Fault(), link.ErrClosed) {
		t.Errorf("the first reason gave way to %v", l.Fault())
	}
}

// FuzzGuard: however a stream is cut into reads, the guard says the same, and
// never panics.
func FuzzGuard(f *testing.F) {
	for _, seed := range []string{
		connack + pingresp + puback(1), "\x20\x02\x00\x06", connack + "\x30\x04\x00\x01tx", "\x20\xff\xff\xff\xff",
	} {
		f.Add([]byte(seed), 100)
	}
	f.Fuzz(func(t *testing.T, stream []byte, maxInbound int) {
		whole := link.GuardReads(maxInbound, stream)
		pieces := make([][]byte, 0, len(stream))
		for i := range stream {
			pieces = append(pieces, stream[i:i+1])
		}
		if single := link.GuardReads(maxInbound, pieces...); (single == nil) != (whole == nil) {
			t.Errorf("%x: whole %v, byte by byte %v", stream, whole, single)
		}
	})
}

// FuzzPublishID: no packet that is written makes the guard fall over.
func FuzzPublishID(f *testing.F) {
	f.Add(publish(9))
	f.Add([]byte{0x32, 0x80})
	f.Fuzz(func(t *testing.T, packet []byte) {
		if id, ok := link.PublishID(packet); ok && len(packet) < 6 {
			t.Errorf("%x has the id %d", packet, id)
		}
	})
}
