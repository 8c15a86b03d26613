package edgeclaim_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "edgeclaim"

// A rule says which packages one of ours may import beyond the standard
// library. An entry that ends in "/..." stands for a path and all below it.
type rule struct {
	packages string   // whom the rule is for; the first that matches decides
	allowed  []string // beyond the standard library
	because  string
}

// The star: nouns in the middle, one package for each technology, and only the
// program sees them all.
var rules = []rule{
	{
		packages: module,
		because:  "the root is the nouns that all others share; a library here would be in all of them",
	},
	{
		packages: module + "/internal/protocolschema",
		allowed:  []string{module, "github.com/santhosh-tekuri/jsonschema/v6/...", "github.com/goccy/go-yaml/..."},
		because:  "for tests: what is said is held against the schemas",
	},
	{
		packages: module + "/internal/userhash",
		allowed:  []string{module, "golang.org/x/crypto/bcrypt"},
		because:  "one door to bcrypt, for the face that lets users in and the command that makes their hashes",
	},
	{
		packages: module + "/internal/signeddoc",
		allowed:  []string{module, "github.com/go-json-experiment/json/..."},
		because:  "documents are signed far from any box, and read on it: one reading of them for both",
	},
	{
		packages: module + "/internal/...",
		allowed:  []string{module + "/internal/...", "golang.org/x/sys/...", "golang.org/x/sync/...", module},
		because:  "small packages of one idea each, with nothing to drag along",
	},
	{
		packages: module + "/broker/...",
		allowed:  []string{module, module + "/internal/...", "github.com/mochi-mqtt/server/v2/...", "golang.org/x/..."},
		because:  "the MQTT face is the one door to mochi, and knows the rule only by its own interfaces",
	},
	{
		packages: module + "/store/...",
		allowed: []string{
			module, module + "/internal/...", "go.etcd.io/bbolt/...", "golang.org/x/...",
			"github.com/fxamacker/cbor/v2", "github.com/google/uuid",
		},
		because: "the store is the one door to bbolt, and knows no rule and no face",
	},
	{
		packages: module + "/bridge/wire/...",
		allowed:  []string{module, "github.com/go-json-experiment/json/..."},
		because:  "the protocol is words alone: both ends stand on it, and it knows no connection, file or clock",
	},
	{
		packages: module + "/bridge/hub/registry/...",
		allowed: []string{
			module, module + "/internal/...", module + "/bridge/wire", "github.com/go-json-experiment/json/...",
			"modernc.org/sqlite/...", "github.com/jackc/pgx/v5/...", "golang.org/x/...",
		},
		because: "the hub's registry is the one door to SQL, and knows no connection",
	},
	{
		packages: module + "/bridge/...",
		allowed: []string{
			module, module + "/internal/...", module + "/bridge/...",
			"github.com/eclipse/paho.mqtt.golang/...", "github.com/go-json-experiment/json/...", "golang.org/x/...",
		},
		because: "the way up is the one door to paho, and knows the outbox only by its own interface",
	},
	{
		packages: module + "/provision/httpapi/...",
		allowed: []string{
			module, module + "/internal/...", module + "/provision",
			"github.com/gin-gonic/gin/...", "github.com/go-json-experiment/json/...", "golang.org/x/...",
		},
		because: "the HTTP face is the one door to gin",
	},
	{
		packages: module + "/provision/...",
		allowed: []string{
			module, module + "/internal/...", "golang.org/x/...",
			"github.com/fxamacker/cbor/v2", "github.com/go-json-experiment/json/...", "github.com/google/uuid",
		},
		because: "the rule is pure: no server, no client, no file, so that both faces share it and tests need none",
	},
	{
		packages: module + "/command/...",
		allowed:  []string{module, module + "/internal/...", "golang.org/x/...", "github.com/go-json-experiment/json/..."},
		because:  "what devices are told is a rule: no server, no file, so that both faces share it and the store is behind an interface",
	},
	{
		packages: module + "/document/...",
		allowed:  []string{module, module + "/internal/...", "golang.org/x/..."},
		because:  "who may rule the box, and how old their word is: what a word does is the rule's, where it lies the store's",
	},
	{
		packages: module + "/telemetry/...",
		allowed:  []string{module, module + "/internal/...", "golang.org/x/..."},
		because:  "what devices say lies in files of its own: neither the registry nor a face is in its way, nor it in theirs",
	},
	{
		packages: module + "/cmd/...",
		allowed: []string{
			module + "/...", "golang.org/x/...",
			"github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/goccy/go-yaml/...",
			"github.com/prometheus/client_golang/...", "github.com/coreos/go-systemd/v22/...",
		},
		because: "the program wires the parts and alone knows flags, files and metrics; a part's library stays behind its door",
	},
}

// Packages that only tests may import: they start processes and fail loudly.
var forTests = []string{
	module + "/internal/mosquitto", module + "/internal/postgres",
	module + "/internal/mqttproxy", module + "/internal/protocolschema",
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, violation := range violations(goList(t)) {
		t.Error(violation)
	}
}

// TestImportRulesFail plants one violation of each kind: a rule that nothing
// can break keeps nothing.
func TestImportRulesFail(t *testing.T) {
	t.Parallel()
	for from, to := range map[string]string{
		"edgeclaim":                     "golang.org/x/sync/errgroup",
		"edgeclaim/broker":              "edgeclaim/store",
		"edgeclaim/store":               "edgeclaim/provision",
		"edgeclaim/bridge":              "edgeclaim/store",
		"edgeclaim/bridge/device":       "github.com/mochi-mqtt/server/v2/packets",
		"edgeclaim/bridge/wire":         "github.com/eclipse/paho.mqtt.golang",
		"edgeclaim/bridge/hub":          "modernc.org/sqlite",
		"edgeclaim/bridge/hub/registry": "edgeclaim/bridge/internal/client",
		"edgeclaim/provision":           "github.com/gin-gonic/gin",
		"edgeclaim/provision/httpapi":   "edgeclaim/store",
		"edgeclaim/telemetry":           "edgeclaim/store",
		"edgeclaim/cmd/edgeclaim":       "go.etcd.io/bbolt",
		"edgeclaim/internal/topic":      "edgeclaim/broker",
		"edgeclaim/internal/clock":      "github.com/spf13/cobra",
		"edgeclaim/internal/mosquitto":  "go.etcd.io/bbolt",
		"edgeclaim/cmd/edgehub":         "edgeclaim/internal/mosquitto",
		"edgeclaim/command":             "edgeclaim/store",
		"edgeclaim/newcomer":            "fmt",
	} {
		if got := violations(map[string][]string{from: {"fmt", to}}); len(got) != 1 {
			t.Errorf("%s imports %s: %d violations %q, want 1", from, to, len(got), got)
		}
	}
	fine := map[string][]string{
		"edgeclaim":                   {"fmt", "crypto/sha256"},
		"edgeclaim/broker":            {"edgeclaim", "edgeclaim/internal/topic", "github.com/mochi-mqtt/server/v2/packets"},
		"edgeclaim/provision/httpapi": {"edgeclaim/provision", "github.com/gin-gonic/gin"},
		"edgeclaim/bridge/device":     {"edgeclaim", "github.com/eclipse/paho.mqtt.golang"},
		"edgeclaim/bridge/hub":        {"edgeclaim", "edgeclaim/bridge/hub/registry", "edgeclaim/bridge/wire"},
		"edgeclaim/cmd/edgeclaim":     {"edgeclaim/store", "github.com/spf13/cobra", "golang.org/x/sync/errgroup"},
	}
	if diff := cmp.Diff([]string(nil), violations(fine)); diff != "" {
		t.Errorf("imports that are right (-want +got):\n%s", diff)
	}
}

// violations judges an import graph, non-test imports by package, and says
// every breach of the rules with its reason.
func violations(imports map[string][]string) []string {
	var found []string
	for pkg, imported := range imports {
		if len(imported) == 0 {
			continue // nothing but tests
		}
		i := slices.IndexFunc(rules, func(r rule) bool { return covers(r.packages, pkg) })
		if i < 0 {
			found = append(found, fmt.Sprintf("%s: no rule says what it may import; add one, with its reason", pkg))
			continue
		}
		for _, path := range imported {
			switch {
			case standard(path):
			case slices.Contains(forTests, path) && !slices.Contains(forTests, pkg):
				found = append(found, fmt.Sprintf("%s imports %s: that one is for tests", pkg, path))
			case !slices.ContainsFunc(rules[i].allowed, func(a string) bool { return covers(a, path) }):
				found = append(found, fmt.Sprintf("%s imports %s: %s", pkg, path, rules[i].because))
			}
		}
	}
	slices.Sort(found)
	return found
}

func covers(pattern, path string) bool {
	prefix, below := strings.CutSuffix(pattern, "/...")
	return path == prefix || below && strings.HasPrefix(path, prefix+"/")
}

// standard reports whether path is of the standard library, whose first
// elements have no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return first != module && !strings.Contains(first, ".")
}

// goList returns the imports of every package of the module, tests aside.
func goList(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	imports := map[string][]string{}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		imports[pkg.ImportPath] = pkg.Imports
	}
	if len(imports) < 2 {
		t.Fatalf("go list named %d packages", len(imports))
	}
	return imports
}

// TestDependenciesAreDecided: a library that is compiled in has a row, with the
// version in use, in the decision record on dependencies.
func TestDependenciesAreDecided(t *testing.T) {
	t.Parallel()
	record := read(t, "docs/decisions/0001-dependencies.md")
	required := regexp.MustCompile(`(?m)^\t(\S+) (v\S+)`).FindAllStringSubmatch(read(t, "go.mod"), -1)
	undecided := map[string]bool{}
	for _, imported := range goList(t) {
		for _, path := range imported {
			i := slices.IndexFunc(required, func(r []string) bool { return covers(r[1]+"/...", path) })
			if standard(path) || covers(module+"/...", path) || i < 0 {
				continue
			}
			name, version := required[i][1], required[i][2]
			if x, ok := strings.CutPrefix(name, "golang.org/x/"); ok {
				undecided[name] = !regexp.MustCompile(`\| golang\.org/x/[a-z, ]*\b` + x + `\b`).MatchString(record)
				continue
			}
			row := regexp.MustCompile(`/v[0-9]+$`).ReplaceAllString(strings.TrimPrefix(name, "github.com/"), "") + " " + version
			undecided[row] = !strings.Contains(record, row)
		}
	}
	if len(undecided) < 8 {
		t.Fatalf("found %d libraries", len(undecided))
	}
	for row, is := range undecided {
		if is {
			t.Errorf("docs/decisions/0001-dependencies.md has no row for %s", row)
		}
	}
}
