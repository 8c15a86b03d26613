package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// Grant returns the key of that hash with its template; ErrNotFound when there
// is none. It reads only what is committed. The template's slices are shared:
// they are not to be changed.
func (db *DB) Grant(ctx context.Context, hash edgeclaim.KeyHash) (edgeclaim.Grant, error) {
	if err := db.readable(ctx); err != nil {
		return edgeclaim.Grant{}, err
	}
	key, cached, commits := db.keys.find(hash)
	if !cached {
		err := db.view(ctx, func(tx *bolt.Tx) (err error) {
			key, err = readKeyByHash(tx, hash)
			return err
		})
		if err != nil {
			return edgeclaim.Grant{}, err
		}
		db.keys.add(key, commits)
	}
	if !key.Hash.Equal(hash) {
		return edgeclaim.Grant{}, damaged("key cache", nil)
	}
	return db.catalog.Load().grant(key)
}

// Holder returns the device that this hardware of this tenant is on record as,
// aliases followed; ErrNotFound when there is none.
func (db *DB) Holder(ctx context.Context, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (edgeclaim.Device, error) {
	var device edgeclaim.Device
	var id edgeclaim.DeviceID
	derived := edgeclaim.NewDeviceID(tenant, hardware, 1)
	row, ok := db.inTail(derived)
	err := db.view(ctx, func(tx *bolt.Tx) (err error) {
		if id, err = resolve(tx, tenant, hardware); err != nil || id != derived {
			return err
		}
		device, err = findDevice(tx, id, row, ok)
		return err
	})
	if err == nil && id != derived { // an alias's: its row may be in the tail
		return db.Device(ctx, id)
	}
	return device, err
}

// Device returns a device by its id; ErrNotFound when there is none.
func (db *DB) Device(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.Device, error) {
	var device edgeclaim.Device
	row, ok := db.inTail(id)
	err := db.view(ctx, func(tx *bolt.Tx) (err error) {
		device, err = findDevice(tx, id, row, ok)
		return err
	})
	return device, err
}

// findDevice reads the device whose row is known, or else in the index.
func findDevice(tx *bolt.Tx, id edgeclaim.DeviceID, row uint64, known bool) (edgeclaim.Device, error) {
	if !known {
		var err error
		if row, known, err = indexed(tx, id); err != nil || !known {
			return edgeclaim.Device{}, errors.Join(err, notFound(known))
		}
	}
	return readDevice(tx, id, row)
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
			device, err := decodeDevice(v)
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

// Claim runs decide with the key's grant and the device that the hardware is
// on record as, nil for new hardware, inside a write transaction that many
// claims share. What decide returns is stored whole: Claim returns nil only
// when device, key accounting and record are fsynced (P1). decide must be pure
// and quick and must not call the store; its error is returned as it is and
// leaves nothing behind. With nil, nil nothing is stored.
//
// ErrNotFound: no such key. ErrUnavailable: the disk, the file or the
// provisioning lane is full, or the store is closing, and nothing was stored; or
// the store failed, and nobody knows.
func (db *DB) Claim(ctx context.Context, ref edgeclaim.ClaimRef,
	decide func(edgeclaim.Grant, *edgeclaim.Device) (*edgeclaim.Minted, error),
) error {
	return db.update(ctx, func(b *batch) error { return b.claim(ref, decide) })
}

func (b *batch) claim(ref edgeclaim.ClaimRef,
	decide func(edgeclaim.Grant, *edgeclaim.Device) (*edgeclaim.Minted, error),
) error {
	key, err := b.keyByHash(ref.Key)
	if err != nil {
		return err
	}
	grant, err := b.catalog.grant(*key)
	if err != nil {
		return err
	}
	id, err := b.resolve(ref)
	if err != nil {
		return err
	}
	known, row, err := b.device(id)
	if err != nil {
		return err
	}
	var minted *edgeclaim.Minted
	if err := guard(func() (err error) { minted, err = decide(grant, known); return err }); err != nil || minted == nil {
		return err
	}
	if minted.Device.ID != id || minted.Device.Tenant != ref.Tenant || minted.Key.ID != key.ID ||
		!minted.Key.Hash.Equal(key.Hash) || minted.Key.Template != key.Template {
		return fmt.Errorf("claim: minted another device or key than asked for: %w", edgeclaim.ErrInvalid)
	}
	return b.store(&minted.Device, row, minted.Record, &minted.Key)
}

// store puts a device at its row, 0 for a new one, with the record and the key
// that go with it, each nil for none. All that can be refused is refused
// before the first put.
func (b *batch) store(d *edgeclaim.Device, row uint64, r *edgeclaim.Record, k *edgeclaim.Key) error {
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
	b.dirty = true
	if err := b.ascending(bucketDevices).Put(number(row), value); err != nil {
		return halfDone(err)
	}
	if record != nil {
		if err := b.append(edgeclaim.LaneProv, r.Device, record); err != nil {
			return halfDone(err)
		}
	}
	if fresh {
		b.state.Rows = row
		b.fresh[d.ID] = row
		b.claims++
	}
	if k != nil {
		*b.keys[k.ID] = *k
		b.put[k.ID] = true
	}
	return nil
}

// ChangeDevice reads a device, lets change edit it, and stores it with the
// record that change returns, nil for none, in the provisioning lane, in one
// transaction. The id and tenant cannot change. change must be pure and quick;
// its error is returned as it is and leaves nothing behind.
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
		if device.ID != id || device.Tenant != before.Tenant {
			return fmt.Errorf("change device: id and tenant are for ever: %w", edgeclaim.ErrInvalid)
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
	device, err := readDevice(b.tx, id, row)
	if err != nil {
		return nil, 0, err
	}
	return &device, row, nil
}

func readDevice(tx *bolt.Tx, id edgeclaim.DeviceID, row uint64) (edgeclaim.Device, error) {
	v := tx.Bucket(bucketDevices).Get(number(row))
	if v == nil {
		return edgeclaim.Device{}, damaged("device row", nil)
	}
	device, err := decodeDevice(v)
	if err != nil {
		return edgeclaim.Device{}, err
	}
	if device.ID != id {
		return edgeclaim.Device{}, damaged("device index", nil)
	}
	return device, nil
}

// resolve returns the id that a hardware has, or will have: an alias's, else
// the derived one (P4).
func resolve(tx *bolt.Tx, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (edgeclaim.DeviceID, error) {
	if v := tx.Bucket(bucketAliases).Get(aliasKey(tenant, hardware)); v != nil {
		id, err := edgeclaim.DeviceIDFromBytes(v)
		if err != nil {
			return id, damaged("alias", err)
		}
		return id, nil
	}
	return edgeclaim.NewDeviceID(tenant, hardware, 1), nil
}

// resolve spares a claim the look-up where there is no alias at all.
func (b *batch) resolve(ref edgeclaim.ClaimRef) (edgeclaim.DeviceID, error) {
	if b.aliases == nil {
		first, _ := b.tx.Bucket(bucketAliases).Cursor().First()
		some := first != nil
		b.aliases = &some
	}
	if !*b.aliases {
		return edgeclaim.NewDeviceID(ref.Tenant, ref.Hardware, 1), nil
	}
	return resolve(b.tx, ref.Tenant, ref.Hardware)
}

func aliasKey(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) []byte {
	return []byte(tenant.String() + "/" + hardware.String())
}

// guard keeps a panic of a caller's callback from being taken for a damaged
// file: it becomes that caller's error.
func guard(call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("callback panicked with a %T", p) // the value may hold a secret (P5)
		}
	}()
	return call()
}
