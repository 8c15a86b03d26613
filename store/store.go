// Package store keeps the box's registry and outbox in one bbolt file. It is
// the only importer of bbolt. DESIGN.md in this folder says how and why.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"edgeclaim"
)

// lockTimeout bounds the wait for bbolt's own lock, which the folder's lock
// makes all but impossible.
const lockTimeout = 3 * time.Second

// errClosing is what callers hear once Close was called.
var errClosing = fmt.Errorf("store is closing: %w", edgeclaim.ErrUnavailable)

// DB is an open registry. All methods but Close may be called from many
// goroutines at once; those that write return nil only when what they wrote is
// fsynced (P1). It has no goroutine of its own.
type DB struct {
	cfg      Config
	lock     *os.File
	bolt     *bolt.DB
	file     *os.File // bbolt's
	boxID    string
	setAside string
	boxKey   edgeclaim.Secret
	migrated bool // this Open found a file of an older version
	appended chan struct{}

	// trustSince is when the file came to note the first use of credentials;
	// zero when it always did. Open sets it.
	trustSince time.Time

	queue queue

	// mu guards epoch, state and tail against readers: the leader of a group
	// changes them, after its commit, and is the only one, so that it reads them
	// without the lock.
	mu    sync.RWMutex
	epoch string
	state state
	tail  tail

	// moving has one place, for whoever moves a device's records into the
	// quarantine or out of it.
	moving chan struct{}
	// enrolment guards the file of that name, and Close against its writers.
	enrolment sync.Mutex

	catalog  atomic.Pointer[catalog]  // replaced by the leader, after its commit
	heritage atomic.Pointer[heritage] // the same
	keys     keyCache                 // corrected by the leader, after its commit

	credentials credentials // corrected by the leader, after its commit

	// published is the last transaction that memory has taken over: readers see
	// none above it. settled is closed, and replaced, when a commit has ended,
	// well or badly. The leader changes both.
	published atomic.Int64
	settled   atomic.Pointer[chan struct{}]

	warned int // marks of the provisioning lane warned of; the leader's

	fatalOnce sync.Once
	fatalErr  error // set once, before fatal is closed
	fatal     chan struct{}
	stuck     atomic.Bool // bbolt's write lock is lost to a panic
	suspected atomic.Bool // the file is marked as suspect
}

// Open takes the folder's lock, makes what is missing, and opens the registry.
// A registry that is damaged is set aside, loudly, and an empty one with a new
// epoch takes its place: the box starts. Open reads neither the devices nor
// the backlog but for the newest 65,536 devices (P7).
//
// ErrLocked: another process has the folder. ErrNewerSchema: the file is of a
// newer program. Neither touches the registry.
func Open(cfg Config) (*DB, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	lock, err := lockFolder(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	db, err := openLocked(cfg, lock)
	if err != nil {
		return nil, fmt.Errorf("store: %w", errors.Join(err, unlockFolder(lock)))
	}
	return db, nil
}

func openLocked(cfg Config, lock *os.File) (*DB, error) {
	if err := tidy(cfg); err != nil {
		return nil, err
	}
	boxID, known, err := nameBox(cfg.Dir)
	if err != nil {
		return nil, err
	}
	boxKey, freshKey, err := loadBoxKey(cfg.Dir)
	if err != nil {
		return nil, err
	}
	db, err := openExisting(cfg, lock)
	replaced := errors.Is(err, errDamaged)
	if replaced {
		cfg.Logger.Error("registry is damaged and is set aside", "err", err)
		name, err := setAside(cfg.Dir, time.Now())
		if err != nil {
			return nil, err
		}
		cfg.Logger.Error("an empty registry takes its place", "set_aside", name)
		err = os.Remove(filepath.Join(cfg.Dir, suspectFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	fresh := replaced || errors.Is(err, fs.ErrNotExist)
	if fresh && !replaced && known {
		cfg.Logger.Warn("no registry, though this box has a name already: it begins with an empty one", "box_id", boxID)
	}
	if fresh {
		if err := create(cfg.Dir, boxID); err != nil {
			return nil, err
		}
		db, err = openExisting(cfg, lock)
	}
	if err != nil {
		return nil, err
	}
	if db.boxKey = boxKey; freshKey && !fresh && !db.migrated {
		cfg.Logger.Warn("box key was missing and a new one is made: devices that have not logged in yet have to be released",
			"file", filepath.Join(cfg.Dir, boxKeyFile))
	}
	if db.setAside = lastSetAside(cfg.Dir); replaced {
		db.tellSetAside()
	}
	if copied, err := readBoxID(cfg.Dir); err != nil || copied != db.boxID {
		if err := writeWhole(filepath.Join(cfg.Dir, boxIDFile), db.boxID+"\n"); err != nil {
			return nil, errors.Join(err, db.bolt.Close())
		}
	}
	return db, nil
}

// openExisting opens the registry that is there. It returns fs.ErrNotExist or
// errDamaged where a new one has to take its place.
func openExisting(cfg Config, lock *os.File) (*DB, error) {
	name := filepath.Join(cfg.Dir, registryFile)
	if err := inspect(name); err != nil {
		return nil, err
	}
	if err := os.Chmod(name, 0o600); err != nil { // copied back by hand, it may be open to others (P5)
		return nil, err
	}
	db := &DB{
		cfg: cfg, lock: lock,
		queue:    queue{full: make(chan struct{}, 1)},
		appended: make(chan struct{}, 1),
		moving:   make(chan struct{}, 1),
		fatal:    make(chan struct{}),

		credentials: credentials{building: make(chan struct{}, 1)},
	}
	unsettled := make(chan struct{})
	db.settled.Store(&unsettled)
	err := sound(func() (err error) {
		db.bolt, err = bolt.Open(name, 0o600, db.options())
		if err != nil {
			return err
		}
		return db.load()
	})
	if err == nil {
		err = db.clearSuspect()
	}
	if err == nil {
		return db, nil
	}
	if db.bolt != nil {
		err = errors.Join(err, db.bolt.Close())
	} else if db.file != nil {
		_ = db.file.Close() // closed already unless bbolt panicked
	}
	return nil, err
}

// options are bbolt's, each for a reason that DESIGN.md gives.
func (db *DB) options() *bolt.Options {
	initial := 1 << 30
	if strconv.IntSize == 32 {
		initial = 256 << 20
	}
	return &bolt.Options{
		Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, NoFreelistSync: true,
		InitialMmapSize: initial, MaxSize: int(db.cfg.MaxBytes),
		OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
			db.file, err = os.OpenFile(name, flag, mode) //nolint:gosec // the operator's own data folder
			return db.file, err
		},
	}
}

// load migrates an older file and reads what memory holds of the registry.
func (db *DB) load() error {
	var version uint64
	err := db.bolt.View(func(tx *bolt.Tx) (err error) {
		version, err = readSchema(tx)
		return err
	})
	if db.migrated = version < schemaVersion; err == nil && db.migrated {
		err = db.bolt.Update(func(tx *bolt.Tx) error { return migrate(tx, version, db.cfg.Stamp().Time) })
	}
	if err != nil {
		return err
	}
	return db.bolt.View(func(tx *bolt.Tx) error {
		db.published.Store(int64(tx.ID()))
		for _, name := range allBuckets {
			if tx.Bucket(name) == nil {
				return damaged("no bucket "+string(name), nil)
			}
		}
		meta := tx.Bucket(bucketMeta)
		db.boxID, db.epoch = string(meta.Get(metaBoxID)), string(meta.Get(metaEpoch))
		if !usableBoxID(db.boxID) || db.epoch == "" {
			return damaged("meta bucket", nil)
		}
		s, err := readState(tx)
		if err != nil {
			return err
		}
		db.state = s
		if db.trustSince, err = readInstant(tx, metaTrust); err != nil {
			return err
		}
		all, err := loadCatalog(tx)
		if err != nil {
			return err
		}
		db.catalog.Store(all)
		profiles, err := loadProfiles(tx)
		if err != nil {
			return err
		}
		db.heritage.Store(&profiles)
		if s.Prov.pending()+s.Evt.pending() > 0 {
			db.appended <- struct{}{} // what an earlier life left behind
		}
		return loadTail(tx, &db.tail, s.Rows)
	})
}

// view runs read in a read transaction that sees nothing but what is durable.
// bbolt lets a reader see a commit as soon as its meta page is written, before
// the last fsync: an outbox record could go upstream, or a claim be answered by
// a device, that a power cut takes back. Such a reader waits for that commit to
// end and looks again.
func (db *DB) view(ctx context.Context, read func(*bolt.Tx) error) error {
	for {
		if err := db.readable(ctx); err != nil {
			return err
		}
		settled := *db.settled.Load() // before the look: or its end could be missed
		err := db.look(read)
		if !errors.Is(err, errUnsettled) {
			return err
		}
		select {
		case <-settled:
		case <-ctx.Done():
		}
	}
}

// errUnsettled: the transaction sees a commit that has not ended.
var errUnsettled = errors.New("commit under way")

func (db *DB) look(read func(*bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = db.panicked(p)
		}
	}()
	err = db.bolt.View(func(tx *bolt.Tx) error {
		if int64(tx.ID()) > db.published.Load() {
			return errUnsettled
		}
		return read(tx)
	})
	switch {
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return errClosing
	case errors.Is(err, errDamaged):
		db.suspect(err)
	}
	return err
}

// Ping returns nil when a write that was asked for now got its turn: a store
// whose disk hangs answers reads and counters, and no write. It stores nothing.
func (db *DB) Ping(ctx context.Context) error {
	return db.update(ctx, func(*batch) error { return nil })
}

func (db *DB) readable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return db.Err()
}

// Fatal is closed when the store can no longer be trusted with a write; Err
// says why. The program should end and be started again.
func (db *DB) Fatal() <-chan struct{} { return db.fatal }

// Err returns what closed Fatal, and nil until then. All methods return it
// from then on.
func (db *DB) Err() error {
	select {
	case <-db.fatal:
		return db.fatalErr
	default:
		return nil
	}
}

// failed makes err fatal and returns it: an ErrUnavailable, because nobody may
// take what failed for stored (P1).
func (db *DB) failed(err error) error {
	db.fatalOnce.Do(func() {
		db.fatalErr = fmt.Errorf("%w: store failed: %w", edgeclaim.ErrUnavailable, err)
		close(db.fatal)
		db.cfg.Logger.Error("store failed and refuses all that follows", "err", err)
	})
	return db.fatalErr
}

// panicked makes a panic of bbolt's fatal, and has the file checked at the
// next start.
func (db *DB) panicked(p any) error {
	err := damaged("registry", fmt.Errorf("panic: %v", p))
	db.suspect(err)
	return db.failed(err)
}

// suspect has the whole file checked at the next start. Once is enough: a bad
// row may be asked for many times a second.
func (db *DB) suspect(why error) {
	if db.suspected.Swap(true) {
		return
	}
	db.cfg.Logger.Error("registry is suspect and will be checked at the next start", "err", why)
	if err := writeWhole(filepath.Join(db.cfg.Dir, suspectFile), why.Error()+"\n"); err != nil {
		db.cfg.Logger.Error("registry cannot be marked as suspect", "err", err)
	}
}

// clearSuspect checks the registry if an earlier life found it suspect.
func (db *DB) clearSuspect() error {
	name := filepath.Join(db.cfg.Dir, suspectFile)
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := check(context.Background(), db.bolt); err != nil {
		return damaged("check", err)
	}
	return os.Remove(name)
}

// Close lets the writes that are under way finish, refuses those to come, and
// closes the file. It may be called again.
func (db *DB) Close() error {
	if !db.queue.shut() {
		return nil
	}
	db.enrolment.Lock() // the folder's lock is about to go
	defer db.enrolment.Unlock()
	// The last write: the list of free pages, so that the next Open need not
	// read the file. It also waits for all writes before it.
	if db.Err() == nil {
		w := &write{wake: make(chan bool, 1), apply: func(b *batch) error {
			b.dirty, b.syncedList = true, true
			return nil
		}}
		leads, err := db.queue.join(w, true)
		if err == nil && (leads || <-w.wake) {
			db.lead()
		}
		if w.err != nil {
			db.cfg.Logger.Warn("list of free pages is not written: the next start is slower", "err", w.err)
		}
	}
	if db.stuck.Load() {
		return errors.Join(db.file.Close(), unlockFolder(db.lock))
	}
	return errors.Join(db.bolt.Close(), unlockFolder(db.lock))
}

// BoxID returns the name of this box, for ever the same: a UUID.
func (db *DB) BoxID() string { return db.boxID }

// Info describes the registry's file.
func (db *DB) Info() edgeclaim.StoreStatus {
	info := edgeclaim.StoreStatus{Path: filepath.Join(db.cfg.Dir, registryFile), SetAside: db.setAside}
	if stat, err := os.Stat(info.Path); err == nil {
		info.Bytes = stat.Size()
	}
	return info
}
