package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/mqttwire"
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

// A refused login of a user is counted, and in the audit log with where it came
// from; what was typed in place of a name is not.
func TestUserLoginRefusedIsAudited(t *testing.T) {
	s := defaults()
	s.Data, s.HTTP.Address, s.MQTT.Limits.Address = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	const hash = "$2a$10$Iys5VmpYDVY6iJ82mb4SCe.FHOjxyKnNwcrUa/Ak.e3s39K6VHhAm" // of another password
	s.Users = []broker.User{{Name: "scada", PasswordHash: hash}}
	b, err := openBox(t.Context(), s, cli.Build{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	ended := make(chan error, 1)
	go func() { ended <- b.run(ctx) }() // ends with ctx
	const typed = "secret-typed-here"
	for _, name := range []string{"scada", typed} {
		within, cancel := context.WithTimeout(ctx, 10*time.Second)
		login := mqttwire.Login{ClientID: "c", Username: name, Password: typed, Clean: true}
		c, ack, err := mqttwire.Dial(within, b.broker.Addr().String(), mqttwire.V5, login)
		cancel()
		if err != nil || ack.Code() != 0x86 {
			t.Fatalf("CONNACK %#x, %v", ack.Code(), err)
		}
		c.Close()
	}
	status, err := b.Status(ctx)
	if want := (edgeclaim.UsersStatus{LoginsRefused: 2}); err != nil || status.Users != want {
		t.Errorf("status %+v, %v", status.Users, err)
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	var out bytes.Buffer
	if err := audit.Export(s.Data, &out, time.Time{}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	const entry = `"kind":"login.refused","who":"user","source":"127.0.0.1","reason":"password","detail":{%s}`
	for _, detail := range []string{`"name":"scada","via":"mqtt"`, `"via":"mqtt"`} {
		if want := fmt.Sprintf(entry, detail); strings.Count(out.String(), want) != 1 {
			t.Errorf("no entry %s in %s", want, out.String())
		}
	}
	if strings.Contains(out.String(), typed) {
		t.Error("the audit log repeats what was typed")
	}
}
