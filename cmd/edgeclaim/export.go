package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"edgeclaim/cmd/internal/cli"
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
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" || cli.IsStdout(out) {
				_, err := a.export(cmd.Context(), a.stdout)
				return err
			}
			done := exported{File: out}
			err := cli.WriteWhole(out, func(w io.Writer) (err error) {
				done.counts, err = a.export(cmd.Context(), w)
				return err
			})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(done)
			}
			return cli.Facts(a.stdout, [2]string{"file", done.File}, [2]string{"messages", strconv.Itoa(done.Messages)},
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
