// Package tlsconf is the TLS of every listener: its configuration, the
// certificate that is served and how it is renewed, and the rule that what is
// not on loopback is not plain.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"edgeclaim"
)

// suites are those of TLS 1.2 with ephemeral keys and authenticated encryption
// (RFC 9325, section 4.2). Those of TLS 1.3 are all of that kind, and not to be
// chosen.
func suites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

// Server is the configuration of every TLS listener. It serves source's
// certificate, and asks for the client's without looking at it: the handshake
// proves that the client holds the key, whatever the certificate says, and who
// it is the face asks afterwards. To refuse within the handshake would tell
// apart, by the alert, what has to look alike, and in part before the client
// has proven anything. No session is resumed: a ticket lets a client in without
// a new proof.
//
// now is the box's clock. pool is the hint by which clients choose a
// certificate; nil for none. It is asked at every handshake.
func Server(source *Source, now func() time.Time, pool func() *x509.CertPool) *tls.Config {
	config := &tls.Config{
		MinVersion:             tls.VersionTLS12,
		CipherSuites:           suites(),
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true,
		Time:                   now,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return source.certificate(), nil },
	}
	if pool != nil {
		hints := &hints{plain: config.Clone(), pool: pool}
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return hints.config(), nil }
	}
	return config
}

// hints keeps one configuration for as long as the pool stays what it is.
type hints struct {
	plain *tls.Config
	pool  func() *x509.CertPool

	mu      sync.Mutex
	present *tls.Config // guarded by mu; never changed once it is here
}

func (h *hints) config() *tls.Config {
	pool := h.pool()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.present == nil || !h.present.ClientCAs.Equal(pool) {
		h.present = h.plain.Clone()
		h.present.ClientCAs = pool
	}
	return h.present
}

// CheckPlain refuses a plain listener outside loopback unless it is allowed:
// keys travel over it in the clear. key is the listener's in the configuration
// file, "http.address". Names are not resolved (P2): only the literal loopback
// addresses and localhost count as loopback, and ":8080" is every address. The
// error is ErrInvalid. An empty address is no listener.
func CheckPlain(key, address string, allowed bool) error {
	if address == "" || allowed {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return edgeclaim.Invalid(key, "want host:port")
	}
	if host == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap().IsLoopback() {
		return nil
	}
	if host == "" {
		host = "every address"
	}
	section := key[:strings.LastIndexByte(key, '.')+1]
	return edgeclaim.Invalid(key, "%s is not loopback and has no TLS: serve TLS there, or say %splaintext_outside_loopback: true",
		host, section)
}
