package acceptance

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a disk of so many MiB, which is root's to do.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	options := "size=" + strconv.Itoa(size) + "m,mode=0700"
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "edgeclaim-test", dir).CombinedOutput(); err != nil {
		t.Skipf("mounting a small disk takes root: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// ballast is a file that takes what is free of a disk.
type ballast struct {
	t    testing.TB
	path string
}

// fill leaves so many bytes free, however many there are now.
func (f *ballast) fill(leave int64) {
	f.t.Helper()
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	var disk syscall.Statfs_t
	info, err := file.Stat()
	if err = errors.Join(err, syscall.Statfs(f.path, &disk)); err != nil {
		f.t.Fatal(err)
	}
	more := int64(disk.Bavail)*disk.Bsize - leave
	if more <= 0 {
		return
	}
	// The box writes too: what is not there any more cannot be taken.
	if err := syscall.Fallocate(int(file.Fd()), 0, info.Size(), more); err != nil && !errors.Is(err, syscall.ENOSPC) {
		f.t.Fatal(err)
	}
}

func (f *ballast) drop() {
	f.t.Helper()
	if err := os.Remove(f.path); err != nil {
		f.t.Fatal(err)
	}
}

// fullUntil leaves so many bytes free, over and over, for the box gives room
// back, until enough, and gives the room back then.
func (l *telemetryLedger) fullUntil(leave int64, what string, enough func() bool) {
	l.t.Helper()
	start := time.Now()
	until(l.t, what, func() bool {
		l.disk.fill(leave)
		return enough()
	})
	l.disk.drop()
	l.site.log = append(l.site.log, what+" ("+time.Since(start).Round(time.Millisecond).String()+")")
}

// tear makes the newest segment file of a box that is dead end as a power cut
// may leave it: behind all that was acknowledged, an entry that never came to
// its end, or blocks that were never written.
func tear(t testing.TB, data string, chance *rand.Rand) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(data, "telemetry", "points", "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatalf("segment files: %v, %v", files, err)
	}
	newest := slices.Max(files)
	content, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 1+chance.IntN(300))
	for i := range noise {
		noise[i] = byte(chance.Uint32())
	}
	tail := noise
	switch chance.IntN(4) {
	case 0:
		tail = make([]byte, 1+chance.IntN(8192))
	case 1: // the length of an entry, and not so many bytes
		tail = append([]byte{255, 3, 0, 0}, noise...)
	case 2: // what stands elsewhere, and has no business here
		tail = content[min(len(content), 24):min(len(content), 24+len(noise))]
	}
	file, err := os.OpenFile(newest, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write(tail)
	if err = errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}

// metric reads one figure of the box's, as it is written with its labels. It is
// false while the box is not there.
func (b *box) metric(name string) (float64, bool) {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get("http://" + b.metricsAddr + "/metrics")
	if err != nil {
		return 0, false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			figure, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return figure, err == nil
		}
	}
	return 0, false
}

// The figures of the box that the tests of telemetry read.
const (
	pendingTelemetry = `edgeclaim_outbox_pending{lane="tel"}`
	droppedTelemetry = `edgeclaim_outbox_dropped_total{lane="tel"}`
	reservedDisk     = `edgeclaim_telemetry_reserved`
)

// getsOn waits until done, for as long as the figure goes on changing.
func getsOn(t testing.TB, what string, look func() (figure uint64, done bool)) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	var latest uint64
	for {
		figure, done := look()
		if done {
			return
		}
		if figure != latest {
			latest = figure
			deadline.Reset(patience)
		}
		select {
		case <-deadline.C:
			t.Fatalf("nothing has moved for %v, at %d, and not yet: %s", patience, latest, what)
		case <-tick.C:
		}
	}
}
