package telemetry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"

	"edgeclaim"
	"edgeclaim/telemetry"
)

func schema(t testing.TB, text string) *edgeclaim.TelemetrySchema {
	t.Helper()
	var s edgeclaim.TelemetrySchema
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// profiled has devices inherit a schema.
func profiled(s *edgeclaim.TelemetrySchema) func(edgeclaim.TenantID, string) edgeclaim.Inherited {
	in := edgeclaim.Inherited{Profile: &edgeclaim.Profile{ID: "p", Schema: s}, Version: 1}
	return func(edgeclaim.TenantID, string) edgeclaim.Inherited { return in }
}

// TestSchema: what a schema says of a point, in either form, and which metric an
// error names.
func TestSchema(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		schema, body string
		field        string // at fault; empty: it is taken
	}{
		{`{}`, `{"a":1}`, ""},
		{`{"properties":{"a":{}}}`, `{"a":"x","b":1}`, ""},
		{`{"properties":{"a":{"type":"number"}}}`, `{"a":-1.5e3}`, ""},
		{`{"properties":{"a":{"type":"number"}}}`, `{"a":"1"}`, "a"},
		{`{"properties":{"a":{"type":"string"}}}`, `{"a":1}`, "a"},
		{`{"properties":{"a":{"type":"string"}}}`, `{"a":""}`, ""},
		{`{"properties":{"a":{"type":"integer"}}}`, `{"a":1}`, ""},
		{`{"properties":{"a":{"type":"integer"}}}`, `{"a":1.0}`, ""}, // JSON Schema: no fraction, however it is written
		{`{"properties":{"a":{"type":"integer"}}}`, `{"a":15e-1}`, "a"},
		{`{"properties":{"a":{"type":"integer"}}}`, `{"a":-2e3}`, ""},
		{`{"properties":{"a":{"type":"integer"}}}`, `{"a":"x"}`, "a"},
		{`{"properties":{"a":{"minimum":1,"maximum":2}}}`, `{"a":1}`, ""},
		{`{"properties":{"a":{"minimum":1,"maximum":2}}}`, `{"a":2.0}`, ""},
		{`{"properties":{"a":{"minimum":1,"maximum":2}}}`, `{"a":0.999}`, "a"},
		{`{"properties":{"a":{"minimum":1,"maximum":2}}}`, `{"a":2.001}`, "a"},
		{`{"properties":{"a":{"minimum":1,"maximum":2}}}`, `{"a":"of texts it says nothing"}`, ""},
		{`{"properties":{"a":{"minimum":0}}}`, `{"a":-0}`, ""},
		{`{"properties":{"a":{"enum":["on","off"]}}}`, `{"a":"off"}`, ""},
		{`{"properties":{"a":{"enum":["on","off"]}}}`, `{"a":"o\u0066f"}`, ""},
		{`{"properties":{"a":{"enum":["on","off"]}}}`, `{"a":"Off"}`, "a"},
		{`{"properties":{"a":{"enum":["on","off"]}}}`, `{"a":1}`, "a"},
		{`{"properties":{"a":{"maxLength":2}}}`, `{"a":"äö"}`, ""}, // characters
		{`{"properties":{"a":{"maxLength":2}}}`, `{"a":"\ud83d\ude00x"}`, ""},
		{`{"properties":{"a":{"maxLength":2}}}`, `{"a":"abc"}`, "a"},
		{`{"properties":{"a":{"maxLength":0}}}`, `{"a":""}`, ""},
		{`{"properties":{"a":{"maxLength":0}}}`, `{"a":"x"}`, "a"},
		{`{"properties":{"a":{"maxLength":0}}}`, `{"a":123}`, ""},
		{`{"required":["b","a","b"]}`, `{"c":1,"a":1,"b":1}`, ""},
		{`{"required":["b","a"]}`, `{"c":1}`, "b"},
		{`{"required":["b","a"]}`, `{"b":1}`, "a"},
		{`{"required":["device_id"]}`, `{"b":1}`, "device_id"},
		{`{"properties":{"a":{}},"additionalProperties":true}`, `{"b":1}`, ""},
		{`{"properties":{"a":{}},"additionalProperties":false}`, `{"a":1}`, ""},
		{`{"properties":{"a":{}},"additionalProperties":false}`, `{"a":1,"b":2}`, "b"},
		{`{"properties":{"a":{"type":"string"}}}`, `{"\u0061":1}`, "a"},
		{`{"required":["b"],"additionalProperties":false}`, `{"b":1}`, "b"}, // nothing fits
		{`{"additionalProperties":false}`, `{"b":1}`, "b"},
		{wholeSchema, flatBody, ""},
	} {
		s := schema(t, tt.schema)
		b := newBox(t, func(b *box) { b.parts.Inherited = profiled(s) })
		_, err := b.Telemetry(t.Context(), report(t, 1, tt.body))
		tt.field = checkFault(t, tt.schema+" "+tt.body, err, tt.field)
		rejected := uint64(0)
		if tt.field != "" {
			rejected = 1
		}
		if got := b.Status().Rejected["schema"]; got != rejected {
			t.Errorf("%s %s: %d are counted", tt.schema, tt.body, got)
		}
		// The platform's form of the same: the metric's own place goes before its name.
		body, places := platformOf(t, tt.body)
		if place := places[tt.field]; place != "" {
			tt.field = place + "." + tt.field
		}
		_, err = b.Telemetry(t.Context(), report(t, 1, body))
		checkFault(t, tt.schema+" "+body, err, tt.field)
		b.stop()
	}
}

func checkFault(t *testing.T, what string, err error, field string) string {
	t.Helper()
	var fault *edgeclaim.InvalidError
	switch {
	case field == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case field != "" && (!errors.As(err, &fault) || fault.Field != field):
		t.Errorf("%s: %v, want %s at fault", what, err, field)
	}
	return field
}

// platformOf writes a flat point in the platform's form, and says where each
// metric is.
func platformOf(t *testing.T, flat string) (body string, places map[string]string) {
	t.Helper()
	var metrics map[string]json.RawMessage
	if err := json.Unmarshal([]byte(flat), &metrics); err != nil {
		t.Fatal(err)
	}
	parts := map[string]map[string]json.RawMessage{}
	places = map[string]string{}
	for name, value := range metrics {
		places[name] = "numeric_values"
		if value[0] == '"' {
			places[name] = "string_values"
		}
		if parts[places[name]] == nil {
			parts[places[name]] = map[string]json.RawMessage{}
		}
		parts[places[name]][name] = value
	}
	text, err := json.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), places
}

// TestSchemaOfAnArray: what does not fit is refused and counted, the others of
// its array are kept; a point that names its own device is none the worse.
func TestSchemaOfAnArray(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) {
		b.parts.Inherited = profiled(schema(t, `{"properties":{"a":{"maximum":10},"s":{"maxLength":3}},"required":["a"],"additionalProperties":false}`))
	})
	receipt := b.say(1, `[{"numeric_values":{"a":1}},{"numeric_values":{"a":11}},{"string_values":{"s":"on"}},{"numeric_values":{"a":2},"string_values":{"s":"on"}},
		{"numeric_values":{"a":3},"string_values":{"s":"onoff"}},{"numeric_values":{"a":4,"b":1}}]`)
	if receipt.Accepted != 2 || receipt.Rejected != 4 || len(receipt.Points) != 2 {
		t.Errorf("%+v", receipt)
	}
	if got := b.Status().Rejected; got["schema"] != 4 || got["malformed"] != 0 {
		t.Errorf("counted %v", got)
	}
	b.say(1, fmt.Sprintf(`{"a":5,"device_id":%q}`, admission(t, 1).Device))
	b.say(1, fmt.Sprintf(`{"device_id":%q,"timestamp":12,"numeric_values":{"a":6}}`, admission(t, 1).Device))
	if receipt := b.say(1, `[{"numeric_values":{"a":11}},{"numeric_values":{"a":12}}]`); receipt.Accepted != 0 || receipt.Rejected != 2 || receipt.Commit != nil {
		t.Errorf("%+v", receipt)
	}
	var kept []string
	for _, r := range b.next(0) {
		kept = append(kept, text(r))
	}
	if len(kept) != 4 {
		t.Errorf("kept %q", kept)
	}
	if _, ok := b.State(admission(t, 2).Device); ok {
		t.Fatal("known before")
	}
	if _, err := b.Telemetry(t.Context(), report(t, 2, `{"a":11}`)); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Error(err)
	}
	if _, ok := b.State(admission(t, 2).Device); ok {
		t.Error("who says nothing that fits is at work")
	}
}

// TestSchemaHolds: the profile's goes before the tenant's, and a new version holds
// for the next point; what is compiled is bounded.
func TestSchemaHolds(t *testing.T) {
	t.Parallel()
	var in inheritance
	b := newBox(t, func(b *box) { b.parts.Inherited = in.of })
	taken := func(body string) bool {
		r := report(t, 1, body)
		r.By.Profile = "sensor"
		_, err := b.Telemetry(t.Context(), r)
		return err == nil
	}
	wants := func(what string, metric ...string) {
		t.Helper()
		for _, m := range []string{"a", "b", "c"} {
			if got := taken(fmt.Sprintf(`{%q:1}`, m)); got != slices.Contains(metric, m) {
				t.Errorf("%s: %s is taken: %v", what, m, got)
			}
		}
	}
	only := func(m string) *edgeclaim.TelemetrySchema {
		return schema(t, fmt.Sprintf(`{"properties":{%q:{}},"additionalProperties":false}`, m))
	}
	wants("nothing is inherited", "a", "b", "c")
	in.set(1, edgeclaim.Profile{Schema: only("a")})
	wants("the tenant's", "a")
	in.set(2, edgeclaim.Profile{Schema: only("a")}, edgeclaim.Profile{ID: "other", Schema: only("c")})
	wants("the tenant's, and another's", "a")
	in.set(3, edgeclaim.Profile{Schema: only("a")}, edgeclaim.Profile{ID: "sensor", Schema: only("b")})
	wants("the profile's", "b")
	in.set(4, edgeclaim.Profile{Schema: only("a")}, edgeclaim.Profile{ID: "sensor"})
	wants("the profile has none", "a")
	if n := b.Schemas(); n != 1 {
		t.Errorf("%d schemas are kept of one tenant's version that uses one", n)
	}
	in.set(5, edgeclaim.Profile{}, edgeclaim.Profile{ID: "sensor", Schema: only("c")})
	wants("the profile's once more", "c")
	in.set(6, edgeclaim.Profile{})
	wants("none is left", "a", "b", "c")

	profiles := []edgeclaim.Profile{{}}
	for n := range 2 * telemetry.MaxSchemas {
		profiles = append(profiles, edgeclaim.Profile{ID: fmt.Sprint(n), Schema: only("a")})
	}
	in.set(7, profiles...)
	for n := range 2 * telemetry.MaxSchemas {
		r := report(t, 1, `{"b":1}`)
		r.By.Profile = fmt.Sprint(n)
		if _, err := b.Telemetry(t.Context(), r); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Fatalf("profile %d: %v", n, err)
		}
	}
	if n := b.Schemas(); n != telemetry.MaxSchemas {
		t.Errorf("%d schemas are kept, want %d", n, telemetry.MaxSchemas)
	}
}

// FuzzSchema: the compiled schema and a slow and plain judge of the same.
func FuzzSchema(f *testing.F) {
	by := admission(f, 1)
	for _, text := range []string{
		`{}`, wholeSchema, `{"properties":{"a":{"type":"integer","minimum":1}},"required":["a","b"]}`, `{"additionalProperties":false}`,
		`{"properties":{"a":{"enum":["x","ä"],"maxLength":1}}}`,
	} {
		for _, body := range []string{flatBody, `{"a":1}`, `{"a":"x"}`, `{"a":1.0,"b":2}`, `{"a":"\u00e4"}`, `{"a":1e999}`} {
			f.Add([]byte(text), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, text, body []byte) {
		var s edgeclaim.TelemetrySchema
		if json.Unmarshal(text, &s) != nil {
			t.Skip()
		}
		plain := telemetry.NewLooker()
		if strings.Contains(string(body), "_values") || !plain.Look(body, by.Device) {
			t.Skip() // of the platform's form, or no point
		}
		want := fits(t, &s, body)
		if got := plain.Under(&s).Look(body, by.Device); got != want {
			t.Errorf("%s under %s: %v, want %v", body, text, got, want)
		}
	})
}

// fits is the judge's word on a flat point.
func fits(t *testing.T, s *edgeclaim.TelemetrySchema, body []byte) bool {
	var point map[string]any
	if err := jsonv2.Unmarshal(body, &point); err != nil {
		t.Fatal(err)
	}
	for _, name := range s.Required {
		if _, ok := point[name]; !ok {
			return false
		}
	}
	for name, value := range point {
		rule, declared := s.Properties[name]
		if !declared && s.Additional != nil && !*s.Additional && name != "device_id" {
			return false
		}
		number, isNumber := value.(float64)
		text, _ := value.(string)
		switch {
		case rule.Type == edgeclaim.MetricNumber && !isNumber, rule.Type == edgeclaim.MetricText && isNumber:
			return false
		case rule.Type == edgeclaim.MetricInteger && (!isNumber || math.Mod(number, 1) != 0):
			return false
		case isNumber && rule.Minimum != nil && number < *rule.Minimum, isNumber && rule.Maximum != nil && number > *rule.Maximum:
			return false
		case len(rule.Enum) > 0 && (isNumber || !slices.Contains(rule.Enum, text)):
			return false
		case !isNumber && rule.MaxLength != nil && *rule.MaxLength >= 0 && utf8.RuneCountInString(text) > *rule.MaxLength:
			return false
		}
	}
	return true
}
