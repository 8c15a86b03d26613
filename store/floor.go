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
	err := db.view(ctx, func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketMeta).Get(metaFloor)
		if v == nil {
			return nil
		}
		var i instant
		if err := cbor.Unmarshal(v, &i); err != nil {
			return damaged("floor", err)
		}
		floor = i.time()
		return nil
	})
	return floor, err
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
