package bridge

import "time"

// due is when something is to be done at the latest without being woken.
func (c *conversation) due() time.Time {
	at := time.Now().Add(time.Hour) // nothing
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	if c.stopping {
		return at
	}
	earlier(c.helloAt)
	if c.phase != welcomed {
		return at
	}
	earlier(c.returned)
	if waits := c.awaited(); !waits.IsZero() {
		earlier(waits.Add(c.conf.AckTimeout))
	}
	if out := c.putOff.Add(c.conf.AckTimeout); !c.putOff.IsZero() && out.After(c.looked) {
		earlier(out)
	}
	// By the time of the last look: what was over then is done, and what has
	// passed since is not.
	f := &c.fetching
	for _, t := range []time.Time{
		c.spread, c.want.again, c.resting, c.stating.due(c.conf.AckTimeout), c.speaking(),
		c.report, f.asked, f.again, f.resting, c.sharing.at,
	} {
		if t.After(c.looked) {
			earlier(t)
		}
	}
	for _, l := range c.lanes {
		if l.paused.After(c.looked) {
			earlier(l.paused)
		}
	}
	return at
}
