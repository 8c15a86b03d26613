package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"

	"github.com/rogpeppe/go-internal/testscript"
)

// says FILE BOX COMMAND OTHER writes the export of a box on which the device of
// H-1 has done COMMAND and never heard of OTHER, which somebody gave there, and
// has measured twice.
func says(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: says FILE BOX COMMAND OTHER")
	}
	box := teller{ts: ts, box: args[1]}
	for n := 1; n <= 2; n++ { // as export has it
		event, err := claimed(box.names(), box.epoch(), uint64(n))
		ts.Check(err)
		box.add(edgeclaim.LaneProv, event)
	}
	const status = `{"command_id":%q,"device_id":%q,"tenant_id":%q,"at":"2026-10-04T09:12:33Z","expires_at":"2026-10-04T10:12:33Z",%s}`
	for _, c := range []struct{ id, members string }{
		{args[2], `"status":"queued","origin":"upstream","attempts":0`},
		{args[2], `"status":"successful","origin":"upstream","attempts":1,"result":{"position":100}`},
		{args[3], `"status":"expired","origin":"local","by":"plc","attempts":0,"reason":"not_listening"`},
	} {
		box.about(edgeclaim.LaneEvt, edgeclaim.TypeCommandStatus, fmt.Sprintf(status, c.id, deviceOf(ts, 1), tenantID, c.members))
	}
	for n := range 2 {
		box.about(edgeclaim.LaneTel, edgeclaim.TypeTelemetry,
			fmt.Sprintf(`{"device_id":%q,"tenant_id":%q,"values":{"position":%d}}`, deviceOf(ts, 1), tenantID, n))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), box.file(), 0o600))
}

// TestPresence: a device is online where one box says so, and a box that is there
// counts more than one that is away.
func TestPresence(t *testing.T) {
	held := func(presence edgeclaim.Presence, boxOnline bool) registry.Holding {
		return registry.Holding{Presence: presence, BoxOnline: boxOnline}
	}
	on, off := edgeclaim.PresenceOnline, edgeclaim.PresenceOffline
	for _, tc := range []struct {
		holdings []registry.Holding
		want     string
	}{
		{nil, ""}, {[]registry.Holding{held("", true)}, ""},
		{[]registry.Holding{held(on, true)}, "online"}, {[]registry.Holding{held(on, false)}, "online (box away)"},
		{[]registry.Holding{held(off, true), held(on, true)}, "online"},
		{[]registry.Holding{held(on, true), held(on, false)}, "online"},
		{[]registry.Holding{held(on, false), held(on, true)}, "online"},
		{[]registry.Holding{held(off, true), held(on, false)}, "online (box away)"},
		{[]registry.Holding{held("", true), held(off, true)}, "offline"},
	} {
		if got := presence(tc.holdings); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.holdings, got, tc.want)
		}
	}
}

// The statuses that may be asked for are those that commands have.
func TestCommandStatuses(t *testing.T) {
	if got := strings.Join(commandStatuses(), " "); got != "pending queued sent delivered successful failed expired cancelled" {
		t.Error(got)
	}
}
