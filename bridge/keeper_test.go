package bridge_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// paper is a document as these tests have it: the bridge reads none of it.
type paper struct {
	id      edgeclaim.DocumentID
	version uint64
	signer  uint64 // the version of the signer that it takes
	size    int    // in bytes; as it comes, where it is less than that
}

// text is one line, and as many bytes behind it as it takes.
func (p paper) text() []byte {
	line := fmt.Sprintf("%s %d %d %d\n", p.id, p.version, p.signer, p.size)
	return []byte(line + strings.Repeat("edgeclaim ", p.size/10+1)[:max(0, p.size-len(line))])
}

func (p paper) offer() edgeclaim.DocumentOffer {
	text := p.text()
	return edgeclaim.DocumentOffer{DocumentID: p.id, Version: p.version, Hash: hashOf(text), Size: len(text)}
}

func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// readPaper undoes text.
func readPaper(text []byte) (p paper, ok bool) {
	var id string
	if n, err := fmt.Sscanf(string(text), "%s %d %d %d\n", &id, &p.version, &p.signer, &p.size); n != 4 || err != nil {
		return p, false
	}
	p.id, _ = edgeclaim.ParseDocumentID(id)
	return p, string(text) == string(p.text())
}

// document names one of the tenant's; of a list, by its name.
func document(t testing.TB, kind edgeclaim.DocumentType, name ...string) edgeclaim.DocumentID {
	t.Helper()
	id := edgeclaim.DocumentID{Type: kind, Name: strings.Join(name, "")}
	if kind != edgeclaim.DocumentSigner {
		tenantID, err := edgeclaim.ParseTenantID(tenant)
		if err != nil {
			t.Fatal(err)
		}
		id.Tenant = tenantID
	}
	return id
}

// keeper keeps papers as a box keeps documents: bridge.Documents.
type keeper struct {
	// The hooks are asked first, with mu held; constant.
	fail   func(call string) error                 // confirm, take, restored
	refuse func(p paper) edgeclaim.DocumentRefusal // empty: take it
	hold   func()                                  // before a paper is taken, without mu
	came   chan struct{}

	mu       sync.Mutex
	held     map[edgeclaim.DocumentID]edgeclaim.DocumentState // guarded by mu
	takes    []string                                         // guarded by mu; what was taken, as it came
	refused  []string                                         // guarded by mu; what was not
	confirms int                                              // guarded by mu
	restored int                                              // guarded by mu
	from     string                                           // guarded by mu; whose word the last was
	changed  chan struct{}                                    // guarded by mu; closed by every change
}

func newKeeper() *keeper {
	return &keeper{
		came: make(chan struct{}, 1), held: map[edgeclaim.DocumentID]edgeclaim.DocumentState{}, changed: make(chan struct{}),
	}
}

func (k *keeper) Changed() <-chan struct{} { return k.came }

// note wakes those who wait. It is called with mu held.
func (k *keeper) note() {
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *keeper) failed(call string) error {
	if k.fail == nil {
		return nil
	}
	return k.fail(call)
}

func (k *keeper) Held() []edgeclaim.DocumentState {
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []edgeclaim.DocumentState
	for _, d := range k.held {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b edgeclaim.DocumentState) int { return inOrder(a.DocumentID, b.DocumentID) })
	return list
}

// inOrder is that of types, then of names.
func inOrder(a, b edgeclaim.DocumentID) int {
	types := edgeclaim.DocumentTypes()
	return cmp.Or(cmp.Compare(slices.Index(types, a.Type), slices.Index(types, b.Type)), strings.Compare(a.Name, b.Name))
}

func (k *keeper) Confirm(_ context.Context, offers []edgeclaim.DocumentOffer) ([]edgeclaim.DocumentOffer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failed("confirm"); err != nil {
		return nil, err
	}
	var wanted []edgeclaim.DocumentOffer
	for _, o := range offers {
		switch d := k.held[o.DocumentID]; {
		case o.Version == d.Version && o.Hash == d.Hash:
			d.Confirmed = true
			k.held[o.DocumentID] = d
		case o.Version < d.Version:
			k.refused = append(k.refused, fmt.Sprintf("%s %d %s", o.DocumentID, o.Version, edgeclaim.DocumentOldVersion))
		default:
			wanted = append(wanted, o)
		}
	}
	slices.SortFunc(wanted, func(a, b edgeclaim.DocumentOffer) int { return inOrder(a.DocumentID, b.DocumentID) })
	k.confirms++
	k.note()
	return wanted, nil
}

func (k *keeper) Take(_ context.Context, text []byte, from string) (edgeclaim.DocumentState, error) {
	if k.hold != nil {
		k.hold()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.note()
	if err := k.failed("take"); err != nil {
		return edgeclaim.DocumentState{}, err
	}
	p, ok := readPaper(text)
	why := k.judge(p, ok)
	d := k.held[p.id]
	d.DocumentID = p.id
	if why != "" {
		d.Refused, d.RefusedVersion = string(why), p.version
		if ok {
			k.held[p.id] = d
		}
		k.refused = append(k.refused, fmt.Sprintf("%s %d %s", p.id, p.version, why))
		signalTo(k.came)
		return d, &edgeclaim.DocumentError{Reason: why}
	}
	k.from = from
	if d.Version != p.version || d.Hash != hashOf(text) {
		k.takes = append(k.takes, fmt.Sprintf("%s %d", p.id, p.version))
		d.Version, d.Hash, d.Confirmed, d.Refused, d.RefusedVersion = p.version, hashOf(text), false, "", 0
		k.held[p.id] = d
		signalTo(k.came)
	}
	return d, nil
}

// judge says why a paper is not taken. It is called with mu held.
func (k *keeper) judge(p paper, ok bool) edgeclaim.DocumentRefusal {
	signer := k.held[edgeclaim.DocumentID{Type: edgeclaim.DocumentSigner}].Version
	switch {
	case !ok:
		return edgeclaim.DocumentMalformed
	case p.signer != signer && (p.id.Type != edgeclaim.DocumentSigner || p.version != signer):
		return edgeclaim.DocumentBadSignature
	case p.version < k.held[p.id].Version:
		return edgeclaim.DocumentOldVersion
	case k.refuse != nil:
		return k.refuse(p)
	}
	return ""
}

// restore is Parts.Restored.
func (k *keeper) restore(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failed("restored"); err != nil {
		return err
	}
	for id, d := range k.held {
		d.Confirmed = false
		k.held[id] = d
	}
	k.restored++
	k.note()
	return nil
}

// put has the box hold papers from the start, confirmed.
func (k *keeper) put(papers ...paper) {
	for _, p := range papers {
		k.held[p.id] = edgeclaim.DocumentState{
			DocumentID: p.id, Version: p.version, Hash: hashOf(p.text()), Confirmed: true,
		}
	}
}

func (k *keeper) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	awaitUnder(t, &k.mu, &k.changed, func() (string, bool) {
		return fmt.Sprintf("%s: %d documents, took %v, refused %v, %d confirms", what, len(k.held), k.takes, k.refused, k.confirms), ok()
	})
}

// has reports whether the box holds the newest of a shelf, all confirmed. It is
// called with mu held.
func (k *keeper) has(s *shelf) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.newest() {
		d := k.held[p.id]
		if d.Version != p.version || d.Hash != hashOf(p.text()) || !d.Confirmed {
			return false
		}
	}
	return true
}

// shelf is what an application has to offer. It answers what a box says of it.
type shelf struct {
	page int // documents in a page of offers; constant

	mu      sync.Mutex
	papers  []paper // guarded by mu, as are the others
	signer  uint64  // of the box, as it said last
	lists   int
	wants   []string // parts that were asked for
	offered int      // times that the list was asked for
	reports map[edgeclaim.DocumentID]wire.DocumentReport
	pages   int // of reports
	// lose, when not nil, says what is not answered.
	lose func(m any) bool
}

func newShelf(papers ...paper) *shelf {
	return &shelf{page: 3, papers: papers, reports: map[edgeclaim.DocumentID]wire.DocumentReport{}}
}

// talker says things to a box.
type talker interface {
	head(kind string) wire.Head
	say(kind string, message wire.Down)
}

// newest are those that are offered: of a signer the lowest above the box's. It
// is called with mu held.
func (s *shelf) newest() []paper {
	best := map[edgeclaim.DocumentID]paper{}
	for _, p := range s.papers {
		at, ok := best[p.id]
		better := p.version > at.version
		if p.id.Type == edgeclaim.DocumentSigner && ok {
			above := func(v uint64) bool { return v > s.signer }
			better = above(p.version) && (!above(at.version) || p.version < at.version) || !above(at.version) && p.version > at.version
		}
		if !ok || better {
			best[p.id] = p
		}
	}
	var list []paper
	for _, p := range best {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b paper) int { return inOrder(b.id, a.id) }) // not as it is to be taken
	return list
}

// publish adds papers, and offers them.
func (s *shelf) publish(to talker, papers ...paper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.papers = append(s.papers, papers...)
	s.offerAll(to)
}

// offerAll is called with mu held.
func (s *shelf) offerAll(to talker) {
	s.lists++
	list := fmt.Sprintf("l%d", s.lists)
	var offers []edgeclaim.DocumentOffer
	for _, p := range s.newest() {
		offers = append(offers, p.offer())
	}
	for page := uint64(1); ; page++ {
		n := min(len(offers), s.page)
		to.say(wire.KindDocument, &wire.Offers{
			Head: to.head(wire.TypeOffers), List: list, Page: page, Last: n == len(offers),
			Documents: append([]edgeclaim.DocumentOffer{}, offers[:n]...),
		})
		if offers = offers[n:]; len(offers) == 0 {
			return
		}
	}
}

// hear answers what a box says; a hello once it was welcomed.
func (s *shelf) hear(from talker, m any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lose != nil && s.lose(m) {
		return
	}
	switch m := m.(type) {
	case *wire.Hello:
		s.signer = 0
		for _, d := range m.Documents {
			if d.Type == edgeclaim.DocumentSigner {
				s.signer = d.Version
			}
		}
		s.offerAll(from)
	case *wire.DocumentsReport:
		s.hearReport(m)
	case *wire.Want:
		s.hearWant(from, m)
	}
}

// asked counts the parts that were asked for, each once. It is called with mu
// held, or when the box has stopped.
func (s *shelf) asked() int {
	slices.Sort(s.wants)
	s.wants = slices.Compact(s.wants)
	return len(s.wants)
}

func (s *shelf) hearReport(m *wire.DocumentsReport) {
	s.pages++
	for _, d := range m.Documents {
		s.reports[d.DocumentID] = d
		if d.Type == edgeclaim.DocumentSigner {
			s.signer = d.Version
		}
	}
}

func (s *shelf) hearWant(from talker, w *wire.Want) {
	switch w.What {
	case wire.WantOffers:
		s.offered++
		s.offerAll(from)
	case wire.WantDocument:
		s.wants = append(s.wants, fmt.Sprintf("%s %d/%d", w.Document, w.Version, w.Part))
		for _, p := range s.papers {
			offer := p.offer()
			if p.id != w.Document || p.version != w.Version || offer.Hash != w.Hash {
				continue
			}
			if part, err := wire.PartOf(from.head(wire.TypeDocument), &offer, w.Part, p.text()); err == nil {
				from.say(wire.KindDocument, part)
			}
		}
	}
}

// on has an application speak of a shelf.
func (s *shelf) on(a *application) {
	a.onHello = func(a *application, h *wire.Hello) bool {
		a.sayWelcome()
		s.hear(a, h)
		return true
	}
	a.onWant = func(a *application, w *wire.Want) { s.hear(a, w) }
	a.onRuled = func(a *application, m any) { s.hear(a, m) }
}

// awaitUnder waits until ok, which is asked with mu held, and again whenever the
// channel, which mu guards, closes.
func awaitUnder(t testing.TB, mu *sync.Mutex, changed *chan struct{}, ok func() (instead string, done bool)) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		mu.Lock()
		instead, done := ok()
		wait := *changed
		mu.Unlock()
		if done {
			return
		}
		select {
		case <-wait:
		case <-timer.C:
			t.Fatalf("not within %v: %s", patience, instead)
		}
	}
}
