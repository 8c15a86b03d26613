package registry

import (
	"context"
	"database/sql"
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
	// Reason is why it is not valid: unknown, the device's status, or why it
	// was made void. Empty of a valid one.
	Reason string `json:"reason,omitempty"`
}

// reasonUnknown is of a credential that no box told of, or that another took
// the place of.
const reasonUnknown = "unknown"

// Verify says whether a credential, by the SHA-256 of what is presented, lets
// a device in, and which. Where boxes disagree over one credential, deny wins
// (P9).
//
// The look-up in an index takes a time that depends on the hash. That tells an
// attacker nothing to go on with: what he chooses is the credential, and he
// cannot choose its SHA-256 digit by digit.
func (db *DB) Verify(ctx context.Context, hash edgeclaim.KeyHash) (Verification, error) {
	rows, err := db.query(ctx, `SELECT h.device, `+holdingColumns+`, b.box, d.tenant, d.hardware FROM holdings h
		JOIN devices d ON d.number = h.number JOIN boxes b ON b.number = h.box
		WHERE h.hash_key = ? AND h.hash = ? ORDER BY h.number, h.box`, hashKey(hash), hash.Bytes())
	var v Verification
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var name, tenant, hardware string
		id, h, err := scanHolding(rows, &name, &tenant, &hardware)
		if err != nil {
			return err
		}
		var d device
		if err := d.identify(id.Bytes(), tenant, hardware); err != nil {
			return err
		}
		if v.Box != "" && (!v.Valid || h.isValid()) {
			return nil
		}
		row := h.device(&d)
		v = Verification{
			Valid: h.isValid(), Device: d.id, Tenant: row.Tenant, Hardware: row.Hardware, Box: name,
			Status: h.status, Credential: h.credential,
		}
		if !v.Valid {
			v.Reason = string(h.status)
			if h.status == edgeclaim.DeviceActive {
				v.Reason = h.void
			}
		}
		return nil
	})
	if err == nil && v.Box == "" {
		v.Reason = reasonUnknown
	}
	return v, err
}

// pruneRows is how many records one transaction of Prune takes, so that Apply
// does not wait long.
const pruneRows = 5_000

// Prune deletes records of LaneEvt that came before a time, and says how many.
// Marks and holes stay: what is pruned was applied, and is not taken again.
func (db *DB) Prune(ctx context.Context, before time.Time) (pruned int64, err error) {
	var epochs []int64
	rows, err := db.query(ctx, `SELECT epoch FROM marks WHERE lane = ?`, laneNumber(edgeclaim.LaneEvt))
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		epochs = append(epochs, 0)
		return rows.Scan(&epochs[len(epochs)-1])
	})
	if err != nil {
		return 0, err
	}
	for _, epoch := range epochs {
		for n := int64(pruneRows); n == pruneRows; pruned += n {
			if n, err = db.pruneSome(ctx, epoch, micros(before)); err != nil {
				return pruned, err
			}
		}
	}
	return pruned, nil
}

// pruneSome deletes the oldest records of an epoch. They came in the order of
// their sequences, so the oldest are in front, up to a clock that was set back.
func (db *DB) pruneSome(ctx context.Context, epoch, before int64) (n int64, err error) {
	lane := laneNumber(edgeclaim.LaneEvt)
	err = db.change(ctx, func(w *writer) error {
		var last int64
		_, err := w.one(ctx, `SELECT COALESCE(MAX(sequence), 0) FROM (SELECT sequence, received_at FROM records
			WHERE epoch = ? AND lane = ? ORDER BY sequence LIMIT ?) AS oldest WHERE received_at < ?`,
			[]any{epoch, lane, pruneRows, before}, &last)
		if err != nil || last == 0 {
			return err
		}
		result, err := w.exec(ctx, `DELETE FROM records WHERE epoch = ? AND lane = ? AND sequence <= ? AND received_at < ?`,
			epoch, lane, last, before)
		if err != nil {
			return err
		}
		if n, err = result.RowsAffected(); err != nil {
			return err
		}
		return w.run(ctx, `UPDATE marks SET pruned = ? WHERE epoch = ? AND lane = ?`, last, epoch, lane)
	})
	return n, err
}
