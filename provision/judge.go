package provision

import (
	"maps"
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/internal/mint"
)

// next is what to do for a claim that is not refused.
type next int

const (
	// doSay: known hardware; tell it again what it may hear.
	doSay next = iota
	// doWait: an operator has to let it through.
	doWait
	// doMint: a credential for new hardware, or for released.
	doMint
	// doReissue: another certificate for hardware whose first one was never
	// used, and has ended, or is for another key pair than it has by now.
	doReissue
	// doPutOff: the key is good, and this box's share of it used up for now.
	doPutOff
)

// judgement is why to refuse, or else what to do.
type judgement struct {
	reason edgeclaim.Reason
	next   next
	again  said // of doSay; zero for nothing to say
}

// judge is the table of DESIGN.md. It reads its arguments only, and is quick
// enough for a transaction.
func (s *Service) judge(c *claim, p *edgeclaim.Present) (judgement, error) {
	reason, err := s.refusal(c, p)
	if err != nil || reason != "" {
		return judgement{reason: reason}, err
	}
	switch {
	case active(p.Known):
		again, found := s.repeat(p.Known, c.order(p))
		if found == repeatOther {
			return judgement{next: doReissue}, nil
		}
		return judgement{next: doSay, again: again}, nil
	case needsApproval(p):
		return judgement{next: doWait}, nil
	case spent(&p.Grant) && !usedBefore(p.Grant.Key, p.Known):
		return judgement{next: doPutOff}, nil
	default:
		return judgement{next: doMint}, nil
	}
}

// refusal says why a claim is refused; empty when it is not.
func (s *Service) refusal(c *claim, p *edgeclaim.Present) (edgeclaim.Reason, error) {
	if reason := standing(p.Grant, c.now); reason != "" {
		return reason, nil
	}
	if c.unfolded {
		return edgeclaim.ReasonPatternMismatch, nil
	}
	matches, err := s.patterns.match(p.Grant.Template.Pattern, c.hardware)
	if err != nil {
		return "", err
	}
	switch {
	case !matches:
		return edgeclaim.ReasonPatternMismatch, nil
	case p.Denied != nil && p.Denied.Reason == edgeclaim.DeniedSwapped:
		return edgeclaim.ReasonHardwareSwapped, nil
	case p.Denied != nil && p.Denied.Reason == edgeclaim.DeniedUpstream:
		return edgeclaim.ReasonHardwareRevoked, nil
	case p.Denied != nil:
		return edgeclaim.ReasonHardwareDenied, nil
	case p.Known != nil && p.Known.Status == edgeclaim.DeviceRevoked:
		return edgeclaim.ReasonHardwareRevoked, nil
	}
	// A used-up key stays good for the hardware that it was used by: for its
	// re-claims, and for its fresh start after a release.
	if !usedBefore(p.Grant.Key, p.Known) {
		if reason := usedUp(p.Grant); reason != "" {
			return reason, nil
		}
	}
	// A list that was changed later takes nothing from a device that is known: it
	// may not have heard its answer yet.
	if p.Grant.Template.AllowList && p.Listed == nil && !active(p.Known) {
		return edgeclaim.ReasonNotListed, nil
	}
	if p.Known == nil && s.parts.Documents.Denies(p.Grant.Template.Tenant) {
		return edgeclaim.ReasonDocumentsStale, nil
	}
	return "", nil
}

// active reports whether a hardware is a device's that has a credential.
func active(known *edgeclaim.Device) bool {
	return known != nil && known.Status == edgeclaim.DeviceActive
}

// needsApproval reports whether an operator has to let new hardware through.
// One who released it has done so already.
func needsApproval(p *edgeclaim.Present) bool {
	if p.Grant.Template.Approval != edgeclaim.ApprovalManual || p.Approved {
		return false
	}
	return p.Known == nil || p.Known.Template != p.Grant.Template.ID
}

// order is what the claim's credential is made, or said again, from.
func (c *claim) order(p *edgeclaim.Present) *order {
	kind := p.Grant.Template.Credential
	if active(p.Known) {
		kind = p.Known.Credential.Type // of an earlier template's, perhaps
	}
	return &order{
		purpose: mint.ForClaim, kind: kind, tenant: p.Grant.Template.Tenant, device: p.Next, key: c.hash, now: c.now, extras: c.extras,
	}
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
	case !spent(&g) || !g.Key.Exhausted && g.Key.Granted < g.Template.Bound():
		return ""
	case g.Template.OneTime: // by another box's device
		return edgeclaim.ReasonKeyUsed
	default:
		return edgeclaim.ReasonKeyExhausted
	}
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

// sameRow reports whether two looks found the same row of a manifest.
func sameRow(a, b *edgeclaim.ManifestRow) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Hardware == b.Hardware && a.Profile == b.Profile && a.Name == b.Name &&
		slices.Equal(a.Groups, b.Groups) && maps.Equal(a.Tags, b.Tags)
}
