package hub_test

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/wire"
)

// Whoever comes first makes the key, and all get the same.
func TestLoadKeyMakesOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	keys := make([]ed25519.PrivateKey, 20)
	var group errgroup.Group
	for i := range keys {
		group.Go(func() (err error) {
			keys[i], err = hub.LoadKey(dir)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if !key.Equal(keys[0]) || len(key) != ed25519.PrivateKeySize {
			t.Fatal("not one key")
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, hub.KeyFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v; %v", path, info.Mode(), want, err)
		}
	}
}

// A key that is there is never replaced: the boxes trust it.
func TestLoadKeyRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"empty":       {"", 0o600},
		"cut short":   {"AAAA\n", 0o600},
		"no base64":   {"not a key at all, and 43 characters long, is it\n", 0o600},
		"for all":     {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", 0o644},
		"for a group": {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", 0o640},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, hub.KeyFile)
		if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := hub.LoadKey(dir); err == nil {
			t.Errorf("%s: taken", name)
		} else if bytes.Contains([]byte(err.Error()), []byte("AAAA")) {
			t.Errorf("%s: the error repeats the key: %v", name, err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != c.text {
			t.Errorf("%s: changed to %q, %v", name, text, err)
		}
	}
}

// What a box is told fits what it checks.
func TestEnrolment(t *testing.T) {
	key, err := hub.LoadKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := wire.Encode(hub.Enrolment("SOMEHUB", key))
	if err != nil {
		t.Fatal(err)
	}
	e, public, err := wire.DecodeEnrolment(text)
	if err != nil || e.Upstream != "SOMEHUB" || !public.Equal(key.Public()) {
		t.Errorf("%+v, %v", e, err)
	}
}
