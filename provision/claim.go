package provision

import (
	"context"
	"errors"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// claimTries is how often a claim is looked at anew when what it is decided on
// changes between the look and the transaction. Each needs an operator's hand
// in that moment.
const claimTries = 4

// Answer decides a claim and returns what to tell the asker, in the format it
// asked in. It returns when the decision is durable (P1), a refusal no sooner
// than edgeclaim.RefusalDelay after ask.ReceivedAt (P3); the wait is a timer's,
// it holds no core. It never fails: whatever happened is in the answer's Code,
// and CodeUnavailable means that nothing is known to be stored.
func (s *Service) Answer(ctx context.Context, ask edgeclaim.Ask) edgeclaim.Answer {
	v, err := s.first(ctx, &ask)
	outcome := v.outcome
	if err != nil {
		outcome = outcomeOf(err)
	}
	s.cfg.Observe(ask.Via, outcome, time.Since(ask.ReceivedAt))
	if err != nil {
		return s.fail(&ask, err)
	}
	return edgeclaim.Answer{Body: v.body}
}

// first decides a claim before what else the box does. A refusal's delay is not
// part of that: whoever guesses keys would hold up everybody's telemetry.
func (s *Service) first(ctx context.Context, ask *edgeclaim.Ask) (verdict, error) {
	s.parts.Precedence.Enter()
	defer s.parts.Precedence.Leave()
	return s.claim(ctx, ask)
}

// fail answers with a fault, a refusal no sooner than all others.
func (s *Service) fail(ask *edgeclaim.Ask, err error) edgeclaim.Answer {
	f := faultOf(err)
	throttled, _ := errors.AsType[*throttledError](err)
	switch {
	case f.code == edgeclaim.CodePermissionDenied, throttled != nil && throttled.refused:
		waitUntil(ask.ReceivedAt.Add(edgeclaim.RefusalDelay))
	case errors.Is(err, context.Canceled): // the asker went away: nobody's fault, and a stranger may do it all day
	case f.code == edgeclaim.CodeInternal, f.code == edgeclaim.CodeUnavailable:
		if say, unsaid := s.failureLog.take(time.Now()); say {
			s.logger.Error("request not decided", "via", ask.Via, "source", ask.Source, "err", err, "unsaid", unsaid)
		}
	default: // told to the asker, who can mend it
	}
	a := s.refuse(f, ask.Format, ask.Via == edgeclaim.ViaMQTT && f.code == edgeclaim.CodeResourceExhausted)
	if waiting, ok := errors.AsType[*waitingError](err); ok {
		a.Waiting = waiting.whose
	}
	return a
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
	outcome Outcome
	body    []byte
}

// claim is the rule. It looks first, outside any write transaction, so that a
// refusal or a re-claim costs no commit; what would make a credential is decided
// again over the state inside the transaction, and that decision counts.
func (s *Service) claim(ctx context.Context, ask *edgeclaim.Ask) (verdict, error) {
	c, err := s.readClaim(ctx, ask)
	if err != nil {
		return verdict{}, err
	}
	for range claimTries {
		v, err := s.tryClaim(ctx, &c)
		if !errors.Is(err, errMoved) {
			return v, err
		}
	}
	return verdict{}, edgeclaim.ErrUnavailable
}

// errMoved: what a claim is decided on is no longer what was looked at.
var errMoved = errors.New("changed meanwhile")

// readClaim decodes a claim and checks all that can be checked without knowing
// any key.
func (s *Service) readClaim(ctx context.Context, ask *edgeclaim.Ask) (claim, error) {
	var req request
	if err := decode(ask.Body, ask.Format, &req); err != nil {
		return claim{}, err
	}
	c, err := req.validate()
	if err != nil {
		return claim{}, err
	}
	if err := s.readCSR(ctx, &c.extras, req.CSR, ask.Format); err != nil {
		return claim{}, err
	}
	c.via, c.source, c.room, c.format, c.now = ask.Via, ask.Source, ask.Room, ask.Format, s.clock.Now()
	return c, nil
}

// tryClaim looks, judges and does as judged.
func (s *Service) tryClaim(ctx context.Context, c *claim) (verdict, error) {
	p, ref, err := s.look(ctx, c)
	if errors.Is(err, edgeclaim.ErrNotFound) {
		return verdict{}, s.deny(edgeclaim.ReasonUnknownKey, c, nil)
	}
	if err != nil {
		return verdict{}, err
	}
	j, err := s.judge(c, &p)
	if err != nil {
		return verdict{}, err
	}
	if j.reason == "" && j.next == doWait {
		j.next, err = s.wait(ctx, c, &p)
		if err != nil {
			return verdict{}, err
		}
	}
	switch {
	case j.reason != "":
		return verdict{}, s.deny(j.reason, c, &p)
	case j.next == doSay:
		return s.say(c, &p, &j)
	case j.next == doPutOff:
		return verdict{}, s.putOff(&p.Grant)
	default:
		return s.mint(ctx, c, ref, &p, j.next)
	}
}

// look reads what the claim is judged by. The template is looked up first: it
// says how the hardware id is read. That look is one into memory.
func (s *Service) look(ctx context.Context, c *claim) (edgeclaim.Present, edgeclaim.ClaimRef, error) {
	ref := edgeclaim.ClaimRef{Key: c.hash}
	p, err := s.store.Look(ctx, ref)
	if err != nil {
		return p, ref, err
	}
	if p.Grant.Template.HardwareIDFormat == edgeclaim.FormatMAC {
		folded, err := edgeclaim.FoldMAC(c.hardware)
		if err != nil { // no 400: it would tell that the key is good
			c.unfolded = true
			return p, ref, nil
		}
		c.hardware = folded
	}
	grant := p.Grant
	ref.Tenant, ref.Hardware = grant.Template.Tenant, c.hardware
	p, err = s.store.Look(ctx, ref)
	// The key is judged as it was before its hardware was looked for: used up by
	// that very hardware between the two, it would be taken for another's.
	p.Grant = grant
	return p, ref, err
}

// say answers known hardware: with its credential once more, or with none.
// Nothing is written.
func (s *Service) say(c *claim, p *edgeclaim.Present, j *judgement) (verdict, error) {
	v, err := s.told(c, p.Known.ID, &j.again)
	if err != nil {
		return verdict{}, err
	}
	kind := audit.KindClaimKnown
	if v.outcome == OutcomeAgain {
		kind = audit.KindClaimAgain
	} else if doubtful(c, p) {
		s.Suspect(edgeclaim.Suspicion{
			Device: p.Known.ID, Kind: edgeclaim.SuspicionNonce, Count: 1, Sources: sources(c.source),
		})
	}
	s.auditClaim(kind, c, p, p.Known.ID)
	return v, nil
}

// doubtful reports whether a re-claim looks like another board's: the key that
// made the device, with another nonce, though nobody has used the credential
// yet. Another good key, or a rotation under way, is no such thing.
func doubtful(c *claim, p *edgeclaim.Present) bool {
	d := p.Known
	return c.nonce != nil && d.Mint != nil && d.RotatedBy == "" && d.Key == p.Grant.Key.ID
}

// told is the verdict that says a credential, or that there is none to say.
func (s *Service) told(c *claim, id edgeclaim.DeviceID, credential *said) (verdict, error) {
	v := verdict{outcome: OutcomeKnown}
	if credential.kind != "" {
		v.outcome = OutcomeAgain
	}
	var err error
	v.body, err = fitting(c.format, credential.body(id, c.format, c.requestID, time.Time{}), c.room)
	return v, err
}

// minting is a claim on its way into the store.
type minting struct {
	c    *claim
	next next
	seen *edgeclaim.Present
	// made is what is stored, but for the key's accounting, and body what is
	// said then.
	made edgeclaim.Minted
	body []byte
	// What the last run of decide came to.
	v      verdict
	reason edgeclaim.Reason
	putOff bool // the key's share is used up
	// accounted is the key as it is stored.
	accounted edgeclaim.Key
	present   edgeclaim.Present
}

// mint makes the credential, unless the state inside the transaction says
// otherwise by then: hardware that claims twice at once gets one device. What
// it leaves behind is composed before, outside the transaction, which one
// claim holds at a time.
func (s *Service) mint(ctx context.Context, c *claim, ref edgeclaim.ClaimRef, p *edgeclaim.Present, next next) (verdict, error) {
	at := time.Now() // monotonic; the pace is no matter of the wall clock
	giveBack, err := s.admitPace(p, next, at)
	if err != nil {
		return verdict{}, err
	}
	m := minting{c: c, next: next, seen: p}
	if err := s.compose(&m); err != nil {
		giveBack()
		return verdict{}, err
	}
	err = s.store.Mint(ctx, ref, func(now edgeclaim.Present) (*edgeclaim.Minted, error) { return s.decide(&m, now) })
	if err != nil || m.v.outcome != OutcomeMinted {
		giveBack()
	}
	switch {
	case m.reason != "":
		return verdict{}, s.deny(m.reason, c, &m.present)
	case m.putOff:
		return verdict{}, s.putOff(&m.present.Grant)
	case errors.Is(err, edgeclaim.ErrNotFound): // the key went between the look and the claim
		return verdict{}, s.deny(edgeclaim.ReasonUnknownKey, c, nil)
	case err != nil:
		return verdict{}, err
	}
	kind := audit.KindClaimMinted
	switch {
	case m.v.outcome == OutcomeKnown:
		kind = audit.KindClaimKnown
	case m.v.outcome == OutcomeAgain:
		kind = audit.KindClaimAgain
	case next == doMint:
		s.noteUse(p.Grant)
		s.noteShare(edgeclaim.Grant{Key: m.accounted, Template: m.present.Grant.Template})
	}
	s.auditClaim(kind, c, p, m.made.Device.ID)
	return m.v, nil
}

// admitPace asks whether the key, or the device, may have another credential
// now, and returns what gives the place back.
func (s *Service) admitPace(p *edgeclaim.Present, next next, at time.Time) (giveBack func(), err error) {
	if next == doReissue {
		if wait := s.rotations.take(p.Known.ID, at); wait > 0 {
			return nil, &throttledError{wait: wait}
		}
		return func() { s.rotations.giveBack(p.Known.ID, at) }, nil
	}
	key, limit := p.Grant.Key.ID, p.Grant.Template.MaxClaimsPerMinute
	if wait, ok := s.pace.take(key, limit, at); !ok {
		s.noteUse(p.Grant)
		return nil, &throttledError{wait: wait}
	}
	return func() {
		if limit > 0 {
			s.pace.giveBack(key, at)
		}
	}, nil
}

// decide is the verdict over the state inside the transaction. It may run more
// than once, and sets all that it says at each run.
func (s *Service) decide(m *minting, now edgeclaim.Present) (*edgeclaim.Minted, error) {
	m.v, m.reason, m.putOff, m.present = verdict{}, "", false, now
	j, err := s.judge(m.c, &now)
	if err != nil {
		return nil, err
	}
	switch m.reason, m.putOff = j.reason, j.next == doPutOff; {
	case j.reason != "":
		return nil, edgeclaim.ErrDenied
	case m.putOff:
		return nil, edgeclaim.ErrThrottled
	case j.next == doSay:
		m.v, err = s.told(m.c, now.Known.ID, &j.again)
		return nil, err
	case j.next != m.next || !m.seenSame(&now):
		return nil, errMoved
	}
	minted := m.made
	minted.Key = now.Grant.Key
	if j.next == doMint {
		minted.Key = accounted(now.Grant, now.Known, minted.Device.ID)
		minted.SpendApproval = now.Approved
	}
	m.accounted = minted.Key
	m.v = verdict{outcome: OutcomeMinted, body: m.body}
	return &minted, nil
}

// seenSame reports whether what was composed still fits.
func (m *minting) seenSame(now *edgeclaim.Present) bool {
	d := &m.made.Device
	if now.Next != d.ID || now.Generation != d.Generation {
		return false
	}
	if m.next == doReissue && !now.Known.Credential.Hash.Equal(m.seen.Known.Credential.Hash) {
		return false
	}
	return sameRow(now.Listed, m.seen.Listed)
}

// auditClaim writes a claim down that was not refused.
func (s *Service) auditClaim(kind string, c *claim, p *edgeclaim.Present, id edgeclaim.DeviceID) {
	s.parts.Auditor.Add(audit.Entry{
		Kind: kind, Who: audit.WhoDevice, Source: addressText(c.source), Device: id.String(),
		Tenant: p.Grant.Template.Tenant.String(), Hardware: c.hardware.String(),
		Key: p.Grant.Key.ID.String(), Template: p.Grant.Template.ID.String(), Detail: map[string]string{"via": string(c.via)},
	})
}
