package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"strings"

	"edgeclaim"
)

// Limits of a request.
const (
	// MaxCSR is the largest request, in bytes of DER. One for RSA 4096 has 1,600.
	MaxCSR = 8 << 10
	// MaxCSRText is the longest request in PEM, in characters.
	MaxCSRText = 12 << 10
	// MinRSA and MaxRSA bound an RSA modulus, in bits. Verifying a signature
	// costs the square of it, and a certificate has to fit a device's buffers.
	MinRSA = 2048
	MaxRSA = 4096

	// RSAExponent is the one public exponent that is taken: it is what every tool
	// makes. Smaller ones make forgeries of sloppily padded signatures easy; one of
	// 31 bits takes three times as long to verify, at a stranger's wish.
	RSAExponent = 65537
)

// CheckCSR reports what is wrong with a PKCS #10 request in DER (RFC 2986): it
// has to be one, with no bytes after it, for a key of ECDSA P-256 or P-384,
// Ed25519, or RSA of MinRSA to MaxRSA bits, signed by that key with SHA-2: the
// proof of possession. Errors are ErrInvalid by the name of "csr" and repeat
// nothing of it. It takes at most some ten times as long as for ECDSA P-256,
// whatever the request says (BenchmarkCheckCSR).
func CheckCSR(der []byte) error {
	_, err := publicKey(der)
	return err
}

// publicKey returns the key of a request that passes.
func publicKey(der []byte) (any, error) {
	if len(der) == 0 || len(der) > MaxCSR {
		return nil, edgeclaim.Invalid("csr", "want 1 to %d bytes", MaxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || csr.Version != 0 {
		return nil, edgeclaim.Invalid("csr", "want one PKCS #10 request, version 1")
	}
	// Before the signature is looked at: the key says how long that takes.
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	switch csr.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
	default: // the library still takes SHA-1 here
		return nil, edgeclaim.Invalid("csr", "want a signature with SHA-256, SHA-384 or SHA-512, or Ed25519")
	}
	if csr.CheckSignature() != nil {
		return nil, edgeclaim.Invalid("csr", "the signature is not that of its key")
	}
	return csr.PublicKey, nil
}

func checkKey(key any) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < MinRSA || bits > MaxRSA {
			return edgeclaim.Invalid("csr", "want an RSA key of %d to %d bits", MinRSA, MaxRSA)
		}
		if key.E != RSAExponent {
			return edgeclaim.Invalid("csr", "want an RSA exponent of %d", RSAExponent)
		}
		return nil
	}
	return edgeclaim.Invalid("csr", "want a key of ECDSA P-256 or P-384, Ed25519 or RSA")
}

// requestedKey returns the key of a request. The authority's own keys have no
// business in a device: who shows one has read it off this box.
func (s *state) requestedKey(der []byte) (any, error) {
	public, err := publicKey(der)
	if err != nil {
		return nil, err
	}
	for _, cert := range s.own {
		if sameKey(cert, public) {
			return nil, edgeclaim.Invalid("csr", "the key is the authority's own")
		}
	}
	return public, nil
}

// sameKey reports whether cert is for public; all keys of the standard library
// can tell.
func sameKey(cert *x509.Certificate, public any) bool {
	key, ok := cert.PublicKey.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && key.Equal(public)
}

// ParseCSRPEM reads exactly one PEM block of a request, with nothing but white
// space around it, and checks it by CheckCSR. It returns the DER.
func ParseCSRPEM(text string) ([]byte, error) {
	if len(text) > MaxCSRText {
		return nil, edgeclaim.Invalid("csr", "longer than %d characters", MaxCSRText)
	}
	blocks, err := parseBlocks([]byte(strings.TrimSpace(text)))
	if err != nil || len(blocks) != 1 || blocks[0].Type != typeRequest && blocks[0].Type != "NEW "+typeRequest {
		return nil, edgeclaim.Invalid("csr", "want one PEM block %q and nothing else", typeRequest)
	}
	if err := CheckCSR(blocks[0].Bytes); err != nil {
		return nil, err
	}
	return blocks[0].Bytes, nil
}
