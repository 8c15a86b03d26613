package topic_test

import (
	"math/big"
	"slices"
	"testing"

	"edgeclaim/internal/topic"
)

func TestCovers(t *testing.T) {
	for _, tt := range []struct {
		outer, inner string
		want         bool
	}{
		{"devices/+/telemetry", "devices/+/telemetry", true},
		{"devices/+/telemetry", "devices/a/telemetry", true},
		{"devices/a/telemetry", "devices/+/telemetry", false},
		{"devices/+/telemetry", "devices/#", false},
		{"devices/+/telemetry", "devices/+/+", false},
		{"devices/+/telemetry", "devices/+/telemetry/#", false},
		{"devices/+/+", "devices/+/telemetry", true},
		{"devices/+/+", "devices/#", false},
		{"devices/#", "devices/+/telemetry", true},
		{"devices/#", "devices/#", true},
		{"devices/#", "devices", true},
		{"devices/#", "#", false},
		{"devices/+/#", "devices/#", false},
		{"devices/+/#", "devices/a", true},
		{"devices/+/#", "devices/+/#", true},
		{"devices/+", "devices", false},
		{"#", "+/#", true},
		{"+/#", "#", true},
		{"+/+/#", "#", false},
		{"/+/#", "/#", true},
		{"+", "#", false},
		{"#", "$SYS/x", false},
		{"+/x", "$SYS/x", false},
		{"$SYS/#", "$SYS/+", true},
		{"#", "+", true},
		{"a/+", "a/", true},
		{"a", "a/", false},
		{"a/#/b", "a", false},
		{"a", "a#", false},
		{"", "a", false},
		{"a", "", false},
	} {
		if got := topic.Covers(tt.outer, tt.inner); got != tt.want {
			t.Errorf("Covers(%q, %q) = %v, want %v", tt.outer, tt.inner, got, tt.want)
		}
	}
}

// texts are all of up to that many of the given levels.
func texts(levels []string, most int) []string {
	all, last := []string(nil), levels
	for range most {
		all = append(all, last...)
		var next []string
		for _, text := range last {
			for _, level := range levels {
				next = append(next, text+"/"+level)
			}
		}
		last = next
	}
	return all
}

// Every pair of filters of up to three levels is held against every name that
// may tell the two apart: one level longer, and with a level that is in neither.
func TestCoversEveryPair(t *testing.T) {
	names := slices.DeleteFunc(texts([]string{"", "a", "b", "$c", "z"}, 4), func(s string) bool { return !topic.ValidName(s) })
	filters := slices.DeleteFunc(texts([]string{"", "a", "b", "$c", "+", "#"}, 3), func(s string) bool { return !topic.ValidFilter(s) })
	heard := make([]*big.Int, len(filters)) // a bit for each name
	for i, filter := range filters {
		heard[i] = new(big.Int)
		for n, name := range names {
			if topic.Match(filter, name) {
				heard[i].SetBit(heard[i], n, 1)
			}
		}
	}
	for i, outer := range filters {
		for j, inner := range filters {
			want := new(big.Int).AndNot(heard[j], heard[i]).Sign() == 0
			if got := topic.Covers(outer, inner); got != want {
				t.Errorf("Covers(%q, %q) = %v, want %v", outer, inner, got, want)
			}
		}
	}
	if len(filters) < 180 || len(names) < 700 {
		t.Errorf("%d filters and %d names", len(filters), len(names))
	}
}

// Whoever may hear outer hears nothing more through inner, whatever the text.
func FuzzCovers(f *testing.F) {
	for _, seed := range [][3]string{
		{"devices/+/telemetry", "devices/a/telemetry", "devices/a/telemetry"}, {"a/#", "a/+/#", "a/b"}, {"/+/#", "/#", "/"},
		{"#", "$SYS/#", "$SYS"}, {"+/#", "#", "a"}, {"a", "a\x00", "a"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, outer, inner, name string) {
		covers := topic.Covers(outer, inner)
		if covers && topic.Match(inner, name) && !topic.Match(outer, name) {
			t.Fatalf("%q hears %q through %q", outer, name, inner)
		}
		if topic.Covers(inner, inner) != topic.ValidFilter(inner) {
			t.Fatalf("%q does not cover itself", inner)
		}
		if topic.ValidName(name) && topic.Covers(outer, name) != topic.Match(outer, name) {
			t.Fatalf("Covers(%q, %q) = %v: a name is a filter that matches itself alone", outer, name, !topic.Match(outer, name))
		}
	})
}
