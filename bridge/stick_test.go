package bridge_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/protocolschema"
)

// exports remembers exports in memory.
type exports map[string][]edgeclaim.Mark

func (e exports) AddExport(_ context.Context, nonce string, upto []edgeclaim.Mark) error {
	e[nonce] = upto
	return nil
}

func (e exports) Export(_ context.Context, nonce string) ([]edgeclaim.Mark, error) {
	if marks, ok := e[nonce]; ok {
		return marks, nil
	}
	return nil, edgeclaim.ErrNotFound
}

func newStick(m *memory, key ed25519.PublicKey) *bridge.Stick {
	return &bridge.Stick{
		Parts: m.parts(), Exports: exports{}, Identity: identity, Key: key, Logger: slog.New(slog.DiscardHandler),
	}
}

// exported is what a stick holds, read as an application reads it.
type exported struct {
	hello   *wire.Hello
	batches []wire.Batch
}

func export(t *testing.T, s *bridge.Stick) exported {
	t.Helper()
	var file bytes.Buffer
	if err := s.Export(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	names, err := wire.NewNames(site, box)
	if err != nil {
		t.Fatal(err)
	}
	var out exported
	for line := range bytes.Lines(file.Bytes()) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) > wire.MaxMessage {
			t.Errorf("a line of %d bytes", len(line))
		}
		if out.hello == nil {
			if err := protocolschema.Check(names.Up(wire.KindControl), line); err != nil {
				t.Error(err)
			}
			message, err := wire.DecodeUp(names, line)
			if err != nil {
				t.Fatal(err)
			}
			out.hello = message.(*wire.Hello)
			continue
		}
		b, err := wire.DecodeBatch(names, line)
		if err != nil || b.Nonce != out.hello.Nonce {
			t.Fatalf("batch of nonce %s: %v", b.Nonce, err)
		}
		if err := protocolschema.Check(names.Up(string(b.Lane)), line); err != nil {
			t.Errorf("%.600v", err)
		}
		out.batches = append(out.batches, b)
	}
	return out
}

// records counts a lane's, and holds the batches to their sequences.
func (e exported) records(t *testing.T, lane edgeclaim.Lane) (records int, last uint64) {
	t.Helper()
	for _, b := range e.batches {
		if b.Lane != lane {
			continue
		}
		if b.First != last+1 {
			t.Errorf("lane %s: a batch from %d behind %d", lane, b.First, last)
		}
		records, last = records+len(b.Events), b.Last
	}
	return records, last
}

// answer signs what upstream says to an export.
func (e exported) answer(t *testing.T, key ed25519.PrivateKey, message func(wire.Head) wire.Down) string {
	t.Helper()
	text, err := wire.Seal(key, message(wire.Head{
		Type: wire.TypeAck, Box: box, Epoch: e.hello.Epoch, Nonce: e.hello.Nonce, Time: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
	}))
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

func ackTo(prov, evt uint64) func(wire.Head) wire.Down {
	return func(h wire.Head) wire.Down {
		return &wire.Ack{Head: h, Upto: map[edgeclaim.Lane]uint64{edgeclaim.LaneProv: prov, edgeclaim.LaneEvt: evt}}
	}
}

// TestStick: what goes out comes back as forgotten, twice if need be, and what
// came meanwhile stays.
func TestStick(t *testing.T) {
	key := newSigner(t)
	m := newMemory()
	m.add(edgeclaim.LaneProv, 700)
	m.add(edgeclaim.LaneEvt, 30)
	m.drop(edgeclaim.LaneEvt, func(s uint64) bool { return s <= 5 || s == 10 || s > 28 })
	s := newStick(m, key.Public().(ed25519.PublicKey))
	first := export(t, s)
	if n, last := first.records(t, edgeclaim.LaneProv); n != 700 || last != 700 {
		t.Errorf("prov: %d records up to %d, want 700", n, last)
	}
	if n, last := first.records(t, edgeclaim.LaneEvt); n != 22 || last != 30 {
		t.Errorf("evt: %d records up to %d, want 22 up to 30", n, last)
	}
	m.add(edgeclaim.LaneProv, 5)
	second := export(t, s)
	if first.hello.Nonce == second.hello.Nonce {
		t.Error("two exports have one nonce")
	}
	ack := first.answer(t, key, ackTo(700, 30))
	for range 2 {
		out, err := s.AcceptAck(t.Context(), strings.NewReader(ack))
		if err != nil || out.Upto[edgeclaim.LaneProv] != 700 || out.Upto[edgeclaim.LaneEvt] != 30 {
			t.Fatalf("accepted %+v, %v", out, err)
		}
	}
	if acked := m.acked(edgeclaim.LaneProv); acked != 700 {
		t.Errorf("forgotten up to %d, want 700", acked)
	}
	if m.clock.at().IsZero() {
		t.Error("the time that upstream signed was not taken")
	}
	third := export(t, s)
	if n, last := third.records(t, edgeclaim.LaneProv); n != 5 || last != 705 {
		t.Errorf("then %d records up to %d, want 5 up to 705", n, last)
	}
}

// TestStickEmpty: a box that has nothing to tell says hello and no more.
func TestStickEmpty(t *testing.T) {
	s := newStick(newMemory(), nil)
	if e := export(t, s); len(e.batches) != 0 {
		t.Errorf("%d batches", len(e.batches))
	}
}

// TestStickRefuses: what is not a good answer to a known export changes
// nothing, and says what to do.
func TestStickRefuses(t *testing.T) {
	key := newSigner(t)
	refused := func(code wire.RefusedCode) func(wire.Head) wire.Down {
		return func(h wire.Head) wire.Down {
			h.Type = wire.TypeRefused
			return &wire.Refused{Head: h, Code: code}
		}
	}
	edited := func(edit func(*wire.Head)) func(wire.Head) wire.Down {
		return func(h wire.Head) wire.Down {
			edit(&h)
			return ackTo(10, 0)(h)
		}
	}
	for _, tc := range []struct {
		name string
		text func(e exported) string
		err  error
		code wire.RefusedCode
	}{
		{"empty", func(exported) string { return "\n" }, edgeclaim.ErrInvalid, ""},
		{"garbage", func(exported) string { return "PK\x03\x04" }, edgeclaim.ErrInvalid, ""},
		{"large", func(exported) string { return strings.Repeat("\n", 2<<20) }, edgeclaim.ErrInvalid, ""},
		{"of another key", func(e exported) string { return e.answer(t, newSigner(t), ackTo(10, 0)) }, edgeclaim.ErrDenied, ""},
		{"bare", func(e exported) string {
			text, _ := wire.Encode(ackTo(10, 0)(wire.Head{Type: wire.TypeAck, Box: box, Epoch: epoch, Nonce: e.hello.Nonce}))
			return string(text)
		}, edgeclaim.ErrDenied, ""},
		{"of another box", func(e exported) string {
			return e.answer(t, key, edited(func(h *wire.Head) { h.Box = "other" }))
		}, edgeclaim.ErrDenied, ""},
		{"of no export", func(e exported) string {
			return e.answer(t, key, edited(func(h *wire.Head) { h.Nonce = strings.Repeat("n", 22) }))
		}, edgeclaim.ErrNotFound, ""},
		{"of another epoch", func(e exported) string {
			return e.answer(t, key, edited(func(h *wire.Head) { h.Epoch = strings.Repeat("E", 26) }))
		}, edgeclaim.ErrConflict, ""},
		{"above", func(e exported) string { return e.answer(t, key, ackTo(11, 0)) }, edgeclaim.ErrConflict, ""},
		{"above, later", func(e exported) string {
			return e.answer(t, key, ackTo(10, 0)) + e.answer(t, key, ackTo(10, 1))
		}, edgeclaim.ErrConflict, ""},
		{"stale", func(e exported) string { return e.answer(t, key, refused(wire.RefusedStale)) }, edgeclaim.ErrDenied, wire.RefusedStale},
		{"fenced", func(e exported) string { return e.answer(t, key, refused(wire.RefusedFenced)) }, edgeclaim.ErrDenied, wire.RefusedFenced},
		{"a later code", func(e exported) string { return e.answer(t, key, refused("x")) }, edgeclaim.ErrDenied, "x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMemory()
			m.add(edgeclaim.LaneProv, 10)
			s := newStick(m, key.Public().(ed25519.PublicKey))
			_, err := s.AcceptAck(t.Context(), strings.NewReader(tc.text(export(t, s))))
			var why *bridge.StickError
			if !errors.As(err, &why) || !errors.Is(err, tc.err) || why.Refused != tc.code || why.Words == "" {
				t.Errorf("error %v, want %v with code %q", err, tc.err, tc.code)
			}
			if m.count("ack") != 0 {
				t.Error("the outbox was told")
			}
		})
	}
}

// TestStickLater: an ack that comes after the outbox began another life
// forgets nothing of the new one.
func TestStickLater(t *testing.T) {
	key := newSigner(t)
	m := newMemory()
	m.add(edgeclaim.LaneProv, 10)
	s := newStick(m, key.Public().(ed25519.PublicKey))
	e := export(t, s)
	if _, err := m.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := s.AcceptAck(t.Context(), strings.NewReader(e.answer(t, key, ackTo(10, 0))))
	if !errors.Is(err, edgeclaim.ErrConflict) || m.acked(edgeclaim.LaneProv) != 0 {
		t.Errorf("error %v, forgotten up to %d", err, m.acked(edgeclaim.LaneProv))
	}
}

// TestStickParks: what upstream will never take is parked, once.
func TestStickParks(t *testing.T) {
	m := newMemory()
	m.add(edgeclaim.LaneProv, 10)
	s := newStick(m, nil) // takes what nobody signed
	e := export(t, s)
	ack := e.answer(t, newSigner(t), func(h wire.Head) wire.Down {
		return &wire.Ack{
			Head: h, Upto: map[edgeclaim.Lane]uint64{edgeclaim.LaneProv: 4},
			Nack: []wire.Nack{{Lane: edgeclaim.LaneProv, Sequence: 5, Code: wire.NackPermanent, Reason: "name: missing"}},
		}
	})
	for i, want := range []int{1, 0} {
		out, err := s.AcceptAck(t.Context(), strings.NewReader(ack))
		if err != nil || out.Parked != want {
			t.Errorf("reading %d: parked %d, %v; want %d", i+1, out.Parked, err, want)
		}
	}
	if fmt.Sprint(m.parked) != "[prov 5 name: missing]" {
		t.Errorf("parked %v", m.parked)
	}
	if n, last := export(t, s).records(t, edgeclaim.LaneProv); n != 5 || last != 10 {
		t.Errorf("then %d records up to %d, want 5 up to 10", n, last)
	}
}
