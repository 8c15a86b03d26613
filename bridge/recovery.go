package bridge

import (
	"context"
	"errors"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// wantRetry is how long the asking for lost devices rests after a failure.
const wantRetry = time.Minute

// want is the asking for devices that the box once told and has lost.
type want struct {
	out     bool      // asked, and not answered
	after   string    // the last device that came
	again   time.Time // not before
	adopted int
}

// askForDevices asks for the next page of them. Only an enrolled box does: a
// device has credentials, and whoever may make one up may log in with it.
func (c *conversation) askForDevices(now time.Time) error {
	if !c.recovering || c.want.out || now.Before(c.want.again) {
		return nil
	}
	if c.key == nil {
		c.recovering = false
		c.logger.Warn("upstream may hold devices that this box has lost: enrolled, it would take them back")
		return nil
	}
	c.want.out = true
	c.await(now)
	return c.say(wire.KindControl, c.wanting(false))
}

func (c *conversation) wanting(done bool) *wire.Want {
	return &wire.Want{
		Type: wire.TypeWant, Box: c.identity.Box, Epoch: c.epoch, Nonce: c.nonce,
		What: wire.WantRegistry, After: c.want.after, Done: done,
	}
}

// hearPage takes devices back.
func (c *conversation) hearPage(ctx context.Context, p *wire.RegistryPage, now time.Time) error {
	if !c.want.out || p.After != c.want.after || c.key == nil {
		return nil // late
	}
	c.want.out = false
	c.moved(now)
	last, ok := ascending(p)
	if !ok {
		c.alarms.raise(edgeclaim.AlarmMalformed)
		c.want.again = now.Add(wantRetry)
		return nil
	}
	adopted, err := c.parts.Registry.Adopt(ctx, p.Devices)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		c.logger.Warn("devices that upstream holds were not taken back", "err", err)
		c.want.again = now.Add(wantRetry)
		return nil
	}
	c.want.adopted += adopted
	c.want.after = last
	if p.More {
		return nil
	}
	c.recovering = false
	c.logger.Info("devices that upstream held were taken back", "adopted", c.want.adopted)
	return c.say(wire.KindControl, c.wanting(true))
}

// ascending reports whether a page's devices go on in order from where it was
// asked to begin, and whether it leads on at all where there is more; last is
// where to ask next.
func ascending(p *wire.RegistryPage) (last string, ok bool) {
	last = p.After
	for i := range p.Devices {
		id := p.Devices[i].ID.String()
		if id <= last {
			return "", false
		}
		last = id
	}
	return last, len(p.Devices) > 0 || !p.More
}
