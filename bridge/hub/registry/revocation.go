package registry

import (
	"context"
	"database/sql"
	"fmt"

	"edgeclaim"
	"edgeclaim/internal/signeddoc"
)

// revokedHere is whether a document revokes the holding h of the device d: its id
// or its board, as the box knows them. Whom the document is for does not matter:
// what is revoked anywhere lets nobody in here (P9). The devices made with a
// revoked key are not: a key is not its devices, and their boxes list them for an
// operator to decide.
const revokedHere = `(EXISTS (SELECT 1 FROM revoked_devices r WHERE r.tenant = COALESCE(h.tenant, d.tenant) AND r.device = h.device)
	OR EXISTS (SELECT 1 FROM revoked_hardware r WHERE r.tenant = COALESCE(h.tenant, d.tenant) AND r.hardware = COALESCE(h.hardware, d.hardware)))`

// others reads the other documents in force of the id, one after the other: one
// text at a time is in memory.
func (p *publisher) others(ctx context.Context, take func(*Published, *edgeclaim.Document) error) error {
	for i := range p.kept {
		var text []byte
		found, err := p.one(ctx, `SELECT signed FROM documents WHERE number = ? AND in_force = 1`, []any{p.kept[i].Number}, &text)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		read, err := signeddoc.Peek(text)
		if err != nil {
			return fmt.Errorf("document %s, version %d: %w", p.kept[i].DocumentID, p.kept[i].Version, err)
		}
		if err := take(&p.kept[i], read.Document); err != nil {
			return err
		}
	}
	return nil
}

// grows refuses revocations that some box would refuse: what it holds and does
// not find again has to be taken back by name.
func (p *publisher) grows(ctx context.Context, own *Published) error {
	r := p.doc.Revocations
	named := namesOf(r.Devices, r.Hardware, r.Keys)
	if back := r.Reinstated; back != nil {
		for name := range namesOf(back.Devices, back.Hardware, back.Keys) {
			named[name] = true
		}
	}
	return p.others(ctx, func(old *Published, d *edgeclaim.Document) error {
		if !overlaps(old, own) || d.Revocations == nil {
			return nil
		}
		for name := range namesOf(d.Revocations.Devices, d.Revocations.Hardware, d.Revocations.Keys) {
			if !named[name] {
				return fmt.Errorf("%w: version %d revokes the %s, and this one neither does nor reinstates it",
					edgeclaim.ErrConflict, old.Version, name)
			}
		}
		return nil
	})
}

// namesOf is all that is named, each with what it is: "device …".
func namesOf(devices []edgeclaim.DeviceID, hardware []edgeclaim.HardwareID, keys []edgeclaim.KeyHash) map[string]bool {
	names := make(map[string]bool, len(devices)+len(hardware)+len(keys))
	for _, id := range devices {
		names["device "+id.String()] = true
	}
	for _, id := range hardware {
		names["hardware "+id.String()] = true
	}
	for _, hash := range keys {
		names["key "+hash.String()] = true
	}
	return names
}

// revoke makes the tables of what is revoked say what the tenant's documents in
// force say. Only what is another is written.
func (p *publisher) revoke(ctx context.Context) error {
	devices, hardware := map[edgeclaim.DeviceID]bool{}, map[edgeclaim.HardwareID]bool{}
	take := func(r *edgeclaim.Revocations) {
		for _, id := range r.Devices {
			devices[id] = true
		}
		for _, id := range r.Hardware {
			hardware[id] = true
		}
	}
	err := p.others(ctx, func(_ *Published, d *edgeclaim.Document) error {
		if d.Revocations != nil {
			take(d.Revocations)
		}
		return nil
	})
	if err != nil {
		return err
	}
	take(p.doc.Revocations)
	if err := p.revokeDevices(ctx, devices); err != nil {
		return err
	}
	return p.revokeHardware(ctx, hardware)
}

func (p *publisher) revokeDevices(ctx context.Context, wanted map[edgeclaim.DeviceID]bool) error {
	tenant := p.doc.Tenant.String()
	var gone []edgeclaim.DeviceID
	err := p.each(ctx, `SELECT device FROM revoked_devices WHERE tenant = ?`, []any{tenant}, func(rows *sql.Rows) error {
		var raw []byte
		if err := rows.Scan(&raw); err != nil {
			return err
		}
		id, err := edgeclaim.DeviceIDFromBytes(raw)
		if !wanted[id] {
			gone = append(gone, id)
		}
		delete(wanted, id)
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range gone {
		if err := p.run(ctx, `DELETE FROM revoked_devices WHERE tenant = ? AND device = ?`, tenant, id.Bytes()); err != nil {
			return err
		}
	}
	var rows []any
	for id := range wanted {
		rows = append(rows, tenant, id.Bytes())
	}
	return p.insert(ctx, bulk{head: `INTO revoked_devices (tenant, device) VALUES `, columns: revokedColumns}, rows)
}

func (p *publisher) revokeHardware(ctx context.Context, wanted map[edgeclaim.HardwareID]bool) error {
	tenant := p.doc.Tenant.String()
	var gone []string
	err := p.each(ctx, `SELECT hardware FROM revoked_hardware WHERE tenant = ?`, []any{tenant}, func(rows *sql.Rows) error {
		var text string
		if err := rows.Scan(&text); err != nil {
			return err
		}
		id, err := edgeclaim.ParseHardwareID(text)
		if !wanted[id] {
			gone = append(gone, text)
		}
		delete(wanted, id)
		return err
	})
	if err != nil {
		return err
	}
	for _, text := range gone {
		if err := p.run(ctx, `DELETE FROM revoked_hardware WHERE tenant = ? AND hardware = ?`, tenant, text); err != nil {
			return err
		}
	}
	var rows []any
	for id := range wanted {
		rows = append(rows, tenant, id.String())
	}
	return p.insert(ctx, bulk{head: `INTO revoked_hardware (tenant, hardware) VALUES `, columns: revokedColumns}, rows)
}

const revokedColumns = 2
