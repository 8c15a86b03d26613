package provision_test

import (
	"errors"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision"
)

const otherTenant = "11111111-7f4e-4a57-9a0b-6a1c2d3e4f50"

// TestTemplatesUpstream: templates and keys come by document, and are read-only
// here.
func TestTemplatesUpstream(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	template := p.upstreams("up-1", func(t *edgeclaim.Template) { t.Profile, t.Pattern = "p", "H[0-9]+" })
	key, secret := p.keyed(template, "k-1")
	spare, spareSecret := p.keyed(template, "k-2")
	p.publish(templatesOf([]edgeclaim.TemplateKey{key, spare}, template))

	kept, err := r.Template(t.Context(), template.ID)
	if err != nil || kept.Owner != edgeclaim.OwnerUpstream || kept.Tenant != p.tenant || kept.Leased || kept.Status != edgeclaim.TemplateActive {
		t.Fatalf("%+v, %v", kept, err)
	}
	if !kept.CreatedAt.Equal(r.clock.Now()) {
		t.Errorf("created at %s", kept.CreatedAt)
	}
	first := r.wantMinted(r.claim(secret, "H1"))
	r.wantDenied(r.claim(secret, "X1"), edgeclaim.ReasonPatternMismatch)
	if d := r.device(first.id(t)); d.Profile != "p" || d.Key != key.ID || d.Template != template.ID {
		t.Errorf("%+v", d)
	}

	row := edgeclaim.ManifestRow{Hardware: hardwareOf(t, "H2")}
	for name, change := range map[string]func() error{
		"disable": func() error {
			_, err := r.SetTemplateStatus(r.operator(), template.ID, edgeclaim.TemplateDisabled)
			return err
		},
		"enable": func() error {
			_, err := r.SetTemplateStatus(r.operator(), template.ID, edgeclaim.TemplateActive)
			return err
		},
		"issue": func() error { _, err := r.IssueKeys(r.operator(), template.ID, 1); return err },
		"import": func() error {
			_, err := r.ImportRawKey(r.operator(), template.ID, edgeclaim.NewSecret("raw"))
			return err
		},
		"list": func() error {
			_, _, err := r.ImportManifest(r.operator(), template.ID, []edgeclaim.ManifestRow{row})
			return err
		},
		"unlist": func() error {
			_, err := r.RemoveManifest(r.operator(), template.ID, []edgeclaim.HardwareID{row.Hardware})
			return err
		},
		"disable its key": func() error { _, err := r.SetKeyStatus(r.operator(), key.ID, edgeclaim.KeyDisabled); return err },
		"enable its key":  func() error { _, err := r.SetKeyStatus(r.operator(), key.ID, edgeclaim.KeyActive); return err },
	} {
		if err := change(); !errors.Is(err, provision.ErrUpstreamOwned) || !errors.Is(err, edgeclaim.ErrConflict) {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
	// To revoke is always allowed, and no document takes it back.
	if _, err := r.SetKeyStatus(r.operator(), spare.ID, edgeclaim.KeyRevoked); err != nil {
		t.Fatal(err)
	}
	template.Name = "Renamed"
	p.publish(templatesOf([]edgeclaim.TemplateKey{key, spare}, template))
	r.wantDenied(r.claim(spareSecret, "H3"), edgeclaim.ReasonKeyRevoked)
	if k, err := r.Key(t.Context(), key.ID); err != nil || k.Claims != 1 {
		t.Errorf("the claims of a key were not kept: %+v, %v", k, err)
	}

	// A key that is no longer named is disabled, and so is a template.
	second := p.upstreams("up-2", nil)
	secondKey, secondSecret := p.keyed(second, "k-3")
	p.publish(templatesOf([]edgeclaim.TemplateKey{secondKey}, template, second))
	r.wantDenied(r.claim(secret, "H4"), edgeclaim.ReasonKeyDisabled)
	r.wantKnown(r.claim(secondSecret, "H1"), first.DeviceID)
	p.publish(templatesOf(nil, second))
	if kept, err = r.Template(t.Context(), template.ID); err != nil || kept.Status != edgeclaim.TemplateDisabled {
		t.Errorf("%+v, %v", kept, err)
	}
	r.wantLogin(first.id(t), first.APIKey)
	p.publish(templatesOf([]edgeclaim.TemplateKey{key}, template))
	r.wantMinted(r.claim(secret, "H4")) // and comes back
}

// TestTemplatesConflict: what the box has of others stays theirs, and nothing of
// such a document is applied.
func TestTemplatesConflict(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	local := r.issue(r.template(nil))
	abroad := newPlatform(r)
	var err error
	if abroad.tenant, err = edgeclaim.ParseTenantID(otherTenant); err != nil {
		t.Fatal(err)
	}
	foreign := abroad.upstreams("foreign", nil)
	foreignKey, _ := abroad.keyed(foreign, "foreign-key")
	abroad.publish(templatesOf([]edgeclaim.TemplateKey{foreignKey}, foreign))

	fine := p.upstreams("fine", nil)
	key, secret := p.keyed(fine, "fine-key")
	same := fine
	same.ID = local.Key.Template
	mac := fine
	mac.HardwareIDFormat = edgeclaim.FormatMAC
	thief := key
	thief.Hash = local.Key.Hash
	thief.ID = keyID(t, "other")
	sameID := key
	sameID.ID = local.Key.ID
	taken := fine
	taken.ID = foreign.ID
	for name, d := range map[string]edgeclaim.Document{
		"a local template":         templatesOf([]edgeclaim.TemplateKey{key}, fine, same),
		"another tenant's":         templatesOf([]edgeclaim.TemplateKey{key}, fine, taken),
		"a local key's hash":       templatesOf([]edgeclaim.TemplateKey{key, thief}, fine),
		"a local key's id":         templatesOf([]edgeclaim.TemplateKey{sameID}, fine),
		"another tenant's key":     templatesOf([]edgeclaim.TemplateKey{{ID: foreignKey.ID, Template: fine.ID, Hash: key.Hash}}, fine),
		"another reading":          templatesOf([]edgeclaim.TemplateKey{key}, mac),
		"a list of another tenant": allowList("", foreign.ID, edgeclaim.ManifestRow{Hardware: hardwareOf(t, "H")}),
	} {
		t.Run(name, func(t *testing.T) {
			r.t, p.r.t = t, t
			p.wantRefused(d, edgeclaim.DocumentConflicting)
		})
	}
	r.t = t
	r.wantDenied(r.claim(secret, "H"), edgeclaim.ReasonUnknownKey)
	r.wantMinted(r.claim(local.Secret, "H"))
	p.publish(templatesOf([]edgeclaim.TemplateKey{key}, fine))
	r.wantMinted(r.claim(secret, "H2"))
}

// TestAllowListUpstream: lists count together, also without the template's asking
// for one, and each version replaces what the one before brought.
func TestAllowListUpstream(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	listed := p.upstreams("listed", func(t *edgeclaim.Template) {
		t.AllowList, t.HardwareIDFormat = true, edgeclaim.FormatMAC
	})
	key, secret := p.keyed(listed, "listed-key")
	row := func(hardware, name string) edgeclaim.ManifestRow {
		return edgeclaim.ManifestRow{
			Hardware: hardwareOf(t, hardware), Name: name, Profile: "own", Groups: []string{"g"}, Tags: map[string]string{"row": name},
		}
	}
	// The list may come before its template.
	p.publish(allowList("a", listed.ID, row("AA:BB:CC:00:00:01", "one"), row("AA:BB:CC:00:00:02", "two")))
	p.publish(templatesOf([]edgeclaim.TemplateKey{key}, listed))
	p.publish(allowList("b", listed.ID, row("aa-bb-cc-00-00-03", "three")))
	for i, name := range []string{"one", "two", "three"} {
		s := r.wantMinted(r.claim(secret, "aabbcc00000"+string(rune('1'+i))))
		if d := r.device(s.id(t)); d.Name != name || d.Profile != "own" || d.Tags["row"] != name {
			t.Errorf("%+v, want it as its row says", d)
		}
	}
	wantFields(t, r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceProvisioned), map[string]any{
		"tags": map[string]any{"row": "three"}, "profile_id": "own", "groups": []any{"g"},
	})
	r.wantDenied(r.claim(secret, "aabbcc000004"), edgeclaim.ReasonNotListed)
	p.publish(allowList("a", listed.ID, row("AA:BB:CC:00:00:04", "four")))
	r.wantMinted(r.claim(secret, "aabbcc000004"))
	for _, bad := range []string{"NO-MAC"} {
		p.wantRefused(allowList("b", listed.ID, row(bad, "x")), edgeclaim.DocumentConflicting)
	}
	p.wantRefused(allowList("b", listed.ID, row("aabbcc000009", "x"), row("AA:BB:CC:00:00:09", "y")), edgeclaim.DocumentConflicting)
	// What left the list lets in nobody new, and takes nothing from who is known.
	p.publish(allowList("b", listed.ID, row("AA:BB:CC:00:00:05", "five")))
	if s := r.claim(secret, "aabbcc000003"); s.APIKey != "" || s.DeviceID == "" {
		t.Errorf("known hardware: %s", s.raw)
	}
}

// TestStale: with policy deny, old documents keep new hardware out, as every
// refusal does, and nobody else.
func TestStale(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	known := r.wantMinted(r.claimNonce(key, "KNOWN", nonceA))
	gone := r.wantMinted(r.claim(key, "RELEASED"))
	if _, err := r.Release(r.operator(), gone.id(t), false); err != nil {
		t.Fatal(err)
	}
	r.stale = func(tenant edgeclaim.TenantID) bool { return tenant == tenantOf(t) }
	abroad := r.key(func(t *edgeclaim.Template) { t.Tenant, _ = edgeclaim.ParseTenantID(otherTenant) })

	r.wantDenied(r.claim(key, "NEW"), edgeclaim.ReasonDocumentsStale)
	if again := r.claimNonce(key, "KNOWN", nonceA); again.APIKey != known.APIKey {
		t.Errorf("said again: %s", again.raw)
	}
	r.wantLogin(known.id(t), known.APIKey)
	r.wantKnown(r.claim(key, "KNOWN"), known.DeviceID)
	r.wantMinted(r.claim(key, "RELEASED")) // the operator's word, on hardware that is known
	r.wantMinted(r.claim(abroad, "NEW"))
	received := time.Now()
	r.answer(edgeclaim.Ask{
		Body: []byte(claimOf(key, "NEW").json(t)), Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaHTTP, ReceivedAt: received,
	})
	if took := time.Since(received); took < edgeclaim.RefusalDelay {
		t.Errorf("refused after %s", took)
	}
	r.stale = nil
	r.wantMinted(r.claim(key, "NEW"))
	// What turns stale between the look and the transaction counts.
	r.once(func() { r.stale = func(edgeclaim.TenantID) bool { return true } })
	r.wantDenied(r.claim(key, "NEWER"), edgeclaim.ReasonDocumentsStale)
}

// TestSigner: the next key is kept, and a lower version is not.
func TestSigner(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	signer := edgeclaim.Document{
		DocumentID: named(edgeclaim.DocumentSigner, ""), Version: 2,
		Signer: &edgeclaim.Signer{Key: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
	}
	p.publish(signer)
	text, err := r.store.DocumentText(t.Context(), signer.DocumentID)
	if err != nil || len(text) == 0 {
		t.Errorf("%q, %v", text, err)
	}
	signer.Version = 1
	p.wantRefused(signer, edgeclaim.DocumentOldVersion)
	held, err := r.store.Documents(t.Context())
	if err != nil || len(held) != 1 || held[0].Version != 2 {
		t.Errorf("%+v, %v", held, err)
	}
}
