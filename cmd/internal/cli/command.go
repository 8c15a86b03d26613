package cli

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// UsageError is about the command line or the configuration.
type UsageError struct{ text string }

func (e *UsageError) Error() string { return e.text }

// Usagef returns a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// CheckArguments refuses what is not UTF-8: encoded as JSON, it would become
// another name or key than the one meant.
func CheckArguments(args []string) error {
	for i, arg := range args {
		if !utf8.ValidString(arg) {
			return Usagef("argument %d: invalid UTF-8", i+1)
		}
	}
	return nil
}

// MarkBegun makes a command, and all below it, set begun when its own code
// starts: errors before that are about the command line.
func MarkBegun(c *cobra.Command, begun *bool) {
	if runE := c.RunE; runE != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*begun = true
			return runE(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		MarkBegun(sub, begun)
	}
}

// WantCommand is what a command does that only has others below it.
func WantCommand(cmd *cobra.Command, _ []string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return Usagef("want one of %s; see %s --help", strings.Join(names, ", "), cmd.CommandPath())
}

// NoArguments is for a command that takes flags alone. Its error does not
// repeat what was given: it may be a key that lacks its flag (P5).
func NoArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("%s takes no arguments, only flags", cmd.CommandPath())
	}
	return nil
}
