package bridge_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/bridge/wire"
)

// startDocuments is a box that takes documents of an application that has a
// shelf.
func startDocuments(t testing.TB, s *shelf, k *keeper, before ...func(*bridge.Bridge)) (*application, *memory, *running) {
	t.Helper()
	a := newApplication(t, newSigner(t))
	s.on(a)
	m := newMemory()
	parts := m.parts()
	parts.Documents, parts.Restored = k, k.restore
	return a, m, startWith(t, appConf(a), parts, append(before, a.enrolled())...)
}

// reported waits until the application was told of everything that the box has.
func (s *shelf) reported(t testing.TB, a *application, k *keeper) {
	t.Helper()
	a.await(t, "the report of all", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range k.Held() {
			told, ok := s.reports[d.DocumentID]
			if !ok || told.Version != d.Version || told.Hash != d.Hash || told.Confirmed != d.Confirmed ||
				told.Refused != d.Refused || told.RefusedVersion != d.RefusedVersion {
				return false
			}
		}
		return true
	})
}

// everything is a paper of each type but the signer's, and a large one.
func everything(t testing.TB) []paper {
	t.Helper()
	var all []paper
	for _, kind := range edgeclaim.DocumentTypes()[1:] {
		all = append(all, paper{id: document(t, kind), version: 1, size: 100})
	}
	return append(all, paper{id: document(t, edgeclaim.DocumentAllowList, "part-2"), version: 4, size: 5*wire.PartBytes + 1})
}

// TestAppDocuments: what is offered is taken, in the order of types and whole,
// however many parts it comes in, and reported; what changes later, and that
// alone, is taken too.
func TestAppDocuments(t *testing.T) {
	s, k := newShelf(everything(t)...), newKeeper()
	a, m, b := startDocuments(t, s, k)
	m.add(edgeclaim.LaneProv, 100)
	k.await(t, "all taken", func() bool { return len(k.takes) == 6 })
	var want []string
	for _, p := range everything(t) {
		want = append(want, fmt.Sprintf("%s %d", p.id, p.version))
	}
	k.mu.Lock()
	if fmt.Sprint(k.takes) != fmt.Sprint(want) || k.from != "hub-1" {
		t.Errorf("took %v from %q, want %v", k.takes, k.from, want)
	}
	k.mu.Unlock()
	if got := a.hellos[0].Documents; got == nil || len(got) != 0 {
		t.Errorf("a box that has none stated %v", got)
	}
	s.reported(t, a, k)

	next := paper{id: document(t, edgeclaim.DocumentRevocations), version: 2, size: 200}
	a.do(func() { s.publish(a, next) })
	k.await(t, "the next", func() bool { return len(k.takes) == 7 })
	a.do(func() { s.publish(a) })
	k.await(t, "all confirmed", func() bool { return k.has(s) })
	s.reported(t, a, k)
	m.awaitAcked(t, edgeclaim.LaneProv, 100)
	if status := b.Status(); len(status.Alarms) != 0 {
		t.Errorf("alarms %v", status.Alarms)
	}
	b.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(k.takes) != 7 || s.asked() != 5+6+1 {
		t.Errorf("took %v, asked for %v", k.takes, s.wants)
	}
}

// TestAppDocumentsKnown: a box that has all states it, and asks for nothing.
func TestAppDocumentsKnown(t *testing.T) {
	s, k := newShelf(everything(t)...), newKeeper()
	k.put(everything(t)...)
	later := document(t, edgeclaim.DocumentAliases, "unconfirmed")
	unread := document(t, edgeclaim.DocumentAliases, "refused")
	k.held[later] = edgeclaim.DocumentState{DocumentID: later, Version: 3, Hash: hashOf(nil)}
	k.held[unread] = edgeclaim.DocumentState{DocumentID: unread, Refused: "malformed"}
	a, _, b := startDocuments(t, s, k)
	k.await(t, "the list", func() bool { return k.confirms == 1 })
	s.reported(t, a, k)
	// One that comes by file.
	k.mu.Lock()
	k.put(paper{id: document(t, edgeclaim.DocumentAliases, "by-file"), version: 1})
	k.mu.Unlock()
	signalTo(k.came)
	s.reported(t, a, k)
	b.stop()
	if len(s.wants) != 0 || len(k.takes) != 0 || len(a.hellos[0].Documents) != 6 {
		t.Errorf("asked for %v, took %v, stated %v", s.wants, k.takes, a.hellos[0].Documents)
	}
}

// TestAppDocumentsSigners: a chain of keys is walked one after the other, and
// what the last one signed is taken when it is there, and not refused for good
// before.
func TestAppDocumentsSigners(t *testing.T) {
	signer := document(t, edgeclaim.DocumentSigner)
	s, k := newShelf(paper{id: document(t, edgeclaim.DocumentTemplates), version: 9, signer: 3}), newKeeper()
	for version := uint64(1); version <= 3; version++ {
		s.papers = append(s.papers, paper{id: signer, version: version, signer: version - 1})
	}
	a, _, _ := startDocuments(t, s, k)
	k.await(t, "the last signer's", func() bool { return k.has(s) || len(k.takes) == 4 })
	k.mu.Lock()
	if got := strings.Join(k.takes, ", "); got != "signer// 1, signer// 2, signer// 3, templates/"+tenant+"/ 9" {
		t.Errorf("took %s", got)
	}
	if len(k.refused) != 0 {
		t.Errorf("refused %v", k.refused)
	}
	k.mu.Unlock()
	s.reported(t, a, k)
}

// TestAppDocumentsRefused: what is refused is reported, and not asked for again
// until it is another.
func TestAppDocumentsRefused(t *testing.T) {
	id := document(t, edgeclaim.DocumentTemplates)
	s, k := newShelf(paper{id: id, version: 1}, paper{id: document(t, edgeclaim.DocumentProfiles), version: 1}), newKeeper()
	k.refuse = func(p paper) edgeclaim.DocumentRefusal {
		if p.id == id && p.version < 3 {
			return edgeclaim.DocumentConflicting
		}
		return ""
	}
	a, _, _ := startDocuments(t, s, k)
	k.await(t, "the other", func() bool { return len(k.takes) == 1 && len(k.refused) == 1 })
	s.reported(t, a, k)
	// Another behind it: by then it would have been asked for again.
	a.do(func() { s.publish(a, paper{id: document(t, edgeclaim.DocumentProfiles), version: 2}) })
	k.await(t, "the other's next", func() bool { return len(k.takes) == 2 })
	k.mu.Lock()
	if len(k.refused) != 1 {
		t.Errorf("refused %v", k.refused)
	}
	k.mu.Unlock()
	a.do(func() { s.publish(a, paper{id: id, version: 2}) })
	k.await(t, "another version", func() bool { return len(k.refused) == 2 })
	a.do(func() { s.publish(a, paper{id: id, version: 3}) })
	k.await(t, "a good version", func() bool { return len(k.takes) == 3 })
	s.reported(t, a, k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked() != 5 || len(k.refused) != 2 {
		t.Errorf("asked for %v, refused %v", s.wants, k.refused)
	}
}

// TestAppDocumentsUnenrolled: whoever the box does not know by its key rules over
// nothing in it, and is noticed.
func TestAppDocumentsUnenrolled(t *testing.T) {
	s, k := newShelf(everything(t)...), newKeeper()
	a := newApplication(t, nil)
	s.on(a)
	m := newMemory()
	m.add(edgeclaim.LaneProv, 5)
	parts := m.parts()
	shared, judged := newLease(), newJudge()
	shared.want(t, "k1")
	parts.Documents, parts.Shares, parts.Verdicts, parts.Restored = k, shared, judged, k.restore
	b := startWith(t, appConf(a), parts)
	m.awaitAcked(t, edgeclaim.LaneProv, 5)
	p := s.papers[0]
	offer := p.offer()
	part, err := wire.PartOf(wire.Head{}, &offer, 1, p.text())
	if err != nil {
		t.Fatal(err)
	}
	a.do(func() {
		part.Head = a.head(wire.TypeDocument)
		a.say(wire.KindDocument, part)
		a.say(wire.KindControl, &wire.Shares{Head: a.head(wire.TypeShares), Shares: []edgeclaim.ShareGrant{{Key: keyID(t, "k1"), Granted: 7}}})
		a.say(wire.KindControl, verdictsOf(t, a, 1))
	})
	b.awaitStatus(t, alarmed(edgeclaim.AlarmDocumentRefused, 1))
	m.add(edgeclaim.LaneProv, 1)
	m.awaitAcked(t, edgeclaim.LaneProv, 6)
	b.stop()
	for _, one := range b.Status().Alarms {
		if one.Alarm != edgeclaim.AlarmDocumentRefused || one.Count != 1 {
			t.Errorf("alarm %+v", one)
		}
	}
	if k.confirms != 0 || len(k.takes) != 0 || len(shared.granted) != 0 || len(judged.heard) != 0 || len(s.wants) != 0 || s.pages != 0 {
		t.Errorf("confirmed %d, took %v, granted %v, judged %v, asked %v, reported %d",
			k.confirms, k.takes, shared.granted, judged.heard, s.wants, s.pages)
	}
	if h := a.hellos[0]; h.Documents != nil || h.Shares {
		t.Errorf("it said that it takes documents %v, shares %v", h.Documents, h.Shares)
	}
}

// TestAppDocumentsBesideClaims: while the box is busy with a document, and while
// one is on its way, claims are told and acknowledged; and documents wait neither
// for credit, nor for what claims wait for.
func TestAppDocumentsBesideClaims(t *testing.T) {
	s, k := newShelf(paper{id: document(t, edgeclaim.DocumentRevocations), version: 1}), newKeeper()
	begun, release := make(chan struct{}), make(chan struct{})
	k.hold = func() {
		begun <- struct{}{}
		<-release
	}
	a, m, _ := startDocuments(t, s, k)
	<-begun
	for i := range uint64(5) {
		m.add(edgeclaim.LaneProv, 1)
		m.awaitAcked(t, edgeclaim.LaneProv, i+1)
	}
	close(release)
	k.await(t, "the document", func() bool { return len(k.takes) == 1 })

	// Claims cannot be told now: no credit, and then a nack that puts them off.
	a.do(func() {
		none := 0
		a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Credit: &none})
		s.publish(a, paper{id: document(t, edgeclaim.DocumentRevocations), version: 2})
	})
	<-begun
	put := make(chan struct{})
	var once sync.Once
	a.do(func() {
		a.onBatch = func(a *application, b *wire.Batch) bool {
			a.say(wire.KindAck, &wire.Ack{
				Head: a.head(wire.TypeAck), Nack: []wire.Nack{{Lane: b.Lane, Sequence: b.First, Code: wire.NackRetry, RetryAfter: time.Minute.Milliseconds()}},
			})
			once.Do(func() { close(put) })
			return true
		}
		credit := 1000
		a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Credit: &credit})
	})
	m.add(edgeclaim.LaneProv, 1)
	<-put
	a.do(func() { s.publish(a, paper{id: document(t, edgeclaim.DocumentRevocations), version: 3}) })
	<-begun
	k.await(t, "the third", func() bool { return len(k.takes) == 3 })
}

// TestAppDocumentsAtOnce: they do not wait for the start's spread, and go before
// what does.
func TestAppDocumentsAtOnce(t *testing.T) {
	s, k := newShelf(everything(t)...), newKeeper()
	a := newApplication(t, newSigner(t))
	s.on(a)
	a.welcome = func(w *wire.Welcome) { w.StartAfter = time.Hour.Milliseconds() }
	m := newMemory()
	m.add(edgeclaim.LaneEvt, 10)
	parts := m.parts()
	parts.Documents = k
	startWith(t, appConf(a), parts, a.enrolled())
	k.await(t, "all", func() bool { return len(k.takes) == 6 })
	if acked := m.acked(edgeclaim.LaneEvt); acked != 0 {
		t.Errorf("events were told up to %d", acked)
	}
}

// TestAppDocumentsLost: a list that never came, a page of one, and a part are
// asked for again; what comes twice does nothing.
func TestAppDocumentsLost(t *testing.T) {
	s, k := newShelf(everything(t)...), newKeeper()
	times := map[string]int{}
	s.lose = func(m any) bool {
		name := fmt.Sprintf("%T", m)
		if w, ok := m.(*wire.Want); ok {
			name += fmt.Sprint(w.What, w.Document, w.Part)
		}
		times[name]++
		return times[name] == 1 // each is answered when it is said again
	}
	a, _, b := startDocuments(t, s, k)
	a.do(func() { // a list of which the middle is lost
		o := func(page uint64, last bool, p paper) *wire.Offers {
			return &wire.Offers{
				Head: a.head(wire.TypeOffers), List: "torn", Page: page, Last: last, Documents: []edgeclaim.DocumentOffer{p.offer()},
			}
		}
		if a.hello != nil {
			a.say(wire.KindDocument, o(1, false, s.papers[0]))
			a.say(wire.KindDocument, o(3, true, s.papers[2]))
		}
	})
	k.await(t, "all", func() bool { return len(k.takes) == 6 })
	b.stop()
	if n := len(b.Status().Alarms); n != 0 {
		t.Errorf("alarms %v", b.Status().Alarms)
	}
	if s.offered == 0 {
		t.Errorf("it never asked for the list: %v", times)
	}
}

// TestAppDocumentsLater: what the box cannot look at or take now, it does later,
// without asking for it again.
func TestAppDocumentsLater(t *testing.T) {
	s, k := newShelf(paper{id: document(t, edgeclaim.DocumentTemplates), version: 1, size: 3 * wire.PartBytes}), newKeeper()
	times := map[string]int{}
	k.fail = func(call string) error {
		if times[call]++; times[call] <= 2 {
			return fmt.Errorf("the disk is full: %w", edgeclaim.ErrUnavailable)
		}
		return nil
	}
	_, _, b := startDocuments(t, s, k)
	k.await(t, "the document", func() bool { return len(k.takes) == 1 })
	b.stop()
	if s.asked() != 3 || times["take"] != 3 {
		t.Errorf("asked for %v", s.wants)
	}
}

// TestAppDocumentsConfirmed: while nothing changes, upstream is asked now and then
// what is newest, so that nothing grows old that is not.
func TestAppDocumentsConfirmed(t *testing.T) {
	s, k := newShelf(everything(t)...), newKeeper()
	k.put(everything(t)...)
	startDocuments(t, s, k, func(b *bridge.Bridge) { bridge.ConfirmEvery(b, 20*time.Millisecond) })
	k.await(t, "confirmed again and again", func() bool { return k.confirms > 5 })
}
