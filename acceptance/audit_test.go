package acceptance

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// entry is what the tests read of a line of the audit log.
type entry struct {
	Seq                                         uint64
	Kind, Who, Source, Reason, Device, Hardware string
}

// audit is the whole of the box's log.
func (b *box) audit() []entry {
	b.t.Helper()
	out, errOut, code := b.command("", "audit", "export")
	if code != 0 {
		b.t.Fatalf("audit export: exit code %d: %s", code, errOut)
	}
	var entries []entry
	for line := range bytes.Lines(out) {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			b.t.Fatalf("audit line %s: %v", line, err)
		}
		entries = append(entries, e)
	}
	return entries
}

// audited are the entries of a kind, by who, empty for everybody.
func (b *box) audited(kind, who string) []entry {
	b.t.Helper()
	return slices.DeleteFunc(b.audit(), func(e entry) bool { return e.Kind != kind || who != "" && e.Who != who })
}

// deed is one thing that an operator does, and what the log calls it.
type deed struct{ operation, path, body, kind string }

// operator does deeds over TCP.
type operator struct {
	*box
	secret string
	done   map[string]bool // by operation
}

// do does one, which must succeed and leave one entry with who did it.
func (o *operator) do(d deed) answer {
	o.t.Helper()
	const who = "token:operator"
	method, template, _ := strings.Cut(d.operation, " ")
	before := len(o.audit())
	said := o.admin(o.secret, method, "/api/v1"+cmp.Or(d.path, template), d.body)
	if said.status >= http.StatusBadRequest {
		o.t.Fatalf("%s: %d %s", d.operation, said.status, said.body)
	}
	var left []string
	for _, e := range o.audit()[before:] {
		if e.Who == who {
			left = append(left, e.Kind+" from "+e.Source)
		}
	}
	if want := []string{d.kind + " from 127.0.0.1"}; d.kind != "" && !slices.Equal(left, want) {
		o.t.Errorf("%s left %v in the audit log, want %v", d.operation, left, want)
	}
	o.done[d.operation] = true
	return said
}

// TestOneAuditEntryForEachDeed: every operation that changes something leaves
// one entry with who did it, durable before it is answered.
func TestOneAuditEntryForEachDeed(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	_, secret := b.adminToken("operator", "admin")
	o := &operator{box: b, secret: secret, done: map[string]bool{}}

	template := o.do(deed{"POST /templates", "", `{"tenant_id":"` + tenant + `","name":"T","approval":"manual"}`, "template.created"}).text(t, "template_id")
	at := "/templates/" + template
	var keys []issued
	issue := o.do(deed{"POST /templates/{template_id}/keys", at + "/keys", `{"count":1}`, "key.issued"})
	if err := json.Unmarshal([]byte(issue.body), &keys); err != nil || len(keys) != 1 {
		t.Fatalf("keys: %v in %s", err, issue.body)
	}
	key := "/keys/" + keys[0].KeyID
	for _, d := range []deed{
		{"POST /templates/{template_id}/disable", at + "/disable", "", "template.disabled"},
		{"POST /templates/{template_id}/enable", at + "/enable", "", "template.enabled"},
		{"POST /templates/{template_id}/keys/import", at + "/keys/import", `{"sha256":"` + hash("k") + `"}`, "key.imported"},
		{"DELETE /templates/{template_id}/manifest", at + "/manifest", "", "manifest.removed"},
		{"POST /keys/{key_id}/disable", key + "/disable", "", "key.disabled"},
		{"POST /keys/{key_id}/enable", key + "/enable", "", "key.enabled"},
		{"POST /deny", "", `{"hardware_id":"DENIED"}`, "deny.added"},
		{"DELETE /deny/{hardware_id}", "/deny/DENIED", "", "deny.removed"},
		{"POST /clock/reset", "", "", "clock.reset"},
		{"POST /audit/verify", "", "", ""},
	} {
		o.do(d)
	}
	o.manifest(at)
	o.approvals(keys[0].ProvisionKey)
	o.lifecycle()
	o.authority()
	o.do(deed{"POST /keys/{key_id}/revoke", key + "/revoke", "", "key.revoked"})
	token := o.do(deed{"POST /tokens", "", `{"name":"other","scope":"read"}`, "token.made"}).text(t, "token_id")
	o.do(deed{"DELETE /tokens/{token_id}", "/tokens/" + token, "", "token.revoked"})
	h := newHub(t, "127.0.0.1:1")
	enrolment, _, _ := h.command("", "enrolment")
	o.do(deed{"PUT /enrolment", "", string(enrolment), "enrolled"})
	o.documents()
	o.do(deed{"DELETE /enrolment", "", "", "unenrolled"})
	o.do(deed{"POST /outbox/renew", "", "", "outbox.renewed"})

	for operation := range documented(t) {
		look := strings.HasPrefix(operation, "GET ")
		elsewhere := strings.HasPrefix(operation, "POST /outbox/") // they need a record that upstream refused, or a hub's ack
		if !look && !elsewhere && !o.done[operation] {
			t.Errorf("%s was not tried", operation)
		}
	}
	b.json(nil, "template", "disable", template)
	if got := b.audited("template.disabled", "uid:0"); len(got) != 1 && os.Getuid() == 0 {
		t.Errorf("by the command line: %d entries with the user's id, want 1", len(got))
	}
	// What fails leaves nothing.
	before := len(b.audit())
	if said := o.admin(o.secret, "POST", "/api/v1/templates", `{"name":7}`); said.status != http.StatusBadRequest {
		t.Errorf("a bad template: %d", said.status)
	}
	if after := len(b.audit()); after != before {
		t.Errorf("a bad request left %d entries", after-before)
	}
}

func (o *operator) manifest(at string) {
	o.t.Helper()
	before := len(o.audited("manifest.imported", "token:operator"))
	said := send(o.t, http.DefaultClient, "PUT", "http://"+o.metricsAddr+"/api/v1"+at+"/manifest", "hardware_id\nM1\nM2\n",
		append(bearer(o.secret), "Content-Type", "text/csv")...)
	if said.status != http.StatusOK || len(o.audited("manifest.imported", "token:operator")) != before+1 {
		o.t.Errorf("manifest: %d %s", said.status, said.body)
	}
	o.done["PUT /templates/{template_id}/manifest"] = true
}

// documents imports a file whose one line is none: that it was refused is written
// down by itself.
func (o *operator) documents() {
	o.t.Helper()
	before := len(o.audited("documents.imported", "token:operator"))
	o.do(deed{"POST /documents", "", "{}", ""})
	if len(o.audited("documents.imported", "token:operator")) != before+1 {
		o.t.Error("an import left not one entry")
	}
}

func (o *operator) approvals(key string) {
	o.t.Helper()
	for hardware, verb := range map[string]string{"A1": "approve", "A2": "refuse"} {
		if said := o.post(claimBody(key, "n", hardware)); said.status != http.StatusAccepted {
			o.t.Fatalf("claim: %d %s", said.status, said.body)
		}
		var waiting []device
		o.json(&waiting, "approval", "list")
		i := slices.IndexFunc(waiting, func(d device) bool { return d.HardwareID == hardware })
		kind := map[string]string{"approve": "approval.given", "refuse": "approval.withdrawn"}[verb]
		o.do(deed{"POST /approvals/{device_id}/" + verb, "/approvals/" + waiting[i].DeviceID + "/" + verb, "", kind})
	}
}

func (o *operator) lifecycle() {
	o.t.Helper()
	d := o.claimOne(o.key(), "L1")
	at := "/devices/" + d.id
	for _, d := range []deed{
		{"POST /devices/{device_id}/commands", at + "/commands", `{"command_id":"c1","payload":1}`, "command.queued"},
		{"POST /devices/{device_id}/commands/{command_id}/cancel", at + "/commands/c1/cancel", "", "command.cancelled"},
		{"PUT /devices/{device_id}/config", at + "/config", `{"config":{"a":1}}`, "config.changed"},
		{"POST /devices/{device_id}/rotate", at + "/rotate", `{"overlap":"1h"}`, "device.rotated"},
		{"POST /devices/{device_id}/revoke", at + "/revoke", `{"reason":"stolen"}`, "device.revoked"},
		{"POST /devices/{device_id}/release", at + "/release", `{"reinstate":true}`, "device.released"},
		{"POST /devices/{device_id}/swap", at + "/swap", `{"hardware_id":"L2"}`, "device.swapped"},
	} {
		o.do(d)
	}
}

// authority has the box's CA signed by a plant's root.
func (o *operator) authority() {
	o.t.Helper()
	said := o.do(deed{"POST /ca/csr", "", "", "ca.requested"})
	block, _ := pem.Decode([]byte(said.body))
	if block == nil {
		o.t.Fatalf("no request: %s", said.body)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		o.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Plant"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(20, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	box := *root
	box.SerialNumber, box.Subject, box.MaxPathLenZero = big.NewInt(2), request.Subject, true
	var chain bytes.Buffer
	for _, c := range []struct {
		certificate *x509.Certificate
		public      any
	}{{&box, request.PublicKey}, {root, key.Public()}} {
		der, err := x509.CreateCertificate(rand.Reader, c.certificate, root, c.public, key)
		if err == nil {
			err = pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der})
		}
		if err != nil {
			o.t.Fatal(err)
		}
	}
	before := len(o.audited("ca.imported", "token:operator"))
	said = send(o.t, http.DefaultClient, "POST", "http://"+o.metricsAddr+"/api/v1/ca/import", chain.String(),
		append(bearer(o.secret), "Content-Type", "application/x-pem-file")...)
	if said.status != http.StatusOK || len(o.audited("ca.imported", "token:operator")) != before+1 {
		o.t.Errorf("ca import: %d %s", said.status, said.body)
	}
	o.done["POST /ca/import"] = true
}

// TestAuditTampered: whatever is done to the log is found, by a copy of it alone
// or by the head that was told before.
func TestAuditTampered(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	key := b.key()
	for i := range 5 {
		b.claimOne(key, fmt.Sprint("HW-", i))
		b.post(claimBody("pk_factory_wrong", "n", fmt.Sprint("HW-", i)))
	}
	var head json.RawMessage
	until(t, "the claims are in the audit log", func() bool { return len(b.audited("claim.minted", "")) == 5 })
	b.json(&head, "audit", "head")
	b.json(nil, "token", "create", "--name", "later", "--scope", "read")
	b.kill()
	anchor := filepath.Join(t.TempDir(), "head.json")
	if err := os.WriteFile(anchor, head, 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(b.data, "audit", "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatalf("audit files %v: %v", files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	other := otherLog(t)
	lines := bytes.SplitAfter(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n"))
	lines[len(lines)-1] = append(slices.Clone(lines[len(lines)-1]), '\n')
	join := func(lines ...[][]byte) []byte { return bytes.Join(slices.Concat(lines...), nil) }
	edit := func(old, with string) []byte {
		if !bytes.Contains(whole, []byte(old)) {
			t.Fatalf("the log has no %s", old)
		}
		return bytes.Replace(whole, []byte(old), []byte(with), 1)
	}
	for _, c := range []struct {
		name            string
		log             []byte
		alone, anchored int // exit codes
	}{
		{"as it is", whole, 0, 0},
		{"a hardware id changed", edit("HW-3", "HW-8"), 1, 1},
		{"who changed", edit(`"who":"uid`, `"who":"UID`), 1, 1},
		{"a kind changed", edit("claim.refused", "claim.minteds"), 1, 1},
		{"a number changed", edit(`"seq":4`, `"seq":5`), 1, 1},
		{"a line left out", join(lines[:3], lines[4:]), 1, 1},
		{"two lines in another order", join(lines[:3], lines[4:5], lines[3:4], lines[5:]), 1, 1},
		{"a line twice", join(lines[:4], lines[3:]), 1, 1},
		{"the beginning left out", join(lines[2:]), 1, 1},
		{"the last line changed", edit(`"later"`, `"never"`), 1, 1},
		{"the end cut off", join(lines[:4]), 0, 1},
		{"all but the beginning cut off", join(lines[:1]), 0, 1},
		{"another box's log", other, 0, 1},
		{"emptied", nil, 0, 1},
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "audit"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "audit", filepath.Base(files[0])), c.log, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, verify := range []struct {
			args []string
			want int
		}{{nil, c.alone}, {[]string{"--anchor", anchor}, c.anchored}} {
			out, errOut, code := b.command("", append([]string{"audit", "verify", "--dir", dir}, verify.args...)...)
			if code != verify.want {
				t.Errorf("%s, %v: exit code %d, want %d: %s%s", c.name, verify.args, code, verify.want, out, errOut)
			}
		}
	}
	// The box goes on with a damaged log, and the damage is there for good.
	if err := os.WriteFile(files[0], edit("HW-3", "HW-8"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.claimOne(key, "AFTER")
	if out, _, code := b.command("", "audit", "verify"); code != 1 || !bytes.Contains(out, []byte(filepath.Base(files[0])+":")) {
		t.Errorf("beside the running box: exit code %d: %s", code, out)
	}
}

// otherLog is a whole log of another box.
func otherLog(t *testing.T) []byte {
	t.Helper()
	b := startBox(t)
	key := b.key()
	for i := range 9 {
		b.claimOne(key, fmt.Sprint("OTHER-", i))
	}
	b.stop()
	files, err := filepath.Glob(filepath.Join(b.data, "audit", "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatalf("audit files %v: %v", files, err)
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestAuditHeadUpstream: what the box told of its audit log finds that all of it
// was written anew.
func TestAuditHeadUpstream(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.claimOne(l.key(), "BEFORE")
	l.stop() // it tells the head at its end, and the rest at its next start
	l.start()
	var told json.RawMessage
	until(t, "upstream has the audit log's head", func() bool {
		var boxes []struct{ Audit json.RawMessage }
		l.hub.json(&boxes, "boxes")
		if len(boxes) == 1 {
			told = boxes[0].Audit
		}
		return bytes.Contains(told, []byte(`"hash"`))
	})
	anchor := filepath.Join(t.TempDir(), "head.json")
	if err := os.WriteFile(anchor, told, 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(want int, when string) {
		t.Helper()
		if out, errOut, code := l.command("", "audit", "verify", "--anchor", anchor); code != want {
			t.Errorf("%s: exit code %d, want %d: %s%s", when, code, want, out, errOut)
		}
	}
	verify(0, "as it is")
	l.kill()
	if err := os.RemoveAll(filepath.Join(l.data, "audit")); err != nil {
		t.Fatal(err)
	}
	l.start()
	l.claimOne(l.key(), "AFTER")
	verify(1, "begun anew")
	until(t, "upstream notices by itself", func() bool { return l.hub.hasConflict("audit_rewritten") })
}
