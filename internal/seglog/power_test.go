package seglog_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim/internal/seglog"
)

// A cutter remembers what a power cut would leave: of each file what was synced,
// and of what was not any part.
type cutter struct {
	t   *testing.T
	cfg seglog.Config
	log *seglog.Log

	mu     sync.Mutex
	synced map[string][]byte // by name, those of removed files too
	acked  uint64            // Ack returned
	acking uint64            // Ack was called
	left   []remains
}

// remains is a folder after a power cut, and what had been promised by then.
type remains struct {
	files         map[string][]byte
	last          uint64
	acked, acking uint64
	how           string
}

func (c *cutter) sync(f *os.File) error {
	name := f.Name()
	if _, err := os.Lstat(name); err != nil { // it has got its name meanwhile
		name = strings.TrimSuffix(name, ".new")
	}
	c.cut(name)
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.synced[strings.TrimSuffix(filepath.Base(f.Name()), ".new")] = b
	return nil
}

// cut lets the power go just before a file is synced.
func (c *cutter) cut(file string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	promised := remains{acked: c.acked, acking: c.acking}
	if c.log != nil {
		promised.last = c.log.Bounds().Last
	}
	there, err := os.ReadDir(c.cfg.Dir)
	noErr(c.t, err)
	names := map[string]bool{}
	for _, entry := range there {
		names[strings.TrimSuffix(entry.Name(), ".new")] = true
	}
	for _, how := range []string{"nothing unsynced", "all of it", "pages of it", "removed files are back"} {
		r := promised
		r.how = fmt.Sprintf("cut %d: %s", len(c.left), how)
		r.files = map[string][]byte{}
		for name, b := range c.synced {
			if names[name] || how == "removed files are back" && rand.N(2) == 0 {
				r.files[name] = b
			}
		}
		base := filepath.Base(file)
		now, err := os.ReadFile(file)
		if err == nil && !strings.HasSuffix(base, ".new") {
			switch how {
			case "all of it":
				r.files[base] = now
			case "pages of it":
				r.files[base] = mixed(c.synced[base], now)
			}
		}
		c.left = append(c.left, r)
	}
}

// mixed is now with some of its 512 byte blocks as they were before.
func mixed(before, now []byte) []byte {
	out := append([]byte(nil), now...)
	for at := 0; at < len(out); at += 512 {
		if rand.N(2) == 0 {
			block := out[at:min(at+512, len(out))]
			clear(block)
			if at < len(before) {
				copy(block, before[at:])
			}
		}
	}
	return out
}

func (c *cutter) ack(upto uint64) {
	c.mu.Lock()
	c.acking = upto
	c.mu.Unlock()
	noErr(c.t, c.log.Ack(upto, fmt.Appendf(nil, "own of %d", upto)))
	c.mu.Lock()
	c.acked = upto
	c.mu.Unlock()
}

// TestPowerCut cuts the power before each sync of a story with rotations,
// acknowledgements and drops, and starts again from what is left: all that was
// durable and is not forgotten is there, nothing has to be explained, and the
// log goes on.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.MaxBytes = 4 * cfg.SegmentBytes
	c := &cutter{t: t, cfg: cfg, synced: map[string][]byte{}}
	l, shut := open(t, cfg, seglog.Disk{Sync: c.sync})
	c.mu.Lock()
	c.log = l
	c.mu.Unlock()
	for step := range 150 {
		var texts [][]byte
		for i := range 1 + step%5 {
			texts = append(texts, []byte(payload(int(l.Bounds().Last)+1+i)))
		}
		_, commit, err := l.Append(texts...)
		noErr(t, err)
		noErr(t, wait(t, commit))
		if b := l.Bounds(); step%11 == 7 && step < 50 {
			c.ack(b.Acked + (b.Last-b.Acked)/2)
		}
		if step == 55 { // the last segment is begun anew
			c.ack(l.Bounds().Last)
		}
	}
	if b := l.Bounds(); b.Lost == 0 || b.Acked == 0 {
		t.Fatalf("the story is too short: %+v", b)
	}
	shut()
	if len(c.left) < 400 {
		t.Fatalf("%d cuts", len(c.left))
	}
	step := 1
	if testing.Short() {
		step = 7 // another of the four ways each time
	}
	for i := 0; i < len(c.left); i += step {
		checkRemains(t, cfg, c.left[i])
	}
}

func checkRemains(t *testing.T, cfg seglog.Config, r remains) {
	t.Helper()
	cfg.Dir = t.TempDir()
	for name, b := range maps.All(r.files) {
		noErr(t, os.WriteFile(filepath.Join(cfg.Dir, name), b, 0o600))
	}
	l, shut := open(t, cfg, seglog.Disk{Sync: func(*os.File) error { return nil }})
	b := l.Bounds()
	if b.Last < r.last || b.Acked < r.acked || b.Acked > r.acking {
		t.Fatalf("%s: %+v is left, promised were %d, acknowledged %d to %d", r.how, b, r.last, r.acked, r.acking)
	}
	if own := string(l.Own()); b.Acked > 0 && own != fmt.Sprintf("own of %d", b.Acked) {
		t.Fatalf("%s: acked is %d, own %q", r.how, b.Acked, own)
	}
	for _, e := range all(t, l, 0) {
		if e.Damaged && e.Place-e.Lost < r.last {
			t.Fatalf("%s: %+v is told, %d was durable", r.how, e, r.last)
		}
	}
	holds(t, l, b.Acked, b.Last)
	put(t, l, payload(int(b.Last)+1))
	holds(t, l, b.Acked, b.Last+1)
	shut()
}

// TestOpenSyncs: what a killed process wrote is read from the kernel's memory;
// Open makes it durable before anybody hears of it.
func TestOpenSyncs(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l, shut := open(t, cfg)
	fill(t, l, 60)
	noErr(t, l.Ack(10, nil))
	shut()
	var did []string
	note := func(what string, f *os.File) { did = append(did, what+" "+filepath.Base(f.Name())) }
	l, err := seglog.OpenOn(cfg, seglog.Disk{
		Write: func(f *os.File, b []byte, off int64) (int, error) { note("write", f); return f.WriteAt(b, off) },
		Sync:  func(f *os.File) error { note("sync", f); return f.Sync() },
		Names: func(f *os.File) error { note("names", f); return f.Sync() },
	})
	noErr(t, err)
	defer l.Close()
	files := segmentFiles(t, cfg)
	last := filepath.Base(files[len(files)-1])
	// The marks' pages may pass for written after a sync that failed: once more.
	want := []string{"sync marks", "write marks", "sync marks", "sync " + last, "names log"}
	if diff := cmp.Diff(want, did); diff != "" {
		t.Error(diff)
	}
}
