package bridge

import (
	"sync"
	"time"

	"edgeclaim"
)

// lamps holds the status. Run's goroutines write it, anyone reads it.
type lamps struct {
	mu     sync.Mutex
	status edgeclaim.UpstreamStatus // guarded by mu
	next   time.Time                // guarded by mu; of the next attempt, zero for none due
}

func newLamps(url string) *lamps {
	return &lamps{status: edgeclaim.UpstreamStatus{
		Link: edgeclaim.LampDown, Broker: edgeclaim.LampDown, App: edgeclaim.LampOff, URL: url,
	}}
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

func (l *lamps) read(now time.Time) edgeclaim.UpstreamStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := l.status
	if !l.next.IsZero() {
		status.NextTrySeconds = max(0, l.next.Sub(now).Seconds())
	}
	return status
}
