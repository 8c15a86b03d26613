package signeddoc_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/internal/signeddoc"
)

func grants(t testing.TB, names ...string) []edgeclaim.ShareGrant {
	t.Helper()
	var all []edgeclaim.ShareGrant
	for i, name := range names {
		key, err := edgeclaim.ParseKeyID(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, edgeclaim.ShareGrant{Key: key, Granted: uint32(10 * (i + 1)), Claims: uint32(i), Exhausted: i > 0})
	}
	return all
}

func TestShares(t *testing.T) {
	t.Parallel()
	hub := seeded(5)
	said := &signeddoc.Shares{Box: "box-1", Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Shares: grants(t, "k1", "k2")}
	text, err := signeddoc.SignShares(hub, said)
	if err != nil {
		t.Fatal(err)
	}
	read, err := signeddoc.OpenShares(text, public(hub))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(said, read, cmp.Comparer(func(a, b edgeclaim.KeyID) bool { return a == b })); diff != "" {
		t.Errorf("(-said +read):\n%s", diff)
	}
	var why *edgeclaim.DocumentError
	if _, err := signeddoc.OpenShares(text, public(seeded(6))); !errors.As(err, &why) || why.Reason != edgeclaim.DocumentBadSignature {
		t.Errorf("with another hub's key: %v", err)
	}
	if _, err := signeddoc.Open(text, public(hub)); !errors.As(err, &why) || why.Reason != edgeclaim.DocumentMalformed {
		t.Errorf("shares as a document: %v", err)
	}
	for name, wrong := range map[string]signeddoc.Shares{
		"no box":  {Time: said.Time, Shares: said.Shares},
		"no time": {Box: "b", Shares: said.Shares},
		"twice":   {Box: "b", Time: said.Time, Shares: grants(t, "k1", "k1")},
		"no key":  {Box: "b", Time: said.Time, Shares: make([]edgeclaim.ShareGrant, 1)},
	} {
		if _, err := signeddoc.SignShares(hub, &wrong); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReadBundle: lines in any order, with blank ones between them, whatever ends
// them.
func TestReadBundle(t *testing.T) {
	t.Parallel()
	one, _ := signeddoc.Sign(seeded(1), []byte(good()["revocations"]))
	two, _ := signeddoc.Sign(seeded(1), []byte(good()["profiles"]))
	shares, err := signeddoc.SignShares(seeded(5), &signeddoc.Shares{Box: "b", Time: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	cut := two.Text[:len(two.Text)-9]
	long := bytes.Repeat([]byte("x"), signeddoc.MaxText+5000)
	text := bytes.Join([][]byte{nil, one.Text, []byte("  "), append(shares, '\r'), long, []byte("{}"), cut}, []byte("\n"))
	bundle, err := signeddoc.ReadBundle(iotest.OneByteReader(bytes.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	want := [][]byte{one.Text, long[:signeddoc.MaxText+1], []byte("{}"), cut}
	if diff := cmp.Diff([]int{2, 5, 6, 7}, bundle.Lines); diff != "" || len(bundle.Documents) != len(want) {
		t.Fatalf("%d documents (-want +got lines):\n%s", len(bundle.Documents), diff)
	}
	for i := range want {
		if !bytes.Equal(bundle.Documents[i], want[i]) {
			t.Errorf("document %d is %.80q of %d bytes", i, bundle.Documents[i], len(bundle.Documents[i]))
		}
	}
	if !bytes.Equal(bundle.Shares, bytes.TrimSpace(shares)) {
		t.Errorf("shares are %s", bundle.Shares)
	}
	for _, text := range bundle.Documents[1:] {
		refusedAs(t, edgeclaim.DocumentMalformed, text, public(seeded(1)))
	}
	if _, err := signeddoc.Open(bundle.Documents[0], public(seeded(1))); err != nil {
		t.Error(err)
	}
}

// endless is text without end.
type endless string

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		n += copy(p[n:], e)
	}
	return n, nil
}

func TestReadBundleRefuses(t *testing.T) {
	t.Parallel()
	shares := `{"type":"edgeclaim.shares.v1"}` + "\n"
	for name, r := range map[string]io.Reader{
		"nothing":            strings.NewReader(""),
		"blanks":             strings.NewReader(" \n\r\n\t"),
		"two shares":         strings.NewReader(shares + shares),
		"too many":           strings.NewReader(strings.Repeat("{}\n", edgeclaim.MaxDocuments+1)),
		"without end":        endless("x"),
		"blanks without end": endless(strings.Repeat(" ", 99) + "\n"),
	} {
		if _, err := signeddoc.ReadBundle(r); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("the stick was pulled out")
	if _, err := signeddoc.ReadBundle(io.MultiReader(strings.NewReader("{}\n"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("a reader that breaks: %v", err)
	}
	if b, err := signeddoc.ReadBundle(strings.NewReader(strings.Repeat("{}\n", edgeclaim.MaxDocuments))); err != nil || len(b.Documents) != edgeclaim.MaxDocuments {
		t.Errorf("as many as there may be: %v", err)
	}
}
