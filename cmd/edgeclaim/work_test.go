package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"edgeclaim/cmd/internal/cli"
)

// A telemetry folder that nobody can open keeps no box from starting: it is set
// aside, whole.
func TestTelemetrySetAside(t *testing.T) {
	s := defaults()
	s.Data, s.HTTP.Address, s.MQTT.Limits.Address = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	folder := filepath.Join(s.Data, "telemetry")
	if err := os.WriteFile(folder, []byte("not a folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := openBox(t.Context(), s, cli.Build{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	stop(t, b)
	aside, err := filepath.Glob(folder + ".damaged-*")
	if err != nil || len(aside) != 1 {
		t.Fatalf("set aside: %q, %v", aside, err)
	}
	if text, err := os.ReadFile(aside[0]); err != nil || string(text) != "not a folder" {
		t.Errorf("it holds %q, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(folder, "points")); err != nil {
		t.Error(err)
	}
}
