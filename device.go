package edgeclaim

import "time"

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
	// Generation is 1 for a board's first life; see NewDeviceID.
	Generation int          `json:"generation"`
	Status     DeviceStatus `json:"status"`
	Credential Credential   `json:"credential,omitzero"`
	ClaimedAt  time.Time    `json:"claimed_at"`
	ClaimedVia Via          `json:"claimed_via"`
}

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
	// Hash is the SHA-256 of the API key or PSK as it is presented.
	Hash     KeyHash   `json:"sha256"`
	IssuedAt time.Time `json:"issued_at"`
}

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
