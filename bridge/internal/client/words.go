package client

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// The ways a connection ends that this side decides, or finds out.
var (
	// ErrStopped: this side is stopping.
	ErrStopped = errors.New("the box is stopping")
	// ErrNoConnack: no answer to CONNECT in time.
	ErrNoConnack = errors.New("connected, but no answer to CONNECT came in time")
	// ErrNoPuback: a message was not acknowledged in time.
	ErrNoPuback = errors.New("connected, but the broker stopped acknowledging (no PUBACK in time)")
	// ErrForgedAck: the library takes something for acknowledged of which the
	// link saw no acknowledgement.
	ErrForgedAck = errors.New("the broker acknowledged what it had not been sent")
	// ErrSubscription: the broker refused a topic filter.
	ErrSubscription = errors.New("the broker refused the subscription")
)

// RefusedError is the return code of a CONNACK that refuses (MQTT 3.1.1,
// section 3.2.2.3).
type RefusedError byte

func (e RefusedError) Error() string {
	why := map[RefusedError]string{
		packets.ErrRefusedBadProtocolVersion:    "it does not speak MQTT 3.1.1",
		packets.ErrRefusedIDRejected:            "it does not take the client id",
		packets.ErrRefusedServerUnavailable:     "it is not available",
		packets.ErrRefusedBadUsernameOrPassword: "wrong user name or password",
		packets.ErrRefusedNotAuthorised:         "not authorised",
	}[e]
	return fmt.Sprintf("the broker refused the connection: %s (code %d)", why, byte(e))
}

// Words says an error to an operator. It has no secret in it: no error on the
// way here holds a user name, a password or a payload (P5).
func Words(err error) string {
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
