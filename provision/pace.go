package provision

import (
	"sync"
	"time"

	"edgeclaim"
)

// minute is the span that max_claims_per_minute counts over.
const minute = time.Minute

// pace keeps, for each key whose template bounds it, when its new devices of
// the last minute came. It counts exactly rather than by a token bucket, which
// would let twice the bound through in one minute. Times carry a monotonic
// reading, so that no step of the wall clock matters (P10). Its size is
// bounded by the claims of one minute; a restart forgets them.
type pace struct {
	mu sync.Mutex // guards claims; held for the length of a slice operation
	// claims holds the times within the last minute, oldest first.
	claims map[edgeclaim.KeyID][]time.Time
	swept  time.Time
}

// take counts a claim of key at now, or says how long to wait.
func (p *pace) take(key edgeclaim.KeyID, limit uint32, now time.Time) (wait time.Duration, ok bool) {
	if limit == 0 {
		return 0, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweepLocked(now)
	recent := lastMinute(p.claims[key], now)
	if len(recent) >= int(limit) {
		p.claims[key] = recent
		return minute - now.Sub(recent[0]), false
	}
	p.claims[key] = append(recent, now)
	return 0, true
}

// giveBack undoes a take whose claim made no device.
func (p *pace) giveBack(key edgeclaim.KeyID, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	times := p.claims[key]
	for i, t := range times {
		if t.Equal(at) {
			p.claims[key] = append(times[:i:i], times[i+1:]...)
			return
		}
	}
}

// sweepLocked forgets the keys that have been quiet for a minute.
func (p *pace) sweepLocked(now time.Time) {
	if now.Sub(p.swept) < minute {
		return
	}
	p.swept = now
	for key, times := range p.claims {
		if len(lastMinute(times, now)) == 0 {
			delete(p.claims, key)
		}
	}
}

func lastMinute(times []time.Time, now time.Time) []time.Time {
	for len(times) > 0 && now.Sub(times[0]) >= minute {
		times = times[1:]
	}
	return times
}
