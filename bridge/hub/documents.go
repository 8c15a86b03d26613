package hub

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

const (
	// documentsEvery is how often the registry is asked whether anything was
	// published, or is to be shared out again.
	documentsEvery = 500 * time.Millisecond
	// offersATick is how many boxes at most are offered documents in one tick:
	// 10,000 hear of a document within seconds, and nothing waits for them.
	offersATick = 500
	// offerAgain is how long a box is given to say that it has what it was offered
	// before it is offered it again, twice as long each time, up to offerLimit.
	offerAgain = 10 * time.Second
	offerLimit = 10 * time.Minute
	// confirmEvery is how often a box that has all is told so: its documents grow
	// old while nobody does (P10).
	confirmEvery = time.Hour
	// offerPause is the shortest time between two offers to one box, whatever it
	// asks for.
	offerPause = time.Second
	// documentFlight is how many messages down may wait for their PUBACK before
	// documents wait: a part is a hundred times as long as an ack, and is asked
	// for again.
	documentFlight = 256
)

// documents is what the applier knows of what is published. Nothing in it is
// needed: it is read again.
type documents struct {
	next      time.Time            // when the registry is asked again
	catalogue *registry.Catalogue  // nil until it was read
	known     registry.Generations // as of next
}

// offering is how a session stands to what is published.
type offering struct {
	takes bool // its box takes documents: it said so, and only what is signed
	// signer is the highest that the box has said in this session; messages may
	// come late.
	signer registry.HeldSigner

	generation int64     // of the catalogue that was offered last
	at         time.Time // when; zero: nothing was
	next       time.Time // when it is offered again
	pause      time.Duration
}

// tellDocuments looks whether something is another, and offers what is due.
func (a *applier) tellDocuments(ctx context.Context, now time.Time) {
	if a.health.wait(nil, now) > 0 {
		return
	}
	if !now.Before(a.documents.next) {
		a.documents.next = now.Add(documentsEvery)
		if err := a.lookUp(ctx); err != nil {
			a.documents.next = time.Now().Add(a.conf.RetryLimit)
			a.logger.Error("what is published could not be read", "err", err, "retry_in", a.conf.RetryLimit)
			return
		}
	}
	if a.documents.catalogue == nil {
		return
	}
	offered := 0
	for _, s := range a.sessions.byBox {
		if offered == offersATick || ctx.Err() != nil {
			return
		}
		if s.isDue(a.documents.catalogue, now) {
			a.offer(s, now)
			offered++
		}
	}
}

// lookUp reads what is published where it is another, and notes who is to hear
// of shares.
func (a *applier) lookUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.conf.ApplyTimeout)
	defer cancel()
	now, err := a.db.Generations(ctx)
	if err != nil {
		return err
	}
	if a.documents.catalogue == nil || a.documents.catalogue.Generation != now.Documents {
		if a.documents.catalogue, err = a.db.Catalogue(ctx); err != nil {
			return err
		}
	}
	if a.documents.known.Shares != now.Shares {
		for _, s := range a.sessions.byBox {
			s.shares.isDue = s.shares.takes
		}
	}
	a.documents.known = now
	return nil
}

// isDue reports whether a box is to be offered documents now.
func (s *session) isDue(c *registry.Catalogue, now time.Time) bool {
	o := &s.offering
	if !s.welcomed || !o.takes || now.Sub(o.at) < offerPause {
		return false
	}
	return o.at.IsZero() || o.generation != c.Generation || !now.Before(o.next)
}

// offer tells a box the whole list of what is for it.
func (a *applier) offer(s *session, now time.Time) {
	o := &s.offering
	offers := a.documents.catalogue.For(s.names, o.signer)
	o.at, o.next = now, now.Add(offerPause)
	list := rand.Text()
	for page := uint64(1); ; page++ {
		n := min(len(offers), wire.MaxOffers)
		message := &wire.Offers{
			Head: a.head(wire.TypeOffers, s.names, s.epoch, s.nonce), List: list, Page: page, Last: n == len(offers),
			Documents: slices.Clip(offers[:n:n]),
		}
		if message.Documents == nil {
			message.Documents = []edgeclaim.DocumentOffer{}
		}
		if !a.say(s.names, wire.KindDocument, message) {
			return // all of it again, soon
		}
		if offers = offers[n:]; message.Last {
			break
		}
	}
	if o.generation != a.documents.catalogue.Generation || o.pause == 0 {
		o.pause = offerAgain
	}
	o.generation, o.next = a.documents.catalogue.Generation, now.Add(spread(o.pause))
	o.pause = min(2*o.pause, offerLimit)
	a.figures.count(func(f *Figures) { f.Offers++ })
}

// heard takes what a box reports of its documents: once it has all, it is only
// told so now and then. A next signer is offered when it has the one before.
func (a *applier) heard(s *session, r *wire.DocumentsReport) {
	o := &s.offering
	a.figures.count(func(f *Figures) { f.Reports++ })
	if !o.takes {
		return
	}
	before := o.signer
	for i := range r.Documents {
		if d := &r.Documents[i]; d.Type == edgeclaim.DocumentSigner {
			o.signer.Version = max(o.signer.Version, d.Version)
			o.signer.Refused = max(o.signer.Refused, d.RefusedVersion)
		}
	}
	now := time.Now()
	switch {
	case o.signer != before:
		o.next = now
	case a.documents.catalogue != nil && o.generation == a.documents.catalogue.Generation && r.Last && a.hasAll(s, r):
		o.next, o.pause = now.Add(spread(confirmEvery)), offerAgain
	}
}

// hasAll reports whether the box has taken or refused all that it is offered. Of
// a report in several pages the last one speaks for all.
func (a *applier) hasAll(s *session, r *wire.DocumentsReport) bool {
	if r.Page > 1 {
		return true
	}
	has := make(map[edgeclaim.DocumentID]*wire.DocumentReport, len(r.Documents))
	for i := range r.Documents {
		has[r.Documents[i].DocumentID] = &r.Documents[i]
	}
	for _, o := range a.documents.catalogue.For(s.names, s.offering.signer) {
		d := has[o.DocumentID]
		if d == nil || (d.Version != o.Version || d.Hash != o.Hash || !d.Confirmed) && (d.Refused == "" || d.RefusedVersion != o.Version) {
			return false
		}
	}
	return true
}

// wantDocument answers a wish for a part of a document; one part of one text is
// in memory. What is not there any more is answered with what is.
func (a *applier) wantDocument(ctx context.Context, s *session, m *wire.Want) {
	if !s.offering.takes || a.out.waiting() >= documentFlight {
		return // the box asks again
	}
	from := int(m.Part-1) * wire.PartBytes //nolint:gosec // wire.Want's check bounds it
	p, text, err := a.db.DocumentPart(ctx, m.Document, m.Version, from, wire.PartBytes)
	switch {
	case errors.Is(err, edgeclaim.ErrNotFound), err == nil && (p.Hash != m.Hash || !p.Fits(s.names)):
		s.offering.next = time.Now()
		return
	case err != nil:
		a.failed(s, err)
		return
	case len(text) == 0:
		return // a part beyond the last one
	}
	a.figures.count(func(f *Figures) { f.Parts++ })
	a.say(s.names, wire.KindDocument, &wire.DocumentPart{
		Head: a.head(wire.TypeDocument, s.names, s.epoch, s.nonce), Document: p.DocumentID, Version: p.Version, Hash: p.Hash,
		Part: m.Part, Parts: wire.Parts(p.Size), Data: base64.RawURLEncoding.EncodeToString(text),
	})
}
