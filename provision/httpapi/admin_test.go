package httpapi_test

import (
	"context"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/clock"
	"edgeclaim/provision"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
)

// brokenBox has a status that JSON cannot say.
type brokenBox struct{ fixedBox }

func (brokenBox) Status(context.Context) (edgeclaim.Status, error) {
	far := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	return edgeclaim.Status{UptimeSeconds: math.NaN(), Clock: edgeclaim.ClockStatus{Floor: far}}, nil
}

// What cannot be encoded is an internal error, with its document and its
// length, on every way out of the admin API; not an empty success.
func TestAnswerThatCannotBeEncoded(t *testing.T) {
	cfg := store.Defaults()
	cfg.Dir = t.TempDir()
	db, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	far := func() time.Time { return time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) } // of which JSON knows none
	discard := slog.New(slog.DiscardHandler)
	now := clock.New(clock.Config{Wall: far, Synced: func() bool { return false }, Boot: "boot"}, discard)
	rule := provision.New(provision.Config{BoxID: "box", Site: "site"}, provision.Parts{Store: db, Clock: now}, discard)
	template := createTemplate(t, rule)
	keys, err := rule.IssueKeys(t.Context(), template.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	client := serveAdmin(t, rule, brokenBox{}, discard)

	for _, tt := range []struct{ name, method, path, body string }{
		{"status", "GET", "/status", ""},
		{"clock", "GET", "/clock", ""},
		{"reset", "POST", "/clock/reset", ""},
		{"create", "POST", "/templates", `{"tenant_id":"` + tenant + `","name":"T"}`},
		{"list", "GET", "/templates", ""},
		{"show", "GET", "/templates/" + template.ID.String(), ""},
		{"issue", "POST", "/templates/" + template.ID.String() + "/keys", ""},
		{"stream", "GET", "/keys", ""},
		{"change", "POST", "/keys/" + keys[0].Key.ID.String() + "/disable", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), tt.method, "http://box/api/v1"+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			const want = `{"code":13,"message":"internal error","details":[]}`
			if response.StatusCode != http.StatusInternalServerError || string(body) != want {
				t.Errorf("%d %q, want 500 %q", response.StatusCode, body, want)
			}
		})
	}
}

// createTemplate makes a template by the rule itself.
func createTemplate(t *testing.T, rule *provision.Service) edgeclaim.Template {
	t.Helper()
	id, err := edgeclaim.ParseTenantID(tenant)
	if err != nil {
		t.Fatal(err)
	}
	template, err := rule.CreateTemplate(t.Context(), edgeclaim.Template{Tenant: id, Name: "T"})
	if err != nil {
		t.Fatal(err)
	}
	return template
}

// serveAdmin serves the admin API until the test ends and returns a client of it.
func serveAdmin(t *testing.T, rule *provision.Service, box httpapi.Box, logger *slog.Logger) *http.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "admin.sock")
	admin, err := httpapi.NewAdmin(httpapi.Defaults(), listen(t, "unix", socket), parts(rule, box, &way{}), logger)
	if err != nil {
		t.Fatal(err)
	}
	run(t, admin)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: 30 * time.Second, Transport: transport}
}

// The admin API is for root and the box's own user: where the kernel does not
// say who connects, nobody is let in.
func TestAdminAsksWhoConnects(t *testing.T) {
	admin, err := httpapi.NewAdmin(httpapi.Defaults(), listen(t, "tcp", "127.0.0.1:0"), parts(nil, fixedBox{}, &way{}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	run(t, admin)
	response, err := http.Get("http://" + admin.Addr().String() + "/api/v1/status")
	if err == nil {
		response.Body.Close()
		t.Errorf("answered %d", response.StatusCode)
	}
}
