package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
)

// parkedStore is a store with records of three devices and of none in
// quarantine, more than one part of a requeue.
func parkedStore(t *testing.T) (db *store.DB, held int) {
	t.Helper()
	cfg := store.Defaults()
	cfg.Dir, cfg.Linger, cfg.Logger = t.TempDir(), 0, slog.New(slog.DiscardHandler)
	db, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	tenant, err := edgeclaim.ParseTenantID("5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10")
	if err != nil {
		t.Fatal(err)
	}
	devices := []edgeclaim.DeviceID{{}, {}}
	for _, name := range []string{"H1", "H2", "H3"} {
		hardware, err := edgeclaim.ParseHardwareID(name)
		if err != nil {
			t.Fatal(err)
		}
		devices = append(devices, edgeclaim.NewDeviceID(tenant, hardware, 1))
	}
	add := func(device edgeclaim.DeviceID) {
		t.Helper()
		if err := db.Append(t.Context(), edgeclaim.Record{Type: "device.event", Device: device, Data: []byte(`{}`)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, device := range devices {
		add(device)
		at := edgeclaim.Mark{Epoch: db.Epoch(), Lane: edgeclaim.LaneEvt, Upto: uint64(i) + 1}
		if err := db.Park(t.Context(), at, "no"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range requeuePart { // the devices are parked, so these follow
		add(devices[2+i%3])
	}
	return db, len(devices) + requeuePart
}

// All goes back, part after part, each device once and as a whole.
func TestRequeueAllInParts(t *testing.T) {
	db, held := parkedStore(t)
	q := quarantine{db: db}
	total, parts := 0, 0
	for what := (httpapi.Requeue{All: true}); ; parts++ {
		done, err := q.Requeue(t.Context(), what)
		if err != nil {
			t.Fatal(err)
		}
		if total += done.Records; done.Next == "" {
			break
		}
		what.After = done.Next
	}
	stats, err := db.LaneStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if evt := stats[edgeclaim.LaneEvt]; total != held || parts == 0 || evt.Pending != uint64(held) || evt.Quarantined != 0 {
		t.Errorf("%d of %d went back in %d parts and a last; %+v", total, held, parts, evt)
	}
}

// One record takes its device along, and one of none goes alone.
func TestRequeueOne(t *testing.T) {
	db, held := parkedStore(t)
	q := quarantine{db: db}
	page, err := q.Quarantine(t.Context(), "", 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		record edgeclaim.Quarantined
		want   int
	}{
		{page[0], 1}, // of the box itself
		{page[9], 1 + requeuePart/3},
	} {
		done, err := q.Requeue(t.Context(), httpapi.Requeue{ID: step.record.ID})
		if err != nil || done.Records < step.want || done.Records > step.want+1 {
			t.Errorf("%+v: %d went back, want %d; %v", step.record, done.Records, step.want, err)
		}
		held -= done.Records
		if _, err := q.Requeue(t.Context(), httpapi.Requeue{ID: step.record.ID}); !errors.Is(err, edgeclaim.ErrNotFound) {
			t.Errorf("again: %v", err)
		}
	}
	discarded, err := q.Discard(t.Context(), page[1].ID)
	if err != nil || discarded != page[1] {
		t.Errorf("discarded %+v, %v; want %+v", discarded, err, page[1])
	}
	if _, err := q.Discard(t.Context(), page[1].ID); !errors.Is(err, edgeclaim.ErrNotFound) {
		t.Errorf("discarded again: %v", err)
	}
	stats, err := db.LaneStats(t.Context())
	if err != nil || stats[edgeclaim.LaneEvt].Quarantined != uint64(held-1) {
		t.Errorf("%+v, %v, want %d in quarantine", stats, err, held-1)
	}
}

// What upstream refuses again as fast as it is told does not keep a requeue of
// all going for ever.
func TestRequeueAllEnds(t *testing.T) {
	dir := t.TempDir()
	asked := 0
	oddBox(t, dir, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/status") {
			_, _ = fmt.Fprint(w, `{"outbox":{"prov":{"quarantined":20},"evt":{"quarantined":5}}}`)
			return
		}
		body, err := io.ReadAll(r.Body)
		want := `{"all":true}`
		if asked++; asked > 1 {
			want = fmt.Sprintf(`{"all":true,"after":"q%d"}`, asked-1)
		}
		if err != nil || string(body) != want {
			t.Errorf("asked %s, %v; want %s", body, err, want)
		}
		_, _ = fmt.Fprintf(w, `{"requeued":10,"next":"q%d"}`, asked)
	})
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"outbox", "requeue", "--all", "--data", dir}, strings.NewReader(""), &stdout, &stderr); code != cli.ExitOK {
		t.Fatalf("exit code %d; %s", code, &stderr)
	}
	if stdout.String() != "requeued  30\n" || asked != 3 {
		t.Errorf("asked %d times, printed %q", asked, &stdout)
	}
}

// An export that is broken off, or whose disk is, leaves what was there before
// and nothing else.
func TestExportIsWholeOrNotAtAll(t *testing.T) {
	whole := func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "{}\n{}\n") }
	cutOff := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, "{}\n{")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	box, out := t.TempDir(), t.TempDir()
	path := filepath.Join(out, "up.ndjson")
	answer := whole
	oddBox(t, box, func(w http.ResponseWriter, r *http.Request) { answer(w, r) })
	export := func(args ...string) (int, string, string) {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), append([]string{"outbox", "export", "--data", box}, args...), strings.NewReader(""), &stdout, &stderr)
		return code, stdout.String(), stderr.String()
	}
	if code, said, _ := export("--out", path); code != cli.ExitOK || said != "file      "+path+"\nmessages  2\nbytes     6\n" {
		t.Errorf("exit code %d, printed %q", code, said)
	}
	answer = cutOff
	if code, _, complained := export("--out", path); code != cli.ExitFailed || !strings.Contains(complained, "not whole") {
		t.Errorf("cut off: exit code %d, %q", code, complained)
	}
	if code, _, complained := export(); code != cli.ExitFailed || !strings.Contains(complained, "not whole") {
		t.Errorf("cut off, to the output: exit code %d, %q", code, complained)
	}
	disk := errors.New("disk")
	if err := cli.WriteWhole(path, func(w io.Writer) error {
		_, _ = io.WriteString(w, "half")
		return disk
	}); !errors.Is(err, disk) {
		t.Error(err)
	}
	if err := cli.WriteWhole(out, func(io.Writer) error { return nil }); err == nil {
		t.Error("a folder was replaced by a file")
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(entries) != 1 || string(text) != "{}\n{}\n" {
		t.Errorf("%v with %q, %v", entries, text, err)
	}
}

// What is typed is read as one short line; silence is no yes.
func TestFirstLine(t *testing.T) {
	for typed, want := range map[string]string{
		"": "", "yes": "yes", "yes\n": "yes", " yes \r\nno\n": "yes", "no\nyes\n": "no", strings.Repeat("y", 1000): strings.Repeat("y", 256),
	} {
		if got := firstLine(strings.NewReader(typed)); got != want {
			t.Errorf("%.20q is read as %.20q, want %.20q", typed, got, want)
		}
	}
}

// Upstream's words cannot move an operator's terminal about.
func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "no such tenant": "no such tenant", "a\tb\nc": "a b c", "\x1b[2Jx\u202ey": "[2Jx y", "größe": "größe",
	} {
		if got := oneLine(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

// A file for a command is read to a limit, and an empty one is a mistake.
func TestReadInput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for text, code := range map[string]int{"": cli.ExitUsage, "12345": cli.ExitOK, "123456": cli.ExitUsage} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{path, "-"} {
			a := &app{stdin: strings.NewReader(text)}
			got, err := a.readInput(name, 5)
			if code == cli.ExitOK && (err != nil || string(got) != text) || code != cli.ExitOK && exitCode(err) != code {
				t.Errorf("%s with %q: %q, %v", name, text, got, err)
			}
		}
	}
	if _, err := (&app{}).readInput(path+".none", 5); !errors.Is(err, os.ErrNotExist) || exitCode(err) != cli.ExitFailed {
		t.Error(err)
	}
}

// A command that is interrupted leaves no half file.
func TestExportInterrupted(t *testing.T) {
	box, out := t.TempDir(), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	oddBox(t, box, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, "{}\n")
		_ = http.NewResponseController(w).Flush()
		cancel()
		<-r.Context().Done()
	})
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"outbox", "export", "--data", box, "--out", filepath.Join(out, "up")}, strings.NewReader(""), &stdout, &stderr)
	if entries, err := os.ReadDir(out); code != cli.ExitFailed || err != nil || len(entries) > 0 {
		t.Errorf("exit code %d, %v, %v", code, entries, err)
	}
}
