package provision

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"edgeclaim"
)

// Bounds of shares.
const (
	// ShareRetry is when a device is told to come back whose key is good, and
	// whose box has used up its share of it.
	ShareRetry = 5 * time.Second
	// MaxShares is how many shares are listed at once.
	MaxShares = 10_000
	// lowPart: a share is low when less than this part of it is left, or nothing.
	lowPart = 4
	// askAgainEvery is how often upstream is asked whether there is more of a key
	// after all, of which it has said that there is none, while devices claim with
	// it: a later document may have raised its bound, or another box given back.
	askAgainEvery = time.Hour
	// sharePage is how many shares are read at once.
	sharePage = 1000
)

// shareLow reports whether upstream is to be asked for more of a key. bound is
// what all boxes may use together: who has all of it is not low.
func shareLow(share *edgeclaim.Share, bound uint32) bool {
	if share.Exhausted || bound > 0 && share.Granted >= bound {
		return false
	}
	return share.Left() < max(1, share.Granted/lowPart)
}

// shareOf is a key's share.
func shareOf(g *edgeclaim.Grant) edgeclaim.Share {
	share := edgeclaim.Share{
		Key: g.Key.ID, Template: g.Template.ID, Granted: g.Key.Granted, Claims: g.Key.Claims, Exhausted: g.Key.Exhausted,
	}
	share.Low = shareLow(&share, g.Template.Bound())
	return share
}

// spent reports whether a new device is more than this box's share of the key is
// good for.
func spent(g *edgeclaim.Grant) bool { return g.Template.Leased && g.Key.Claims >= g.Key.Granted }

// putOff is the error of a claim whose key is good, and of which this box has
// used up its share. Upstream is asked for more when it can be.
func (s *Service) putOff(g *edgeclaim.Grant) error {
	s.want(g.Key.ID, g.Key.Granted > 0)
	return &throttledError{wait: ShareRetry - 1} // rounded up to whole seconds
}

// want asks upstream for more of a key, and raises the alarm once: where the
// share is low, or nobody has answered for a while. A key of which upstream
// gives at once what a claim needs is no alarm.
func (s *Service) want(key edgeclaim.KeyID, low bool) {
	if s.noteWant(key, low) {
		s.wants.wake()
	}
}

// noteWant is want of who asks himself.
func (s *Service) noteWant(key edgeclaim.KeyID, low bool) (fresh bool) {
	fresh, due := s.wants.add(key, low, s.clock.Stamp().Uptime)
	if due {
		s.alarm(edgeclaim.AlarmShareLow, key)
	}
	return fresh
}

// noteExhausted has upstream asked once more, now and then, for a key that was
// refused because there is no more of it.
func (s *Service) noteExhausted(g *edgeclaim.Grant) {
	if !spent(g) || !g.Key.Exhausted || g.Key.Status == edgeclaim.KeyUsed || g.Key.Granted >= g.Template.Bound() {
		return
	}
	if s.askedAgain.take(g.Key.ID, time.Now()) == 0 {
		s.wants.addAgain(g.Key.ID, s.clock.Stamp().Uptime)
	}
}

// noteShare looks whether the share is low after a claim.
func (s *Service) noteShare(g edgeclaim.Grant) {
	if !g.Template.Leased || g.Template.OneTime { // a key that is used up needs no more
		return
	}
	if share := shareOf(&g); share.Low {
		s.want(share.Key, true)
	}
}

// WantShares has a token when there may be keys to ask upstream for that Wanted
// did not say before.
func (s *Service) WantShares() <-chan struct{} { return s.wants.changed }

// Wanted lists the keys that upstream is to be asked for more of, at most
// wantedKeys: those that a claim was put off for, the oldest first, and those
// whose share is low. A one-time key is asked for when somebody claims with it,
// and not before: there is but one device in it.
func (s *Service) Wanted(ctx context.Context) ([]edgeclaim.Share, error) {
	if s.wants.takeLook() {
		if err := s.lookForLow(ctx); err != nil {
			s.wants.lookAnew()
			return nil, err
		}
	}
	var shares []edgeclaim.Share
	for _, want := range s.wants.all() {
		g, err := s.grantOf(ctx, want.key)
		if err != nil && !errors.Is(err, edgeclaim.ErrNotFound) {
			return nil, err
		}
		if share, ok := s.asks(&g, want.again); err == nil && ok {
			shares = append(shares, share)
		} else {
			s.wants.remove(want.key)
		}
	}
	return shares, nil
}

// asks is a key's share as upstream is asked for more of it, where it still is.
func (s *Service) asks(g *edgeclaim.Grant, again bool) (edgeclaim.Share, bool) {
	if again {
		g.Key.Exhausted = false // as if it had not been said
	}
	share := shareOf(g)
	good := g.Template.Leased && standing(*g, s.clock.Now()) == "" && g.Key.Status != edgeclaim.KeyUsed
	return share, good && share.Low
}

// grantOf reads a key with its template.
func (s *Service) grantOf(ctx context.Context, id edgeclaim.KeyID) (edgeclaim.Grant, error) {
	key, err := s.store.Key(ctx, id)
	if err != nil {
		return edgeclaim.Grant{}, err
	}
	template, err := s.store.Template(ctx, key.Template)
	return edgeclaim.Grant{Key: key, Template: template}, err
}

// lookForLow looks through all shares for those that are low, as far as there is
// room.
func (s *Service) lookForLow(ctx context.Context) error {
	templates, err := s.leased(ctx)
	if err != nil || len(templates) == 0 {
		return err
	}
	return s.eachShare(ctx, func(share *edgeclaim.Share) bool {
		t := templates[share.Template]
		switch {
		case t == nil || t.OneTime || !shareLow(share, t.Bound()):
		case s.wants.full():
			s.wants.lookLater()
			return false
		default:
			s.noteWant(share.Key, share.Granted > 0)
		}
		return true
	})
}

// leased returns the templates whose keys are shared out.
func (s *Service) leased(ctx context.Context) (map[edgeclaim.TemplateID]*edgeclaim.Template, error) {
	all, err := s.store.Templates(ctx)
	if err != nil {
		return nil, err
	}
	leased := map[edgeclaim.TemplateID]*edgeclaim.Template{}
	for i := range all {
		if all[i].Leased {
			leased[all[i].ID] = &all[i]
		}
	}
	return leased, nil
}

// eachShare calls do with each share until it returns false.
func (s *Service) eachShare(ctx context.Context, do func(*edgeclaim.Share) bool) error {
	var after edgeclaim.KeyID
	for {
		page, err := s.store.Shares(ctx, after, sharePage)
		if err != nil {
			return err
		}
		for i := range page {
			if !do(&page[i]) {
				return nil
			}
		}
		if len(page) < sharePage {
			return nil
		}
		after = page[len(page)-1].Key
	}
}

// Shares lists what this box may use of keys that other boxes have too: those of
// which it has a share, or has asked for one; the low ones first, MaxShares at
// most.
func (s *Service) Shares(ctx context.Context) ([]edgeclaim.Share, error) {
	templates, err := s.leased(ctx)
	if err != nil || len(templates) == 0 {
		return nil, err
	}
	asked := map[edgeclaim.KeyID]bool{}
	for _, want := range s.wants.all() {
		asked[want.key] = true
	}
	var shares []edgeclaim.Share
	err = s.eachShare(ctx, func(share *edgeclaim.Share) bool {
		t := templates[share.Template]
		if t == nil || share.Granted == 0 && share.Claims == 0 && t.OneTime && !asked[share.Key] {
			return true
		}
		share.Low = shareLow(share, t.Bound())
		shares = append(shares, *share)
		return len(shares) < MaxShares
	})
	slices.SortStableFunc(shares, func(a, b edgeclaim.Share) int { return cmp.Compare(rank(a), rank(b)) })
	return shares, err
}

func rank(s edgeclaim.Share) int {
	if s.Low {
		return 0
	}
	return 1
}

// Share takes upstream's word on this box's shares; nil means that it is
// durable. A share never falls, so that an old word does no harm. Who waits for
// one comes again by itself.
func (s *Service) Share(ctx context.Context, grants []edgeclaim.ShareGrant) error {
	changed, err := s.store.GrantShares(ctx, grants)
	if err != nil {
		return err
	}
	for i := range grants {
		if grants[i].Exhausted { // that is an answer, also where it is no news
			s.wants.remove(grants[i].Key)
		}
	}
	for _, key := range changed {
		s.wants.remove(key) // and its alarm may rise anew
		g, err := s.grantOf(ctx, key)
		if err != nil {
			return err
		}
		s.logger.Info("share of a key granted", "key_id", key,
			"granted", g.Key.Granted, "claims", g.Key.Claims, "exhausted", g.Key.Exhausted)
		if share := shareOf(&g); share.Low && g.Key.Status == edgeclaim.KeyActive {
			s.want(key, false)
		}
	}
	s.wants.nudge()
	return nil
}
