package bridge

import (
	"time"

	"golang.org/x/sync/errgroup"
)

// errands are what the box's other halves do with what came down, one at a time
// and beside the conversation: a document of many devices may take them a while,
// and LaneProv waits for none. The conversation owns them.
type errands struct {
	group errgroup.Group
	out   bool // one is being done
	// done carries what follows from it, to be called in the conversation. Its
	// capacity is 1: there is one errand.
	done chan func(now time.Time)
}

func newErrands() errands { return errands{done: make(chan func(now time.Time), 1)} }

// errand has something done. What it returns is called in the conversation,
// unless the session is over by then.
func (c *conversation) errand(do func() (then func(now time.Time))) {
	c.errands.out = true
	term := c.term
	c.errands.group.Go(func() error {
		then := do()
		c.errands.done <- func(now time.Time) {
			if c.term == term {
				then(now)
			}
		}
		return nil
	})
}

// finish takes an errand that was done.
func (c *conversation) finish(then func(now time.Time)) {
	c.errands.out = false
	then(time.Now())
}
