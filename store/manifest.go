package store

import (
	"bytes"
	"context"
	"slices"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

const (
	// MaxManifestRows is how many rows one call imports or removes at most, so
	// that claims never wait behind many.
	MaxManifestRows = 1000
	// MaxManifestRow is the largest row of a manifest, in encoded bytes.
	MaxManifestRow = 16 << 10
)

// manifestRow is what the key of a row, template and hardware, does not say.
type manifestRow struct {
	Profile string   `cbor:"1,keyasint,omitempty"`
	Name    string   `cbor:"2,keyasint,omitempty"`
	Groups  []string `cbor:"3,keyasint,omitempty"`
	Tags    []string `cbor:"4,keyasint,omitempty"` // as in deviceRow
}

// numberSize is the length of a number in a key.
const numberSize = 8

func manifestKey(template uint64, hardware edgeclaim.HardwareID) []byte {
	return append(number(template), hardware.String()...)
}

func encodeManifestRow(r *edgeclaim.ManifestRow) ([]byte, error) {
	return cbor.Marshal(&manifestRow{Profile: r.Profile, Name: r.Name, Groups: r.Groups, Tags: toTags(r.Tags)})
}

func decodeManifestRow(key, value []byte) (edgeclaim.ManifestRow, error) {
	var row manifestRow
	if len(key) <= numberSize {
		return edgeclaim.ManifestRow{}, damaged("manifest", nil)
	}
	if err := cbor.Unmarshal(value, &row); err != nil {
		return edgeclaim.ManifestRow{}, damaged("manifest", err)
	}
	return row.of(string(key[numberSize:]))
}

// of is the row of that hardware.
func (r *manifestRow) of(text string) (edgeclaim.ManifestRow, error) {
	hardware, err := edgeclaim.ParseHardwareID(text)
	if err != nil {
		return edgeclaim.ManifestRow{}, damaged("manifest", err)
	}
	tags, err := fromTags(r.Tags)
	if err != nil {
		return edgeclaim.ManifestRow{}, damaged("manifest", err)
	}
	return edgeclaim.ManifestRow{Hardware: hardware, Profile: r.Profile, Name: r.Name, Groups: r.Groups, Tags: tags}, nil
}

// numberOf returns a template's number, by which its manifest is kept.
func (c *catalog) numberOf(id edgeclaim.TemplateID) (uint64, error) {
	i, ok := c.byID[id]
	if !ok {
		return 0, edgeclaim.ErrNotFound
	}
	return c.number[i], nil
}

// manifested reads a hardware's row of a template's manifest; nil when it has none.
func (s *sight) manifested(id edgeclaim.TemplateID, hardware edgeclaim.HardwareID) (*edgeclaim.ManifestRow, error) {
	n, err := s.catalog.numberOf(id)
	if err != nil {
		return nil, damaged("key without template", err)
	}
	key := manifestKey(n, hardware)
	v := s.tx.Bucket(bucketManifest).Get(key)
	if v == nil {
		return nil, nil
	}
	row, err := decodeManifestRow(key, v)
	return &row, err
}

// ImportManifest adds rows to a template's manifest, or replaces those of the
// same hardware, at most MaxManifestRows; nil means that all of them are durable,
// an error that none is stored. Of a hardware that is twice among them the last
// one counts. ErrNotFound: no such template. ErrInvalid: too many rows, one that
// is not whole or larger than MaxManifestRow, or more than MaxManifest over all
// templates.
func (db *DB) ImportManifest(ctx context.Context, t edgeclaim.TemplateID, rows []edgeclaim.ManifestRow) (added, changed int, err error) {
	if len(rows) > MaxManifestRows {
		return 0, 0, edgeclaim.Invalid("manifest", "want at most %d rows at once", MaxManifestRows)
	}
	values := make(map[edgeclaim.HardwareID][]byte, len(rows))
	for i := range rows {
		value, err := encodeManifestRow(&rows[i])
		if err != nil {
			return 0, 0, err
		}
		if rows[i].Hardware.IsZero() || len(value) > MaxManifestRow {
			return 0, 0, edgeclaim.Invalid("manifest", "a row has no hardware, or is larger than %d bytes", MaxManifestRow)
		}
		values[rows[i].Hardware] = value
	}
	err = db.update(ctx, func(b *batch) (err error) {
		added, changed, err = b.importManifest(t, values)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	return added, changed, nil
}

func (b *batch) importManifest(t edgeclaim.TemplateID, values map[edgeclaim.HardwareID][]byte) (added, changed int, err error) {
	n, err := b.catalog.numberOf(t)
	if err != nil {
		return 0, 0, err
	}
	bucket := b.tx.Bucket(bucketManifest)
	var puts []edgeclaim.HardwareID
	for hardware, value := range values {
		switch old := bucket.Get(manifestKey(n, hardware)); {
		case old == nil:
			added++
		case bytes.Equal(old, value):
			continue
		default:
			changed++
		}
		puts = append(puts, hardware)
	}
	if b.state.Listed+b.state.Expected+uint64(added) > edgeclaim.MaxManifest {
		return 0, 0, edgeclaim.Invalid("manifest", "the limit of %d rows of all templates is reached", edgeclaim.MaxManifest)
	}
	slices.SortFunc(puts, byText) // neighbours share pages
	for _, hardware := range puts {
		b.dirty = true
		if err := bucket.Put(manifestKey(n, hardware), values[hardware]); err != nil {
			return 0, 0, halfDone(err)
		}
	}
	b.state.Listed += uint64(added)
	return added, changed, nil
}

func byText(a, b edgeclaim.HardwareID) int {
	return bytes.Compare([]byte(a.String()), []byte(b.String()))
}

// RemoveManifest takes rows out of a template's manifest, at most
// MaxManifestRows, and returns how many there were; nil means that this is
// durable. ErrNotFound: no such template. ErrInvalid: too many at once.
func (db *DB) RemoveManifest(ctx context.Context, t edgeclaim.TemplateID, hardware []edgeclaim.HardwareID) (removed int, err error) {
	if len(hardware) > MaxManifestRows {
		return 0, edgeclaim.Invalid("manifest", "want at most %d rows at once", MaxManifestRows)
	}
	err = db.update(ctx, func(b *batch) error {
		removed = 0
		n, err := b.catalog.numberOf(t)
		if err != nil {
			return err
		}
		bucket := b.tx.Bucket(bucketManifest)
		for _, hw := range hardware {
			key := manifestKey(n, hw)
			if bucket.Get(key) == nil {
				continue
			}
			b.dirty = true
			b.state.Listed--
			removed++
			if err := bucket.Delete(key); err != nil {
				return halfDone(err)
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return removed, nil
}

// Manifest returns up to maximum rows of a template's manifest and of upstream's
// lists of it, which go before, in order of their
// hardware, those after the given one, which need not be there; zero after means
// from the start. ErrNotFound: no such template.
func (db *DB) Manifest(ctx context.Context, t edgeclaim.TemplateID, after edgeclaim.HardwareID, maximum int) ([]edgeclaim.ManifestRow, error) {
	if err := db.readable(ctx); err != nil {
		return nil, err
	}
	all := db.catalog.Load()
	n, err := all.numberOf(t)
	if err != nil {
		return nil, err
	}
	template := all.list[all.byID[t]]
	var rows, theirs []edgeclaim.ManifestRow
	err = db.view(ctx, func(tx *bolt.Tx) error {
		rows, theirs = nil, nil
		cursor := tx.Bucket(bucketManifest).Cursor()
		from := manifestKey(n, after)
		for k, v := cursor.Seek(from); bytes.HasPrefix(k, number(n)) && len(rows) < maximum; k, v = cursor.Next() {
			if bytes.Equal(k, from) {
				continue
			}
			row, err := decodeManifestRow(k, v)
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
		return expectedAfter(tx, &template, after, maximum, &theirs)
	})
	if err != nil {
		return nil, err
	}
	rows = merge(rows, theirs, func(x, y edgeclaim.ManifestRow) int { return byText(x.Hardware, y.Hardware) },
		func(edgeclaim.ManifestRow) bool { return false })
	return rows[:min(len(rows), maximum)], nil
}
