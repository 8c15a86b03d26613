package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// Device returns a device by its id; ErrNotFound when there is none.
func (db *DB) Device(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.Device, error) {
	var device edgeclaim.Device
	row, ok := db.inTail(id)
	err := db.view(ctx, func(tx *bolt.Tx) error {
		found, _, err := db.findDevice(tx, id, row, ok)
		if err != nil || found == nil {
			return errors.Join(err, notFound(found != nil || err != nil))
		}
		device = *found
		return nil
	})
	return device, err
}

// findDevice reads the device whose row is known, or else in the index; nil when
// there is none.
func (db *DB) findDevice(tx *bolt.Tx, id edgeclaim.DeviceID, row uint64, known bool) (*edgeclaim.Device, uint64, error) {
	if !known {
		var err error
		if row, known, err = indexed(tx, id); err != nil || !known {
			return nil, 0, err
		}
	}
	return db.readDevice(tx, id, row)
}

func notFound(found bool) error {
	if found {
		return nil
	}
	return edgeclaim.ErrNotFound
}

// Devices returns up to max devices in order of their first claim, those after
// the given one; zero after means from the start. An id that is not there is
// ErrNotFound.
func (db *DB) Devices(ctx context.Context, after edgeclaim.DeviceID, maximum int) ([]edgeclaim.Device, error) {
	var devices []edgeclaim.Device
	from, known := db.inTail(after)
	err := db.view(ctx, func(tx *bolt.Tx) (err error) {
		if !known && !after.IsZero() {
			if from, known, err = indexed(tx, after); err != nil || !known {
				return errors.Join(err, notFound(known))
			}
		}
		cursor := tx.Bucket(bucketDevices).Cursor()
		for k, v := cursor.Seek(number(from + 1)); k != nil && len(devices) < maximum; k, v = cursor.Next() {
			device, err := db.readRow(v)
			if err != nil {
				return err
			}
			devices = append(devices, device)
		}
		return nil
	})
	return devices, err
}

// Count returns how many devices are on record, released and revoked ones
// included.
func (db *DB) Count(ctx context.Context) (uint64, error) {
	if err := db.readable(ctx); err != nil {
		return 0, err
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.state.Rows, nil
}

// store puts a device at its row, 0 for a new one, with the record and the key
// that go with it, each nil for none. All that can be refused is refused
// before the first put.
func (b *batch) store(d *edgeclaim.Device, row uint64, r *edgeclaim.Record, k *edgeclaim.Key) error {
	if err := b.denyWins("", d.Status, d); err != nil {
		return err
	}
	value, err := encodeDevice(d)
	if err != nil {
		return err
	}
	var record []byte
	if r != nil {
		if record, err = b.admit(edgeclaim.LaneProv, r); err != nil {
			return err
		}
	}
	fresh := row == 0
	if fresh {
		row = b.state.Rows + 1
	}
	if err := b.putDevice(d.ID, row, value); err != nil {
		return halfDone(err)
	}
	if record != nil {
		if err := b.append(edgeclaim.LaneProv, r.Device, record); err != nil {
			return halfDone(err)
		}
	}
	if fresh {
		b.claims++
	}
	if k != nil {
		*b.keys[k.ID] = *k
		b.put[k.ID] = true
	}
	return halfDone(b.settled(d))
}

// putDevice puts a device's row, the next one for a new device.
func (b *batch) putDevice(id edgeclaim.DeviceID, row uint64, value []byte) error {
	b.dirty = true
	bucket := b.ascending(bucketDevices)
	if b.db.credentials.live() {
		b.credentials.note(row, bucket.Get(number(row)), value)
	}
	if row > b.state.Rows {
		b.state.Rows = row
		b.fresh[id] = row
	}
	return bucket.Put(number(row), value)
}

// ChangeDevice reads a device, lets change edit it, and stores it with the
// record that change returns, nil for none, in the provisioning lane, in one
// transaction. Id and tenant cannot change, and the hardware by Swap alone. Where
// an alias waits for a device that is released, it takes hold. ErrConflict: a
// revocation from upstream names the device or its hardware, and it would become
// active, or be no longer revoked (P9).
// change must be pure and quick, and replace a Mint rather than write to it; its
// error is returned as it is and leaves nothing behind.
func (db *DB) ChangeDevice(ctx context.Context, id edgeclaim.DeviceID,
	change func(*edgeclaim.Device) (*edgeclaim.Record, error),
) (edgeclaim.Device, error) {
	var changed edgeclaim.Device
	err := db.update(ctx, func(b *batch) error {
		device, row, err := b.device(id)
		if err != nil {
			return err
		}
		if device == nil {
			return edgeclaim.ErrNotFound
		}
		before := *device
		var record *edgeclaim.Record
		if err := guard(func() (err error) { record, err = change(device); return err }); err != nil {
			return err
		}
		if device.ID != id || device.Tenant != before.Tenant || device.Hardware != before.Hardware {
			return fmt.Errorf("change device: id, tenant and hardware stay: %w", edgeclaim.ErrInvalid)
		}
		if err := b.denyWins(before.Status, device.Status, device); err != nil {
			return err
		}
		changed = *device
		if record == nil && reflect.DeepEqual(before, *device) {
			return nil // nothing changed: no commit
		}
		return b.store(device, row, record, nil)
	})
	if err != nil {
		return edgeclaim.Device{}, err
	}
	return changed, nil
}

// device reads a device as this transaction has it; nil when there is none.
func (b *batch) device(id edgeclaim.DeviceID) (*edgeclaim.Device, uint64, error) {
	row, ok, err := b.locate(id)
	if err != nil || !ok {
		return nil, 0, err
	}
	return b.db.readDevice(b.tx, id, row)
}

func (db *DB) readDevice(tx *bolt.Tx, id edgeclaim.DeviceID, row uint64) (*edgeclaim.Device, uint64, error) {
	v := tx.Bucket(bucketDevices).Get(number(row))
	if v == nil {
		return nil, 0, damaged("device row", nil)
	}
	device, err := db.readRow(v)
	if err != nil {
		return nil, 0, err
	}
	if device.ID != id {
		return nil, 0, damaged("device index", nil)
	}
	return &device, row, nil
}
