package seglog

import (
	"bytes"
	"errors"
	"io/fs"
	"os"

	"edgeclaim"
)

// Ack forgets all entries up to upto, and replaces the caller's own bytes. When
// it returns nil both are durable, and were changed together. It never goes back:
// a lower upto changes own alone. Segments that are forgotten whole are removed.
//
// edgeclaim.ErrUnavailable: trying again helps; after a crash the change may hold
// or not. edgeclaim.ErrInvalid: upto is behind the last durable place, or own is
// above MaxOwn.
func (l *Log) Ack(upto uint64, own []byte) error {
	if len(own) > MaxOwn {
		return edgeclaim.Invalid("own", "more than %d bytes", MaxOwn)
	}
	l.marksMu.Lock()
	defer l.marksMu.Unlock()
	l.mu.Lock()
	m, last := l.marks, l.last
	l.mu.Unlock()
	if upto > last {
		return edgeclaim.Invalid("upto", "behind the last place")
	}
	if upto <= m.acked && bytes.Equal(own, m.own) && !l.marksFile.unsure {
		return nil
	}
	m.acked = max(m.acked, upto)
	if m.lost <= m.acked {
		m.lost = 0
	}
	m.own = bytes.Clone(own)
	if err := l.mark(m); err != nil {
		return unavailable(err)
	}
	l.forget()
	if m.acked == last {
		signal(l.wake) // the last segment may be done with
	}
	return nil
}

// mark makes m hold. The caller has marksMu.
func (l *Log) mark(m marks) error {
	var err error
	if l.marksFile.missing {
		err = l.createMarks(m)
	} else {
		err = l.marksFile.write(m)
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.marks = m
	l.mu.Unlock()
	return nil
}

// forget removes the segments of which nothing is left; the last one stays. One
// that cannot be removed is tried again by the next Open.
func (l *Log) forget() {
	l.mu.Lock()
	floor, n := l.marks.floor(), 0
	for n+1 < len(l.segments) && l.segments[n+1].first-1 <= floor {
		l.bytes -= l.segments[n].end
		n++
	}
	gone := l.segments[:n:n]
	l.segments = l.segments[n:]
	l.mu.Unlock()
	for _, seg := range gone {
		l.remove(seg)
	}
}

func (l *Log) remove(seg *segment) {
	err := os.Remove(l.path(segmentName(seg.first)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.logger.Warn("a segment of the segment log cannot be removed", "dir", l.cfg.Dir, "first", seg.first, "err", err)
	}
	l.space.reckon(seg.end)
}

// dropOldest makes room, because of reason, by dropping the oldest segment: the
// marks say so durably before it goes (P7). The last one is dropped when it is
// large enough to be worth it. Where there is none to drop, it returns reason.
func (l *Log) dropOldest(reason error) error {
	l.marksMu.Lock()
	defer l.marksMu.Unlock()
	l.mu.Lock()
	if len(l.segments) == 0 {
		l.mu.Unlock()
		return reason
	}
	seg, m, upto := l.segments[0], l.marks, l.lastOf(0)
	only := len(l.segments) == 1
	worth := !only || l.worthGivingUp(seg.end)
	l.mu.Unlock()
	if !worth {
		return reason
	}
	if upto > m.floor() {
		from := m.floor() + 1
		m.lost = upto
		if err := l.mark(m); err != nil {
			return err
		}
		l.logger.Warn("oldest segment is dropped", "dir", l.cfg.Dir,
			"from", from, "to", upto, "reason", reason.Error())
	}
	if only {
		l.writer.close()
	}
	l.mu.Lock()
	l.segments = l.segments[1:]
	l.bytes -= seg.end
	l.mu.Unlock()
	l.remove(seg)
	return nil
}

// lastOf returns the last place of the segment with that index. The caller has mu.
func (l *Log) lastOf(i int) uint64 {
	if i+1 < len(l.segments) {
		return l.segments[i+1].first - 1
	}
	return l.last
}
