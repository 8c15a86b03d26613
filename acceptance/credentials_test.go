package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"
)

// revokeWithin is how long a session outlives the command that revokes it, at
// most.
const revokeWithin = time.Second

// credentialKinds are the credentials that a device can have, by the openssl
// algorithm of its own key; nil for none of its own.
var credentialKinds = []struct {
	name, kind string
	algorithm  []string
	brief      bool // no rotations, and over one face
}{
	{name: "api_key", kind: kindAPIKey},
	{name: "psk", kind: kindPSK},
	{name: "x509, key made by the box", kind: kindX509},
	{name: "x509, P-256", kind: kindX509, algorithm: []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"}},
	{name: "x509, P-384", kind: kindX509, algorithm: []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"}, brief: true},
	{name: "x509, Ed25519", kind: kindX509, algorithm: []string{"-newkey", "ed25519"}, brief: true},
	{name: "x509, RSA 2048", kind: kindX509, algorithm: []string{"-newkey", "rsa:2048"}, brief: true},
}

// TestCredentialTypes takes every type of credential through its life, over MQTT
// and HTTP with TLS and with the clients that people use: claim, login, rotation
// by the operator and by the device, the end of an overlap, revocation.
func TestCredentialTypes(t *testing.T) {
	t.Parallel()
	b := newBox(t).secure()
	b.start()
	root := b.root()
	keys := map[string]string{}
	for _, kind := range []string{kindAPIKey, kindPSK, kindX509} {
		keys[kind] = b.key("--credential", kind)
	}
	t.Run("type", func(t *testing.T) {
		for n, c := range credentialKinds {
			for m, face := range []string{"mqtt", "http"} {
				if (c.brief || testing.Short()) && n%2 != m {
					continue
				}
				t.Run(c.name+" over "+face, func(t *testing.T) {
					t.Parallel()
					l := life{tools: newTools(t, b, root), face: face, kind: c.kind, algorithm: c.algorithm}
					l.claims(keys[c.kind], fmt.Sprintf("H-%d-%s", n, face))
					if !c.brief {
						l.isRotated()
						l.rotates()
						l.overlapEnds()
					}
					l.isRevoked()
				})
			}
		}
	})
	if out, errOut, code := b.command("", "audit", "verify"); code != 0 {
		t.Errorf("audit verify: exit code %d: %s%s", code, out, errOut)
	}
}

// life is a device's, from its claim on.
type life struct {
	*tools
	face, kind string
	algorithm  []string // of its own keys; nil for none

	claimBody string
	now, old  identity
}

// request is a CSR of a new key, in the member that it goes in; no member for a
// device without a key of its own.
func (l *life) request() (members map[string]string, key string) {
	l.t.Helper()
	if l.algorithm == nil {
		return map[string]string{}, ""
	}
	csr, key := l.csr(l.algorithm...)
	return map[string]string{"csr": csr}, key
}

// becomes takes a new credential over.
func (l *life) becomes(answer, key string) {
	l.t.Helper()
	l.old, l.now = l.now, identityOf(l.t, l.kind, answer, key)
	if l.kind != kindX509 {
		return
	}
	file := l.file(l.now.certificate)
	if out, code := l.run("openssl", "verify", "-CAfile", l.root, "-purpose", "sslclient", file); code != 0 {
		l.t.Errorf("openssl does not take the certificate: %s", out)
	}
	text, _ := l.run("openssl", "x509", "-in", file, "-noout", "-subject", "-nameopt", "RFC2253", "-ext", "subjectAltName,extendedKeyUsage,keyUsage")
	if !strings.HasPrefix(text, "subject=CN="+l.now.id+"\n") || !strings.Contains(text, "URI:urn:edgeclaim:device:"+tenant+":"+l.now.id+"\n") ||
		!strings.Contains(text, "TLS Web Client Authentication\n") || strings.Contains(strings.ToLower(text), "evil") {
		l.t.Errorf("the certificate says\n%s", text)
	}
}

func (l *life) claims(key, hardware string) {
	l.t.Helper()
	members, own := l.request()
	members["provision_key"], members["device_name"], members["hardware_id"] = key, "n", hardware
	l.claimBody = body(l.t, members)
	answer := l.claim(l.face, l.claimBody)
	if l.becomes(answer, own); l.t.Failed() {
		l.t.FailNow()
	}
	// Whatever its type, known hardware hears no credential a second time.
	want := fmt.Sprintf(`{"device_id":%q,"api_key":""}`, l.now.id)
	for _, face := range []string{"mqtt", "http"} {
		if again := l.claim(face, l.claimBody); again != want {
			l.t.Errorf("claim again over %s: %s, want %s", face, again, want)
		}
	}
	l.wantState("claimed")
	l.wantIn("claimed", &l.now, true)
	l.wantState("confirmed")
}

// wantState fails unless the operator sees the device so.
func (l *life) wantState(want string) {
	l.t.Helper()
	var listed []device
	l.box.json(&listed, "device", "list", "--state", want)
	for _, d := range listed {
		if d.DeviceID == l.now.id {
			return
		}
	}
	l.t.Errorf("device %s is not listed as %s", l.now.id, want)
}

// byOperator has the operator make another credential.
func (l *life) byOperator(overlap string) {
	l.t.Helper()
	args := []string{"device", "rotate", l.now.id, "--overlap", overlap, "--json"}
	members, key := l.request()
	if csr := members["csr"]; csr != "" {
		args = append(args, "--csr", l.file(csr))
	}
	out, errOut, code := l.box.command("", args...)
	if code != 0 {
		l.t.Fatalf("rotate: exit code %d: %s", code, errOut)
	}
	l.becomes(string(out), key)
}

// isRotated: both credentials are good for the overlap.
func (l *life) isRotated() {
	l.t.Helper()
	l.byOperator("24h")
	l.wantState("rotating")
	l.wantIn("old, rotated by the operator", &l.old, true)
	l.wantIn("new, rotated by the operator", &l.now, true)
}

// rotates: the device asks by itself, loses the answer, asks again with the same
// nonce and gets the same again. Never are more than two good.
func (l *life) rotates() {
	l.t.Helper()
	first := l.old
	members, key := l.request()
	members["claim_nonce"] = randomNonce()
	asked := body(l.t, members)
	lost := l.rotate(l.face, &l.now, asked)
	other := map[string]string{"mqtt": "http", "http": "mqtt"}[l.face]
	answer := l.rotate(other, &l.now, asked)
	if lost == "" || answer != lost {
		l.t.Errorf("rotation by the device, asked again: %s\nwant %s", answer, lost)
	}
	l.becomes(answer, key)
	l.wantIn("third last", &first, false)
	l.wantIn("old, rotated by the device", &l.old, true)
	l.wantIn("new, rotated by the device", &l.now, true)
	var said struct {
		Code int `json:"code"`
	}
	refused := l.rotate(l.face, &l.old, asked)
	if err := json.Unmarshal([]byte(refused), &said); err != nil || said.Code != 7 {
		l.t.Errorf("the old credential asks, though the new one was used: %s", refused)
	}
}

// overlapEnds: the session of an old credential ends with the overlap.
func (l *life) overlapEnds() {
	l.t.Helper()
	held := l.stay(&l.now)
	l.byOperator("1s")
	held.wantClosed("the overlap is over", time.Second+revokeWithin)
	l.wantIn("old, after the overlap", &l.old, false)
	l.wantIn("new, after the overlap", &l.now, true)
}

// isRevoked: an open session is gone at once, and nothing lets the device or its
// hardware in.
func (l *life) isRevoked() {
	l.t.Helper()
	held, kept := l.stay(&l.now), l.keepAlive()
	if _, errOut, code := l.box.command("", "device", "revoke", l.now.id, "--reason", "stolen"); code != 0 {
		l.t.Fatalf("revoke: exit code %d: %s", code, errOut)
	}
	held.wantClosed("revoked", revokeWithin)
	if status, reused := kept(); status != http.StatusUnauthorized || !reused {
		l.t.Errorf("revoked, a connection that was kept hears %d; it is the same: %v", status, reused)
	}
	if status, said := l.post(&l.now, "/api/v1/credentials/rotate", "{}"); status != http.StatusUnauthorized {
		l.t.Errorf("revoked, curl hears %d %s", status, said)
	}
	held.wantEnded("revoked")
	l.wantIn("revoked", &l.now, false)
	for _, face := range []string{"mqtt", "http"} {
		if said := l.claim(face, l.claimBody); said != denied {
			l.t.Errorf("revoked hardware claims over %s: %s", face, said)
		}
	}
	l.wantState("revoked")
}

// keepAlive opens a connection over HTTPS by the present credential. What is
// returned asks again, and says whether it could over the same connection.
func (l *life) keepAlive() (ask func() (status int, reused bool)) {
	l.t.Helper()
	transport := &http.Transport{TLSClientConfig: trusting(l.t, l.root, l.now.pair(l.t))}
	l.t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Timeout: patience, Transport: transport}
	ask = func() (status int, reused bool) {
		seen := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		request, err := http.NewRequestWithContext(seen, http.MethodPost, "https://"+l.box.httpsAddr+"/api/v1/credentials/rotate", strings.NewReader(`{"no":1}`))
		if err != nil {
			l.t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		if l.now.secret != "" {
			request.Header.Set("X-Api-Key", l.now.secret)
		}
		response, err := client.Do(request)
		if err != nil {
			l.t.Fatal(err)
		}
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body) // else it is not kept
		if err != nil {
			l.t.Error(err)
		}
		return response.StatusCode, reused
	}
	if status, _ := ask(); status != http.StatusBadRequest {
		l.t.Errorf("before the revocation, it hears %d", status)
	}
	return ask
}
