// Package audit is the box's memory of what it decided: an append-only log of
// JSON lines in the data folder, each bound to the one before it by a hash, so
// that a change, a cut or an insertion is found by Verify. It answers "who got
// in, who did not, and who changed what". DESIGN.md says what the chain proves
// and what it does not.
package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"edgeclaim"
)

// Defaults and limits of the log.
const (
	// DefaultSegmentBytes is the size of one file; a line is never split, so
	// that a file may be smaller, or of one line that is larger.
	DefaultSegmentBytes = 8 << 20
	// DefaultMaxBytes is what all files have together before the oldest goes.
	DefaultMaxBytes = 256 << 20
	// DefaultSyncEvery is how long an entry of Add may wait for its fsync: what
	// a power cut can take.
	DefaultSyncEvery = time.Second
	// DefaultRefusalsPerMinute is how many refusals of one kind and reason are
	// written one by one in a minute. The others are counted into one entry.
	DefaultRefusalsPerMinute = 600
	// BufferEntries and BufferBytes bound what waits to be written. As much
	// again may be on its way to a disk that does not take it.
	BufferEntries = 4096
	BufferBytes   = 4 << 20
	// BufferMust is how many entries of Must there is room for beyond them: what
	// strangers cause keeps no operator's change out of the log.
	BufferMust = 256

	minSegmentBytes = 1 << 10
	folderName      = "audit"     // in the data folder
	groupBytes      = 1 << 20     // written and fsynced at once, at most
	retryEvery      = time.Second // how often a disk that failed is tried
	refusalWindow   = time.Minute // of RefusalsPerMinute
	maxTallies      = 64          // pairs of kind and reason counted apart
	entryOverhead   = 512         // memory of an entry besides its strings
	halfFull        = BufferEntries / 2
)

// ErrStopped: Run has ended, or the log is closed.
var ErrStopped = errors.New("audit: the log has stopped")

// Config says where the log is and how large it gets. Zero values stand for
// the defaults.
type Config struct {
	// Dir is the data folder; the log is in its folder "audit", mode 0700. The
	// caller holds the data folder's lock.
	Dir string
	// SegmentBytes is the size of one file, at least 1 KiB.
	SegmentBytes int64
	// MaxBytes is the size of all files, at least twice SegmentBytes. Above it
	// the oldest go, and an entry on the chain says so (P7).
	MaxBytes int64
	// SyncEvery is how often entries of Add are written and fsynced.
	SyncEvery time.Duration
	// RefusalsPerMinute bounds the refusals written one by one, for each pair of
	// kind and reason. A refusal is an entry whose kind ends in ".refused"; claims
	// that make no credential count as such: known, again, waiting.
	RefusalsPerMinute int
	// Now stamps entries without a time; nil for the wall clock.
	Now func() time.Time
	// Logger hears when the log cannot be written, and when it can again; nil
	// for nobody.
	Logger *slog.Logger
}

// Head is the end of the chain: told to somebody else, it fixes all before it.
// A log without an entry has the zero Head.
type Head struct {
	Segment  string    `json:"segment"`  // name of the file
	Sequence uint64    `json:"sequence"` // of the last entry that is durable
	Hash     string    `json:"hash"`     // SHA-256 of its line, in hex
	Time     time.Time `json:"time"`     // the entry's
}

// Log writes entries. All methods are safe for concurrent use.
type Log struct {
	cfg    Config
	log    *slog.Logger
	folder folder
	hurry  chan struct{} // capacity 1: flush before the next tick

	mu      sync.Mutex
	pending []item
	bytes   int  // of pending
	urgent  bool // somebody waits in Must
	stopped bool
	lost    loss
	never   uint64 // all that were lost since Open
	tallies map[tallyKey]*tally
	head    Head

	// writing is held over a flush; it guards what is below and is taken before mu.
	writing  sync.Mutex
	batch    []item   // taken from pending, not durable yet, in the order of the file
	file     *os.File // nil: the next entry begins a segment
	tip      tip
	dirty    bool // there may be bytes behind the tip, to be cut off first
	buf      []byte
	segments []segment // oldest first; the last is file's, when that is not nil
	stuck    bool      // the oldest segment cannot be removed
	failing  bool
	tryAgain time.Time
	closed   bool
}

// An item is an entry on its way.
type item struct {
	Entry
	done   chan<- error // of Must, capacity 1; else nil
	victim uint64       // first sequence of the segment that goes once this is durable
}

// A tip is the last durable line of the chain, and where it ends in its file.
type tip struct {
	seq  uint64
	hash hash
	time time.Time
	size int64
}

// A loss is what did not fit into the buffer.
type loss struct {
	count    uint64
	from, to time.Time
}

// Open makes the log's folder, finds the end of the chain and mends what a
// crash left: an unfinished last line is cut off, and an entry says how many
// bytes. Damage that no crash explains is left as it is: the log goes on in a
// new file, whose first entry says so. It reads one file, or two. A disk that
// does not take the entry is no error; it is written as soon as it can be.
func Open(cfg Config) (*Log, error) { return open(cfg, nil) }

// open is Open; before, when there is one, is asked before every change of a
// file and can fail it.
func open(cfg Config, before func(op, name string) error) (*Log, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	l := &Log{
		cfg: cfg, log: cfg.Logger,
		folder:  folder{dir: filepath.Join(cfg.Dir, folderName), before: before},
		hurry:   make(chan struct{}, 1),
		tallies: map[tallyKey]*tally{},
	}
	if err := l.folder.make(); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := l.findEnd(); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.batch = append(l.batch, l.overQuota(l.tip.hash)...)
	l.flush(time.Now()) //nolint:errcheck // said in the log, and tried again by Run
	return l, nil
}

func (cfg *Config) complete() error {
	set := func(n *int64, standard int64) {
		if *n == 0 {
			*n = standard
		}
	}
	set(&cfg.SegmentBytes, DefaultSegmentBytes)
	set(&cfg.MaxBytes, DefaultMaxBytes)
	set((*int64)(&cfg.SyncEvery), int64(DefaultSyncEvery))
	if cfg.RefusalsPerMinute == 0 {
		cfg.RefusalsPerMinute = DefaultRefusalsPerMinute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Dir == "":
		return edgeclaim.Invalid("audit", "no data folder")
	case cfg.SegmentBytes < minSegmentBytes:
		return edgeclaim.Invalid("audit.segment_bytes", "less than %d", minSegmentBytes)
	case cfg.MaxBytes < 2*cfg.SegmentBytes:
		return edgeclaim.Invalid("audit.max_bytes", "less than two segments of %d", cfg.SegmentBytes)
	case cfg.SyncEvery < 0:
		return edgeclaim.Invalid("audit.sync_every", "less than nothing")
	case cfg.RefusalsPerMinute < 0:
		return edgeclaim.Invalid("audit.refusals_per_minute", "less than nothing")
	}
	return nil
}

// Head returns the end of what is durable.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Lost counts the entries since Open that will never be in the log.
func (l *Log) Lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.never
}

// Add hands over an entry and never waits for the disk: it is durable within
// SyncEvery while Run runs and the disk takes it. What does not fit into the
// buffer is counted, and an entry of KindLost says how many. Fields that are too
// long are cut (see Entry).
func (l *Log) Add(e Entry) {
	e = l.bounded(e)
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.counted(e, now) {
		l.put(item{Entry: e})
	}
}

// Must returns nil when the entry is durable. After an error of the disk or the
// end of ctx it may be durable later: it is kept and tried again as if it came
// by Add. Only edgeclaim.ErrInvalid (its kind) and edgeclaim.ErrUnavailable (the
// buffer is full) say that it is not. ErrStopped: Run has ended; Close writes it.
func (l *Log) Must(ctx context.Context, e Entry) error {
	if !validKind(e.Kind) {
		return edgeclaim.Invalid("kind", "not words of a to z with dots between them")
	}
	e = l.bounded(e)
	done := make(chan error, 1)
	l.mu.Lock()
	fits, stopped := l.put(item{Entry: e, done: done}), l.stopped
	l.urgent = l.urgent || fits
	l.mu.Unlock()
	if !fits {
		return fmt.Errorf("audit: too many entries wait: %w", edgeclaim.ErrUnavailable)
	}
	if stopped {
		return ErrStopped
	}
	l.wake()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("audit: %w", ctx.Err())
	}
}

// put adds to the buffer, or to the count of what is lost. The caller holds mu.
func (l *Log) put(it item) bool {
	size, entries, bytes := it.size(), BufferEntries, BufferBytes
	if it.done != nil {
		entries, bytes = entries+BufferMust, bytes+BufferMust*(BufferBytes/BufferEntries)
	}
	if len(l.pending) >= entries || l.bytes+size > bytes {
		if l.lost.count == 0 {
			l.lost.from = it.Time
		}
		l.lost.count++
		l.never++
		l.lost.to = it.Time
		return false
	}
	l.pending = append(l.pending, it)
	l.bytes += size
	if len(l.pending) == halfFull {
		l.wake()
	}
	return true
}

// wake never blocks: one call that nobody has taken yet is enough.
func (l *Log) wake() {
	select {
	case l.hurry <- struct{}{}:
	default:
	}
}

// Run writes what Add and Must hand over, until ctx ends and all of it is
// written. It is called once. The error says that the last of it was not.
func (l *Log) Run(ctx context.Context) error {
	ticker := time.NewTicker(l.cfg.SyncEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-l.hurry:
		case <-ctx.Done():
			return l.finish()
		}
		l.work()
	}
}

// Close writes what came after the end of Run, and closes the file. It is
// called after Run has returned; entries that come later are forgotten.
func (l *Log) Close() error {
	err := l.finish()
	l.writing.Lock()
	defer l.writing.Unlock()
	l.closed = true
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
		l.file = nil
	}
	return err
}
