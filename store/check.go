package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"syscall"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"edgeclaim"
)

// compactTx is how many bytes Compact copies in one transaction.
const compactTx = 4 << 20

// Check reads the whole registry and reports what is wrong with it: pages,
// rows that cannot be read, and sums that do not agree. It holds a read
// transaction meanwhile, so that the file grows when there are many writes.
func (db *DB) Check(ctx context.Context) error {
	if err := db.readable(ctx); err != nil {
		return err
	}
	err := check(ctx, db.bolt)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return errClosing
	}
	return err
}

// CheckFile checks the registry of a box that is stopped. ErrLocked: it runs.
func CheckFile(ctx context.Context, dir string) error {
	return stopped(dir, func(name string) error {
		if err := inspect(name); err != nil {
			return err
		}
		return sound(func() error {
			db, err := bolt.Open(name, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockTimeout})
			if err != nil {
				return err
			}
			return errors.Join(check(ctx, db), db.Close())
		})
	})
}

// Compact rewrites the registry of a box that is stopped without its free
// pages, and returns its size before and after, in bytes. A crash leaves the
// old file. ErrLocked: the box runs.
func Compact(dir string) (before, after int64, err error) {
	err = stopped(dir, func(name string) error {
		if err := inspect(name); err != nil {
			return err
		}
		if before, err = fileSize(name); err != nil {
			return err
		}
		if err := sound(func() error { return compact(name, name+temporary) }); err != nil {
			_ = os.Remove(name + temporary) // else Open tidies it up
			return err
		}
		if err := sameOwner(name, name+temporary); err != nil {
			return err
		}
		if err := install(name+temporary, name); err != nil {
			return err
		}
		after, err = fileSize(name)
		return err
	})
	return before, after, err
}

func compact(from, to string) error {
	src, err := bolt.Open(from, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return err
	}
	dst, err := bolt.Open(to, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return errors.Join(err, src.Close())
	}
	return errors.Join(bolt.Compact(dst, src, compactTx), dst.Sync(), dst.Close(), src.Close())
}

// sameOwner gives a file the owner of another: compacted by root, the registry
// must still be the service's to open.
func sameOwner(of, name string) error {
	info, err := os.Stat(of)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return os.Chown(name, int(owner.Uid), int(owner.Gid))
}

func fileSize(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// stopped runs do on a registry's file while no box has its folder.
func stopped(dir string, do func(name string) error) error {
	name := filepath.Join(dir, registryFile)
	if _, err := os.Stat(name); err != nil { // or lockFolder would make the folder
		return err
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return err
	}
	return errors.Join(do(name), unlockFolder(lock))
}

// hasFreelist reports whether the list of free pages was written with the last
// commit. bbolt does not tell, so this reads its two meta pages and takes the
// newer of the valid ones, as bbolt does (its internal/common: a page header
// of 16 bytes, then the meta, which ends with its FNV-1a sum).
func hasFreelist(name string, pageSize int) bool {
	const header, freelist, txid, sum, size, none = 16, 32, 48, 56, 64, ^uint64(0)
	f, err := os.Open(name) //nolint:gosec // the operator's own data folder
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // only read
	last, list := uint64(0), none
	for page := range int64(2) {
		var meta [size]byte
		if _, err := f.ReadAt(meta[:], page*int64(pageSize)+header); err != nil {
			continue
		}
		h := fnv.New64a()
		_, _ = h.Write(meta[:sum]) // never fails
		id := binary.NativeEndian.Uint64(meta[txid:])
		if h.Sum64() == binary.NativeEndian.Uint64(meta[sum:]) && id >= last {
			last, list = id, binary.NativeEndian.Uint64(meta[freelist:])
		}
	}
	return list != none
}

// walk reads every page of the file in the caller's goroutine, where a panic
// or a fault can be recovered.
func walk(tx *bolt.Tx) error {
	var visit func(b *bolt.Bucket) error
	visit = func(b *bolt.Bucket) error {
		cursor := b.Cursor()
		for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
			if v != nil {
				continue
			}
			if err := visit(b.Bucket(k)); err != nil {
				return err
			}
		}
		return nil
	}
	return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return visit(b) })
}

// check is the consistency check: bbolt's own, then ours.
func check(ctx context.Context, db *bolt.DB) error {
	return sound(func() error {
		return db.View(func(tx *bolt.Tx) error {
			if err := walk(tx); err != nil { // or bbolt's check could end the process
				return err
			}
			var problems []error
			for problem := range tx.Check() { // to its end, or its goroutine stays
				if len(problems) < 10 {
					problems = append(problems, problem)
				}
			}
			if len(problems) > 0 {
				return errors.Join(problems...)
			}
			version, err := readSchema(tx)
			if err != nil {
				return err
			}
			s, err := readState(tx)
			if err != nil {
				return err
			}
			parts := []func(*bolt.Tx, state) error{checkDevices, checkIndex, checkKeys, checkLanes, checkAliases}
			if version > 1 { // an older file has no quarantine
				parts = append(parts, checkQuarantine, checkMoves)
			}
			if version > 2 { // nor denials
				parts = append(parts, checkTrust)
			}
			if version > 3 { // nor commands
				parts = append(parts, checkCommands)
			}
			if version > 4 { // nor documents
				parts = append(parts, checkDocuments)
			}
			for _, part := range parts {
				if err := errors.Join(ctx.Err(), part(tx, s)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// checkDevices: every row from 1 to the last is there, can be read, and can be
// found by its id.
func checkDevices(tx *bolt.Tx, s state) error {
	var unfolded tail
	if err := loadTail(tx, &unfolded, s.Rows); err != nil {
		return err
	}
	row := uint64(0)
	err := tx.Bucket(bucketDevices).ForEach(func(k, v []byte) error {
		row++
		if !bytes.Equal(k, number(row)) {
			return fmt.Errorf("devices: row %d is missing", row)
		}
		d, err := decodeDevice(v)
		if err != nil {
			return err
		}
		found, ok := unfolded.find(d.ID)
		if !ok {
			if found, ok, err = indexed(tx, d.ID); err != nil {
				return err
			}
		}
		if !ok || found != row {
			return fmt.Errorf("devices: row %d is not found by its id", row)
		}
		return nil
	})
	if err == nil && row != s.Rows {
		return fmt.Errorf("devices: %d rows, the state says %d", row, s.Rows)
	}
	return err
}

// checkIndex: every id in the index is that of its row.
func checkIndex(tx *bolt.Tx, _ state) error {
	rows := tx.Bucket(bucketDevices)
	return tx.Bucket(bucketIndex).ForEach(func(k, v []byte) error {
		if len(v) != 8 || !bytes.HasPrefix(rows.Get(v), k) || len(k) != idSize {
			return fmt.Errorf("device_index: an entry without its row")
		}
		return nil
	})
}

// checkKeys: every key has its template and its hash, and no hash is without
// its key.
func checkKeys(tx *bolt.Tx, _ state) error {
	all, err := loadCatalog(tx)
	if err != nil {
		return err
	}
	hashes, keys := tx.Bucket(bucketKeyHashes), 0
	err = tx.Bucket(bucketKeys).ForEach(func(k, v []byte) error {
		keys++
		id, err := edgeclaim.ParseKeyID(string(k))
		if err != nil {
			return err
		}
		key, err := decodeKey(id, v)
		if err != nil {
			return err
		}
		if _, ok := all.byID[key.Template]; !ok {
			return fmt.Errorf("keys: %s has no template", id)
		}
		if !bytes.Equal(hashes.Get(key.Hash.Bytes()), k) {
			return fmt.Errorf("keys: %s is not found by its hash", id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return hashes.ForEach(func(_, _ []byte) error {
		if keys--; keys < 0 {
			return fmt.Errorf("key_hashes: more hashes than keys")
		}
		return nil
	})
}
