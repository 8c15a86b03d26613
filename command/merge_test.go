package command_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim/command"
)

// TestMerge: the test cases of RFC 7396, appendix A, and more of the kind.
func TestMerge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"a":[{"b":null}]}`, `{"b":[null, {"c": null}]}`, `{"a":[{"b":null}],"b":[null,{"c":null}]}`},
		{`{"\u0061":1}`, `{"a":null}`, `{}`},
		{`{"n":12345678901234567890.10}`, `{"m":1e400}`, `{"m":1e400,"n":12345678901234567890.10}`}, // as they are spelled
	} {
		got, err := command.Merge([]byte(tt.target), []byte(tt.patch))
		if err != nil || string(got) != tt.want {
			t.Errorf("%s with %s: %s, %v, want %s", tt.target, tt.patch, got, err, tt.want)
		}
	}
	for _, bad := range []string{``, `{`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{} {}`, `{"a":}`, "{\"a\":\"\xff\"}", `{"a":1}]`} {
		if got, err := command.Merge([]byte(`{}`), []byte(bad)); err == nil {
			t.Errorf("%q makes %s", bad, got)
		}
	}
	deep := strings.Repeat(`{"a":`, 4000) + "1" + strings.Repeat("}", 4000)
	if got, err := command.Merge([]byte(deep), []byte(deep)); err != nil || string(got) != deep {
		t.Errorf("4000 objects in each other: %v", err)
	}
}

// FuzzMerge: the algorithm of RFC 7396 as it stands there, over another library's
// values.
func FuzzMerge(f *testing.F) {
	for _, seed := range [][2]string{
		{`{"a":{"b":[1,{"c":null}]},"x":"ä"}`, `{"a":{"b":null,"d":{"e":null}},"y":1.50}`}, {`[]`, `{"a":1}`}, {`{}`, `null`}, {`{"a":1}`, `{"a":1,"a":2}`},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, target, patch []byte) {
		valid := jsontext.Value(target).IsValid() && jsontext.Value(patch).IsValid()
		got, err := command.Merge(target, patch)
		if (err == nil) != valid {
			t.Fatalf("%q with %q: %v", target, patch, err)
		}
		if !valid {
			return
		}
		want := plainMerge(value(t, target), value(t, patch))
		if made := value(t, got); !reflect.DeepEqual(made, want) {
			t.Fatalf("%q with %q: %s, want %v", target, patch, got, want)
		}
		// The same values make the same text, and a patch laid over once more
		// changes nothing.
		again, err := command.Merge(got, patch)
		if err != nil || string(again) != string(got) {
			t.Fatalf("%q with %q: %s, then %s, %v", target, patch, got, again, err)
		}
	})
}

func value(t *testing.T, text []byte) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Skip() // beyond what that library takes
	}
	return v
}

func plainMerge(target, patch any) any {
	members, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	merged := map[string]any{}
	if was, ok := target.(map[string]any); ok {
		maps.Copy(merged, was)
	}
	for name, v := range members {
		if v == nil {
			delete(merged, name)
		} else {
			merged[name] = plainMerge(merged[name], v)
		}
	}
	return merged
}

// BenchmarkConfig: what a device is told, where it inherits and has something of
// its own, against what was set for it alone.
func BenchmarkConfig(b *testing.B) {
	for _, own := range []bool{false, true} {
		for _, inherits := range []bool{false, true} {
			b.Run(fmt.Sprintf("own=%v/inherits=%v", own, inherits), func(b *testing.B) {
				r := newRig(b, nil)
				defer r.close()
				if inherits {
					r.profiles(1, `{"interval":30,"limits":{"low":1,"high":9},"servers":["a","b"]}`, `{"interval":5,"limits":{"high":8}}`)
				}
				if own {
					_, err := r.SetConfig(b.Context(), device(b, 1), []byte(`{"limits":{"low":2},"name":"press 4"}`), "uid:0")
					r.noErr(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := r.Config(b.Context(), device(b, 1)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
