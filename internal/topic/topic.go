// Package topic matches MQTT topic names against topic filters.
//
// It exists because access decisions rest on it: the matcher bundled with the
// broker's library lets the filter a/b match the name a/b/c.
package topic

import (
	"strings"
	"unicode/utf8"
)

// MaxBytes is the longest topic name or filter, in bytes of UTF-8 (MQTT 5.0,
// section 4.7.3; MQTT 3.1.1, section 4.7.3).
const MaxBytes = 65535

// ValidName reports whether a message may be published to name: 1 to MaxBytes
// bytes of UTF-8 without U+0000 and without the wildcards + and # (sections
// 3.3.2.1 and 4.7.3 of either version).
func ValidName(name string) bool {
	return validText(name) && !strings.ContainsAny(name, "+#")
}

// ValidFilter reports whether filter is well formed: + and # stand alone in
// their levels, and # in the last one only (section 4.7.1). A shared
// subscription ($share/group/filter) is judged as the text it is.
func ValidFilter(filter string) bool {
	if !validText(filter) {
		return false
	}
	for more := true; more; {
		var level string
		level, filter, more = strings.Cut(filter, "/")
		switch {
		case level == "#":
			if more {
				return false
			}
		case level == "+":
		case strings.ContainsAny(level, "+#"):
			return false
		}
	}
	return true
}

func validText(text string) bool {
	return text != "" && len(text) <= MaxBytes && utf8.ValidString(text) &&
		strings.IndexByte(text, 0) < 0
}

// Match reports whether a subscription to filter receives what is published to
// name (section 4.7). Both must be valid; nothing matches what is not. A filter
// that starts with a wildcard does not match a name that starts with $
// (section 4.7.2), and a/# matches its parent a as well (section 4.7.1.2).
func Match(filter, name string) bool {
	if !ValidFilter(filter) || !ValidName(name) {
		return false
	}
	if name[0] == '$' && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		level, filterRest, filterMore := strings.Cut(filter, "/")
		if level == "#" {
			return true
		}
		nameLevel, nameRest, nameMore := strings.Cut(name, "/")
		if level != "+" && level != nameLevel {
			return false
		}
		switch {
		case !nameMore:
			return !filterMore || filterRest == "#"
		case !filterMore:
			return false
		}
		filter, name = filterRest, nameRest
	}
}
