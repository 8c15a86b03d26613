package telemetry_test

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
	"edgeclaim/telemetry"
)

func admission(t testing.TB, n int) edgeclaim.Admission {
	t.Helper()
	tenant, err := edgeclaim.ParseTenantID("11111111-2222-4333-8444-555555555555")
	if err != nil {
		t.Fatal(err)
	}
	hardware, err := edgeclaim.ParseHardwareID("HW-" + strconv.Itoa(n))
	if err != nil {
		t.Fatal(err)
	}
	return edgeclaim.Admission{Device: edgeclaim.NewDeviceID(tenant, hardware, 1), Tenant: tenant}
}

var texts = []string{
	`{}`, `[]`, `""`, `0`, `-0`, `01`, `-`, `1.`, `.5`, `1e`, `1e+`, `1E-07`, `1.5e300`, `nul`, `null`, `true`, `truee`, `false`,
	`{"a":1}`, ` { "a" : 1 , "b" : "x" } `, `{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`, `{a:1}`, `[1,]`, `[,1]`, `[1 2]`, `{"a":1 "b":2}`,
	`"\u12"`, `"\uD800"`, `"\uDC00\uD800"`, `"\uD83D\uDE00"`, `"\uD83Dx"`, `"\x"`, `"a`, "\"a\nb\"", "\"\xff\"", "\"\xed\xa0\x80\"", `"\`, `"\u`,
	"\ufeff{}", `{}{}`, `{} x`, "\t\r\n{}\n", `[[[[{"a":[{}]}]]]]`, `{"a":1,"a":2}`, "\"\x00\"", "\x00", "\"\x7f\"", `1 `, `1x`, `{"a":tru}`, `--1`, `+1`,
	`{"a\u0062":"\"\\\/\b\f\n\r\t\u00e4"}`, `[{"a":{"b":1,"\u0062":2}}]`, `{"a":[{"b":1},{"b":[]}]}`, `"` + "\u2028" + `"`,
}

// TestDocument: the scanner and a library that many use judge alike.
func TestDocument(t *testing.T) {
	t.Parallel()
	for _, text := range texts {
		sameJudgement(t, []byte(text))
	}
	if deep := strings.Repeat("[", 200) + strings.Repeat("]", 200); telemetry.Document([]byte(deep)) {
		t.Error("200 arrays in each other are taken")
	}
}

func sameJudgement(t *testing.T, text []byte) {
	t.Helper()
	if depth(text) > 50 {
		return // ours goes not so deep
	}
	want := jsontext.Value(text).IsValid(jsontext.AllowDuplicateNames(true))
	if got := telemetry.Document(text); got != want {
		t.Errorf("%q: %v, want %v", text, got, want)
	}
	if want && telemetry.Unique(text) != jsontext.Value(text).IsValid() {
		t.Errorf("%q: a name twice, or not: %v", text, telemetry.Unique(text))
	}
}

// depth is a bound of it, quotes or not.
func depth(text []byte) int { return bytes.Count(text, []byte("[")) + bytes.Count(text, []byte("{")) }

// TestNames: whatever was looked through before, a name is twice in a point or
// it is not.
func TestNames(t *testing.T) {
	t.Parallel()
	by, looker := admission(t, 1), telemetry.NewLooker()
	for round := range 400 {
		for n := range 12 {
			var members []string
			for i := range n + 1 {
				members = append(members, fmt.Sprintf(`"m%d.%d":1`, round, i))
			}
			if body := "{" + strings.Join(members, ",") + "}"; !looker.Look([]byte(body), by.Device) {
				t.Fatalf("%s is not taken", body)
			}
			members = append(members, members[n/2])
			if body := "{" + strings.Join(members, ",") + "}"; looker.Look([]byte(body), by.Device) {
				t.Fatalf("%s is taken", body)
			}
		}
	}
	for round := range 400 {
		body := strings.ReplaceAll(`{"1x":1,"2x":1,"3x":1,"4x":1,"5x":1,"6x":1,"7x":1,"8x":1,"8x":1}`, "x", strconv.Itoa(round))
		if looker.Look([]byte(body), by.Device) {
			t.Fatalf("%s is taken", body)
		}
	}
}

func FuzzDocument(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(sameJudgement)
}

func FuzzPoint(f *testing.F) {
	by := admission(f, 1)
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"temperature":21.5,"state":"on"}`))
	f.Add([]byte(`{"device_id":"` + by.Device.String() + `","timestamp":"2026-01-02T03:04:05.678+01:00","numeric_values":{"a":1e3},"string_values":{"b":"x"}}`))
	f.Add([]byte(`{"timestamp":1700000000000,"numeric_values":{"a":-1},"string_values":{}}`))
	f.Add([]byte(`{"device_\u0069d":"x","numeric_values":{}}`))
	f.Add([]byte(`{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9,"j":10,"j":11}`))
	looker := telemetry.NewLooker()
	f.Fuzz(func(t *testing.T, body []byte) {
		if depth(body) > 50 {
			return
		}
		for _, flat := range []bool{true, false} {
			got, err := looker.Point(body, by, flat)
			want, fine := reference(body, by, flat)
			if fine != (err == nil) {
				t.Fatalf("%q, flat %v: %v, want fine %v", body, flat, err, fine)
			}
			if err != nil {
				continue
			}
			if diff := difference(t, got, want); diff != "" {
				t.Fatalf("%q: %s", body, diff)
			}
		}
	})
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte(`{"a":1}`), "8f7a1c52-6f0e-4b70-9d3c-2f6b1f7a9c01", int64(1), int64(2), true)
	f.Add([]byte(`{}`), "not a uuid", int64(-1), int64(math.MaxInt64), false)
	f.Add([]byte{}, "8F7A1C52-6F0E-4B70-9D3C-2F6B1F7A9C01", int64(0), int64(0), false)
	by := admission(f, 1)
	f.Fuzz(func(t *testing.T, payload []byte, boot string, wall, uptime int64, synced bool) {
		_ = telemetry.ParseEntry(payload) // any bytes: no panic
		stamp := edgeclaim.Stamp{Time: time.Unix(0, wall).UTC(), Uptime: time.Duration(uptime), Boot: boot, Clock: edgeclaim.ClockUnsynced}
		if synced {
			stamp.Clock = edgeclaim.ClockSynced
		}
		who, when, what, err := telemetry.RoundTrip(by, stamp, payload)
		if len(boot) > 64 {
			stamp.Boot = boot[:64]
		}
		if err != nil || who != by || when != stamp || !bytes.Equal(what, payload) {
			t.Fatalf("%v %v %q %v", who, when, what, err)
		}
	})
}

// reference judges a point slowly and plainly, with a library's help.
func reference(body []byte, by edgeclaim.Admission, flat bool) (judged, bool) {
	if len(body) > telemetry.MaxPoint || !jsontext.Value(body).IsValid(jsontext.AllowDuplicateNames(true)) {
		return judged{}, false
	}
	all, ok := object(body)
	if !ok {
		return judged{}, false
	}
	platform := false
	for _, m := range all {
		platform = platform || m.name == "numeric_values" || m.name == "string_values"
	}
	if !platform {
		return values(all, by, flat)
	}
	got := judged{values: map[string]string{}}
	seen := map[string]bool{}
	for _, m := range all {
		if seen[m.name] {
			return judged{}, false
		}
		seen[m.name] = true
		switch m.name {
		case "device_id":
			id, err := edgeclaim.ParseDeviceID(m.text)
			if m.kind != '"' || err != nil || id != by.Device {
				return judged{}, false
			}
		case "timestamp":
			if got.timestamp, ok = timestamp(m); !ok {
				return judged{}, false
			}
		case "numeric_values", "string_values":
			inner, ok := object([]byte(m.raw))
			if !ok || m.kind != '{' {
				return judged{}, false
			}
			for _, v := range inner {
				if (m.name == "string_values") != (v.kind == '"') || !got.put(v) {
					return judged{}, false
				}
			}
		default:
			return judged{}, false
		}
	}
	return got, len(got.values) > 0
}

func values(all []member, by edgeclaim.Admission, flat bool) (judged, bool) {
	got := judged{values: map[string]string{}}
	for _, m := range all {
		if !flat || !got.put(m) {
			return judged{}, false
		}
		if id, err := edgeclaim.ParseDeviceID(m.text); m.name == "device_id" && (err != nil || id != by.Device) {
			return judged{}, false
		}
	}
	return got, len(got.values) > 0
}

// judged is what a point says.
type judged struct {
	timestamp string
	values    map[string]string // as spelled, but for texts
}

type member struct {
	name, raw, text string
	kind            byte
}

func (j *judged) put(m member) bool {
	_, twice := j.values[m.name]
	_, err := strconv.ParseFloat(m.raw, 64)
	number := m.kind == '-' || m.kind >= '0' && m.kind <= '9'
	switch {
	case twice, m.name == "", len(m.name) > edgeclaim.MaxMetricName, len(j.values) == edgeclaim.MaxMetrics:
		return false
	case m.kind == '"' && len(m.text) <= edgeclaim.MaxMetricText:
		j.values[m.name] = "text " + m.text
		return true
	case number && err == nil:
		j.values[m.name] = m.raw
		return true
	}
	return false
}

// object reads an object's members in their order.
func object(body []byte) ([]member, bool) {
	d := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true))
	if token, err := d.ReadToken(); err != nil || token.Kind() != '{' {
		return nil, false
	}
	var all []member
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, false
		}
		m := member{name: name.String()}
		raw, err := d.ReadValue()
		if err != nil {
			return nil, false
		}
		m.raw, m.kind = string(raw), raw[0]
		if m.kind == '"' {
			text, err := jsontext.AppendUnquote(nil, raw)
			if err != nil {
				return nil, false
			}
			m.text = string(text)
		}
		all = append(all, m)
	}
	return all, true
}

func timestamp(m member) (string, bool) {
	var when time.Time
	switch n, err := strconv.ParseFloat(m.raw, 64); {
	case m.kind == '"':
		if when.UnmarshalText([]byte(m.text)) != nil {
			return "", false
		}
	case err != nil || n < 0 || n > 1e15:
		return "", false
	case n >= 1e11:
		when = time.UnixMicro(int64(math.Floor(n/1000))*1e6 + int64(math.Round((n/1000-math.Floor(n/1000))*1e6)))
	default:
		when = time.UnixMicro(int64(math.Floor(n))*1e6 + int64(math.Round((n-math.Floor(n))*1e6)))
	}
	if when.Unix() < 0 || when.Unix() > 253402300799 {
		return "", false
	}
	return when.UTC().Format(time.RFC3339Nano), true
}

// difference holds what upstream would be told against what was meant.
func difference(t *testing.T, data []byte, want judged) string {
	t.Helper()
	if !utf8.Valid(data) || !jsontext.Value(data).IsValid() {
		return "no JSON, or a name twice: " + string(data)
	}
	all, _ := object(data)
	for _, m := range all {
		switch m.name {
		case "timestamp":
			if m.text != want.timestamp {
				return "timestamp " + m.text + ", want " + want.timestamp
			}
			want.timestamp = ""
		case "values":
			inner, _ := object([]byte(m.raw))
			got := judged{values: map[string]string{}}
			for _, v := range inner {
				if !got.put(v) || got.values[v.name] != want.values[v.name] {
					return v.name + ": " + got.values[v.name] + ", want " + want.values[v.name]
				}
			}
			if len(got.values) != len(want.values) {
				return "values are missing: " + m.raw
			}
		}
	}
	if want.timestamp != "" {
		return "no timestamp"
	}
	return ""
}
