package broker_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/ca"
	"edgeclaim/internal/mqttwire"
	"edgeclaim/internal/tlsconf"
)

// secure is a broker with both doors, and the authority that knows its devices.
type secure struct {
	*broker.Broker
	rule      *rule
	authority *ca.Authority
	tenant    edgeclaim.TenantID

	mu    sync.Mutex
	valid map[edgeclaim.DeviceID]edgeclaim.KeyHash // guarded by mu
}

// startSecure runs a broker until the test ends. change may be nil.
func startSecure(t testing.TB, r *rule, change func(*broker.Config)) *secure {
	t.Helper()
	s := &secure{rule: r, valid: map[edgeclaim.DeviceID]edgeclaim.KeyHash{}}
	s.authority, s.tenant = newAuthority(t)
	source, err := tlsconf.NewSource(tlsconf.Config{}, func() (tls.Certificate, error) {
		return s.authority.ServerCertificate([]string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)})
	})
	if err != nil {
		t.Fatal(err)
	}
	r.owner = s.owner
	s.Broker = start(t, r, func(c *broker.Config) {
		c.TLSAddress, c.TLS = "127.0.0.1:0", tlsconf.Server(source, time.Now, s.authority.Pool)
		if change != nil {
			change(c)
		}
	})
	return s
}

func newAuthority(t testing.TB) (*ca.Authority, edgeclaim.TenantID) {
	t.Helper()
	authority, err := ca.Open(ca.Config{Dir: t.TempDir(), BoxID: "box"})
	if err != nil {
		t.Fatal(err)
	}
	tenant, err := edgeclaim.ParseTenantID("11111111-1111-4111-8111-111111111111")
	if err != nil {
		t.Fatal(err)
	}
	return authority, tenant
}

func (s *secure) owner(chain []*x509.Certificate) (edgeclaim.DeviceID, error) {
	id, hash, err := s.authority.Identify(chain, time.Now())
	if err != nil {
		return id, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if valid, ok := s.valid[id]; !ok || !valid.Equal(hash) {
		return id, edgeclaim.ErrUnauthenticated
	}
	return id, nil
}

// issue gives a device a certificate that is valid until revoke.
func (s *secure) issue(t testing.TB, id edgeclaim.DeviceID) tls.Certificate {
	t.Helper()
	certificate, hash := certificateOf(t, s.authority, s.tenant, id, time.Time{}, time.Now().Add(time.Hour))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.valid[id] = hash
	return certificate
}

func (s *secure) revoke(id edgeclaim.DeviceID) {
	s.mu.Lock()
	delete(s.valid, id)
	s.mu.Unlock()
	s.Disconnect(id)
}

func certificateOf(t testing.TB, authority *ca.Authority, tenant edgeclaim.TenantID, id edgeclaim.DeviceID, from, to time.Time) (tls.Certificate, edgeclaim.KeyHash) {
	t.Helper()
	issued, err := authority.Issue(ca.Request{Device: id, Tenant: tenant, NotBefore: from, NotAfter: to})
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pemOf(issued.Certificate), []byte(issued.PrivateKey.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	return certificate, issued.Fingerprint
}

// client is how a client that trusts the box connects, with those certificates.
func (s *secure) client(certificates ...tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.authority.Root())
	config := &tls.Config{RootCAs: roots, ServerName: "localhost"}
	if len(certificates) > 0 { // whatever the box asks for
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificates[0], nil }
	}
	return config
}

func (s *secure) connect(t testing.TB, config *tls.Config) (*tls.Conn, error) {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	nc, err := d.Dial("tcp", s.TLSAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	c := tls.Client(nc, config)
	return c, c.Handshake()
}

// dialTLS logs in and returns the CONNACK, whatever its code.
func (s *secure) dial(t testing.TB, v mqttwire.Version, login mqttwire.Login, certificates ...tls.Certificate) (*mqttwire.Client, mqttwire.Packet) {
	t.Helper()
	nc, err := s.connect(t, s.client(certificates...))
	if err != nil {
		t.Fatalf("handshake: %v", err)
	}
	c := mqttwire.New(nc, v)
	ack, err := c.Login(login)
	if err != nil {
		t.Fatalf("login: %v", err)
	}
	return c, ack
}

// selfSigned is a certificate for that common name that no authority signed, of
// some 400 bytes and twice that size.
func selfSigned(t testing.TB, name string, size int) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{strings.Repeat("x", size)}},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A device's present certificate says who it is, whatever its password is.
func TestCertificateLogin(t *testing.T) {
	s := startSecure(t, &rule{login: knowsAll}, nil)
	id, other := deviceID(t, 1), deviceID(t, 2)
	certificate := s.issue(t, id)
	versions(t, func(t *testing.T, v mqttwire.Version) {
		for _, tt := range []struct {
			name, user, password string
			v5                   byte
		}{
			{"alone", "", "", 0},
			{"as provision", "provision", "", 0},
			{"by its id", id.String(), "", 0},
			{"by its id, with a wrong password", id.String(), "sk_live_x", 0},
			{"by its id in capitals", strings.ToUpper(id.String()), "", 0},
			{"as another", other.String(), "", 0x86},
			{"as another, with the other's password", other.String(), passwordOf(other), 0x86},
			{"as nobody", "admin", "admin", 0x86},
		} {
			c, ack := s.dial(t, v, mqttwire.Login{ClientID: "x", Clean: true, KeepAlive: 30, Username: tt.user, Password: tt.password}, certificate)
			want := tt.v5
			if v == mqttwire.V311 && want != 0 {
				want = 5
			}
			if ack.Code() != want {
				t.Errorf("%s: CONNACK %#x, want %#x", tt.name, ack.Code(), want)
			}
			if want != 0 {
				hungUp(t, c, 0)
				continue
			}
			subscribe(t, c, 1, "devices/"+id.String()+"/commands")
			refused := byte(0x80)
			if v == mqttwire.V5 {
				refused = 0x87
			}
			subscribe(t, c, refused, "provision/response", "devices/"+other.String()+"/commands")
			c.Close()
		}
	})
}

// Any other certificate counts for nothing, whatever is wrong with it: the same
// bytes, and no sooner.
func TestCertificatesThatCountForNothing(t *testing.T) {
	s := startSecure(t, &rule{login: knowsAll}, nil)
	id := deviceID(t, 1)
	elsewhere, tenant := newAuthority(t)
	revoked := s.issue(t, id)
	s.revoke(id)
	expired, _ := certificateOf(t, s.authority, s.tenant, id, time.Time{}, time.Now().Add(-time.Hour))
	early, _ := certificateOf(t, s.authority, s.tenant, id, time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))
	foreign, _ := certificateOf(t, elsewhere, tenant, id, time.Time{}, time.Now().Add(time.Hour))
	kinds := []struct {
		name        string
		certificate tls.Certificate
	}{
		{"revoked", revoked}, {"expired", expired}, {"not yet valid", early},
		{"another authority's", foreign}, {"nobody's", selfSigned(t, id.String(), 0)},
	}
	versions(t, func(t *testing.T, v mqttwire.Version) {
		refused := byte(0x80)
		if v == mqttwire.V5 {
			refused = 0x87
		}
		for _, kind := range kinds {
			began := time.Now()
			c, ack := s.dial(t, v, mqttwire.Login{Clean: true, KeepAlive: 30}, kind.certificate)
			took := time.Since(began)
			if ack.Code() != 0 {
				t.Errorf("%s: CONNACK %#x, want a claimant's", kind.name, ack.Code())
			}
			if took < edgeclaim.RefusalDelay {
				t.Errorf("%s: answered after %v", kind.name, took)
			}
			subscribe(t, c, refused, "devices/"+id.String()+"/commands")
			subscribe(t, c, 1, "provision/response")
			c.Close()

			login := deviceLogin(id)
			login.Password = "sk_live_x"
			_, ack = s.dial(t, v, login, kind.certificate)
			if want := map[mqttwire.Version]byte{mqttwire.V311: 5, mqttwire.V5: 0x86}[v]; ack.Code() != want {
				t.Errorf("%s: CONNACK %#x with a wrong password, want %#x", kind.name, ack.Code(), want)
			}
			if _, ack = s.dial(t, v, deviceLogin(id), kind.certificate); ack.Code() != 0 {
				t.Errorf("%s: CONNACK %#x with the device's password", kind.name, ack.Code())
			}
		}
	})
}

// Who has a certificate and not its key learns nothing of it: the handshake
// ends alike for one that is good and one that is not.
func TestStolenCertificate(t *testing.T) {
	s := startSecure(t, &rule{}, nil)
	good, revoked := s.issue(t, deviceID(t, 1)), s.issue(t, deviceID(t, 2))
	s.revoke(deviceID(t, 2))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		var said []string
		for _, certificate := range []tls.Certificate{good, revoked, selfSigned(t, "x", 0)} {
			certificate.PrivateKey = selfSigned(t, "y", 0).PrivateKey
			config := s.client(certificate)
			config.MaxVersion = version
			c, err := s.connect(t, config)
			if err == nil { // version 1.3 hears of it with the first read
				_, err = c.Read(make([]byte, 1))
			}
			if err == nil {
				t.Fatal("let in")
			}
			said = append(said, err.Error())
		}
		if said[0] != said[1] || said[0] != said[2] {
			t.Errorf("told apart: %q", said)
		}
	}
}

func TestClaimOverTLS(t *testing.T) {
	s := startSecure(t, &rule{}, nil)
	versions(t, func(t *testing.T, v mqttwire.Version) {
		c, ack := s.dial(t, v, mqttwire.Login{Clean: true, KeepAlive: 30})
		if ack.Code() != 0 {
			t.Fatalf("CONNACK %#x", ack.Code())
		}
		subscribe(t, c, 1, "provision/response")
		publish(t, c, mqttwire.Message{Topic: "provision/request", Payload: bytes.Repeat([]byte("x"), 8000), QoS: 1})
		if p := next(t, c, mqttwire.Publish); len(p.Payload) != 8003 {
			t.Errorf("answer of %d bytes", len(p.Payload))
		}
		next(t, c, mqttwire.Puback)
	})
}

// A revoked certificate's connection ends, and it does not come back.
func TestRevokedOverTLS(t *testing.T) {
	s := startSecure(t, &rule{}, nil)
	id := deviceID(t, 1)
	certificate := s.issue(t, id)
	versions(t, func(t *testing.T, v mqttwire.Version) {
		certificate = s.issue(t, id)
		c, ack := s.dial(t, v, mqttwire.Login{Clean: true, KeepAlive: 30}, certificate)
		if ack.Code() != 0 {
			t.Fatalf("CONNACK %#x", ack.Code())
		}
		subscribe(t, c, 1, "devices/"+id.String()+"/commands")
		began := time.Now()
		s.revoke(id)
		hungUp(t, c, 0x98)
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		c, ack = s.dial(t, v, mqttwire.Login{Clean: true, KeepAlive: 30}, certificate)
		if ack.Code() != 0 {
			t.Fatalf("CONNACK %#x", ack.Code())
		}
		suback, err := c.Subscribe("devices/" + id.String() + "/commands")
		if err != nil || suback.Codes[0] < 0x80 {
			t.Errorf("subscribed again: %v, %v", suback.Codes, err)
		}
	})
}

// Every connection proves its key anew.
func TestNothingIsResumed(t *testing.T) {
	s := startSecure(t, &rule{}, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := s.client(s.issue(t, deviceID(t, 1)))
		config.MaxVersion, config.ClientSessionCache = version, tls.NewLRUClientSessionCache(8)
		for range 3 {
			nc, err := s.connect(t, config)
			if err != nil {
				t.Fatal(err)
			}
			c := mqttwire.New(nc, mqttwire.V5)
			if ack, err := c.Login(mqttwire.Login{Clean: true}); err != nil || ack.Code() != 0 { // a ticket would come with it
				t.Fatalf("CONNACK %#x, %v", ack.Code(), err)
			}
			if state := nc.ConnectionState(); state.DidResume || state.Version != version {
				t.Errorf("version %#x resumed: %v", state.Version, state.DidResume)
			}
			c.Close()
		}
	}
}

// A client that reads nothing does not keep who must be rid of it: TLS's own
// Close would wait for it.
func TestDisconnectDoesNotWaitForTLS(t *testing.T) {
	s := startSecure(t, &rule{}, func(c *broker.Config) { c.WriteTimeout = 5 * time.Second })
	id := deviceID(t, 1)
	c, ack := s.dial(t, mqttwire.V5, mqttwire.Login{Clean: true, KeepAlive: 30}, s.issue(t, id))
	if ack.Code() != 0 {
		t.Fatalf("CONNACK %#x", ack.Code())
	}
	fill(t, s.rule, s.Broker, id, c)
	began := time.Now()
	s.Disconnect(id)
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
	eventually(t, "gone", func() bool { return s.Open() == 0 })
}

// Nor does TLS say that it ends: it would wait for a socket that is full, and
// some are closed under a lock.
func TestCloseSaysNothing(t *testing.T) {
	s := startSecure(t, &rule{}, nil)
	id := deviceID(t, 1)
	c, ack := s.dial(t, mqttwire.V311, mqttwire.Login{Clean: true, KeepAlive: 30}, s.issue(t, id))
	if ack.Code() != 0 {
		t.Fatalf("CONNACK %#x", ack.Code())
	}
	quiet(t, c)
	secure, ok := c.Conn().(*tls.Conn)
	if !ok {
		t.Fatal("no TLS")
	}
	s.Disconnect(id)
	if said, err := io.ReadAll(secure.NetConn()); len(said) > 0 {
		t.Errorf("%d bytes, %v", len(said), err)
	}
}

// One listener alone will do; none will not.
func TestListeners(t *testing.T) {
	s := startSecure(t, &rule{}, func(c *broker.Config) { c.Address = "" })
	if s.Addr() != nil || s.TLSAddr() == nil {
		t.Errorf("plain %v, TLS %v", s.Addr(), s.TLSAddr())
	}
	if _, ack := s.dial(t, mqttwire.V5, mqttwire.Login{Clean: true}); ack.Code() != 0 {
		t.Errorf("CONNACK %#x", ack.Code())
	}
	for name, change := range map[string]func(*broker.Config){
		"none":            func(c *broker.Config) { c.Address = "" },
		"no port":         func(c *broker.Config) { c.TLSAddress, c.TLS = "127.0.0.1", &tls.Config{} }, //nolint:gosec // never used
		"TLS without any": func(c *broker.Config) { c.TLSAddress = "127.0.0.1:0" },
	} {
		cfg := broker.Defaults()
		change(&cfg)
		if _, err := broker.New(cfg, s.rule.parts(), slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
