package acceptance

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// shown is a certificate that counts for nothing, with what the operator is
// told of it.
type shown struct {
	name, problem string
	pair          *tls.Certificate
}

const (
	problemIssuer = "not issued by this box"
	problemVerify = "does not verify"
	problemTime   = "not valid at this time"
	problemNames  = "not the names of a device"
	problemClient = "not a certificate for a client"
	problemVoid   = "not a valid credential"
)

// forgeries are certificates that the box's authority never issued, in the name
// of the device id, or did to another. Some are signed by its own key: what
// refuses them is nothing but what they say.
func forgeries(b *box, id, other string, own *tls.Certificate) []shown {
	authority := readSigner(b.t, filepath.Join(b.data, "ca", "issuer.pem"))
	server := readSigner(b.t, filepath.Join(b.data, "ca", "server.pem"))
	impostor := newSigner(b.t, authority.cert)
	device := signer{t: b.t, cert: own.Leaf, key: own.PrivateKey.(crypto.Signer), chain: own.Certificate}
	self := newSigner(b.t, own.Leaf)
	by := func(name, problem string, change func(*x509.Certificate)) shown {
		return shown{name, problem, authority.issue(id, change)}
	}
	named := func(id string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject, c.URIs = pkix.Name{CommonName: id}, []*url.URL{deviceURI(id)} }
	}
	return []shown{
		{"wrong CA", problemVerify, impostor.issue(id, nil)},
		{"wrong CA of another name", problemIssuer, self.issue(id, nil)},
		{"signed by a device", problemIssuer, device.issue(id, nil)},
		{"the authority's own", problemIssuer, &tls.Certificate{Certificate: [][]byte{authority.cert.Raw}, PrivateKey: authority.key}},
		{"the listeners' own", problemVerify, &tls.Certificate{Certificate: [][]byte{server.cert.Raw}, PrivateKey: server.key}},
		by("expired", problemTime, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		by("not yet valid", problemTime, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
		by("never recorded", problemVoid, nil),
		by("of nobody", problemVoid, named("8f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33")),
		by("CN of another device", problemNames, func(c *x509.Certificate) { c.Subject.CommonName = other }),
		by("URI of another device", problemNames, func(c *x509.Certificate) { c.URIs[0] = deviceURI(other) }),
		by("two URIs", problemNames, func(c *x509.Certificate) { c.URIs = append(c.URIs, deviceURI(other)) }),
		by("no URI", problemNames, func(c *x509.Certificate) { c.URIs = nil }),
		by("a DNS name too", problemNames, func(c *x509.Certificate) { c.DNSNames = []string{id} }),
		by("an address too", problemNames, func(c *x509.Certificate) { c.EmailAddresses = []string{id + "@plant.example"} }),
		by("upper case", problemNames, named(strings.ToUpper(id))),
		by("null byte", problemNames, func(c *x509.Certificate) { c.Subject.CommonName = id + "\x00.evil" }),
		by("an organization", problemNames, func(c *x509.Certificate) { c.Subject.Organization = []string{"root"} }),
		by("for a server", problemVerify, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		by("for anything", problemClient, func(c *x509.Certificate) { c.ExtKeyUsage = nil }),
		by("an authority", problemClient, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }),
	}
}

// void has devices claim and lose their certificates again.
func void(b *box, key string) []shown {
	b.t.Helper()
	var all []shown
	for _, lost := range [][]string{{"revoke"}, {"release"}, {"rotate", "--overlap", "0s"}, {"swap", "--hardware-id", "NEW-BOARD"}} {
		i := b.certified(key, "VOID-"+lost[0])
		b.json(nil, append([]string{"device", lost[0], i.id}, lost[1:]...)...)
		all = append(all, shown{lost[0], problemVoid, &i.pair(b.t)[0]})
	}
	return all
}

// certified claims a certificate.
func (b *box) certified(key, hardware string) identity {
	b.t.Helper()
	return identityOf(b.t, kindX509, b.post(claimBody(key, "n", hardware)).body, "")
}

// TestCertificatesRefusedAlike: whatever is wrong with a certificate, its bearer
// hears over MQTT and over HTTP what one without a certificate hears, to the
// byte; the operator finds the reason in the audit log. Without the key there is
// no handshake, whether the certificate would be good or not.
func TestCertificatesRefusedAlike(t *testing.T) {
	t.Parallel()
	b := newBox(t).secure()
	b.start()
	key, root := b.key("--credential", kindX509), b.root()
	good, other := b.certified(key, "GOOD"), b.certified(key, "OTHER")
	own := &good.pair(t)[0]
	lost := void(b, key)
	all := append(lost, forgeries(b, good.id, other.id, own)...)
	p := prober{t: t, box: b, root: root, as: good.id}
	baseline := p.all(nil)
	for _, s := range all {
		if got := p.all(s.pair); got != baseline {
			t.Errorf("%s: hears\n%s\nwithout a certificate it is\n%s", s.name, got, baseline)
		}
	}
	p.wantWrittenDown(all)
	t.Run("with real clients", func(t *testing.T) {
		tools := newTools(t, b, root)
		want := tools.turnedAway(good.id, nil)
		for _, s := range all {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				if got := newTools(t, b, root).turnedAway(good.id, s.pair); got != want {
					t.Errorf("hears %s, without a certificate it is %s", got, want)
				}
			})
		}
	})
	// A copy of a certificate is worth nothing, and tells nothing.
	stolen := func(of *tls.Certificate) string {
		return p.handshake(&tls.Certificate{Certificate: of.Certificate, PrivateKey: newKey(t)})
	}
	want := stolen(own)
	if !strings.Contains(want, "remote error: tls: ") {
		t.Errorf("without the key: %s", want)
	}
	for _, s := range all {
		if got := stolen(s.pair); got != want {
			t.Errorf("%s, without the key: %s, want %s", s.name, got, want)
		}
	}
	// A good certificate is nobody else's, and stays good.
	if got := p.mqtt(own, other.id); got != p.mqtt(nil, other.id) {
		t.Errorf("with another device's id: %s", got)
	}
	newTools(t, b, root).wantIn("good", &good, true)
	if !b.logsIn(root, &good) || !b.logsIn(root, &other) {
		t.Error("the good certificates are not good any more")
	}
	// One that counts for nothing stops nobody from claiming.
	client, _, err := connect(t, b.mqttsAddr, trusting(t, root, []tls.Certificate{*all[0].pair}), mqttwire.Login{ClientID: "c", Clean: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Subscribe("provision/response"); err != nil {
		t.Fatal(err)
	}
	if said, _, err := askOver(client, claimBody(key, "n", "WITH-A-VOID-ONE")); err != nil || said.text(t, "certificate") == "" {
		t.Errorf("claim with a void certificate: %v, %s", err, said.body)
	}
}

// TestCertificateBesideAKey: a certificate that is good says who comes, and a
// key beside it has to be the same device's; one that is not good is in nobody's
// way.
func TestCertificateBesideAKey(t *testing.T) {
	t.Parallel()
	b := newBox(t).secure()
	b.start()
	key, root := b.key("--credential", kindX509), b.root()
	good, keyed := b.certified(key, "GOOD"), b.claimOne(b.key(), "KEYED")
	lost := b.certified(key, "LOST")
	b.json(nil, "device", "release", lost.id)
	k := newTools(t, b, root)
	for _, c := range []struct {
		name string
		pair []tls.Certificate
		mqtt byte // CONNACK
		http string
	}{
		{"a void certificate", lost.pair(t), 0, "400"},
		{"another device's certificate", good.pair(t), 5, "401"},
	} {
		client, ack, err := connect(t, b.mqttsAddr, trusting(t, root, c.pair),
			mqttwire.Login{ClientID: keyed.id, Username: keyed.id, Password: keyed.apiKey, Clean: true})
		if err != nil || ack.Code() != c.mqtt {
			t.Errorf("%s beside a key over MQTT: %v, code %#x", c.name, err, ack.Code())
		}
		if err == nil {
			client.Close()
		}
		for _, header := range []string{"Authorization: Bearer " + keyed.apiKey, "X-API-Key: " + keyed.apiKey} {
			said, _ := k.run("curl", append(k.files(&c.pair[0]), "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", root, "-d", `{"no":1}`,
				"-H", "Content-Type: application/json", "-H", header, "https://"+b.httpsAddr+"/api/v1/credentials/rotate")...)
			if said != c.http {
				t.Errorf("%s beside a key: curl hears %s, want %s", c.name, said, c.http)
			}
		}
	}
}

// wantWrittenDown fails unless the audit log says of every one why it was
// refused, once for each time that it was shown.
func (p *prober) wantWrittenDown(all []shown) {
	p.t.Helper()
	type entry struct {
		Kind, Reason string
		Detail       map[string]string
	}
	var entries []entry
	until(p.t, "the audit log has all", func() bool {
		out, errOut, code := p.box.command("", "audit", "export")
		if code != 0 {
			p.t.Fatalf("audit export: exit code %d: %s", code, errOut)
		}
		entries = nil
		for line := range strings.Lines(string(out)) {
			var e entry
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				p.t.Fatalf("%v: %s", err, line)
			}
			if e.Kind == "login.refused" && e.Reason == "certificate" {
				entries = append(entries, e)
			}
		}
		return len(entries) >= probes*len(all)
	})
	if len(entries) != probes*len(all) {
		p.t.Fatalf("%d certificates were shown %d times each, and %d refusals are in the audit log", len(all), probes, len(entries))
	}
	for n, s := range all {
		for _, e := range entries[n*probes : (n+1)*probes] {
			if !strings.Contains(e.Detail["problem"], s.problem) {
				p.t.Errorf("%s: the audit log says %q, want %q", s.name, e.Detail["problem"], s.problem)
			}
		}
	}
}

// prober shows certificates and notes what it hears, to the byte.
type prober struct {
	t    testing.TB
	box  *box
	root string
	as   string // a device's id
}

func (p *prober) secure(pair *tls.Certificate, version uint16) *tls.Config {
	var pairs []tls.Certificate
	if pair != nil {
		pairs = append(pairs, *pair)
	}
	c := trusting(p.t, p.root, pairs)
	c.MaxVersion = version
	return c
}

// probes is how often all shows a certificate.
const probes = 6

// all is what is heard over both faces, with both versions of TLS.
func (p *prober) all(pair *tls.Certificate) string {
	p.t.Helper()
	return fmt.Sprintf("%s %s %s %s", p.mqtt(pair, ""), p.mqtt(pair, p.as), p.http(pair, tls.VersionTLS12), p.http(pair, tls.VersionTLS13))
}

// mqtt are the CONNACK, and the SUBACK of a device's own topics.
func (p *prober) mqtt(pair *tls.Certificate, username string) string {
	p.t.Helper()
	var heard []string
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client, ack, err := connect(p.t, p.box.mqttsAddr, p.secure(pair, version), mqttwire.Login{ClientID: p.as, Username: username, Clean: true})
		if err != nil {
			p.t.Fatal(err)
		}
		heard = append(heard, fmt.Sprintf("CONNACK %#x", ack.Code()))
		if ack.Code() == 0 {
			suback, err := client.Subscribe("devices/"+p.as+"/commands", "devices/"+p.as+"/credentials/response", "provision/response")
			heard = append(heard, fmt.Sprintf("SUBACK %#x %v", suback.Codes, err))
		}
		client.Close()
	}
	return strings.Join(heard, ", ")
}

// http is the whole answer to a device's request, but for its date and number.
func (p *prober) http(pair *tls.Certificate, version uint16) string {
	p.t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: p.secure(pair, version)}}
	response, err := client.Post("https://"+p.box.httpsAddr+"/api/v1/credentials/rotate", "application/json", strings.NewReader("{}"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	response.Header.Del("Date")
	response.Header.Del("X-Request-Id")
	var whole bytes.Buffer
	if err := response.Write(&whole); err != nil {
		p.t.Fatal(err)
	}
	if response.StatusCode != http.StatusUnauthorized {
		p.t.Errorf("it is let in: %s", response.Status)
	}
	return whole.String()
}

// handshake is how one ends, with both versions of TLS.
func (p *prober) handshake(pair *tls.Certificate) string {
	p.t.Helper()
	var heard []string
	for _, addr := range []string{p.box.mqttsAddr, p.box.httpsAddr} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr, p.secure(pair, version))
			if err == nil { // with TLS 1.3 the client is done before the server has looked
				if err = conn.SetDeadline(time.Now().Add(patience)); err == nil {
					_, err = conn.Read(make([]byte, 1))
				}
				conn.Close()
			}
			heard = append(heard, fmt.Sprint(err))
		}
	}
	return strings.Join(slices.Compact(heard), ", ")
}

// files are the arguments with which curl and the Mosquitto clients show a
// certificate; none for nil.
func (k *tools) files(pair *tls.Certificate) []string {
	k.t.Helper()
	if pair == nil {
		return nil
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		k.t.Fatal(err)
	}
	var chain strings.Builder
	for _, der := range pair.Certificate {
		chain.WriteString(pemOf(pemCertificate, der))
	}
	return []string{"--cert", k.file(chain.String()), "--key", k.file(pemOf(pemKey, key))}
}

// turnedAway is how mosquitto_sub and curl end with a certificate that counts for
// nothing; nil for without one.
func (k *tools) turnedAway(id string, pair *tls.Certificate) string {
	k.t.Helper()
	host, port, _ := strings.Cut(k.box.mqttsAddr, ":")
	files := k.files(pair)
	args := append([]string{"-h", host, "-p", port, "--cafile", k.root, "-i", id, "-W", "20", "-E", "-t", "devices/" + id + "/commands"}, files...)
	asClaimant, first := k.run("mosquitto_sub", args...)
	asDevice, second := k.run("mosquitto_sub", append(args, "-u", id)...)
	said, third := k.run("curl", append([]string{
		"-sS", "--cacert", k.root, "-w", "%{http_code}", "-d", "{}", "-H", "Content-Type: application/json",
		"https://" + k.box.httpsAddr + "/api/v1/credentials/rotate",
	}, files...)...)
	return fmt.Sprintf("mosquitto_sub %d %q, %d %q, curl %d %s", first, asClaimant, second, asDevice, third, said)
}

// TestRequestsRefusedAlike: a certificate request that is not one is refused over
// both faces by the name of the field, whether the key is good or not, and leaves
// nothing.
func TestRequestsRefusedAlike(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	key := b.key("--credential", kindX509)
	requests := map[string]string{"empty": "", "no PEM": "MIIB", "no request": pemOf(pemRequest, []byte("MIIB")), "two": ""}
	files, err := filepath.Glob(filepath.Join("..", "internal", "ca", "testdata", "csr", "*.der"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d requests: %v", len(files), err)
	}
	for _, file := range files {
		der, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if name := filepath.Base(file); strings.HasPrefix(name, "bad-") {
			requests[name] = pemOf(pemRequest, der)
			continue
		}
		requests["two"] = pemOf(pemRequest, der) + pemOf(pemRequest, der)
		der[len(der)-1] ^= 1
		requests["signed by nobody, "+filepath.Base(file)] = pemOf(pemRequest, der)
	}
	for name, csr := range requests {
		var want string
		for _, known := range []string{key, "pk_factory_unknown"} {
			text, err := json.Marshal(map[string]string{"provision_key": known, "device_name": "n", "hardware_id": "H", "csr": csr})
			if err != nil {
				t.Fatal(err)
			}
			over := b.post(string(text))
			if want == "" {
				want = over.body
			}
			said := b.ask(mqttwire.V311, string(text))
			if over.status != http.StatusBadRequest || !strings.HasPrefix(over.text(t, "message"), "csr: ") || over.body != want || said.body != want {
				t.Errorf("%s: HTTP %d %s, MQTT %s, want %s", name, over.status, over.body, said.body, want)
			}
		}
	}
	if left := b.devices(); len(left) != 0 {
		t.Errorf("%d devices", len(left))
	}
}
