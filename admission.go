package edgeclaim

import "time"

// Limits of the lists that bound who may claim.
const (
	// MaxDenied is how many denials there may be.
	MaxDenied = 1_000_000
	// MaxPending is how many claims may wait for an operator.
	MaxPending = 10_000
	// MaxManifest is how many rows all manifests may have together.
	MaxManifest = 1_000_000
)

// Denial keeps a hardware from claiming, whatever its key.
type Denial struct {
	// Tenant is whose hardware is meant; zero for every tenant's.
	Tenant   TenantID     `json:"tenant_id,omitzero"`
	Hardware HardwareID   `json:"hardware_id"`
	Reason   DenialReason `json:"reason"`
	By       string       `json:"by"` // who denied it
	At       time.Time    `json:"at"`
	// Device is whose board it was, of DeniedSwapped.
	Device DeviceID `json:"device_id,omitzero"`
}

// DenialReason says why a hardware is denied.
type DenialReason string

// The reasons.
const (
	DeniedByOperator DenialReason = "operator"
	// DeniedSwapped: another board has its place.
	DeniedSwapped DenialReason = "swapped"
	// DeniedUpstream: a document says so, and only a document takes it back.
	DeniedUpstream DenialReason = "upstream"
)

// Pending is a claim that waits for the operator (approval: manual). It is
// named by the device id that it would get.
type Pending struct {
	ID       DeviceID      `json:"device_id"`
	Tenant   TenantID      `json:"tenant_id"`
	Hardware HardwareID    `json:"hardware_id"`
	Template TemplateID    `json:"template_id"`
	Key      KeyID         `json:"key_id"`
	Name     string        `json:"name"`
	Via      Via           `json:"claimed_via"`
	Source   string        `json:"source"` // the address it came from
	AskedAt  time.Time     `json:"asked_at"`
	Asked    uint64        `json:"asked"` // how often
	Status   PendingStatus `json:"status"`
	By       string        `json:"by,omitempty"` // who approved it
}

// PendingStatus says what the operator did.
type PendingStatus string

// The states of a pending claim. A refused one is no longer on record, but
// denied.
const (
	PendingWaiting  PendingStatus = "waiting"
	PendingApproved PendingStatus = "approved"
)

// ManifestRow is a hardware that a template expects.
type ManifestRow struct {
	Hardware HardwareID `json:"hardware_id"`
	// What the device gets instead of the claim's or template's; empty for
	// theirs.
	Profile string            `json:"profile_id,omitempty"`
	Name    string            `json:"name,omitempty"`
	Groups  []string          `json:"groups,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
}
