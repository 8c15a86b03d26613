package seglog_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"edgeclaim"
	"edgeclaim/internal/seglog"
)

// TestQuota: the oldest go, whole segments at a time, and one entry says how many.
func TestQuota(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.MaxBytes = 4 * cfg.SegmentBytes
	l, shut := open(t, cfg)
	fill(t, l, 20)
	noErr(t, l.Ack(10, []byte("ten")))
	fill(t, l, 400)
	b := l.Bounds()
	if b.Acked != 10 || b.Lost < 200 || b.Lost > 390 || b.Dropped != b.Lost-10 || b.Bytes > cfg.MaxBytes || b.Reserved {
		t.Fatalf("the bounds are %+v", b)
	}
	counts(t, l, cfg)
	if lost := holds(t, l, 10, 400); lost != b.Dropped {
		t.Errorf("%d are told as lost, %d were dropped", lost, b.Dropped)
	}
	for _, after := range []uint64{0, 10, 11, b.Lost - 1} {
		got, err := l.Read(after, 1, 1)
		noErr(t, err)
		if len(got) != 1 || got[0].Place != b.Lost || got[0].Lost != b.Dropped || got[0].Damaged {
			t.Fatalf("behind %d: %+v, with %+v", after, got, b)
		}
	}
	shut()
	l, _ = open(t, cfg)
	if now := l.Bounds(); now != b {
		t.Fatalf("after a start: %+v, before %+v", now, b)
	}
	// An acknowledgement within the lost stretch makes it shorter, one behind it
	// ends it.
	noErr(t, l.Ack(b.Lost-5, []byte("within")))
	if got, err := l.Read(10, 1, 1); err != nil || got[0].Lost != 5 {
		t.Fatalf("read %+v, %v, want 5 lost", got, err)
	}
	noErr(t, l.Ack(b.Lost, []byte("at")))
	if now := l.Bounds(); now.Lost != 0 || now.Dropped != 0 || now.Acked != b.Lost {
		t.Fatalf("the bounds are %+v", now)
	}
	holds(t, l, b.Lost, 400)
}

// counts wants the bounds to say what is on the disk.
func counts(t *testing.T, l *seglog.Log, cfg seglog.Config) {
	t.Helper()
	var bytes int64
	files := segmentFiles(t, cfg)
	for _, file := range files {
		info, err := os.Stat(file)
		noErr(t, err)
		bytes += info.Size()
	}
	if b := l.Bounds(); bytes != b.Bytes || len(files) != b.Segments {
		t.Errorf("%d segments of %d bytes are there, the bounds are %+v", len(files), bytes, b)
	}
}

// faults makes a disk fail on demand.
type faults struct {
	write, sync atomic.Pointer[error] // of segments
	marks       atomic.Pointer[error]
	free        atomic.Int64
	half        atomic.Bool // a write that fails has written half
	begun       atomic.Bool // new files do not fail
}

func (f *faults) of(file *os.File, p *atomic.Pointer[error]) error {
	if filepath.Base(file.Name()) == "marks" || filepath.Base(file.Name()) == "marks.new" {
		p = &f.marks
	}
	if _, err := os.Lstat(file.Name()); err == nil && f.begun.Load() && strings.HasSuffix(file.Name(), ".new") {
		return nil
	}
	if err := p.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *faults) disk() seglog.Disk {
	return seglog.Disk{
		Write: func(file *os.File, b []byte, off int64) (int, error) {
			if err := f.of(file, &f.write); err != nil {
				if f.half.Load() {
					file.WriteAt(b[:len(b)/2], off)
				}
				return len(b) / 2, err
			}
			return file.WriteAt(b, off)
		},
		Sync: func(file *os.File) error {
			if err := f.of(file, &f.sync); err != nil {
				return err
			}
			return file.Sync()
		},
		Free: func(string) (int64, error) { return f.free.Load(), nil },
	}
}

// refusedPut appends some that must not be stored.
func refusedPut(t *testing.T, l *seglog.Log, want error) {
	t.Helper()
	one := []byte(payload(int(l.Bounds().Last + 1)))
	_, c, err := l.Append(one, one, one, one, one)
	if err == nil {
		err = wait(t, c)
	}
	wantErr(t, err, edgeclaim.ErrUnavailable)
	if !errors.Is(err, want) {
		t.Fatalf("the error is %v, want %v", err, want)
	}
}

// recovers wants the log to take entries again soon.
func recovers(t *testing.T, l *seglog.Log, text string) uint64 {
	t.Helper()
	var place uint64
	until(t, func() bool {
		at, c, err := l.Append([]byte(text))
		if err == nil {
			err = wait(t, c)
		}
		place = at
		return err == nil
	})
	return place
}

// TestFailingDisk: a write, or a sync, that fails refuses what it was for, gives
// its places again, and leaves nothing of it to read, now or after a start.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		what func(*faults) *atomic.Pointer[error]
		err  error
		half bool
		// leaves: the file is not written to again.
		leaves bool
	}{
		"write EIO":         {func(f *faults) *atomic.Pointer[error] { return &f.write }, unix.EIO, true, true},
		"write EIO, none":   {func(f *faults) *atomic.Pointer[error] { return &f.write }, unix.EIO, false, true},
		"write EFBIG":       {func(f *faults) *atomic.Pointer[error] { return &f.write }, unix.EFBIG, true, true},
		"write ENOSPC":      {func(f *faults) *atomic.Pointer[error] { return &f.write }, unix.ENOSPC, true, false},
		"sync EIO":          {func(f *faults) *atomic.Pointer[error] { return &f.sync }, unix.EIO, false, true},
		"sync ENOSPC":       {func(f *faults) *atomic.Pointer[error] { return &f.sync }, unix.ENOSPC, false, true},
		"sync EIO at first": {func(f *faults) *atomic.Pointer[error] { return &f.sync }, unix.EIO, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, f := config(t), &faults{}
			f.half.Store(tt.half)
			l, shut := open(t, cfg, f.disk())
			upto := 5
			if name == "sync EIO at first" {
				upto = 0
				f.begun.Store(true) // its segment has no entry, and is replaced
			}
			fill(t, l, upto)
			tt.what(f).Store(&tt.err)
			refusedPut(t, l, tt.err)
			refusedPut(t, l, tt.err) // while it is left alone
			tt.what(f).Store(nil)
			if got := holds(t, l, 0, uint64(upto)); got > 0 {
				t.Fatalf("%d are lost", got)
			}
			if place := recovers(t, l, payload(upto+1)); place != uint64(upto+1) {
				t.Fatalf("the next place is %d", place)
			}
			if files := len(segmentFiles(t, cfg)); upto > 0 && (files == 2) != tt.leaves {
				t.Errorf("%d segments, to leave the one that failed: %v", files, tt.leaves)
			}
			// What failed, the same size, must not stand behind what did not.
			again, shutAgain := open(t, copyOf(t, cfg))
			holds(t, again, 0, uint64(upto+1))
			shutAgain()
			fill(t, l, 60)
			holds(t, l, 0, 60)
			counts(t, l, cfg)
			killed := copyOf(t, cfg)
			shut()
			for _, left := range []seglog.Config{cfg, killed} {
				l, shut := open(t, left)
				if lost := holds(t, l, 0, 60); lost > 0 {
					t.Fatalf("after a start %d are lost", lost)
				}
				shut()
			}
		})
	}
}

// TestFailingNames: where a new segment's name cannot be made durable, nothing goes
// on in the one before, whose places the new one ends.
func TestFailingNames(t *testing.T) {
	t.Parallel()
	var fail atomic.Bool
	cfg := config(t)
	l, shut := open(t, cfg, seglog.Disk{Names: func(folder *os.File) error {
		if fail.Load() {
			return unix.EIO
		}
		return folder.Sync()
	}})
	fill(t, l, 20)
	fail.Store(true)
	_, c, err := l.Append(make([]byte, cfg.SegmentBytes-100))
	noErr(t, err)
	wantErr(t, wait(t, c), unix.EIO)
	fail.Store(false)
	recovers(t, l, payload(21))
	fill(t, l, 30)
	killed := copyOf(t, cfg)
	shut()
	l, _ = open(t, killed)
	if lost := holds(t, l, 0, 30); lost > 0 {
		t.Fatalf("%d are lost", lost)
	}
}

// TestFailingMarks: an Ack that fails changes nothing, and can be tried again;
// nothing is dropped whose loss cannot be written down.
func TestFailingMarks(t *testing.T) {
	t.Parallel()
	cfg, f := config(t), &faults{}
	cfg.MaxBytes = 3 * cfg.SegmentBytes
	l, shut := open(t, cfg, f.disk())
	fill(t, l, 50)
	eio := error(unix.EIO)
	noErr(t, l.Ack(10, []byte("ten")))
	f.marks.Store(&eio)
	for range 3 {
		wantErr(t, l.Ack(20, []byte("twenty")), edgeclaim.ErrUnavailable)
	}
	if b := l.Bounds(); b.Acked != 10 || string(l.Own()) != "ten" {
		t.Fatalf("after a failed Ack: %+v, %q", b, l.Own())
	}
	files := segmentFiles(t, cfg)
	var err error
	for range 200 {
		var c *edgeclaim.Commit
		if _, c, err = l.Append([]byte(payload(3))); err == nil {
			err = wait(t, c)
		}
		if err != nil {
			break
		}
	}
	wantErr(t, err, edgeclaim.ErrUnavailable)
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("it is gone: %v", err)
		}
	}
	f.marks.Store(nil)
	recovers(t, l, payload(3))
	for range 100 {
		put(t, l, payload(3))
	}
	noErr(t, l.Ack(20, []byte("twenty")))
	shut()
	l, _ = open(t, cfg)
	if b := l.Bounds(); b.Acked != 20 || string(l.Own()) != "twenty" || b.Lost < 20 {
		t.Fatalf("after a start: %+v, %q", b, l.Own())
	}
}

// TestFailedAckIsOverwritten: what an Ack that failed wrote may be on the disk. One
// that says what held before is not taken for done already.
func TestFailedAckIsOverwritten(t *testing.T) {
	t.Parallel()
	var fail atomic.Bool
	cfg := config(t)
	l, shut := open(t, cfg, seglog.Disk{Sync: func(f *os.File) error {
		if fail.Load() {
			return unix.EIO
		}
		return f.Sync()
	}})
	fill(t, l, 5)
	noErr(t, l.Ack(1, []byte("one")))
	fail.Store(true)
	wantErr(t, l.Ack(1, []byte("two")), unix.EIO)
	fail.Store(false)
	noErr(t, l.Ack(1, []byte("one")))
	shut()
	l, _ = open(t, cfg)
	if own := string(l.Own()); own != "one" {
		t.Fatalf("after a start own is %q", own)
	}
}

// TestReserve: below the reserve the oldest go, the last one too when it is large,
// and then nothing is taken until there is room.
func TestReserve(t *testing.T) {
	t.Parallel()
	cfg, f := config(t), &faults{}
	cfg.Reserve = 1 << 20
	f.free.Store(1 << 30)
	l, _ := open(t, cfg, f.disk())
	fill(t, l, 200)
	f.free.Store(cfg.Reserve - 1)
	until(t, func() bool { return l.Bounds().Reserved })
	// What is dropped counts as room until the disk is asked again.
	until(t, func() bool {
		_, c, err := l.Append([]byte("more"))
		if err == nil {
			err = wait(t, c)
		}
		return errors.Is(err, edgeclaim.ErrUnavailable)
	})
	b := l.Bounds()
	if b.Segments != 1 || b.Lost < 150 || b.Bytes > cfg.SegmentBytes/2 || !b.Reserved {
		t.Fatalf("the bounds are %+v", b)
	}
	f.free.Store(1 << 30)
	place := recovers(t, l, "again")
	until(t, func() bool { return !l.Bounds().Reserved })
	if got, err := l.Read(place-1, 1, 100); err != nil || string(got[0].Payload) != "again" {
		t.Fatalf("read %+v, %v", got, err)
	}
	told := all(t, l, 0)
	if told[0].Place != l.Bounds().Lost || told[0].Lost != l.Bounds().Lost {
		t.Fatalf("the first that is told is %+v, with %+v", told[0], l.Bounds())
	}
}

// TestFullAtFirst: a log for which there is no room yet opens all the same, for
// the box has other things to do than to keep it, and works when there is.
func TestFullAtFirst(t *testing.T) {
	t.Parallel()
	for name, marks := range map[string]string{"no log": "", "a log without marks": "marks"} {
		cfg := config(t)
		if marks != "" {
			cfg = written(t, 100)
			noErr(t, os.Remove(filepath.Join(cfg.Dir, marks)))
		}
		f := &faults{}
		full := error(unix.ENOSPC)
		f.write.Store(&full)
		f.marks.Store(&full)
		l, shut := open(t, cfg, f.disk())
		last := l.Bounds().Last
		refusedPut(t, l, unix.ENOSPC)
		wantErr(t, l.Ack(last, []byte("own")), edgeclaim.ErrUnavailable)
		f.write.Store(nil)
		f.marks.Store(nil)
		if at := recovers(t, l, payload(int(last+1))); at != last+1 {
			t.Errorf("%s: place %d, want %d", name, at, last+1)
		}
		noErr(t, l.Ack(last, []byte("own")))
		shut()
		l, _ = open(t, cfg)
		if b := l.Bounds(); b.Acked != last || string(l.Own()) != "own" {
			t.Errorf("%s: %+v, own %q", name, b, l.Own())
		}
		holds(t, l, last, last+1)
	}
}

// TestFullDisk fills a real file system: the oldest go for the newest, and where
// others have taken all of it the log waits for room, and loses nothing durable
// that it does not tell.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", 256<<10)); err != nil {
		t.Skipf("no small file system to fill: mount: %v (it takes root)", err)
	}
	t.Cleanup(func() { noErr(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	cfg := seglog.Config{Dir: filepath.Join(dir, "log"), SegmentBytes: 16 << 10}
	l, shut := open(t, cfg)
	fill(t, l, 3000)
	b := l.Bounds()
	if b.Lost == 0 || b.Bytes < 100<<10 {
		t.Fatalf("the bounds are %+v", b)
	}
	holds(t, l, 0, 3000)
	// Somebody else takes what each drop gives back.
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	noErr(t, err)
	defer ballast.Close()
	refused := false
	for range 2000 {
		for err = error(nil); err == nil; {
			_, err = ballast.Write(make([]byte, 4096))
		}
		_, c, err := l.Append([]byte(payload(int(l.Bounds().Last + 1))))
		if err == nil {
			err = wait(t, c)
		}
		if err != nil {
			wantErr(t, err, edgeclaim.ErrUnavailable)
			wantErr(t, err, unix.ENOSPC)
			refused = true
			break
		}
	}
	if !refused {
		t.Fatal("a full disk takes everything")
	}
	last := l.Bounds().Last
	holds(t, l, 0, last)
	noErr(t, l.Ack(l.Bounds().Lost, []byte("marks need no room")))
	noErr(t, ballast.Truncate(0))
	recovers(t, l, payload(int(last+1)))
	fill(t, l, int(last)+50)
	holds(t, l, l.Bounds().Acked, last+50)
	shut()
	l, _ = open(t, cfg)
	holds(t, l, l.Bounds().Acked, last+50)
}
