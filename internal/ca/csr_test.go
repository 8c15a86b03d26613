package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/internal/ca"
)

// requests returns the requests in testdata, made by openssl, by name.
func requests(t testing.TB, prefix string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("testdata/csr/" + prefix + "*.der")
	noErr(t, err)
	if len(names) < 7 {
		t.Fatalf("%d requests %s*", len(names), prefix)
	}
	found := map[string][]byte{}
	for _, name := range names {
		der, err := os.ReadFile(name)
		noErr(t, err)
		found[strings.TrimSuffix(filepath.Base(name), ".der")] = der
	}
	return found
}

func refusedCSR(t testing.TB, err error) string {
	t.Helper()
	invalid, ok := errors.AsType[*edgeclaim.InvalidError](err)
	if !ok || invalid.Field != "csr" {
		t.Fatalf("got %v, want ErrInvalid of csr", err)
	}
	return invalid.Problem
}

func TestCheckCSR(t *testing.T) {
	t.Parallel()
	for name, der := range requests(t, "good-") {
		if err := ca.CheckCSR(der); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	const (
		kind      = "want a key of"
		size      = "want an RSA key of"
		exponent  = "RSA exponent"
		signature = "want a signature with"
		form      = "want one PKCS #10"
	)
	problems := map[string]string{
		"bad-dsa": kind, "bad-ed448": kind, "bad-explicit-curve": form, "bad-md5": signature, "bad-p224": kind,
		"bad-p521": kind, "bad-rsa-exponent3": exponent, "bad-rsa-pss-key": kind, "bad-rsa1024": size,
		"bad-rsa8192": size, "bad-secp256k1": form, "bad-sha1": signature, "bad-sha1-ecdsa": signature,
	}
	bad := requests(t, "bad-")
	if len(bad) != len(problems) {
		t.Errorf("%d bad requests, %d expected", len(bad), len(problems))
	}
	for name, der := range bad {
		t.Run(name, func(t *testing.T) {
			if got := refusedCSR(t, ca.CheckCSR(der)); !strings.Contains(got, problems[name]) {
				t.Errorf("%q, want %q", got, problems[name])
			}
		})
	}
}

func TestCheckCSRMalformed(t *testing.T) {
	t.Parallel()
	good := requests(t, "good-")["good-p256"]
	for _, tc := range []struct {
		name string
		der  []byte
	}{
		{"nothing", nil},
		{"a byte after it", slices.Concat(good, []byte{0})},
		{"two requests", slices.Concat(good, good)},
		{"cut short", good[:len(good)-1]},
		{"too large", make([]byte, ca.MaxCSR+1)},
		{"nested", bytes.Repeat([]byte{0x30, 0x80}, ca.MaxCSR/2)},
		{"PEM", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: good})},
		{"another version", build(t, csrParts{version: 1})},
		{"no signature", build(t, csrParts{unsigned: true})},
		{"another's signature", build(t, csrParts{another: true})},
		{"a signature kind of another key", build(t, csrParts{algorithm: sha256WithRSA})},
		{"an unknown signature kind", build(t, csrParts{algorithm: asn1.ObjectIdentifier{1, 2, 3}})},
		{"an unknown key kind", build(t, csrParts{spki: spki(t, asn1.ObjectIdentifier{1, 2, 3}, []byte{1})})},
		{"a point off the curve", build(t, csrParts{spki: offCurve(t)})},
		{"an even modulus", build(t, csrParts{spki: rsaSPKI(t, new(big.Int).Lsh(big.NewInt(1), 2047), 65537)})},
		{"a modulus of 2047 bits", build(t, csrParts{spki: rsaSPKI(t, modulus(2047), 65537)})},
		{"a modulus of 4097 bits", build(t, csrParts{spki: rsaSPKI(t, modulus(4097), 65537)})},
		{"a modulus of 60,000 bits", build(t, csrParts{spki: rsaSPKI(t, modulus(60000), 65537)})},
		{"exponent 1", build(t, csrParts{spki: rsaSPKI(t, modulus(2048), 1)})},
		{"exponent 65539", build(t, csrParts{spki: rsaSPKI(t, modulus(2048), 65539)})},
		{"exponent large", build(t, csrParts{spki: rsaSPKI(t, modulus(2048), 1<<31-1)})},
	} {
		t.Run(tc.name, func(t *testing.T) { refusedCSR(t, ca.CheckCSR(tc.der)) })
	}
	// One bit anywhere.
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 1
		refusedCSR(t, ca.CheckCSR(bad))
	}
}

// TestCheckCSRLooksAtTheKeyFirst: a huge modulus is refused for its size, and a
// false signature under it never verified.
func TestCheckCSRLooksAtTheKeyFirst(t *testing.T) {
	t.Parallel()
	der := build(t, csrParts{spki: rsaSPKI(t, modulus(16384), 1<<31-1), algorithm: sha256WithRSA})
	if got := refusedCSR(t, ca.CheckCSR(der)); !strings.HasPrefix(got, "want an RSA key of") {
		t.Errorf("got %q", got)
	}
	der = build(t, csrParts{spki: rsaSPKI(t, modulus(2048), 65539), algorithm: sha256WithRSA})
	if got := refusedCSR(t, ca.CheckCSR(der)); !strings.Contains(got, "RSA exponent") {
		t.Errorf("got %q", got)
	}
}

// csrParts is a request to be built by hand; its zero value is a good one.
type csrParts struct {
	version           int
	spki              []byte
	algorithm         asn1.ObjectIdentifier
	signature         []byte // in the place of the right one
	unsigned, another bool
}

var sha256WithRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}

func build(t testing.TB, parts csrParts) []byte {
	t.Helper()
	key := newKey(t)
	if parts.spki == nil {
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		noErr(t, err)
		parts.spki = public
	}
	if parts.algorithm == nil {
		parts.algorithm = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2} // ecdsa-with-SHA256
	}
	tbs, err := asn1.Marshal(struct {
		Version    int
		Subject    pkix.RDNSequence
		Key        asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0"`
	}{Version: parts.version, Key: asn1.RawValue{FullBytes: parts.spki}})
	noErr(t, err)
	if parts.another {
		key = newKey(t)
	}
	signature := parts.signature
	if signature == nil && !parts.unsigned {
		sum := sha256.Sum256(tbs)
		signature, err = ecdsa.SignASN1(rand.Reader, key, sum[:])
		noErr(t, err)
	}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, pkix.AlgorithmIdentifier{Algorithm: parts.algorithm}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	noErr(t, err)
	return der
}

// TestBuild: what the malformed ones are built from is a good request.
func TestBuild(t *testing.T) {
	t.Parallel()
	noErr(t, ca.CheckCSR(build(t, csrParts{})))
}

func modulus(bits uint) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	return n.SetBit(n, 0, 1)
}

func rsaSPKI(t testing.TB, n *big.Int, e int) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: e})
	noErr(t, err)
	return der
}

func spki(t *testing.T, algorithm asn1.ObjectIdentifier, key []byte) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: algorithm}, asn1.BitString{Bytes: key, BitLength: 8 * len(key)}})
	noErr(t, err)
	return der
}

func offCurve(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(newKey(t).Public())
	noErr(t, err)
	der[len(der)-1] ^= 1
	return der
}

func TestParseCSRPEM(t *testing.T) {
	t.Parallel()
	der := requests(t, "good-")["good-p256"]
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	good := encode("CERTIFICATE REQUEST", der)
	for name, text := range map[string]string{
		"plain":           good,
		"the older label": encode("NEW CERTIFICATE REQUEST", der),
		"white space":     " \t\r\n" + strings.ReplaceAll(good, "\n", "\r\n") + "\n \n",
		"no last newline": strings.TrimSpace(good),
	} {
		got, err := ca.ParseCSRPEM(text)
		if err != nil || !bytes.Equal(got, der) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := strings.Replace(good, "MII", "M*I", 1)
	for name, text := range map[string]string{
		"nothing":             "",
		"white space alone":   " \n",
		"DER":                 string(der),
		"another label":       encode("CERTIFICATE", der),
		"a private key":       encode("PRIVATE KEY", der),
		"two":                 good + good,
		"text before":         "secret\n" + good,
		"text after":          good + "secret\n",
		"a broken one before": broken + good,
		"a broken one after":  good + broken,
		"a header":            strings.Replace(good, "-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
		"no end":              strings.Split(good, "-----END")[0],
		"ends as another":     strings.Replace(good, "-----END CERTIFICATE REQUEST", "-----END CERTIFICATE", 1),
		"a byte too many":     encode("CERTIFICATE REQUEST", append(slices.Clone(der), 0)),
		"too long":            good + strings.Repeat(" ", ca.MaxCSRText),
		"empty block":         encode("CERTIFICATE REQUEST", nil),
	} {
		_, err := ca.ParseCSRPEM(text)
		if got := refusedCSR(t, err); strings.Contains(got, "secret") {
			t.Errorf("%s: %q repeats what came", name, got)
		}
	}
}

// FuzzCheckCSR: what passes is a request that the library takes too, of a key
// that is allowed, and can be issued from.
func FuzzCheckCSR(f *testing.F) {
	for _, prefix := range []string{"good-", "bad-"} {
		for _, der := range requests(f, prefix) {
			f.Add(der)
		}
	}
	a := open(f, f.TempDir())
	f.Fuzz(func(t *testing.T, der []byte) {
		if err := ca.CheckCSR(der); err != nil {
			refusedCSR(t, err)
			return
		}
		csr, err := x509.ParseCertificateRequest(der)
		noErr(t, err)
		noErr(t, csr.CheckSignature())
		if key, ok := csr.PublicKey.(*rsa.PublicKey); ok && (key.N.BitLen() < 2048 || key.N.BitLen() > 4096) {
			t.Errorf("RSA of %d bits", key.N.BitLen())
		}
		req := request(t, "board-1")
		req.CSR = der
		_, cert := issue(t, a, req)
		checkDevice(t, cert, req)
	})
}

// FuzzParseCSRPEM: what passes is the same text but for white space, so that
// nothing can hide in it.
func FuzzParseCSRPEM(f *testing.F) {
	for _, der := range requests(f, "good-") {
		f.Add(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
	}
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		der, err := ca.ParseCSRPEM(text)
		if err != nil {
			refusedCSR(t, err)
			return
		}
		noErr(t, ca.CheckCSR(der))
		bare := func(s string) string { return strings.Join(strings.Fields(s), "") }
		again := bare(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
		if got := strings.ReplaceAll(bare(text), "NEWCERTIFICATE", "CERTIFICATE"); got != again {
			t.Errorf("passes with more in it than a request:\n%s", text)
		}
	})
}

// BenchmarkIssue: what a certificate costs by the kind of key, against a bare
// signature of the library, of which one is needed.
func BenchmarkIssue(b *testing.B) {
	a := open(b, b.TempDir())
	b.Run("key=peer-ecdsa-sign", func(b *testing.B) {
		key := newKey(b)
		for b.Loop() {
			if _, err := key.Sign(rand.Reader, make([]byte, 32), nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	cases := requests(b, "good-")
	cases["good-made"] = nil
	for name, der := range cases {
		b.Run("key="+strings.TrimPrefix(name, "good-"), func(b *testing.B) {
			req := request(b, "board-1")
			req.CSR = der
			for b.Loop() {
				if _, err := a.Issue(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCheckCSR: the time that a stranger can cost, by the kind of key.
func BenchmarkCheckCSR(b *testing.B) {
	cases := requests(b, "good-")
	for name, der := range requests(b, "bad-") {
		cases[name] = der
	}
	cases["bad-rsa4096-signature"] = build(b, csrParts{
		spki: rsaSPKI(b, modulus(4096), 65537), algorithm: sha256WithRSA, signature: make([]byte, 512),
	})
	for name, der := range cases {
		b.Run("request="+name, func(b *testing.B) {
			for b.Loop() {
				_ = ca.CheckCSR(der)
			}
		})
	}
}
