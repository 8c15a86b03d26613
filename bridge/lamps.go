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

func newLamps(url, ack string) *lamps {
	l := &lamps{status: edgeclaim.UpstreamStatus{
		Link: edgeclaim.LampDown, Broker: edgeclaim.LampDown, App: edgeclaim.LampOff, URL: url, Ack: ack,
	}}
	if ack == AckApp {
		l.status.App = edgeclaim.LampDown
	}
	return l
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

// set puts the lamps of link and broker, and with them the application's out.
func (l *lamps) set(link, broker edgeclaim.Lamp, next time.Time, lastError *string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Link, l.status.Broker, l.next = link, broker, next
	if l.status.App != edgeclaim.LampOff {
		l.status.App = edgeclaim.LampDown
	}
	l.status.InFlight, l.status.Credit = 0, 0
	if lastError != nil {
		l.status.LastError = *lastError
	}
}

// app says how the application is; why is empty when it is up.
func (l *lamps) app(lamp edgeclaim.Lamp, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.App, l.status.LastError = lamp, why
	if lamp != edgeclaim.LampUp {
		l.status.InFlight, l.status.Credit = 0, 0
	}
}

// welcomed notes the application that took the box.
func (l *lamps) welcomed(upstream string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.UpstreamID = upstream
}

// flight notes how many records are on their way to an application that is
// there, and how many may be. Without credit the box waits for it, however long.
func (l *lamps) flight(records, credit int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.InFlight, l.status.Credit, l.status.LastError = records, credit, ""
	if credit == 0 {
		l.status.LastError = "welcomed, but the application grants no credit, so nothing is told"
	}
}

// enrolled notes whether only what is signed is taken, and by whom.
func (l *lamps) enrolled(yes bool, upstream string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Enrolled = yes
	if upstream != "" {
		l.status.UpstreamID = upstream
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
