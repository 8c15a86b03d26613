package provision_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// TestCredentialsDoNotPassForOthers: a certificate is no key, a key no
// certificate, and another device's is neither.
func TestCredentialsDoNotPassForOthers(t *testing.T) {
	r := newRig(t)
	key, byKey := r.born(edgeclaim.CredentialAPIKey, "KEY")
	psk, byPSK := r.born(edgeclaim.CredentialPSK, "PSK")
	certified, byChain := r.born(edgeclaim.CredentialX509, "X509")
	chain := chainOf(t, certified)
	for name, l := range map[string]edgeclaim.Login{
		"key of another":         {Device: byPSK.Device, Key: edgeclaim.NewSecret(key.APIKey)},
		"psk of another":         {Device: byKey.Device, Key: edgeclaim.NewSecret(psk.PSK)},
		"certificate of another": {Device: byKey.Device, Chain: chain},
		"hash for a key":         {Device: byKey.Device, Key: edgeclaim.NewSecret(byKey.Credential.String())},
		"certificate's bytes":    {Device: byChain.Device, Key: edgeclaim.NewSecret(string(chain[0].Raw))},
		"the same without id":    {Key: edgeclaim.NewSecret(string(chain[0].Raw))},
		"nothing":                {Device: byKey.Device},
		"nothing at all":         {},
	} {
		if a, err := r.Admit(t.Context(), l); !errors.Is(err, edgeclaim.ErrUnauthenticated) || a != (edgeclaim.Admission{}) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	// Who shows a credential alone is who it is.
	for name, c := range map[string]struct {
		l    edgeclaim.Login
		want edgeclaim.DeviceID
	}{
		"key":         {edgeclaim.Login{Key: edgeclaim.NewSecret(key.APIKey)}, byKey.Device},
		"psk":         {edgeclaim.Login{Key: edgeclaim.NewSecret(psk.PSK)}, byPSK.Device},
		"certificate": {edgeclaim.Login{Chain: chain}, byChain.Device},
		"both":        {edgeclaim.Login{Chain: chain, Key: edgeclaim.NewSecret("wrong")}, byChain.Device},
	} {
		if a, err := r.Admit(t.Context(), c.l); err != nil || a.Device != c.want {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

// forged is a certificate that says to be that device's, of another authority.
func forged(t *testing.T, id edgeclaim.DeviceID) *x509.Certificate {
	t.Helper()
	key := newSigner(t)
	uri, err := url.Parse("urn:edgeclaim:device:" + tenantText + ":" + id.String())
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: id.String()}, URIs: []*url.URL{uri},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(50, 0, 0),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// TestCertificatesRefused: each for its own reason, which the audit log has and
// the device does not.
func TestCertificatesRefused(t *testing.T) {
	r := newRig(t)
	s, a := r.born(edgeclaim.CredentialX509, "H")
	good := chainOf(t, s)
	refused := func(name string, chain []*x509.Certificate) {
		t.Helper()
		before := len(r.audited(audit.KindLoginRefused))
		for _, id := range []edgeclaim.DeviceID{{}, a.Device} {
			got, err := r.admitChain(id, chain)
			if err == nil || err.Error() != edgeclaim.ErrUnauthenticated.Error() || got != (edgeclaim.Admission{}) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		}
		entries := r.audited(audit.KindLoginRefused)
		if len(entries) != before+2 || entries[before].Reason != "certificate" || entries[before].Source != "192.0.2.7" ||
			entries[before].Detail["problem"] == "" {
			t.Errorf("%s: audited %+v", name, entries[before:])
		}
	}
	refused("another authority", []*x509.Certificate{forged(t, a.Device)})
	issued, err := r.Rotate(r.operator(), a.Device, rotation(0))
	if err != nil {
		t.Fatal(err)
	}
	refused("replaced", good)
	next := certificates(t, issued.Certificate)
	if _, err := r.admitChain(a.Device, next); err != nil {
		t.Errorf("the next one: %v", err)
	}
	r.pass(91 * 24 * time.Hour)
	refused("expired", next)
	if issued, err = r.Rotate(r.operator(), a.Device, rotation(0)); err != nil {
		t.Fatal(err)
	}
	next = certificates(t, issued.Certificate)
	if _, err := r.Revoke(r.operator(), a.Device, ""); err != nil {
		t.Fatal(err)
	}
	refused("revoked", next)
}

// TestValidFor: the end of the overlap or of the certificate, whichever comes
// first.
func TestValidFor(t *testing.T) {
	r := newRig(t)
	s, a := r.born(edgeclaim.CredentialX509, "H")
	if a.ValidFor < 89*24*time.Hour || a.ValidFor > 90*24*time.Hour {
		t.Errorf("of a certificate: %s", a.ValidFor)
	}
	r.pass(90*24*time.Hour - 2*time.Hour)
	if _, err := r.Rotate(r.operator(), a.Device, rotation(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if a, err := r.enter(s); err != nil || a.ValidFor != 2*time.Hour {
		t.Errorf("of one that ends within its overlap: %s, %v", a.ValidFor, err)
	}
	s, a = r.born(edgeclaim.CredentialAPIKey, "K")
	if a.ValidFor != 0 {
		t.Errorf("of a key: %s", a.ValidFor)
	}
	if _, err := r.Rotate(r.operator(), a.Device, rotation(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r.pass(10 * time.Minute)
	if a, err := r.enter(s); err != nil || a.ValidFor != 50*time.Minute {
		t.Errorf("of one on its way out: %s, %v", a.ValidFor, err)
	}
}

// TestFirstLoginsAtOnce: many sessions of one device at once note one use.
func TestFirstLoginsAtOnce(t *testing.T) {
	r := newRig(t)
	s := r.wantMinted(r.claimNonce(r.key(nil), "H", nonceA))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := r.login(s.id(t), s.APIKey); err != nil {
				t.Errorf("not let in: %v", err)
			}
		})
	}
	wg.Wait()
	if got := r.audited(audit.KindDeviceConfirmed); len(got) != 1 {
		t.Errorf("%d first uses", len(got))
	}
	first := r.device(s.id(t)).Credential.ConfirmedAt
	r.pass(time.Hour)
	r.wantLogin(s.id(t), s.APIKey)
	if got := r.device(s.id(t)).Credential.ConfirmedAt; !got.Equal(first) || first.IsZero() {
		t.Errorf("first used at %s and %s", first, got)
	}
}
