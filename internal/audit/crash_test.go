package audit_test

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"edgeclaim/internal/audit"
)

// A disk remembers what a power cut would leave, and takes a picture of the
// folder before every change of a file.
type disk struct {
	t       *testing.T
	cfg     audit.Config
	killed  []map[string]string // the process was killed
	cut     []map[string]string // the power was cut, and nothing but what was fsynced is there
	durable map[string]string
	synced  string // being fsynced
	ops     map[string]int
	acked   []uint64 // at each picture: the last sequence that is durable
	head    func() audit.Head
}

func (d *disk) before(op, name string) error {
	d.settle()
	d.ops[op]++
	d.killed = append(d.killed, contents(d.t, d.cfg))
	d.cut = append(d.cut, maps.Clone(d.durable))
	d.acked = append(d.acked, d.head().Sequence)
	switch op {
	case "sync", "sync folder":
		d.synced = name
	}
	return nil
}

// settle makes durable what the operation before this one fsynced.
func (d *disk) settle() {
	if d.synced != "" {
		d.durable[d.synced] = contents(d.t, d.cfg)[d.synced]
		d.synced = ""
	}
}

// TestCrashBetweenAnyTwoSteps writes through rotations and the quota, and
// starts again from what a kill, and a power cut, before every single change
// of a file leaves: nothing that was durable is lost, nothing has to be
// explained, and the log goes on.
func TestCrashBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.MaxBytes = 3 * cfg.SegmentBytes
	d := &disk{t: t, cfg: cfg, durable: map[string]string{}, ops: map[string]int{}, head: func() audit.Head { return audit.Head{} }}
	l, err := audit.OpenAsking(cfg, d.before)
	noErr(t, err)
	d.head = l.Head
	for i := range 40 {
		l.Add(minted(i))
		l.Work()
	}
	noErr(t, l.Close())
	if d.ops["create"] < 5 || d.ops["remove"] < 2 || d.ops["sync folder"] != d.ops["create"] || d.ops["write"] != d.ops["sync"] {
		t.Fatalf("the steps are %v", d.ops)
	}
	for i := range d.killed {
		for what, left := range map[string]map[string]string{"kill": d.killed[i], "power cut": d.cut[i]} {
			left := put(t, left)
			left.MaxBytes = cfg.MaxBytes
			l, err := audit.Open(left)
			noErr(t, err)
			if got := l.Head().Sequence; got < d.acked[i] {
				t.Fatalf("%s before step %d: the log ends at %d, %d was durable", what, i, got, d.acked[i])
			}
			l.Add(minted(1000))
			noErr(t, l.Close())
			if r := verified(t, left); !r.OK() || r.Head != l.Head() || r.Unfinished != 0 {
				t.Fatalf("%s before step %d: %+v", what, i, r)
			}
		}
	}
}

// TestTornAtEveryStep is TestCrashBetweenAnyTwoSteps within a write: half of
// what the next write brings is there.
func TestTornAtEveryStep(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.MaxBytes = 3 * cfg.SegmentBytes
	d := &disk{t: t, cfg: cfg, durable: map[string]string{}, ops: map[string]int{}, head: func() audit.Head { return audit.Head{} }}
	l, err := audit.OpenAsking(cfg, d.before)
	noErr(t, err)
	d.head = l.Head
	for i := range 30 {
		l.Add(minted(2 * i))
		l.Add(minted(2*i + 1))
		l.Work()
	}
	noErr(t, l.Close())
	for i := 1; i < len(d.killed); i++ {
		for name, after := range d.killed[i] {
			before := d.killed[i-1][name]
			for _, n := range []int{1, 40, 300, len(after) - len(before) - 1} {
				if n <= 0 || n >= len(after)-len(before) {
					continue
				}
				left := maps.Clone(d.killed[i])
				left[name] = after[:len(before)+n]
				torn := put(t, left)
				l, err := audit.Open(torn)
				noErr(t, err)
				noErr(t, l.Close())
				if r := verified(t, torn); !r.OK() || l.Head().Sequence < d.acked[i-1] {
					t.Fatalf("step %d, %d bytes: %+v", i, n, r)
				}
			}
		}
	}
}

// TestFailingDisk fails each kind of step, once and for long: nobody waits,
// the program's log is not flooded, nothing is written twice or out of order,
// and all that fits into the buffer is written in the end.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	for _, failing := range []string{"create", "sync folder", "write", "sync", "truncate", "remove"} {
		for _, times := range []int{1, 2, 50} {
			t.Run(fmt.Sprintf("%s=%d", failing, times), func(t *testing.T) {
				t.Parallel()
				failsAndRecovers(t, failing, times)
			})
		}
	}
}

func failsAndRecovers(t *testing.T, failing string, times int) {
	cfg := config(t)
	cfg.MaxBytes = 3 * cfg.SegmentBytes
	var said journal
	cfg.Logger = slog.New(&said)
	left, armed := times, false
	l, err := audit.OpenAsking(cfg, func(op, _ string) error {
		// A truncation comes only after a write or an fsync that failed.
		if armed && left > 0 && (op == failing || failing == "truncate" && left == times && op == "sync") {
			left--
			return unix.EIO
		}
		return nil
	})
	noErr(t, err)
	armed = true
	n := 0
	for ; left > 0 || n < 60; n++ {
		if n > 400 {
			t.Fatalf("%s was never asked for: %d left", failing, left)
		}
		l.Add(minted(n))
		l.WorkNow()
	}
	noErr(t, l.Close())
	r := verified(t, cfg)
	if !r.OK() || r.Lost != 0 || r.Head != l.Head() {
		t.Fatalf("%+v", r)
	}
	next := n
	for _, line := range slices.Backward(linesOf(t, cfg)) {
		if line.Kind != audit.KindClaimMinted {
			continue
		}
		if next--; line.Device != minted(next).Device {
			t.Fatalf("%s stands where %d is due", line.Device, next)
		}
	}
	alarms := 0
	for _, r := range said.lines {
		if r.Level == slog.LevelError {
			alarms++
		}
	}
	if alarms == 0 || alarms > 2 {
		t.Errorf("%d alarms: %v", alarms, said.lines)
	}
}

// TestMustFails: who waits is told, and the entry is written all the same once
// the disk takes it.
func TestMustFails(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	fails := make(chan error, 1)
	l, err := audit.OpenAsking(cfg, func(op, _ string) error {
		select {
		case err := <-fails:
			return err
		default:
			return nil
		}
	})
	noErr(t, err)
	stop := run(t, l)
	fails <- unix.ENOSPC
	if err := l.Must(t.Context(), minted(1)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Must on a full disk: %v", err)
	}
	noErr(t, l.Must(t.Context(), minted(2)))
	stop()
	wantOK(t, cfg, 3)
}

// tmpfs mounts a small file system, or skips the test where that is refused.
func tmpfs(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("no small file system to fill: mount: %v (it takes root)", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// TestFullDisk: the box goes on, what does not fit is counted, and said once
// there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	mount := tmpfs(t, 6<<20)
	cfg.Dir = filepath.Join(mount, "data")
	cfg.SegmentBytes, cfg.MaxBytes = 64<<10, 64<<20
	var said journal
	cfg.Logger = slog.New(&said)
	ballast := filepath.Join(mount, "ballast")
	noErr(t, os.WriteFile(ballast, make([]byte, 4<<20), 0o600))
	l, err := audit.Open(cfg)
	noErr(t, err)
	const entries = 20_000
	for i := range entries {
		l.Add(minted(i))
		if i%100 == 0 {
			l.WorkNow()
		}
	}
	if r := verified(t, cfg); r.Entries > 10_000 || len(said.lines) != 1 {
		t.Fatalf("%d entries fit, said %v", r.Entries, said.lines)
	}
	noErr(t, os.Remove(ballast))
	noErr(t, l.Close())
	r := verified(t, cfg)
	if !r.OK() || r.Head != l.Head() || r.Lost == 0 || r.Entries+r.Lost != entries+2 {
		t.Fatalf("%+v", r)
	}
	if len(said.lines) != 2 || said.lines[0].Level != slog.LevelError {
		t.Errorf("said %v", said.lines)
	}
}

// TestOpenOnAFullDisk: the box starts, and the log begins when there is room.
func TestOpenOnAFullDisk(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	full := true
	l, err := audit.OpenAsking(cfg, func(string, string) error {
		if full {
			return unix.ENOSPC
		}
		return nil
	})
	noErr(t, err)
	l.Add(minted(1))
	if len(contents(t, cfg)) != 0 || l.Head() != (audit.Head{}) {
		t.Fatalf("written %v", contents(t, cfg))
	}
	full = false
	noErr(t, l.Close())
	wantOK(t, cfg, 2)
}
