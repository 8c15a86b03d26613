package provision_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/provision"
)

func rotation(overlap time.Duration) provision.Rotation { return provision.Rotation{Overlap: overlap} }

func TestRevokeAndReinstate(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	s := r.wantMinted(r.claim(key, "H"))
	r.wantLogin(s.id(t), s.APIKey)
	for range 2 { // the second changes nothing
		if d, err := r.Revoke(r.operator(), s.id(t), "stolen"); err != nil || d.Status != edgeclaim.DeviceRevoked {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeCredentialRevoked)
	if data["reason"] != "stolen" || data["by"] != "token:ops" || data["revoked_at"] == nil {
		t.Errorf("told %v", data)
	}
	if len(r.voided) == 0 || r.voided[0] != s.id(t) {
		t.Error("open sessions were not told")
	}
	r.wantNoLogin(s.id(t), s.APIKey)
	r.wantDenied(r.claim(key, "H"), edgeclaim.ReasonHardwareRevoked)
	if _, err := r.Release(r.operator(), s.id(t), false); !errors.Is(err, edgeclaim.ErrConflict) {
		t.Errorf("released without a word about the revocation: %v", err)
	}
	if _, err := r.Swap(r.operator(), s.id(t), hardwareOf(t, "H2")); !errors.Is(err, edgeclaim.ErrConflict) {
		t.Errorf("a revoked device was swapped: %v", err)
	}
	if d, err := r.Release(r.operator(), s.id(t), true); err != nil || d.Status != edgeclaim.DeviceReleased {
		t.Fatalf("%+v, %v", d, err)
	}
	if data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceReleased); data["reinstated"] != true {
		t.Errorf("told %v", data)
	}
	r.wantNoLogin(s.id(t), s.APIKey)
	r.wantMinted(r.claim(key, "H"))
	wantTypes(t, r.records(edgeclaim.LaneProv), edgeclaim.TypeDeviceProvisioned, edgeclaim.TypeCredentialRevoked,
		edgeclaim.TypeDeviceReleased, edgeclaim.TypeDeviceProvisioned)
	if _, err := r.Revoke(r.operator(), s.id(t), "a\nb"); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("a reason of two lines: %v", err)
	}
	for kind, want := range map[string]int{audit.KindDeviceRevoked: 2, audit.KindDeviceReleased: 1} {
		entries := r.audited(kind)
		if len(entries) != want {
			t.Errorf("%s: %+v", kind, entries)
		}
		for _, e := range entries {
			if e.Who != "token:ops" || e.Device != s.DeviceID || e.Hardware != "H" {
				t.Errorf("%s: %+v", kind, e)
			}
		}
	}
}

// TestSwap is a board's whole way: H1 takes the place of H0, H0 is denied until
// an operator lets it back in, and then is a device of its own.
func TestSwap(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	old := r.wantMinted(r.claim(key, "H0"))
	id := old.id(t)
	r.wantLogin(id, old.APIKey)
	if d, err := r.Swap(r.operator(), id, hardwareOf(t, "H1")); err != nil || d.Hardware.String() != "H1" || d.Status != edgeclaim.DeviceReleased {
		t.Fatalf("%+v, %v", d, err)
	}
	data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceSwapped)
	if data["hardware_id"] != "H1" || data["old_hardware_id"] != "H0" || data["device_id"] != old.DeviceID || data["generation"] != 1.0 {
		t.Errorf("told %v", data)
	}
	r.wantNoLogin(id, old.APIKey)
	r.wantDenied(r.claim(key, "H0"), edgeclaim.ReasonHardwareSwapped)
	next := r.wantMinted(r.claim(key, "H1"))
	if next.DeviceID != old.DeviceID || next.APIKey == old.APIKey {
		t.Errorf("H1 is %s", next.raw)
	}
	if data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceProvisioned); data["alias"] != true || data["generation"] != 1.0 {
		t.Errorf("told %v", data)
	}
	r.restart()
	r.wantLogin(id, next.APIKey)
	r.wantDenied(r.claim(key, "H0"), edgeclaim.ReasonHardwareSwapped)
	if denial, err := r.Undeny(r.operator(), tenantOf(t), hardwareOf(t, "H0")); err != nil || denial.Reason != edgeclaim.DeniedSwapped {
		t.Fatalf("%+v, %v", denial, err)
	}
	second := r.wantMinted(r.claim(key, "H0"))
	if want := edgeclaim.NewDeviceID(tenantOf(t), hardwareOf(t, "H0"), 2).String(); second.DeviceID != want {
		t.Errorf("H0 is %s, want its second generation %s", second.DeviceID, want)
	}
	if data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceProvisioned); data["generation"] != 2.0 || data["alias"] != nil {
		t.Errorf("told %v", data)
	}
	r.wantLogin(id, next.APIKey)
	r.wantLogin(second.id(t), second.APIKey)
	for name, to := range map[string]string{"its own": "H1", "another device's": "H0"} {
		if _, err := r.Swap(r.operator(), id, hardwareOf(t, to)); !errors.Is(err, edgeclaim.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if entries := r.audited(audit.KindDeviceSwapped); len(entries) != 1 || entries[0].Detail["old_hardware_id"] != "H0" || entries[0].Who != "token:ops" {
		t.Errorf("audited %+v", entries)
	}
}

func TestDeny(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	known := r.wantMinted(r.claim(key, "KNOWN"))
	for _, tenant := range []edgeclaim.TenantID{tenantOf(t), {}} {
		for _, hardware := range []string{"NEW", "KNOWN", "!", "~", "A!", "!!"} {
			denial, made, err := r.Deny(r.operator(), tenant, hardwareOf(t, hardware))
			if err != nil || !made || denial.By != "token:ops" || denial.Reason != edgeclaim.DeniedByOperator {
				t.Fatalf("%s: %+v, %v, %v", hardware, denial, made, err)
			}
			if again, made, err := r.Deny(r.operator(), tenant, hardwareOf(t, hardware)); err != nil || made || again != denial {
				t.Errorf("%s again: %+v, %v, %v", hardware, again, made, err)
			}
			r.wantDenied(r.claim(key, hardware), edgeclaim.ReasonHardwareDenied)
		}
		if _, made, err := r.Deny(r.operator(), tenant, hardwareOf(t, "KNOW")); err != nil || !made {
			t.Errorf("what begins like another: %v, %v", made, err)
		}
		r.wantLogin(known.id(t), known.APIKey) // revoke ends that
		for _, hardware := range []string{"NEW", "KNOWN", "!", "~", "A!", "!!", "KNOW"} {
			if _, err := r.Undeny(r.operator(), tenant, hardwareOf(t, hardware)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Undeny(r.operator(), tenant, hardwareOf(t, "NEW")); !errors.Is(err, edgeclaim.ErrNotFound) {
			t.Errorf("twice: %v", err)
		}
		r.wantKnown(r.claim(key, "KNOWN"), known.DeviceID)
	}
	r.wantMinted(r.claim(key, "NEW"))
	if all, err := r.Denials(t.Context(), edgeclaim.Denial{}, 10); err != nil || len(all) != 0 {
		t.Errorf("left over: %v, %v", all, err)
	}
	if added, removed := r.audited(audit.KindDenyAdded), r.audited(audit.KindDenyRemoved); len(added) != 14 || len(removed) != 14 {
		t.Errorf("audited %d and %d", len(added), len(removed))
	}
}

// TestRevokedKeyWaitsNoLonger: what waits by a key that is revoked takes nobody
// else's place any more.
func TestRevokedKeyWaitsNoLonger(t *testing.T) {
	r := newRig(t)
	template := r.template(func(t *edgeclaim.Template) { t.Approval = edgeclaim.ApprovalManual })
	stolen, good := r.issue(template), r.issue(template)
	for i := range 150 {
		r.claim(stolen.Secret, fmt.Sprint("MADE-UP-", i))
	}
	r.claim(good.Secret, "H")
	if _, err := r.SetKeyStatus(r.operator(), stolen.Key.ID, edgeclaim.KeyRevoked); err != nil {
		t.Fatal(err)
	}
	pending, err := r.PendingClaims(t.Context(), edgeclaim.DeviceID{}, 1000)
	if err != nil || len(pending) != 1 || pending[0].Hardware.String() != "H" {
		t.Errorf("%d wait, %v", len(pending), err)
	}
	if len(r.decided) != 150 {
		t.Errorf("%d were woken", len(r.decided))
	}
}

// TestManualApproval: new hardware waits, is let through once, and what an
// operator refuses is denied.
func TestManualApproval(t *testing.T) {
	r := newRig(t)
	template := r.template(func(t *edgeclaim.Template) { t.Approval = edgeclaim.ApprovalManual; t.MaxClaims = 3 })
	key := r.issue(template)
	const waiting = `{"code":9,"message":"waiting for approval","details":[]}`
	var ref edgeclaim.ClaimRef
	for i := range 3 {
		s := r.claimNonce(key.Secret, "H", nonceA)
		if s.raw != waiting || s.answer.RetryAfter != 30*time.Second || s.answer.Waiting.IsZero() {
			t.Fatalf("answer %s, %+v", s.raw, s.answer)
		}
		ref = s.answer.Waiting
		pending, err := r.PendingClaims(t.Context(), edgeclaim.DeviceID{}, 10)
		if err != nil || len(pending) != 1 || pending[0].Asked != uint64(i+1) || pending[0].Status != edgeclaim.PendingWaiting {
			t.Fatalf("pending %+v, %v", pending, err)
		}
	}
	// Another key of the template, the same hardware: the same waits.
	if s := r.claim(r.issue(template).Secret, "H"); s.answer.Waiting != ref {
		t.Errorf("waits for %+v, want %+v", s.answer.Waiting, ref)
	}
	id := edgeclaim.NewDeviceID(tenantOf(t), hardwareOf(t, "H"), 1)
	r.restart()
	if p, err := r.Approve(r.operator(), id); err != nil || p.Status != edgeclaim.PendingApproved || p.By != "token:ops" {
		t.Fatalf("%+v, %v", p, err)
	}
	if len(r.decided) != 1 || r.decided[0] != ref {
		t.Errorf("woken: %+v, want %+v", r.decided, ref)
	}
	// It is the hardware that is approved, for this template.
	if s := r.claim(key.Secret, "OTHER"); s.raw != waiting {
		t.Errorf("another board: %s", s.raw)
	}
	first := r.wantMinted(r.claimNonce(key.Secret, "H", nonceA))
	if s := r.claimNonce(key.Secret, "H", nonceA); s.raw != first.raw {
		t.Errorf("again: %s", s.raw)
	}
	// Released by the operator, it needs no second approval.
	if _, err := r.Release(r.operator(), id, false); err != nil {
		t.Fatal(err)
	}
	r.wantMinted(r.claim(key.Secret, "H"))
	// Refused: denied, and no longer waiting.
	other := edgeclaim.NewDeviceID(tenantOf(t), hardwareOf(t, "OTHER"), 1)
	if _, err := r.Refuse(r.operator(), other); err != nil {
		t.Fatal(err)
	}
	if len(r.decided) != 2 || r.decided[1].Hardware.String() != "OTHER" {
		t.Errorf("woken: %+v", r.decided)
	}
	r.wantDenied(r.claim(key.Secret, "OTHER"), edgeclaim.ReasonHardwareDenied)
	if pending, err := r.PendingClaims(t.Context(), edgeclaim.DeviceID{}, 10); err != nil || len(pending) != 0 {
		t.Errorf("pending %+v, %v", pending, err)
	}
	for name, decide := range map[string]func() error{
		"approve": func() error { _, err := r.Approve(r.operator(), other); return err },
		"refuse":  func() error { _, err := r.Refuse(r.operator(), other); return err },
	} {
		if err := decide(); !errors.Is(err, edgeclaim.ErrNotFound) {
			t.Errorf("%s what does not wait: %v", name, err)
		}
	}
	// What never got through spent nothing of the key.
	if k, err := r.Key(t.Context(), key.Key.ID); err != nil || k.Claims != 1 {
		t.Errorf("the key counts %d claims, %v", k.Claims, err)
	}
	for kind, want := range map[string]int{audit.KindClaimWaiting: 5, audit.KindApprovalGiven: 1, audit.KindApprovalWithdrawn: 1} {
		if got := r.audited(kind); len(got) != want {
			t.Errorf("%s: %d entries, want %d", kind, len(got), want)
		}
	}
}

// TestManifest: only what is on the template's list claims, and gets what the
// list says.
func TestManifest(t *testing.T) {
	r := newRig(t)
	template := r.template(func(t *edgeclaim.Template) { t.AllowList = true })
	key := r.issue(template)
	r.wantDenied(r.claim(key.Secret, "H1"), edgeclaim.ReasonNotListed)
	rows := []edgeclaim.ManifestRow{
		{Hardware: hardwareOf(t, "H1"), Profile: "p9", Name: "Pump 9", Groups: []string{"north"}},
		{Hardware: hardwareOf(t, "H2")},
	}
	if added, changed, err := r.ImportManifest(t.Context(), template.ID, rows); err != nil || added != 2 || changed != 0 {
		t.Fatal(added, changed, err)
	}
	first := r.wantMinted(r.claim(key.Secret, "H1"))
	if d := r.device(first.id(t)); d.Name != "Pump 9" || d.Profile != "p9" || fmt.Sprint(d.Groups) != "[north]" {
		t.Errorf("device %+v", d)
	}
	if data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceProvisioned); data["name"] != "Pump 9" || data["profile_id"] != "p9" {
		t.Errorf("told %v", data)
	}
	if d := r.device(r.wantMinted(r.claim(key.Secret, "H2")).id(t)); d.Name != "Cold Store" || d.Profile != "profile-1" || len(d.Groups) != 2 {
		t.Errorf("device %+v", d)
	}
	r.wantDenied(r.claim(key.Secret, "H3"), edgeclaim.ReasonNotListed)
	if removed, err := r.RemoveManifest(t.Context(), template.ID, []edgeclaim.HardwareID{hardwareOf(t, "H1"), hardwareOf(t, "H9")}); err != nil || removed != 1 {
		t.Fatal(removed, err)
	}
	// What is known stays known, until its hardware has to claim anew.
	r.wantKnown(r.claim(key.Secret, "H1"), first.DeviceID)
	r.wantLogin(first.id(t), first.APIKey)
	if _, err := r.Release(r.operator(), first.id(t), false); err != nil {
		t.Fatal(err)
	}
	r.wantDenied(r.claim(key.Secret, "H1"), edgeclaim.ReasonNotListed)
	// Another template's list is another list.
	r.wantMinted(r.claim(r.key(nil), "H4"))
	if left, err := r.Manifest(t.Context(), template.ID, edgeclaim.HardwareID{}, 10); err != nil || len(left) != 1 || left[0].Hardware.String() != "H2" {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestManifestRefused(t *testing.T) {
	r := newRig(t)
	template := r.template(func(t *edgeclaim.Template) { t.AllowList = true; t.HardwareIDFormat = edgeclaim.FormatMAC })
	mac := hardwareOf(t, "aabbcc001122")
	for field, row := range map[string]edgeclaim.ManifestRow{
		"hardware_id": {Hardware: hardwareOf(t, "H1")},
		"name":        {Hardware: mac, Name: "a\x00"},
		"profile_id":  {Hardware: mac, Profile: "\x01"},
		"groups":      {Hardware: mac, Groups: []string{""}},
	} {
		_, _, err := r.ImportManifest(t.Context(), template.ID, []edgeclaim.ManifestRow{{Hardware: mac}, row})
		if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); !ok || invalid.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if rows, err := r.Manifest(t.Context(), template.ID, edgeclaim.HardwareID{}, 10); err != nil || len(rows) != 0 {
		t.Errorf("rows %v, %v", rows, err)
	}
	if _, _, err := r.ImportManifest(t.Context(), template.ID, make([]edgeclaim.ManifestRow, provision.MaxManifestRows+1)); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("too many: %v", err)
	}
	if _, _, err := r.ImportManifest(t.Context(), template.ID, []edgeclaim.ManifestRow{{Hardware: mac}}); err != nil {
		t.Fatal(err)
	}
	r.wantMinted(r.claim(r.issue(template).Secret, "AA-BB-CC-00-11-22"))
}

// TestMACFolding: one board, however it spells its address, and however an
// operator does.
func TestMACFolding(t *testing.T) {
	r := newRig(t)
	mac := func(t *edgeclaim.Template) { t.HardwareIDFormat = edgeclaim.FormatMAC; t.Pattern = "AA:BB:.*" }
	key := r.key(mac)
	first := r.wantMinted(r.claim(key, "aabb.cc00.1122"))
	want := edgeclaim.NewDeviceID(tenantOf(t), hardwareOf(t, "AA:BB:CC:00:11:22"), 1).String()
	if first.DeviceID != want {
		t.Errorf("device %s, want %s", first.DeviceID, want)
	}
	for _, spelling := range []string{"AA:BB:CC:00:11:22", "aa:bb:cc:00:11:22", "AA-BB-CC-00-11-22", "AaBbCc001122"} {
		r.wantKnown(r.claim(key, spelling), want)
	}
	// No 400, which would tell that the key is good.
	for _, no := range []string{"H1", "AA:BB:CC:00:11", "AA:BB:CC:00:11:2G", "AA:BB-CC:00:11:22"} {
		r.wantDenied(r.claim(key, no), edgeclaim.ReasonPatternMismatch)
	}
	r.wantDenied(r.claim(key, "CC:BB:CC:00:11:22"), edgeclaim.ReasonPatternMismatch)
	// A template that disagrees with its tenant's others is refused.
	_, err := r.CreateTemplate(t.Context(), edgeclaim.Template{Name: "T", Tenant: tenantOf(t)})
	if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); !ok || invalid.Field != "hardware_id_format" {
		t.Errorf("a template that disagrees: %v", err)
	}
	r.template(mac)
	// The operator's side folds as well.
	if _, _, err := r.Deny(r.operator(), tenantOf(t), hardwareOf(t, "aa-bb-cc-00-11-33")); err != nil {
		t.Fatal(err)
	}
	r.wantDenied(r.claim(key, "AABBCC001133"), edgeclaim.ReasonHardwareDenied)
	if _, _, err := r.Deny(r.operator(), edgeclaim.TenantID{}, hardwareOf(t, "aabbcc001144")); err != nil {
		t.Fatal(err)
	}
	r.wantDenied(r.claim(key, "AA:BB:CC:00:11:44"), edgeclaim.ReasonHardwareDenied)
	if _, _, err := r.Deny(r.operator(), tenantOf(t), hardwareOf(t, "H1")); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("denied what is no MAC address: %v", err)
	}
	if d, err := r.Swap(r.operator(), first.id(t), hardwareOf(t, "aa-bb-cc-00-11-55")); err != nil || d.Hardware.String() != "AA:BB:CC:00:11:55" {
		t.Errorf("swapped to %s, %v", d.Hardware, err)
	}
	// Where tenants read ids differently, an operator names one.
	other, err := edgeclaim.ParseTenantID("00000000-0000-4000-8000-000000000001")
	if err != nil {
		t.Fatal(err)
	}
	r.template(func(t *edgeclaim.Template) { t.Tenant = other })
	if _, _, err := r.Deny(r.operator(), edgeclaim.TenantID{}, hardwareOf(t, "aabbcc001166")); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("denied for tenants that disagree: %v", err)
	}
	for _, plain := range []string{"H1", "AA:BB:CC:00:11:66"} {
		if _, _, err := r.Deny(r.operator(), edgeclaim.TenantID{}, hardwareOf(t, plain)); err != nil {
			t.Errorf("%s: %v", plain, err)
		}
	}
}
