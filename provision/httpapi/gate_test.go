package httpapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"edgeclaim/internal/audit"
	"edgeclaim/internal/token"
)

// ask sends a request and returns the answer with its body.
func (f *face) ask(client *http.Client, request *http.Request) (*http.Response, string) {
	f.t.Helper()
	response, err := client.Do(request)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return response, string(body)
}

func (f *face) request(method, target, body string, headers ...string) *http.Request {
	f.t.Helper()
	request, err := http.NewRequestWithContext(f.t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
			continue
		}
		request.Header.Add(headers[i], headers[i+1])
	}
	return request
}

// over asks the admin API over TCP.
func (f *face) over(method, path, body string, headers ...string) (*http.Response, string) {
	f.t.Helper()
	return f.ask(http.DefaultClient, f.request(method, f.tcp+path, body, headers...))
}

// token makes a token by the socket.
func (f *face) token(scope token.Scope) (id, secret string) {
	f.t.Helper()
	var made struct {
		ID    string `json:"token_id"`
		Token string
	}
	if status := f.call("POST", "/api/v1/tokens", `{"name":"`+string(scope)+`-1","scope":"`+string(scope)+`"}`, &made); status != 201 {
		f.t.Fatalf("token: %d", status)
	}
	return made.ID, made.Token
}

func parse[T any](t testing.TB, body string) T {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return value
}

// TestScopes: over TCP each route asks for its scope, whatever else is wrong
// with the request, and lets nobody in without a token.
func TestScopes(t *testing.T) {
	f := newFace(t)
	f.traffic.off.Store(true) // what is let in here is mostly refused for something else
	secrets := map[token.Scope]string{}
	for _, scope := range []token.Scope{token.ScopeRead, token.ScopeOperate, token.ScopeAdmin} {
		_, secrets[scope] = f.token(scope)
	}
	const nobody = `{"code":16,"message":"unauthenticated","details":[]}`
	const denied = `{"code":7,"message":"permission denied","details":[]}`
	for _, r := range f.parts.Routes() {
		path := strings.NewReplacer(":id", "none", ":command_id", "none").Replace(r.Path)
		response, body := f.over(r.Method, path, "[")
		if response.StatusCode != 401 || body != nobody || response.Header.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s %s without a token: %d %s", r.Method, path, response.StatusCode, body)
		}
		for scope, secret := range secrets {
			response, body := f.over(r.Method, path, "[", "Authorization", "bearer "+secret)
			allowed := scope.Allows(token.Scope(r.Scope))
			if refused := response.StatusCode == 403 && body == denied; allowed == refused || response.StatusCode == 401 {
				t.Errorf("%s %s with %s: %d %s", r.Method, path, scope, response.StatusCode, body)
			}
		}
	}
}

// TestTokens: whatever is wrong with a token is answered by the same bytes.
func TestTokens(t *testing.T) {
	f := newFace(t)
	id, good := f.token(token.ScopeAdmin)
	expired, secret, err := token.New("old", token.ScopeAdmin, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.tokens.Create(t.Context(), expired); err != nil {
		t.Fatal(err)
	}
	status := func(headers ...string) (int, string) {
		response, body := f.over("GET", "/api/v1/status", "", headers...)
		return response.StatusCode, body
	}
	for _, headers := range [][]string{
		{}, {"Authorization", ""}, {"Authorization", "Bearer"}, {"Authorization", "Bearer "}, {"Authorization", "Basic " + good},
		{"Authorization", good}, {"Authorization", "Bearer  " + good}, {"Authorization", "Bearer " + good + "x"},
		{"Authorization", "Bearer " + strings.Repeat("x", 4000)}, {"Authorization", "Bearer " + secret.Reveal()},
		{"Authorization", "Bearer " + good, "Authorization", "Bearer " + good}, {"X-API-Key", good},
	} {
		if got, body := status(headers...); got != 401 || body != `{"code":16,"message":"unauthenticated","details":[]}` {
			t.Errorf("%.60q: %d %s", headers, got, body)
		}
	}
	if got, body := status("Authorization", "Bearer "+good); got != 200 {
		t.Errorf("a good token: %d %s", got, body)
	}
	if response, body := f.over("DELETE", "/api/v1/tokens/"+id, "", "Authorization", "Bearer "+good); response.StatusCode != 200 || strings.Contains(body, good) {
		t.Errorf("revoke: %d %s", response.StatusCode, body)
	}
	if got, _ := status("Authorization", "Bearer "+good); got != 401 {
		t.Errorf("a revoked token: %d", got)
	}
	changes := f.changes()
	if last := changes[len(changes)-1]; last["kind"] != "token.revoked" || last["who"] != "token:admin-1" || last["source"] != "127.0.0.1" {
		t.Errorf("audited as %v", last)
	}
	// What waits is written with what has to be.
	if err := f.audit.Must(t.Context(), audit.Entry{Kind: audit.KindAlarm}); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, e := range f.entries() {
		if e["kind"] == audit.KindAdminRefused && e["reason"] == "token" && e["source"] == "127.0.0.1" {
			refused++
		}
	}
	if refused != 13 {
		t.Errorf("%d refusals are audited, want 13", refused)
	}
	if log := f.log.String(); strings.Contains(log, good) {
		t.Error("the log has the token")
	}
}

// TestHostAndOrigin: over TCP a request has to mean this listener.
func TestHostAndOrigin(t *testing.T) {
	f := newFace(t)
	_, secret := f.token(token.ScopeRead)
	bearer := "Bearer " + secret
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want    int
		headers []string
	}{
		{200, []string{"Host", "127.0.0.1"}},
		{200, []string{"Host", "127.0.0.1:1"}},
		{200, []string{"Host", "localhost"}},
		{200, []string{"Host", "LOCALHOST.:9090"}},
		{200, []string{"Host", name}},
		{200, []string{"Host", "line-4.plant.example"}},
		{200, []string{"Host", "[2001:db8::1]"}},
		{421, []string{"Host", "evil.example"}},
		{421, []string{"Host", "127.0.0.1.evil.example"}},
		{421, []string{"Host", "127.0.0.2"}},
		{421, []string{"Host", "[::1]:9090"}},
		{421, []string{"Host", "localhost.evil.example"}},
		{200, []string{"Origin", "http://localhost:3000"}},
		{200, []string{"Origin", "https://line-4.plant.example"}},
		{403, []string{"Origin", "http://evil.example"}},
		{403, []string{"Origin", "null"}},
		{403, []string{"Origin", "file://localhost"}},
		{403, []string{"Origin", "http://localhost", "Origin", "http://evil.example"}},
		{403, []string{"Sec-Fetch-Site", "cross-site"}},
		{200, []string{"Sec-Fetch-Site", "same-origin"}},
	} {
		response, body := f.over("GET", "/api/v1/ca", "", append(c.headers, "Authorization", bearer)...)
		if response.StatusCode != c.want {
			t.Errorf("%q: %d %s, want %d", c.headers, response.StatusCode, body, c.want)
		}
		for header := range response.Header {
			if strings.HasPrefix(header, "Access-Control-") {
				t.Errorf("%q: answered with %s", c.headers, header)
			}
		}
	}
	if response, _ := f.over("GET", "/healthz", "", "Host", "evil.example"); response.StatusCode != 200 {
		t.Errorf("a probe: %d", response.StatusCode)
	}
	if response, _ := f.over("OPTIONS", "/api/v1/ca", "", "Origin", "http://evil.example"); response.StatusCode != 405 {
		t.Errorf("a preflight: %d", response.StatusCode)
	}
}

// TestNoContentEncoding: nothing is ever unpacked.
func TestNoContentEncoding(t *testing.T) {
	f := newFace(t)
	_, secret := f.token(token.ScopeAdmin)
	for _, target := range []string{
		f.claims + "/api/v1/provision", f.claims + "/api/v1/credentials/rotate", f.tcp + "/api/v1/deny",
	} {
		response, body := f.ask(http.DefaultClient, f.request("POST", target, "\x1f\x8b", "Content-Type", "application/json",
			"Content-Encoding", "gzip", "Authorization", "Bearer "+secret))
		if response.StatusCode != 415 || body != `{"code":3,"message":"content_encoding: want identity","details":[]}` {
			t.Errorf("%s: %d %s", target, response.StatusCode, body)
		}
	}
	_, _, key := f.issue()
	if response, body := f.ask(http.DefaultClient, f.request("POST", f.claims+"/api/v1/provision", claim(key, "H"),
		"Content-Type", "application/json", "Content-Encoding", "identity")); response.StatusCode != 200 {
		t.Errorf("identity: %d %s", response.StatusCode, body)
	}
}
