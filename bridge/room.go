package bridge

import "sync"

const (
	// telemetryShare is the part of the window that is kept free of telemetry,
	// one in so many: a claim must not wait for it.
	telemetryShare = 4
	// placeBytes is how much of what devices say one place in the window carries:
	// it may be so large that a window of it would not fit into memory.
	placeBytes = 4 << 10
)

// forTelemetry is how much of a window telemetry may take: at least one.
func forTelemetry(window int) int { return window - window/telemetryShare }

// room is the window of a drain.
type room struct {
	window, most int // constant; all, and how much of it telemetry may take

	freed chan struct{} // capacity 1: there is more room than there was

	mu        sync.Mutex
	used      int // guarded by mu
	telemetry int // guarded by mu; how much of used
}

func newRoom(window int) *room {
	return &room{window: window, most: forTelemetry(window), freed: make(chan struct{}, 1)}
}

// weigh returns how many places something takes that a device said.
func (r *room) weigh(bytes int) int { return min(1+bytes/placeBytes, r.most) }

// take takes so many places, or none and returns false.
func (r *room) take(places int, telemetry bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used+places > r.window || telemetry && r.telemetry+places > r.most {
		return false
	}
	r.used += places
	if telemetry {
		r.telemetry += places
	}
	return true
}

// free gives them back.
func (r *room) free(places int, telemetry bool) {
	r.mu.Lock()
	r.used -= places
	if telemetry {
		r.telemetry -= places
	}
	r.mu.Unlock()
	signal(r.freed)
}
