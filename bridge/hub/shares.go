package hub

import (
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

const (
	// sharesATick is how many boxes at most are told of their shares in one tick.
	sharesATick = 100
	// sharesEvery is how often a box is told of its shares as they stand: what was
	// said before may have been lost, and one that heard that there is no more
	// asks no more.
	sharesEvery = time.Hour
)

// sharing is how a session stands to shares of keys.
type sharing struct {
	takes bool // its box honours shares: it said so, and only what is signed
	isDue bool // it is to be told of what it was granted
	next  time.Time
}

// tellShares tells boxes of what they were granted, as it stands: at the begin of
// a session, for one that was restored has forgotten it; and when there may be
// more to give.
func (a *applier) tellShares(ctx context.Context, now time.Time) {
	told := 0
	for _, s := range a.sessions.byBox {
		if told == sharesATick || ctx.Err() != nil || a.health.wait(nil, now) > 0 {
			return
		}
		if !s.welcomed || !s.shares.takes || !s.shares.isDue && now.Before(s.shares.next) {
			continue
		}
		told++
		s.shares.isDue, s.shares.next = false, now.Add(spread(sharesEvery))
		if err := a.tellSharesOf(ctx, s); err != nil {
			s.shares.next = now.Add(a.conf.RetryLimit)
			a.logger.Error("shares could not be read", "box_id", s.names.Box, "err", err, "retry_in", a.conf.RetryLimit)
			return
		}
	}
}

func (a *applier) tellSharesOf(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, a.conf.ApplyTimeout)
	defer cancel()
	var after edgeclaim.KeyID
	for {
		grants, more, err := a.db.SharesFor(ctx, s.names, after, wire.MaxShares)
		if err != nil {
			return err
		}
		if len(grants) > 0 && !a.sayShares(s, grants) {
			s.shares.next = time.Now().Add(offerPause)
			return nil
		}
		if after = more; more.IsZero() {
			return nil
		}
	}
}

// sayShares tells a box what it may make.
func (a *applier) sayShares(s *session, grants []edgeclaim.ShareGrant) bool {
	a.figures.count(func(f *Figures) { f.Shares += uint64(len(grants)) })
	return a.say(s.names, wire.KindControl, &wire.Shares{Head: a.head(wire.TypeShares, s.names, s.epoch, s.nonce), Shares: grants})
}
