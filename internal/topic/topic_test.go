package topic_test

import (
	"regexp"
	"strings"
	"testing"

	"edgeclaim/internal/topic"
)

// The examples of section 4.7 of the specification, and what went wrong in
// other matchers.
func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		filter, name string
		want         bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player12", false},
		{"sport/#", "sport", true},
		{"#", "sport", true},
		{"#", "/", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"#", "$SYS/broker/uptime", false},
		{"+/#", "$SYS", false},
		{"$SYS/#", "$SYS/broker/uptime", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"sport/#", "sport/$x", true},
		{"a/b", "a/b/c", false},
		{"a/b/c", "a/b", false},
		{"a/b", "a/b", true},
		{"a/b", "A/b", false},
		{"a//b", "a//b", true},
		{"a/+/b", "a//b", true},
		{"a/+/#", "a", false},
		{"a/+/#", "a/b", true},
		{"", "", false},
		{"a", "", false},
		{"", "a", false},
		{"a/#/b", "a/x/b", false},
		{"a/#", "a/+", false},
	} {
		if got := topic.Match(tt.filter, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v, want %v", tt.filter, tt.name, got, tt.want)
		}
	}
}

func TestValid(t *testing.T) {
	long := strings.Repeat("a", topic.MaxBytes)
	for _, tt := range []struct {
		text         string
		filter, name bool
	}{
		{"a", true, true},
		{"a/b", true, true},
		{"/", true, true},
		{"+", true, false},
		{"#", true, false},
		{"a/+/b/#", true, false},
		{"a+", false, false},
		{"a/b#", false, false},
		{"#/a", false, false},
		{"##", false, false},
		{"", false, false},
		{"a\x00b", false, false},
		{"\xff", false, false},
		{long, true, true},
		{long + "a", false, false},
		{"$SYS/x", true, true},
	} {
		if got := topic.ValidFilter(tt.text); got != tt.filter {
			t.Errorf("ValidFilter(%.20q) = %v, want %v", tt.text, got, tt.filter)
		}
		if got := topic.ValidName(tt.text); got != tt.name {
			t.Errorf("ValidName(%.20q) = %v, want %v", tt.text, got, tt.name)
		}
	}
}

// asRegexp says the same as Match in another way.
func asRegexp(filter string) *regexp.Regexp {
	levels := strings.Split(filter, "/")
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i, level := range levels {
		slash := ""
		if i > 0 {
			slash = "/"
		}
		switch level {
		case "#":
			if i == 0 {
				b.WriteString(`.*`)
			} else {
				b.WriteString(`(/.*)?`)
			}
		case "+":
			b.WriteString(slash + `[^/]*`)
		default:
			b.WriteString(slash + regexp.QuoteMeta(level))
		}
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}

func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{
		{"a/+/#", "a/b/c"}, {"#", "$SYS"}, {"+/b", "a/b"}, {"a/#", "a"}, {"//+", "///"}, {"$SYS/+", "$SYS/a"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, filter, name string) {
		got := topic.Match(filter, name)
		if !topic.ValidFilter(filter) || !topic.ValidName(name) {
			if got {
				t.Fatalf("Match(%q, %q) of something invalid", filter, name)
			}
			return
		}
		want := asRegexp(filter).MatchString(name)
		if name[0] == '$' && strings.IndexAny(filter, "+#") == 0 {
			want = false
		}
		if got != want {
			t.Fatalf("Match(%q, %q) = %v, want %v", filter, name, got, want)
		}
	})
}
