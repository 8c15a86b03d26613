package main

import (
	"context"
	"crypto/ed25519"
	"crypto/hpke"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// identity is a hub's database with the keys that belong to it.
type identity struct {
	db   *registry.DB
	sign ed25519.PrivateKey
	seal hpke.PrivateKey
}

// addNewKey gives a command the flag --new-key.
func addNewKey(c *cobra.Command, newKey *bool) {
	c.Flags().BoolVar(newKey, "new-key", false,
		"sign with the data folder's hub.key from now on, though the database knows another; every box has to be enrolled anew")
}

// openIdentity opens the database and the keys, and makes what is missing. The
// database remembers whose it is: boxes take nothing that another key has
// signed, so a wrong data folder is an error, unless newKey says that it is meant.
func openIdentity(ctx context.Context, s *settings, newKey bool, logger *slog.Logger) (hubs identity, err error) {
	db, err := openRegistry(ctx, s, logger)
	if err != nil {
		return identity{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	known, err := db.SigningKey(ctx)
	if err != nil {
		return identity{}, err
	}
	path := filepath.Join(s.Data, hub.KeyFile)
	if known != "" && !newKey && !hub.HasKey(s.Data, hub.KeyFile) {
		return identity{}, wrongFolder(known, fmt.Sprintf("there is no %s", path))
	}
	hubs.db = db
	if hubs.sign, err = hub.LoadKey(s.Data); err != nil {
		return identity{}, err
	}
	public, _ := hubs.sign.Public().(ed25519.PublicKey) // always: crypto/ed25519 says so
	own := wire.KeyName(public)
	if known != "" && known != own && !newKey {
		return identity{}, wrongFolder(known, fmt.Sprintf("%s is %s", path, own))
	}
	if err = db.BindKey(ctx, own, newKey); err != nil {
		return identity{}, err
	}
	hubs.seal, err = hub.LoadSealKey(s.Data)
	return hubs, err
}

func wrongFolder(known, found string) error {
	return fmt.Errorf("the boxes of this database trust the key %s, and %s: give --data with the folder of the hub that serves it, "+
		"or restore %s from the backup; `edgehub enrolment --new-key` starts over with another key, and every box has to be enrolled anew",
		known, found, hub.KeyFile)
}

// lockFile is what a running hub holds in its data folder.
const lockFile = "edgehub.lock"

// lock takes the data folder for a running hub: a second one would take the
// broker's connection from the first, and lose it again, for ever. Commands
// beside it need no lock. It is the kernel's, and ends with the process.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		err = fmt.Errorf("lock %s: %w", file.Name(), err)
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another edgehub serves %s", dir)
		}
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
