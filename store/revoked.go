package store

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// The kinds of what is revoked, the first byte of a key.
const (
	revokedDevice   = 'd'
	revokedHardware = 'h'
	revokedKey      = 'k'

	revokedPrefix = 1 + tenantSize // of a key: kind and tenant
)

// revokedRow is a revocation in force, whether or not there is anything here
// that it is about.
type revokedRow struct {
	Version uint64  `cbor:"1,keyasint"` // of the document that named it first
	At      instant `cbor:"2,keyasint"` // when that was applied
	// Was is, of a key that the document revoked, what it was before.
	Was string `cbor:"3,keyasint,omitempty"`

	fresh bool // it is to be put
}

func encodeRevoked(r *revokedRow) ([]byte, error) { return cbor.Marshal(r) }

func decodeRevoked(key, value []byte) (revokedRow, error) {
	var row revokedRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return row, damaged("revocation", err)
	}
	if len(key) <= revokedPrefix {
		return row, damaged("revocation", nil)
	}
	var err error
	switch rest := key[revokedPrefix:]; key[0] {
	case revokedDevice:
		_, err = edgeclaim.DeviceIDFromBytes(rest)
	case revokedHardware:
		_, err = edgeclaim.ParseHardwareID(string(rest))
	case revokedKey:
		_, err = edgeclaim.KeyHashFromBytes(rest)
	default:
		return row, damaged("revocation", nil)
	}
	if err != nil {
		return row, damaged("revocation", err)
	}
	return row, nil
}

func revokedRowKey(kind byte, tenant edgeclaim.TenantID, rest []byte) []byte {
	key := make([]byte, 0, revokedPrefix+len(rest))
	return append(append(append(key, kind), tenant.Bytes()...), rest...)
}

func revokedDeviceKey(tenant edgeclaim.TenantID, id edgeclaim.DeviceID) []byte {
	return revokedRowKey(revokedDevice, tenant, id.Bytes())
}

func revokedHardwareKey(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) []byte {
	return revokedRowKey(revokedHardware, tenant, []byte(hardware.String()))
}

func revokedHashKey(tenant edgeclaim.TenantID, hash edgeclaim.KeyHash) []byte {
	return revokedRowKey(revokedKey, tenant, hash.Bytes())
}

// revocationKeys are the keys of what a document names.
func revocationKeys(tenant edgeclaim.TenantID, devices []edgeclaim.DeviceID, hardware []edgeclaim.HardwareID,
	keys []edgeclaim.KeyHash,
) map[string]bool {
	named := make(map[string]bool, len(devices)+len(hardware)+len(keys))
	for _, id := range devices {
		named[string(revokedDeviceKey(tenant, id))] = true
	}
	for _, hw := range hardware {
		named[string(revokedHardwareKey(tenant, hw))] = true
	}
	for _, hash := range keys {
		named[string(revokedHashKey(tenant, hash))] = true
	}
	return named
}

// nameOfRevoked says for people what a key of the bucket stands for.
func nameOfRevoked(key string) string {
	rest := []byte(key[revokedPrefix:])
	switch key[0] {
	case revokedDevice:
		if id, err := edgeclaim.DeviceIDFromBytes(rest); err == nil {
			return "device " + id.String()
		}
	case revokedHardware:
		return "hardware " + string(rest)
	}
	return "key " + hex.EncodeToString(rest)
}

// revokedOf reads a tenant's revocations.
func revokedOf(tx *bolt.Tx, tenant edgeclaim.TenantID) (map[string]*revokedRow, error) {
	rows := map[string]*revokedRow{}
	cursor := tx.Bucket(bucketRevoked).Cursor()
	for _, kind := range []byte{revokedDevice, revokedHardware, revokedKey} {
		prefix := revokedRowKey(kind, tenant, nil)
		for k, v := cursor.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
			row, err := decodeRevoked(k, v)
			if err != nil {
				return nil, err
			}
			rows[string(k)] = &row
		}
	}
	return rows, nil
}

// denialUpstream returns what a document has against a hardware, or against the
// device that it would be; nil for nothing. A zero id is no device.
func denialUpstream(tx *bolt.Tx, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID, id edgeclaim.DeviceID) (*edgeclaim.Denial, error) {
	denied := &edgeclaim.Denial{
		Tenant: tenant, Hardware: hardware, Reason: edgeclaim.DeniedUpstream, By: string(edgeclaim.OwnerUpstream),
	}
	bucket := tx.Bucket(bucketRevoked)
	key := revokedHardwareKey(tenant, hardware)
	value := bucket.Get(key)
	if value == nil && !id.IsZero() {
		denied.Device = id
		key = revokedDeviceKey(tenant, id)
		value = bucket.Get(key)
	}
	if value == nil {
		return nil, nil
	}
	row, err := decodeRevoked(key, value)
	denied.At = row.At.time()
	return denied, err
}

// named reports whether a revocation names a device, by its id or its hardware.
// Where there are none, it looks at no page.
func (b *batch) named(d *edgeclaim.Device) (bool, error) {
	if b.state.Revoked == 0 {
		return false, nil
	}
	denied, err := denialUpstream(b.tx, d.Tenant, d.Hardware, d.ID)
	return denied != nil, err
}

// denyWins is an ErrConflict where a device that a revocation names would become
// active, or be no longer revoked (P9). One that was released before, and that its
// hardware no longer goes by, may be named and stay as it is.
func (b *batch) denyWins(before, after edgeclaim.DeviceStatus, d *edgeclaim.Device) error {
	if after != edgeclaim.DeviceActive && (before != edgeclaim.DeviceRevoked || after == edgeclaim.DeviceRevoked) {
		return nil
	}
	named, err := b.named(d)
	if err != nil || !named {
		return err
	}
	return fmt.Errorf("device: revoked by a document, and only a document takes it back: %w", edgeclaim.ErrConflict)
}

// revokedFor returns the revocation of a tenant's key; nil when there is none.
func (b *batch) revokedFor(tenant edgeclaim.TenantID, hash edgeclaim.KeyHash) (*revokedRow, []byte, error) {
	if b.state.Revoked == 0 {
		return nil, nil, nil
	}
	key := revokedHashKey(tenant, hash)
	value := b.tx.Bucket(bucketRevoked).Get(key)
	if value == nil {
		return nil, nil, nil
	}
	row, err := decodeRevoked(key, value)
	return &row, key, err
}

// revokedHardwareAfter appends up to maximum denials of hardware by documents,
// those after the key of a denial.
func revokedHardwareAfter(tx *bolt.Tx, from []byte, maximum int, denials *[]edgeclaim.Denial) error {
	cursor := tx.Bucket(bucketRevoked).Cursor()
	start := append([]byte{revokedHardware}, from...)
	for k, v := cursor.Seek(start); len(k) > revokedPrefix && k[0] == revokedHardware && len(*denials) < maximum; k, v = cursor.Next() {
		if bytes.Equal(k, start) {
			continue
		}
		row, err := decodeRevoked(k, v)
		if err != nil {
			return err
		}
		tenant, err := edgeclaim.TenantIDFromBytes(k[1:revokedPrefix])
		if err != nil {
			return damaged("revocation", err)
		}
		hardware, err := edgeclaim.ParseHardwareID(string(k[revokedPrefix:]))
		if err != nil {
			return damaged("revocation", err)
		}
		*denials = append(*denials, edgeclaim.Denial{
			Tenant: tenant, Hardware: hardware, Reason: edgeclaim.DeniedUpstream,
			By: string(edgeclaim.OwnerUpstream), At: row.At.time(),
		})
	}
	return nil
}
