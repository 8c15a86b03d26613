package store

import (
	"context"
	"fmt"

	"edgeclaim"
)

// Swap gives a device another board: its hardware becomes to, the one it had is
// denied as swapped, and the record that change returns, nil for none, goes to
// the provisioning lane, in one transaction. change edits the rest of the device
// while it still names the old hardware; it must be pure and quick, and its error
// is returned as it is and leaves nothing behind.
//
// A swap back to a board that this device was swapped away from lifts that
// board's denial. ErrNotFound: no such device. ErrConflict: to is the device's
// already, is on record as another device, is kept for one, or is denied; or a
// document revokes the device.
// ErrInvalid: change changed id, tenant or hardware, or there are MaxDenied
// denials. ErrUnavailable: as Mint.
func (db *DB) Swap(ctx context.Context, id edgeclaim.DeviceID, to edgeclaim.HardwareID,
	change func(*edgeclaim.Device) (*edgeclaim.Record, error),
) (edgeclaim.Device, error) {
	if to.IsZero() {
		return edgeclaim.Device{}, edgeclaim.Invalid("hardware_id", "missing")
	}
	var swapped edgeclaim.Device
	err := db.update(ctx, func(b *batch) (err error) {
		swapped, err = b.swap(id, to, change)
		return err
	})
	if err != nil {
		return edgeclaim.Device{}, err
	}
	return swapped, nil
}

func (b *batch) swap(id edgeclaim.DeviceID, to edgeclaim.HardwareID,
	change func(*edgeclaim.Device) (*edgeclaim.Record, error),
) (edgeclaim.Device, error) {
	var none edgeclaim.Device
	device, row, err := b.device(id)
	if err != nil || device == nil {
		return none, orNotFound(err)
	}
	tenant, from := device.Tenant, device.Hardware
	back, err := b.mayTake(device, to)
	if err != nil {
		return none, err
	}
	old, err := exactDenial(b.tx, tenant, from)
	if err != nil {
		return none, err
	}
	if old == nil && back == nil && b.state.Denied >= edgeclaim.MaxDenied {
		return none, edgeclaim.Invalid("deny", "the limit of %d denials is reached", edgeclaim.MaxDenied)
	}
	var record *edgeclaim.Record
	if err := guard(func() (err error) { record, err = change(device); return err }); err != nil {
		return none, err
	}
	if device.ID != id || device.Tenant != tenant || device.Hardware != from && device.Hardware != to {
		return none, fmt.Errorf("swap: id, tenant and hardware stay: %w", edgeclaim.ErrInvalid)
	}
	device.Hardware = to
	if err := b.store(device, row, record, nil); err != nil {
		return none, err
	}
	if back != nil {
		if err := b.removeDenial(back); err != nil {
			return none, halfDone(err)
		}
	}
	if old == nil { // else the operator's own stays
		stamp := b.db.cfg.Stamp()
		denied := edgeclaim.Denial{Tenant: tenant, Hardware: from, Reason: edgeclaim.DeniedSwapped, At: stamp.Time, Device: id}
		if err := b.putDenial(&denied); err != nil {
			return none, halfDone(err)
		}
	}
	return *device, halfDone(b.pointAt(tenant, to, id))
}

// mayTake is an ErrConflict where a board cannot have the device's place. It
// returns the denial that a swap back lifts, nil for none.
func (b *batch) mayTake(device *edgeclaim.Device, to edgeclaim.HardwareID) (*edgeclaim.Denial, error) {
	if device.Hardware == to {
		return nil, fmt.Errorf("swap: that is its hardware: %w", edgeclaim.ErrConflict)
	}
	denied, err := denial(b.tx, device.Tenant, to)
	if err != nil {
		return nil, err
	}
	if b.state.Revoked > 0 {
		upstream, err := denialUpstream(b.tx, device.Tenant, to, device.ID)
		if err != nil {
			return nil, err
		}
		if upstream != nil {
			return nil, fmt.Errorf("swap: a document denies that hardware or device: %w", edgeclaim.ErrConflict)
		}
	}
	back := denied != nil && denied.Reason == edgeclaim.DeniedSwapped && denied.Device == device.ID
	if denied != nil && !back {
		return nil, fmt.Errorf("swap: that hardware is denied: %w", edgeclaim.ErrConflict)
	}
	who, err := b.sight().identity(device.Tenant, to)
	if err != nil {
		return nil, err
	}
	if who.id != device.ID && (who.known != nil || who.taken) {
		return nil, fmt.Errorf("swap: that hardware is on record as another device: %w", edgeclaim.ErrConflict)
	}
	if !back {
		denied = nil
	}
	return denied, nil
}

// pointAt makes a hardware lead to a device: by an alias, unless its derived id is
// that device's.
func (b *batch) pointAt(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID, id edgeclaim.DeviceID) error {
	if edgeclaim.NewDeviceID(tenant, hardware, 1) != id {
		return b.putAlias(tenant, hardware, id)
	}
	b.dirty = true
	return b.tx.Bucket(bucketAliases).Delete(aliasKey(tenant, hardware))
}

func (b *batch) putAlias(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID, id edgeclaim.DeviceID) error {
	some := true
	b.aliases, b.dirty = &some, true
	return b.tx.Bucket(bucketAliases).Put(aliasKey(tenant, hardware), aliasRow{id: id}.encode())
}

// orNotFound is what a look-up that found nothing says.
func orNotFound(err error) error {
	if err != nil {
		return err
	}
	return edgeclaim.ErrNotFound
}
