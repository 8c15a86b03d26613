package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/adminsocket"
	"edgeclaim/internal/audit"

	"github.com/spf13/cobra"
)

const auditPath = "/api/v1/audit"

// maxAnchorFile is more than a head ever takes, in bytes.
const maxAnchorFile = 16 << 10

func (a *app) auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "The log of every decision of the box", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(a.auditVerifyCommand(), a.auditExportCommand(), a.auditHeadCommand())
	return c
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var anchor, dir string
	c := &cobra.Command{
		Use: "verify", Short: "Look whether the audit log was changed", Args: cli.NoArguments,
		Long: `Read the whole audit log, and say each place where a line was changed, cut, moved or
left out; the exit code is 1 then. The box may run or not; --dir is a copy of its
data folder.

Who owns the folder can write all of it anew, or cut off its end. A box that runs
knows its end, and is asked. Where it does not run, a head that it told upstream
finds that: --anchor is one, as "edgehub boxes --json" has it.`,
		Example: `  edgeclaim audit verify
  edgeclaim audit verify --dir /media/copy --anchor head.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			head, err := a.readAnchor(anchor)
			if err == nil && head == nil && dir == "" {
				head, err = a.runningHead(cmd.Context())
			}
			if err != nil {
				return err
			}
			if dir == "" {
				dir = a.dir()
			}
			report, err := audit.Verify(dir, head)
			if err != nil {
				return err
			}
			return a.printReport(&report)
		},
	}
	c.Flags().StringVar(&anchor, "anchor", "", "file of a head that the box told earlier; - reads standard input")
	c.Flags().StringVar(&dir, "dir", "", "data folder that the log is in (default that of --data)")
	return c
}

// readAnchor reads a head, nil for none.
func (a *app) readAnchor(path string) (*audit.Head, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // no anchor is an answer, not a failure
	}
	document, err := a.readInput(path, maxAnchorFile)
	if err != nil {
		return nil, fmt.Errorf("--anchor: %w", err)
	}
	const hashDigits = 64
	var head audit.Head
	if err := json.Unmarshal(document, &head); err != nil || head.Sequence == 0 || len(head.Hash) != hashDigits {
		return nil, cli.Usagef(`--anchor: want one head as {"sequence":…,"hash":"64 hexadecimal digits"}`)
	}
	return &head, nil
}

// runningHead asks the box for the end of its log, before the log is read; nil
// when none runs, or when it has no log: one that it cannot use may be what is
// to be looked at.
func (a *app) runningHead(ctx context.Context) (*audit.Head, error) {
	var head audit.Head
	err := newClient(a.dir()).read(ctx, request{http.MethodGet, auditPath + "/head", nil}, &head)
	box, _ := errors.AsType[*boxError](err)
	unusable := box != nil && box.Code == edgeclaim.CodeUnavailable
	if errors.Is(err, adminsocket.ErrNotRunning) || unusable || err == nil && head.Sequence == 0 {
		return nil, nil //nolint:nilnil // no head is an answer, not a failure
	}
	return &head, err
}

// tamperedError says that the log is not what was written.
type tamperedError struct{ problems int }

func (e *tamperedError) Error() string {
	return fmt.Sprintf("the audit log is not what was written: problems %d", e.problems)
}

func (a *app) printReport(r *audit.Report) error {
	problems := len(r.Problems) + r.More
	var failed error
	if !r.OK() {
		failed = &tamperedError{problems}
	}
	if a.json {
		return errors.Join(a.printJSON(r), failed)
	}
	for _, p := range r.Problems {
		place := p.File
		if p.Line > 0 {
			place += ":" + strconv.Itoa(p.Line)
		}
		_, _ = fmt.Fprintf(a.stdout, "%s: %s\n", place, p.What)
	}
	if r.More > 0 {
		_, _ = fmt.Fprintf(a.stdout, "and %d more\n", r.More)
	}
	pairs := [][2]string{
		{"entries", strconv.FormatUint(r.Entries, 10)},
		{"files", strconv.Itoa(r.Segments)},
		{"sequences", fmt.Sprintf("%d to %d", r.First, r.Last)},
		{"lost", strconv.FormatUint(r.Lost, 10)},
		{"anchor", anchorWords[r.Anchor]},
	}
	if failed == nil {
		pairs = append(pairs, [2]string{"head", r.Head.Hash}, [2]string{"verdict", "in order"})
	}
	return errors.Join(cli.Facts(a.stdout, pairs...), failed)
}

var anchorWords = map[audit.Anchor]string{
	audit.AnchorHeld:    "held: up to there it is what it was when the head was told",
	audit.AnchorBroken:  "broken: the log is another one than when the head was told",
	audit.AnchorDropped: "older than what is kept: nothing can be said of it",
}

func (a *app) auditExportCommand() *cobra.Command {
	var from, to, dir string
	c := &cobra.Command{
		Use: "export", Short: "Print the audit log's lines, as they are", Args: cli.NoArguments,
		Long: `Print the lines of the audit log to standard output, oldest first, one JSON object
each. Lines that were changed are left out, and the exit code is 1 then. The box may
run or not.`,
		Example: `  edgeclaim audit export --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z > november.ndjson
  edgeclaim audit export | jq 'select(.kind == "device.revoked")'`,
		RunE: func(*cobra.Command, []string) error {
			var bounds [2]time.Time
			for i, flag := range []struct{ name, text string }{{"from", from}, {"to", to}} {
				if flag.text == "" {
					continue
				}
				at, err := time.Parse(time.RFC3339, flag.text)
				if err != nil {
					return cli.Usagef("--%s: want a time like 2026-11-23T00:00:00Z", flag.name)
				}
				bounds[i] = at
			}
			if dir == "" {
				dir = a.dir()
			}
			return audit.Export(dir, a.stdout, bounds[0], bounds[1])
		},
	}
	c.Flags().StringVar(&from, "from", "", "first instant, RFC 3339 (default the beginning)")
	c.Flags().StringVar(&to, "to", "", "the instant before which it ends, RFC 3339 (default now)")
	c.Flags().StringVar(&dir, "dir", "", "data folder that the log is in (default that of --data)")
	return c
}

func (a *app) auditHeadCommand() *cobra.Command {
	return &cobra.Command{
		Use: "head", Short: "Show the end of the audit log's chain", Args: cli.NoArguments,
		Long: `Show the end of the chain: kept elsewhere, it proves later that nothing before it was
changed ("audit verify --anchor"). The box tells it upstream daily. The box need not
run.`,
		Example: "  edgeclaim audit head --json > head.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := show(cmd.Context(), a, request{http.MethodGet, auditPath + "/head", nil}, a.printHead)
			if !errors.Is(err, adminsocket.ErrNotRunning) {
				return err
			}
			report, verifyErr := audit.Verify(a.dir(), nil)
			switch {
			case verifyErr != nil:
				return err // nobody runs, and nothing is there to read
			case a.json:
				return a.printJSON(report.Head)
			default:
				return a.printHead(report.Head)
			}
		},
	}
}

func (a *app) printHead(h audit.Head) error {
	return cli.Facts(a.stdout,
		[2]string{"segment", h.Segment}, [2]string{"sequence", strconv.FormatUint(h.Sequence, 10)},
		[2]string{"hash", h.Hash}, [2]string{"time", cli.When(h.Time)})
}
