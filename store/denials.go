package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// tenantSize is the length of a tenant id in a key.
const tenantSize = 16

// denialRow is what the key of a denial does not say.
type denialRow struct {
	Reason string  `cbor:"1,keyasint"`
	By     string  `cbor:"2,keyasint,omitempty"`
	At     instant `cbor:"3,keyasint"`
	Device []byte  `cbor:"4,keyasint,omitempty"`
}

func denialKey(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) []byte {
	return append(tenant.Bytes()[:tenantSize:tenantSize], hardware.String()...)
}

func encodeDenial(d *edgeclaim.Denial) ([]byte, error) {
	row := denialRow{Reason: string(d.Reason), By: d.By, At: toInstant(d.At)}
	if !d.Device.IsZero() {
		row.Device = d.Device.Bytes()
	}
	return cbor.Marshal(&row)
}

func decodeDenial(key, value []byte) (edgeclaim.Denial, error) {
	var d edgeclaim.Denial
	var row denialRow
	if len(key) <= tenantSize {
		return d, damaged("denial", nil)
	}
	if err := cbor.Unmarshal(value, &row); err != nil {
		return d, damaged("denial", err)
	}
	var errs [3]error
	d.Tenant, errs[0] = edgeclaim.TenantIDFromBytes(key[:tenantSize])
	d.Hardware, errs[1] = edgeclaim.ParseHardwareID(string(key[tenantSize:]))
	if row.Device != nil {
		d.Device, errs[2] = edgeclaim.DeviceIDFromBytes(row.Device)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return edgeclaim.Denial{}, damaged("denial", err)
	}
	d.Reason, d.By, d.At = edgeclaim.DenialReason(row.Reason), row.By, row.At.time()
	return d, nil
}

// exactDenial reads the denial of that tenant's hardware; nil when there is
// none.
func exactDenial(tx *bolt.Tx, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (*edgeclaim.Denial, error) {
	key := denialKey(tenant, hardware)
	v := tx.Bucket(bucketDenied).Get(key)
	if v == nil {
		return nil, nil
	}
	d, err := decodeDenial(key, v)
	return &d, err
}

// denial reads what keeps a tenant's hardware from claiming: its own denial, or
// one of every tenant's; nil for neither.
func denial(tx *bolt.Tx, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (*edgeclaim.Denial, error) {
	if d, err := exactDenial(tx, tenant, hardware); err != nil || d != nil {
		return d, err
	}
	return exactDenial(tx, edgeclaim.TenantID{}, hardware)
}

// Deny keeps a hardware from claiming, with the record that goes with it, nil
// for none; nil means that both are durable. Hardware that is denied already
// stays so as it was, and no record goes up. ErrInvalid: there is no hardware,
// the reason is not DeniedByOperator, for Swap alone makes the other one, or
// there are MaxDenied denials. ErrUnavailable: as Mint.
func (db *DB) Deny(ctx context.Context, d edgeclaim.Denial, r *edgeclaim.Record) error {
	switch {
	case d.Hardware.IsZero():
		return edgeclaim.Invalid("hardware_id", "missing")
	case d.Reason != edgeclaim.DeniedByOperator:
		return edgeclaim.Invalid("reason", "want %s", edgeclaim.DeniedByOperator)
	}
	return db.update(ctx, func(b *batch) error { return b.deny(&d, r) })
}

func (b *batch) deny(d *edgeclaim.Denial, r *edgeclaim.Record) error {
	if old, err := exactDenial(b.tx, d.Tenant, d.Hardware); err != nil || old != nil {
		return err
	}
	if b.state.Denied >= edgeclaim.MaxDenied {
		return edgeclaim.Invalid("deny", "the limit of %d denials is reached", edgeclaim.MaxDenied)
	}
	var record []byte
	if r != nil {
		var err error
		if record, err = b.admit(edgeclaim.LaneProv, r); err != nil {
			return err
		}
	}
	if err := b.putDenial(d); err != nil {
		return halfDone(err)
	}
	if record == nil {
		return nil
	}
	return halfDone(b.append(edgeclaim.LaneProv, r.Device, record))
}

// putDenial puts one that is not there.
func (b *batch) putDenial(d *edgeclaim.Denial) error {
	value, err := encodeDenial(d)
	if err != nil {
		return err
	}
	b.dirty = true
	b.state.Denied++
	return b.tx.Bucket(bucketDenied).Put(denialKey(d.Tenant, d.Hardware), value)
}

func (b *batch) removeDenial(d *edgeclaim.Denial) error {
	b.dirty = true
	b.state.Denied--
	return b.tx.Bucket(bucketDenied).Delete(denialKey(d.Tenant, d.Hardware))
}

// Undeny lets a hardware claim again, and returns the denial that it lifted;
// nil means that this is durable. A board that was swapped out does not get its
// old place back, which is another's: its next claim is its next generation. That
// holds too where the denial itself was lost with the file. ErrNotFound: it is
// not denied. ErrConflict: a document denies it, and only a document takes that
// back. ErrInvalid: it has had MaxGeneration lives.
func (db *DB) Undeny(ctx context.Context, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (edgeclaim.Denial, error) {
	if hardware.IsZero() {
		return edgeclaim.Denial{}, edgeclaim.Invalid("hardware_id", "missing")
	}
	var lifted edgeclaim.Denial
	err := db.update(ctx, func(b *batch) (err error) {
		lifted, err = b.undeny(tenant, hardware)
		return err
	})
	if err != nil {
		return edgeclaim.Denial{}, err
	}
	return lifted, nil
}

func (b *batch) undeny(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (edgeclaim.Denial, error) {
	var none edgeclaim.Denial
	if b.state.Revoked > 0 {
		upstream, err := denialUpstream(b.tx, tenant, hardware, edgeclaim.DeviceID{})
		if err != nil {
			return none, err
		}
		if upstream != nil {
			return none, fmt.Errorf("denied by a document: %w", edgeclaim.ErrConflict)
		}
	}
	row, err := exactDenial(b.tx, tenant, hardware)
	if err != nil {
		return none, err
	}
	if row != nil && row.Reason != edgeclaim.DeniedSwapped {
		return *row, halfDone(b.removeDenial(row))
	}
	if tenant.IsZero() {
		return none, fmt.Errorf("denial: %w", edgeclaim.ErrNotFound)
	}
	lifted := row
	if row == nil {
		who, err := b.sight().identity(tenant, hardware)
		if err != nil {
			return none, err
		}
		if !who.taken {
			return none, fmt.Errorf("denial: %w", edgeclaim.ErrNotFound)
		}
		lifted = &edgeclaim.Denial{Tenant: tenant, Hardware: hardware, Reason: edgeclaim.DeniedSwapped, Device: who.id}
	}
	waits, err := b.free(tenant, hardware)
	if err != nil {
		return none, err
	}
	var next edgeclaim.DeviceID
	if waits == nil {
		if next, err = b.nextGeneration(tenant, hardware); err != nil {
			return none, err
		}
	}
	if row != nil {
		if err := b.removeDenial(row); err != nil {
			return none, halfDone(err)
		}
	}
	if waits == nil {
		return *lifted, halfDone(b.putAlias(tenant, hardware, next))
	}
	if err := b.giveAlias(tenant, hardware, waits.Device); err != nil {
		return none, halfDone(err)
	}
	return *lifted, halfDone(b.removeWaiting(tenant, hardware))
}

// free returns the alias from upstream that waits for a hardware, where no device
// has its id; nil for none.
func (b *batch) free(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (*waitingAlias, error) {
	w, err := b.waiting(tenant, hardware)
	if err != nil || w == nil {
		return nil, err
	}
	if _, taken, err := b.locate(w.Device); err != nil || taken {
		return nil, err
	}
	return w, nil
}

// nextGeneration returns the first id of a hardware, from its second generation
// on, that no device has and that no other hardware leads to. Another one can do
// so only where it is named like that generation, and then there is a device.
func (b *batch) nextGeneration(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (edgeclaim.DeviceID, error) {
	for g := 2; g <= MaxGeneration; g++ {
		id := edgeclaim.NewDeviceID(tenant, hardware, g)
		if _, taken, err := b.locate(id); err != nil || !taken {
			return id, err
		}
	}
	return edgeclaim.DeviceID{}, edgeclaim.Invalid("hardware_id", "it has had %d generations", MaxGeneration)
}

// Denials returns up to maximum denials in order of tenant and hardware, those
// of every tenant first; after is one of them or may have been, and the zero
// after means from the start. Of hardware that a document denies too, it is the
// operator's denial, else the document's.
func (db *DB) Denials(ctx context.Context, after edgeclaim.Denial, maximum int) ([]edgeclaim.Denial, error) {
	var ours, theirs []edgeclaim.Denial
	from := denialKey(after.Tenant, after.Hardware)
	err := db.view(ctx, func(tx *bolt.Tx) error {
		ours, theirs = nil, nil
		if err := eachAfter(tx.Bucket(bucketDenied), from, maximum, &ours, decodeDenial); err != nil {
			return err
		}
		return revokedHardwareAfter(tx, from, maximum, &theirs)
	})
	if err != nil {
		return nil, err
	}
	all := merge(ours, theirs, func(x, y edgeclaim.Denial) int {
		return bytes.Compare(denialKey(x.Tenant, x.Hardware), denialKey(y.Tenant, y.Hardware))
	}, func(ours edgeclaim.Denial) bool { return ours.Reason == edgeclaim.DeniedByOperator })
	return all[:min(len(all), maximum)], nil
}

// merge joins two sorted lists. Of what is in both, it is the first's where keep
// says so, else the second's.
func merge[T any](first, second []T, compare func(x, y T) int, keep func(T) bool) []T {
	if len(second) == 0 {
		return first
	}
	all := make([]T, 0, len(first)+len(second))
	for len(first) > 0 && len(second) > 0 {
		switch order := compare(first[0], second[0]); {
		case order < 0:
			all, first = append(all, first[0]), first[1:]
		case order > 0:
			all, second = append(all, second[0]), second[1:]
		default:
			one := second[0]
			if keep(first[0]) {
				one = first[0]
			}
			all, first, second = append(all, one), first[1:], second[1:]
		}
	}
	return append(append(all, first...), second...)
}

// eachAfter appends up to maximum rows of a bucket whose keys come after from.
func eachAfter[T any](bucket *bolt.Bucket, from []byte, maximum int, rows *[]T, decode func(key, value []byte) (T, error)) error {
	cursor := bucket.Cursor()
	k, v := cursor.Seek(from)
	if k != nil && bytes.Equal(k, from) {
		k, v = cursor.Next()
	}
	for ; k != nil && len(*rows) < maximum; k, v = cursor.Next() {
		row, err := decode(k, v)
		if err != nil {
			return err
		}
		*rows = append(*rows, row)
	}
	return nil
}
