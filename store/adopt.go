package store

import (
	"context"

	"edgeclaim"
)

// adoptChunk is how many devices one transaction adopts at most, so that claims
// never wait behind many.
const adoptChunk = 256

// Adopt stores devices that upstream holds as told by this box, and returns how
// many it took; nil means that they are durable. No record goes up for them.
// Those that the box has are left alone, whatever upstream says of them. A
// device whose id is not the one derived from its hardware gets its alias too,
// unless that hardware is on record as another device meanwhile: then it waits as
// one that a document gives. A device that a revocation names is stored as
// revoked (P9). ErrInvalid: one
// of them is not whole; nothing was stored. ErrUnavailable: some may be stored,
// try again.
func (db *DB) Adopt(ctx context.Context, devices []edgeclaim.Device) (adopted int, err error) {
	for i := range devices {
		if err := adoptable(&devices[i]); err != nil {
			return 0, err
		}
	}
	for len(devices) > 0 {
		n := min(len(devices), adoptChunk)
		chunk, fresh := devices[:n], 0
		err := db.update(ctx, func(b *batch) error {
			for i := range chunk {
				took, err := b.adopt(&chunk[i])
				if err != nil {
					return halfDone(err)
				}
				if took {
					fresh++
				}
			}
			return nil
		})
		if err != nil {
			return adopted, err
		}
		adopted, devices = adopted+fresh, devices[n:]
	}
	return adopted, nil
}

// adoptable makes sure that what is stored can be read again.
func adoptable(d *edgeclaim.Device) error {
	for field, missing := range map[string]bool{
		"device_id": d.ID.IsZero(), "tenant_id": d.Tenant.IsZero(), "hardware_id": d.Hardware.IsZero(),
		"template_id": d.Template.IsZero(), "key_id": d.Key.IsZero(),
	} {
		if missing {
			return edgeclaim.Invalid(field, "missing")
		}
	}
	switch d.Status {
	case edgeclaim.DeviceActive, edgeclaim.DeviceReleased, edgeclaim.DeviceRevoked:
	default:
		return edgeclaim.Invalid("status", "want active, released or revoked")
	}
	value, err := encodeDevice(d)
	if err != nil {
		return err
	}
	if len(value) > MaxRecord {
		return edgeclaim.Invalid("device", "larger than %d bytes", MaxRecord)
	}
	return nil
}

func (b *batch) adopt(d *edgeclaim.Device) (took bool, err error) {
	if _, known, err := b.locate(d.ID); err != nil || known {
		return false, err
	}
	adopted := *d
	adopted.Mint, adopted.Told = nil, true // no mint outlives the registry, and nobody knows whether it logged in
	switch named, err := b.named(&adopted); {
	case err != nil:
		return false, err
	case named:
		adopted.Status = edgeclaim.DeviceRevoked
	}
	value, err := encodeDevice(&adopted)
	if err != nil {
		return false, err
	}
	if err := b.lead(&adopted); err != nil {
		return false, err
	}
	return true, b.putDevice(d.ID, b.state.Rows+1, value)
}

// lead makes the hardware of a device that is adopted lead to it, unless it is on
// record as another device: then the id waits until that one is released. An
// alias from upstream that no claim has used yet gives way and waits itself, for
// nothing is renamed (P9).
func (b *batch) lead(d *edgeclaim.Device) error {
	derived := edgeclaim.NewDeviceID(d.Tenant, d.Hardware, 1)
	a, found, err := alias(b.tx, d.Tenant, d.Hardware)
	if err != nil || !found && d.ID == derived {
		return err
	}
	if !found {
		a.id = derived
	}
	if a.id == d.ID {
		return nil
	}
	holder, _, err := b.device(a.id)
	if err != nil {
		return err
	}
	switch held := holder != nil && holder.Hardware == d.Hardware; {
	case held && d.Status == edgeclaim.DeviceActive:
		if w, err := b.waiting(d.Tenant, d.Hardware); err != nil || w != nil {
			return err
		}
		return b.putWaiting(d.Tenant, d.Hardware, &waitingAlias{Device: d.ID})
	case held:
		return nil
	case a.given && holder == nil && d.Status == edgeclaim.DeviceReleased:
		return nil // its next claim gets the id that upstream says
	case a.given && holder == nil:
		if err := b.putWaiting(d.Tenant, d.Hardware, &waitingAlias{Device: a.id}); err != nil {
			return err
		}
	case found:
		return nil
	}
	return b.pointAt(d.Tenant, d.Hardware, d.ID)
}
