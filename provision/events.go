package provision

import (
	"encoding/json"
	"time"

	"edgeclaim"
)

// deviceFacts are in every record about a device.
type deviceFacts struct {
	Device   edgeclaim.DeviceID   `json:"device_id"`
	Tenant   edgeclaim.TenantID   `json:"tenant_id"`
	Hardware edgeclaim.HardwareID `json:"hardware_id"`
	BoxID    string               `json:"box_id"`
	Site     string               `json:"site"`
}

// credentialFacts tell a credential without the credential.
type credentialFacts struct {
	Type        edgeclaim.CredentialType `json:"type"`
	Hash        edgeclaim.KeyHash        `json:"sha256,omitzero"`      // of what is presented
	Fingerprint edgeclaim.KeyHash        `json:"fingerprint,omitzero"` // of x509, in its place
	NotAfter    time.Time                `json:"not_after,omitzero"`   // of x509
	// Of a PSK: itself, for upstream alone, or why not.
	Sealed   *Sealed  `json:"sealed,omitzero"`
	Unsealed unsealed `json:"unsealed,omitzero"`
}

// unsealed says why a PSK is not in its record.
type unsealed string

const (
	unsealedNoKey  unsealed = "no_upstream_key"
	unsealedFailed unsealed = "failed"
)

func factsOf(c *edgeclaim.Credential) credentialFacts {
	if c.Type == edgeclaim.CredentialX509 {
		return credentialFacts{Type: c.Type, Fingerprint: c.Hash, NotAfter: c.NotAfter}
	}
	return credentialFacts{Type: c.Type, Hash: c.Hash}
}

// provisioned is the data of device.provisioned.
type provisioned struct {
	deviceFacts
	Name       string               `json:"name"`
	Template   edgeclaim.TemplateID `json:"template_id"`
	Key        edgeclaim.KeyID      `json:"key_id"`
	Profile    string               `json:"profile_id,omitempty"`
	Groups     []string             `json:"groups,omitempty"`
	Tags       map[string]string    `json:"tags,omitempty"`
	Credential credentialFacts      `json:"credential"`
	ClaimedVia edgeclaim.Via        `json:"claimed_via"`
	ClaimedAt  time.Time            `json:"claimed_at"`
	Generation int                  `json:"generation"`
	// Alias: the id is not the one that the hardware's own would be.
	Alias bool `json:"alias,omitempty"`
}

// rotated is the data of device.credential.rotated.
type rotated struct {
	deviceFacts
	Credential    credentialFacts  `json:"credential"`
	Previous      *credentialFacts `json:"previous,omitzero"` // what goes on beside it
	PreviousUntil time.Time        `json:"previous_until,omitzero"`
	RotatedBy     string           `json:"rotated_by"`
	RotatedAt     time.Time        `json:"rotated_at"`
}

// rotatedByClaim: a claim that came again with another key pair.
const rotatedByClaim = "claim"

// released is the data of device.released.
type released struct {
	deviceFacts
	ReleasedAt time.Time `json:"released_at"`
	// Reinstated: it was revoked until then.
	Reinstated bool `json:"reinstated,omitempty"`
	// By is upstream, of a reinstatement by document; empty else.
	By string `json:"by,omitempty"`
}

// revoked is the data of device.credential.revoked.
type revoked struct {
	deviceFacts
	Reason    string    `json:"reason,omitempty"`
	RevokedAt time.Time `json:"revoked_at"`
	By        string    `json:"by"`
}

// swapped is the data of device.swapped; hardware_id is the new board's.
type swapped struct {
	deviceFacts
	OldHardware edgeclaim.HardwareID `json:"old_hardware_id"`
	Generation  int                  `json:"generation"`
	SwappedAt   time.Time            `json:"swapped_at"`
	By          string               `json:"by"`
}

// suspected is the data of device.clone_suspected.
type suspected struct {
	deviceFacts
	Kind          edgeclaim.SuspicionKind `json:"kind"`
	Count         int                     `json:"count"`
	WindowSeconds float64                 `json:"window_seconds"`
	Sources       []string                `json:"sources"`
}

// unconfirmed is the data of device.unconfirmed.
type unconfirmed struct {
	deviceFacts
	IssuedAt time.Time `json:"issued_at"`
}

// unconfirmedMore is the data of the record that stands for all of a page above
// a sweep's limit: it is about no device.
type unconfirmedMore struct {
	Count uint64 `json:"count"`
	BoxID string `json:"box_id"`
	Site  string `json:"site"`
}

// raised is the data of alarm.raised.
type raised struct {
	Alarm edgeclaim.Alarm `json:"alarm"`
	Count uint64          `json:"count"`
	Since time.Time       `json:"since"`
	Until time.Time       `json:"until"`
	Key   edgeclaim.KeyID `json:"key_id,omitzero"`
	BoxID string          `json:"box_id"`
	Site  string          `json:"site"`
}

func (s *Service) facts(d *edgeclaim.Device) deviceFacts {
	return deviceFacts{Device: d.ID, Tenant: d.Tenant, Hardware: d.Hardware, BoxID: s.cfg.BoxID, Site: s.cfg.Site}
}

// deviceRecord stamps a record about a device for LaneProv.
func (s *Service) deviceRecord(kind edgeclaim.RecordType, d *edgeclaim.Device, data any) (*edgeclaim.Record, error) {
	record, err := s.record(edgeclaim.LaneProv, kind, data)
	if err != nil {
		return nil, err
	}
	record.Device = d.ID
	return record, nil
}

func (s *Service) record(lane edgeclaim.Lane, kind edgeclaim.RecordType, data any) (*edgeclaim.Record, error) {
	encoded, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	return &edgeclaim.Record{Lane: lane, Type: kind, Stamp: s.clock.Stamp(), Data: encoded}, nil
}
