package edgeclaim_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"edgeclaim/bridge/wire"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const asyncAPI = "docs/protocol/asyncapi.yaml"

// asyncAPIDocument is docs/protocol/asyncapi.yaml as JSON values, with its
// aliases resolved, and what a test asks of its parts.
type asyncAPIDocument struct {
	root     map[string]any
	compiler *jsonschema.Compiler
}

func readAsyncAPI(t *testing.T) asyncAPIDocument {
	t.Helper()
	var parsed any
	if err := yaml.Unmarshal([]byte(read(t, asyncAPI)), &parsed); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	root, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	compiler.AssertContent()
	compiler.RegisterContentEncoding(&jsonschema.Decoder{Name: "base64url", Decode: base64.RawURLEncoding.Strict().DecodeString})
	if err := compiler.AddResource(asyncAPI, root); err != nil {
		t.Fatal(err)
	}
	return asyncAPIDocument{root.(map[string]any), compiler}
}

// part returns the object at a path of names.
func (d asyncAPIDocument) part(path ...string) map[string]any {
	at := d.root
	for _, name := range path {
		at, _ = at[name].(map[string]any)
	}
	return at
}

// channels returns the document's channels by address.
func (d asyncAPIDocument) channels() map[string]string {
	found := map[string]string{}
	for name, channel := range d.part("channels") {
		found[channel.(map[string]any)["address"].(string)] = name
	}
	return found
}

// message returns the schema of a channel's message.
func (d asyncAPIDocument) message(t *testing.T, channel, name string) *jsonschema.Schema {
	t.Helper()
	ref, ok := d.part("channels", channel, "messages", name)["$ref"].(string)
	if !ok || !resolves(d.root, ref) {
		t.Fatalf("channel %s: message %s leads to %q", channel, name, ref)
	}
	at := asyncAPI + ref + "/payload"
	if d.part("components", "messages", ref[strings.LastIndex(ref, "/")+1:], "payload")["schemaFormat"] != nil {
		at += "/schema"
	}
	schema, err := d.compiler.Compile(at)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestAsyncAPIIsWhole: references lead somewhere, in other files as well.
func TestAsyncAPIIsWhole(t *testing.T) {
	t.Parallel()
	d := readAsyncAPI(t)
	count := 0
	walk(d.root, "", func(pointer string, value map[string]any) {
		ref, ok := value["$ref"].(string)
		if !ok {
			return
		}
		count++
		file, inside, _ := strings.Cut(ref, "#")
		if file == "" {
			if !resolves(d.root, ref) {
				t.Errorf("%s: %s leads nowhere", pointer, ref)
			}
			return
		}
		var other map[string]any
		if err := json.Unmarshal([]byte(read(t, filepath.Join("docs/protocol", file))), &other); err != nil {
			t.Fatal(err)
		}
		if inside != "" && !resolves(other, "#"+inside) {
			t.Errorf("%s: %s leads nowhere", pointer, ref)
		}
	})
	if count < 40 {
		t.Errorf("%d references", count)
	}
}

// TestAsyncAPIHasEveryTopic: the channels upstream are the topics of the wire.
func TestAsyncAPIHasEveryTopic(t *testing.T) {
	t.Parallel()
	n := wire.Names{Site: "{site}", Box: "{box}"}
	want := []string{
		n.Up("prov"), n.Up("evt"), n.Up("tel"), n.Up(wire.KindControl), n.Up(wire.KindSnapshot), n.State(),
		n.Down(wire.KindControl), n.Down(wire.KindAck), n.Down(wire.KindCommand), n.Down(wire.KindDocument), wire.HostTopic,
		"devices/{device}/telemetry", "devices/{device}/presence", // as the configuration says unless told otherwise
	}
	d := readAsyncAPI(t)
	var got []string
	for address, name := range d.channels() {
		if servers, _ := json.Marshal(d.part("channels", name)["servers"]); strings.Contains(string(servers), "upstream") {
			got = append(got, address)
		}
		parameters := d.part("channels", name, "parameters")
		for _, parameter := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(address, -1) {
			if parameters[parameter[1]] == nil {
				t.Errorf("channel %s says nothing of %s", name, parameter[1])
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("topics (-wire +document):\n%s", diff)
	}
}

// TestAsyncAPIOperations: each channel is used, with the QoS that docs/protocol.md
// gives it, and nothing is retained but the states.
func TestAsyncAPIOperations(t *testing.T) {
	t.Parallel()
	d := readAsyncAPI(t)
	used := map[string]bool{}
	// What the box says on topics of a device, to it or of it: some pass both ways.
	both := map[string]bool{"telemetry": true, "commands": true}
	upstreamOnly := map[string]bool{"config": true, "presence": true}
	for name, value := range d.part("operations") {
		operation := value.(map[string]any)
		ref := operation["channel"].(map[string]any)["$ref"].(string)
		channel := strings.TrimPrefix(ref, "#/channels/")
		used[channel] = true
		if reply, ok := operation["reply"].(map[string]any); ok {
			used[strings.TrimPrefix(reply["channel"].(map[string]any)["$ref"].(string), "#/channels/")] = true
		}
		address := d.part("channels", channel)["address"].(string)
		mqtt := d.part("operations", name, "bindings", "mqtt")
		action, qos := "send", "1"
		switch {
		case strings.Contains(address, "/down/") || strings.Contains(address, "_host"):
			action, qos = "receive", "0"
		case strings.HasPrefix(address, "devices/") && strings.HasPrefix(name, "send") && both[channel]:
		case strings.HasPrefix(address, "devices/") && upstreamOnly[channel]:
		case strings.HasPrefix(address, "provision/") || strings.HasPrefix(address, "devices/"):
			action = "receive"
		}
		if operation["action"] != action || fmt.Sprint(mqtt["qos"]) != qos {
			t.Errorf("%s is %v at QoS %v, want %s at %s", name, operation["action"], mqtt["qos"], action, qos)
		}
		if retained := strings.HasSuffix(address, "/st") || channel == "presence"; mqtt["retain"] != retained {
			t.Errorf("%s: retain is %v, want %v", name, mqtt["retain"], retained)
		}
		if mqtt["bindingVersion"] != "0.2.0" {
			t.Errorf("%s: binding version %v", name, mqtt["bindingVersion"])
		}
	}
	for name := range d.part("channels") {
		if !used[name] {
			t.Errorf("channel %s has no operation", name)
		}
	}
}

// TestAsyncAPIMessages: each message of the protocol, and no other, passes on
// the channel that carries it.
func TestAsyncAPIMessages(t *testing.T) {
	t.Parallel()
	d := readAsyncAPI(t)
	shown := protocolExamples(t)
	for _, tc := range []struct{ channel, message, example string }{
		{"prov", "record", "cloudevent"}, {"evt", "record", "cloudevent"}, {"prov", "batch", "batch"}, {"evt", "batch", "batch"},
		{"control", "hello", "hello"}, {"control", "want", "want"}, {"snapshot", "snapshot", "snapshot"},
		{"state", "state", "state"}, {"host", "host", "host"},
		{"downControl", "welcome", "welcome"}, {"downControl", "refused", "refused"}, {"downControl", "again", "again"},
		{"downControl", "registry", "registry"}, {"ack", "ack", "ack"},
		{"tel", "record", "cloudevent"}, {"tel", "batch", "batch"}, {"control", "states", "states"}, {"command", "commands", "command"},
		{"control", "documents", "documents"}, {"control", "sharesWanted", "shares_want"}, {"document", "offers", "offers"},
		{"document", "document", "document"}, {"downControl", "shares", "shares"}, {"downControl", "verdicts", "verdicts"},
		{"config", "config", "config"}, {"presence", "presence", "presence"}, {"commands", "command", "told"}, {"events", "answer", "answer"},
	} {
		schema := d.message(t, tc.channel, tc.message)
		for name, example := range shown {
			if err := schema.Validate(example); (err == nil) != (name == tc.example) {
				t.Errorf("channel %s, message %s: example %s: %v", tc.channel, tc.message, name, err)
			}
		}
	}
	messages := 0
	for name := range d.part("channels") {
		messages += len(d.part("channels", name, "messages"))
	}
	// A device may say nearly anything, so these take the others too.
	for channel, message := range map[string][2]string{"telemetry": {"telemetry", "telemetry"}, "events": {"event", "telemetry"}, "commands": {"given", "given"}} {
		if err := d.message(t, channel, message[0]).Validate(shown[message[1]]); err != nil {
			t.Errorf("channel %s, message %s: %v", channel, message[0], err)
		}
	}
	if messages != 28+4+4+3 { // those above, the claim's, the rotation's and a device's
		t.Errorf("the channels have %d messages", messages)
	}
}

// TestAsyncAPICredentials: what a device is told of each type of credential, and
// what a box never says, on the channels of claims and of rotations.
func TestAsyncAPICredentials(t *testing.T) {
	t.Parallel()
	d := readAsyncAPI(t)
	const id = `"device_id":"8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33"`
	psk := `"psk_identity":"8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33","psk":"` + strings.Repeat("A", 43) + `"`
	for _, tc := range []struct {
		text            string
		claim, rotation bool
	}{
		{`{` + id + `,"api_key":"sk_live_x"}`, true, true},
		{`{` + id + `,"api_key":"",` + psk + `}`, true, true},
		{`{` + id + `,"api_key":"","certificate":"c","ca_chain":"r","private_key":"k","request_id":"7"}`, true, true},
		{`{` + id + `,"api_key":"","certificate":"c","ca_chain":"r","previous_until":"2026-10-04T09:12:33Z"}`, false, true},
		{`{"code":9,"message":"waiting for approval","details":[]}`, true, true},
		{`{` + id + `}`, false, false},
		{`{` + id + `,"api_key":"","psk":"` + strings.Repeat("A", 43) + `"}`, false, false},
		{`{` + id + `,"api_key":"","certificate":"c"}`, false, false},
		{`{` + id + `,"api_key":"","secret":"x"}`, false, false},
		{`{"code":7,"message":"permission denied","details":[],"reason":"x"}`, false, false},
	} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(tc.text))
		if err != nil {
			t.Fatal(err)
		}
		for channel, want := range map[string]bool{"claimResponse": tc.claim, "rotateResponse": tc.rotation} {
			if err := d.message(t, channel, "answer").Validate(value); (err == nil) != want {
				t.Errorf("%s: %s: %v", channel, tc.text, err)
			}
		}
	}
}

// protocolExamples returns one example of each message as it is on the wire,
// what comes down in an envelope.
func protocolExamples(t *testing.T) map[string]any {
	t.Helper()
	found := map[string]any{}
	for _, file := range []string{"cloudevent", "batch", "state", "host", "up", "down", "telemetry", "config", "presence", "command"} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(read(t, "docs/protocol/"+file+".schema.json")))
		if err != nil {
			t.Fatal(err)
		}
		document := value.(map[string]any)
		if list, ok := document["examples"].([]any); ok {
			found[file] = list[0]
		}
		defs, _ := document["$defs"].(map[string]any)
		for name, def := range defs {
			list, ok := def.(map[string]any)["examples"].([]any)
			if !ok {
				continue
			}
			if _, taken := found[name]; taken {
				name += "s" // the states of devices, beside the box's
			}
			found[name] = list[0]
			if file == "down" {
				text, err := json.Marshal(list[0])
				if err != nil {
					t.Fatal(err)
				}
				found[name] = map[string]any{
					"payload": base64.RawURLEncoding.EncodeToString(text), "key_id": "0123456789abcdef",
					"signature": strings.Repeat("A", 86),
				}
			}
		}
	}
	return found
}

// TestProtocolPageExamples: what docs/protocol.md shows of the claim, and of what
// devices say and are told, is what the document says of it.
func TestProtocolPageExamples(t *testing.T) {
	t.Parallel()
	d := readAsyncAPI(t)
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(read(t, "docs/protocol.md"), -1)
	if len(blocks) < 2 {
		t.Fatalf("%d blocks of JSON", len(blocks))
	}
	for _, block := range blocks {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(block[1]))
		if err != nil {
			t.Errorf("%v\n%s", err, block[1])
			continue
		}
		fits := 0
		for _, m := range [][2]string{
			{"claimRequest", "claim"}, {"claimResponse", "answer"}, {"commands", "command"}, {"commands", "given"}, {"events", "answer"},
			{"config", "config"}, {"presence", "presence"},
		} {
			if d.message(t, m[0], m[1]).Validate(value) == nil {
				fits++
			}
		}
		if fits == 0 && d.message(t, "telemetry", "telemetry").Validate(value) == nil { // many texts would do
			fits = 1
		}
		if fits != 1 {
			t.Errorf("%d messages look like this, want 1:\n%s", fits, block[1])
		}
	}
}
