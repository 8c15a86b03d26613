package store_test

import (
	"crypto/sha1" //nolint:gosec // only to make keys as random as device ids are
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
)

// The layouts that were candidates for the store, on bare bbolt, with the same
// bytes for each claim, so that the table of decision record 0002 can be
// measured again. BenchmarkStoreClaim is the layout that was chosen.

// A claim's bytes, as the store writes them in the mean.
const (
	deviceBytes     = 250
	credentialBytes = 60
	indexBytes      = 8
	recordBytes     = 640
)

// layout puts the n-th claim.
type layout struct {
	name string
	put  func(tx *bolt.Tx, n uint64) error
}

func ascendingKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func randomKey(n uint64) []byte {
	sum := sha1.Sum(ascendingKey(n)) //nolint:gosec // see the import
	return sum[:16]
}

func ascend(tx *bolt.Tx, name string, n uint64, size int) error {
	bucket := tx.Bucket([]byte(name))
	bucket.FillPercent = 0.95
	return bucket.Put(ascendingKey(n), make([]byte, size))
}

func scatter(tx *bolt.Tx, name string, n uint64, size int) error {
	return tx.Bucket([]byte(name)).Put(randomKey(n), make([]byte, size))
}

func layouts() []layout {
	return []layout{
		{"four_random", func(tx *bolt.Tx, n uint64) error {
			return first(scatter(tx, "a", n, deviceBytes), scatter(tx, "b", n, credentialBytes),
				scatter(tx, "c", n, indexBytes), scatter(tx, "d", n, recordBytes))
		}},
		{"one_random", func(tx *bolt.Tx, n uint64) error {
			return first(scatter(tx, "a", n, deviceBytes+credentialBytes), ascend(tx, "d", n, recordBytes))
		}},
		{"rows_and_random_index", func(tx *bolt.Tx, n uint64) error {
			return first(ascend(tx, "a", n, deviceBytes+credentialBytes), scatter(tx, "c", n, indexBytes),
				ascend(tx, "d", n, recordBytes))
		}},
		{"limit_all_ascending", func(tx *bolt.Tx, n uint64) error {
			return first(ascend(tx, "a", n, deviceBytes), ascend(tx, "b", n, credentialBytes),
				ascend(tx, "c", n, indexBytes), ascend(tx, "d", n, recordBytes))
		}},
	}
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkLayout: 64 writers, each group commit with all 64 in it.
func BenchmarkLayout(b *testing.B) {
	const devices, writers, perRound = 100_000, 64, 20_000
	for _, l := range layouts() {
		b.Run(fmt.Sprintf("layout=%s/devices=%d/writers=%d", l.name, devices, writers), func(b *testing.B) {
			db, err := bolt.Open(filepath.Join(b.TempDir(), "layout.db"), 0o600, &bolt.Options{
				NoFreelistSync: true, FreelistType: bolt.FreelistMapType, InitialMmapSize: 1 << 30,
			})
			noErr(b, err)
			defer db.Close() //nolint:errcheck // the folder goes too
			noErr(b, db.Update(func(tx *bolt.Tx) error {
				for _, name := range []string{"a", "b", "c", "d"} {
					if _, err := tx.CreateBucket([]byte(name)); err != nil {
						return err
					}
				}
				return nil
			}))
			next := uint64(0)
			for next < devices {
				next = puts(b, db, l, next, 1000)
			}
			start := next
			b.ResetTimer()
			for b.Loop() {
				next = grouped(b, db, l, next, writers, perRound)
			}
			b.ReportMetric(float64(next-start)/b.Elapsed().Seconds(), "claims/s")
		})
	}
}

func puts(b *testing.B, db *bolt.DB, l layout, from uint64, count int) uint64 {
	b.Helper()
	noErr(b, db.Update(func(tx *bolt.Tx) error {
		for range count {
			if err := l.put(tx, from); err != nil {
				return err
			}
			from++
		}
		return nil
	}))
	return from
}

// grouped has each writer wait for the commit that holds its put, and a
// committer that waits for all of them: the best that a group commit can do.
func grouped(b *testing.B, db *bolt.DB, l layout, from uint64, writers, count int) uint64 {
	b.Helper()
	rounds := count / writers
	asks := make(chan chan struct{}, writers)
	var g errgroup.Group
	for range writers {
		g.Go(func() error {
			done := make(chan struct{}, 1)
			for range rounds {
				asks <- done
				<-done
			}
			return nil
		})
	}
	waiting := make([]chan struct{}, 0, writers)
	for range rounds {
		waiting = waiting[:0]
		for range writers {
			waiting = append(waiting, <-asks)
		}
		from = puts(b, db, l, from, writers)
		for _, done := range waiting {
			done <- struct{}{}
		}
	}
	noErr(b, g.Wait())
	return from
}
