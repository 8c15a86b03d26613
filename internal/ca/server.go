package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"edgeclaim"
)

// Limits of a server's names.
const (
	// MaxServerNames is the largest number of names and addresses together.
	MaxServerNames = 128
	// MaxServerName is the longest name, in characters (RFC 1035, section 2.3.4).
	MaxServerName = 253

	serverNameLetters = "abcdefghijklmnopqrstuvwxyz0123456789-_.*"
)

// ServerCertificate returns a certificate for the box's own listeners with its
// chain, the root left out. It is kept, and made anew when the names change,
// when fewer than ServerRenew are left of it, when the issuer changed, or when
// its file is broken; the order of names means nothing. It begins as early as
// its issuer, for devices without a clock, and the box's clock never refuses
// it. Errors: ErrInvalid by the name of "names" or "ips", or the disk's.
func (a *Authority) ServerCertificate(names []string, ips []net.IP) (tls.Certificate, error) {
	template, err := serverTemplate(names, ips)
	if err != nil {
		return tls.Certificate{}, err
	}
	a.files.Lock()
	defer a.files.Unlock()
	present := a.state.Load().present
	now := present.judged(a.cfg.Now())
	template.NotBefore, template.NotAfter = present.chain[0].NotBefore, present.cut(now.Add(ServerValidity))
	name := filepath.Join(a.dir, serverFile)
	key, kept := readServer(name)
	if kept == nil || !fits(kept, template, present.chain[0], now) {
		if key, kept, err = makeServer(name, template, present); err != nil {
			return tls.Certificate{}, err
		}
	}
	certificate := tls.Certificate{Certificate: [][]byte{kept.Raw}, PrivateKey: key, Leaf: kept}
	for _, cert := range present.chain[:len(present.chain)-1] {
		certificate.Certificate = append(certificate.Certificate, cert.Raw)
	}
	return certificate, nil
}

// readServer returns what is kept; nil for nothing or a broken file, which is
// no loss: nobody trusts this certificate but through the authority.
func readServer(name string) (*ecdsa.PrivateKey, *x509.Certificate) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, nil
	}
	key, chain, err := parseKeyAndChain(text)
	if err != nil {
		return nil, nil
	}
	return key, chain[0]
}

// fits reports whether kept may go on in the place of what template would make.
func fits(kept, template, issuer *x509.Certificate, now time.Time) bool {
	if kept.CheckSignatureFrom(issuer) != nil || !slices.Equal(kept.DNSNames, template.DNSNames) ||
		!slices.EqualFunc(kept.IPAddresses, template.IPAddresses, net.IP.Equal) {
		return false
	}
	// One that is cut short by its issuer's end is not made again and again.
	return kept.NotAfter.Sub(now) >= ServerRenew || !kept.NotAfter.Before(template.NotAfter)
}

func makeServer(name string, template *x509.Certificate, present issuer) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := present.sign(template, key.Public())
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	block, err := keyBlock(key)
	if err != nil {
		return nil, nil, err
	}
	return key, cert, writeBlocks(name, []*pem.Block{block, certificateBlock(cert)})
}

// serverTemplate says for which names a certificate is, each once and sorted.
func serverTemplate(names []string, ips []net.IP) (*x509.Certificate, error) {
	template := &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(slices.Clip(ips), ip)
			continue
		}
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if name == "" || len(name) > MaxServerName || strings.Trim(name, serverNameLetters) != "" {
			return nil, edgeclaim.Invalid("names", "want names of 1 to %d letters, digits, '-', '_' and '.'"+
				" (others in their xn-- form)", MaxServerName)
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	for _, ip := range ips {
		short := ip.To4()
		if short == nil {
			short = ip.To16()
		}
		if short == nil {
			return nil, edgeclaim.Invalid("ips", "want addresses of 4 or 16 bytes")
		}
		template.IPAddresses = append(template.IPAddresses, short)
	}
	slices.Sort(template.DNSNames)
	template.DNSNames = slices.Compact(template.DNSNames)
	order := func(x, y net.IP) int { return slices.Compare(x, y) }
	slices.SortFunc(template.IPAddresses, order)
	template.IPAddresses = slices.CompactFunc(template.IPAddresses, net.IP.Equal)
	count := len(template.DNSNames) + len(template.IPAddresses)
	if count == 0 || count > MaxServerNames {
		return nil, edgeclaim.Invalid("names", "want 1 to %d names and addresses", MaxServerNames)
	}
	template.Subject = pkix.Name{CommonName: "edgeclaim"}
	return template, nil
}
