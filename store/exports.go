package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

const (
	// MaxExports is how many exports are remembered; with one more, the oldest
	// is forgotten.
	MaxExports = 64
	// MaxNonce is the longest nonce of an export, in bytes.
	MaxNonce = 64
	// MaxEnrolment is the largest enrolment, in bytes.
	MaxEnrolment = 64 << 10
)

// AddExport remembers up to which marks an export went, under its nonce; nil
// means that this is durable. A nonce that is there already is replaced.
// ErrInvalid: the nonce is empty or too long, or a lane is named twice.
func (db *DB) AddExport(ctx context.Context, nonce string, upto []edgeclaim.Mark) error {
	if nonce == "" || len(nonce) > MaxNonce {
		return edgeclaim.Invalid("nonce", "want 1 to %d characters", MaxNonce)
	}
	row := exportRow{Nonce: nonce}
	for i, m := range upto {
		if !slices.Contains(edgeclaim.Lanes(), m.Lane) { // also one that lies elsewhere
			return edgeclaim.Invalid("lane", "not known")
		}
		if slices.ContainsFunc(upto[:i], func(other edgeclaim.Mark) bool { return other.Lane == m.Lane }) {
			return edgeclaim.Invalid("lane", "named twice")
		}
		row.Upto = append(row.Upto, markRow{
			Epoch: m.Epoch, Lane: string(m.Lane), Upto: m.Upto, CheckAt: m.Check.Sequence, CheckHash: m.Check.Hash,
		})
	}
	value, err := cbor.Marshal(&row)
	if err != nil {
		return err
	}
	return db.update(ctx, func(b *batch) error { return b.addExport(nonce, value) })
}

func (b *batch) addExport(nonce string, value []byte) error {
	var keys [][]byte // to be deleted, oldest first
	kept, last := 0, uint64(0)
	err := eachExport(b.tx, func(key []byte, row *exportRow) (err error) {
		if last, err = parseNumber(key); row.Nonce == nonce {
			keys = append(keys, number(last))
		} else {
			kept++
		}
		return err
	})
	if err != nil {
		return err
	}
	bucket := b.tx.Bucket(bucketExports)
	if kept >= MaxExports {
		oldest, _ := bucket.Cursor().First()
		keys = append(keys, bytes.Clone(oldest))
	}
	b.dirty = true
	for _, key := range keys {
		if err := bucket.Delete(key); err != nil {
			return halfDone(err)
		}
	}
	return halfDone(bucket.Put(number(last+1), value))
}

// Export returns the marks of the export with that nonce; ErrNotFound when it
// is not among the last MaxExports.
func (db *DB) Export(ctx context.Context, nonce string) ([]edgeclaim.Mark, error) {
	var upto []edgeclaim.Mark
	found := false
	err := db.view(ctx, func(tx *bolt.Tx) error {
		return eachExport(tx, func(_ []byte, row *exportRow) error {
			if row.Nonce != nonce {
				return nil
			}
			found = true
			for _, m := range row.Upto {
				upto = append(upto, edgeclaim.Mark{
					Epoch: m.Epoch, Lane: edgeclaim.Lane(m.Lane), Upto: m.Upto,
					Check: edgeclaim.Check{Sequence: m.CheckAt, Hash: m.CheckHash},
				})
			}
			return nil
		})
	})
	if err == nil && !found {
		err = fmt.Errorf("export: %w", edgeclaim.ErrNotFound)
	}
	return upto, err
}

func eachExport(tx *bolt.Tx, do func(key []byte, row *exportRow) error) error {
	return tx.Bucket(bucketExports).ForEach(func(k, v []byte) error {
		var row exportRow
		if err := cbor.Unmarshal(v, &row); err != nil {
			return damaged("export", err)
		}
		return do(k, &row)
	})
}

// Enrolment returns what SetEnrolment stored last, nil when there is none. It
// lies in a file of its own, so that a box that has lost its registry still
// knows whose word to take.
func (db *DB) Enrolment(ctx context.Context) ([]byte, error) {
	if err := db.readable(ctx); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(db.cfg.Dir, enrolFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err == nil && len(text) > MaxEnrolment:
		return nil, damaged("enrolment", nil)
	}
	return text, err
}

// SetEnrolment stores what enrolled the box, whole or not at all; nil means
// that it is durable. An empty text removes it. ErrInvalid: larger than
// MaxEnrolment. ErrUnavailable: the disk is full, or the store is closing.
func (db *DB) SetEnrolment(ctx context.Context, text []byte) error {
	if len(text) > MaxEnrolment {
		return edgeclaim.Invalid("enrolment", "larger than %d bytes", MaxEnrolment)
	}
	db.enrolment.Lock()
	defer db.enrolment.Unlock()
	if err := db.readable(ctx); err != nil {
		return err
	}
	if db.queue.closing() {
		return errClosing
	}
	name := filepath.Join(db.cfg.Dir, enrolFile)
	if len(text) > 0 {
		err := writeWhole(name, string(text))
		if noRoom(err) {
			return fmt.Errorf("%w: %w", edgeclaim.ErrUnavailable, err)
		}
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncFolder(db.cfg.Dir)
}
