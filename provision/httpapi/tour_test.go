package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/token"
	"edgeclaim/provision/httpapi"
)

// entries are the lines of the audit log so far.
func (f *face) entries() []map[string]any {
	f.t.Helper()
	var lines bytes.Buffer
	if err := audit.Export(f.parts.Data, &lines, time.Time{}, time.Time{}); err != nil {
		f.t.Fatal(err)
	}
	var all []map[string]any
	for line := range bytes.Lines(lines.Bytes()) {
		all = append(all, parse[map[string]any](f.t, string(line)))
	}
	return all
}

// changes are the entries that are about what an operator did.
func (f *face) changes() []map[string]any {
	return slices.DeleteFunc(f.entries(), func(e map[string]any) bool {
		kind := e["kind"].(string)
		return strings.HasPrefix(kind, "claim.") || strings.HasPrefix(kind, "audit.") || strings.HasPrefix(kind, "document.") || kind == audit.KindAdminRefused ||
			kind == audit.KindDeviceConfirmed || kind == audit.KindLoginRefused || kind == audit.KindAlarm
	})
}

// step is a request of the whole tour.
type step struct {
	method, path, body string
	want               int
	kind               string // of its one entry; empty for none
}

// TestEveryOperation asks every documented operation with success, holds what is
// said against the document, and finds one entry in the audit log, durable by
// then, for each change and none for the rest.
func TestEveryOperation(t *testing.T) {
	f := newFace(t)
	template, keyID, key := f.issue()
	_, manual := f.template(`,"approval":"manual"`)
	f.way.records = quarantined(t, 6)
	ids := map[string]string{"{template}": template, "{key}": keyID}
	for _, board := range []string{"A", "B", "C"} {
		ids["{"+board+"}"] = f.claimed(key, board).DeviceID
	}
	for name, board := range map[string]string{"{waits}": "W1", "{waits2}": "W2"} {
		if response, body := f.post("application/json", claim(manual, board)); response.StatusCode != 202 {
			t.Fatalf("manual: %d %s", response.StatusCode, body)
		}
		of, _ := edgeclaim.ParseTenantID(tenant)
		hardware, _ := edgeclaim.ParseHardwareID(board)
		ids[name] = edgeclaim.NewDeviceID(of, hardware, 1).String()
	}
	ids["{token}"], _ = f.token(token.ScopeRead)
	device := f.claimed(key, "R")
	ids["{R}"] = device.DeviceID
	ids["{bundle}"] = string(revocations(t, f.papers.key, 1, "Z"))
	fill := func(text string) string {
		for name, id := range ids {
			text = strings.ReplaceAll(text, name, id)
		}
		return text
	}
	before := len(f.changes())
	for _, s := range tour() {
		header := "application/json"
		switch {
		case strings.HasSuffix(s.path, "/manifest") || strings.Contains(s.path, "/manifest?"):
			header = "text/csv"
		case s.path == "/documents":
			header = ndjson
		case s.path == "/ca/import":
			header, s.body = "application/x-pem-file", string(f.issuer.Root())
		}
		request := f.request(s.method, "http://box/api/v1"+fill(s.path), fill(s.body), "Content-Type", header)
		response, body := f.ask(f.admin, request)
		if response.StatusCode != s.want {
			t.Errorf("%s %s: %d %s, want %d", s.method, fill(s.path), response.StatusCode, body, s.want)
		}
		after := f.changes()
		var kinds []string
		for _, e := range after[before:] {
			kinds = append(kinds, e["kind"].(string))
			if who := e["who"]; who != fmt.Sprintf("uid:%d", os.Geteuid()) {
				t.Errorf("%s %s: who %v", s.method, s.path, who)
			}
		}
		before = len(after)
		if want := slices.DeleteFunc([]string{s.kind}, func(k string) bool { return k == "" }); !slices.Equal(kinds, want) {
			t.Errorf("%s %s: audited as %q, want %q", s.method, s.path, kinds, want)
		}
	}
	f.get(f.claims+"/healthz", 200)
	f.get(f.claims+"/readyz", 200)
	f.get(f.tcp+"/metrics", 200)
	f.work.give(device.DeviceID, "due")
	for _, said := range []string{"POST telemetry", "POST events", "GET commands", "GET config"} {
		method, path, _ := strings.Cut(said, " ")
		if response, body := f.work.ask(f, device, method, path, `{"numeric_values":{"t":1}}`); response.StatusCode != 200 {
			t.Errorf("%s: %d %s", said, response.StatusCode, body)
		}
	}
	if response, body := f.ask(http.DefaultClient, f.request("POST", f.claims+"/api/v1/credentials/rotate", "", "X-API-Key",
		device.APIKey)); response.StatusCode != 200 {
		t.Errorf("rotate: %d %s", response.StatusCode, body)
	}
	if missing := f.traffic.missing(); len(missing) > 0 {
		t.Errorf("documented, and never asked for with success: %q", missing)
	}
}

func (f *face) get(target string, want int) {
	f.t.Helper()
	if response, body := f.ask(http.DefaultClient, f.request("GET", target, "")); response.StatusCode != want {
		f.t.Errorf("%s: %d %s", target, response.StatusCode, body)
	}
}

// tour is every operation of the admin API, and what is refused beside it.
func tour() []step {
	const missing = "00000000-0000-5000-8000-000000000000"
	return []step{
		{"GET", "/status", "", 200, ""},
		{"GET", "/clock", "", 200, ""},
		{"POST", "/clock/reset", "", 200, "clock.reset"},

		{"POST", "/templates", `{"tenant_id":"` + tenant + `","name":"M","allow_list":true,"expected_claims":3}`, 201, "template.created"},
		{"POST", "/templates", `{"name":"M"}`, 400, ""},
		{"GET", "/templates", "", 200, ""},
		{"GET", "/templates/{template}", "", 200, ""},
		{"POST", "/templates/{template}/disable", "", 200, "template.disabled"},
		{"POST", "/templates/{template}/enable", "", 200, "template.enabled"},
		{"POST", "/templates/none/enable", "", 404, ""},
		{"POST", "/templates/{template}/keys", `{"count":3}`, 201, "key.issued"},
		{"POST", "/templates/{template}/keys", `{"count":0}`, 400, ""},
		{"POST", "/templates/{template}/keys/import", `{"provision_key":"k"}`, 201, "key.imported"},
		{"POST", "/templates/{template}/keys/import", `{"provision_key":"k"}`, 409, ""},
		{"PUT", "/templates/{template}/manifest?dry_run=true", "hardware_id\nA1\n", 200, "manifest.imported"},
		{"PUT", "/templates/{template}/manifest", "hardware_id,name\nA1,n\n\"\",n\n", 200, "manifest.imported"},
		{"PUT", "/templates/{template}/manifest?replace=true", "hardware_id\nA2\n", 200, "manifest.imported"},
		{"PUT", "/templates/{template}/manifest", "hardware\nA2\n", 400, ""},
		{"PUT", "/templates/none/manifest", "hardware_id\nA2\n", 404, ""},
		{"GET", "/templates/{template}/manifest", "", 200, ""},
		{"GET", "/templates/{template}/manifest?limit=1&after=A1", "", 200, ""},
		{"DELETE", "/templates/{template}/manifest", "", 200, "manifest.removed"},

		{"GET", "/keys", "", 200, ""},
		{"GET", "/keys?template_id={template}&limit=2", "", 200, ""},
		{"GET", "/keys?after=a%20b", "", 400, ""},
		{"GET", "/keys/{key}", "", 200, ""},
		{"POST", "/keys/{key}/disable", "", 200, "key.disabled"},
		{"POST", "/keys/{key}/enable", "", 200, "key.enabled"},
		{"POST", "/keys/none/enable", "", 404, ""},
		{"GET", "/keys/{key}/devices", "", 200, ""},
		{"GET", "/keys/{key}/devices?limit=1&after={A}", "", 200, ""},
		{"GET", "/keys/{key}/devices?limit=1&after=" + missing, "", 404, ""},
		{"GET", "/keys/{key}/devices?after=x", "", 400, ""},
		{"GET", "/keys/none/devices", "", 404, ""},
		{"GET", "/shares", "", 200, ""},

		{"GET", "/documents", "", 200, ""},
		{"POST", "/documents", "{bundle}", 200, "documents.imported"},
		{"POST", "/documents", "", 400, ""},
		{"GET", "/documents", "", 200, ""},
		{"GET", "/documents/revocations%2F" + tenant + "%2F", "", 200, ""},
		{"GET", "/documents/signer%2F%2F", "", 404, ""},
		{"GET", "/documents/signer", "", 400, ""},

		{"GET", "/devices", "", 200, ""},
		{"GET", "/devices?state=claimed&limit=1", "", 200, ""},
		{"GET", "/devices?state=lost", "", 400, ""},
		{"GET", "/devices/{A}", "", 200, ""},
		{"POST", "/devices/{A}/rotate", `{"overlap":"1h"}`, 200, "device.rotated"},
		{"POST", "/devices/{A}/rotate", "", 200, "device.rotated"},
		{"POST", "/devices/{A}/rotate", `{"overlap":"-1h"}`, 400, ""},
		{"POST", "/devices/{A}/rotate", `{"overlap":"721h"}`, 400, ""},
		{"POST", "/devices/{A}/rotate", `{"overlap":24}`, 400, ""},
		{"POST", "/devices/{A}/rotate", `{"csr":"-"}`, 400, ""},
		{"POST", "/devices/" + missing + "/rotate", "", 404, ""},
		{"POST", "/devices/{A}/revoke", `{"reason":"stolen"}`, 200, "device.revoked"},
		{"POST", "/devices/{A}/revoke", `{"reason":"a\nb"}`, 400, ""},
		{"POST", "/devices/{A}/release", "", 409, ""},
		{"POST", "/devices/{A}/rotate", "", 409, ""},
		{"POST", "/devices/{A}/release", `{"reinstate":true}`, 200, "device.released"},
		{"POST", "/devices/{B}/release", "", 200, "device.released"},
		{"POST", "/devices/{C}/swap", `{"hardware_id":"C2"}`, 200, "device.swapped"},
		{"POST", "/devices/{C}/swap", `{"hardware_id":"B"}`, 409, ""},
		{"POST", "/devices/{C}/swap", `{}`, 400, ""},
		{"POST", "/devices/" + missing + "/swap", `{"hardware_id":"C3"}`, 404, ""},

		{"POST", "/devices/{R}/commands", `{"payload":{"relay":"on"},"command_id":"one"}`, 200, "command.queued"},
		{"POST", "/devices/{R}/commands", `{"payload":{"relay":"on"},"command_id":"one"}`, 200, ""},
		{"POST", "/devices/{R}/commands", `{"payload":null,"expires_in_seconds":60}`, 200, "command.queued"},
		{"POST", "/devices/{R}/commands", `{"payload":1,"expires_at":"2999-01-01T00:00:00Z"}`, 200, "command.queued"},
		{"POST", "/devices/{R}/commands", `{}`, 400, ""},
		{"POST", "/devices/" + missing + "/commands", `{"payload":1}`, 404, ""},
		{"GET", "/commands", "", 200, ""},
		{"GET", "/commands?device_id={R}&status=queued&limit=1&after=one", "", 200, ""},
		{"GET", "/commands?limit=1&after=one&after_device_id={R}", "", 200, ""},
		{"GET", "/commands?status=lost", "", 400, ""},
		{"GET", "/devices/{R}/commands/one", "", 200, ""},
		{"GET", "/devices/{R}/commands/none", "", 404, ""},
		{"POST", "/devices/{R}/commands/one/cancel", "", 200, "command.cancelled"},
		{"POST", "/devices/{R}/commands/one/cancel", "", 200, "command.cancelled"},
		{"POST", "/devices/{R}/commands/none/cancel", "", 404, ""},
		{"GET", "/devices/{R}/config", "", 200, ""},
		{"PUT", "/devices/{R}/config", `{"config":{"interval_seconds":30}}`, 200, "config.changed"},
		{"PUT", "/devices/{R}/config", `{"config":[]}`, 400, ""},
		{"GET", "/devices/{R}/config", "", 200, ""},

		{"GET", "/approvals", "", 200, ""},
		{"GET", "/approvals?limit=1&after={waits}", "", 200, ""},
		{"POST", "/approvals/{waits}/approve", "", 200, "approval.given"},
		{"POST", "/approvals/{waits2}/refuse", "", 200, "approval.withdrawn"},
		{"POST", "/approvals/" + missing + "/approve", "", 404, ""},
		{"GET", "/deny", "", 200, ""},
		{"GET", "/deny?limit=1&after=C&after_tenant_id=" + tenant, "", 200, ""},
		{"GET", "/deny?after_tenant_id=" + tenant, "", 400, ""},
		{"POST", "/deny", `{"hardware_id":"a+b/c%2Fd"}`, 201, "deny.added"},
		{"POST", "/deny", `{"hardware_id":"a+b/c%2Fd"}`, 200, ""},
		{"POST", "/deny", `{"hardware_id":"X","tenant_id":"` + tenant + `"}`, 201, "deny.added"},
		{"POST", "/deny", `{"tenant_id":"` + tenant + `"}`, 400, ""},
		{"DELETE", "/deny/" + url.PathEscape("a+b/c%2Fd"), "", 200, "deny.removed"},
		{"POST", "/deny", `{"hardware_id":"a%2Fb"}`, 201, "deny.added"},
		{"DELETE", "/deny/" + url.PathEscape("a%2Fb"), "", 200, "deny.removed"},
		{"DELETE", "/deny/X", "", 404, ""},
		{"DELETE", "/deny/X?tenant_id=" + tenant, "", 200, "deny.removed"},
		{"DELETE", "/deny/X?tenant_id=x", "", 400, ""},

		{"GET", "/ca", "", 200, ""},
		{"GET", "/ca/root", "", 200, ""},
		{"POST", "/ca/csr", "", 200, "ca.requested"},
		{"POST", "/ca/import", "the root itself", 200, "ca.imported"},

		{"GET", "/tokens", "", 200, ""},
		{"POST", "/tokens", `{"name":"n","scope":"operate","expires_in":"1h"}`, 201, "token.made"},
		{"POST", "/tokens", `{"name":"n","scope":"root"}`, 400, ""},
		{"POST", "/tokens", `{"scope":"read"}`, 400, ""},
		{"POST", "/tokens", `{"name":"n","scope":"read","expires_in":"90d"}`, 400, ""},
		{"DELETE", "/tokens/{token}", "", 200, "token.revoked"},
		{"DELETE", "/tokens/0123456789abcdef", "", 404, ""},
		{"DELETE", "/tokens/x", "", 400, ""},

		{"GET", "/audit", "", 200, ""},
		{"GET", "/audit?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", "", 200, ""},
		{"GET", "/audit?from=yesterday", "", 400, ""},
		{"GET", "/audit/head", "", 200, ""},
		{"POST", "/audit/verify", "", 200, ""},
		{"POST", "/audit/verify", `{"anchor":{"segment":"s","sequence":1,"hash":"` + strings.Repeat("0", 64) + `","time":"2026-01-01T00:00:00Z"}}`, 200, ""},
		{"POST", "/audit/verify", `{"anchor":7}`, 400, ""},

		{"PUT", "/enrolment", enrolmentFile("a"), 200, "enrolled"},
		{"GET", "/enrolment", "", 200, ""},
		{"DELETE", "/enrolment", "", 200, "unenrolled"},
		{"GET", "/outbox/quarantine", "", 200, ""},
		{"GET", "/outbox/quarantine/q000000", "", 200, ""},
		{"POST", "/outbox/quarantine/q000002/requeue", "", 200, "outbox.requeued"},
		{"POST", "/outbox/quarantine/q000001/discard", "", 200, "outbox.discarded"},
		{"POST", "/outbox/quarantine/requeue", `{"all":true}`, 200, "outbox.requeued"},
		{"POST", "/outbox/renew", "", 200, "outbox.renewed"},
		{"GET", "/outbox/export", "", 200, ""},
		{"POST", "/outbox/ack", "{}", 200, "outbox.acked"},
		{"POST", "/keys/{key}/revoke", `{"reason":"a\nb"}`, 400, ""},
		{"POST", "/keys/{key}/revoke", `{"device":true}`, 400, ""},
		{"POST", "/keys/none/revoke", "", 404, ""},
		{"POST", "/keys/{key}/revoke", `{"devices":false,"reason":"leaked"}`, 200, "key.revoked"},
		{"POST", "/keys/{key}/revoke", "", 200, "key.revoked"},
	}
}

// TestRoutesAreAccountedFor: each route has a scope, and each that changes
// something has a name in the audit log.
func TestRoutesAreAccountedFor(t *testing.T) {
	t.Parallel()
	for _, r := range (httpapi.Admin{Documents: &papers{}, Orders: &work{}, Settings: &work{}}).Routes() {
		if !token.ScopeAdmin.Allows(token.Scope(r.Scope)) {
			t.Errorf("%s %s: scope %q", r.Method, r.Path, r.Scope)
		}
		asksOnly := r.Method == http.MethodGet || r.Path == "/api/v1/audit/verify"
		if r.Kind == "" || asksOnly != (r.Kind == httpapi.Looks) {
			t.Errorf("%s %s: audited as %q", r.Method, r.Path, r.Kind)
		}
	}
}

// TestAuditIsSaid: what the API says of the log is what is in its files.
func TestAuditIsSaid(t *testing.T) {
	f := newFace(t)
	f.issue()
	var head audit.Head
	f.call("GET", "/api/v1/audit/head", "", &head)
	if head != f.audit.Head() || head.Sequence == 0 {
		t.Errorf("head %v, want %v", head, f.audit.Head())
	}
	response, body := f.ask(f.admin, f.request("GET", "http://box/api/v1/audit", ""))
	if lines := strings.Count(body, "\n"); response.StatusCode != 200 || lines != int(head.Sequence) {
		t.Errorf("%d, %d lines, want %d", response.StatusCode, lines, head.Sequence)
	}
	anchor, err := json.Marshal(map[string]audit.Head{"anchor": head})
	if err != nil {
		t.Fatal(err)
	}
	var report audit.Report
	if f.call("POST", "/api/v1/audit/verify", string(anchor), &report); !report.OK() || report.Anchor != audit.AnchorHeld {
		t.Errorf("verified: %+v", report)
	}
	file := filepath.Join(f.parts.Data, "audit", head.Segment)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(text, []byte(`"who":"uid:`), []byte(`"who":"uid;`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if f.call("POST", "/api/v1/audit/verify", string(anchor), &report); report.OK() {
		t.Errorf("a changed line is verified: %+v", report)
	}
	if response, err := f.admin.Get("http://box/api/v1/audit"); err == nil {
		_, err = io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil && response.StatusCode == 200 {
			t.Error("an export without a changed line looks whole")
		}
	}
}

// TestDeviceStates: a list of one state, whole and by the page.
func TestDeviceStates(t *testing.T) {
	f := newFace(t)
	_, _, key := f.issue()
	const each = 4
	want := map[string][]string{}
	for i := range 4 * each {
		device := f.claimed(key, fmt.Sprintf("H%02d", i))
		state := []string{"claimed", "rotating", "released", "revoked"}[i%4]
		if verb, ok := map[string]string{"rotating": "rotate", "released": "release", "revoked": "revoke"}[state]; ok {
			if status := f.call("POST", "/api/v1/devices/"+device.DeviceID+"/"+verb, "", nil); status != 200 {
				t.Fatalf("%s: %d", verb, status)
			}
		}
		want[state] = append(want[state], device.DeviceID)
	}
	type shown struct {
		ID    string `json:"device_id"`
		State string
	}
	for _, state := range []string{"claimed", "confirmed", "rotating", "released", "revoked"} {
		var whole, paged []shown
		if status := f.call("GET", "/api/v1/devices?state="+state, "", &whole); status != 200 {
			t.Fatalf("%s: %d", state, status)
		}
		for after := ""; ; after = "&after=" + paged[len(paged)-1].ID {
			var page []shown
			f.call("GET", "/api/v1/devices?limit=3&state="+state+after, "", &page)
			if len(page) == 0 {
				break
			}
			paged = append(paged, page...)
		}
		if !slices.Equal(whole, paged) {
			t.Errorf("%s: %v by the page, want %v", state, paged, whole)
		}
		var ids []string
		for _, device := range whole {
			ids = append(ids, device.ID)
			if device.State != state {
				t.Errorf("%s is shown as %s, want %s", device.ID, device.State, state)
			}
		}
		slices.Sort(ids)
		slices.Sort(want[state])
		if !slices.Equal(ids, want[state]) {
			t.Errorf("%s: %v, want %v", state, ids, want[state])
		}
	}
}
