package bridge_test

import (
	"errors"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/bridge"
)

func TestTopicsRefuse(t *testing.T) {
	for _, tc := range []struct{ telemetry, presence, field string }{
		{"devices/{device_id}/telemetry", "", ""},
		{"{device_id}", "/{device_id}/ä", ""},
		{"$aws/rules/r/{device_id}", "1/2/3/4/5/6/7/{device_id}", ""},
		{"", "", "telemetry_topic"},
		{"devices/telemetry", "", "telemetry_topic"},
		{"devices/{device_id", "", "telemetry_topic"},
		{"devices/{device_id}/{hardware_id}", "", "telemetry_topic"},
		{"devices/{device_id}/#", "", "telemetry_topic"},
		{"+/{device_id}", "", "telemetry_topic"},
		{"a\x00/{device_id}", "", "telemetry_topic"},
		{"a\xff/{device_id}", "", "telemetry_topic"},
		{"1/2/3/4/5/6/7/8/{device_id}", "", "telemetry_topic"},
		{strings.Repeat("x", bridge.MaxTopic) + "{device_id}", "", "telemetry_topic"},
		{"edgeclaim/v1/{site}/{box_id}/up/{device_id}", "", "telemetry_topic"},
		{"edgeclaim/v1/{device_id}", "", "telemetry_topic"},
		{"{device_id}", "{device_id}", "presence_topic"},
		{"{device_id}", "none", "presence_topic"},
		{"{device_id}", "edgeclaim/v1/{device_id}", "presence_topic"},
	} {
		c := quick("mqtt://h")
		c.TelemetryTopic, c.PresenceTopic = tc.telemetry, tc.presence
		_, err := bridge.New(c, newMemory().parts(), identity, nil)
		var invalid *edgeclaim.InvalidError
		if tc.field == "" && err != nil || tc.field != "" && (!errors.As(err, &invalid) || invalid.Field != tc.field) {
			t.Errorf("%q, %q: %v, want field %q", tc.telemetry, tc.presence, err, tc.field)
		}
	}
	c := quick("mqtt://h")
	c.TelemetryTopic = "{site}/v1/{device_id}"
	if _, err := bridge.New(c, newMemory().parts(), bridge.Identity{Site: "edgeclaim", Box: "b"}, nil); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("a topic that becomes one of the protocol's: %v", err)
	}
}

// FuzzTopic: a template that is accepted makes a topic that can be published to,
// of that device and not the protocol's; one that is refused is not repeated.
func FuzzTopic(f *testing.F) {
	for _, seed := range []string{"devices/{device_id}/telemetry", "{site}{box_id}{tenant_id}{device_id}", "{", "}{device_id}", "a/+/{device_id}"} {
		f.Add(seed)
	}
	point := newPoint(1)
	f.Fuzz(func(t *testing.T, text string) {
		topic, ok, err := bridge.FillTopic(text, identity, &point)
		switch {
		case err != nil && len(text) > 20 && strings.Contains(err.Error(), text):
			t.Errorf("%q is repeated in %v", text, err)
		case err == nil && text != "" && (!ok || !strings.Contains(topic, point.Device.String()) ||
			strings.ContainsAny(topic, "+#\x00") || strings.HasPrefix(topic, "edgeclaim/v1/")):
			t.Errorf("%q makes %q", text, topic)
		}
	})
}
