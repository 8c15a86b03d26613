package acceptance

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// The kinds of credentials, as a template calls them.
const (
	kindAPIKey = "api_key"
	kindPSK    = "psk"
	kindX509   = "x509"
)

// identity is what a device has to show.
type identity struct {
	id, kind                string
	secret                  string // API key or PSK
	certificate, privateKey string // PEM
}

// identityOf reads a good answer of that kind, which has to have the fields of
// it and no others. ownKey is the PEM of the key that a CSR was made with; empty
// for none.
func identityOf(t testing.TB, kind, body, ownKey string) identity {
	t.Helper()
	var fields map[string]string
	if err := json.Unmarshal([]byte(body), &fields); err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	i := identity{id: fields["device_id"], kind: kind}
	want := []string{"device_id", "api_key"}
	switch kind {
	case kindAPIKey:
		i.secret = fields["api_key"]
	case kindPSK:
		want = append(want, "psk_identity", "psk")
		if i.secret = fields["psk"]; fields["psk_identity"] != i.id {
			t.Errorf("psk_identity %q of %s", fields["psk_identity"], i.id)
		}
	default:
		want = append(want, "certificate", "ca_chain")
		i.certificate, i.privateKey = fields["certificate"], ownKey
		if ownKey == "" {
			want = append(want, "private_key")
			i.privateKey = fields["private_key"]
		}
	}
	delete(fields, "previous_until") // of a rotation
	for _, name := range want {
		if said, ok := fields[name]; !ok || (said == "") != (name == "api_key" && kind != kindAPIKey) {
			t.Errorf("an answer of type %s has %s %q", kind, name, said)
		}
	}
	if len(fields) != len(want) {
		t.Errorf("an answer of type %s has %d fields, want %v", kind, len(fields), want)
	}
	return i
}

// pair is the identity for a TLS client; no certificate where it is a secret.
func (i *identity) pair(t testing.TB) []tls.Certificate {
	t.Helper()
	if i.kind != kindX509 {
		return nil
	}
	pair, err := tls.X509KeyPair([]byte(i.certificate), []byte(i.privateKey))
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{pair}
}

// randomNonce is a claim_nonce.
func randomNonce() string {
	random := make([]byte, 32)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	return base64.RawURLEncoding.EncodeToString(random)
}

// body is a JSON object of those of the members that are not empty.
func body(t testing.TB, members map[string]string) string {
	t.Helper()
	for name, text := range members {
		if text == "" {
			delete(members, name)
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// of is the box for a subtest: what goes wrong is that one's.
func (b *box) of(t testing.TB) *box {
	clone := *b
	clone.t = t
	return &clone
}

// root is the file of the certificate that the box's own lead to.
func (b *box) root() string {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "root.pem")
	b.json(nil, "ca", "root", "--out", path)
	return path
}

// tools are real clients that trust the box by its root and be a device.
type tools struct {
	t    testing.TB
	box  *box
	root string
	dir  string
	made int
}

func newTools(t testing.TB, b *box, root string) *tools {
	t.Helper()
	for _, tool := range []string{"curl", "mosquitto_rr", "mosquitto_sub", "openssl", "stdbuf"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is needed: %v", tool, err)
		}
	}
	return &tools{t: t, box: b.of(t), root: root, dir: t.TempDir()}
}

// file writes a file that nothing else has the name of.
func (k *tools) file(content string) string {
	k.t.Helper()
	k.made++
	path := filepath.Join(k.dir, strconv.Itoa(k.made)+".pem")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return path
}

// run runs a client to its end.
func (k *tools) run(name string, args ...string) (out string, code int) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var said, complained bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complained
	err := cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		k.t.Fatalf("%s: %v", name, err)
	}
	if code = cmd.ProcessState.ExitCode(); code != 0 {
		k.t.Logf("%s: exit code %d: %s", name, code, strings.TrimSpace(complained.String()))
	}
	return said.String(), code
}

// mqtt are the arguments of a Mosquitto client that is i, or a claimant without
// one.
func (k *tools) mqtt(addr string, i *identity) []string {
	k.t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	args := []string{"-h", host, "-p", port, "--cafile", k.root, "-q", "1"}
	switch {
	case i == nil:
	case i.kind == kindX509:
		// A user name makes it a login: without one, a certificate that counts for
		// nothing leaves a claimant.
		args = append(args, "-i", i.id, "-u", i.id, "--cert", k.file(i.certificate), "--key", k.file(i.privateKey))
	default:
		args = append(args, "-i", i.id, "-u", i.id, "-P", i.secret)
	}
	return args
}

// ask publishes a request and returns the answer, or nothing.
func (k *tools) ask(i *identity, request, response, body string) string {
	k.t.Helper()
	out, _ := k.run("mosquitto_rr", append(k.mqtt(k.box.mqttsAddr, i), "-W", "20", "-t", request, "-e", response, "-m", body)...)
	return strings.TrimSuffix(out, "\n")
}

// post is curl's.
func (k *tools) post(i *identity, path, body string) (status int, said string) {
	k.t.Helper()
	args := []string{"-sS", "--cacert", k.root, "-w", "\n%{http_code}", "-H", "Content-Type: application/json", "-d", body}
	switch {
	case i == nil:
	case i.kind == kindX509:
		args = append(args, "--cert", k.file(i.certificate), "--key", k.file(i.privateKey))
	default:
		args = append(args, "-H", "Authorization: Bearer "+i.secret)
	}
	out, _ := k.run("curl", append(args, "https://"+k.box.httpsAddr+path)...)
	cut := strings.LastIndexByte(out, '\n')
	if cut < 0 {
		return 0, out
	}
	status, err := strconv.Atoi(out[cut+1:])
	if err != nil {
		k.t.Fatalf("curl said %q", out)
	}
	return status, out[:cut]
}

// claim claims over MQTT or HTTP, with TLS.
func (k *tools) claim(face, body string) string {
	k.t.Helper()
	if face == "mqtt" {
		return k.ask(nil, "provision/request", "provision/response", body)
	}
	_, said := k.post(nil, "/api/v1/provision", body)
	return said
}

// rotate has a device ask for another credential over its own session.
func (k *tools) rotate(face string, i *identity, body string) string {
	k.t.Helper()
	if face == "mqtt" {
		own := "devices/" + i.id + "/credentials/"
		return k.ask(i, own+"request", own+"response", body)
	}
	_, said := k.post(i, "/api/v1/credentials/rotate", body)
	return said
}

// wantIn fails unless i is let in over both faces, or over neither.
func (k *tools) wantIn(what string, i *identity, in bool) {
	k.t.Helper()
	_, code := k.run("mosquitto_sub", append(k.mqtt(k.box.mqttsAddr, i), "-W", "20", "-E", "-t", "devices/"+i.id+"/commands")...)
	if (code == 0) != in {
		k.t.Errorf("%s: mosquitto_sub ends with %d, want in %v", what, code, in)
	}
	// Nobody but who is let in hears what is wrong with the body.
	status, said := k.post(i, "/api/v1/credentials/rotate", `{"no":"such field"}`)
	if want := map[bool]int{true: http.StatusBadRequest, false: http.StatusUnauthorized}[in]; status != want {
		k.t.Errorf("%s: curl hears %d %s, want %d", what, status, said, want)
	}
}

// subscriber is a mosquitto_sub that stays.
type subscriber struct {
	t     testing.TB
	cable *relay
	out   *logBuffer
	ended chan error // of the process
}

// stay starts one and returns when it is subscribed.
func (k *tools) stay(i *identity) *subscriber {
	k.t.Helper()
	s := &subscriber{t: k.t, cable: newRelay(k.t, k.box.mqttsAddr), out: &logBuffer{}, ended: make(chan error, 1)}
	// Else it keeps what it says to itself until it ends.
	cmd := exec.Command("stdbuf", append([]string{"-oL", "mosquitto_sub", "-d", "-t", "devices/" + i.id + "/commands"}, k.mqtt(s.cable.addr(), i)...)...)
	cmd.Stdout, cmd.Stderr = s.out, s.out
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() { s.ended <- cmd.Wait() })
	k.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		work.Wait()
	})
	until(k.t, "mosquitto_sub is subscribed", func() bool { return strings.Contains(s.out.String(), "Subscribed") })
	return s
}

// wantClosed fails unless the box closes the connection in time.
func (s *subscriber) wantClosed(what string, in time.Duration) {
	s.t.Helper()
	deadline := time.NewTimer(in)
	defer deadline.Stop()
	select {
	case <-s.cable.closed:
	case <-deadline.C:
		s.t.Errorf("%s: after %v the session is still open; mosquitto_sub said %s", what, in, s.out.tail(400))
	}
}

// wantEnded fails unless mosquitto_sub gives up: it tries again by itself, as
// long as that may help.
func (s *subscriber) wantEnded(what string) {
	s.t.Helper()
	select {
	case err := <-s.ended:
		if err == nil {
			s.t.Errorf("%s: mosquitto_sub is content", what)
		}
	case <-time.After(patience):
		s.t.Errorf("%s: mosquitto_sub still runs; it said %s", what, s.out.tail(400))
	}
}

// csr has openssl make a key and a request that asks for more than anybody gets.
func (k *tools) csr(algorithm ...string) (request, key string) {
	k.t.Helper()
	keyFile := k.file("")
	args := append([]string{"req", "-new", "-nodes", "-keyout", keyFile, "-subj", "/O=Evil/CN=root", "-addext", "subjectAltName=DNS:evil.example"}, algorithm...)
	request, code := k.run("openssl", args...)
	if code != 0 {
		k.t.Fatal("openssl makes no request")
	}
	made, err := os.ReadFile(keyFile)
	if err != nil {
		k.t.Fatal(err)
	}
	return request, string(made)
}

// trusting is a TLS client's configuration that trusts the root and shows the
// pairs.
func trusting(t testing.TB, root string, pairs []tls.Certificate) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatalf("%s: no certificate", root)
	}
	c := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if len(pairs) > 0 { // whatever the server hints at
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pairs[0], nil }
	}
	return c
}

// connect says CONNECT over TLS; the packet is the CONNACK.
func connect(t testing.TB, addr string, secure *tls.Config, as mqttwire.Login) (*mqttwire.Client, mqttwire.Packet, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, mqttwire.Packet{}, err
	}
	t.Cleanup(func() { conn.Close() })
	client := mqttwire.New(conn, mqttwire.V311)
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, mqttwire.Packet{}, err
	}
	ack, err := client.Login(as)
	return client, ack, err
}

// logsIn reports whether i gets in over MQTT, by its certificate over TLS.
func (b *box) logsIn(root string, i *identity) bool {
	b.t.Helper()
	if i.kind != kindX509 {
		return loginCode(b.t, b.mqttAddr, i.id, i.secret) == 0
	}
	client, ack, err := connect(b.t, b.mqttsAddr, trusting(b.t, root, i.pair(b.t)), mqttwire.Login{ClientID: i.id, Clean: true, KeepAlive: 30})
	if err != nil || ack.Code() != 0 {
		b.t.Logf("log in: %v, code %#x", err, ack.Code())
		return false
	}
	defer client.Close()
	// A certificate that counts for nothing leaves a claimant, who may claim only.
	suback, err := client.Subscribe("devices/" + i.id + "/commands")
	return err == nil && suback.Code() < 0x80
}
