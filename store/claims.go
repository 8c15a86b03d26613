package store

import (
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// Look reads all that a claim is decided on, in one read transaction: the grant
// alone when ref has no hardware. Where nothing was there of a device before, it
// may still say so beside a key that has just been used by it: Mint, which
// decides over one state, does not. A zero tenant stands for the template's. The
// template's slices are shared: they are not to be changed. ErrNotFound: no such
// key. ErrInvalid: the tenant is not the template's.
func (db *DB) Look(ctx context.Context, ref edgeclaim.ClaimRef) (edgeclaim.Present, error) {
	var present edgeclaim.Present
	if ref.Hardware.IsZero() {
		var err error
		present.Grant, err = db.grant(ctx, ref.Key)
		return present, err
	}
	// The tail is asked for a row before the transaction begins, and whose row is
	// known for sure only in it: where an alias says otherwise, again.
	id := edgeclaim.NewDeviceID(ref.Tenant, ref.Hardware, 1)
	for {
		asked := id
		key, cached, commits := db.keys.find(ref.Key)
		row, inTail := db.inTail(asked)
		err := db.view(ctx, func(tx *bolt.Tx) (err error) {
			if !cached {
				if key, err = readKeyByHash(tx, ref.Key); err != nil {
					return err
				}
			}
			s := &sight{tx: tx, catalog: db.catalog.Load(), aliases: true, denied: true, revoked: true, listed: true, expected: true}
			s.find = func(found edgeclaim.DeviceID) (*edgeclaim.Device, uint64, error) {
				if id = found; id != asked {
					return nil, 0, errAnother
				}
				return db.findDevice(tx, id, row, inTail)
			}
			grant, err := s.catalog.grant(key)
			if err != nil {
				return err
			}
			present, _, err = s.present(grant, ref)
			return err
		})
		if errors.Is(err, errAnother) {
			continue
		}
		if err != nil {
			return edgeclaim.Present{}, err
		}
		if !cached {
			db.keys.add(key, commits)
		}
		if !present.Grant.Key.Hash.Equal(ref.Key) {
			return edgeclaim.Present{}, damaged("key cache", nil)
		}
		return present, nil
	}
}

// errAnother: the transaction knows of an alias.
var errAnother = errors.New("another device than looked up")

// grant returns the key of that hash with its template.
func (db *DB) grant(ctx context.Context, hash edgeclaim.KeyHash) (edgeclaim.Grant, error) {
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

// Mint runs decide with what is present, inside a write transaction that many
// claims share. What decide returns is stored whole: Mint returns nil only when
// device, key accounting and record are fsynced, and the approval spent (P1);
// what waited for that device by another template is forgotten.
// decide must be pure and quick and must not call the store; its error is
// returned as it is and leaves nothing behind. With nil, nil nothing is stored.
//
// ErrNotFound: no such key. ErrInvalid: what decide made is not the device that
// Present.Next or Present.Known names, or spends an approval that is not there.
// ErrUnavailable: the disk, the file or the provisioning lane is full, or the
// store is closing, and nothing was stored; or the store failed, and nobody
// knows.
func (db *DB) Mint(ctx context.Context, ref edgeclaim.ClaimRef,
	decide func(edgeclaim.Present) (*edgeclaim.Minted, error),
) error {
	if ref.Hardware.IsZero() {
		return edgeclaim.Invalid("hardware_id", "missing")
	}
	return db.update(ctx, func(b *batch) error { return b.mint(ref, decide) })
}

func (b *batch) mint(ref edgeclaim.ClaimRef, decide func(edgeclaim.Present) (*edgeclaim.Minted, error)) error {
	key, err := b.keyByHash(ref.Key)
	if err != nil {
		return err
	}
	grant, err := b.catalog.grant(*key)
	if err != nil {
		return err
	}
	present, row, err := b.sight().present(grant, ref)
	if err != nil {
		return err
	}
	var minted *edgeclaim.Minted
	if err := guard(func() (err error) { minted, err = decide(present); return err }); err != nil || minted == nil {
		return err
	}
	d := &minted.Device
	switch {
	case present.Next.IsZero() || d.ID != present.Next || d.Generation != present.Generation ||
		d.Tenant != grant.Template.Tenant || d.Hardware != ref.Hardware:
		return fmt.Errorf("mint: another device than asked for: %w", edgeclaim.ErrInvalid)
	case minted.Key.ID != key.ID || !minted.Key.Hash.Equal(key.Hash) || minted.Key.Template != key.Template:
		return fmt.Errorf("mint: another key than asked for: %w", edgeclaim.ErrInvalid)
	case minted.SpendApproval && !present.Approved:
		return fmt.Errorf("mint: no approval to spend: %w", edgeclaim.ErrInvalid)
	}
	if err := b.store(d, row, minted.Record, &minted.Key); err != nil {
		return err
	}
	if b.state.Pending == 0 || b.tx.Bucket(bucketPending).Get(d.ID.Bytes()) == nil {
		return nil
	}
	// Spent; or never needed, by this template: it is not left for a thief.
	return halfDone(b.removePending(d.ID))
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
