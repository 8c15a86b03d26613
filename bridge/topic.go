package bridge

import (
	"strings"
	"unicode/utf8"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

const (
	// MaxTopic is the longest topic template, in bytes.
	MaxTopic = 256
	// maxSlashes is what the strictest of the large brokers take in a topic.
	maxSlashes = 7
)

// reserved is where the protocol's own topics are.
const reserved = "edgeclaim/v1/"

// template is a topic for a device: texts, and the variables between them.
type template struct {
	parts  []string // texts at even places, names of variables at odd ones
	tenant bool     // it names {tenant_id}
}

// parseTopic reads a topic template. Errors are an InvalidError for the key.
func parseTopic(key, text string) (template, error) {
	var t template
	fail := func(problem string, args ...any) (template, error) {
		return template{}, edgeclaim.Invalid(key, problem, args...)
	}
	switch {
	case text == "" || len(text) > MaxTopic || !utf8.ValidString(text):
		return fail("want 1 to %d bytes of UTF-8", MaxTopic)
	case strings.ContainsAny(text, "+#") || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fail("want no wildcards and no control characters")
	case strings.Count(text, "/") > maxSlashes:
		return fail("want at most %d slashes", maxSlashes)
	}
	device := false
	rest := text
	for {
		before, after, found := strings.Cut(rest, "{")
		t.parts = append(t.parts, before)
		if !found {
			break
		}
		name, behind, closed := strings.Cut(after, "}")
		switch {
		case !closed:
			return fail("want a } for each {")
		case name == "device_id":
			device = true
		case name == "tenant_id":
			t.tenant = true
		case name != "site" && name != "box_id":
			return fail("want no variables but {device_id}, {tenant_id}, {site} and {box_id}")
		}
		t.parts = append(t.parts, name)
		rest = behind
	}
	if !device {
		return fail("want {device_id} in it")
	}
	return t, nil
}

// fill puts the names of a device and its box in.
func (t *template) fill(n wire.Names, device edgeclaim.DeviceID, tenant string) string {
	var b strings.Builder
	for i, part := range t.parts {
		if i%2 == 0 {
			b.WriteString(part)
			continue
		}
		switch part {
		case "device_id":
			b.WriteString(device.String())
		case "tenant_id":
			b.WriteString(tenant)
		case "site":
			b.WriteString(n.Site)
		case "box_id":
			b.WriteString(n.Box)
		}
	}
	return b.String()
}

// topics are those of AckPuback beside the lanes'.
type topics struct {
	telemetry template
	presence  template // without parts: nowhere
}

// newTopics reads the templates, for a box of that name: filled in, none may be
// among the protocol's own topics.
func newTopics(c *Config, n wire.Names) (topics, error) {
	var t topics
	for _, one := range []struct {
		key, text string
		into      *template
	}{{"telemetry_topic", c.TelemetryTopic, &t.telemetry}, {"presence_topic", c.PresenceTopic, &t.presence}} {
		if one.text == "" {
			continue // only of presence: Validate says so
		}
		parsed, err := parseTopic(one.key, one.text)
		if err != nil {
			return topics{}, err
		}
		if strings.HasPrefix(parsed.fill(n, edgeclaim.DeviceID{}, ""), reserved) {
			return topics{}, edgeclaim.Invalid(one.key, "want one that is not below %s", reserved)
		}
		*one.into = parsed
	}
	return t, nil
}
