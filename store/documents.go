package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// maxText is the longest signed text of a document that is kept, in bytes: its
// payload in base64, and what is around it.
const maxText = edgeclaim.MaxDocument*4/3 + 4<<10

// heldRow is a document without its id, which is its key, and its text.
type heldRow struct {
	Version     uint64   `cbor:"1,keyasint,omitempty"`
	Hash        string   `cbor:"2,keyasint,omitempty"`
	Box         string   `cbor:"3,keyasint,omitempty"`
	Site        string   `cbor:"4,keyasint,omitempty"`
	IssuedAt    *instant `cbor:"5,keyasint,omitempty"`
	MaxAge      int64    `cbor:"6,keyasint,omitempty"` // nanoseconds
	Stale       string   `cbor:"7,keyasint,omitempty"`
	AppliedAt   *instant `cbor:"8,keyasint,omitempty"`
	Confirmed   bool     `cbor:"9,keyasint,omitempty"`
	ConfirmedAt *instant `cbor:"10,keyasint,omitempty"`
	Synced      bool     `cbor:"11,keyasint,omitempty"`
	Aged        int64    `cbor:"12,keyasint,omitempty"` // nanoseconds

	Refused        string   `cbor:"13,keyasint,omitempty"`
	RefusedDetail  string   `cbor:"14,keyasint,omitempty"`
	RefusedVersion uint64   `cbor:"15,keyasint,omitempty"`
	RefusedAt      *instant `cbor:"16,keyasint,omitempty"`
}

func encodeHeld(h *edgeclaim.HeldDocument) ([]byte, error) {
	return cbor.Marshal(&heldRow{
		Version: h.Version, Hash: h.Hash, Box: h.Box, Site: h.Site, IssuedAt: toOptional(h.IssuedAt),
		MaxAge: int64(h.MaxAge), Stale: string(h.Stale), AppliedAt: toOptional(h.AppliedAt),
		Confirmed: h.Confirmed, ConfirmedAt: toOptional(h.ConfirmedAt), Synced: h.Synced, Aged: int64(h.Aged),
		Refused: string(h.Refused), RefusedDetail: h.RefusedDetail, RefusedVersion: h.RefusedVersion,
		RefusedAt: toOptional(h.RefusedAt),
	})
}

func decodeHeld(key, value []byte) (edgeclaim.HeldDocument, error) {
	var row heldRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return edgeclaim.HeldDocument{}, damaged("document", err)
	}
	id, err := edgeclaim.ParseDocumentID(string(key))
	if err != nil || id.String() != string(key) {
		return edgeclaim.HeldDocument{}, damaged("document", err)
	}
	return edgeclaim.HeldDocument{
		ID: id, Version: row.Version, Hash: row.Hash, Box: row.Box, Site: row.Site,
		IssuedAt: fromOptional(row.IssuedAt), MaxAge: time.Duration(row.MaxAge), Stale: edgeclaim.StalePolicy(row.Stale),
		AppliedAt: fromOptional(row.AppliedAt), Confirmed: row.Confirmed, ConfirmedAt: fromOptional(row.ConfirmedAt),
		Synced: row.Synced, Aged: time.Duration(row.Aged),
		Refused: edgeclaim.DocumentRefusal(row.Refused), RefusedDetail: row.RefusedDetail,
		RefusedVersion: row.RefusedVersion, RefusedAt: fromOptional(row.RefusedAt),
	}, nil
}

// heldOf reads a document's row; nil when there is none.
func heldOf(tx *bolt.Tx, id edgeclaim.DocumentID) (*edgeclaim.HeldDocument, error) {
	key := []byte(id.String())
	v := tx.Bucket(bucketDocuments).Get(key)
	if v == nil {
		return nil, nil
	}
	held, err := decodeHeld(key, v)
	return &held, err
}

// Documents returns what is known of all documents, at most MaxDocuments, in
// order of DocumentID.String: those that the box has, and those, of version 0,
// of which it has only refused an offer.
func (db *DB) Documents(ctx context.Context) ([]edgeclaim.HeldDocument, error) {
	var all []edgeclaim.HeldDocument
	err := db.view(ctx, func(tx *bolt.Tx) error {
		all = nil
		return eachAfter(tx.Bucket(bucketDocuments), nil, edgeclaim.MaxDocuments, &all, decodeHeld)
	})
	return all, err
}

// DocumentText returns the signed text of a document as it was applied, without
// a line feed; ErrNotFound where the box has none.
func (db *DB) DocumentText(ctx context.Context, id edgeclaim.DocumentID) ([]byte, error) {
	var text []byte
	err := db.view(ctx, func(tx *bolt.Tx) error {
		text = slices.Clone(tx.Bucket(bucketTexts).Get([]byte(id.String())))
		return nil
	})
	if err == nil && text == nil {
		err = fmt.Errorf("document: %w", edgeclaim.ErrNotFound)
	}
	return text, err
}

// SetHeld stores how documents stand: Confirmed, ConfirmedAt, Synced, Aged, and
// the refusal; nil means that all of it is durable. What a document is, its
// version first, the Apply methods alone change: of one whose kept version is
// another by now only a refusal is taken, and one that is kept no more is passed
// over. One of version 0 may be new. Where there are MaxDocuments already, the
// oldest refusal of a document that the box does not have makes room; ErrInvalid:
// there is none, an id is none, or a row is larger than MaxRecord.
func (db *DB) SetHeld(ctx context.Context, held ...edgeclaim.HeldDocument) error {
	for i := range held {
		if err := held[i].ID.Check(); err != nil {
			return err
		}
	}
	held = slices.Clone(held)
	return db.update(ctx, func(b *batch) error {
		rows := make(map[string][]byte, len(held))
		fresh := 0
		for i := range held {
			key := held[i].ID.String()
			value, isNew, err := b.standing(&held[i])
			if err != nil {
				return err
			}
			if value == nil {
				continue
			}
			if isNew && rows[key] == nil {
				fresh++
			}
			rows[key] = value
		}
		drop, err := b.roomForDocuments(fresh, rows)
		if err != nil {
			return err
		}
		return halfDone(b.putHeld(rows, drop))
	})
}

// standing returns the row that SetHeld leaves of a document, nil for none.
func (b *batch) standing(h *edgeclaim.HeldDocument) (value []byte, isNew bool, err error) {
	kept, err := heldOf(b.tx, h.ID)
	if err != nil {
		return nil, false, err
	}
	next := *h
	switch same := kept != nil && kept.Version == h.Version && kept.Hash == h.Hash; {
	case kept == nil && h.Version > 0, kept != nil && !same && h.Refused == "":
		return nil, false, nil
	case kept == nil: // a refusal, and nothing else
		next = edgeclaim.HeldDocument{ID: h.ID}
	case same:
		next = *kept
		next.Confirmed, next.ConfirmedAt, next.Synced, next.Aged = h.Confirmed, h.ConfirmedAt, h.Synced, h.Aged
	default:
		next = *kept
	}
	next.Refused, next.RefusedDetail, next.RefusedVersion, next.RefusedAt = h.Refused, h.RefusedDetail, h.RefusedVersion, h.RefusedAt
	if value, err = encodeHeld(&next); err == nil && len(value) > MaxRecord {
		err = edgeclaim.Invalid("document", "its row is larger than %d bytes", MaxRecord)
	}
	return value, kept == nil, err
}

// roomForDocuments returns the keys of the rows that have to go so that there is
// room for so many new ones; those of but stay.
func (b *batch) roomForDocuments(fresh int, but map[string][]byte) ([]string, error) {
	over := int(b.state.Documents) + fresh - edgeclaim.MaxDocuments
	if fresh == 0 || over <= 0 {
		return nil, nil
	}
	var all []edgeclaim.HeldDocument
	if err := eachAfter(b.tx.Bucket(bucketDocuments), nil, edgeclaim.MaxDocuments, &all, decodeHeld); err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(h edgeclaim.HeldDocument) bool { return h.Version > 0 || but[h.ID.String()] != nil })
	if len(all) < over {
		return nil, edgeclaim.Invalid("document", "the limit of %d documents is reached", edgeclaim.MaxDocuments)
	}
	slices.SortStableFunc(all, func(x, y edgeclaim.HeldDocument) int { return x.RefusedAt.Compare(y.RefusedAt) })
	drop := make([]string, over)
	for i := range drop {
		drop[i] = all[i].ID.String()
	}
	return drop, nil
}

// putHeld puts rows, and removes others.
func (b *batch) putHeld(rows map[string][]byte, drop []string) error {
	bucket := b.tx.Bucket(bucketDocuments)
	for _, key := range drop {
		b.dirty = true
		b.state.Documents--
		if err := bucket.Delete([]byte(key)); err != nil {
			return err
		}
	}
	for key, value := range rows {
		old := bucket.Get([]byte(key))
		if bytes.Equal(old, value) {
			continue
		}
		b.dirty = true
		if old == nil {
			b.state.Documents++
		}
		if err := bucket.Put([]byte(key), value); err != nil {
			return err
		}
	}
	return nil
}

// ApplySigner keeps a document that names the next key: one transaction, and nil
// means that it is durable. A *edgeclaim.DocumentError refuses: the version is
// not above the one that is kept. The same version with the same hash changes
// nothing. ErrInvalid: held is no such document, or the text is empty or too
// long. Whose signature it is to have is the caller's to judge.
func (db *DB) ApplySigner(ctx context.Context, held edgeclaim.HeldDocument, text []byte) error {
	return db.apply(ctx, edgeclaim.DocumentSigner, held, text, func(*batch) error { return nil })
}

// ForgetSigner forgets the document that names the next key: the box was enrolled
// with another first key, the chain begins anew, and so do its versions. nil
// means that this is durable; where there is none, nothing changes.
func (db *DB) ForgetSigner(ctx context.Context) error {
	key := []byte(edgeclaim.DocumentID{Type: edgeclaim.DocumentSigner}.String())
	return db.update(ctx, func(b *batch) error {
		if b.tx.Bucket(bucketDocuments).Get(key) == nil {
			return nil
		}
		b.dirty = true
		b.state.Documents--
		if err := b.tx.Bucket(bucketDocuments).Delete(key); err != nil {
			return halfDone(err)
		}
		return halfDone(b.tx.Bucket(bucketTexts).Delete(key))
	})
}

// apply keeps a document and does what it says, in one transaction. do decides
// before it puts, and finds the document of before still in its place.
func (db *DB) apply(ctx context.Context, kind edgeclaim.DocumentType, held edgeclaim.HeldDocument, text []byte,
	do func(*batch) error,
) error {
	if err := held.ID.Check(); err != nil {
		return err
	}
	switch {
	case held.ID.Type != kind:
		return edgeclaim.Invalid("type", "want %s", kind)
	case held.Version == 0:
		return edgeclaim.Invalid("version", "want 1 or above")
	case len(text) == 0 || len(text) > maxText:
		return edgeclaim.Invalid("text", "want 1 to %d bytes", maxText)
	}
	row, err := encodeHeld(&held)
	if err != nil {
		return err
	}
	if len(row) > MaxRecord {
		return edgeclaim.Invalid("document", "its row is larger than %d bytes", MaxRecord)
	}
	return db.update(ctx, func(b *batch) error {
		kept, err := heldOf(b.tx, held.ID)
		if err != nil {
			return err
		}
		fresh := 1
		if kept != nil {
			fresh = 0
			if news, err := isNews(kept, &held); err != nil || !news {
				return err
			}
		}
		drop, err := b.roomForDocuments(fresh, nil)
		if err != nil {
			return err
		}
		if err := do(b); err != nil {
			return err
		}
		if err := b.putHeld(map[string][]byte{held.ID.String(): row}, drop); err != nil {
			return halfDone(err)
		}
		b.dirty = true
		return halfDone(b.tx.Bucket(bucketTexts).Put([]byte(held.ID.String()), text))
	})
}

// isNews reports whether a document takes the place of the one that is kept.
func isNews(kept, offered *edgeclaim.HeldDocument) (bool, error) {
	switch {
	case offered.Version > kept.Version:
		return true, nil
	case offered.Version < kept.Version:
		return false, refuse(edgeclaim.DocumentOldVersion, "version %d is held", kept.Version)
	case offered.Hash != kept.Hash:
		return false, refuse(edgeclaim.DocumentSameVersion, "version %d is held with another content", kept.Version)
	default:
		return false, nil
	}
}

// refuse is why a document is not taken.
func refuse(reason edgeclaim.DocumentRefusal, format string, args ...any) error {
	return &edgeclaim.DocumentError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// conflicting is a document that contradicts what the box has.
func conflicting(format string, args ...any) error {
	return refuse(edgeclaim.DocumentConflicting, format, args...)
}

// rowsRow is what a document brought, sorted, so that the next version of it
// finds what is no longer there and what is new without a look at the others'.
type rowsRow struct {
	Template string   `cbor:"1,keyasint,omitempty"` // of an allow list
	Rows     [][]byte `cbor:"2,keyasint,omitempty"`
}

// broughtBy reads what the version before brought; nothing where there was none.
func broughtBy(tx *bolt.Tx, id edgeclaim.DocumentID) (rowsRow, error) {
	var row rowsRow
	v := tx.Bucket(bucketDocumentRows).Get([]byte(id.String()))
	if v == nil {
		return row, nil
	}
	if err := cbor.Unmarshal(v, &row); err != nil {
		return rowsRow{}, damaged("document rows", err)
	}
	return row, nil
}

// putBrought notes what a document brings, which it sorts.
func (b *batch) putBrought(id edgeclaim.DocumentID, row rowsRow) error {
	slices.SortFunc(row.Rows, bytes.Compare)
	value, err := cbor.Marshal(&row)
	if err != nil {
		return err
	}
	b.dirty = true
	return b.tx.Bucket(bucketDocumentRows).Put([]byte(id.String()), value)
}

// has reports whether a row is among them.
func (r *rowsRow) has(row []byte) bool {
	_, found := slices.BinarySearchFunc(r.Rows, row, bytes.Compare)
	return found
}
