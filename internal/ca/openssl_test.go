package ca_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"edgeclaim/internal/ca"
)

// openssl runs the program; what it says on a failure is the error.
func openssl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	return said.String(), err
}

func mustOpenssl(t *testing.T, args ...string) {
	t.Helper()
	if said, err := openssl(t, args...); err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, said)
	}
}

// verified has openssl check a chain at several times, a device's clock that
// starts in 1970 among them.
func verified(t *testing.T, until time.Time, args ...string) {
	t.Helper()
	for _, at := range []time.Time{time.Unix(1, 0), today, until.Add(-time.Second)} {
		mustOpenssl(t, append([]string{"verify", "-x509_strict", "-attime", strconv.FormatInt(at.Unix(), 10)}, args...)...)
	}
	late := append([]string{"verify", "-attime", strconv.FormatInt(until.Unix()+1, 10)}, args...)
	if said, err := openssl(t, late...); err == nil {
		t.Errorf("openssl takes it after its end: %s", said)
	}
}

// TestOpensslRequests: keys and requests by openssl, certificates by the box,
// verified by openssl with what a device is given.
func TestOpensslRequests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	in := func(name string) string { return filepath.Join(dir, name) }
	write(t, in("root.pem"), a.Root())
	for name, key := range map[string][]string{
		"p256":    {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"p384":    {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"ed25519": {"-algorithm", "ED25519"},
		"rsa2048": {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
	} {
		t.Run(name, func(t *testing.T) {
			mustOpenssl(t, append([]string{"genpkey", "-out", in(name + ".key")}, key...)...)
			mustOpenssl(t, "req", "-new", "-key", in(name+".key"), "-subj", "/CN="+device(t, "board-2").String(),
				"-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:TRUE", "-out", in(name+".csr"))
			der, err := ca.ParseCSRPEM(string(read(t, in(name+".csr"))))
			noErr(t, err)
			req := request(t, "board-1")
			req.CSR = der
			_, cert := issue(t, a, req)
			write(t, in(name+".crt"), chainPEM(cert))
			verified(t, cert.NotAfter, "-purpose", "sslclient", "-CAfile", in("root.pem"), in(name+".crt"))
			if said, err := openssl(t, "verify", "-purpose", "sslserver", "-CAfile", in("root.pem"), in(name+".crt")); err == nil {
				t.Errorf("openssl takes a device for a server: %s", said)
			}
			said, err := openssl(t, "x509", "-in", in(name+".crt"), "-noout", "-text")
			noErr(t, err)
			if strings.Contains(said, "CA:TRUE") || strings.Contains(said, "localhost") || strings.Contains(said, device(t, "board-2").String()) ||
				!strings.Contains(said, "URI:urn:edgeclaim:device:"+tenant(t).String()+":"+req.Device.String()) {
				t.Errorf("the certificate:\n%s", said)
			}
		})
	}
}

// TestOpensslPlant: openssl is the plant's root and signs the box's request,
// taking the extensions that it asks for.
func TestOpensslPlant(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	in := func(name string) string { return filepath.Join(dir, name) }
	mustOpenssl(t, "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-keyout", in("plant.key"), "-out", in("plant.crt"),
		"-subj", "/O=Plant/CN=Plant Root", "-days", "3650", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
	write(t, in("box.csr"), csr(t, a))
	mustOpenssl(t, "req", "-in", in("box.csr"), "-noout", "-verify")
	mustOpenssl(t, "x509", "-req", "-in", in("box.csr"), "-CA", in("plant.crt"), "-CAkey", in("plant.key"),
		"-copy_extensions", "copy", "-days", "365", "-text", "-out", in("box.crt"))
	box := read(t, in("box.crt"))
	// The plant signed at the machine's time, which may be after the box's.
	noErr(t, a.Import(append(box, read(t, in("plant.crt"))...)))

	issued, cert := issue(t, a, request(t, "board-1"))
	server := server(t, a, []string{"localhost", "box.plant.example"}, loopback)
	write(t, in("device.crt"), chainPEM(cert))
	write(t, in("server.crt"), chainPEM(server.Leaf))
	write(t, in("root.pem"), a.Root())
	write(t, in("between.pem"), chainPEM(parse(t, issued.Chain[0])))
	at := strconv.FormatInt(a.Info().NotBefore.Unix(), 10)
	chain := []string{"-CAfile", in("root.pem"), "-untrusted", in("between.pem")}
	for _, args := range [][]string{
		{"-purpose", "sslclient", in("device.crt")},
		{"-purpose", "sslserver", "-verify_hostname", "box.plant.example", in("server.crt")},
		{"-purpose", "sslserver", "-verify_ip", "127.0.0.1", in("server.crt")},
		{"-purpose", "sslserver", "-verify_ip", "::1", in("server.crt")},
	} {
		mustOpenssl(t, append(append([]string{"verify", "-x509_strict", "-attime", at}, chain...), args...)...)
	}
	if !bytes.Equal(parseOnly(t, a.Root()).Raw, parseOnly(t, read(t, in("plant.crt"))).Raw) {
		t.Error("devices are not told to trust the plant's root")
	}
}

// TestOpensslServer: the listener's certificate under the box's own root.
func TestOpensslServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	cert := server(t, a, []string{"localhost", strings.Repeat("long.", 20) + "example"}, loopback)
	root := filepath.Join(dir, "root.pem")
	leaf := filepath.Join(dir, "server.crt")
	noErr(t, os.WriteFile(root, a.Root(), 0o600))
	noErr(t, os.WriteFile(leaf, chainPEM(cert.Leaf), 0o600))
	for _, args := range [][]string{
		{"-verify_hostname", "localhost"}, {"-verify_hostname", strings.Repeat("long.", 20) + "example"},
		{"-verify_ip", "127.0.0.1"}, {"-verify_ip", "::1"},
	} {
		verified(t, cert.Leaf.NotAfter, append(args, "-purpose", "sslserver", "-CAfile", root, leaf)...)
	}
	if said, err := openssl(t, "verify", "-verify_hostname", "elsewhere", "-CAfile", root, leaf); err == nil {
		t.Errorf("openssl takes it for another: %s", said)
	}
}
