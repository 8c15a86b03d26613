package seglog_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"edgeclaim"
	"edgeclaim/internal/seglog"
)

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*seglog.Config){
		"no folder":     func(c *seglog.Config) { c.Dir = "" },
		"small segment": func(c *seglog.Config) { c.SegmentBytes = seglog.MinSegmentBytes - 1 },
		"small quota":   func(c *seglog.Config) { c.MaxBytes = 2*c.SegmentBytes - 1 },
		"unsynced":      func(c *seglog.Config) { c.MaxUnsynced = -1 },
		"reserve":       func(c *seglog.Config) { c.Reserve = -1 },
	} {
		cfg := config(t)
		change(&cfg)
		if _, err := seglog.Open(cfg); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestModes: what is told of devices is nobody else's.
func TestModes(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l, _ := open(t, cfg)
	fill(t, l, 100)
	noErr(t, l.Ack(50, []byte("own")))
	noErr(t, filepath.WalkDir(cfg.Dir, func(path string, d os.DirEntry, err error) error {
		noErr(t, err)
		info, err := d.Info()
		noErr(t, err)
		want := os.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, info.Mode().Perm())
		}
		return nil
	}))
}
