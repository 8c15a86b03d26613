package protocolschema_test

import (
	"encoding"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/protocolschema"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// documents are the schemas' files as JSON, by name.
type documents map[string]any

func read(t *testing.T) documents {
	t.Helper()
	folder, err := protocolschema.Folder()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.schema.json"))
	if err != nil || len(files) < 8 {
		t.Fatalf("%d schemas, %v", len(files), err)
	}
	all := documents{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(file)] = decode(t, text)
	}
	return all
}

// follow returns the schema that a reference from a file names, and its file.
func (d documents) follow(t *testing.T, file, ref string) (string, map[string]any) {
	t.Helper()
	name, pointer, _ := strings.Cut(ref, "#")
	if name == "" {
		name = file
	}
	value := d[name]
	for _, step := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		if step != "" {
			value, _ = value.(map[string]any)[step]
		}
	}
	schema, ok := value.(map[string]any)
	if !ok {
		t.Fatalf("%s: %s leads nowhere", file, ref)
	}
	return name, schema
}

// shape is what a schema says of an object's members: each one's own schema and
// the file that it is in, and which must be there.
type shape struct {
	members  map[string]place
	required []string
}

type place struct {
	file   string
	schema map[string]any
}

func (d documents) shape(t *testing.T, at place) shape {
	t.Helper()
	s := shape{members: map[string]place{}}
	if ref, ok := at.schema["$ref"].(string); ok {
		file, schema := d.follow(t, at.file, ref)
		s = d.shape(t, place{file, schema})
	}
	properties, _ := at.schema["properties"].(map[string]any)
	for name, schema := range properties {
		s.members[name] = place{at.file, schema.(map[string]any)}
	}
	required, _ := at.schema["required"].([]any)
	for _, name := range required {
		s.required = append(s.required, name.(string))
	}
	slices.Sort(s.required)
	return s
}

// field is a member as a Go struct says it.
type field struct {
	kind     reflect.Type
	optional bool
}

func fields(kind reflect.Type) map[string]field {
	found := map[string]field{}
	for _, f := range reflect.VisibleFields(kind) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if options == "inline" || name == "" || name == "-" {
			continue // its own fields are visible too, or it is never said
		}
		found[name] = field{f.Type, strings.Contains(options, "omit")}
	}
	return found
}

// TestSchemasNameEveryMember holds the schemas against the Go structs: the same
// members, and those that are always written, and no others, must be there.
func TestSchemasNameEveryMember(t *testing.T) {
	t.Parallel()
	docs := read(t)
	messages := map[string]any{
		"enrolment#": &wire.Enrolment{},
		"batch#": &struct {
			wire.BatchHead `json:",inline"`
			Data           []wire.Event `json:"data"`
		}{},
	}
	for _, s := range samples(t) {
		if s.value != nil {
			messages[s.schema] = s.value
		}
	}
	if len(messages) < 12 {
		t.Fatalf("%d messages", len(messages))
	}
	for schema, message := range messages {
		name, pointer, _ := strings.Cut(schema, "#")
		file, at := docs.follow(t, name+".schema.json", "#"+pointer)
		docs.compare(t, schema, place{file, at}, reflect.TypeOf(message).Elem())
	}
}

func (d documents) compare(t *testing.T, path string, at place, kind reflect.Type) {
	t.Helper()
	schema, members := d.shape(t, at), fields(kind)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(members)), slices.Sorted(maps.Keys(schema.members))); diff != "" {
		t.Errorf("%s (-the program +the schema):\n%s", path, diff)
	}
	var always []string
	for name, f := range members {
		if !f.optional {
			always = append(always, name)
		}
		below, ok := schema.members[name]
		if !ok {
			continue
		}
		d.descend(t, path+"/"+name, below, f.kind)
	}
	slices.Sort(always)
	if diff := cmp.Diff(always, schema.required); diff != "" {
		t.Errorf("%s is required (-the program +the schema):\n%s", path, diff)
	}
}

// descend compares what is inside a member.
func (d documents) descend(t *testing.T, path string, at place, kind reflect.Type) {
	t.Helper()
	for kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	if kind == reflect.TypeFor[jsontext.Value]() {
		return // each type of event has its own
	}
	if ref, ok := at.schema["$ref"].(string); ok && at.schema["properties"] == nil {
		file, schema := d.follow(t, at.file, ref)
		at = place{file, schema}
	}
	want := ""
	switch kind.Kind() {
	case reflect.Bool:
		want = "boolean"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		want = "integer"
	case reflect.Map:
		for lane, below := range d.shape(t, at).members {
			d.descend(t, path+"/"+lane, below, kind.Elem())
		}
		want = "object"
	case reflect.Slice:
		if kind.Elem().Kind() == reflect.Uint8 {
			want = "string"
			break
		}
		d.descend(t, path+"/0", place{at.file, at.schema["items"].(map[string]any)}, kind.Elem())
		want = "array"
	case reflect.Struct:
		if !kind.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
			d.compare(t, path, at, kind)
			want = "object"
		}
	}
	if got, _ := at.schema["type"].(string); want != "" && got != want {
		t.Errorf("%s is %q in the schema, %q in the program", path, got, want)
	}
}

// TestSchemasHaveExamples that fit, one at least for each message.
func TestSchemasHaveExamples(t *testing.T) {
	t.Parallel()
	schemas := load(t, true)
	count := 0
	for file, document := range read(t) {
		name := strings.TrimSuffix(file, ".schema.json")
		shown := []any{document}
		defs, _ := document.(map[string]any)["$defs"].(map[string]any)
		for _, def := range defs {
			if def.(map[string]any)["title"] != nil {
				shown = append(shown, def)
			}
		}
		for _, schema := range shown {
			examples, _ := schema.(map[string]any)["examples"].([]any)
			if title := schema.(map[string]any)["title"]; len(examples) == 0 && !slices.Contains(shownElsewhere, name+": "+title.(string)) {
				t.Errorf("%s: %s has no example", file, title)
			}
			for _, example := range examples {
				count++
				text, err := json.Marshal(example)
				if err != nil {
					t.Fatal(err)
				}
				if err := schemas.Validate(name, text); err != nil {
					t.Errorf("%s: %v\n%s", file, err, text)
				}
				if topic := topicOf(example); topic != "" {
					if strings.Contains(topic, "/down/") {
						text = envelope(text)
					}
					if err := schemas.Check(topic, text); err != nil {
						t.Errorf("%s: %v\n%s", file, err, text)
					}
				}
			}
		}
	}
	if count < 14 {
		t.Errorf("%d examples", count)
	}
}

// shownElsewhere have their examples at their messages, or in a batch.
var shownElsewhere = []string{
	"up: What a box says under up/ctl and up/snap",
	"down: What the application says to a box, inside the envelope",
	"envelope: How everything comes down",
	"command: What passes about a command between the box and who works with it",
}

// topicOf says where an example of a box's session would be said.
func topicOf(example any) string {
	object := example.(map[string]any)
	switch kind, _ := object["type"].(string); {
	case kind == "hello" || kind == "want" || kind == "state" || kind == "documents" || object["wants"] != nil:
		return names().Up(wire.KindControl)
	case kind == "snapshot":
		return names().Up(wire.KindSnapshot)
	case kind == "command":
		return names().Down(wire.KindCommand)
	case kind == "offers" || kind == "document":
		return names().Down(wire.KindDocument)
	case kind == "ack":
		return names().Down(wire.KindAck)
	case object["lane"] != nil:
		return names().Up(object["lane"].(string))
	case object["nonce"] != nil:
		return names().Down(wire.KindControl)
	}
	return ""
}

// TestSchemasNameEveryWord: where the program has a closed set of words, the
// schema has the same.
func TestSchemasNameEveryWord(t *testing.T) {
	t.Parallel()
	docs := read(t)
	status := []any{wire.Online, wire.Offline}
	lanes := []any{string(edgeclaim.LaneProv), string(edgeclaim.LaneEvt), string(edgeclaim.LaneTel)}
	presence := []any{string(edgeclaim.PresenceOnline), string(edgeclaim.PresenceOffline)}
	var types []any
	for _, kind := range edgeclaim.DocumentTypes() {
		types = append(types, string(kind))
	}
	clocks := []any{string(edgeclaim.ClockSynced), string(edgeclaim.ClockUnsynced)}
	for _, tc := range []struct {
		at   string
		want []any
	}{
		{"up#/properties/type", []any{
			wire.TypeHello, wire.TypeWant, wire.TypeSnapshot, wire.TypeState, wire.TypeDocuments, wire.TypeShares,
		}},
		{"up#/$defs/hello/properties/clk", clocks},
		{"up#/$defs/want/properties/what", []any{wire.WantRegistry, wire.WantDocument, wire.WantOffers}},
		{"up#/$defs/document_id/properties/type", types},
		{"up#/$defs/device/properties/status", []any{
			string(edgeclaim.DeviceActive), string(edgeclaim.DeviceReleased), string(edgeclaim.DeviceRevoked),
		}},
		{"up#/$defs/device/properties/claimed_via", []any{string(edgeclaim.ViaMQTT), string(edgeclaim.ViaHTTP)}},
		{"up#/$defs/device/properties/rotated_by", []any{string(edgeclaim.RotatorDevice), string(edgeclaim.RotatorOperator)}},
		{"up#/$defs/credential/properties/type", []any{
			string(edgeclaim.CredentialAPIKey), string(edgeclaim.CredentialPSK), string(edgeclaim.CredentialX509),
		}},
		{"down#/properties/type", []any{
			wire.TypeWelcome, wire.TypeRefused, wire.TypeAgain, wire.TypeAck, wire.TypeRegistry, wire.TypeCommand,
			wire.TypeOffers, wire.TypeDocument, wire.TypeShares, wire.TypeVerdicts,
		}},
		{"down#/$defs/nack/properties/lane", lanes},
		{"down#/$defs/nack/properties/code", []any{string(wire.NackRetry), string(wire.NackPermanent), string(wire.NackGap)}},
		{"down#/$defs/refused/properties/code", []any{
			string(wire.RefusedStale), string(wire.RefusedFenced), string(wire.RefusedVersion), string(wire.RefusedUnknown),
		}},
		{"batch#/properties/lane", lanes},
		{"cloudevent#/properties/lane", lanes},
		{"cloudevent#/properties/clk", clocks},
		{"up#/$defs/device_state/properties/presence", presence},
		{"presence#/properties/presence", presence},
		{"cloudevent#/$defs/command_status/properties/status", []any{
			string(edgeclaim.CommandQueued), string(edgeclaim.CommandSent), string(edgeclaim.CommandDelivered), string(edgeclaim.CommandSuccessful),
			string(edgeclaim.CommandFailed), string(edgeclaim.CommandExpired), string(edgeclaim.CommandCancelled),
		}},
		{"cloudevent#/$defs/command_status/properties/origin", []any{
			string(edgeclaim.OriginUpstream), string(edgeclaim.OriginOperator), string(edgeclaim.OriginLocal),
		}},
		{"cloudevent#/$defs/gap/properties/lane", lanes},
		{"state#/properties/status", status},
		{"host#/properties/status", status},
	} {
		name, pointer, _ := strings.Cut(tc.at, "#")
		_, schema := docs.follow(t, name+".schema.json", "#"+pointer)
		if diff := cmp.Diff(tc.want, schema["enum"]); diff != "" {
			t.Errorf("%s (-the program +the schema):\n%s", tc.at, diff)
		}
	}
}
