package provision

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"edgeclaim"
)

// secretBytes is the entropy of every key made here, in bytes.
const secretBytes = 32

// Prefixes of the keys made here.
const (
	apiKeyPrefix       = "sk_live_"
	provisionKeyPrefix = "pk_factory_"
)

// Answer decides a claim and returns what to tell the asker, in the format it
// asked in. It returns when the decision is durable (P1), a refusal no sooner
// than edgeclaim.RefusalDelay after ask.ReceivedAt (P3); the wait is a timer's,
// it holds no core. It never fails: whatever happened is in the answer's Code,
// and CodeUnavailable means that nothing is known to be stored.
func (s *Service) Answer(ctx context.Context, ask edgeclaim.Ask) edgeclaim.Answer {
	good, err := s.claim(ctx, ask)
	outcome := good.outcome
	if err != nil {
		outcome = outcomeOf(err)
	}
	s.cfg.Observe(ask.Via, outcome, time.Since(ask.ReceivedAt))
	if err == nil {
		body, encodeErr := encode(ask.Format, accepted{
			DeviceID: good.device.String(), APIKey: good.apiKey.Reveal(), RequestID: good.requestID,
		})
		if encodeErr == nil {
			return edgeclaim.Answer{Body: body}
		}
		err = encodeErr
	}
	f := faultOf(err)
	switch f.code {
	case edgeclaim.CodePermissionDenied:
		waitUntil(ask.ReceivedAt.Add(edgeclaim.RefusalDelay))
	case edgeclaim.CodeInternal, edgeclaim.CodeUnavailable:
		s.logger.Error("claim not decided", "via", ask.Via, "source", ask.Source, "err", err)
	default: // told to the asker, who can mend it
	}
	return s.refuse(f, ask.Format, ask.Via == edgeclaim.ViaMQTT && f.code == edgeclaim.CodeResourceExhausted)
}

// waitUntil parks the goroutine until then. It heeds no context: an asker that
// half-closes its connection cancels the request's, and would see how long the
// refusal really took.
func waitUntil(then time.Time) {
	timer := time.NewTimer(time.Until(then))
	defer timer.Stop()
	<-timer.C
}

// verdict is the good end of a claim.
type verdict struct {
	outcome   Outcome
	device    edgeclaim.DeviceID
	apiKey    edgeclaim.Secret // empty for known hardware
	requestID *string
}

// claim is the rule. It looks first, outside any write transaction, so that a
// refusal or a re-claim costs no commit; what would make a device is decided
// again over the state inside the transaction, and that decision counts.
func (s *Service) claim(ctx context.Context, ask edgeclaim.Ask) (verdict, error) {
	req, err := decode(ask.Body, ask.Format)
	if err != nil {
		return verdict{}, err
	}
	c, err := req.validate()
	if err != nil {
		return verdict{}, err
	}
	c.via, c.now, c.source = ask.Via, s.clock.Now(), ask.Source
	hash := c.key.Hash()
	grant, err := s.store.Grant(ctx, hash)
	if errors.Is(err, edgeclaim.ErrNotFound) {
		return verdict{}, s.deny(edgeclaim.ReasonUnknownKey, &c)
	}
	if err != nil {
		return verdict{}, err
	}
	known, err := s.holder(ctx, grant.Template.Tenant, c.hardware)
	if err != nil {
		return verdict{}, err
	}
	switch reason, mint, err := s.judge(&c, grant, known); {
	case err != nil:
		return verdict{}, err
	case reason != "":
		return verdict{}, s.deny(reason, &c)
	case !mint:
		return verdict{outcome: OutcomeKnown, device: known.ID, requestID: c.requestID}, nil
	}
	return s.mint(ctx, &c, edgeclaim.ClaimRef{Key: hash, Tenant: grant.Template.Tenant, Hardware: c.hardware}, grant, known)
}

// holder returns the device of a hardware, nil when it is new.
func (s *Service) holder(ctx context.Context, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (*edgeclaim.Device, error) {
	known, err := s.store.Holder(ctx, tenant, hardware)
	if errors.Is(err, edgeclaim.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &known, nil
}

// judge is the table of DESIGN.md: why to refuse, or else whether a device is
// to be made. It reads its arguments only.
func (s *Service) judge(c *claim, g edgeclaim.Grant, known *edgeclaim.Device) (edgeclaim.Reason, bool, error) {
	if reason := standing(g, c.now); reason != "" {
		return reason, false, nil
	}
	matches, err := s.patterns.match(g.Template.Pattern, c.hardware)
	if err != nil {
		return "", false, err
	}
	if !matches {
		return edgeclaim.ReasonPatternMismatch, false, nil
	}
	if known != nil && known.Status == edgeclaim.DeviceRevoked {
		return edgeclaim.ReasonHardwareRevoked, false, nil
	}
	// A used-up key stays good for the hardware that it was used by: for its
	// re-claims, and for its fresh start after a release.
	if !usedBefore(g.Key, known) {
		if reason := usedUp(g); reason != "" {
			return reason, false, nil
		}
	}
	return "", known == nil || known.Status == edgeclaim.DeviceReleased, nil
}

// usedBefore reports whether the key has made this device already: its present
// credential, or, with a one-time key, an earlier one.
func usedBefore(key edgeclaim.Key, known *edgeclaim.Device) bool {
	return known != nil && (known.Key == key.ID || key.UsedBy == known.ID)
}

// standing says why a key cannot claim at all, whoever presents it.
func standing(g edgeclaim.Grant, now time.Time) edgeclaim.Reason {
	switch {
	case g.Key.Status == edgeclaim.KeyRevoked:
		return edgeclaim.ReasonKeyRevoked
	case g.Key.Status == edgeclaim.KeyDisabled:
		return edgeclaim.ReasonKeyDisabled
	case g.Template.Status != edgeclaim.TemplateActive:
		return edgeclaim.ReasonTemplateDisabled
	case !g.Template.Expires.IsZero() && !now.Before(g.Template.Expires):
		return edgeclaim.ReasonExpired
	default:
		return ""
	}
}

// usedUp says why a key makes no further device.
func usedUp(g edgeclaim.Grant) edgeclaim.Reason {
	switch {
	case g.Key.Status == edgeclaim.KeyUsed:
		return edgeclaim.ReasonKeyUsed
	case g.Template.MaxClaims > 0 && g.Key.Claims >= g.Template.MaxClaims:
		return edgeclaim.ReasonKeyExhausted
	default:
		return ""
	}
}

// mint makes the device, unless the state inside the transaction says
// otherwise by then: hardware that claims twice at once gets one device. What
// it leaves behind is composed before, outside the transaction, which one
// claim holds at a time.
func (s *Service) mint(ctx context.Context, c *claim, ref edgeclaim.ClaimRef, seen edgeclaim.Grant, before *edgeclaim.Device) (verdict, error) {
	at := time.Now() // monotonic; the pace is no matter of the wall clock
	if wait, ok := s.pace.take(seen.Key.ID, seen.Template.MaxClaimsPerMinute, at); !ok {
		return verdict{}, &throttledError{wait: wait}
	}
	apiKey := newSecret(apiKeyPrefix)
	minted, err := s.minted(c, seen, before, apiKey.Hash())
	if err != nil {
		return verdict{}, err
	}
	v := verdict{requestID: c.requestID}
	var refused edgeclaim.Reason
	err = s.store.Claim(ctx, ref, func(g edgeclaim.Grant, known *edgeclaim.Device) (*edgeclaim.Minted, error) {
		reason, mint, err := s.judge(c, g, known)
		refused = reason // all of these are set at each run: it may run again
		if err != nil {
			return nil, err
		}
		if reason != "" {
			return nil, edgeclaim.ErrDenied
		}
		if !mint {
			v.outcome, v.device, v.apiKey = OutcomeKnown, known.ID, edgeclaim.Secret{}
			return nil, nil
		}
		minted.Key = accounted(g, known, minted.Device.ID)
		v.outcome, v.device, v.apiKey = OutcomeMinted, minted.Device.ID, apiKey
		return minted, nil
	})
	if (err != nil || v.outcome != OutcomeMinted) && seen.Template.MaxClaimsPerMinute > 0 {
		s.pace.giveBack(seen.Key.ID, at)
	}
	switch {
	case refused != "":
		return verdict{}, s.deny(refused, c)
	case errors.Is(err, edgeclaim.ErrNotFound): // the key went between the look and the claim
		return verdict{}, s.deny(edgeclaim.ReasonUnknownKey, c)
	case err != nil:
		return verdict{}, err
	}
	return v, nil
}

// accounted is the key after it has made a device. Its first claim by this
// hardware counts; a fresh start after a release does not.
func accounted(g edgeclaim.Grant, known *edgeclaim.Device, device edgeclaim.DeviceID) edgeclaim.Key {
	key := g.Key
	if usedBefore(key, known) {
		return key
	}
	key.Claims++
	if g.Template.OneTime {
		key.Status, key.UsedBy = edgeclaim.KeyUsed, device
	}
	return key
}

// minted composes what an accepted claim leaves behind, but for the key's
// accounting. A released device keeps its id and generation: those never
// change, so that the look before the transaction tells them well enough.
func (s *Service) minted(c *claim, g edgeclaim.Grant, known *edgeclaim.Device, credential edgeclaim.KeyHash) (*edgeclaim.Minted, error) {
	device := edgeclaim.Device{
		Tenant: g.Template.Tenant, Hardware: c.hardware, Name: c.name,
		Template: g.Template.ID, Key: g.Key.ID, Profile: g.Template.Profile, Groups: g.Template.Groups,
		Generation: 1, Status: edgeclaim.DeviceActive,
		Credential: edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: credential, IssuedAt: c.now},
		ClaimedAt:  c.now, ClaimedVia: c.via,
	}
	if known != nil {
		device.ID, device.Generation = known.ID, known.Generation
	} else {
		device.ID = edgeclaim.NewDeviceID(device.Tenant, device.Hardware, device.Generation)
	}
	record, err := s.deviceRecord(edgeclaim.TypeDeviceProvisioned, &device, provisioned{
		deviceFacts: s.facts(&device),
		Name:        device.Name, Template: device.Template, Key: device.Key, Profile: device.Profile, Groups: device.Groups,
		Credential: credentialFacts{Type: device.Credential.Type, Hash: credential},
		ClaimedVia: device.ClaimedVia, ClaimedAt: device.ClaimedAt,
	})
	if err != nil {
		return nil, err
	}
	return &edgeclaim.Minted{Key: g.Key, Device: device, Record: record}, nil
}

// newSecret returns prefix and 32 random bytes in unpadded base64url.
func newSecret(prefix string) edgeclaim.Secret {
	var b [secretBytes]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program rather
	return edgeclaim.NewSecret(prefix + base64.RawURLEncoding.EncodeToString(b[:]))
}

// deviceFacts are in every record about a device.
type deviceFacts struct {
	Device   edgeclaim.DeviceID   `json:"device_id"`
	Tenant   edgeclaim.TenantID   `json:"tenant_id"`
	Hardware edgeclaim.HardwareID `json:"hardware_id"`
	BoxID    string               `json:"box_id"`
	Site     string               `json:"site"`
}

// provisioned is the data of device.provisioned.
type provisioned struct {
	deviceFacts
	Name       string               `json:"name"`
	Template   edgeclaim.TemplateID `json:"template_id"`
	Key        edgeclaim.KeyID      `json:"key_id"`
	Profile    string               `json:"profile_id,omitempty"`
	Groups     []string             `json:"groups,omitempty"`
	Credential credentialFacts      `json:"credential"`
	ClaimedVia edgeclaim.Via        `json:"claimed_via"`
	ClaimedAt  time.Time            `json:"claimed_at"`
}

type credentialFacts struct {
	Type edgeclaim.CredentialType `json:"type"`
	Hash edgeclaim.KeyHash        `json:"sha256"`
}

func (s *Service) facts(d *edgeclaim.Device) deviceFacts {
	return deviceFacts{Device: d.ID, Tenant: d.Tenant, Hardware: d.Hardware, BoxID: s.cfg.BoxID, Site: s.cfg.Site}
}

// deviceRecord stamps a record about a device for LaneProv.
func (s *Service) deviceRecord(kind edgeclaim.RecordType, d *edgeclaim.Device, data any) (*edgeclaim.Record, error) {
	encoded, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	return &edgeclaim.Record{
		Lane: edgeclaim.LaneProv, Type: kind, Device: d.ID, Stamp: s.clock.Stamp(), Data: encoded,
	}, nil
}
