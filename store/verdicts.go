package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// AdoptVerdict gives a device the credential that upstream says is the one that
// stays, in the place of the one that is void by it, with the record that change
// returns, nil for none, in the provisioning lane, in one transaction; nil means
// that it is durable. Template and key become those of the claim that made it;
// the credential before, and what would say the void one again, are erased. It
// reports whether it did: a device that is not on record, is another hardware's
// here, is not active, or has another credential by now is left alone, so that
// the same word again does nothing. change is given the device as it becomes and
// leaves it so; it must be pure and quick, and its error is returned as it is and
// leaves nothing behind. ErrInvalid: the verdict names no device or no
// credential, or change changed something. ErrUnavailable: as Mint.
func (db *DB) AdoptVerdict(ctx context.Context, v edgeclaim.Verdict,
	change func(*edgeclaim.Device) (*edgeclaim.Record, error),
) (edgeclaim.Device, bool, error) {
	switch kept := &v.Device; {
	case kept.ID.IsZero():
		return edgeclaim.Device{}, false, edgeclaim.Invalid("device_id", "missing")
	case kept.Credential.Hash.IsZero() || v.Void.IsZero():
		return edgeclaim.Device{}, false, edgeclaim.Invalid("credential", "missing")
	}
	var adopted edgeclaim.Device
	var done bool
	err := db.update(ctx, func(b *batch) (err error) {
		adopted, done, err = b.adoptVerdict(&v, change)
		return err
	})
	if err != nil {
		return edgeclaim.Device{}, false, err
	}
	return adopted, done, nil
}

func (b *batch) adoptVerdict(v *edgeclaim.Verdict, change func(*edgeclaim.Device) (*edgeclaim.Record, error)) (edgeclaim.Device, bool, error) {
	d, row, err := b.device(v.Device.ID)
	if err != nil || d == nil {
		return edgeclaim.Device{}, false, err
	}
	if d.Tenant != v.Device.Tenant || d.Hardware != v.Device.Hardware || d.Status != edgeclaim.DeviceActive ||
		!d.Credential.Hash.Equal(v.Void) || d.Credential.Hash.Equal(v.Device.Credential.Hash) {
		return *d, false, nil
	}
	d.Credential, d.Previous = v.Device.Credential, edgeclaim.Credential{}
	d.PreviousUntil, d.RotatedBy, d.Mint = time.Time{}, "", nil
	d.Told = true // whether it was ever used, the other box tells
	if !v.Device.Template.IsZero() {
		d.Template = v.Device.Template
	}
	if !v.Device.Key.IsZero() {
		d.Key = v.Device.Key
	}
	was := *d
	var record *edgeclaim.Record
	if err := guard(func() (err error) { record, err = change(d); return err }); err != nil {
		return edgeclaim.Device{}, false, err
	}
	if d.ID != was.ID || d.Tenant != was.Tenant || d.Hardware != was.Hardware || d.Status != was.Status || d.Credential != was.Credential {
		return edgeclaim.Device{}, false, fmt.Errorf("verdict: the device stays as it was said: %w", edgeclaim.ErrInvalid)
	}
	if err := b.store(d, row, record, nil); err != nil {
		return edgeclaim.Device{}, false, err
	}
	return *d, true, nil
}

// keyPage is how many rows one read transaction of DevicesByKey looks at.
const keyPage = 4096

// DevicesByKey returns up to maximum devices whose credential was made with a
// key, in order of their first claim, those after the given one, and fewer only
// where there are no more; zero after means from the start, and an id that is not
// there is ErrNotFound. There is no index by key: it would cost each claim a
// random page. It looks at the rows in their order, 1 to 2 µs each, in read
// transactions of 4,096, so that it holds up nobody; who asks for pages of many
// devices looks at each row once.
func (db *DB) DevicesByKey(ctx context.Context, key edgeclaim.KeyID, after edgeclaim.DeviceID, maximum int) ([]edgeclaim.Device, error) {
	from := uint64(0)
	if !after.IsZero() {
		row, known := db.inTail(after)
		err := db.view(ctx, func(tx *bolt.Tx) (err error) {
			if from = row; known {
				return nil
			}
			var found bool
			from, found, err = indexed(tx, after)
			return errors.Join(err, notFound(found || err != nil))
		})
		if err != nil {
			return nil, err
		}
	}
	var devices []edgeclaim.Device
	for len(devices) < maximum {
		page, next, err := db.keyPage(ctx, key, from+1, maximum-len(devices))
		if err != nil {
			return nil, err
		}
		devices = append(devices, page...)
		if next == 0 {
			break
		}
		from = next
	}
	return devices, nil
}

// keyPage looks at a page of rows, and returns the last row that it looked at; 0
// after the end.
func (db *DB) keyPage(ctx context.Context, key edgeclaim.KeyID, from uint64, maximum int) (devices []edgeclaim.Device, last uint64, err error) {
	err = db.view(ctx, func(tx *bolt.Tx) error {
		devices, last = nil, 0
		cursor := tx.Bucket(bucketDevices).Cursor()
		k, v := cursor.Seek(number(from))
		for n := 0; k != nil && n < keyPage && len(devices) < maximum; n++ {
			var err error
			if last, err = parseNumber(k); err != nil {
				return err
			}
			if madeWith(v, key.String()) {
				d, err := db.readRow(v)
				if err != nil {
					return err
				}
				devices = append(devices, d)
			}
			k, v = cursor.Next()
		}
		if k == nil {
			last = 0
		}
		return nil
	})
	return devices, last, err
}

// madeWith reads no more of a device's row than its key. A row that cannot be
// read is looked at whole, to say so.
func madeWith(value []byte, key string) bool {
	var row struct {
		Key string `cbor:"5,keyasint"`
	}
	if len(value) < idSize || cbor.Unmarshal(value[idSize:], &row) != nil {
		return true
	}
	return row.Key == key
}
