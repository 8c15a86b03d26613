package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"edgeclaim/cmd/internal/cli"
)

// printJSON prints a document that this program made.
func (a *app) printJSON(v any) error {
	return json.NewEncoder(a.stdout).Encode(v)
}

// show calls the box and prints the one thing it answers: the document as it
// came with --json, else by print.
func show[T any](ctx context.Context, a *app, ask request, print func(T) error) error {
	return showFrom(ctx, a, newClient(a.dir()), ask, print)
}

// showSlow is show for what may take long.
func showSlow[T any](ctx context.Context, a *app, ask request, print func(T) error) error {
	return showFrom(ctx, a, newSlowClient(a.dir()), ask, print)
}

func showFrom[T any](ctx context.Context, a *app, c *client, ask request, print func(T) error) error {
	document, err := c.call(ctx, ask)
	if err != nil {
		return err
	}
	if a.json {
		_, err := fmt.Fprintf(a.stdout, "%s\n", bytes.TrimSpace(document))
		return err
	}
	var v T
	if err := json.Unmarshal(document, &v); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return print(v)
}

// list prints a JSON array that the box streams, without ever holding it: the
// array as it came with --json, else a row for each.
func list[T any](ctx context.Context, a *app, path string, head []string, row func(T) []string) error {
	body, err := newClient(a.dir()).open(ctx, request{http.MethodGet, path, nil})
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // only read
	if a.json {
		return copyLine(a.stdout, body)
	}
	t := cli.NewTable(a.stdout, head...)
	if err := each(body, func(v T) { t.Row(row(v)...) }); err != nil {
		return err
	}
	return t.End()
}

// copyLine copies a document and ends it with one line feed.
func copyLine(w io.Writer, r io.Reader) error {
	last := &lastByte{w: w}
	if _, err := io.Copy(last, r); err != nil {
		return fmt.Errorf("reading the list: %w", err)
	}
	if last.b == '\n' {
		return nil
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// lastByte remembers the last byte written.
type lastByte struct {
	w io.Writer
	b byte
}

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.b = p[len(p)-1]
	}
	return l.w.Write(p)
}

// each decodes a JSON array one element at a time.
func each[T any](r io.Reader, do func(T)) error {
	decoder := json.NewDecoder(r)
	if _, err := decoder.Token(); err != nil {
		return fmt.Errorf("reading the list: %w", err)
	}
	for decoder.More() {
		var v T
		if err := decoder.Decode(&v); err != nil {
			return fmt.Errorf("reading the list: %w", err)
		}
		do(v)
	}
	if _, err := decoder.Token(); err != nil {
		return fmt.Errorf("reading the list: %w", err) // cut off in the middle
	}
	return nil
}
