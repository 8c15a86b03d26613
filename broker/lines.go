package broker

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// panicsSaid is how many panics are logged in a minute, each with its stack
	// of a few KiB: strangers cause those of mochi's decoder as often as they
	// like.
	panicsSaid = 20
	// undecidedSaid is how many logins that the box could not decide on are
	// logged in a second: on a full disk all devices come again and again.
	undecidedSaid = 20
	// cutOffSaid is how many devices that did what they may not are logged in a
	// minute.
	cutOffSaid = 20
)

// lines bounds how often one thing is logged, so that nobody fills the disk that
// the log is on. The others are counted into the next line.
type lines struct {
	within time.Duration

	mu     sync.Mutex // guards what follows, for the length of an addition
	most   int
	since  time.Time // monotonic
	said   int
	unsaid int
}

// take reports whether to say a line, and how many were not said before it.
func (l *lines) take(now time.Time) (say bool, unsaid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= l.within {
		l.since, l.said = now, 0
	}
	if l.said >= l.most {
		l.unsaid++
		return false, 0
	}
	l.said++
	unsaid, l.unsaid = l.unsaid, 0
	return true, unsaid
}

// logPanic reports a panic without its value, which may quote a packet (P5).
func (b *Broker) logPanic(where string, v any) {
	if say, unsaid := b.panics.take(time.Now()); say {
		b.log.LogAttrs(context.Background(), slog.LevelError, "panicked", slog.String("where", where),
			slog.String("panic_type", fmt.Sprintf("%T", v)), slog.Int("unsaid", unsaid), slog.String("stack", string(debug.Stack())))
	}
}

func (b *Broker) logUndecided(err error) {
	if say, unsaid := b.undecided.take(time.Now()); say {
		b.log.LogAttrs(context.Background(), slog.LevelError, "login not decided", slog.Any("error", err), slog.Int("unsaid", unsaid))
	}
}
