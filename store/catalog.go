package store

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// catalog is all templates, decoded, in order of creation. It is never
// changed, only replaced, so that readers need no lock.
type catalog struct {
	list   []edgeclaim.Template
	number []uint64                     // of each in list, its key in the bucket
	byID   map[edgeclaim.TemplateID]int // index in list
}

func newCatalog(list []edgeclaim.Template, numbers []uint64) *catalog {
	c := &catalog{list: list, number: numbers, byID: make(map[edgeclaim.TemplateID]int, len(list))}
	for i := range list {
		c.byID[list[i].ID] = i
	}
	return c
}

func loadCatalog(tx *bolt.Tx) (*catalog, error) {
	var list []edgeclaim.Template
	var numbers []uint64
	err := tx.Bucket(bucketTemplates).ForEach(func(k, v []byte) error {
		n, err := parseNumber(k)
		if err != nil {
			return err
		}
		t, err := decodeTemplate(v)
		if err != nil {
			return err
		}
		list, numbers = append(list, t), append(numbers, n)
		return nil
	})
	return newCatalog(list, numbers), err
}

func (c *catalog) grant(key edgeclaim.Key) (edgeclaim.Grant, error) {
	i, ok := c.byID[key.Template]
	if !ok {
		return edgeclaim.Grant{}, damaged("key without template", nil)
	}
	return edgeclaim.Grant{Key: key, Template: c.list[i]}, nil
}

func (c *catalog) template(id edgeclaim.TemplateID) (edgeclaim.Template, bool) {
	i, ok := c.byID[id]
	if !ok {
		return edgeclaim.Template{}, false
	}
	return cloneTemplate(c.list[i]), true
}

func cloneTemplate(t edgeclaim.Template) edgeclaim.Template {
	t.Groups = slices.Clone(t.Groups)
	return t
}

// CreateTemplate stores a new template, durably when it returns nil. ErrExists:
// its id is taken. ErrInvalid: there are MaxTemplates already, or its
// hardware_id_format is not that of the tenant's other templates, which would
// make one hardware two devices.
func (db *DB) CreateTemplate(ctx context.Context, t edgeclaim.Template) error {
	if t = cloneTemplate(t); t.Owner == "" {
		t.Owner = edgeclaim.OwnerLocal
	}
	return db.update(ctx, func(b *batch) error {
		if err := b.catalog.accepts(&t, db.cfg.MaxTemplates); err != nil {
			return err
		}
		n := b.state.Templates + 1
		if err := b.putTemplate(n, &t); err != nil {
			return err
		}
		b.state.Templates = n
		b.catalog = newCatalog(append(slices.Clip(b.catalog.list), t), append(slices.Clip(b.catalog.number), n))
		return nil
	})
}

func (c *catalog) accepts(t *edgeclaim.Template, maximum int) error {
	if _, ok := c.byID[t.ID]; ok {
		return fmt.Errorf("template: %w", edgeclaim.ErrExists)
	}
	if len(c.list) >= maximum {
		return edgeclaim.Invalid("template", "the limit of %d templates is reached", maximum)
	}
	return c.agrees(t)
}

func (c *catalog) agrees(t *edgeclaim.Template) error {
	for i := range c.list {
		other := &c.list[i]
		if other.Tenant == t.Tenant && other.ID != t.ID && other.HardwareIDFormat != t.HardwareIDFormat {
			return edgeclaim.Invalid("hardware_id_format", "the tenant's other templates have another")
		}
	}
	return nil
}

func (b *batch) putTemplate(n uint64, t *edgeclaim.Template) error {
	value, err := encodeTemplate(t)
	if err != nil {
		return err
	}
	b.dirty = true
	return halfDone(b.tx.Bucket(bucketTemplates).Put(number(n), value))
}

// Template returns a template by its id; ErrNotFound when there is none.
func (db *DB) Template(ctx context.Context, id edgeclaim.TemplateID) (edgeclaim.Template, error) {
	if err := db.readable(ctx); err != nil {
		return edgeclaim.Template{}, err
	}
	t, ok := db.catalog.Load().template(id)
	return t, notFound(ok)
}

// Templates returns all templates, at most MaxTemplates, in order of creation.
func (db *DB) Templates(ctx context.Context) ([]edgeclaim.Template, error) {
	if err := db.readable(ctx); err != nil {
		return nil, err
	}
	list := slices.Clone(db.catalog.Load().list)
	for i := range list {
		list[i] = cloneTemplate(list[i])
	}
	return list, nil
}

// ChangeTemplate reads a template, lets change edit it, and stores it in one
// transaction. Id, tenant and hardware_id_format cannot change. change must be
// pure and quick; its error is returned as it is and leaves nothing behind.
func (db *DB) ChangeTemplate(ctx context.Context, id edgeclaim.TemplateID,
	change func(*edgeclaim.Template) error,
) (edgeclaim.Template, error) {
	var changed edgeclaim.Template
	err := db.update(ctx, func(b *batch) error {
		before, ok := b.catalog.template(id)
		if !ok {
			return edgeclaim.ErrNotFound
		}
		t := cloneTemplate(before)
		if err := guard(func() error { return change(&t) }); err != nil {
			return err
		}
		if t.ID != id || t.Tenant != before.Tenant || t.HardwareIDFormat != before.HardwareIDFormat {
			return fmt.Errorf("change template: id, tenant and hardware_id_format are for ever: %w", edgeclaim.ErrInvalid)
		}
		if changed = t; reflect.DeepEqual(t, before) {
			return nil // nothing changed: no commit
		}
		i := b.catalog.byID[id]
		if err := b.putTemplate(b.catalog.number[i], &t); err != nil {
			return err
		}
		list := slices.Clone(b.catalog.list)
		list[i] = t
		b.catalog = newCatalog(list, b.catalog.number)
		changed = cloneTemplate(t)
		return nil
	})
	if err != nil {
		changed = edgeclaim.Template{}
	}
	return changed, err
}

// AddKeys stores all of the keys or none, durably when it returns nil. One of a
// hash that a revocation of the tenant's names is stored as revoked (P9).
// ErrExists: an id or a hash is known already, or twice among them.
// ErrNotFound: a template is not there.
func (db *DB) AddKeys(ctx context.Context, keys []edgeclaim.Key) error {
	keys = slices.Clone(keys)
	return db.update(ctx, func(b *batch) error { return b.addKeys(slices.Clone(keys)) })
}

func (b *batch) addKeys(keys []edgeclaim.Key) error {
	rows, hashes := b.tx.Bucket(bucketKeys), b.tx.Bucket(bucketKeyHashes)
	ids := make(map[edgeclaim.KeyID]bool, len(keys))
	sums := make(map[edgeclaim.KeyHash]bool, len(keys))
	for i := range keys {
		k := &keys[i]
		if _, ok := b.catalog.byID[k.Template]; !ok {
			return fmt.Errorf("template: %w", edgeclaim.ErrNotFound)
		}
		if ids[k.ID] || sums[k.Hash] || rows.Get([]byte(k.ID.String())) != nil || hashes.Get(k.Hash.Bytes()) != nil {
			return fmt.Errorf("key: %w", edgeclaim.ErrExists)
		}
		ids[k.ID], sums[k.Hash] = true, true
	}
	revoked, err := b.revokeNamed(keys)
	if err != nil {
		return err
	}
	for _, key := range sortedKeys(revoked) {
		if err := b.putRevoked([]byte(key), revoked[key]); err != nil {
			return halfDone(err)
		}
	}
	return halfDone(b.putNewKeys(keys))
}

// Key returns a key by its id; ErrNotFound when there is none.
func (db *DB) Key(ctx context.Context, id edgeclaim.KeyID) (edgeclaim.Key, error) {
	var key edgeclaim.Key
	err := db.view(ctx, func(tx *bolt.Tx) (err error) {
		key, err = readKey(tx, id)
		return err
	})
	return key, err
}

// Keys returns up to max keys in order of their ids, those after the given
// one; zero after means from the start.
func (db *DB) Keys(ctx context.Context, after edgeclaim.KeyID, maximum int) ([]edgeclaim.Key, error) {
	var keys []edgeclaim.Key
	err := db.view(ctx, func(tx *bolt.Tx) error {
		cursor, k, v := keysAfter(tx, after)
		for ; k != nil && len(keys) < maximum; k, v = cursor.Next() {
			id, err := edgeclaim.ParseKeyID(string(k))
			if err != nil {
				return damaged("key id", err)
			}
			key, err := decodeKey(id, v)
			if err != nil {
				return err
			}
			keys = append(keys, key)
		}
		return nil
	})
	return keys, err
}

// ChangeKey reads a key, lets change edit it, and stores it in one transaction.
// Id, hash and template cannot change. change must be pure and quick; its
// error is returned as it is and leaves nothing behind. ErrConflict: a revocation
// of the tenant's names the key, and it would not be revoked (P9).
func (db *DB) ChangeKey(ctx context.Context, id edgeclaim.KeyID, change func(*edgeclaim.Key) error) (edgeclaim.Key, error) {
	var changed edgeclaim.Key
	err := db.update(ctx, func(b *batch) error {
		held, err := b.key(id)
		if err != nil {
			return err
		}
		k := *held
		if err := guard(func() error { return change(&k) }); err != nil {
			return err
		}
		if k.ID != id || !k.Hash.Equal(held.Hash) || k.Template != held.Template {
			return fmt.Errorf("change key: id, hash and template are for ever: %w", edgeclaim.ErrInvalid)
		}
		if changed = k; k == *held {
			return nil // nothing changed: no commit
		}
		if err := b.keyDenied(&k); err != nil {
			return err
		}
		*held = k
		b.put[id] = true
		b.dirty = true
		return nil
	})
	if err != nil {
		changed = edgeclaim.Key{}
	}
	return changed, err
}

// key reads a key as the callers before this one in the group left it.
func (b *batch) key(id edgeclaim.KeyID) (*edgeclaim.Key, error) {
	if k, ok := b.keys[id]; ok {
		return k, nil
	}
	k, err := readKey(b.tx, id)
	if err != nil {
		return nil, err
	}
	b.keys[id] = &k
	return &k, nil
}

func (b *batch) keyByHash(hash edgeclaim.KeyHash) (*edgeclaim.Key, error) {
	id, ok := b.hashes[hash]
	if !ok {
		// The cache holds what the last commit left, and this batch is the next.
		key, cached, _ := b.db.keys.find(hash)
		if id = key.ID; !cached {
			found, err := keyIDByHash(b.tx, hash)
			if err != nil {
				return nil, err
			}
			id = found
		} else if b.keys[id] == nil {
			b.keys[id] = &key
		}
		b.hashes[hash] = id
	}
	k, err := b.key(id)
	if err != nil {
		return nil, err
	}
	if !k.Hash.Equal(hash) {
		return nil, damaged("key_hashes", nil)
	}
	return k, nil
}

func keyIDByHash(tx *bolt.Tx, hash edgeclaim.KeyHash) (edgeclaim.KeyID, error) {
	v := tx.Bucket(bucketKeyHashes).Get(hash.Bytes())
	if v == nil {
		return edgeclaim.KeyID{}, edgeclaim.ErrNotFound
	}
	id, err := edgeclaim.ParseKeyID(string(v))
	if err != nil {
		return id, damaged("key_hashes", err)
	}
	return id, nil
}

func readKeyByHash(tx *bolt.Tx, hash edgeclaim.KeyHash) (edgeclaim.Key, error) {
	id, err := keyIDByHash(tx, hash)
	if err != nil {
		return edgeclaim.Key{}, err
	}
	key, err := readKey(tx, id)
	if err == nil && !key.Hash.Equal(hash) {
		err = damaged("key_hashes", nil)
	}
	return key, err
}

func readKey(tx *bolt.Tx, id edgeclaim.KeyID) (edgeclaim.Key, error) {
	v := tx.Bucket(bucketKeys).Get([]byte(id.String()))
	if v == nil {
		return edgeclaim.Key{}, edgeclaim.ErrNotFound
	}
	return decodeKey(id, v)
}
