package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/store"
)

// fill claims boards from to upto with many callers at once, each with the key
// that keyOf gives for it.
func fill(tb testing.TB, db *store.DB, keyOf func(n int) edgeclaim.KeyHash, from, upto, writers int) {
	tb.Helper()
	var next atomic.Int64
	next.Store(int64(from))
	owner := tenant(tb)
	var g errgroup.Group
	for range writers {
		g.Go(func() error {
			for {
				n := int(next.Add(1) - 1)
				if n >= upto {
					return nil
				}
				hw, err := edgeclaim.ParseHardwareID(board(n))
				if err != nil {
					return err
				}
				ref := edgeclaim.ClaimRef{Key: keyOf(n), Tenant: owner, Hardware: hw}
				if err := db.Mint(context.Background(), ref, mint(ref)); err != nil {
					return err
				}
			}
		})
	}
	noErr(tb, g.Wait())
}

// always is the one key that all claim with.
func always(k edgeclaim.Key) func(int) edgeclaim.KeyHash {
	return func(int) edgeclaim.KeyHash { return k.Hash }
}

// BenchmarkClaim is claims of new hardware by 64 callers, over devices that
// are there already, with one key for all or with a key each.
func BenchmarkClaim(b *testing.B) {
	for _, bc := range []struct {
		devices int
		keys    string
	}{{10_000, "one"}, {100_000, "one"}, {1_000_000, "one"}, {100_000, "each"}} {
		b.Run(fmt.Sprintf("devices=%d/keys=%s/writers=64", bc.devices, bc.keys), func(b *testing.B) {
			if testing.Short() && bc.devices > 100_000 {
				b.Skip("fills a million devices")
			}
			var seen commits
			db, k := filled(b, bc.devices, seen.add)
			filling := len(seen.seen())
			const round = 20_000
			next := bc.devices
			b.ResetTimer()
			for b.Loop() {
				keyOf := always(k)
				if bc.keys == "each" {
					b.StopTimer()
					keyOf = keyEach(b, db, next, next+round)
					b.StartTimer()
				}
				fill(b, db, keyOf, next, next+round, 64)
				next += round
			}
			b.ReportMetric(float64(next-bc.devices)/b.Elapsed().Seconds(), "claims/s")
			b.ReportMetric(float64(next-bc.devices)/float64(len(seen.seen())-filling), "claims/commit")
		})
	}
}

// filled returns an open store with so many devices in it.
func filled(b *testing.B, devices int, onCommit func(time.Duration, int)) (*store.DB, edgeclaim.Key) {
	b.Helper()
	cfg := config(b)
	cfg.OnCommit = onCommit
	cfg.ProvMaxRecords, cfg.MaxBytes = 10_000_000, 8<<30
	db, err := store.Open(cfg)
	noErr(b, err)
	b.Cleanup(func() { noErr(b, db.Close()) })
	k := stock(b, db)
	fill(b, db, always(k), 0, devices, 512)
	return db, k
}

// keyEach adds a key for each board, and returns which one it is; the boards
// come in another order than the keys' ids.
func keyEach(b *testing.B, db *store.DB, from, upto int) func(int) edgeclaim.KeyHash {
	b.Helper()
	keys := make([]edgeclaim.Key, 0, upto-from)
	for n := from; n < upto; n++ {
		keys = append(keys, key(b, fmt.Sprintf("each-%08d", n), "template-1"))
	}
	noErr(b, db.AddKeys(context.Background(), keys))
	return func(n int) edgeclaim.KeyHash { return keys[(n-from)*7919%len(keys)].Hash }
}

// BenchmarkLoneClaim is one caller after the other, and beside it a bare commit
// of what a claim puts: a device, a key, a record and the state. The aim is at
// most 1.2 of that: a lone claim waits for nobody.
func BenchmarkLoneClaim(b *testing.B) {
	b.Run("what=bare_commit", func(b *testing.B) {
		db, err := bolt.Open(filepath.Join(b.TempDir(), "bare.db"), 0o600, &bolt.Options{
			NoFreelistSync: true, FreelistType: bolt.FreelistMapType, InitialMmapSize: 1 << 30,
		})
		noErr(b, err)
		defer db.Close() //nolint:errcheck // the folder goes too
		noErr(b, db.Update(func(tx *bolt.Tx) error {
			for _, name := range []string{"device", "key", "record", "state"} {
				if _, err := tx.CreateBucket([]byte(name)); err != nil {
					return err
				}
			}
			return nil
		}))
		n := uint64(0)
		for b.Loop() {
			noErr(b, db.Update(func(tx *bolt.Tx) error {
				n++
				return first(ascend(tx, "device", n, deviceBytes+credentialBytes), ascend(tx, "record", n, recordBytes),
					ascend(tx, "key", 1, deviceBytes), ascend(tx, "state", 1, indexBytes))
			}))
		}
	})
	b.Run("what=claim", func(b *testing.B) {
		db, k := filled(b, 1000, nil)
		n := 1000
		for b.Loop() {
			fill(b, db, always(k), n, n+1, 1)
			n++
		}
	})
}

// BenchmarkOpen is the start of a box with so many devices, after it was
// closed and after it was killed.
func BenchmarkOpen(b *testing.B) {
	for _, devices := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			if testing.Short() && devices > 100_000 {
				b.Skip("fills a million devices")
			}
			cfg := config(b)
			cfg.ProvMaxRecords, cfg.MaxBytes = 10_000_000, 8<<30
			db, err := store.Open(cfg)
			noErr(b, err)
			fill(b, db, always(stock(b, db)), 0, devices, 512)
			noErr(b, db.Close())
			b.ResetTimer()
			for b.Loop() {
				db, err := store.Open(cfg)
				noErr(b, err)
				b.StopTimer()
				noErr(b, db.Close())
				b.StartTimer()
			}
		})
	}
}

// BenchmarkDeviceByCredential is the first look-up of a box, which takes in all
// devices, and those after it.
func BenchmarkDeviceByCredential(b *testing.B) {
	const devices = 100_000
	db, _ := filled(b, devices, nil)
	b.Run(fmt.Sprintf("what=first/devices=%d", devices), func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			store.ForgetCredentials(db)
			b.StartTimer()
			finds(b, db, secretOf(deviceID(b, devices-1)))
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/devices, "ns/device")
	})
	b.Run(fmt.Sprintf("what=later/devices=%d", devices), func(b *testing.B) {
		n := 0
		for b.Loop() {
			finds(b, db, secretOf(deviceID(b, n%devices)))
			n += 7919
		}
	})
}
