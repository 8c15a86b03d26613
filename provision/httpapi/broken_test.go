package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/provision/httpapi"
)

// resetBox does with a reset of the clock whatever a test wants.
type resetBox struct {
	fixedBox
	reset func() error
}

func (b resetBox) ResetClock(context.Context) error { return b.reset() }

// over another admin API of the same parts, with some changed.
func (f *face) adminWith(change func(*httpapi.Admin)) (base, bearer string) {
	f.t.Helper()
	_, secret := f.token("admin")
	parts := f.parts
	change(&parts)
	addr := f.run(httpapi.NewAdminTCP(httpapi.Defaults(), listen(f.t, "tcp", "127.0.0.1:0"), parts, httpapi.Gate{Metrics: http.NotFoundHandler()}, f.logger))
	return "http://" + addr, "Bearer " + secret
}

// TestFailedChanges: what failed is in the audit log where it may be half done,
// and not where nothing was done.
func TestFailedChanges(t *testing.T) {
	f := newFace(t)
	f.traffic.off.Store(true)
	for _, c := range []struct {
		name   string
		reset  func() error
		want   int
		reason any // of the entry; "" for no entry
	}{
		{"done", func() error { return nil }, 200, nil},
		{"refused", func() error { return edgeclaim.ErrConflict }, 409, ""},
		{"failed", func() error { return errors.New("the disk") }, 500, "failed"},
		{"cannot", func() error { return edgeclaim.ErrUnavailable }, 503, "failed"},
		{"panicked", func() error { panic("half done") }, 500, "failed"},
		{"broken off", func() error { panic(http.ErrAbortHandler) }, 0, "failed"},
	} {
		base, bearer := f.adminWith(func(a *httpapi.Admin) { a.Box = resetBox{reset: c.reset} })
		before := len(f.changes())
		response, err := http.DefaultClient.Do(f.request("POST", base+"/api/v1/clock/reset", "", "Authorization", bearer))
		if err == nil {
			response.Body.Close()
		}
		if (err == nil) != (c.want != 0) || err == nil && response.StatusCode != c.want {
			t.Errorf("%s: %v, %v", c.name, response, err)
		}
		changes := f.changes()[before:]
		switch {
		case c.reason == "" && len(changes) > 0:
			t.Errorf("%s: audited as %v", c.name, changes)
		case c.reason != "" && (len(changes) != 1 || changes[0]["kind"] != audit.KindClockReset || changes[0]["reason"] != c.reason):
			t.Errorf("%s: audited as %v", c.name, changes)
		}
	}
}

// TestWithoutParts: a box whose CA, audit log or tokens cannot be used says so,
// and goes on with what it has.
func TestWithoutParts(t *testing.T) {
	f := newFace(t)
	base, bearer := f.adminWith(func(a *httpapi.Admin) { a.Authority, a.Audit = nil, nil })
	for route, want := range map[string]int{
		"GET /ca": 503, "GET /ca/root": 503, "POST /ca/csr": 503, "GET /audit": 503, "GET /audit/head": 503, "POST /audit/verify": 503,
		"POST /clock/reset": 200, "GET /status": 200, "GET /tokens": 200,
	} {
		method, path, _ := strings.Cut(route, " ")
		if response, body := f.ask(http.DefaultClient, f.request(method, base+"/api/v1"+path, "", "Authorization", bearer)); response.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", route, response.StatusCode, body, want)
		}
	}
	if log := f.log.String(); !strings.Contains(log, `msg="admin request not audited: there is no audit log" kind=clock.reset who=token:admin-1`) {
		t.Errorf("the log does not say that a change was not audited: %s", log)
	}
	base, bearer = f.adminWith(func(a *httpapi.Admin) { a.Tokens = nil })
	if response, _ := f.ask(http.DefaultClient, f.request("GET", base+"/api/v1/status", "", "Authorization", bearer)); response.StatusCode != 401 {
		t.Errorf("without tokens: %d", response.StatusCode)
	}
}
