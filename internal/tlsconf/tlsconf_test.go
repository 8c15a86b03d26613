package tlsconf_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/internal/tlsconf"
)

const patience = 10 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a certificate for localhost in PEM, and its key.
type pair struct{ cert, key []byte }

func newPair(t *testing.T, name string, ends time.Time) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: ends, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}
}

func (p pair) certificate(t *testing.T) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// write replaces a file as careful programs do.
func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// served is the common name of what a client is shown.
func served(t *testing.T, config *tls.Config) string {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- tls.Server(theirs, config).Handshake() }()   // ends with the client's
	client := tls.Client(ours, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // who it is, is what is asked
	err := client.Handshake()
	name := ""
	if err == nil {
		name = client.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	ours.Close()
	theirs.Close()
	if serr := <-ended; err != nil || serr != nil {
		t.Fatalf("handshake: %v, %v", err, serr)
	}
	return name
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline, tick := time.NewTimer(patience), time.NewTicker(2*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// files is a source of files that is run until the test ends.
type files struct {
	*tlsconf.Source
	cert, key string
	alarms    atomic.Int64
	log       atomic.Int64 // errors logged
	now       atomic.Int64 // what the box's clock is ahead by
}

func newFiles(t *testing.T, p pair) *files {
	t.Helper()
	dir := t.TempDir()
	f := &files{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	write(t, f.cert, p.cert)
	write(t, f.key, p.key)
	source, err := tlsconf.NewSource(tlsconf.Config{
		Files: tlsconf.Files{CertFile: f.cert, KeyFile: f.key}, Every: 5 * time.Millisecond,
		Now:   func() time.Time { return time.Now().Add(time.Duration(f.now.Load())) },
		Alarm: func() { f.alarms.Add(1) }, Logger: slog.New(counter{Handler: slog.DiscardHandler, errors: &f.log}),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Source = source
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx) }() // ends with the test
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return f
}

// counter counts what is logged as an error.
type counter struct {
	slog.Handler
	errors *atomic.Int64
}

func (counter) Enabled(context.Context, slog.Level) bool { return true }

func (c counter) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		c.errors.Add(1)
	}
	return nil
}

// New files are served without a restart; what cannot be served is not, and is
// said once.
func TestReload(t *testing.T) {
	next := time.Now().Add(time.Hour)
	f := newFiles(t, newPair(t, "first", next))
	config := tlsconf.Server(f.Source, time.Now, nil)
	if name := served(t, config); name != "first" || f.Problem() != "" {
		t.Fatalf("serves %q, problem %q", name, f.Problem())
	}
	second := newPair(t, "second", next.Add(time.Hour))
	write(t, f.cert, second.cert) // half of the pair
	eventually(t, "the half is seen", func() bool { return f.Problem() != "" })
	if name := served(t, config); name != "first" {
		t.Errorf("serves %q with half a pair", name)
	}
	write(t, f.key, second.key)
	eventually(t, "the second is served", func() bool { return served(t, config) == "second" && f.Problem() == "" })
	if !f.NotAfter().Equal(next.Add(time.Hour).UTC().Truncate(time.Second)) {
		t.Errorf("ends %v", f.NotAfter())
	}
	for name, spoil := range map[string]func(){
		"no certificate":   func() { os.Remove(f.cert) },
		"no key":           func() { os.Remove(f.key) },
		"not PEM":          func() { write(t, f.cert, []byte("hello")) },
		"empty":            func() { write(t, f.key, nil) },
		"a key of another": func() { write(t, f.key, newPair(t, "x", next).key) },
		"a pair that ended": func() {
			p := newPair(t, "old", time.Now().Add(-time.Hour))
			write(t, f.key, p.key)
			write(t, f.cert, p.cert)
		},
		"a folder":           func() { os.Remove(f.cert); os.Mkdir(f.cert, 0o700) },
		"a link to nowhere":  func() { os.Remove(f.key); os.Symlink("nowhere", f.key) },
		"garbage in the PEM": func() { write(t, f.cert, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")) },
	} {
		alarms := f.alarms.Load()
		spoil()
		eventually(t, name+": a problem", func() bool { return f.Problem() != "" })
		f.Reload()
		if got := served(t, config); got != "second" {
			t.Errorf("%s: serves %q", name, got)
		}
		if f.alarms.Load() == alarms || f.alarms.Load() > alarms+2 {
			t.Errorf("%s: %d alarms", name, f.alarms.Load()-alarms)
		}
		os.RemoveAll(f.cert)
		os.RemoveAll(f.key)
		write(t, f.cert, second.cert)
		write(t, f.key, second.key)
		eventually(t, name+": in order again", func() bool { return f.Problem() == "" })
	}
	if f.log.Load() != f.alarms.Load() {
		t.Errorf("%d errors logged, %d alarms", f.log.Load(), f.alarms.Load())
	}
}

// One that ends while it is served goes on, and is said to have ended.
func TestEndsWhileServed(t *testing.T) {
	f := newFiles(t, newPair(t, "only", time.Now().Add(time.Hour)))
	f.now.Store(int64(2 * time.Hour))
	eventually(t, "said", func() bool { return f.Problem() != "" })
	if name := served(t, tlsconf.Server(f.Source, time.Now, nil)); name != "only" {
		t.Errorf("serves %q", name)
	}
	// One that has ended too may take its place.
	other := newPair(t, "other", time.Now().Add(90*time.Minute))
	write(t, f.cert, other.cert)
	write(t, f.key, other.key)
	eventually(t, "the other", func() bool { return served(t, tlsconf.Server(f.Source, time.Now, nil)) == "other" })
	f.now.Store(0)
	eventually(t, "in order", func() bool { return f.Problem() == "" })
	if f.alarms.Load() < 1 {
		t.Error("no alarm")
	}
}

// The box's own certificate is asked for again, and what it cannot make keeps
// what is there.
func TestOwn(t *testing.T) {
	next := newPair(t, "own", time.Now().Add(time.Hour)).certificate(t)
	var fails error
	source, err := tlsconf.NewSource(tlsconf.Config{}, func() (tls.Certificate, error) { return next, fails })
	if err != nil {
		t.Fatal(err)
	}
	next = newPair(t, "another", time.Now().Add(time.Hour)).certificate(t)
	next.Leaf = nil // own need not parse it
	source.Reload()
	config := tlsconf.Server(source, time.Now, nil)
	if name := served(t, config); name != "another" {
		t.Errorf("serves %q", name)
	}
	fails = errors.New("disk full")
	source.Reload()
	if name := served(t, config); name != "another" || source.Problem() != "disk full" {
		t.Errorf("serves %q, problem %q", name, source.Problem())
	}
	if _, err := tlsconf.NewSource(tlsconf.Config{}, func() (tls.Certificate, error) { return next, fails }); !errors.Is(err, fails) {
		t.Errorf("at the start: %v", err)
	}
	if _, err := tlsconf.NewSource(tlsconf.Config{}, func() (tls.Certificate, error) { return tls.Certificate{}, nil }); err == nil {
		t.Error("nothing is served")
	}
}

func TestFiles(t *testing.T) {
	for _, f := range []tlsconf.Files{{CertFile: "x"}, {KeyFile: "x"}} {
		if _, err := tlsconf.NewSource(tlsconf.Config{Files: f}, nil); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%+v: %v", f, err)
		}
	}
	if _, err := tlsconf.NewSource(tlsconf.Config{Files: tlsconf.Files{CertFile: "/nowhere", KeyFile: "/nowhere"}}, nil); err == nil {
		t.Error("files that are not there")
	}
	// One that has ended is served from the start: the clock may be wrong.
	f := newFiles(t, newPair(t, "old", time.Now().Add(-time.Hour)))
	if f.Problem() == "" || f.alarms.Load() != 1 {
		t.Errorf("problem %q, %d alarms", f.Problem(), f.alarms.Load())
	}
}

// The client's certificate is asked for with the authorities' names, anew when
// they change, and nothing is said of it.
func TestHints(t *testing.T) {
	server := newPair(t, "server", time.Now().Add(time.Hour)).certificate(t)
	source, err := tlsconf.NewSource(tlsconf.Config{}, func() (tls.Certificate, error) { return server, nil })
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	config := tlsconf.Server(source, time.Now, func() *x509.CertPool { return pool.Clone() })
	for n, name := range []string{"first", "second"} {
		pool.AppendCertsFromPEM(newPair(t, name, time.Now().Add(time.Hour)).cert)
		if got := acceptable(t, config, server); got != n+1 {
			t.Errorf("%d authorities named, want %d", got, n+1)
		}
		if one, two := configOf(t, config), configOf(t, config); one != two {
			t.Error("another configuration for each handshake")
		}
	}
}

func configOf(t *testing.T, config *tls.Config) *tls.Config {
	t.Helper()
	c, err := config.GetConfigForClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// acceptable is how many authorities a client is told, which shows a
// certificate of none of them, and is let in.
func acceptable(t *testing.T, config *tls.Config, certificate tls.Certificate) (n int) {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	server := tls.Server(theirs, config)
	go func() { ended <- server.Handshake() }() // ends with the client's
	client := tls.Client(ours, &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // what it is asked for is what matters
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			n = len(info.AcceptableCAs)
			return &certificate, nil
		},
	})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if shown := server.ConnectionState().PeerCertificates; len(shown) != 1 || len(server.ConnectionState().VerifiedChains) != 0 {
		t.Errorf("%d certificates shown", len(shown))
	}
	ours.Close()
	theirs.Close()
	return n
}

func TestCheckPlain(t *testing.T) {
	for _, tt := range []struct {
		address string
		good    bool
	}{
		{"", true},
		{"127.0.0.1:1883", true},
		{"127.8.8.8:0", true},
		{"[::1]:1883", true},
		{"[::ffff:127.0.0.1]:1883", true},
		{"localhost:1883", true},
		{":1883", false},
		{"0.0.0.0:1883", false},
		{"[::]:1883", false},
		{"192.168.7.1:1883", false},
		{"[fe80::1%eth0]:1883", false},
		{"box.local:1883", false},
		{"localhost.example:1883", false},
		{"127.0.0.1.example:1883", false},
		{"127.1:1883", false}, // a name to Go, and who knows where it leads
		{"nonsense", false},
	} {
		err := tlsconf.CheckPlain("mqtt.address", tt.address, false)
		if good := err == nil; good != tt.good || err != nil && (!errors.Is(err, edgeclaim.ErrInvalid) || !strings.Contains(err.Error(), "mqtt.address")) {
			t.Errorf("%q: %v", tt.address, err)
		}
		if err := tlsconf.CheckPlain("mqtt.address", tt.address, true); err != nil {
			t.Errorf("%q, allowed: %v", tt.address, err)
		}
	}
	err := tlsconf.CheckPlain("http.address", "192.168.7.1:80", false)
	if want := "192.168.7.1 is not loopback and has no TLS"; !strings.Contains(err.Error(), want) ||
		!strings.Contains(err.Error(), "http.plaintext_outside_loopback: true") {
		t.Errorf("says %q", err)
	}
}

func TestNames(t *testing.T) {
	names, ips := tlsconf.Names([]string{"192.0.2.1:443", "box.example:443", "127.0.0.1:80", "[2001:db8::1]:1", "nonsense"},
		[]string{"line-7.example", "192.0.2.1", "192.0.2.9", ""})
	for _, name := range []string{"localhost", "box.example", "line-7.example"} {
		if !slices.Contains(names, name) {
			t.Errorf("no %s among %q", name, names)
		}
	}
	for _, ip := range []string{"127.0.0.1", "::1", "192.0.2.1", "192.0.2.9", "2001:db8::1"} {
		n := 0
		for _, got := range ips {
			if got.Equal(net.ParseIP(ip)) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s is there %d times among %v", ip, n, ips)
		}
	}
	if _, every := tlsconf.Names([]string{":443"}, nil); len(every) < 2 {
		t.Errorf("every address is %v", every)
	}
}
