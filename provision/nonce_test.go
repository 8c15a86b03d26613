package provision_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/provision"
)

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// kinds are all types of credential, x509 with and without a CSR.
func kinds(t testing.TB) []struct {
	name string
	kind edgeclaim.CredentialType
	csr  string
} {
	return []struct {
		name string
		kind edgeclaim.CredentialType
		csr  string
	}{
		{"api_key", edgeclaim.CredentialAPIKey, ""},
		{"psk", edgeclaim.CredentialPSK, ""},
		{"x509", edgeclaim.CredentialX509, ""},
		{"x509 csr", edgeclaim.CredentialX509, csrPEM(t, newSigner(t))},
	}
}

// enter logs the device of an answer in, with what the answer says.
func (r *rig) enter(s said) (edgeclaim.Admission, error) {
	r.t.Helper()
	switch {
	case s.Certificate != "":
		return r.admitChain(s.id(r.t), chainOf(r.t, s))
	case s.PSK != "":
		return r.login(s.id(r.t), s.PSK)
	default:
		return r.login(s.id(r.t), s.APIKey)
	}
}

// TestLostAnswer is the contract's table for claims with a nonce: the same
// answer again, over either face and after a restart, until the first use.
func TestLostAnswer(t *testing.T) {
	for _, c := range kinds(t) {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			key := r.keyOf(c.kind)
			body := claimOf(key, "H").with("claim_nonce", nonceA)
			if c.csr != "" {
				body = body.with("csr", c.csr)
			}
			first := r.wantMinted(r.ask(body.json(t)))
			told := len(r.records(edgeclaim.LaneProv))
			again := func(when string) {
				t.Helper()
				for _, via := range []edgeclaim.Via{edgeclaim.ViaMQTT, edgeclaim.ViaHTTP} {
					s := r.answer(edgeclaim.Ask{Body: []byte(body.json(t)), Format: edgeclaim.FormatJSON, Via: via, ReceivedAt: time.Now()})
					if s.raw != first.raw {
						t.Errorf("%s, %s: %s, want %s", when, via, s.raw, first.raw)
					}
				}
			}
			again("at once")
			r.restart()
			again("after a crash")
			// The time tells nothing, neither does a disabled neighbour.
			r.pass(1000 * time.Hour)
			again("much later")
			// Another nonce, none, another good key, another hardware.
			r.wantKnown(r.ask(body.with("claim_nonce", nonceB).json(t)), first.DeviceID)
			r.wantKnown(r.claim(key, "H"), first.DeviceID)
			r.wantKnown(r.ask(body.with("provision_key", r.keyOf(c.kind).Reveal()).json(t)), first.DeviceID)
			again("after others asked")
			if got := len(r.records(edgeclaim.LaneProv)); got != told {
				t.Errorf("re-claims told upstream %d records", got-told)
			}
			// The log-in takes the salt with it, before it is answered.
			r.pass(-1000 * time.Hour)
			if _, err := r.enter(first); err != nil {
				t.Fatal(err)
			}
			if d := r.device(first.id(t)); d.Mint != nil || d.Credential.ConfirmedAt.IsZero() {
				t.Errorf("after the first use: %+v", d)
			}
			r.wantKnown(r.ask(body.json(t)), first.DeviceID)
			r.restart()
			r.wantKnown(r.ask(body.json(t)), first.DeviceID)
			if _, err := r.enter(first); err != nil {
				t.Errorf("it logs in no more: %v", err)
			}
		})
	}
}

// TestIdentifyIsNoUse: only Admit counts.
func TestIdentifyIsNoUse(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	first := r.wantMinted(r.claimNonce(key, "H", nonceA))
	a, err := r.Identify(t.Context(), edgeclaim.Login{Device: first.id(t), Key: edgeclaim.NewSecret(first.APIKey)})
	if err != nil || a.Device != first.id(t) {
		t.Fatal(a, err)
	}
	if s := r.claimNonce(key, "H", nonceA); s.raw != first.raw {
		t.Errorf("answer %s, want the same", s.raw)
	}
}

// TestNeverTheSameAgain: after a release, and with a new salt, one nonce makes
// another secret; a revoked or swapped device gets none.
func TestNeverTheSameAgain(t *testing.T) {
	for _, c := range kinds(t) {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			body := claimOf(r.keyOf(c.kind), "H").with("claim_nonce", nonceA)
			if c.csr != "" {
				body = body.with("csr", c.csr)
			}
			seen := map[string]bool{}
			for range 4 {
				s := r.wantMinted(r.ask(body.json(t)))
				if secret := s.APIKey + s.PSK + s.Certificate; seen[secret] {
					t.Fatal("a void credential was minted again")
				} else {
					seen[secret] = true
				}
				if _, err := r.Release(r.operator(), s.id(t), false); err != nil {
					t.Fatal(err)
				}
				if _, err := r.enter(s); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
					t.Errorf("a released device is let in: %v", err)
				}
			}
			s := r.wantMinted(r.ask(body.json(t)))
			if _, err := r.Revoke(r.operator(), s.id(t), "stolen"); err != nil {
				t.Fatal(err)
			}
			r.wantDenied(r.ask(body.json(t)), edgeclaim.ReasonHardwareRevoked)
			if _, err := r.enter(s); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
				t.Errorf("a revoked device is let in: %v", err)
			}
		})
	}
}

// TestOneNonceAtOnce: two claims at once with one nonce hear one secret.
func TestOneNonceAtOnce(t *testing.T) {
	r := newRig(t)
	for round, c := range append(kinds(t), kinds(t)...) {
		body := claimOf(r.keyOf(c.kind), fmt.Sprint("H", round)).with("claim_nonce", nonceA)
		if c.csr != "" {
			body = body.with("csr", c.csr)
		}
		answers := make([]said, 8)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() { answers[i] = r.ask(body.json(t)) })
		}
		wg.Wait()
		for _, s := range answers {
			if s.raw != answers[0].raw || s.Code != 0 || s.APIKey+s.PSK+s.Certificate == "" {
				t.Errorf("%s: %s and %s", c.name, answers[0].raw, s.raw)
			}
		}
	}
	if got := len(r.records(edgeclaim.LaneProv)); got != 8 {
		t.Errorf("told upstream %d times of 8 devices", got)
	}
}

// TestAnotherKeyPair: a device that made a new key pair before it had stored the
// answer gets a certificate for it, and the one before is void.
func TestAnotherKeyPair(t *testing.T) {
	r := newRig(t)
	key := r.keyOf(edgeclaim.CredentialX509)
	body := claimOf(key, "H").with("claim_nonce", nonceA)
	signers := []crypto.Signer{newSigner(t), newSigner(t)}
	first := r.wantMinted(r.ask(body.with("csr", csrPEM(t, signers[0])).json(t)))
	second := r.wantMinted(r.ask(body.with("csr", csrPEM(t, signers[1])).json(t)))
	if second.DeviceID != first.DeviceID || second.Certificate == first.Certificate {
		t.Fatalf("answers %s and %s", first.raw, second.raw)
	}
	data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeCredentialRotated)
	if data["rotated_by"] != "claim" || data["previous"] != nil {
		t.Errorf("told %v", data)
	}
	if again := r.ask(body.with("csr", csrPEM(t, signers[1])).json(t)); again.raw != second.raw {
		t.Errorf("again: %s", again.raw)
	}
	if _, err := r.enter(first); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
		t.Errorf("the first certificate is good: %v", err)
	}
	third := r.wantMinted(r.ask(body.json(t))) // and without a CSR the box makes the key pair
	if third.PrivateKey == "" {
		t.Errorf("answer %s", third.raw)
	}
	if again := r.ask(body.json(t)); again.raw != third.raw {
		t.Errorf("again: %s", again.raw)
	}
	// Whoever has the nonce cannot make certificates without end.
	for range 10 {
		last := r.ask(body.with("csr", csrPEM(t, newSigner(t))).json(t))
		if last.Code == edgeclaim.CodeResourceExhausted {
			if got, err := r.Key(t.Context(), r.device(first.id(t)).Key); err != nil || got.Claims != 1 {
				t.Errorf("the key counts %d claims, %v", got.Claims, err)
			}
			return
		}
	}
	t.Error("certificates without end")
}

// TestLostCertificateThatEnded: a device that lay on a shelf for longer than its
// unheard certificate lived is no brick: it gets another one.
func TestLostCertificateThatEnded(t *testing.T) {
	for name, csr := range map[string]string{"made here": "", "csr": csrPEM(t, newSigner(t))} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			body := claimOf(r.keyOf(edgeclaim.CredentialX509), "H").with("claim_nonce", nonceA)
			if csr != "" {
				body = body.with("csr", csr)
			}
			lost := r.wantMinted(r.ask(body.json(t)))
			r.pass(provision.DefaultX509Validity - time.Second)
			if again := r.ask(body.json(t)); again.raw != lost.raw {
				t.Errorf("in its time: %s", again.raw)
			}
			r.pass(time.Second)
			again := r.wantMinted(r.ask(body.json(t)))
			if again.DeviceID != lost.DeviceID || again.Certificate == lost.Certificate {
				t.Errorf("afterwards: %s", again.raw)
			}
			if _, err := r.enter(again); err != nil {
				t.Errorf("log-in: %v", err)
			}
			wantTypes(t, r.records(edgeclaim.LaneProv), edgeclaim.TypeDeviceProvisioned, edgeclaim.TypeCredentialRotated)
			r.wantKnown(r.ask(body.json(t)), lost.DeviceID)
		})
	}
}

// TestAnotherNonceIsSuspicious, where nobody has used the credential: once told,
// and never locks anybody out.
func TestAnotherNonceIsSuspicious(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	first := r.wantMinted(r.claimNonce(key, "H", nonceA))
	ask := edgeclaim.Ask{
		Body: []byte(claimOf(key, "H").with("claim_nonce", nonceB).json(t)), Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaMQTT,
		Source: addr("192.0.2.9"), ReceivedAt: time.Now(),
	}
	for range 3 {
		r.wantKnown(r.answer(ask), first.DeviceID)
	}
	r.runOnce()
	data := r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeCloneSuspected)
	if data["kind"] != "nonce" || data["count"] != 1.0 || fmt.Sprint(data["sources"]) != "[192.0.2.9]" || data["device_id"] != first.DeviceID {
		t.Errorf("told %v", data)
	}
	wantTypes(t, r.records(edgeclaim.LaneProv), edgeclaim.TypeDeviceProvisioned, edgeclaim.TypeCloneSuspected)
	alarms := r.Alarms()
	if len(alarms) != 1 || alarms[0].Alarm != edgeclaim.AlarmCloned || alarms[0].Count != 3 {
		t.Errorf("alarms %v", alarms)
	}
	if s := r.claimNonce(key, "H", nonceA); s.raw != first.raw {
		t.Errorf("the owner gets %s", s.raw)
	}
	// Another good key proves nothing, and neither does a credential in use.
	r.wantKnown(r.claimNonce(r.key(nil), "H", nonceB), first.DeviceID)
	r.wantLogin(first.id(t), first.APIKey)
	r.wantKnown(r.claimNonce(key, "H", nonceB), first.DeviceID)
	r.runOnce()
	if got := r.Alarms()[0].Count; got != 3 {
		t.Errorf("%d alarms, want 3", got)
	}
}

// runOnce lets Run say its last words.
func (r *rig) runOnce() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		r.t.Fatal(err)
	}
}

// TestClaimsAreAudited: one entry each, by what became of it.
func TestClaimsAreAudited(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	first := r.wantMinted(r.claimNonce(key, "H", nonceA))
	r.claimNonce(key, "H", nonceA)
	r.claim(key, "H")
	r.claim(edgeclaim.NewSecret("unknown"), "H")
	r.wantLogin(first.id(t), first.APIKey)
	r.wantNoLogin(first.id(t), "wrong")
	for kind, want := range map[string]int{
		audit.KindClaimMinted: 1, audit.KindClaimAgain: 1, audit.KindClaimKnown: 1, audit.KindClaimRefused: 1,
		audit.KindDeviceConfirmed: 1, audit.KindLoginRefused: 1,
	} {
		entries := r.audited(kind)
		if len(entries) != want {
			t.Errorf("%s: %d entries, want %d", kind, len(entries), want)
			continue
		}
		for _, e := range entries {
			if e.Who != audit.WhoDevice || kind != audit.KindClaimRefused && e.Device != first.DeviceID || kind == audit.KindClaimRefused && e.Reason != "unknown_key" {
				t.Errorf("%s: %+v", kind, e)
			}
		}
	}
}

// TestFirstUseThatCannotBeStored: whoever could be told the credential again is
// not let in, for the box could tell it to another; who could not, is.
func TestFirstUseThatCannotBeStored(t *testing.T) {
	r := newRig(t)
	kept := r.wantMinted(r.claimNonce(r.key(nil), "H1", nonceA))
	plain := r.wantMinted(r.claim(r.key(nil), "H2"))
	full := provision.New(provision.Config{BoxID: "box", Site: "site", BoxKey: r.store.BoxKey()},
		provision.Parts{Store: fullStore{r.store}, Clock: r.clock}, discard())
	login := func(s said) error {
		_, err := full.Admit(t.Context(), edgeclaim.Login{Device: s.id(t), Key: edgeclaim.NewSecret(s.APIKey)})
		return err
	}
	if err := login(kept); !errors.Is(err, edgeclaim.ErrUnavailable) {
		t.Errorf("with a salt on record: %v", err)
	}
	if err := login(plain); err != nil {
		t.Errorf("without: %v", err)
	}
	r.wantLogin(kept.id(t), kept.APIKey)
	r.wantLogin(plain.id(t), plain.APIKey)
}

// fullStore is a store on a full disk.
type fullStore struct{ provision.Store }

func (fullStore) ChangeDevice(context.Context, edgeclaim.DeviceID, func(*edgeclaim.Device) (*edgeclaim.Record, error)) (edgeclaim.Device, error) {
	return edgeclaim.Device{}, edgeclaim.ErrUnavailable
}
