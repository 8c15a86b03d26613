package store

import (
	"bytes"
	"context"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// expectedPrefix starts the keys of the rows that upstream's lists have for a
// template. A zero byte ends an id: none has one.
func expectedPrefix(tenant edgeclaim.TenantID, template string) []byte {
	key := append(tenant.Bytes()[:tenantSize:tenantSize], template...)
	return append(key, 0)
}

func expectedKey(id edgeclaim.DocumentID, template, hardware string) []byte {
	key := append(expectedPrefix(id.Tenant, template), hardware...)
	return append(append(key, 0), id.Name...)
}

// expectedRow is a row with what its key says of it.
type expectedRow struct {
	template string
	row      edgeclaim.ManifestRow
	list     string // the document's name
}

func decodeExpected(key, value []byte) (expectedRow, error) {
	if len(key) <= tenantSize {
		return expectedRow{}, damaged("expected", nil)
	}
	parts := bytes.Split(key[tenantSize:], []byte{0})
	if len(parts) != 3 {
		return expectedRow{}, damaged("expected", nil)
	}
	var row manifestRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return expectedRow{}, damaged("expected", err)
	}
	listed, err := row.of(string(parts[1]))
	return expectedRow{template: string(parts[0]), row: listed, list: string(parts[2])}, err
}

// ApplyAllowList keeps one of the lists of hardware that a template expects, in
// one transaction; nil means that it is durable. Its rows take the place of those
// that the version of before brought, and of no others. The template need not be
// there: rows count once it is. Of hardware that is on several lists, the row of
// the list whose name comes first counts, and goes before one of the box's own
// manifest. Errors: as ApplySigner; DocumentMalformed: hardware twice, or a row
// larger than MaxManifestRow; DocumentConflicting: there would be more than
// MaxManifest rows over all templates.
func (db *DB) ApplyAllowList(ctx context.Context, held edgeclaim.HeldDocument, text []byte, a *edgeclaim.AllowList) error {
	next := rowsRow{Template: a.Template.String(), Rows: make([][]byte, len(a.Rows))}
	values := make(map[string][]byte, len(a.Rows))
	for i := range a.Rows {
		value, err := encodeManifestRow(&a.Rows[i])
		if err != nil {
			return err
		}
		hardware := a.Rows[i].Hardware.String()
		if hardware == "" || len(value) > MaxManifestRow || values[hardware] != nil {
			return refuse(edgeclaim.DocumentMalformed, "a row has no hardware, is there twice, or is larger than %d bytes", MaxManifestRow)
		}
		next.Rows[i], values[hardware] = []byte(hardware), value
	}
	id := held.ID
	return db.apply(ctx, edgeclaim.DocumentAllowList, held, text, func(b *batch) error {
		return b.replaceList(id, next, values)
	})
}

func (b *batch) replaceList(id edgeclaim.DocumentID, next rowsRow, values map[string][]byte) error {
	before, err := broughtBy(b.tx, id)
	if err != nil {
		return err
	}
	total := b.state.Listed + b.state.Expected - min(b.state.Expected, uint64(len(before.Rows))) + uint64(len(values))
	if total > edgeclaim.MaxManifest {
		return conflicting("the limit of %d rows of all lists is reached", edgeclaim.MaxManifest)
	}
	bucket := b.tx.Bucket(bucketExpected)
	for _, hardware := range before.Rows {
		if before.Template == next.Template && values[string(hardware)] != nil {
			continue
		}
		b.dirty = true
		b.state.Expected--
		if err := bucket.Delete(expectedKey(id, before.Template, string(hardware))); err != nil {
			return halfDone(err)
		}
	}
	for _, hardware := range sortedKeys(values) {
		key := expectedKey(id, next.Template, hardware)
		old := bucket.Get(key)
		if bytes.Equal(old, values[hardware]) {
			continue
		}
		if old == nil {
			b.state.Expected++
		}
		b.dirty = true
		if err := bucket.Put(key, values[hardware]); err != nil {
			return halfDone(err)
		}
	}
	return halfDone(b.putBrought(id, next))
}

// row returns what is expected of a hardware: upstream's row, else that of the
// template's own manifest; nil for neither. Where there are no such rows at all,
// it looks at no page.
func (s *sight) row(t *edgeclaim.Template, hardware edgeclaim.HardwareID) (*edgeclaim.ManifestRow, error) {
	if s.expected {
		if found, err := expectedOf(s.tx, t, hardware); err != nil || found != nil {
			return found, err
		}
	}
	if !s.listed {
		return nil, nil
	}
	return s.manifested(t.ID, hardware)
}

func expectedOf(tx *bolt.Tx, t *edgeclaim.Template, hardware edgeclaim.HardwareID) (*edgeclaim.ManifestRow, error) {
	prefix := append(append(expectedPrefix(t.Tenant, t.ID.String()), hardware.String()...), 0)
	k, v := tx.Bucket(bucketExpected).Cursor().Seek(prefix)
	if !bytes.HasPrefix(k, prefix) {
		return nil, nil
	}
	found, err := decodeExpected(k, v)
	return &found.row, err
}

// expectedAfter appends up to maximum rows that upstream's lists have for a
// template, one of each hardware, those after the given one.
func expectedAfter(tx *bolt.Tx, t *edgeclaim.Template, after edgeclaim.HardwareID, maximum int, rows *[]edgeclaim.ManifestRow) error {
	prefix := expectedPrefix(t.Tenant, t.ID.String())
	from := append(bytes.Clone(prefix), after.String()...)
	cursor := tx.Bucket(bucketExpected).Cursor()
	for k, v := cursor.Seek(from); bytes.HasPrefix(k, prefix) && len(*rows) < maximum; k, v = cursor.Next() {
		found, err := decodeExpected(k, v)
		if err != nil {
			return err
		}
		hardware := found.row.Hardware
		if hardware == after || len(*rows) > 0 && (*rows)[len(*rows)-1].Hardware == hardware {
			continue
		}
		*rows = append(*rows, found.row)
	}
	return nil
}

// checkExpected: each row is one of its document's, and each of those is there.
func checkExpected(tx *bolt.Tx, s state) error {
	brought := uint64(0)
	err := tx.Bucket(bucketDocumentRows).ForEach(func(k, _ []byte) error {
		id, err := edgeclaim.ParseDocumentID(string(k))
		if err != nil || id.Type != edgeclaim.DocumentAllowList {
			return err
		}
		rows, err := broughtBy(tx, id)
		if err != nil {
			return err
		}
		brought += uint64(len(rows.Rows))
		for _, hardware := range rows.Rows {
			if tx.Bucket(bucketExpected).Get(expectedKey(id, rows.Template, string(hardware))) == nil {
				return fmt.Errorf("expected: a row of %s is missing", id)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	count := uint64(0)
	err = tx.Bucket(bucketExpected).ForEach(func(k, v []byte) error {
		count++
		_, err := decodeExpected(k, v)
		return err
	})
	if err == nil && (count != s.Expected || count != brought) {
		err = fmt.Errorf("expected: %d rows, their documents brought %d, the state says %d", count, brought, s.Expected)
	}
	return err
}
