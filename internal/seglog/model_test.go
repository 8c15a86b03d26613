package seglog_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/internal/seglog"
)

// model is what a log must hold, whatever is done to it.
type model struct {
	t     *testing.T
	cfg   seglog.Config
	log   *seglog.Log
	shut  func()
	turns int

	payloads [][]byte // of all places, from 1
	acked    uint64
	own      []byte
	pending  []*edgeclaim.Commit
}

func (m *model) append(t *rapid.T) {
	var batch [][]byte
	for range rapid.IntRange(0, 8).Draw(t, "count") {
		batch = append(batch, bytes.Repeat([]byte{byte(len(m.payloads) + len(batch))}, rapid.IntRange(1, 1500).Draw(t, "size")))
	}
	last, c, err := m.log.Append(batch...)
	if err != nil {
		t.Fatal(err)
	}
	m.payloads = append(m.payloads, batch...)
	if last != uint64(len(m.payloads)) {
		t.Fatalf("the last is %d, want %d", last, len(m.payloads))
	}
	m.pending = append(m.pending, c)
	if rapid.Bool().Draw(t, "wait") {
		m.settle(t)
	}
}

func (m *model) settle(t *rapid.T) {
	for _, c := range m.pending {
		if err := wait(m.t, c); err != nil {
			t.Fatal(err)
		}
	}
	m.pending = nil
}

func (m *model) ack(t *rapid.T) {
	b := m.log.Bounds()
	upto := rapid.Uint64Range(0, b.Last).Draw(t, "upto")
	own := []byte(strconv.Itoa(m.turns))
	if err := m.log.Ack(upto, own); err != nil {
		t.Fatal(err)
	}
	m.acked, m.own = max(m.acked, upto), own
}

// reopen closes it, or leaves it as a process that is killed does.
func (m *model) reopen(t *rapid.T) {
	m.settle(t)
	if rapid.Bool().Draw(t, "killed") {
		to := filepath.Join(filepath.Dir(m.cfg.Dir), strconv.Itoa(m.turns))
		err := os.CopyFS(to, os.DirFS(m.cfg.Dir))
		for errors.Is(err, fs.ErrNotExist) { // the writer has begun the last segment anew meanwhile
			err = errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(m.cfg.Dir)))
		}
		if err != nil {
			t.Fatal(err)
		}
		m.shut()
		m.cfg.Dir = to
	}
	m.shut()
	m.log, m.shut = open(m.t, m.cfg)
}

// check reads everything behind a place in pieces.
func (m *model) check(t *rapid.T) {
	m.turns++
	if rapid.IntRange(0, 3).Draw(t, "look") > 0 {
		return
	}
	m.settle(t)
	b := m.log.Bounds()
	floor := max(b.Acked, b.Lost)
	if b.Acked != m.acked || b.Last != uint64(len(m.payloads)) || !bytes.Equal(m.log.Own(), m.own) ||
		b.Bytes > m.cfg.MaxBytes || b.Dropped != floor-b.Acked || b.Lost > 0 && b.Lost <= b.Acked {
		t.Fatalf("the bounds are %+v, own %q; acked %d, own %q, %d places", b, m.log.Own(), m.acked, m.own, len(m.payloads))
	}
	after := rapid.Uint64Range(0, b.Last).Draw(t, "after")
	at := max(after, b.Acked)
	for {
		entries, err := m.log.Read(after, rapid.IntRange(1, 20).Draw(t, "maximum"), rapid.IntRange(0, 5000).Draw(t, "bytes"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			switch {
			case e.Lost > 0:
				if at >= floor || e.Place != b.Lost || e.Lost != b.Dropped || e.Damaged {
					t.Fatalf("behind %d comes %+v, with %+v", at, e, b)
				}
			case e.Place != at+1 || at < floor || !bytes.Equal(e.Payload, m.payloads[e.Place-1]):
				t.Fatalf("behind %d comes %d, with %+v", at, e.Place, b)
			}
			at, after = e.Place, e.Place
		}
		if len(entries) == 0 {
			break
		}
	}
	if at != b.Last {
		t.Fatalf("told up to %d, with %+v", at, b)
	}
}

// TestModel does everything in any order, and compares with a slice.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		cfg := config(t)
		cfg.Dir = filepath.Join(t.TempDir(), "0")
		cfg.MaxBytes = 8 * cfg.SegmentBytes
		m := &model{t: t, cfg: cfg}
		m.log, m.shut = open(t, cfg)
		defer func() { m.shut() }()
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.append, "more": m.append, "ack": m.ack, "reopen": m.reopen, "": m.check,
		})
	})
}
