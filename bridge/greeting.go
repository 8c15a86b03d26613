package bridge

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// startMost is the longest that upstream may make a box wait with what is not
// LaneProv: no word of anybody's stops a lane for good.
const startMost = time.Hour

// helloEvery is the least time between two hellos.
func (c *conversation) helloEvery() time.Duration {
	return min(time.Second, c.conf.WelcomeTimeout/10)
}

// ask begins a new session on this connection: nothing is told until it is
// welcomed. What was on its way is told again then.
func (c *conversation) ask(now time.Time) {
	c.quiet(asking)
	c.nonce = newNonce()
	c.inbox.begin(c.nonce)
	c.pace.Reset()
	c.helloAt = time.Time{}
	c.sooner(now)
	c.lamps.app(edgeclaim.LampDown, "")
}

// quiet ends the telling: what is on its way counts for nothing.
func (c *conversation) quiet(next phase) {
	c.leave()
	c.phase, c.unheard = next, 0
	c.returned, c.gone, c.putOff = time.Time{}, false, time.Time{}
	c.inFlight, c.progress, c.want = 0, time.Time{}, want{}
	c.knowing, c.stating = false, stating{more: true}
	c.term++
	c.fetching, c.sharing, c.verdicts = fetching{}, sharing{}, nil
	c.report, c.reported = time.Time{}, time.Time{}
	for _, l := range c.lanes {
		l.begin(l.acked)
	}
	if c.snapshot != nil {
		c.snapshot.sent = 0
	}
}

// hello says who the box is and where it stands, and when it is said again.
func (c *conversation) hello(ctx context.Context, now time.Time) error {
	epoch, previous, marks, err := c.parts.Outbox.Marks(ctx)
	if err != nil {
		return fault(err)
	}
	if epoch != c.epoch {
		return errRenewed
	}
	devices, err := c.parts.Registry.Count(ctx)
	if err != nil {
		return fault(err)
	}
	c.previous, c.marks, c.resting = previous, marks, time.Time{}
	if c.parts.Telemetry != nil && !c.beginTelemetry(ctx) {
		c.resting = now.Add(c.rest())
	}
	stamp := c.parts.Clock.Stamp()
	err = c.say(wire.KindControl, &wire.Hello{
		Type: wire.TypeHello, Versions: []int{wire.Version},
		Box: c.identity.Box, Site: c.identity.Site, Program: c.identity.Version,
		Epoch: c.epoch, Previous: previous, Nonce: c.nonce,
		Upstream: c.upstream, Enrolled: c.key != nil,
		Lanes: marks, Devices: devices, Time: stamp.Time.UTC(), Clock: stamp.Clock,
		Documents: c.stated(), Shares: c.shares(),
	})
	if err != nil {
		return err
	}
	wait := c.conf.WelcomeTimeout
	switch {
	case c.phase == refused:
		wait = c.probe()
	case c.unheard > 0:
		wait = c.pace.Next()
		c.lamps.app(edgeclaim.LampDown, "connected, but no application answers")
	}
	c.unheard++
	c.greeted, c.helloAt = now, now.Add(wait)
	return nil
}

// probe is how long a refused box waits before it asks again.
func (c *conversation) probe() time.Duration {
	half := c.conf.ProbeLimit / 2
	return half + rand.N(half+1) //nolint:gosec // spreads boxes out, hides nothing
}

// sooner says the next hello at once, or as soon as one may be said again.
func (c *conversation) sooner(now time.Time) {
	at := now
	if next := c.greeted.Add(c.helloEvery()); !c.greeted.IsZero() && next.After(now) {
		at = next
	}
	if c.helloAt.IsZero() || at.Before(c.helloAt) {
		c.helloAt = at
	}
}

// hearHost takes the unsigned word that an application came or goes: nothing
// follows from it but a hello, or a lamp. Anybody may say such a thing as often
// as he likes, so that a welcomed box asks again once in Config.WelcomeTimeout
// at most; but it does ask, for who came may not be who welcomed it.
func (c *conversation) hearHost(h *wire.Host, now time.Time) {
	if c.gone = h.Status != wire.Online; c.gone {
		return
	}
	if h.Instance != c.instance {
		c.instance = h.Instance
		c.returned = c.greeted.Add(c.conf.WelcomeTimeout)
	}
	if c.phase != welcomed {
		c.sooner(now)
	}
}

// hearAgain takes the word that upstream does not know this session.
func (c *conversation) hearAgain(now time.Time) {
	if c.phase == asking {
		c.sooner(now)
		return
	}
	c.ask(now)
}

// hearWelcome begins to tell. A second welcome to one session, after a hello
// that was said twice, acknowledges and does no more: it may be older than
// what was told since.
func (c *conversation) hearWelcome(ctx context.Context, w *wire.Welcome, now time.Time) error {
	if w.Version != wire.Version {
		c.refuse(edgeclaim.AlarmNotWelcome, "the application speaks another version of the protocol", now)
		return nil
	}
	if c.phase == welcomed {
		for name, resume := range w.Resume {
			if l := c.lane(name); l != nil && c.tells(l) && resume.Upto <= l.sent {
				c.acknowledge(name, resume.Upto, now)
			}
		}
		return nil
	}
	_, c.knowing = w.Resume[edgeclaim.LaneTel]
	stale, err := c.contradicted(ctx, w.Resume)
	switch {
	case err != nil:
		return err
	case stale:
		return c.renew(ctx, now)
	}
	c.phase, c.unheard, c.helloAt, c.gone = welcomed, 0, time.Time{}, false
	c.credit = max(0, w.Credit)
	for _, l := range c.lanes {
		if c.tells(l) {
			c.resume(l, w.Resume[l.name])
		}
	}
	c.upstream = name(w.Upstream)
	c.lamps.welcomed(c.upstream)
	c.lamps.app(edgeclaim.LampUp, "")
	c.hold(time.Duration(min(max(0, w.StartAfter), startMost.Milliseconds()))*time.Millisecond, now)
	c.beginSnapshot(w.Snapshot)
	if w.Recover && !c.recovering {
		c.recovering = true
		c.restore(ctx)
	}
	c.beginDocuments(now)
	c.beginShares(now)
	c.logger.Info("application welcomed the box",
		"upstream_id", c.upstream, "credit", c.credit, "snapshot", w.Snapshot, "telemetry", c.knowing)
	return nil
}

// resume puts a lane behind what upstream has.
func (c *conversation) resume(l *lane, r wire.Resume) {
	if r.Upto < max(l.acked, c.cursor[l.name], c.marks[l.name].Check.Sequence) {
		// It had acknowledged more. What the box has forgotten is lost there;
		// the application asks for the registry, and notes the hole.
		c.alarms.raise(edgeclaim.AlarmUpstreamBehind)
	}
	l.begin(r.Upto)
	c.sent.note(l.name, r.Upto)
	mark := c.mark(l.name, r.Upto)
	if r.Check.Sequence == r.Upto {
		mark.Check = r.Check
	}
	c.ledger.put(c.generation, mark, flushCount)
}

// contradicted reports whether upstream has of this epoch what the box has
// not: then the box is an old copy of itself, whatever its counters say.
func (c *conversation) contradicted(ctx context.Context, resume map[edgeclaim.Lane]wire.Resume) (bool, error) {
	for _, l := range c.lanes {
		if !c.tells(l) {
			continue
		}
		r, marks := resume[l.name], c.marks[l.name]
		if r.Upto > marks.Appended || r.Check.Contradicts(marks.Check) {
			return true, nil
		}
		if at := r.Check.Sequence; at == 0 || at < marks.First || at > marks.Appended {
			continue
		}
		own, err := c.check(ctx, l.name, r.Check.Sequence)
		if err != nil {
			return false, err
		}
		if r.Check.Contradicts(own) {
			return true, nil
		}
	}
	return false, nil
}

// check names the box's own record of a sequence; zero when it has none.
func (c *conversation) check(ctx context.Context, lane edgeclaim.Lane, sequence uint64) (edgeclaim.Check, error) {
	records, err := c.parts.outbox(lane).Next(ctx, c.mark(lane, sequence-1), 1)
	switch {
	case err != nil && lane == edgeclaim.LaneTel:
		return edgeclaim.Check{}, c.unread(ctx, c.lane(lane), err)
	case err != nil:
		return edgeclaim.Check{}, fault(err)
	case len(records) == 0 || records[0].Sequence != sequence:
		return edgeclaim.Check{}, nil
	case lane == edgeclaim.LaneTel && records[0].Type == edgeclaim.TypeGap:
		// It may have taken the place of the record that upstream has.
		return edgeclaim.Check{}, nil
	}
	text, err := wire.EncodeEvent(c.names, c.epoch, &records[0])
	if err != nil {
		return edgeclaim.Check{}, err
	}
	event, err := wire.DecodeEvent(text)
	if err != nil {
		return edgeclaim.Check{}, err
	}
	return event.Check()
}

// hearRefused stops telling.
func (c *conversation) hearRefused(ctx context.Context, r *wire.Refused, now time.Time) error {
	switch r.Code {
	case wire.RefusedStale:
		return c.renew(ctx, now)
	case wire.RefusedFenced:
		c.refuse(edgeclaim.AlarmFenced, "another box holds this one's identity (fenced); an operator decides: outbox renew", now)
	case wire.RefusedVersion:
		c.refuse(edgeclaim.AlarmNotWelcome, "the application speaks another version of the protocol", now)
	case wire.RefusedUnknown:
		c.refuse(edgeclaim.AlarmNotWelcome, "the application does not take this box", now)
	default:
		c.refuse(edgeclaim.AlarmNotWelcome, "the application refused the box", now)
	}
	return nil
}

// refuse stops telling, and asks again much later.
func (c *conversation) refuse(kind edgeclaim.Alarm, why string, now time.Time) {
	c.alarms.raise(kind)
	c.quiet(refused)
	c.helloAt = now.Add(c.probe())
	c.lamps.app(edgeclaim.LampDown, why)
}

// renew begins another life of the outbox, for this one is an old copy: what is
// pending is told under new sequences, in a new connection. It does so at most
// once in Config.ProbeLimit, whatever upstream says.
func (c *conversation) renew(ctx context.Context, now time.Time) error {
	c.alarms.raise(edgeclaim.AlarmStale)
	if !c.renewed.IsZero() && now.Sub(c.renewed) < c.conf.ProbeLimit {
		c.refuse(edgeclaim.AlarmNotWelcome, "the application calls the box an old copy of itself again and again", now)
		return nil
	}
	epoch, err := c.parts.Life.Renew(ctx)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		return fault(err)
	}
	c.renewed, c.recovering = now, true
	c.restore(ctx)
	c.logger.Warn("the outbox was an old copy of itself and begins a new life", "former_epoch", c.epoch, "epoch", epoch)
	return errRenewed
}

// hold is how long everything but LaneProv waits after an outage, so that a
// site's boxes do not all tell at once; a start may be the end of one.
func (c *conversation) hold(asked time.Duration, now time.Time) {
	if c.alive.IsZero() || now.Sub(c.alive) > c.conf.SpreadAfter {
		c.spread = now
		if c.conf.StartSpread > 0 {
			c.spread = now.Add(rand.N(c.conf.StartSpread)) //nolint:gosec // spreads boxes out, hides nothing
		}
	}
	c.alive = now
	if until := now.Add(asked); until.After(c.spread) {
		c.spread = until
	}
}

// name is upstream's id as it may be shown and said again.
func name(text string) string {
	if len(text) > wire.MaxLevel || strings.ContainsFunc(text, func(r rune) bool { return r < '!' || r > '~' }) {
		return ""
	}
	return text
}
