package edgeclaim

import (
	"net/netip"
	"time"
)

// Limits of a claim.
const (
	// MaxClaimBody is the largest claim request, in bytes, on either face.
	MaxClaimBody = 8 << 10
	// MaxKey is the longest provisioning key that may be presented or
	// imported, in characters.
	MaxKey = 256
	// RefusalDelay is how long after its receipt a refusal is answered, so
	// that the time tells nothing (P3).
	RefusalDelay = 25 * time.Millisecond
)

// Format is how a claim and its answer are encoded.
type Format string

// The formats, by their media types.
const (
	FormatJSON Format = "application/json"
	FormatCBOR Format = "application/cbor"
)

// Ask is a claim request as it arrived on a face, not yet decoded.
type Ask struct {
	Body       []byte
	Format     Format
	Via        Via
	Source     netip.Addr // the peer's address, never a proxy's word
	ReceivedAt time.Time  // with a monotonic reading: refusals are timed by it
	// Room is the most bytes that the answer's body may have, as its asker
	// said (MQTT 5.0, section 3.1.2.11.4); 0 for any number.
	Room int
}

// RotateAsk is a device's wish for another credential, on a connection that was
// let in.
type RotateAsk struct {
	Ask
	By Admission
}

// Answer is what goes back to the asker, encoded in the format of the Ask.
type Answer struct {
	Code Code
	Body []byte
	// RetryAfter is when trying again may help, in whole seconds; 0 for never
	// or for no need.
	RetryAfter time.Duration
	// Waiting is whose approval is waited for, with CodeFailedPrecondition of a
	// claim; zero else.
	Waiting ClaimRef
}

// Code is a gRPC status code, the "code" of the error envelope.
type Code int

// The codes in use (google.rpc.Code).
const (
	CodeOK                 Code = 0
	CodeInvalidArgument    Code = 3
	CodeNotFound           Code = 5
	CodeAlreadyExists      Code = 6
	CodePermissionDenied   Code = 7
	CodeResourceExhausted  Code = 8
	CodeFailedPrecondition Code = 9
	CodeAborted            Code = 10
	CodeInternal           Code = 13
	CodeUnavailable        Code = 14
	CodeUnauthenticated    Code = 16
)

// ClaimRef is what a claim is decided on: the key presented and the hardware
// that presents it, its id already folded as the template says.
type ClaimRef struct {
	Key      KeyHash
	Tenant   TenantID
	Hardware HardwareID
}

// IsZero reports whether nobody is named.
func (r ClaimRef) IsZero() bool { return r == ClaimRef{} }

// Present is all that a claim is decided on, as one transaction sees it. What
// the template does not ask for is not read.
type Present struct {
	Grant Grant
	Known *Device // nil: new hardware
	// Next and Generation are the identity that new hardware gets.
	Next       DeviceID
	Generation int
	Denied     *Denial      // nil: it is not
	Listed     *ManifestRow // nil: not on the template's list, or the template asks for none
	// Approved: an operator lets this hardware through, for this template.
	Approved bool
}

// Minted is what an accepted claim leaves behind, stored whole or not at all
// (P1).
type Minted struct {
	Key    Key // with its accounting
	Device Device
	Record *Record // for LaneProv; its sequence is the store's to set
	// SpendApproval: the operator's approval was for this claim.
	SpendApproval bool
}
