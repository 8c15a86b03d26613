package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"edgeclaim"
)

// Identify says whose certificate a client shows. Only the first of chain is
// looked at: it has to be signed by this authority itself, now or earlier, with
// nothing between, valid at now (the box's clock), for client authentication,
// and to be to the letter what Issue says of a device. Errors wrap
// ErrUnauthenticated; their text is for the log and repeats nothing of the
// certificate.
//
// The caller compares the fingerprint with the registry's: a certificate that
// verifies may be revoked, replaced, or of a device released since.
//
// An issuer's beginning is past, for its certificate is here: where now is
// before it, it is judged by that beginning (P2, P10).
func (a *Authority) Identify(chain []*x509.Certificate, now time.Time) (edgeclaim.DeviceID, edgeclaim.KeyHash, error) {
	device, err := a.state.Load().identify(chain, now)
	if err != nil {
		return edgeclaim.DeviceID{}, edgeclaim.KeyHash{}, fmt.Errorf("%w: %w", edgeclaim.ErrUnauthenticated, err)
	}
	return device, fingerprint(chain[0].Raw), nil
}

func (s *state) identify(chain []*x509.Certificate, now time.Time) (edgeclaim.DeviceID, error) {
	if len(chain) == 0 || chain[0] == nil {
		return edgeclaim.DeviceID{}, errors.New("no certificate")
	}
	leaf := chain[0]
	if err := s.verify(leaf, now); err != nil {
		return edgeclaim.DeviceID{}, err
	}
	// The library takes a certificate without extended key usages for good for all.
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.UnknownExtKeyUsage) > 0 ||
		!slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		return edgeclaim.DeviceID{}, errors.New("not a certificate for a client")
	}
	return deviceOf(leaf)
}

// verify reports why leaf does not verify. Candidates are issuers of the same
// name and key id: one, but for an issuer whose certificate was renewed.
func (s *state) verify(leaf *x509.Certificate, now time.Time) error {
	err := errors.New("not issued by this box")
	for _, issuer := range s.own {
		if !bytes.Equal(leaf.RawIssuer, issuer.RawSubject) ||
			!bytes.Equal(leaf.AuthorityKeyId, issuer.SubjectKeyId) {
			continue
		}
		only := x509.NewCertPool() // all of them at once would cost the square
		only.AddCert(issuer)
		_, failure := leaf.Verify(x509.VerifyOptions{
			Roots:       only,
			CurrentTime: later(now, issuer.NotBefore),
			KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if failure == nil {
			return nil
		}
		err = reason(failure)
	}
	return err
}

// reason says the library's error without the names that it quotes.
func reason(failure error) error {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](failure); ok && invalid.Reason == x509.Expired {
		return errors.New("not valid at this time")
	}
	return errors.New("does not verify")
}

// deviceOf reads the device out of a certificate that this authority signed. It
// builds both names anew and compares the bytes, so that there is one spelling
// of each: no second name, no upper case, no byte hidden behind another.
func deviceOf(leaf *x509.Certificate) (edgeclaim.DeviceID, error) {
	none := errors.New("not the names of a device")
	device, err := edgeclaim.ParseDeviceID(leaf.Subject.CommonName)
	if err != nil || len(leaf.URIs) != 1 {
		return edgeclaim.DeviceID{}, none
	}
	subject, err := asn1.Marshal(pkix.Name{CommonName: device.String()}.ToRDNSequence())
	if err != nil || !bytes.Equal(subject, leaf.RawSubject) {
		return edgeclaim.DeviceID{}, none
	}
	names, _ := strings.CutPrefix(leaf.URIs[0].String(), urnDevice)
	text, _, _ := strings.Cut(names, ":")
	tenant, err := edgeclaim.ParseTenantID(text)
	if err != nil {
		return edgeclaim.DeviceID{}, none
	}
	san, err := deviceSAN(tenant, device)
	found := slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool {
		return e.Id.Equal(oidSAN) && bytes.Equal(e.Value, san)
	})
	if err != nil || !found {
		return edgeclaim.DeviceID{}, none
	}
	return device, nil
}
