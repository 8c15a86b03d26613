package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"edgeclaim"
	"edgeclaim/command"
	"edgeclaim/provision/httpapi"
	"edgeclaim/telemetry"
)

// living is a listener where telemetry and configurations are the real ones, over
// the face's own store.
func (f *face) living() (base string) {
	f.t.Helper()
	cfg := telemetry.Defaults()
	cfg.Dir, cfg.DiskReserve = f.t.TempDir(), 0
	points, err := telemetry.Open(cfg, telemetry.Parts{Stamp: f.clock.Stamp, Epoch: f.db.Epoch, Events: f.db, Inherited: f.db.Inherited}, quiet())
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- points.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, points.Close()); err != nil {
			f.t.Errorf("telemetry: %v", err)
		}
	})
	orders, err := command.New(command.Defaults(), command.Parts{
		Store: f.db, Devices: f.db, Clock: f.clock, Auditor: f.audit, Inherited: f.db.Inherited,
	}, quiet())
	if err != nil {
		f.t.Fatal(err)
	}
	line := f.line()
	line.Reports, line.Commands, line.Configs = points, orders, orders
	return "http://" + f.run(httpapi.NewClaims(httpapi.Defaults(), listen(f.t, "tcp", "127.0.0.1:0"), line, quiet()))
}

// TestProfilesLived: what a profile from upstream has for telemetry and for the
// configuration holds over HTTP, at the next request.
func TestProfilesLived(t *testing.T) {
	f := newFace(t)
	base := f.living()
	_, key := f.template(`,"profile_id":"cold"`)
	device, other := f.claimed(key, "H1"), f.device("H2") // which has no profile
	ask := func(device credential, method, path, body string, want int, answer string, headers ...string) *http.Response {
		t.Helper()
		headers = append([]string{"X-API-Key", device.APIKey, "Content-Type", "application/json"}, headers...)
		response, said := f.ask(http.DefaultClient, f.request(method, base+"/api/v1/"+path, body, headers...))
		if response.StatusCode != want || answer != "" && said != answer {
			t.Errorf("%s %s: %d %s, want %d %s", path, body, response.StatusCode, said, want, answer)
		}
		return response
	}
	hot := `{"numeric_values":{"temperature":400}}`
	ask(device, "POST", "telemetry", hot, 200, "")
	tag := ask(device, "GET", "config", "", 200, `{"version":0,"config":{}}`).Header.Get("ETag")

	profiles := func(version int, most float64) []byte {
		profile, err := json.Marshal(edgeclaim.Profile{
			ID: "cold", Config: json.RawMessage(`{"interval_seconds":30,"led":"off"}`),
			Schema: &edgeclaim.TelemetrySchema{
				Properties: map[string]edgeclaim.MetricSchema{"temperature": {Type: edgeclaim.MetricNumber, Maximum: &most}}, Required: []string{"temperature"},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return sign(t, f.papers.key, edgeclaim.DocumentProfiles, version,
			fmt.Sprintf(`"tenant_id":%q,"profiles":{"default":{"default_config":{"led":"on","site":"a"}},"profiles":[%s]}`, tenant, profile))
	}
	f.obey(profiles(1, 60))
	for _, c := range []struct {
		body   string
		want   int
		answer string
	}{
		{point, 200, `{"accepted":1,"rejected":0}`},
		{hot, 400, ""},
		{`{"string_values":{"temperature":"warm"}}`, 400, ""},
		{`{"numeric_values":{"humidity":4}}`, 400, ""},
		{"[" + point + "," + hot + `,{"numeric_values":{"humidity":4}},` + point + "]", 200, `{"accepted":2,"rejected":2}`},
	} {
		response, said := f.ask(http.DefaultClient, f.request("POST", base+"/api/v1/telemetry", c.body, "X-API-Key", device.APIKey, "Content-Type", "application/json"))
		if response.StatusCode != c.want || c.answer != "" && said != c.answer {
			t.Errorf("%s: %d %s, want %d %s", c.body, response.StatusCode, said, c.want, c.answer)
		}
		if c.want == 400 {
			if message := parse[struct{ Message string }](t, said).Message; !namesMember(message) {
				t.Errorf("%s: %s does not begin with the member", c.body, said)
			}
		}
	}
	ask(other, "POST", "telemetry", hot, 200, `{"accepted":1,"rejected":0}`)
	const merged = `{"version":1,"config":{"interval_seconds":30,"led":"off","site":"a"}}`
	next := ask(device, "GET", "config", "", 200, "", "If-None-Match", tag)
	ask(device, "GET", "config", "", 304, "", "If-None-Match", next.Header.Get("ETag"))
	if response, said := f.ask(http.DefaultClient, f.request("GET", base+"/api/v1/config", "", "X-API-Key", device.APIKey)); !sameJSON(t, said, merged) {
		t.Errorf("configuration: %d %s, want %s", response.StatusCode, said, merged)
	}
	ask(other, "GET", "config", "", 200, `{"version":1,"config":{"led":"on","site":"a"}}`)
	f.obey(profiles(2, 500))
	ask(device, "POST", "telemetry", hot, 200, `{"accepted":1,"rejected":0}`)
}

// namesMember reports whether a message names one of a point's members first.
func namesMember(message string) bool {
	for _, member := range []string{"numeric_values.", "string_values.", "temperature: "} {
		if len(message) > len(member) && message[:len(member)] == member {
			return true
		}
	}
	return false
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	return fmt.Sprint(parse[any](t, a)) == fmt.Sprint(parse[any](t, b))
}
