package main

import (
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command's help has an example, and the examples are ones that the
// command line takes.
func TestExamples(t *testing.T) {
	seen := 0
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		group := c.HasSubCommands() && c.Name() != "clock" && c.Name() != "deny"
		if group || c.Name() == "help" || c.Parent() != nil && c.Parent().Name() == "completion" {
			return
		}
		seen++
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no word or no example", c.CommandPath())
		}
		mine := false
		for line := range strings.SplitSeq(strings.ReplaceAll(c.Example, "\\\n", " "), "\n") {
			mine = checkExample(t, line, c.CommandPath()) || mine
		}
		if !mine {
			t.Errorf("%s: no example of itself", c.CommandPath())
		}
	}
	root := new(app).rootCommand()
	visit(root)
	if seen < 50 {
		t.Errorf("%d commands found", seen)
	}
}

// The lines that the documentation tells people to paste are ones that the
// command line takes.
func TestExamplesOfTheDocumentation(t *testing.T) {
	seen := 0
	for _, name := range []string{"README.md", "docs/operations.md", "docs/security.md"} {
		document, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(document), "\\\n", " ")
		for _, match := range regexp.MustCompile(`(?m)^\$ (?:sudo (?:-u \S+ )?)?(?:bin/)?(edgeclaim .*)$`).FindAllStringSubmatch(text, -1) {
			seen++
			checkExample(t, match[1], name)
		}
	}
	if seen < 40 {
		t.Errorf("%d lines found", seen)
	}
}

// checkExample looks whether a line of the shell is a command that there is,
// with flags and arguments that it takes, and whether it is that of path.
func checkExample(t *testing.T, line, path string) (mine bool) {
	t.Helper()
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " |")
	line, _, _ = strings.Cut(line, " <")
	line, _, _ = strings.Cut(line, " >")
	args, ok := words(line)
	if !ok || len(args) == 0 {
		t.Errorf("%s: not a command: %s", path, line)
		return false
	}
	if args[0] != "edgeclaim" {
		return false
	}
	root := new(app).rootCommand()
	root.SetOut(io.Discard)
	c, rest, err := root.Find(args[1:])
	if err == nil {
		err = c.ParseFlags(rest)
	}
	if err == nil {
		err = c.ValidateArgs(c.Flags().Args())
	}
	if err == nil {
		err = c.ValidateRequiredFlags()
	}
	if err == nil {
		err = c.ValidateFlagGroups()
	}
	if err != nil {
		t.Errorf("%s: %s: %v", path, line, err)
	}
	return c.CommandPath() == path
}

// words splits a line as a shell would, for single quotes and blanks.
func words(line string) (found []string, ok bool) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			found = append(found, part)
		} else {
			found = append(found, strings.Fields(part)...)
		}
	}
	return found, strings.Count(line, "'")%2 == 0
}
