package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"edgeclaim"
	"edgeclaim/store"
)

// tmpfs mounts a small file system, or skips the test where that is refused.
func tmpfs(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("no small file system to fill: mount: %v (it takes root)", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// TestFullDisk fills the disk under the store: claims are refused as
// unavailable, nothing that was acknowledged is lost, reading goes on, and so
// do claims when there is room again.
func TestFullDisk(t *testing.T) {
	cfg := config(t)
	cfg.Dir = filepath.Join(tmpfs(t, 4<<20), "data")
	db := open(t, cfg)
	k := stock(t, db)
	ballast := filepath.Join(filepath.Dir(cfg.Dir), "ballast")
	noErr(t, os.WriteFile(ballast, make([]byte, 1<<20), 0o600))

	stored, err := claimUntilRefused(t, db, k, 0)
	wantErr(t, err, edgeclaim.ErrUnavailable)
	wantErr(t, err, unix.ENOSPC)
	for range 10 { // it stays so, and stays up
		wantErr(t, claim(t, db, k, "one-more"), edgeclaim.ErrUnavailable)
	}
	if db.Err() != nil {
		t.Fatalf("a full disk is fatal: %v", db.Err())
	}
	holds(t, db, stored)

	noErr(t, os.Remove(ballast))
	noErr(t, claim(t, db, k, "one-more"))
	holds(t, db, stored)
	checkAndClose(t, db)

	db = open(t, cfg)
	noErr(t, claim(t, db, k, "after-reopen"))
	if n, err := db.Count(t.Context()); err != nil || n != uint64(stored+2) {
		t.Fatalf("count is %d, %v, want %d", n, err, stored+2)
	}
}

// TestFullFile is the same with the limit of the file's own size.
func TestFullFile(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 64 MiB")
	}
	cfg := config(t)
	cfg.MaxBytes = 64 << 20
	db := open(t, cfg)
	k := stock(t, db)
	stored, err := claimUntilRefused(t, db, k, 3000)
	wantErr(t, err, edgeclaim.ErrUnavailable)
	if size := db.Info().Bytes; db.Err() != nil || size > cfg.MaxBytes {
		t.Fatalf("the store says %v and has %d bytes", db.Err(), size)
	}
	holds(t, db, stored)
	// What upstream takes makes room.
	noErr(t, db.Ack(t.Context(), at(db, edgeclaim.LaneProv, uint64(stored)/2)))
	noErr(t, claim(t, db, k, "one-more"))
}

// claimUntilRefused returns how many claims of boards from 0 succeeded.
func claimUntilRefused(t *testing.T, db *store.DB, k edgeclaim.Key, padding int) (int, error) {
	t.Helper()
	for n := 0; ; n++ {
		ref := refer(t, k, board(n))
		err := db.Mint(t.Context(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
			m, err := mint(ref)(p)
			if err == nil {
				m.Record.Data = append(m.Record.Data, make([]byte, padding)...)
			}
			return m, err
		})
		if err != nil {
			return n, err
		}
		if n > 1_000_000 {
			return n, errors.New("never full")
		}
	}
}

// holds makes sure that boards 0 to count are there and no other.
func holds(t *testing.T, db *store.DB, count int) {
	t.Helper()
	for n := range count {
		if _, err := holder(db, board(n)); err != nil {
			t.Fatalf("claim %d of %d: %v", n, count, err)
		}
	}
	_, err := holder(db, board(count))
	wantErr(t, err, edgeclaim.ErrNotFound)
	noErr(t, db.Check(t.Context()))
}
