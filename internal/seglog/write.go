package seglog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// gatherFor is how long the writer waits at most for those whom the last
	// group answered to come back, as the store's group commit does.
	gatherFor = 2 * time.Millisecond
	// A disk that fails is left alone for pauses that double from minPause to
	// maxPause; one that is full for minPause.
	minPause = 100 * time.Millisecond
	maxPause = 5 * time.Second
	// fewest is the part of a segment that has to be written before its file is
	// given up while it is the last one.
	fewest = 4
)

var (
	errQuota    = errors.New("the log is full")
	errReserved = errors.New("the disk is down to its reserve")
)

// writer is what the running Run has; nobody else touches it.
type writer struct {
	file  *os.File // of the last segment; nil: the next group begins one
	size  int64    // of it, all durable
	pause time.Duration
	ill   bool // the last group could not be stored
}

func (w *writer) close() {
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
}

// Run writes what is appended: all that waits with one write and one fdatasync,
// and ends its Commit. It blocks until ctx has ended, or Close was called, then
// stores what still waits and returns nil. It runs once.
func (l *Log) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	before := l.state
	if before == opened {
		l.state, l.end = running, cancel
	}
	l.mu.Unlock()
	if before != opened {
		return fmt.Errorf("segment log: run: %w", errClosed)
	}
	defer l.stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-l.wake:
			l.work(ctx)
		}
	}
	l.refuse(errStopped, 0)
	for g := l.take(); g != nil; g = l.take() {
		l.write(g)
	}
	return nil
}

// stop says that nobody writes any more.
func (l *Log) stop() {
	l.mu.Lock()
	if l.state == running {
		l.state = ended
	}
	l.mu.Unlock()
	l.abandon(errStopped)
	close(l.stopped)
}

// work writes group after group until nothing waits.
func (l *Log) work(ctx context.Context) {
	for ctx.Err() == nil {
		g := l.take()
		if g == nil {
			l.renew()
			return
		}
		began := time.Now()
		l.write(g)
		l.gather(ctx, g.calls, time.Since(began))
	}
}

// gather waits until as many calls have come as the last group had, for those
// who wait for it come back one after the other: else two halves of them would
// take turns for ever. It waits no longer than the last group took. A caller who
// was alone is not waited for.
func (l *Log) gather(ctx context.Context, calls int, took time.Duration) {
	if calls < 2 {
		return
	}
	l.mu.Lock()
	wait := l.arrived < calls
	if wait {
		l.expected = calls
	}
	l.mu.Unlock()
	if !wait {
		return
	}
	timer := time.NewTimer(min(took, gatherFor))
	defer timer.Stop()
	select {
	case <-l.full:
	case <-timer.C:
	case <-ctx.Done():
	}
	l.mu.Lock()
	l.expected = 0
	l.mu.Unlock()
	select { // it may have come with the timer
	case <-l.full:
	default:
	}
}

// write stores a group and says how that ended.
func (l *Log) write(g *group) {
	w := &l.writer
	off, err := l.store(g)
	if err == nil {
		if w.ill {
			l.logger.Info("segment log is written again", "dir", l.cfg.Dir)
		}
		w.ill, w.pause = false, 0
		l.stored(g, off)
		return
	}
	if !w.ill {
		l.logger.Error("segment log cannot be written", "dir", l.cfg.Dir, "err", err)
	}
	w.ill = true
	w.pause = min(max(2*w.pause, minPause), maxPause)
	if isFull(err) {
		w.pause = minPause
	}
	l.refuse(err, w.pause)
	l.abandon(err, g)
}

// store writes a group and returns at which offset of the last segment. A full
// disk costs the oldest segments first.
func (l *Log) store(g *group) (int64, error) {
	for {
		err := l.ready(g)
		if err == nil {
			off := l.writer.size
			if err = l.put(g.buf); err == nil {
				return off, nil
			}
		}
		if !isFull(err) || errors.Is(err, errQuota) || errors.Is(err, errReserved) {
			return 0, err
		}
		if dropErr := l.dropOldest(err); dropErr != nil {
			return 0, dropErr
		}
	}
}

// isFull says whether err means that there is no room.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, errQuota) || errors.Is(err, errReserved)
}

// ready sees to it that there is a segment with room for g, within the quota and
// beyond the reserve.
func (l *Log) ready(g *group) error {
	w, size := &l.writer, int64(len(g.buf))
	for {
		var err error
		switch {
		case w.file == nil, w.size > segmentHeader && w.size+size > l.cfg.SegmentBytes:
			if err := l.begin(g.first); err != nil {
				return err
			}
			continue
		case l.held()+size > l.cfg.MaxBytes:
			err = l.dropOldest(errQuota)
		case l.space.beyond(false) < size:
			err = l.dropOldest(errReserved)
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (l *Log) held() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// begin makes a segment for the entries from first on. The one before stays as
// it is. One of the same name has no entry, and is replaced.
func (l *Log) begin(first uint64) error {
	name := segmentName(first)
	file, err := l.create(name, encodeHeader(first))
	if err != nil {
		if _, gone := os.Lstat(l.path(name)); !errors.Is(gone, fs.ErrNotExist) {
			// A file of that name ends the places of the one before: nothing more
			// may be written to that, and the next try replaces this.
			l.writer.close()
		}
		return err
	}
	l.writer.close()
	l.writer.file, l.writer.size = file, segmentHeader
	l.mu.Lock()
	if n := len(l.segments); n > 0 && l.segments[n-1].first == first {
		l.bytes -= l.segments[n-1].end
		l.segments = l.segments[:n-1]
	}
	l.segments = append(l.segments, &segment{first: first, end: segmentHeader})
	l.bytes += segmentHeader
	l.mu.Unlock()
	l.space.beyond(true)
	l.forget()
	return nil
}

// put appends b to the last segment, durably. What a failed write left is cut
// off before anything else is written. After a failed sync nobody knows which
// pages the disk has, so that the file is not written to again.
func (l *Log) put(b []byte) error {
	w := &l.writer
	_, err := l.disk.write(w.file, b, w.size)
	known := err == nil || isFull(err)
	if err == nil {
		if err = l.disk.sync(w.file); err == nil {
			w.size += int64(len(b))
			l.space.reckon(-int64(len(b)))
			return nil
		}
		known = false
	}
	if cut := w.file.Truncate(w.size); cut != nil || !known {
		w.close()
	}
	return err
}

// renew gives the last segment back when all in it is forgotten and it is large.
func (l *Log) renew() {
	l.mu.Lock()
	last := l.last
	done := l.writer.file != nil && last <= l.marks.floor() && l.worthGivingUp(l.writer.size)
	l.mu.Unlock()
	if !done {
		return
	}
	if err := l.begin(last + 1); err != nil && !l.writer.ill {
		l.logger.Warn("no new segment for the segment log", "dir", l.cfg.Dir, "err", err)
	}
}

// worthGivingUp says whether a segment of that size is given up while it is the
// last one.
func (l *Log) worthGivingUp(size int64) bool {
	return size > segmentHeader && size >= l.cfg.SegmentBytes/fewest
}
