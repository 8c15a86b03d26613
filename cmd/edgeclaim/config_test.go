package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"edgeclaim/cmd/internal/cli"
)

const exampleConfig = "../../configs/edgeclaim.yaml"

// The example configuration has every key, each with its default, and none
// that the program does not know.
func TestExampleConfigurationIsTheDefaults(t *testing.T) {
	got, err := cli.ReadConfig(exampleConfig, defaults)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaults(), got); diff != "" {
		t.Errorf("not the defaults (-default +example):\n%s", diff)
	}
	document, err := os.ReadFile(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if err := yaml.Unmarshal(document, &keys); err != nil {
		t.Fatal(err)
	}
	missing(t, "", reflect.TypeFor[settings](), keys)
}

// missing reports the keys of a struct that a document does not have.
func missing(t *testing.T, path string, of reflect.Type, keys map[string]any) {
	t.Helper()
	for field := range of.Fields() {
		name, option, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case name == "-":
		case option == "inline":
			missing(t, path, field.Type, keys)
		case name == "":
			t.Errorf("%s%s has no key", path, field.Name)
		case field.Type.Kind() == reflect.Struct:
			below, _ := keys[name].(map[string]any)
			missing(t, path+name+".", field.Type, below)
		default:
			if _, ok := keys[name]; !ok {
				t.Errorf("the example does not have %s%s", path, name)
			}
		}
	}
}

// Every key of the store reaches the store, under its own name.
func TestStoreKeysReachTheStore(t *testing.T) {
	s := settings{Data: "folder"}
	keys := reflect.ValueOf(&s.Store).Elem()
	for i := range keys.NumField() {
		field := keys.Field(i)
		if field.CanUint() {
			field.SetUint(uint64(i) + 1)
		} else {
			field.SetInt(int64(i) + 1)
		}
	}
	config := s.storeConfig()
	if config.Dir != "folder" {
		t.Errorf("Dir is %q", config.Dir)
	}
	got := reflect.ValueOf(config)
	for i := range keys.NumField() {
		name := keys.Type().Field(i).Name
		if want := keys.Field(i).Interface(); got.FieldByName(name).Interface() != want {
			t.Errorf("%s is %v, want %v", name, got.FieldByName(name), want)
		}
	}
}

// Whatever a file says, reading it ends in settings or in a usage error of one
// line.
func FuzzParseSettings(f *testing.F) {
	for _, text := range []string{"", "# c\n", "site: s\n---\nsite: t\n", "http: 5", "http:\n  address: [", "store: {linger: 1h}", "? a\n: b", "&a [*a]"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		s, err := cli.ParseConfig("fuzzed", document, defaults)
		if err == nil {
			s.Data = "chosen later"
			err = s.validate()
		}
		if err != nil && exitCode(err) != cli.ExitUsage {
			t.Errorf("%v: exit code %d", err, exitCode(err))
		}
	})
}
