package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/cmd/internal/cli"

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
			told <- string(b[:n])
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
	select {
	case got := <-told:
		if got != want {
			t.Fatalf("systemd was told %s, want %s", got, want)
		}
	case <-deadline.C:
		t.Fatalf("systemd was not told %s", want)
	}
}

// The whole program in a test: ready and stopping are told to systemd, the stop
// is orderly with the broker away, and nothing is left running.
func TestServeTellsSystemdAndLeavesNothing(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	told := systemd(t)
	ctx, stop := context.WithCancel(t.Context())
	var stdout, stderr bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{
			"serve", "--data", filepath.Join(t.TempDir(), "hub"), "--http", "127.0.0.1:0", "--broker", "mqtt://127.0.0.1:1",
		}, strings.NewReader(""), &stdout, &stderr)
	}()
	expect(t, told, "READY=1")
	stop()
	expect(t, told, "STOPPING=1")
	select {
	case code := <-ended:
		if code != cli.ExitOK {
			t.Errorf("exit code %d; %s", code, &stderr)
		}
	case <-time.After(patience):
		t.Fatal("the hub did not stop")
	}
	if !strings.Contains(stdout.String(), "http listening on 127.0.0.1:") {
		t.Errorf("the listener was not announced:\n%s", &stdout)
	}
	// The reader of the socket ends with the test.
	goleak.VerifyNone(t, ignore, goleak.IgnoreAnyFunction("edgeclaim/cmd/edgehub.systemd.func1"))
}

// A hub that is told to stop while it starts does so.
func TestServeStoppedAtOnce(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"serve", "--data", t.TempDir(), "--http", "127.0.0.1:0", "--json"}, strings.NewReader(""), &stdout, &stderr)
	if code != cli.ExitOK {
		t.Errorf("exit code %d; %s", code, &stderr)
	}
	if !strings.HasPrefix(stdout.String(), `{"broker":"mqtt://127.0.0.1:1883","http":"127.0.0.1:`) {
		t.Errorf("announced %s", &stdout)
	}
}

// A list is one array, however many pages it takes.
func TestListsAreWhole(t *testing.T) {
	for _, n := range []int{0, 1, pageRows - 1, pageRows, pageRows + 1, 3*pageRows + 7} {
		read := 0
		l := lister[int]{
			head: []string{"N"},
			row:  func(i int) []string { return []string{number(int64(i))} },
			page: func(_ context.Context, last *int) ([]int, error) {
				if last != nil && *last != read {
					t.Fatalf("asked for what is behind %d, read up to %d", *last, read)
				}
				var page []int
				for len(page) < pageRows && read < n {
					read++
					page = append(page, read)
				}
				return page, nil
			},
		}
		for _, asJSON := range []bool{false, true} {
			read = 0
			var out bytes.Buffer
			if err := l.print(t.Context(), &app{stdout: &out, json: asJSON}); err != nil {
				t.Fatal(err)
			}
			got := strings.Count(out.String(), "\n") - 1
			if asJSON {
				got = len(regexp.MustCompile(`\d+`).FindAllString(out.String(), -1))
			}
			if got != n {
				t.Errorf("%d of %d rows, json %v", got, n, asJSON)
			}
		}
	}
}

// scrape returns what Prometheus would read.
func scrape(t *testing.T, err error) string {
	t.Helper()
	g := newGauges(cli.Build{Version: "v1", Go: "go1"})
	g.commit(time.Millisecond, 7)
	handler := g.handler(&watched{
		figures: func() hub.Figures {
			return hub.Figures{
				Records: 7, Sessions: 3, Malformed: 2, Offers: 11, Parts: 12, Reports: 13, Wishes: 14, Shares: 15, Verdicts: 16,
				Nacks: map[wire.NackCode]uint64{wire.NackRetry: 4}, Refusals: map[wire.RefusedCode]uint64{wire.RefusedFenced: 5},
			}
		},
		status: func() hub.Status { return hub.Status{Link: edgeclaim.LampUp, Broker: edgeclaim.LampDown} },
		boxes: func(context.Context) (boxSum, error) {
			var sum boxSum
			sum.maxLag = map[edgeclaim.Lane]uint64{}
			sum.add(&registry.Box{Online: true, Lanes: map[edgeclaim.Lane]registry.LaneState{edgeclaim.LaneProv: {Lag: 9}}})
			sum.add(&registry.Box{App: true, Lanes: map[edgeclaim.Lane]registry.LaneState{edgeclaim.LaneProv: {Lag: 3}}})
			return sum, err
		},
	}, slog.New(slog.DiscardHandler))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return "\n" + w.Body.String()
}

func TestMetrics(t *testing.T) {
	text := scrape(t, nil)
	for _, line := range []string{
		`edgehub_records_applied_total 7`,
		`edgehub_sessions 3`,
		`edgehub_document_lists_told_total 11`,
		`edgehub_document_parts_told_total 12`,
		`edgehub_document_reports_total 13`,
		`edgehub_share_requests_total 14`,
		`edgehub_shares_told_total 15`,
		`edgehub_verdicts_told_total 16`,
		`edgehub_nacks_total{code="retry"} 4`,
		`edgehub_refusals_total{code="fenced"} 5`,
		`edgehub_messages_discarded_total{reason="malformed"} 2`,
		`edgehub_broker_up{part="link"} 1`,
		`edgehub_broker_up{part="broker"} 0`,
		`edgehub_boxes{state="known"} 2`,
		`edgehub_boxes{state="online"} 1`,
		`edgehub_boxes{state="app"} 1`,
		`edgehub_max_lag_records{lane="prov"} 9`,
		`edgehub_commit_seconds_count 1`,
		`edgehub_commit_records_sum 7`,
		`edgehub_build_info{goversion="go1",version="v1"} 1`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

// When the database does not answer, what is counted can be read all the same.
func TestMetricsWithoutDatabase(t *testing.T) {
	text := scrape(t, errors.New("away"))
	if !strings.Contains(text, "\nedgehub_records_applied_total 7\n") || strings.Contains(text, "\nedgehub_boxes{") {
		t.Errorf("got%s", text)
	}
}

// What the documentation says to watch is there.
func TestMetricsOfTheDocumentation(t *testing.T) {
	document, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	text := scrape(t, nil)
	for _, name := range regexp.MustCompile(`edgehub_[a-z_]+`).FindAllString(string(document), -1) {
		if !strings.Contains(text, "\n# TYPE "+name+" ") {
			t.Errorf("%s is not a metric", name)
		}
	}
}
