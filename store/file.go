package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// The files of a data folder.
const (
	registryFile = "registry.db"
	lockFile     = "lock"
	boxIDFile    = "box-id"           // a copy, so that the box keeps its name when the registry is lost
	suspectFile  = "registry.suspect" // there: check the whole registry before using it
	enrolFile    = "enrolment.json"
	temporary    = ".tmp" // a file that a crash left half-made
	damagedMark  = registryFile + ".damaged-"
)

// ErrLocked: another process has the data folder open.
var ErrLocked = errors.New("data folder is in use")

// ErrNewerSchema: the file was written by a newer program.
var ErrNewerSchema = errors.New("written by a newer version of the program")

// lockFolder makes the folder and takes its lock, before anything else in it
// is touched. The lock is the kernel's: it goes with the process.
func lockFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close() //nolint:errcheck // nothing was written
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		var pid [20]byte
		n, _ := f.ReadAt(pid[:], 0) // only to say who; empty when it is just starting
		return nil, fmt.Errorf("%w: %s by process %s", ErrLocked, dir, strings.TrimSpace(string(pid[:n])))
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return nil, errors.Join(err, unlockFolder(f))
	}
	return f, nil
}

// unlockFolder gives the lock back. Closing the file alone would not: a process
// that is just being started has a copy of it until it runs its program, and the
// lock is of all copies.
func unlockFolder(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// tidy removes what a crash left half-made, and closes a folder that holds
// nothing else yet to others. Of another that is open to them it warns.
func tidy(cfg Config) error {
	dir := cfg.Dir
	for _, name := range []string{registryFile, boxIDFile, suspectFile, enrolFile, boxKeyFile} {
		err := os.Remove(filepath.Join(dir, name+temporary))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	// A folder with other things in it keeps its mode, at this start and at all
	// later ones: somebody may have pointed at one that is not for us alone. That
	// a registry lies in it does not make it ours, for the first start put it there.
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	if len(entries) > 1 { // more than the lock
		cfg.Logger.Warn("data folder is open to others", "dir", dir, "mode", info.Mode().Perm().String())
		return nil
	}
	return os.Chmod(dir, 0o700) //nolint:gosec // a folder needs its x bit
}

// create makes a registry under a temporary name: a power cut while bbolt
// writes its first pages would leave a file that never opens again.
func create(dir, boxID string) (err error) {
	name := filepath.Join(dir, registryFile)
	db, err := bolt.Open(name+temporary, 0o600, &bolt.Options{Timeout: lockTimeout})
	if err != nil {
		return fmt.Errorf("create registry: %w", err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return initialise(tx, boxID, rand.Text()) })
	if err := errors.Join(err, db.Sync(), db.Close()); err != nil {
		return fmt.Errorf("create registry: %w", err)
	}
	return install(name+temporary, name)
}

// install gives a finished and synced file its name, durably.
func install(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(to))
}

func syncFolder(dir string) error {
	f, err := os.Open(dir) //nolint:gosec // the operator's own data folder
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// writeWhole replaces a small file, all or nothing.
func writeWhole(name, text string) error {
	f, err := os.OpenFile(name+temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // as above
	if err != nil {
		return err
	}
	if err := errors.Join(writeAt(f, text), f.Sync(), f.Close()); err != nil {
		return err
	}
	return install(name+temporary, name)
}

// nameBox returns the box's id, and whether it had one before.
func nameBox(dir string) (id string, known bool, err error) {
	id, err = readBoxID(dir)
	if err == nil && id == "" {
		return newBoxID(), false, nil
	}
	return id, true, err
}

// readBoxID returns the copy of the box id; empty when there is none.
func readBoxID(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, boxIDFile)) //nolint:gosec // as above
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	id := strings.TrimSpace(string(text))
	if err == nil && !usableBoxID(id) {
		return "", nil // a damaged copy is as good as none
	}
	return id, err
}

// usableBoxID: the id is a topic level and a part of URLs.
func usableBoxID(id string) bool {
	return id != "" && len(id) <= 64 &&
		strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// newBoxID returns a random UUID (RFC 9562, version 4).
func newBoxID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// setAside renames a damaged registry and never deletes it: somebody may yet
// read it. Its name has a number, because the clock may read the same at every
// boot (P10); the stamp after it is for people. The folder's lock keeps the
// number ours.
func setAside(dir string, now time.Time) (string, error) {
	_, number, err := newestSetAside(dir)
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, damagedMark+strconv.Itoa(number+1)+"-"+now.UTC().Format("20060102T150405.000Z"))
	if err := install(filepath.Join(dir, registryFile), to); err != nil {
		return "", err
	}
	return to, nil
}

// lastSetAside names the newest registry that was set aside and is still there.
func lastSetAside(dir string) string {
	name, _, err := newestSetAside(dir)
	if err != nil || name == "" {
		return "" // it is only told to people
	}
	return filepath.Join(dir, name)
}

// newestSetAside finds the set-aside registry with the highest number; no name
// when there is none. A name without a number counts as 0.
func newestSetAside(dir string) (name string, number int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", 0, err
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), damagedMark)
		if !ok {
			continue
		}
		text, _, _ := strings.Cut(rest, "-")
		n, err := strconv.Atoi(text)
		if err != nil {
			n = 0
		}
		if n >= number {
			name, number = e.Name(), n
		}
	}
	return name, number, nil
}

// sound runs read, which looks into a registry's file, and reports what a
// damaged file does to bbolt as errDamaged: it panics, faults in the mapped
// file, or says that the file is invalid.
func sound(read func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged("registry", fmt.Errorf("%v", p))
		}
	}()
	err = read()
	for _, bad := range []error{
		bolterrors.ErrInvalid, bolterrors.ErrChecksum, bolterrors.ErrVersionMismatch, bolterrors.ErrInvalidMapping,
	} {
		if errors.Is(err, bad) {
			return damaged("registry", err)
		}
	}
	return err
}

// inspect opens the file read-only, where nothing of bbolt's runs in a
// goroutine that cannot be recovered, and makes sure that the real opening
// will not end the process: the file is as long as it says, and, when its list
// of free pages was not written, every page of it can be read.
func inspect(name string) error {
	if _, err := os.Stat(name); err != nil {
		return err
	}
	return sound(func() error {
		db, err := bolt.Open(name, 0o600, &bolt.Options{
			ReadOnly: true, Timeout: lockTimeout,
			OpenFile: func(name string, _ int, mode os.FileMode) (*os.File, error) {
				info, err := os.Stat(name)
				if err == nil && info.Size() < int64(2*os.Getpagesize()) {
					return nil, damaged("registry is shorter than its two meta pages", nil)
				}
				return os.OpenFile(name, os.O_RDONLY, mode) //nolint:gosec // as above
			},
		})
		if err != nil {
			return err
		}
		err = db.View(func(tx *bolt.Tx) error {
			info, err := os.Stat(name)
			if err != nil {
				return err
			}
			if info.Size() < tx.Size() {
				return damaged("registry is cut short", nil)
			}
			version, err := readSchema(tx)
			if err != nil || version > schemaVersion {
				return err
			}
			if hasFreelist(name, db.Info().PageSize) {
				return nil
			}
			return walk(tx)
		})
		return errors.Join(err, db.Close())
	})
}
