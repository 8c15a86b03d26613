package provision

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"edgeclaim"
	"edgeclaim/internal/ca"
)

// Limits of a nonce, in bytes, decoded.
const (
	minNonce = 16
	maxNonce = 64
)

// claim is a request whose every field is known to be well-formed.
type claim struct {
	via      edgeclaim.Via
	source   netip.Addr
	room     int
	format   edgeclaim.Format
	now      time.Time // max(wall clock, floor) when it was asked
	key      edgeclaim.Secret
	hash     edgeclaim.KeyHash // of key
	name     string
	hardware edgeclaim.HardwareID // folded, once the template is known
	unfolded bool                 // it cannot be, as the template asks for
	extras
}

// extras is what any request may carry besides.
type extras struct {
	nonce     []byte // nil for none
	csr       []byte // DER, checked; nil for none
	publicKey []byte // the CSR's, as x509.MarshalPKIXPublicKey says it
	requestID *string
}

// validate checks the fields in the order the documentation lists them.
func (r *request) validate() (claim, error) {
	for _, f := range []struct {
		name string
		text text
	}{{"provision_key", r.ProvisionKey}, {"device_name", r.DeviceName}, {"hardware_id", r.HardwareID}} {
		if !f.text.set {
			return claim{}, edgeclaim.Invalid(f.name, "required")
		}
	}
	if err := checkKey("provision_key", r.ProvisionKey.value); err != nil {
		return claim{}, err
	}
	if err := edgeclaim.CheckName("device_name", r.DeviceName.value); err != nil {
		return claim{}, err
	}
	hardware, err := edgeclaim.ParseHardwareID(r.HardwareID.value)
	if err != nil {
		return claim{}, err
	}
	more, err := readExtras(r.ClaimNonce, r.CSR, r.RequestID)
	if err != nil {
		return claim{}, err
	}
	key := edgeclaim.NewSecret(r.ProvisionKey.value)
	return claim{key: key, hash: key.Hash(), name: r.DeviceName.value, hardware: hardware, extras: more}, nil
}

// validate checks the fields of a renewal.
func (r *renewal) validate() (extras, error) { return readExtras(r.ClaimNonce, r.CSR, r.RequestID) }

// readExtras checks what may come besides, but for what is in the CSR.
func readExtras(nonce, csr, requestID text) (extras, error) {
	var e extras
	if nonce.set {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(nonce.value)
		// The decoder skips line ends; the device has to mean what it sends.
		if err != nil || strings.ContainsAny(nonce.value, "\r\n") || len(raw) < minNonce || len(raw) > maxNonce {
			return extras{}, edgeclaim.Invalid(nameNonce, "want %d to %d bytes in unpadded base64url", minNonce, maxNonce)
		}
		e.nonce = raw
	}
	if csr.set && csr.value == "" {
		return extras{}, edgeclaim.Invalid(nameCSR, "empty")
	}
	if requestID.set {
		e.requestID = &requestID.value
		return e, edgeclaim.CheckName(nameRequestID, requestID.value)
	}
	return e, nil
}

// readCSR checks the CSR of a request, whatever key came with it: an error that
// only a good key got to hear would tell that it is good. It is dear, and
// anybody may ask for it: those under way hold half of the cores at most.
func (s *Service) readCSR(ctx context.Context, e *extras, csr text, format edgeclaim.Format) error {
	if !csr.set {
		return nil
	}
	select {
	case s.csrTurns <- struct{}{}:
		defer func() { <-s.csrTurns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if format == edgeclaim.FormatJSON {
		der, err := ca.ParseCSRPEM(csr.value)
		if err != nil {
			return err
		}
		return e.takeCSR(der)
	}
	der := []byte(csr.value)
	if err := ca.CheckCSR(der); err != nil {
		return err
	}
	return e.takeCSR(der)
}

// takeCSR takes a request that has passed, with its key in the one spelling that
// certificates have too.
func (e *extras) takeCSR(der []byte) error {
	parsed, err := x509.ParseCertificateRequest(der)
	if err == nil {
		e.csr = der
		e.publicKey, err = x509.MarshalPKIXPublicKey(parsed.PublicKey)
	}
	if err != nil {
		return edgeclaim.Invalid(nameCSR, "no request of PKCS #10")
	}
	return nil
}

// checkKey accepts any string of 1 to MaxKey characters: a wrong key is an
// unknown one, not a malformed one.
func checkKey(field, key string) error {
	if n := utf8.RuneCountInString(key); n == 0 || n > edgeclaim.MaxKey {
		return edgeclaim.Invalid(field, "want 1 to %d characters", edgeclaim.MaxKey)
	}
	return nil
}
