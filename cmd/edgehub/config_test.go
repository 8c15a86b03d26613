package main

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"edgeclaim/cmd/internal/cli"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const exampleConfig = "../../configs/edgehub.yaml"

// The example configuration has every key, each with its default, and none
// that the program does not know.
func TestExampleConfigurationIsTheDefaults(t *testing.T) {
	got, err := cli.ReadConfig(exampleConfig, defaults)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaults(), got, cmpopts.EquateEmpty()); diff != "" {
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

// What the file says of the broker reaches the hub.
func TestBrokerKeysReachTheHub(t *testing.T) {
	s, err := cli.ParseConfig("test", []byte("broker:\n  url: mqtts://elsewhere\n  username: u\nhub:\n  max_boxes: 7\n"), defaults)
	if err != nil {
		t.Fatal(err)
	}
	if c := s.hubConfig(); c.Broker.URL != "mqtts://elsewhere" || c.Broker.Username != "u" || c.MaxBoxes != 7 {
		t.Errorf("the hub gets %+v", c)
	}
}

// Every flag stands for a key, and its default is the key's.
func TestFlagsHaveKeys(t *testing.T) {
	unset := defaults()
	for _, flag := range slices.Concat(serveFlags, applyFlags, documentFlags) {
		s := defaults()
		*flag.key(&s) += "changed"
		if cmp.Equal(s, unset) {
			t.Errorf("--%s changes nothing", flag.name)
		}
	}
}

// Whatever a file says, reading it ends in settings or in a usage error.
func FuzzParseSettings(f *testing.F) {
	for _, text := range []string{
		"", "# c\n", "data: s\n---\ndata: t\n", "http: 5", "http:\n  address: [", "hub: {linger: 1h}", "? a\n: b",
		"&a [*a]", "tenants: [7, {}]", "broker: {url: mqtt://u:hunter2@h:x}",
	} {
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
