package seglog

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// What is read from a segment at a time, in bytes, grows from minWindow to
	// maxWindow.
	minWindow = 32 << 10
	maxWindow = 256 << 10
	// patience is how many reads of a segment may fail before what cannot be read
	// of it is given up.
	patience = 3
)

// stretch is a part of the log that one segment has, or nobody.
type stretch struct {
	after uint64 // what is wanted begins behind it
	limit uint64 // the last place
	floor uint64 // what is forgotten ends here

	seg   *segment // nil: nobody has it
	start point
	end   int64
	patch bool // read what can be read
}

// Read returns durable entries whose Place is above after, in order: maximum at
// most, and payloads of maxBytes together, but always one where there is one. What
// was acknowledged is not told again. What is lost is one Entry, in its place: the
// dropped ones (Acked, Lost] are told whole, whatever after is, and so is each
// stretch that cannot be read. So two Reads of the same tell the same.
//
// An error is one of the disk, or that the log is closed; it is an
// edgeclaim.ErrUnavailable. A fault that stays is told as damage in the end.
func (l *Log) Read(after uint64, maximum, maxBytes int) ([]Entry, error) {
	r := reading{maximum: maximum, left: maxBytes}
	for !r.full() {
		s, ok, err := l.look(after)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if s.seg == nil {
			damaged := s.after >= s.floor
			r.entries = append(r.entries, Entry{Place: s.limit, Lost: s.limit - s.after, Damaged: damaged})
			after = s.limit
			continue
		}
		reached, err := l.readSegment(s, &r)
		if err != nil && len(r.entries) == 0 {
			return nil, unavailable(err)
		}
		if err != nil {
			break // what was read is good
		}
		after = reached
	}
	return r.entries, nil
}

// reading is what a Read has, and may still take.
type reading struct {
	entries []Entry
	maximum int
	left    int // bytes
	closed  bool
}

func (r *reading) full() bool { return r.closed || len(r.entries) >= r.maximum }

// add takes an entry, or none any more.
func (r *reading) add(e Entry) {
	if len(r.entries) > 0 && len(e.Payload) > r.left {
		r.closed = true
		return
	}
	r.left -= len(e.Payload)
	r.entries = append(r.entries, e)
}

// look finds the part of the log that begins behind after; ok is false when there
// is none that is durable.
func (l *Log) look(after uint64) (s stretch, ok bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == closed {
		return s, false, unavailable(errClosed)
	}
	s = stretch{after: max(after, l.marks.acked), floor: l.marks.floor()}
	if s.after < s.floor {
		s.after, s.limit = l.marks.acked, s.floor
		return s, true, nil
	}
	if s.after >= l.last {
		return s, false, nil
	}
	i := l.find(s.after + 1)
	if i < 0 { // the first file there should be is missing
		s.after, s.limit = s.floor, l.last
		if len(l.segments) > 0 {
			s.limit = l.segments[0].first - 1
		}
		return s, true, nil
	}
	s.seg, s.limit = l.segments[i], l.lastOf(i)
	s.start, s.end = s.seg.start(s.after+1), s.seg.end
	s.patch = s.seg.faults >= patience
	return s, true, nil
}

// find returns the index of the segment that place is in; -1 where it is before
// all of them.
func (l *Log) find(place uint64) int {
	low, high := 0, len(l.segments)
	for low < high {
		if mid := (low + high) / 2; l.segments[mid].first <= place {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low - 1
}

// readSegment adds what a segment has of a stretch to r, and returns the last
// place that it is done with.
func (l *Log) readSegment(s stretch, r *reading) (reached uint64, err error) {
	file, err := os.Open(l.path(segmentName(s.seg.first)))
	if errors.Is(err, fs.ErrNotExist) {
		if !l.has(s.seg) {
			return s.after, nil // dropped or acknowledged meanwhile: look again
		}
		s.lost(r, s.seg.first, s.limit)
		return s.limit, nil
	}
	if err != nil {
		if passing(err) {
			return s.after, err
		}
		if s.patch {
			s.lost(r, s.seg.first, s.limit)
			return s.limit, nil
		}
		l.faulty(s.seg)
		return s.after, err
	}
	defer file.Close()
	sc := &scanner{
		file: file, off: s.start.off, end: s.end, place: s.start.place, patch: s.patch,
		window: minWindow,
	}
	points, reached, err := s.walk(sc, r)
	if err != nil {
		l.faulty(s.seg)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range points {
		s.seg.note(p)
	}
	return reached, err
}

// passing reports whether a file that cannot be opened is one only for now, or
// for whom it runs as: what is in it is not at fault.
func passing(err error) bool {
	for _, known := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EINTR, fs.ErrPermission} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// faulty counts a read of a segment that failed.
func (l *Log) faulty(seg *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seg.faults++
}

func (l *Log) has(seg *segment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.find(seg.first)
	return i >= 0 && l.segments[i] == seg
}

// walk goes along a segment up to the stretch's limit, or until r is full. It
// returns beginnings of entries that it came by.
func (s *stretch) walk(sc *scanner, r *reading) (points []point, reached uint64, err error) {
	reached = s.after
	noted := sc.off
	for sc.place <= s.limit && !r.full() {
		place, off := sc.place, sc.off
		payload, err := sc.next()
		switch {
		case err == nil:
			if off >= noted+pointStep {
				noted = off
				points = append(points, point{place: place, off: off})
			}
			if place > s.after {
				r.add(Entry{Place: place, Payload: payload})
			}
		case errors.Is(err, io.EOF):
			s.lost(r, place, s.limit)
			return points, s.limit, nil
		case errors.Is(err, errDamaged):
			_, ok, err := sc.skip(s.limit)
			if err != nil {
				return points, reached, err
			}
			if !ok {
				s.lost(r, place, s.limit)
				return points, s.limit, nil
			}
			s.lost(r, place, sc.place-1)
		default:
			return points, reached, err
		}
		if !r.closed {
			reached = max(reached, sc.place-1)
		}
	}
	return points, reached, nil
}

// lost tells that the places from to to are damaged, unless that was told.
func (s *stretch) lost(r *reading, from, to uint64) {
	if to > s.after {
		from = max(from, s.floor+1)
		r.add(Entry{Place: to, Lost: to - from + 1, Damaged: true})
	}
}
