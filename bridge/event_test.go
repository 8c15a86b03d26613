package bridge_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"edgeclaim"
	"edgeclaim/bridge"
)

const protocol = "../docs/protocol"

var identity = bridge.Identity{Site: site, Box: box, Version: "1.2.3"}

// provisioned is a record as the rule makes it.
func provisioned(t testing.TB) edgeclaim.Record {
	t.Helper()
	r := newRecord(edgeclaim.LaneProv, 1234)
	r.Data = []byte(`{"device_id":"` + r.Device.String() + `","tenant_id":"` + tenant + `","hardware_id":"board-1234",` +
		`"box_id":"box42","site":"plant-7","name":"Pump <3> & ü","template_id":"t-1","key_id":"k-1",` +
		`"credential":{"type":"api_key","sha256":"` + strings.Repeat("ab", 32) + `"},` +
		`"claimed_via":"mqtt","claimed_at":"2026-10-04T09:12:33Z"}`)
	return r
}

// TestEventBytes pins the bytes: a version that changed them would resend a
// record with the same id and other bytes.
func TestEventBytes(t *testing.T) {
	own := newRecord(edgeclaim.LaneEvt, 7)
	own.Data = []byte("{\n  \"reason\": \"unknown_key\"\n}\n")
	rubbish := newRecord(edgeclaim.LaneEvt, 8)
	rubbish.Data, rubbish.Boot, rubbish.Clock = []byte("{\"\xff\":1}"), "", ""
	rubbish.Time = time.Date(1970, 1, 1, 1, 0, 0, 0, time.FixedZone("", 3600))
	for _, tc := range []struct {
		name   string
		record edgeclaim.Record
		want   string
	}{
		{"device", provisioned(t), `{"specversion":"1.0","id":"01K0ABCDEFGHJKMNPQRSTVWXYZ-prov-00000000000000001234",` +
			`"source":"urn:edgeclaim:box42","type":"device.provisioned","subject":"DEVICE",` +
			`"time":"2026-10-04T09:12:33.001234Z","recordedtime":"2026-10-04T09:12:33.001234Z",` +
			`"datacontenttype":"application/json","sequence":"00000000000000001234","partitionkey":"DEVICE",` +
			`"epoch":"01K0ABCDEFGHJKMNPQRSTVWXYZ","lane":"prov","bootid":"5f0c2a3e-6a0f-4d1e-9b7e-2f6b8a1c0d9e","clk":"synced","data":DATA}`},
		{"the box's own, on one line", own, `{"specversion":"1.0","id":"01K0ABCDEFGHJKMNPQRSTVWXYZ-evt-00000000000000000007",` +
			`"source":"urn:edgeclaim:box42","type":"claim.refused",` +
			`"time":"2026-10-04T09:12:33.000007Z","recordedtime":"2026-10-04T09:12:33.000007Z",` +
			`"datacontenttype":"application/json","sequence":"00000000000000000007",` +
			`"epoch":"01K0ABCDEFGHJKMNPQRSTVWXYZ","lane":"evt","bootid":"5f0c2a3e-6a0f-4d1e-9b7e-2f6b8a1c0d9e","clk":"synced","data":{"reason":"unknown_key"}}`},
		{"not JSON", rubbish, `{"specversion":"1.0","id":"01K0ABCDEFGHJKMNPQRSTVWXYZ-evt-00000000000000000008",` +
			`"source":"urn:edgeclaim:box42","type":"claim.refused",` +
			`"time":"1970-01-01T00:00:00Z","recordedtime":"1970-01-01T00:00:00Z",` +
			`"datacontenttype":"application/octet-stream","sequence":"00000000000000000008",` +
			`"epoch":"01K0ABCDEFGHJKMNPQRSTVWXYZ","lane":"evt","data_base64":"eyL/IjoxfQ=="}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := strings.ReplaceAll(tc.want, "DEVICE", tc.record.Device.String())
			want = strings.ReplaceAll(want, "DATA", string(tc.record.Data))
			got, err := bridge.Encode(identity, epoch, &tc.record)
			if err != nil || string(got) != want {
				t.Errorf("got  %s\nwant %s\nerror %v", got, want, err)
			}
		})
	}
}

func TestEventsKeepTheSchema(t *testing.T) {
	schema := compile(t, "cloudevent.schema.json")
	other := provisioned(t)
	for _, tc := range []struct {
		kind edgeclaim.RecordType
		lane edgeclaim.Lane
		data string
		ok   bool
	}{
		{edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, string(other.Data), true},
		{edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, `{"device_id":"` + other.Device.String() + `"}`, false},
		{edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneEvt, string(other.Data), false},
		{edgeclaim.TypeDeviceReleased, edgeclaim.LaneProv, `{"device_id":"` + other.Device.String() + `","tenant_id":"` + tenant +
			`","hardware_id":"H","box_id":"b","site":"s","released_at":"2026-10-04T09:12:33.5Z"}`, true},
		{edgeclaim.TypeClaimRefused, edgeclaim.LaneEvt, `{"reason":"unknown_key","via":"http","count":2,` +
			`"since":"2026-10-04T09:12:00Z","until":"2026-10-04T09:13:00Z","box_id":"b","site":"s"}`, true},
		{edgeclaim.TypeClockChanged, edgeclaim.LaneEvt, `{"before":"1970-01-01T00:00:00Z","after":"2026-10-04T09:12:00Z",` +
			`"offset_seconds":-1.5,"state":"synced"}`, true},
		{edgeclaim.TypeGap, edgeclaim.LaneEvt, `{"lane":"evt","from":1,"to":5,"count":5,"reason":"quota"}`, true},
		{edgeclaim.TypeGap, edgeclaim.LaneEvt, `{"lane":"evt","reason":"quota"}`, false},
		{edgeclaim.TypeGap, edgeclaim.LaneProv, `{"lane":"prov","from":7,"to":7,"count":1,"reason":"damaged"}`, true},
		{edgeclaim.TypeGap, edgeclaim.LaneEvt, `{"lane":"prov","reason":"registry_set_aside"}`, true},
		{edgeclaim.TypeGap, edgeclaim.LaneEvt, `{"lane":"evt"}`, false},
		{"a.later.type", edgeclaim.LaneEvt, `{}`, true},
		{"a.later.type", edgeclaim.LaneEvt, `not JSON`, true}, // told as bytes
	} {
		r := newRecord(tc.lane, 5)
		r.Type, r.Data = tc.kind, []byte(tc.data)
		if strings.HasPrefix(string(tc.kind), "device.") {
			r.Device = other.Device
		}
		text, err := bridge.Encode(identity, epoch, &r)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(t, schema, text); (err == nil) != tc.ok {
			t.Errorf("%s\nkeeps the schema: %v, want %v: %v", text, err == nil, tc.ok, err)
		}
	}
}

// TestTrafficKeepsTheSchema holds what a bridge really sends against both
// schemas, and its topics against the AsyncAPI document.
func TestTrafficKeepsTheSchema(t *testing.T) {
	var got told
	outbox := newMemory()
	outbox.add(edgeclaim.LaneProv, 1)
	outbox.lanes[edgeclaim.LaneProv].records[0].Data = provisioned(t).Data
	b := start(t, quick(listen(t, "", got.broker()).url()), outbox)
	outbox.awaitAcked(t, edgeclaim.LaneProv, 1)
	b.stop()
	got.check(t, edgeclaim.LaneProv, 1) // checks the topics
	for _, payload := range got.payloads {
		if err := check(t, compile(t, "cloudevent.schema.json"), []byte(payload)); err != nil {
			t.Errorf("%s: %v", payload, err)
		}
	}
	if len(got.states) != 2 {
		t.Errorf("%d states, want online and offline", len(got.states))
	}
	for _, payload := range got.states {
		if err := check(t, compile(t, "state.schema.json"), []byte(payload)); err != nil {
			t.Errorf("%s: %v", payload, err)
		}
	}
	var doc struct {
		Channels map[string]struct{ Address string }
	}
	text, err := os.ReadFile(filepath.Join(protocol, "asyncapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	for channel, want := range map[string]string{"prov": root + "/up/prov", "evt": root + "/up/evt", "state": root + "/st"} {
		address := strings.NewReplacer("{site}", site, "{box}", box).Replace(doc.Channels[channel].Address)
		if address != want {
			t.Errorf("channel %s is %s in the document, %s on the wire", channel, address, want)
		}
	}
}

func compile(t testing.TB, name string) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(protocol, name))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func check(t testing.TB, schema *jsonschema.Schema, text []byte) error {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return schema.Validate(value)
}

func TestConfigRefuses(t *testing.T) {
	if c := quick("mqtt://localhost"); c.Validate() != nil {
		t.Fatalf("the defaults with a URL: %v", c.Validate())
	}
	type edit = func(*bridge.Config)
	url := func(text string) edit { return func(c *bridge.Config) { c.URL = text } }
	for _, tc := range []struct {
		edit  edit
		field string // empty: accepted
	}{
		{url("mqtt://h"), ""}, {url("mqtt://h:1/"), ""}, {url("mqtts://[::1]"), ""}, {url("mqtt://u:p@h"), ""},
		{url(""), "url"}, {url("h:1883"), "url"}, {url("http://h"), "url"}, {url("mqtt://"), "url"},
		{url("mqtt://h:0"), "url"}, {url("mqtt://h:65536"), "url"}, {url("mqtt://h/p"), "url"},
		{url("mqtt://h?q"), "url"}, {url("mqtt://:p@h"), "url"}, {url("mqtt://u:hunter2@h:x"), "url"},
		{url("mqtt://u:hunter2@h\x7f"), "url"},
		{func(c *bridge.Config) { c.URL, c.Username = "mqtt://u:p@h", "v" }, "username"},
		{func(c *bridge.Config) { c.PasswordFile = "f" }, "password_file"},
		{func(c *bridge.Config) { c.URL, c.CertFile = "mqtts://h", "f" }, "cert_file"},
		{func(c *bridge.Config) { c.CAFile = "f" }, "url"},
		{func(c *bridge.Config) { c.Ack = "app" }, ""},
		{func(c *bridge.Config) { c.Ack = "none" }, "ack"},
		{func(c *bridge.Config) { c.WelcomeTimeout = 0 }, "welcome_timeout"},
		{func(c *bridge.Config) { c.ProbeLimit = 1 }, "probe_limit"},
		{func(c *bridge.Config) { c.StartSpread = -1 }, "start_spread"},
		{func(c *bridge.Config) { c.StartSpread = 0 }, ""},
		{func(c *bridge.Config) { c.SpreadAfter = 0 }, "spread_after"},
		{func(c *bridge.Config) { c.Ack = "" }, "ack"},
		{func(c *bridge.Config) { c.Window = 0 }, "window"},
		{func(c *bridge.Config) { c.Window = bridge.MaxWindow + 1 }, "window"},
		{func(c *bridge.Config) { c.ReadBatch = 0 }, "read_batch"},
		{func(c *bridge.Config) { c.KeepAlive = 1500 * time.Millisecond }, "keep_alive"},
		{func(c *bridge.Config) { c.KeepAlive = 0 }, "keep_alive"},
		{func(c *bridge.Config) { c.WriteTimeout = 0 }, "write_timeout"},
		{func(c *bridge.Config) { c.ConnectTimeout = 0 }, "connect_timeout"},
		{func(c *bridge.Config) { c.AckTimeout = 0 }, "ack_timeout"},
		{func(c *bridge.Config) { c.AckFlush = 0 }, "ack_flush"},
		{func(c *bridge.Config) { c.StopTimeout = 0 }, "stop_timeout"},
		{func(c *bridge.Config) { c.StableAfter = 0 }, "stable_after"},
		{func(c *bridge.Config) { c.BackoffBase = 0 }, "backoff_base"},
		{func(c *bridge.Config) { c.BackoffLimit = 1 }, "backoff_limit"},
	} {
		c := quick("mqtt://localhost")
		tc.edit(&c)
		err := c.Validate()
		var invalid *edgeclaim.InvalidError
		switch {
		case tc.field == "" && err != nil:
			t.Errorf("%q: %v", c.URL, err)
		case tc.field != "" && (!errors.As(err, &invalid) || invalid.Field != tc.field):
			t.Errorf("%+v: error %v, want field %s", c, err, tc.field)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestIdentityRefuses(t *testing.T) {
	for _, bad := range []string{"", "a/b", "+", "#", "ü", "a b", strings.Repeat("x", 65)} {
		for field, id := range map[string]bridge.Identity{"site": {Site: bad, Box: "b"}, "box_id": {Site: "s", Box: bad}} {
			_, err := bridge.New(quick("mqtt://h"), newMemory().parts(), id, nil)
			var invalid *edgeclaim.InvalidError
			if !errors.As(err, &invalid) || invalid.Field != field {
				t.Errorf("%q: error %v, want field %s", bad, err, field)
			}
		}
	}
}

// FuzzURL: a URL that is accepted is shown without its user, and one that is
// refused is not repeated.
func FuzzURL(f *testing.F) {
	for _, seed := range []string{"mqtt://h", "mqtts://u:p@[::1]:1", "mqtt://@h", "http://x", "mqtt://u:p%40@h/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, err := bridge.New(quick(text), newMemory().parts(), identity, nil)
		if err != nil {
			if len(text) > 20 && strings.Contains(err.Error(), text) {
				t.Errorf("%q is repeated in %v", text, err)
			}
			return
		}
		if shown := b.Status().URL; strings.Contains(shown, "@") {
			t.Errorf("%q is shown as %q", text, shown)
		}
	})
}
