package main

import (
	"bytes"
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
	"edgeclaim/cmd/internal/cli"
)

// scrape returns what Prometheus would read.
func scrape(t *testing.T, status edgeclaim.Status, err error) string {
	t.Helper()
	g := newGauges(cli.Build{Version: "v1", Go: "go1"})
	g.claim(edgeclaim.ViaHTTP, "minted", time.Millisecond)
	handler := g.handler(func(context.Context) (edgeclaim.Status, error) { return status, err }, slog.New(slog.DiscardHandler))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return "\n" + w.Body.String()
}

func someStatus() edgeclaim.Status {
	return edgeclaim.Status{
		Devices: 7,
		Outbox:  map[edgeclaim.Lane]edgeclaim.LaneStats{edgeclaim.LaneProv: {Pending: 3, OldestAge: 1.5, Parked: 6, Quarantined: 4}, edgeclaim.LaneEvt: {Dropped: 2}},
		Upstream: edgeclaim.UpstreamStatus{
			Link: edgeclaim.LampUp, Broker: edgeclaim.LampDown, App: edgeclaim.LampOff, URL: "mqtt://h:1883", Ack: "app",
			Enrolled: true, UpstreamID: "hub-7", InFlight: 12, Credit: 512, LastError: "not reachable",
			Alarms: []edgeclaim.AlarmCount{
				{Alarm: edgeclaim.AlarmForged, Count: 3, Last: time.Unix(1e9, 0)}, {Alarm: "from a later version", Count: 1},
			},
		},
		Clock:       edgeclaim.ClockStatus{Floor: time.Unix(1e9, 0), State: edgeclaim.ClockSynced},
		Connections: edgeclaim.ConnectionStatus{Claimants: 4, Devices: 5, Consumers: 6},
		Users:       edgeclaim.UsersStatus{Delivered: 21, Dropped: 22, LoginsRefused: 23},
		Telemetry: edgeclaim.TelemetryStatus{
			Online: 3, Accepted: 30, Rejected: map[string]uint64{"malformed": 2, "throttled": 0}, Fleeting: 5, FleetingDropped: 1,
			EventsWaiting: 9, EventsDropped: 10, Reserved: true,
		},
		Commands: edgeclaim.CommandsStatus{Waiting: 11},
		Pending:  8,
		Alarms:   []edgeclaim.AlarmCount{{Alarm: edgeclaim.AlarmCloned, Count: 2, Last: time.Unix(1e9, 0)}, {Alarm: "another", Count: 1}},
		Audit:    edgeclaim.AuditStatus{Sequence: 99, Hash: "abc", Lost: 1},
		Certificates: map[string]edgeclaim.CertificateStatus{
			"https": {NotAfter: time.Unix(2e9, 0), Problem: "no such file"}, "ca": {Problem: "damaged"},
		},
	}
}

func TestStateInMetrics(t *testing.T) {
	text := scrape(t, someStatus(), nil)
	for _, line := range []string{
		`edgeclaim_devices 7`,
		`edgeclaim_outbox_pending{lane="prov"} 3`,
		`edgeclaim_connections{kind="user"} 6`,
		`edgeclaim_user_messages_total{outcome="delivered"} 21`,
		`edgeclaim_user_messages_total{outcome="dropped"} 22`,
		`edgeclaim_user_logins_refused_total 23`,
		`edgeclaim_devices_online 3`,
		`edgeclaim_telemetry_accepted_total 30`,
		`edgeclaim_telemetry_rejected_total{reason="malformed"} 2`,
		`edgeclaim_telemetry_rejected_total{reason="throttled"} 0`,
		`edgeclaim_telemetry_qos0_total{outcome="forwarded"} 5`,
		`edgeclaim_telemetry_qos0_total{outcome="dropped"} 1`,
		`edgeclaim_device_events_waiting 9`,
		`edgeclaim_device_events_dropped_total 10`,
		`edgeclaim_telemetry_reserved 1`,
		`edgeclaim_commands_waiting 11`,
		`edgeclaim_outbox_oldest_age_seconds{lane="prov"} 1.5`,
		`edgeclaim_outbox_dropped_total{lane="evt"} 2`,
		`edgeclaim_upstream_up{part="link"} 1`,
		`edgeclaim_upstream_up{part="broker"} 0`,
		`edgeclaim_outbox_parked_total{lane="prov"} 6`,
		`edgeclaim_outbox_quarantined{lane="prov"} 4`,
		`edgeclaim_outbox_quarantined{lane="evt"} 0`,
		`edgeclaim_upstream_enrolled 1`,
		`edgeclaim_upstream_in_flight 12`,
		`edgeclaim_upstream_credit 512`,
		`edgeclaim_upstream_alarms_total{alarm="forged"} 3`,
		`edgeclaim_upstream_alarms_total{alarm="fenced"} 0`,
		`edgeclaim_clock_synced 1`,
		`edgeclaim_clock_floor_timestamp_seconds 1e+09`,
		`edgeclaim_connections{kind="claimant"} 4`,
		`edgeclaim_connections{kind="device"} 5`,
		`edgeclaim_build_info{goversion="go1",version="v1"} 1`,
		`edgeclaim_pending_claims 8`,
		`edgeclaim_alarms_total{alarm="device_cloned"} 2`,
		`edgeclaim_alarms_total{alarm="claims_throttled"} 0`,
		`edgeclaim_audit_lost_total 1`,
		`edgeclaim_audit_sequence 99`,
		`edgeclaim_certificate_not_after_seconds{for="https"} 2e+09`,
		`edgeclaim_certificate_usable{for="https"} 0`,
		`edgeclaim_certificate_usable{for="ca"} 0`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if strings.Contains(text, `part="app"`) {
		t.Error("a lamp that is off is shown")
	}
	if strings.Contains(text, "later version") || strings.Contains(text, "another") {
		t.Error("a label is not from a closed set")
	}
}

// Every kind of alarm that the nouns know has its counter.
func TestAlarmsAreAllCounted(t *testing.T) {
	nouns, err := os.ReadFile("../../status.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`\sAlarm = "([a-z_]+)"`).FindAllStringSubmatch(string(nouns), -1)
	if len(kinds) < 10 {
		t.Fatalf("%d kinds found", len(kinds))
	}
	text := scrape(t, edgeclaim.Status{}, nil)
	for _, kind := range kinds {
		line := `alarms_total{alarm="` + kind[1] + `"} 0` + "\n"
		if up, own := strings.Contains(text, "\nedgeclaim_upstream_"+line), strings.Contains(text, "\nedgeclaim_"+line); up == own {
			t.Errorf("%s: of upstream %t, of the line %t; want one of them", kind[1], up, own)
		}
	}
}

// What an operator has to know of the way up stands in the status.
func TestStatusText(t *testing.T) {
	status := someStatus()
	for name, want := range map[string][]string{
		"app, enrolled": {
			"upstream  link up, broker down, app off",
			"upstream url  mqtt://h:1883",
			"upstream error  not reachable",
			"upstream acknowledges  app: the application behind the broker",
			"upstream_id  hub-7",
			"enrolled  yes: only what the enrolled key has signed is taken from upstream",
			"upstream in flight  12 of 512",
			"ALARM forged  3, last 2001-09-09T01:46:40Z",
			"outbox prov  3 pending (0 bytes, oldest 2s), 0 appended, 0 acked, 0 dropped, 6 parked",
			"pending claims  8 wait for an operator: see edgeclaim approval list",
			"certificate https  until 2033-05-18T03:33:20Z; no such file",
			"certificate ca  until none; damaged",
			"audit  99 entries, 1 lost",
			"ALARM device_cloned  2, last 2001-09-09T01:46:40Z",
			"outbox quarantine  4 refused upstream for good, or behind one that was: see edgeclaim outbox list",
		},
		"app, anybody": {
			"enrolled  no: whoever may publish on this box's down/ topics can make it forget records",
		},
		"puback": {
			"upstream acknowledges  puback: the broker",
		},
	} {
		up := &status.Upstream
		up.Enrolled = name == "app, enrolled"
		if up.Ack = "app"; name == "puback" {
			up.Ack = name
		}
		var out bytes.Buffer
		if err := (&app{stdout: &out}).printStatus(status); err != nil {
			t.Fatal(err)
		}
		text := regexp.MustCompile(` {2,}`).ReplaceAllString(out.String(), "  ") // whatever the columns' width
		for _, line := range want {
			if !strings.Contains(text, "\n"+line+"\n") {
				t.Errorf("%s: no line %q in\n%s", name, line, &out)
			}
		}
		if name == "puback" && strings.Contains(out.String(), "\nenrolled") {
			t.Errorf("a box that is told nothing speaks of trust:\n%s", &out)
		}
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
