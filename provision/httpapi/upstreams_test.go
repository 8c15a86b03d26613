package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"edgeclaim"
	"edgeclaim/provision/httpapi"
)

// obey has the box do what a document says.
func (f *face) obey(text []byte) {
	f.t.Helper()
	if response, body := f.bring(text); response.StatusCode != 200 || parse[httpapi.Imported](f.t, body).Applied != 1 {
		f.t.Fatalf("%d %s", response.StatusCode, body)
	}
}

const (
	upstreamTemplate = "019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f"
	upstreamKey      = "019ca7b2-4c1e-7d05-8f33-5a0b6c7d8ea0"
	upstreamSecret   = "pk_of_the_platform"
)

// platform gives the box a template and a key of upstream's, of which this box
// may use a share.
func (f *face) platform() {
	f.t.Helper()
	f.obey(sign(f.t, f.papers.key, edgeclaim.DocumentTemplates, 1, fmt.Sprintf(`"tenant_id":%q,"templates":{
		"templates":[{"template_id":%q,"name":"Line 4","max_claims":100,"allow_list":true}],
		"keys":[{"key_id":%q,"template_id":%[2]q,"sha256":%[4]q}]}`,
		tenant, upstreamTemplate, upstreamKey, edgeclaim.NewSecret(upstreamSecret).Hash().String())))
	f.obey(sign(f.t, f.papers.key, edgeclaim.DocumentAllowList, 1, fmt.Sprintf(`"tenant_id":%q,"name":"part-1","allow_list":{
		"template_id":%q,"rows":[{"hardware_id":"B1","tags":{"hall":"4"}},{"hardware_id":"B2","groups":["a;b"]},{"hardware_id":"B3"}]}`,
		tenant, upstreamTemplate)))
}

// share grants the box so much of the key.
func (f *face) share(granted uint32) {
	f.t.Helper()
	key, err := edgeclaim.ParseKeyID(upstreamKey)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.rule.Share(f.t.Context(), []edgeclaim.ShareGrant{{Key: key, Granted: granted}}); err != nil {
		f.t.Fatal(err)
	}
}

// TestUpstreamsIsReadOnly: what upstream owns is shown as its own, and whoever
// would change it here is told so in words, and nothing is written down.
func TestUpstreamsIsReadOnly(t *testing.T) {
	f := newFace(t)
	f.platform()
	f.share(5)
	device := f.claimed(upstreamSecret, "B1").DeviceID
	f.obey(sign(t, f.papers.key, edgeclaim.DocumentRevocations, 1,
		fmt.Sprintf(`"tenant_id":%q,"revocations":{"devices":[%q],"hardware":["B9"]}`, tenant, device)))

	var template edgeclaim.Template
	f.call("GET", "/api/v1/templates/"+upstreamTemplate, "", &template)
	if template.Owner != edgeclaim.OwnerUpstream || !template.Leased {
		t.Errorf("the template is shown as %+v", template)
	}
	var denials []edgeclaim.Denial
	f.call("GET", "/api/v1/deny", "", &denials)
	if len(denials) != 1 || denials[0].Hardware.String() != "B9" || denials[0].Reason != edgeclaim.DeniedUpstream {
		t.Errorf("denied: %+v", denials)
	}
	before := len(f.changes())
	const at, key = "/templates/" + upstreamTemplate, "/keys/" + upstreamKey
	for _, c := range []struct{ method, path, body, message string }{
		{"POST", at + "/disable", "", "the template is upstream's: what it says is changed there, and not here"},
		{"POST", at + "/enable", "", "the template is upstream's: what it says is changed there, and not here"},
		{"POST", at + "/keys", "", "the template is upstream's: its keys come from there"},
		{"POST", at + "/keys/import", `{"provision_key":"k"}`, "the template is upstream's: its keys come from there"},
		{"PUT", at + "/manifest", "hardware_id\nB4\n", "the template is upstream's: the hardware that it expects is listed there"},
		{"PUT", at + "/manifest?dry_run=true", "hardware_id\nB4\n", "the template is upstream's: the hardware that it expects is listed there"},
		{"DELETE", at + "/manifest", "", "the template is upstream's: the hardware that it expects is listed there"},
		{"POST", key + "/disable", "", "the key is upstream's: here it can be revoked, and nothing else"},
		{"POST", key + "/enable", "", "the key is upstream's: here it can be revoked, and nothing else"},
		{"DELETE", "/deny/B9?tenant_id=" + tenant, "", "upstream's revocations name this hardware: only they take that back"},
		{"POST", "/devices/" + device + "/release", `{"reinstate":true}`, "upstream's revocations name this device or its board: only they take that back"},
	} {
		header := "application/json"
		if c.method == "PUT" {
			header = "text/csv"
		}
		response, body := f.ask(f.admin, f.request(c.method, "http://box/api/v1"+c.path, c.body, "Content-Type", header))
		said := parse[struct {
			Code    edgeclaim.Code
			Message string
		}](t, body)
		if response.StatusCode != http.StatusConflict || said.Code != edgeclaim.CodeAborted || said.Message != c.message {
			t.Errorf("%s %s: %d %s, want %q", c.method, c.path, response.StatusCode, body, c.message)
		}
	}
	if changes := f.changes()[before:]; len(changes) > 0 {
		t.Errorf("refused, and audited as %v", changes)
	}
	if status := f.call("POST", "/api/v1"+key+"/revoke", "", nil); status != 200 {
		t.Errorf("revoke: %d", status)
	}
}

// TestNobodyMakesUpstreams: whose a template is the box says, and no request.
func TestNobodyMakesUpstreams(t *testing.T) {
	f := newFace(t)
	var made edgeclaim.Template
	body := `{"tenant_id":"` + tenant + `","name":"T","max_claims":5,"owner":"upstream","leased":true}`
	if status := f.call("POST", "/api/v1/templates", body, &made); status != http.StatusCreated || made.Owner != edgeclaim.OwnerLocal || made.Leased {
		t.Errorf("%d %+v", status, made)
	}
}

// TestUpstreamsManifest: the list is shown in JSON, and as CSV where that has
// words for it; half a list is none.
func TestUpstreamsManifest(t *testing.T) {
	f := newFace(t)
	f.platform()
	rows := f.listed(upstreamTemplate)
	if len(rows) != 3 || rows[0].Tags["hall"] != "4" || !slices.Equal(rows[1].Groups, []string{"a;b"}) {
		t.Errorf("listed %v", rows)
	}
	response, body := f.ask(f.admin, f.request("GET", "http://box/api/v1/templates/"+upstreamTemplate+"/manifest", "", "Accept", "text/csv"))
	const want = "the row of B2 has ; in a group or tag, or = in a tag's name, which CSV cannot say: ask for JSON"
	if said := parse[struct{ Message string }](t, body).Message; response.StatusCode != http.StatusConflict || said != want {
		t.Errorf("as CSV: %d %s, want %q", response.StatusCode, body, want)
	}
	f.share(5)
	device := f.claimed(upstreamSecret, "B1")
	var shown edgeclaim.Device
	if f.call("GET", "/api/v1/devices/"+device.DeviceID, "", &shown); shown.Tags["hall"] != "4" {
		t.Errorf("the device has tags %v", shown.Tags)
	}
}

// TestShares: what upstream has granted, what is used of it, and what is low.
func TestShares(t *testing.T) {
	f := newFace(t)
	held := func() (shares []edgeclaim.Share) {
		t.Helper()
		if status := f.call("GET", "/api/v1/shares", "", &shares); status != 200 || shares == nil {
			t.Errorf("shares: %d %v", status, shares)
		}
		return shares
	}
	if shares := held(); len(shares) != 0 {
		t.Errorf("no shares are %v, want []", shares)
	}
	f.platform()
	f.share(1)
	f.claimed(upstreamSecret, "B1")
	if response, body := f.post("application/json", claim(upstreamSecret, "B3")); response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") == "" {
		t.Errorf("above the share: %d %s", response.StatusCode, body)
	}
	share := edgeclaim.Share{Granted: 1, Claims: 1, Low: true}
	share.Key, _ = edgeclaim.ParseKeyID(upstreamKey)
	share.Template, _ = edgeclaim.ParseTemplateID(upstreamTemplate)
	if got := held(); !slices.Equal(got, []edgeclaim.Share{share}) {
		t.Errorf("used up: %+v, want %+v", got, share)
	}
	f.share(9)
	f.claimed(upstreamSecret, "B3")
	share.Granted, share.Claims, share.Low = 9, 2, false
	if got := held(); !slices.Equal(got, []edgeclaim.Share{share}) {
		t.Errorf("with more: %+v, want %+v", got, share)
	}
	var key edgeclaim.Key
	if f.call("GET", "/api/v1/keys/"+upstreamKey, "", &key); key.Granted != 9 || key.Claims != 2 {
		t.Errorf("the key is %+v", key)
	}
}
