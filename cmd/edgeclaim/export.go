package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
)

func (a *app) outboxExportCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "export", Short: "Write what waits into a file for a stick",
		Long: `Write a hello and all records that wait, one message a line, to standard output or
into a file, which is there whole or not at all. "edgehub ingest" reads it upstream
and writes an ack; "edgeclaim outbox ack" reads that here. Until then nothing leaves
the outbox: the file may be lost, or ingested twice. No upstream need be configured.

The file names devices and holds the hashes of their credentials. Its mode is 0600.`,
		Example: `  edgeclaim outbox export --out /media/stick/up.ndjson
  edgeclaim outbox export | gzip > up.ndjson.gz`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" || out == "-" {
				_, err := a.export(cmd.Context(), a.stdout)
				return err
			}
			done := exported{File: out}
			err := writeWhole(out, func(w io.Writer) (err error) {
				done.counts, err = a.export(cmd.Context(), w)
				return err
			})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(done)
			}
			return facts(a.stdout, [2]string{"file", done.File}, [2]string{"messages", strconv.Itoa(done.Messages)},
				[2]string{"bytes", strconv.FormatInt(done.Bytes, 10)})
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write (default standard output)")
	return c
}

// exported says what an export wrote.
type exported struct {
	File string `json:"file"`
	counts
}

// export copies an export to w and fails unless it came whole.
func (a *app) export(ctx context.Context, w io.Writer) (counts, error) {
	body, err := newSlowClient(a.dir()).open(ctx, request{http.MethodGet, outboxPath + "/export", nil})
	if err != nil {
		return counts{}, err
	}
	defer body.Close() //nolint:errcheck // only read
	counting := counter{w: w}
	if _, err := io.Copy(&counting, body); err != nil {
		return counting.counts, fmt.Errorf("the export is not whole: %w", err)
	}
	return counting.counts, nil
}

// counts are what went through a counter.
type counts struct {
	Messages int   `json:"messages"` // lines
	Bytes    int64 `json:"bytes"`
}

type counter struct {
	w io.Writer
	counts
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.Bytes += int64(n)
	for _, b := range p[:n] {
		if b == '\n' {
			c.Messages++
		}
	}
	return n, err
}

// writeWhole makes the file at path, mode 0600, with what write writes: on an
// error, what was there before stays. Nil means that it is on the disk, so that
// a stick may be pulled.
func writeWhole(path string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	if err := errors.Join(write(file), file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return nil // it is there; what a folder's fsync would add cannot be had
	}
	defer folder.Close() //nolint:errcheck // only read
	_ = folder.Sync()    // not every file system of a stick knows it
	return nil
}
