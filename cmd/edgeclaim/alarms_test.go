package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"

	"github.com/google/go-cmp/cmp"
)

// What the program itself finds is counted, shown beside the rule's, and told
// once for each rise.
func TestAlarms(t *testing.T) {
	begin := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	at := func(minutes int) time.Time { return begin.Add(time.Duration(minutes) * time.Minute) }
	a := newAlarms(begin)
	a.raise(edgeclaim.AlarmCertificates, at(1))
	a.raise(edgeclaim.AlarmCertificates, at(2))
	a.countLost(5, at(3))
	a.countLost(5, at(4)) // nothing new
	want := []edgeclaim.AlarmCount{
		{Alarm: edgeclaim.AlarmAuditLost, Count: 5, Last: at(3)},
		{Alarm: edgeclaim.AlarmCertificates, Count: 2, Last: at(2)},
		{Alarm: edgeclaim.AlarmCloned, Count: 1, Last: at(0)},
	}
	if diff := cmp.Diff(want, a.with([]edgeclaim.AlarmCount{{Alarm: edgeclaim.AlarmCloned, Count: 1, Last: at(0)}})); diff != "" {
		t.Errorf("alarms (-want +got):\n%s", diff)
	}
	for _, alarm := range a.untold(at(5)) {
		if alarm.Since != begin || alarm.Until != at(5) {
			t.Errorf("told %+v", alarm)
		}
		a.tell(&alarm)
	}
	a.countLost(7, at(6))
	wantTold := []raisedAlarm{{Alarm: edgeclaim.AlarmAuditLost, Count: 2, Since: at(5), Until: at(7)}}
	if diff := cmp.Diff(wantTold, a.untold(at(7))); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

// records returns what the outbox has of a type.
func records(t *testing.T, b *box, kind edgeclaim.RecordType) (data []json.RawMessage) {
	t.Helper()
	all, err := b.db.Next(t.Context(), edgeclaim.Mark{Epoch: b.db.Epoch(), Lane: edgeclaim.LaneEvt}, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Type == kind {
			data = append(data, r.Data)
		}
	}
	return data
}

// A box whose audit log and certificate authority cannot be used starts, says so
// in its status and upstream, is not ready where a listener is missing, and
// changes nothing of what it could not read.
func TestDamagedTrustStarts(t *testing.T) {
	s := defaults()
	s.Data, s.HTTP.Address, s.MQTT.Limits.Address = t.TempDir(), "127.0.0.1:0", ""
	s.HTTP.TLSAddress = "127.0.0.1:0"
	s.MQTT.Limits.TLSAddress = "127.0.0.1:0" // so that nothing of MQTT is left
	if err := errors.Join(
		os.Mkdir(filepath.Join(s.Data, "ca"), 0o700),
		os.WriteFile(filepath.Join(s.Data, issuerFile), []byte("damaged"), 0o600),
		os.WriteFile(filepath.Join(s.Data, "audit"), []byte("a file where the folder has to be"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	b, err := openBox(t.Context(), s, cli.Build{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	status, err := b.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	risen := map[edgeclaim.Alarm]uint64{}
	for _, alarm := range status.Alarms {
		risen[alarm.Alarm] = alarm.Count
	}
	if risen[edgeclaim.AlarmAuditLost] != 1 || risen[edgeclaim.AlarmCertificates] != 1 {
		t.Errorf("alarms %v", status.Alarms)
	}
	if _, bound := status.Listeners[listenerHTTPS]; bound || len(status.Listeners) != 2 || status.Certificates[certificateCA].Problem == "" {
		t.Errorf("listeners %v, certificates %v", status.Listeners, status.Certificates)
	}
	if err := b.isReady(t.Context()); !errors.Is(err, errNoAuthority) {
		t.Errorf("ready: %v", err)
	}
	b.tellRisen(t.Context())
	b.tellRisen(t.Context()) // nothing new
	if told := records(t, b, edgeclaim.TypeAlarmRaised); len(told) != 2 {
		t.Errorf("told %s", told)
	}
	stop(t, b)
	if kept, err := os.ReadFile(filepath.Join(s.Data, issuerFile)); err != nil || string(kept) != "damaged" {
		t.Errorf("the damaged file is %q now, %v", kept, err)
	}
}

// stop runs a box for as long as it takes to stop.
func stop(t *testing.T, b *box) {
	t.Helper()
	ended, end := context.WithCancel(t.Context())
	end()
	if err := b.run(ended); err != nil {
		t.Fatal(err)
	}
}

// The end of the audit log is told at the start and at the stop, and the stop is
// in the log before it.
func TestHeadIsTold(t *testing.T) {
	s := defaults()
	s.Data, s.HTTP.Address, s.MQTT.Limits.Address = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	b, err := openBox(t.Context(), s, cli.Build{Version: "v1"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	stop(t, b)
	b, err = openBox(t.Context(), s, cli.Build{Version: "v1"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	told := records(t, b, edgeclaim.TypeAuditHead)
	last := b.audit.Head()
	stop(t, b)
	if len(told) != 2 {
		t.Fatalf("told %s, want a start and a stop", told)
	}
	var head struct {
		Sequence uint64 `json:"sequence"`
		Hash     string `json:"hash"`
		BoxID    string `json:"box_id"`
	}
	if err := json.Unmarshal(told[1], &head); err != nil {
		t.Fatal(err)
	}
	if head.Sequence != last.Sequence || head.Hash != last.Hash || head.BoxID == "" {
		t.Errorf("told %s; the log ended with %+v", told[1], last)
	}
}
