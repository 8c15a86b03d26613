package edgeclaim

import (
	"crypto/x509"
	"net/netip"
	"time"
)

// Device is what a claim made: an identity, whom it belongs to and the
// credential by which it is known.
type Device struct {
	ID       DeviceID   `json:"device_id"`
	Tenant   TenantID   `json:"tenant_id"`
	Hardware HardwareID `json:"hardware_id"`
	Name     string     `json:"name"`
	// Template and Key are those of the claim that made the present credential.
	Template TemplateID `json:"template_id"`
	Key      KeyID      `json:"key_id"`
	Profile  string     `json:"profile_id,omitempty"`
	Groups   []string   `json:"groups,omitempty"`
	// Tags are what it inherited when it claimed, and what its row said.
	Tags map[string]string `json:"tags,omitempty"`
	// Generation is 1 for a board's first life; see NewDeviceID.
	Generation int          `json:"generation"`
	Status     DeviceStatus `json:"status"`
	Credential Credential   `json:"credential,omitzero"`
	ClaimedAt  time.Time    `json:"claimed_at"`
	ClaimedVia Via          `json:"claimed_via"`

	// Previous is the credential that a rotation took the place of. It lets the
	// device in as well until PreviousUntil and, when the device itself asked
	// for the new one, for as long as that was never used.
	Previous      Credential `json:"previous_credential,omitzero"`
	PreviousUntil time.Time  `json:"previous_until,omitzero"`
	RotatedBy     Rotator    `json:"rotated_by,omitempty"`
	// Mint is what the box needs to say the credential again, nil from its
	// first use on. It never leaves the box (P5), and is replaced, never
	// changed: copies of a Device share it.
	Mint *Mint `json:"-"`
	// Told: upstream has heard that the credential was never used.
	Told bool `json:"-"`
}

// State is a device's state as an operator sees it.
type State string

// The states that an operator sees.
const (
	// StateClaimed: the device was given a credential and never used it.
	StateClaimed State = "claimed"
	// StateConfirmed: it has logged in with it.
	StateConfirmed State = "confirmed"
	// StateRotating: the credential before the present one is valid too.
	StateRotating State = "rotating"
	StateReleased State = "released"
	StateRevoked  State = "revoked"
)

// State returns what an operator sees at that time.
func (d *Device) State(now time.Time) State {
	switch {
	case d.Status == DeviceReleased:
		return StateReleased
	case d.Status == DeviceRevoked:
		return StateRevoked
	case d.PreviousValid(now):
		return StateRotating
	case d.Credential.ConfirmedAt.IsZero():
		return StateClaimed
	default:
		return StateConfirmed
	}
}

// PreviousValid reports whether the credential before the present one still
// lets the device in. A device that asked for a new one and never got the
// answer must not be locked out by the time.
func (d *Device) PreviousValid(now time.Time) bool {
	if d.Status != DeviceActive || d.Previous.Hash.IsZero() {
		return false
	}
	return now.Before(d.PreviousUntil) || d.RotatedBy == RotatorDevice && d.Credential.ConfirmedAt.IsZero()
}

// Rotator is who asked for a credential to be replaced.
type Rotator string

// Who may ask.
const (
	RotatorDevice   Rotator = "device"
	RotatorOperator Rotator = "operator"
)

// DeviceStatus says whether a device may log in, and its hardware claim.
type DeviceStatus string

// The states of a device.
const (
	// DeviceActive: its credential is valid; a re-claim gets no second one.
	DeviceActive DeviceStatus = "active"
	// DeviceReleased: its credential is void; its hardware may claim anew.
	DeviceReleased DeviceStatus = "released"
	// DeviceRevoked: its credential is void and its hardware is refused.
	DeviceRevoked DeviceStatus = "revoked"
)

// Credential is what a device is known by, as it is kept: a hash.
type Credential struct {
	Type CredentialType `json:"type"`
	// Hash is the SHA-256 of the API key or PSK as it is presented, or of the
	// certificate's DER.
	Hash     KeyHash   `json:"sha256"`
	IssuedAt time.Time `json:"issued_at"`
	// NotAfter is the certificate's end; zero for what has none.
	NotAfter time.Time `json:"not_after,omitzero"`
	// ConfirmedAt is its first use; zero until then.
	ConfirmedAt time.Time `json:"confirmed_at,omitzero"`
}

// Mint is what lets the box say a credential again to who made the claim, and
// to nobody else (P5). It is erased at the credential's first use, and at its
// end.
type Mint struct {
	Salt [32]byte
	// Proof is the SHA-256 of the secret that the claim's nonce derives.
	Proof KeyHash
	// Of x509: what was answered, in DER. SealedKey is the private key made
	// here, encrypted under the derived secret; nil where the device sent a
	// CSR.
	Certificate []byte
	Chain       [][]byte
	SealedKey   []byte
}

// Login is what a client shows in order to be let in.
type Login struct {
	// Device is whom it says to be; zero where only the credential speaks.
	Device DeviceID
	// Key is the API key or PSK; empty with a certificate.
	Key Secret
	// Chain is the certificate with what came beside it. The client has proven
	// to hold its key; nobody has verified it yet.
	Chain  []*x509.Certificate
	Via    Via
	Source netip.Addr
}

// Admission is who was let in, and with what.
type Admission struct {
	Device     DeviceID
	Tenant     TenantID
	Profile    string
	Credential KeyHash
	// ValidFor is how long that credential goes on to let it in: to the end of
	// a rotation's overlap or of a certificate. 0: no end.
	ValidFor time.Duration
}

// Suspicion is what makes a device look cloned.
type Suspicion struct {
	Device  DeviceID
	Kind    SuspicionKind
	Count   int // how often within Window
	Window  time.Duration
	Sources []netip.Addr // some of those it came from
}

// SuspicionKind is what was seen.
type SuspicionKind string

// What was seen.
const (
	// SuspicionTakeover: two connections took the device's session from each
	// other.
	SuspicionTakeover SuspicionKind = "takeover"
	// SuspicionNonce: hardware that never confirmed its credential claimed
	// with another nonce.
	SuspicionNonce SuspicionKind = "nonce"
	// SuspicionRotation: a device's old credential asked for another one though
	// the new one was in use already: two boards have what one was given.
	SuspicionRotation SuspicionKind = "rotation"
)

// CredentialType is what kind of credential a template's devices get.
type CredentialType string

// The kinds of credential.
const (
	CredentialAPIKey CredentialType = "api_key"
	CredentialPSK    CredentialType = "psk"
	CredentialX509   CredentialType = "x509"
)

// Via is the face a claim came in by.
type Via string

// The faces.
const (
	ViaMQTT Via = "mqtt"
	ViaHTTP Via = "http"
)
