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
	"unicode/utf8"

	"edgeclaim"
	"edgeclaim/bridge/device"
	"edgeclaim/internal/adminsocket"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// The exit codes. They are part of the command line's contract
// (docs/operations.md): scripts on the line branch on them.
const (
	exitOK         = 0
	exitFailed     = 1 // it went wrong, or there is no such thing
	exitUsage      = 2 // the command line or the configuration is wrong
	exitNotRunning = 3 // no box runs on the data folder, or none answers at the URL
	exitRefused    = 4 // the box refused the claim
	exitTryLater   = 5 // throttled, or the box cannot commit now
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
	err := checkArguments(args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		return exitOK
	}
	if !a.begun {
		err = &usageError{err.Error()}
		a.json = slices.Contains(args, "--json") // it may stand behind the mistake
	}
	a.complain(err)
	return exitCode(err)
}

// checkArguments refuses what is not UTF-8: encoded as JSON, it would become
// another name or key than the one meant.
func checkArguments(args []string) error {
	for i, arg := range args {
		if !utf8.ValidString(arg) {
			return usagef("argument %d: invalid UTF-8", i+1)
		}
	}
	return nil
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "edgeclaim",
		Short:         "Provision devices at the edge, over MQTT and HTTP, with or without a network",
		Version:       readBuild().Version,
		Args:          cobra.NoArgs,
		RunE:          wantCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentFlags().StringVar(&a.data, "data", "",
		"data folder (default $EDGECLAIM_DATA, else "+systemData+" where it can be written, else ./var)")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(a.serveCommand(), a.templateCommand(), a.keyCommand(), a.deviceCommand(), a.statusCommand(),
		a.clockCommand(), a.enrollCommand(), a.outboxCommand(), a.claimCommand(), a.checkCommand(), a.compactCommand(), a.versionCommand())
	a.markBegun(root)
	return root
}

// markBegun makes every command say that it has begun.
func (a *app) markBegun(c *cobra.Command) {
	if runE := c.RunE; runE != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			a.begun = true
			return runE(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		a.markBegun(sub)
	}
}

// wantCommand is what a command does that only has others below it.
func wantCommand(cmd *cobra.Command, _ []string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return usagef("want one of %s; see %s --help", strings.Join(names, ", "), cmd.CommandPath())
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

// usageError is about the command line or the configuration.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

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
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if errors.Is(err, adminsocket.ErrNotRunning) || errors.Is(err, device.ErrUnreachable) || errors.Is(err, device.ErrNoAnswer) {
		return exitNotRunning
	}
	if box, ok := errors.AsType[*boxError](err); ok {
		switch box.Code {
		case edgeclaim.CodeInvalidArgument:
			return exitUsage
		case edgeclaim.CodePermissionDenied:
			return exitRefused
		case edgeclaim.CodeResourceExhausted, edgeclaim.CodeUnavailable, edgeclaim.CodeFailedPrecondition:
			return exitTryLater
		default:
			return exitFailed
		}
	}
	return exitFailed
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
	case exitUsage:
		code = edgeclaim.CodeInvalidArgument
	case exitNotRunning:
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
