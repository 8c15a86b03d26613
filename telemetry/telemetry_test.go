package telemetry_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/telemetry"
)

// TestBodies: what each body counts as, and what is said of a wrong one.
func TestBodies(t *testing.T) {
	t.Parallel()
	own, other := admission(t, 1).Device.String(), admission(t, 2).Device.String()
	many := func(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	var metrics []string
	for i := range 257 {
		metrics = append(metrics, fmt.Sprintf(`"m%d":1`, i))
	}
	platform := `{"numeric_values":{"a":1}}`
	for _, c := range []struct {
		name, body         string
		accepted, rejected int
		problem            string // of an InvalidError; "" for none
		reason             string
		mqttOnly           bool // over HTTP it is refused
	}{
		{"flat", `{"temperature":21.5,"state":"on"}`, 1, 0, "", "", true},
		{"flat with a time, which is a metric", `{"timestamp":"x"}`, 1, 0, "", "", true},
		{"flat of its own", `{"device_id":"` + own + `","a":1}`, 1, 0, "", "", true},
		{"platform", ` {"device_id":"` + strings.ToUpper(own) + `","timestamp":"2026-01-01T00:00:00Z","numeric_values":{"a":1},"string_values":{"b":""}} `, 1, 0, "", "", false},
		{"array", `[` + platform + `,{"string_values":{"a":"b"}}]`, 2, 0, "", "", false},
		{"the most points", `[` + many(1000, platform) + `]`, 1000, 0, "", "", false},
		{"256 metrics", `{` + strings.Join(metrics[:256], ",") + `}`, 1, 0, "", "", true},
		{"bad ones in an array", `[` + platform + `,{"numeric_values":{"a":"x"}},7,[],{"a":true},{"device_id":"` + other + `","numeric_values":{"a":1}}]`, 1, 5, "", "malformed", false},
		{"only bad ones", `[null]`, 0, 1, "", "malformed", false},

		{"empty", ``, 0, 1, "body: not JSON", "malformed", false},
		{"text", `21.5C`, 0, 1, "body: not JSON", "malformed", false},
		{"a number", `21.5`, 0, 1, "body: want an object with metrics", "malformed", false},
		{"bytes", "\x00\x01\xff", 0, 1, "body: not JSON", "malformed", false},
		{"no UTF-8", "{\"a\":\"\xff\"}", 0, 1, "body: not JSON", "malformed", false},
		{"two values", `{"a":1}{"a":1}`, 0, 1, "body: not JSON", "malformed", false},
		{"too deep", strings.Repeat("[", 100) + strings.Repeat("]", 100), 0, 1, "body: not JSON", "malformed", false},
		{"no metrics", `{}`, 0, 1, "body: want at least one metric", "malformed", true},
		{"no points", `[]`, 0, 1, "body: an array without points", "malformed", false},
		{"no values", `{"numeric_values":{},"string_values":{}}`, 0, 1, "numeric_values: want at least one value, here or in string_values", "malformed", false},
		{"true", `{"a":true}`, 0, 1, "a: want a number or a text", "malformed", true},
		{"null", `{"a":null}`, 0, 1, "a: want a number or a text", "malformed", true},
		{"nested", `{"a":{"b":1}}`, 0, 1, "a: want a number or a text", "malformed", true},
		{"text for a number", `{"numeric_values":{"temp":"x"}}`, 0, 1, "numeric_values.temp: want a number", "malformed", false},
		{"number for a text", `{"string_values":{"temp":1}}`, 0, 1, "string_values.temp: want a text", "malformed", false},
		{"numbers as an array", `{"numeric_values":[1]}`, 0, 1, "numeric_values: want an object", "malformed", false},
		{"a number under that name", `{"numeric_values":1}`, 0, 1, "numeric_values: want an object", "malformed", false},
		{"huge", `{"a":1e999}`, 0, 1, "a: a number beyond what a float64 holds", "malformed", true},
		{"long", `{"a":` + strings.Repeat("9", 310) + `}`, 0, 1, "a: a number beyond what a float64 holds", "malformed", true},
		{"NaN", `{"a":NaN}`, 0, 1, "body: not JSON", "malformed", false},
		{"twice", `{"a":1,"a":2}`, 0, 1, "a: twice", "malformed", true},
		{"twice, escaped", `{"a":1,"\u0061":2}`, 0, 1, "a: twice", "malformed", true},
		{"twice, in both", `{"numeric_values":{"a":1},"string_values":{"a":"x"}}`, 0, 1, "string_values.a: twice", "malformed", false},
		{"member twice", `{"timestamp":1,"timestamp":2,"numeric_values":{"a":1}}`, 0, 1, "timestamp: twice", "malformed", false},
		{"no name", `{"":1}`, 0, 1, "body: a metric without a name", "malformed", true},
		{"unknown member", `{"numeric_values":{"a":1},"x":1}`, 0, 1, "x: nobody knows this member", "malformed", false},
		{"unknown member that is odd", `{"numeric_values":{"a":1},"x\ny":1}`, 0, 1, "body: nobody knows this member", "malformed", false},
		{"no time", `{"timestamp":"yesterday","numeric_values":{"a":1}}`, 0, 1, "timestamp: want RFC 3339, or seconds or milliseconds since 1970", "malformed", false},
		{"null for a time", `{"timestamp":null,"numeric_values":{"a":1}}`, 0, 1, "timestamp: want RFC 3339, or seconds or milliseconds since 1970", "malformed", false},
		{"too late", `{"timestamp":1e300,"numeric_values":{"a":1}}`, 0, 1, "timestamp: want a year from 1970 to 9999", "malformed", false},
		{"another's", `{"device_id":"` + other + `","numeric_values":{"a":1}}`, 0, 1, "device_id: not this session's", "wrong_device", false},
		{"another's, flat", `{"device_id":"` + other + `","a":1}`, 0, 1, "device_id: not this session's", "wrong_device", true},
		{"nobody's", `{"device_id":7,"numeric_values":{"a":1}}`, 0, 1, "device_id: not this session's", "wrong_device", false},
		{"long name", `{"` + strings.Repeat("n", 129) + `":1}`, 0, 1, "body: a metric's name longer than 128 bytes", "too_large", true},
		{"long text", `{"a":"` + strings.Repeat("n", 4097) + `"}`, 0, 1, "a: a text longer than 4096 bytes", "too_large", true},
		{"large point", `{"numeric_values":{"a":1},"string_values":{` + strings.Repeat(" ", telemetry.MaxPoint) + `}}`, 0, 1, "body: a point larger than 63488 bytes", "too_large", false},
		{"1 MB", `{"a":"` + strings.Repeat("n", 1<<20) + `"}`, 0, 1, "body: larger than a report may be", "too_large", false},
		{"257 metrics", `{` + strings.Join(metrics, ",") + `}`, 0, 1, "body: more than 256 metrics", "too_many", true},
		{"1,001 points", `[` + many(1001, platform) + `]`, 0, 1, "body: more points than a report may have", "too_many", false},
	} {
		for _, via := range []edgeclaim.Via{edgeclaim.ViaMQTT, edgeclaim.ViaHTTP} {
			t.Run(c.name+", "+string(via), func(t *testing.T) {
				t.Parallel()
				b := newBox(t, nil)
				r := report(t, 1, c.body)
				r.Via = via
				got, err := b.Telemetry(t.Context(), r)
				want, problem := edgeclaim.Receipt{Accepted: c.accepted, Rejected: c.rejected}, c.problem
				if c.mqttOnly && via == edgeclaim.ViaHTTP {
					want, problem = edgeclaim.Receipt{Rejected: 1}, "numeric_values: want it, or string_values"
				}
				if got.Accepted != want.Accepted || got.Rejected != want.Rejected {
					t.Errorf("%+v, want %+v", got, want)
				}
				if problem == "" && err != nil || problem != "" && (!errors.Is(err, edgeclaim.ErrInvalid) || err.Error() != problem) {
					t.Errorf("%v, want %q", err, problem)
				}
				if err := got.Commit.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				if records := b.next(0); len(records) != want.Accepted {
					t.Errorf("%d records, want %d", len(records), want.Accepted)
				}
				status := b.Status()
				if status.Accepted != uint64(want.Accepted) {
					t.Errorf("accepted %d", status.Accepted)
				}
				if c.reason != "" && problem == c.problem && status.Rejected[c.reason] == 0 {
					t.Errorf("rejected: %v, want %s", status.Rejected, c.reason)
				}
			})
		}
	}
}

// Of an array the receipt says which points were accepted, as they came; over
// MQTT they may be flat.
func TestPointsOfAnArray(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	for body, want := range map[string]string{
		`{"a":1}`:   "[]",
		` {"a":1} `: "[]",
		`[{"a":1}]`: `["{\"a\":1}"]`,
		`[{"a":1}, {"a":true},{"numeric_values": {"b":2}}]`: `["{\"a\":1}" "{\"numeric_values\": {\"b\":2}}"]`,
		`[{"a":true}]`: "[]",
	} {
		got, err := b.Telemetry(t.Context(), report(t, 1, body))
		if text := fmt.Sprintf("%q", got.Points); err != nil || text != want {
			t.Errorf("%s: %s, %v, want %s", body, text, err, want)
		}
	}
}

// What was accepted and could not be written counts as what it is.
func TestCountsWhatIsOnTheDisk(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) { b.cfg.DiskReserve = 1 << 60 })
	r, err := b.Telemetry(t.Context(), report(t, 1, `{"a":1}`))
	if err == nil {
		err = r.Commit.Wait(t.Context())
	}
	if !errors.Is(err, edgeclaim.ErrUnavailable) {
		t.Fatal(err)
	}
	if s := b.Status(); s.Accepted != 0 || s.Rejected["disk_full"] != 1 {
		t.Errorf("accepted %d, rejected %v", s.Accepted, s.Rejected)
	}
}

// TestRecords: what upstream is told of a point.
func TestRecords(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	by := admission(t, 1)
	who := `{"device_id":"` + by.Device.String() + `","tenant_id":"` + by.Tenant.String() + `"`
	for i, c := range []struct{ body, data, payload string }{
		{` {"temperature":21.50,"state":"on"}`, who + `,"values":{"temperature":21.50,"state":"on"}}`, `{"temperature":21.50,"state":"on"}`},
		{`{"timestamp":"2026-02-03T05:05:06.25+01:00","numeric_values":{ "a":1 },"string_values":{"b":"x"}}`,
			who + `,"timestamp":"2026-02-03T04:05:06.25Z","values":{"a":1,"b":"x"}}`, ``},
		{`[{"timestamp":1700000000,"string_values":{"b":"x"}}]`,
			who + `,"timestamp":"2023-11-14T22:13:20Z","values":{"b":"x"}}`, `{"timestamp":1700000000,"string_values":{"b":"x"}}`},
		{`{"timestamp":1700000000123,"numeric_values":{"b":-1e-3},"string_values":{}}`,
			who + `,"timestamp":"2023-11-14T22:13:20.123Z","values":{"b":-1e-3}}`, ``},
	} {
		if c.payload == "" {
			c.payload = c.body
		}
		b.clock.pass(time.Second)
		b.say(1, c.body)
		records := b.next(uint64(i))
		if len(records) != 1 {
			t.Fatalf("%d records", len(records))
		}
		want := edgeclaim.Record{
			Lane: edgeclaim.LaneTel, Sequence: uint64(i + 1), Type: edgeclaim.TypeTelemetry, Device: by.Device,
			Stamp: b.clock.stamp(), Data: []byte(c.data), Payload: []byte(c.payload),
		}
		if got, same := text(records[0]), text(want); got != same {
			t.Errorf("\n%s, want\n%s", got, same)
		}
	}
	before := b.next(0)
	b.restart()
	if diff := cmp.Diff(texts2(before), texts2(b.next(0))); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
}

func text(r edgeclaim.Record) string {
	return fmt.Sprintf("%s %d %s %s %v %s %s", r.Lane, r.Sequence, r.Type, r.Device, r.Stamp, r.Data, r.Payload)
}

func texts2(records []edgeclaim.Record) []string {
	all := make([]string, len(records))
	for i, r := range records {
		all[i] = text(r)
	}
	return all
}

// TestThrottled: one device's flood is refused by name, and others are not.
func TestThrottled(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) { b.cfg.MaxDevicePoints = 10 })
	taken := 0
	for range 10_000 {
		_, err := b.Telemetry(t.Context(), report(t, 1, `{"a":1}`))
		switch {
		case err == nil:
			taken++
		case !errors.Is(err, edgeclaim.ErrThrottled):
			t.Fatal(err)
		}
	}
	if taken != 20 {
		t.Errorf("%d were taken at once, want 20", taken)
	}
	b.say(2, `{"a":1}`)
	b.clock.pass(time.Second)
	for range 10 {
		b.say(1, `{"a":1}`)
	}
	if _, err := b.Telemetry(t.Context(), report(t, 1, `{"a":1}`)); !errors.Is(err, edgeclaim.ErrThrottled) {
		t.Errorf("the eleventh of a second: %v", err)
	}
	if _, err := b.Event(t.Context(), report(t, 1, `{"a":1}`)); !errors.Is(err, edgeclaim.ErrThrottled) {
		t.Errorf("an event of a device that says too much: %v", err)
	}
	b.clock.pass(time.Minute)
	array := `[` + strings.TrimSuffix(strings.Repeat(`{"numeric_values":{"a":1}},`, 100), ",") + `]`
	if got := b.say(1, array); got.Accepted != 100 {
		t.Errorf("a backlog of a device that was quiet: %+v", got)
	}
	if _, err := b.Telemetry(t.Context(), report(t, 1, `{"a":1}`)); !errors.Is(err, edgeclaim.ErrThrottled) {
		t.Errorf("after a backlog: %v", err)
	}
	if got := b.Status().Rejected["throttled"]; got != 9_980+3 {
		t.Errorf("throttled: %d", got)
	}
}

// TestFleeting: what nobody waits for goes on its way where there is one.
func TestFleeting(t *testing.T) {
	t.Parallel()
	told := true
	b := newBox(t, func(b *box) { b.parts.Told = func() bool { return told } })
	say := func() {
		t.Helper()
		r := report(t, 1, `{"a":1}`)
		r.Fleeting = true
		got, err := b.Telemetry(t.Context(), r)
		if err != nil || got.Accepted != 1 || got.Commit != nil {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	say()
	b.until("it is told", func() bool { return len(b.next(0)) == 1 })
	told = false
	say()
	status := b.Status()
	if status.Fleeting != 1 || status.FleetingDropped != 1 || status.Accepted != 1 {
		t.Errorf("%+v", status)
	}
	if state, ok := b.State(admission(t, 1).Device); !ok || state.Presence != edgeclaim.PresenceOnline {
		t.Errorf("%+v %v", state, ok)
	}
	b.stop()
	told = true
	if say(); b.Status().FleetingDropped != 2 {
		t.Errorf("of a log that has stopped: %+v", b.Status())
	}
}

// TestStopped: what comes when nothing is written any more is not taken.
func TestStopped(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.stop()
	for name, take := range map[string]func() (edgeclaim.Receipt, error){
		"telemetry": func() (edgeclaim.Receipt, error) { return b.Telemetry(t.Context(), report(t, 1, `{"a":1}`)) },
		"event":     func() (edgeclaim.Receipt, error) { return b.Event(t.Context(), report(t, 1, `{"a":1}`)) },
	} {
		got, err := take()
		if !errors.Is(err, edgeclaim.ErrUnavailable) || got.Accepted != 0 || got.Rejected != 1 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if b.Status().Rejected["disk_full"] != 2 || b.Status().Accepted != 0 {
		t.Errorf("%+v", b.Status())
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*telemetry.Config){
		"dir":               func(c *telemetry.Config) { c.Dir = "" },
		"segment_bytes":     func(c *telemetry.Config) { c.SegmentBytes = 1 },
		"max_bytes":         func(c *telemetry.Config) { c.MaxBytes = c.SegmentBytes },
		"events_max_bytes":  func(c *telemetry.Config) { c.EventsMaxBytes = 0 },
		"disk_reserve":      func(c *telemetry.Config) { c.DiskReserve = -1 },
		"max_unsynced":      func(c *telemetry.Config) { c.MaxUnsynced = 1000 },
		"max_device_points": func(c *telemetry.Config) { c.MaxDevicePoints = 0 },
		"offline_after":     func(c *telemetry.Config) { c.OfflineAfter = 0 },
		"max_present":       func(c *telemetry.Config) { c.MaxPresent = 0 },
	} {
		cfg := telemetry.Defaults()
		cfg.Dir = "somewhere"
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), want+": ") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestReserve: the disk's reserve is for claims alone, and an operator hears.
func TestReserve(t *testing.T) {
	t.Parallel()
	heard := make(chan edgeclaim.Alarm, 10)
	b := newBox(t, func(b *box) {
		b.cfg.DiskReserve = 1 << 60
		b.parts.Observe = func(a edgeclaim.Alarm) { heard <- a }
		b.cfg.OfflineAfter = 80 * time.Millisecond
	})
	b.until("nothing is taken", func() bool {
		receipt, err := b.Telemetry(t.Context(), report(t, 1, `{"a":1}`))
		if err == nil {
			err = receipt.Commit.Wait(t.Context())
		}
		return errors.Is(err, edgeclaim.ErrUnavailable)
	})
	if !b.Status().Reserved || b.Status().Rejected["disk_full"]+b.Status().Accepted == 0 {
		t.Errorf("%+v", b.Status())
	}
	if alarm := <-heard; alarm != edgeclaim.AlarmDiskReserve {
		t.Errorf("%s", alarm)
	}
}

// TestLossIsHeard: an operator hears of telemetry that the quota took.
func TestLossIsHeard(t *testing.T) {
	t.Parallel()
	heard := make(chan edgeclaim.Alarm, 10)
	b := newBox(t, func(b *box) {
		small(b)
		b.parts.Observe = func(a edgeclaim.Alarm) { heard <- a }
		b.cfg.OfflineAfter = 80 * time.Millisecond
	})
	b.fill()
	if alarm := <-heard; alarm != edgeclaim.AlarmTelemetryDropped {
		t.Errorf("%s", alarm)
	}
}
