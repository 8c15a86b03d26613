// Package ca is the box's certificate authority: it makes its root when there
// is none, issues the certificates of devices and of the box's own listeners,
// may be put under the plant's root, and says whose certificate a client shows.
//
// It is mechanism. Who gets a certificate and for how long is the caller's, and
// so is the comparison of a fingerprint with the registry, by which a
// certificate is revoked.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edgeclaim"
)

// Validity and limits.
const (
	// RootValidity is how long a root made here lives, from now on. A root cannot
	// be changed in the devices that trust it: it has to outlive a line's machines.
	RootValidity = 25 * 365 * 24 * time.Hour
	// ServerValidity is how long the certificate of the box's listeners lives,
	// from now on. It is renewed long before, by each start of the program.
	ServerValidity = 5 * 365 * 24 * time.Hour
	// ServerRenew is how long before its end a server's certificate is made anew.
	ServerRenew = 365 * 24 * time.Hour
	// MaxRetired is the largest number of earlier issuers that are kept.
	MaxRetired = 64
	// MaxChain is the largest number of certificates of an imported chain.
	MaxChain = 8

	serialBytes = 16
	// maxName is the longest common or organization name, in characters
	// (RFC 5280, appendix A.1: ub-common-name); OpenSSL refuses longer ones.
	maxName = 64
)

// NotBefore is from when a root made here is valid, and with it whatever is
// issued without a beginning of its own. A device without a clock starts in
// 1970, or with the date of its firmware, and has to take the box's certificate
// then as well. No security is lost: a beginning in the past lets in nobody.
func NotBefore() time.Time { return time.Unix(0, 0).UTC() }

// Config says whose authority it is.
type Config struct {
	// Dir is the data folder. All files are in Dir/ca, which belongs to the
	// authority alone; the caller holds the lock of Dir.
	Dir string
	// BoxID and Site name the root that is made, and the requests for an
	// intermediate. Site may be empty.
	BoxID, Site string
	// Now is the box's clock, max(wall clock, floor) (P10), safe for concurrent
	// use; nil for time.Now.
	Now func() time.Time
}

// Authority issues certificates and knows its own. It is safe for concurrent
// use; Issue, Identify, Pool, Root and Info touch no disk and wait for nobody.
type Authority struct {
	cfg   Config
	dir   string
	files sync.Mutex // held while files are read and written, after Open
	state atomic.Pointer[state]
}

// state is never changed, only replaced, after its files are on the disk.
type state struct {
	present issuer
	retired []*x509.Certificate
	own     []*x509.Certificate // whose signatures are ours: the present one, then the retired
	pool    *x509.CertPool      // of own
}

// issuer is the key that signs, and its certificates: its own first, the one
// that devices trust last. For a self-signed root these are one.
type issuer struct {
	key   *ecdsa.PrivateKey
	chain []*x509.Certificate
}

// Request is a certificate to be issued to a device.
type Request struct {
	Device edgeclaim.DeviceID
	Tenant edgeclaim.TenantID
	// CSR is a PKCS #10 request in DER, of which nothing but the public key is
	// used; nil for a P-256 key pair made here.
	CSR []byte
	// NotBefore is from when it is valid; the zero time for as early as its
	// issuer, which is what a device without a clock needs.
	NotBefore time.Time
	// NotAfter is its end, cut to that of its issuers.
	NotAfter time.Time
}

// Issued is a certificate and what its device has to get with it. The chain is
// shared and not to be written to.
type Issued struct {
	Certificate []byte            // DER
	PrivateKey  edgeclaim.Secret  // PEM, PKCS #8; zero where a CSR came
	Chain       [][]byte          // DER: intermediates, then the root
	Fingerprint edgeclaim.KeyHash // SHA-256 of Certificate
	NotAfter    time.Time         // as in the certificate, UTC, whole seconds
	Serial      string            // 32 lower-case hexadecimal digits
}

// Info is the authority at a glance.
type Info struct {
	Subject     string            `json:"subject"` // of the certificate that issues, RFC 2253
	NotBefore   time.Time         `json:"not_before"`
	NotAfter    time.Time         `json:"not_after"`
	Fingerprint edgeclaim.KeyHash `json:"fingerprint"` // SHA-256 of its DER
	SelfSigned  bool              `json:"self_signed"`
	Retired     int               `json:"retired"` // earlier issuers whose certificates go on
}

// Open reads the authority in Dir/ca, or makes one, a self-signed ECDSA P-256
// root, when there is no file of one at all. A power cut at any moment leaves
// none or a whole one. ErrDamaged: a file is missing or broken; the text names
// it and what to do. A new authority never takes the place of a broken one.
func Open(cfg Config) (*Authority, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.BoxID == "" {
		return nil, edgeclaim.Invalid("box_id", "may not be empty")
	}
	a := &Authority{cfg: cfg, dir: filepath.Join(cfg.Dir, folder)}
	if err := prepare(a.dir); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	present, retired, err := load(a.dir)
	if err == nil && present == nil {
		present, err = a.create()
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if err := a.endImport(present.key); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	a.state.Store(newState(*present, retired))
	return a, nil
}

// create makes the root of a box that has none.
func (a *Authority) create() (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               a.subject("root"),
		NotBefore:             NotBefore(),
		NotAfter:              a.cfg.Now().Add(RootValidity).UTC().Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it issues to devices, never to another authority
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	present := &issuer{key: key, chain: []*x509.Certificate{root}}
	return present, writeIssuer(a.dir, present)
}

func (a *Authority) subject(role string) pkix.Name {
	name := pkix.Name{CommonName: clip("edgeclaim " + role + " " + a.cfg.BoxID)}
	if a.cfg.Site != "" {
		name.Organization = []string{clip(a.cfg.Site)}
	}
	return name
}

// clip cuts text to what a name may hold.
func clip(text string) string {
	runes := []rune(strings.ToValidUTF8(text, "?"))
	return string(runes[:min(len(runes), maxName)])
}

// newSerial returns 128 random bits, never zero: no count to keep, and no
// guess at the next one. The lowest bit is set for the sake of never zero.
func newSerial() *big.Int {
	var b [serialBytes]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[serialBytes-1] |= 1
	return new(big.Int).SetBytes(b[:])
}

// Issue signs a certificate for a device, for client authentication only.
// Errors: ErrInvalid by the name of the field; ErrUnavailable when the issuer's
// own certificate is over by the box's clock, until another one is imported.
func (a *Authority) Issue(req Request) (Issued, error) {
	s := a.state.Load()
	notBefore, notAfter, err := s.present.window(req, a.cfg.Now())
	if err != nil {
		return Issued{}, err
	}
	var issued Issued
	var public any
	if req.CSR != nil {
		public, err = s.requestedKey(req.CSR)
	} else {
		public, issued.PrivateKey, err = newKeyPair()
	}
	if err != nil {
		return Issued{}, err
	}
	template, err := deviceTemplate(req.Tenant, req.Device)
	if err != nil {
		return Issued{}, err
	}
	template.NotBefore, template.NotAfter = notBefore, notAfter
	if issued.Certificate, err = s.present.sign(template, public); err != nil {
		return Issued{}, err
	}
	issued.Fingerprint = fingerprint(issued.Certificate)
	issued.NotAfter = template.NotAfter
	issued.Serial = fmt.Sprintf("%0*x", 2*serialBytes, template.SerialNumber)
	for _, cert := range s.present.chain {
		issued.Chain = append(issued.Chain, cert.Raw)
	}
	return issued, nil
}

// window returns from when until when the certificate of req is valid.
func (i *issuer) window(req Request, now time.Time) (notBefore, notAfter time.Time, err error) {
	switch {
	case req.Device.IsZero():
		return notBefore, notAfter, edgeclaim.Invalid("device_id", "may not be empty")
	case req.Tenant.IsZero():
		return notBefore, notAfter, edgeclaim.Invalid("tenant_id", "may not be empty")
	case !now.Before(i.notAfter()):
		return notBefore, notAfter, fmt.Errorf("%w: the issuer's certificate ended on %s; import another one",
			edgeclaim.ErrUnavailable, i.notAfter().Format(time.RFC3339))
	}
	// Where the clock is behind the issuer's beginning, the time asked for counts
	// from that beginning.
	notBefore, notAfter = req.NotBefore, i.cut(req.NotAfter.Add(i.judged(now).Sub(now)))
	if notBefore.IsZero() {
		notBefore = i.chain[0].NotBefore
	}
	notBefore = notBefore.UTC().Truncate(time.Second)
	if !notBefore.Before(notAfter) {
		return notBefore, notAfter, edgeclaim.Invalid("not_after", "want a time after not_before")
	}
	return notBefore, notAfter, nil
}

// judged returns the later of now and the issuer's beginning, which is past:
// its certificate is here. A box without a clock may be behind it (P2).
func (i *issuer) judged(now time.Time) time.Time { return later(now, i.chain[0].NotBefore) }

func later(x, y time.Time) time.Time {
	if x.Before(y) {
		return y
	}
	return x
}

// notAfter is the first end in the chain: later, nothing that it signed verifies.
func (i *issuer) notAfter() time.Time {
	end := i.chain[0].NotAfter
	for _, cert := range i.chain[1:] {
		if cert.NotAfter.Before(end) {
			end = cert.NotAfter
		}
	}
	return end
}

// cut returns the earlier of end and the issuers' own end, in whole seconds.
func (i *issuer) cut(end time.Time) time.Time {
	end = end.UTC().Truncate(time.Second)
	if last := i.notAfter(); last.Before(end) {
		return last
	}
	return end
}

// sign gives template a serial and returns the certificate's DER.
func (i *issuer) sign(template *x509.Certificate, public any) ([]byte, error) {
	template.SerialNumber = newSerial()
	template.BasicConstraintsValid = true // says in so many words that it is no CA
	return x509.CreateCertificate(rand.Reader, template, i.chain[0], public, i.key)
}

// deviceTemplate is all that a device's certificate says, but for its times.
func deviceTemplate(tenant edgeclaim.TenantID, device edgeclaim.DeviceID) (*x509.Certificate, error) {
	san, err := deviceSAN(tenant, device)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		Subject:         pkix.Name{CommonName: device.String()},
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		ExtraExtensions: []pkix.Extension{{Id: oidSAN, Value: san}},
	}, nil
}

const urnDevice = "urn:edgeclaim:device:" // {tenant}:{device}

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

// deviceSAN is the value of a device's subject alternative name: one URI
// (RFC 5280, section 4.2.1.6).
func deviceSAN(tenant edgeclaim.TenantID, device edgeclaim.DeviceID) ([]byte, error) {
	const uri = 6 // the tag of uniformResourceIdentifier
	return asn1.Marshal([]asn1.RawValue{{
		Class: asn1.ClassContextSpecific, Tag: uri,
		Bytes: []byte(urnDevice + tenant.String() + ":" + device.String()),
	}})
}

func newKeyPair() (any, edgeclaim.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, edgeclaim.Secret{}, err
	}
	block, err := keyBlock(key)
	if err != nil {
		return nil, edgeclaim.Secret{}, err
	}
	return key.Public(), edgeclaim.NewSecret(string(pem.EncodeToMemory(block))), nil
}

func fingerprint(der []byte) edgeclaim.KeyHash {
	sum := sha256.Sum256(der)
	hash, _ := edgeclaim.KeyHashFromBytes(sum[:]) // of the right length
	return hash
}

func newState(present issuer, retired []*x509.Certificate) *state {
	s := &state{present: present, pool: x509.NewCertPool()}
	for _, cert := range retired {
		// A crash within an import leaves the present one among them.
		if !cert.Equal(present.chain[0]) {
			s.retired = append(s.retired, cert)
		}
	}
	s.own = append([]*x509.Certificate{present.chain[0]}, s.retired...)
	for _, cert := range s.own {
		s.pool.AddCert(cert)
	}
	return s
}

// Pool returns the certificates that issued, or issue, to devices, for
// tls.Config.ClientCAs; the caller's own copy. An Import adds to it: ask for it
// by connection (tls.Config.GetConfigForClient). The plant's root is not in it,
// for it also vouches for what other boxes issued.
func (a *Authority) Pool() *x509.CertPool { return a.state.Load().pool.Clone() }

// Root returns the PEM of what devices have to trust: the top of the present
// chain.
func (a *Authority) Root() []byte {
	chain := a.state.Load().present.chain
	return pem.EncodeToMemory(certificateBlock(chain[len(chain)-1]))
}

// Info returns what is known of the present issuer.
func (a *Authority) Info() Info {
	s := a.state.Load()
	cert := s.present.chain[0]
	return Info{
		Subject:     cert.Subject.String(),
		NotBefore:   cert.NotBefore,
		NotAfter:    cert.NotAfter,
		Fingerprint: fingerprint(cert.Raw),
		SelfSigned:  len(s.present.chain) == 1,
		Retired:     len(s.retired),
	}
}
