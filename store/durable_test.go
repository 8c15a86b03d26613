package store_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
	"edgeclaim/store"
)

// TestReadersSeeOnlyWhatIsDurable: bbolt shows a commit to readers before its
// last fsync; here no record, device or key is seen before its commit returned.
func TestReadersSeeOnlyWhatIsDurable(t *testing.T) {
	var durable atomic.Uint64
	cfg := config(t)
	cfg.OnCommit = func(_ time.Duration, claims int) { durable.Add(uint64(claims)) }
	db := open(t, cfg)
	k := stock(t, db)
	const claims = 500
	var readers sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	read := func(look func() (seen uint64, err error)) {
		readers.Go(func() {
			for ctx.Err() == nil {
				seen, err := look()
				if ctx.Err() == nil && err != nil {
					t.Error(err)
					return
				}
				if now := durable.Load(); seen > now {
					t.Errorf("%d are seen, %d are durable", seen, now)
					return
				}
			}
		})
	}
	var after uint64
	read(func() (uint64, error) {
		records, err := db.Next(ctx, at(db, edgeclaim.LaneProv, after), 16)
		if len(records) > 0 {
			after = records[len(records)-1].Sequence
		}
		return after, err
	})
	read(func() (uint64, error) {
		stats, err := db.LaneStats(ctx)
		return stats[edgeclaim.LaneProv].Appended, err
	})
	read(func() (uint64, error) {
		devices, err := db.Devices(ctx, edgeclaim.DeviceID{}, claims)
		return uint64(len(devices)), err
	})
	for n := range claims {
		noErr(t, claim(t, db, k, board(n)))
	}
	stop()
	readers.Wait()
}

// TestUnreadableRecordIsAGap: one bad record does not stop the lane; upstream
// is told of it under its own sequence, the same on every send.
func TestUnreadableRecordIsAGap(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	k := stock(t, db)
	for n := range 3 {
		noErr(t, claim(t, db, k, board(n)))
	}
	noErr(t, db.Close())
	file, err := bolt.Open(registry(cfg), 0o600, nil)
	noErr(t, err)
	noErr(t, file.Update(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			if !strings.Contains(string(name), "prov") {
				return nil
			}
			key := []byte{0, 0, 0, 0, 0, 0, 0, 2}
			return b.Put(key, bytes.Repeat([]byte{0xff}, len(b.Get(key))))
		})
	}))
	noErr(t, file.Close())

	db, err = store.Open(cfg)
	noErr(t, err)
	defer db.Close() // its check would rightly fail
	var first []byte
	for range 2 {
		records, err := db.Next(t.Context(), at(db, edgeclaim.LaneProv, 0), 10)
		noErr(t, err)
		if len(records) != 3 || records[1].Type != edgeclaim.TypeGap || records[1].Sequence != 2 || records[2].Type == edgeclaim.TypeGap {
			t.Fatalf("records %v", records)
		}
		if first != nil && !bytes.Equal(first, records[1].Data) {
			t.Errorf("told as %s, then as %s", first, records[1].Data)
		}
		first = records[1].Data
	}
	noErr(t, db.Ack(t.Context(), at(db, edgeclaim.LaneProv, 1)))
	if s := stats(t, db, edgeclaim.LaneProv); s.Pending != 2 { // in front, it keeps nobody from asking
		t.Errorf("stats %+v", s)
	}
	noErr(t, db.Ack(t.Context(), at(db, edgeclaim.LaneProv, 3)))
	if _, err := os.Stat(filepath.Join(cfg.Dir, "registry.suspect")); err == nil {
		t.Error("one bad record puts the whole registry under suspicion")
	}
}

// TestFillingLaneWarns: long before claims are refused (P6), once for each mark.
func TestFillingLaneWarns(t *testing.T) {
	var log bytes.Buffer
	cfg := config(t)
	cfg.ProvMaxRecords = 20
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	db := open(t, cfg)
	k := stock(t, db)
	for n := range 20 {
		noErr(t, claim(t, db, k, board(n)))
	}
	if got := strings.Count(log.String(), "filling up"); got != 3 {
		t.Errorf("%d warnings, want one each at 50, 80 and 95 percent:\n%s", got, log.String())
	}
	wantErr(t, claim(t, db, k, "one-too-many"), edgeclaim.ErrUnavailable)
}

// TestChangeOfNothingCommitsNothing: asking twice for what already is costs no
// fsync; Ping never does.
func TestChangeOfNothingCommitsNothing(t *testing.T) {
	commits := 0
	cfg := config(t)
	cfg.OnCommit = func(time.Duration, int) { commits++ }
	db := open(t, cfg)
	k := stock(t, db)
	noErr(t, claim(t, db, k, "board-1"))
	devices, err := db.Devices(t.Context(), edgeclaim.DeviceID{}, 1)
	noErr(t, err)
	before := commits
	_, err = db.ChangeKey(t.Context(), k.ID, func(*edgeclaim.Key) error { return nil })
	noErr(t, err)
	_, err = db.ChangeDevice(t.Context(), devices[0].ID, func(*edgeclaim.Device) (*edgeclaim.Record, error) { return nil, nil })
	noErr(t, err)
	_, err = db.ChangeTemplate(t.Context(), k.Template, func(*edgeclaim.Template) error { return nil })
	noErr(t, err)
	noErr(t, db.Ping(t.Context()))
	if commits != before {
		t.Errorf("%d commits for nothing", commits-before)
	}
}

// TestRegistryIsClosedToOthers, also one that somebody copied back.
func TestRegistryIsClosedToOthers(t *testing.T) {
	cfg := config(t)
	checkAndClose(t, open(t, cfg))
	noErr(t, os.Chmod(registry(cfg), 0o644)) //nolint:gosec // that is the fault
	open(t, cfg)
	info, err := os.Stat(registry(cfg))
	noErr(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
}
