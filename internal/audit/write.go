package audit

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// work writes what waits. A disk that failed is tried again once in a while,
// and whenever somebody waits for it.
func (l *Log) work() {
	l.writing.Lock()
	defer l.writing.Unlock()
	now := time.Now()
	l.mu.Lock()
	urgent := l.urgent
	l.urgent = false
	l.mu.Unlock()
	if l.failing && !urgent && now.Before(l.tryAgain) {
		return
	}
	l.flush(now) //nolint:errcheck // said in the log, to those who wait, and tried again
}

// finish writes everything, refusals of an unfinished minute too. Who waits in
// Must afterwards is told that nobody writes any more.
func (l *Log) finish() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed {
		return nil
	}
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	err := l.flush(time.Time{})
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		left := uint64(len(l.batch)+len(l.pending)) + l.lost.count
		return fmt.Errorf("audit: %d entries not written: %w", left, err)
	}
	return nil
}

// flush makes everything durable that waits, or says why not. now is the
// running time by which minutes of refusals end; zero: they all do. The caller
// holds writing.
func (l *Log) flush(now time.Time) error {
	for {
		if len(l.batch) == 0 && !l.take(now) {
			return nil
		}
		if err := l.writeBatch(); err != nil {
			l.failed(err)
			return err
		}
		if l.failing {
			l.failing = false
			l.log.Warn("audit log is written again")
		}
	}
}

// take moves what waits into the batch. While the disk fails the batch stays,
// and the buffer fills: memory is bounded by the two.
func (l *Log) take(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) > 0 {
		l.batch, l.pending, l.bytes = l.pending, make([]item, 0, len(l.pending)), 0
	}
	for _, e := range l.due(now) {
		l.batch = append(l.batch, item{Entry: e})
	}
	if lost := l.lost; lost.count > 0 {
		l.lost = loss{}
		l.batch = append(l.batch, item{Entry: l.own(KindLost, lost.count, map[string]string{
			"from": lost.from.Format(time.RFC3339Nano), "to": lost.to.Format(time.RFC3339Nano),
		})})
	}
	return len(l.batch) > 0
}

// own is an entry of the log about itself.
func (l *Log) own(kind string, count uint64, detail map[string]string) Entry {
	return l.bounded(Entry{Kind: kind, Who: WhoBox, Count: count, Detail: detail})
}

func (l *Log) writeBatch() error {
	for len(l.batch) > 0 {
		n, err := l.writeSome(l.batch)
		if err != nil {
			return err
		}
		if n == 0 {
			if err := l.rotate(); err != nil {
				return err
			}
			continue
		}
		for _, it := range l.batch[:n] {
			if it.done != nil {
				it.done <- nil
			}
			if it.victim > 0 {
				l.drop(it.victim)
			}
		}
		l.batch = l.batch[n:]
	}
	l.batch = nil
	return nil
}

// writeSome writes as many items as the segment and one group take, and
// returns how many are durable now: 0 without an error when the segment takes
// none. After an error nothing of it counts, and what may have been written is
// cut off first thing next time: a failed fsync leaves pages of which nobody
// knows whether the disk has them, so they are written anew.
func (l *Log) writeSome(items []item) (int, error) {
	if l.file == nil {
		return 0, nil
	}
	if l.dirty {
		if err := l.folder.truncate(l.file, l.tip.size); err != nil {
			return 0, err
		}
		l.dirty = false
	}
	tip, buf, n := l.tip, l.buf[:0], 0
	for ; n < len(items); n++ {
		start := len(buf)
		buf = appendLine(buf, &items[n].Entry, tip.seq+1, tip.hash)
		size := tip.size + int64(len(buf)-start) + 1
		if tip.size > 0 && size > l.cfg.SegmentBytes || n > 0 && len(buf) > groupBytes {
			buf = buf[:start]
			break
		}
		tip.seq, tip.hash, tip.time, tip.size = tip.seq+1, sha256.Sum256(buf[start:]), items[n].Time, size
		buf = append(buf, '\n')
	}
	l.buf = buf
	if n == 0 {
		return 0, nil
	}
	l.dirty = true
	if err := l.folder.write(l.file, buf, l.tip.size); err != nil {
		return 0, err
	}
	if err := l.folder.sync(l.file); err != nil {
		return 0, err
	}
	l.dirty = false
	l.advance(tip)
	return n, nil
}

// advance makes tip the end of the chain.
func (l *Log) advance(to tip) {
	l.tip = to
	current := &l.segments[len(l.segments)-1]
	current.size = to.size
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = Head{Segment: current.name(), Sequence: to.seq, Hash: to.hash.String(), Time: to.time}
}

// rotate begins a segment. All before it is durable, so a crash at any point
// leaves the old end, or an empty file behind it that the next Open goes on
// with. Segments above the quota go once the new one says so.
func (l *Log) rotate() error {
	next := segment{first: l.tip.seq + 1}
	file, err := l.folder.create(next.name())
	if err != nil {
		return err
	}
	if l.file != nil {
		if err := l.file.Close(); err != nil {
			l.log.Warn("closing a finished audit file", "file", l.file.Name(), "error", err)
		}
	}
	l.file, l.dirty, l.tip.size = file, false, 0
	l.segments = append(l.segments, next)
	l.batch = slices.Insert(l.batch, 0, l.overQuota(l.tip.hash)...)
	return nil
}

// overQuota returns an entry for each segment that has to go, with the hash
// that the first kept one builds on: without such an entry Verify calls a
// missing beginning a problem. end is the hash of the last line of all.
func (l *Log) overQuota(end hash) []item {
	l.sweep()
	if len(l.segments) == 0 {
		return nil
	}
	total := l.cfg.SegmentBytes // for what the newest one may become
	for _, s := range l.segments[:len(l.segments)-1] {
		if !s.gone {
			total += s.size
		}
	}
	var announced []item
	for i := 0; i < len(l.segments)-1 && total > l.cfg.MaxBytes; i++ {
		s, next := &l.segments[i], l.segments[i+1]
		if s.gone {
			continue
		}
		s.gone = true
		total -= s.size
		detail := map[string]string{"through": strconv.FormatUint(next.first-1, 10)}
		builds, err := l.folder.buildsOn(next)
		if next.size == 0 {
			builds, err = end, nil
		}
		if err == nil {
			detail["hash"] = builds.String()
		}
		e := l.own(KindDropped, next.first-s.first, detail)
		announced = append(announced, item{Entry: e, victim: s.first})
	}
	return announced
}

// drop removes the segment of which an entry on the chain says that it is
// gone, and those before it that could not be removed when it was their turn:
// never one while an older one stays, which would be a hole.
func (l *Log) drop(first uint64) {
	for i := range l.segments {
		if l.segments[i].first == first {
			l.segments[i].said = true
		}
	}
	l.sweep()
}

func (l *Log) sweep() {
	for len(l.segments) > 0 && l.segments[0].said {
		name := l.segments[0].name()
		if err := l.folder.remove(name); err != nil {
			if !l.stuck {
				l.log.Error("old audit files cannot be removed", "file", name, "error", err)
			}
			l.stuck = true
			return
		}
		l.stuck = false
		l.segments = slices.Delete(l.segments, 0, 1)
	}
}

// failed says once that the log cannot be written, and tells all who wait. The
// entries stay, and are tried again.
func (l *Log) failed(err error) {
	l.tryAgain = time.Now().Add(retryEvery)
	if !l.failing {
		l.failing = true
		l.log.Error("audit log cannot be written; entries are kept while there is room, then counted", "error", err)
	}
	err = fmt.Errorf("audit: %w", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		err = errors.Join(err, ErrStopped)
	}
	for _, items := range [][]item{l.batch, l.pending} {
		for i := range items {
			if items[i].done != nil {
				items[i].done <- err
				items[i].done = nil
			}
		}
	}
}
