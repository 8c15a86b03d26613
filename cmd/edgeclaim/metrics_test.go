package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"edgeclaim"
)

// scrape returns what Prometheus would read.
func scrape(t *testing.T, status edgeclaim.Status, err error) string {
	t.Helper()
	g := newGauges(build{Version: "v1", Go: "go1"})
	g.claim(edgeclaim.ViaHTTP, "minted", time.Millisecond)
	handler := g.handler(func(context.Context) (edgeclaim.Status, error) { return status, err }, slog.New(slog.DiscardHandler))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return "\n" + w.Body.String()
}

func someStatus() edgeclaim.Status {
	return edgeclaim.Status{
		Devices:     7,
		Outbox:      map[edgeclaim.Lane]edgeclaim.LaneStats{edgeclaim.LaneProv: {Pending: 3, OldestAge: 1.5}, edgeclaim.LaneEvt: {Dropped: 2}},
		Upstream:    edgeclaim.UpstreamStatus{Link: edgeclaim.LampUp, Broker: edgeclaim.LampDown, App: edgeclaim.LampOff},
		Clock:       edgeclaim.ClockStatus{Floor: time.Unix(1e9, 0), State: edgeclaim.ClockSynced},
		Connections: edgeclaim.ConnectionStatus{Claimants: 4, Devices: 5},
	}
}

func TestStateInMetrics(t *testing.T) {
	text := scrape(t, someStatus(), nil)
	for _, line := range []string{
		`edgeclaim_devices 7`,
		`edgeclaim_outbox_pending{lane="prov"} 3`,
		`edgeclaim_outbox_oldest_age_seconds{lane="prov"} 1.5`,
		`edgeclaim_outbox_dropped_total{lane="evt"} 2`,
		`edgeclaim_upstream_up{part="link"} 1`,
		`edgeclaim_upstream_up{part="broker"} 0`,
		`edgeclaim_clock_synced 1`,
		`edgeclaim_clock_floor_timestamp_seconds 1e+09`,
		`edgeclaim_connections{kind="claimant"} 4`,
		`edgeclaim_connections{kind="device"} 5`,
		`edgeclaim_build_info{goversion="go1",version="v1"} 1`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if strings.Contains(text, `part="app"`) {
		t.Error("a lamp that is off is shown")
	}
}

// When the state cannot be read, what is counted can be all the same.
func TestMetricsWithoutState(t *testing.T) {
	text := scrape(t, edgeclaim.Status{}, errors.New("closing"))
	if !strings.Contains(text, `edgeclaim_claims_total{face="http",outcome="minted"} 1`) {
		t.Errorf("no claims in\n%s", text)
	}
	if strings.Contains(text, "edgeclaim_devices ") {
		t.Error("a state that could not be read is shown")
	}
}

// What the documentation says to watch is there.
func TestMetricsOfTheDocumentation(t *testing.T) {
	document, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	text := scrape(t, someStatus(), nil)
	names := regexp.MustCompile(`edgeclaim_[a-z_]+`).FindAllString(string(document), -1)
	if len(names) == 0 {
		t.Error("the documentation names no metric")
	}
	for _, name := range names {
		if !strings.Contains(text, "\n# TYPE "+name+" ") {
			t.Errorf("%s is not a metric", name)
		}
	}
}
