package bridge

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/internal/client"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/backoff"
)

// conversation is a session with an application: AckApp. One goroutine owns
// all of it; what comes down waits in the inbox for it.
type conversation struct {
	*session
	inbox *inbox
	nonce string

	phase    phase
	pace     *backoff.Backoff // of hellos that nobody answers
	helloAt  time.Time        // when hello is said next; zero while welcomed
	greeted  time.Time        // when it was last said
	unheard  int              // hellos since the last answer
	instance string           // of the application, as the host topic last said
	returned time.Time        // when it is asked anew, for another instance came; zero for never
	gone     bool             // it said that it goes, and nothing since
	putOff   time.Time        // since when it has sent records back and taken none; zero for it does not
	putOffBy string           // why, as it said

	lanes    []*lane
	inFlight int       // records on their way
	credit   int       // as the application said
	progress time.Time // since when an answer that is no record's is awaited; zero for none
	// unconfirmed are the messages whose PUBACK has not come, oldest first; those
	// behind the first may have theirs.
	unconfirmed []*client.Delivery

	// knowing: the application knows of telemetry, and of states. One of an
	// earlier version is told of neither.
	knowing bool
	resting time.Time // telemetry could not be read, and is not before; zero: it can be
	stating stating

	errands  errands
	term     uint64 // counts what quiet ended: what an errand began in is over
	fetching fetching
	sharing  sharing
	verdicts []edgeclaim.Verdict // that came, and are not in force yet
	report   time.Time           // documents are reported then; zero for not
	reported time.Time           // when they were last, in this session

	want     want
	looked   time.Time // when the last step began
	stopping bool
}

// phase is how far a conversation has come.
type phase int

const (
	asking   phase = iota // hello was said; nothing else may be
	welcomed              // records may be told
	refused               // hello is said now and then
)

func newConversation(s *session) *conversation {
	c := &conversation{session: s, inbox: newInbox(s), errands: newErrands()}
	for _, name := range s.parts.lanes() {
		c.lanes = append(c.lanes, &lane{name: name})
	}
	return c
}

// run converses until the connection ends, or ctx does and all that was on its
// way is acknowledged.
func (c *conversation) run(ctx context.Context) error {
	pace, err := backoff.New(c.conf.WelcomeTimeout, c.conf.ProbeLimit, nil)
	if err != nil {
		return err
	}
	c.pace = pace
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		_ = c.errands.group.Wait() // of no errors
		c.leave()
	}()
	c.ask(time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	done := ctx.Done() // nil once it has been heard
	came := c.parts.changes()
	for {
		switch err := c.step(ctx); {
		case err == nil:
		case ctx.Err() != nil && errors.Is(err, context.Canceled):
			// The outbox was asked for the next records while the box stops.
			c.stopping, done = true, nil
		default:
			return err
		}
		if c.stopping && !c.awaiting() {
			return nil
		}
		timer.Reset(time.Until(c.due()))
		select {
		case <-c.conn.Done():
			return c.conn.Cause()
		case <-done:
			c.stopping, done = true, nil
		case <-c.inbox.wake:
		case <-c.parts.Outbox.Appended():
			for _, l := range c.lanes {
				l.more = l.more || l.name != edgeclaim.LaneTel
			}
		case <-came.telemetry:
			c.lane(edgeclaim.LaneTel).more = true
		case <-came.states:
			c.stating.more = true
		case <-came.documents:
			c.reportSoon(time.Now())
		case <-came.shares:
			c.sharesSoon(time.Now())
		case then := <-c.errands.done:
			c.finish(then)
		case <-c.reenrolled:
		case <-timer.C:
		}
	}
}

// leave notes for the next connection when this one was last of use.
func (c *conversation) leave() {
	if c.phase == welcomed {
		c.alive = time.Now()
	}
}

// step does everything that can be done now.
func (c *conversation) step(ctx context.Context) error {
	now := time.Now()
	c.looked = now
	if err := c.hear(ctx, now); err != nil {
		return err
	}
	if c.stopping {
		return nil
	}
	if c.phase == welcomed && !c.returned.IsZero() && !now.Before(c.returned) {
		c.ask(now)
	}
	if !c.helloAt.IsZero() && !now.Before(c.helloAt) {
		return c.hello(ctx, now)
	}
	if c.phase != welcomed {
		return nil
	}
	if waits := c.awaited(); !waits.IsZero() && now.Sub(waits) >= c.conf.AckTimeout {
		c.forgetSnapshot()
		return errNoProgress
	}
	if err := c.askForDevices(now); err != nil {
		return err
	}
	if c.phase == welcomed && c.rested(ctx, now) {
		c.ask(now)
		return nil
	}
	c.nextErrand(ctx, now)
	err := c.tell(ctx, now)
	c.show(now)
	return err
}

// show lights the application's lamp while the box is welcomed. It goes out
// when the application said that it goes, and when it has put records off for
// as long as an ack may take.
func (c *conversation) show(now time.Time) {
	switch {
	case c.gone:
		c.lamps.app(edgeclaim.LampDown, "the application said that it goes")
	case !c.putOff.IsZero() && now.Sub(c.putOff) >= c.conf.AckTimeout:
		c.lamps.app(edgeclaim.LampDown, "the application puts records off: "+c.putOffBy)
	default:
		c.lamps.app(edgeclaim.LampUp, "")
		c.lamps.flight(c.inFlight, c.limit())
	}
}

// hear acts on what has come down, unless another key is to be trusted by now
// than what came was judged by.
func (c *conversation) hear(ctx context.Context, now time.Time) error {
	if !c.key.Equal(c.trusted()) {
		return errEnrolled
	}
	l, nonce := c.inbox.read(), c.nonce
	if l.host != nil {
		c.hearHost(l.host, now)
	}
	if l.again {
		c.hearAgain(now)
	}
	if c.nonce != nonce {
		return nil // the rest was said to the session that has just ended
	}
	var err error
	switch m := l.greeting.(type) {
	case *wire.Welcome:
		err = c.hearWelcome(ctx, m, now)
	case *wire.Refused:
		err = c.hearRefused(ctx, m, now)
	}
	if err != nil || c.phase != welcomed {
		return err
	}
	if l.credit != nil || len(l.upto) > 0 || l.snapshot != nil || l.state != nil {
		c.gone = false
	}
	if l.credit != nil {
		c.credit = max(0, *l.credit)
	}
	for _, name := range edgeclaim.Lanes() {
		if upto, ok := l.upto[name]; ok {
			c.acknowledge(name, upto, now)
		}
	}
	if l.snapshot != nil {
		c.hearSnapshot(l.snapshot, now)
	}
	if l.state != nil {
		c.hearState(*l.state)
	}
	for i := range l.nacks {
		if err := c.hearNack(ctx, &l.nacks[i], now); err != nil {
			return err
		}
	}
	if !c.stopping {
		c.hearRuled(&l, now)
		c.hearOrders(ctx, &l)
	}
	if l.page != nil {
		return c.hearPage(ctx, l.page, now)
	}
	return nil
}

// lane returns a lane by its name, nil for one that is not known.
func (c *conversation) lane(name edgeclaim.Lane) *lane {
	for _, l := range c.lanes {
		if l.name == name {
			return l
		}
	}
	return nil
}

// awaiting reports whether an answer is due to something on its way.
func (c *conversation) awaiting() bool {
	for _, l := range c.lanes {
		if len(l.flight) > 0 {
			return true
		}
	}
	return !c.stopping && c.asks()
}

// asks reports whether an answer is due to something that is no record.
func (c *conversation) asks() bool { return c.snapshotInFlight() > 0 || c.want.out }

// awaited is since when upstream has kept silent about something on its way,
// the longest; zero when nothing is. Each lane has its own time: what of one
// was lost is missed by nobody upstream, and the others get on without it.
func (c *conversation) awaited() time.Time {
	longest := c.progress
	for _, l := range c.lanes {
		if !l.since.IsZero() && (longest.IsZero() || l.since.Before(longest)) {
			longest = l.since
		}
	}
	return longest
}

// moved notes that something was answered that is no record.
func (c *conversation) moved(now time.Time) {
	c.progress = time.Time{}
	if c.asks() {
		c.progress = now
	}
}

// await notes that something was sent that is no record.
func (c *conversation) await(now time.Time) {
	if c.progress.IsZero() {
		c.progress = now
	}
}

// maxUnconfirmed is how many messages may wait for their PUBACK: the library
// keeps each until it comes, though the application may long have answered.
const maxUnconfirmed = 1024

// publish sends a message up. Whether the broker has it says nothing here, but
// that the connection takes it; a broker that never says so is given up (P7).
func (c *conversation) publish(kind string, payload []byte) error {
	d := c.conn.Publish(client.Message{Topic: c.names.Up(kind), Payload: payload})
	if isDone(d) {
		return d.Err()
	}
	for len(c.unconfirmed) > 0 && isDone(c.unconfirmed[0]) {
		c.unconfirmed = c.unconfirmed[1:]
	}
	if c.unconfirmed = append(c.unconfirmed, d); len(c.unconfirmed) > maxUnconfirmed {
		return client.ErrNoPuback
	}
	return nil
}

func isDone(d *client.Delivery) bool {
	select {
	case <-d.Done():
		return true
	default:
		return false
	}
}

// say sends a message of the session's own.
func (c *conversation) say(kind string, message any) error {
	payload, err := wire.Encode(message)
	if err != nil {
		return err
	}
	return c.publish(kind, payload)
}

// mark is a place in a lane of this epoch.
func (c *conversation) mark(lane edgeclaim.Lane, upto uint64) edgeclaim.Mark {
	return edgeclaim.Mark{Epoch: c.epoch, Lane: lane, Upto: upto}
}

// fault says an error of the outbox: another epoch ends the session, as does
// everything that the next connection may find mended.
func fault(err error) error {
	if errors.Is(err, edgeclaim.ErrConflict) {
		return errRenewed
	}
	return fmt.Errorf("outbox: %w", err)
}

// newNonce names a session: 128 random bits.
func newNonce() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand says so
	return base64.RawURLEncoding.EncodeToString(b[:])
}
