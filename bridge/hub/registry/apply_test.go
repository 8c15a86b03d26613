package registry_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

const box = "box-1"

// TestApplyBatches begins each case at the same place: 1 to 3 applied, the
// last one being device 3's.
func TestApplyBatches(t *testing.T) {
	nack := func(code wire.NackCode, sequence uint64, reason string) *wire.Nack {
		return &wire.Nack{Lane: edgeclaim.LaneProv, Sequence: sequence, Code: code, Reason: reason}
	}
	permanent := func(sequence uint64, reason string) *wire.Nack { return nack(wire.NackPermanent, sequence, reason) }
	without := func(sequence uint64, n int, member string) line {
		l := provisioned(t, sequence, n, 1)
		l.data = cut(t, l.data, member)
		return l
	}
	each(t, func(t *testing.T, open opener) {
		for _, tc := range []struct {
			name        string
			first, last uint64
			lines       []line
			change      func(*wire.Batch)
			want        registry.Result
			holes       [][2]uint64
		}{
			{name: "the next", first: 4, last: 5, lines: []line{provisioned(t, 4, 4, 1), noise(5)}, want: registry.Result{Upto: 5, Applied: 2}},
			{name: "a repeat", first: 2, last: 3, lines: []line{noise(2), provisioned(t, 3, 3, 1)}, want: registry.Result{Upto: 3}},
			{name: "an overlap", first: 3, last: 4, lines: []line{provisioned(t, 3, 3, 1), noise(4)}, want: registry.Result{Upto: 4, Applied: 1}},
			{name: "too far", first: 5, last: 6, lines: []line{noise(5), noise(6)}, want: registry.Result{Upto: 3, Nack: nack(wire.NackGap, 4, "")}},
			{name: "with holes", first: 4, last: 9, lines: []line{noise(5), noise(8)}, want: registry.Result{Upto: 9, Applied: 2},
				holes: [][2]uint64{{4, 4}, {6, 7}, {9, 9}}},
			{name: "nothing but a hole", first: 4, last: 9, want: registry.Result{Upto: 9}, holes: [][2]uint64{{4, 9}}},
			{name: "an overlap with a hole", first: 1, last: 5, lines: []line{noise(5)}, want: registry.Result{Upto: 5, Applied: 1}, holes: [][2]uint64{{4, 4}}},
			{name: "a copy that went on by itself", first: 3, last: 4, lines: []line{provisioned(t, 3, 30, 1), noise(4)},
				want: registry.Result{Upto: 3, Refused: &wire.Refused{Code: wire.RefusedStale, Reason: "prov: the last record applied is another one"}}},
			{name: "another box's epoch", first: 4, last: 4, lines: []line{noise(4)}, change: func(b *wire.Batch) { b.Epoch = epoch("box-2", 1) },
				want: registry.Result{Refused: &wire.Refused{Code: wire.RefusedUnknown, Reason: "this epoch never said hello here"}}},
			{name: "an unknown box", first: 4, last: 4, lines: []line{noise(4)}, change: func(b *wire.Batch) { b.Box = "box-9" },
				want: registry.Result{Refused: &wire.Refused{Code: wire.RefusedUnknown, Reason: "this box never said hello here"}}},
			{name: "a lane of a later version", first: 4, last: 4, lines: []line{noise(4)}, change: func(b *wire.Batch) { b.Lane = "log" },
				want: registry.Result{Nack: &wire.Nack{Lane: "log", Sequence: 4, Code: wire.NackRetry, RetryAfter: 60000, Reason: "lane: not known"}}},

			{name: "not an event", first: 4, last: 6, lines: []line{noise(4), noise(5), noise(6)}, change: func(b *wire.Batch) { b.Events[1] = []byte(`7`) },
				want: registry.Result{Upto: 4, Applied: 1, Nack: permanent(5, `message: wrong type at ""`)}},
			{name: "not an event, behind a hole", first: 4, last: 8, lines: []line{noise(4), noise(8)},
				change: func(b *wire.Batch) { b.Events[1] = []byte(`{"sequence":"00000000000000000008","specversion":1}`) },
				want:   registry.Result{Upto: 7, Applied: 1, Nack: permanent(8, `message: wrong type at "/specversion"`)}, holes: [][2]uint64{{5, 7}}},
			{name: "out of order", first: 4, last: 6, lines: []line{noise(5), noise(4)},
				want:  registry.Result{Upto: 5, Applied: 1, Nack: permanent(6, "sequence: not in order, or not in the batch")},
				holes: [][2]uint64{{4, 4}}},
			{name: "twice", first: 4, last: 5, lines: []line{noise(4), noise(4)},
				want: registry.Result{Upto: 4, Applied: 1, Nack: permanent(5, "sequence: not in order, or not in the batch")}},
			{name: "beyond the batch", first: 4, last: 5, lines: []line{noise(4), noise(6)},
				want: registry.Result{Upto: 4, Applied: 1, Nack: permanent(5, "sequence: not in order, or not in the batch")}},
			{name: "another lane", first: 4, last: 4, lines: []line{noise(4)}, change: replaceIn(0, `"lane":"prov"`, `"lane":"evt"`),
				want: registry.Result{Upto: 3, Nack: permanent(4, "lane: not the batch's")}},
			{name: "another epoch", first: 4, last: 4, lines: []line{noise(4)}, change: replaceIn(0, `"epoch":"box1`, `"epoch":"box2`),
				want: registry.Result{Upto: 3, Nack: permanent(4, "epoch: not the batch's")}},
			{name: "another source", first: 4, last: 4, lines: []line{noise(4)}, change: replaceIn(0, `edgeclaim:box-1`, `edgeclaim:box-2`),
				want: registry.Result{Upto: 3, Nack: permanent(4, "source: not the box of the batch")}},
			{name: "a clock gone mad", first: 4, last: 4, lines: []line{noise(4)}, change: replaceIn(0, `"time":"2026`, `"time":"22026`),
				want: registry.Result{Upto: 4, Applied: 1}},
			{name: "a zero byte", first: 4, last: 4, lines: []line{noise(4)}, change: replaceIn(0, `a.later.type`, `a.later\u0000.type`),
				want: registry.Result{Upto: 4, Applied: 1}},
			{name: "no tenant", first: 4, last: 5, lines: []line{noise(4), without(5, 5, "tenant_id")},
				want: registry.Result{Upto: 4, Applied: 1, Nack: permanent(5, "tenant_id: missing")}},
			{name: "no name", first: 4, last: 4, lines: []line{without(4, 5, "name")}, want: registry.Result{Upto: 3, Nack: permanent(4, "name: missing")}},
			{name: "no hash", first: 4, last: 4, lines: []line{without(4, 5, "credential.sha256")},
				want: registry.Result{Upto: 3, Nack: permanent(4, "credential.sha256: missing")}},
			{name: "a wrong hash", first: 4, last: 4, lines: []line{provisioned(t, 4, 4, 1)}, change: replaceIn(0, `"sha256":"`, `"sha256":"zz`),
				want: registry.Result{Upto: 3, Nack: permanent(4, "credential.sha256: not what it should be")}},
			{name: "another device's", first: 4, last: 4, lines: []line{{4, edgeclaim.TypeDeviceReleased, deviceID(t, 5), released(t, 4, 4).data}},
				want: registry.Result{Upto: 3, Nack: permanent(4, "subject: not the device of the data")}},
			{name: "data that is not JSON", first: 4, last: 4, lines: []line{{4, edgeclaim.TypeDeviceReleased, deviceID(t, 4), "\xff"}},
				want: registry.Result{Upto: 3, Nack: permanent(4, "data: want a JSON object")}},
			{name: "a faulty one that is there already", first: 3, last: 4, lines: []line{noise(3), noise(4)}, change: func(b *wire.Batch) { b.Events[0] = []byte(`{}`) },
				want: registry.Result{Upto: 4, Applied: 1}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				db := open(t, "case", registry.Config{})
				empty(t, db)
				greet(t, db, hello("box-2", 1, 0))
				greet(t, db, hello(box, 1, 100))
				apply(t, db, prov(t, box, 1, 3, noise(1), noise(2), provisioned(t, 3, 3, 1)))
				item := prov(t, box, tc.first, tc.last, tc.lines...)
				if tc.change != nil {
					tc.change(item.Batch)
				}
				item.Names.Box = item.Batch.Box
				got := apply(t, db, item)[0]
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("result (-want +got):\n%s", diff)
				}
				now := heldOf(t, db, box, 1)
				if diff := cmp.Diff(tc.holes, now.Holes); diff != "" {
					t.Errorf("holes (-want +got):\n%s", diff)
				}
				if err := now.whole(); err != nil {
					t.Error(err)
				}
				if tc.want.Upto != 0 && now.Upto != tc.want.Upto {
					t.Errorf("mark %d, want %d", now.Upto, tc.want.Upto)
				}
				if again := apply(t, db, item)[0]; again.Applied != 0 {
					t.Errorf("a repeat applied %d", again.Applied)
				}
			})
		}
	})
}

// replaceIn changes the text of an event.
func replaceIn(i int, old, text string) func(*wire.Batch) {
	return func(b *wire.Batch) { b.Events[i] = bytes.Replace(b.Events[i], []byte(old), []byte(text), 1) }
}

// cut takes a member out of an object; a.b is b in a.
func cut(t testing.TB, text, member string) string {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		t.Fatal(err)
	}
	in := object
	if outer, inner, ok := strings.Cut(member, "."); ok {
		in, member = object[outer].(map[string]any), inner
	}
	if _, ok := in[member]; !ok {
		t.Fatalf("no member %q", member)
	}
	delete(in, member)
	out, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// empty makes a database as it was made, in less time.
func empty(t testing.TB, db *registry.DB) {
	t.Helper()
	look := raw(t, db)
	defer look.Close()
	for _, table := range []string{"boxes", "epochs", "marks", "holes", "records", "devices", "holdings", "conflicts", "audit_heads", "states", "commands"} {
		if _, err := look.Exec("DELETE FROM " + table); err != nil {
			t.Fatal(err)
		}
	}
}
