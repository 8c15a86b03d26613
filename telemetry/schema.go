package telemetry

import (
	"math"
	"strconv"
	"unicode/utf8"

	"edgeclaim"
)

// schema is an edgeclaim.TelemetrySchema as points are held against it: a look-up
// for each metric, and no allocation.
type schema struct {
	metrics map[string]*metricRule
	// required are the metrics that have to be there, each once.
	required []string
	closed   bool // there may be no others than those declared
}

// metricRule is what one metric has to be.
type metricRule struct {
	declared bool // else it is only required
	required bool
	want     edgeclaim.MetricType
	min, max *float64
	enum     map[string]bool // nil: any
	longest  int             // of a text, in characters; below 0: any
}

func compile(from *edgeclaim.TelemetrySchema) *schema {
	s := &schema{metrics: make(map[string]*metricRule, len(from.Properties)), closed: from.Additional != nil && !*from.Additional}
	for name, m := range from.Properties {
		rule := &metricRule{declared: true, want: m.Type, min: m.Minimum, max: m.Maximum, longest: -1}
		if m.MaxLength != nil {
			rule.longest = *m.MaxLength
		}
		for _, text := range m.Enum {
			if rule.enum == nil {
				rule.enum = make(map[string]bool, len(m.Enum))
			}
			rule.enum[text] = true
		}
		s.metrics[name] = rule
	}
	for _, name := range from.Required {
		rule := s.metrics[name]
		if rule == nil {
			rule = &metricRule{longest: -1}
			s.metrics[name] = rule
		}
		if !rule.required {
			rule.required = true
			s.required = append(s.required, name)
		}
	}
	return s
}

// check holds a point that was looked through against the schema. Metrics go by
// their name alone, wherever they stand.
func (s *schema) check(p *point) *fault {
	there := 0 // of those required; no name comes twice
	if p.form == formFlat {
		f := s.checkMetrics("", p.raw, &there)
		if f != nil || there == len(s.required) {
			return f
		}
		return s.missing(p)
	}
	for _, part := range [...]struct {
		in  string
		raw []byte
	}{{memberNumbers, p.numbers}, {memberTexts, p.texts}} {
		if part.raw == nil {
			continue
		}
		if f := s.checkMetrics(part.in, part.raw, &there); f != nil {
			return f
		}
	}
	if there == len(s.required) {
		return nil
	}
	return s.missing(p)
}

// checkMetrics checks the members of one object, and counts those required.
func (s *schema) checkMetrics(in string, object []byte, there *int) *fault {
	for m := membersOf(object); ; {
		name, val, ok := m.next()
		if !ok {
			return nil
		}
		name = unquote(name)
		rule := s.metrics[string(name)]
		switch {
		case rule != nil && rule.required:
			*there++
		case rule == nil && in == "" && string(name) == memberDevice:
			continue // whose the point is
		}
		if rule == nil || !rule.declared {
			if s.closed {
				return unfit(in, name, "the profile's schema has no such metric")
			}
			continue
		}
		if what := rule.check(val); what != "" {
			return unfit(in, name, what)
		}
	}
}

// missing names the first metric that is required and is not there.
func (s *schema) missing(p *point) *fault {
	for _, name := range s.required {
		if !p.has(name) {
			return unfit("", []byte(name), "the profile's schema wants it")
		}
	}
	return nil
}

// has reports whether the point has a metric of that name.
func (p *point) has(want string) bool {
	objects := [...][]byte{p.numbers, p.texts}
	if p.form == formFlat {
		objects = [...][]byte{p.raw, nil}
	}
	for _, object := range objects {
		if object == nil {
			continue
		}
		for m := membersOf(object); ; {
			name, _, ok := m.next()
			if !ok {
				break
			}
			if string(unquote(name)) == want {
				return true
			}
		}
	}
	return false
}

func unfit(in string, name []byte, what string) *fault {
	return &fault{reasonSchema, field(in, name), what}
}

// check says what is wrong with a metric's value, a number or a text; "" for
// nothing. A bound on texts says nothing of a number, and the other way about;
// but a number is none of an enumeration of texts (JSON Schema 2020-12,
// validation, section 6).
func (r *metricRule) check(val []byte) string {
	if val[0] == '"' {
		return r.checkText(val[1 : len(val)-1])
	}
	switch {
	case r.want == edgeclaim.MetricText:
		return "the profile's schema wants a text"
	case r.enum != nil:
		return "the profile's schema wants one of some texts"
	case r.want != edgeclaim.MetricInteger && r.min == nil && r.max == nil:
		return ""
	}
	number, _ := strconv.ParseFloat(string(val), 64) // a float64 holds it: that was made sure of
	switch {
	case r.want == edgeclaim.MetricInteger && number != math.Trunc(number):
		return "the profile's schema wants a whole number"
	case r.min != nil && number < *r.min:
		return "below what the profile's schema allows"
	case r.max != nil && number > *r.max:
		return "above what the profile's schema allows"
	}
	return ""
}

func (r *metricRule) checkText(raw []byte) string {
	switch {
	case r.want == edgeclaim.MetricNumber || r.want == edgeclaim.MetricInteger:
		return "the profile's schema wants a number"
	case r.enum == nil && r.longest < 0:
		return ""
	}
	text := unquote(raw)
	switch {
	case r.enum != nil && !r.enum[string(text)]:
		return "not one of the texts that the profile's schema allows"
	case r.longest >= 0 && utf8.RuneCount(text) > r.longest:
		return "longer than the profile's schema allows"
	}
	return ""
}
