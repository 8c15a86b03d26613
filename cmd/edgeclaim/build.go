package main

import (
	"github.com/spf13/cobra"

	"edgeclaim/cmd/internal/cli"
)

// Set by the linker (-X main.version=v1.2.3 -X main.built=RFC3339), which knows
// no other way in; never written by the program.
var (
	version string
	built   string
)

func readBuild() cli.Build { return cli.ReadBuild(version, built) }

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cli.NoArguments, Example: "  edgeclaim version --json",
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if a.json {
				return a.printJSON(b)
			}
			return cli.Facts(a.stdout, [2]string{"version", b.Version}, [2]string{"revision", b.Revision},
				[2]string{"built", cli.When(b.Built)}, [2]string{"go", b.Go})
		},
	}
}
