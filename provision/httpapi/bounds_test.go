package httpapi_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"edgeclaim/provision/httpapi"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hurried are limits that a test can wait for.
func hurried() httpapi.Config {
	cfg := httpapi.Defaults()
	cfg.ReadHeaderTimeout, cfg.ReadTimeout = 100*time.Millisecond, 200*time.Millisecond
	cfg.ClaimTimeout, cfg.WriteTimeout = 200*time.Millisecond, 300*time.Millisecond
	return cfg
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// line is what the face's own claim listener serves.
func (f *face) line() httpapi.Line {
	return httpapi.Line{Claims: f.rule, Devices: f.rule}
}

// TestSlowDevices: who sends nothing, half a header, half a body or half a
// handshake is cut off.
func TestSlowDevices(t *testing.T) {
	f := newFace(t)
	plain := f.run(httpapi.NewClaims(hurried(), listen(t, "tcp", "127.0.0.1:0"), f.line(), quiet()))
	secured := f.line()
	secured.TLS = serverTLS(t, f.issuer, f.parts.Now)
	secure := f.run(httpapi.NewClaims(hurried(), listen(t, "tcp", "127.0.0.1:0"), secured, quiet()))
	const head = "POST /api/v1/provision HTTP/1.1\r\nHost: box\r\nContent-Type: application/json\r\n"
	for name, c := range map[string]struct {
		addr, sent string
		want       string // how the answer begins, if there is one: a busy machine has no time left for it
	}{
		"nothing":          {plain, "", "HTTP/1.1 408 "},
		"half a header":    {plain, head, "HTTP/1.1 408 "},
		"half a body":      {plain, head + "Content-Length: 100\r\n\r\n{", "HTTP/1.1 400 "},
		"half a chunk":     {plain, head + "Transfer-Encoding: chunked\r\n\r\n5\r\n{", "HTTP/1.1 400 "},
		"no handshake":     {secure, "", "HTTP/1.1 408 "},
		"half a handshake": {secure, "\x16\x03\x01\x02\x00\x01", "HTTP/1.1 408 "},
	} {
		conn := dial(t, c.addr)
		if _, err := io.WriteString(conn, c.sent); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(conn)
		if err != nil || len(said) > 0 && !strings.HasPrefix(string(said), c.want) {
			t.Errorf("%s: %q, %v", name, said, err)
		}
	}
}

// TestLongLists: over TCP a list takes as long as its reader reads, and no
// longer than that.
func TestLongLists(t *testing.T) {
	f := newFace(t)
	const rows = 60_000
	f.way.records = quarantined(t, rows)
	addr := f.run(httpapi.NewAdminTCP(hurried(), listen(t, "tcp", "127.0.0.1:0"), f.parts, httpapi.Gate{Metrics: http.NotFoundHandler()}, quiet()))
	_, secret := f.token("admin")
	ask := func() *http.Response {
		conn := dial(t, addr)
		if err := conn.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "GET /api/v1/outbox/quarantine HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", secret); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	steady := ask()
	var read int64
	start := time.Now()
	for err := error(nil); !errors.Is(err, io.EOF); {
		var n int64
		if n, err = io.CopyN(io.Discard, steady.Body, 256<<10); err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("a steady reader was cut off after %d bytes: %v", read, err)
		}
		read += n
		<-time.After(20 * time.Millisecond)
	}
	if took := time.Since(start); took < 2*hurried().WriteTimeout {
		t.Fatalf("%d bytes in %v: too quick to tell", read, took)
	}
	stopped := ask()
	f.until("a reader that has stopped is given up", func() bool { return f.traffic.gone.Load() > 0 })
	if n, err := io.Copy(io.Discard, stopped.Body); err == nil {
		t.Errorf("a reader that had stopped still got all of %d bytes", n)
	}
}

// TestCrowd: one source has only so many connections, and those do not take the
// places of others. The box itself is not counted.
func TestCrowd(t *testing.T) {
	f := newFace(t)
	cfg := httpapi.Defaults()
	cfg.MaxPerSource = 3
	everywhere := listen(t, "tcp", "0.0.0.0:0")
	f.run(httpapi.NewClaims(cfg, everywhere, f.line(), quiet()))
	_, port, err := net.SplitHostPort(everywhere.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	alive := func(host string) bool {
		conn := dial(t, net.JoinHostPort(host, port))
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: box\r\n\r\n"); err != nil {
			return false
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	}
	if host := ownAddress(t); host != "" {
		for i := range 5 {
			if got := alive(host); got != (i < 3) {
				t.Errorf("connection %d of one source: alive %v", i+1, got)
			}
		}
	}
	for range 5 {
		if !alive("127.0.0.1") {
			t.Error("the box itself is refused")
		}
	}
}

// ownAddress is one of the machine's that is not loopback; empty where it has
// none.
func ownAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if at, ok := addr.(*net.IPNet); ok && at.IP.To4() != nil && !at.IP.IsLoopback() {
			return at.IP.String()
		}
	}
	t.Log("no address but loopback: one source's connections are not tried")
	return ""
}
