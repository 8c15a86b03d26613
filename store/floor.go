package store

import (
	"context"
	"time"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"
)

// TimeFloor returns the latest time that was trustworthy, zero when there was
// none (P10).
func (db *DB) TimeFloor(ctx context.Context) (time.Time, error) {
	var floor time.Time
	err := db.view(ctx, func(tx *bolt.Tx) (err error) {
		floor, err = readInstant(tx, metaFloor)
		return err
	})
	return floor, err
}

// readInstant reads a time of the meta bucket, zero where it is not there.
func readInstant(tx *bolt.Tx, key []byte) (time.Time, error) {
	v := tx.Bucket(bucketMeta).Get(key)
	if v == nil {
		return time.Time{}, nil
	}
	var i instant
	if err := cbor.Unmarshal(v, &i); err != nil {
		return time.Time{}, damaged(string(key), err)
	}
	return i.time(), nil
}

// SetTimeFloor stores exactly what it is given, durably when it returns nil;
// that the floor only rises is the clock's business.
func (db *DB) SetTimeFloor(ctx context.Context, floor time.Time) error {
	value, err := cbor.Marshal(toInstant(floor))
	if err != nil {
		return err
	}
	return db.update(ctx, func(b *batch) error {
		b.dirty = true
		return halfDone(b.tx.Bucket(bucketMeta).Put(metaFloor, value))
	})
}
