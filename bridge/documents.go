package bridge

import (
	"context"
	"errors"
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/backoff"
)

const (
	// confirmEvery is how long no list may come before upstream is asked for it:
	// what nobody confirms grows old. Upstream says it more often by itself.
	confirmEvery = 2 * time.Hour
	// maxPages is how many pages a list of documents has at most, and how many of
	// them wait to be read.
	maxPages = 64
	// formerLists is how many lists are remembered whose pages are late.
	formerLists = 8
	// maxRefused is how many offers are remembered that were refused.
	maxRefused = 2 * edgeclaim.MaxDocuments
)

// fetching is the taking of documents in a session: a list of offers is put
// together from its pages, confirmed, and what is wanted of it asked for, part
// after part. One text is put together at a time.
type fetching struct {
	list   string                               // the one whose pages come
	pages  map[uint64][]edgeclaim.DocumentOffer // of it, by their number; nil: it came wholly
	last   uint64                               // the number of its last page; 0 while nobody knows
	former []string                             // lists before it
	// asked is when the list is asked for again; pace by what pauses.
	asked time.Time
	pace  *backoff.Backoff

	offers []edgeclaim.DocumentOffer // a whole list, to be confirmed; nil for none
	wanted []edgeclaim.DocumentOffer // to be fetched, in order
	// refused are those that were not taken: they are not wanted again.
	refused map[edgeclaim.DocumentOffer]bool

	text    []byte    // of the first that is wanted, so far
	next    uint64    // the part of it that is to come; 0: none was asked for
	again   time.Time // that part is asked for then, again or at last
	parts   *backoff.Backoff
	resting time.Time // nothing is taken or confirmed before
}

// takes reports whether the box takes documents in this session: only from
// upstream that it knows by its key.
func (c *conversation) takes() bool { return c.key != nil && c.parts.Documents != nil }

// beginDocuments expects the list that follows a welcome.
func (c *conversation) beginDocuments(now time.Time) {
	f := &c.fetching
	if !c.takes() {
		return
	}
	f.pages, f.refused = map[uint64][]edgeclaim.DocumentOffer{}, map[edgeclaim.DocumentOffer]bool{}
	f.pace, f.parts = c.newPace(), c.newPace()
	f.asked = now.Add(f.pace.Next())
	c.report = now
}

// newPace paces what is asked again while nobody answers. The configuration has
// been validated, so that there is no error.
func (c *conversation) newPace() *backoff.Backoff {
	pace, _ := backoff.New(c.conf.WelcomeTimeout, c.conf.ProbeLimit, nil)
	return pace
}

// hearOffers takes a page of a list.
func (c *conversation) hearOffers(o *wire.Offers, now time.Time) {
	f := &c.fetching
	if !c.takes() || slices.Contains(f.former, o.List) {
		return
	}
	if o.List != f.list {
		f.begin(o.List)
	}
	if f.pages == nil {
		return // it came wholly before
	}
	known := make([]edgeclaim.DocumentOffer, 0, len(o.Documents))
	for i := range o.Documents {
		if slices.Contains(edgeclaim.DocumentTypes(), o.Documents[i].Type) {
			known = append(known, o.Documents[i])
		}
	}
	f.pages[o.Page] = known
	if o.Last {
		f.last = o.Page
	}
	came := f.last > 0 && uint64(len(f.pages)) >= f.last
	if !came && o.Page <= maxPages {
		return
	}
	offers, ok := f.whole()
	f.pages = nil
	if !ok {
		c.alarms.raise(edgeclaim.AlarmMalformed)
		return // it is asked for again
	}
	f.offers = offers
	f.pace.Reset()
	f.asked = now.Add(c.confirmEvery)
}

// begin puts another list together. What comes of the one before is late.
func (f *fetching) begin(list string) {
	if f.list != "" {
		if f.former = append(f.former, f.list); len(f.former) > formerLists {
			f.former = f.former[1:]
		}
	}
	f.list, f.last, f.pages = list, 0, map[uint64][]edgeclaim.DocumentOffer{}
}

// whole is the list of all pages, each document once; it is not ok where the
// pages make none.
func (f *fetching) whole() (offers []edgeclaim.DocumentOffer, ok bool) {
	offers = []edgeclaim.DocumentOffer{}
	seen := map[edgeclaim.DocumentID]bool{}
	if uint64(len(f.pages)) != f.last {
		return nil, false
	}
	for page := range f.last {
		entries, came := f.pages[page+1]
		if !came {
			return nil, false
		}
		for _, o := range entries {
			if seen[o.DocumentID] {
				return nil, false
			}
			seen[o.DocumentID] = true
			offers = append(offers, o)
		}
	}
	return offers, len(offers) <= edgeclaim.MaxDocuments
}

// confirm has the box compare a list with what it holds.
func (c *conversation) confirm(ctx context.Context) {
	f := &c.fetching
	offers := f.offers
	f.offers = nil
	c.errand(func() func(time.Time) {
		wanted, err := c.parts.Documents.Confirm(ctx, offers)
		return func(now time.Time) {
			switch {
			case err == nil:
				f.want(wanted)
				c.report = now
			case ctx.Err() != nil:
			case errors.Is(err, edgeclaim.ErrInvalid):
				c.alarms.raise(edgeclaim.AlarmMalformed)
			default:
				c.logger.Warn("documents that upstream offers cannot be looked at now", "err", err)
				if f.resting = now.Add(c.rest()); f.offers == nil {
					f.offers = offers
				}
			}
		}
	})
}

// want goes for what is wanted. What is on its way already is not begun anew.
func (f *fetching) want(wanted []edgeclaim.DocumentOffer) {
	var before edgeclaim.DocumentOffer
	if len(f.wanted) > 0 {
		before = f.wanted[0]
	}
	f.wanted = nil
	for _, o := range wanted {
		if !f.refused[o] {
			f.wanted = append(f.wanted, o)
		}
	}
	if len(f.wanted) == 0 || f.wanted[0] != before {
		f.restart()
	}
}

// restart begins with the first that is wanted.
func (f *fetching) restart() {
	f.text, f.next, f.again = nil, 0, time.Time{}
	f.parts.Reset()
}

// done goes on to the next that is wanted.
func (f *fetching) done() {
	f.wanted = f.wanted[1:]
	f.restart()
}

// refuse goes on to the next; the first that is wanted is not wanted again in
// this session.
func (f *fetching) refuse() {
	if len(f.refused) >= maxRefused {
		clear(f.refused)
	}
	f.refused[f.wanted[0]] = true
	f.done()
}

// ready reports whether the text of the first that is wanted is here.
func (f *fetching) ready() bool { return len(f.wanted) > 0 && len(f.text) == f.wanted[0].Size }

// hearPart takes a part of a document; one that was not asked for is late.
func (c *conversation) hearPart(p *wire.DocumentPart) {
	f := &c.fetching
	if !c.takes() || len(f.wanted) == 0 || f.next == 0 || p.Part != f.next || f.ready() {
		return
	}
	offer := &f.wanted[0]
	if p.Document != offer.DocumentID || p.Version != offer.Version || p.Hash != offer.Hash {
		return
	}
	data, err := p.Text()
	if size := len(f.text) + len(data); err != nil || p.Parts != wire.Parts(offer.Size) ||
		size > offer.Size || p.Part == p.Parts && size != offer.Size {
		// It is not what was offered. A list that comes later may offer it anew.
		c.alarms.raise(edgeclaim.AlarmMalformed)
		f.refuse()
		return
	}
	if f.text == nil {
		f.text = make([]byte, 0, offer.Size)
	}
	f.text = append(f.text, data...)
	f.next++
	f.again = time.Time{}
	f.parts.Reset()
}

// take has the box apply the text that is here.
func (c *conversation) take(ctx context.Context) {
	f := &c.fetching
	offer, text, from := f.wanted[0], f.text, c.upstream
	c.errand(func() func(time.Time) {
		state, err := c.parts.Documents.Take(ctx, text, from)
		return func(now time.Time) {
			c.taken(ctx, &offer, &state, err, now)
		}
	})
}

// taken goes on behind a document.
func (c *conversation) taken(ctx context.Context, offer *edgeclaim.DocumentOffer, state *edgeclaim.DocumentState, err error, now time.Time) {
	f := &c.fetching
	var refused *edgeclaim.DocumentError
	switch {
	case err == nil && (state.Version != offer.Version || state.Hash != offer.Hash):
		// It was good, but not what was offered: to ask again would not help.
		c.alarms.raise(edgeclaim.AlarmMalformed)
		f.refuse()
	case err == nil && offer.Type == edgeclaim.DocumentSigner:
		// What was refused may have been signed by this one, and there may be
		// another behind it.
		f.wanted = nil
		f.restart()
		clear(f.refused)
		f.asked, c.report = now, now // the report first: it says behind which
		return
	case err == nil:
		f.done()
	case errors.As(err, &refused) && refused.Reason == edgeclaim.DocumentUnenrolled:
		f.wanted = nil // nor any other
		f.restart()
	case errors.Is(err, edgeclaim.ErrInvalid):
		f.refuse()
	case ctx.Err() == nil:
		c.logger.Warn("a document from upstream cannot be taken now", "document", offer.String(), "err", err)
		f.resting = now.Add(c.rest())
		return
	}
	c.reportSoon(now)
}

// nextErrand has the box do the next of what waits: documents before verdicts,
// and both before shares.
func (c *conversation) nextErrand(ctx context.Context, now time.Time) {
	f := &c.fetching
	rested := !now.Before(f.resting)
	switch {
	case c.errands.out:
	case f.offers != nil && rested:
		c.confirm(ctx)
	case f.ready() && rested:
		c.take(ctx)
	case len(c.verdicts) > 0:
		c.adjudge(ctx)
	case len(c.sharing.grants) > 0:
		c.takeShares(ctx)
	case c.sharing.due(now):
		c.lookForShares(ctx)
	}
}

// tellDocuments says the next of what the box has to say and to ask about
// documents and shares: one message, or one report.
func (c *conversation) tellDocuments(now time.Time) (bool, error) {
	f := &c.fetching
	switch {
	case !c.report.IsZero() && !now.Before(c.report):
		return true, c.sayReport(now)
	case !f.asked.IsZero() && !now.Before(f.asked):
		f.asked = now.Add(f.pace.Next())
		return true, c.say(wire.KindControl, &wire.Want{
			Type: wire.TypeWant, Box: c.identity.Box, Epoch: c.epoch, Nonce: c.nonce, What: wire.WantOffers,
		})
	case len(f.wanted) > 0 && !f.ready() && !now.Before(f.again):
		return c.wantPart(now)
	case len(c.sharing.wants) > 0:
		return true, c.sayShares(now)
	}
	return false, nil
}

// wantPart asks for the next part of the first that is wanted.
func (c *conversation) wantPart(now time.Time) (bool, error) {
	f := &c.fetching
	offer := &f.wanted[0]
	if offer.Size > wire.MaxDocumentText {
		c.alarms.raise(edgeclaim.AlarmDocumentRefused)
		c.logger.Warn("a document from upstream is larger than one may be", "document", offer.String(), "bytes", offer.Size)
		f.refuse()
		return true, nil
	}
	f.next = max(f.next, 1)
	f.again = now.Add(f.parts.Next())
	return true, c.say(wire.KindControl, &wire.Want{
		Type: wire.TypeWant, Box: c.identity.Box, Epoch: c.epoch, Nonce: c.nonce, What: wire.WantDocument,
		Document: offer.DocumentID, Version: offer.Version, Hash: offer.Hash, Part: f.next,
	})
}

// restore notes that the box may have lost what it told: no document counts as
// confirmed until upstream says so.
func (c *conversation) restore(ctx context.Context) {
	if c.parts.Restored == nil {
		return
	}
	if err := c.parts.Restored(ctx); err != nil && ctx.Err() == nil {
		c.logger.Error("documents count as confirmed that may be old", "err", err)
	}
}
