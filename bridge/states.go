package bridge

import (
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// stateBytes is more than a state takes in a message beside its telemetry, and
// statesOverhead more than the message takes beside its states, in bytes.
const (
	stateBytes     = 320
	statesOverhead = 640
)

// stating is the telling of states in a session: one message is on its way at a
// time.
type stating struct {
	told  uint64 // the application has the states up to here
	begun bool   // it has the first message of the session
	more  bool   // there may be more to tell

	upto uint64    // what is on its way goes up to here
	most uint64    // and what was sent before it in the session, at most up to here
	sent time.Time // since when; zero for nothing
	next time.Time // what has changed is told then at the soonest
}

// due is when there may be something to tell, or to tell again; zero for never.
func (s *stating) due(patience time.Duration) time.Time {
	switch {
	case !s.sent.IsZero():
		return s.sent.Add(patience)
	case s.more:
		return s.next
	}
	return time.Time{}
}

// tellStates tells the next states that changed, all of them at the beginning of
// a session. They are counted against no credit: there is one message.
func (c *conversation) tellStates(ctx context.Context, now time.Time) (bool, error) {
	s := &c.stating
	if c.parts.States == nil || !c.knowing {
		return false, nil
	}
	if at := c.speaking(); !at.IsZero() && !now.Before(at) {
		s.more = true
	}
	if at := s.due(c.conf.AckTimeout); !s.more && s.sent.IsZero() || now.Before(at) {
		return false, nil
	}
	s.sent = time.Time{}
	changed, err := c.parts.States.Changed(ctx, s.told, statesAtOnce, c.farBehind(ctx))
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		c.logger.Warn("states of devices cannot be read", "err", err)
		s.more, s.next = true, now.Add(c.rest())
		return false, nil
	}
	if len(changed) == 0 && s.begun {
		s.more, s.next = false, now.Add(statesEvery)
		return false, nil
	}
	message, err := c.states(changed)
	if err != nil {
		return false, err
	}
	if s.more = len(message.Devices) < len(changed) || len(changed) == statesAtOnce; !s.more {
		s.next = now.Add(statesEvery)
	}
	s.upto, s.most, s.sent = message.Upto, max(s.most, message.Upto), now
	return true, c.say(wire.KindControl, message)
}

// speaking is when to ask who has spoken since, which no signal says: while
// telemetry waits. Zero for not now.
func (c *conversation) speaking() time.Time {
	l := c.lane(edgeclaim.LaneTel)
	if c.parts.States == nil || l == nil || !l.more || !c.tells(l) || !c.stating.begun || !c.stating.sent.IsZero() {
		return time.Time{}
	}
	return c.stating.next
}

// states makes a message of as many as it can carry.
func (c *conversation) states(changed []edgeclaim.DeviceState) (*wire.States, error) {
	m := &wire.States{
		Type: wire.TypeState, Box: c.identity.Box, Epoch: c.epoch, Nonce: c.nonce,
		Reset: !c.stating.begun, Upto: c.stating.told, Devices: []wire.DeviceState{},
	}
	size := statesOverhead
	for i := range changed {
		one := wire.DeviceState{DeviceState: changed[i]}
		one.Since, one.Seen = one.Since.UTC(), utc(one.Seen)
		if newest := changed[i].Newest; newest != nil {
			event, err := wire.EncodeEvent(c.names, c.epoch, newest)
			if err != nil {
				return nil, err
			}
			if statesOverhead+stateBytes+len(event) <= wire.MaxMessage {
				one.Telemetry = event
			}
		}
		if size += stateBytes + len(one.Telemetry); size > wire.MaxMessage {
			break
		}
		m.Devices = append(m.Devices, one)
		m.Upto = one.Version
	}
	return m, nil
}

// farBehind reports whether so much telemetry waits that what is newest would
// come late: more than a window of it.
func (c *conversation) farBehind(ctx context.Context) bool {
	l := c.lane(edgeclaim.LaneTel)
	if l == nil || !c.tells(l) || !c.resting.IsZero() {
		return false
	}
	_, _, marks, err := c.parts.Telemetry.Marks(ctx)
	if err != nil {
		return false // whoever reads the lane finds out
	}
	at := marks[edgeclaim.LaneTel]
	return at.Appended > l.acked+uint64(c.conf.Window) //nolint:gosec // 1 to MaxWindow
}

// hearState takes the application's word that it has the states up to a
// version.
func (c *conversation) hearState(version uint64) {
	s := &c.stating
	switch {
	case version > s.most:
		c.alarms.raise(edgeclaim.AlarmAckAbove)
		return
	case version > s.upto || version < s.told || s.sent.IsZero():
		return // late; what was sent since may have taken back what it says
	case version == s.upto:
		s.sent = time.Time{}
	}
	// All that changed since comes in a message of its own.
	s.told, s.begun = version, true
}
