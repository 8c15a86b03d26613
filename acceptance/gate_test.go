package acceptance

import (
	"io"
	"net"
	"sync"
	"testing"
)

// gate is a TCP proxy that the test opens and shuts: a cable that can be
// pulled. Shut, it takes connections and breaks them off.
type gate struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	open  bool
	conns map[net.Conn]struct{}
	work  sync.WaitGroup
}

// newGate makes a gate that is shut.
func newGate(t testing.TB, target string) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: listener, target: target, conns: map[net.Conn]struct{}{}}
	g.work.Go(g.serve)
	t.Cleanup(func() {
		listener.Close()
		g.set(false)
		g.work.Wait()
	})
	return g
}

func (g *gate) addr() string { return g.listener.Addr().String() }

// set opens or shuts the gate; shutting it breaks what is open.
func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = open
	if open {
		return
	}
	for conn := range g.conns {
		conn.Close()
	}
	clear(g.conns)
}

func (g *gate) serve() {
	for {
		near, err := g.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", g.target)
		if err != nil || !g.admit(near, far) {
			near.Close()
			if far != nil {
				far.Close()
			}
			continue
		}
		g.work.Go(func() { pipe(far, near) })
		g.work.Go(func() { pipe(near, far) })
	}
}

func (g *gate) admit(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return false
	}
	for _, conn := range conns {
		g.conns[conn] = struct{}{}
	}
	return true
}

func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from) // it ends when either side does
	to.Close()
	from.Close()
}

// blackHole takes connections and never says a word.
func blackHole(t testing.TB) string { return talker(t, "") }

// talker takes connections, says its one sentence and keeps them.
func talker(t testing.TB, sentence string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		var conns []net.Conn
		for {
			conn, err := listener.Accept()
			if err != nil {
				for _, conn := range conns {
					conn.Close()
				}
				return
			}
			conns = append(conns, conn)
			_, _ = io.WriteString(conn, sentence)
		}
	})
	t.Cleanup(func() {
		listener.Close()
		work.Wait()
	})
	return listener.Addr().String()
}
