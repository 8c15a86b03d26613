// Package seglog is a log of entries in segment files: appended at one end by
// one writer, read in order, and forgotten at the other end when acknowledged
// or, where the disk is short, dropped with a word about it (P7).
//
// What it promises:
//   - An entry whose Commit ended with nil is on the disk, and is read until it
//     is acknowledged or dropped (P1, P6).
//   - Places are never given twice to what was durable, and what is missing
//     among them is told by Read as lost. Nothing is missing silently (P7).
//   - Open and memory do not grow with the backlog (P7).
//   - A fault of the disk ends nothing: what was not stored is refused, and the
//     log works again as soon as the disk does.
package seglog

import (
	"bytes"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"edgeclaim"
)

// Limits of what is stored, in bytes.
const (
	// MaxPayload is the longest payload of an entry.
	MaxPayload = 1 << 20
	// MaxOwn is the longest of the caller's own bytes, kept beside the marks.
	MaxOwn = 1 << 10
)

// Defaults of a Config, and the smallest segment that it may ask for, in bytes.
const (
	DefaultSegmentBytes = 8 << 20
	DefaultMaxBytes     = 512 << 20
	DefaultMaxUnsynced  = 4 << 20
	MinSegmentBytes     = 4 << 10
)

// Config says where a log is and how large it may get. Numbers that are zero
// get their defaults.
type Config struct {
	// Dir is the log's folder, made with mode 0700 when it is missing. Who opens
	// a log has to see to it that nobody else does: the box's data folder has a
	// lock.
	Dir string
	// SegmentBytes is how large a segment grows: what is given back to the disk,
	// or dropped, at a time. Default 8 MiB, at least 4 KiB.
	SegmentBytes int64
	// MaxBytes is the quota of all segments together. Default 512 MiB, at least
	// two segments.
	MaxBytes int64
	// MaxUnsynced bounds the bytes that wait for the disk. Default 4 MiB; never
	// more than half of MaxBytes counts.
	MaxUnsynced int
	// Reserve is how many bytes of the file system are left alone. Default 0:
	// the log takes what there is.
	Reserve int64
	// Logger; nil: nothing is logged.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.SegmentBytes == 0 {
		c.SegmentBytes = DefaultSegmentBytes
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.MaxUnsynced == 0 {
		c.MaxUnsynced = DefaultMaxUnsynced
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Dir == "":
		return edgeclaim.Invalid("dir", "is empty")
	case c.SegmentBytes < MinSegmentBytes || c.SegmentBytes > math.MaxInt32:
		return edgeclaim.Invalid("segment_bytes", "want %d to %d", MinSegmentBytes, math.MaxInt32)
	case c.MaxBytes < 2*c.SegmentBytes:
		return edgeclaim.Invalid("max_bytes", "want two segments at least")
	case c.MaxUnsynced < 0:
		return edgeclaim.Invalid("max_unsynced", "is negative")
	case c.Reserve < 0:
		return edgeclaim.Invalid("reserve", "is negative")
	}
	return nil
}

// Entry is what a place, or a stretch of lost ones, holds.
type Entry struct {
	Place   uint64
	Payload []byte // nil where Lost is not 0; the caller may keep it
	// Lost: that many places, Place the last of them, hold nothing any more.
	Lost uint64
	// Damaged: they could not be read. Else the quota took them.
	Damaged bool
}

// Bounds says what a log holds.
type Bounds struct {
	// Acked is the last place that was acknowledged: it and all before it are
	// forgotten. Lost is the last that was dropped, 0 when none is behind Acked.
	// Last is the last durable one.
	Acked, Lost, Last uint64
	// Bytes and Segments are what lies on the disk.
	Bytes    int64
	Segments int
	// Reserved: the file system is down to what the log has to leave alone.
	Reserved bool
	// Dropped counts the places in (Acked, Lost].
	Dropped uint64
	// Failed counts the payloads whose Commit ended badly since Open.
	Failed uint64
}

// Log is an open log. Its methods may be called at the same time, Run once.
type Log struct {
	cfg    Config
	logger *slog.Logger
	room   int      // bytes that may wait for the disk
	folder *os.File // for syncing names
	disk   disk
	space  space

	// marksMu is held while the marks on the disk change. It is taken before mu.
	marksMu   sync.Mutex
	marksFile marksFile // under marksMu

	// mu is never held over anything slow.
	mu       sync.Mutex
	marks    marks      // as they are on the disk
	segments []*segment // by first place; entries are appended to the last
	bytes    int64      // of all segments
	last     uint64     // the last durable place
	next     uint64     // the next place to be given
	failed   uint64     // payloads whose commit ended badly
	waiting  []*group   // in order
	arrived  int        // calls of Append that waiting holds
	expected int        // calls that the writer waits for; 0: it does not
	unsynced int        // bytes of waiting, and of what the writer has
	spare    []byte     // a buffer to use again
	refusal  error      // why Append is refused; nil: it is not
	retry    time.Time  // when a refusal that is not final ends; else zero
	state    state
	end      func() // ends the running Run

	wake     chan struct{} // capacity 1: there is something to do
	full     chan struct{} // capacity 1: all whom the writer waits for are there
	appended chan struct{} // capacity 1: last has risen
	stopped  chan struct{} // closed when Run has returned

	writer writer // the running Run's own
}

// state is how far the log's life has come.
type state int

const (
	opened state = iota
	running
	ended // Run has returned
	closed
)

// disk is what may fail, so that tests can make it.
type disk struct {
	write func(f *os.File, b []byte, off int64) (int, error)
	sync  func(f *os.File) error // the file's data, and what it takes to find them
	names func(folder *os.File) error
	free  func(dir string) (int64, error)
}

func realDisk() disk {
	return disk{
		write: func(f *os.File, b []byte, off int64) (int, error) { return f.WriteAt(b, off) },
		sync:  datasync,
		names: (*os.File).Sync,
		free: func(dir string) (int64, error) {
			var stat unix.Statfs_t
			if err := unix.Statfs(dir, &stat); err != nil {
				return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
			}
			return int64(min(stat.Bavail, math.MaxInt64/uint64(max(stat.Bsize, 1)))) * int64(stat.Bsize), nil
		},
	}
}

func datasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err == nil {
			return nil
		}
		if err != unix.EINTR { //nolint:errorlint // a system call's bare number
			return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
	}
}

// Own returns the caller's own bytes as the last Ack left them; nil when there
// was none, or the marks were lost.
func (l *Log) Own() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.marks.own)
}

// Bounds says what the log holds now.
func (l *Log) Bounds() Bounds {
	low := l.space.low()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := Bounds{
		Acked: l.marks.acked, Lost: l.marks.lost, Last: l.last,
		Bytes: l.bytes, Segments: len(l.segments), Reserved: low, Failed: l.failed,
	}
	if b.Lost > b.Acked {
		b.Dropped = b.Lost - b.Acked
	}
	return b
}

// Appended says that there is more to read: after it is durable. One signal may
// stand for many entries; it has room for one.
func (l *Log) Appended() <-chan struct{} { return l.appended }

// Close ends Run where it still goes on, and gives the files back. What waits
// and was not stored ends with edgeclaim.ErrUnavailable.
func (l *Log) Close() error {
	l.mu.Lock()
	was, end := l.state, l.end
	l.state = closed
	l.refusal, l.retry = errClosed, time.Time{}
	l.mu.Unlock()
	switch was {
	case closed:
		return nil
	case running:
		end()
		<-l.stopped
	case opened, ended:
	}
	l.abandon(errClosed)
	l.marksMu.Lock()
	defer l.marksMu.Unlock()
	l.writer.close()
	l.marksFile.close()
	return l.folder.Close()
}

func (l *Log) path(name string) string { return filepath.Join(l.cfg.Dir, name) }

// signal tells whoever receives from c, without waiting for him.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
