package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/signeddoc"
)

const (
	// publicSuffix ends the name of the file with a key's public half. The two
	// halves are spelled alike, and the private one must never get to the hub.
	publicSuffix = ".pub"
	// maxKeyFile is the longest file with a key that is read, in bytes.
	maxKeyFile = 4096
)

// readKeyFile reads a file with a private key, which nobody else may read.
// Errors do not repeat what is in it (P5).
func readKeyFile(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, cli.Usagef("--key: %v", err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode %04o lets others read it, want 0600", path, info.Mode().Perm())
	}
	text, err := readShort(path)
	if err != nil {
		return nil, cli.Usagef("--key: %v", err)
	}
	key, err := signeddoc.ParsePrivate(text)
	if err != nil {
		return nil, cli.Usagef("--key: %s: not a key of `edgehub sign --new-key`", path)
	}
	return key, nil
}

// readPublicKey reads what --document-key means: a public key, or a file with
// one.
func readPublicKey(flag, text string) (ed25519.PublicKey, error) {
	if key, err := signeddoc.ParsePublic(text); err == nil {
		return key, nil
	}
	if !strings.HasSuffix(text, publicSuffix) {
		return nil, cli.Usagef("%s: want a public key, or a file *%s with one: both of `edgehub sign --new-key`", flag, publicSuffix)
	}
	read, err := readShort(text)
	if err != nil {
		return nil, cli.Usagef("%s: %v", flag, err)
	}
	key, err := signeddoc.ParsePublic(strings.TrimSpace(read))
	if err != nil {
		return nil, cli.Usagef("%s: %s: not a public key", flag, text)
	}
	return key, nil
}

func readShort(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	return string(text), err
}

// makeKey writes a new key and its public half beside it, and replaces neither:
// a key that is gone signs nothing more for any box.
func makeKey(path string) (ed25519.PublicKey, error) {
	for _, name := range []string{path, path + publicSuffix} {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: there is one already", name)
		}
	}
	key := signeddoc.NewKey()
	public := publicOf(key)
	if err := writeNew(path, signeddoc.EncodePrivate(key), 0o600); err != nil {
		return nil, err
	}
	if err := writeNew(path+publicSuffix, signeddoc.EncodePublic(public), 0o644); err != nil {
		return nil, err
	}
	return public, nil
}

// writeNew makes a file that is not there yet; nil means that it is on the disk.
func writeNew(path, text string, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.WriteString(strings.TrimSuffix(text, "\n") + "\n")
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey {
	public, _ := key.Public().(ed25519.PublicKey) // always: crypto/ed25519 says so
	return public
}
