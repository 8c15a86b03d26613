package registry

import (
	"encoding/base64"
	"encoding/hex"
	"time"

	"github.com/go-json-experiment/json"

	"edgeclaim"
)

// what is what a record says of a device, or of its box.
type what int

const (
	saysNothing what = iota // that is acted on here: the record is kept
	saysProvisioned
	saysRotated
	saysReleased
	saysRevoked
	saysSwapped
	saysSuspected // nothing changes but that somebody has to look
	saysHead
	saysCommand
	saysSuperseded // another box's credential took the place of this one's
	saysDiffers    // upstream has another id for the board; nothing changes
)

// reader reads the data of one type.
type reader struct {
	lane edgeclaim.Lane
	what what
	// read is nil of what there is much of: only the lane is judged, and the
	// tenant where not all are served.
	read func(*event) error
}

// readerOf knows the types that are acted on; all others are kept as they are.
func readerOf(kind edgeclaim.RecordType) (reader, bool) {
	switch kind {
	case edgeclaim.TypeDeviceProvisioned:
		return reader{edgeclaim.LaneProv, saysProvisioned, (*event).readProvisioned}, true
	case edgeclaim.TypeCredentialRotated:
		return reader{edgeclaim.LaneProv, saysRotated, (*event).readRotated}, true
	case edgeclaim.TypeDeviceReleased:
		return reader{edgeclaim.LaneProv, saysReleased, (*event).readReleased}, true
	case edgeclaim.TypeCredentialRevoked:
		return reader{edgeclaim.LaneProv, saysRevoked, (*event).readRevoked}, true
	case edgeclaim.TypeDeviceSwapped:
		return reader{edgeclaim.LaneProv, saysSwapped, (*event).readSwapped}, true
	case edgeclaim.TypeDeviceConflict:
		return reader{edgeclaim.LaneProv, saysNothing, (*event).readConflict}, true
	case edgeclaim.TypeCloneSuspected:
		return reader{edgeclaim.LaneProv, saysSuspected, (*event).readSuspected}, true
	case edgeclaim.TypeAuditHead:
		return reader{edgeclaim.LaneEvt, saysHead, (*event).readHead}, true
	case edgeclaim.TypeCommandStatus:
		return reader{edgeclaim.LaneEvt, saysCommand, (*event).readCommand}, true
	case edgeclaim.TypeTelemetry:
		return reader{edgeclaim.LaneTel, saysNothing, nil}, true
	case edgeclaim.TypeDeviceEvent:
		return reader{edgeclaim.LaneEvt, saysNothing, nil}, true
	case edgeclaim.TypeDeviceUnconfirmed, edgeclaim.TypeClaimRefused, edgeclaim.TypeClockChanged, edgeclaim.TypeAlarmRaised, edgeclaim.TypeGap:
		// for people
	}
	return reader{}, false
}

// decodeData reads the types that are acted on.
func (e *event) decodeData(ofTenants bool) error {
	kind := edgeclaim.RecordType(e.Type)
	r, ok := readerOf(kind)
	switch {
	case !ok:
		return nil
	case e.Lane != r.lane:
		return edgeclaim.Invalid("lane", "%s goes in %s", kind, r.lane)
	case e.Data == nil:
		return edgeclaim.Invalid("data", "want a JSON object")
	case r.read == nil && ofTenants:
		return e.readTenant()
	case r.read == nil:
		return nil
	}
	if r.what != saysNothing {
		e.what = r.what
	}
	return r.read(e)
}

// readTenant reads whose a record is, and nothing else.
func (e *event) readTenant() error {
	var d struct {
		Tenant edgeclaim.TenantID `json:"tenant_id"`
	}
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return dataFault(err)
	}
	if d.Tenant.IsZero() {
		return missing("tenant_id")
	}
	e.tenant = d.Tenant
	return nil
}

// deviceFacts are in every record about a device.
type deviceFacts struct {
	Device   edgeclaim.DeviceID   `json:"device_id"`
	Tenant   edgeclaim.TenantID   `json:"tenant_id"`
	Hardware edgeclaim.HardwareID `json:"hardware_id"`
}

// about takes whom the record is about; it has to be the event's subject.
func (e *event) about(d *deviceFacts) error {
	switch {
	case d.Device.IsZero():
		return missing("device_id")
	case d.Tenant.IsZero():
		return missing("tenant_id")
	case d.Hardware.IsZero():
		return missing("hardware_id")
	case d.Device != e.device:
		return edgeclaim.Invalid("subject", "not the device of the data")
	}
	e.tenant, e.hardware = d.Tenant, d.Hardware
	return nil
}

// credentialFacts tell a credential without the credential.
type credentialFacts struct {
	Type        edgeclaim.CredentialType `json:"type"`
	Hash        edgeclaim.KeyHash        `json:"sha256"`
	Fingerprint edgeclaim.KeyHash        `json:"fingerprint"` // of x509, in its place
	NotAfter    time.Time                `json:"not_after"`   // of x509
	Sealed      *struct {
		KeyID string `json:"key_id"`
		Value string `json:"value"`
	} `json:"sealed"` // of a PSK, for whoever has that key
}

// maxSealed is the longest sealed PSK that is kept, in bytes: a real one has 91.
const maxSealed = 1024

// into checks a credential and puts it into a holding.
func (c *credentialFacts) into(h *holding) error {
	if c.Hash.IsZero() {
		c.Hash = c.Fingerprint
	}
	switch {
	case c.Type == "":
		return missing("credential.type")
	case c.Hash.IsZero():
		return missing("credential.sha256")
	}
	h.credential, h.hash, h.notAfter = edgeclaim.CredentialType(clean(string(c.Type))), c.Hash, micros(c.NotAfter)
	if c.Sealed == nil {
		return nil
	}
	sealed, err := base64.RawURLEncoding.DecodeString(c.Sealed.Value)
	if err != nil || len(sealed) == 0 || len(sealed) > maxSealed {
		return edgeclaim.Invalid("credential.sealed", "want 1 to %d bytes, base64url without padding", maxSealed)
	}
	h.sealed, h.sealedKey = sealed, short(c.Sealed.KeyID)
	return nil
}

func (e *event) readProvisioned() error {
	var d struct {
		deviceFacts `json:",inline"`
		Name        string               `json:"name"`
		Template    edgeclaim.TemplateID `json:"template_id"`
		Key         edgeclaim.KeyID      `json:"key_id"`
		Profile     string               `json:"profile_id"`
		Groups      []string             `json:"groups"`
		Tags        map[string]string    `json:"tags"`
		Credential  credentialFacts      `json:"credential"`
		ClaimedVia  edgeclaim.Via        `json:"claimed_via"`
		ClaimedAt   time.Time            `json:"claimed_at"`
		Generation  int                  `json:"generation"` // 0 of boxes of an earlier version
	}
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return dataFault(err)
	}
	if err := e.about(&d.deviceFacts); err != nil {
		return err
	}
	h := &holding{status: edgeclaim.DeviceActive}
	switch {
	case d.Name == "":
		return missing("name")
	case d.Template.IsZero():
		return missing("template_id")
	case d.Key.IsZero():
		return missing("key_id")
	}
	if err := d.Credential.into(h); err != nil {
		return err
	}
	switch {
	case d.ClaimedVia == "":
		return missing("claimed_via")
	case d.ClaimedAt.IsZero():
		return missing("claimed_at")
	}
	for i := range d.Groups {
		d.Groups[i] = clean(d.Groups[i])
	}
	h.name, h.template, h.key, h.profile, h.groups = clean(d.Name), d.Template.String(), d.Key.String(), clean(d.Profile), d.Groups
	h.tags = d.Tags
	h.claimedAt, h.issuedAt = micros(d.ClaimedAt), micros(d.ClaimedAt)
	h.via = edgeclaim.Via(clean(string(d.ClaimedVia)))
	if h.generation = d.Generation; h.generation < 1 {
		h.generation = generation(d.Device, d.Tenant, d.Hardware)
	}
	e.holding = h
	return nil
}

func (e *event) readRotated() error {
	var d struct {
		deviceFacts   `json:",inline"`
		Credential    credentialFacts  `json:"credential"`
		Previous      *credentialFacts `json:"previous"`
		PreviousUntil time.Time        `json:"previous_until"`
		RotatedBy     string           `json:"rotated_by"`
		RotatedAt     time.Time        `json:"rotated_at"`
	}
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return dataFault(err)
	}
	if err := e.about(&d.deviceFacts); err != nil {
		return err
	}
	h := &holding{status: edgeclaim.DeviceActive, issuedAt: micros(d.RotatedAt), rotatedBy: short(d.RotatedBy)}
	if err := d.Credential.into(h); err != nil {
		return err
	}
	if d.RotatedAt.IsZero() {
		return missing("rotated_at")
	}
	if d.Previous != nil {
		var before holding
		if err := d.Previous.into(&before); err != nil {
			return err
		}
		h.previous = previous{hash: before.hash, notAfter: before.notAfter, until: micros(d.PreviousUntil)}
	}
	e.holding = h
	return nil
}

func (e *event) readReleased() error { return e.readEnd(edgeclaim.DeviceReleased) }

func (e *event) readRevoked() error { return e.readEnd(edgeclaim.DeviceRevoked) }

func (e *event) readEnd(status edgeclaim.DeviceStatus) error {
	var d deviceFacts
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return dataFault(err)
	}
	e.holding = &holding{status: status}
	return e.about(&d)
}

func (e *event) readSwapped() error {
	var d struct {
		deviceFacts `json:",inline"`
		Generation  int                  `json:"generation"`
		Old         edgeclaim.HardwareID `json:"old_hardware_id"`
	}
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return dataFault(err)
	}
	e.holding, e.replaces = &holding{status: edgeclaim.DeviceReleased, generation: max(d.Generation, 0)}, d.Old
	return e.about(&d.deviceFacts)
}

func (e *event) readSuspected() error {
	var d struct {
		deviceFacts `json:",inline"`
		Kind        edgeclaim.SuspicionKind `json:"kind"`
	}
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return dataFault(err)
	}
	if d.Kind == "" {
		return missing("kind")
	}
	e.suspicion = d.Kind
	return e.about(&d.deviceFacts)
}

func (e *event) readHead() error {
	var d AuditHead
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return dataFault(err)
	}
	hash, err := hex.DecodeString(d.Hash)
	switch {
	case d.Sequence > maxSequence:
		return edgeclaim.Invalid("sequence", "more than any log has")
	case err != nil || len(hash) != len([32]byte{}) && (d.Sequence != 0 || d.Hash != ""):
		return edgeclaim.Invalid("hash", "want 64 hexadecimal digits")
	}
	d.Segment = short(d.Segment)
	e.head = d
	return nil
}
