package edgeclaim_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// files returns the repository's files with one of the endings, by
// slash-separated path; what builds and runs leave behind is not looked into.
func files(t *testing.T, endings ...string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if path == ".git" || path == "bin" || path == "var" {
				return filepath.SkipDir
			}
			return nil
		}
		if slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(path, e) }) {
			found = append(found, filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestReadmeNamesTargets: what `make help` lists, the README tells.
func TestReadmeNamesTargets(t *testing.T) {
	t.Parallel()
	readme := read(t, "README.md")
	targets := regexp.MustCompile(`(?m)^([a-z-]+):.*## `).FindAllStringSubmatch(read(t, "Makefile"), -1)
	if len(targets) < 10 {
		t.Fatalf("the Makefile has %d targets with a help text", len(targets))
	}
	for _, target := range targets {
		if !strings.Contains(readme, "make "+target[1]) {
			t.Errorf("README.md does not mention make %s", target[1])
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fenced  = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
)

// TestLinksResolve follows the relative links of the Markdown files, to the
// heading where one is named.
func TestLinksResolve(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, ".md") {
		for _, match := range link.FindAllStringSubmatch(fenced.ReplaceAllString(read(t, file), ""), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			path := file
			if target != "" {
				path = filepath.Join(filepath.Dir(file), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: link to %s: no such file", file, match[1])
				continue
			}
			if anchor != "" && strings.HasSuffix(path, ".md") && !slices.Contains(anchors(read(t, path)), anchor) {
				t.Errorf("%s: link to %s: no such heading", file, match[1])
			}
		}
	}
}

// anchors returns the names that headings are linked by.
func anchors(markdown string) []string {
	var names []string
	drop := regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
	for _, match := range heading.FindAllStringSubmatch(markdown, -1) {
		name := drop.ReplaceAllString(strings.ToLower(match[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// TestDecisionsAreWhole: a decision without its context or its price is an order.
func TestDecisionsAreWhole(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`^docs/decisions/[0-9]{4}-[a-z0-9-]+\.md$`)
	seen := map[string]string{}
	for _, file := range files(t, ".md") {
		if filepath.Dir(file) != "docs/decisions" {
			continue
		}
		if !name.MatchString(file) {
			t.Errorf("%s: want NNNN-some-words.md", file)
			continue
		}
		number := filepath.Base(file)[:4]
		if other := seen[number]; other != "" {
			t.Errorf("%s has the number of %s", file, other)
		}
		seen[number] = file
		text := read(t, file)
		for _, section := range []string{"Context", "Decision", "Consequences"} {
			if !regexp.MustCompile(`(?m)^## ` + section + `\b`).MatchString(text) {
				t.Errorf("%s has no section %q", file, "## "+section)
			}
		}
	}
	if len(seen) == 0 {
		t.Error("no decision records found")
	}
}

// TestNothingOfThisMachine: home folders and module sources of whoever built it
// have no place in the tree.
func TestNothingOfThisMachine(t *testing.T) {
	t.Parallel()
	foreign := regexp.MustCompile(`(^|[\s"'=:(])/(root|home|Users|mnt)/[A-Za-z]|\bGO(PROXY|NOPROXY|SUMDB|FLAGS)=`)
	for _, file := range files(t, ".go", ".md", ".yaml", ".yml", ".sh", ".service", ".json", ".txtar", "Makefile", ".ci/run", "go.mod") {
		for i, line := range strings.Split(read(t, file), "\n") {
			if found := foreign.FindString(line); found != "" {
				t.Errorf("%s:%d: %q", file, i+1, found)
			}
		}
	}
}

// TestGoroutinesAreListed: docs/design.md's table names every file that starts
// one, so that each has a known owner.
func TestGoroutinesAreListed(t *testing.T) {
	t.Parallel()
	design := read(t, "docs/design.md")
	starts := regexp.MustCompile(`(?m)^\s*go (func\(|[a-zA-Z_.]+\()|\.Go\(|\bAfterFunc\(`)
	for _, file := range files(t, ".go") {
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "internal/mosquitto/") {
			continue
		}
		if starts.MatchString(read(t, file)) && !strings.Contains(design, file) {
			t.Errorf("%s starts a goroutine, and docs/design.md does not name it", file)
		}
	}
}

// TestDesignNamesRealTests: a promise is shown by tests that exist, and kept by
// files that do.
func TestDesignNamesRealTests(t *testing.T) {
	t.Parallel()
	var tests strings.Builder
	for _, file := range files(t, "_test.go") {
		tests.WriteString(read(t, file))
	}
	design := read(t, "docs/design.md")
	named := regexp.MustCompile(`\b(Test|Fuzz|Benchmark)[A-Z]\w+`).FindAllString(design, -1)
	if len(named) < 20 {
		t.Errorf("docs/design.md names %d tests", len(named))
	}
	for _, name := range named {
		if !strings.Contains(tests.String(), "func "+name+"(") {
			t.Errorf("docs/design.md names %s, which does not exist", name)
		}
	}
	for _, path := range regexp.MustCompile("`([a-z/]+/[a-z_]+\\.go)`").FindAllStringSubmatch(design, -1) {
		if _, err := os.Stat(path[1]); err != nil {
			t.Errorf("docs/design.md names %s, which does not exist", path[1])
		}
	}
}
