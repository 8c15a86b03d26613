package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

const (
	// lively is how many batches may be on their way for another to be sent
	// that could be larger. Below, a lone claim does not wait; above, records
	// gather into full messages.
	lively = 4
	// roomShare is the part of the window that has to be free for a batch to
	// be cut short by it, so that acks in small steps do not make for small
	// batches.
	roomShare = 4
)

// limit is how many records may be on their way.
func (c *conversation) limit() int { return min(c.credit, c.conf.Window) }

// tell sends what may be sent: LaneProv, what is to be said of documents, the
// registry when it was asked for, the other lanes, each before the next.
func (c *conversation) tell(ctx context.Context, now time.Time) error {
	for {
		sent, err := c.tellOne(ctx, now)
		if err != nil || !sent {
			return err
		}
		if c.stopped() {
			return nil
		}
	}
}

// stopped reports whether the connection has ended.
func (c *conversation) stopped() bool {
	select {
	case <-c.conn.Done():
		return true
	default:
		return false
	}
}

// tellOne sends one message, of what comes first. What is said of documents is
// no record: it needs no credit, and does not wait where LaneProv does.
func (c *conversation) tellOne(ctx context.Context, now time.Time) (bool, error) {
	waits := c.limit() == 0
	if !waits {
		sent, pending, err := c.tellLane(ctx, c.lanes[0], now)
		if sent || err != nil {
			return sent, err
		}
		waits = pending
	}
	if sent, err := c.tellDocuments(now); sent || err != nil {
		return sent, err
	}
	// What goes first goes first even while it waits.
	if waits || now.Before(c.spread) {
		return false, nil
	}
	if sent, wait, err := c.tellPage(ctx, now); sent || wait || err != nil {
		return sent, err
	}
	if sent, err := c.tellStates(ctx, now); sent || err != nil {
		return sent, err
	}
	for _, l := range c.lanes[1:] {
		if sent, pending, err := c.tellLane(ctx, l, now); sent || pending || err != nil {
			return sent, err
		}
	}
	return false, nil
}

// tellLane sends the next batch of a lane; pending: there is something to send,
// whether it was sent or waits.
func (c *conversation) tellLane(ctx context.Context, l *lane, now time.Time) (sent, pending bool, err error) {
	if !c.tells(l) {
		return false, false, nil
	}
	if err := c.fill(ctx, l); err != nil || !l.pending() {
		return false, false, err
	}
	sent, err = c.tellBatch(l, now)
	return sent, true, err
}

// fill reads the outbox until a message would be full.
func (c *conversation) fill(ctx context.Context, l *lane) error {
	for l.more && l.bytes < wire.MaxMessage {
		if l.name == edgeclaim.LaneTel && !c.resting.IsZero() {
			return nil
		}
		records, err := c.parts.outbox(l.name).Next(ctx, c.mark(l.name, l.read), c.conf.ReadBatch)
		if err != nil {
			return c.unread(ctx, l, err)
		}
		if len(records) == 0 {
			return c.end(ctx, l)
		}
		p := preparing{names: c.names, epoch: c.epoch, parts: &c.parts}
		parked, err := p.add(ctx, l, records)
		if err != nil {
			return fault(err)
		}
		if parked {
			c.alarms.raise(edgeclaim.AlarmQuarantine)
		}
	}
	return nil
}

// preparing makes records ready to be told.
type preparing struct {
	names wire.Names
	epoch string
	parts *Parts
}

// add encodes records into a lane. One that no message can carry is parked:
// upstream could never take it. What was read behind it may be parked with it,
// and has to be read again. Of telemetry, a gap record takes its place.
func (p *preparing) add(ctx context.Context, l *lane, records []edgeclaim.Record) (parked bool, err error) {
	for i := range records {
		r := &records[i]
		text, err := wire.EncodeEvent(p.names, p.epoch, r)
		if err != nil {
			return false, err
		}
		if fits := len(text)+1+wire.BatchOverhead <= wire.MaxMessage; !fits && l.name == edgeclaim.LaneTel {
			if text, err = p.lost(r); err != nil {
				return false, err
			}
			parked = true
		} else if !fits {
			at := edgeclaim.Mark{Epoch: p.epoch, Lane: l.name, Upto: r.Sequence}
			if err := p.parts.Quarantine.Park(ctx, at, "larger than a message may be"); err != nil && !errors.Is(err, edgeclaim.ErrNotFound) {
				return false, err
			}
			l.read, l.more = r.Sequence, true
			return true, nil
		}
		l.add(r.Sequence, text)
	}
	return parked, nil
}

// lost is the gap record in the place of a point that no message can carry: one
// such point is no reason to take no more of its device.
func (p *preparing) lost(r *edgeclaim.Record) ([]byte, error) {
	return wire.EncodeEvent(p.names, p.epoch, &edgeclaim.Record{
		Lane: r.Lane, Sequence: r.Sequence, Type: edgeclaim.TypeGap, Device: r.Device, Stamp: r.Stamp,
		Data: fmt.Appendf(nil, `{"lane":%q,"from":%d,"to":%d,"count":1,"reason":"too_large","epoch":%q}`,
			r.Lane, r.Sequence, r.Sequence, p.epoch),
	})
}

// end notes that the outbox has no more, and what at its end will not come:
// upstream's mark has to move over that too.
func (c *conversation) end(ctx context.Context, l *lane) error {
	l.more = false
	epoch, _, marks, err := c.parts.outbox(l.name).Marks(ctx)
	if err == nil && epoch != c.epoch {
		err = edgeclaim.ErrConflict
	}
	if err != nil {
		return c.unread(ctx, l, err)
	}
	appended := marks[l.name].Appended
	if appended <= max(l.read, l.sent) {
		return nil
	}
	// Once more: records may have come between the two.
	records, err := c.parts.outbox(l.name).Next(ctx, c.mark(l.name, l.read), 1)
	if err != nil {
		return c.unread(ctx, l, err)
	}
	if len(records) > 0 {
		l.more = true
		return nil
	}
	l.gone = appended
	return nil
}

// tellBatch sends the next batch of a lane, unless it is better to wait.
func (c *conversation) tellBatch(l *lane, now time.Time) (bool, error) {
	if now.Before(l.paused) || l.flying >= c.conf.Window*placeBytes {
		return false, nil
	}
	limit := c.limit()
	if l.name == edgeclaim.LaneTel {
		limit = forTelemetry(limit)
	}
	n, whole := 0, false
	if len(l.ready) > 0 {
		room := limit - c.inFlight
		n, whole = l.fits(room)
		short := n == room && n < len(l.ready) && room < limit/roomShare
		if n <= 0 || short && c.inFlight > 0 {
			return false, nil
		}
	}
	if !whole && c.batches(l) >= lively {
		return false, nil
	}
	b := l.take(n)
	b.Box, b.Epoch, b.Nonce = c.identity.Box, c.epoch, c.nonce
	payload, err := wire.EncodeBatch(c.names, &b)
	if err != nil {
		return false, err
	}
	c.inFlight += n
	l.await(now)
	// Before it is sent: its ack may come at once.
	c.sent.note(l.name, b.Last)
	return true, c.publish(string(l.name), payload)
}

// batches counts what is on its way of a lane and those that go before it: of
// what comes behind it there may be any number, and a lone claim does not wait
// for it.
func (c *conversation) batches(of *lane) int {
	n := 0
	for _, l := range c.lanes {
		n += len(l.flight)
		if l == of {
			break
		}
	}
	return n
}

// acknowledge takes upstream's word that it has a lane up to there.
func (c *conversation) acknowledge(name edgeclaim.Lane, upto uint64, now time.Time) {
	l := c.lane(name)
	if l == nil || upto <= l.acked {
		return
	}
	mark := c.mark(name, upto)
	var records int
	records, mark.Check = l.reach(upto)
	c.inFlight -= records
	c.ledger.put(c.generation, mark, records)
	c.putOff = time.Time{}
	l.progressed(now)
}

// hearNack sends a lane back.
func (c *conversation) hearNack(ctx context.Context, n *wire.Nack, now time.Time) error {
	l := c.lane(n.Lane)
	if l == nil || len(l.flight) == 0 || n.Sequence > l.sent {
		return nil // it went back already, or has nothing to go back for
	}
	// Below what is acknowledged nothing can be wrong: the word is late.
	at := max(n.Sequence, l.acked+1)
	switch n.Code {
	case wire.NackPermanent:
		if n.Sequence <= l.acked {
			return nil
		}
		if err := c.park(ctx, l, n.Sequence, reason(n.Reason)); err != nil {
			return err
		}
	case wire.NackRetry:
		wait := time.Duration(min(max(n.RetryAfter, turnLeast.Milliseconds()), retryMost.Milliseconds())) * time.Millisecond
		l.pause(now.Add(wait))
		if c.putOff.IsZero() {
			c.putOff = now
		}
		c.putOffBy = reason(n.Reason)
	case wire.NackGap:
	default:
		// A kind of a later version: to go back is right whatever it is.
	}
	c.inFlight -= l.back(at, now)
	l.progressed(now)
	return nil
}

// park takes a record out of its lane, with all later ones of its device.
func (c *conversation) park(ctx context.Context, l *lane, sequence uint64, why string) error {
	err := c.parts.refuse(ctx, c.mark(l.name, sequence), why)
	switch {
	case err == nil:
		c.alarms.raise(edgeclaim.AlarmQuarantine)
	case errors.Is(err, edgeclaim.ErrNotFound):
		// Parked by an earlier word, or dropped meanwhile.
	default:
		return c.unread(ctx, l, err)
	}
	return nil
}

// reason is upstream's text as it may be kept.
func reason(text string) string {
	if len(text) > wire.MaxReason {
		text = text[:wire.MaxReason]
	}
	return strings.ToValidUTF8(text, "")
}
