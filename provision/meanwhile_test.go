package provision_test

import (
	"fmt"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision"
)

// once runs what an operator does between the look and the next transaction.
func (r *rig) once(what func()) {
	r.meddle = func() {
		r.meddle = nil
		what()
	}
}

// TestChangedMeanwhile: an operator's hand between a claim's look and its
// transaction counts.
func TestChangedMeanwhile(t *testing.T) {
	r := newRig(t)
	ctx := r.operator()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key := r.key(nil)

	other := r.wantMinted(r.claim(key, "OLD"))
	r.once(func() { _, err := r.Swap(ctx, other.id(t), hardwareOf(t, "SWAPPED-IN")); must(err) })
	if s := r.wantMinted(r.claim(key, "SWAPPED-IN")); s.DeviceID != other.DeviceID {
		t.Errorf("swapped in: %s, want %s", s.raw, other.DeviceID)
	}

	r.once(func() { _, _, err := r.Deny(ctx, tenantOf(t), hardwareOf(t, "DENIED")); must(err) })
	r.wantDenied(r.claim(key, "DENIED"), edgeclaim.ReasonHardwareDenied)

	issued := r.issue(r.template(nil))
	r.once(func() { _, err := r.SetKeyStatus(ctx, issued.Key.ID, edgeclaim.KeyRevoked); must(err) })
	r.wantDenied(r.claim(issued.Secret, "KEY"), edgeclaim.ReasonKeyRevoked)

	listed := r.template(func(t *edgeclaim.Template) { t.AllowList = true })
	issued = r.issue(listed)
	row := edgeclaim.ManifestRow{Hardware: hardwareOf(t, "LISTED"), Name: "before"}
	put := func() { _, _, err := r.ImportManifest(ctx, listed.ID, []edgeclaim.ManifestRow{row}); must(err) }
	put()
	row.Name = "after"
	r.once(put)
	if d := r.device(r.wantMinted(r.claim(issued.Secret, "LISTED")).id(t)); d.Name != "after" {
		t.Errorf("the device is called %q", d.Name)
	}
	row.Hardware = hardwareOf(t, "LISTED-2")
	put()
	r.once(func() { _, err := r.RemoveManifest(ctx, listed.ID, []edgeclaim.HardwareID{row.Hardware}); must(err) })
	r.wantDenied(r.claim(issued.Secret, "LISTED-2"), edgeclaim.ReasonNotListed)

	manual := r.issue(r.template(func(t *edgeclaim.Template) { t.Approval = edgeclaim.ApprovalManual })).Secret
	waiting := r.claim(manual, "APPROVED")
	id := edgeclaim.NewDeviceID(tenantOf(t), waiting.answer.Waiting.Hardware, 1)
	_, err := r.Approve(ctx, id)
	must(err)
	r.once(func() { _, err := r.Refuse(ctx, id); must(err) })
	r.wantDenied(r.claim(manual, "APPROVED"), edgeclaim.ReasonHardwareDenied)

	// One whose ground moves at every try hears that it is to come back.
	n := 0
	r.meddle = func() {
		n++
		row = edgeclaim.ManifestRow{Hardware: hardwareOf(t, "MOVING"), Name: fmt.Sprint("name ", n)}
		put()
	}
	row.Hardware = hardwareOf(t, "MOVING")
	put()
	if s := r.claim(issued.Secret, "MOVING"); s.Code != edgeclaim.CodeUnavailable || n > 10 {
		t.Errorf("after %d tries: %s", n, s.raw)
	}
	r.meddle = nil
	r.wantMinted(r.claim(issued.Secret, "MOVING"))
}

// TestRotatedMeanwhile: a device's rotation counts on the state inside the
// transaction as well.
func TestRotatedMeanwhile(t *testing.T) {
	r := newRig(t)
	_, by := r.born(edgeclaim.CredentialAPIKey, "H")
	r.once(func() {
		if _, err := r.Rotate(r.operator(), by.Device, provision.Rotation{Overlap: time.Hour}); err != nil {
			t.Fatal(err)
		}
	})
	if s := r.renew(by, nil); s.raw != refusal {
		t.Errorf("beside an operator's rotation: %s", s.raw)
	}
	for name, void := range map[string]func(edgeclaim.DeviceID) error{
		"revoked":  func(id edgeclaim.DeviceID) error { _, err := r.Revoke(r.operator(), id, ""); return err },
		"released": func(id edgeclaim.DeviceID) error { _, err := r.Release(r.operator(), id, false); return err },
	} {
		s, by := r.born(edgeclaim.CredentialAPIKey, name)
		r.once(func() {
			if err := void(by.Device); err != nil {
				t.Fatal(err)
			}
		})
		if got := r.renew(by, nil); got.Code != edgeclaim.CodeUnauthenticated {
			t.Errorf("beside the device being %s: %s", name, got.raw)
		}
		r.wantNoLogin(by.Device, s.APIKey)
		// And a first use.
		s = r.wantMinted(r.claimNonce(r.key(nil), name+"-2", nonceA))
		r.once(func() {
			if err := void(s.id(t)); err != nil {
				t.Fatal(err)
			}
		})
		r.wantNoLogin(s.id(t), s.APIKey)
	}
}
