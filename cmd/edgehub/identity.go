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

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// identity is a hub's database with the keys that belong to it.
type identity struct {
	db   *registry.DB
	sign ed25519.PrivateKey
	seal hpke.PrivateKey
	// document is the key that documents are signed by, nil for none.
	document ed25519.PublicKey
}

// anew is what may take the place of what the database knows.
type anew struct{ sign, document bool }

// addAnew gives a command the flags --new-key and --new-document-key.
func addAnew(c *cobra.Command, start *anew) {
	c.Flags().BoolVar(&start.sign, "new-key", false,
		"sign with the data folder's hub.key from now on, though the database knows another; every box has to be enrolled anew")
	c.Flags().BoolVar(&start.document, "new-document-key", false,
		"documents are signed by --document-key from now on, though the database knows another; every box has to be enrolled anew")
}

// openIdentity opens the database and the keys, and makes what is missing. The
// database remembers whose it is: boxes take nothing that another key has
// signed, so a wrong data folder is an error, unless start says that it is meant.
func openIdentity(ctx context.Context, s *settings, start anew, logger *slog.Logger) (hubs identity, err error) {
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
	if known != "" && !start.sign && !hub.HasKey(s.Data, hub.KeyFile) {
		return identity{}, wrongFolder(known, fmt.Sprintf("there is no %s", path))
	}
	hubs.db = db
	if hubs.sign, err = hub.LoadKey(s.Data); err != nil {
		return identity{}, err
	}
	own := wire.KeyName(publicOf(hubs.sign))
	if known != "" && known != own && !start.sign {
		return identity{}, wrongFolder(known, fmt.Sprintf("%s is %s", path, own))
	}
	if err = db.BindKey(ctx, own, start.sign); err != nil {
		return identity{}, err
	}
	if hubs.seal, err = hub.LoadSealKey(s.Data); err != nil {
		return identity{}, err
	}
	hubs.document, err = bindDocumentKey(ctx, db, s, publicOf(hubs.sign), start.document)
	return hubs, err
}

// bindDocumentKey notes the key that documents are signed by, where one is given,
// and returns what the database knows. It is another than the hub's: whoever gets
// at a hub must not rule its boxes.
func bindDocumentKey(ctx context.Context, db *registry.DB, s *settings, own ed25519.PublicKey, replace bool) (ed25519.PublicKey, error) {
	if s.DocumentKey == "" {
		if replace {
			return nil, cli.Usagef("--new-document-key: want --document-key as well")
		}
		return db.DocumentKey(ctx)
	}
	key, err := readPublicKey("document_key", s.DocumentKey)
	if err != nil {
		return nil, err
	}
	if key.Equal(own) {
		return nil, cli.Usagef("document_key: the hub's own key; documents are signed by one that is kept elsewhere")
	}
	err = db.BindDocumentKey(ctx, key, replace)
	if errors.Is(err, edgeclaim.ErrConflict) {
		err = fmt.Errorf("%w; `edgehub enrolment --new-document-key` starts over with it: every box has to be enrolled anew, "+
			"and every document signed and published anew", err)
	}
	return key, err
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
