package wire_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// states tells of two devices: one with all there is, one with the least.
func states(t testing.TB) *wire.States {
	t.Helper()
	d := device(t)
	r := record()
	r.Lane, r.Type, r.Device, r.Data = edgeclaim.LaneTel, edgeclaim.TypeTelemetry, d.ID, []byte(`{"values":{"t":21.50}}`)
	event, err := wire.EncodeEvent(names, epoch, r)
	if err != nil {
		t.Fatal(err)
	}
	return &wire.States{
		Type: wire.TypeState, Box: "box42", Epoch: epoch, Nonce: nonce, Reset: true, Upto: 7,
		Devices: []wire.DeviceState{
			{
				DeviceState: edgeclaim.DeviceState{
					Device: d.ID, Tenant: d.Tenant, Presence: edgeclaim.PresenceOnline, Since: when, Seen: when.Add(time.Second),
				},
				Telemetry: event,
			},
			{DeviceState: edgeclaim.DeviceState{Device: d.ID, Tenant: d.Tenant, Presence: edgeclaim.PresenceOffline, Since: when}},
		},
	}
}

// commands gives one, with a time and without, and takes one back.
func commands(t testing.TB, head wire.Head) *wire.Commands {
	t.Helper()
	id, err := edgeclaim.ParseCommandID("update-17")
	if err != nil {
		t.Fatal(err)
	}
	name := wire.OrderName{ID: id, Device: device(t).ID}
	return &wire.Commands{
		Head: head,
		Commands: []wire.Order{
			{OrderName: name, ExpiresAt: when, Payload: jsontext.Value(`{"relay":"on"}`)},
			{OrderName: name, Payload: jsontext.Value(`null`)},
		},
		Cancel: []wire.OrderName{name},
	}
}

// TestStateBytes pins what other programs read.
func TestStateBytes(t *testing.T) {
	text, err := wire.Encode(states(t))
	if err != nil {
		t.Fatal(err)
	}
	id := device(t).ID.String()
	want := `{"type":"state","box_id":"box42","epoch":"` + epoch + `","nonce":"` + nonce + `","reset":true,"upto":7,"devices":[` +
		`{"device_id":"` + id + `","tenant_id":"6f6f6f6f-0000-4000-8000-000000000001","presence":"online",` +
		`"presence_since":"2026-10-04T09:12:33.000005Z","last_seen":"2026-10-04T09:12:34.000005Z",` +
		`"telemetry":{"specversion":"1.0","id":"` + epoch + `-tel-00000000000000000005","source":"urn:edgeclaim:box42","type":"telemetry",` +
		`"subject":"` + id + `","time":"2026-10-04T09:12:33.000005Z","recordedtime":"2026-10-04T09:12:33.000005Z",` +
		`"datacontenttype":"application/json","sequence":"00000000000000000005","partitionkey":"` + id + `","epoch":"` + epoch + `",` +
		`"lane":"tel","bootid":"5f0c2a3e","clk":"synced","data":{"values":{"t":21.50}}}},` +
		`{"device_id":"` + id + `","tenant_id":"6f6f6f6f-0000-4000-8000-000000000001","presence":"offline",` +
		`"presence_since":"2026-10-04T09:12:33.000005Z"}]}`
	if string(text) != want {
		t.Errorf("\n%s\nwant\n%s", text, want)
	}
}

func TestCommandBytes(t *testing.T) {
	text, err := wire.Encode(commands(t, wire.Head{Type: wire.TypeCommand, Box: "box42", Epoch: epoch, Nonce: nonce, Time: when}))
	if err != nil {
		t.Fatal(err)
	}
	id := device(t).ID.String()
	want := `{"type":"command","box_id":"box42","epoch":"` + epoch + `","nonce":"` + nonce + `","time":"2026-10-04T09:12:33.000005Z",` +
		`"commands":[{"command_id":"update-17","device_id":"` + id + `","expires_at":"2026-10-04T09:12:33.000005Z","payload":{"relay":"on"}},` +
		`{"command_id":"update-17","device_id":"` + id + `","payload":null}],` +
		`"cancel":[{"command_id":"update-17","device_id":"` + id + `"}]}`
	if string(text) != want {
		t.Errorf("\n%s\nwant\n%s", text, want)
	}
}

func TestDecodeStatesRefuses(t *testing.T) {
	good, _ := wire.Encode(states(t))
	id := device(t).ID.String()
	for _, tc := range []struct{ old, new, field string }{
		{`"upto":7`, `"upto":0`, "upto"},
		{`"upto":7`, `"upto":-1`, "message"},
		{`"reset":true,"upto":7,"devices":[`, `"upto":0,"ignored":[`, "upto"},
		{`"device_id":"` + id + `"`, `"other":1`, "devices"},
		{`"device_id":"` + id + `"`, `"device_id":"x"`, "message"},
		{`"tenant_id":"6f6f6f6f-0000-4000-8000-000000000001"`, `"other":1`, "devices"},
		{`"presence":"offline"`, `"presence":"away"`, "devices"},
		{`"devices":[`, `"devices":[` + strings.Repeat("{},", wire.MaxEntries), "devices"},
		{nonce, "short", "nonce"},
	} {
		if !strings.Contains(string(good), tc.old) {
			t.Fatalf("no %s in %s", tc.old, good)
		}
		text := strings.Replace(string(good), tc.old, tc.new, 1)
		_, err := wire.DecodeUp(names, []byte(text))
		var invalid *edgeclaim.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != tc.field {
			t.Errorf("%.80s for %s: %v, want field %s", tc.new, tc.old, err, tc.field)
		}
	}
}

func TestDecodeCommandsRefuses(t *testing.T) {
	good, _ := wire.Encode(commands(t, wire.Head{Type: wire.TypeCommand, Box: "box42", Epoch: epoch, Nonce: nonce, Time: when}))
	for _, tc := range []struct{ old, new, field string }{
		{`"payload":null`, `"other":1`, "commands"},
		{`"command_id":"update-17",`, ``, "commands"},
		{`"update-17"`, `"up/date"`, "message"},
		{`"update-17"`, `""`, "message"},
		{`"expires_at":"2026`, `"expires_at":"later`, "message"},
		{`"cancel":[`, `"cancel":[{"command_id":"x"},`, "cancel"},
		{`"commands":[`, `"commands":[` + strings.Repeat("{},", wire.MaxEntries), "commands"},
	} {
		if !strings.Contains(string(good), tc.old) {
			t.Fatalf("no %s in %s", tc.old, good)
		}
		text := strings.Replace(string(good), tc.old, tc.new, 1)
		_, err := wire.DecodeDown([]byte(text))
		var invalid *edgeclaim.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != tc.field {
			t.Errorf("%.80s for %s: %v, want field %s", tc.new, tc.old, err, tc.field)
		}
	}
}
