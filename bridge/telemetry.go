package bridge

import (
	"context"
	"errors"
	"time"

	"edgeclaim"
)

// tells reports whether a lane is told of in this session: all are, but for
// telemetry, which may be unreadable, or unknown to the application.
func (c *conversation) tells(l *lane) bool {
	if l.name != edgeclaim.LaneTel {
		return true
	}
	_, readable := c.marks[edgeclaim.LaneTel]
	return readable && c.knowing
}

// unread takes an error of a lane's outbox. It ends the session, but for
// telemetry's: that rests, and all else goes on.
func (c *conversation) unread(ctx context.Context, l *lane, err error) error {
	if l.name != edgeclaim.LaneTel {
		return fault(err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.unreadable(ctx, err)
	c.resting = c.looked.Add(c.rest())
	if errors.Is(err, edgeclaim.ErrConflict) {
		delete(c.marks, edgeclaim.LaneTel) // its sequences are no longer those of the hello
	}
	return nil
}

// rested has telemetry told again after a rest. It reports whether that takes
// another session: for a lane that could not be read when this one began.
func (c *conversation) rested(ctx context.Context, now time.Time) bool {
	if c.resting.IsZero() || now.Before(c.resting) {
		return false
	}
	c.resting = time.Time{}
	if l := c.lane(edgeclaim.LaneTel); c.tells(l) {
		l.more = true
		return false
	}
	if c.beginTelemetry(ctx) {
		return true
	}
	c.resting = now.Add(c.rest())
	return false
}
