package ca_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"edgeclaim/internal/ca"
)

// TestOpenAgain: what was made is read, not made anew.
func TestOpenAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	_, cert := issue(t, a, request(t, "board-1"))
	again := open(t, dir)
	if !bytes.Equal(a.Root(), again.Root()) {
		t.Error("another root")
	}
	identified(t, again, cert, device(t, "board-1"))
	// Half of a listener's key, as a crash may leave it.
	write(t, file(dir, "server.pem.tmp"), []byte("-----BEGIN PRIVATE KEY-----"))
	open(t, dir)
	if _, err := os.Stat(file(dir, "server.pem.tmp")); err == nil {
		t.Error("what a crash left half-made is still there")
	}
}

// TestCreationCutOff: what a crash leaves of an authority that was never there
// is no hindrance, and none of it is taken.
func TestCreationCutOff(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	open(t, from)
	whole := read(t, file(from, "issuer.pem"))
	states := map[string]func(dir string){
		"nothing":      func(string) {},
		"the folder":   func(dir string) { noErr(t, os.Mkdir(filepath.Join(dir, "ca"), 0o700)) },
		"no data yet":  func(dir string) { write(t, file(dir, "issuer.pem.tmp"), nil) },
		"half a file":  func(dir string) { write(t, file(dir, "issuer.pem.tmp"), whole[:len(whole)/2]) },
		"not yet here": func(dir string) { write(t, file(dir, "issuer.pem.tmp"), whole) },
	}
	for name, state := range states {
		dir := t.TempDir()
		state(dir)
		a := open(t, dir)
		if bytes.Contains(whole, a.Root()) {
			t.Errorf("%s: took a file that was not finished", name)
		}
		if _, err := os.Stat(file(dir, "issuer.pem.tmp")); err == nil {
			t.Errorf("%s: left behind", name)
		}
		if again := open(t, dir); !bytes.Equal(a.Root(), again.Root()) {
			t.Errorf("%s: not there after a restart", name)
		}
	}
	dir := t.TempDir()
	write(t, file(dir, "issuer.pem"), whole)
	if !bytes.Contains(whole, open(t, dir).Root()) {
		t.Error("a finished file was not taken")
	}
}

func TestOpenDamaged(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	a := open(t, from)
	noErr(t, a.Import(newPlant(t).sign(t, csr(t, a), nil)))
	whole := map[string][]byte{"issuer.pem": read(t, file(from, "issuer.pem")), "retired.pem": read(t, file(from, "retired.pem"))}
	key, certs, _ := bytes.Cut(whole["issuer.pem"], []byte("-----BEGIN CERTIFICATE"))
	certs = append([]byte("-----BEGIN CERTIFICATE"), certs...)
	stranger := t.TempDir()
	open(t, stranger)
	strangers := read(t, file(stranger, "issuer.pem"))
	block, _ := pem.Decode(key)

	type damage struct{ file, problem string }
	cases := map[damage][]byte{
		{"issuer.pem", "empty"}:                          {},
		{"issuer.pem", "zeros"}:                          make([]byte, 512),
		{"issuer.pem", "no key"}:                         certs,
		{"issuer.pem", "key alone"}:                      key,
		{"issuer.pem", "another's key"}:                  append(strangers[:bytes.Index(strangers, []byte("-----BEGIN CERT"))], certs...),
		{"issuer.pem", "key twice"}:                      append(bytes.Clone(key), whole["issuer.pem"]...),
		{"issuer.pem", "no root"}:                        append(bytes.Clone(key), certs[:bytes.LastIndex(certs, []byte("-----BEGIN"))]...),
		{"issuer.pem", "text between"}:                   append(append(bytes.Clone(key), "x\n"...), certs...),
		{"issuer.pem", "a key that is none"}:             append(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: []byte("x")}), certs...),
		{"issuer.pem", "a certificate that is none"}:     append(bytes.Clone(key), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})...),
		{"issuer.pem", "a broken block among good ones"}: append(append(bytes.Clone(key), "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n"...), certs...),
		{"retired.pem", "empty"}:                         {},
		{"retired.pem", "a key"}:                         key,
		{"retired.pem", "zeros"}:                         make([]byte, 512),
	}
	for name, text := range whole {
		for cut := 1; cut < len(text)-1; cut += len(text) / 16 {
			// A cut between two blocks of the retired is not seen: they are
			// written whole or not at all.
			if left := text[:cut]; !bytes.HasSuffix(left, []byte("-----\n")) && !bytes.HasSuffix(left, []byte("-----")) {
				cases[damage{name, "cut short " + string(rune('a'+cut*16/len(text)))}] = left
			}
		}
	}
	for tc, text := range cases {
		t.Run(tc.file+" "+tc.problem, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range whole {
				write(t, file(dir, name), text)
			}
			write(t, file(dir, tc.file), text)
			damaged(t, dir, tc.file)
			if got := read(t, file(dir, tc.file)); !bytes.Equal(got, text) {
				t.Error("the damaged file was changed")
			}
		})
	}
}

// damaged fails the test unless Open names the file and a way out, and leaves
// out what is in it.
func damaged(t *testing.T, dir, name string) {
	t.Helper()
	_, err := ca.Open(config(dir))
	if !errors.Is(err, ca.ErrDamaged) {
		t.Fatalf("got %v, want ErrDamaged", err)
	}
	for _, want := range []string{file(dir, name), "restore", "backup", "claim anew"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "BEGIN") {
		t.Errorf("%q repeats the file", err)
	}
}

// TestOpenLostIssuer: a folder with anything else of an authority in it had an
// issuer once, and gets no new one.
func TestOpenLostIssuer(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"retired.pem", "pending.key", "server.pem"} {
		dir := t.TempDir()
		a := open(t, dir)
		noErr(t, a.Import(newPlant(t).sign(t, csr(t, a), nil)))
		csr(t, a)
		_, err := a.ServerCertificate([]string{"localhost"}, nil)
		noErr(t, err)
		for _, other := range []string{"issuer.pem", "retired.pem", "pending.key", "server.pem"} {
			if other != name {
				noErr(t, os.Remove(file(dir, other)))
			}
		}
		damaged(t, dir, "issuer.pem")
		if _, err := os.Stat(file(dir, "issuer.pem")); err == nil {
			t.Error("a new authority all the same")
		}
	}
}

// TestDamagedPending: the box goes on without it, and says what to do when it
// is asked for.
func TestDamagedPending(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	chain := newPlant(t).sign(t, csr(t, a), nil)
	whole := read(t, file(dir, "pending.key"))
	for _, text := range [][]byte{nil, whole[:100], whole[:bytes.Index(whole, []byte("-----BEGIN CERT"))]} {
		write(t, file(dir, "pending.key"), text)
		a := open(t, dir)
		issue(t, a, request(t, "board-1"))
		_, err := a.CSR()
		for _, err := range []error{err, a.Import(chain)} {
			if !errors.Is(err, ca.ErrDamaged) || !strings.Contains(err.Error(), file(dir, "pending.key")) || !strings.Contains(err.Error(), "delete it") {
				t.Errorf("got %v", err)
			}
		}
	}
	noErr(t, os.Remove(file(dir, "pending.key")))
	noErr(t, a.Import(newPlant(t).sign(t, csr(t, a), nil)))
}

func TestOpenOnBadDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca"), []byte("a file in the way"))
	if _, err := ca.Open(config(dir)); err == nil || errors.Is(err, ca.ErrDamaged) {
		t.Errorf("got %v", err)
	}
}
