package acceptance

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// relay is a cable of bytes between clients and a listener of the box, with TLS
// on it or without. It sees when the box closes a connection, and can keep what
// the box says to itself.
type relay struct {
	listener net.Listener
	work     sync.WaitGroup // all goroutines; close awaits them
	// closed has a token for each connection that the box closed.
	closed chan struct{}

	mu    sync.Mutex
	keeps bool
	kept  bytes.Buffer
	ended bool
	conns map[net.Conn]struct{}
}

// maxRelayed is how many connections through a relay the box may close unseen.
const maxRelayed = 64

// newRelay forwards to target until the test ends.
func newRelay(t testing.TB, target string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: listener, closed: make(chan struct{}, maxRelayed), conns: map[net.Conn]struct{}{}}
	r.work.Go(func() { r.serve(target) })
	t.Cleanup(r.close)
	return r
}

func (r *relay) addr() string { return r.listener.Addr().String() }

// keep makes the relay keep what the box says from now on.
func (r *relay) keep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keeps = true
}

// said is what it has kept.
func (r *relay) said() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.kept.Bytes())
}

func (r *relay) serve(target string) {
	for {
		near, err := r.listener.Accept()
		if err != nil {
			return // closed at the end
		}
		far, err := net.Dial("tcp", target)
		if err != nil || !r.take(near, far) {
			near.Close()
			continue
		}
		r.work.Go(func() {
			_, _ = io.Copy(far, near) // either end closes
			far.Close()
		})
		r.work.Go(func() {
			_, err := io.Copy(tapped{r, near}, far)
			near.Close()
			if !errors.Is(err, net.ErrClosed) { // else the client was first
				r.closed <- struct{}{}
			}
		})
	}
}

// take takes a pair of connections over, unless it is too late.
func (r *relay) take(pair ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range pair {
		if r.ended {
			conn.Close()
		}
		r.conns[conn] = struct{}{}
	}
	return !r.ended
}

func (r *relay) close() {
	r.listener.Close()
	r.mu.Lock()
	r.ended = true
	for conn := range r.conns {
		conn.Close()
	}
	r.mu.Unlock()
	r.work.Wait()
}

// tapped is a client's end, to which the box's words go or do not.
type tapped struct {
	relay *relay
	conn  net.Conn
}

func (w tapped) Write(p []byte) (int, error) {
	w.relay.mu.Lock()
	keeps := w.relay.keeps
	if keeps {
		w.relay.kept.Write(p)
	}
	w.relay.mu.Unlock()
	if keeps {
		return len(p), nil
	}
	return w.conn.Write(p)
}
