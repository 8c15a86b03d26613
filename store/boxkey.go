package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"edgeclaim"
)

const (
	boxKeyFile = "box.key"
	boxKeySize = 32
)

// BoxKey returns the 32 bytes without which no credential can be derived again.
// They lie in a file beside the registry and not in it, so that a copy of the
// registry alone says no secret.
func (db *DB) BoxKey() edgeclaim.Secret { return db.boxKey }

// loadBoxKey reads the box key, or makes one, durably, where there is none. A
// damaged one is an error: a new one in its place would silently take the
// answers from all devices that have not heard theirs.
func loadBoxKey(dir string) (key edgeclaim.Secret, fresh bool, err error) {
	name := filepath.Join(dir, boxKeyFile)
	raw, err := os.ReadFile(name) //nolint:gosec // the operator's own data folder
	switch {
	case errors.Is(err, fs.ErrNotExist):
		made := make([]byte, boxKeySize)
		_, _ = rand.Read(made) // never fails: crypto/rand ends the process instead
		return edgeclaim.NewSecret(string(made)), true, writeWhole(name, string(made))
	case err != nil:
		return key, false, err
	case len(raw) != boxKeySize:
		return key, false, fmt.Errorf("%s has %d bytes, want %d: put a copy of it back, or remove it: "+
			"devices that have not logged in yet then have to be released to claim again", name, len(raw), boxKeySize)
	}
	// Copied back by hand, it may be open to others (P5).
	return edgeclaim.NewSecret(string(raw)), false, os.Chmod(name, 0o600)
}
