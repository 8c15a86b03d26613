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
}

// Answer is what goes back to the asker, encoded in the format of the Ask.
type Answer struct {
	Code Code
	Body []byte
	// RetryAfter is when trying again may help, in whole seconds; 0 for never
	// or for no need.
	RetryAfter time.Duration
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

// Minted is what an accepted claim of new hardware leaves behind, stored whole
// or not at all (P1).
type Minted struct {
	Key    Key // with its accounting
	Device Device
	Record *Record // for LaneProv; its sequence is the store's to set
}
