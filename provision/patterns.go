package provision

import (
	"regexp"
	"sync"

	"edgeclaim"
)

// patterns compiles each hardware id pattern once. It holds as many as there
// are templates, which the store bounds.
type patterns struct {
	compiled sync.Map // pattern → *regexp.Regexp
}

// match reports whether the whole hardware id matches; an empty pattern allows
// every one. An error means a template that cannot have been made here.
func (p *patterns) match(pattern string, hardware edgeclaim.HardwareID) (bool, error) {
	if pattern == "" {
		return true, nil
	}
	if re, ok := p.compiled.Load(pattern); ok {
		return re.(*regexp.Regexp).MatchString(hardware.String()), nil
	}
	re, err := compilePattern(pattern)
	if err != nil {
		return false, err
	}
	p.compiled.Store(pattern, re)
	return re.MatchString(hardware.String()), nil
}

// compilePattern compiles an RE2 expression to match wholly. It is compiled
// bare first: "a)(b" must not become valid by the brackets around it.
func compilePattern(pattern string) (*regexp.Regexp, error) {
	if len(pattern) > edgeclaim.MaxPattern {
		return nil, edgeclaim.Invalid("hardware_id_pattern", "longer than %d bytes", edgeclaim.MaxPattern)
	}
	if _, err := regexp.Compile(pattern); err != nil {
		return nil, edgeclaim.Invalid("hardware_id_pattern", "not an RE2 expression: %v", err)
	}
	re, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, edgeclaim.Invalid("hardware_id_pattern", "not an RE2 expression: %v", err)
	}
	return re, nil
}
