package hub

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"edgeclaim/bridge/wire"
)

// KeyFile is the signing key's file in the data folder: the base64url of the
// Ed25519 seed's 32 bytes, and a line feed. Boxes trust who holds it, so it is
// backed up beside the registry, and mode 0600.
const KeyFile = "hub.key"

// LoadKey reads the signing key of a data folder, and makes both where they
// are missing: the folder with mode 0700, the file whole or not at all. Of two
// that do so at once, both get the one key. A file that is damaged, or open to
// others, is an error, and never replaced: the boxes trust the key in it.
func LoadKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, KeyFile)
	key, err := readKey(path)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if err := makeKey(dir, path); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return readKey(path)
}

func readKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if open := info.Mode().Perm() & 0o077; open != 0 {
		return nil, fmt.Errorf("signing key: %s: mode %04o lets others read it, want 0600", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	seed, err := base64.RawURLEncoding.DecodeString(strings.TrimSuffix(string(text), "\n"))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("signing key: %s: not a key; restore it from the backup", path)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// makeKey writes a new key under a name of its own, and gives it the right one
// when it is on the disk, unless there is one by then (os.ErrExist).
func makeKey(dir, path string) (err error) {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // crypto/rand: it never returns an error
	f, err := os.CreateTemp(dir, KeyFile+".*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.WriteString(base64.RawURLEncoding.EncodeToString(seed) + "\n")
	if err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // fails where there is one
		return err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Enrolment is what a box is told of this hub, for `edgeclaim enroll`.
func Enrolment(upstream string, key ed25519.PrivateKey) wire.Enrolment {
	public, _ := key.Public().(ed25519.PublicKey) // always: crypto/ed25519 says so
	return wire.Enrolment{
		Type: wire.EnrolmentType, Upstream: upstream, Key: base64.RawURLEncoding.EncodeToString(public),
	}
}
