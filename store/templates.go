package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// ApplyTemplates keeps a tenant's templates and keys from upstream, all in one
// transaction; nil means that it is durable. They are made, or changed to what
// the document says; those of upstream's that it no longer names are disabled. A
// key's claims, share and user stay, and one that was used up or revoked stays
// so; a key that the tenant's revocations name is revoked from the start. now is
// when new ones were made. leased: a template that bounds its keys shares them
// with other boxes.
//
// A *edgeclaim.DocumentError refuses: the version, as ApplySigner says;
// DocumentConflicting where a template is the box's own or another tenant's,
// where a key or its hash is known otherwise, where the tenant's templates would
// disagree on hardware_id_format, which is for ever, or where there would be more
// than MaxTemplates; DocumentMalformed where a name is there twice, or a key's
// template is not. Other errors: as ApplySigner.
func (db *DB) ApplyTemplates(ctx context.Context, held edgeclaim.HeldDocument, text []byte, //nolint:revive // each is a part of the contract
	t *edgeclaim.Templates, leased bool, now time.Time,
) (edgeclaim.TemplatesApplied, error) {
	var applied edgeclaim.TemplatesApplied
	err := db.apply(ctx, edgeclaim.DocumentTemplates, held, text, func(b *batch) (err error) {
		r := &ruling{b: b, id: held.ID, leased: leased, now: now, named: map[edgeclaim.TemplateID]bool{}}
		applied, err = r.apply(t)
		return err
	})
	if err != nil {
		return edgeclaim.TemplatesApplied{}, err
	}
	return applied, nil
}

// ruling is a document of templates and keys on its way in.
type ruling struct {
	b      *batch
	id     edgeclaim.DocumentID
	leased bool
	now    time.Time

	catalog *catalog // as it becomes
	named   map[edgeclaim.TemplateID]bool
	puts    []int // indices in catalog.list

	changes []keyChange
	added   []edgeclaim.Key
	rows    map[string]*revokedRow // of keys that are named by a revocation
	brought rowsRow
	applied edgeclaim.TemplatesApplied
}

func (r *ruling) apply(t *edgeclaim.Templates) (edgeclaim.TemplatesApplied, error) {
	r.applied = edgeclaim.TemplatesApplied{Templates: len(t.Templates), Keys: len(t.Keys)}
	r.rows = map[string]*revokedRow{}
	if err := r.templates(t.Templates); err != nil {
		return r.applied, err
	}
	if err := r.keys(t.Keys); err != nil {
		return r.applied, err
	}
	if err := r.forgotten(); err != nil {
		return r.applied, err
	}
	return r.applied, halfDone(r.put())
}

// templates plans what becomes of the tenant's templates.
func (r *ruling) templates(list []edgeclaim.Template) error {
	before := r.b.catalog
	all, numbers := slices.Clone(before.list), slices.Clone(before.number)
	last := r.b.state.Templates
	for i := range list {
		next := cloneTemplate(list[i])
		next.Tenant, next.Owner, next.CreatedAt = r.id.Tenant, edgeclaim.OwnerUpstream, r.now
		next.Leased = r.leased && next.Bound() > 0
		if next.Status == "" {
			next.Status = edgeclaim.TemplateActive
		}
		if r.named[next.ID] {
			return refuse(edgeclaim.DocumentMalformed, "template %s is there twice", next.ID)
		}
		r.named[next.ID] = true
		at, known := before.byID[next.ID]
		if !known {
			last++
			all, numbers, r.puts = append(all, next), append(numbers, last), append(r.puts, len(all))
			continue
		}
		if err := r.mayChange(&all[at], &next); err != nil {
			return err
		}
		if next.CreatedAt = all[at].CreatedAt; !reflect.DeepEqual(all[at], next) {
			all[at] = next
			r.puts = append(r.puts, at)
		}
	}
	for at := range before.list {
		if t := &all[at]; r.rules(t) && !r.named[t.ID] && t.Status != edgeclaim.TemplateDisabled {
			t.Status = edgeclaim.TemplateDisabled
			r.puts = append(r.puts, at)
			r.applied.Disabled++
		}
	}
	r.catalog = newCatalog(all, numbers)
	return r.agree(len(before.list))
}

// rules reports whether a template is the tenant's and upstream's.
func (r *ruling) rules(t *edgeclaim.Template) bool {
	return t.Owner == edgeclaim.OwnerUpstream && t.Tenant == r.id.Tenant
}

func (r *ruling) mayChange(before, next *edgeclaim.Template) error {
	switch {
	case !r.rules(before):
		return conflicting("template %s is the box's own, or another tenant's", next.ID)
	case before.HardwareIDFormat != next.HardwareIDFormat:
		return conflicting("template %s: hardware_id_format is for ever", next.ID)
	}
	return nil
}

// agree makes sure that the tenant's templates read hardware ids alike, and that
// there are not too many.
func (r *ruling) agree(before int) error {
	maximum := r.b.db.cfg.MaxTemplates
	if len(r.catalog.list) > max(maximum, before) {
		return conflicting("the limit of %d templates is reached", maximum)
	}
	for i := range r.catalog.list {
		t := &r.catalog.list[i]
		if t.Tenant != r.id.Tenant {
			continue
		}
		if r.catalog.agrees(t) != nil { // with one is with all
			return conflicting("hardware_id_format is not that of the tenant's other templates")
		}
		return nil
	}
	return nil
}

// keys plans what becomes of the keys that are named.
func (r *ruling) keys(list []edgeclaim.TemplateKey) error {
	ids := make(map[edgeclaim.KeyID]bool, len(list))
	hashes := make(map[edgeclaim.KeyHash]bool, len(list))
	r.brought.Rows = make([][]byte, 0, len(list))
	for i := range list {
		k := &list[i]
		switch {
		case ids[k.ID] || hashes[k.Hash]:
			return refuse(edgeclaim.DocumentMalformed, "key %s, or its hash, is there twice", k.ID)
		case !r.named[k.Template]:
			return refuse(edgeclaim.DocumentMalformed, "key %s has no template in the document", k.ID)
		}
		ids[k.ID], hashes[k.Hash] = true, true
		r.brought.Rows = append(r.brought.Rows, []byte(k.ID.String()))
		if err := r.key(k); err != nil {
			return err
		}
	}
	return nil
}

func (r *ruling) key(k *edgeclaim.TemplateKey) error {
	want := k.Status
	if want == "" {
		want = edgeclaim.KeyActive
	}
	held, err := r.b.key(k.ID)
	switch {
	case errors.Is(err, edgeclaim.ErrNotFound):
		if r.b.tx.Bucket(bucketKeyHashes).Get(k.Hash.Bytes()) != nil {
			return conflicting("key %s has another id here", k.ID)
		}
		next := edgeclaim.Key{ID: k.ID, Template: k.Template, Hash: k.Hash, Status: want, CreatedAt: r.now}
		next.Status, err = r.status(k.Hash, want, want)
		r.added = append(r.added, next)
		return err
	case err != nil:
		return err
	case held.Template != k.Template || !held.Hash.Equal(k.Hash):
		return conflicting("key %s is known with another template or hash", k.ID)
	}
	return r.change(held, want)
}

// change plans what becomes of a key that is there.
func (r *ruling) change(held *edgeclaim.Key, want edgeclaim.KeyStatus) error {
	next := *held
	var err error
	if next.Status, err = r.status(held.Hash, held.Status, want); err != nil {
		return err
	}
	if next.Status == held.Status {
		return nil
	}
	r.changes = append(r.changes, keyChange{held: held, next: next})
	if next.Status == edgeclaim.KeyRevoked && next.Claims > 0 {
		r.applied.Revoked = append(r.applied.Revoked, next)
	}
	return nil
}

// status returns what a key becomes, from what it is and what the document wants
// it to be. Of one that a revocation names it notes what it is beneath that.
func (r *ruling) status(hash edgeclaim.KeyHash, is, want edgeclaim.KeyStatus) (edgeclaim.KeyStatus, error) {
	row, key, err := r.b.revokedFor(r.id.Tenant, hash)
	if err != nil || row == nil {
		return moved(is, want), err
	}
	if row.Was == "" && is != edgeclaim.KeyRevoked {
		row.Was = string(is)
	}
	if row.Was != "" {
		row.Was = string(moved(edgeclaim.KeyStatus(row.Was), want))
		r.rows[string(key)] = row
	}
	return edgeclaim.KeyRevoked, nil
}

// moved is where a document takes a key: neither back from being revoked, nor
// from being used up to anything else but that.
func moved(is, want edgeclaim.KeyStatus) edgeclaim.KeyStatus {
	if is == edgeclaim.KeyRevoked || is == edgeclaim.KeyUsed && want != edgeclaim.KeyRevoked {
		return is
	}
	return want
}

// forgotten plans that the keys are disabled that the version of before named.
func (r *ruling) forgotten() error {
	before, err := broughtBy(r.b.tx, r.id)
	if err != nil {
		return err
	}
	slices.SortFunc(r.brought.Rows, func(x, y []byte) int { return strings.Compare(string(x), string(y)) })
	for _, row := range before.Rows {
		if r.brought.has(row) {
			continue
		}
		id, err := edgeclaim.ParseKeyID(string(row))
		if err != nil {
			return damaged("document rows", err)
		}
		held, err := r.b.key(id)
		if err != nil {
			return damaged("document rows", err)
		}
		if held.Status == edgeclaim.KeyDisabled {
			continue
		}
		if held.Status == edgeclaim.KeyActive {
			r.applied.Disabled++
		}
		if err := r.change(held, edgeclaim.KeyDisabled); err != nil {
			return err
		}
	}
	return nil
}

// put does what was planned.
func (r *ruling) put() error {
	for _, at := range r.puts {
		if err := r.b.putTemplate(r.catalog.number[at], &r.catalog.list[at]); err != nil {
			return err
		}
		r.b.state.Templates = max(r.b.state.Templates, r.catalog.number[at])
	}
	r.b.catalog = r.catalog
	for _, key := range sortedKeys(r.rows) {
		if err := r.b.putRevoked([]byte(key), r.rows[key]); err != nil {
			return err
		}
	}
	r.b.putKeys(r.changes)
	if err := r.b.putNewKeys(r.added); err != nil {
		return err
	}
	return r.b.putBrought(r.id, r.brought)
}

// putNewKeys puts keys of which neither id nor hash is known.
func (b *batch) putNewKeys(keys []edgeclaim.Key) error {
	rows, hashes := b.tx.Bucket(bucketKeys), b.tx.Bucket(bucketKeyHashes)
	ids := make(map[string][]byte, len(keys)) // by hash
	slices.SortFunc(keys, func(x, y edgeclaim.Key) int { return strings.Compare(x.ID.String(), y.ID.String()) })
	for i := range keys {
		value, err := encodeKey(&keys[i])
		if err != nil {
			return err
		}
		id := []byte(keys[i].ID.String())
		b.dirty = true
		if err := rows.Put(id, value); err != nil {
			return err
		}
		ids[string(keys[i].Hash.Bytes())] = id
	}
	for _, hash := range sortedKeys(ids) { // neighbours share pages
		if err := hashes.Put([]byte(hash), ids[hash]); err != nil {
			return err
		}
	}
	return nil
}

// revokeNamed gives new keys of hashes that a revocation names the status that
// goes with it, and returns the revocations that note what they were else.
func (b *batch) revokeNamed(keys []edgeclaim.Key) (map[string]*revokedRow, error) {
	if b.state.Revoked == 0 {
		return nil, nil
	}
	rows := map[string]*revokedRow{}
	for i := range keys {
		t := &b.catalog.list[b.catalog.byID[keys[i].Template]]
		row, key, err := b.revokedFor(t.Tenant, keys[i].Hash)
		if err != nil {
			return nil, err
		}
		if row == nil || keys[i].Status == edgeclaim.KeyRevoked {
			continue
		}
		row.Was, keys[i].Status = string(keys[i].Status), edgeclaim.KeyRevoked
		rows[string(key)] = row
	}
	return rows, nil
}

// keyDenied is an ErrConflict where a revocation names a key that would not be
// revoked (P9).
func (b *batch) keyDenied(k *edgeclaim.Key) error {
	if b.state.Revoked == 0 || k.Status == edgeclaim.KeyRevoked {
		return nil
	}
	grant, err := b.catalog.grant(*k)
	if err != nil {
		return err
	}
	row, _, err := b.revokedFor(grant.Template.Tenant, k.Hash)
	if err != nil || row == nil {
		return err
	}
	return fmt.Errorf("key: revoked by a document, and only a document takes it back: %w", edgeclaim.ErrConflict)
}

// leased reports whether upstream shares any template's keys out.
func (c *catalog) leased() bool {
	return slices.ContainsFunc(c.list, func(t edgeclaim.Template) bool { return t.Leased })
}

// keysAfter starts at the first key whose id follows.
func keysAfter(tx *bolt.Tx, after edgeclaim.KeyID) (cursor *bolt.Cursor, k, v []byte) {
	cursor = tx.Bucket(bucketKeys).Cursor()
	k, v = cursor.Seek([]byte(after.String()))
	if k != nil && string(k) == after.String() {
		k, v = cursor.Next()
	}
	return cursor, k, v
}
