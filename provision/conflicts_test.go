package provision_test

import (
	"errors"
	"slices"
	"testing"

	"edgeclaim"
)

const registered = "22222222-7f4e-4a57-9a0b-6a1c2d3e4f50"

// TestAliasBefore: a platform that knew the board gives it its id.
func TestAliasBefore(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	id := deviceID(t, registered)
	p.publish(aliasesOf(edgeclaim.Alias{Hardware: hardwareOf(t, "H"), Device: id}))
	key := r.key(nil)
	s := r.wantMinted(r.claim(key, "H"))
	if s.id(t) != id {
		t.Fatalf("claimed as %s, want %s", s.DeviceID, id)
	}
	wantFields(t, r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceProvisioned), map[string]any{"alias": true, "device_id": registered})
	if other := r.wantMinted(r.claim(key, "OTHER")); other.id(t) == id {
		t.Errorf("another board got the place")
	}
	// A later version that does not name it takes nothing back.
	p.publish(aliasesOf())
	r.restart()
	r.wantKnown(r.claim(key, "H"), registered)
	if got := r.alarmCount(edgeclaim.AlarmDeviceConflict); got != 0 {
		t.Errorf("%d alarms", got)
	}
	r.checkNobodyElse(p, key)
}

// checkNobodyElse: the same hardware of another tenant is another device, and no
// document of this one's says anything of it.
func (r *rig) checkNobodyElse(p *platform, key edgeclaim.Secret) {
	r.t.Helper()
	abroad := r.key(func(t *edgeclaim.Template) { t.Tenant, _ = edgeclaim.ParseTenantID(otherTenant) })
	s := r.wantMinted(r.claim(abroad, "H"))
	tenant, err := edgeclaim.ParseTenantID(otherTenant)
	if err != nil {
		r.t.Fatal(err)
	}
	if want := edgeclaim.NewDeviceID(tenant, hardwareOf(r.t, "H"), 1); s.id(r.t) != want {
		r.t.Errorf("another tenant's board is %s, want %s", s.DeviceID, want)
	}
	p.publish(revocations(edgeclaim.Revocations{Hardware: []edgeclaim.HardwareID{hardwareOf(r.t, "H")}}))
	r.wantDenied(r.claim(key, "H"), edgeclaim.ReasonHardwareRevoked)
	r.wantLogin(s.id(r.t), s.APIKey)
	r.wantKnown(r.claim(abroad, "H"), s.DeviceID)
}

// TestAliasDiffers: a device that goes by another id than upstream wants keeps it
// as long as it lives (P9), and the operator hears of it.
func TestAliasDiffers(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key := r.key(nil)
	was := r.wantMinted(r.claim(key, "H"))
	r.wantLogin(was.id(t), was.APIKey)
	id := deviceID(t, registered)
	r.wasVoided()
	p.publish(aliasesOf(edgeclaim.Alias{Hardware: hardwareOf(t, "H"), Device: id}))
	r.wantLogin(was.id(t), was.APIKey)
	r.wantKnown(r.claim(key, "H"), was.DeviceID)
	if voided := r.wasVoided(); len(voided) > 0 {
		t.Errorf("the sessions of %v ended", voided)
	}
	p.publish(aliasesOf(edgeclaim.Alias{Hardware: hardwareOf(t, "H"), Device: id})) // and hears it once
	conflicts := r.conflicts("id_differs")
	if len(conflicts) != 1 {
		t.Fatalf("told of %d conflicts, want one", len(conflicts))
	}
	wantFields(t, conflicts[0], map[string]any{
		"device_id": was.DeviceID, "hardware_id": "H", "other_device_id": registered,
		"document": map[string]any{"type": "aliases", "name": "", "version": 1},
	})
	if got := r.alarmCount(edgeclaim.AlarmDeviceConflict); got != 1 {
		t.Errorf("%d alarms, want one", got)
	}
	r.restart()
	if _, err := r.Release(r.operator(), was.id(t), false); err != nil {
		t.Fatal(err)
	}
	if s := r.wantMinted(r.claim(key, "H")); s.id(t) != id {
		t.Errorf("after its release it is %s, want %s", s.DeviceID, id)
	}
	r.wantNoLogin(was.id(t), was.APIKey)
}

// TestAliasRevoked: no alias lets a revoked board back in (P9).
func TestAliasRevoked(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key := r.key(nil)
	here := r.wantMinted(r.claim(key, "HERE"))
	upstream := r.wantMinted(r.claim(key, "UPSTREAM"))
	other := r.wantMinted(r.claim(key, "OTHER"))
	for _, s := range []said{here, other} {
		if _, err := r.Revoke(r.operator(), s.id(t), ""); err != nil {
			t.Fatal(err)
		}
	}
	p.publish(revocations(edgeclaim.Revocations{
		Devices: []edgeclaim.DeviceID{upstream.id(t), deviceID(t, registered)}, Hardware: []edgeclaim.HardwareID{hardwareOf(t, "BOARD")},
	}))
	p.publish(aliasesOf(
		edgeclaim.Alias{Hardware: hardwareOf(t, "HERE"), Device: deviceID(t, "33333333-7f4e-4a57-9a0b-6a1c2d3e4f50")},
		edgeclaim.Alias{Hardware: hardwareOf(t, "UPSTREAM"), Device: deviceID(t, "44444444-7f4e-4a57-9a0b-6a1c2d3e4f50")},
		edgeclaim.Alias{Hardware: hardwareOf(t, "BOARD"), Device: deviceID(t, "55555555-7f4e-4a57-9a0b-6a1c2d3e4f50")},
		edgeclaim.Alias{Hardware: hardwareOf(t, "NAMED"), Device: deviceID(t, registered)},
	))
	// A swap elsewhere, of a device that an operator revoked here, neither.
	p.publish(edgeclaim.Document{DocumentID: named(edgeclaim.DocumentAliases, "swaps"), Aliases: &edgeclaim.Aliases{Aliases: []edgeclaim.Alias{
		{Hardware: hardwareOf(t, "SWAPPED"), Device: other.id(t), Replaces: hardwareOf(t, "OTHER")},
	}}})
	for _, hardware := range []string{"HERE", "UPSTREAM", "BOARD", "NAMED", "SWAPPED"} {
		r.wantDenied(r.claim(key, hardware), edgeclaim.ReasonHardwareRevoked)
	}
}

// TestAliasSwap: a board was swapped elsewhere, and the old one goes on here.
func TestAliasSwap(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key := r.key(nil)
	old := r.wantMinted(r.claimNonce(key, "OLD", nonceA))
	r.wasVoided()
	alias := edgeclaim.Alias{Hardware: hardwareOf(t, "NEW"), Device: old.id(t), Replaces: hardwareOf(t, "OLD")}
	p.publish(aliasesOf(alias))
	if voided := r.wasVoided(); !slices.Equal(voided, []edgeclaim.DeviceID{old.id(t)}) {
		t.Errorf("the sessions of %v ended", voided)
	}
	r.wantNoLogin(old.id(t), old.APIKey)
	r.wantDenied(r.claim(key, "OLD"), edgeclaim.ReasonHardwareSwapped)
	r.wantDenied(r.claimNonce(key, "OLD", nonceA), edgeclaim.ReasonHardwareSwapped)
	conflicts := r.conflicts("swapped")
	if len(conflicts) != 1 {
		t.Fatalf("told of %d conflicts, want one", len(conflicts))
	}
	wantFields(t, conflicts[0], map[string]any{
		"device_id": old.DeviceID, "hardware_id": "NEW", "old_hardware_id": "OLD",
		"document": map[string]any{"type": "aliases", "name": "", "version": 1},
	})
	fresh := r.wantMinted(r.claim(key, "NEW"))
	if fresh.DeviceID != old.DeviceID {
		t.Fatalf("the new board is %s, want %s", fresh.DeviceID, old.DeviceID)
	}
	r.wasVoided()
	// Said again, it changes nothing: the new board is at work.
	p.publish(aliasesOf(alias, edgeclaim.Alias{Hardware: hardwareOf(t, "MORE"), Device: deviceID(t, registered)}))
	r.wantLogin(fresh.id(t), fresh.APIKey)
	if voided := r.wasVoided(); len(voided) > 0 || len(r.conflicts("swapped")) != 1 {
		t.Errorf("said again, the sessions of %v ended, and %d conflicts are told", voided, len(r.conflicts("swapped")))
	}
	// The old board, let back in, is another device.
	if _, err := r.Undeny(r.operator(), p.tenant, hardwareOf(t, "OLD")); err != nil {
		t.Fatal(err)
	}
	if s := r.wantMinted(r.claim(key, "OLD")); s.id(t) != edgeclaim.NewDeviceID(p.tenant, hardwareOf(t, "OLD"), 2) {
		t.Errorf("the old board is %s", s.DeviceID)
	}
}

// TestAliasSwapElsewhere: neither board was ever seen here.
func TestAliasSwapElsewhere(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key := r.key(nil)
	id := edgeclaim.NewDeviceID(p.tenant, hardwareOf(t, "OLD"), 1)
	p.publish(aliasesOf(edgeclaim.Alias{Hardware: hardwareOf(t, "NEW"), Device: id, Replaces: hardwareOf(t, "OLD")}))
	r.wantDenied(r.claim(key, "OLD"), edgeclaim.ReasonHardwareSwapped)
	if s := r.wantMinted(r.claim(key, "NEW")); s.id(t) != id {
		t.Errorf("the new board is %s, want %s", s.DeviceID, id)
	}
	r.wantDenied(r.claim(key, "OLD"), edgeclaim.ReasonHardwareSwapped)
	if len(r.conflicts("swapped")) > 0 {
		t.Error("told of a conflict though nobody was let in here")
	}
}

// TestAliasSwapTwice: two boards were put in one place, here and elsewhere.
func TestAliasSwapTwice(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key := r.key(nil)
	old := r.wantMinted(r.claim(key, "OLD"))
	if _, err := r.Swap(r.operator(), old.id(t), hardwareOf(t, "OURS")); err != nil {
		t.Fatal(err)
	}
	ours := r.wantMinted(r.claim(key, "OURS"))
	p.publish(aliasesOf(edgeclaim.Alias{Hardware: hardwareOf(t, "THEIRS"), Device: old.id(t), Replaces: hardwareOf(t, "OLD")}))
	r.wantNoLogin(ours.id(t), ours.APIKey)
	for _, hardware := range []string{"OLD", "OURS"} {
		r.wantDenied(r.claim(key, hardware), edgeclaim.ReasonHardwareSwapped)
	}
	if s := r.wantMinted(r.claim(key, "THEIRS")); s.DeviceID != old.DeviceID {
		t.Errorf("their board is %s, want %s", s.DeviceID, old.DeviceID)
	}
	if got := r.conflicts("swapped"); len(got) != 1 || got[0]["old_hardware_id"] != "OURS" {
		t.Errorf("told %v", got)
	}
}

// TestAliasSpelling: a MAC address is one however it is spelled.
func TestAliasSpelling(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key := r.key(func(t *edgeclaim.Template) { t.HardwareIDFormat = edgeclaim.FormatMAC })
	id := deviceID(t, registered)
	p.publish(aliasesOf(edgeclaim.Alias{Hardware: hardwareOf(t, "aa-bb-cc-00-11-22"), Device: id}))
	if s := r.wantMinted(r.claim(key, "aabbcc001122")); s.id(t) != id {
		t.Errorf("claimed as %s", s.DeviceID)
	}
	other := deviceID(t, "33333333-7f4e-4a57-9a0b-6a1c2d3e4f50")
	p.wantRefused(aliasesOf(
		edgeclaim.Alias{Hardware: hardwareOf(t, "aa-bb-cc-00-11-33"), Device: id},
		edgeclaim.Alias{Hardware: hardwareOf(t, "AA:BB:CC:00:11:33"), Device: other},
	), edgeclaim.DocumentConflicting)
	p.wantRefused(aliasesOf(edgeclaim.Alias{Hardware: hardwareOf(t, "NO-MAC"), Device: other}), edgeclaim.DocumentConflicting)
}

// TestVerdict: the credential that another box gave takes the place of this
// one's, which ends.
func TestVerdict(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	s := r.wantMinted(r.claimNonce(key, "H", nonceA))
	id := s.id(t)
	ours := r.device(id)
	theirs := edgeclaim.NewSecret("sk_live_theirs")
	v := edgeclaim.Verdict{Device: ours, Void: ours.Credential.Hash, KeptBox: "box-2"}
	v.Device.Credential = edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: theirs.Hash(), IssuedAt: r.clock.Now()}
	r.wasVoided()
	for range 3 { // upstream says it until it hears that it is done
		if err := r.Adjudge(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	if voided := r.wasVoided(); !slices.Equal(voided, []edgeclaim.DeviceID{id}) {
		t.Errorf("the sessions of %v ended", voided)
	}
	r.wantNoLogin(id, s.APIKey)
	r.wantKnown(r.claimNonce(key, "H", nonceA), s.DeviceID)
	r.wantLogin(id, theirs.Reveal())
	conflicts := r.conflicts("superseded")
	if len(conflicts) != 1 {
		t.Fatalf("told of %d conflicts, want one", len(conflicts))
	}
	wantFields(t, conflicts[0], map[string]any{
		"device_id": s.DeviceID, "hardware_id": "H", "kept_box_id": "box-2",
		"credential": map[string]any{"type": "api_key", "sha256": theirs.Hash().String()},
	})
	if got := r.alarmCount(edgeclaim.AlarmDeviceConflict); got != 1 {
		t.Errorf("%d alarms, want one", got)
	}

	// A device that has another credential by now, or none, is left alone.
	if _, err := r.Revoke(r.operator(), id, ""); err != nil {
		t.Fatal(err)
	}
	v.Void, v.Device.Credential.Hash = theirs.Hash(), edgeclaim.NewSecret("sk_live_third").Hash()
	if err := r.Adjudge(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	r.wantNoLogin(id, "sk_live_third")
	r.wantDenied(r.claim(key, "H"), edgeclaim.ReasonHardwareRevoked)

	for name, change := range map[string]func(*edgeclaim.Verdict){
		"no device":     func(v *edgeclaim.Verdict) { v.Device.ID = edgeclaim.DeviceID{} },
		"no credential": func(v *edgeclaim.Verdict) { v.Device.Credential = edgeclaim.Credential{} },
		"nothing void":  func(v *edgeclaim.Verdict) { v.Void = edgeclaim.KeyHash{} },
		"no box":        func(v *edgeclaim.Verdict) { v.KeptBox = "" },
		"the same":      func(v *edgeclaim.Verdict) { v.Void = v.Device.Credential.Hash },
	} {
		bad := v
		change(&bad)
		if err := r.Adjudge(t.Context(), bad); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	v.Device.ID = deviceID(t, registered)
	if err := r.Adjudge(t.Context(), v); err != nil && !errors.Is(err, edgeclaim.ErrNotFound) {
		t.Errorf("a device that is not here: %v", err)
	}
}
