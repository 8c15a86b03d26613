// Package backoff paces attempts that keep failing, with decorrelated jitter:
// each wait is drawn between the base and three times the wait before it, up
// to a limit. Many boxes cut off at one moment so come back spread out, and
// drift apart further with every failure.
//
// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog.
package backoff

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// growth is the factor between a wait and the longest that may follow it.
const growth = 3

// Backoff yields the waits between attempts. It is not safe for concurrent
// use: it belongs to the one loop that tries.
type Backoff struct {
	base, limit time.Duration
	draw        func(n int64) int64
	last        time.Duration
}

// New returns a Backoff whose waits lie in [base, limit]. draw returns a
// number in [0, n) and is only called with n > 0; nil draws from math/rand/v2.
// The error says which of base and limit is wrong: base must be positive and
// limit at least base.
func New(base, limit time.Duration, draw func(n int64) int64) (*Backoff, error) {
	if base <= 0 {
		return nil, fmt.Errorf("backoff: base %v, want more than zero", base)
	}
	if limit < base {
		return nil, fmt.Errorf("backoff: limit %v, want at least the base %v", limit, base)
	}
	if draw == nil {
		draw = rand.Int64N
	}
	return &Backoff{base: base, limit: limit, draw: draw, last: base}, nil
}

// Next returns how long to wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	high := b.limit
	// Compared by division, so that no base overflows.
	if b.last < b.limit/growth {
		high = b.last * growth
	}
	b.last = b.base
	if span := int64(high - b.base); span > 0 {
		b.last += time.Duration(b.draw(span))
	}
	return b.last
}

// Reset forgets the failures so far: the next wait is a first one again. Call
// it once an attempt has proven good, not when it merely began.
func (b *Backoff) Reset() { b.last = b.base }
