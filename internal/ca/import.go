package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"edgeclaim"
)

// MaxChainText is the largest chain to be imported, in bytes of PEM.
const MaxChainText = 128 << 10

// CSR returns a PEM request for an intermediate's certificate, with a new key
// that is kept beside the authority until Import. It is the same request until
// then. The issuing of certificates goes on as it was.
func (a *Authority) CSR() ([]byte, error) {
	a.files.Lock()
	defer a.files.Unlock()
	_, request, err := readPending(a.dir)
	if err == nil {
		return pem.EncodeToMemory(request), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := keyBlock(key)
	if err != nil {
		return nil, err
	}
	extensions, err := intermediateExtensions()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         a.subject("intermediate"),
		ExtraExtensions: extensions,
	}, key)
	if err != nil {
		return nil, err
	}
	request = &pem.Block{Type: typeRequest, Bytes: der}
	if err := writeBlocks(filepath.Join(a.dir, pendingFile), []*pem.Block{block, request}); err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(request), nil
}

// intermediateExtensions asks for what Import wants, so that a plant's
// authority that copies extensions gets it right by itself: CA:TRUE with a path
// length of 0, and keyCertSign with cRLSign (RFC 5280, 4.2.1.3 and 4.2.1.9).
func intermediateExtensions() ([]pkix.Extension, error) {
	constraints, err := asn1.Marshal(struct {
		CA      bool
		PathLen int
	}{true, 0})
	if err != nil {
		return nil, err
	}
	const signBits = 0x06 // keyCertSign is bit 5 from the top, cRLSign bit 6
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{signBits}, BitLength: 7})
	if err != nil {
		return nil, err
	}
	return []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints},
		{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: usage},
	}, nil
}

// readPending returns the key that waits for its certificate, and its request;
// fs.ErrNotExist when none does.
func readPending(dir string) (*ecdsa.PrivateKey, *pem.Block, error) {
	name := filepath.Join(dir, pendingFile)
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, err
	}
	blocks, err := parseBlocks(text)
	if err == nil && (len(blocks) != 2 || blocks[0].Type != typeKey || blocks[1].Type != typeRequest) {
		err = errors.New("want a private key and its request")
	}
	var key *ecdsa.PrivateKey
	if err == nil {
		key, err = parseKey(blocks[0])
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s: %w; delete it and ask for a new request", ErrDamaged, name, err)
	}
	return key, blocks[1], nil
}

// endImport removes the pending key of an import that a crash cut off after the
// new issuer was in place. A damaged one is told when it is asked for: the box
// needs none of it to go on.
func (a *Authority) endImport(present *ecdsa.PrivateKey) error {
	key, _, err := readPending(a.dir)
	if err == nil && key.Equal(present) {
		return removeFile(filepath.Join(a.dir, pendingFile))
	}
	return nil
}

// Import takes a chain in PEM, leaf first and the root last, whose first
// certificate is for the pending key of CSR, or for the present key; from then
// on certificates are issued from it. What the earlier issuer signed is
// identified as before. Nil means that it is on the disk; the same chain may be
// imported again. Errors are ErrInvalid by the name of "chain" and say which
// rule failed, ErrConflict while MaxRetired earlier issuers are still valid,
// ErrDamaged for a broken pending key, or the disk's, after which Import may be
// repeated.
//
// The box's clock may be behind (P2): a chain that begins later is taken.
func (a *Authority) Import(chainPEM []byte) error {
	a.files.Lock()
	defer a.files.Unlock()
	chain, err := parseChain(chainPEM)
	if err != nil {
		return err
	}
	s := a.state.Load()
	key, err := a.keyFor(chain, s.present.key)
	if err != nil {
		return err
	}
	next := issuer{key: key, chain: chain}
	if err := next.check(a.cfg.Now()); err != nil {
		return err
	}
	retired := s.retired
	if !s.present.chain[0].Equal(chain[0]) {
		if retired, err = retire(s, a.cfg.Now()); err != nil {
			return err
		}
	}
	// In this order a crash leaves the old issuer, or the new one with all
	// earlier ones known.
	if err := writeRetired(a.dir, retired); err != nil {
		return err
	}
	if err := writeIssuer(a.dir, &next); err != nil {
		return err
	}
	if err := a.endImport(key); err != nil {
		return err
	}
	a.state.Store(newState(next, retired))
	return nil
}

// retire returns the issuers to be kept when the present one is replaced. Past
// MaxRetired those go first whose end, and with it that of all they signed, has
// come.
func retire(s *state, now time.Time) ([]*x509.Certificate, error) {
	retired := append([]*x509.Certificate{s.present.chain[0]}, s.retired...)
	if len(retired) <= MaxRetired {
		return retired, nil
	}
	last := len(retired) - 1
	slices.SortStableFunc(retired, func(x, y *x509.Certificate) int { return y.NotAfter.Compare(x.NotAfter) })
	if now.Before(retired[last].NotAfter) {
		return nil, fmt.Errorf("%w: %d earlier issuers are still valid", edgeclaim.ErrConflict, MaxRetired)
	}
	return retired[:last], nil
}

func invalidChain(format string, args ...any) error {
	return edgeclaim.Invalid("chain", format, args...)
}

// parseChain reads certificates; text between them, as openssl prints it, is
// stepped over.
func parseChain(text []byte) ([]*x509.Certificate, error) {
	if len(text) > MaxChainText {
		return nil, invalidChain("larger than %d bytes", MaxChainText)
	}
	begun := bytes.Count(text, []byte("-----BEGIN "))
	var blocks []*pem.Block
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != typeCertificate {
			return nil, invalidChain("want certificates only, and never a private key")
		}
		blocks = append(blocks, block)
	}
	if len(blocks) == 0 || len(blocks) > MaxChain || len(blocks) != begun {
		return nil, invalidChain("want 1 to %d whole certificates in PEM", MaxChain)
	}
	chain, err := parseCertificates(blocks)
	if err != nil {
		return nil, invalidChain("%s", err)
	}
	return chain, nil
}

// keyFor returns the private key of the chain's first certificate.
func (a *Authority) keyFor(chain []*x509.Certificate, present *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	pending, _, err := readPending(a.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	keys := []*ecdsa.PrivateKey{present}
	if err == nil {
		keys = append(keys, pending)
	}
	for n, cert := range chain {
		for _, key := range keys {
			if !sameKey(cert, key.Public()) {
				continue
			}
			if n > 0 {
				return nil, invalidChain("the certificate of this box is number %d, and has to be the first", n+1)
			}
			return key, nil
		}
	}
	return nil, invalidChain("the first certificate is not for a key of this box; have its request signed")
}

// check reports which rule a chain breaks.
func (i *issuer) check(now time.Time) error {
	if err := checkLinks(i.chain); err != nil {
		return invalidChain("%s", err)
	}
	begin := i.chain[0].NotBefore
	for n, cert := range i.chain {
		switch {
		case !cert.BasicConstraintsValid || !cert.IsCA:
			return invalidChain("certificate %d is not a CA's (basicConstraints CA:TRUE)", n+1)
		case cert.KeyUsage&x509.KeyUsageCertSign == 0 && (n == 0 || cert.KeyUsage != 0):
			return invalidChain("certificate %d may not sign certificates (keyUsage keyCertSign)", n+1)
		case cert.MaxPathLen >= 0 && cert.MaxPathLen < n:
			return invalidChain("certificate %d allows %d authorities below it (pathlen), and has %d", n+1, cert.MaxPathLen, n)
		case !now.Before(cert.NotAfter):
			return invalidChain("certificate %d ended on %s", n+1, cert.NotAfter.Format(time.RFC3339))
		}
		begin = later(begin, cert.NotBefore)
	}
	if !begin.Before(i.notAfter()) {
		return invalidChain("at no time are all its certificates valid")
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if err := i.probe(usage, begin); err != nil {
			return err
		}
	}
	return nil
}

// probe issues a certificate and verifies it from the root down, as a device or
// another application would. It finds what the rules above do not name: extended
// key usages, name constraints, critical extensions that nobody knows.
func (i *issuer) probe(usage x509.ExtKeyUsage, at time.Time) error {
	template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature}
	whom := "the box's listeners (extendedKeyUsage serverAuth)"
	if usage == x509.ExtKeyUsageClientAuth {
		whom = "devices (extendedKeyUsage clientAuth, a URI as name)"
		var err error
		if template, err = deviceTemplate(edgeclaim.TenantID{}, edgeclaim.DeviceID{}); err != nil {
			return err
		}
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	template.NotBefore, template.NotAfter = at, i.notAfter()
	public, _, err := newKeyPair()
	if err != nil {
		return err
	}
	der, err := i.sign(template, public)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	last := len(i.chain) - 1
	roots.AddCert(i.chain[last])
	for _, cert := range i.chain[:last] {
		between.AddCert(cert)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return invalidChain("what it issues to %s would not verify: %s", whom, err)
	}
	return nil
}

// checkLinks reports where a chain breaks: each certificate is signed by the
// next, and the last one by itself, for a device has to be given a root.
func checkLinks(chain []*x509.Certificate) error {
	for n, cert := range chain {
		if n == len(chain)-1 {
			if !isRoot(cert) {
				return errors.New("the last certificate is not a root (signed by itself)")
			}
			continue
		}
		if parent := chain[n+1]; !bytes.Equal(cert.RawIssuer, parent.RawSubject) || cert.CheckSignatureFrom(parent) != nil {
			return fmt.Errorf("certificate %d is not signed by certificate %d", n+1, n+2)
		}
	}
	return nil
}

// isRoot reports whether cert is signed by itself. A plant's root may be old:
// this takes SHA-1, for a root is trusted for being the one it is.
func isRoot(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawIssuer, cert.RawSubject) &&
		cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}
