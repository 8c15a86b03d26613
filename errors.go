package edgeclaim

import (
	"errors"
	"fmt"
)

// The sentinels. Callers use errors.Is; one table in provision turns them into
// the code a device sees, one in provision/httpapi that code into a status.
var (
	// ErrInvalid: the input is malformed; see InvalidError for the field.
	ErrInvalid = errors.New("invalid")
	// ErrDenied: refused as P3 says; see Refusal for the reason, which stays
	// on the box.
	ErrDenied = errors.New("permission denied")
	// ErrUnauthenticated: the credential presented is not valid.
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrNotFound: no such template, key or device on this box.
	ErrNotFound = errors.New("not found")
	// ErrExists: what was to be made is there already.
	ErrExists = errors.New("already exists")
	// ErrConflict: the present state of the thing forbids the change.
	ErrConflict = errors.New("conflict")
	// ErrThrottled: too many, too fast; trying later helps.
	ErrThrottled = errors.New("too many requests")
	// ErrWaiting: the claim waits for an operator; asking again later helps.
	ErrWaiting = errors.New("waiting for approval")
	// ErrUnavailable: the box cannot commit now. With the disk or a lane full,
	// or while stopping, nothing was stored and trying later helps; after a
	// failed fsync nobody knows, the program ends, and a retry finds out (P8).
	ErrUnavailable = errors.New("unavailable")
)

// InvalidError is an ErrInvalid that names the field at fault.
type InvalidError struct {
	Field   string // as it is spelled on the wire; "body" for the whole
	Problem string // what is wrong, without the value
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Problem }

// Is makes errors.Is(err, ErrInvalid) hold.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

// Invalid returns an InvalidError; format never includes the offending value,
// which may be a secret put in the wrong field (P5).
func Invalid(field, format string, args ...any) error { return invalidf(field, format, args...) }

func invalidf(field, format string, args ...any) error {
	return &InvalidError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// ErrBodyTooLarge is the InvalidError of a claim above MaxClaimBody, the same on
// both faces.
var ErrBodyTooLarge = invalidf("body", "larger than %d bytes", MaxClaimBody)

// Reason says why a claim was refused. It is for the log, the audit and the
// admin side's metrics, and never leaves through a device's listener (P3).
type Reason string

// The reasons of a refusal, a closed set, so that a metric may label by them.
const (
	ReasonUnknownKey       Reason = "unknown_key"
	ReasonKeyDisabled      Reason = "key_disabled"
	ReasonKeyRevoked       Reason = "key_revoked"
	ReasonKeyUsed          Reason = "key_used"
	ReasonKeyExhausted     Reason = "key_exhausted"
	ReasonTemplateDisabled Reason = "template_disabled"
	ReasonExpired          Reason = "expired"
	ReasonPatternMismatch  Reason = "pattern_mismatch"
	ReasonHardwareRevoked  Reason = "hardware_revoked"
	ReasonHardwareDenied   Reason = "hardware_denied"
	ReasonHardwareSwapped  Reason = "hardware_swapped"
	ReasonNotListed        Reason = "not_listed"
	// ReasonDocumentsStale: nobody has confirmed the tenant's documents for
	// longer than they allow.
	ReasonDocumentsStale Reason = "documents_stale"
)

// Refusal is an ErrDenied with its reason. Its text is that of every refusal.
type Refusal struct{ Reason Reason }

func (*Refusal) Error() string { return ErrDenied.Error() }

// Is makes errors.Is(err, ErrDenied) hold.
func (*Refusal) Is(target error) bool { return target == ErrDenied }
