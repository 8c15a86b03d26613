package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/adminsocket"
	"edgeclaim/internal/audit"
)

// oddBox answers on the socket of dir as no sound box would.
func oddBox(t *testing.T, dir string, answer http.HandlerFunc) {
	t.Helper()
	listener, err := adminsocket.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
}

// TestVerifyWithoutTheBox: the log of a box that cannot use it is what there is
// to verify.
func TestVerifyWithoutTheBox(t *testing.T) {
	dir := t.TempDir()
	log, err := audit.Open(audit.Config{Dir: dir})
	if err == nil {
		err = log.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	oddBox(t, dir, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprint(w, `{"code":14,"message":"the audit log cannot be used","details":[]}`)
	})
	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"audit", "verify", "--data", dir}, strings.NewReader(""), &out, &errOut)
	if code != cli.ExitOK || !strings.Contains(out.String(), "in order") {
		t.Errorf("exit code %d, %q, %q", code, out.String(), errOut.String())
	}
}

func TestOddAnswers(t *testing.T) {
	cutOff := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `[{"template_id":"a"},`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body)
		}
	}
	tests := []struct {
		name     string
		answer   http.HandlerFunc
		args     string
		code     int
		complain string
	}{
		{"list cut off, table", cutOff, "template list", cli.ExitFailed, "reading the list"},
		{"list cut off, json", cutOff, "template list --json", cli.ExitFailed, "reading the list"},
		{"list that ends early", answer(200, `[{"template_id":"a"}`), "template list", cli.ExitFailed, "reading the list"},
		{"list that is none", answer(200, `nonsense`), "template list", cli.ExitFailed, "reading the list"},
		{"thing that is none", answer(200, `nonsense`), "status", cli.ExitFailed, "reading the answer"},
		{"error without a document", answer(502, `<html>`), "status", cli.ExitFailed, "502 Bad Gateway"},
		{"cannot commit", answer(503, `{"code":14,"message":"unavailable","details":[]}`), "status", cli.ExitTryLater, "unavailable"},
		{"text of several lines", answer(400, `{"code":3,"message":"one\ntwo","details":[]}`), "status", cli.ExitUsage, "edgeclaim: one two\n"},
		{"larger than may be held", answer(200, strings.Repeat(" ", maxDocument+1)), "status", cli.ExitFailed, "larger than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			oddBox(t, dir, tt.answer)
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append(strings.Fields(tt.args), "--data", dir), strings.NewReader(""), &stdout, &stderr)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(stderr.String(), tt.complain) {
				t.Errorf("complained %q, want %q", &stderr, tt.complain)
			}
			if got := strings.Count(stderr.String(), "\n"); got != 1 {
				t.Errorf("complained in %d lines", got)
			}
		})
	}
}

// A list longer than several layouts of the table (cli.RowsAtOnce) comes whole
// and in order.
func TestLongList(t *testing.T) {
	const devices = 3*cli.RowsAtOnce + 7
	dir := t.TempDir()
	oddBox(t, dir, func(w http.ResponseWriter, _ *http.Request) {
		for i := range devices {
			_, _ = fmt.Fprintf(w, `%c{"device_id":"5f0c6a1e-7d5b-4c39-9a57-%012d","tenant_id":"5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10","hardware_id":"H%d"}`,
				",["[min(1, max(0, 1-i))], i, i)
		}
		_, _ = fmt.Fprint(w, "]")
	})
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"device", "list", "--data", dir}, strings.NewReader(""), &stdout, &stderr); code != cli.ExitOK {
		t.Fatalf("exit code %d; %s", code, &stderr)
	}
	rows := strings.Split(strings.TrimSpace(stdout.String()), "\n")[1:]
	if len(rows) != devices {
		t.Fatalf("%d rows, want %d", len(rows), devices)
	}
	for i, row := range rows {
		if want := fmt.Sprintf("5f0c6a1e-7d5b-4c39-9a57-%012d", i); !strings.HasPrefix(row, want) {
			t.Fatalf("row %d is %q", i, row)
		}
	}
}

// twice ends a context when it has been written to twice.
type twice struct {
	writes int
	end    context.CancelFunc
}

func (w *twice) Write(p []byte) (int, error) {
	if w.writes++; w.writes == 2 {
		w.end()
	}
	return len(p), nil
}

// status --watch goes on until it is told to stop, which is no failure.
func TestWatchStatus(t *testing.T) {
	dir := t.TempDir()
	oddBox(t, dir, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"box_id":"b"}`) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stderr bytes.Buffer
	stdout := &twice{end: cancel}
	if code := run(ctx, []string{"status", "--watch", "--json", "--data", dir}, strings.NewReader(""), stdout, &stderr); code != cli.ExitOK {
		t.Errorf("exit code %d; %s", code, &stderr)
	}
	if stdout.writes != 2 {
		t.Errorf("%d statuses, want 2", stdout.writes)
	}
}

// A list in JSON ends with one line feed, whether or not the box's did.
func TestListEndsItsLine(t *testing.T) {
	for _, body := range []string{"[]", "[]\n"} {
		dir := t.TempDir()
		oddBox(t, dir, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, body) })
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"key", "list", "--json", "--data", dir}, strings.NewReader(""), &stdout, &stderr); code != cli.ExitOK {
			t.Fatalf("exit code %d; %s", code, &stderr)
		}
		if got := stdout.String(); got != "[]\n" {
			t.Errorf("printed %q for %q", got, body)
		}
	}
}
