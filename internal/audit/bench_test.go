package audit_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"edgeclaim/internal/audit"
)

// BenchmarkAdd is what an entry costs the one who hands it over, while Run
// writes; peer=append is the same bytes written to a file, with no fsync.
func BenchmarkAdd(b *testing.B) {
	e := minted(1)
	e.Key, e.Template, e.Tenant = e.Device, e.Device, e.Device
	b.Run("peer=append", func(b *testing.B) {
		f, line := bare(b)
		for b.Loop() {
			_, err := f.Write(line)
			noErr(b, err)
		}
	})
	b.Run("log=audit", func(b *testing.B) {
		l, err := audit.Open(audit.Config{Dir: b.TempDir(), SyncEvery: 10 * time.Millisecond})
		noErr(b, err)
		stop := run(b, l)
		b.ReportAllocs()
		for b.Loop() {
			l.Add(e)
		}
		stop()
	})
}

// BenchmarkMust is a durable entry; peer=append+fsync is a bare write and fsync
// of the same bytes, without a hash, an order or a quota.
func BenchmarkMust(b *testing.B) {
	b.Run("peer=append+fsync/callers=1", func(b *testing.B) {
		f, line := bare(b)
		for b.Loop() {
			_, err := f.Write(line)
			noErr(b, err)
			noErr(b, f.Sync())
		}
	})
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("log=audit/callers=%d", callers), func(b *testing.B) {
			l, err := audit.Open(audit.Config{Dir: b.TempDir()})
			noErr(b, err)
			stop := run(b, l)
			b.SetParallelism(callers / 2)
			if callers == 1 {
				for b.Loop() {
					noErr(b, l.Must(context.Background(), minted(1)))
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						noErr(b, l.Must(context.Background(), minted(1)))
					}
				})
			}
			stop()
		})
	}
}

// BenchmarkRead is Verify and Open over 64 MiB in 8 segments: Open reads one.
func BenchmarkRead(b *testing.B) {
	if testing.Short() {
		b.Skip("writes 64 MiB")
	}
	cfg := audit.Config{Dir: b.TempDir(), SyncEvery: time.Millisecond}
	l, err := audit.Open(cfg)
	noErr(b, err)
	for n := range 160_000 {
		l.Add(minted(n))
		if n%4000 == 0 {
			l.WorkNow()
		}
	}
	noErr(b, l.Close())
	b.Run("op=verify", func(b *testing.B) {
		for b.Loop() {
			r, err := audit.Verify(cfg.Dir, nil)
			noErr(b, err)
			b.ReportMetric(float64(r.Entries), "entries")
		}
	})
	b.Run("op=open", func(b *testing.B) {
		for b.Loop() {
			l, err := audit.Open(cfg)
			noErr(b, err)
			noErr(b, l.Close())
		}
	})
}

// bare is a file, and a line of the usual length.
func bare(b *testing.B) (*os.File, []byte) {
	b.Helper()
	f, err := os.OpenFile(filepath.Join(b.TempDir(), "bare"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	noErr(b, err)
	b.Cleanup(func() { noErr(b, f.Close()) })
	return f, append(bytes.Repeat([]byte("x"), 480), '\n')
}
