package httpapi_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision"
	"edgeclaim/provision/httpapi"
)

// way is an enrolment, a quarantine and an outbox in memory.
type way struct {
	mu        sync.Mutex
	enrolment httpapi.Enrolment
	records   []edgeclaim.Quarantined
	asked     []httpapi.Requeue
	// fail, when it is there, may make an operation fail.
	fail func(operation string) error
}

// begin locks and says whether an operation is to fail.
func (w *way) begin(operation string) (func(), error) {
	w.mu.Lock()
	if w.fail == nil {
		return w.mu.Unlock, nil
	}
	return w.mu.Unlock, w.fail(operation)
}

func (w *way) Enrolment(context.Context) (httpapi.Enrolment, error) {
	end, err := w.begin("enrolment")
	defer end()
	return w.enrolment, err
}

func (w *way) Enrol(_ context.Context, document []byte, replace bool) (httpapi.Enrolment, error) {
	end, err := w.begin("enrol")
	defer end()
	var file struct {
		Upstream string `json:"upstream_id"`
		Key      string `json:"public_key"`
	}
	malformed := json.Unmarshal(document, &file) != nil || file.Key == ""
	next := httpapi.Enrolment{Enrolled: true, Upstream: file.Upstream, Key: edgeclaim.NewSecret(file.Key).Hash().String()[:16]}
	switch {
	case err != nil:
	case malformed:
		err = edgeclaim.Invalid("public_key", "required")
	case w.enrolment.Enrolled && w.enrolment.Key != next.Key && !replace:
		err = &httpapi.OperatorError{Err: edgeclaim.ErrConflict, Words: "enrolled with another key"}
	default:
		w.enrolment = next
	}
	return w.enrolment, err
}

func (w *way) Unenrol(context.Context) error {
	end, err := w.begin("unenrol")
	defer end()
	if err == nil {
		w.enrolment = httpapi.Enrolment{}
	}
	return err
}

func (w *way) Quarantine(ctx context.Context, after string, limit int) ([]edgeclaim.Quarantined, error) {
	end, err := w.begin("quarantine")
	defer end()
	err = cmp.Or(err, ctx.Err())
	var page []edgeclaim.Quarantined
	for _, q := range w.records {
		if q.ID > after && len(page) < limit {
			page = append(page, q)
		}
	}
	return page, err
}

func (w *way) QuarantinedRecord(_ context.Context, id string) (edgeclaim.Record, edgeclaim.Quarantined, error) {
	end, err := w.begin("show")
	defer end()
	i := slices.IndexFunc(w.records, func(q edgeclaim.Quarantined) bool { return q.ID == id })
	if i < 0 || err != nil {
		return edgeclaim.Record{}, edgeclaim.Quarantined{}, cmp.Or(err, edgeclaim.ErrNotFound)
	}
	data := []byte(`{"name":"<&>"}`)
	if i%2 == 1 {
		data = []byte("\xff{")
	}
	return edgeclaim.Record{Data: data}, w.records[i], nil
}

func (w *way) Requeue(_ context.Context, what httpapi.Requeue) (httpapi.Requeued, error) {
	end, err := w.begin("requeue")
	defer end()
	w.asked = append(w.asked, what)
	before := len(w.records)
	w.records = slices.DeleteFunc(w.records, func(q edgeclaim.Quarantined) bool {
		return what.All || q.ID == what.ID || !what.Device.IsZero() && q.Device == what.Device
	})
	if before == len(w.records) && err == nil {
		err = edgeclaim.ErrNotFound
	}
	return httpapi.Requeued{Records: before - len(w.records)}, err
}

func (w *way) Discard(_ context.Context, id string) (edgeclaim.Quarantined, error) {
	end, err := w.begin("discard")
	defer end()
	if err != nil {
		return edgeclaim.Quarantined{}, err
	}
	i := slices.IndexFunc(w.records, func(q edgeclaim.Quarantined) bool { return q.ID == id })
	if i < 0 {
		return edgeclaim.Quarantined{}, edgeclaim.ErrNotFound
	}
	gone := w.records[i]
	w.records = slices.Delete(w.records, i, i+1)
	return gone, nil
}

func (w *way) Renew(context.Context) (httpapi.Renewed, error) {
	end, err := w.begin("renew")
	defer end()
	return httpapi.Renewed{Epoch: "new", Previous: "old"}, err
}

func (w *way) Export(_ context.Context, out io.Writer) error {
	end, err := w.begin("export")
	defer end()
	if err != nil {
		return err
	}
	for i := range 1000 {
		if _, err := fmt.Fprintf(out, `{"line":%d,"fill":"%0100d"}`+"\n", i, 0); err != nil {
			return err
		}
	}
	if w.fail != nil {
		return w.fail("export's end")
	}
	return nil
}

func (w *way) AcceptAck(_ context.Context, r io.Reader) (httpapi.Accepted, error) {
	end, err := w.begin("ack")
	defer end()
	if err != nil {
		return httpapi.Accepted{}, err
	}
	if _, err := io.ReadAll(r); err != nil {
		return httpapi.Accepted{}, err
	}
	return httpapi.Accepted{Upto: map[edgeclaim.Lane]uint64{edgeclaim.LaneProv: 7}, Parked: 1}, nil
}

// enrolmentFile is what a hub prints, with a key of that letter.
func enrolmentFile(letter string) string {
	return `{"type":"edgeclaim.enrolment.v1","upstream_id":"hub","public_key":"` + strings.Repeat(letter, 43) + `"}`
}

// parts are a whole admin side.
func parts(rule *provision.Service, box httpapi.Box, w *way) httpapi.Admin {
	return httpapi.Admin{Rule: rule, Box: box, Enroller: w, Quarantine: w, Outbox: w, Now: time.Now}
}

// quarantined makes n records of two devices and, every third, of none.
func quarantined(t *testing.T, n int) []edgeclaim.Quarantined {
	t.Helper()
	of, err := edgeclaim.ParseTenantID(tenant)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	records := make([]edgeclaim.Quarantined, n)
	for i := range records {
		records[i] = edgeclaim.Quarantined{
			ID: fmt.Sprintf("q%06d", i), Lane: edgeclaim.LaneProv, Sequence: uint64(i) + 1, Epoch: "epoch",
			Type: edgeclaim.TypeDeviceProvisioned, Time: at, ParkedAt: at, Reason: "no such tenant",
		}
		if i%3 < 2 {
			hardware, err := edgeclaim.ParseHardwareID(fmt.Sprintf("H%d", i%3))
			if err != nil {
				t.Fatal(err)
			}
			records[i].Device = edgeclaim.NewDeviceID(of, hardware, 1)
		}
	}
	return records
}

// TestOutboxRoutes: what each answers, and to what it does not listen.
func TestOutboxRoutes(t *testing.T) {
	f := newFace(t)
	f.way.records = quarantined(t, 6)
	device := f.way.records[0].Device.String()
	key, other := enrolmentFile("a"), enrolmentFile("b")
	for _, c := range []struct {
		method, path, body string
		want               int
		schema             string
	}{
		{"GET", "/enrolment", "", 200, "Enrolment"},
		{"PUT", "/enrolment", "nonsense", 400, "Error"},
		{"PUT", "/enrolment?replace=perhaps", key, 400, "Error"},
		{"PUT", "/enrolment", strings.Repeat("x", 70<<10), 400, "Error"},
		{"PUT", "/enrolment", key, 200, "Enrolment"},
		{"PUT", "/enrolment", key, 200, "Enrolment"},
		{"PUT", "/enrolment", other, 409, "Error"},
		{"PUT", "/enrolment?replace=true", other, 200, "Enrolment"},
		{"DELETE", "/enrolment", "", 200, "Enrolment"},
		{"DELETE", "/enrolment", "", 200, "Enrolment"},

		{"GET", "/outbox/quarantine?limit=0", "", 400, "Error"},
		{"GET", "/outbox/quarantine?limit=10001", "", 400, "Error"},
		{"GET", "/outbox/quarantine?after=a%20b", "", 400, "Error"},
		{"GET", "/outbox/quarantine?limit=2&after=q000001", "", 200, ""},
		{"GET", "/outbox/quarantine/a%20b", "", 400, "Error"},
		{"GET", "/outbox/quarantine/none", "", 404, "Error"},
		{"GET", "/outbox/quarantine/q000000", "", 200, "QuarantinedRecord"},
		{"GET", "/outbox/quarantine/q000001", "", 200, "QuarantinedRecord"},
		{"POST", "/outbox/quarantine/a%20b/requeue", "", 400, "Error"},
		{"POST", "/outbox/quarantine/none/requeue", "", 404, "Error"},
		{"POST", "/outbox/quarantine/q000002/requeue", "", 200, "Requeued"},
		{"POST", "/outbox/quarantine/a%20b/discard", "", 400, "Error"},
		{"POST", "/outbox/quarantine/none/discard", "", 404, "Error"},
		{"POST", "/outbox/quarantine/q000001/discard", "", 200, "Quarantined"},
		{"POST", "/outbox/quarantine/requeue", "", 400, "Error"},
		{"POST", "/outbox/quarantine/requeue", `{}`, 400, "Error"},
		{"POST", "/outbox/quarantine/requeue", `{"device_id":"x"}`, 400, "Error"},
		{"POST", "/outbox/quarantine/requeue", `{"all":true,"device_id":"` + device + `"}`, 400, "Error"},
		{"POST", "/outbox/quarantine/requeue", `{"after":"q","device_id":"` + device + `"}`, 400, "Error"},
		{"POST", "/outbox/quarantine/requeue", `{"all":true,"after":"a b"}`, 400, "Error"},
		{"POST", "/outbox/quarantine/requeue", `{"all":true,"id":"q000003"}`, 400, "Error"},
		{"POST", "/outbox/quarantine/requeue", `{"device_id":"` + device + `"}`, 200, "Requeued"},
		{"POST", "/outbox/quarantine/requeue", `{"all":true,"after":"q000000"}`, 200, "Requeued"},

		{"POST", "/outbox/renew", "", 200, "Renewed"},
		{"POST", "/outbox/ack", "{}", 200, "Accepted"},
		{"POST", "/outbox/ack", strings.Repeat(" ", 2<<20), 400, "Error"},
		{"DELETE", "/outbox/ack", "", 405, "Error"},
	} {
		var raw json.RawMessage
		status := f.call(c.method, "/api/v1"+c.path, c.body, &raw)
		if status != c.want {
			t.Errorf("%s %s %.40s: %d %s, want %d", c.method, c.path, c.body, status, raw, c.want)
		}
		if c.schema != "" {
			if err := f.traffic.document.holdSchema("/components/schemas/"+c.schema, raw); err != nil {
				t.Errorf("%s %s: %v\n%s", c.method, c.path, err, raw)
			}
		}
	}
	want := []httpapi.Requeue{
		{ID: "none"}, {ID: "q000002"}, {Device: f.way.asked[2].Device}, {All: true, After: "q000000"},
	}
	if !slices.Equal(f.way.asked, want) || f.way.asked[2].Device.String() != device {
		t.Errorf("requeued %v, want %v", f.way.asked, want)
	}
}

// TestQuarantineListIsWhole: more rows than a page, each once and in order.
func TestQuarantineListIsWhole(t *testing.T) {
	f := newFace(t)
	var listed []edgeclaim.Quarantined
	if f.call("GET", "/api/v1/outbox/quarantine", "", &listed); listed == nil || len(listed) != 0 {
		t.Errorf("none is %v, want []", listed)
	}
	if f.call("GET", "/api/v1/outbox/quarantine?limit=5", "", &listed); listed == nil || len(listed) != 0 {
		t.Errorf("a page of none is %v, want []", listed)
	}
	f.way.records = quarantined(t, 2500)
	f.call("GET", "/api/v1/outbox/quarantine", "", &listed)
	if !slices.Equal(listed, f.way.records) {
		t.Errorf("%d listed, want %d in their order", len(listed), len(f.way.records))
	}
	var page []edgeclaim.Quarantined
	if f.call("GET", "/api/v1/outbox/quarantine?limit=3&after="+listed[9].ID, "", &page); !slices.Equal(page, listed[10:13]) {
		t.Errorf("a page is %v", page)
	}
}

// TestQuarantinedRecord: with its data as it is, or as bytes where that is no JSON.
func TestQuarantinedRecord(t *testing.T) {
	f := newFace(t)
	f.way.records = quarantined(t, 2)
	for i, want := range []httpapi.QuarantinedRecord{
		{Quarantined: f.way.records[0], Data: json.RawMessage(`{"name":"<&>"}`)},
		{Quarantined: f.way.records[1], Raw: []byte("\xff{")},
	} {
		var got httpapi.QuarantinedRecord
		if f.call("GET", "/api/v1/outbox/quarantine/"+want.ID, "", &got); !reflect.DeepEqual(got, want) {
			t.Errorf("%d: %+v, want %+v", i, got, want)
		}
	}
}

// TestExport: it comes whole, or is an error; half of it is never a success.
func TestExport(t *testing.T) {
	f := newFace(t)
	export := func() (*http.Response, string, error) {
		t.Helper()
		response, err := f.admin.Get("http://box/api/v1/outbox/export")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response, string(body), err
	}
	response, body, err := export()
	if err != nil || response.StatusCode != 200 || strings.Count(body, "\n") != 1000 ||
		response.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%d %v, %d lines, %v", response.StatusCode, response.Header, strings.Count(body, "\n"), err)
	}

	f.way.fail = func(string) error { return edgeclaim.ErrUnavailable }
	response, body, err = export()
	if err != nil || response.StatusCode != 503 || body != `{"code":14,"message":"unavailable","details":[]}` ||
		!strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
		t.Errorf("failing at once: %d %v %s, %v", response.StatusCode, response.Header, body, err)
	}

	f.way.fail = func(operation string) error {
		if operation == "export's end" {
			return errors.New("the disk went away")
		}
		return nil
	}
	if _, _, err := export(); err == nil {
		t.Error("an export that was broken off looks whole")
	}
	if text := f.log.String(); !strings.Contains(text, "the disk went away") {
		t.Errorf("the log does not say why: %s", text)
	}
}

// TestOperatorErrors: the admin side says an OperatorError's words under its
// error's code, and nothing of an error that is not meant for anybody.
func TestOperatorErrors(t *testing.T) {
	f := newFace(t)
	f.traffic.off.Store(true)
	for _, c := range []struct {
		err  error
		want int
		body string
	}{
		{&httpapi.OperatorError{Err: edgeclaim.ErrDenied, Words: "not signed by it"}, 403, `{"code":7,"message":"not signed by it","details":[]}`},
		{fmt.Errorf("ack: %w", &httpapi.OperatorError{Err: edgeclaim.ErrConflict, Words: "of another epoch"}), 409, `{"code":10,"message":"of another epoch","details":[]}`},
		{&httpapi.OperatorError{Err: errors.New("inner"), Words: "outer"}, 500, `{"code":13,"message":"outer","details":[]}`},
		{errors.New("where the data folder is"), 500, `{"code":13,"message":"internal error","details":[]}`},
		{edgeclaim.ErrConflict, 409, `{"code":10,"message":"conflict","details":[]}`},
	} {
		f.way.fail = func(string) error { return c.err }
		for _, route := range []string{
			"GET /enrolment", "PUT /enrolment", "DELETE /enrolment", "GET /outbox/quarantine?limit=1", "GET /outbox/quarantine/q", "POST /outbox/quarantine/q/requeue",
			"POST /outbox/quarantine/q/discard", "POST /outbox/renew", "GET /outbox/export", "POST /outbox/ack",
		} {
			method, path, _ := strings.Cut(route, " ")
			var raw json.RawMessage
			if status := f.call(method, "/api/v1"+path, "", &raw); status != c.want || string(raw) != c.body {
				t.Errorf("%s, %v: %d %s, want %d %s", route, c.err, status, raw, c.want, c.body)
			}
		}
	}
}
