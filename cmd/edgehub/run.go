package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// app is one run of the program.
type app struct {
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
	data     string // --data as given; dir() is the folder meant
	database string // --database as given
	config   string // --config as given
	json     bool
	// begun is set when a command's own code starts: errors before that are
	// about the command line.
	begun bool
}

// run is the whole program: it does what args say until that is done or ctx
// ends, and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	err := cli.CheckArguments(args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		return cli.ExitOK
	}
	if !a.begun {
		err = cli.Usagef("%v", err)
		a.json = slices.Contains(args, "--json") // it may stand behind the mistake
	}
	a.complain(err)
	return exitCode(err)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "edgehub",
		Short:         "Take what edgeclaim boxes tell, commit it to SQL, and say so",
		Version:       readBuild().Version,
		Args:          cobra.NoArgs,
		RunE:          cli.WantCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	f := root.PersistentFlags()
	f.StringVar(&a.data, "data", "",
		"data folder, with the signing key (default $EDGEHUB_DATA, else "+systemData+" where it can be written, else ./hub)")
	f.StringVar(&a.database, "database", "",
		"sqlite:PATH or postgres://… (default $EDGEHUB_DATABASE, else hub.db in the data folder)")
	f.StringVar(&a.config, "config", "", "configuration file, YAML; flags win over it")
	f.BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(a.serveCommand(), a.sitesCommand(), a.boxesCommand(), a.devicesCommand(), a.conflictsCommand(), a.commandCommand(), a.pruneCommand(),
		a.signCommand(), a.draftCommand(), a.publishCommand(), a.documentsCommand(), a.expectedCommand(), a.sharesCommand(), a.bundleCommand(),
		a.verifyCommand(), a.unsealCommand(), a.ingestCommand(), a.enrolmentCommand(), a.versionCommand())
	cli.MarkBegun(root, &a.begun)
	return root
}

// systemData is where an installed hub keeps its data.
const systemData = "/var/lib/edgehub"

// dir is the data folder meant: --data, else $EDGEHUB_DATA, else the system's
// where this user may write to it, else ./hub.
func (a *app) dir() string {
	if a.data != "" {
		return a.data
	}
	if env := os.Getenv("EDGEHUB_DATA"); env != "" {
		return env
	}
	if unix.Access(systemData, unix.W_OK|unix.X_OK) == nil {
		return systemData
	}
	return "hub"
}

// unreachableError: whom the command has to ask is not there.
type unreachableError struct{ cause error }

func (e *unreachableError) Error() string { return e.cause.Error() }
func (e *unreachableError) Unwrap() error { return e.cause }

// refusedError: the answer is no.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// exitCode is the one table from error to exit code.
func exitCode(err error) int {
	if _, ok := errors.AsType[*cli.UsageError](err); ok {
		return cli.ExitUsage
	}
	if _, ok := errors.AsType[*unreachableError](err); ok {
		return cli.ExitUnreachable
	}
	if _, ok := errors.AsType[*refusedError](err); ok {
		return cli.ExitRefused
	}
	switch {
	case errors.Is(err, hub.ErrOlder):
		return cli.ExitRefused
	case errors.Is(err, edgeclaim.ErrInvalid):
		return cli.ExitUsage
	case errors.Is(err, edgeclaim.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return cli.ExitTryLater
	}
	return cli.ExitFailed
}

// code is the error's code in its JSON form.
func code(err error) edgeclaim.Code {
	switch exitCode(err) {
	case cli.ExitUsage:
		return edgeclaim.CodeInvalidArgument
	case cli.ExitUnreachable, cli.ExitTryLater:
		return edgeclaim.CodeUnavailable
	case cli.ExitRefused:
		return edgeclaim.CodePermissionDenied
	}
	switch {
	case errors.Is(err, edgeclaim.ErrNotFound):
		return edgeclaim.CodeNotFound
	case errors.Is(err, edgeclaim.ErrConflict):
		return edgeclaim.CodeAborted
	}
	return edgeclaim.CodeInternal
}

// complain says what went wrong in one line on the error output.
func (a *app) complain(err error) {
	if a.json {
		_ = json.NewEncoder(a.stderr).Encode(struct {
			Code    edgeclaim.Code `json:"code"`
			Message string         `json:"message"`
			Details []any          `json:"details"`
		}{code(err), err.Error(), []any{}}) // nobody is left to tell
		return
	}
	_, _ = fmt.Fprintf(a.stderr, "edgehub: %s\n", cli.OneLine(err))
}

// printJSON prints a document on one line.
func (a *app) printJSON(v any) error { return json.NewEncoder(a.stdout).Encode(v) }
