package store

import (
	"errors"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// aliasGiven marks an alias that upstream gave: its id need not be one that
// derives from the hardware.
const aliasGiven = 'u'

// aliasRow is where a hardware leads that does not go by its derived id.
type aliasRow struct {
	id    edgeclaim.DeviceID
	given bool // by upstream
}

func (a aliasRow) encode() []byte {
	value := append([]byte(nil), a.id.Bytes()...)
	if a.given {
		value = append(value, aliasGiven)
	}
	return value
}

func decodeAlias(value []byte) (a aliasRow, err error) {
	if len(value) == idSize+1 && value[idSize] == aliasGiven {
		a.given, value = true, value[:idSize]
	}
	if a.id, err = edgeclaim.DeviceIDFromBytes(value); err != nil {
		return aliasRow{}, damaged("alias", err)
	}
	return a, nil
}

// waitingAlias is an alias that cannot take hold: its hardware has a device under
// another id, which it keeps until that is released (P9).
type waitingAlias struct {
	Device   edgeclaim.DeviceID
	Replaces edgeclaim.HardwareID // zero for none
}

type waitingRow struct {
	Device   []byte `cbor:"1,keyasint"`
	Replaces string `cbor:"2,keyasint,omitempty"`
}

func encodeWaiting(w *waitingAlias) ([]byte, error) {
	return cbor.Marshal(&waitingRow{Device: w.Device.Bytes(), Replaces: w.Replaces.String()})
}

func decodeWaiting(value []byte) (waitingAlias, error) {
	var row waitingRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return waitingAlias{}, damaged("waiting alias", err)
	}
	var w waitingAlias
	var errs [2]error
	w.Device, errs[0] = edgeclaim.DeviceIDFromBytes(row.Device)
	if row.Replaces != "" {
		w.Replaces, errs[1] = edgeclaim.ParseHardwareID(row.Replaces)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return waitingAlias{}, damaged("waiting alias", err)
	}
	return w, nil
}

// waiting reads the alias that waits for a hardware; nil when there is none.
// Where none waits at all, it looks at no page.
func (b *batch) waiting(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (*waitingAlias, error) {
	if b.state.Waiting == 0 {
		return nil, nil
	}
	v := b.tx.Bucket(bucketWaiting).Get(aliasKey(tenant, hardware))
	if v == nil {
		return nil, nil
	}
	w, err := decodeWaiting(v)
	return &w, err
}

func (b *batch) putWaiting(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID, w *waitingAlias) error {
	value, err := encodeWaiting(w)
	if err != nil {
		return err
	}
	bucket, key := b.tx.Bucket(bucketWaiting), aliasKey(tenant, hardware)
	if bucket.Get(key) == nil {
		b.state.Waiting++
	}
	b.dirty = true
	return bucket.Put(key, value)
}

func (b *batch) removeWaiting(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) error {
	bucket, key := b.tx.Bucket(bucketWaiting), aliasKey(tenant, hardware)
	if b.state.Waiting == 0 || bucket.Get(key) == nil {
		return nil
	}
	b.dirty = true
	b.state.Waiting--
	return bucket.Delete(key)
}

// settled lets an alias that waits for a device's hardware take hold, once the
// device is released: its next claim gets the other id. Where that id is another
// board's device by now, the alias goes on waiting.
func (b *batch) settled(d *edgeclaim.Device) error {
	if b.state.Waiting == 0 || d.Status != edgeclaim.DeviceReleased {
		return nil
	}
	w, err := b.waiting(d.Tenant, d.Hardware)
	if err != nil || w == nil || w.Device == d.ID {
		return err
	}
	id, _, err := b.sight().resolve(d.Tenant, d.Hardware)
	if err != nil || id != d.ID { // it is no longer the device that the hardware goes by
		return err
	}
	target, _, err := b.device(w.Device)
	if err != nil || target != nil && target.Hardware != d.Hardware {
		return err
	}
	if err := b.giveAlias(d.Tenant, d.Hardware, w.Device); err != nil {
		return err
	}
	if err := b.denyReplaced(d.Tenant, d.Hardware, w); err != nil {
		return err
	}
	return b.removeWaiting(d.Tenant, d.Hardware)
}

// denyReplaced denies the board whose place another one has by upstream's word,
// unless it is denied already or has a place of its own: by an alias, or a device
// under another id.
func (b *batch) denyReplaced(tenant edgeclaim.TenantID, by edgeclaim.HardwareID, w *waitingAlias) error {
	if w.Replaces.IsZero() || w.Replaces == by {
		return nil
	}
	old, err := exactDenial(b.tx, tenant, w.Replaces)
	if err != nil || old != nil {
		return err
	}
	leads, _, err := b.sight().resolve(tenant, w.Replaces)
	if err != nil || leads != w.Device && leads != edgeclaim.NewDeviceID(tenant, w.Replaces, 1) {
		return err
	}
	own, _, err := b.device(leads)
	if err != nil || leads != w.Device && own != nil && own.Hardware == w.Replaces {
		return err
	}
	return b.putDenial(b.swappedOut(tenant, w.Replaces, w.Device))
}

func (b *batch) swappedOut(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID, id edgeclaim.DeviceID) *edgeclaim.Denial {
	return &edgeclaim.Denial{
		Tenant: tenant, Hardware: hardware, Reason: edgeclaim.DeniedSwapped, At: b.db.cfg.Stamp().Time, Device: id,
	}
}

// giveAlias makes a hardware lead to an id that upstream says, which may be one
// that no hardware derives.
func (b *batch) giveAlias(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID, id edgeclaim.DeviceID) error {
	if edgeclaim.NewDeviceID(tenant, hardware, 1) == id {
		return b.pointAt(tenant, hardware, id)
	}
	some := true
	b.aliases, b.dirty = &some, true
	return b.tx.Bucket(bucketAliases).Put(aliasKey(tenant, hardware), aliasRow{id: id, given: true}.encode())
}

// alias looks a hardware up among those that do not go by their derived id.
func alias(tx *bolt.Tx, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (a aliasRow, ok bool, err error) {
	v := tx.Bucket(bucketAliases).Get(aliasKey(tenant, hardware))
	if v == nil {
		return a, false, nil
	}
	a, err = decodeAlias(v)
	return a, err == nil, err
}
