package broker

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// panicsSaid is how many panics are logged in a minute, each with its stack of a
// few KiB. Strangers cause those of mochi's decoder as often as they like, and
// must not fill the disk that the log is on.
const panicsSaid = 20

// panics counts those of a minute.
type panics struct {
	mu     sync.Mutex // guards what follows, for the length of an addition
	most   int
	since  time.Time // monotonic
	said   int
	unsaid int
}

// take reports whether to say one, and how many were not said before it.
func (p *panics) take(now time.Time) (say bool, unsaid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.since) >= time.Minute {
		p.since, p.said = now, 0
	}
	if p.said >= p.most {
		p.unsaid++
		return false, 0
	}
	p.said++
	unsaid, p.unsaid = p.unsaid, 0
	return true, unsaid
}

// logPanic reports a panic without its value, which may quote a packet (P5).
func (b *Broker) logPanic(where string, v any) {
	say, unsaid := b.panics.take(time.Now())
	if !say {
		return
	}
	b.log.LogAttrs(context.Background(), slog.LevelError, "panicked", slog.String("where", where),
		slog.String("panic_type", fmt.Sprintf("%T", v)), slog.Int("unsaid", unsaid), slog.String("stack", string(debug.Stack())))
}
