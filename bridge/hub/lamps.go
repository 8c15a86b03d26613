package hub

import (
	"sync"
	"time"

	"edgeclaim"
)

// Status is the hub at a glance.
type Status struct {
	// Link and Broker are the hub's own way to the broker: TCP or TLS, and
	// the broker's acknowledgement of the retained state.
	Link   edgeclaim.Lamp `json:"link"`
	Broker edgeclaim.Lamp `json:"broker"`
	// URL is the broker's, without user information.
	URL string `json:"url"`
	// LastError says why the link or broker is down, in words.
	LastError string `json:"last_error,omitempty"`
	// NextTrySeconds is when the next connection is tried, when one is due.
	NextTrySeconds float64 `json:"next_try_seconds,omitempty"`
}

// lamps holds the status. The connection's loop writes it, anyone reads it.
type lamps struct {
	mu     sync.Mutex
	status Status    // guarded by mu
	next   time.Time // guarded by mu; of the next attempt, zero for none due
}

func newLamps(url string) *lamps {
	return &lamps{status: Status{Link: edgeclaim.LampDown, Broker: edgeclaim.LampDown, URL: url}}
}

// link lights the link's lamp. The last error stays: it says why the broker's
// is still dark.
func (l *lamps) link() { l.set(edgeclaim.LampUp, edgeclaim.LampDown, time.Time{}, nil) }

func (l *lamps) broker() {
	none := ""
	l.set(edgeclaim.LampUp, edgeclaim.LampUp, time.Time{}, &none)
}

func (l *lamps) down(why string, next time.Time) {
	l.set(edgeclaim.LampDown, edgeclaim.LampDown, next, &why)
}

func (l *lamps) stopped() { l.set(edgeclaim.LampDown, edgeclaim.LampDown, time.Time{}, nil) }

func (l *lamps) set(link, broker edgeclaim.Lamp, next time.Time, lastError *string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Link, l.status.Broker, l.next = link, broker, next
	if lastError != nil {
		l.status.LastError = *lastError
	}
}

func (l *lamps) read(now time.Time) Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := l.status
	if !l.next.IsZero() {
		status.NextTrySeconds = max(0, l.next.Sub(now).Seconds())
	}
	return status
}
