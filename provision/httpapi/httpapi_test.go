package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/clock"
	"edgeclaim/provision"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
)

// face is the claim listener and the admin API over a real rule and store.
type face struct {
	t        testing.TB
	claims   string // base URL
	admin    *http.Client
	log      *safeBuffer
	way      *way
	notReady atomic.Pointer[error]
	panics   atomic.Bool
}

// flaky lets a test make the rule panic.
type flaky struct {
	*provision.Service
	f *face
}

func (r flaky) Answer(ctx context.Context, ask edgeclaim.Ask) edgeclaim.Answer {
	if r.f.panics.Load() {
		panic(fmt.Sprintf("cannot decide on %s", ask.Body))
	}
	return r.Service.Answer(ctx, ask)
}

// safeBuffer is a bytes.Buffer for several goroutines.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

type fixedBox struct{}

func (fixedBox) Status(context.Context) (edgeclaim.Status, error) {
	return edgeclaim.Status{BoxID: "box", Clock: edgeclaim.ClockStatus{State: edgeclaim.ClockSynced}}, nil
}
func (fixedBox) ResetClock(context.Context) error { return nil }

func newFace(t testing.TB) *face {
	t.Helper()
	f := &face{t: t, log: &safeBuffer{}, way: &way{}}
	cfg := store.Defaults()
	cfg.Dir = t.TempDir()
	db, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	logger := slog.New(slog.NewTextHandler(f.log, nil))
	rule := provision.New(provision.Config{BoxID: "box", Site: "site"}, db, systemClock(t, db), logger)

	listener := listen(t, "tcp", "127.0.0.1:0")
	ready := func(context.Context) error {
		if err := f.notReady.Load(); err != nil {
			return *err
		}
		return nil
	}
	claims, err := httpapi.NewClaims(httpapi.Defaults(), listener, flaky{rule, f}, ready, logger)
	if err != nil {
		t.Fatal(err)
	}
	f.claims = "http://" + claims.Addr().String()

	socket := t.TempDir() + "/admin.sock"
	admin, err := httpapi.NewAdmin(httpapi.Defaults(), listen(t, "unix", socket), parts(rule, fixedBox{}, f.way), logger)
	if err != nil {
		t.Fatal(err)
	}
	f.admin = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	run(t, claims)
	run(t, admin)
	return f
}

func systemClock(t testing.TB, db *store.DB) *clock.Clock {
	t.Helper()
	now := time.Now()
	c := clock.New(clock.Config{
		Wall: time.Now, Uptime: func() time.Duration { return time.Since(now) }, Synced: func() bool { return true }, Boot: "boot",
	}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err := c.Load(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return c
}

func listen(t testing.TB, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run serves until the test ends, and fails it when the stop is not orderly.
func run(t testing.TB, s *httpapi.Server) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func (f *face) call(method, path, body string, dst any) int {
	f.t.Helper()
	request, err := http.NewRequest(method, "http://box"+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	response, err := f.admin.Do(request)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	if dst != nil {
		if err := json.NewDecoder(response.Body).Decode(dst); err != nil {
			f.t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return response.StatusCode
}

const tenant = "3f0e3f5e-7f4e-4a57-9a0b-6a1c2d3e4f50"

// issue makes a template and a key.
func (f *face) issue() (templateID, keyID, key string) {
	f.t.Helper()
	var made struct {
		TemplateID string `json:"template_id"`
	}
	if status := f.call("POST", "/api/v1/templates", `{"tenant_id":"`+tenant+`","name":"T"}`, &made); status != http.StatusCreated {
		f.t.Fatalf("create: %d", status)
	}
	var keys []struct {
		KeyID        string `json:"key_id"`
		ProvisionKey string `json:"provision_key"`
		Warning      string
	}
	if status := f.call("POST", "/api/v1/templates/"+made.TemplateID+"/keys", "", &keys); status != http.StatusCreated || len(keys) != 1 {
		f.t.Fatalf("issue: %d, %d keys", status, len(keys))
	}
	if keys[0].Warning == "" {
		f.t.Error("an unbounded key was issued without a warning")
	}
	return made.TemplateID, keys[0].KeyID, keys[0].ProvisionKey
}

func (f *face) post(contentType, body string) (*http.Response, string) {
	f.t.Helper()
	response, err := http.Post(f.claims+"/api/v1/provision", contentType, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return response, string(said)
}

func claim(key, hardware string) string {
	return fmt.Sprintf(`{"provision_key":%q,"device_name":"n","hardware_id":%q}`, key, hardware)
}

func TestContentTypes(t *testing.T) {
	f := newFace(t)
	_, _, key := f.issue()
	for contentType, want := range map[string]int{
		"application/json":                   200,
		"application/json; charset=utf-8":    200,
		"application/json;charset=UTF-8":     200,
		`Application/JSON; charset="utf-8"`:  200,
		"application/json; charset=latin1":   415,
		"application/json; q=1":              415,
		"application/json, application/json": 415,
		"text/json":                          415,
		"":                                   415,
	} {
		response, body := f.post(contentType, claim(key, "H"))
		if response.StatusCode != want {
			t.Errorf("%q: %d %s, want %d", contentType, response.StatusCode, body, want)
		}
		if want == 415 && !strings.HasPrefix(body, `{"code":3,"message":"content_type: `) {
			t.Errorf("%q: %s", contentType, body)
		}
	}
}

// TestBodyLimit: a body that says it is too large is refused unread, one that
// does not say is cut off; both with 413.
func TestBodyLimit(t *testing.T) {
	f := newFace(t)
	huge := strings.Repeat("x", edgeclaim.MaxClaimBody+1)
	if response, body := f.post("application/json", huge); response.StatusCode != 413 || !strings.Contains(body, `"code":3,"message":"body: `) {
		t.Errorf("declared: %d %s", response.StatusCode, body)
	}
	request, err := http.NewRequest("POST", f.claims+"/api/v1/provision", io.MultiReader(strings.NewReader(huge), strings.NewReader(huge)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json") // and no length: chunked
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 413 {
		t.Errorf("chunked: %d", response.StatusCode)
	}
}

func TestRequestID(t *testing.T) {
	f := newFace(t)
	for sent, kept := range map[string]bool{"abc-1": true, "": false, "a b": false, strings.Repeat("x", 65): false} {
		request, err := http.NewRequest("GET", f.claims+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Request-Id", sent)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if got := response.Header.Get("X-Request-Id"); got == "" || (got == sent) != kept {
			t.Errorf("sent %q, answered %q", sent, got)
		}
	}
}

func TestPanicIs500(t *testing.T) {
	f := newFace(t)
	f.panics.Store(true)
	response, body := f.post("application/json", claim("pk_factory_boom", "h"))
	if response.StatusCode != 500 || body != `{"code":13,"message":"internal error","details":[]}` {
		t.Errorf("a panic is answered %d %s", response.StatusCode, body)
	}
	if text := f.log.String(); !strings.Contains(text, "panic_type=string") || strings.Contains(text, "boom") {
		t.Errorf("log: %s", text)
	}
	f.panics.Store(false)
	if response, _ := f.post("application/json", claim("k", "h")); response.StatusCode != 403 {
		t.Errorf("after the panic: %d", response.StatusCode)
	}
}

// TestRefusalDelayCountsFromTheLastByte: a claim is received when it is whole
// (P3). Who holds the last byte back learns nothing from the time of a refusal.
func TestRefusalDelayCountsFromTheLastByte(t *testing.T) {
	f := newFace(t)
	body := claim("pk_factory_never_issued", "H")
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.claims, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("POST /api/v1/provision HTTP/1.1\r\nHost: box\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body))
	if _, err := io.WriteString(conn, head+body[:len(body)-1]); err != nil {
		t.Fatal(err)
	}
	<-time.After(4 * edgeclaim.RefusalDelay)
	start := time.Now()
	if _, err := io.WriteString(conn, body[len(body)-1:]); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if took := time.Since(start); response.StatusCode != http.StatusForbidden || took < edgeclaim.RefusalDelay {
		t.Errorf("%d after %v, want 403 no sooner than %v", response.StatusCode, took, edgeclaim.RefusalDelay)
	}
}

func TestProbesAndUnknownPaths(t *testing.T) {
	f := newFace(t)
	failure := errors.New("the store's path is a secret of the box")
	status := func(method, path string) (int, string) {
		request, err := http.NewRequest(method, f.claims+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/healthz", 200}, {"GET", "/readyz", 200}, {"HEAD", "/healthz", 200}, {"HEAD", "/readyz", 200}, {"GET", "/nothing", 404}, {"GET", "/api/v1/provision", 405},
		{"POST", "/api/v1/provision/", 404}, {"GET", "/metrics", 404}, {"GET", "/api/v1/templates", 404},
	} {
		if got, body := status(c.method, c.path); got != c.want || got >= 400 && !strings.Contains(body, `"details":[]`) {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, got, body, c.want)
		}
	}
	f.notReady.Store(&failure)
	if got, body := status("GET", "/readyz"); got != 503 || strings.Contains(body, "secret") {
		t.Errorf("not ready: %d %s", got, body)
	}
	if got, _ := status("GET", "/healthz"); got != 200 {
		t.Errorf("alive while not ready: %d", got)
	}
}

// TestSlowHeaders: a peer that sends no header is cut off, by ReadHeaderTimeout.
func TestSlowHeaders(t *testing.T) {
	cfg := httpapi.Defaults()
	cfg.ReadHeaderTimeout = 50 * time.Millisecond
	server, err := httpapi.NewMetrics(cfg, listen(t, "tcp", "127.0.0.1:0"), http.NotFoundHandler(), nil, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	run(t, server)
	conn, err := net.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the silent peer got %v, want to be cut off", err)
	}
}

func TestAdmin(t *testing.T) {
	f := newFace(t)
	templateID, keyID, key := f.issue()
	if response, body := f.post("application/json", claim(key, "H1")); response.StatusCode != 200 {
		t.Fatal(body)
	}
	var devices []edgeclaim.Device
	if f.call("GET", "/api/v1/devices", "", &devices); len(devices) != 1 || devices[0].Hardware.String() != "H1" {
		t.Fatalf("devices %v", devices)
	}
	id := devices[0].ID.String()
	var keys []edgeclaim.Key
	if f.call("GET", "/api/v1/keys?template_id="+templateID, "", &keys); len(keys) != 1 || keys[0].Claims != 1 {
		t.Errorf("keys %v", keys)
	}
	var status edgeclaim.Status
	if f.call("GET", "/api/v1/status", "", &status); status.BoxID != "box" {
		t.Errorf("status %v", status)
	}
	sum := edgeclaim.NewSecret("k").Hash().String()
	for _, c := range []struct {
		method, path, body string
		want               int
		code               edgeclaim.Code
	}{
		{"GET", "/api/v1/templates", "", 200, 0},
		{"GET", "/api/v1/templates/" + templateID, "", 200, 0},
		{"GET", "/api/v1/templates/none", "", 404, 5},
		{"POST", "/api/v1/templates", `{"tenant_id":"nonsense","name":"n"}`, 400, 3},
		{"POST", "/api/v1/templates", `{"tenant_id":"` + tenant + `","name":"n","surprise":1}`, 400, 3},
		{"POST", "/api/v1/templates", `{"tenant_id":"` + tenant + `","name":"n"}{}`, 400, 3},
		{"POST", "/api/v1/templates", `{"tenant_id":"` + tenant + `","name":"n","max_claims":-1}`, 400, 3},
		{"POST", "/api/v1/templates", `{"tenant_id":"` + tenant + `","name":"n","credential_type":"psk"}`, 400, 3},
		{"POST", "/api/v1/templates/" + templateID + "/disable", "", 200, 0},
		{"POST", "/api/v1/templates/" + templateID + "/enable", "", 200, 0},
		{"POST", "/api/v1/templates/" + templateID + "/keys", `{"count":0}`, 400, 3},
		{"POST", "/api/v1/templates/none/keys", `{"count":1}`, 404, 5},
		{"POST", "/api/v1/templates/" + templateID + "/keys/import", `{"sha256":"` + sum + `"}`, 201, 0},
		{"POST", "/api/v1/templates/" + templateID + "/keys/import", `{"provision_key":"k"}`, 409, 6},
		{"POST", "/api/v1/templates/" + templateID + "/keys/import", `{}`, 400, 3},
		{"GET", "/api/v1/keys/" + keyID, "", 200, 0},
		{"GET", "/api/v1/keys?template_id=none", "", 404, 5},
		{"POST", "/api/v1/keys/" + keyID + "/disable", "", 200, 0},
		{"POST", "/api/v1/keys/" + keyID + "/enable", "", 200, 0},
		{"POST", "/api/v1/keys/" + keyID + "/revoke", "", 200, 0},
		{"POST", "/api/v1/keys/" + keyID + "/enable", "", 409, 10},
		{"GET", "/api/v1/devices?limit=1", "", 200, 0},
		{"GET", "/api/v1/devices?limit=1&after=" + id, "", 200, 0},
		{"GET", "/api/v1/devices?limit=0", "", 400, 3},
		{"GET", "/api/v1/devices?limit=1&after=x", "", 400, 3},
		{"GET", "/api/v1/devices/" + id, "", 200, 0},
		{"GET", "/api/v1/devices/x", "", 400, 3},
		{"GET", "/api/v1/devices/" + strings.Replace(id, id[:8], "00000000", 1), "", 404, 5},
		{"POST", "/api/v1/devices/" + id + "/release", "", 200, 0},
		{"GET", "/api/v1/clock", "", 200, 0},
		{"POST", "/api/v1/clock/reset", "", 200, 0},
		{"GET", "/metrics", "", 404, 5},
	} {
		var raw json.RawMessage
		status := f.call(c.method, c.path, c.body, &raw)
		var doc struct{ Code edgeclaim.Code }
		_ = json.Unmarshal(raw, &doc) // a list has none
		if status != c.want || doc.Code != c.code {
			t.Errorf("%s %s %s: %d %s, want %d", c.method, c.path, c.body, status, raw, c.want)
		}
	}
}

// TestListIsWhole: more rows than a page, each once, as one JSON array.
func TestListIsWhole(t *testing.T) {
	f := newFace(t)
	templateID, _, key := f.issue()
	var issued []json.RawMessage
	if status := f.call("POST", "/api/v1/templates/"+templateID+"/keys", `{"count":2500}`, &issued); status != 201 || len(issued) != 2500 {
		t.Fatalf("issue: %d, %d", status, len(issued))
	}
	var keys []edgeclaim.Key
	f.call("GET", "/api/v1/keys", "", &keys)
	seen := map[edgeclaim.KeyID]bool{}
	for _, k := range keys {
		seen[k.ID] = true
	}
	if len(keys) != 2501 || len(seen) != 2501 {
		t.Errorf("%d keys listed, %d different, want 2501", len(keys), len(seen))
	}
	var none []edgeclaim.Device
	if f.call("GET", "/api/v1/devices", "", &none); none == nil || len(none) != 0 {
		t.Errorf("no devices are %v, want []", none)
	}
	_ = key
}
