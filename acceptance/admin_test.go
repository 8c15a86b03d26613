package acceptance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// unauthenticated is what every bad token is answered.
const unauthenticated = `{"code":16,"message":"unauthenticated","details":[]}`

// adminToken makes a token by the command line.
func (b *box) adminToken(name, scope string, more ...string) (id, secret string) {
	b.t.Helper()
	var made struct {
		ID     string `json:"token_id"`
		Secret string `json:"token"`
	}
	b.json(&made, append([]string{"token", "create", "--name", name, "--scope", scope}, more...)...)
	return made.ID, made.Secret
}

// admin asks the admin API over TCP with a token, empty for none.
func (b *box) admin(secret, method, path, body string, headers ...string) answer {
	b.t.Helper()
	if secret != "" {
		headers = append(headers, "Authorization", "Bearer "+secret)
	}
	if body != "" {
		headers = append(headers, "Content-Type", "application/json")
	}
	return send(b.t, http.DefaultClient, method, "http://"+b.metricsAddr+path, body, headers...)
}

// TestAdminTokens: whatever is wrong with a token, the answer is the same, it is
// written down, and no token is ever anywhere but in the answer that made it.
func TestAdminTokens(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	_, good := b.adminToken("good", "read")
	id, revoked := b.adminToken("revoked", "admin")
	_, expired := b.adminToken("expired", "admin", "--expires", "1s")
	b.json(nil, "token", "revoke", id)
	until(t, "a token expires", func() bool { return b.admin(expired, "GET", "/api/v1/status", "").status != http.StatusOK })

	flipped := good[:len(good)-1] + string('A'+(good[len(good)-1]+1)%26)
	long := strings.Repeat("A", 8<<10)
	var first string
	for name, headers := range map[string][]string{
		"none": nil, "revoked": bearer(revoked), "expired": bearer(expired), "one letter off": bearer(flipped), "cut short": bearer(good[:20]),
		"empty": bearer(""), "of a device": bearer("sk_live_" + strings.Repeat("A", 43)), "long": bearer(long), "control": bearer("ec_admin_\t" + good[9:]),
		"basic": {"Authorization", "Basic " + good}, "bare": {"Authorization", good}, "twice": append(bearer(good), bearer(good)...),
		"as a key": {"X-API-Key", good}, "cookie": {"Cookie", "token=" + good},
	} {
		said := b.admin("", "GET", "/api/v1/devices", "", headers...)
		said.header.Del("Date")
		said.header.Del("X-Request-Id")
		whole := fmt.Sprintf("%d %v %s", said.status, said.header, said.body)
		first = cmp.Or(first, whole)
		if said.status != http.StatusUnauthorized || said.body != unauthenticated || whole != first || said.header.Get("WWW-Authenticate") == "" {
			t.Errorf("token %s: %s\nwant %s", name, whole, first)
		}
	}
	if said := b.admin("", "GET", "/api/v1/devices?token="+good, ""); said.status != http.StatusUnauthorized {
		t.Errorf("a token in the query: %d", said.status)
	}
	if said := b.admin(good, "GET", "/api/v1/devices", ""); said.status != http.StatusOK {
		t.Errorf("guessing locks the good one out: %d %s", said.status, said.body)
	}
	if said := send(t, http.DefaultClient, "GET", "http://"+b.httpAddr+"/api/v1/devices", "", bearer(good)...); said.status != http.StatusNotFound {
		t.Errorf("on the listener of devices: %d", said.status)
	}
	until(t, "refused tokens are in the audit log", func() bool { return len(b.audited("admin.refused", "")) >= 14 })
	for _, e := range b.audited("admin.refused", "") {
		if e.Source != "127.0.0.1" || e.Reason != "token" {
			t.Errorf("refused: %+v", e)
		}
	}
	list, _, _ := b.command("", "token", "list", "--json")
	metrics := get(t, "http://"+b.metricsAddr+"/metrics")
	if code := b.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	secrets := []string{good, revoked, expired}
	for place, text := range map[string]string{"the log": b.log.String(), "the list": string(list), "the metrics": metrics} {
		wantNoSecret(t, place, []byte(text), secrets)
	}
	err := filepath.WalkDir(b.data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		wantNoSecret(t, path, content, secrets)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func bearer(secret string) []string { return []string{"Authorization", "Bearer " + secret} }

// documented are the operations of the admin API in the OpenAPI document.
func documented(t testing.TB) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../docs/protocol/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Paths map[string]map[string]any }
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for path, methods := range document.Paths {
		for method, value := range methods {
			operation, ok := value.(map[string]any)
			if ok && fmt.Sprint(operation["tags"]) == "[admin]" {
				all[strings.ToUpper(method)+" "+strings.TrimPrefix(path, "/api/v1")] = true
			}
		}
	}
	return all
}

// scopes are the least scopes of all that the admin API does.
var scopes = map[string][]string{
	"read": {
		"GET /status", "GET /clock", "GET /templates", "GET /templates/{template_id}", "GET /keys", "GET /keys/{key_id}",
		"GET /devices", "GET /devices/{device_id}", "GET /templates/{template_id}/manifest", "GET /approvals", "GET /deny",
		"GET /ca", "GET /ca/root", "GET /audit", "GET /audit/head", "POST /audit/verify",
		"GET /devices/{device_id}/commands/{command_id}", "GET /devices/{device_id}/config",
		"GET /keys/{key_id}/devices", "GET /shares", "GET /documents", "GET /documents/{document_id}",
	},
	"operate": {
		"POST /templates/{template_id}/disable", "POST /templates/{template_id}/enable",
		"POST /keys/{key_id}/revoke", "POST /keys/{key_id}/disable", "POST /keys/{key_id}/enable",
		"POST /devices/{device_id}/revoke", "POST /devices/{device_id}/release", "POST /devices/{device_id}/swap",
		"POST /devices/{device_id}/commands", "POST /devices/{device_id}/commands/{command_id}/cancel", "PUT /devices/{device_id}/config",
		"POST /approvals/{device_id}/approve", "POST /approvals/{device_id}/refuse", "POST /deny", "DELETE /deny/{hardware_id}",
	},
	"admin": {
		"POST /templates", "POST /templates/{template_id}/keys", "POST /templates/{template_id}/keys/import",
		"PUT /templates/{template_id}/manifest", "DELETE /templates/{template_id}/manifest", "POST /devices/{device_id}/rotate",
		"POST /ca/csr", "POST /ca/import", "GET /tokens", "POST /tokens", "DELETE /tokens/{token_id}", "POST /clock/reset",
		"GET /enrolment", "PUT /enrolment", "DELETE /enrolment", "GET /outbox/quarantine", "GET /outbox/quarantine/{id}",
		"POST /outbox/quarantine/requeue", "POST /outbox/quarantine/{id}/requeue", "POST /outbox/quarantine/{id}/discard",
		"POST /outbox/renew", "GET /outbox/export", "POST /outbox/ack", "POST /documents",
	},
}

// TestAdminScopes: every operation with every scope. Too little is refused
// before anything is looked at; enough is let through to what it asks for.
func TestAdminScopes(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	order := []string{"read", "operate", "admin"}
	secrets := map[string]string{}
	for _, scope := range order {
		_, secrets[scope] = b.adminToken("only-"+scope, scope)
	}
	names := strings.NewReplacer("{template_id}", "019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f", "{key_id}", "019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f",
		"{device_id}", "5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10", "{token_id}", "0123456789abcdef", "{hardware_id}", "NOBODY", "{command_id}", "none", "{id}", "evt-1",
		"{document_id}", "signer%2F%2F")
	known := documented(t)
	refused := 0
	for least, operations := range scopes {
		for _, operation := range operations {
			if !known[operation] {
				t.Errorf("%s is not documented", operation)
			}
			delete(known, operation)
			method, path, _ := strings.Cut(operation, " ")
			for _, scope := range order {
				said := b.admin(secrets[scope], method, "/api/v1"+names.Replace(path), "")
				enough := slices.Index(order, scope) >= slices.Index(order, least)
				switch {
				case !enough && (said.status != http.StatusForbidden || said.body != denied):
					t.Errorf("%s with %s: %d %s", operation, scope, said.status, said.body)
				case enough && (said.status == http.StatusForbidden || said.status == http.StatusUnauthorized || said.status >= 500):
					t.Errorf("%s with %s: %d %s", operation, scope, said.status, said.body)
				}
				if !enough {
					refused++
				}
			}
			if said := b.admin("", method, "/api/v1"+names.Replace(path), ""); said.body != unauthenticated {
				t.Errorf("%s without a token: %d %s", operation, said.status, said.body)
			}
		}
	}
	if len(known) > 0 {
		t.Errorf("not tried: %v", slices.Sorted(maps.Keys(known)))
	}
	until(t, "each refusal is in the audit log with who", func() bool {
		return len(b.audited("admin.refused", "token:only-read"))+len(b.audited("admin.refused", "token:only-operate")) == refused
	})
}

// TestAdminHostAndOrigin: a page in the operator's browser gets nothing, by
// whatever name it calls the box, and no answer lets it read one.
func TestAdminHostAndOrigin(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "edgeclaim.yaml")
	if err := os.WriteFile(path, []byte("admin: {hosts: [box.plant.example]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startBox(t, "--config", path)
	_, secret := b.adminToken("browser", "admin")
	_, port, err := net.SplitHostPort(b.metricsAddr)
	if err != nil {
		t.Fatal(err)
	}
	own, evil := "http://127.0.0.1:"+port, "http://evil.example"
	for _, c := range []struct {
		headers []string
		want    int
	}{
		{nil, 200},
		{[]string{"Host", "localhost:" + port}, 200},
		{[]string{"Host", "LOCALHOST"}, 200},
		{[]string{"Host", "box.plant.example"}, 200},
		{[]string{"Host", "box.plant.example.:" + port}, 200},
		{[]string{"Host", "evil.example"}, 421},
		{[]string{"Host", "evil.example:" + port}, 421},
		{[]string{"Host", "127.0.0.1.evil.example"}, 421},
		{[]string{"Host", "localhost.evil.example"}, 421},
		{[]string{"Host", "127.0.0.2:" + port}, 421}, // not the address that the connection came to
		{[]string{"Host", "0.0.0.0:" + port}, 421},
		{[]string{"Host", "2130706433"}, 421},
		{[]string{"Origin", own}, 200},
		{[]string{"Origin", "http://localhost:3000"}, 200},
		{[]string{"Origin", evil}, 403},
		{[]string{"Origin", "null"}, 403},
		{[]string{"Origin", "file://"}, 403},
		{[]string{"Origin", own + "@evil.example"}, 403},
		{[]string{"Origin", own, "Origin", evil}, 403},
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Sec-Fetch-Site", "same-origin", "Origin", own}, 200},
	} {
		for _, page := range []string{"/api/v1/status", "/metrics"} {
			said := b.admin(secret, "GET", page, "", c.headers...)
			if said.status != c.want {
				t.Errorf("%v on %s: %d, want %d", c.headers, page, said.status, c.want)
			}
			for name := range said.header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%v: answered with %s", c.headers, name)
				}
			}
		}
	}
	preflight := b.admin("", "OPTIONS", "/api/v1/templates", "", "Origin", own, "Access-Control-Request-Method", "POST")
	if preflight.status < 400 || preflight.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight: %d %v", preflight.status, preflight.header)
	}
	before := len(b.audited("template.created", ""))
	b.admin(secret, "POST", "/api/v1/templates", `{"tenant_id":"`+tenant+`","name":"T"}`, "Origin", evil)
	if after := len(b.audited("template.created", "")); after != before {
		t.Error("another origin's page made a template")
	}
}

// startFails runs serve, which must end by itself, and returns what it says.
func startFails(t testing.TB, config string, args ...string) (said string, code int) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "edgeclaim.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	line := append([]string{"serve", "--data", filepath.Join(dir, "data"), "--config", path}, args...)
	out, err := exec.CommandContext(ctx, program, line...).CombinedOutput()
	failed, ok := errors.AsType[*exec.ExitError](err)
	if !ok || ctx.Err() != nil {
		t.Fatalf("serve %s: %v, it should not have started: %s", strings.Join(args, " "), err, out)
	}
	return string(out), failed.ExitCode()
}

// TestPlainOutsideLoopback: nothing is said in the clear outside the box unless
// the configuration says so in so many words.
func TestPlainOutsideLoopback(t *testing.T) {
	t.Parallel()
	quiet := []string{"--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"}
	for _, c := range []struct{ section, flag, address string }{
		{"http", "--http", "0.0.0.0:0"}, {"mqtt", "--mqtt", ":0"}, {"admin", "--admin", "[::]:0"}, {"admin", "--admin", "192.0.2.2:0"},
		{"http", "--http", "box.plant.example:0"},
	} {
		said, code := startFails(t, "", append(slices.Clone(quiet), c.flag, c.address)...)
		if code != 2 || !strings.Contains(said, c.section+".address: ") || !strings.Contains(said, c.section+".plaintext_outside_loopback: true") {
			t.Errorf("%s %s: exit code %d: %s", c.flag, c.address, code, said)
		}
	}
	// The word for one listener is no word for another.
	if said, code := startFails(t, "http: {plaintext_outside_loopback: true}\n", append(quiet, "--admin", "0.0.0.0:0")...); code != 2 {
		t.Errorf("with the other listener's word: exit code %d: %s", code, said)
	}
	path := filepath.Join(t.TempDir(), "edgeclaim.yaml")
	if err := os.WriteFile(path, []byte("admin: {plaintext_outside_loopback: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, "--config", path)
	b.metricsAddr = "0.0.0.0:0"
	b.start()
	_, port, err := net.SplitHostPort(b.metricsAddr)
	if err != nil {
		t.Fatal(err)
	}
	if said := send(t, http.DefaultClient, "GET", "http://127.0.0.1:"+port+"/api/v1/status", ""); said.status != http.StatusUnauthorized {
		t.Errorf("said in so many words: %d", said.status)
	}
}

// TestAdminOutsideLoopbackNeedsTLS: with TLS it is there, by the box's own
// certificate, for who has a token; metrics are no exception there.
func TestAdminOutsideLoopbackNeedsTLS(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "edgeclaim.yaml")
	if err := os.WriteFile(path, []byte("admin: {tls: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, "--config", path)
	b.metricsAddr = "0.0.0.0:0"
	b.start()
	_, port, err := net.SplitHostPort(b.metricsAddr)
	if err != nil {
		t.Fatal(err)
	}
	_, reader := b.adminToken("prometheus", "read")
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: trusting(t, b.root(), nil)}}
	for _, c := range []struct {
		path, secret string
		want         int
	}{
		{"/metrics", "", 401}, {"/metrics", reader, 200}, {"/api/v1/devices", "", 401}, {"/api/v1/devices", reader, 200},
		{"/healthz", "", 200}, {"/readyz", "", 200},
	} {
		var headers []string
		if c.secret != "" {
			headers = bearer(c.secret)
		}
		for _, host := range []string{"127.0.0.1", "localhost"} {
			if said := send(t, client, "GET", "https://"+host+":"+port+c.path, "", headers...); said.status != c.want {
				t.Errorf("%s%s, with a token %v: %d, want %d", host, c.path, c.secret != "", said.status, c.want)
			}
		}
	}
	if said := send(t, http.DefaultClient, "GET", "http://127.0.0.1:"+port+"/api/v1/devices", "", bearer(reader)...); said.status != http.StatusBadRequest {
		t.Errorf("in the clear: %d %s", said.status, said.body)
	}
}
