package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"
)

// migrations[v] turns a file of version v into one of version v+1, in one
// transaction with the change of the version.
var migrations = map[uint64]func(tx *bolt.Tx, now time.Time) error{1: addQuarantine, 2: addTrust, 3: addCommands, 4: addDocuments}

func readSchema(tx *bolt.Tx) (uint64, error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return 0, damaged("no meta bucket", nil)
	}
	version, err := parseNumber(meta.Get(metaSchema))
	if err != nil {
		return 0, err
	}
	if version > schemaVersion {
		return version, fmt.Errorf("schema %d, this program knows %d: %w", version, schemaVersion, ErrNewerSchema)
	}
	return version, nil
}

func readState(tx *bolt.Tx) (state, error) {
	var s state
	if err := cbor.Unmarshal(tx.Bucket(bucketMeta).Get(metaState), &s); err != nil {
		return s, damaged("state", err)
	}
	s.asVersion2()
	return s, nil
}

// addQuarantine is version 2: records may leave the lanes for the quarantine,
// and sequences begin anew without a new file.
func addQuarantine(tx *bolt.Tx, _ time.Time) error {
	for _, name := range [][]byte{bucketParked, bucketParkedBy, bucketMoves, bucketExports} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	s, err := readState(tx)
	if err != nil {
		return err
	}
	value, err := cbor.Marshal(&s)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketMeta).Put(metaState, value)
}

// addTrust is version 3: denials, claims that wait, manifests, tokens, and
// credentials that are confirmed by their first use. No row is rewritten: what a
// row of version 2 does not say is zero. Its devices have long used their
// credentials, which nobody noted; now is kept so that nobody is told of them.
func addTrust(tx *bolt.Tx, now time.Time) error {
	for _, name := range [][]byte{bucketDenied, bucketPending, bucketManifest, bucketTokens} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	floor, err := readInstant(tx, metaFloor)
	if err != nil {
		return err
	}
	if floor.After(now) { // as the clock that they were issued by (P10)
		now = floor
	}
	value, err := cbor.Marshal(toInstant(now))
	if err != nil {
		return err
	}
	return tx.Bucket(bucketMeta).Put(metaTrust, value)
}

// addCommands is version 4: what devices are told, and their events taken over.
// There was nothing of it before.
func addCommands(tx *bolt.Tx, _ time.Time) error {
	for _, name := range [][]byte{bucketCommands, bucketCommandIDs, bucketLive, bucketEnded, bucketConfigs} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return nil
}

// addDocuments is version 5: documents from upstream, and what they say. No row
// is rewritten: a template that names no owner is local, and what else a row of
// version 4 does not say is zero.
func addDocuments(tx *bolt.Tx, _ time.Time) error {
	for _, name := range [][]byte{
		bucketDocuments, bucketTexts, bucketDocumentRows, bucketProfiles, bucketRevoked, bucketExpected, bucketWaiting,
	} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return nil
}

// asVersion2 gives the state of a file of version 1, whose lanes had no holes,
// what it left unsaid.
func (s *state) asVersion2() {
	for _, lane := range lanes() {
		if l := s.lane(lane); l.Front == 0 {
			l.Front = l.Acked + l.Dropped + 1
		}
	}
}

// initialise makes the buckets of an empty file.
func initialise(tx *bolt.Tx, boxID, epoch string) error {
	for _, name := range allBuckets {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	empty, err := cbor.Marshal(&state{Prov: laneState{Front: 1}, Evt: laneState{Front: 1}})
	if err != nil {
		return err
	}
	meta := tx.Bucket(bucketMeta)
	return errors.Join(
		meta.Put(metaSchema, number(schemaVersion)),
		meta.Put(metaBoxID, []byte(boxID)),
		meta.Put(metaEpoch, []byte(epoch)),
		meta.Put(metaState, empty),
	)
}

// migrate brings an older file to schemaVersion, a version at a time.
func migrate(tx *bolt.Tx, from uint64, now time.Time) error {
	for v := from; v < schemaVersion; v++ {
		step, ok := migrations[v]
		if !ok {
			return fmt.Errorf("schema %d: no migration", v)
		}
		if err := step(tx, now); err != nil {
			return fmt.Errorf("migrate schema %d: %w", v, err)
		}
	}
	return tx.Bucket(bucketMeta).Put(metaSchema, number(schemaVersion))
}
