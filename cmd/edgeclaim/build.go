package main

import (
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
)

// Set by the linker (-X main.version=v1.2.3 -X main.built=RFC3339), which knows
// no other way in; never written by the program.
var (
	version string
	built   string
)

// build is what is known of how the program was made.
type build struct {
	Version  string    `json:"version"`
	Revision string    `json:"revision,omitempty"`
	Built    time.Time `json:"built,omitzero"`
	Go       string    `json:"go"`
}

// readBuild takes the linker's word first and that of the version control that
// go build noted next. Built is zero when neither knows.
func readBuild() build {
	b := build{Version: version, Go: runtime.Version()}
	stamp := built
	if info, ok := debug.ReadBuildInfo(); ok {
		if b.Version == "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
		for _, setting := range info.Settings {
			switch {
			case setting.Key == "vcs.revision":
				b.Revision = setting.Value
			case setting.Key == "vcs.time" && stamp == "":
				stamp = setting.Value
			}
		}
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	if t, err := time.Parse(time.RFC3339, stamp); err == nil {
		b.Built = t.UTC()
	}
	return b
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs, Example: "  edgeclaim version --json",
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if a.json {
				return a.printJSON(b)
			}
			return facts(a.stdout, [2]string{"version", b.Version}, [2]string{"revision", b.Revision},
				[2]string{"built", when(b.Built)}, [2]string{"go", b.Go})
		},
	}
}
