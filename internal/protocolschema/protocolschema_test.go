package protocolschema_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"edgeclaim/bridge/wire"
	"edgeclaim/internal/protocolschema"

	"github.com/google/go-cmp/cmp"
)

func load(t *testing.T, closed bool) *protocolschema.Schemas {
	t.Helper()
	folder, err := protocolschema.Folder()
	if err != nil {
		t.Fatal(err)
	}
	schemas, err := protocolschema.Load(folder, closed)
	if err != nil {
		t.Fatal(err)
	}
	return schemas
}

// envelope is one that nobody signed: the schemas do not judge signatures.
func envelope(payload []byte) []byte {
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Appendf(nil, `{"payload":%q,"key_id":"0123456789abcdef","signature":%q}`, b64(payload), b64(make([]byte, ed25519.SignatureSize)))
}

// TestMessagesKeepTheSchemas: what the wire package writes fits, and reads back
// as the same message.
func TestMessagesKeepTheSchemas(t *testing.T) {
	t.Parallel()
	for _, s := range samples(t) {
		payload := s.text
		if down, ok := s.value.(wire.Down); ok {
			sealed, err := wire.Seal(key(), down)
			if err != nil {
				t.Fatal(err)
			}
			public, _ := key().Public().(ed25519.PublicKey)
			opened, err := wire.Open(public, sealed)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(decode(t, s.text), decode(t, opened)); diff != "" {
				t.Errorf("%s (-said +opened):\n%s", s.name, diff)
			}
			payload = sealed
		}
		if err := protocolschema.Check(s.topic, payload); err != nil {
			t.Errorf("%s: %v\n%s", s.name, err, s.text)
		}
		if diff := cmp.Diff(decode(t, s.text), decode(t, s.again(t, s.text))); diff != "" {
			t.Errorf("%s (-said +read):\n%s", s.name, diff)
		}
	}
}

// TestEnrolmentKeepsItsSchema: what a box takes, and nothing else.
func TestEnrolmentKeepsItsSchema(t *testing.T) {
	t.Parallel()
	schemas := load(t, true)
	public, _ := key().Public().(ed25519.PublicKey)
	other := bytes.Repeat([]byte{7}, ed25519.PublicKeySize)
	for _, e := range []wire.Enrolment{
		{Type: wire.EnrolmentType, Upstream: "hub-1", Key: base64.RawURLEncoding.EncodeToString(public)},
		{Type: "edgeclaim.enrolment.v2", Upstream: "hub-1", Key: base64.RawURLEncoding.EncodeToString(public)},
		{Type: wire.EnrolmentType, Key: base64.RawURLEncoding.EncodeToString(public)},
		{Type: wire.EnrolmentType, Upstream: "hub-1", Key: base64.RawURLEncoding.EncodeToString(public[1:])},
		{Type: wire.EnrolmentType, Upstream: "hub-1", Key: base64.StdEncoding.EncodeToString(public)},
		{Type: wire.EnrolmentType, Upstream: "hub-1", Key: base64.RawURLEncoding.EncodeToString(public), SealKey: base64.RawURLEncoding.EncodeToString(public)},
		{Type: wire.EnrolmentType, Upstream: "hub-1", Key: base64.RawURLEncoding.EncodeToString(public), SealKey: base64.RawURLEncoding.EncodeToString(public[1:])},
		{Type: wire.EnrolmentType, Upstream: "hub-1", Key: base64.RawURLEncoding.EncodeToString(public), DocumentKey: base64.RawURLEncoding.EncodeToString(other)},
		{Type: wire.EnrolmentType, Upstream: "hub-1", Key: base64.RawURLEncoding.EncodeToString(public), DocumentKey: base64.RawURLEncoding.EncodeToString(other[1:])},
	} {
		text := encode(t)(&e, nil)
		_, _, decoded := wire.DecodeEnrolment(text)
		if err := schemas.Validate("enrolment", text); (err == nil) != (decoded == nil) {
			t.Errorf("%s: the schema says %v, the program %v", text, err, decoded)
		}
	}
}

// TestSchemasHold: a member left out, of another type or not known is seen, at
// every place of every message. A schema that lets all pass holds nothing.
func TestSchemasHold(t *testing.T) {
	t.Parallel()
	closed, published := load(t, true), load(t, false)
	removed := 0
	for _, s := range samples(t) {
		paths := places(t, s.text)
		if len(paths) < 3 {
			t.Fatalf("%s: %d members", s.name, len(paths))
		}
		for _, path := range paths {
			changed := edit(t, s.text, path, func(object map[string]any, name string) { object[name] = nil })
			if !inData(path) && published.Check(s.topic, s.onWire(t, changed)) == nil {
				t.Errorf("%s: null at %q passes", s.name, path)
			}
			if strings.Contains(path, "/tags/") {
				continue // a tag may have any name, and its value is a text
			}
			more := edit(t, s.text, path, func(object map[string]any, _ string) { object["a_later_member"] = 1 })
			if err := published.Check(s.topic, s.onWire(t, more)); err != nil {
				t.Errorf("%s: a member beside %q is not passed over: %v", s.name, path, err)
			}
			if !inData(path) && !strings.Contains(path, "evt") && !strings.Contains(path, "prov") && !strings.Contains(path, "/tel") && closed.Check(s.topic, s.onWire(t, more)) == nil {
				t.Errorf("%s: a member beside %q may be sent", s.name, path)
			}
			less := edit(t, s.text, path, func(object map[string]any, name string) { delete(object, name) })
			if published.Check(s.topic, s.onWire(t, less)) != nil {
				removed++
			}
		}
	}
	if removed < 150 {
		t.Errorf("%d members were missed when they were gone", removed)
	}
}

// inData reports whether a path leads into the data of an event of a type that
// no schema knows, or to a command's payload, which may be anything.
func inData(path string) bool {
	return strings.Contains(path, "/x") || strings.HasSuffix(path, "/payload")
}

// places lists every member of a JSON text, as a path of names and indices.
func places(t *testing.T, text []byte) []string {
	t.Helper()
	var found []string
	var visit func(value any, path string)
	visit = func(value any, path string) {
		switch value := value.(type) {
		case map[string]any:
			for name, below := range value {
				found = append(found, path+"/"+name)
				visit(below, path+"/"+name)
			}
		case []any:
			for i, below := range value {
				visit(below, fmt.Sprint(path, "/", i))
			}
		}
	}
	visit(decode(t, text), "")
	slices.Sort(found)
	return found
}

// edit returns the text with the object that holds the member at path changed.
func edit(t *testing.T, text []byte, path string, change func(object map[string]any, name string)) []byte {
	t.Helper()
	root := decode(t, text)
	value := root
	names := strings.Split(path[1:], "/")
	for _, name := range names[:len(names)-1] {
		switch at := value.(type) {
		case map[string]any:
			value = at[name]
		case []any:
			var i int
			if _, err := fmt.Sscan(name, &i); err != nil {
				t.Fatal(err)
			}
			value = at[i]
		}
	}
	change(value.(map[string]any), names[len(names)-1])
	changed, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func decode(t *testing.T, text []byte) any {
	t.Helper()
	var value any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// TestCheckRefuses what no schema can say.
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	text := map[string][]byte{}
	for _, s := range samples(t) {
		text[s.name] = s.onWire(t, s.text)
	}
	swap := func(name, old, replacement string) []byte {
		changed := bytes.ReplaceAll(text[name], []byte(old), []byte(replacement))
		if bytes.Equal(changed, text[name]) {
			t.Fatalf("%s has no %s", name, old)
		}
		return changed
	}
	const base = "edgeclaim/v1/plant-7/box-17"
	for _, tc := range []struct {
		name    string
		topic   string
		payload []byte
	}{
		{"another box's hello", "edgeclaim/v1/plant-7/box-18/up/ctl", text["hello"]},
		{"another site's hello", "edgeclaim/v1/plant-8/box-17/up/ctl", text["hello"]},
		{"another box's state", "edgeclaim/v1/plant-7/box-18/st", text["state"]},
		{"another box's record", "edgeclaim/v1/plant-7/box-18/up/prov", text["record"]},
		{"another box's batch", "edgeclaim/v1/plant-7/box-18/up/prov", text["batch"]},
		{"another box's welcome", "edgeclaim/v1/plant-7/box-18/down/ctl", text["welcome"]},
		{"another lane's record", base + "/up/evt", text["record"]},
		{"another lane's batch", base + "/up/evt", text["batch"]},
		{"hello as a snapshot", base + "/up/snap", text["hello"]},
		{"snapshot as a hello", base + "/up/ctl", text["snapshot"]},
		{"ack as a welcome", base + "/down/ctl", text["ack"]},
		{"welcome as an ack", base + "/down/ack", text["welcome"]},
		{"a bare welcome", base + "/down/ctl", sampleText(t, "welcome")},
		{"an unknown type", base + "/up/ctl", swap("want", `"type":"want"`, `"type":"wish"`)},
		{"an unknown topic", base + "/up/log", text["record"]},
		{"a topic without a box", "edgeclaim/v1/st", text["state"]},
		{"a topic of others", "devices/1/state", text["state"]},
		{"an ack as a command", base + "/down/cmd", text["ack"]},
		{"a command as an ack", base + "/down/ack", text["command"]},
		{"offers as a welcome", base + "/down/ctl", text["offers"]},
		{"shares as a document", base + "/down/doc", text["shares"]},
		{"shares wanted, as an answer", base + "/down/ctl", envelope(sampleText(t, "shares wanted"))},
		{"a part of nothing", base + "/up/ctl", swap("want of a part", `"version":7,`, ``)},
		{"a part of the registry", base + "/up/ctl", swap("want of a part", `"what":"document"`, `"what":"registry"`)},
		{"no JSON", base + "/st", []byte(`{`)},
		{"an empty message", base + "/st", nil},
		{"a large message", base + "/st", append(text["state"], bytes.Repeat([]byte(" "), 100_000)...)},
		{"a wrong count", base + "/up/prov", swap("batch", `"count":2`, `"count":3`)},
		{"an event below first", base + "/up/prov", swap("batch", `0000000003`, `0000000006`)},
		{"an event above last", base + "/up/prov", swap("batch", `0000000009`, `0000000007`)},
		{"an event twice", base + "/up/prov", swap("batch", `0000000008`, `0000000005`)},
		{"first above last", base + "/up/prov", swap("batch of nothing", `0000000009`, `0000000002`)},
		{"first of nothing", base + "/up/prov", swap("batch of nothing", `0000000003`, `0000000000`)},
		{"a batch under another id", base + "/up/prov", swap("batch of nothing", `"id":"01K0A`, `"id":"01K0B`)},
		{"a record under another id", base + "/up/prov", swap("record", `"id":"01K0A`, `"id":"01K0B`)},
		{"an event of another epoch", base + "/up/prov", swap("batch", `"sequence":"00000000000000000005","epoch":"01K0A`, `"sequence":"00000000000000000005","epoch":"01K0B`)},
	} {
		if err := protocolschema.Check(tc.topic, tc.payload); err == nil {
			t.Errorf("%s passes: %s", tc.name, tc.payload)
		}
	}
}

// sampleText returns a sample without its envelope.
func sampleText(t *testing.T, name string) []byte {
	t.Helper()
	for _, s := range samples(t) {
		if s.name == name {
			return s.text
		}
	}
	t.Fatalf("no sample %s", name)
	return nil
}

// TestDeviceTopics: what passes between a device and its box, and what the box
// tells of it upstream on topics of that form.
func TestDeviceTopics(t *testing.T) {
	t.Parallel()
	closed := load(t, true)
	const id = "8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33"
	const told = `{"command_id":"c","expires_at":"2026-03-04T05:06:07Z","expires_in":9,"payload":null}`
	for _, tc := range []struct {
		kind, text string
		good       bool
	}{
		{"telemetry", `{"temperature":21.5,"state":"on"}`, true},
		{"telemetry", `{"timestamp":1.7e9,"numeric_values":{"a":1}}`, true},
		{"telemetry", `[{"numeric_values":{"a":1}},{"device_id":"x","timestamp":"2026-03-04T05:06:07Z","string_values":{"b":"c"}}]`, true},
		{"telemetry", `{"a":true}`, false}, {"telemetry", `{"a":{"b":1}}`, false}, {"telemetry", `[]`, false}, {"telemetry", `{}`, false},
		{"telemetry", `{"numeric_values":{"a":"1"}}`, false}, {"telemetry", `[{"a":1},{"numeric_values":{"a":1}}]`, true}, {"telemetry", `[{"a":true}]`, false}, {"telemetry", `{"":1}`, false},
		{"events", `{"door":"open","x":[1]}`, true}, {"events", `[1]`, false}, {"events", `"open"`, false},
		{"events", `{"command_id":"c","status":"successful","result":null}`, true},
		{"events", `{"command_id":"c","status":"queued"}`, false},
		{"commands", told, true}, {"commands", `{"payload":1}`, true}, {"commands", `{"command_id":"c","expires_in":5,"payload":{}}`, true},
		{"commands", `{"payload":1,"expires_in":5,"expires_at":"2026-03-04T05:06:07Z","by":"me"}`, false}, {"commands", `{"command_id":"c"}`, false},
		{"config", `{"version":0,"config":{}}`, true}, {"config", `{"version":1,"config":[]}`, false},
		{"presence", `{"device_id":"` + id + `","presence":"offline","presence_since":"2026-03-04T05:06:07Z"}`, true},
		{"presence", `{"device_id":"9f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33","presence":"offline","presence_since":"2026-03-04T05:06:07Z"}`, false},
		{"presence", `{"device_id":"` + id + `","presence":"away","presence_since":"2026-03-04T05:06:07Z"}`, false},
	} {
		if err := closed.Check("devices/"+id+"/"+tc.kind, []byte(tc.text)); (err == nil) != tc.good {
			t.Errorf("%s %s: %v, want it good: %v", tc.kind, tc.text, err, tc.good)
		}
	}
}

func TestCheckStick(t *testing.T) {
	t.Parallel()
	schemas := load(t, true)
	hello, batch, want := sampleText(t, "hello"), sampleText(t, "batch"), sampleText(t, "want")
	foreign := bytes.ReplaceAll(batch, []byte(nonce), []byte("AAAAAAAAAAAAAAAAAAAAAA"))
	file := func(lines ...[]byte) []byte { return append(bytes.Join(lines, []byte("\n")), '\n') }
	for _, good := range [][]byte{file(hello), file(hello, batch), file(hello, batch, batch)} {
		if err := schemas.CheckStick(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "no hello": file(batch), "two hellos": file(hello, hello), "a want": file(hello, want),
		"another session": file(hello, foreign), "cut short": file(hello, batch[:40]), "an empty line": file(hello, nil, batch),
	} {
		if schemas.CheckStick(bad) == nil {
			t.Errorf("%s passes", name)
		}
	}
}
