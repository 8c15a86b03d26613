package cli_test

import (
	"testing"
	"time"

	"edgeclaim/cmd/internal/cli"
)

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90d": 90 * cli.Day, "0d": 0, "24h": cli.Day, "1h30m": 90 * time.Minute, "36500d": 36500 * cli.Day,
	} {
		if got, err := cli.ParseSpan(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "36501d", "99999999999d", "-1s", "soon", "7 d", "1h1d"} {
		if got, err := cli.ParseSpan(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
