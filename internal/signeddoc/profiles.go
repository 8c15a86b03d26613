package signeddoc

import (
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
)

// Limits of what a profile says, in seconds.
const (
	maxOfflineAfter = 24 * 60 * 60
	maxOverlap      = 30 * 24 * 60 * 60
	minX509Validity = 60
	maxX509Validity = 10 * 365 * 24 * 60 * 60
)

func checkProfiles(p *edgeclaim.Profiles) error {
	if d := p.Default; d != nil {
		if d.ID != "" {
			return edgeclaim.Invalid("default.profile_id", "the default has none")
		}
		if err := under("default", checkProfile(d)); err != nil {
			return err
		}
	}
	ids := distinct[string]{}
	for i := range p.Profiles {
		profile := &p.Profiles[i]
		if err := first(
			ids.add(at("profiles", i, "profile_id"), profile.ID),
			edgeclaim.CheckName(at("profiles", i, "profile_id"), profile.ID),
			under(at("profiles", i, ""), checkProfile(profile)),
		); err != nil {
			return err
		}
	}
	return nil
}

func checkProfile(p *edgeclaim.Profile) error {
	if err := first(checkTags("default_tags", p.Tags), checkGroups("default_groups", p.Groups)); err != nil {
		return err
	}
	if len(p.Config) > 0 && jsontext.Value(p.Config).Kind() != '{' {
		return edgeclaim.Invalid("default_config", "want a JSON object")
	}
	if len(p.Config) > edgeclaim.MaxProfileConfig {
		return edgeclaim.Invalid("default_config", "larger than %d bytes", edgeclaim.MaxProfileConfig)
	}
	if p.OfflineAfter < 0 || p.OfflineAfter > maxOfflineAfter {
		return edgeclaim.Invalid("offline_threshold_seconds", "want 0 to %d", maxOfflineAfter)
	}
	if c := p.Credentials; c != nil {
		if c.X509Validity != 0 && (c.X509Validity < minX509Validity || c.X509Validity > maxX509Validity) {
			return edgeclaim.Invalid("credentials_policy.x509_validity_seconds", "want 0, or %d to %d", minX509Validity, maxX509Validity)
		}
		if c.Overlap < 0 || c.Overlap > maxOverlap {
			return edgeclaim.Invalid("credentials_policy.overlap_seconds", "want 0 to %d", maxOverlap)
		}
	}
	if p.Schema == nil {
		return nil
	}
	return under("telemetry_schema", checkSchema(p.Schema))
}

// checkSchema: a schema that no point can fulfil is a slip of the pen.
func checkSchema(s *edgeclaim.TelemetrySchema) error {
	if len(s.Properties) > edgeclaim.MaxMetrics || len(s.Required) > edgeclaim.MaxMetrics {
		return edgeclaim.Invalid("properties", "more than %d metrics", edgeclaim.MaxMetrics)
	}
	for name, metric := range s.Properties {
		if err := checkMetricName("properties", name); err != nil {
			return err
		}
		if err := under("properties."+name, checkMetric(&metric)); err != nil {
			return err
		}
	}
	seen := distinct[string]{}
	for i, name := range s.Required {
		if err := first(checkMetricName(at("required", i, ""), name), seen.add(at("required", i, ""), name)); err != nil {
			return err
		}
		if _, ok := s.Properties[name]; !ok && s.Additional != nil && !*s.Additional {
			return edgeclaim.Invalid(at("required", i, ""), "no other metrics are allowed, and it is not among the properties")
		}
	}
	return nil
}

func checkMetricName(member, name string) error {
	if name == "" || len(name) > edgeclaim.MaxMetricName {
		return edgeclaim.Invalid(member, "want names of 1 to %d bytes", edgeclaim.MaxMetricName)
	}
	return nil
}

func checkMetric(m *edgeclaim.MetricSchema) error {
	number, text := m.Minimum != nil || m.Maximum != nil, m.Enum != nil || m.MaxLength != nil
	switch m.Type {
	case "":
	case edgeclaim.MetricNumber, edgeclaim.MetricInteger:
		if text {
			return edgeclaim.Invalid("type", "enum and maxLength are of texts")
		}
	case edgeclaim.MetricText:
		if number {
			return edgeclaim.Invalid("type", "minimum and maximum are of numbers")
		}
	default:
		return edgeclaim.Invalid("type", "want number, integer or string")
	}
	if m.Minimum != nil && m.Maximum != nil && *m.Minimum > *m.Maximum {
		return edgeclaim.Invalid("minimum", "above the maximum")
	}
	if m.MaxLength != nil && *m.MaxLength < 0 {
		return edgeclaim.Invalid("maxLength", "want 0 or above")
	}
	return checkEnum(m)
}

func checkEnum(m *edgeclaim.MetricSchema) error {
	if m.Enum != nil && len(m.Enum) == 0 {
		return edgeclaim.Invalid("enum", "want a text")
	}
	seen := map[string]bool{}
	for i, text := range m.Enum {
		switch {
		case seen[text]:
			return edgeclaim.Invalid(at("enum", i, ""), "there twice")
		case len(text) > edgeclaim.MaxMetricText:
			return edgeclaim.Invalid(at("enum", i, ""), "longer than %d bytes", edgeclaim.MaxMetricText)
		case m.MaxLength != nil && utf8.RuneCountInString(text) > *m.MaxLength:
			return edgeclaim.Invalid(at("enum", i, ""), "longer than maxLength")
		}
		seen[text] = true
	}
	return nil
}
