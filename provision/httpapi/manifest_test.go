package httpapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision/httpapi"

	"github.com/google/go-cmp/cmp"
)

type manifestReport struct {
	Rows, Added, Changed, Removed int
	Refused                       []struct {
		Line           int
		Field, Message string
	}
	RefusedCount int  `json:"refused_count"`
	DryRun       bool `json:"dry_run"`
	Message      string
}

// manifest uploads CSV and returns the report, or the error's message.
func (f *face) manifest(template, query, text string) (int, manifestReport, string) {
	f.t.Helper()
	response, body := f.ask(f.admin, f.request("PUT", "http://box/api/v1/templates/"+template+"/manifest"+query, text, "Content-Type", "text/csv; charset=utf-8"))
	if response.StatusCode != 200 {
		return response.StatusCode, manifestReport{}, parse[struct{ Message string }](f.t, body).Message
	}
	return 200, parse[manifestReport](f.t, body), ""
}

func (f *face) listed(template string) []edgeclaim.ManifestRow {
	f.t.Helper()
	var rows []edgeclaim.ManifestRow
	if status := f.call("GET", "/api/v1/templates/"+template+"/manifest", "", &rows); status != 200 {
		f.t.Fatalf("manifest: %d", status)
	}
	return rows
}

func counts(r manifestReport) string {
	return fmt.Sprintf("rows %d added %d changed %d removed %d refused %d", r.Rows, r.Added, r.Changed, r.Removed, r.RefusedCount)
}

// TestManifest: what a file does, row by row, and what it leaves alone.
func TestManifest(t *testing.T) {
	f := newFace(t)
	template, _ := f.template(`,"allow_list":true,"hardware_id_format":"mac"`)
	step := func(name, query, text, want string, refused ...string) {
		t.Helper()
		status, report, message := f.manifest(template, query, text)
		var got []string
		for _, r := range report.Refused {
			got = append(got, fmt.Sprintf("%d %s: %s", r.Line, r.Field, r.Message))
		}
		if status != 200 || counts(report) != want {
			t.Errorf("%s: %d %s %s, want %s", name, status, counts(report), message, want)
		}
		if kept := strings.Contains(query, "replace") && len(refused) > 0; kept != (report.Message != "") {
			t.Errorf("%s: message %q", name, report.Message)
		}
		if !slices.Equal(got, refused) {
			t.Errorf("%s: refused %q, want %q", name, got, refused)
		}
	}
	first := "\ufeffname,hardware_id,groups\r\n\"Sensor, left\",aabbcc001122,a;b\r\n,AA-BB-CC-00-11-23,\r\n"
	step("dry", "?dry_run=true", first, "rows 2 added 2 changed 0 removed 0 refused 0")
	if rows := f.listed(template); len(rows) != 0 {
		t.Errorf("a dry run left %v", rows)
	}
	step("first", "", first, "rows 2 added 2 changed 0 removed 0 refused 0")
	step("again", "", first, "rows 2 added 0 changed 0 removed 0 refused 0")
	step("bad rows", "?replace=true", "hardware_id,name\nAA:BB:CC:00:11:22,n\nnot-a-mac,n\nAA:BB:CC:00:11:24\naabb.cc00.1122,n\n\"x\"y,n\nAA:BB:CC:00:11:25,n\n,n\nAA:BB:CC:00:11:26,\"a\nb\"\n",
		"rows 8 added 1 changed 1 removed 0 refused 6",
		"3 hardware_id: want a MAC address of 12 hexadecimal digits", "4 row: not as many columns as the header has",
		"5 hardware_id: on line 2 already", "6 row: not well-formed CSV", "8 hardware_id: want 1 to 128 characters",
		"9 name: control characters are not allowed")
	third := "hardware_id,name\nAA:BB:CC:00:11:22,n\nAA:BB:CC:00:11:27,n\n"
	step("dry replace", "?replace=true&dry_run=true", third, "rows 2 added 1 changed 0 removed 2 refused 0")
	step("replace", "?replace=true", third, "rows 2 added 1 changed 0 removed 2 refused 0")
	var hardware []string
	for _, row := range f.listed(template) {
		hardware = append(hardware, row.Hardware.String())
	}
	if want := []string{"AA:BB:CC:00:11:22", "AA:BB:CC:00:11:27"}; !slices.Equal(hardware, want) {
		t.Errorf("listed %q, want %q", hardware, want)
	}

	response, text := f.ask(f.admin, f.request("GET", "http://box/api/v1/templates/"+template+"/manifest", "", "Accept", "text/csv"))
	if response.StatusCode != 200 || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/csv") {
		t.Errorf("as CSV: %d %v", response.StatusCode, response.Header)
	}
	step("what was listed", "?replace=true", text, "rows 2 added 0 changed 0 removed 0 refused 0")
	var gone struct{ Removed int }
	if status := f.call("DELETE", "/api/v1/templates/"+template+"/manifest", "", &gone); status != 200 || gone.Removed != 2 || len(f.listed(template)) != 0 {
		t.Errorf("delete: %d %v", status, gone)
	}
}

// TestManifestRefused: what no row of can be read is an error that says why.
func TestManifestRefused(t *testing.T) {
	f := newFace(t)
	template, _ := f.template("")
	for _, c := range []struct {
		query, text string
		want        int
		message     string
	}{
		{"", "", 400, "body: empty; want a header of hardware_id,profile_id,name,groups,tags"},
		{"", "hardware_id,mac\n", 400, "body: line 1: column 2: want some of hardware_id,profile_id,name,groups,tags"},
		{"", "hardware_id;name\n", 400, "body: line 1: column 1: want some of hardware_id,profile_id,name,groups,tags"},
		{"", "name\n", 400, "body: line 1: hardware_id: required"},
		{"", "name,hardware_id,name\n", 400, "body: line 1: name: given more than once"},
		{"", "\"hardware_id\n", 400, "body: line 1 is not well-formed CSV"},
		{"?replace=true", "hardware_id\n", 400, "body: no rows to take the place of the manifest; DELETE empties it"},
		{"?replace=maybe", "hardware_id\n", 400, "replace: want true or false"},
		{"?dry_run=2", "hardware_id\n", 400, "dry_run: want true or false"},
		{"", "hardware_id\n\"" + strings.Repeat("x\n", 1<<20), 400, "body: a row is longer than 65536 bytes"},
	} {
		status, _, message := f.manifest(template, c.query, c.text)
		if status != c.want || message != c.message {
			t.Errorf("%s %.40q: %d %q, want %d %q", c.query, c.text, status, message, c.want, c.message)
		}
	}
	for contentType, want := range map[string]int{"": 415, "application/json": 415, "text/csv; header=present": 200} {
		request := f.request("PUT", "http://box/api/v1/templates/"+template+"/manifest", "hardware_id\n", "Content-Type", contentType)
		if response, body := f.ask(f.admin, request); response.StatusCode != want {
			t.Errorf("%q: %d %s, want %d", contentType, response.StatusCode, body, want)
		}
	}
}

// TestManifestBreaksOff: what was stored before an upload broke off stays and is
// audited, nothing is taken off, and the same again goes on.
func TestManifestBreaksOff(t *testing.T) {
	f := newFace(t)
	template, _ := f.template("")
	if status, _, message := f.manifest(template, "", "hardware_id\nold\n"); status != 200 {
		t.Fatal(message)
	}
	var file bytes.Buffer
	file.WriteString("hardware_id\n")
	for i := range 2500 {
		fmt.Fprintf(&file, "H%05d\n", i)
	}
	whole := file.String()
	request, err := http.NewRequestWithContext(t.Context(), "PUT", "http://box/api/v1/templates/"+template+"/manifest?replace=true",
		io.MultiReader(strings.NewReader(whole), brokenReader{}))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "text/csv")
	if response, err := f.admin.Do(request); err == nil {
		response.Body.Close()
		t.Errorf("an upload that breaks off is answered %d", response.StatusCode)
	}
	f.until("the part is audited", func() bool {
		changes := f.changes()
		last := changes[len(changes)-1]
		detail, _ := last["detail"].(map[string]any)
		return last["kind"] == "manifest.imported" && last["reason"] == "failed" && detail["added"] == "2000"
	})
	if rows := f.listed(template); len(rows) != 2001 {
		t.Errorf("%d rows are listed, want 2001", len(rows))
	}
	status, report, message := f.manifest(template, "?replace=true", whole)
	if want := "rows 2500 added 500 changed 0 removed 1 refused 0"; status != 200 || counts(report) != want {
		t.Errorf("again: %d %s %s, want %s", status, counts(report), message, want)
	}
	// The list is longer than a page, and CSV is whole too.
	_, text := f.ask(f.admin, f.request("GET", "http://box/api/v1/templates/"+template+"/manifest", "", "Accept", "text/csv"))
	if lines := strings.Count(text, "\n"); lines != 2501 {
		t.Errorf("%d lines of CSV, want 2501", lines)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, fmt.Errorf("the stick was pulled out") }

// until waits for something that happens after an answer that nobody hears.
func (f *face) until(what string, done func() bool) {
	f.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			f.t.Errorf("not so: %s", what)
			return
		}
	}
}

// TestSlowManifest: an upload may take longer than any other request, for as
// long as it comes.
func TestSlowManifest(t *testing.T) {
	f := newFace(t)
	template, _ := f.template("")
	cfg := httpapi.Defaults()
	cfg.ReadTimeout = 400 * time.Millisecond
	cfg.WriteTimeout, cfg.ClaimTimeout = 400*time.Millisecond, 100*time.Millisecond
	addr := f.run(httpapi.NewAdminTCP(cfg, listen(t, "tcp", "127.0.0.1:0"), f.parts, httpapi.Gate{Metrics: http.NotFoundHandler()}, quiet()))
	_, secret := f.token("admin")
	reader, writer := io.Pipe()
	go func() { // ends with the upload
		for i := range 5 {
			_, _ = fmt.Fprintf(writer, "%s\n", []string{"hardware_id", "a", "b", "c", "d"}[i])
			<-time.After(150 * time.Millisecond)
		}
		writer.Close()
	}()
	request, err := http.NewRequestWithContext(t.Context(), "PUT", "http://"+addr+"/api/v1/templates/"+template+"/manifest", reader)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "text/csv")
	request.Header.Set("Authorization", "Bearer "+secret)
	response, body := f.ask(http.DefaultClient, request)
	if response.StatusCode != 200 || parse[manifestReport](t, body).Added != 4 {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// FuzzManifest: no file makes the reader panic, and what it takes it writes and
// reads again as it was.
func FuzzManifest(f *testing.F) {
	for _, seed := range []string{
		"hardware_id\nA\n", "\ufeffname,hardware_id,groups,profile_id\r\n\"a \"\"b\"\"\",H,\"x;y\",p\r\n", "hardware_id\n\"\n", "hardware_id,name\nA\nB,\xff\n",
		"hardware_id,tags\nA,a=b;c=d=e;f=\nB,=\nC,;\n",
		"", "name\n", "hardware_id,hardware_id\n", "hardware_id\n\n\nA\n", "hardware_id\nA\"B\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		rows, _, err := httpapi.ReadManifest(bytes.NewReader(text))
		if err != nil {
			return
		}
		for _, row := range rows {
			if strings.ContainsAny(row.Profile+row.Name+strings.Join(row.Groups, "")+fmt.Sprint(row.Tags), "\r") {
				return // encoding/csv folds it into a line's end, and the rule refuses it
			}
		}
		var written bytes.Buffer
		if err := httpapi.WriteManifest(&written, rows); err != nil {
			t.Fatal(err)
		}
		again, refused, err := httpapi.ReadManifest(&written)
		if err != nil || refused > 0 || len(again) != len(rows) {
			t.Fatalf("%d rows, %d refused, %v; want %d", len(again), refused, err, len(rows))
		}
		for i := range rows {
			same := rows[i].Hardware == again[i].Hardware && rows[i].Name == again[i].Name && rows[i].Profile == again[i].Profile &&
				slices.Equal(rows[i].Groups, again[i].Groups) && maps.Equal(rows[i].Tags, again[i].Tags)
			if !same {
				t.Fatalf("row %d: %v, want %v", i, again[i], rows[i])
			}
		}
	})
}

// TestManifestMemory: a file of rows without an end is refused, however it is
// spelled, before it is in memory.
func TestManifestMemory(t *testing.T) {
	t.Parallel()
	for name, endless := range map[string]string{"quoted": "\n", "unquoted": "x", "columns": ","} {
		start := "hardware_id\n"
		if name == "quoted" {
			start += "\""
		}
		source := &counted{r: io.MultiReader(strings.NewReader(start), endlessReader(endless))}
		_, _, err := httpapi.ReadManifest(source)
		if diff := cmp.Diff("body: a row is longer than 65536 bytes", fmt.Sprint(err)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if source.n > 1<<20 {
			t.Errorf("%s: %d bytes were read", name, source.n)
		}
	}
}

type endlessReader string

func (e endlessReader) Read(p []byte) (int, error) {
	return copy(p, strings.Repeat(string(e), len(p))), nil
}

type counted struct {
	r io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// TestMetricsElsewhere: outside loopback the metrics ask for a token; the probes
// do not. The admin API is served over TLS as well.
func TestMetricsElsewhere(t *testing.T) {
	f := newFace(t)
	everywhere := listen(t, "tcp", "0.0.0.0:0")
	_, port, err := net.SplitHostPort(everywhere.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	f.run(httpapi.NewAdminTCP(httpapi.Defaults(), everywhere, f.parts, httpapi.Gate{
		TLS: serverTLS(t, f.issuer, f.parts.Now), Ready: func(context.Context) error { return nil },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "up 1\n")
		}),
	}, quiet()))
	client, base := f.secureClient(nil), "https://127.0.0.1:"+port
	_, secret := f.token("read")
	for _, c := range []struct {
		path, token string
		want        int
	}{
		{"/metrics", "", 401}, {"/metrics", "x", 401}, {"/metrics", secret, 200}, {"/healthz", "", 200}, {"/readyz", "", 200},
		{"/api/v1/status", "", 401}, {"/api/v1/status", secret, 200}, {"/api/v1/tokens", secret, 403},
	} {
		headers := []string{}
		if c.token != "" {
			headers = []string{"Authorization", "Bearer " + c.token}
		}
		if response, body := f.ask(client, f.request("GET", base+c.path, "", headers...)); response.StatusCode != c.want {
			t.Errorf("%s with %.10q: %d %s, want %d", c.path, c.token, response.StatusCode, body, c.want)
		}
	}
}
