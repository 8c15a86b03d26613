package provision_test

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/signeddoc"
	"edgeclaim/provision"
)

// platform is the tenant's side: it signs documents of rising versions.
type platform struct {
	r        *rig
	key      ed25519.PrivateKey
	tenant   edgeclaim.TenantID
	versions map[edgeclaim.DocumentID]uint64
}

func newPlatform(r *rig) *platform {
	return &platform{r: r, key: signeddoc.NewKey(), tenant: tenantOf(r.t), versions: map[edgeclaim.DocumentID]uint64{}}
}

// sign signs a document of the tenant's, with the next version where it has none.
func (p *platform) sign(d edgeclaim.Document) (*signeddoc.Signed, edgeclaim.HeldDocument) {
	p.r.t.Helper()
	if d.Type != edgeclaim.DocumentSigner && d.Tenant.IsZero() {
		d.Tenant = p.tenant
	}
	if d.Version == 0 {
		d.Version = p.versions[d.DocumentID] + 1
	}
	d.IssuedAt = p.r.clock.Now()
	payload, err := json.Marshal(d)
	if err != nil {
		p.r.t.Fatal(err)
	}
	signed, err := signeddoc.Sign(p.key, payload)
	if err != nil {
		p.r.t.Fatalf("%s: %v", payload, err)
	}
	return signed, edgeclaim.HeldDocument{
		ID: d.DocumentID, Version: d.Version, Hash: signed.Hash, Box: d.Box, Site: d.Site, IssuedAt: d.IssuedAt,
		AppliedAt: d.IssuedAt, Confirmed: true, ConfirmedAt: d.IssuedAt, Synced: true,
	}
}

// try has the box obey a document.
func (p *platform) try(d edgeclaim.Document) error {
	p.r.t.Helper()
	signed, held := p.sign(d)
	err := p.r.Obey(p.r.t.Context(), signed, held)
	if err == nil {
		p.versions[held.ID] = held.Version
	}
	return err
}

func (p *platform) publish(d edgeclaim.Document) {
	p.r.t.Helper()
	if err := p.try(d); err != nil {
		p.r.t.Fatal(err)
	}
}

func (p *platform) wantRefused(d edgeclaim.Document, want edgeclaim.DocumentRefusal) {
	p.r.t.Helper()
	refused, ok := errors.AsType[*edgeclaim.DocumentError](p.try(d))
	if !ok || refused.Reason != want {
		p.r.t.Errorf("document of type %s: %v, want it refused as %s", d.Type, refused, want)
	}
}

func named(kind edgeclaim.DocumentType, name string) edgeclaim.DocumentID {
	return edgeclaim.DocumentID{Type: kind, Name: name}
}

func revocations(r edgeclaim.Revocations) edgeclaim.Document {
	return edgeclaim.Document{DocumentID: named(edgeclaim.DocumentRevocations, ""), Revocations: &r}
}

func templatesOf(keys []edgeclaim.TemplateKey, templates ...edgeclaim.Template) edgeclaim.Document {
	if templates == nil {
		templates = []edgeclaim.Template{}
	}
	return edgeclaim.Document{
		DocumentID: named(edgeclaim.DocumentTemplates, ""), Templates: &edgeclaim.Templates{Templates: templates, Keys: keys},
	}
}

func aliasesOf(aliases ...edgeclaim.Alias) edgeclaim.Document {
	if aliases == nil {
		aliases = []edgeclaim.Alias{}
	}
	return edgeclaim.Document{DocumentID: named(edgeclaim.DocumentAliases, ""), Aliases: &edgeclaim.Aliases{Aliases: aliases}}
}

func profilesOf(p edgeclaim.Profiles) edgeclaim.Document {
	return edgeclaim.Document{DocumentID: named(edgeclaim.DocumentProfiles, ""), Profiles: &p}
}

func allowList(name string, template edgeclaim.TemplateID, rows ...edgeclaim.ManifestRow) edgeclaim.Document {
	return edgeclaim.Document{
		DocumentID: named(edgeclaim.DocumentAllowList, name), AllowList: &edgeclaim.AllowList{Template: template, Rows: rows},
	}
}

// upstreams is a template of upstream's, by its id.
func (p *platform) upstreams(id string, change func(*edgeclaim.Template)) edgeclaim.Template {
	p.r.t.Helper()
	t := edgeclaim.Template{Name: "Up", Credential: edgeclaim.CredentialAPIKey, Approval: edgeclaim.ApprovalAuto}
	var err error
	if t.ID, err = edgeclaim.ParseTemplateID(id); err != nil {
		p.r.t.Fatal(err)
	}
	if change != nil {
		change(&t)
	}
	return t
}

// keyed is a key of a template of upstream's, and its secret.
func (p *platform) keyed(t edgeclaim.Template, id string) (edgeclaim.TemplateKey, edgeclaim.Secret) {
	p.r.t.Helper()
	secret := edgeclaim.NewSecret("pk_factory_" + id)
	return edgeclaim.TemplateKey{ID: keyID(p.r.t, id), Template: t.ID, Hash: secret.Hash()}, secret
}

// one publishes a template with one key, and returns the key's id and secret.
func (p *platform) one(id string, change func(*edgeclaim.Template)) (edgeclaim.KeyID, edgeclaim.Secret) {
	p.r.t.Helper()
	t := p.upstreams(id, change)
	key, secret := p.keyed(t, id+"-key")
	p.publish(templatesOf([]edgeclaim.TemplateKey{key}, t))
	return key.ID, secret
}

func deviceID(t testing.TB, text string) edgeclaim.DeviceID {
	t.Helper()
	id, err := edgeclaim.ParseDeviceID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// conflicts are the records of device.conflict, decoded, by their kinds.
func (r *rig) conflicts(kind string) []map[string]any {
	r.t.Helper()
	var all []map[string]any
	for _, record := range r.records(edgeclaim.LaneProv) {
		if record.Type != edgeclaim.TypeDeviceConflict {
			continue
		}
		data := map[string]any{}
		if err := json.Unmarshal(record.Data, &data); err != nil {
			r.t.Fatal(err)
		}
		if data["device_id"] != record.Device.String() {
			r.t.Errorf("a record about %s says %v", record.Device, data["device_id"])
		}
		if data["kind"] == kind {
			all = append(all, data)
		}
	}
	return all
}

// wantFields holds a record's data against what it has to say.
func wantFields(t testing.TB, data map[string]any, want map[string]any) {
	t.Helper()
	for name, value := range want {
		got, err := json.Marshal(data[name])
		if err != nil {
			t.Fatal(err)
		}
		wanted, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(wanted) {
			t.Errorf("%s is %s, want %s", name, got, wanted)
		}
	}
}

// alarmCount is how often an alarm rose.
func (r *rig) alarmCount(alarm edgeclaim.Alarm) uint64 {
	for _, a := range r.Alarms() {
		if a.Alarm == alarm {
			return a.Count
		}
	}
	return 0
}

// wasVoided takes whose sessions ended since it was asked last.
func (r *rig) wasVoided() []edgeclaim.DeviceID {
	r.mu.Lock()
	defer r.mu.Unlock()
	voided := r.voided
	r.voided = nil
	return voided
}

func (r *rig) wantPutOff(s said) {
	r.t.Helper()
	if s.Code != edgeclaim.CodeResourceExhausted || s.answer.RetryAfter != provision.ShareRetry {
		r.t.Errorf("answer %s, retry after %s (%s); want it put off for %s", s.raw, s.answer.RetryAfter, r.lastOutcome(), provision.ShareRetry)
	}
}

// grant is a share.
func (r *rig) grant(g edgeclaim.ShareGrant) {
	r.t.Helper()
	if err := r.Share(r.t.Context(), []edgeclaim.ShareGrant{g}); err != nil {
		r.t.Fatal(err)
	}
}

// run lets the box run on.
func (r *rig) run(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uptime += d
}

// freshness is how old the word from upstream is.
type freshness struct{ r *rig }

func (f freshness) Denies(tenant edgeclaim.TenantID) bool {
	return f.r.stale != nil && f.r.stale(tenant)
}
