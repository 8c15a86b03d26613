package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"edgeclaim"
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
	status, err := b.Status(t.Context())
	if err != nil || len(status.Alarms) != 1 || status.Alarms[0].Alarm != edgeclaim.AlarmTelemetryDropped {
		t.Errorf("alarms %+v, %v", status.Alarms, err)
	}
	records, err := b.db.Next(t.Context(), edgeclaim.Mark{Epoch: b.db.Epoch(), Lane: edgeclaim.LaneEvt}, 10)
	if err != nil {
		t.Error(err)
	}
	var told []string
	for _, r := range records {
		if r.Type == edgeclaim.TypeGap {
			told = append(told, string(r.Data))
		}
	}
	const gap = `{"lane":"%s","reason":"telemetry_set_aside","epoch":"%s"}`
	if want := []string{fmt.Sprintf(gap, "tel", b.db.Epoch()), fmt.Sprintf(gap, "evt", b.db.Epoch())}; !slices.Equal(told, want) {
		t.Errorf("upstream hears %q, want %q", told, want)
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

// What is good on a disk that is full is not set aside: it would not be told any
// more once there is room.
func TestTelemetryStaysWhereTheDiskIsFull(t *testing.T) {
	for _, err := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if !passing(fmt.Errorf("telemetry: %w", &os.PathError{Op: "write", Path: "marks", Err: err})) {
			t.Errorf("%v: set aside", err)
		}
	}
	for _, err := range []error{syscall.EIO, syscall.ENOTDIR, os.ErrPermission} {
		if passing(fmt.Errorf("telemetry: %w", err)) {
			t.Errorf("%v: in the way of claims", err)
		}
	}
}
