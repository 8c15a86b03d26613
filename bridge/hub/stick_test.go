package hub_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mosquitto"
)

// stick opens a hub's data for files, and makes a box without a link.
func stick(t testing.TB) (*hub.Stick, *box) {
	t.Helper()
	dir := t.TempDir()
	key, err := hub.LoadKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	db, err := registry.Open(t.Context(), registry.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	b := &box{
		t: t, names: wire.Names{Site: site, Box: "box-1"}, epoch: epochOf("box-1", 1), key: key.Public().(ed25519.PublicKey),
		first: map[edgeclaim.Lane]uint64{prov: 1, evt: 1}, appended: map[edgeclaim.Lane]uint64{},
	}
	return &hub.Stick{DB: db, Key: key}, b
}

// export is a file with all up to those sequences, from 1 on as boxes write it.
func (b *box) export(uptoProv, uptoEvt uint64) []byte {
	b.t.Helper()
	b.appended[prov], b.appended[evt] = uptoProv, uptoEvt
	hello, err := wire.Encode(b.greeting())
	if err != nil {
		b.t.Fatal(err)
	}
	lines := [][]byte{hello}
	for first := uint64(1); first <= uptoProv; first += 10 {
		lines = append(lines, b.encode(b.batch(prov, first, min(first+9, uptoProv))))
	}
	if uptoEvt > 0 {
		lines = append(lines, b.encode(b.batch(evt, 1, uptoEvt)))
	}
	return append(bytes.Join(lines, []byte("\n")), '\n')
}

// opened is an answer as the box reads it.
func (b *box) opened(answer []byte) wire.Down {
	b.t.Helper()
	payload, err := wire.Open(b.key, answer)
	if err != nil {
		b.t.Fatal(err)
	}
	message, err := wire.DecodeDown(payload)
	if err != nil {
		b.t.Fatal(err)
	}
	if head := message.Header(); head.Nonce != b.nonce || head.Box != b.names.Box || head.Epoch != b.epoch {
		b.t.Errorf("head %+v", head)
	}
	return message
}

func TestIngest(t *testing.T) {
	s, b := stick(t)
	file := b.export(25, 3)
	for i, want := range []int{28, 0} { // the second time, nothing is new
		got, err := s.Ingest(t.Context(), bytes.NewReader(file))
		if err != nil || got.Records != want || got.Batches != 4 || got.Box != "box-1" || got.Site != site {
			t.Errorf("time %d: %+v, %v", i+1, got, err)
		}
		ack := b.opened(got.Answer).(*wire.Ack)
		if diff := cmp.Diff(map[edgeclaim.Lane]uint64{prov: 25, evt: 3}, ack.Upto); diff != "" || len(ack.Nack) != 0 {
			t.Errorf("time %d: %+v\n%s", i+1, ack, diff)
		}
	}
	known, err := s.DB.Boxes(t.Context(), registry.BoxFilter{})
	if err != nil || len(known) != 1 || known[0].Online || known[0].App {
		t.Errorf("boxes %+v, %v", known, err)
	}
	got, err := s.Ingest(t.Context(), bytes.NewReader(b.export(30, 3)))
	if err != nil || got.Records != 5 {
		t.Errorf("the next one: %+v, %v", got, err)
	}
	if _, err := s.Ingest(t.Context(), bytes.NewReader(file)); !errors.Is(err, hub.ErrOlder) {
		t.Errorf("the first one again: %v", err)
	}
	if got, err := s.Ingest(t.Context(), bytes.NewReader(b.export(31, 3))); err != nil || got.Records != 1 {
		t.Errorf("after it: %+v, %v", got, err)
	}
}

// The mark may be ahead of what a file holds in one lane; an ack above that
// would be refused.
func TestIngestAcknowledgesNoMoreThanTheFile(t *testing.T) {
	s, b := stick(t)
	if _, err := s.Ingest(t.Context(), bytes.NewReader(b.export(10, 5))); err != nil {
		t.Fatal(err)
	}
	// The same box, whose export leaves a lane out.
	hello, err := wire.Encode(b.greeting())
	if err != nil {
		t.Fatal(err)
	}
	late := append(append(hello, '\n'), b.encode(b.batch(prov, 1, 4))...)
	got, err := s.Ingest(t.Context(), bytes.NewReader(late))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[edgeclaim.Lane]uint64{prov: 4}, b.opened(got.Answer).(*wire.Ack).Upto); diff != "" {
		t.Error(diff)
	}
}

func TestIngestPermanentNack(t *testing.T) {
	s, b := stick(t)
	file := bytes.Replace(b.export(25, 2), []byte(`"name":"Pump 13"`), []byte(`"nome":"Pump 13"`), 1)
	got, err := s.Ingest(t.Context(), bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	ack := b.opened(got.Answer).(*wire.Ack)
	if len(ack.Nack) != 1 || ack.Nack[0].Code != wire.NackPermanent || ack.Nack[0].Sequence != 13 || ack.Upto[prov] != 12 || ack.Upto[evt] != 2 {
		t.Errorf("ack %+v", ack)
	}
}

// A gap that the same file fills is none.
func TestIngestOutOfOrder(t *testing.T) {
	s, b := stick(t)
	lines := bytes.SplitAfter(b.export(20, 0), []byte("\n"))
	file := bytes.Join([][]byte{lines[0], lines[2], lines[1], lines[2]}, nil)
	got, err := s.Ingest(t.Context(), bytes.NewReader(file))
	if err != nil || got.Upto[prov] != 20 || len(got.Nack) != 0 || got.Records != 20 {
		t.Errorf("%+v, %v", got, err)
	}
	b.epoch = epochOf("box-1", 2)
	lines = bytes.SplitAfter(b.export(20, 0), []byte("\n"))
	got, err = s.Ingest(t.Context(), bytes.NewReader(append(lines[0], lines[2]...)))
	if err != nil || got.Upto[prov] != 0 || len(got.Nack) != 1 || got.Nack[0].Code != wire.NackGap || got.Nack[0].Sequence != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestIngestRefused(t *testing.T) {
	s, b := stick(t)
	if _, err := s.Ingest(t.Context(), bytes.NewReader(b.export(5, 0))); err != nil {
		t.Fatal(err)
	}
	b.epoch = epochOf("box-1", 2)
	if _, err := s.Ingest(t.Context(), bytes.NewReader(b.export(5, 0))); err != nil {
		t.Fatal(err)
	}
	b.epoch = epochOf("box-1", 1)
	got, err := s.Ingest(t.Context(), bytes.NewReader(b.export(6, 0)))
	if err != nil || got.Refused == nil {
		t.Fatalf("%+v, %v", got, err)
	}
	if r := b.opened(got.Answer).(*wire.Refused); r.Code != wire.RefusedFenced {
		t.Errorf("refused %+v", r)
	}
}

func TestIngestMalformed(t *testing.T) {
	s, b := stick(t)
	good := b.export(20, 0)
	lines := bytes.Split(good, []byte("\n"))
	foreign := *b
	foreign.names.Box = "box-2"
	file := func(lines ...[]byte) []byte { return bytes.Join(lines, []byte("\n")) }
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":          {nil, "file: empty"},
		"no hello":       {file(lines[1:]...), "line 1: "},
		"no JSON":        {[]byte("hello\n"), "line 1: "},
		"no names":       {[]byte(`{"type":"hello","site":"a b","box_id":"c"}`), "line 1: site"},
		"cut":            {good[:len(good)-100], "line 3: "},
		"another's":      {file(lines[0], foreign.encode(foreign.batch(prov, 1, 1))), "line 2: source"},
		"another export": {file(lines[0], bytes.Replace(lines[1], []byte(b.nonce), []byte("AAAAAAAAAAAAAAAAAAAAAA"), 1)), "line 2: nonce"},
		"two hellos":     {file(lines[0], lines[0]), "line 2: "},
		"a long line":    {file(lines[0], make([]byte, 2*wire.MaxMessage)), "line 2: "},
	} {
		_, err := s.Ingest(t.Context(), bytes.NewReader(c.file))
		if !errors.Is(err, edgeclaim.ErrInvalid) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Whatever is on a stick, reading it ends in an answer or in an error that
// names the line; and nobody's registry falls over.
func FuzzIngest(f *testing.F) {
	s, b := stick(f)
	good := b.export(3, 1)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("{}\n{}\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := s.Ingest(context.Background(), bytes.NewReader(file))
		switch {
		case err == nil && len(got.Answer) == 0:
			t.Error("neither an answer nor an error")
		case err != nil && !errors.Is(err, edgeclaim.ErrInvalid) && !errors.Is(err, hub.ErrOlder):
			t.Error(err)
		}
	})
}

// What a stick brought in the middle of a session is not acknowledged to that
// session before it told as much: boxes alarm at an ack above what they sent.
func TestStickInTheMiddleOfASession(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	b.tell(prov, 1, 5)
	b.ack(prov, 5)
	nonce := b.nonce
	s := hub.Stick{DB: r.db, Key: r.key}
	if got, err := s.Ingest(t.Context(), bytes.NewReader(b.export(20, 0))); err != nil || got.Records != 15 {
		t.Fatalf("%+v, %v", got, err)
	}
	b.nonce = nonce
	b.tell(prov, 6, 10)
	b.ack(prov, 10) // and no more
	b.tell(prov, 11, 25)
	b.ack(prov, 25)
	if got := r.boxOf("box-1"); !got.Online || !got.App {
		t.Errorf("the stick put the box offline: %+v", got)
	}
}
