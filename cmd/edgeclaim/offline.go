package main

import (
	"errors"
	"fmt"

	"edgeclaim/cmd/internal/cli"
	"edgeclaim/store"

	"github.com/spf13/cobra"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Check the data folder, with the box stopped", Args: cli.NoArguments,
		Example: "  edgeclaim check --data /var/lib/edgeclaim",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := store.CheckFile(cmd.Context(), a.dir()); err != nil {
				return a.offlineError(err)
			}
			if a.json {
				return a.printJSON(map[string]string{"data": a.dir(), "status": "ok"})
			}
			_, err := fmt.Fprintf(a.stdout, "%s is in order\n", a.dir())
			return err
		},
	}
}

func (a *app) compactCommand() *cobra.Command {
	return &cobra.Command{
		Use: "compact", Short: "Give the room of what was deleted back to the disk, with the box stopped", Args: cli.NoArguments,
		Example: "  edgeclaim compact --data /var/lib/edgeclaim",
		RunE: func(*cobra.Command, []string) error {
			before, after, err := store.Compact(a.dir())
			if err != nil {
				return a.offlineError(err)
			}
			if a.json {
				return a.printJSON(map[string]any{"data": a.dir(), "bytes_before": before, "bytes_after": after})
			}
			_, err = fmt.Fprintf(a.stdout, "%s: %d bytes before, %d after\n", a.dir(), before, after)
			return err
		},
	}
}

// offlineError says what to do about a box that runs.
func (a *app) offlineError(err error) error {
	if errors.Is(err, store.ErrLocked) {
		return fmt.Errorf("stop the box first: %w", err)
	}
	return err
}
