package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"edgeclaim/bridge/hub/registry"

	"github.com/spf13/cobra"
)

// openTimeout bounds how long a command waits for the database to answer.
const openTimeout = 20 * time.Second

// openRegistry opens the database, and makes what is missing. Errors say
// nothing of the URL, which may hold a password (P5).
func openRegistry(ctx context.Context, s *settings, logger *slog.Logger) (*registry.DB, error) {
	conf, err := s.registryConfig(logger)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	db, err := registry.Open(ctx, conf)
	if why := unreachable(err); why != nil {
		return nil, &unreachableError{fmt.Errorf("the database does not answer: %w", why)}
	}
	return db, err
}

// unreachable is the network's part of an error, nil for none: the driver says
// the same of each way that it tried.
func unreachable(err error) error {
	if failed, ok := errors.AsType[*net.OpError](err); ok {
		return failed
	}
	if failed, ok := errors.AsType[*net.DNSError](err); ok {
		return failed
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return syscall.ECONNREFUSED
	}
	return nil
}

// withRegistry calls do with the database of a hub that ran before. A file that
// is not there is no hub's.
func (a *app) withRegistry(cmd *cobra.Command, do func(context.Context, *registry.DB) error) error {
	s, err := a.settings(cmd)
	if err != nil {
		return err
	}
	if path := sqliteFile(&s); path != "" {
		if _, err := os.Stat(path); err != nil {
			return &unreachableError{fmt.Errorf("no hub's database: %w (make one with: edgehub serve --data %s)", err, s.Data)}
		}
	}
	db, err := openRegistry(cmd.Context(), &s, nil)
	if err != nil {
		return err
	}
	return errors.Join(do(cmd.Context(), db), db.Close())
}

// sqliteFile is the database's file; empty where it is not SQLite.
func sqliteFile(s *settings) string {
	if s.Database == "" {
		return filepath.Join(s.Data, registry.FileName)
	}
	path, ok := strings.CutPrefix(s.Database, "sqlite:")
	if !ok {
		return ""
	}
	return strings.TrimPrefix(path, "//")
}
