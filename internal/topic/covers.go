package topic

import "strings"

// Covers reports whether the filter outer matches every name that the filter
// inner matches, so that who may hear the one may hear the other. Both must be
// valid; what is not covers nothing, and is not covered.
func Covers(outer, inner string) bool {
	if !ValidFilter(outer) || !ValidFilter(inner) {
		return false
	}
	if inner[0] == '$' && (outer[0] == '+' || outer[0] == '#') {
		return false // section 4.7.2
	}
	if inner == "#" || inner == "/#" { // what they match beyond this, the empty name, is none
		inner = inner[:len(inner)-1] + "+/#"
	}
	for {
		level, outerRest, outerMore := strings.Cut(outer, "/")
		if level == "#" {
			return true
		}
		innerLevel, innerRest, innerMore := strings.Cut(inner, "/")
		if innerLevel == "#" || level != "+" && level != innerLevel {
			return false // # matches its parent too, and outer asks for more
		}
		switch {
		case !innerMore:
			return !outerMore || outerRest == "#"
		case !outerMore:
			return false
		}
		outer, inner = outerRest, innerRest
	}
}
