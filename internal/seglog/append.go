package seglog

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"edgeclaim"
)

// keptBuffer is the largest buffer that is kept for the next group, in bytes.
const keptBuffer = 1 << 20

var (
	errClosed  = errors.New("the log is closed")
	errStopped = errors.New("the log's writer has stopped")
	errBehind  = errors.New("the disk is behind")
)

// group is what is written at once, and ends with one Commit.
type group struct {
	first  uint64
	count  int
	calls  int // of Append
	buf    []byte
	points []point // with offsets in buf
	commit *edgeclaim.Commit
}

// Append gives payloads the next places, the last of which it returns, and hands
// them over. It copies them, and never waits for the disk: when c has ended with
// nil they are durable, and Read gives them. c is shared by all that are written
// at once. Where c ends with edgeclaim.ErrUnavailable none of them was kept, and
// their places are given to others.
//
// edgeclaim.ErrUnavailable: nothing was taken, and trying later helps, because too
// much waits for the disk, the disk is full or fails, or the log has ended.
// edgeclaim.ErrInvalid: a payload is empty or above MaxPayload, or all of them
// together are more than may ever wait.
func (l *Log) Append(payloads ...[]byte) (last uint64, c *edgeclaim.Commit, err error) {
	size, err := l.measure(payloads)
	if err != nil {
		return 0, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(payloads) == 0 {
		return l.next - 1, nil, nil
	}
	if err := l.refused(); err != nil {
		return 0, nil, unavailable(err)
	}
	if l.unsynced+size > l.room {
		return 0, nil, unavailable(errBehind)
	}
	g := l.group(size)
	for _, payload := range payloads {
		if n := len(g.points); n == 0 || int64(len(g.buf)) >= g.points[n-1].off+pointStep {
			g.points = append(g.points, point{place: l.next, off: int64(len(g.buf))})
		}
		g.buf = appendEntry(g.buf, payload, l.next)
		l.next++
	}
	g.count += len(payloads)
	g.calls++
	l.unsynced += size
	l.arrived++
	if l.arrived == 1 {
		signal(l.wake)
	}
	if l.arrived == l.expected {
		signal(l.full)
	}
	return l.next - 1, g.commit, nil
}

// measure returns how many bytes the entries of payloads are.
func (l *Log) measure(payloads [][]byte) (int, error) {
	size := 0
	for _, payload := range payloads {
		if len(payload) == 0 || len(payload) > MaxPayload {
			return 0, edgeclaim.Invalid("payload", "want 1 to %d bytes", MaxPayload)
		}
		size += entryHeader + len(payload)
	}
	if size > l.room {
		return 0, edgeclaim.Invalid("payload", "more than %d bytes at once", l.room)
	}
	return size, nil
}

// refused returns why nothing is taken now; nil when something is.
func (l *Log) refused() error {
	if l.refusal != nil && !l.retry.IsZero() && !time.Now().Before(l.retry) {
		l.refusal = nil // the next group finds out whether the disk works again
	}
	return l.refusal
}

// group returns the one to append size bytes to. A group goes into one segment,
// so it is not larger than that, unless a single call is.
func (l *Log) group(size int) *group {
	if n := len(l.waiting); n > 0 {
		g := l.waiting[n-1]
		if int64(segmentHeader+len(g.buf)+size) <= l.cfg.SegmentBytes {
			return g
		}
	}
	g := &group{first: l.next, buf: l.spare[:0], commit: edgeclaim.NewCommit()}
	l.spare = nil
	l.waiting = append(l.waiting, g)
	return g
}

// take gives the writer the next group; nil when nothing waits.
func (l *Log) take() *group {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil
	}
	g := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	l.arrived -= g.calls
	return g
}

// stored says that a group is durable in the segment it was written to, at off.
func (l *Log) stored(g *group, off int64) {
	l.mu.Lock()
	seg := l.segments[len(l.segments)-1]
	for _, p := range g.points {
		seg.note(point{place: p.place, off: off + p.off})
	}
	seg.end = off + int64(len(g.buf))
	l.bytes += int64(len(g.buf))
	l.last = g.first + uint64(g.count) - 1
	l.unsynced -= len(g.buf)
	if cap(g.buf) <= keptBuffer && cap(g.buf) > cap(l.spare) {
		l.spare = g.buf
	}
	l.mu.Unlock()
	g.commit.End(nil)
	signal(l.appended)
}

// refuse has Append refuse from now on: for as long as pause, or for good where
// it is 0. What is refused for good stays so.
func (l *Log) refuse(err error, pause time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusal != nil && l.retry.IsZero() {
		return
	}
	l.refusal, l.retry = err, time.Time{}
	if pause > 0 {
		l.retry = time.Now().Add(pause)
	}
}

// abandon ends those groups, which could not be stored, and all that waits:
// their places stand on these.
func (l *Log) abandon(err error, groups ...*group) {
	l.mu.Lock()
	groups = append(groups, l.waiting...)
	l.waiting, l.arrived, l.unsynced = nil, 0, 0
	l.failed += l.next - (l.last + 1)
	l.next = l.last + 1
	l.mu.Unlock()
	for _, g := range groups {
		g.commit.End(unavailable(err))
	}
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", edgeclaim.ErrUnavailable, err) }
