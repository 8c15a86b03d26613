package registry

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"edgeclaim"
)

// Verification is what is known of a credential.
type Verification struct {
	Valid      bool                     `json:"valid"`
	Device     edgeclaim.DeviceID       `json:"device_id,omitzero"`
	Tenant     edgeclaim.TenantID       `json:"tenant_id,omitzero"`
	Hardware   edgeclaim.HardwareID     `json:"hardware_id,omitzero"`
	Box        string                   `json:"box_id,omitempty"` // of the one who says so
	Status     edgeclaim.DeviceStatus   `json:"status,omitempty"`
	Credential edgeclaim.CredentialType `json:"credential_type,omitempty"`
	// Overlap: a rotation has taken its place; it is valid until it ends.
	Overlap bool `json:"overlap,omitempty"`
	// Until is when a valid one ends, by a rotation's overlap or the
	// certificate; zero for no end.
	Until time.Time `json:"valid_until,omitzero"`
	// Reason is why it is not valid: unknown, the device's status, why it was
	// made void, rotated or expired. Empty of a valid one.
	Reason string `json:"reason,omitempty"`
}

const (
	// reasonUnknown is of a credential that no box told of, or that another
	// claim's took the place of.
	reasonUnknown = "unknown"
	// reasonRotated is of one whose successor is the only one now.
	reasonRotated = "rotated"
	// reasonExpired is of a certificate.
	reasonExpired = "expired"
)

// Verify says whether a credential, by the SHA-256 of what is presented (of the
// DER, of a certificate), lets a device in, and which. Where boxes disagree over
// one credential, deny wins (P9). Overlaps and certificates end by Config.Now.
//
// The look-up in an index takes a time that depends on the hash. That tells an
// attacker nothing to go on with: what he chooses is the credential, and he
// cannot choose its SHA-256 digit by digit.
func (db *DB) Verify(ctx context.Context, hash edgeclaim.KeyHash) (Verification, error) {
	key := hashKey(hash)
	rows, err := db.query(ctx, `SELECT h.device, `+holdingColumns+`, b.box, d.tenant, d.hardware, `+revokedHere+` FROM holdings h
		JOIN devices d ON d.number = h.number JOIN boxes b ON b.number = h.box
		WHERE h.hash_key = ? AND h.hash = ? OR h.previous_key = ? AND h.previous_hash = ? ORDER BY h.number, h.box`,
		key, hash.Bytes(), key, hash.Bytes())
	var v Verification
	now := micros(db.now())
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var name, tenant, hardware string
		var revoked bool
		id, h, err := scanHolding(rows, &name, &tenant, &hardware, &revoked)
		if err != nil {
			return err
		}
		var d device
		if err := d.identify(id.Bytes(), tenant, hardware); err != nil {
			return err
		}
		said := h.verify(hash, now).unless(revoked)
		if v.Box != "" && (!v.Valid || said.Valid) {
			return nil
		}
		row := h.device(&d, now)
		v = said
		v.Device, v.Tenant, v.Hardware, v.Box, v.Status, v.Credential = d.id, row.Tenant, row.Hardware, name, h.status, h.credential
		return nil
	})
	if err == nil && v.Box == "" {
		v.Reason = reasonUnknown
	}
	return v, err
}

// verify is one box's word on a credential that is its present one, or the one
// before.
func (h *holding) verify(hash edgeclaim.KeyHash, now int64) Verification {
	var v Verification
	ends, reason := h.notAfter, reasonExpired
	if !h.hash.Equal(hash) {
		// The box itself may go on with it for longer, when the device asked for
		// the new one and never used it; to everybody else it has ended.
		v.Overlap = true
		ends, reason = h.previous.until, reasonRotated
		if end := h.previous.notAfter; end != 0 && end < ends {
			ends, reason = end, reasonExpired
		}
	}
	switch {
	case h.status != edgeclaim.DeviceActive:
		v.Reason = string(h.status)
	case h.void != valid:
		v.Reason = h.void
	case ends != 0 && ends <= now, v.Overlap && ends == 0:
		v.Reason = reason
	}
	v.Valid = v.Reason == ""
	v.Overlap = v.Overlap && v.Valid
	if v.Valid {
		v.Until = fromMicros(ends)
	}
	return v
}

// unless is the same of a device that a document revokes: no box's word lets it
// in, also of one that has not heard of the document yet (P9).
func (v Verification) unless(revoked bool) Verification {
	if revoked && v.Valid {
		return Verification{Reason: string(edgeclaim.DeviceRevoked)}
	}
	return v
}

// Sealed is a PSK as a box sealed it.
type Sealed struct {
	Box   string
	Hash  edgeclaim.KeyHash
	KeyID string // of the key that it is sealed for
	Value []byte
	// Valid: it lets the device in; Reason says why not.
	Valid  bool
	Reason string
}

// Sealed returns the newest sealed PSK of a device, valid ones first: a box that
// gave it another kind of credential, or had no key to seal one for, told none.
// ErrNotFound: nobody told one.
func (db *DB) Sealed(ctx context.Context, id edgeclaim.DeviceID) (Sealed, error) {
	rows, err := db.query(ctx, `SELECT h.device, `+holdingColumns+`, b.box, `+revokedHere+` FROM holdings h
		JOIN boxes b ON b.number = h.box JOIN devices d ON d.number = h.number WHERE h.number = (SELECT number FROM devices WHERE device = ?) AND h.sealed IS NOT NULL ORDER BY h.changed_at DESC, h.box DESC`, id.Bytes())
	var best Sealed
	now := micros(db.now())
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var name string
		var revoked bool
		_, h, err := scanHolding(rows, &name, &revoked)
		if err != nil {
			return err
		}
		said := h.verify(h.hash, now).unless(revoked)
		if best.Box == "" || said.Valid && !best.Valid {
			best = Sealed{Box: name, Hash: h.hash, KeyID: h.sealedKey, Value: h.sealed, Valid: said.Valid, Reason: said.Reason}
		}
		return nil
	})
	if err == nil && best.Box == "" {
		err = fmt.Errorf("sealed PSK of %s: %w", id, edgeclaim.ErrNotFound)
	}
	return best, err
}
