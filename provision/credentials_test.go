package provision_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/mint"
	"edgeclaim/provision"

	"github.com/fxamacker/cbor/v2"
)

// keyTypes make the key pairs that a CSR may be for.
func keyTypes(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"P-256": p256, "P-384": p384, "Ed25519": ed, "RSA 2048": rsa2048}
}

func newSigner(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// csrDER is a request that asks for more than it gets.
func csrDER(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"hub.example"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func csrPEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csrDER(t, key)}))
}

// certificates reads PEM.
func certificates(t testing.TB, text string) []*x509.Certificate {
	t.Helper()
	var all []*x509.Certificate
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(bytes.TrimSpace(rest)) > 0 || len(all) == 0 {
				t.Fatalf("not PEM alone: %q", text)
			}
			return all
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, certificate)
	}
}

// chainOf is what a client with that answer shows in a handshake.
func chainOf(t testing.TB, s said) []*x509.Certificate {
	t.Helper()
	return certificates(t, s.Certificate)
}

// admitChain is Admit with a certificate.
func (r *rig) admitChain(id edgeclaim.DeviceID, chain []*x509.Certificate) (edgeclaim.Admission, error) {
	return r.Admit(r.t.Context(), edgeclaim.Login{Device: id, Chain: chain, Via: edgeclaim.ViaMQTT, Source: addr("192.0.2.7")})
}

// wantNames holds an answer to exactly those members.
func wantNames(t testing.TB, s said, want ...string) {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal([]byte(s.raw), &members); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(members)); !slices.Equal(got, want) {
		t.Errorf("answer has %v, want %v", got, want)
	}
}

func TestPSKClaim(t *testing.T) {
	r := newRig(t)
	key := r.keyOf(edgeclaim.CredentialPSK)
	s := r.wantMinted(r.claim(key, "H"))
	if want := fmt.Sprintf(`{"device_id":%q,"api_key":"","psk_identity":%q,"psk":%q}`, s.DeviceID, s.DeviceID, s.PSK); s.raw != want {
		t.Errorf("answer %s, want %s", s.raw, want)
	}
	if raw, err := base64.RawURLEncoding.Strict().DecodeString(s.PSK); err != nil || len(raw) != 32 {
		t.Errorf("psk of %d bytes, %v", len(raw), err)
	}
	credential := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceProvisioned)["credential"].(map[string]any)
	want := map[string]any{"type": "psk", "sha256": edgeclaim.NewSecret(s.PSK).Hash().String(), "unsealed": "no_upstream_key"}
	if fmt.Sprint(credential) != fmt.Sprint(want) {
		t.Errorf("told %v, want %v", credential, want)
	}
	r.wantKnown(r.claim(key, "H"), s.DeviceID)
	r.wantLogin(s.id(t), s.PSK)
}

// TestPSKIsSealedForUpstream: upstream reads the PSK, and nobody else does.
func TestPSKIsSealedForUpstream(t *testing.T) {
	upstream, err := mint.GenerateOpener()
	if err != nil {
		t.Fatal(err)
	}
	var fails bool
	r := newRigWith(t, func(c *provision.Config) {
		c.Seal = func(id edgeclaim.DeviceID, psk edgeclaim.Secret) (*provision.Sealed, error) {
			if fails {
				return nil, edgeclaim.ErrUnavailable
			}
			sealed, err := mint.SealPSK(upstream.PublicKey(), "box", id, psk)
			return &provision.Sealed{KeyID: mint.KeyID(upstream.PublicKey()), Value: base64.RawURLEncoding.EncodeToString(sealed)}, err
		}
	})
	open := func(s said, kind edgeclaim.RecordType) {
		t.Helper()
		credential := r.lastRecord(edgeclaim.LaneProv, kind)["credential"].(map[string]any)
		sealed, _ := credential["sealed"].(map[string]any)
		if sealed["key_id"] != mint.KeyID(upstream.PublicKey()) || credential["unsealed"] != nil {
			t.Fatalf("told %v", credential)
		}
		raw, err := base64.RawURLEncoding.DecodeString(sealed["value"].(string))
		if err != nil {
			t.Fatal(err)
		}
		psk, err := mint.OpenPSK(upstream, "box", s.id(t), edgeclaim.NewSecret(s.PSK).Hash(), raw)
		if err != nil || psk.Reveal() != s.PSK {
			t.Errorf("upstream reads another psk: %v", err)
		}
	}
	key := r.keyOf(edgeclaim.CredentialPSK)
	s := r.wantMinted(r.claim(key, "H"))
	open(s, edgeclaim.TypeDeviceProvisioned)
	open(r.renew(r.wantLogin(s.id(t), s.PSK), nil), edgeclaim.TypeCredentialRotated)
	fails = true
	s = r.wantMinted(r.claim(key, "H2"))
	credential := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceProvisioned)["credential"].(map[string]any)
	if credential["unsealed"] != "failed" || credential["sealed"] != nil {
		t.Errorf("told %v", credential)
	}
	for _, record := range r.records(edgeclaim.LaneProv) {
		if strings.Contains(string(record.Data), s.PSK) {
			t.Error("a psk is in a record in the clear (P5)")
		}
	}
}

func TestCertificateClaim(t *testing.T) {
	r := newRig(t)
	key := r.keyOf(edgeclaim.CredentialX509)
	s := r.wantMinted(r.claim(key, "H"))
	wantNames(t, s, "device_id", "api_key", "certificate", "ca_chain", "private_key")
	block, rest := pem.Decode([]byte(s.PrivateKey))
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		t.Fatalf("private key %q", s.PrivateKey)
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	leaf := certificates(t, s.Certificate)
	if len(leaf) != 1 || leaf[0].Subject.CommonName != s.DeviceID {
		t.Fatalf("certificate of %s", leaf[0].Subject)
	}
	if !leaf[0].PublicKey.(*ecdsa.PublicKey).Equal(private.(*ecdsa.PrivateKey).Public()) {
		t.Error("the private key is another's")
	}
	now := r.clock.Now()
	if left := leaf[0].NotAfter.Sub(now); left > provision.DefaultX509Validity || left < provision.DefaultX509Validity-time.Minute {
		t.Errorf("it lives for %s", left)
	}
	chain := certificates(t, s.CAChain)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[:len(chain)-1] {
		between.AddCert(c)
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := leaf[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: usage}); err != nil {
		t.Errorf("the chain does not verify: %v", err)
	}
	credential := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceProvisioned)["credential"].(map[string]any)
	if credential["type"] != "x509" || len(fmt.Sprint(credential["fingerprint"])) != 64 || credential["sha256"] != nil || credential["not_after"] == nil {
		t.Errorf("told %v", credential)
	}
	r.wantKnown(r.claim(key, "H"), s.DeviceID)
	a, err := r.admitChain(s.id(t), leaf)
	if err != nil || a.Device != s.id(t) || a.ValidFor <= 0 || a.ValidFor > provision.DefaultX509Validity {
		t.Errorf("admission %+v, %v", a, err)
	}
}

// TestCSRClaim: the private key never leaves the device.
func TestCSRClaim(t *testing.T) {
	r := newRig(t)
	key := r.keyOf(edgeclaim.CredentialX509)
	for name, signer := range keyTypes(t) {
		s := r.wantMinted(r.ask(claimOf(key, strings.ReplaceAll(name, " ", "-")).with("csr", csrPEM(t, signer)).json(t)))
		wantNames(t, s, "device_id", "api_key", "certificate", "ca_chain")
		leaf := certificates(t, s.Certificate)[0]
		if !leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(signer.Public()) {
			t.Errorf("%s: a certificate for another key", name)
		}
		if len(leaf.DNSNames) > 0 || leaf.Subject.CommonName != s.DeviceID {
			t.Errorf("%s: certificate of %s, %v", name, leaf.Subject, leaf.DNSNames)
		}
		if _, err := r.admitChain(edgeclaim.DeviceID{}, []*x509.Certificate{leaf}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A template that gives API keys passes over a CSR, once it is a good one.
	s := r.wantMinted(r.ask(claimOf(r.key(nil), "KEY").with("csr", csrPEM(t, newSigner(t))).json(t)))
	wantNames(t, s, "device_id", "api_key")
}

// TestCertificateInCBOR: DER in place of PEM.
func TestCertificateInCBOR(t *testing.T) {
	r := newRig(t)
	key := r.keyOf(edgeclaim.CredentialX509)
	for _, signer := range []crypto.Signer{nil, newSigner(t)} {
		fields := map[string]any{"provision_key": key.Reveal(), "device_name": "n", "hardware_id": fmt.Sprint("H", signer == nil)}
		if signer != nil {
			fields["csr"] = csrDER(t, signer)
		}
		a := r.Answer(t.Context(), edgeclaim.Ask{
			Body: mustCBOR(t, fields), Format: edgeclaim.FormatCBOR, Via: edgeclaim.ViaMQTT, ReceivedAt: time.Now(),
		})
		var got struct {
			Certificate []byte `cbor:"certificate"`
			Chain       []byte `cbor:"ca_chain"`
			PrivateKey  []byte `cbor:"private_key"`
		}
		if err := cbor.Unmarshal(a.Body, &got); err != nil {
			t.Fatalf("%x: %v", a.Body, err)
		}
		leaf, err := x509.ParseCertificate(got.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if chain, err := x509.ParseCertificates(got.Chain); err != nil || len(chain) != 1 {
			t.Errorf("chain of %d, %v", len(chain), err)
		}
		if (got.PrivateKey == nil) != (signer != nil) {
			t.Errorf("a private key of %d bytes", len(got.PrivateKey))
		}
		if signer == nil {
			if _, err := x509.ParsePKCS8PrivateKey(got.PrivateKey); err != nil {
				t.Error(err)
			}
		}
		if _, err := r.admitChain(edgeclaim.DeviceID{}, []*x509.Certificate{leaf}); err != nil {
			t.Error(err)
		}
	}
}

// TestBadCSRIsMalformed: whatever the key, and without counting as a failure.
func TestBadCSRIsMalformed(t *testing.T) {
	r := newRig(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := csrPEM(t, newSigner(t))
	changed := csrDER(t, newSigner(t))
	changed[len(changed)-1] ^= 1 // of the signature
	for name, csr := range map[string]string{
		"no PEM": "hello", "two": good + good, "certificate": strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE"),
		"changed": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: changed})), "weak": csrPEM(t, small), "words before": "x" + good,
	} {
		var bodies []string
		for _, key := range []edgeclaim.Secret{r.keyOf(edgeclaim.CredentialX509), edgeclaim.NewSecret("unknown"), r.key(nil)} {
			s := r.ask(claimOf(key, "H").with("csr", csr).json(t))
			if s.Code != edgeclaim.CodeInvalidArgument || !strings.HasPrefix(s.Message, "csr: ") {
				t.Errorf("%s: %s", name, s.raw)
			}
			bodies = append(bodies, s.raw)
		}
		if bodies[0] != bodies[1] || bodies[1] != bodies[2] {
			t.Errorf("%s: the answer tells about the key: %v", name, bodies)
		}
	}
	if got, err := r.store.Count(t.Context()); err != nil || got != 0 {
		t.Errorf("%d devices, %v", got, err)
	}
}

// TestNoAuthority: a box whose authority is damaged gives no certificates and
// goes on otherwise.
func TestNoAuthority(t *testing.T) {
	r := newRig(t)
	s := r.wantMinted(r.claim(r.keyOf(edgeclaim.CredentialX509), "OLD"))
	r.Service = provision.New(provision.Config{BoxID: "box", Site: "site", BoxKey: r.store.BoxKey()},
		provision.Parts{Store: r.store, Clock: r.clock}, discard())
	if got := r.claim(r.keyOf(edgeclaim.CredentialX509), "NEW"); got.Code != edgeclaim.CodeUnavailable {
		t.Errorf("answer %s", got.raw)
	}
	if _, err := r.admitChain(s.id(t), chainOf(t, s)); err == nil {
		t.Error("a certificate that nobody can judge was let in")
	}
	if got := r.claim(r.key(nil), "KEY"); got.APIKey == "" {
		t.Errorf("answer %s", got.raw)
	}
}

// TestCertificatesUnderAWrongClock: what was issued while the clock was wrong
// goes on when it is set right (P10).
func TestCertificatesUnderAWrongClock(t *testing.T) {
	right := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for name, issuedAt := range map[string]time.Time{
		"1970": time.Unix(0, 0), "right": right, "ten months ahead": right.AddDate(0, 10, 0),
	} {
		r := newRig(t)
		r.setClock(issuedAt, false)
		s := r.wantMinted(r.claim(r.keyOf(edgeclaim.CredentialX509), "H"))
		for _, now := range []time.Time{issuedAt, right, right.AddDate(3, 0, 0)} {
			r.setClock(now, false)
			if _, err := r.admitChain(s.id(t), chainOf(t, s)); err != nil {
				t.Errorf("%s: at %s: %v", name, now, err)
			}
		}
		r.setClock(right.AddDate(12, 0, 0), false)
		if _, err := r.admitChain(s.id(t), chainOf(t, s)); err == nil {
			t.Errorf("%s: it never ends", name)
		}
	}
}

// TestAnswerTooLargeForItsAsker: found out before anything is stored.
func TestAnswerTooLargeForItsAsker(t *testing.T) {
	r := newRig(t)
	key := r.keyOf(edgeclaim.CredentialX509)
	body := []byte(claimOf(key, "H").json(t))
	ask := edgeclaim.Ask{Body: body, Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaMQTT, ReceivedAt: time.Now(), Room: 500}
	if s := r.answer(ask); s.Code != edgeclaim.CodeInvalidArgument || !strings.HasPrefix(s.Message, "maximum_packet_size: ") {
		t.Errorf("answer %s", s.raw)
	}
	if got, err := r.store.Count(t.Context()); err != nil || got != 0 {
		t.Errorf("%d devices, %v", got, err)
	}
	ask.Room = 8000
	if s := r.answer(ask); s.Certificate == "" {
		t.Errorf("answer %s", s.raw)
	}
}
