package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/ca"
)

const (
	notOurs  = "not issued by this box"
	broken   = "does not verify"
	noNames  = "not the names of a device"
	noClient = "not a certificate for a client"
	badTime  = "not valid at this time"
)

// TestIdentifyRefuses: certificates that the box's own key signed, but not as
// Issue does, and all kinds that it did not sign.
func TestIdentifyRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	key, root := issuer(t, dir)
	uri := deviceTemplate(t, "board-1").URIs[0]
	other := device(t, "board-2").String()
	san := func(names ...asn1.RawValue) func(*x509.Certificate) {
		value, err := asn1.Marshal(names)
		noErr(t, err)
		return func(c *x509.Certificate) {
			c.URIs = nil
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}
		}
	}
	name := func(tag int, text string) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(text)}
	}
	text := uri.String()
	for title, tc := range map[string]struct {
		change func(*x509.Certificate)
		want   string
	}{
		"another's common name": {func(c *x509.Certificate) { c.Subject.CommonName = other }, noNames},
		"another's URI": {func(c *x509.Certificate) {
			c.URIs[0].Opaque = strings.Replace(c.URIs[0].Opaque, device(t, "board-1").String(), other, 1)
		}, noNames},
		"no common name":            {func(c *x509.Certificate) { c.Subject = pkix.Name{} }, noNames},
		"two common names":          {func(c *x509.Certificate) { c.Subject.ExtraNames = twice(other, c.Subject.CommonName) }, noNames},
		"an organization too":       {func(c *x509.Certificate) { c.Subject.Organization = []string{"x"} }, noNames},
		"an upper-case common name": {func(c *x509.Certificate) { c.Subject.CommonName = strings.ToUpper(c.Subject.CommonName) }, noNames},
		"a null byte in the name":   {func(c *x509.Certificate) { c.Subject.CommonName += "\x00" }, noNames},
		"no URI":                    {func(c *x509.Certificate) { c.URIs = nil }, noNames},
		"two URIs":                  {func(c *x509.Certificate) { c.URIs = append(c.URIs, &url.URL{Scheme: "urn", Opaque: "x:y"}) }, noNames},
		"the same URI twice":        {san(name(6, text), name(6, text)), noNames},
		"a DNS name too":            {san(name(6, text), name(2, "localhost")), noNames},
		"an other name too":         {san(name(6, text), name(0, "x")), noNames},
		"the URI as a DNS name":     {san(name(2, text)), noNames},
		"an upper-case scheme":      {san(name(6, strings.Replace(text, "urn:", "URN:", 1))), noNames},
		"an upper-case URI":         {san(name(6, strings.ToUpper(text))), noNames},
		"an upper-case tenant":      {san(name(6, "urn:edgeclaim:device:AAAAAAAA-2222-4333-8444-555555555555:"+device(t, "board-1").String())), noNames},
		"no tenant":                 {san(name(6, "urn:edgeclaim:device::"+device(t, "board-1").String())), noNames},
		"a null byte in the URI":    {san(name(6, text+"%00")), noNames},
		"a query":                   {san(name(6, text+"?x")), noNames},
		"a fragment":                {san(name(6, text+"#x")), noNames},
		"white space":               {san(name(6, text+"%20")), noNames},
		"a URI of another kind":     {san(name(6, "https://edgeclaim/device/"+device(t, "board-1").String())), noNames},
		"a CA":                      {func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }, noClient},
		"a CA by its constraints":   {func(c *x509.Certificate) { c.IsCA = true }, noClient},
		"for servers":               {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, broken},
		"for servers too":           {func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }, noClient},
		"for anything":              {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, noClient},
		"for nothing said":          {func(c *x509.Certificate) { c.ExtKeyUsage = nil }, noClient},
		"for something unknown too": {func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }, noClient},
		"another key usage":         {func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyAgreement }, noClient},
		"a critical extension":      {func(c *x509.Certificate) { c.ExtraExtensions = critical() }, broken},
		"ended":                     {func(c *x509.Certificate) { c.NotAfter = today.Add(-time.Second) }, badTime},
		"not begun":                 {func(c *x509.Certificate) { c.NotBefore = today.Add(time.Second) }, badTime},
	} {
		t.Run(title, func(t *testing.T) {
			template := deviceTemplate(t, "board-1")
			tc.change(template)
			cert := certify(t, template, root, newKey(t).Public(), key)
			unauthenticated(t, a, []*x509.Certificate{cert, root}, today, tc.want)
		})
	}
	// What they are changed from is good, in spite of being built another way.
	good := certify(t, deviceTemplate(t, "board-1"), root, newKey(t).Public(), key)
	identified(t, a, good, device(t, "board-1"))
}

func twice(names ...string) []pkix.AttributeTypeAndValue {
	var all []pkix.AttributeTypeAndValue
	for _, name := range names {
		all = append(all, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: name})
	}
	return all
}

func TestIdentifyRefusesStrangers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	_, root := issuer(t, dir)
	_, mine := issue(t, a, request(t, "board-1"))
	chain := func(certs ...*x509.Certificate) []*x509.Certificate { return certs }

	// Another box of the same name, whose root looks the same but for its key.
	_, theirs := issue(t, open(t, t.TempDir()), request(t, "board-1"))
	unauthenticated(t, a, chain(theirs), today, notOurs)
	unauthenticated(t, a, chain(theirs, root), today, notOurs)

	// An authority that says it has our name and our key id.
	likeOurs := plantTemplate()
	likeOurs.RawSubject, likeOurs.SubjectKeyId = root.RawSubject, root.SubjectKeyId
	forger := newPlantOf(t, likeOurs)
	forged := certify(t, deviceTemplate(t, "board-1"), forger.cert, newKey(t).Public(), forger.key)
	unauthenticated(t, a, chain(forged, forger.cert), today, broken)
	a.Pool().AddCert(forger.cert) // the caller's copy
	if _, err := forged.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: today, KeyUsages: forged.ExtKeyUsage}); err == nil {
		t.Error("the pool can be added to from outside")
	}

	// A device that signs with its own certificate, to which ours is attached.
	deviceKey := newKey(t)
	dirKey, _ := issuer(t, dir)
	leaf := certify(t, deviceTemplate(t, "board-1"), root, deviceKey.Public(), dirKey)
	below := certify(t, deviceTemplate(t, "board-2"), leaf, newKey(t).Public(), deviceKey)
	unauthenticated(t, a, chain(below, leaf, root), today, notOurs)

	// Signed by itself, the root, the box's own listener, nothing.
	template := deviceTemplate(t, "board-1")
	unauthenticated(t, a, chain(certify(t, template, template, deviceKey.Public(), deviceKey)), today, notOurs)
	unauthenticated(t, a, chain(root), today, notOurs)
	server, err := a.ServerCertificate([]string{device(t, "board-1").String()}, nil)
	noErr(t, err)
	unauthenticated(t, a, chain(server.Leaf), today, broken)
	unauthenticated(t, a, nil, today, "no certificate")
	unauthenticated(t, a, chain(nil), today, "no certificate")
	unauthenticated(t, a, chain(&x509.Certificate{}), today, notOurs)
	// Only the first one is looked at: who sends another's after his own is
	// himself.
	id, _, err := a.Identify(chain(mine, theirs), today)
	if err != nil || id != device(t, "board-1") {
		t.Errorf("got %v, %v", id, err)
	}
	// A bit changed anywhere.
	for i := range mine.Raw {
		bad := bytes.Clone(mine.Raw)
		bad[i] ^= 1
		if cert, err := x509.ParseCertificate(bad); err == nil {
			unauthenticated(t, a, chain(cert), today, "")
		}
	}
}

// TestIdentifyByTheBoxsClock: the time is the one handed in, whatever the
// machine's clock says.
func TestIdentifyByTheBoxsClock(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir())
	req := request(t, "board-1")
	_, cert := issue(t, a, req)
	req.NotBefore = today.Add(day)
	_, later := issue(t, a, req)
	for _, tc := range []struct {
		name string
		cert *x509.Certificate
		now  time.Time
		ok   bool
	}{
		{"a box without a clock, in 1970", cert, time.Unix(5, 0), true},
		{"a clock that was never set", cert, time.Time{}, true},
		{"today", cert, today, true},
		{"the last second", cert, req.NotAfter, true},
		{"after it", cert, req.NotAfter.Add(time.Second), false},
		{"a clock a century ahead", cert, today.Add(36500 * day), false},
		{"not begun", later, today, false},
		{"begun", later, today.Add(day), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if !tc.ok {
				unauthenticated(t, a, []*x509.Certificate{tc.cert}, tc.now, badTime)
				return
			}
			id, _, err := a.Identify([]*x509.Certificate{tc.cert}, tc.now)
			if err != nil || id != req.Device {
				t.Errorf("got %v, %v", id, err)
			}
		})
	}
}

// fixed opens an authority with a key that is always the same, so that the
// certificates in testdata/fuzz stay its own.
func fixed(t testing.TB) (*ca.Authority, *ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	sum := sha256.Sum256([]byte("a key for tests alone"))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), sum[:])
	noErr(t, err)
	template := plantTemplate()
	template.Subject = pkix.Name{CommonName: "fixed"}
	template.NotBefore, template.MaxPathLenZero, template.SerialNumber = ca.NotBefore(), true, big.NewInt(1)
	root := certify(t, template, template, key.Public(), key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	noErr(t, err)
	dir := t.TempDir()
	write(t, file(dir, "issuer.pem"), append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), chainPEM(root)...))
	return open(t, dir), key, root
}

// FuzzIdentify: who is let in holds a certificate that this key signed, and is
// the one it names, in the one spelling, at that time.
func FuzzIdentify(f *testing.F) {
	a, key, root := fixed(f)
	_, good := issue(f, a, request(f, "board-1"))
	f.Add(good.Raw, today.Unix())
	f.Add(good.Raw, good.NotAfter.Unix()+1)
	f.Add(root.Raw, today.Unix())
	f.Add(certify(f, deviceTemplate(f, "board-1"), root, newKey(f).Public(), key).Raw, int64(0))
	f.Fuzz(func(t *testing.T, der []byte, unix int64) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		now := time.Unix(unix, 0)
		id, hash, err := a.Identify([]*x509.Certificate{cert}, now)
		if err != nil {
			if !errors.Is(err, edgeclaim.ErrUnauthenticated) || !id.IsZero() || !hash.IsZero() {
				t.Fatalf("got %v, %v, %v", id, hash, err)
			}
			return
		}
		noErr(t, cert.CheckSignatureFrom(root))
		uri := "urn:edgeclaim:device:" + tenant(t).String() + ":" + id.String()
		if cert.Subject.String() != "CN="+id.String() || len(cert.URIs) != 1 || cert.URIs[0].String() != uri ||
			cert.IsCA || now.After(cert.NotAfter) {
			t.Errorf("let in as %v: %v %v", id, cert.Subject, cert.URIs)
		}
	})
}

// BenchmarkIdentify: what a login costs, against the one signature that has to
// be verified.
func BenchmarkIdentify(b *testing.B) {
	a := open(b, b.TempDir())
	_, cert := issue(b, a, request(b, "board-1"))
	root := parseOnly(b, a.Root())
	b.Run("what=peer-check-signature", func(b *testing.B) {
		for b.Loop() {
			if err := cert.CheckSignatureFrom(root); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("what=identify", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := a.Identify([]*x509.Certificate{cert}, today); err != nil {
				b.Fatal(err)
			}
		}
	})
}
