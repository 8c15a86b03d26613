package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/internal/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// today is when the tests are; the authorities are made at that time.
var today = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func config(dir string) ca.Config {
	return ca.Config{Dir: dir, BoxID: "box-1", Site: "north", Now: func() time.Time { return today }}
}

func open(t testing.TB, dir string) *ca.Authority {
	t.Helper()
	a, err := ca.Open(config(dir))
	noErr(t, err)
	return a
}

func file(dir, name string) string { return filepath.Join(dir, "ca", name) }

func tenant(t testing.TB) edgeclaim.TenantID {
	t.Helper()
	id, err := edgeclaim.ParseTenantID("11111111-2222-4333-8444-555555555555")
	noErr(t, err)
	return id
}

func device(t testing.TB, hardware string) edgeclaim.DeviceID {
	t.Helper()
	h, err := edgeclaim.ParseHardwareID(hardware)
	noErr(t, err)
	return edgeclaim.NewDeviceID(tenant(t), h, 1)
}

func request(t testing.TB, hardware string) ca.Request {
	t.Helper()
	return ca.Request{Device: device(t, hardware), Tenant: tenant(t), NotAfter: today.Add(90 * day)}
}

func issue(t testing.TB, a *ca.Authority, req ca.Request) (ca.Issued, *x509.Certificate) {
	t.Helper()
	issued, err := a.Issue(req)
	noErr(t, err)
	return issued, parse(t, issued.Certificate)
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	noErr(t, err)
	return cert
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noErr(t, err)
	return key
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	noErr(t, err)
	return text
}

func write(t testing.TB, name string, text []byte) {
	t.Helper()
	noErr(t, os.MkdirAll(filepath.Dir(name), 0o700))
	noErr(t, os.WriteFile(name, text, 0o600))
}

// issuer returns the key and the certificate that an authority issues with, as
// a thief of its folder would have them.
func issuer(t testing.TB, dir string) (crypto.Signer, *x509.Certificate) {
	t.Helper()
	block, rest := pem.Decode(read(t, file(dir, "issuer.pem")))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	noErr(t, err)
	block, _ = pem.Decode(rest)
	return key.(crypto.Signer), parse(t, block.Bytes)
}

// unauthenticated fails the test unless Identify refuses the chain, and says
// nothing of what is in it.
func unauthenticated(t *testing.T, a *ca.Authority, chain []*x509.Certificate, now time.Time, want string) {
	t.Helper()
	id, hash, err := a.Identify(chain, now)
	if !errors.Is(err, edgeclaim.ErrUnauthenticated) || !id.IsZero() || !hash.IsZero() {
		t.Fatalf("got %v, %v, %v; want ErrUnauthenticated", id, hash, err)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, want it to say %q", err, want)
	}
}

func identified(t testing.TB, a *ca.Authority, cert *x509.Certificate, want edgeclaim.DeviceID) {
	t.Helper()
	id, hash, err := a.Identify([]*x509.Certificate{cert}, today)
	noErr(t, err)
	if sum := sha256.Sum256(cert.Raw); id != want || !bytes.Equal(hash.Bytes(), sum[:]) {
		t.Errorf("got %v, %v; want %v, %x", id, hash, want, sum)
	}
}

func TestIssueMakesKeyPair(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	req := request(t, "board-1")
	issued, cert := issue(t, a, req)

	block, rest := pem.Decode([]byte(issued.PrivateKey.Reveal()))
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		t.Fatal("the private key is not one PEM block of PKCS #8")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	noErr(t, err)
	if own := key.(*ecdsa.PrivateKey); own.Curve != elliptic.P256() || !own.PublicKey.Equal(cert.PublicKey) {
		t.Error("the private key is not that of the certificate")
	}
	checkDevice(t, cert, req)
	if len(issued.Chain) != 1 || !bytes.Equal(issued.Chain[0], parseOnly(t, a.Root()).Raw) {
		t.Error("the chain is not the root alone")
	}
	if len(issued.Serial) != 32 || cert.SerialNumber.Text(16) != strings.TrimLeft(issued.Serial, "0") {
		t.Errorf("serial %s, in the certificate %x", issued.Serial, cert.SerialNumber)
	}
	if !issued.NotAfter.Equal(cert.NotAfter) || !cert.NotAfter.Equal(req.NotAfter) || !cert.NotBefore.Equal(ca.NotBefore()) {
		t.Errorf("valid from %v to %v, told %v", cert.NotBefore, cert.NotAfter, issued.NotAfter)
	}
	if sum := sha256.Sum256(cert.Raw); !bytes.Equal(issued.Fingerprint.Bytes(), sum[:]) {
		t.Error("the fingerprint is not that of the DER")
	}
	identified(t, a, cert, req.Device)
	if _, again := issue(t, a, req); again.SerialNumber.Cmp(cert.SerialNumber) == 0 {
		t.Error("two certificates have one serial")
	}
}

func parseOnly(t testing.TB, text []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		t.Fatalf("want one certificate in PEM, have %q", text)
	}
	return parse(t, block.Bytes)
}

// checkDevice holds a certificate against all that one of a device may say.
func checkDevice(t *testing.T, cert *x509.Certificate, req ca.Request) {
	t.Helper()
	uri := "urn:edgeclaim:device:" + req.Tenant.String() + ":" + req.Device.String()
	if got := cert.Subject.String(); got != "CN="+req.Device.String() {
		t.Errorf("subject %s", got)
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != uri || len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) > 0 {
		t.Errorf("names %v %v %v %v, want %s", cert.URIs, cert.DNSNames, cert.EmailAddresses, cert.IPAddresses, uri)
	}
	if cert.KeyUsage != x509.KeyUsageDigitalSignature || len(cert.ExtKeyUsage) != 1 ||
		cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(cert.UnknownExtKeyUsage) > 0 {
		t.Errorf("usages %v %v %v", cert.KeyUsage, cert.ExtKeyUsage, cert.UnknownExtKeyUsage)
	}
	if cert.IsCA || !cert.BasicConstraintsValid {
		t.Error("does not say that it is no CA")
	}
	if len(cert.Extensions) != 5 { // usage, extended usage, constraints, authority key id, names
		t.Errorf("%d extensions", len(cert.Extensions))
	}
	if bits := cert.SerialNumber.BitLen(); cert.SerialNumber.Sign() <= 0 || bits > 128 || bits < 80 {
		t.Errorf("serial of %d bits", bits)
	}
}

// TestIssueTakesKeyAlone: nothing else of a request gets into the certificate.
func TestIssueTakesKeyAlone(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir())
	for name, der := range requests(t, "good-") {
		req := request(t, "board-1")
		req.CSR = der
		issued, cert := issue(t, a, req)
		checkDevice(t, cert, req)
		csr, err := x509.ParseCertificateRequest(der)
		noErr(t, err)
		if !csr.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(cert.PublicKey) {
			t.Errorf("%s: not the key of the request", name)
		}
		if !issued.PrivateKey.IsZero() {
			t.Errorf("%s: a private key, though a request came", name)
		}
		identified(t, a, cert, req.Device)
	}
}

func TestIssueRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	key, _ := issuer(t, dir)
	own, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	noErr(t, err)
	for _, tc := range []struct {
		name, field string
		change      func(*ca.Request)
	}{
		{"no device", "device_id", func(r *ca.Request) { r.Device = edgeclaim.DeviceID{} }},
		{"no tenant", "tenant_id", func(r *ca.Request) { r.Tenant = edgeclaim.TenantID{} }},
		{"no end", "not_after", func(r *ca.Request) { r.NotAfter = time.Time{} }},
		{"end before beginning", "not_after", func(r *ca.Request) { r.NotBefore = r.NotAfter.Add(time.Second) }},
		{"end at the beginning", "not_after", func(r *ca.Request) { r.NotBefore = r.NotAfter }},
		{"empty request", "csr", func(r *ca.Request) { r.CSR = []byte{} }},
		{"not a request", "csr", func(r *ca.Request) { r.CSR = []byte("hello") }},
		{"the authority's own key", "csr", func(r *ca.Request) { r.CSR = own }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := request(t, "board-1")
			tc.change(&req)
			issued, err := a.Issue(req)
			if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); !ok || invalid.Field != tc.field {
				t.Errorf("got %v, want ErrInvalid of %s", err, tc.field)
			}
			if issued.Certificate != nil || !issued.PrivateKey.IsZero() {
				t.Error("issued all the same")
			}
		})
	}
}

// TestIssuersEnd: nothing outlives its issuer, and nothing dead is issued.
func TestIssuersEnd(t *testing.T) {
	t.Parallel()
	now := today
	cfg := config(t.TempDir())
	cfg.Now = func() time.Time { return now }
	a, err := ca.Open(cfg)
	noErr(t, err)
	end := a.Info().NotAfter
	if want := today.Add(ca.RootValidity); !end.Equal(want) {
		t.Errorf("the root ends on %v, want %v", end, want)
	}
	req := request(t, "board-1")
	req.NotAfter = end.Add(10000 * day)
	if issued, cert := issue(t, a, req); !issued.NotAfter.Equal(end) || !cert.NotAfter.Equal(end) {
		t.Errorf("ends on %v, after its issuer's %v", issued.NotAfter, end)
	}
	req.NotAfter = today.Add(day + 999*time.Millisecond)
	if issued, _ := issue(t, a, req); !issued.NotAfter.Equal(today.Add(day)) {
		t.Errorf("ends on %v, which no certificate can say", issued.NotAfter)
	}
	now = end
	if _, err := a.Issue(req); !errors.Is(err, edgeclaim.ErrUnavailable) {
		t.Errorf("issued after the issuer's end: %v", err)
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	_, root := issuer(t, dir)
	text, err := json.Marshal(a.Info())
	noErr(t, err)
	sum := sha256.Sum256(root.Raw)
	hash, err := edgeclaim.KeyHashFromBytes(sum[:])
	noErr(t, err)
	want := `{"subject":"CN=edgeclaim root box-1,O=north","not_before":"1970-01-01T00:00:00Z",` +
		`"not_after":"2051-05-26T12:00:00Z","fingerprint":"` + hash.String() + `","self_signed":true,"retired":0}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if !root.IsCA || !root.MaxPathLenZero || root.KeyUsage&x509.KeyUsageCertSign == 0 || root.CheckSignatureFrom(root) != nil {
		t.Error("not a root that signs devices only")
	}
}

func TestLongNames(t *testing.T) {
	t.Parallel()
	cfg := config(t.TempDir())
	cfg.BoxID, cfg.Site = strings.Repeat("b", 300), strings.Repeat("ü", 300)+"\xff"
	a, err := ca.Open(cfg)
	noErr(t, err)
	subject := parseOnly(t, a.Root()).Subject
	if len([]rune(subject.CommonName)) != 64 || len([]rune(subject.Organization[0])) != 64 {
		t.Errorf("names of more than 64 characters: %v", subject)
	}
	cfg.BoxID = ""
	if _, err := ca.Open(cfg); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("a box without an id: %v", err)
	}
}

func TestFileModes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	_, err := a.CSR()
	noErr(t, err)
	_, err = a.ServerCertificate([]string{"localhost"}, nil)
	noErr(t, err)
	modes(t, dir, 3)
	// As a restored backup may have them.
	noErr(t, os.Chmod(filepath.Join(dir, "ca"), 0o755))
	noErr(t, os.Chmod(file(dir, "issuer.pem"), 0o644))
	open(t, dir)
	modes(t, dir, 3)
}

func modes(t *testing.T, dir string, count int) {
	t.Helper()
	found := 0
	noErr(t, filepath.WalkDir(filepath.Join(dir, "ca"), func(name string, d fs.DirEntry, err error) error {
		noErr(t, err)
		info, err := d.Info()
		noErr(t, err)
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			found++
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
		return nil
	}))
	if found != count {
		t.Errorf("%d files, want %d", found, count)
	}
}

// TestConcurrent: all at once, for the race detector; every certificate that
// was issued is identified whatever was imported meanwhile.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	p := newPlant(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 20 {
				req := request(t, "board-1")
				issued, err := a.Issue(req)
				if err != nil {
					t.Error(err)
					return
				}
				cert, err := x509.ParseCertificate(issued.Certificate)
				if err != nil {
					t.Error(err)
					return
				}
				if id, _, err := a.Identify([]*x509.Certificate{cert}, today); err != nil || id != req.Device {
					t.Errorf("got %v, %v", id, err)
				}
				a.Pool()
				a.Root()
				a.Info()
			}
		})
	}
	group.Go(func() {
		for range 3 {
			csr, err := a.CSR()
			if err == nil {
				err = a.Import(p.sign(t, csr, nil))
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	group.Go(func() {
		for range 5 {
			if _, err := a.ServerCertificate([]string{"localhost"}, nil); err != nil {
				t.Error(err)
			}
		}
	})
	group.Wait()
	if got := a.Info().Retired; got != 3 {
		t.Errorf("%d retired, want 3", got)
	}
}
