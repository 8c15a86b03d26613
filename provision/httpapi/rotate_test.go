package httpapi_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision/httpapi"
)

// template makes a template with more members and a key of it.
func (f *face) template(more string) (templateID, key string) {
	f.t.Helper()
	var made struct {
		TemplateID string `json:"template_id"`
	}
	if status := f.call("POST", "/api/v1/templates", `{"tenant_id":"`+tenant+`","name":"T"`+more+`}`, &made); status != 201 {
		f.t.Fatalf("template: %d", status)
	}
	var keys []struct {
		ProvisionKey string `json:"provision_key"`
	}
	if status := f.call("POST", "/api/v1/templates/"+made.TemplateID+"/keys", "", &keys); status != 201 {
		f.t.Fatalf("key: %d", status)
	}
	return made.TemplateID, keys[0].ProvisionKey
}

// credential is the answer of a claim or a rotation.
type credential struct {
	DeviceID    string `json:"device_id"`
	APIKey      string `json:"api_key"`
	PSK         string
	Certificate string
	Chain       string    `json:"ca_chain"`
	PrivateKey  string    `json:"private_key"`
	Until       time.Time `json:"previous_until"`
}

func (f *face) claimed(key, hardware string) credential {
	f.t.Helper()
	response, body := f.post("application/json", claim(key, hardware))
	if response.StatusCode != 200 {
		f.t.Fatalf("claim: %d %s", response.StatusCode, body)
	}
	return parse[credential](f.t, body)
}

// rotate asks for another credential.
func (f *face) rotate(client *http.Client, base, body string, headers ...string) (*http.Response, string) {
	f.t.Helper()
	return f.ask(client, f.request("POST", base+"/api/v1/credentials/rotate", body, headers...))
}

// TestRotateByKey: a key lets its device ask, in either header; what is wrong is
// answered alike, and no sooner than a refusal.
func TestRotateByKey(t *testing.T) {
	f := newFace(t)
	_, _, key := f.issue()
	_, pskKey := f.template(`,"credential_type":"psk"`)
	first, psk := f.claimed(key, "H1"), f.claimed(pskKey, "H2")
	other := f.claimed(key, "H3")
	if psk.PSK == "" {
		t.Fatalf("no psk: %v", psk)
	}
	for _, headers := range [][]string{
		{}, {"X-API-Key", ""}, {"X-API-Key", "sk_live_wrong"}, {"Authorization", "Bearer " + first.APIKey + "x"},
		{"Authorization", "Basic " + first.APIKey}, {"X-API-Key", first.APIKey, "X-API-Key", first.APIKey},
		{"X-API-Key", first.APIKey, "Authorization", "Bearer " + other.APIKey},
		{"X-API-Key", first.APIKey, "Authorization", "nonsense"}, {"X-API-Key", key},
		{"X-API-Key", other.APIKey, "X-API-Key", other.APIKey, "Authorization", "Bearer " + first.APIKey},
	} {
		start := time.Now()
		response, body := f.rotate(http.DefaultClient, f.claims, "{}", append(headers, "Content-Type", "application/json")...)
		if took := time.Since(start); response.StatusCode != 401 || body != `{"code":16,"message":"unauthenticated","details":[]}` ||
			response.Header.Get("WWW-Authenticate") != "Bearer" || took < edgeclaim.RefusalDelay {
			t.Errorf("%q: %d %s after %v", headers, response.StatusCode, body, took)
		}
	}
	response, body := f.rotate(http.DefaultClient, f.claims, "", "X-API-Key", first.APIKey)
	second := parse[credential](t, body)
	if response.StatusCode != 200 || second.DeviceID != first.DeviceID || second.APIKey == first.APIKey || second.Until.Before(time.Now()) {
		t.Fatalf("rotate: %d %s", response.StatusCode, body)
	}
	response, body = f.rotate(http.DefaultClient, f.claims, `{"request_id":"r"}`, "Authorization", "Bearer "+psk.PSK, "Content-Type", "application/json")
	if again := parse[credential](t, body); response.StatusCode != 200 || again.PSK == "" || again.PSK == psk.PSK || !strings.HasSuffix(body, `"request_id":"r"}`) {
		t.Errorf("psk: %d %s", response.StatusCode, body)
	}
	for contentType, want := range map[string]int{"text/plain": 415, "application/json": 400, "application/cbor": 400} {
		if response, body := f.rotate(http.DefaultClient, f.claims, `{"surprise":1}`, "X-API-Key", second.APIKey, "Content-Type", contentType); response.StatusCode != want {
			t.Errorf("%s: %d %s", contentType, response.StatusCode, body)
		}
	}
	if response, _ := f.rotate(http.DefaultClient, f.claims, strings.Repeat("x", 9000), "X-API-Key", second.APIKey, "Content-Type", "application/json"); response.StatusCode != 413 {
		t.Errorf("a large body: %d", response.StatusCode)
	}
	f.call("POST", "/api/v1/devices/"+first.DeviceID+"/revoke", "", nil)
	if response, _ := f.rotate(http.DefaultClient, f.claims, "", "X-API-Key", second.APIKey); response.StatusCode != 401 {
		t.Errorf("a revoked device, on a connection kept open: %d", response.StatusCode)
	}
}

// secureClient trusts the box and shows a certificate, if there is one.
func (f *face) secureClient(shown *credential) *http.Client {
	f.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(f.issuer.Root())
	cfg := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if shown != nil {
		pair, err := tls.X509KeyPair([]byte(shown.Certificate), []byte(shown.PrivateKey))
		if err != nil {
			f.t.Fatal(err)
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	f.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: 30 * time.Second, Transport: transport}
}

// TestRotateByCertificate: a good certificate decides who asks; one that is not
// counts for nothing.
func TestRotateByCertificate(t *testing.T) {
	f := newFace(t)
	_, key := f.template(`,"credential_type":"x509"`)
	_, _, apiKey := f.issue()
	board, other := f.claimed(key, "H1"), f.claimed(apiKey, "H2")
	client := f.secureClient(&board)

	response, body := f.rotate(client, f.secure, "")
	next := parse[credential](t, body)
	if response.StatusCode != 200 || next.DeviceID != board.DeviceID || next.Certificate == "" || next.Certificate == board.Certificate || response.ProtoMajor != 1 {
		t.Fatalf("%d %s by %s", response.StatusCode, body, response.Proto)
	}
	if response, body := f.rotate(client, f.secure, "", "X-API-Key", other.APIKey); response.StatusCode != 401 {
		t.Errorf("a certificate beside another device's key: %d %s", response.StatusCode, body)
	}
	if response, body := f.rotate(f.secureClient(nil), f.secure, "", "X-API-Key", other.APIKey); response.StatusCode != 200 {
		t.Errorf("no certificate and a good key: %d %s", response.StatusCode, body)
	}
	if response, body := f.ask(f.secureClient(nil), f.request("POST", f.secure+"/api/v1/provision", claim(apiKey, "H4"), "Content-Type", "application/json")); response.StatusCode != 200 {
		t.Errorf("a claim over TLS: %d %s", response.StatusCode, body)
	}
	stranger := selfSigned(t, board.DeviceID)
	if response, _ := f.rotate(f.secureClient(&stranger), f.secure, ""); response.StatusCode != 401 {
		t.Errorf("a stranger's certificate: %d", response.StatusCode)
	}
	third := f.claimed(apiKey, "H3")
	if response, body := f.rotate(f.secureClient(&stranger), f.secure, "", "X-API-Key", third.APIKey); response.StatusCode != 200 {
		t.Errorf("a stranger's certificate beside a good key: %d %s", response.StatusCode, body)
	}
	f.call("POST", "/api/v1/devices/"+board.DeviceID+"/revoke", "", nil)
	if response, _ := f.rotate(client, f.secure, ""); response.StatusCode != 401 {
		t.Errorf("a revoked certificate: %d", response.StatusCode)
	}
}

// selfSigned is a certificate for a device that the box did not issue.
func selfSigned(t *testing.T, name string) credential {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	of.Subject.CommonName = name
	of.SerialNumber = key.X
	der, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return credential{
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		PrivateKey:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
	}
}

// TestRefusedConnectionEnds: who guesses pays for a connection now and then.
func TestRefusedConnectionEnds(t *testing.T) {
	f := newFace(t)
	limit := httpapi.Defaults().MaxRefused
	for i := 1; i <= limit; i++ {
		response, _ := f.post("application/json", "{}")
		if closes := response.Close; closes != (i == limit) {
			t.Fatalf("refusal %d of %d: closes %v", i, limit, closes)
		}
	}
}

// TestRefusalDelayOutlastsTheAsker: who closes his half of the connection ends
// the request's context, and hears the refusal no sooner for that (P3).
func TestRefusalDelayOutlastsTheAsker(t *testing.T) {
	f := newFace(t)
	conn := dial(t, strings.TrimPrefix(f.claims, "http://"))
	start := time.Now()
	if _, err := io.WriteString(conn, "POST /api/v1/credentials/rotate HTTP/1.1\r\nHost: box\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-time.After(edgeclaim.RefusalDelay / 5) // it is looked at by then
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if took := time.Since(start); response.StatusCode != 401 || took < edgeclaim.RefusalDelay {
		t.Errorf("%d after %v", response.StatusCode, took)
	}
}

// TestHalfAConnectionIsEnough: who closes his half behind the request hears his
// answer.
func TestHalfAConnectionIsEnough(t *testing.T) {
	f := newFace(t)
	_, _, key := f.issue()
	for i := range 20 {
		conn := dial(t, strings.TrimPrefix(f.claims, "http://"))
		body := fmt.Sprintf(`{"provision_key":%q,"device_name":"n","hardware_id":"HALF-%d"}`, key, i)
		if _, err := fmt.Fprintf(conn, "POST /api/v1/provision HTTP/1.1\r\nHost: box\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 200 {
			t.Errorf("claim %d: %d", i, response.StatusCode)
		}
	}
}

// TestRotateLosesNothing: an answer that was lost is said again to the same
// nonce; once the new key was used, the old one asks in vain.
func TestRotateLosesNothing(t *testing.T) {
	f := newFace(t)
	_, _, key := f.issue()
	first := f.claimed(key, "H")
	nonce := `{"claim_nonce":"` + strings.Repeat("A", 43) + `"}`
	ask := func(key, body string) (int, string) {
		response, answer := f.rotate(http.DefaultClient, f.claims, body, "X-API-Key", key, "Content-Type", "application/json")
		return response.StatusCode, answer
	}
	status, lost := ask(first.APIKey, nonce)
	if status != 200 {
		t.Fatalf("%d %s", status, lost)
	}
	status, again := ask(first.APIKey, nonce)
	if status != 200 || parse[credential](t, again).APIKey != parse[credential](t, lost).APIKey {
		t.Errorf("again: %d %s, want %s", status, again, lost)
	}
	if status, body := ask(parse[credential](t, again).APIKey, "["); status != 400 { // let in, and so used
		t.Errorf("malformed: %d %s", status, body)
	}
	if status, body := ask(first.APIKey, nonce); status != 403 || body != `{"code":7,"message":"permission denied","details":[]}` {
		t.Errorf("with the old key: %d %s", status, body)
	}
}
