package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// pendingRow is what the key of a claim that waits, the device id, does not say.
type pendingRow struct {
	Tenant   string  `cbor:"1,keyasint"`
	Hardware string  `cbor:"2,keyasint"`
	Template string  `cbor:"3,keyasint"`
	Key      string  `cbor:"4,keyasint"`
	Name     string  `cbor:"5,keyasint,omitempty"`
	Via      string  `cbor:"6,keyasint,omitempty"`
	Source   string  `cbor:"7,keyasint,omitempty"`
	AskedAt  instant `cbor:"8,keyasint"`
	Asked    uint64  `cbor:"9,keyasint"`
	Status   string  `cbor:"10,keyasint"`
	By       string  `cbor:"11,keyasint,omitempty"`
}

func encodePending(p *edgeclaim.Pending) ([]byte, error) {
	return cbor.Marshal(&pendingRow{
		Tenant: p.Tenant.String(), Hardware: p.Hardware.String(), Template: p.Template.String(), Key: p.Key.String(),
		Name: p.Name, Via: string(p.Via), Source: p.Source, AskedAt: toInstant(p.AskedAt), Asked: p.Asked,
		Status: string(p.Status), By: p.By,
	})
}

func decodePending(key, value []byte) (edgeclaim.Pending, error) {
	var p edgeclaim.Pending
	var row pendingRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return p, damaged("pending claim", err)
	}
	var errs [5]error
	p.ID, errs[0] = edgeclaim.DeviceIDFromBytes(key)
	p.Tenant, errs[1] = edgeclaim.ParseTenantID(row.Tenant)
	p.Hardware, errs[2] = edgeclaim.ParseHardwareID(row.Hardware)
	p.Template, errs[3] = edgeclaim.ParseTemplateID(row.Template)
	p.Key, errs[4] = edgeclaim.ParseKeyID(row.Key)
	if err := errors.Join(errs[:]...); err != nil {
		return edgeclaim.Pending{}, damaged("pending claim", err)
	}
	p.Name, p.Via, p.Source, p.AskedAt = row.Name, edgeclaim.Via(row.Via), row.Source, row.AskedAt.time()
	p.Asked, p.Status, p.By = row.Asked, edgeclaim.PendingStatus(row.Status), row.By
	return p, nil
}

// pendingOf reads the claim that waits for that device id; nil for none.
func pendingOf(tx *bolt.Tx, id edgeclaim.DeviceID) (*edgeclaim.Pending, error) {
	v := tx.Bucket(bucketPending).Get(id.Bytes())
	if v == nil {
		return nil, nil
	}
	p, err := decodePending(id.Bytes(), v)
	return &p, err
}

// approved reports whether an operator lets that hardware through, for that
// template.
func approved(tx *bolt.Tx, present *edgeclaim.Present, hardware edgeclaim.HardwareID) (bool, error) {
	p, err := pendingOf(tx, present.Next)
	if err != nil || p == nil {
		return false, err
	}
	t := &present.Grant.Template
	return p.Status == edgeclaim.PendingApproved && p.Template == t.ID && p.Tenant == t.Tenant && p.Hardware == hardware, nil
}

// Pend notes that a claim waits for an operator and returns it as it is on
// record; nil means that this is durable. One that does so already is counted
// once more, and keeps its status and when it first asked; one of another template
// takes the other's place. ErrInvalid: it is not whole. ErrNotFound: no such
// template. ErrThrottled: MaxPending are on record.
func (db *DB) Pend(ctx context.Context, p edgeclaim.Pending) (edgeclaim.Pending, error) {
	if p.ID.IsZero() || p.Tenant.IsZero() || p.Hardware.IsZero() || p.Template.IsZero() || p.Key.IsZero() {
		return edgeclaim.Pending{}, edgeclaim.Invalid("pending", "not whole")
	}
	p.Asked, p.Status, p.By = 1, edgeclaim.PendingWaiting, ""
	var noted edgeclaim.Pending
	err := db.update(ctx, func(b *batch) error {
		noted = p
		if _, ok := b.catalog.byID[p.Template]; !ok {
			return fmt.Errorf("template: %w", edgeclaim.ErrNotFound)
		}
		old, err := pendingOf(b.tx, p.ID)
		switch {
		case err != nil:
			return err
		case old == nil && b.state.Pending >= edgeclaim.MaxPending:
			return fmt.Errorf("pending claims: %w", edgeclaim.ErrThrottled)
		case old == nil:
			b.state.Pending++
		case old.Template == p.Template && old.Hardware == p.Hardware && old.Tenant == p.Tenant:
			noted.Asked, noted.AskedAt, noted.Status, noted.By = old.Asked+1, old.AskedAt, old.Status, old.By
		}
		return b.putPending(&noted)
	})
	if err != nil {
		return edgeclaim.Pending{}, err
	}
	return noted, nil
}

func (b *batch) putPending(p *edgeclaim.Pending) error {
	value, err := encodePending(p)
	if err != nil {
		return halfDone(err)
	}
	b.dirty = true
	return halfDone(b.tx.Bucket(bucketPending).Put(p.ID.Bytes(), value))
}

func (b *batch) removePending(id edgeclaim.DeviceID) error {
	b.dirty = true
	b.state.Pending--
	return b.tx.Bucket(bucketPending).Delete(id.Bytes())
}

// ChangePending reads a claim that waits, lets change edit its status and by
// whom, and stores it, or forgets it where change does not keep it, in one
// transaction; it returns the claim as change left it. change must be pure and
// quick; its error is returned as it is and leaves nothing behind. ErrNotFound:
// none waits for that device id. ErrInvalid: change edited more, or the status
// is none.
func (db *DB) ChangePending(ctx context.Context, id edgeclaim.DeviceID,
	change func(*edgeclaim.Pending) (keep bool, err error),
) (edgeclaim.Pending, error) {
	var changed edgeclaim.Pending
	err := db.update(ctx, func(b *batch) error {
		p, err := pendingOf(b.tx, id)
		if err != nil || p == nil {
			return orNotFound(err)
		}
		before, keep := *p, false
		if err := guard(func() (err error) { keep, err = change(p); return err }); err != nil {
			return err
		}
		changed = *p
		if !keep {
			return halfDone(b.removePending(id))
		}
		same := before
		if same.Status, same.By = p.Status, p.By; same != *p ||
			p.Status != edgeclaim.PendingWaiting && p.Status != edgeclaim.PendingApproved {
			return fmt.Errorf("change pending claim: only its status may change: %w", edgeclaim.ErrInvalid)
		}
		if before == *p {
			return nil // nothing changed: no commit
		}
		return b.putPending(p)
	})
	if err != nil {
		return edgeclaim.Pending{}, err
	}
	return changed, nil
}

// PendingClaims returns up to maximum claims that wait, or were let through and
// have not come back yet, in order of their device ids; after need not be among
// them, and the zero after means from the start.
func (db *DB) PendingClaims(ctx context.Context, after edgeclaim.DeviceID, maximum int) ([]edgeclaim.Pending, error) {
	var claims []edgeclaim.Pending
	err := db.view(ctx, func(tx *bolt.Tx) error {
		return eachAfter(tx.Bucket(bucketPending), after.Bytes(), maximum, &claims, decodePending)
	})
	return claims, err
}

// CountPending returns how many claims PendingClaims has, without reading them.
func (db *DB) CountPending(ctx context.Context) (uint64, error) {
	if err := db.readable(ctx); err != nil {
		return 0, err
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.state.Pending, nil
}
