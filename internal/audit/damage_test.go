package audit_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"edgeclaim/internal/audit"
)

// last returns the name of the newest file of a log.
func last(contents map[string]string) string { return slices.Max(slices.Collect(maps.Keys(contents))) }

// TestTornLastLine cuts the last line at every byte, as a crash does: all
// before it is there, the log goes on, and an entry says what was cut off.
func TestTornLastLine(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	written(t, cfg, 2)
	whole := contents(t, cfg)
	name := last(whole)
	text := whole[name]
	start := strings.LastIndex(text[:len(text)-1], "\n") + 1
	step := 1
	if testing.Short() {
		step = 3
	}
	for _, zeros := range []int{0, 100, 100_000} {
		for end := start; end < len(text); end += step {
			if zeros > 0 && end == len(text)-1 {
				continue // a whole line and something behind it: see TestWholeLineWithoutNewline
			}
			cfg := put(t, map[string]string{name: text[:end] + strings.Repeat("\x00", zeros)})
			torn := end - start + zeros
			if r := wantOK(t, cfg, 2); r.Unfinished != int64(torn) {
				t.Fatalf("cut at %d: %d bytes unfinished, want %d", end, r.Unfinished, torn)
			}
			written(t, cfg, 1)
			want := []string{audit.KindBegun, audit.KindClaimMinted, audit.KindRepaired, audit.KindClaimMinted}
			if torn == 0 {
				want = slices.Delete(want, 2, 3)
			}
			wantOK(t, cfg, uint64(len(want)))
			if got := kinds(t, cfg); !slices.Equal(got, want) {
				t.Fatalf("cut at %d: %q, want %q", end, got, want)
			}
			if torn > 0 && linesOf(t, cfg)[2].Detail["bytes"] != fmt.Sprint(torn) {
				t.Fatalf("cut at %d: said %v", end, linesOf(t, cfg)[2].Detail)
			}
		}
	}
}

// TestTornFirstLine is the same with the first line of a segment, and of all.
func TestTornFirstLine(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	written(t, cfg, 20)
	whole := contents(t, cfg)
	step := 1
	if testing.Short() {
		step = 7
	}
	for name, text := range whole {
		before := maps.Clone(whole)
		maps.DeleteFunc(before, func(n, _ string) bool { return n > name })
		entries := uint64(0)
		for n, text := range before {
			if n < name {
				entries += uint64(strings.Count(text, "\n"))
			}
		}
		for end := 0; end <= strings.Index(text, "\n"); end += step {
			before[name] = text[:end]
			cfg := put(t, before)
			wantOK(t, cfg, entries)
			if entries == 0 {
				continue // the next loop's
			}
			l := opened(t, cfg)
			if end == 0 && l.Head() != verified(t, cfg).Head {
				t.Fatalf("the head is %+v", l.Head())
			}
			l.Add(minted(1))
			l.Work()
			if r := wantOK(t, cfg, entries+1+uint64(min(end, 1))); r.Head != l.Head() || r.Segments != len(before) {
				t.Fatalf("%s cut at %d: %+v", name, end, r)
			}
		}
	}
	text := whole["audit-00000000000000000001.jsonl"]
	for end := range strings.Index(text, "\n") + 1 {
		cfg := put(t, map[string]string{"audit-00000000000000000001.jsonl": text[:end]})
		written(t, cfg, 1)
		want := []string{audit.KindBegun, audit.KindRepaired, audit.KindClaimMinted}
		if end == 0 {
			want = slices.Delete(want, 1, 2)
		}
		if got := kinds(t, cfg); !slices.Equal(got, want) || !verified(t, cfg).OK() {
			t.Fatalf("cut at %d: %q, want %q", end, got, want)
		}
	}
}

// TestEveryByteCounts changes every byte of a log, one at a time.
func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	written(t, cfg, 15)
	whole := contents(t, cfg)
	if len(whole) < 3 {
		t.Fatalf("%d files", len(whole))
	}
	step := 1
	if testing.Short() {
		step = 13
	}
	for name, text := range whole {
		path := filepath.Join(cfg.Dir, "audit", name)
		for i := 0; i < len(text); i += step {
			changed := []byte(text)
			for _, to := range []byte{text[i] ^ 1<<rand.IntN(8), text[i] ^ 0x20, 0, '\n', byte(rand.IntN(256))} {
				if to == text[i] {
					continue
				}
				changed[i] = to
				noErr(t, os.WriteFile(path, changed, 0o600))
				if r := verified(t, cfg); r.OK() {
					t.Fatalf("%s: byte %d, %q made %q, is not found", name, i, text[i], to)
				}
			}
		}
		noErr(t, os.WriteFile(path, []byte(text), 0o600))
	}
	wantOK(t, cfg, 16)
}

// TestTampering takes away, doubles, swaps and moves lines and files.
func TestTampering(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	head := written(t, cfg, 30)
	whole := contents(t, cfg)
	names := slices.Sorted(maps.Keys(whole))
	rapid.Check(t, func(rt *rapid.T) {
		changed := maps.Clone(whole)
		name := rapid.SampledFrom(names).Draw(rt, "name")
		lines := slices.Collect(strings.Lines(whole[name]))
		i := rapid.IntRange(0, len(lines)-1).Draw(rt, "i")
		j := rapid.IntRange(0, len(lines)-1).Draw(rt, "j")
		other := rapid.SampledFrom(names).Draw(rt, "other")
		switch rapid.SampledFrom([]string{"delete", "double", "swap", "insert", "delete file", "swap files", "copy file", "empty file", "cut end"}).Draw(rt, "op") {
		case "delete":
			lines = slices.Delete(lines, i, i+1)
			changed[name] = strings.Join(lines, "")
		case "double":
			changed[name] = strings.Join(slices.Insert(lines, j, lines[i]), "")
		case "swap":
			lines[i], lines[j] = lines[j], lines[i]
			changed[name] = strings.Join(lines, "")
		case "insert":
			changed[name] = strings.Join(slices.Insert(lines, i, "{}\n"), "")
		case "delete file":
			delete(changed, name)
		case "swap files":
			changed[name], changed[other] = changed[other], changed[name]
		case "copy file":
			changed[strings.Replace(name, "audit-00", "audit-01", 1)] = changed[name]
		case "empty file":
			changed[name] = ""
		case "cut end":
			changed[name] = strings.Join(lines[:i], "")
		}
		if maps.Equal(changed, whole) {
			return
		}
		cfg := put(t, changed)
		// Only what is cut off at the very end takes the head that was told.
		r, err := audit.Verify(cfg.Dir, &head)
		if err != nil || r.OK() {
			rt.Fatalf("not found: %+v, %v", r, err)
		}
		r, err = audit.Verify(cfg.Dir, nil)
		if err != nil || r.OK() && r.Last >= head.Sequence {
			rt.Fatalf("not found without the head: %+v, %v", r, err)
		}
	})
}

// TestWholeLineWithoutNewline: something in the place of the last newline is
// damage, not a line that a crash cut; it is left as it is.
func TestWholeLineWithoutNewline(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	written(t, cfg, 2)
	whole := contents(t, cfg)
	name := last(whole)
	for _, end := range []string{"\x00", "x", "\x0b", "\xff", " ", "}}"} {
		damaged := strings.TrimSuffix(whole[name], "\n") + end
		cfg := put(t, map[string]string{name: damaged})
		before := verified(t, cfg)
		wantLeft(t, cfg, name, damaged, 1)
		if len(before.Problems) != 1 || before.Problems[0].Line != 3 || before.Problems[0].Sequence != 3 {
			t.Errorf("%q: %+v", end, before.Problems)
		}
	}
}

// wantLeft opens a damaged log: the file stays as it is, the log goes on behind
// it, and Verify finds the damage and nothing else, at the next starts too.
func wantLeft(t *testing.T, cfg audit.Config, name, damaged string, problems int) {
	t.Helper()
	for range 2 {
		written(t, cfg, 1)
		if contents(t, cfg)[name] != damaged {
			t.Fatal("the damaged file was changed")
		}
		r := verified(t, cfg)
		if len(r.Problems) != problems || r.Segments != 2 {
			t.Fatalf("%d segments, problems %+v, want %d", r.Segments, r.Problems, problems)
		}
	}
	var said []line
	text := contents(t, cfg)[last(contents(t, cfg))]
	for _, l := range linesOf(t, put(t, map[string]string{last(contents(t, cfg)): text})) {
		if l.Kind == audit.KindDamaged {
			said = append(said, l)
		}
	}
	if len(said) != 1 || said[0].Detail["file"] != name || said[0].Detail["what"] == "" {
		t.Fatalf("said %+v", said)
	}
}

// TestDamagedMiddle: damage in the newest file is never mended.
func TestDamagedMiddle(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.SegmentBytes = 1 << 20
	written(t, cfg, 5)
	whole := contents(t, cfg)
	name := last(whole)
	lines := slices.Collect(strings.Lines(whole[name]))
	for i := range lines {
		changed := slices.Clone(lines)
		changed[i] = strings.Replace(changed[i], `"kind":"`, `"kind":"x`, 1)
		damaged := strings.Join(changed, "")
		problems := 2 // the line, and the next one, which stands on what it was
		if i == len(lines)-1 {
			problems = 1
		}
		wantLeft(t, put(t, map[string]string{name: damaged}), name, damaged, problems)
	}
	// Two lines in one, a line in two, a long one, and nothing but noise.
	for _, tc := range []struct {
		damaged  string
		problems int
	}{
		{strings.Replace(strings.Join(lines, ""), "}\n{", "} {", 1), 2},
		{strings.Replace(strings.Join(lines, ""), `,"who"`, "\n,", 1), 3},
		{lines[0] + strings.Repeat("x", 300_000) + "\n", 1},
		{"\n\n\n", 3},
		{strings.Repeat("\x00", 5000) + "\n" + lines[5], 2},
	} {
		wantLeft(t, put(t, map[string]string{name: tc.damaged}), name, tc.damaged, tc.problems)
	}
}

// TestAnchor: a head told earlier must be on the chain.
func TestAnchor(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.MaxBytes = 4 * cfg.SegmentBytes
	l := opened(t, cfg)
	heads := []audit.Head{{}}
	for i := range 60 {
		heads = append(heads, l.Head())
		l.Add(minted(i))
		l.Work()
	}
	first := verified(t, cfg).First
	for _, head := range heads {
		r, err := audit.Verify(cfg.Dir, &head)
		want := audit.AnchorHeld
		if head.Sequence > 0 && head.Sequence < first-1 {
			want = audit.AnchorDropped
		}
		if err != nil || !r.OK() || r.Anchor != want {
			t.Errorf("head %d of %d to %d: %s, want %s; %v %v", head.Sequence, r.First, r.Last, r.Anchor, want, r.Problems, err)
		}
		head.Hash = strings.Repeat("0", 64)
		r, err = audit.Verify(cfg.Dir, &head)
		if broken := want == audit.AnchorHeld && head.Sequence > 0; err != nil || broken == r.OK() || broken && r.Anchor != audit.AnchorBroken {
			t.Errorf("a wrong head %d: %+v %v", head.Sequence, r, err)
		}
	}
	// Another log of the same length, without a fault of its own.
	other := config(t)
	written(t, other, 100)
	head := l.Head()
	if r, err := audit.Verify(other.Dir, &head); err != nil || r.OK() || r.Anchor != audit.AnchorBroken {
		t.Errorf("another log: %+v %v", r, err)
	}
	head.Sequence = 10_000
	if r, err := audit.Verify(cfg.Dir, &head); err != nil || r.OK() || r.Anchor != audit.AnchorBroken {
		t.Errorf("a head of what is no longer there: %+v %v", r, err)
	}
	if _, err := audit.Verify(t.TempDir(), &head); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no log at all: %v", err)
	}
}

// TestOtherFiles: what is not the log's is left alone.
func TestOtherFiles(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	written(t, cfg, 3)
	for _, name := range []string{
		"README", "audit-1.jsonl", "audit-00000000000000000000.jsonl", "audit-99999999999999999999.jsonl",
		"audit-0000000000000000000x.jsonl", "audit-00000000000000000001.jsonl.bak",
	} {
		noErr(t, os.WriteFile(filepath.Join(cfg.Dir, "audit", name), []byte("x"), 0o600))
	}
	written(t, cfg, 1)
	wantOK(t, cfg, 5)
}

// TestManyProblems: a report is bounded.
func TestManyProblems(t *testing.T) {
	t.Parallel()
	cfg := put(t, map[string]string{"audit-00000000000000000001.jsonl": strings.Repeat("x\n", 5000)})
	r := verified(t, cfg)
	if len(r.Problems) != audit.MaxProblems || r.More != 5000-audit.MaxProblems || r.Entries != 5000 {
		t.Errorf("%d problems and %d more of %d", len(r.Problems), r.More, r.Entries)
	}
}

// unsealed takes the sum off each line, and sealed puts the right one on.
func unsealed(text string) string {
	return regexp.MustCompile(`,"sum":"[0-9a-f]{32}"}`).ReplaceAllString(text, "")
}

func sealed(text []byte) []byte {
	var all []byte
	for body := range strings.Lines(string(text)) {
		body, newline := strings.CutSuffix(body, "\n")
		all = append(all, body+`,"sum":"`+sum(body, 16)+`"}`...)
		if newline {
			all = append(all, '\n')
		}
	}
	return all
}

// FuzzVerify: whatever lies in the folder, reading it and going on behind it
// neither panics nor loses what is written then.
func FuzzVerify(f *testing.F) {
	cfg := config(f)
	cfg.SegmentBytes = 1 << 20
	written(f, cfg, 3)
	for _, text := range contents(f, cfg) {
		f.Add([]byte(text), []byte{}, false)
		f.Add([]byte(text), []byte(text), false)
		f.Add([]byte(text[:len(text)-5]), []byte{}, false)
		f.Add([]byte(strings.Replace(text, `"seq":2`, `"seq":4611686018427387904`, 1)), []byte{}, false)
		f.Add([]byte(unsealed(text)), []byte{}, true)
		f.Add([]byte(strings.Replace(unsealed(text), `"seq":2`, `"seq":4611686018427387904`, 1)), []byte{}, true)
		f.Add([]byte(strings.Replace(unsealed(text), `"who":"device"`, `"count":-1`, 1)), []byte(unsealed(text)), true)
	}
	f.Add([]byte("\n{\"seq\":1,\"prev\":\""), []byte("\x00\x00"), false)
	f.Fuzz(func(t *testing.T, one, two []byte, seal bool) {
		if seal {
			one, two = sealed(one), sealed(two)
		}
		cfg := put(t, map[string]string{"audit-00000000000000000001.jsonl": string(one)})
		if len(two) > 0 {
			noErr(t, os.WriteFile(filepath.Join(cfg.Dir, "audit", "audit-00000000000000000005.jsonl"), two, 0o600))
		}
		before := verified(t, cfg)
		l, err := audit.Open(cfg)
		noErr(t, err)
		l.Add(minted(7))
		noErr(t, l.Close())
		after := verified(t, cfg)
		if after.Head != l.Head() || after.Entries <= before.Entries {
			t.Errorf("before %+v\nafter %+v\nhead %+v", before, after, l.Head())
		}
		if before.OK() && !after.OK() {
			t.Errorf("going on made a problem: %+v, before %+v", after.Problems, before)
		}
		if !before.OK() && after.OK() {
			t.Errorf("going on hid a problem: %+v", before.Problems)
		}
		if again := verified(t, cfg); again.Head != after.Head {
			t.Error("Verify changed something")
		}
	})
}
