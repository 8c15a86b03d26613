// Package cli is what the programs' command lines have in common: exit codes,
// usage errors, tables, configuration files, and the word on how a program was
// built.
package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// The exit codes. They are part of the command lines' contract
// (docs/operations.md): scripts branch on them.
const (
	ExitOK          = 0
	ExitFailed      = 1 // it went wrong, or there is no such thing
	ExitUsage       = 2 // the command line or the configuration is wrong
	ExitUnreachable = 3 // whom the command has to ask is not there
	ExitRefused     = 4 // refused, or not valid
	ExitTryLater    = 5 // not now
)

// RowsAtOnce is how many rows of a table are laid out together: a list may be
// longer than memory, so it is never laid out whole.
const RowsAtOnce = 500

// Table lays rows out in columns.
type Table struct {
	w    *tabwriter.Writer
	rows int
}

// NewTable writes a table with that head.
func NewTable(out io.Writer, head ...string) *Table {
	t := &Table{w: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	t.Row(head...)
	return t
}

// Row adds a row; "-" stands for an empty cell. Errors of the output come with
// End.
func (t *Table) Row(cells ...string) {
	for i, cell := range cells {
		if cell == "" {
			cells[i] = "-"
		}
	}
	_, _ = fmt.Fprintln(t.w, strings.Join(cells, "\t"))
	if t.rows++; t.rows%RowsAtOnce == 0 {
		_ = t.w.Flush()
	}
}

// End writes what is left.
func (t *Table) End() error { return t.w.Flush() }

// Facts prints one thing, a name and a value a line; empty values are left out.
func Facts(out io.Writer, pairs ...[2]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, pair := range pairs {
		if pair[1] != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", pair[0], pair[1])
		}
	}
	return w.Flush()
}

// When prints a time to the second; nothing for none.
func When(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// OneLine is an error's text as it stands on one line.
func OneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
