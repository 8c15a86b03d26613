package registry

import (
	"context"
	"database/sql"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// page applies a page of a box's registry: the pages of an id come in order, a
// repeat is acknowledged again, and one that is too early only says where we
// stand. The last one ends the wish for a snapshot.
func (a *applier) page(ctx context.Context, p *wire.SnapshotPage) (Result, error) {
	b, refused, err := a.admit(ctx, p.Box, p.Epoch)
	if refused != nil || err != nil {
		return Result{Refused: refused}, err
	}
	if b.snapshotID != p.ID {
		if p.Page != 1 {
			return Result{Snapshot: &wire.SnapshotAck{ID: p.ID}}, nil
		}
		b.snapshotID, b.snapshotPage = p.ID, 0
	}
	r := Result{Snapshot: &wire.SnapshotAck{ID: p.ID, Upto: b.snapshotPage}}
	if p.Page != b.snapshotPage+1 {
		return r, nil
	}
	for i := range p.Devices {
		d := &p.Devices[i]
		if d.ID.IsZero() || d.Hardware.IsZero() || !a.serves(d.Tenant) {
			r.Skipped++ // a page is no place for a nack; the box's own records get one
			continue
		}
		err := a.merge(ctx, told{box: b, device: d.ID, tenant: d.Tenant, hardware: d.Hardware, holding: holdingOf(d), isPage: true})
		if err != nil {
			return Result{}, err
		}
		r.Applied++
	}
	b.snapshotPage, b.isDirty = p.Page, true
	if p.Last {
		b.snapshot = false
	}
	r.Snapshot.Upto = p.Page
	return r, nil
}

// holdingOf is a row of a box's registry as a holding.
func holdingOf(d *edgeclaim.Device) *holding {
	groups := make([]string, len(d.Groups))
	for i := range d.Groups {
		groups[i] = clean(d.Groups[i])
	}
	h := &holding{
		status:     edgeclaim.DeviceStatus(clean(string(d.Status))),
		credential: edgeclaim.CredentialType(clean(string(d.Credential.Type))),
		hash:       d.Credential.Hash, issuedAt: micros(d.Credential.IssuedAt),
		name: clean(d.Name), template: d.Template.String(), key: d.Key.String(), profile: clean(d.Profile), groups: groups, tags: d.Tags,
		generation: max(d.Generation, 1), claimedAt: micros(d.ClaimedAt), via: edgeclaim.Via(clean(string(d.ClaimedVia))),
		notAfter: micros(d.Credential.NotAfter), confirmedAt: micros(d.Credential.ConfirmedAt), rotatedBy: short(string(d.RotatedBy)),
	}
	if p := d.Previous; !p.Hash.IsZero() {
		h.previous = previous{hash: p.Hash, until: micros(d.PreviousUntil), notAfter: micros(p.NotAfter), issuedAt: micros(p.IssuedAt)}
	}
	return h
}

// Held pages through what a box once told, as it told it, in the order of the
// device ids. One that only a release told of is left out: too little of it is
// known. limit is 1 to MaxPage; other values are MaxPage.
func (db *DB) Held(ctx context.Context, box string, after edgeclaim.DeviceID, limit int) ([]edgeclaim.Device, bool, error) {
	limit = pageLimit(limit)
	now := micros(db.now())
	rows, err := db.query(ctx, `SELECT h.device, `+holdingColumns+`, d.tenant, d.hardware FROM holdings h
		JOIN devices d ON d.number = h.number
		WHERE h.box = (SELECT number FROM boxes WHERE box = ?) AND h.device > ? AND h.template <> '' AND h.key_id <> ''
		ORDER BY h.device LIMIT ?`, box, after.Bytes(), limit+1)
	var devices []edgeclaim.Device
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var tenant, hardware string
		id, h, err := scanHolding(rows, &tenant, &hardware)
		if err != nil {
			return err
		}
		var d device
		if err := d.identify(id.Bytes(), tenant, hardware); err != nil {
			return err
		}
		devices = append(devices, h.device(&d, now))
		return nil
	})
	if err != nil || len(devices) <= limit {
		return devices, false, err
	}
	return devices[:limit], true, nil
}

// device is a holding as its box knows it, but for a credential whose overlap
// has ended: nobody told whether the device ever used its new one, and a box
// that does not know goes on with the old (P9).
func (h *holding) device(d *device, now int64) edgeclaim.Device {
	row := edgeclaim.Device{
		ID: d.id, Tenant: d.tenant, Hardware: d.hardware, Name: h.name, Profile: h.profile, Groups: h.groups, Tags: h.tags,
		Generation: h.generation, Status: h.status, ClaimedAt: fromMicros(h.claimedAt), ClaimedVia: h.via,
		Credential: edgeclaim.Credential{
			Type: h.credential, Hash: h.hash, IssuedAt: fromMicros(h.issuedAt), NotAfter: fromMicros(h.notAfter),
			ConfirmedAt: fromMicros(h.confirmedAt),
		},
	}
	if p := h.previous; h.status == edgeclaim.DeviceActive && p.until > now {
		row.Previous = edgeclaim.Credential{
			Type: h.credential, Hash: p.hash, IssuedAt: fromMicros(p.issuedAt), NotAfter: fromMicros(p.notAfter),
		}
		row.PreviousUntil = fromMicros(p.until)
	}
	switch by := edgeclaim.Rotator(h.rotatedBy); by {
	case edgeclaim.RotatorDevice, edgeclaim.RotatorOperator:
		row.RotatedBy = by
	}
	// Both were parsed before they were stored.
	row.Template, _ = edgeclaim.ParseTemplateID(h.template)
	row.Key, _ = edgeclaim.ParseKeyID(h.key)
	if !h.hardware.IsZero() {
		row.Tenant, row.Hardware = h.tenant, h.hardware
	}
	return row
}

// MaxPage is the most rows that one query returns.
const MaxPage = 1000

func pageLimit(limit int) int {
	if limit < 1 || limit > MaxPage {
		return MaxPage
	}
	return limit
}
