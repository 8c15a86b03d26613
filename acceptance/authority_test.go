package acceptance

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// PEM types (RFC 7468).
const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
	pemRequest     = "CERTIFICATE REQUEST"
)

// signer is an authority, or who passes for one.
type signer struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
	// chain is shown behind the leaf.
	chain [][]byte
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// readSigner reads a file with a key and a chain, leaf first.
func readSigner(t testing.TB, path string) signer {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	return signer{t: t, cert: pair.Leaf, key: pair.PrivateKey.(crypto.Signer)}
}

// newSigner makes an authority of its own that is, by every name, like the
// other one.
func newSigner(t testing.TB, like *x509.Certificate) signer {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: like.SerialNumber, Subject: like.Subject, SubjectKeyId: like.SubjectKeyId,
		NotBefore: like.NotBefore, NotAfter: like.NotAfter, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return signer{t: t, cert: certify(t, template, template, key.Public(), key), key: key}
}

func certify(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// deviceURI is the name that a device's certificate has besides its id.
func deviceURI(id string) *url.URL {
	return &url.URL{Scheme: "urn", Opaque: "edgeclaim:device:" + tenant + ":" + id}
}

// issue makes a certificate of a device to the letter, with a key of its own,
// but for what change changes.
func (s signer) issue(id string, change func(*x509.Certificate)) *tls.Certificate {
	s.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: id}, URIs: []*url.URL{deviceURI(id)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	key := newKey(s.t)
	return &tls.Certificate{Certificate: append([][]byte{certify(s.t, template, s.cert, key.Public(), s.key).Raw}, s.chain...), PrivateKey: key}
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// plantCA is a certificate authority that boxes are put under.
type plantCA struct {
	signer
	root string // file
}

func newPlantCA(t testing.TB) plantCA {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Plant 7"}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	p := plantCA{signer: signer{t: t, cert: certify(t, template, template, key.Public(), key), key: key}}
	p.root = filepath.Join(t.TempDir(), "plant.pem")
	p.write(p.root, pemCertificate, p.cert.Raw)
	return p
}

func (p plantCA) write(path, kind string, ders ...[]byte) {
	p.t.Helper()
	var text []byte
	for _, der := range ders {
		text = append(text, pemOf(kind, der)...)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// serves writes a certificate for listeners on loopback, with its key, into a
// folder, and returns it.
func (p plantCA) serves(dir string) []byte {
	p.t.Helper()
	key := newKey(p.t)
	cert := certify(p.t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "box"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(1, 0, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, p.cert, key.Public(), p.key)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(filepath.Join(dir, "cert.pem"), pemCertificate, cert.Raw)
	p.write(filepath.Join(dir, "key.pem"), pemKey, pkcs8)
	return cert.Raw
}

// servedFrom are the lines of a configuration whose listeners serve what is in
// those folders.
func servedFrom(forHTTP, forMQTT string) string {
	const files = "%s:\n  cert_file: %s/cert.pem\n  key_file: %[2]s/key.pem\n"
	return fmt.Sprintf(files, "http", forHTTP) + fmt.Sprintf(files, "mqtt", forMQTT)
}

// adopt puts the box under the plant until that time.
func (p plantCA) adopt(b *box, until time.Time) {
	p.t.Helper()
	dir := p.t.TempDir()
	request, chain := filepath.Join(dir, "box.csr"), filepath.Join(dir, "chain.pem")
	b.json(nil, "ca", "csr", "--out", request)
	text, err := os.ReadFile(request)
	if err != nil {
		p.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		p.t.Fatal(err)
	}
	issuer := certify(p.t, &x509.Certificate{
		SerialNumber: big.NewInt(until.UnixNano()), Subject: asked.Subject, NotBefore: time.Unix(0, 0), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}, p.cert, asked.PublicKey.(crypto.PublicKey), p.key)
	p.write(chain, pemCertificate, issuer.Raw, p.cert.Raw)
	b.json(nil, "ca", "import", chain)
}

// TestCertificateEnds: a box under the plant's CA issues certificates that the
// plant's root vouches for, to the day its own ends and no longer. With that the
// devices' certificates end and their sessions with them; a new one of the
// plant's brings the box back, and not the old certificates.
func TestCertificateEnds(t *testing.T) {
	t.Parallel()
	p, files := newPlantCA(t), t.TempDir()
	p.serves(files)
	b := newBox(t, "--config", quickConfig(t, servedFrom(files, files))).secure()
	b.start()
	key := b.key("--credential", kindX509)
	k := newTools(t, b, p.root)
	const lasts = 6 * time.Second
	end := time.Now().Add(lasts).Truncate(time.Second)
	p.adopt(b, end)
	said := k.claim("http", claimBody(key, "n", "SHORT"))
	i := identityOf(t, kindX509, said, "")
	chain := k.file(answer{body: said}.text(t, "ca_chain"))
	if out, code := k.run("openssl", "verify", "-CAfile", p.root, "-untrusted", chain, "-purpose", "sslclient", k.file(i.certificate)); code != 0 {
		t.Errorf("openssl does not take the certificate: %s", out)
	}
	held := k.stay(&i)
	if status, said := k.post(&i, "/api/v1/credentials/rotate", `{"no":"such field"}`); status != http.StatusBadRequest {
		t.Errorf("before its end, curl hears %d %s", status, said)
	}
	held.wantClosed("the certificate is over", time.Until(end)+2*revokeWithin)
	if early := time.Until(end); early > 0 {
		t.Errorf("the session ended %v before the certificate", early)
	}
	k.wantIn("over", &i, false)
	if said := b.post(claimBody(key, "n", "LATE")); said.status != http.StatusServiceUnavailable || said.code(t) != 14 {
		t.Errorf("an authority that is over answers %d %s", said.status, said.body)
	}
	p.adopt(b, end.AddDate(1, 0, 0))
	late := identityOf(t, kindX509, k.claim("mqtt", claimBody(key, "n", "LATE")), "")
	k.wantIn("of the new issuer", &late, true)
	k.wantIn("over, under the new issuer", &i, false)
	if again := k.claim("http", claimBody(key, "n", "SHORT")); !nothing(t, again) {
		t.Errorf("the device with the certificate that is over hears %s", again)
	}
	b.json(nil, "device", "release", i.id)
	renewed := identityOf(t, kindX509, k.claim("mqtt", claimBody(key, "n", "SHORT")), "")
	k.wantIn("released and claimed anew", &renewed, true)
}

// TestListenersTakeNewCertificates: a listener serves another certificate soon
// after its files changed, without a restart; one whose files are broken serves
// the one that it has, and says so.
func TestListenersTakeNewCertificates(t *testing.T) {
	if testing.Short() {
		t.Skip("files are looked at every 10 seconds")
	}
	t.Parallel()
	p, forHTTP, forMQTT := newPlantCA(t), t.TempDir(), t.TempDir()
	old := map[string][]byte{"http": p.serves(forHTTP), "mqtt": p.serves(forMQTT)}
	b := newBox(t, "--config", quickConfig(t, servedFrom(forHTTP, forMQTT))).secure()
	b.start()
	served := func(addr string) []byte {
		t.Helper()
		conn, err := tls.Dial("tcp", addr, trusting(t, p.root, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Raw
	}
	if !bytes.Equal(served(b.httpsAddr), old["http"]) || !bytes.Equal(served(b.mqttsAddr), old["mqtt"]) {
		t.Fatal("it serves other certificates than those of its files")
	}
	p.write(filepath.Join(forHTTP, "key.pem"), pemKey, []byte("broken"))
	renewed := p.serves(forMQTT)
	until(t, "the listener serves the new certificate", func() bool { return bytes.Equal(served(b.mqttsAddr), renewed) })
	until(t, "the alarm", func() bool { return b.alarm("certificate_files") > 0 })
	if !bytes.Equal(served(b.httpsAddr), old["http"]) {
		t.Error("with a broken key file, it serves another certificate")
	}
	if out, _, code := b.command("", "status"); code != 0 || !strings.Contains(string(out), "cert_file, key_file: ") {
		t.Errorf("status does not say which: %s", out)
	}
}
