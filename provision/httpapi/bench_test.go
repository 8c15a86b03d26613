package httpapi_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"edgeclaim/provision/httpapi"
)

// BenchmarkRequests is what a device's request costs on a connection that is kept
// open, with the login that each has, beside one that does nothing (healthz). What
// keeps the points is a part in memory: the disk is not in it.
func BenchmarkRequests(b *testing.B) {
	f := newFace(b)
	f.traffic.off.Store(true)
	device := f.device("H")
	line := f.line()
	line.Reports, line.Commands, line.Configs = f.work, f.work, f.work
	line.Ready = func(context.Context) error { return nil }
	server, err := httpapi.NewClaims(httpapi.Defaults(), listen(b, "tcp", "127.0.0.1:0"), line, quiet())
	if err != nil {
		b.Fatal(err)
	}
	run(b, server)
	base := "http://" + server.Addr().String()
	for _, c := range []struct{ name, method, path, body string }{
		{"request=healthz", "GET", "/healthz", ""},
		{"request=telemetry/bytes=100", "POST", "/api/v1/telemetry", point + strings.Repeat(" ", 100-len(point))},
		{"request=telemetry/bytes=100000", "POST", "/api/v1/telemetry", point + strings.Repeat(" ", 100_000-len(point))},
		{"request=commands/wait=0", "GET", "/api/v1/commands?wait=0", ""},
		{"request=config", "GET", "/api/v1/config", ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				request := f.request(c.method, base+c.path, c.body, "X-API-Key", device.APIKey, "Content-Type", "application/json")
				response, err := http.DefaultClient.Do(request)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, response.Body); err != nil {
					b.Fatal(err)
				}
				response.Body.Close()
				if response.StatusCode != http.StatusOK {
					b.Fatalf("status %d", response.StatusCode)
				}
			}
		})
	}
}
