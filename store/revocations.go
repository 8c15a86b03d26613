package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"edgeclaim"
)

// ApplyRevocations keeps a tenant's revocations and puts them in force, all in
// one transaction; nil means that it is durable. change is given each device on
// record that is named, by its id or by its hardware, and is not revoked: it is
// to revoke it; and each revoked one that is reinstated and not named otherwise:
// it is to release it. The records that it returns, nil for none, go to the
// provisioning lane, where they may go beyond its limits as those of an operator
// do. change must be pure and quick; its error is returned as it is, and nothing
// is kept.
//
// What nobody knows here is kept for the day on which it comes: such hardware,
// and hardware that would be such a device, is Denied as DeniedUpstream; a key of
// such a hash is revoked as it is added. A key that is reinstated is what it was
// when the document revoked it; one that was revoked by an operator stays so.
//
// A *edgeclaim.DocumentError refuses: the version, as ApplySigner says, or
// something is no longer revoked and not reinstated by name. ErrInvalid: as
// ApplySigner, or change left a device as it was. ErrUnavailable: as Mint.
func (db *DB) ApplyRevocations(ctx context.Context, held edgeclaim.HeldDocument, text []byte, r *edgeclaim.Revocations,
	change func(*edgeclaim.Device) (*edgeclaim.Record, error),
) (edgeclaim.Revoked, error) {
	var applied edgeclaim.Revoked
	err := db.apply(ctx, edgeclaim.DocumentRevocations, held, text, func(b *batch) (err error) {
		applied, err = b.revoke(&held, r, change)
		return err
	})
	if err != nil {
		return edgeclaim.Revoked{}, err
	}
	return applied, nil
}

// revoking is a document of revocations on its way in.
type revoking struct {
	*plan
	held    *edgeclaim.HeldDocument
	change  func(*edgeclaim.Device) (*edgeclaim.Record, error)
	rows    map[string]*revokedRow // of before, by key
	named   map[string]bool        // keys of now
	keys    []keyChange
	applied edgeclaim.Revoked
}

// keyChange is a key as a document leaves it.
type keyChange struct {
	held *edgeclaim.Key
	next edgeclaim.Key
}

func (b *batch) revoke(held *edgeclaim.HeldDocument, r *edgeclaim.Revocations,
	change func(*edgeclaim.Device) (*edgeclaim.Record, error),
) (edgeclaim.Revoked, error) {
	v := &revoking{plan: b.newPlan(), held: held, change: change, named: revocationKeys(held.ID.Tenant, r.Devices, r.Hardware, r.Keys)}
	var err error
	if v.rows, err = revokedOf(b.tx, held.ID.Tenant); err != nil {
		return v.applied, err
	}
	back := map[string]bool{}
	if again := r.Reinstated; again != nil {
		back = revocationKeys(held.ID.Tenant, again.Devices, again.Hardware, again.Keys)
	}
	for key := range v.rows {
		if !v.named[key] && !back[key] {
			return v.applied, refuse(edgeclaim.DocumentShrunk, "%s is no longer revoked, and is not reinstated by name", nameOfRevoked(key))
		}
	}
	// Sorted, so that the records go up in the same order whenever it is tried.
	for _, key := range sortedKeys(v.named) {
		if err := v.enforce(key); err != nil {
			return v.applied, err
		}
	}
	for _, key := range sortedKeys(v.rows) {
		if v.named[key] {
			continue
		}
		if err := v.reinstate(key); err != nil {
			return v.applied, err
		}
	}
	return v.applied, halfDone(v.put())
}

func sortedKeys[T any](set map[string]T) []string {
	keys := make([]string, 0, len(set))
	for key := range set {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// enforce plans what a name in the document does.
func (v *revoking) enforce(key string) error {
	if v.rows[key] == nil {
		v.rows[key] = &revokedRow{Version: v.held.Version, At: toInstant(v.held.AppliedAt), fresh: true}
	}
	if key[0] == revokedKey {
		return v.enforceKey(key)
	}
	return v.each(key, func(d *planned) error {
		if d.Status == edgeclaim.DeviceRevoked {
			return nil
		}
		active := d.Status == edgeclaim.DeviceActive
		if err := v.alter(d, v.change, v.becomes(d, edgeclaim.DeviceRevoked)); err != nil {
			return err
		}
		if active {
			v.applied.Devices = append(v.applied.Devices, d.Device)
		}
		return nil
	})
}

// reinstate plans what it does that a name is no longer there.
func (v *revoking) reinstate(key string) error {
	if key[0] == revokedKey {
		return v.reinstateKey(key)
	}
	return v.each(key, func(d *planned) error {
		if d.Status != edgeclaim.DeviceRevoked {
			return nil
		}
		if still, err := v.names(&d.Device); err != nil || still {
			return err
		}
		return v.alter(d, v.change, v.becomes(d, edgeclaim.DeviceReleased))
	})
}

func (v *revoking) becomes(before *planned, want edgeclaim.DeviceStatus) func(*edgeclaim.Device) error {
	return func(d *edgeclaim.Device) error {
		if d.Status != want || d.Hardware != before.Hardware {
			return fmt.Errorf("revocations: want a device to be %s: %w", want, edgeclaim.ErrInvalid)
		}
		return nil
	}
}

// names reports whether the document names a device: its id, or the hardware that
// goes by it.
func (v *revoking) names(d *edgeclaim.Device) (bool, error) {
	if v.named[string(revokedDeviceKey(d.Tenant, d.ID))] {
		return true, nil
	}
	if !v.named[string(revokedHardwareKey(d.Tenant, d.Hardware))] {
		return false, nil
	}
	ids, err := v.b.goesBy(d.Tenant, d.Hardware)
	return slices.Contains(ids, d.ID), err
}

// each runs do on the devices that a name means: the tenant's alone, and of a
// hardware also the one that it would go by if another were released.
func (v *revoking) each(key string, do func(*planned) error) error {
	tenant, rest := v.held.ID.Tenant, []byte(key[revokedPrefix:])
	var ids []edgeclaim.DeviceID
	var hardware edgeclaim.HardwareID
	if key[0] == revokedDevice {
		id, err := edgeclaim.DeviceIDFromBytes(rest)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	} else {
		var err error
		if hardware, err = edgeclaim.ParseHardwareID(string(rest)); err != nil {
			return err
		}
		if ids, err = v.b.goesBy(tenant, hardware); err != nil {
			return err
		}
	}
	for _, id := range ids {
		d, err := v.device(id)
		if err != nil {
			return err
		}
		if d == nil || d.Tenant != tenant || !hardware.IsZero() && d.Hardware != hardware {
			continue
		}
		if err := do(d); err != nil {
			return err
		}
	}
	return nil
}

// goesBy returns the ids that a hardware may be on record as: its alias's, the
// derived one, and that of an alias that waits.
func (b *batch) goesBy(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) ([]edgeclaim.DeviceID, error) {
	id, _, err := b.sight().resolve(tenant, hardware)
	if err != nil {
		return nil, err
	}
	ids := []edgeclaim.DeviceID{id}
	if derived := edgeclaim.NewDeviceID(tenant, hardware, 1); derived != id {
		ids = append(ids, derived)
	}
	waits, err := b.waiting(tenant, hardware)
	if err == nil && waits != nil && waits.Device != id {
		ids = append(ids, waits.Device)
	}
	return ids, err
}

// keyOf returns the tenant's key of that hash; nil where there is none.
func (v *revoking) keyOf(key string) (*edgeclaim.Key, error) {
	hash, err := edgeclaim.KeyHashFromBytes([]byte(key[revokedPrefix:]))
	if err != nil {
		return nil, err
	}
	k, err := v.b.keyByHash(hash)
	if errors.Is(err, edgeclaim.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	grant, err := v.b.catalog.grant(*k)
	if err != nil || grant.Template.Tenant != v.held.ID.Tenant {
		return nil, err
	}
	return k, nil
}

func (v *revoking) enforceKey(key string) error {
	k, err := v.keyOf(key)
	if err != nil || k == nil || k.Status == edgeclaim.KeyRevoked {
		return err
	}
	row := *v.rows[key]
	row.Was, row.fresh = string(k.Status), true
	v.rows[key] = &row
	next := *k
	next.Status = edgeclaim.KeyRevoked
	v.keys = append(v.keys, keyChange{held: k, next: next})
	if next.Claims > 0 {
		v.applied.Keys = append(v.applied.Keys, next)
	}
	return nil
}

func (v *revoking) reinstateKey(key string) error {
	k, err := v.keyOf(key)
	if err != nil || k == nil || k.Status != edgeclaim.KeyRevoked || v.rows[key].Was == "" {
		return err
	}
	next := *k
	next.Status = edgeclaim.KeyStatus(v.rows[key].Was)
	v.keys = append(v.keys, keyChange{held: k, next: next})
	return nil
}

// put does what was planned.
func (v *revoking) put() error {
	b := v.b
	bucket := b.tx.Bucket(bucketRevoked)
	for _, key := range sortedKeys(v.rows) {
		row := v.rows[key]
		switch {
		case !v.named[key]:
			b.dirty = true
			b.state.Revoked--
			if err := bucket.Delete([]byte(key)); err != nil {
				return err
			}
		case row.fresh:
			if err := b.putRevoked([]byte(key), row); err != nil {
				return err
			}
		}
	}
	b.putKeys(v.keys)
	return v.plan.put()
}

// putKeys leaves keys to the end of the group, as ChangeKey does.
func (b *batch) putKeys(changes []keyChange) {
	for _, c := range changes {
		*c.held = c.next
		b.put[c.next.ID], b.dirty = true, true
	}
}

// putRevoked puts a row, a new one or in the place of the one of before.
func (b *batch) putRevoked(key []byte, row *revokedRow) error {
	value, err := encodeRevoked(row)
	if err != nil {
		return err
	}
	bucket := b.tx.Bucket(bucketRevoked)
	old := bucket.Get(key)
	if bytes.Equal(old, value) {
		return nil
	}
	if old == nil {
		b.state.Revoked++
	}
	b.dirty = true
	return bucket.Put(key, value)
}
