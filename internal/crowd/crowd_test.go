package crowd_test

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/crowd"
)

const patience = 10 * time.Second

func TestCrowd(t *testing.T) {
	c := crowd.New(2, crowd.Loopback)
	for _, tt := range []struct {
		source string
		enters bool
	}{
		{"192.0.2.1", true},
		{"192.0.2.1", true},
		{"192.0.2.1", false},
		{"::ffff:192.0.2.1", false}, // the same, mapped
		{"192.0.2.2", true},
		{"2001:db8:0:1::1", true},
		{"2001:db8:0:1:ffff::2", true}, // the same /64
		{"2001:db8:0:1::3", false},
		{"2001:db8:0:2::1", true},
		{"fe80::1%eth0", true},
		{"fe80::2%eth1", true}, // a zone makes no other source
		{"fe80::3", false},
		{"127.0.0.1", true},
		{"127.0.0.2", true},
		{"::1", true},
		{"::1", true},
		{"::1", true},
		{"::ffff:127.0.0.1", true},
	} {
		if got := c.Enter(netip.MustParseAddr(tt.source)); got != tt.enters {
			t.Errorf("%s enters: %v, want %v", tt.source, got, tt.enters)
		}
	}
	c.Leave(netip.MustParseAddr("::ffff:192.0.2.1"))
	if !c.Enter(netip.MustParseAddr("192.0.2.1")) || c.Enter(netip.MustParseAddr("192.0.2.1")) {
		t.Error("one that left makes room for one")
	}
	for range 2 { // those without an address are one source
		if !c.Enter(netip.Addr{}) {
			t.Error("not let in")
		}
	}
	if c.Enter(netip.Addr{}) {
		t.Error("a third without an address")
	}
}

// Nobody is remembered who is not connected.
func TestCrowdForgets(t *testing.T) {
	c := crowd.New(3, nil)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 2000 {
				source := netip.AddrFrom4([4]byte{10, byte(i % 2), byte(n >> 8), byte(n)})
				if c.Enter(source) {
					c.Leave(source)
				}
			}
		})
	}
	group.Wait()
	if n := c.Sources(); n != 0 {
		t.Errorf("%d sources remembered", n)
	}
}

// The listener closes the newest of a crowd at once, and lets another in when
// one is closed, once for however many closes.
func TestListener(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := crowd.New(2, nil)
	ln := crowd.Listener(plain, c)
	accepted := make(chan net.Conn, 8)
	ended := make(chan error, 1)
	go func() { // ends when ln is closed
		for {
			nc, err := ln.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- nc
		}
	}()
	dial := func() net.Conn {
		nc, err := net.Dial("tcp", plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		return nc
	}
	dial()
	first := <-accepted
	dial()
	second := <-accepted
	if n, err := dial().Read(make([]byte, 1)); err == nil {
		t.Errorf("a third: %d bytes", n)
	}
	first.Close()
	_ = first.Close()
	dial()
	third := <-accepted
	if n, err := dial().Read(make([]byte, 1)); err == nil {
		t.Errorf("a fourth: %d bytes", n)
	}
	for _, nc := range []net.Conn{second, third} {
		nc.Close()
	}
	if c.Sources() != 0 {
		t.Error("somebody is left")
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	<-ended
}
