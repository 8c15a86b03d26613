package seglog_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"edgeclaim/internal/seglog"
)

// written makes a log with the payloads of the places up to upto, and closes it.
func written(t testing.TB, upto int) seglog.Config {
	t.Helper()
	cfg := config(t)
	l, shut := open(t, cfg)
	fill(t, l, upto)
	shut()
	return cfg
}

func change(t testing.TB, file string, edit func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	noErr(t, err)
	noErr(t, os.WriteFile(file, edit(b), 0o600))
}

// TestTornTail cuts the last segment off at every byte of its last entry, and
// puts there what a crash leaves: nothing, zeros, or something else.
func TestTornTail(t *testing.T) {
	t.Parallel()
	whole := written(t, 10)
	last := filepath.Base(segmentFiles(t, whole)[0])
	size := seglog.EntryHeader + len(payload(10))
	for cut := 1; cut <= size; cut++ {
		for what, tail := range map[string][]byte{
			"nothing": nil,
			"zeros":   make([]byte, cut),
			"others":  bytes.Repeat([]byte{0xa5}, cut),
			"more":    make([]byte, 3000),
		} {
			cfg := copyOf(t, whole)
			change(t, filepath.Join(cfg.Dir, last), func(b []byte) []byte { return append(b[:len(b)-cut], tail...) })
			l, shut := open(t, cfg, seglog.Disk{Sync: func(*os.File) error { return nil }})
			if lost := holds(t, l, 0, 9); lost > 0 {
				t.Fatalf("%d cut off, then %s: %d are lost", cut, what, lost)
			}
			if cut%20 == 0 {
				fill(t, l, 30)
				shut()
				l, shut = open(t, cfg)
				if lost := holds(t, l, 0, 30); lost > 0 {
					t.Fatalf("%d cut off, then %s, and gone on with: %d are lost", cut, what, lost)
				}
			}
			shut()
		}
	}
}

// TestDamage damages what is not the end. All that is whole is read, what is not
// is told, and no place is given again that was given before.
func TestDamage(t *testing.T) {
	t.Parallel()
	const upto = 300
	whole := written(t, upto)
	files := segmentFiles(t, whole)
	if len(files) < 5 {
		t.Fatalf("%d segments are too few", len(files))
	}
	first := func(i int) uint64 {
		var place uint64
		_, err := fmt.Sscanf(filepath.Base(files[i]), "%d.seg", &place)
		noErr(t, err)
		return place
	}
	flip := func(off int) func([]byte) []byte {
		return func(b []byte) []byte { b[off] ^= 0x10; return b }
	}
	inLast := len(files) - 1
	for name, tt := range map[string]struct {
		segment int
		edit    func([]byte) []byte // nil: the file is removed
		lost    uint64
		orMore  uint64 // up to so many
	}{
		"header of a sealed one": {1, flip(3), 0, 0},
		"header of the last one": {inLast, flip(3), 0, 0},
		"payload, sealed":        {1, flip(seglog.SegmentHeader + 20), 1, 0},
		"payload, last":          {inLast, flip(seglog.SegmentHeader + 20), 1, 0},
		"sum, last":              {inLast, flip(seglog.SegmentHeader + 5), 1, 0},
		"length, sealed":         {1, flip(seglog.SegmentHeader), 1, 0},
		"length, last":           {inLast, flip(seglog.SegmentHeader), 1, 0},
		"length too large, last": {inLast, flip(seglog.SegmentHeader + 3), 1, 0},
		"a page of zeros, sealed": {2, func(b []byte) []byte {
			clear(b[1000:2000])
			return b
		}, 3, 17},
		"a sealed one is empty": {2, func([]byte) []byte { return nil }, first(3) - first(2), 0},
		"a sealed one is short": {2, func(b []byte) []byte { return b[:len(b)-1] }, 1, 0},
		"one is missing":        {2, nil, first(3) - first(2), 0},
		"two are one":           {2, func(b []byte) []byte { return append(b, b[seglog.SegmentHeader:]...) }, 0, 0},
		"the first is missing":  {0, nil, first(1) - 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := copyOf(t, whole)
			file := filepath.Join(cfg.Dir, filepath.Base(files[tt.segment]))
			if tt.edit == nil {
				noErr(t, os.Remove(file))
			} else {
				change(t, file, tt.edit)
			}
			l, shut := open(t, cfg)
			lost := holds(t, l, 0, upto)
			if lost < tt.lost || lost > tt.lost+tt.orMore {
				t.Errorf("%d are lost, want %d and %d more at most", lost, tt.lost, tt.orMore)
			}
			for _, e := range all(t, l, 0) {
				if e.Lost > 0 && !e.Damaged {
					t.Errorf("%+v is not said to be damaged", e)
				}
			}
			sameFromEverywhere(t, l, upto)
			fill(t, l, upto+50)
			if again := holds(t, l, 0, upto+50); again != lost {
				t.Errorf("%d are lost, %d were", again, lost)
			}
			shut()
			l, _ = open(t, cfg)
			if again := holds(t, l, 0, upto+50); again != lost {
				t.Errorf("after a start %d are lost, %d were", again, lost)
			}
		})
	}
}

// sameFromEverywhere reads from behind each place: a stretch is told the same.
func sameFromEverywhere(t *testing.T, l *seglog.Log, upto uint64) {
	t.Helper()
	told := map[uint64]seglog.Entry{}
	for _, e := range all(t, l, 0) {
		told[e.Place] = e
	}
	for after := range upto {
		got, err := l.Read(after, 1, 1)
		noErr(t, err)
		if len(got) != 1 {
			t.Fatalf("behind %d nothing is read", after)
		}
		if want := told[got[0].Place]; got[0].Lost != want.Lost || !bytes.Equal(got[0].Payload, want.Payload) {
			t.Fatalf("behind %d: %+v, want %+v", after, got[0], want)
		}
	}
}

// TestUnreadableSegment: a fault that stays does not hold up what is behind it.
func TestUnreadableSegment(t *testing.T) {
	t.Parallel()
	folder := func(path string) error { return os.Mkdir(path, 0o700) }               // reading it fails, even for root
	loop := func(path string) error { return os.Symlink(filepath.Base(path), path) } // opening it does
	for name, how := range map[string]struct {
		index int
		spoil func(string) error
	}{"sealed": {1, folder}, "last": {-1, folder}, "sealed, not opened": {1, loop}} {
		cfg := written(t, 100)
		files := segmentFiles(t, cfg)
		bad := files[(how.index+len(files))%len(files)]
		noErr(t, os.Remove(bad))
		noErr(t, how.spoil(bad))
		l, shut := open(t, cfg)
		last := l.Bounds().Last
		if last < 100 {
			t.Fatalf("%s: places begin again behind %d", name, last)
		}
		var err error
		for range 3 {
			for after := uint64(0); err == nil && after < last; {
				var entries []seglog.Entry
				if entries, err = l.Read(after, 1, 1); err == nil {
					after = entries[0].Place
				}
			}
			if err == nil {
				t.Fatalf("%s: the first faults are not told", name)
			}
			err = nil
		}
		if lost := holds(t, l, 0, last); lost == 0 {
			t.Errorf("%s: nothing is lost", name)
		}
		put(t, l, "one more")
		shut()
	}
}

// TestMarks damages the marks: one slot less is one Ack less, none is everything
// again.
func TestMarks(t *testing.T) {
	t.Parallel()
	whole := written(t, 100)
	l, shut := open(t, whole)
	noErr(t, l.Ack(40, []byte("forty")))
	noErr(t, l.Ack(60, []byte("sixty")))
	shut()
	firstThere := l.Bounds().Acked // set below from the files
	fmt.Sscanf(filepath.Base(segmentFiles(t, whole)[0]), "%d.seg", &firstThere)
	for name, tt := range map[string]struct {
		edit func([]byte) []byte
		want []uint64
	}{
		"whole":   {func(b []byte) []byte { return b }, []uint64{60}},
		"slot 0":  {func(b []byte) []byte { b[100] ^= 1; return b }, []uint64{40, 60}},
		"slot 1":  {func(b []byte) []byte { b[seglog.SlotBytes+100] ^= 1; return b }, []uint64{40, 60}},
		"short":   {func(b []byte) []byte { return b[:seglog.SlotBytes] }, []uint64{40, 60}},
		"both":    {func(b []byte) []byte { b[100] ^= 1; b[seglog.SlotBytes+100] ^= 1; return b }, []uint64{firstThere - 1}},
		"empty":   {func([]byte) []byte { return nil }, []uint64{firstThere - 1}},
		"zeros":   {func(b []byte) []byte { clear(b); return b }, []uint64{firstThere - 1}},
		"missing": {nil, []uint64{firstThere - 1}},
	} {
		cfg := copyOf(t, whole)
		file := filepath.Join(cfg.Dir, "marks")
		if tt.edit == nil {
			noErr(t, os.Remove(file))
		} else {
			change(t, file, tt.edit)
		}
		for range 2 { // and it stays so
			l, shut := open(t, cfg)
			acked := l.Bounds().Acked
			own := map[uint64]string{60: "sixty", 40: "forty"}[acked]
			if (acked != tt.want[0] && acked != tt.want[len(tt.want)-1]) || string(l.Own()) != own {
				t.Errorf("%s: acked is %d, want %v, own %q", name, acked, tt.want, l.Own())
			}
			if lost := holds(t, l, acked, 100); acked >= firstThere-1 && lost > 0 {
				t.Errorf("%s: %d are lost", name, lost)
			}
			shut()
		}
	}
}

// TestNewer: what a newer version wrote is not touched.
func TestNewer(t *testing.T) {
	t.Parallel()
	cfg := written(t, 5)
	change(t, segmentFiles(t, cfg)[0], func(b []byte) []byte {
		binary.LittleEndian.PutUint32(b[8:], 2)
		binary.LittleEndian.PutUint32(b[20:], seglog.Checksum(b[:20]))
		return b
	})
	if l, err := seglog.Open(cfg); err == nil {
		l.Close()
		t.Error("it opens")
	}
}

// TestLostEnd: where the end of the log is gone, but was acknowledged, its places
// are not given again.
func TestLostEnd(t *testing.T) {
	t.Parallel()
	cfg := written(t, 100)
	l, shut := open(t, cfg)
	noErr(t, l.Ack(95, nil))
	shut()
	for _, file := range segmentFiles(t, cfg) {
		change(t, file, func(b []byte) []byte { return b[:seglog.SegmentHeader] })
	}
	l, shut = open(t, cfg)
	if place := put(t, l, payload(96)); place != 96 {
		t.Fatalf("%d is given, want 96", place)
	}
	holds(t, l, 95, 96)
	shut()
	noErr(t, os.Remove(segmentFiles(t, cfg)[0]))
	for _, file := range segmentFiles(t, cfg) {
		noErr(t, os.Remove(file))
	}
	l, _ = open(t, cfg)
	fill(t, l, 97)
	holds(t, l, 95, 97)
}

// FuzzDamage changes bytes of a segment, the last or another, at will. Nothing
// panics, each place is told once, and an entry is told as it was or as lost.
func FuzzDamage(f *testing.F) {
	whole := written(f, 60)
	files := segmentFiles(f, whole)
	if len(files) < 2 {
		f.Fatal("want two segments")
	}
	f.Add(uint8(0), uint16(30), []byte{1, 2, 3}, false)
	f.Add(uint8(1), uint16(24), make([]byte, 9), false)
	f.Add(uint8(1), uint16(100), seglog.AppendEntry(nil, []byte("false"), 45), true)
	f.Add(uint8(0), uint16(0), bytes.Repeat([]byte{0xff}, 200), true)
	f.Fuzz(func(t *testing.T, which uint8, at uint16, with []byte, cut bool) {
		cfg := copyOf(t, whole)
		index := int(which) % len(files)
		change(t, filepath.Join(cfg.Dir, filepath.Base(files[index])), func(b []byte) []byte {
			at := int(at) % (len(b) + 1)
			out := append(append([]byte(nil), b[:at]...), with...)
			if !cut && at+len(with) < len(b) {
				out = append(out, b[at+len(with):]...)
			}
			return out
		})
		l, shut := open(t, cfg, seglog.Disk{Sync: func(*os.File) error { return nil }})
		defer shut()
		last := l.Bounds().Last
		if index != len(files)-1 && last != 60 {
			t.Fatalf("the last is %d", last)
		}
		told := uint64(0)
		for _, e := range all(t, l, 0) {
			if e.Lost == 0 && e.Place != told+1 || e.Place <= told || e.Lost > e.Place-told {
				t.Fatalf("behind %d comes %+v", told, e)
			}
			told = e.Place
			// What the fuzzer wrote as an entry of its place is one.
			if e.Lost == 0 && string(e.Payload) != payload(int(told)) && !bytes.Contains(with, e.Payload) {
				t.Fatalf("%d has %q", told, e.Payload)
			}
		}
		if told != last {
			t.Fatalf("told up to %d, the last is %d", told, last)
		}
		place, c, err := l.Append([]byte("new"))
		noErr(t, err)
		noErr(t, wait(t, c))
		if got, err := l.Read(last, 1, 1); err != nil || len(got) != 1 || got[0].Place != place || string(got[0].Payload) != "new" {
			t.Fatalf("%d is read as %+v, %v", place, got, err)
		}
	})
}

// FuzzFindEntry: what is found behind damage verifies, and is within bounds.
func FuzzFindEntry(f *testing.F) {
	two := seglog.AppendEntry(seglog.AppendEntry(nil, []byte("seven"), 7), []byte("eight"), 8)
	f.Add(append([]byte{9, 9, 9}, two...), uint64(5), uint64(100))
	f.Add(two, uint64(6), uint64(8))
	f.Add(two, uint64(7), uint64(8))
	f.Fuzz(func(t *testing.T, rest []byte, place, limit uint64) {
		if place > limit || limit > 1<<40 {
			return
		}
		off, lost := seglog.FindEntry(rest, place, limit)
		if lost == 0 {
			return
		}
		size := int(binary.LittleEndian.Uint32(rest[off:]))
		found := rest[off+seglog.EntryHeader : off+seglog.EntryHeader+size]
		want := seglog.AppendEntry(nil, found, place+lost)
		if place+lost > limit || off == 0 || !bytes.HasPrefix(rest[off:], want) {
			t.Fatalf("at %d, %d behind %d", off, lost, place)
		}
	})
}

// FuzzMarks: a slot is good or damaged, whatever it holds.
func FuzzMarks(f *testing.F) {
	f.Add(make([]byte, seglog.SlotBytes))
	f.Add([]byte("edgemark"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := seglog.DecodeMarks(b); err == nil {
			t.Errorf("% x passes for marks", b)
		}
	})
}
