package provision

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"time"

	"edgeclaim"
	"edgeclaim/internal/ca"
	"edgeclaim/internal/mint"
)

// Prefixes of the keys made here.
const (
	apiKeyPrefix       = "sk_live_"
	provisionKeyPrefix = "pk_factory_"
)

// Validity of certificates.
const (
	// x509Backdate is how long before now a certificate begins: for a device
	// whose clock is somewhat behind the box's.
	x509Backdate = 30 * 24 * time.Hour
	// x509Unsynced is how long a certificate lives that was issued while the
	// box's clock was not synchronised: one that ended by the right time would
	// die when the clock is set. What voids it is the registry.
	x509Unsynced = 10 * 365 * 24 * time.Hour
)

// order is what a credential is made, or said again, from.
type order struct {
	purpose mint.Purpose
	kind    edgeclaim.CredentialType
	tenant  edgeclaim.TenantID
	device  edgeclaim.DeviceID
	// key is the hash of what was asked with.
	key edgeclaim.KeyHash
	now time.Time
	// validity is how long a certificate lives that is issued while the clock is
	// synchronised; of no other credential.
	validity time.Duration
	extras
}

// made is a credential before it is stored.
type made struct {
	credential edgeclaim.Credential
	mint       *edgeclaim.Mint // nil without a nonce: it cannot be said again
	said       said
	facts      credentialFacts
}

// make makes a credential. With a nonce it is derived, so that it can be said
// again; without one it is random.
func (s *Service) make(o *order) (made, error) {
	var derived, salt [mint.Size]byte
	_, _ = rand.Read(salt[:]) // never fails: crypto/rand ends the program rather
	_, _ = rand.Read(derived[:])
	again := s.repeatable(o)
	if again {
		derived = mint.Derive(s.cfg.BoxKey, o.input(salt))
	}
	m := made{said: said{kind: o.kind}}
	if o.kind == edgeclaim.CredentialX509 {
		if err := s.certify(o, &m); err != nil {
			return made{}, err
		}
	} else {
		m.said.secret = secretText(o.kind, derived)
		m.credential = edgeclaim.Credential{Type: o.kind, Hash: m.said.secret.Hash(), IssuedAt: o.now}
	}
	var err error
	if again {
		if m.mint, err = kept(&m, salt, derived); err != nil {
			return made{}, err
		}
	}
	m.facts = factsOf(&m.credential)
	if o.kind == edgeclaim.CredentialPSK {
		m.facts.Sealed, m.facts.Unsealed = s.seal(o.device, m.said.secret)
	}
	return m, nil
}

// repeatable reports whether a credential can be said again to who ordered it. A
// box without a key of its own has nothing to derive it with.
func (s *Service) repeatable(o *order) bool { return o.nonce != nil && !s.cfg.BoxKey.IsZero() }

// input is what the order's secret is derived from with that salt.
func (o *order) input(salt [mint.Size]byte) *mint.Input {
	return &mint.Input{
		Purpose: o.purpose, Type: o.kind, Tenant: o.tenant, Device: o.device, Key: o.key, Nonce: o.nonce, Salt: salt,
	}
}

// certify has a certificate issued.
func (s *Service) certify(o *order, m *made) error {
	if s.parts.Issuer == nil {
		return fmt.Errorf("no certificate authority: %w", edgeclaim.ErrUnavailable)
	}
	req := ca.Request{Device: o.device, Tenant: o.tenant, CSR: o.csr, NotAfter: o.now.Add(x509Unsynced)}
	if s.clock.Stamp().Clock == edgeclaim.ClockSynced {
		req.NotBefore, req.NotAfter = o.now.Add(-x509Backdate), o.now.Add(o.validity)
	}
	issued, err := s.parts.Issuer.Issue(req)
	if err != nil {
		return err
	}
	m.said.certificate, m.said.chain = issued.Certificate, issued.Chain
	if !issued.PrivateKey.IsZero() {
		block, _ := pem.Decode([]byte(issued.PrivateKey.Reveal()))
		if block == nil {
			return fmt.Errorf("the authority's private key is no PEM")
		}
		m.said.privateKey = edgeclaim.NewSecret(string(block.Bytes))
	}
	m.credential = edgeclaim.Credential{
		Type: o.kind, Hash: issued.Fingerprint, IssuedAt: o.now, NotAfter: issued.NotAfter,
	}
	return nil
}

// kept is what lets the box say the credential again.
func kept(m *made, salt, derived [mint.Size]byte) (*edgeclaim.Mint, error) {
	k := &edgeclaim.Mint{Salt: salt, Proof: m.credential.Hash}
	if m.said.kind != edgeclaim.CredentialX509 {
		return k, nil
	}
	k.Proof, k.Certificate, k.Chain = proof(derived), m.said.certificate, m.said.chain
	if m.said.privateKey.IsZero() {
		return k, nil
	}
	var err error
	k.SealedKey, err = mint.SealKey(derived, []byte(m.said.privateKey.Reveal()))
	return k, err
}

// proof is the SHA-256 of a derived secret.
func proof(derived [mint.Size]byte) edgeclaim.KeyHash {
	return edgeclaim.NewSecret(string(derived[:])).Hash()
}

// repetition is what a nonce is good for.
type repetition int

const (
	// repeatNothing: the nonce made nothing that is still to be said.
	repeatNothing repetition = iota
	// repeatSame: the credential, once more.
	repeatSame
	// repeatOther: it is the nonce, and the device has another key pair by now,
	// or the certificate has ended, so that it needs another one.
	repeatOther
)

// repeat says d's credential once more, where the order's nonce is the one that
// made it and it was never used. It reads its arguments only, and is quick
// enough for a transaction.
func (s *Service) repeat(d *edgeclaim.Device, o *order) (said, repetition) {
	if d.Mint == nil || !s.repeatable(o) || !d.Credential.ConfirmedAt.IsZero() || d.Credential.Type != o.kind {
		return said{}, repeatNothing
	}
	derived := mint.Derive(s.cfg.BoxKey, o.input(d.Mint.Salt))
	if o.kind != edgeclaim.CredentialX509 {
		again := said{kind: o.kind, secret: secretText(o.kind, derived)}
		if hash := again.secret.Hash(); !hash.Equal(d.Mint.Proof) || !hash.Equal(d.Credential.Hash) {
			return said{}, repeatNothing
		}
		return again, repeatSame
	}
	if !proof(derived).Equal(d.Mint.Proof) {
		return said{}, repeatNothing
	}
	if end := d.Credential.NotAfter; !o.now.Before(end) { // nobody could use it any more
		return said{}, repeatOther
	}
	again := said{kind: o.kind, certificate: d.Mint.Certificate, chain: d.Mint.Chain}
	if o.csr == nil {
		pkcs8, err := mint.OpenKey(derived, d.Mint.SealedKey)
		if err != nil { // none is kept: it came with a CSR then
			return said{}, repeatOther
		}
		again.privateKey = edgeclaim.NewSecret(string(pkcs8))
		return again, repeatSame
	}
	if !certifies(d.Mint.Certificate, o.publicKey) {
		return said{}, repeatOther
	}
	return again, repeatSame
}

// certifies reports whether a certificate is for that public key.
func certifies(certificate, publicKey []byte) bool {
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		return false
	}
	own, err := x509.MarshalPKIXPublicKey(parsed.PublicKey)
	return err == nil && string(own) == string(publicKey)
}

// secretText is how an API key or PSK is spelled.
func secretText(kind edgeclaim.CredentialType, raw [mint.Size]byte) edgeclaim.Secret {
	text := base64.RawURLEncoding.EncodeToString(raw[:])
	if kind == edgeclaim.CredentialAPIKey {
		text = apiKeyPrefix + text
	}
	return edgeclaim.NewSecret(text)
}

// newSecret returns prefix and 32 random bytes in unpadded base64url.
func newSecret(prefix string) edgeclaim.Secret {
	var b [mint.Size]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program rather
	return edgeclaim.NewSecret(prefix + base64.RawURLEncoding.EncodeToString(b[:]))
}

// seal encrypts a PSK for upstream, or says why not.
func (s *Service) seal(id edgeclaim.DeviceID, psk edgeclaim.Secret) (*Sealed, unsealed) {
	sealed, err := s.cfg.Seal(id, psk)
	switch {
	case err != nil: // offline is normal, and so is an upstream without it
		s.logger.Error("psk not sealed for upstream", "device_id", id, "err", err)
		return nil, unsealedFailed
	case sealed == nil:
		return nil, unsealedNoKey
	default:
		return sealed, ""
	}
}
