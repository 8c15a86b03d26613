package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/clock"

	"go.uber.org/goleak"
)

// systemd is the other end of NOTIFY_SOCKET.
func systemd(t *testing.T) <-chan string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	told := make(chan string, 64)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(told)
		b := make([]byte, 256)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			select {
			case told <- string(b[:n]):
			default: // a watchdog that goes on while nobody expects it
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		reader.Wait()
	})
	return told
}

func expect(t *testing.T, told <-chan string, want string) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		select {
		case got := <-told:
			if got == want {
				return
			}
		case <-deadline.C:
			t.Fatalf("systemd was not told %s", want)
		}
	}
}

// The whole program in a test: ready, alive and stopping are told to systemd,
// the stop is orderly, and nothing is left running.
func TestServeTellsSystemdAndLeavesNothing(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	told := systemd(t)
	t.Setenv("WATCHDOG_USEC", "60000")
	ctx, stop := context.WithCancel(t.Context())
	var stdout, stderr bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{
			"serve", "--data", filepath.Join(t.TempDir(), "box"), "--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--admin", "127.0.0.1:0",
			"--https", "127.0.0.1:0", "--mqtt-tls", "127.0.0.1:0", "--upstream", "mqtt://127.0.0.1:1",
		}, strings.NewReader(""), &stdout, &stderr)
	}()
	expect(t, told, "READY=1")
	expect(t, told, "WATCHDOG=1")
	stop()
	expect(t, told, "STOPPING=1")
	select {
	case code := <-ended:
		if code != cli.ExitOK {
			t.Errorf("exit code %d; %s", code, &stderr)
		}
	case <-time.After(patience):
		t.Fatal("the box did not stop")
	}
	for _, name := range listenerNames {
		if !strings.Contains(stdout.String(), name+" listening on ") {
			t.Errorf("%s was not announced:\n%s", name, &stdout)
		}
	}
	// The reader of the socket ends with the test.
	goleak.VerifyNone(t, ignore, goleak.IgnoreAnyFunction("edgeclaim/cmd/edgeclaim.systemd.func1"))
}

// A box that is told to stop while it starts does so.
func TestServeStoppedAtOnce(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"serve", "--data", t.TempDir(), "--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"}, strings.NewReader(""), &stdout, &stderr)
	if code != cli.ExitOK {
		t.Errorf("exit code %d; %s", code, &stderr)
	}
}

// The time floor outlives the program (P10): a later start knows it, even with
// a build that knows no date.
func TestFloorOutlivesTheProgram(t *testing.T) {
	s := defaults()
	s.Data, s.HTTP.Address, s.MQTT.Limits.Address = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	want := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	ended, stop := context.WithCancel(t.Context())
	stop()
	for _, built := range []time.Time{want, {}} {
		b, err := openBox(t.Context(), s, cli.Build{Built: built}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		status, err := b.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !status.Clock.Floor.Equal(want) {
			t.Errorf("floor %v, want %v", status.Clock.Floor, want)
		}
		if err := b.run(ended); err != nil {
			t.Fatal(err)
		}
	}
}

// A step of the wall clock is a record for upstream.
func TestStepOfTheClockIsRecorded(t *testing.T) {
	s := defaults()
	s.Data, s.HTTP.Address, s.MQTT.Limits.Address = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	b, err := openBox(t.Context(), s, cli.Build{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	before := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	b.clockChanged(t.Context(), clock.Change{Before: before, After: before.Add(-time.Hour), State: edgeclaim.ClockUnsynced})
	records, err := b.db.Next(t.Context(), edgeclaim.Mark{Epoch: b.db.Epoch(), Lane: edgeclaim.LaneEvt}, 10)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"before":"2026-11-23T08:00:00Z","after":"2026-11-23T07:00:00Z","offset_seconds":-3600,"state":"unsynced"}`
	if len(records) != 1 || records[0].Type != edgeclaim.TypeClockChanged || string(records[0].Data) != want {
		t.Errorf("recorded %+v, want one %s with %s", records, edgeclaim.TypeClockChanged, want)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if err := b.run(ended); err != nil {
		t.Fatal(err)
	}
}
