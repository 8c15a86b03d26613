package cli

import (
	"runtime"
	"runtime/debug"
	"time"
)

// Build is what is known of how a program was made.
type Build struct {
	Version  string    `json:"version"`
	Revision string    `json:"revision,omitempty"`
	Built    time.Time `json:"built,omitzero"`
	Go       string    `json:"go"`
}

// ReadBuild takes the linker's word first (version, and built in RFC 3339;
// empty for none) and that of the version control that go build noted next.
// Built is zero when neither knows.
func ReadBuild(version, built string) Build {
	b := Build{Version: version, Go: runtime.Version()}
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
