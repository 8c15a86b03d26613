package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"
)

// pruneCommand deletes by an operator's word only: a clock that was set wrong
// must not (P10).
func (a *app) pruneCommand() *cobra.Command {
	var before string
	c := &cobra.Command{
		Use: "prune", Short: "Delete events and telemetry that came long ago, and commands that were over then", Args: cobra.NoArgs,
		Long: "Delete events (lane evt: refusals, alarms, gaps and the like) and telemetry (lane tel) that came before a\n" +
			"time, and commands that had ended or expired before it. Devices, what was told of them (lane prov), conflicts\n" +
			"and audit heads stay. A hub may serve meanwhile.",
		Example: "  edgehub prune --before 2026-01-01T00:00:00Z",
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := time.Parse(time.RFC3339, before)
			if err != nil {
				return cli.Usagef("--before: want a time like 2026-01-01T00:00:00Z")
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				pruned, err := db.Prune(ctx, at)
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(map[string]int64{"pruned": pruned})
				}
				_, err = fmt.Fprintf(a.stdout, "%d records deleted\n", pruned)
				return err
			})
		},
	}
	c.Flags().StringVar(&before, "before", "", "time (RFC 3339) that what stays came after")
	_ = c.MarkFlagRequired("before") // fails only for a name that is no flag
	return c
}
