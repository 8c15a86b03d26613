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
	"edgeclaim/internal/audit"
	"edgeclaim/provision"
)

// renew asks for another credential by that session.
func (r *rig) renew(by edgeclaim.Admission, body fields) said {
	r.t.Helper()
	text := ""
	if body != nil {
		text = body.json(r.t)
	}
	return r.renewText(by, text)
}

func (r *rig) renewText(by edgeclaim.Admission, body string) said {
	r.t.Helper()
	return r.read(r.Renew(r.t.Context(), edgeclaim.RotateAsk{By: by, Ask: edgeclaim.Ask{
		Body: []byte(body), Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaHTTP, ReceivedAt: time.Now().Add(-time.Hour), Source: addr("192.0.2.1"),
	}}))
}

// born claims and logs in.
func (r *rig) born(kind edgeclaim.CredentialType, hardware string) (said, edgeclaim.Admission) {
	r.t.Helper()
	s := r.wantMinted(r.claim(r.keyOf(kind), hardware))
	a, err := r.enter(s)
	if err != nil {
		r.t.Fatal(err)
	}
	return s, a
}

// TestRenew: each type, by the device itself: both go for the overlap, the old
// one no longer.
func TestRenew(t *testing.T) {
	for _, c := range kinds(t) {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			old, by := r.born(c.kind, "H")
			body := fields{"request_id": "r1"}
			if c.csr != "" {
				body["csr"] = c.csr
			}
			s := r.wantMinted(r.renew(by, body))
			until := r.clock.Now().Add(provision.DefaultDeviceOverlap)
			if s.DeviceID != old.DeviceID || s.PreviousUntil != until.Format(time.RFC3339Nano) {
				t.Errorf("answer %s, want %s", s.raw, until)
			}
			if !strings.HasSuffix(s.raw, `,"previous_until":"`+s.PreviousUntil+`","request_id":"r1"}`) {
				t.Errorf("answer ends in another order: %s", s.raw)
			}
			data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeCredentialRotated)
			if data["rotated_by"] != "device" || data["previous"] == nil || data["previous_until"] != s.PreviousUntil {
				t.Errorf("told %v", data)
			}
			if len(r.shorter) != 1 || r.shorter[0] != (shortened{by.Device, by.Credential, provision.DefaultDeviceOverlap}) {
				t.Errorf("sessions shortened: %v", r.shorter)
			}
			was, err := r.enter(old)
			if err != nil || was.ValidFor <= 0 || was.ValidFor > provision.DefaultDeviceOverlap {
				t.Errorf("the old one: %+v, %v", was, err)
			}
			if _, err := r.enter(s); err != nil {
				t.Errorf("the new one: %v", err)
			}
			if d := r.device(by.Device); d.State(r.clock.Now()) != edgeclaim.StateRotating {
				t.Errorf("state %s", d.State(r.clock.Now()))
			}
			if _, err := r.enter(old); err != nil {
				t.Errorf("the old one, while it overlaps: %v", err)
			}
			r.pass(provision.DefaultDeviceOverlap)
			if _, err := r.enter(old); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
				t.Errorf("the old one, afterwards: %v", err)
			}
			r.restart()
			if _, err := r.enter(s); err != nil {
				t.Errorf("the new one, afterwards: %v", err)
			}
			entries := r.audited(audit.KindDeviceRotated)
			if len(entries) != 1 || entries[0].Who != audit.WhoDevice || entries[0].Device != s.DeviceID || entries[0].Source != "192.0.2.1" {
				t.Errorf("audited %+v", entries)
			}
		})
	}
}

// TestRenewLostAnswer: a device that never heard of its new credential is not
// locked out by time, and gets it again for the same nonce.
func TestRenewLostAnswer(t *testing.T) {
	for _, c := range kinds(t) {
		t.Run(c.name, func(t *testing.T) {
			r := newRigWith(t, func(c *provision.Config) { c.X509Validity = 1000 * time.Hour })
			old, by := r.born(c.kind, "H")
			body := fields{"claim_nonce": nonceA}
			if c.csr != "" {
				body["csr"] = c.csr
			}
			lost := r.wantMinted(r.renew(by, body))
			r.pass(3 * provision.DefaultDeviceOverlap)
			r.restart()
			by, err := r.enter(old)
			if err != nil {
				t.Fatalf("the old one, before the new one was used: %v", err)
			}
			again := r.renew(by, body)
			if again.raw != lost.raw {
				t.Errorf("again: %s, want %s", again.raw, lost.raw)
			}
			if got := types(r.records(edgeclaim.LaneProv)); len(got) != 2 {
				t.Errorf("told upstream %v", got)
			}
			// Without the nonce it gets another one; the lost one is void.
			other := r.wantMinted(r.renew(by, nil))
			if _, err := r.enter(lost); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
				t.Errorf("the lost one: %v", err)
			}
			if _, err := r.enter(other); err != nil {
				t.Errorf("the other one: %v", err)
			}
			// And now that the other one is in use, the old one is over.
			r.pass(2 * provision.DefaultDeviceOverlap)
			if _, err := r.enter(old); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
				t.Errorf("the old one, after the first use of the other: %v", err)
			}
			if s := r.renew(by, body); s.Code != edgeclaim.CodeUnauthenticated {
				t.Errorf("its session asks and hears %s", s.raw)
			}
		})
	}
}

// TestOldSessionsEnd: a session by a credential that goes on beyond its overlap,
// because its successor was never used, has no end; it gets one with the next
// rotation, and ends where the successor's first use makes it void.
func TestOldSessionsEnd(t *testing.T) {
	late := func(t *testing.T) (r *rig, lost said, by edgeclaim.Admission) {
		r = newRig(t)
		old, by := r.born(edgeclaim.CredentialAPIKey, "H")
		lost = r.wantMinted(r.renew(by, nil))
		r.pass(2 * provision.DefaultDeviceOverlap)
		by = r.wantLogin(old.id(t), old.APIKey)
		if by.ValidFor != 0 {
			t.Fatalf("let in for %s", by.ValidFor)
		}
		r.shorter = nil
		return r, lost, by
	}
	use := func(r *rig, s said, via edgeclaim.Via) {
		r.t.Helper()
		if _, err := r.Admit(r.t.Context(), edgeclaim.Login{Device: s.id(r.t), Key: edgeclaim.NewSecret(s.APIKey), Via: via}); err != nil {
			r.t.Error(err)
		}
	}
	want := func(r *rig, want ...shortened) {
		r.t.Helper()
		if fmt.Sprint(r.shorter) != fmt.Sprint(want) {
			r.t.Errorf("sessions shortened: %v, want %v", r.shorter, want)
		}
	}
	t.Run("used", func(t *testing.T) {
		r, lost, by := late(t)
		use(r, lost, edgeclaim.ViaHTTP)
		want(r, shortened{by.Device, by.Credential, 0})
		use(r, lost, edgeclaim.ViaHTTP)
		want(r, shortened{by.Device, by.Credential, 0})
	})
	t.Run("used over MQTT", func(t *testing.T) { // which takes over
		r, lost, _ := late(t)
		use(r, lost, edgeclaim.ViaMQTT)
		want(r)
	})
	t.Run("rotated", func(t *testing.T) {
		r, _, by := late(t)
		r.wantMinted(r.renew(by, nil))
		want(r, shortened{by.Device, by.Credential, provision.DefaultDeviceOverlap})
	})
}

// TestRenewByAStolenSession: what a thief with a copy of the credential can do,
// and what it cannot. The owner is let in for the whole overlap, and the box
// says what it saw.
func TestRenewByAStolenSession(t *testing.T) {
	r := newRig(t)
	old, by := r.born(edgeclaim.CredentialAPIKey, "H")
	thief := r.wantMinted(r.renew(by, fields{"claim_nonce": nonceA}))
	// The owner asks too: the thief's credential was not used yet, and is void.
	owner := r.wantMinted(r.renew(by, fields{"claim_nonce": nonceB}))
	r.wantNoLogin(by.Device, thief.APIKey)
	r.wantLogin(by.Device, owner.APIKey)
	// The other way round: the thief uses its own first.
	thief = r.wantMinted(r.renew(r.wantLogin(by.Device, owner.APIKey), fields{"claim_nonce": nonceA}))
	r.wantLogin(by.Device, thief.APIKey)
	was := r.wantLogin(by.Device, owner.APIKey) // goes on
	s := r.renew(was, fields{"claim_nonce": nonceB})
	if s.raw != refusal {
		t.Errorf("answer %s, want a refusal", s.raw)
	}
	r.runOnce()
	if data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeCloneSuspected); data["kind"] != "rotation" {
		t.Errorf("told %v", data)
	}
	if got := r.audited("rotation.refused"); len(got) != 1 || got[0].Device != old.DeviceID {
		t.Errorf("audited %+v", got)
	}
	r.pass(provision.DefaultDeviceOverlap - time.Minute)
	r.wantLogin(by.Device, owner.APIKey)
	// The operator's way out voids both.
	if _, err := r.Release(r.operator(), by.Device, false); err != nil {
		t.Fatal(err)
	}
	r.wantNoLogin(by.Device, owner.APIKey)
	r.wantNoLogin(by.Device, thief.APIKey)
}

// TestRenewAtOnce: a device that asks twice at once with one nonce hears the
// same twice.
func TestRenewAtOnce(t *testing.T) {
	r := newRig(t)
	for round, c := range kinds(t) {
		_, by := r.born(c.kind, fmt.Sprint("H", round))
		body := fields{"claim_nonce": nonceA}
		if c.csr != "" {
			body["csr"] = c.csr
		}
		answers := make([]said, 4)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() { answers[i] = r.renew(by, body) })
		}
		wg.Wait()
		for _, s := range answers {
			if s.raw != answers[0].raw || s.Code != 0 {
				t.Errorf("%s: %s and %s", c.name, answers[0].raw, s.raw)
			}
		}
	}
}

// TestRenewIsBounded: six an hour, not counting those that were said again.
func TestRenewIsBounded(t *testing.T) {
	r := newRig(t)
	_, by := r.born(edgeclaim.CredentialAPIKey, "H")
	for i := range 6 {
		s := r.wantMinted(r.renew(by, fields{"claim_nonce": nonceA}))
		for range 10 {
			if again := r.renew(by, fields{"claim_nonce": nonceA}); again.raw != s.raw {
				t.Fatalf("%d: again: %s", i, again.raw)
			}
		}
		by = r.wantLogin(by.Device, s.APIKey)
	}
	s := r.renew(by, fields{"claim_nonce": nonceA})
	if s.Code != edgeclaim.CodeResourceExhausted || s.answer.RetryAfter <= 0 || s.answer.RetryAfter > time.Hour {
		t.Errorf("answer %s, %s", s.raw, s.answer.RetryAfter)
	}
	other, by2 := r.born(edgeclaim.CredentialAPIKey, "OTHER")
	if s := r.renew(by2, nil); s.DeviceID != other.DeviceID {
		t.Errorf("another device: %s", s.raw)
	}
}

// TestRenewThatFailedIsNotCounted: a box that cannot store is not to put the
// device off for an hour afterwards.
func TestRenewThatFailedIsNotCounted(t *testing.T) {
	r := newRig(t)
	_, by := r.born(edgeclaim.CredentialAPIKey, "H")
	store := &failingStore{Store: r.store, full: true}
	service := provision.New(provision.Config{BoxID: "box", Site: "site", BoxKey: r.store.BoxKey()},
		provision.Parts{Store: store, Clock: r.clock}, discard())
	renew := func() edgeclaim.Answer {
		return service.Renew(t.Context(), edgeclaim.RotateAsk{By: by, Ask: edgeclaim.Ask{Format: edgeclaim.FormatJSON, ReceivedAt: time.Now()}})
	}
	for range 7 {
		if a := renew(); a.Code != edgeclaim.CodeUnavailable {
			t.Fatalf("answer %s, want unavailable", a.Body)
		}
	}
	store.full = false
	if a := renew(); a.Code != 0 {
		t.Errorf("answer %s", a.Body)
	}
}

// failingStore is a store whose disk is full at times.
type failingStore struct {
	provision.Store
	full bool
}

func (s *failingStore) ChangeDevice(ctx context.Context, id edgeclaim.DeviceID,
	change func(*edgeclaim.Device) (*edgeclaim.Record, error),
) (edgeclaim.Device, error) {
	if s.full {
		return edgeclaim.Device{}, edgeclaim.ErrUnavailable
	}
	return s.Store.ChangeDevice(ctx, id, change)
}

func TestRenewMalformed(t *testing.T) {
	r := newRig(t)
	_, by := r.born(edgeclaim.CredentialX509, "H")
	for name, c := range map[string]struct{ body, field string }{
		"not JSON":      {`x`, "body"},
		"array":         {`[]`, "body"},
		"trailing":      {`{}x`, "body"},
		"unknown":       {`{"overlap":"24h"}`, "overlap"},
		"claim's":       {`{"provision_key":"k"}`, "provision_key"},
		"other case":    {`{"CSR":"x"}`, "CSR"},
		"twice":         {`{"csr":"x","csr":"y"}`, "csr"},
		"number":        {`{"claim_nonce":1}`, "claim_nonce"},
		"null":          {`{"csr":null}`, "csr"},
		"short nonce":   {`{"claim_nonce":"AAAA"}`, "claim_nonce"},
		"empty csr":     {`{"csr":""}`, "csr"},
		"no csr":        {`{"csr":"hello"}`, "csr"},
		"empty id":      {`{"request_id":""}`, "request_id"},
		"too large":     {`{` + strings.Repeat(" ", 9000) + `}`, "body"},
		"no such utf-8": {"{\"request_id\":\"\xff\"}", "request_id"},
	} {
		s := r.renewText(by, c.body)
		if s.Code != edgeclaim.CodeInvalidArgument || !strings.HasPrefix(s.Message, c.field+": ") {
			t.Errorf("%s: %s", name, s.raw)
		}
	}
	wantTypes(t, r.records(edgeclaim.LaneProv), edgeclaim.TypeDeviceProvisioned)
	for _, empty := range []string{"", "{}", " {} "} {
		r.wantMinted(r.renewText(by, empty))
	}
}

// TestRotate: an operator's end of a credential is its end, used or not.
func TestRotate(t *testing.T) {
	for _, c := range kinds(t) {
		for _, overlap := range []time.Duration{0, time.Hour} {
			t.Run(fmt.Sprint(c.name, overlap), func(t *testing.T) {
				r := newRig(t)
				old, by := r.born(c.kind, "H")
				rotation := provision.Rotation{Overlap: overlap}
				if c.csr != "" {
					rotation.CSR = csrDER(t, newSigner(t))
				}
				issued, err := r.Rotate(r.operator(), by.Device, rotation)
				if err != nil {
					t.Fatal(err)
				}
				text, err := issued.Answer()
				if err != nil {
					t.Fatal(err)
				}
				s := said{raw: string(text)}
				if err := json.Unmarshal(text, &s); err != nil {
					t.Fatal(err)
				}
				if s.APIKey+s.PSK != issued.Secret.Reveal() || s.Certificate != issued.Certificate || s.CAChain != issued.Chain ||
					s.PrivateKey != issued.PrivateKey.Reveal() || s.PSKIdentity != issued.PSKIdentity || (s.PreviousUntil == "") != (overlap == 0) {
					t.Errorf("answer %s is another than %+v", text, issued)
				}
				if _, err := r.enter(old); (err == nil) != (overlap > 0) {
					t.Errorf("the old one: %v", err)
				}
				if (len(r.voided) > 0) != (overlap == 0) || (len(r.shorter) > 0) != (overlap > 0) {
					t.Errorf("sessions: void %v, shorter %v", r.voided, r.shorter)
				}
				r.pass(overlap)
				if _, err := r.enter(old); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
					t.Errorf("the old one, at its end: %v", err)
				}
				if _, err := r.enter(s); err != nil {
					t.Errorf("the new one: %v", err)
				}
				data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeCredentialRotated)
				if data["rotated_by"] != "operator" || (data["previous"] == nil) != (overlap == 0) {
					t.Errorf("told %v", data)
				}
				entries := r.audited(audit.KindDeviceRotated)
				if len(entries) != 1 || entries[0].Who != "token:ops" || entries[0].Device != old.DeviceID {
					t.Errorf("audited %+v", entries)
				}
			})
		}
	}
}

// TestRotateTwice: two credentials are valid at most.
func TestRotateTwice(t *testing.T) {
	r := newRig(t)
	first, by := r.born(edgeclaim.CredentialAPIKey, "H")
	second, err := r.Rotate(r.operator(), by.Device, provision.Rotation{Overlap: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	third, err := r.Rotate(r.operator(), by.Device, provision.Rotation{Overlap: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	r.wantNoLogin(by.Device, first.APIKey)
	r.wantLogin(by.Device, second.Secret.Reveal())
	r.wantLogin(by.Device, third.Secret.Reveal())
	if got := r.shorter[len(r.shorter)-2]; got.hash != by.Credential || got.in != 0 {
		t.Errorf("the first one's sessions end: %+v", got)
	}
}

// TestOperatorsRotationStands: the old credential cannot undo it.
func TestOperatorsRotationStands(t *testing.T) {
	r := newRig(t)
	old, by := r.born(edgeclaim.CredentialAPIKey, "H")
	issued, err := r.Rotate(r.operator(), by.Device, provision.Rotation{Overlap: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if s := r.renew(by, nil); s.raw != refusal {
		t.Errorf("answer %s", s.raw)
	}
	r.wantLogin(by.Device, issued.Secret.Reveal())
	r.pass(time.Hour)
	r.wantNoLogin(by.Device, old.APIKey)
}

func TestRotateRefused(t *testing.T) {
	r := newRig(t)
	s, _ := r.born(edgeclaim.CredentialAPIKey, "H")
	certified, _ := r.born(edgeclaim.CredentialX509, "X")
	released, _ := r.born(edgeclaim.CredentialAPIKey, "R")
	if _, err := r.Release(r.operator(), released.id(t), false); err != nil {
		t.Fatal(err)
	}
	unknown, err := edgeclaim.ParseDeviceID("8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		id       edgeclaim.DeviceID
		rotation provision.Rotation
		want     error
	}{
		"negative": {s.id(t), provision.Rotation{Overlap: -1}, edgeclaim.ErrInvalid},
		"too long": {s.id(t), provision.Rotation{Overlap: provision.MaxOverlap + 1}, edgeclaim.ErrInvalid},
		"csr":      {s.id(t), provision.Rotation{CSR: csrDER(t, newSigner(t))}, edgeclaim.ErrInvalid},
		"bad csr":  {certified.id(t), provision.Rotation{CSR: []byte("x")}, edgeclaim.ErrInvalid},
		"released": {released.id(t), provision.Rotation{}, edgeclaim.ErrConflict},
		"unknown":  {unknown, provision.Rotation{}, edgeclaim.ErrNotFound},
	} {
		if _, err := r.Rotate(context.Background(), c.id, c.rotation); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
