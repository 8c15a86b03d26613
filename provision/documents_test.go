package provision_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/provision"
)

// TestRevokedUpstream: what the box decided alone gives way, and the operator
// hears of it.
func TestRevokedUpstream(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key := r.key(nil)
	byID := r.wantMinted(r.claim(key, "BY-ID"))
	byHardware := r.wantMinted(r.claimNonce(key, "BY-HARDWARE", nonceA))
	spared := r.wantMinted(r.claim(key, "SPARED"))
	gone := r.wantMinted(r.claim(key, "RELEASED"))
	if _, err := r.Release(r.operator(), gone.id(t), false); err != nil {
		t.Fatal(err)
	}
	r.wantLogin(byID.id(t), byID.APIKey)
	r.wasVoided()

	p.publish(revocations(edgeclaim.Revocations{
		Devices:  []edgeclaim.DeviceID{byID.id(t), gone.id(t)},
		Hardware: []edgeclaim.HardwareID{hardwareOf(t, "BY-HARDWARE"), hardwareOf(t, "UNKNOWN")},
	}))
	voided := r.wasVoided()
	for _, s := range []said{byID, byHardware} {
		if !slices.Contains(voided, s.id(t)) {
			t.Errorf("the sessions of %s go on", s.DeviceID)
		}
		r.wantNoLogin(s.id(t), s.APIKey)
	}
	if len(voided) != 2 {
		t.Errorf("the sessions of %v ended", voided)
	}
	r.wantLogin(spared.id(t), spared.APIKey)
	for _, hardware := range []string{"BY-ID", "BY-HARDWARE", "RELEASED", "UNKNOWN"} {
		r.wantDenied(r.claim(key, hardware), edgeclaim.ReasonHardwareRevoked)
		r.wantDenied(r.claimNonce(key, hardware, nonceA), edgeclaim.ReasonHardwareRevoked)
	}
	conflicts := r.conflicts("revoked")
	if len(conflicts) != 3 {
		t.Fatalf("told of %d conflicts, want 3", len(conflicts))
	}
	i := slices.IndexFunc(conflicts, func(data map[string]any) bool { return data["hardware_id"] == "BY-ID" })
	wantFields(t, conflicts[max(i, 0)], map[string]any{
		"device_id": byID.DeviceID, "tenant_id": tenantText, "hardware_id": "BY-ID", "box_id": "box", "site": "site",
		"document":   map[string]any{"type": "revocations", "name": "", "version": 1},
		"claimed_at": r.device(byID.id(t)).ClaimedAt, "at": r.clock.Now(),
	})
	if got := r.alarmCount(edgeclaim.AlarmDeviceConflict); got != 3 {
		t.Errorf("%d alarms, want 3", got)
	}
	if entries := r.audited("device.conflict"); len(entries) != 3 || entries[0].Who != "upstream" || entries[0].Reason != "revoked" {
		t.Errorf("the audit log has %v", entries)
	}

	// Deny wins over the operator, too.
	for name, undo := range map[string]func() error{
		"release":   func() error { _, err := r.Release(r.operator(), byID.id(t), false); return err },
		"reinstate": func() error { _, err := r.Release(r.operator(), byID.id(t), true); return err },
		"swap":      func() error { _, err := r.Swap(r.operator(), byID.id(t), hardwareOf(t, "OTHER")); return err },
		"undeny":    func() error { _, err := r.Undeny(r.operator(), p.tenant, hardwareOf(t, "UNKNOWN")); return err },
		"swap in":   func() error { _, err := r.Swap(r.operator(), spared.id(t), hardwareOf(t, "UNKNOWN")); return err },
	} {
		if err := undo(); !errors.Is(err, edgeclaim.ErrConflict) && (name != "undeny" || !errors.Is(err, edgeclaim.ErrNotFound)) {
			t.Errorf("%s of what upstream revoked: %v", name, err)
		}
	}
	r.restart()
	r.wantDenied(r.claim(key, "BY-ID"), edgeclaim.ReasonHardwareRevoked)
	r.wantDenied(r.claim(key, "UNKNOWN"), edgeclaim.ReasonHardwareRevoked)
}

// TestRevocationsGrow: what is revoked stays so, until it is taken back by name.
func TestRevocationsGrow(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key := r.issue(r.template(nil))
	a := r.wantMinted(r.claim(key.Secret, "A"))
	b := r.wantMinted(r.claim(key.Secret, "B"))
	first := edgeclaim.Revocations{Devices: []edgeclaim.DeviceID{a.id(t), b.id(t)}, Hardware: []edgeclaim.HardwareID{hardwareOf(t, "C")}}
	p.publish(revocations(first))

	p.wantRefused(revocations(edgeclaim.Revocations{Devices: first.Devices[:1], Hardware: first.Hardware}), edgeclaim.DocumentShrunk)
	p.wantRefused(revocations(edgeclaim.Revocations{Devices: first.Devices}), edgeclaim.DocumentShrunk)
	old := revocations(edgeclaim.Revocations{Devices: first.Devices, Hardware: append(first.Hardware, hardwareOf(t, "D"))})
	old.Version = 1
	p.wantRefused(old, edgeclaim.DocumentSameVersion)
	r.wantMinted(r.claim(key.Secret, "D"))

	p.publish(revocations(edgeclaim.Revocations{
		Devices: first.Devices[:1],
		Reinstated: &edgeclaim.Reinstations{
			Devices: first.Devices[1:], Hardware: first.Hardware,
		},
	}))
	old.Version = 1
	p.wantRefused(old, edgeclaim.DocumentOldVersion)
	r.wantDenied(r.claim(key.Secret, "A"), edgeclaim.ReasonHardwareRevoked)
	data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceReleased)
	wantFields(t, data, map[string]any{"device_id": b.DeviceID, "reinstated": true, "by": "upstream"})
	r.wantNoLogin(b.id(t), b.APIKey) // what was void stays void
	if again := r.wantMinted(r.claim(key.Secret, "B")); again.DeviceID != b.DeviceID {
		t.Errorf("reinstated as %s, was %s", again.DeviceID, b.DeviceID)
	}
	r.wantMinted(r.claim(key.Secret, "C"))
}

// TestRevokedSpelling: revocations come before templates, and a MAC address is
// one however it is spelled.
func TestRevokedSpelling(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	p.publish(revocations(edgeclaim.Revocations{Hardware: []edgeclaim.HardwareID{hardwareOf(t, "aabbcc001122")}}))
	key := r.key(func(t *edgeclaim.Template) { t.HardwareIDFormat = edgeclaim.FormatMAC })
	for _, spelling := range []string{"aa-bb-cc-00-11-22", "AA:BB:CC:00:11:22", "aabbcc001122"} {
		r.wantDenied(r.claim(key, spelling), edgeclaim.ReasonHardwareRevoked)
	}
	p.publish(revocations(edgeclaim.Revocations{
		Hardware:   []edgeclaim.HardwareID{hardwareOf(t, "AA-BB-CC-00-11-22")},
		Reinstated: &edgeclaim.Reinstations{Hardware: []edgeclaim.HardwareID{hardwareOf(t, "aabbcc001122")}},
	}))
	r.wantDenied(r.claim(key, "aa-bb-cc-00-11-22"), edgeclaim.ReasonHardwareRevoked)
	p.publish(revocations(edgeclaim.Revocations{
		Reinstated: &edgeclaim.Reinstations{Hardware: []edgeclaim.HardwareID{hardwareOf(t, "AA-BB-CC-00-11-22")}},
	}))
	r.wantMinted(r.claim(key, "aa-bb-cc-00-11-22"))
}

// TestKeyRevokedUpstream: the devices that a key made while the box was alone
// stay, are listed, and go in one command.
func TestKeyRevokedUpstream(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	template := r.template(func(t *edgeclaim.Template) { t.Approval = edgeclaim.ApprovalManual })
	waits := r.issue(template)
	issued := r.issue(r.template(nil))
	unused := r.issue(r.template(nil))
	var made []said
	for i := range 5 {
		made = append(made, r.wantMinted(r.claim(issued.Secret, fmt.Sprint("H", i))))
	}
	other := r.wantMinted(r.claim(unused.Secret, "OTHER"))
	if s := r.claim(waits.Secret, "WAITS"); s.Code != edgeclaim.CodeFailedPrecondition {
		t.Fatalf("answer %s", s.raw)
	}
	if _, err := r.Revoke(r.operator(), made[4].id(t), ""); err != nil {
		t.Fatal(err)
	}
	r.wasVoided()
	p.publish(revocations(edgeclaim.Revocations{Keys: []edgeclaim.KeyHash{issued.Key.Hash, waits.Key.Hash, edgeclaim.NewSecret("none").Hash()}}))

	r.wantDenied(r.claim(issued.Secret, "NEW"), edgeclaim.ReasonKeyRevoked)
	r.wantLogin(made[0].id(t), made[0].APIKey)
	if voided := r.wasVoided(); len(voided) > 0 {
		t.Errorf("the sessions of %v ended", voided)
	}
	if got := r.alarmCount(edgeclaim.AlarmKeyRevoked); got != 1 {
		t.Errorf("%d alarms of revoked keys, want that of the one that made devices", got)
	}
	entries := r.audited(audit.KindKeyRevoked)
	if len(entries) != 1 || entries[0].Key != issued.Key.ID.String() || entries[0].Count != 5 || entries[0].Who != "upstream" {
		t.Errorf("the audit log has %v", entries)
	}
	if pending, err := r.PendingClaims(t.Context(), edgeclaim.DeviceID{}, 10); err != nil || len(pending) > 0 {
		t.Errorf("waiting by a revoked key: %v, %v", pending, err)
	}
	if _, err := r.SetKeyStatus(t.Context(), issued.Key.ID, edgeclaim.KeyActive); !errors.Is(err, edgeclaim.ErrConflict) {
		t.Errorf("enabled again: %v", err)
	}

	listed := map[edgeclaim.DeviceID]bool{}
	var after edgeclaim.DeviceID
	for {
		page, err := r.DevicesByKey(t.Context(), issued.Key.ID, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, d := range page {
			listed[d.ID] = true
		}
		after = page[len(page)-1].ID
	}
	if len(listed) != 5 || listed[other.id(t)] {
		t.Errorf("the key made %v", listed)
	}
	for i, want := range []provision.KeyRevoked{{Revoked: 4, Before: 1}, {Before: 5}} { // it may be repeated
		done, err := r.RevokeKey(r.operator(), issued.Key.ID, true, "stolen")
		if err != nil || done.Revoked != want.Revoked || done.Before != want.Before || done.Key.Status != edgeclaim.KeyRevoked {
			t.Errorf("try %d: %+v, %v; want %d revoked, %d before", i, done, err, want.Revoked, want.Before)
		}
	}
	wantFields(t, r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeCredentialRevoked), map[string]any{"reason": "stolen", "by": "token:ops"})
	if voided := r.wasVoided(); len(voided) != 4 {
		t.Errorf("the sessions of %v ended", voided)
	}
	r.wantNoLogin(made[0].id(t), made[0].APIKey)
	r.wantLogin(other.id(t), other.APIKey)
}

// TestRevokeKeyAlone: without its devices, and of those of another key.
func TestRevokeKeyAlone(t *testing.T) {
	r := newRig(t)
	template := r.template(nil)
	issued, second := r.issue(template), r.issue(template)
	s := r.wantMinted(r.claim(issued.Secret, "H"))
	done, err := r.RevokeKey(r.operator(), issued.Key.ID, false, "")
	if err != nil || done.Revoked != 0 || done.Key.Status != edgeclaim.KeyRevoked {
		t.Fatalf("%+v, %v", done, err)
	}
	r.wantLogin(s.id(t), s.APIKey)
	// Released and claimed anew, the device is the second key's.
	if _, err := r.Release(r.operator(), s.id(t), false); err != nil {
		t.Fatal(err)
	}
	s = r.wantMinted(r.claim(second.Secret, "H"))
	if done, err = r.RevokeKey(r.operator(), issued.Key.ID, true, ""); err != nil || done.Revoked != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	r.wantLogin(s.id(t), s.APIKey)
	if _, err := r.RevokeKey(r.operator(), keyID(t, "nobody"), true, ""); !errors.Is(err, edgeclaim.ErrNotFound) {
		t.Errorf("an unknown key: %v", err)
	}
	if _, err := r.RevokeKey(r.operator(), second.Key.ID, true, "two\nlines"); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("a reason of two lines: %v", err)
	}
}

// TestAlarmsOfKeys: a document may name any number of keys, and the alarms that
// are told apart are bounded; none is lost.
func TestAlarmsOfKeys(t *testing.T) {
	r := newRig(t)
	keys := make([]edgeclaim.KeyID, 6000)
	for i := range keys {
		keys[i] = keyID(t, fmt.Sprint("k", i))
	}
	if apart := r.RaiseFor(edgeclaim.AlarmKeyRevoked, keys); apart < 4096 || apart > 4097 {
		t.Errorf("%d alarms are told apart", apart)
	}
	if got := r.alarmCount(edgeclaim.AlarmKeyRevoked); got != uint64(len(keys)) {
		t.Errorf("%d alarms", got)
	}
}
