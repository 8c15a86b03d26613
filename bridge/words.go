package bridge

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// The ways a connection ends that this side decides.
var (
	errStopped   = errors.New("the box is stopping")
	errNoConnack = errors.New("connected, but no answer to CONNECT came in time")
	errNoPuback  = errors.New("connected, but the broker stopped acknowledging (no PUBACK in time)")
	errForgedAck = errors.New("the broker acknowledged what it had not been sent")
)

// words says an error to an operator. It has no secret in it: no error on the
// way here holds a user name, a password or a payload (P5).
func words(err error) string {
	var lookup *net.DNSError
	switch {
	case err == nil:
		return "the connection ended"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the broker closed the connection"
	case errors.As(err, &lookup):
		return "the broker's name could not be looked up: " + err.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: " + err.Error()
	case isTimeout(err):
		return "no answer in time: " + err.Error()
	}
	return err.Error()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
