package provision_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision"
)

func TestFirstClaimAndReclaim(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	first := r.wantMinted(r.claim(key, "H1"))
	tenant, _ := edgeclaim.ParseTenantID(tenantText)
	hardware, _ := edgeclaim.ParseHardwareID("H1")
	if want := edgeclaim.NewDeviceID(tenant, hardware, 1).String(); first.DeviceID != want {
		t.Errorf("device id %s, want %s (P4)", first.DeviceID, want)
	}
	if want := fmt.Sprintf(`{"device_id":%q,"api_key":%q}`, first.DeviceID, first.APIKey); first.raw != want {
		t.Errorf("answer %s, want %s", first.raw, want)
	}
	for range 3 {
		r.wantKnown(r.claim(key, "H1"), first.DeviceID)
	}
	records := r.records(edgeclaim.LaneProv)
	if len(records) != 1 || records[0].Type != edgeclaim.TypeDeviceProvisioned {
		t.Fatalf("records %v, want one device.provisioned", records)
	}
	var data map[string]any
	if err := json.Unmarshal(records[0].Data, &data); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"device_id": first.DeviceID, "tenant_id": tenantText, "hardware_id": "H1", "name": "Cold Store", "profile_id": "profile-1",
		"claimed_via": "http", "box_id": "box", "site": "site", "claimed_at": "2026-11-01T12:00:00Z",
	}
	for field, value := range want {
		if data[field] != value {
			t.Errorf("data.%s = %v, want %v", field, data[field], value)
		}
	}
	credential, _ := data["credential"].(map[string]any)
	if credential["type"] != "api_key" || credential["sha256"] != edgeclaim.NewSecret(first.APIKey).Hash().String() {
		t.Errorf("data.credential = %v", credential)
	}
	if strings.Contains(string(records[0].Data), first.APIKey) || strings.Contains(string(records[0].Data), key.Reveal()) {
		t.Error("a secret is in the record (P5)")
	}
}

func TestRequestIDIsEchoedThird(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	s := r.ask(`{"request_id":"r<1>","provision_key":"` + key.Reveal() + `","device_name":"n","hardware_id":"H"}`)
	if want := fmt.Sprintf(`{"device_id":%q,"api_key":%q,"request_id":"r<1>"}`, s.DeviceID, s.APIKey); s.raw != want {
		t.Errorf("answer %s, want %s", s.raw, want)
	}
}

// TestRefusals goes through every reason; a refusal leaves nothing behind.
func TestRefusals(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()

	r.wantDenied(r.claim(edgeclaim.NewSecret("pk_factory_unknown"), "H"), edgeclaim.ReasonUnknownKey)
	r.wantDenied(r.claim(edgeclaim.NewSecret("\x00'; drop"), "H"), edgeclaim.ReasonUnknownKey)

	disabled := r.template(nil)
	key := r.issue(disabled).Secret
	if _, err := r.SetTemplateStatus(ctx, disabled.ID, edgeclaim.TemplateDisabled); err != nil {
		t.Fatal(err)
	}
	r.wantDenied(r.claim(key, "H"), edgeclaim.ReasonTemplateDisabled)

	plain := r.template(nil)
	for status, reason := range map[edgeclaim.KeyStatus]edgeclaim.Reason{
		edgeclaim.KeyRevoked: edgeclaim.ReasonKeyRevoked, edgeclaim.KeyDisabled: edgeclaim.ReasonKeyDisabled,
	} {
		issued := r.issue(plain)
		if _, err := r.SetKeyStatus(ctx, issued.Key.ID, status); err != nil {
			t.Fatal(err)
		}
		r.wantDenied(r.claim(issued.Secret, "H"), reason)
	}

	expired := r.key(func(t *edgeclaim.Template) { t.Expires = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) })
	r.wantDenied(r.claim(expired, "H"), edgeclaim.ReasonExpired)

	pattern := r.key(func(t *edgeclaim.Template) { t.Pattern = "ACME-[0-9]+|B" })
	for _, hardware := range []string{"xACME-1", "ACME-1x", "ACME-", "acme-1", "BB", "xB"} {
		r.wantDenied(r.claim(pattern, hardware), edgeclaim.ReasonPatternMismatch)
	}
	if got, err := r.store.Count(ctx); err != nil || got != 0 {
		t.Errorf("refusals left %d devices, %v", got, err)
	}
	if got := r.records(edgeclaim.LaneProv); len(got) != 0 {
		t.Errorf("refusals left records %v", got)
	}
	r.wantMinted(r.claim(pattern, "ACME-17"))
	r.wantMinted(r.claim(pattern, "B"))
}

func TestRevokedHardwareIsRefused(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	first := r.wantMinted(r.claim(key, "H"))
	id, err := edgeclaim.ParseDeviceID(first.DeviceID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.ChangeDevice(t.Context(), id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.Status = edgeclaim.DeviceRevoked
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	r.wantDenied(r.claim(key, "H"), edgeclaim.ReasonHardwareRevoked)
	if _, err := r.login(id, first.APIKey); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
		t.Errorf("a revoked device logs in: %v", err)
	}
	if _, err := r.Release(t.Context(), id, false); !errors.Is(err, edgeclaim.ErrConflict) {
		t.Errorf("a revoked device is released: %v", err)
	}
}

// TestOneTimeKey: used up by its first device, and good for that one's re-claim.
func TestOneTimeKey(t *testing.T) {
	r := newRig(t)
	issued := r.issue(r.template(func(t *edgeclaim.Template) { t.OneTime = true }))
	r.wantDenied(r.claim(edgeclaim.NewSecret("wrong"), "H1"), edgeclaim.ReasonUnknownKey)
	first := r.wantMinted(r.claim(issued.Secret, "H1"))
	r.wantKnown(r.claim(issued.Secret, "H1"), first.DeviceID)
	r.wantDenied(r.claim(issued.Secret, "H2"), edgeclaim.ReasonKeyUsed)
	key, err := r.Key(t.Context(), issued.Key.ID)
	if err != nil || key.Status != edgeclaim.KeyUsed || key.Claims != 1 || key.UsedBy.String() != first.DeviceID {
		t.Errorf("key %+v, %v", key, err)
	}
	// Known hardware with another's used-up key is refused too.
	other := r.wantMinted(r.claim(r.key(nil), "H3"))
	r.wantDenied(r.claim(issued.Secret, "H3"), edgeclaim.ReasonKeyUsed)
	_ = other
	if _, err := r.SetKeyStatus(t.Context(), issued.Key.ID, edgeclaim.KeyActive); !errors.Is(err, edgeclaim.ErrConflict) {
		t.Errorf("a used key was enabled: %v", err)
	}
}

// TestOwnOneTimeKeyAfterAnother: a used-up key is good for the hardware that it
// was used by, whatever key that has claimed with since.
func TestOwnOneTimeKeyAfterAnother(t *testing.T) {
	r := newRig(t)
	oneTime := r.template(func(t *edgeclaim.Template) { t.OneTime = true })
	a, b := r.issue(oneTime), r.issue(oneTime)
	first := r.wantMinted(r.claim(a.Secret, "H"))
	id, _ := edgeclaim.ParseDeviceID(first.DeviceID)
	if _, err := r.Release(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	r.wantMinted(r.claim(b.Secret, "H"))
	r.wantKnown(r.claim(a.Secret, "H"), first.DeviceID)
	if _, err := r.Release(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	r.wantMinted(r.claim(a.Secret, "H"))
	if key, err := r.Key(t.Context(), a.Key.ID); err != nil || key.Claims != 1 {
		t.Errorf("the key counts %d claims, %v", key.Claims, err)
	}
	r.wantDenied(r.claim(a.Secret, "OTHER"), edgeclaim.ReasonKeyUsed)
}

// TestRetriesWhileCommitting: a device that claims again before its first claim
// is answered is never refused for the one-time key that it is using up, and
// gets one key in all.
func TestRetriesWhileCommitting(t *testing.T) {
	r := newRig(t)
	for round := range 200 {
		key := r.key(func(t *edgeclaim.Template) { t.OneTime = true })
		var wg sync.WaitGroup
		minted := make(chan string, 8)
		for range 8 {
			wg.Go(func() {
				s := r.claim(key, fmt.Sprint("RETRY-", round))
				if s.Code != 0 {
					t.Errorf("round %d: %s", round, s.raw)
				}
				if s.APIKey != "" {
					minted <- s.APIKey
				}
			})
		}
		wg.Wait()
		if len(minted) != 1 {
			t.Fatalf("round %d: %d keys", round, len(minted))
		}
	}
}

func TestMaxClaims(t *testing.T) {
	r := newRig(t)
	key := r.key(func(t *edgeclaim.Template) { t.MaxClaims = 2 })
	first := r.wantMinted(r.claim(key, "H1"))
	r.wantKnown(r.claim(key, "H1"), first.DeviceID) // not counted
	r.wantMinted(r.claim(key, "H2"))
	r.wantDenied(r.claim(key, "H3"), edgeclaim.ReasonKeyExhausted)
	r.wantKnown(r.claim(key, "H1"), first.DeviceID)
}

func TestMaxClaimsPerMinute(t *testing.T) {
	r := newRig(t)
	key := r.key(func(t *edgeclaim.Template) { t.MaxClaimsPerMinute = 2 })
	first := r.wantMinted(r.claim(key, "H1"))
	r.wantMinted(r.claim(key, "H2"))
	body := `{"provision_key":"` + key.Reveal() + `","device_name":"n","hardware_id":"H3"}`
	for via, want := range map[edgeclaim.Via]string{
		edgeclaim.ViaHTTP: `{"code":8,"message":"too many requests","details":[]}`,
		edgeclaim.ViaMQTT: `{"code":8,"message":"too many requests","details":[],"retry_after":60}`,
	} {
		a := r.Answer(t.Context(), edgeclaim.Ask{Body: []byte(body), Format: edgeclaim.FormatJSON, Via: via, ReceivedAt: time.Now()})
		if string(a.Body) != want || a.RetryAfter != time.Minute {
			t.Errorf("%s: %s, retry after %v; want %s", via, a.Body, a.RetryAfter, want)
		}
	}
	r.wantKnown(r.claim(key, "H1"), first.DeviceID)
	r.wantMinted(r.claim(r.key(nil), "H3")) // another key is not held back by what this one does
}

// TestManyAtOnce: the same hardware from many connections is one device and one
// key; a one-time key from many devices makes one; max_claims holds exactly.
func TestManyAtOnce(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		change   func(*edgeclaim.Template)
		hardware func(i int) string
		minted   int
	}{
		"one hardware":  {nil, func(int) string { return "SAME" }, 1},
		"one-time key":  {func(t *edgeclaim.Template) { t.OneTime = true }, func(i int) string { return fmt.Sprint("OT", i) }, 1},
		"max claims 10": {func(t *edgeclaim.Template) { t.MaxClaims = 10 }, func(i int) string { return fmt.Sprint("MC", i) }, 10},
	} {
		t.Run(name, func(t *testing.T) {
			key := r.key(c.change)
			var wg sync.WaitGroup
			keys := make(chan string, 64)
			for i := range 64 {
				wg.Go(func() {
					if s := r.claim(key, c.hardware(i)); s.APIKey != "" {
						keys <- s.APIKey
					}
				})
			}
			wg.Wait()
			if len(keys) != c.minted {
				t.Errorf("%d keys were minted, want %d", len(keys), c.minted)
			}
		})
	}
}

func TestReleaseLetsTheHardwareClaimAnew(t *testing.T) {
	r := newRig(t)
	key := r.key(func(t *edgeclaim.Template) { t.OneTime = true })
	first := r.wantMinted(r.claim(key, "H"))
	id, _ := edgeclaim.ParseDeviceID(first.DeviceID)
	if _, err := r.login(id, first.APIKey); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second changes nothing
		if d, err := r.Release(t.Context(), id, false); err != nil || d.Status != edgeclaim.DeviceReleased {
			t.Fatalf("release: %+v, %v", d, err)
		}
	}
	if _, err := r.login(id, first.APIKey); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
		t.Errorf("the old key still logs in: %v", err)
	}
	if len(r.voided) == 0 || r.voided[0] != id {
		t.Error("open sessions were not told")
	}
	r.wantDenied(r.claim(key, "OTHER"), edgeclaim.ReasonKeyUsed)
	second := r.wantMinted(r.claim(key, "H"))
	if second.DeviceID != first.DeviceID || second.APIKey == first.APIKey {
		t.Errorf("after the release: %s", second.raw)
	}
	if _, err := r.login(id, second.APIKey); err != nil {
		t.Errorf("the new key: %v", err)
	}
	var types []edgeclaim.RecordType
	for _, record := range r.records(edgeclaim.LaneProv) {
		types = append(types, record.Type)
	}
	if got := fmt.Sprint(types); got != "[device.provisioned device.released device.provisioned]" {
		t.Errorf("told upstream: %s", got)
	}
	if keys, err := r.Keys(t.Context(), edgeclaim.KeyID{}, 10); err != nil || keys[0].Claims != 1 {
		t.Errorf("the key counts %d claims, %v", keys[0].Claims, err)
	}
}

func TestLogin(t *testing.T) {
	r := newRig(t)
	first := r.wantMinted(r.claim(r.key(nil), "H"))
	id, _ := edgeclaim.ParseDeviceID(first.DeviceID)
	other, _ := edgeclaim.ParseDeviceID("8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33")
	for name, c := range map[string]struct {
		id  edgeclaim.DeviceID
		key string
		ok  bool
	}{
		"right":       {id, first.APIKey, true},
		"wrong":       {id, first.APIKey + "x", false},
		"empty":       {id, "", false},
		"unknown id":  {other, first.APIKey, false},
		"no id":       {edgeclaim.DeviceID{}, first.APIKey, true},
		"no id, none": {edgeclaim.DeviceID{}, "", false},
	} {
		_, err := r.login(c.id, c.key)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, edgeclaim.ErrUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRefusalsWait: no sooner than the fixed delay, and the clock is the
// receipt's, so that slow work before does not add to it.
func TestRefusalsWait(t *testing.T) {
	r := newRig(t)
	body := []byte(`{"provision_key":"unknown","device_name":"n","hardware_id":"h"}`)
	start := time.Now()
	r.Answer(t.Context(), edgeclaim.Ask{Body: body, Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaHTTP, ReceivedAt: start})
	if took := time.Since(start); took < edgeclaim.RefusalDelay {
		t.Errorf("refused after %v, want at least %v (P3)", took, edgeclaim.RefusalDelay)
	}
	// An asker that half-closes its connection cancels the request meanwhile.
	ctx, cancel := context.WithTimeout(t.Context(), edgeclaim.RefusalDelay/5)
	defer cancel()
	start = time.Now()
	r.Answer(ctx, edgeclaim.Ask{Body: body, Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaHTTP, ReceivedAt: start})
	if took := time.Since(start); took < edgeclaim.RefusalDelay {
		t.Errorf("cancelled, refused after %v, want at least %v (P3)", took, edgeclaim.RefusalDelay)
	}
}

// TestClock holds P10: expiry is judged by max(wall, floor), only trustworthy
// time raises the floor, and no time deletes anything.
func TestClock(t *testing.T) {
	today := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	expires := today.Add(12 * time.Hour)
	for _, c := range []struct {
		name   string
		wall   time.Time
		synced bool
		denied bool
		// after: the clock is right again, unsynchronised; was the floor raised?
		deniedAfter bool
	}{
		{"right, synchronised", today, true, false, false},
		{"right, not synchronised", today, false, false, false},
		{"a day back, synchronised", today.AddDate(0, 0, -1), true, false, false},
		{"a day back, not synchronised", today.AddDate(0, 0, -1), false, false, false},
		{"a year forward, not synchronised", today.AddDate(1, 0, 0), false, true, false},
		{"a year forward, synchronised", today.AddDate(1, 0, 0), true, true, true},
		{"1970, not synchronised", time.Unix(0, 0), false, false, false},
		{"1970, synchronised", time.Unix(0, 0), true, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.setClock(today, true)
			key := r.key(func(t *edgeclaim.Template) { t.Expires = expires })
			past := r.key(func(t *edgeclaim.Template) { t.Expires = today.Add(-time.Hour) })
			before := r.wantMinted(r.claim(r.key(nil), "BEFORE"))
			r.wantDenied(r.claim(past, "H"), edgeclaim.ReasonExpired)

			r.setClock(c.wall, c.synced)
			if s := r.claim(key, "H1"); (s.Code == edgeclaim.CodePermissionDenied) != c.denied {
				t.Errorf("answer %s (%s), want denied %v", s.raw, r.lastOutcome(), c.denied)
			}
			// What has expired by trustworthy time stays expired, whatever the wall says.
			r.wantDenied(r.claim(past, "H"), edgeclaim.ReasonExpired)

			r.setClock(today.Add(time.Minute), false)
			if s := r.claim(key, "H2"); (s.Code == edgeclaim.CodePermissionDenied) != c.deniedAfter {
				t.Errorf("afterwards: %s, want denied %v", s.raw, c.deniedAfter)
			}
			id, _ := edgeclaim.ParseDeviceID(before.DeviceID)
			if _, err := r.login(id, before.APIKey); err != nil {
				t.Errorf("time took a device away: %v", err)
			}
			if got := len(r.records(edgeclaim.LaneProv)); got < 1 {
				t.Error("time took a record away")
			}
		})
	}
}

func TestTemplateChecks(t *testing.T) {
	r := newRig(t)
	tenant, _ := edgeclaim.ParseTenantID(tenantText)
	for field, change := range map[string]func(*edgeclaim.Template){
		"tenant_id":           func(t *edgeclaim.Template) { t.Tenant = edgeclaim.TenantID{} },
		"name":                func(t *edgeclaim.Template) { t.Name = "" },
		"profile_id":          func(t *edgeclaim.Template) { t.Profile = "a\n" },
		"hardware_id_pattern": func(t *edgeclaim.Template) { t.Pattern = "a)(b" },
		"default_groups":      func(t *edgeclaim.Template) { t.Groups = make([]string, 65) },
		"credential_type":     func(t *edgeclaim.Template) { t.Credential = "password" },
		"approval":            func(t *edgeclaim.Template) { t.Approval = "perhaps" },
		"hardware_id_format":  func(t *edgeclaim.Template) { t.HardwareIDFormat = "imei" },
	} {
		tmpl := edgeclaim.Template{Tenant: tenant, Name: "n"}
		change(&tmpl)
		_, err := r.CreateTemplate(t.Context(), tmpl)
		invalid, ok := errors.AsType[*edgeclaim.InvalidError](err)
		if !ok || invalid.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if all, err := r.Templates(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("bad templates were kept: %v, %v", all, err)
	}
}

func TestKeysImportedAndIssued(t *testing.T) {
	r := newRig(t)
	tmpl := r.template(nil)
	raw := edgeclaim.NewSecret("any old string é")
	if _, err := r.ImportRawKey(t.Context(), tmpl.ID, raw); err != nil {
		t.Fatal(err)
	}
	r.wantMinted(r.claim(raw, "H1"))
	if _, err := r.ImportKey(t.Context(), tmpl.ID, raw.Hash()); !errors.Is(err, edgeclaim.ErrExists) {
		t.Errorf("a key was imported twice: %v", err)
	}
	if _, err := r.ImportRawKey(t.Context(), tmpl.ID, edgeclaim.NewSecret(strings.Repeat("k", 257))); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("a key of 257 characters: %v", err)
	}
	for _, count := range []int{0, -1, provision.MaxIssue + 1} {
		if _, err := r.IssueKeys(t.Context(), tmpl.ID, count); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%d keys: %v", count, err)
		}
	}
	none, _ := edgeclaim.ParseTemplateID("none")
	if _, err := r.IssueKeys(t.Context(), none, 1); !errors.Is(err, edgeclaim.ErrNotFound) {
		t.Errorf("keys of no template: %v", err)
	}
	issued := r.issue(tmpl)
	if text := issued.Secret.Reveal(); len(text) != len("pk_factory_")+43 || !strings.HasPrefix(text, "pk_factory_") {
		t.Errorf("key of %d characters", len(text))
	}
}

// TestRefusalsAreTold: once at the end, added up by reason and face.
func TestRefusalsAreTold(t *testing.T) {
	r := newRig(t)
	for i := range 5 {
		r.claim(edgeclaim.NewSecret(fmt.Sprint("unknown", i)), "H")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	records := r.records(edgeclaim.LaneEvt)
	if len(records) != 1 || records[0].Type != edgeclaim.TypeClaimRefused {
		t.Fatalf("records %v", records)
	}
	var data struct {
		Reason string
		Count  int
		Via    string
	}
	if err := json.Unmarshal(records[0].Data, &data); err != nil || data.Reason != "unknown_key" || data.Count != 5 || data.Via != "http" {
		t.Errorf("data %s, %v", records[0].Data, err)
	}
}

// TestStoreFailureIsUnavailable: nobody hears a success when nothing can be
// stored (P1).
func TestStoreFailureIsUnavailable(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	if r.closed = true; r.store.Close() != nil {
		t.Fatal("close")
	}
	a := r.Answer(t.Context(), edgeclaim.Ask{
		Body:   []byte(`{"provision_key":"` + key.Reveal() + `","device_name":"n","hardware_id":"h"}`),
		Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaHTTP, ReceivedAt: time.Now(),
	})
	if a.Code != edgeclaim.CodeUnavailable || a.RetryAfter == 0 {
		t.Errorf("answer %d %s", a.Code, a.Body)
	}
}
