package store

import (
	"errors"
	"fmt"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"edgeclaim"
)

// appendFill is the fill of the buckets whose keys only ascend. Elsewhere it
// would make every insertion split a page.
const appendFill = 0.95

// maxSyncedFreelist is up to how many free pages (32 MiB) the list of them is
// written with each commit, which makes opening the file independent of its
// size. Beyond, a commit leaves it out, because it would cost more than the
// commit itself, and opening after a crash reads the whole file; Close writes
// it in any case.
const maxSyncedFreelist = 8192

// batch is one write transaction and what memory becomes once it is durable.
// It belongs to the leader of the group; callers' changes run one after the
// other, each seeing those before it.
type batch struct {
	db *DB
	tx *bolt.Tx
	id int // of tx, which forgets it when it ends

	epoch   string   // replaces db.epoch
	state   state    // replaces db.state
	catalog *catalog // replaces db.catalog
	// heritage replaces db.heritage, and is itself replaced, never changed.
	heritage *heritage
	dirty    bool // something was put

	keys   map[edgeclaim.KeyID]*edgeclaim.Key // read so far, by id
	hashes map[edgeclaim.KeyHash]edgeclaim.KeyID
	put    map[edgeclaim.KeyID]bool // those of keys to be put at the end

	aliases *bool  // whether there are any; nil until asked
	seen    *sight // sight's; nil until asked

	credentials changes // of rows, where they are noted

	fresh      map[edgeclaim.DeviceID]uint64 // rows added, to join db.tail
	folds      []int                         // partitions folded, to leave db.tail
	appended   bool                          // records were appended
	claims     int                           // new devices
	syncedList bool                          // write the list of free pages in any case
}

// commit applies a group in one transaction and sets each write's err.
func (db *DB) commit(group []*write) {
	defer db.settle()
	start := time.Now()
	b, err := db.transact(group)
	if err != nil {
		for _, w := range group {
			w.err = err
		}
		return
	}
	if !b.dirty {
		return
	}
	if db.cfg.OnCommit != nil {
		db.cfg.OnCommit(time.Since(start), b.claims)
	}
	db.publish(b)
}

// settle lets the readers look again who saw the commit before its end.
func (db *DB) settle() {
	next := make(chan struct{})
	close(*db.settled.Swap(&next))
}

// transact is commit under recover: bbolt panics on a damaged file, and a
// fault in the mapped file would end the process.
func (db *DB) transact(group []*write) (b *batch, err error) {
	if err := db.Err(); err != nil {
		return nil, err
	}
	var tx *bolt.Tx
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			b, err = nil, db.panicked(p)
			db.abandon(tx)
		}
	}()
	tx, err = db.bolt.Begin(true)
	if err != nil {
		return nil, db.failed(err)
	}
	b = &batch{
		db: db, tx: tx, epoch: db.epoch, state: db.state, catalog: db.catalog.Load(), heritage: db.heritage.Load(),
		keys: map[edgeclaim.KeyID]*edgeclaim.Key{}, hashes: map[edgeclaim.KeyHash]edgeclaim.KeyID{},
		put: map[edgeclaim.KeyID]bool{}, fresh: map[edgeclaim.DeviceID]uint64{},
	}
	for _, w := range group {
		w.err = w.apply(b)
		if errors.Is(w.err, errDamaged) {
			db.suspect(w.err)
		}
		if errors.Is(w.err, errHalfDone) {
			return nil, db.refused(tx, w.err)
		}
	}
	if !b.dirty {
		return b, tx.Rollback()
	}
	if err := b.flush(); err != nil {
		return nil, db.refused(tx, err)
	}
	stats := db.bolt.Stats()
	db.bolt.NoFreelistSync = !b.syncedList && stats.FreePageN+stats.PendingPageN > maxSyncedFreelist
	b.id = tx.ID()
	if err := tx.Commit(); err != nil {
		return nil, db.uncommitted(b.id, err)
	}
	return b, nil
}

// errHalfDone: a change failed between its puts, so the group cannot go on.
var errHalfDone = errors.New("change not complete")

func halfDone(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errHalfDone, err)
}

// abandon gives up a transaction that panicked. Where even that panics, bbolt's
// write lock stays taken for good, and Close must not wait for it.
func (db *DB) abandon(tx *bolt.Tx) {
	defer func() {
		if recover() != nil {
			db.stuck.Store(true)
		}
	}()
	if tx == nil { // it panicked on its way into the transaction
		db.stuck.Store(true)
		return
	}
	_ = tx.Rollback() // already closed is as good
}

// refused undoes a transaction that could not be completed.
func (db *DB) refused(tx *bolt.Tx, err error) error {
	if rollback := tx.Rollback(); rollback != nil {
		return db.failed(errors.Join(err, rollback))
	}
	if noRoom(err) {
		return fmt.Errorf("%w: %w", edgeclaim.ErrUnavailable, err)
	}
	return db.failed(err)
}

// uncommitted judges a failed commit. After most failures nobody knows what
// the disk holds, and going on would be a guess: the program has to start
// again. A full disk is different, so long as the failed transaction did not
// become visible through the mapped meta page.
func (db *DB) uncommitted(id int, err error) error {
	if !noRoom(err) {
		return db.failed(err)
	}
	tx, begin := db.bolt.Begin(false)
	if begin != nil {
		return db.failed(errors.Join(err, begin))
	}
	visible := tx.ID() >= id
	if rollback := tx.Rollback(); rollback != nil || visible {
		return db.failed(errors.Join(err, rollback))
	}
	return fmt.Errorf("%w: commit: %w", edgeclaim.ErrUnavailable, err)
}

// noRoom reports whether err says that nothing is wrong but a lack of space.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		errors.Is(err, bolterrors.ErrMaxSizeReached)
}

// flush puts what was gathered once for the whole group.
func (b *batch) flush() error {
	if err := b.foldIndex(); err != nil {
		return err
	}
	for id := range b.put {
		value, err := encodeKey(b.keys[id])
		if err != nil {
			return err
		}
		if err := b.tx.Bucket(bucketKeys).Put([]byte(id.String()), value); err != nil {
			return err
		}
	}
	value, err := cbor.Marshal(&b.state)
	if err != nil {
		return err
	}
	return b.tx.Bucket(bucketMeta).Put(metaState, value)
}

// publish changes memory, now that the batch is durable. Only the leader calls
// it, so that there is one writer of all of this.
func (db *DB) publish(b *batch) {
	db.mu.Lock()
	db.epoch, db.state = b.epoch, b.state
	db.tail.apply(b.fresh, b.folds)
	db.mu.Unlock()
	db.catalog.Store(b.catalog)
	db.heritage.Store(b.heritage)
	db.keys.committed(b.keys, b.put)
	db.credentials.committed(b.credentials)
	db.published.Store(int64(b.id)) // last: readers may see the file now
	db.warnFull()
	if b.appended {
		select {
		case db.appended <- struct{}{}:
		default: // one signal is waiting already, and one is enough
		}
	}
}

// ascending returns a bucket whose keys only ascend, to be filled.
func (b *batch) ascending(name []byte) *bolt.Bucket {
	bucket := b.tx.Bucket(name)
	bucket.FillPercent = appendFill
	return bucket
}
