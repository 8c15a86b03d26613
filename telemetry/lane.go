package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"edgeclaim"
	"edgeclaim/internal/seglog"
)

const (
	// readBytes is how much Next reads at once: some messages' worth.
	readBytes = 512 << 10
	// maxRefused is how many devices may be refused in a run, and maxParked how
	// many of their pending records are remembered for the counters: those
	// beyond count as acknowledged.
	maxRefused = 10_000
	maxParked  = 100_000
	// maxHoles is how many unreadable stretches are remembered for the
	// counters.
	maxHoles = 1_000
)

// Why a gap record tells of records.
const (
	gapQuota   = "quota"
	gapDamaged = "damaged"
	gapRefused = "refused"
)

// Lane is edgeclaim.LaneTel: the points that upstream does not have yet. Its
// sequences are places in the log, counted from the beginning of the epoch. All
// methods are safe for concurrent use.
type Lane struct {
	log    *seglog.Log
	stamp  func() edgeclaim.Stamp
	logger *slog.Logger

	// mu is held over calls of the log: what Next says of what was lost stays
	// true until an Ack, which waits.
	mu   sync.Mutex
	own  marks
	told uint64 // the place up to which the quota's loss was told, in this run
	// holes are the unreadable stretches that were told and are pending.
	holes []stretch
	// refused are the devices that upstream does not take records of, with
	// the places that this is said of; the file at refusedAt has them too.
	refused      map[edgeclaim.DeviceID][]refusal
	refusedAt    string
	refusedLines int      // in that file
	parked       []uint64 // places told as refused and pending, ascending

	oldest oldest
}

// stretch are the places after a place, up to and with another one.
type stretch struct{ after, upto uint64 }

// oldest is the stamp of the oldest pending record, read when asked for.
type oldest struct {
	mu    sync.Mutex
	place uint64
	stamp edgeclaim.Stamp
}

// newLane makes the lane of a log; what was refused in earlier runs is in
// folder.
func newLane(log *seglog.Log, folder string, stamp func() edgeclaim.Stamp, logger *slog.Logger) *Lane {
	l := &Lane{log: log, stamp: stamp, logger: logger, refusedAt: filepath.Join(folder, refusedFile)}
	l.loadRefused()
	if own := log.Own(); len(own) > 0 {
		if err := l.own.decode(own); err != nil {
			logger.Error("the telemetry lane's marks cannot be read; it begins a new life", "err", err)
		}
	}
	return l
}

// Marks says where the lane stands. It knows no life before the present one.
func (l *Lane) Marks(context.Context) (epoch, previous string, of map[edgeclaim.Lane]edgeclaim.LaneMarks, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.log.Bounds()
	return l.own.Epoch, "", map[edgeclaim.Lane]edgeclaim.LaneMarks{edgeclaim.LaneTel: {
		First: b.Acked + 1 - l.own.Base, Appended: b.Last - l.own.Base, Check: l.own.check(),
	}}, nil
}

// Appended signals, some time after points were committed, that there is
// something to tell. It has room for one signal, and one consumer.
func (l *Lane) Appended() <-chan struct{} { return l.log.Appended() }

// Begin makes epoch the lane's life, unless it is in it already; nil means that
// this is durable. What is pending keeps its order and counts from 1, and the
// counters begin anew.
func (l *Lane) Begin(_ context.Context, epoch string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.own.Epoch == epoch {
		return nil
	}
	now := l.stamp()
	acked := l.log.Bounds().Acked
	next := marks{Epoch: epoch, Base: acked, Began: keepStamp(now), AckedAt: keepStamp(now)}
	if err := l.log.Ack(acked, next.encode()); err != nil {
		return unavailable("begin", err)
	}
	l.own = next
	return nil
}

// knows returns an error for a mark of another lane or epoch. With mu held.
func (l *Lane) knows(at edgeclaim.Mark) error {
	switch {
	case at.Lane != edgeclaim.LaneTel:
		return fmt.Errorf("telemetry: lane %s: %w", at.Lane, edgeclaim.ErrInvalid)
	case at.Epoch != l.own.Epoch:
		return fmt.Errorf("telemetry: epoch: %w", edgeclaim.ErrConflict)
	}
	return nil
}

func unavailable(what string, err error) error {
	return fmt.Errorf("telemetry: %s: %w: %w", what, edgeclaim.ErrUnavailable, err)
}

// Stats returns the lane at a glance. Appended = acked + dropped + parked +
// pending, always.
func (l *Lane) Stats() edgeclaim.LaneStats {
	l.mu.Lock()
	b, own := l.log.Bounds(), l.own
	l.mu.Unlock()
	gone := max(b.Acked, b.Lost)
	stats := edgeclaim.LaneStats{
		Pending: b.Last - gone, Appended: b.Last - own.Base,
		Acked: own.Acked, Dropped: own.Dropped + gone - b.Acked, Parked: own.Parked,
	}
	if stats.Pending > 0 { // what does not wait any more goes with its segment
		stats.Bytes, stats.OldestAge = uint64(b.Bytes), l.age(gone+1)
	}
	return stats
}

// backlog is how many records wait to be told.
func (l *Lane) backlog() uint64 {
	b := l.log.Bounds()
	return b.Last - max(b.Acked, b.Lost)
}

// age is how long the record at a place has been waiting, in seconds. One that
// cannot be read has no age; Next tells it as a gap.
func (l *Lane) age(place uint64) float64 {
	l.oldest.mu.Lock()
	defer l.oldest.mu.Unlock()
	if l.oldest.place != place {
		entries, err := l.log.Read(place-1, 1, 1)
		if err != nil || len(entries) == 0 || entries[0].Lost > 0 || entries[0].Place != place {
			return 0
		}
		e, err := parseEntry(entries[0].Payload)
		if err != nil {
			return 0
		}
		l.oldest.place, l.oldest.stamp = place, e.stamp
	}
	now, then := l.stamp(), l.oldest.stamp
	passed := now.Time.Sub(then.Time)
	if now.Boot != "" && now.Boot == then.Boot {
		passed = now.Uptime - then.Uptime
	}
	return max(0, passed.Seconds())
}
