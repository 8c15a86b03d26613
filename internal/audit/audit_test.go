package audit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var atNoon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// config is of small segments and a clock that stands.
func config(t testing.TB) audit.Config {
	t.Helper()
	return audit.Config{
		Dir: t.TempDir(), SegmentBytes: 2048, MaxBytes: 4 << 20,
		SyncEvery: time.Millisecond, Now: func() time.Time { return atNoon },
	}
}

func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func opened(t testing.TB, cfg audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(cfg)
	noErr(t, err)
	t.Cleanup(func() { noErr(t, l.Close()) })
	return l
}

// running is a log with its Run; stop ends both.
func running(t testing.TB, cfg audit.Config) (l *audit.Log, stop func()) {
	t.Helper()
	l, err := audit.Open(cfg)
	noErr(t, err)
	return l, run(t, l)
}

func run(t testing.TB, l *audit.Log) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		noErr(t, <-ended)
		noErr(t, l.Close())
	})
	t.Cleanup(stop)
	return stop
}

func minted(n int) audit.Entry {
	return audit.Entry{
		Kind: audit.KindClaimMinted, Who: audit.WhoDevice, Source: "192.0.2.7",
		Device: fmt.Sprintf("00000000-0000-5000-8000-%012d", n), Hardware: fmt.Sprintf("AA:BB:%d", n),
	}
}

// written makes a log of n entries besides the first, and closes it.
func written(t testing.TB, cfg audit.Config, n int) audit.Head {
	t.Helper()
	l, err := audit.Open(cfg)
	noErr(t, err)
	for i := range n {
		l.Add(minted(i))
		l.Work()
	}
	noErr(t, l.Close())
	return l.Head()
}

func verified(t testing.TB, cfg audit.Config) audit.Report {
	t.Helper()
	r, err := audit.Verify(cfg.Dir, nil)
	noErr(t, err)
	return r
}

func wantOK(t testing.TB, cfg audit.Config, entries uint64) audit.Report {
	t.Helper()
	r := verified(t, cfg)
	if !r.OK() || r.Entries != entries {
		t.Fatalf("%d entries and problems %+v, want %d and none", r.Entries, r.Problems, entries)
	}
	return r
}

func files(t testing.TB, cfg audit.Config) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(cfg.Dir, "audit", "*.jsonl"))
	noErr(t, err)
	slices.Sort(names)
	return names
}

func contents(t testing.TB, cfg audit.Config) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range files(t, cfg) {
		text, err := os.ReadFile(name)
		noErr(t, err)
		all[filepath.Base(name)] = string(text)
	}
	return all
}

// put makes a log of given files, in a folder of its own.
func put(t testing.TB, contents map[string]string) audit.Config {
	t.Helper()
	cfg := config(t)
	noErr(t, os.Mkdir(filepath.Join(cfg.Dir, "audit"), 0o700))
	for name, text := range contents {
		noErr(t, os.WriteFile(filepath.Join(cfg.Dir, "audit", name), []byte(text), 0o600))
	}
	return cfg
}

type line struct {
	Sequence uint64            `json:"seq"`
	Prev     string            `json:"prev"`
	Time     time.Time         `json:"time"`
	Kind     string            `json:"kind"`
	Hardware string            `json:"hardware_id"`
	Device   string            `json:"device_id"`
	Source   string            `json:"source"`
	Reason   string            `json:"reason"`
	Count    uint64            `json:"count"`
	Detail   map[string]string `json:"detail"`
	Sum      string            `json:"sum"`
}

func linesOf(t testing.TB, cfg audit.Config) []line {
	t.Helper()
	var out bytes.Buffer
	noErr(t, audit.Export(cfg.Dir, &out, time.Time{}, time.Time{}))
	var lines []line
	for text := range strings.Lines(out.String()) {
		var l line
		noErr(t, json.Unmarshal([]byte(text), &l))
		lines = append(lines, l)
	}
	return lines
}

func kinds(t testing.TB, cfg audit.Config) []string {
	t.Helper()
	var all []string
	for _, l := range linesOf(t, cfg) {
		all = append(all, l.Kind)
	}
	return all
}

// TestFormat: what is in the file is a contract with whoever reads it elsewhere.
func TestFormat(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l := opened(t, cfg)
	l.Add(audit.Entry{
		Time: atNoon.Add(1500 * time.Millisecond), Kind: audit.KindClaimRefused, Who: audit.WhoDevice,
		Source: "192.0.2.7", Device: "d", Tenant: "t", Hardware: "é\n\"\\\u202e\U0001F600\xff\x7f", Key: "k", Template: "tp",
		Reason: "unknown_key", Count: 3, Detail: map[string]string{"b": "2", "a": "1"},
	})
	l.Work()
	text := contents(t, cfg)["audit-00000000000000000001.jsonl"]
	first, second, _ := strings.Cut(text, "\n")
	begun := `{"seq":1,"prev":"` + strings.Repeat("0", 64) + `","time":"2026-11-23T12:00:00Z","kind":"audit.begun","who":"box"`
	begun += `,"sum":"` + sum(begun, 16) + `"}`
	if diff := cmp.Diff(begun, first); diff != "" {
		t.Errorf("the first line (-want +got):\n%s", diff)
	}
	want := `{"seq":2,"prev":"` + sum(first, 32) + `","time":"2026-11-23T12:00:01.5Z","kind":"claim.refused","who":"device"` +
		`,"source":"192.0.2.7","device_id":"d","tenant_id":"t","hardware_id":"\u00e9\u000a\"\\\u202e\ud83d\ude00\ufffd\u007f"` +
		`,"key_id":"k","template_id":"tp","reason":"unknown_key","count":3,"detail":{"a":"1","b":"2"}`
	want += `,"sum":"` + sum(want, 16) + `"}` + "\n"
	if diff := cmp.Diff(want, second); diff != "" {
		t.Errorf("the second line (-want +got):\n%s", diff)
	}
	if got, want := l.Head(), (audit.Head{
		Segment: "audit-00000000000000000001.jsonl", Sequence: 2,
		Hash: sum(strings.TrimSuffix(second, "\n"), 32), Time: atNoon.Add(1500 * time.Millisecond),
	}); got != want {
		t.Errorf("the head is %+v, want %+v", got, want)
	}
	if r := wantOK(t, cfg, 2); r.Head != l.Head() {
		t.Errorf("Verify's head is %+v, want %+v", r.Head, l.Head())
	}
	if got := linesOf(t, cfg)[1].Hardware; got != "é\n\"\\\u202e\U0001F600\ufffd\x7f" {
		t.Errorf("read back %q", got)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	written(t, cfg, 1)
	folder := filepath.Join(cfg.Dir, "audit")
	noErr(t, os.Chmod(folder, 0o755))           //nolint:gosec // that is the fault
	noErr(t, os.Chmod(files(t, cfg)[0], 0o644)) //nolint:gosec // that is the fault
	opened(t, cfg)
	for name, want := range map[string]os.FileMode{folder: 0o700, files(t, cfg)[0]: 0o600} {
		info, err := os.Stat(name)
		noErr(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]audit.Config{
		"no folder":         {},
		"small segments":    {Dir: t.TempDir(), SegmentBytes: 1023},
		"one segment":       {Dir: t.TempDir(), SegmentBytes: 4096, MaxBytes: 8191},
		"negative sync":     {Dir: t.TempDir(), SyncEvery: -1},
		"negative refusals": {Dir: t.TempDir(), RefusalsPerMinute: -1},
	} {
		if _, err := audit.Open(cfg); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	opened(t, audit.Config{Dir: t.TempDir()})
}

// TestBounds: whatever a caller or a stranger puts in, a line is readable and
// within its limit.
func TestBounds(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l := opened(t, cfg)
	long := strings.Repeat("\x00", 1<<20)
	e := audit.Entry{
		Time: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC), Kind: "NOT a kind" + long, Who: long, Source: long,
		Device: long, Tenant: long, Hardware: strings.Repeat("é", 200), Key: long, Template: long, Reason: long,
		Count: 1<<64 - 1, Detail: map[string]string{},
	}
	for i := range 100 {
		e.Detail[fmt.Sprintf("%03d", i)+long] = long
	}
	l.Add(e)
	l.Work()
	r := wantOK(t, cfg, 2)
	got := linesOf(t, cfg)[1]
	if got.Kind != audit.KindMisnamed || !strings.HasPrefix(got.Detail["kind"], "NOT a kind") || len(got.Detail) != 17 ||
		got.Hardware != strings.Repeat("é", 128)+"…" || !got.Time.Equal(atNoon) {
		t.Errorf("stored %+v", got)
	}
	for _, text := range contents(t, cfg) {
		if len(text) > audit.MaxLine || r.Entries != 2 {
			t.Errorf("a line of %d bytes", len(text))
		}
	}
	for _, kind := range []string{"", ".", "a.", ".a", "a..b", "A", "a b", "a_b", "é", strings.Repeat("a", 49)} {
		if err := l.Must(t.Context(), audit.Entry{Kind: kind}); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("kind %q: %v, want ErrInvalid", kind, err)
		}
	}
}

// TestAddKeepsNothingOfTheCaller: the map may be used again at once.
func TestAddKeepsNothingOfTheCaller(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l := opened(t, cfg)
	detail := map[string]string{"a": "1"}
	l.Add(audit.Entry{Kind: "alarm", Detail: detail})
	detail["a"] = "2"
	l.Work()
	if got := linesOf(t, cfg)[1].Detail["a"]; got != "1" {
		t.Errorf("stored %q", got)
	}
}

// TestMust: nil means that it is in the file, without any wait for a tick.
func TestMust(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.SyncEvery = time.Hour
	l, stop := running(t, cfg)
	for n := range uint64(20) {
		noErr(t, l.Must(t.Context(), minted(int(n))))
		if r := verified(t, cfg); r.Last != n+2 || !r.OK() || l.Head() != r.Head {
			t.Fatalf("after entry %d: last is %d, problems %v, head %+v", n, r.Last, r.Problems, l.Head())
		}
	}
	l.Add(minted(20))
	if r := verified(t, cfg); r.Last != 21 {
		t.Fatalf("Add was written before its time: %+v", r)
	}
	stop() // writes all
	wantOK(t, cfg, 22)
}

func TestMustWithoutRun(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l, err := audit.Open(cfg)
	noErr(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Must(ctx, minted(0)); !errors.Is(err, context.Canceled) {
		t.Errorf("Must without Run: %v", err)
	}
	noErr(t, l.Run(ctx))
	if err := l.Must(t.Context(), minted(1)); !errors.Is(err, audit.ErrStopped) {
		t.Errorf("Must after Run: %v, want ErrStopped", err)
	}
	wantOK(t, cfg, 2)
	noErr(t, l.Close())
	wantOK(t, cfg, 3)
	noErr(t, l.Close())
}

func TestManyWriters(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.SegmentBytes, cfg.MaxBytes = 16<<10, 4<<20
	l, stop := running(t, cfg)
	const writers, each = 16, 100
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				l.Add(minted(w*each + i))
				if i%20 == 0 {
					if err := l.Must(t.Context(), audit.Entry{Kind: audit.KindDeviceRevoked, Who: "uid:0"}); err != nil {
						t.Error(err)
					}
					l.Head()
				}
			}
		})
	}
	// Verify and Export work meanwhile.
	for range 20 {
		if r := verified(t, cfg); !r.OK() {
			t.Errorf("while it runs: %+v", r.Problems)
		}
		linesOf(t, cfg)
	}
	wg.Wait()
	stop()
	r := wantOK(t, cfg, 1+writers*each+writers*each/20)
	if r.Segments < 10 || r.Lost != 0 {
		t.Errorf("%d segments, %d lost", r.Segments, r.Lost)
	}
	seen := map[string]bool{}
	for _, l := range linesOf(t, cfg) {
		if l.Kind == audit.KindClaimMinted {
			seen[l.Device] = true
		}
	}
	if len(seen) != writers*each {
		t.Errorf("%d entries of Add, want %d", len(seen), writers*each)
	}
}

// TestBufferFull: what does not fit is counted, said, and never waited for; who
// fills it keeps no operator's change out of the log.
func TestBufferFull(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.SegmentBytes, cfg.MaxBytes = 1<<20, 16<<20
	l := opened(t, cfg)
	for i := range audit.BufferEntries + 5 {
		l.Add(minted(i))
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range audit.BufferMust {
		if err := l.Must(gone, minted(0)); !errors.Is(err, context.Canceled) {
			t.Fatalf("Must with a full buffer: %v", err)
		}
	}
	if err := l.Must(t.Context(), minted(0)); !errors.Is(err, edgeclaim.ErrUnavailable) {
		t.Errorf("Must with no room at all: %v", err)
	}
	l.Work()
	r := wantOK(t, cfg, audit.BufferEntries+audit.BufferMust+2)
	last := linesOf(t, cfg)[r.Entries-1]
	if r.Lost != 6 || last.Kind != audit.KindLost || last.Count != 6 {
		t.Errorf("%d lost, the last entry is %+v", r.Lost, last)
	}
	// By size too.
	for range audit.BufferEntries {
		l.Add(audit.Entry{Kind: "alarm", Detail: map[string]string{
			"a": strings.Repeat("a", 250), "b": strings.Repeat("b", 250), "c": strings.Repeat("c", 250),
		}})
	}
	l.Work()
	if r := verified(t, cfg); r.Lost < 700 || !r.OK() {
		t.Errorf("%d lost, problems %v", r.Lost, r.Problems)
	}
}

// TestRefusals: above the rate a minute's refusals of one kind and reason are
// one entry; others are not held up.
func TestRefusals(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.RefusalsPerMinute, cfg.SyncEvery, cfg.Now = 10, time.Second, nil
	synctest.Test(t, func(t *testing.T) {
		l, stop := running(t, cfg)
		began := time.Now()
		refuse := func(n int, reason string) {
			for i := range n {
				l.Add(audit.Entry{Kind: audit.KindClaimRefused, Reason: reason, Source: fmt.Sprintf("192.0.2.%d", i)})
			}
		}
		refuse(25, "unknown_key")
		refuse(10, "expired")
		l.Add(minted(1))
		<-time.After(59*time.Second + 500*time.Millisecond) // the bubble's own time
		refuse(5, "unknown_key")
		wantOK(t, cfg, 1+10+10+1)
		<-time.After(2 * time.Second)
		wantOK(t, cfg, 1+10+10+1+1)
		got := linesOf(t, cfg)[22]
		if got.Kind != audit.KindClaimRefused || got.Reason != "unknown_key" || got.Count != 20 || got.Source != "" ||
			got.Detail["last_source"] != "192.0.2.4" || got.Detail["from"] != began.UTC().Format(time.RFC3339Nano) {
			t.Errorf("the minute's entry is %+v", got)
		}
		refuse(12, "unknown_key") // a new minute
		stop()                    // does not wait for its end
		lines := linesOf(t, cfg)
		if last := lines[len(lines)-1]; len(lines) != 34 || last.Count != 2 {
			t.Errorf("%d lines, the last is %+v", len(lines), last)
		}
	})
}

// TestClaimsThatMakeNothing: whoever has a good key may repeat them without end,
// and pushes nothing else out of the log; what leaves a trace in the registry is
// written one by one.
func TestClaimsThatMakeNothing(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]int{
		audit.KindClaimKnown: 11, audit.KindClaimAgain: 11, audit.KindClaimWaiting: 11,
		audit.KindClaimMinted: 30, audit.KindDeviceRevoked: 30,
	} {
		cfg := config(t)
		cfg.RefusalsPerMinute = 10
		l, err := audit.Open(cfg)
		noErr(t, err)
		for range 30 {
			l.Add(audit.Entry{Kind: kind})
		}
		noErr(t, l.Close())
		lines := linesOf(t, cfg)[1:]
		if len(lines) != want || want == 11 && lines[10].Count != 20 {
			t.Errorf("%s: %d lines, want %d; the last is %+v", kind, len(lines), want, lines[len(lines)-1])
		}
	}
}

// TestRefusalsOfManyReasons: memory is bounded whatever the reasons are.
func TestRefusalsOfManyReasons(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.RefusalsPerMinute = 1
	l, err := audit.Open(cfg)
	noErr(t, err)
	for i := range 200 {
		for range 2 {
			l.Add(audit.Entry{Kind: audit.KindLoginRefused, Reason: fmt.Sprint(i)})
		}
	}
	noErr(t, l.Close())
	total := uint64(0)
	var various line
	for _, l := range linesOf(t, cfg)[1:] {
		total += max(l.Count, 1)
		if l.Kind == audit.KindVarious {
			various = l
		}
	}
	if total != 400 || various.Count != 2*(200-64)-1 {
		t.Errorf("%d refusals said, want 400; the rest is %+v", total, various)
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	minute := 0
	cfg.Now = func() time.Time { minute++; return atNoon.Add(time.Duration(minute) * time.Minute) }
	written(t, cfg, 30)
	all := strings.Join(slices.Collect(func(yield func(string) bool) {
		for _, name := range files(t, cfg) {
			text, err := os.ReadFile(name)
			noErr(t, err)
			if !yield(string(text)) {
				return
			}
		}
	}), "")
	for _, tc := range []struct{ from, to, lines int }{{0, 0, 31}, {5, 0, 27}, {0, 5, 4}, {5, 7, 2}, {99, 0, 0}} {
		bound := func(minute int) (at time.Time) {
			if minute > 0 {
				at = atNoon.Add(time.Duration(minute) * time.Minute)
			}
			return at
		}
		var out bytes.Buffer
		noErr(t, audit.Export(cfg.Dir, &out, bound(tc.from), bound(tc.to)))
		if n := strings.Count(out.String(), "\n"); n != tc.lines || !strings.Contains(all, out.String()) {
			t.Errorf("from %d to %d: %d lines, want %d", tc.from, tc.to, n, tc.lines)
		}
	}
	// A damaged line is left out and said.
	name := files(t, cfg)[1]
	text, err := os.ReadFile(name)
	noErr(t, err)
	text[100] ^= 1
	noErr(t, os.WriteFile(name, text, 0o600))
	var out bytes.Buffer
	if err := audit.Export(cfg.Dir, &out, time.Time{}, time.Time{}); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("export of a damaged log: %v", err)
	}
	if n := strings.Count(out.String(), "\n"); n != 30 {
		t.Errorf("%d lines, want 30", n)
	}
	if err := audit.Export(t.TempDir(), &out, time.Time{}, time.Time{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("export of nothing: %v", err)
	}
}

// TestQuota: the oldest files go, the chain says so, and the size is bounded.
func TestQuota(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.MaxBytes = 5 * cfg.SegmentBytes
	l := opened(t, cfg)
	for i := range 300 {
		l.Add(minted(i))
		l.Work()
		var size int
		for _, text := range contents(t, cfg) {
			size += len(text)
		}
		if int64(size) > cfg.MaxBytes {
			t.Fatalf("%d bytes, want at most %d", size, cfg.MaxBytes)
		}
		if i%10 == 0 {
			if r := verified(t, cfg); !r.OK() {
				t.Fatalf("after %d: %+v", i, r.Problems)
			}
		}
	}
	r := verified(t, cfg)
	if !r.OK() || r.First < 100 || r.Entries != r.Last-r.First+1 || r.Segments < 4 {
		t.Fatalf("%+v", r)
	}
	// A file more that goes is not covered by what the chain says.
	noErr(t, os.Remove(files(t, cfg)[0]))
	if r := verified(t, cfg); r.OK() {
		t.Error("a missing beginning is not found")
	}
}

// TestSmallerQuota: a quota that was lowered is kept at the next start.
func TestSmallerQuota(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	written(t, cfg, 100)
	before := len(files(t, cfg))
	cfg.MaxBytes = 2 * cfg.SegmentBytes
	head := written(t, cfg, 0)
	if n := len(files(t, cfg)); before < 10 || n > 12 {
		t.Errorf("%d files, then %d", before, n)
	}
	r := verified(t, cfg)
	if !r.OK() || r.Head != head {
		t.Errorf("%+v", r)
	}
}

type journal struct{ lines []slog.Record }

func (*journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	j.lines = append(j.lines, r)
	return nil
}
func (j *journal) WithAttrs([]slog.Attr) slog.Handler { return j }
func (j *journal) WithGroup(string) slog.Handler      { return j }

func sum(text string, n int) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:n])
}
