package telemetry_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"edgeclaim"
)

func TestLane(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	for i := range 10 {
		b.say(i%3, fmt.Sprintf(`{"n":%d}`, i))
	}
	select {
	case <-b.Lane().Appended():
	case <-time.After(soon):
		t.Error("nothing is signalled")
	}
	_, _, marks, err := b.Lane().Marks(t.Context())
	if want := (edgeclaim.LaneMarks{First: 1, Appended: 10}); err != nil || marks[edgeclaim.LaneTel] != want {
		t.Errorf("%+v, %v", marks, err)
	}
	if records, err := b.Lane().Next(t.Context(), b.mark(3), 2); err != nil || len(records) != 2 || records[0].Sequence != 4 {
		t.Errorf("%v, %v", records, err)
	}
	if records, err := b.Lane().Next(t.Context(), b.mark(99), 2); err != nil || len(records) != 0 {
		t.Errorf("behind the end: %v, %v", records, err)
	}
	b.clock.pass(time.Minute)
	if got := b.sums(); got.Pending != 10 || got.OldestAge != 60 || got.Bytes == 0 {
		t.Errorf("%+v", got)
	}

	checked := b.mark(4)
	checked.Check = edgeclaim.Check{Sequence: 3, Hash: "hash"}
	if err := b.Lane().Ack(t.Context(), checked); err != nil {
		t.Fatal(err)
	}
	b.ack(2) // again, and lower
	b.restart()
	_, _, marks, _ = b.Lane().Marks(t.Context())
	if want := (edgeclaim.LaneMarks{First: 5, Appended: 10, Check: checked.Check}); marks[edgeclaim.LaneTel] != want {
		t.Errorf("%+v, want %+v", marks, want)
	}
	if records := b.next(0); len(records) != 6 || records[0].Sequence != 5 {
		t.Errorf("%d records, %+v", len(records), records)
	}
	if got := b.sums(); got.Pending != 6 || got.Acked != 4 || got.Appended != 10 {
		t.Errorf("%+v", got)
	}

	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"next of another epoch": {second(b.Lane().Next(t.Context(), edgeclaim.Mark{Epoch: "X", Lane: edgeclaim.LaneTel}, 1)), edgeclaim.ErrConflict},
		"next of another lane":  {second(b.Lane().Next(t.Context(), edgeclaim.Mark{Epoch: "EPOCH1", Lane: edgeclaim.LaneEvt}, 1)), edgeclaim.ErrInvalid},
		"ack of another epoch":  {b.Lane().Ack(t.Context(), edgeclaim.Mark{Epoch: "X", Lane: edgeclaim.LaneTel, Upto: 5}), edgeclaim.ErrConflict},
		"ack of another lane":   {b.Lane().Ack(t.Context(), edgeclaim.Mark{Epoch: "EPOCH1", Lane: edgeclaim.LaneProv, Upto: 5}), edgeclaim.ErrInvalid},
		"ack above the end":     {b.Lane().Ack(t.Context(), b.mark(11)), edgeclaim.ErrInvalid},
		"check above the ack": {b.Lane().Ack(t.Context(), edgeclaim.Mark{
			Epoch: "EPOCH1", Lane: edgeclaim.LaneTel, Upto: 5, Check: edgeclaim.Check{Sequence: 6},
		}), edgeclaim.ErrInvalid},
		"refuse of another epoch": {b.Lane().Refuse(t.Context(), edgeclaim.Mark{Epoch: "X", Lane: edgeclaim.LaneTel, Upto: 5}, ""), edgeclaim.ErrConflict},
		"refuse of what has left": {b.Lane().Refuse(t.Context(), b.mark(4), ""), edgeclaim.ErrNotFound},
		"refuse of what is to be": {b.Lane().Refuse(t.Context(), b.mark(11), ""), edgeclaim.ErrNotFound},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestEpoch: in another life the pending count from 1, in their order.
func TestEpoch(t *testing.T) {
	t.Parallel()
	epoch := "EPOCH1"
	b := newBox(t, func(b *box) { b.parts.Epoch = func() string { return epoch } })
	for i := range 5 {
		b.say(1, fmt.Sprintf(`{"n":%d}`, i))
	}
	b.ack(2)
	old := b.mark(3)
	epoch = "EPOCH2"
	for range 2 {
		if err := b.Lane().Begin(t.Context(), epoch); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Lane().Ack(t.Context(), old); !errors.Is(err, edgeclaim.ErrConflict) {
		t.Error(err)
	}
	for range 2 {
		records := b.next(0)
		if len(records) != 3 || records[0].Sequence != 1 || !bytes.Contains(records[0].Data, []byte(`"n":2`)) {
			t.Errorf("%+v", records)
		}
		if got := b.sums(); got.Appended != 3 || got.Acked != 0 || got.Pending != 3 {
			t.Errorf("%+v", got)
		}
		b.restart()
	}
	epoch = "EPOCH3"
	b.restart()
	if records := b.next(0); len(records) != 3 {
		t.Errorf("the registry's epoch changed while the box was off: %+v", records)
	}
}

// fill has devices say so much that the oldest is dropped.
func (b *box) fill() {
	b.t.Helper()
	before := b.Lane().Stats().Dropped
	for i := 0; b.Lane().Stats().Dropped == before; i++ {
		b.say(i%3, `{"text":"`+strings.Repeat("x", 4000)+`"}`)
	}
}

// TestNothingPending: what upstream has takes room until its segment goes, and
// does not wait.
func TestNothingPending(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.say(1, `{"t":1}`)
	b.ack(1)
	b.restart()
	if got := b.sums(); got.Pending != 0 || got.Acked != 1 || got.Bytes != 0 {
		t.Errorf("%+v", got)
	}
}

func small(b *box) { b.cfg.MaxBytes = 4 * b.cfg.SegmentBytes }

// TestQuota: what the quota takes is told, once and the same on every send.
func TestQuota(t *testing.T) {
	t.Parallel()
	b := newBox(t, small)
	b.fill()
	dropped := b.sums().Dropped
	all := b.next(0)
	g := gapOf(t, all[0])
	if g.From != 1 || g.To != dropped || g.Count != dropped || g.Reason != "quota" || g.Lane != "tel" || g.Epoch != "EPOCH1" {
		t.Fatalf("%+v, dropped %d", g, dropped)
	}
	if all[0].Sequence != dropped || all[1].Sequence != dropped+1 {
		t.Errorf("sequences %d, %d", all[0].Sequence, all[1].Sequence)
	}
	if again, _ := b.Lane().Next(t.Context(), b.mark(dropped-1), 1); text(again[0]) != text(all[0]) {
		t.Errorf("from within: %s, want %s", text(again[0]), text(all[0]))
	}
	b.clock.pass(time.Hour)
	b.ack(1) // of what is in the gap: it was told, and must stay so
	b.restart()
	if again := b.next(0); text(again[0]) != text(all[0]) {
		t.Errorf("later: %s, want %s", text(again[0]), text(all[0]))
	}
	_, _, marks, _ := b.Lane().Marks(t.Context())
	if marks[edgeclaim.LaneTel].First != 1 {
		t.Errorf("%+v", marks)
	}
	b.ack(dropped + 2)
	if got := b.sums(); got.Dropped != dropped || got.Acked != 2 {
		t.Errorf("%+v", got)
	}
	if next := b.next(0); next[0].Sequence != dropped+3 {
		t.Errorf("%+v", next[0])
	}
	acked := b.clock.stamp()
	b.clock.pass(time.Hour)
	b.fill()
	if next := b.next(0)[0]; gapOf(t, next).From != dropped+3 || next.Stamp != acked {
		t.Errorf("%s, want the time of the last ack, %v", text(next), acked)
	}
}

// TestQuotaAfterSending: what was sent before it was dropped is acknowledged,
// not lost, unless the loss was told.
func TestQuotaAfterSending(t *testing.T) {
	t.Parallel()
	b := newBox(t, small)
	b.say(1, `{"a":1}`)
	b.next(0)
	b.fill()
	dropped := b.sums().Dropped
	if dropped == 0 {
		t.Fatal("nothing was dropped")
	}
	b.ack(dropped)
	if got := b.sums(); got.Dropped != 0 || got.Acked != dropped {
		t.Errorf("%+v", got)
	}
}

// TestRefused: a device that upstream does not take is told as gaps, and the
// others are told on.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	for i := range 9 {
		b.say(i%3, `{"a":1}`)
	}
	bad := b.next(0)[3].Device
	if err := b.Lane().Refuse(t.Context(), b.mark(4), "no such device"); err != nil {
		t.Fatal(err)
	}
	b.say(0, `{"a":1}`)
	var gaps []uint64
	for _, r := range b.next(0) {
		if r.Type == edgeclaim.TypeTelemetry {
			continue
		}
		g := gapOf(t, r)
		if g.Reason != "refused" || g.From != r.Sequence || g.To != r.Sequence || g.Count != 1 || r.Device != bad {
			t.Errorf("%+v of %+v", g, r)
		}
		gaps = append(gaps, r.Sequence)
	}
	if diff := cmp.Diff([]uint64{4, 7, 10}, gaps); diff != "" {
		t.Error(diff)
	}
	// A restart changes nothing of what was told, and what comes is told again.
	before := texts2(b.next(0))
	for range 2 {
		b.restart()
		b.say(0, `{"a":2}`)
		after := b.next(0)
		if diff := cmp.Diff(before, texts2(after[:len(before)])); diff != "" {
			t.Error(diff)
		}
		if last := after[len(after)-1]; last.Type != edgeclaim.TypeTelemetry || last.Device != bad {
			t.Errorf("%s", text(last))
		}
		before = texts2(after)
	}
	if err := b.Lane().Refuse(t.Context(), b.mark(12), "again"); err != nil {
		t.Fatal(err)
	}
	all := b.next(0)
	if all[10].Type != edgeclaim.TypeTelemetry || all[11].Type != edgeclaim.TypeGap || all[9].Type != edgeclaim.TypeGap {
		t.Errorf("%q", texts2(all))
	}
	b.ack(8)
	if got := b.sums(); got.Parked != 2 || got.Acked != 6 {
		t.Errorf("%+v", got)
	}
	b.ack(12)
	if got := b.sums(); got.Parked != 4 || got.Acked != 8 {
		t.Errorf("%+v", got)
	}
}

// TestRefusedFileDamaged: a line that was cut short takes no other with it.
func TestRefusedFileDamaged(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	for i := range 6 {
		b.say(i, `{"a":1}`)
	}
	path := filepath.Join(b.cfg.Dir, "telemetry", "refused.jsonl")
	refuse := func(upto uint64) {
		t.Helper()
		if err := b.Lane().Refuse(t.Context(), b.mark(upto), "bad"); err != nil {
			t.Fatal(err)
		}
	}
	refuse(1)
	refuse(2)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw[:len(raw)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	refuse(3)
	b.restart()
	var gaps []uint64
	for _, r := range b.next(0) {
		if r.Type == edgeclaim.TypeGap {
			gaps = append(gaps, r.Sequence)
		}
	}
	if diff := cmp.Diff([]uint64{1, 3}, gaps); diff != "" {
		t.Error(diff)
	}
}

// TestDamage: what cannot be read is told, and the rest is told on.
func TestDamage(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	for i := range 400 {
		b.say(1, fmt.Sprintf(`{"n":%d,"text":"%s"}`, i, strings.Repeat("x", 400)))
	}
	b.stop()
	files, err := filepath.Glob(filepath.Join(b.cfg.Dir, "telemetry", "points", "*.seg"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	slices.Sort(files)
	raw, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(files[1], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	var seen, lost uint64
	var before string
	for range 2 {
		seen, lost = 0, 0
		for _, r := range b.next(0) {
			if r.Type == edgeclaim.TypeTelemetry {
				seen++
				continue
			}
			g := gapOf(t, r)
			if g.Reason != "damaged" || g.To != r.Sequence || g.To-g.From+1 != g.Count {
				t.Errorf("%+v", g)
			}
			lost += g.Count
			if before != "" && before != text(r) {
				t.Errorf("%s, was %s", text(r), before)
			}
			before = text(r)
		}
		b.clock.pass(time.Hour)
	}
	if seen+lost != 400 || lost == 0 {
		t.Errorf("%d told, %d lost", seen, lost)
	}
	b.ack(400)
	if got := b.sums(); got.Dropped != lost || got.Acked != seen {
		t.Errorf("%+v", got)
	}
}

// TestLaneModel: whatever is said, acknowledged, refused, dropped and restarted,
// each sequence is told as what it was or as a gap, and the counters agree.
func TestLaneModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		epoch := "E0"
		b := newBox(t, func(b *box) {
			small(b)
			b.parts.Epoch = func() string { return epoch }
		})
		defer b.stop()
		said := map[uint64]string{} // by sequence
		var appended, acked uint64
		for step := range rapid.IntRange(1, 15).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"say", "say", "flood", "ack", "refuse", "restart", "renew"}).Draw(rt, "do") {
			case "say":
				body := fmt.Sprintf(`{"step":%d}`, step)
				b.say(rapid.IntRange(0, 2).Draw(rt, "who"), body)
				appended++
				said[appended] = body
			case "flood":
				var points []string
				for i := range 30 {
					body := fmt.Sprintf(`{"numeric_values":{"step":%d,"i":%d},"string_values":{"text":"%s"}}`, step, i, strings.Repeat("x", 4000))
					points = append(points, body)
					appended++
					said[appended] = body
				}
				b.say(rapid.IntRange(0, 2).Draw(rt, "who"), "["+strings.Join(points, ",")+"]")
			case "ack":
				upto := rapid.Uint64Range(0, appended).Draw(rt, "upto")
				b.ack(upto)
				acked = max(acked, upto)
			case "refuse":
				if pending := b.next(0); len(pending) > 0 {
					err := b.Lane().Refuse(t.Context(), b.mark(pending[len(pending)-1].Sequence), "bad")
					if err != nil && !errors.Is(err, edgeclaim.ErrNotFound) {
						rt.Fatal(err)
					}
				}
			case "restart":
				b.restart()
			case "renew":
				_, _, marks, _ := b.Lane().Marks(t.Context())
				base := marks[edgeclaim.LaneTel].First - 1
				next := map[uint64]string{}
				for sequence, body := range said {
					if sequence > base {
						next[sequence-base] = body
					}
				}
				said, appended, acked = next, appended-base, 0
				epoch += "+"
				if err := b.Lane().Begin(t.Context(), epoch); err != nil {
					rt.Fatal(err)
				}
			}
			told := uint64(0)
			for _, r := range b.next(0) {
				from := r.Sequence
				if r.Type == edgeclaim.TypeGap {
					g := gapOf(t, r)
					if from = g.From; g.To != r.Sequence || g.Count != g.To-g.From+1 {
						rt.Fatalf("gap %+v at %d", g, r.Sequence)
					}
				} else if said[r.Sequence] != string(r.Payload) {
					rt.Fatalf("%d is %.60s, was %.60s", r.Sequence, r.Payload, said[r.Sequence])
				}
				if told > 0 && from != told+1 || told == 0 && from > acked+1 {
					rt.Fatalf("%d to %d behind %d, acked %d", from, r.Sequence, told, acked)
				}
				told = r.Sequence
			}
			if stats := b.sums(); stats.Appended != appended || told != 0 && told != appended || told == 0 && acked < appended {
				rt.Fatalf("told up to %d of %d, acked %d: %+v", told, appended, acked, stats)
			}
		}
	})
}
