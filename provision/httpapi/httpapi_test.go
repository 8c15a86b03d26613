package httpapi_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision/httpapi"
)

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
	for _, problem := range []*error{&failure, nil, &failure} { // anybody may ask, as often as he likes
		f.notReady.Store(problem)
		status("GET", "/readyz")
		status("GET", "/readyz")
	}
	if said := strings.Count(f.log.String(), `msg="not ready"`); said != 2 {
		t.Errorf("said %d times in the log, want once for each time that it began:\n%s", said, f.log)
	}
}

// TestSlowHeaders: a peer that sends no header is cut off, by ReadHeaderTimeout.
func TestSlowHeaders(t *testing.T) {
	cfg := httpapi.Defaults()
	cfg.ReadHeaderTimeout = 50 * time.Millisecond
	server, err := httpapi.NewAdminTCP(cfg, listen(t, "tcp", "127.0.0.1:0"), parts(nil, fixedBox{}, &way{}),
		httpapi.Gate{Metrics: http.NotFoundHandler()}, slog.New(slog.DiscardHandler))
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
		{"POST", "/api/v1/templates", `{"tenant_id":"` + tenant + `","name":"n","credential_type":"psk"}`, 201, 0},
		{"POST", "/api/v1/templates", `{"tenant_id":"` + tenant + `","name":"n","credential_type":"rsa"}`, 400, 3},
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
