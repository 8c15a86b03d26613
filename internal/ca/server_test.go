package ca_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/ca"
)

var loopback = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}

func server(t testing.TB, a *ca.Authority, names []string, ips []net.IP) tls.Certificate {
	t.Helper()
	cert, err := a.ServerCertificate(names, ips)
	noErr(t, err)
	if cert.Leaf == nil || !bytes.Equal(cert.Leaf.Raw, cert.Certificate[0]) {
		t.Fatal("no leaf")
	}
	return cert
}

func TestServerCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := today
	cfg := config(dir)
	cfg.Now = func() time.Time { return now }
	a, err := ca.Open(cfg)
	noErr(t, err)
	first := server(t, a, []string{"localhost", "Box-1.Plant.example.", "192.0.2.7"}, loopback)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.Root())
	for _, name := range []string{"localhost", "box-1.plant.example", "127.0.0.1", "::1", "192.0.2.7"} {
		for _, at := range []time.Time{time.Unix(1, 0), today, today.Add(ca.ServerValidity)} {
			_, err := first.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			if err != nil {
				t.Errorf("%s at %v: %v", name, at, err)
			}
		}
	}
	_, err = first.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: today, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err == nil || first.Leaf.IsCA {
		t.Error("good for more than a server")
	}
	if !first.Leaf.NotAfter.Equal(today.Add(ca.ServerValidity)) {
		t.Errorf("ends on %v", first.Leaf.NotAfter)
	}
	same := func(got tls.Certificate) bool { return bytes.Equal(got.Certificate[0], first.Certificate[0]) }
	if !same(server(t, open(t, dir), []string{"192.0.2.7", "box-1.plant.example", "localhost", "localhost"}, []net.IP{loopback[1], loopback[0], loopback[1]})) {
		t.Error("made anew for the same names in another order")
	}
	names := []string{"localhost", "box-1.plant.example", "192.0.2.7"}
	now = today.Add(ca.ServerValidity - ca.ServerRenew)
	if !same(server(t, a, names, loopback)) {
		t.Error("made anew too early")
	}
	now = now.Add(time.Second)
	renewed := server(t, a, names, loopback)
	if same(renewed) || !renewed.Leaf.NotAfter.Equal(now.Add(ca.ServerValidity)) {
		t.Error("not made anew near its end")
	}
	for what, again := range map[string]tls.Certificate{
		"a name less":     server(t, a, names[1:], loopback),
		"an address less": server(t, a, names, loopback[1:]),
		"a name more":     server(t, a, append(names, "other"), loopback),
	} {
		if bytes.Equal(again.Certificate[0], renewed.Certificate[0]) {
			t.Errorf("%s: not made anew", what)
		}
	}
}

// TestServerCertificateNearIssuersEnd: one that cannot be longer is not made at
// each start, and a box whose authority is over starts.
func TestServerCertificateNearIssuersEnd(t *testing.T) {
	t.Parallel()
	now := today
	cfg := config(t.TempDir())
	cfg.Now = func() time.Time { return now }
	a, err := ca.Open(cfg)
	noErr(t, err)
	end := a.Info().NotAfter
	now = end.Add(-30 * day)
	first := server(t, a, []string{"localhost"}, nil)
	if !first.Leaf.NotAfter.Equal(end) {
		t.Errorf("ends on %v, its issuer on %v", first.Leaf.NotAfter, end)
	}
	now = end.Add(1000 * day)
	if again := server(t, a, []string{"localhost"}, nil); !bytes.Equal(first.Leaf.Raw, again.Leaf.Raw) {
		t.Error("made anew, for nothing")
	}
	server(t, a, []string{"another"}, nil)
}

func TestServerCertificateOfDamagedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	first := server(t, a, []string{"localhost"}, nil)
	whole := read(t, file(dir, "server.pem"))
	for _, text := range [][]byte{nil, whole[:len(whole)/2], make([]byte, 100), read(t, file(dir, "issuer.pem"))} {
		write(t, file(dir, "server.pem"), text)
		if again := server(t, a, []string{"localhost"}, nil); bytes.Equal(first.Leaf.Raw, again.Leaf.Raw) || again.Leaf.IsCA {
			t.Error("not made anew")
		}
	}
}

func TestServerCertificateRefuses(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir())
	for _, tc := range []struct {
		name, field string
		names       []string
		ips         []net.IP
	}{
		{"nothing", "names", nil, nil},
		{"an empty name", "names", []string{""}, nil},
		{"a dot", "names", []string{"."}, nil},
		{"a blank", "names", []string{"a b"}, nil},
		{"a null byte", "names", []string{"localhost\x00.example"}, nil},
		{"not ASCII", "names", []string{"büro"}, nil},
		{"too long", "names", []string{strings.Repeat("a", ca.MaxServerName+1)}, nil},
		{"too many", "names", many(ca.MaxServerNames + 1), nil},
		{"no address", "ips", nil, []net.IP{nil}},
		{"half an address", "ips", nil, []net.IP{{1, 2, 3}}},
	} {
		_, err := a.ServerCertificate(tc.names, tc.ips)
		if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); !ok || invalid.Field != tc.field {
			t.Errorf("%s: got %v, want ErrInvalid of %s", tc.name, err, tc.field)
		}
	}
	server(t, a, many(ca.MaxServerNames), nil)
}

func many(n int) []string {
	var names []string
	for i := range n {
		names = append(names, strings.Repeat("a", i+1))
	}
	return names
}

// TestHandshake: a device that trusts the root logs in to the box's listener
// with its certificate over real TLS, before and after an import.
func TestHandshake(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	own := issueKeyed(t, a, "board-own")
	handshake(t, a, own, device(t, "board-own"))

	before := server(t, a, []string{"localhost"}, nil)
	noErr(t, a.Import(newPlant(t).sign(t, csr(t, a), nil)))
	after := server(t, a, []string{"localhost"}, nil)
	if bytes.Equal(before.Certificate[0], after.Certificate[0]) || len(after.Certificate) != 2 {
		t.Error("the listener's certificate is not the new issuer's, with its intermediate")
	}
	handshake(t, a, issueKeyed(t, a, "board-new"), device(t, "board-new"))
	handshake(t, a, own, device(t, "board-own"))

	// With what a stranger shows, the connection is made (it may want to claim),
	// and it is nobody.
	handshake(t, a, issueKeyed(t, open(t, t.TempDir()), "board-own"), edgeclaim.DeviceID{})
	handshake(t, a, tls.Certificate{}, edgeclaim.DeviceID{})
}

func issueKeyed(t *testing.T, a *ca.Authority, hardware string) tls.Certificate {
	t.Helper()
	issued, _ := issue(t, a, request(t, hardware))
	text := chainPEM(parse(t, issued.Certificate))
	for _, der := range issued.Chain {
		text = append(text, chainPEM(parse(t, der))...)
	}
	cert, err := tls.X509KeyPair(text, []byte(issued.PrivateKey.Reveal()))
	noErr(t, err)
	return cert
}

// handshake connects over loopback and reports who the server took the client for.
func handshake(t *testing.T, a *ca.Authority, client tls.Certificate, want edgeclaim.DeviceID) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{server(t, a, []string{"localhost"}, nil)},
		ClientAuth:   tls.RequestClientCert,
		ClientCAs:    a.Pool(),
		MinVersion:   tls.VersionTLS12,
	})
	noErr(t, err)
	defer listener.Close()
	got := make(chan edgeclaim.DeviceID, 1)
	go func() {
		defer close(got)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		over := conn.(*tls.Conn)
		if over.SetDeadline(time.Now().Add(10*time.Second)) != nil || over.Handshake() != nil {
			return
		}
		id, _, _ := a.Identify(over.ConnectionState().PeerCertificates, today)
		got <- id
	}()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.Root())
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", listener.Addr().String(), &tls.Config{
		RootCAs: roots, ServerName: "localhost", Time: func() time.Time { return today },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &client, nil },
	})
	noErr(t, err)
	defer conn.Close()
	if id, ok := <-got; !ok || id != want {
		t.Errorf("taken for %v (%v), want %v", id, ok, want)
	}
}
