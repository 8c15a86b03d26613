package seglog_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/internal/seglog"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		os.Exit(victim(dir))
	}
	_ = flag.Set("rapid.nofailfile", "true")
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what has to come.
const patience = 20 * time.Second

func config(t testing.TB) seglog.Config {
	t.Helper()
	return seglog.Config{Dir: filepath.Join(t.TempDir(), "log"), SegmentBytes: seglog.MinSegmentBytes}
}

// open opens a log and runs it; what it returns closes it.
func open(t testing.TB, cfg seglog.Config, disk ...seglog.Disk) (l *seglog.Log, shut func()) {
	t.Helper()
	if len(disk) == 0 {
		disk = append(disk, seglog.Disk{})
	}
	l, err := seglog.OpenOn(cfg, disk[0])
	noErr(t, err)
	ran := make(chan error, 1)
	go func() { ran <- l.Run(context.Background()) }()
	shut = sync.OnceFunc(func() {
		noErr(t, l.Close())
		if err := <-ran; err != nil && !errors.Is(err, os.ErrClosed) && !strings.Contains(err.Error(), "closed") {
			t.Error(err)
		}
	})
	t.Cleanup(shut)
	return l, shut
}

func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("the error is %v, want %v", err, want)
	}
}

// wait waits until what was appended is durable.
func wait(t testing.TB, c *edgeclaim.Commit) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := c.Wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("the commit does not end")
	}
	return err
}

// put appends payloads one by one and waits for the last.
func put(t testing.TB, l *seglog.Log, payloads ...string) uint64 {
	t.Helper()
	var last uint64
	for _, payload := range payloads {
		place, c, err := l.Append([]byte(payload))
		noErr(t, err)
		noErr(t, wait(t, c))
		last = place
	}
	return last
}

// payload is what place has in these tests.
func payload(place int) string {
	return fmt.Sprintf("payload of %d %s", place, strings.Repeat("x", place*7%200))
}

// fill appends the payloads of the places up to upto.
func fill(t testing.TB, l *seglog.Log, upto int) {
	t.Helper()
	for place := int(l.Bounds().Last) + 1; place <= upto; place++ {
		if got := put(t, l, payload(place)); got != uint64(place) {
			t.Fatalf("the place is %d, want %d", got, place)
		}
	}
}

// all reads everything behind after, a few at a time.
func all(t testing.TB, l *seglog.Log, after uint64) []seglog.Entry {
	t.Helper()
	var entries []seglog.Entry
	for {
		more, err := l.Read(after, 7, 300)
		noErr(t, err)
		if len(more) == 0 {
			return entries
		}
		entries = append(entries, more...)
		after = more[len(more)-1].Place
	}
}

// holds wants every place in (after, last] to be told once, in order, with its
// payload or as lost, and returns how many are lost.
func holds(t testing.TB, l *seglog.Log, after, last uint64) (lost uint64) {
	t.Helper()
	at := after
	for _, e := range all(t, l, after) {
		if e.Lost > 0 {
			if e.Payload != nil || e.Place-e.Lost > at {
				t.Fatalf("behind %d: %d lost up to %d", at, e.Lost, e.Place)
			}
			lost += e.Place - at
			at = e.Place
			continue
		}
		if e.Place != at+1 {
			t.Fatalf("behind %d comes %d", at, e.Place)
		}
		at = e.Place
		if got, want := string(e.Payload), payload(int(e.Place)); got != want {
			t.Fatalf("%d has %q, want %q", e.Place, got, want)
		}
	}
	if at != last {
		t.Fatalf("the last that is told is %d, want %d", at, last)
	}
	return lost
}

func copyOf(t testing.TB, cfg seglog.Config) seglog.Config {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	noErr(t, os.CopyFS(to, os.DirFS(cfg.Dir)))
	cfg.Dir = to
	return cfg
}

func segmentFiles(t testing.TB, cfg seglog.Config) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	noErr(t, err)
	slices.Sort(files)
	return files
}

func TestAppendReadAck(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l, shut := open(t, cfg)
	if b := l.Bounds(); b != (seglog.Bounds{}) || l.Own() != nil {
		t.Fatalf("a new log has %+v and %q", b, l.Own())
	}
	fill(t, l, 200)
	select {
	case <-l.Appended():
	default:
		t.Error("nobody says that there is more to read")
	}
	if lost := holds(t, l, 0, 200); lost > 0 {
		t.Fatalf("%d are lost", lost)
	}
	before := len(segmentFiles(t, cfg))
	noErr(t, l.Ack(120, []byte("own")))
	noErr(t, l.Ack(100, []byte("own again"))) // it does not go back
	holds(t, l, 120, 200)
	if got, err := l.Read(3, 1, 1); err != nil || len(got) != 1 || got[0].Place != 121 {
		t.Fatalf("read %+v, %v, want 121", got, err)
	}
	if now := len(segmentFiles(t, cfg)); now >= before || now != l.Bounds().Segments {
		t.Errorf("%d segments of %d are left, the bounds say %d", now, before, l.Bounds().Segments)
	}
	wantErr(t, l.Ack(201, nil), edgeclaim.ErrInvalid)
	wantErr(t, l.Ack(130, make([]byte, seglog.MaxOwn+1)), edgeclaim.ErrInvalid)
	shut()

	l, _ = open(t, cfg)
	if b := l.Bounds(); b.Acked != 120 || b.Last != 200 || string(l.Own()) != "own again" {
		t.Fatalf("after a start: %+v, %q", b, l.Own())
	}
	fill(t, l, 210)
	holds(t, l, 120, 210)
}

func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.MaxBytes, cfg.MaxUnsynced = 4*seglog.MinSegmentBytes, 1000
	l, err := seglog.Open(cfg) // nobody writes
	noErr(t, err)
	for _, bad := range [][][]byte{{{}}, {[]byte("a"), nil}, {make([]byte, seglog.MaxPayload+1)}, {make([]byte, 1000)}} {
		_, _, err := l.Append(bad...)
		wantErr(t, err, edgeclaim.ErrInvalid)
	}
	_, c, err := l.Append(make([]byte, 600))
	noErr(t, err)
	_, _, err = l.Append(make([]byte, 600))
	wantErr(t, err, edgeclaim.ErrUnavailable)
	last, also, err := l.Append(make([]byte, 100), make([]byte, 100))
	noErr(t, err)
	if last != 3 || also != c {
		t.Errorf("the last is %d, one commit for both: %v", last, also == c)
	}
	if got, err := l.Read(0, 10, 1000); err != nil || len(got) > 0 {
		t.Errorf("what is not durable is read: %v, %v", got, err)
	}
	noErr(t, l.Close())
	wantErr(t, wait(t, c), edgeclaim.ErrUnavailable)
	_, _, err = l.Append([]byte("late"))
	wantErr(t, err, edgeclaim.ErrUnavailable)
	_, err = l.Read(0, 10, 1000)
	wantErr(t, err, edgeclaim.ErrUnavailable)
	wantErr(t, l.Ack(0, []byte("late")), edgeclaim.ErrUnavailable)
	if err := l.Run(t.Context()); err == nil {
		t.Error("a closed log runs")
	}
	noErr(t, l.Close())
}

// TestRunStoresWhatWaits: what was taken before the end is stored, what comes
// after it is refused.
func TestRunStoresWhatWaits(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l, err := seglog.Open(cfg)
	noErr(t, err)
	var commits []*edgeclaim.Commit
	for place := 1; place <= 100; place++ { // more than a segment
		_, c, err := l.Append([]byte(payload(place)))
		noErr(t, err)
		commits = append(commits, c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	noErr(t, l.Run(ctx))
	for _, c := range commits {
		noErr(t, wait(t, c))
	}
	_, _, err = l.Append([]byte("late"))
	wantErr(t, err, edgeclaim.ErrUnavailable)
	holds(t, l, 0, 100)
	noErr(t, l.Ack(50, nil)) // needs no writer
	noErr(t, l.Close())
}

// TestReadBounds: as many as asked for, but one at least.
func TestReadBounds(t *testing.T) {
	t.Parallel()
	l, _ := open(t, config(t))
	put(t, l, "aaaa", "bbbb", "cccc", strings.Repeat("d", 5000), "e")
	for _, tt := range []struct {
		after             uint64
		maximum, maxBytes int
		want              string
	}{
		{0, 10, 0, "1"},
		{0, 10, 8, "1 2"},
		{0, 10, 11, "1 2"},
		{0, 2, 100, "1 2"},
		{2, 10, 100, "3"},
		{3, 10, 100, "4"},
		{0, 10, 1 << 20, "1 2 3 4 5"},
		{5, 10, 100, ""},
		{99, 10, 100, ""},
		{0, 0, 100, ""},
	} {
		entries, err := l.Read(tt.after, tt.maximum, tt.maxBytes)
		noErr(t, err)
		var got []string
		for _, e := range entries {
			got = append(got, fmt.Sprint(e.Place))
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("behind %d, %d, %d bytes: %s", tt.after, tt.maximum, tt.maxBytes, diff)
		}
	}
}

// TestIndex reads single entries anywhere in large segments, which the writer, a
// start or other readers have indexed.
func TestIndex(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.SegmentBytes = 256 << 10
	l, shut := open(t, cfg)
	const entries = 6000
	for place := 1; place <= entries; {
		var batch [][]byte
		for range 300 {
			batch = append(batch, []byte(payload(place)))
			place++
		}
		_, c, err := l.Append(batch...)
		noErr(t, err)
		noErr(t, wait(t, c))
	}
	for range 2 {
		for i := range uint64(2000) {
			after := i * 7919 % entries
			got, err := l.Read(after, 2, 1<<20)
			noErr(t, err)
			if got[0].Place != after+1 || string(got[0].Payload) != payload(int(after+1)) {
				t.Fatalf("behind %d comes %d, %d lost", after, got[0].Place, got[0].Lost)
			}
		}
		if lost := holds(t, l, 0, entries); lost > 0 {
			t.Fatalf("%d are lost", lost)
		}
		shut()
		l, shut = open(t, cfg)
	}
}

// TestEmptyFileIsGivenBack: a large segment that is acknowledged whole goes,
// though it is the last, and places go on.
func TestEmptyFileIsGivenBack(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l, shut := open(t, cfg)
	fill(t, l, 25)
	last := l.Bounds().Last
	noErr(t, l.Ack(last, nil))
	until(t, func() bool { return l.Bounds().Bytes == seglog.SegmentHeader })
	shut()
	l, _ = open(t, cfg)
	if b := l.Bounds(); b.Last != last || b.Acked != last || b.Segments != 1 {
		t.Fatalf("after a start: %+v", b)
	}
	fill(t, l, 40)
	holds(t, l, last, 40)
}

// until waits for what another goroutine does.
func until(t testing.TB, done func() bool) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it does not come about")
		}
	}
}

// TestReadWhileAppending: readers see every entry once and in order while it is
// written, acknowledged and dropped.
func TestReadWhileAppending(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l, _ := open(t, cfg)
	const writers, each = 8, 300
	done := make(chan error, writers)
	for range writers {
		go func() {
			for range each {
				_, c, err := l.Append([]byte(strings.Repeat("y", 100)), []byte("z"))
				if err == nil {
					err = c.Wait(context.Background())
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	deadline := time.After(patience)
	at := uint64(0)
	for at < 2*writers*each {
		entries, err := l.Read(at, 50, 1<<20)
		noErr(t, err)
		for _, e := range entries {
			if e.Place != at+1 || e.Lost > 0 {
				t.Fatalf("behind %d comes %+v", at, e)
			}
			at = e.Place
		}
		if len(entries) > 0 && at > 60 {
			noErr(t, l.Ack(at-60, nil))
			continue
		}
		select {
		case <-l.Appended():
		case <-deadline:
			t.Fatalf("nothing behind %d", at)
		}
	}
	for range writers {
		noErr(t, <-done)
	}
}
