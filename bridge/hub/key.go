package hub

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mint"
)

// KeyFile is the signing key's file in the data folder: the base64url of the
// Ed25519 seed's 32 bytes, and a line feed. Boxes trust who holds it, so it is
// backed up beside the registry, and mode 0600.
const KeyFile = "hub.key"

// SealKeyFile is the file of the key that PSKs are sealed for on their way up,
// spelled likewise: an X25519 private key. Who holds it and the registry reads
// the PSKs of all devices.
const SealKeyFile = "seal.key"

// keySize is how long both keys are, in bytes.
const keySize = 32

// keyFile is a file with a key, and what it is to people.
type keyFile struct{ name, what string }

func signing() keyFile { return keyFile{KeyFile, "signing key"} }
func sealing() keyFile { return keyFile{SealKeyFile, "sealing key"} }

// LoadKey reads the signing key of a data folder, and makes both where they
// are missing: the folder with mode 0700, the file whole or not at all. Of two
// that do so at once, both get the one key. A file that is damaged, or open to
// others, is an error, and never replaced: the boxes trust the key in it.
func LoadKey(dir string) (ed25519.PrivateKey, error) {
	seed, err := signing().load(dir)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// LoadSealKey reads the sealing key of a data folder, in LoadKey's manner.
func LoadSealKey(dir string) (hpke.PrivateKey, error) {
	raw, err := sealing().load(dir)
	if err != nil {
		return nil, err
	}
	return mint.ParseOpener(raw)
}

// HasKey reports whether a data folder has KeyFile, or SealKeyFile.
func HasKey(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return !errors.Is(err, os.ErrNotExist)
}

func (k keyFile) load(dir string) ([]byte, error) {
	path := filepath.Join(dir, k.name)
	key, err := k.read(path)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%s: %w", k.what, err)
	}
	if err := k.create(dir, path); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s: %w", k.what, err)
	}
	return k.read(path)
}

func (k keyFile) read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.what, err)
	}
	if open := info.Mode().Perm() & 0o077; open != 0 {
		return nil, fmt.Errorf("%s: %s: mode %04o lets others read it, want 0600", k.what, path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.what, err)
	}
	key, err := base64.RawURLEncoding.DecodeString(strings.TrimSuffix(string(text), "\n"))
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("%s: %s: not a key; restore it from the backup", k.what, path)
	}
	return key, nil
}

// create writes a new key under a name of its own, and gives it the right one
// when it is on the disk, unless there is one by then (os.ErrExist). Any 32
// bytes are a key of either kind.
func (k keyFile) create(dir, path string) (err error) {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // crypto/rand: it never returns an error
	f, err := os.CreateTemp(dir, k.name+".*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.WriteString(base64.RawURLEncoding.EncodeToString(key) + "\n")
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

// Enrolment is what a box is told of this hub, for `edgeclaim enroll`. document is
// the public key of the registry's DocumentKey; with nil, the box takes no documents.
func Enrolment(upstream string, key ed25519.PrivateKey, seal hpke.PublicKey, document ed25519.PublicKey) wire.Enrolment {
	public, _ := key.Public().(ed25519.PublicKey) // always: crypto/ed25519 says so
	return wire.Enrolment{
		Type: wire.EnrolmentType, Upstream: upstream, Key: base64.RawURLEncoding.EncodeToString(public),
		SealKey: base64.RawURLEncoding.EncodeToString(seal.Bytes()), DocumentKey: base64.RawURLEncoding.EncodeToString(document),
	}
}

// ErrOtherSealKey: a PSK that was sealed for another key than the hub's.
var ErrOtherSealKey = errors.New("sealed for another key")

// Unseal decrypts a PSK that a box told. ErrOtherSealKey: the hub had another
// key when the box was enrolled.
func Unseal(key hpke.PrivateKey, device edgeclaim.DeviceID, s *registry.Sealed) (edgeclaim.Secret, error) {
	psk, err := mint.OpenPSK(key, s.Box, device, s.Hash, s.Value)
	if own := mint.KeyID(key.PublicKey()); err != nil && s.KeyID != own {
		return psk, fmt.Errorf("%w (%s, this is %s)", ErrOtherSealKey, s.KeyID, own)
	}
	return psk, err
}
