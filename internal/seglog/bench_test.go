package seglog_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"edgeclaim/internal/seglog"
)

// BenchmarkAppend appends entries of 100 bytes from goroutines that each wait
// until theirs is durable; peer=bare is one goroutine that writes and syncs as
// many bytes in one file, as many at a time as there are goroutines.
func BenchmarkAppend(b *testing.B) {
	payload := bytes.Repeat([]byte("p"), 100)
	for _, callers := range []int{1, 50} {
		b.Run(fmt.Sprintf("peer=bare/callers=%d", callers), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "bare"))
			noErr(b, err)
			defer f.Close()
			group := bytes.Repeat(payload, callers)
			for n := 0; n < b.N; n += callers {
				if _, err := f.Write(group); err != nil {
					b.Fatal(err)
				}
				noErr(b, unix.Fdatasync(int(f.Fd())))
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
		b.Run(fmt.Sprintf("peer=log/callers=%d", callers), func(b *testing.B) {
			l, _ := open(b, seglog.Config{Dir: filepath.Join(b.TempDir(), "log")})
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for caller := range callers {
				wg.Go(func() {
					for n := caller; n < b.N; n += callers {
						_, c, err := l.Append(payload)
						if err == nil {
							err = c.Wait(context.Background())
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkAppendOnly is what an Append costs its caller.
func BenchmarkAppendOnly(b *testing.B) {
	l, _ := open(b, seglog.Config{Dir: filepath.Join(b.TempDir(), "log"), MaxBytes: 64 << 20})
	payload := bytes.Repeat([]byte("p"), 100)
	b.ReportAllocs()
	for b.Loop() {
		_, c, err := l.Append(payload)
		if err != nil { // the disk is behind
			_, c, err = l.Append()
			noErr(b, err)
		}
		_ = c
	}
}

// stocked returns a log with so many entries of 60 bytes.
func stocked(t testing.TB, entries int) seglog.Config {
	t.Helper()
	cfg := seglog.Config{Dir: filepath.Join(t.TempDir(), "log"), MaxBytes: 4 << 30}
	l, shut := open(t, cfg)
	batch := make([][]byte, 1000)
	for i := range batch {
		batch[i] = bytes.Repeat([]byte("e"), 60)
	}
	for range entries / len(batch) {
		_, c, err := l.Append(batch...)
		noErr(t, err)
		noErr(t, wait(t, c))
	}
	shut()
	return cfg
}

// BenchmarkOpen starts with a backlog.
func BenchmarkOpen(b *testing.B) {
	for _, entries := range []int{1000, 5_000_000} {
		b.Run(fmt.Sprintf("entries=%d", entries), func(b *testing.B) {
			cfg := stocked(b, entries)
			for b.Loop() {
				l, err := seglog.Open(cfg)
				noErr(b, err)
				if last := l.Bounds().Last; last != uint64(entries) {
					b.Fatalf("the last is %d", last)
				}
				noErr(b, l.Close())
			}
		})
	}
}

// BenchmarkRead reads a backlog in pieces, as the bridge does, and single entries
// anywhere in it.
func BenchmarkRead(b *testing.B) {
	const entries = 1_000_000
	l, err := seglog.Open(stocked(b, entries))
	noErr(b, err)
	defer l.Close()
	b.Run("pieces=256", func(b *testing.B) {
		after := uint64(0)
		for b.Loop() {
			got, err := l.Read(after, 256, 1<<20)
			noErr(b, err)
			if after = got[len(got)-1].Place; after >= entries-256 {
				after = 0
			}
		}
		b.ReportMetric(256*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	})
	b.Run("pieces=1", func(b *testing.B) {
		at := uint64(1)
		for b.Loop() {
			at = at*6364136223846793005 + 1442695040888963407
			if _, err := l.Read(at>>33%entries, 1, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestBacklogCostsNoStart: with five million entries Open is done within a
// second, in a memory that does not depend on them (P7).
func TestBacklogCostsNoStart(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 340 MB")
	}
	cfg := stocked(t, 5_000_000)
	began := time.Now()
	allocated := testing.AllocsPerRun(1, func() {
		l, err := seglog.Open(cfg)
		noErr(t, err)
		if b := l.Bounds(); b.Last != 5_000_000 || b.Dropped > 0 {
			t.Fatalf("the bounds are %+v", b)
		}
		noErr(t, l.Close())
	})
	if allocated > 2000 {
		t.Errorf("Open allocates %v times", allocated)
	}
	t.Logf("two starts in %v, %v allocations each", time.Since(began), allocated)
}
