package store

import (
	"context"
	"errors"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// GrantShares takes upstream's word on keys that several boxes have, in one
// transaction, and returns which of them changed, one that is there twice maybe
// twice; nil means that it is durable. Granted and Claims only rise, so that an
// old word does no harm; Exhausted is taken from a word that grants no less than
// the last. Keys that are not there, or whose template is not leased, are passed
// over.
func (db *DB) GrantShares(ctx context.Context, grants []edgeclaim.ShareGrant) (changed []edgeclaim.KeyID, err error) {
	err = db.update(ctx, func(b *batch) error {
		changed = nil
		held := make([]*edgeclaim.Key, len(grants)) // nil for those to be passed over
		for i := range grants {
			var err error
			if held[i], err = b.shared(grants[i].Key); err != nil {
				return err
			}
		}
		for i := range grants {
			if held[i] == nil {
				continue
			}
			if next := raised(*held[i], &grants[i]); next != *held[i] {
				b.putKeys([]keyChange{{held: held[i], next: next}})
				changed = append(changed, next.ID)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// shared reads a leased template's key; nil where there is none of that id.
func (b *batch) shared(id edgeclaim.KeyID) (*edgeclaim.Key, error) {
	k, err := b.key(id)
	if errors.Is(err, edgeclaim.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	grant, err := b.catalog.grant(*k)
	if err != nil || !grant.Template.Leased {
		return nil, err
	}
	return k, nil
}

// raised is a key after upstream's word on it.
func raised(k edgeclaim.Key, g *edgeclaim.ShareGrant) edgeclaim.Key {
	k.Claims = max(k.Claims, g.Claims)
	if g.Granted >= k.Granted {
		k.Granted, k.Exhausted = g.Granted, g.Exhausted
	}
	return k
}

// Shares returns up to maximum shares in order of their keys' ids, those after
// the given one; zero after means from the start. They are those of leased
// templates' keys, whatever the status of either; Low is not said here. Where no
// template is leased, it reads nothing; else it reads the keys up to the last
// share that it returns.
func (db *DB) Shares(ctx context.Context, after edgeclaim.KeyID, maximum int) ([]edgeclaim.Share, error) {
	if err := db.readable(ctx); err != nil {
		return nil, err
	}
	if !db.catalog.Load().leased() {
		return nil, nil
	}
	var shares []edgeclaim.Share
	err := db.view(ctx, func(tx *bolt.Tx) error {
		shares = nil
		all := db.catalog.Load()
		cursor, k, v := keysAfter(tx, after)
		for ; k != nil && len(shares) < maximum; k, v = cursor.Next() {
			id, err := edgeclaim.ParseKeyID(string(k))
			if err != nil {
				return damaged("key id", err)
			}
			key, err := decodeKey(id, v)
			if err != nil {
				return err
			}
			// A template younger than this transaction is in the catalog too.
			grant, err := all.grant(key)
			if err != nil {
				return err
			}
			if grant.Template.Leased {
				shares = append(shares, edgeclaim.Share{
					Key: id, Template: key.Template, Granted: key.Granted, Claims: key.Claims, Exhausted: key.Exhausted,
				})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return shares, nil
}
