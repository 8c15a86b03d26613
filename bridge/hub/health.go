package hub

import (
	"math/rand/v2"
	"time"

	"edgeclaim/internal/backoff"
)

// probes is how many boxes in a row have to find the registry failing, with
// none between that it worked for, before it counts as down for all. Fewer may
// be the fault of what those boxes told.
const probes = 3

// health says how long the registry is left alone: by a box for which it
// failed, and by all when it is down. It is the applier's alone.
type health struct {
	conf    *Config
	pace    *backoff.Backoff
	retryAt time.Time         // when all may try again; zero while it is not down
	streak  map[*session]bool // for whom it failed since it last worked
}

func newHealth(conf *Config) (*health, error) {
	pace, err := backoff.New(conf.RetryBase, conf.RetryLimit, nil)
	if err != nil {
		return nil, err
	}
	return &health{conf: conf, pace: pace, streak: map[*session]bool{}}, nil
}

// wait is how long a box has to leave the registry alone; 0 when it need not.
// nil stands for the hub itself.
func (h *health) wait(s *session, now time.Time) time.Duration {
	until := h.retryAt
	if s != nil && s.retryAt.After(until) {
		until = s.retryAt
	}
	return max(0, until.Sub(now))
}

// failed notes that the registry failed for a box.
func (h *health) failed(s *session, now time.Time) {
	h.streak[s] = true
	if s != nil {
		s.retryAt = now.Add(min(h.conf.RetryBase<<min(s.failures, maxDoublings), h.conf.RetryLimit))
		s.failures++
	}
	if len(h.streak) >= probes || s == nil {
		h.retryAt = now.Add(h.pace.Next())
	}
}

// maxDoublings keeps a wait within its type.
const maxDoublings = 16

// worked notes that the registry worked for a box, and reports whether it was
// the first for whom it did.
func (h *health) worked(s *session) bool {
	if s != nil {
		s.failures, s.retryAt = 0, time.Time{}
	}
	if len(h.streak) == 0 {
		return false
	}
	clear(h.streak)
	h.retryAt = time.Time{}
	h.pace.Reset()
	return true
}

// ailing reports whether the last try failed.
func (h *health) ailing() bool { return len(h.streak) > 0 }

// spread adds up to half as much again to a wait, so that the boxes that were
// told it do not come back at one moment.
func spread(wait time.Duration) time.Duration {
	wait = max(wait, time.Millisecond)
	return wait + rand.N(wait/2+1) //nolint:gosec // nothing is secured by it
}
