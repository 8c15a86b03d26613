package cli_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"edgeclaim/cmd/internal/cli"
)

func TestTable(t *testing.T) {
	var out strings.Builder
	table := cli.NewTable(&out, "NAME", "N")
	table.Row("a", "")
	table.Row("longer", "2")
	if err := table.End(); err != nil {
		t.Fatal(err)
	}
	const want = "NAME    N\na       -\nlonger  2\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// A long list is written as it comes.
func TestTableIsNotHeld(t *testing.T) {
	var out strings.Builder
	table := cli.NewTable(&out, "N")
	for range 1000 {
		table.Row("1")
	}
	if out.Len() < 1000 {
		t.Errorf("%d bytes written of a thousand rows", out.Len())
	}
}

func TestFacts(t *testing.T) {
	var out strings.Builder
	if err := cli.Facts(&out, [2]string{"a", "1"}, [2]string{"none", ""}, [2]string{"long", "2"}); err != nil {
		t.Fatal(err)
	}
	if want := "a     1\nlong  2\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestWhen(t *testing.T) {
	at := time.Date(2026, 11, 23, 9, 0, 0, 5, time.FixedZone("", 3600))
	if got := cli.When(at); got != "2026-11-23T08:00:00Z" {
		t.Errorf("got %q", got)
	}
	if got := cli.When(time.Time{}); got != "" {
		t.Errorf("no time is %q", got)
	}
}

func TestOneLine(t *testing.T) {
	if got := cli.OneLine(errors.New("a\n\tb  c")); got != "a b c" {
		t.Errorf("got %q", got)
	}
}

func TestReadBuild(t *testing.T) {
	b := cli.ReadBuild("v1.2.3", "2026-11-23T08:00:00Z")
	if b.Version != "v1.2.3" || cli.When(b.Built) != "2026-11-23T08:00:00Z" || !strings.HasPrefix(b.Go, "go") {
		t.Errorf("got %+v", b)
	}
	if b := cli.ReadBuild("", ""); b.Version == "" {
		t.Error("no version at all")
	}
}
