package seglog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Open opens the log in cfg.Dir, or makes an empty one. It reads names, marks
// and the last segment, whatever the backlog (P7). What a crash left of an entry
// that was not durable is cut off; damage before that stays, and Read tells it.
// Nothing is written before Run. An error is a wrong Config, a folder that cannot
// be used, or a log that a newer version wrote; damage is none.
func Open(cfg Config) (*Log, error) {
	return openOn(cfg, realDisk())
}

func openOn(cfg Config, d disk) (*Log, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := makeFolder(cfg.Dir, d); err != nil {
		return nil, err
	}
	folder, err := os.Open(cfg.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{
		cfg: cfg, logger: cfg.Logger, folder: folder, disk: d,
		room:  int(min(int64(cfg.MaxUnsynced), cfg.MaxBytes/2-segmentHeader)),
		space: space{dir: cfg.Dir, reserve: cfg.Reserve, ask: d.free},
		wake:  make(chan struct{}, 1), full: make(chan struct{}, 1), appended: make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
	if err := l.load(); err != nil {
		l.writer.close()
		l.marksFile.close()
		folder.Close()
		return nil, fmt.Errorf("segment log: %w", err)
	}
	signal(l.wake) // the last segment may be done with
	return l, nil
}

// makeFolder makes a folder, and those above it, and makes their names durable.
func makeFolder(path string, d disk) error {
	above := filepath.Dir(path)
	if err := os.Mkdir(path, 0o700); errors.Is(err, fs.ErrNotExist) && above != path {
		if err := makeFolder(above, d); err != nil {
			return err
		}
		return makeFolder(path, d)
	} else if err != nil {
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
			return nil
		}
		return err
	}
	folder, err := os.Open(above)
	if err != nil {
		return err
	}
	defer folder.Close()
	return d.names(folder)
}

func (l *Log) load() error {
	if err := l.list(); err != nil {
		return err
	}
	if err := l.readMarks(); err != nil {
		return err
	}
	l.forget()
	if err := l.continueLast(); err != nil {
		return err
	}
	if floor := l.marks.floor(); l.last < floor {
		// Its end is missing. What was given is not given again.
		if len(l.segments) > 0 {
			l.logger.Error("segment log ends before what was acknowledged", "dir", l.cfg.Dir, "last", l.last, "acked", floor)
		}
		l.last = floor
		l.writer.close()
	}
	l.next = l.last + 1
	// A name that a killed process made may not be durable yet.
	return l.disk.names(l.folder)
}

// list finds the segments and removes what was not finished.
func (l *Log) list() error {
	entries, err := os.ReadDir(l.cfg.Dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasSuffix(name, newSuffix) {
			if err := os.Remove(l.path(name)); err != nil {
				return err
			}
			continue
		}
		first, ok := parseName(name)
		if !ok {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		l.segments = append(l.segments, &segment{first: first, end: info.Size()})
		l.bytes += info.Size()
	}
	slices.SortFunc(l.segments, func(a, b *segment) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	return nil
}

// readMarks loads the marks, or makes them out of what there is.
func (l *Log) readMarks() error {
	file, m, found, err := loadMarks(l.path(marksName), l.disk)
	if err != nil {
		return err
	}
	l.marksFile, l.marks = file, m
	if found {
		// Written once more: what a process that was killed wrote, and could not
		// sync, looks as if it were on the disk.
		return l.marksFile.write(m)
	}
	if len(l.segments) > 0 {
		l.marks.acked = l.segments[0].first - 1
		l.logger.Error("marks of the segment log are lost, all that it holds is told again",
			"dir", l.cfg.Dir, "acked", l.marks.acked)
	} else if _, err := os.Lstat(l.path(marksName)); !errors.Is(err, fs.ErrNotExist) {
		l.logger.Error("marks of the segment log are lost, and it is empty", "dir", l.cfg.Dir)
	}
	err = l.createMarks(l.marks)
	if isFull(err) {
		// They say nothing yet that the names do not say.
		l.logger.Error("no room for the marks of the segment log: they are made when there is", "dir", l.cfg.Dir, "err", err)
		l.marksFile.missing = true
		return nil
	}
	return err
}

// continueLast finds the last durable place, and makes the last segment fit to
// be gone on with.
func (l *Log) continueLast() error {
	if len(l.segments) == 0 {
		return nil
	}
	seg := l.segments[len(l.segments)-1]
	l.last = seg.first - 1
	file, err := os.OpenFile(l.path(segmentName(seg.first)), os.O_RDWR, 0)
	if err != nil {
		return l.giveUpLast(seg, err)
	}
	header := make([]byte, segmentHeader)
	if _, err := file.ReadAt(header, 0); err != nil && !errors.Is(err, io.EOF) {
		file.Close()
		return l.giveUpLast(seg, err)
	}
	version, first, whole := decodeHeader(header)
	whole = whole && first == seg.first
	if whole && version > segmentVersion {
		file.Close()
		return fmt.Errorf("%s: %w", file.Name(), errNewer)
	}
	s := &scanner{file: file, off: segmentHeader, end: seg.end, place: seg.first, window: maxWindow}
	if err := l.walk(seg, s); err != nil {
		file.Close()
		return err
	}
	l.last = s.place - 1
	if s.patched {
		// Some of it cannot be read: nobody knows how many places were given.
		l.last += uint64(s.end-s.off) / minEntry
		file.Close()
		return nil
	}
	if !whole {
		// Its entries verify, its beginning does not: it is read, not gone on with.
		l.logger.Error("a segment of the segment log has a damaged header", "file", file.Name())
		err := l.disk.sync(file)
		file.Close()
		return err
	}
	if err := l.cutTail(seg, s); err != nil {
		file.Close()
		return err
	}
	l.writer.file, l.writer.size = file, seg.end
	return nil
}

// giveUpLast leaves a segment that cannot be read at all behind. How many places
// were given in it is not known, so that as many are as it has room for.
func (l *Log) giveUpLast(seg *segment, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	l.logger.Error("the last segment of the segment log cannot be read", "dir", l.cfg.Dir, "first", seg.first, "err", err)
	l.last += uint64(max(seg.end-segmentHeader, 0)) / minEntry
	return nil
}

// walk goes along the last segment up to where nothing verifies any more.
func (l *Log) walk(seg *segment, s *scanner) error {
	for {
		seg.note(point{place: s.place, off: s.off})
		_, err := s.next()
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errDamaged):
			at := s.off
			lost, ok, err := s.skip(math.MaxUint64)
			if err == nil && !ok {
				return nil
			}
			if err == nil {
				l.logger.Error("the last segment of the segment log is damaged", "file", s.file.Name(), "offset", at, "lost", lost)
				continue
			}
			if s.patch {
				return err
			}
			s.patch = true
		case !s.patch:
			l.logger.Error("the last segment of the segment log cannot be read whole", "file", s.file.Name(), "err", err)
			s.patch = true
		default:
			return err
		}
	}
}

// cutTail removes what is behind the last entry, and makes durable what a
// process that was killed may have left to the kernel.
func (l *Log) cutTail(seg *segment, s *scanner) error {
	if s.off < seg.end {
		l.logger.Warn("end of the segment log was not whole and is cut off",
			"file", s.file.Name(), "bytes", seg.end-s.off, "last", l.last)
		if err := s.file.Truncate(s.off); err != nil {
			return err
		}
		l.bytes -= seg.end - s.off
		seg.end = s.off
	}
	return l.disk.sync(s.file)
}
