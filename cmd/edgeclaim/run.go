package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"edgeclaim"
	"edgeclaim/bridge/device"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/adminsocket"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// app is one run of the program.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	data   string // --data as given; dir() is the folder meant
	json   bool
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
		Use:           "edgeclaim",
		Short:         "Provision devices at the edge, over MQTT and HTTP, with or without a network",
		Version:       readBuild().Version,
		Args:          cobra.NoArgs,
		RunE:          cli.WantCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentFlags().StringVar(&a.data, "data", "",
		"data folder (default $EDGECLAIM_DATA, else "+systemData+" where it can be written, else ./var)")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(a.serveCommand(), a.templateCommand(), a.keyCommand(), a.deviceCommand(), a.commandCommand(), a.userCommand(),
		a.statusCommand(),
		a.clockCommand(),
		a.denyCommand(), a.approvalCommand(), a.approveCommand(), a.manifestCommand(), a.importCommand(), a.documentCommand(), a.caCommand(), a.tokenCommand(), a.auditCommand(),
		a.enrollCommand(), a.outboxCommand(), a.claimCommand(), a.checkCommand(), a.compactCommand(), a.versionCommand())
	cli.MarkBegun(root, &a.begun)
	return root
}

// systemData is where an installed box keeps its data.
const systemData = "/var/lib/edgeclaim"

// dir is the data folder meant: --data, else $EDGECLAIM_DATA, else the system's
// where this user may write to it, else ./var.
func (a *app) dir() string {
	if a.data != "" {
		return a.data
	}
	if env := os.Getenv("EDGECLAIM_DATA"); env != "" {
		return env
	}
	if unix.Access(systemData, unix.W_OK|unix.X_OK) == nil {
		return systemData
	}
	return "var"
}

// notRunningError says which folder nobody runs on.
type notRunningError struct{ dir string }

func (e *notRunningError) Error() string {
	return fmt.Sprintf("no box is running on %s (start one with: edgeclaim serve --data %s)", e.dir, e.dir)
}

// Is makes errors.Is(err, adminsocket.ErrNotRunning) hold.
func (*notRunningError) Is(target error) bool { return target == adminsocket.ErrNotRunning }

// boxError is what a box answered instead of what it was asked for.
type boxError struct {
	Code    edgeclaim.Code    `json:"code"`
	Message string            `json:"message"`
	Details []json.RawMessage `json:"details"`
	// RetryAfter is in whole seconds, where the box says it.
	RetryAfter int `json:"retry_after,omitempty"`

	about string // what of the admin API was asked for, for people to read
}

func (e *boxError) Error() string {
	mute := []string{"not found", "already exists", "conflict"}
	if e.about != "" && slices.Contains(mute, e.Message) { // they do not say what
		return e.about + ": " + e.Message
	}
	if e.RetryAfter > 0 {
		return fmt.Sprintf("%s; try again in %d seconds", e.Message, e.RetryAfter)
	}
	return e.Message
}

// exitCode is the one table from error to exit code.
func exitCode(err error) int {
	if _, ok := errors.AsType[*cli.UsageError](err); ok {
		return cli.ExitUsage
	}
	if errors.Is(err, adminsocket.ErrNotRunning) || errors.Is(err, device.ErrUnreachable) || errors.Is(err, device.ErrNoAnswer) {
		return cli.ExitUnreachable
	}
	if box, ok := errors.AsType[*boxError](err); ok {
		switch box.Code {
		case edgeclaim.CodeInvalidArgument:
			return cli.ExitUsage
		case edgeclaim.CodePermissionDenied:
			return cli.ExitRefused
		case edgeclaim.CodeResourceExhausted, edgeclaim.CodeUnavailable, edgeclaim.CodeFailedPrecondition:
			return cli.ExitTryLater
		default:
			return cli.ExitFailed
		}
	}
	return cli.ExitFailed
}

// envelope is the error as the admin API would say it.
func envelope(err error) *boxError {
	if box, ok := errors.AsType[*boxError](err); ok {
		if box.Details == nil {
			box.Details = []json.RawMessage{}
		}
		return box
	}
	code := edgeclaim.CodeInternal
	switch exitCode(err) {
	case cli.ExitUsage:
		code = edgeclaim.CodeInvalidArgument
	case cli.ExitUnreachable:
		code = edgeclaim.CodeUnavailable
	}
	return &boxError{Code: code, Message: err.Error(), Details: []json.RawMessage{}}
}

// complain says what went wrong in one line on the error output.
func (a *app) complain(err error) {
	if a.json {
		_ = json.NewEncoder(a.stderr).Encode(envelope(err)) // nobody is left to tell
		return
	}
	line := strings.Join(strings.Fields(err.Error()), " ")
	_, _ = fmt.Fprintf(a.stderr, "edgeclaim: %s\n", line)
}
