package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/ca"
)

// plant is the authority of a plant that signs a box's request.
type plant struct {
	key  crypto.Signer
	cert *x509.Certificate
}

func plantTemplate() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(7),
		Subject:               pkix.Name{CommonName: "Plant Root"},
		NotBefore:             today.Add(-1000 * day),
		NotAfter:              today.Add(9000 * day),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func newPlant(t testing.TB) plant { return newPlantOf(t, plantTemplate()) }

func newPlantOf(t testing.TB, template *x509.Certificate) plant {
	t.Helper()
	key := newKey(t)
	return plant{key: key, cert: certify(t, template, template, key.Public(), key)}
}

func certify(t testing.TB, template, parent *x509.Certificate, public any, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	noErr(t, err)
	return parse(t, der)
}

func chainPEM(certs ...*x509.Certificate) []byte {
	var text []byte
	for _, cert := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return text
}

// sign makes an intermediate of a request and returns the chain to import.
// change, where given, is what the plant does differently.
func (p plant) sign(t testing.TB, csr []byte, change func(*x509.Certificate)) []byte {
	t.Helper()
	return chainPEM(p.certificate(t, csr, change), p.cert)
}

func (p plant) certificate(t testing.TB, csr []byte, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(csr)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	noErr(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               request.Subject,
		NotBefore:             today.Add(-day),
		NotAfter:              today.Add(1000 * day),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	if change != nil {
		change(template)
	}
	return certify(t, template, p.cert, request.PublicKey, p.key)
}

func csr(t testing.TB, a *ca.Authority) []byte {
	t.Helper()
	text, err := a.CSR()
	noErr(t, err)
	return text
}

func TestImport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	root := parseOnly(t, a.Root())
	_, old := issue(t, a, request(t, "board-old"))

	request1 := csr(t, a)
	if again := csr(t, open(t, dir)); !bytes.Equal(request1, again) {
		t.Error("another request, though the first one waits")
	}
	if before, _ := issue(t, a, request(t, "board-2")); !bytes.Equal(before.Chain[0], root.Raw) {
		t.Error("a request alone changed the issuer")
	}
	p := newPlant(t)
	chain := p.sign(t, request1, nil)
	noErr(t, a.Import(chain))

	reopened := open(t, dir)
	for name, a := range map[string]*ca.Authority{"at once": a, "after a restart": reopened} {
		t.Run(name, func(t *testing.T) {
			issued, cert := issue(t, a, request(t, "board-new"))
			identified(t, a, cert, device(t, "board-new"))
			identified(t, a, old, device(t, "board-old"))
			if len(issued.Chain) != 2 || !bytes.Equal(issued.Chain[1], p.cert.Raw) || !bytes.Equal(parseOnly(t, a.Root()).Raw, p.cert.Raw) {
				t.Error("the chain is not the intermediate and the plant's root")
			}
			intermediate := x509.NewCertPool()
			intermediate.AddCert(parse(t, issued.Chain[0]))
			roots := x509.NewCertPool()
			roots.AddCert(p.cert)
			_, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediate, CurrentTime: today, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			noErr(t, err)
			for _, cert := range []*x509.Certificate{cert, old} {
				_, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: today, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
				noErr(t, err)
			}
			if info := a.Info(); info.SelfSigned || info.Retired != 1 {
				t.Errorf("info %+v", info)
			}
		})
	}
	if _, err := os.Stat(file(dir, "pending.key")); err == nil {
		t.Error("the pending key is still there")
	}
	noErr(t, a.Import(chain)) // P8
	if got := a.Info().Retired; got != 1 {
		t.Errorf("%d retired after the same import again, want 1", got)
	}
	if bytes.Equal(csr(t, a), request1) {
		t.Error("the next request is for the key in use")
	}
}

// TestImportForPresentKey: a renewed certificate of the same key.
func TestImportForPresentKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	p := newPlant(t)
	request1 := csr(t, a)
	noErr(t, a.Import(p.sign(t, request1, nil)))
	_, old := issue(t, a, request(t, "board-1"))
	waiting := csr(t, a)
	renewed := p.sign(t, request1, func(c *x509.Certificate) { c.NotAfter = today.Add(2000 * day) })
	noErr(t, a.Import(renewed))
	for _, a := range []*ca.Authority{a, open(t, dir)} {
		identified(t, a, old, device(t, "board-1"))
		if info := a.Info(); info.Retired != 2 || !info.NotAfter.Equal(today.Add(2000*day)) {
			t.Errorf("info %+v", info)
		}
		if !bytes.Equal(waiting, csr(t, a)) {
			t.Error("the import for the present key took the pending one")
		}
	}
}

// TestImportRefuses: each rule, by what it says; nothing is changed by it.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	request1 := csr(t, a)
	p, other := newPlant(t), newPlant(t)
	before := a.Info()
	good := p.certificate(t, request1, nil)
	with := func(change func(*x509.Certificate)) []byte { return p.sign(t, request1, change) }
	under := func(change func(*x509.Certificate)) []byte {
		template := plantTemplate()
		change(template)
		return newPlantOf(t, template).sign(t, request1, nil)
	}
	middleKey := newKey(t)
	middle := certify(t, plantTemplate2("Plant Middle"), p.cert, middleKey.Public(), p.key)
	stranger := newKey(t)
	strangers := certify(t, plantTemplate2("Stranger"), p.cert, stranger.Public(), p.key)
	keyPEM, err := x509.MarshalPKCS8PrivateKey(stranger)
	noErr(t, err)
	for name, tc := range map[string]struct {
		chain []byte
		want  string
	}{
		"nothing":                {nil, "whole certificates"},
		"not PEM":                {good.Raw, "whole certificates"},
		"a broken block":         {bytes.Replace(chainPEM(good, p.cert), []byte("MII"), []byte("M*I"), 1), "whole certificates"},
		"too many":               {chainPEM(good, p.cert, p.cert, p.cert, p.cert, p.cert, p.cert, p.cert, p.cert), "whole certificates"},
		"too large":              {make([]byte, ca.MaxChainText+1), "larger than"},
		"not a certificate":      {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "cannot be read"},
		"a private key":          {append(chainPEM(good, p.cert), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyPEM})...), "never a private key"},
		"the root first":         {chainPEM(p.cert, good), "number 2, and has to be the first"},
		"for a stranger's key":   {chainPEM(strangers, p.cert), "not for a key of this box"},
		"no root":                {chainPEM(good), "the last certificate is not a root"},
		"another root":           {chainPEM(good, other.cert), "certificate 1 is not signed by certificate 2"},
		"a gap":                  {chainPEM(good, middle, p.cert), "certificate 1 is not signed by certificate 2"},
		"no CA":                  {with(func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }), "basicConstraints CA:TRUE"},
		"no constraints":         {with(func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false }), "basicConstraints CA:TRUE"},
		"may not sign":           {with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), "keyCertSign"},
		"no key usage":           {with(func(c *x509.Certificate) { c.KeyUsage = 0 }), "keyCertSign"},
		"a root that may not":    {under(func(c *x509.Certificate) { c.MaxPathLenZero = true }), "pathlen"},
		"ended":                  {with(func(c *x509.Certificate) { c.NotAfter = today }), "certificate 1 ended on 2026-06-01"},
		"a root that ended":      {under(func(c *x509.Certificate) { c.NotAfter = today.Add(-day) }), "certificate 2 ended on"},
		"never valid":            {under(func(c *x509.Certificate) { c.NotBefore = today.Add(2000 * day) }), "at no time"},
		"for servers only":       {with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "clientAuth"},
		"for clients only":       {with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), "serverAuth"},
		"a root for mail":        {under(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }), "clientAuth"},
		"URIs of a domain":       {with(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"plant.example"} }), "devices"},
		"URIs kept out above":    {under(func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"plant.example"} }), "devices"},
		"an unknown critical":    {with(func(c *x509.Certificate) { c.ExtraExtensions = critical() }), "critical extension"},
		"a signature with SHA-1": {with(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }), "not signed by"},
	} {
		t.Run(name, func(t *testing.T) {
			err := a.Import(tc.chain)
			invalid, ok := errors.AsType[*edgeclaim.InvalidError](err)
			if !ok || invalid.Field != "chain" || !strings.Contains(invalid.Problem, tc.want) {
				t.Errorf("got %v, want ErrInvalid of chain: %s", err, tc.want)
			}
		})
	}
	if a.Info() != before || open(t, dir).Info() != before {
		t.Error("a refused import changed the authority")
	}
	noErr(t, a.Import(chainPEM(good, p.cert)))
}

func plantTemplate2(name string) *x509.Certificate {
	template := plantTemplate()
	template.Subject.CommonName, template.SerialNumber = name, big.NewInt(8)
	return template
}

func critical() []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
}

// TestImportUnderOldRoot: a plant's root of RSA, signed with SHA-1 by itself,
// an intermediate between, and text between the blocks as openssl prints it.
func TestImportUnderOldRoot(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir())
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	noErr(t, err)
	template := plantTemplate()
	template.SignatureAlgorithm = x509.SHA1WithRSA
	root := plant{key: key, cert: certify(t, template, template, key.Public(), key)}
	if root.cert.SignatureAlgorithm != x509.SHA1WithRSA {
		t.Fatal("not the root that is wanted")
	}
	middleKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	noErr(t, err)
	middle := plant{key: middleKey, cert: certify(t, plantTemplate2("Middle"), root.cert, middleKey.Public(), key)}
	chain := append([]byte("subject=/CN=box\n"), chainPEM(middle.certificate(t, csr(t, a), nil), middle.cert, root.cert)...)
	noErr(t, a.Import(chain))
	issued, cert := issue(t, a, request(t, "board-1"))
	identified(t, a, cert, device(t, "board-1"))
	if len(issued.Chain) != 3 {
		t.Errorf("a chain of %d", len(issued.Chain))
	}
	// What others issue under the same root and intermediate is not ours.
	foreign := deviceTemplate(t, "board-1")
	unauthenticated(t, a, []*x509.Certificate{certify(t, foreign, middle.cert, newKey(t).Public(), middleKey), middle.cert, root.cert}, today, "not issued by this box")
	sub := open(t, t.TempDir())
	noErr(t, sub.Import(chainPEM(middle.certificate(t, csr(t, sub), nil), middle.cert, root.cert)))
	theirs, cert := issue(t, sub, request(t, "board-1"))
	unauthenticated(t, a, []*x509.Certificate{cert, parse(t, theirs.Chain[0]), middle.cert, root.cert}, today, "not issued by this box")
}

// deviceTemplate is what this package says of a device, built another way.
func deviceTemplate(t testing.TB, hardware string) *x509.Certificate {
	t.Helper()
	id := device(t, hardware).String()
	return &x509.Certificate{
		SerialNumber:          big.NewInt(99),
		Subject:               pkix.Name{CommonName: id},
		NotBefore:             today.Add(-day),
		NotAfter:              today.Add(day),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{{Scheme: "urn", Opaque: "edgeclaim:device:" + tenant(t).String() + ":" + id}},
	}
}

// TestImportWithClockBehind: the plant signs today, and the box is still at its
// build's date (P2): it imports, issues, and knows what it issued.
func TestImportWithClockBehind(t *testing.T) {
	t.Parallel()
	cfg := config(t.TempDir())
	behind := today.Add(-4000 * day)
	cfg.Now = func() time.Time { return behind }
	a, err := ca.Open(cfg)
	noErr(t, err)
	noErr(t, a.Import(newPlant(t).sign(t, csr(t, a), nil)))
	begin := a.Info().NotBefore
	req := request(t, "board-1")
	req.NotAfter = behind.Add(90 * day)
	_, cert := issue(t, a, req)
	if !cert.NotBefore.Equal(begin) || !cert.NotAfter.Equal(begin.Add(90*day)) {
		t.Errorf("valid from %v to %v, want 90 days from %v", cert.NotBefore, cert.NotAfter, begin)
	}
	id, _, err := a.Identify([]*x509.Certificate{cert}, behind)
	if err != nil || id != req.Device {
		t.Errorf("got %v, %v", id, err)
	}
	leaf := server(t, a, []string{"localhost"}, nil).Leaf
	if !leaf.NotBefore.Equal(begin) || !leaf.NotAfter.Equal(a.Info().NotAfter) {
		t.Errorf("the listener's is valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
}

// TestImportCutOff: a crash between any two files, and the import done again.
func TestImportCutOff(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	a := open(t, from)
	_, old := issue(t, a, request(t, "board-old"))
	chain := newPlant(t).sign(t, csr(t, a), nil)
	oldIssuer, pending := read(t, file(from, "issuer.pem")), read(t, file(from, "pending.key"))
	noErr(t, a.Import(chain))
	newIssuer, retired := read(t, file(from, "issuer.pem")), read(t, file(from, "retired.pem"))
	_, cert := issue(t, a, request(t, "board-new"))
	for _, tc := range []struct {
		name  string
		done  bool
		files map[string][]byte
	}{
		{"before", false, map[string][]byte{"issuer.pem": oldIssuer, "pending.key": pending}},
		{"within the retired", false, map[string][]byte{"issuer.pem": oldIssuer, "pending.key": pending, "retired.pem.tmp": retired[:9]}},
		{"after the retired", false, map[string][]byte{"issuer.pem": oldIssuer, "pending.key": pending, "retired.pem": retired}},
		{"within the issuer", false, map[string][]byte{"issuer.pem": oldIssuer, "pending.key": pending, "retired.pem": retired, "issuer.pem.tmp": newIssuer[:99]}},
		{"after the issuer", true, map[string][]byte{"issuer.pem": newIssuer, "pending.key": pending, "retired.pem": retired}},
		{"after the pending key", true, map[string][]byte{"issuer.pem": newIssuer, "retired.pem": retired}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tc.files {
				write(t, file(dir, name), text)
			}
			a := open(t, dir)
			identified(t, a, old, device(t, "board-old"))
			if got := !a.Info().SelfSigned; got != tc.done {
				t.Errorf("imported: %v, want %v", got, tc.done)
			}
			if want := map[bool]int{true: 1}[tc.done]; a.Info().Retired != want {
				t.Errorf("%d retired, want %d", a.Info().Retired, want)
			}
			if _, err := os.Stat(file(dir, "pending.key")); tc.done && err == nil {
				t.Error("the key in use waits for a certificate still")
			}
			noErr(t, a.Import(chain))
			for _, a := range []*ca.Authority{a, open(t, dir)} {
				identified(t, a, old, device(t, "board-old"))
				identified(t, a, cert, device(t, "board-new"))
				if a.Info().Retired != 1 {
					t.Errorf("%d retired, want 1", a.Info().Retired)
				}
			}
			left, err := filepath.Glob(file(dir, "*"))
			noErr(t, err)
			if want := []string{file(dir, "issuer.pem"), file(dir, "retired.pem")}; !slices.Equal(left, want) {
				t.Errorf("files %v, want %v", left, want)
			}
		})
	}
}

// TestImportOnBadDisk: where a file cannot be written, the issuer stays what it
// was, and the import can be done again.
func TestImportOnBadDisk(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"retired.pem", "issuer.pem"} {
		dir := t.TempDir()
		a := open(t, dir)
		before := a.Info()
		chain := newPlant(t).sign(t, csr(t, a), nil)
		noErr(t, os.Mkdir(file(dir, name+".tmp"), 0o700)) // in the way
		if err := a.Import(chain); err == nil || errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%s: imported all the same: %v", name, err)
		}
		if a.Info() != before {
			t.Errorf("%s: a failed import changed the authority", name)
		}
		noErr(t, os.Remove(file(dir, name+".tmp")))
		noErr(t, a.Import(chain))
	}
}

// TestManyImports: the earlier issuers are bounded; those that are over go
// first, and one that is not is never forgotten.
func TestManyImports(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("hundreds of fsyncs")
	}
	now := today
	cfg := config(t.TempDir())
	cfg.Now = func() time.Time { return now }
	a, err := ca.Open(cfg)
	noErr(t, err)
	_, old := issue(t, a, request(t, "board-old"))
	p := newPlant(t)
	for range ca.MaxRetired {
		noErr(t, a.Import(p.sign(t, csr(t, a), nil)))
	}
	chain := p.sign(t, csr(t, a), func(c *x509.Certificate) { c.NotAfter = today.Add(2000 * day) })
	if err := a.Import(chain); !errors.Is(err, edgeclaim.ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
	now = today.Add(1000 * day)
	noErr(t, a.Import(chain))
	for _, a := range []*ca.Authority{a, open(t, cfg.Dir)} {
		if got := a.Info().Retired; got != ca.MaxRetired {
			t.Errorf("%d retired, want %d", got, ca.MaxRetired)
		}
		identified(t, a, old, device(t, "board-old"))
	}
}
