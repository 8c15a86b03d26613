package httpapi_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision/httpapi"
)

const point = `{"numeric_values":{"temperature":21.5}}`

// device is one that claimed, with an API key.
func (f *face) device(hardware string) credential {
	f.t.Helper()
	_, _, key := f.issue()
	return f.claimed(key, hardware)
}

// serving is a listener of its own with the face's parts.
func (f *face) serving(cfg httpapi.Config) (base string) {
	f.t.Helper()
	line := f.line()
	line.Reports, line.Commands, line.Configs = f.work, f.work, f.work
	return "http://" + f.run(httpapi.NewClaims(cfg, listen(f.t, "tcp", "127.0.0.1:0"), line, quiet()))
}

// send writes a device's request by hand, with what is to be of its body.
func send(t *testing.T, base string, device credential, request string, length int, body string) net.Conn {
	t.Helper()
	conn := dial(t, strings.TrimPrefix(base, "http://"))
	if _, err := fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: box\r\nX-API-Key: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		request, device.APIKey, length, body); err != nil {
		t.Fatal(err)
	}
	return conn
}

// hear reads the answer to that.
func hear(t *testing.T, conn net.Conn) (*http.Response, string) {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// TestReports: what each body is answered, on both routes; whose it is comes from
// the credential.
func TestReports(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	for _, c := range []struct {
		path, contentType, body string
		status                  int
		want                    string
	}{
		{"telemetry", "application/json", point, 200, `{"accepted":1,"rejected":0}`},
		{"telemetry", "application/json; charset=utf-8", "[" + point + "," + point + "]", 200, `{"accepted":2,"rejected":0}`},
		{"telemetry", "application/json", `[` + point + `,{"string_values":{"bad":"x"}}]`, 200, `{"accepted":1,"rejected":1}`},
		{"telemetry", "application/json", `{"numeric_values":{"bad":"x"}}`, 400, `{"code":3,"message":"numeric_values.bad: want a number","details":[]}`},
		{"telemetry", "application/json", ``, 400, `{"code":3,"message":"numeric_values.bad: want a number","details":[]}`},
		{"telemetry", "application/cbor", point, 415, `{"code":3,"message":"content_type: want application/json","details":[]}`},
		{"telemetry", "text/plain", point, 415, `{"code":3,"message":"content_type: want application/json","details":[]}`},
		{"telemetry", "", point, 415, `{"code":3,"message":"content_type: want application/json","details":[]}`},
		{"events", "application/json", `{"type":"door"}`, 200, `{"accepted":1,"rejected":0}`},
		{"events", "application/json", `{"command_id":"one","status":"successful"}`, 200, `{"accepted":1,"rejected":0}`},
		{"events", "application/cbor", `{"type":"door"}`, 415, `{"code":3,"message":"content_type: want application/json","details":[]}`},
	} {
		response, body := f.ask(http.DefaultClient, f.request("POST", f.claims+"/api/v1/"+c.path, c.body,
			"Authorization", "Bearer "+device.APIKey, "Content-Type", c.contentType))
		if response.StatusCode != c.status || body != c.want || response.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %q %s: %d %s, want %d %s", c.path, c.contentType, c.body, response.StatusCode, body, c.status, c.want)
		}
	}
	f.work.mu.Lock()
	defer f.work.mu.Unlock()
	if len(f.work.reports) != 5 {
		t.Fatalf("%d reports arrived", len(f.work.reports))
	}
	for i, r := range f.work.reports {
		if r.By.Device.String() != device.DeviceID || r.By.Tenant.String() != tenant || r.Via != edgeclaim.ViaHTTP ||
			r.Source.String() != "127.0.0.1" || r.Fleeting {
			t.Errorf("report %d: %+v", i, r)
		}
	}
	if got := string(f.work.reports[0].Body); got != point {
		t.Errorf("the body arrived as %s", got)
	}
	var want []string
	for _, said := range []string{
		"telemetry " + point, "telemetry " + point, "telemetry " + point, "telemetry " + point,
		`event {"type":"door"}`, `event {"command_id":"one","status":"successful"}`,
	} {
		kind, body, _ := strings.Cut(said, " ")
		want = append(want, kind+" "+device.DeviceID+" "+body)
	}
	if !slices.Equal(f.work.heard, want) { // each by itself, and only what was accepted
		t.Errorf("heard %q, want %q", f.work.heard, want)
	}
}

// TestReportLogins: who is not let in is answered alike, no sooner than a refusal,
// and without his body.
func TestReportLogins(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	const nobody = `{"code":16,"message":"unauthenticated","details":[]}`
	for _, route := range []string{"POST telemetry", "POST events", "GET commands", "GET config"} {
		method, path, _ := strings.Cut(route, " ")
		for _, headers := range [][]string{{}, {"X-API-Key", "sk_live_wrong"}, {"Authorization", "Basic " + device.APIKey}} {
			start := time.Now()
			response, body := f.ask(http.DefaultClient, f.request(method, f.claims+"/api/v1/"+path, "[", headers...))
			if took := time.Since(start); response.StatusCode != 401 || body != nobody || took < edgeclaim.RefusalDelay {
				t.Errorf("%s %q: %d %s after %v", route, headers, response.StatusCode, body, took)
			}
		}
		response, body := f.ask(http.DefaultClient, f.request(method, f.claims+"/api/v1/"+path, strings.Repeat(" ", 2*edgeclaim.MaxReport)))
		if response.StatusCode != 401 || body != nobody {
			t.Errorf("%s with a body that nobody reads: %d %s", route, response.StatusCode, body)
		}
	}
	if response, body := f.work.ask(f, device, "POST", "telemetry", point); response.StatusCode != 200 {
		t.Fatalf("before it is revoked: %d %s", response.StatusCode, body)
	}
	f.call("POST", "/api/v1/devices/"+device.DeviceID+"/revoke", "", nil)
	for _, route := range []string{"POST telemetry", "POST events", "GET commands", "GET config"} {
		method, path, _ := strings.Cut(route, " ")
		if response, _ := f.work.ask(f, device, method, path, point); response.StatusCode != 401 {
			t.Errorf("%s of a revoked device, on a connection kept open: %d", route, response.StatusCode)
		}
	}
}

// TestReportByCertificate: a certificate lets a device say something, too.
func TestReportByCertificate(t *testing.T) {
	f := newFace(t)
	_, key := f.template(`,"credential_type":"x509"`)
	board := f.claimed(key, "H")
	client := f.secureClient(&board)
	request := f.request("POST", f.secure+"/api/v1/telemetry", point, "Content-Type", "application/json")
	if response, body := f.ask(client, request); response.StatusCode != 200 || response.TLS == nil || response.TLS.Version < tls.VersionTLS12 {
		t.Errorf("%d %s", response.StatusCode, body)
	}
	f.work.mu.Lock()
	defer f.work.mu.Unlock()
	if len(f.work.reports) != 1 || f.work.reports[0].By.Device.String() != board.DeviceID {
		t.Errorf("%v", f.work.reports)
	}
}

// TestReportIsDurable: nothing is answered before the commit has ended, and what
// its end was.
func TestReportIsDurable(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	const unavailable = `{"code":14,"message":"unavailable","details":[]}`
	for i, c := range []struct {
		end    error
		status int
		body   string
	}{
		{nil, 200, `{"accepted":1,"rejected":0}`},
		{fmt.Errorf("sync: %w", edgeclaim.ErrUnavailable), 503, unavailable},
	} {
		commit := edgeclaim.NewCommit()
		f.work.mu.Lock()
		f.work.commit = commit
		f.work.mu.Unlock()
		conn := send(t, f.claims, device, "POST /api/v1/telemetry", len(point), point)
		f.until("the report has arrived", func() bool {
			f.work.mu.Lock()
			defer f.work.mu.Unlock()
			return len(f.work.reports) == i+1
		})
		if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("answered before the commit: %d, %v", n, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		commit.End(c.end)
		if response, body := hear(t, conn); response.StatusCode != c.status || body != c.body ||
			(c.status == 503) != (response.Header.Get("Retry-After") != "") {
			t.Errorf("%v: %d %s", c.end, response.StatusCode, body)
		}
	}
	f.work.mu.Lock()
	f.work.commit = edgeclaim.NewCommit() // that never ends
	f.work.mu.Unlock()
	conn := send(t, f.serving(hurried()), device, "POST /api/v1/events", 2, "{}")
	if response, body := hear(t, conn); response.StatusCode != 503 || body != unavailable {
		t.Errorf("a disk that hangs: %d %s", response.StatusCode, body)
	}
}

// TestReportFaults: what is refused, and what is the box's own fault.
func TestReportFaults(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	for _, c := range []struct {
		fault  error
		status int
		body   string
		retry  string
	}{
		{edgeclaim.ErrThrottled, 429, `{"code":8,"message":"too many requests","details":[]}`, "1"},
		{edgeclaim.ErrUnavailable, 503, `{"code":14,"message":"unavailable","details":[]}`, "5"},
		{errors.New("the disk said boom"), 500, `{"code":13,"message":"internal error","details":[]}`, ""},
	} {
		f.work.failing(func(string) error { return c.fault })
		for _, path := range []string{"telemetry", "events"} {
			response, body := f.work.ask(f, device, "POST", path, point)
			if response.StatusCode != c.status || body != c.body || response.Header.Get("Retry-After") != c.retry {
				t.Errorf("%s, %v: %d %s, Retry-After %q", path, c.fault, response.StatusCode, body, response.Header.Get("Retry-After"))
			}
		}
	}
	if !strings.Contains(f.log.String(), "the disk said boom") {
		t.Error("the log does not say what the box's fault was")
	}
}

// TestReportSizes: what is at the limit is taken, what is above it is not, whether
// it says so or not.
func TestReportSizes(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	const limit = `{"code":3,"message":"body: larger than 262144 bytes","details":[]}`
	for _, size := range []int{len(point), 16<<10 - 1, 16 << 10, 16<<10 + 1, edgeclaim.MaxReport, edgeclaim.MaxReport + 1, 1 << 20} {
		body := point + strings.Repeat(" ", size-len(point))
		for _, chunked := range []bool{false, true} {
			request := f.request("POST", f.claims+"/api/v1/telemetry", body, "X-API-Key", device.APIKey, "Content-Type", "application/json")
			if chunked {
				request.ContentLength = -1
				request.Body = io.NopCloser(strings.NewReader(body))
			}
			want, said := 200, `{"accepted":1,"rejected":0}`
			if size > edgeclaim.MaxReport {
				want, said = 413, limit
			}
			if response, answer := f.ask(http.DefaultClient, request); response.StatusCode != want || answer != said {
				t.Errorf("%d bytes, chunked %v: %d %s", size, chunked, response.StatusCode, answer)
			}
		}
	}
	f.work.mu.Lock()
	defer f.work.mu.Unlock()
	for _, r := range f.work.reports {
		if !strings.HasPrefix(string(r.Body), point) || strings.TrimRight(string(r.Body[len(point):]), " ") != "" {
			t.Errorf("a body of %d bytes arrived changed", len(r.Body))
		}
	}
}

// TestReportHalfAConnection: who closes his half behind the request hears his
// answer.
func TestReportHalfAConnection(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	commit := edgeclaim.NewCommit()
	f.work.mu.Lock()
	f.work.commit = commit
	f.work.mu.Unlock()
	var conns []net.Conn
	for range 20 {
		conn := send(t, f.claims, device, "POST /api/v1/telemetry", len(point), point)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	f.until("the reports have arrived", func() bool {
		f.work.mu.Lock()
		defer f.work.mu.Unlock()
		return len(f.work.reports) == len(conns)
	})
	<-time.After(edgeclaim.RefusalDelay) // net/http knows by then that they are half closed
	commit.End(nil)
	for _, conn := range conns {
		if response, body := hear(t, conn); response.StatusCode != 200 {
			t.Errorf("%d %s", response.StatusCode, body)
		}
	}
}

// TestWithoutWork: where nobody takes it, the routes are not there.
func TestWithoutWork(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	base := "http://" + f.run(httpapi.NewClaims(httpapi.Defaults(), listen(t, "tcp", "127.0.0.1:0"), f.line(), quiet()))
	for _, route := range []string{"POST telemetry", "POST events", "GET commands", "GET config", "GET nothing"} {
		method, path, _ := strings.Cut(route, " ")
		response, body := f.ask(http.DefaultClient, f.request(method, base+"/api/v1/"+path, "", "X-API-Key", device.APIKey))
		if response.StatusCode != 404 || body != `{"code":5,"message":"not found","details":[]}` {
			t.Errorf("%s: %d %s", route, response.StatusCode, body)
		}
	}
}

// TestRoomForClaims: where few connections are left, those of devices at work end
// with their answers, and claims' do not.
func TestRoomForClaims(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	cfg := httpapi.Defaults()
	cfg.MaxConnections = 8
	base := f.serving(cfg)
	var idle []net.Conn
	ask := func(request, body string) *http.Response {
		conn := send(t, base, device, request, len(body), body)
		idle = append(idle, conn)
		response, _ := hear(t, conn)
		return response
	}
	for i := range 6 {
		if response := ask("POST /api/v1/telemetry", point); response.StatusCode != 200 || response.Close {
			t.Fatalf("connection %d: %d, closes %v", i+1, response.StatusCode, response.Close)
		}
	}
	if response := ask("POST /api/v1/provision", "{}"); response.StatusCode != 400 || response.Close {
		t.Errorf("a claim with few connections left: %d, closes %v", response.StatusCode, response.Close)
	}
	for range 4 { // more than there are places: each gives its own back
		if response := ask("POST /api/v1/telemetry", point); response.StatusCode != 200 || !response.Close {
			t.Errorf("telemetry with few connections left: %d, closes %v", response.StatusCode, response.Close)
		}
	}
	if response := ask("GET /api/v1/commands", ""); response.StatusCode != 429 || !response.Close {
		t.Errorf("a poll with few connections left: %d, closes %v", response.StatusCode, response.Close)
	}
	for _, conn := range idle {
		conn.Close()
	}
	f.until("there is room again", func() bool {
		conn := send(t, base, device, "POST /api/v1/telemetry", len(point), point)
		defer conn.Close()
		response, _ := hear(t, conn)
		return response.StatusCode == 200 && !response.Close
	})
}
