package command

import (
	"errors"
	"fmt"

	"edgeclaim"
)

// Why an order is not taken.
var (
	errBoxFull    = fmt.Errorf("too many commands wait on this box: %w", edgeclaim.ErrThrottled)
	errDeviceFull = fmt.Errorf("too many commands wait for this device: %w", edgeclaim.ErrThrottled)
	errRevoked    = fmt.Errorf("the device is revoked: %w", edgeclaim.ErrConflict)
	errOver       = edgeclaim.Invalid("expires_at", "want a time to come")
)

// errEnded: a command that was to be sent has come to its end.
var errEnded = fmt.Errorf("the command has come to its end: %w", edgeclaim.ErrConflict)

// errUnsaid: what a device says of a command is not what its status says, and
// cannot become it.
var errUnsaid = fmt.Errorf("the command has come to another end: %w", edgeclaim.ErrNotFound)

// The reasons that a command.status gives for what the box decided.
const (
	reasonUnknownDevice = "unknown_device"
	reasonRevoked       = "device_revoked"
	reasonTooMany       = "too_many"
	reasonTooManyDevice = "too_many_for_device"
	reasonInvalid       = "invalid"
	reasonArrivedLate   = "expired_on_arrival"
	reasonNotSent       = "not_sent"  // it expired, and was never written to the device
	reasonNoAnswer      = "no_answer" // it expired, and the device never said what became of it
	reasonOperator      = "operator"  // took it back
	reasonUpstream      = "upstream"  // took it back
	reasonUnknown       = "unknown_command"
)

// fateOf is what upstream is told of an order that is not taken; ok is false where
// it may be taken later.
func fateOf(err error) (f fate, ok bool) {
	for _, known := range []struct {
		err    error
		status edgeclaim.CommandStatus
		reason string
	}{
		{errOver, edgeclaim.CommandExpired, reasonArrivedLate},
		{errBoxFull, edgeclaim.CommandFailed, reasonTooMany},
		{errDeviceFull, edgeclaim.CommandFailed, reasonTooManyDevice},
		{errRevoked, edgeclaim.CommandFailed, reasonRevoked},
		{edgeclaim.ErrNotFound, edgeclaim.CommandFailed, reasonUnknownDevice},
		{edgeclaim.ErrInvalid, edgeclaim.CommandFailed, reasonInvalid},
	} {
		if errors.Is(err, known.err) {
			return fate{status: known.status, reason: known.reason}, true
		}
	}
	return fate{}, false
}
