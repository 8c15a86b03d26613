package bridge

import (
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/backoff"
)

const (
	// shareWanted is how much more of a key the box says that it has use for: more
	// than there is. How much it gets, and what is left for other boxes, is
	// upstream's to say, and the more it has, the longer it lasts without a word.
	shareWanted = 1_000_000
	// sharesEvery is the least time between two askings: whoever may claim may
	// have the box ask.
	sharesEvery = time.Second
	// sharesAtOnce is how many keys are asked for in one go, in as many messages
	// as that takes.
	sharesAtOnce = 10 * wire.MaxShares
)

// sharing is the asking for shares of keys in a session.
type sharing struct {
	at     time.Time        // what is wanted is looked at then; zero for not
	asked  time.Time        // when it was last
	pace   *backoff.Backoff // of asking again for the same
	wants  []wire.ShareWant // to be said
	grants []edgeclaim.ShareGrant
}

// shares reports whether the box honours shares in this session.
func (c *conversation) shares() bool { return c.key != nil && c.parts.Shares != nil }

func (c *conversation) beginShares(now time.Time) {
	if c.shares() {
		c.sharing.pace = c.newPace()
		c.sharing.at = now
	}
}

func (s *sharing) due(now time.Time) bool {
	return !s.at.IsZero() && !now.Before(s.at) && len(s.wants) == 0
}

// sharesSoon has the box look soon at what it wants.
func (c *conversation) sharesSoon(now time.Time) {
	s := &c.sharing
	if s.pace == nil {
		return // looked at when the session begins
	}
	at := now
	if next := s.asked.Add(sharesEvery); next.After(now) {
		at = next
	}
	if s.at.IsZero() || at.Before(s.at) {
		s.at = at
	}
}

// lookForShares finds out what is wanted. It is asked for again while it is, at
// growing pauses: upstream may have nothing now, or may not have heard.
func (c *conversation) lookForShares(ctx context.Context) {
	c.sharing.at = time.Time{}
	c.errand(func() func(time.Time) {
		wanted, err := c.parts.Shares.Wanted(ctx)
		return func(now time.Time) {
			s := &c.sharing
			switch {
			case err != nil && ctx.Err() == nil:
				c.logger.Warn("which keys are low cannot be read", "err", err)
				s.next(now.Add(c.rest()))
			case len(wanted) == 0:
				s.pace.Reset()
			default:
				s.ask(wanted)
				s.next(now.Add(s.pace.Next()))
			}
		}
	})
}

// next looks again then, or sooner where that is to be.
func (s *sharing) next(at time.Time) {
	if s.at.IsZero() || at.Before(s.at) {
		s.at = at
	}
}

func (s *sharing) ask(wanted []edgeclaim.Share) {
	for i := range wanted[:min(len(wanted), sharesAtOnce)] {
		one := &wanted[i]
		s.wants = append(s.wants, wire.ShareWant{Key: one.Key, Granted: one.Granted, Claims: one.Claims, Want: shareWanted})
	}
}

// sayShares asks for the first of what is wanted, as many as a message names.
func (c *conversation) sayShares(now time.Time) error {
	s := &c.sharing
	n := min(len(s.wants), wire.MaxShares)
	m := &wire.SharesWant{Type: wire.TypeShares, Box: c.identity.Box, Epoch: c.epoch, Nonce: c.nonce, Wants: s.wants[:n]}
	s.asked = now
	if s.wants = s.wants[n:]; len(s.wants) == 0 {
		s.wants = nil
	}
	return c.say(wire.KindControl, m)
}

// takeShares has the box keep what was granted. What it cannot keep now it asks
// for again.
func (c *conversation) takeShares(ctx context.Context) {
	grants := c.sharing.grants
	c.sharing.grants = nil
	c.errand(func() func(time.Time) {
		err := c.parts.Shares.Share(ctx, grants)
		return func(time.Time) {
			if err != nil && ctx.Err() == nil {
				c.logger.Warn("shares of keys from upstream were not taken; they are asked for again", "err", err)
			}
		}
	})
}

// adjudge has the box put verdicts into force. What it cannot now, upstream says
// again.
func (c *conversation) adjudge(ctx context.Context) {
	verdicts := c.verdicts
	c.verdicts = nil
	c.errand(func() func(time.Time) {
		failed := 0
		var last error
		for i := range verdicts {
			if err := c.parts.Verdicts.Adjudge(ctx, verdicts[i]); err != nil {
				failed++
				last = err
			}
		}
		return func(time.Time) {
			if failed > 0 && ctx.Err() == nil {
				c.logger.Warn("verdicts of upstream were not all taken; it says them again", "failed", failed, "err", last)
			}
		}
	})
}

// hearRuled takes what came of documents, shares and verdicts.
func (c *conversation) hearRuled(l *letter, now time.Time) {
	for _, o := range l.offers {
		c.hearOffers(o, now)
	}
	if l.part != nil {
		c.hearPart(l.part)
	}
	if s := &c.sharing; c.shares() && len(s.grants) < maxGrants {
		s.grants = append(s.grants, l.grants...)
	}
	if c.key != nil && c.parts.Verdicts != nil && len(c.verdicts) < maxVerdicts {
		c.verdicts = append(c.verdicts, l.verdicts...)
	}
}
