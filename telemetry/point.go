package telemetry

import (
	"bytes"
	"math"
	"strconv"
	"time"

	"edgeclaim"
)

// The members of a point in the platform's form.
const (
	memberDevice  = "device_id"
	memberTime    = "timestamp"
	memberNumbers = "numeric_values"
	memberTexts   = "string_values"
)

// Times that a device may give, in seconds since 1970, and from which number on
// they are milliseconds (1973 by those, 5138 by the others).
const (
	firstMillis = 1e11
	lastSecond  = 253402300799 // 9999-12-31T23:59:59Z
)

// fault is why a point is not taken: an InvalidError with what it counts as.
// The point's device decides nothing about the words: they have no value in
// them (P5).
type fault struct {
	reason reason
	field  string
	what   string
}

func (f *fault) err() error { return edgeclaim.Invalid(f.field, "%s", f.what) }

func malformed(field, what string) *fault { return &fault{reasonMalformed, field, what} }

// point is one that was looked through, in either form.
type point struct {
	form form
	raw  []byte
	// Of the platform's form: what stands in it, nil for what does not. When
	// is the time that the device gives, zero for none.
	numbers, texts []byte
	when           time.Time
}

// parsePoint looks through an object whose grammar was made sure of. flat: it
// may be of the flat form.
func (s *scratch) parsePoint(raw []byte, device edgeclaim.DeviceID, flat bool) (point, *fault) {
	if len(raw) > MaxPoint {
		return point{}, &fault{reasonTooLarge, "body", "a point larger than " + strconv.Itoa(MaxPoint) + " bytes"}
	}
	if raw[0] != '{' {
		return point{}, malformed("body", "want an object with metrics")
	}
	if !flat {
		if !isPlatform(raw) {
			return point{}, malformed(memberNumbers, "want it, or "+memberTexts)
		}
		return s.parsePlatform(raw, device)
	}
	p, f := s.parseFlat(raw, device)
	if f != nil && isPlatform(raw) {
		return s.parsePlatform(raw, device)
	}
	return p, f
}

// isPlatform reports whether a point is of the platform's form. One that is can
// be no flat one: a metric is neither an object nor named so.
func isPlatform(raw []byte) bool {
	for m := membersOf(raw); ; {
		name, _, ok := m.next()
		if !ok {
			return false
		}
		if isPlatformMember(unquote(name)) {
			return true
		}
	}
}

func isPlatformMember(name []byte) bool {
	return string(name) == memberNumbers || string(name) == memberTexts
}

func (s *scratch) parseFlat(raw []byte, device edgeclaim.DeviceID) (point, *fault) {
	s.names.reset()
	for m := membersOf(raw); ; {
		name, val, ok := m.next()
		if !ok {
			break
		}
		plainName := unquote(name)
		if f := s.metric("", plainName); f != nil {
			return point{}, f
		}
		switch {
		case isPlatformMember(plainName):
			return point{}, malformed(string(plainName), "want an object")
		case val[0] == '"':
			if f := checkText("", plainName, val); f != nil {
				return point{}, f
			}
		case isNumber(val):
			if !finite(val) {
				return point{}, malformed(field("", plainName), "a number beyond what a float64 holds")
			}
		default:
			return point{}, malformed(field("", plainName), "want a number or a text")
		}
		if string(plainName) == memberDevice {
			if f := ownDevice(val, device); f != nil {
				return point{}, f
			}
		}
	}
	if s.names.n == 0 {
		return point{}, malformed("body", "want at least one metric")
	}
	return point{form: formFlat, raw: raw}, nil
}

func (s *scratch) parsePlatform(raw []byte, device edgeclaim.DeviceID) (point, *fault) {
	p := point{form: formPlatform, raw: raw}
	s.names.reset()
	timed, named := false, false
	for m := membersOf(raw); ; {
		name, val, ok := m.next()
		if !ok {
			break
		}
		var f *fault
		seen := false
		switch member := unquote(name); string(member) {
		case memberDevice:
			seen, named = named, true
			f = ownDevice(val, device)
		case memberTime:
			seen, timed = timed, true
			p.when, f = parseTime(val)
		case memberNumbers:
			seen, p.numbers = p.numbers != nil, val
		case memberTexts:
			seen, p.texts = p.texts != nil, val
		default:
			f = malformed(field("", member), "nobody knows this member")
		}
		if f == nil && seen {
			f = malformed(string(unquote(name)), "twice")
		}
		if f != nil {
			return point{}, f
		}
	}
	if f := s.metrics(memberNumbers, p.numbers); f != nil {
		return point{}, f
	}
	if f := s.metrics(memberTexts, p.texts); f != nil {
		return point{}, f
	}
	if s.names.n == 0 {
		return point{}, malformed(memberNumbers, "want at least one value, here or in "+memberTexts)
	}
	return p, nil
}

// metrics looks through numeric_values or string_values; nil is none.
func (s *scratch) metrics(in string, raw []byte) *fault {
	if raw == nil {
		return nil
	}
	if raw[0] != '{' {
		return malformed(in, "want an object")
	}
	for m := membersOf(raw); ; {
		name, val, ok := m.next()
		if !ok {
			return nil
		}
		plainName := unquote(name)
		if f := s.metric(in, plainName); f != nil {
			return f
		}
		switch {
		case in == memberTexts && val[0] != '"':
			return malformed(field(in, plainName), "want a text")
		case in == memberTexts:
			if f := checkText(in, plainName, val); f != nil {
				return f
			}
		case !isNumber(val):
			return malformed(field(in, plainName), "want a number")
		case !finite(val):
			return malformed(field(in, plainName), "a number beyond what a float64 holds")
		}
	}
}

// metric takes a metric's name into the point.
func (s *scratch) metric(in string, name []byte) *fault {
	switch {
	case len(name) == 0:
		return malformed(field(in, name), "a metric without a name")
	case len(name) > edgeclaim.MaxMetricName:
		return &fault{reasonTooLarge, field(in, nil), "a metric's name longer than " + strconv.Itoa(edgeclaim.MaxMetricName) + " bytes"}
	case s.names.n == edgeclaim.MaxMetrics:
		return &fault{reasonTooMany, field(in, nil), "more than " + strconv.Itoa(edgeclaim.MaxMetrics) + " metrics"}
	case !s.names.add(name):
		return malformed(field(in, name), "twice")
	}
	return nil
}

// checkText bounds a metric's text.
func checkText(in string, name, val []byte) *fault {
	// What is escaped is longer than what it stands for.
	if len(val)-2 <= edgeclaim.MaxMetricText || len(unquote(val[1:len(val)-1])) <= edgeclaim.MaxMetricText {
		return nil
	}
	return &fault{reasonTooLarge, field(in, name), "a text longer than " + strconv.Itoa(edgeclaim.MaxMetricText) + " bytes"}
}

// field names a metric as an error says it. A name that nobody would want in a
// log is left out.
func field(in string, name []byte) string {
	for _, c := range name {
		if c < ' ' || c == 0x7f {
			name = nil
			break
		}
	}
	switch {
	case len(name) > 0 && len(name) <= edgeclaim.MaxMetricName && in != "":
		return in + "." + string(name)
	case len(name) > 0 && len(name) <= edgeclaim.MaxMetricName:
		return string(name)
	case in != "":
		return in
	default:
		return "body"
	}
}

// ownDevice makes sure that a point speaks of whom the session is of.
func ownDevice(val []byte, device edgeclaim.DeviceID) *fault {
	if val[0] == '"' {
		id, err := edgeclaim.ParseDeviceID(string(unquote(val[1 : len(val)-1])))
		if err == nil && id == device {
			return nil
		}
	}
	return &fault{reasonWrongDevice, memberDevice, "not this session's"}
}

func isNumber(val []byte) bool { return val[0] == '-' || val[0] >= '0' && val[0] <= '9' }

// finite reports whether a float64 holds a number; only one that is written
// with an exponent, or with hundreds of digits, has to be looked at.
func finite(val []byte) bool {
	const sure = 300 // digits
	if len(val) <= sure && bytes.IndexByte(val, 'e') < 0 && bytes.IndexByte(val, 'E') < 0 {
		return true
	}
	_, err := strconv.ParseFloat(string(val), 64)
	return err == nil
}

// parseTime reads a device's time: RFC 3339, or the time since 1970 in seconds
// or milliseconds.
func parseTime(val []byte) (time.Time, *fault) {
	wrong := malformed(memberTime, "want RFC 3339, or seconds or milliseconds since 1970")
	if val[0] == '"' {
		var when time.Time
		if err := when.UnmarshalText(unquote(val[1 : len(val)-1])); err != nil {
			return time.Time{}, wrong
		}
		if s := when.Unix(); s < 0 || s > lastSecond {
			return time.Time{}, malformed(memberTime, "want a year from 1970 to 9999")
		}
		return when.UTC(), nil
	}
	if !isNumber(val) {
		return time.Time{}, wrong
	}
	n, err := strconv.ParseFloat(string(val), 64)
	if err != nil || n < 0 {
		return time.Time{}, wrong
	}
	if n >= firstMillis {
		n /= 1000
	}
	if n >= lastSecond+1 {
		return time.Time{}, malformed(memberTime, "want a year from 1970 to 9999")
	}
	// A float64 holds microseconds of our time, no less.
	whole, part := math.Modf(n)
	return time.Unix(int64(whole), int64(math.Round(part*1e6))*1e3).UTC(), nil
}

// data writes what upstream reads of a point.
func (p *point) data(e *entry) []byte {
	out := make([]byte, 0, len(p.raw)+160)
	out = append(out, `{"device_id":"`...)
	out = append(out, e.device.String()...)
	out = append(out, `","tenant_id":"`...)
	out = append(out, e.tenant.String()...)
	out = append(out, '"')
	if !p.when.IsZero() {
		out = append(out, `,"timestamp":"`...)
		out = p.when.AppendFormat(out, time.RFC3339Nano)
		out = append(out, '"')
	}
	out = append(out, `,"values":`...)
	if p.form == formFlat {
		return append(append(out, p.raw...), '}')
	}
	out = append(out, '{')
	numbers, texts := inside(p.numbers), inside(p.texts)
	out = append(out, numbers...)
	if len(numbers) > 0 && len(texts) > 0 {
		out = append(out, ',')
	}
	out = append(out, texts...)
	return append(out, '}', '}')
}

// inside is what stands between an object's braces.
func inside(object []byte) []byte {
	if object == nil {
		return nil
	}
	return bytes.TrimSpace(object[1 : len(object)-1])
}

// unique reports whether no member of an object comes twice, in a value whose
// grammar was made sure of, however deep (RFC 7493, section 2.3).
func unique(val []byte) bool {
	switch val[0] {
	case '{':
		return uniqueMembers(val)
	case '[':
		for e := elementsOf(val); ; {
			one, ok := e.next()
			if !ok {
				return true
			}
			if !unique(one) {
				return false
			}
		}
	default:
		return true
	}
}

func uniqueMembers(object []byte) bool {
	seen := map[string]bool{}
	for m := membersOf(object); ; {
		name, val, ok := m.next()
		if !ok {
			return true
		}
		n := string(unquote(name))
		if seen[n] || !unique(val) {
			return false
		}
		seen[n] = true
	}
}
