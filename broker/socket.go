package broker

import (
	"errors"
	"net"
	"sync"
	"time"
)

// socket is the TCP connection beneath it all, and beneath TLS where there is
// TLS, which writes by itself too (an alert, the answer to a key update). So
// the deadline that every write has is set here.
type socket struct {
	net.Conn
	timeout time.Duration

	// shaking is nil but during the handshake. Of the reading goroutine.
	shaking *handshake

	mu      sync.Mutex
	writeBy time.Time // the write deadline that is set; guarded by mu
	last    bool      // it is not moved any more; guarded by mu
}

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	if s.shaking != nil {
		return s.shaking.read(s.Conn, p)
	}
	return s.Conn.Read(p)
}

// Write blocks for at most twice the timeout.
func (s *socket) Write(p []byte) (int, error) {
	if err := s.allow(); err != nil {
		return 0, err
	}
	return s.Conn.Write(p)
}

// allow sets the deadline. That costs a third of a small write: one is good
// until less than the timeout is left of it.
func (s *socket) allow() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.last || s.writeBy.Sub(now) >= s.timeout {
		return nil
	}
	s.writeBy = now.Add(2 * s.timeout)
	return s.SetWriteDeadline(s.writeBy)
}

// hurry gives all writes, one under way too, that long. There is no other
// deadline afterwards: the connection is about to end.
func (s *socket) hurry(left time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = true
	s.writeBy = time.Now().Add(left)
	return s.SetWriteDeadline(s.writeBy)
}

// maxHandshake is the most bytes a client may send before its handshake is
// done: a chain of a few certificates is 10 KiB. crypto/tls would take 256 KiB
// of anybody.
const maxHandshake = 32 << 10

var (
	errHandshakeTooLarge = errors.New("handshake too large")
	errHandshakeTimeout  = errors.New("no turn for the handshake in time")
)

// handshake counts a connection among those whose handshake keeps a processor
// busy. One that waits for its client is not counted: else a few that send
// nothing would keep out all others.
type handshake struct {
	turns chan struct{} // a place for each that computes; all connections share it
	by    time.Time
	gone  <-chan struct{} // the connection was closed
	left  int             // bytes that it may still send
	turn  bool            // it computes
}

func (h *handshake) read(nc net.Conn, p []byte) (int, error) {
	h.rest()
	if h.left == 0 {
		return 0, errHandshakeTooLarge
	}
	n, err := nc.Read(p[:min(len(p), h.left)])
	h.left -= n
	if err != nil {
		return n, err
	}
	return n, h.take()
}

// take waits for a turn, to the end of the time that there is to log in.
func (h *handshake) take() error {
	select {
	case h.turns <- struct{}{}:
		h.turn = true
		return nil
	default:
	}
	t := time.NewTimer(time.Until(h.by))
	defer t.Stop()
	select {
	case h.turns <- struct{}{}:
		h.turn = true
		return nil
	case <-h.gone:
		return net.ErrClosed
	case <-t.C:
		return errHandshakeTimeout
	}
}

func (h *handshake) rest() {
	if h.turn {
		h.turn = false
		<-h.turns
	}
}
