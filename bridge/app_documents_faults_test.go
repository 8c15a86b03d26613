package bridge_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// TestAppDocumentsLies: what cannot be is not believed, and is not asked for over
// and over.
func TestAppDocumentsLies(t *testing.T) {
	id := document(t, edgeclaim.DocumentTemplates)
	good := paper{id: id, version: 1, size: wire.PartBytes + 10}
	part := func(a *application, of paper, n uint64, change func(p *wire.DocumentPart)) *wire.DocumentPart {
		offer := of.offer()
		said, err := wire.PartOf(a.head(wire.TypeDocument), &offer, n, of.text())
		if err != nil {
			a.problem("%v", err)
			return nil
		}
		change(said)
		return said
	}
	for _, tc := range []struct {
		name   string
		offers []edgeclaim.DocumentOffer
		answer func(a *application, w *wire.Want) *wire.DocumentPart
		alarm  edgeclaim.Alarm
	}{
		{"a document twice in a list", []edgeclaim.DocumentOffer{good.offer(), good.offer()}, nil, edgeclaim.AlarmMalformed},
		{"larger than one may be", []edgeclaim.DocumentOffer{{DocumentID: id, Version: 1, Hash: hashOf(nil), Size: wire.MaxDocumentText + 1}}, nil, edgeclaim.AlarmDocumentRefused},
		{"more parts than were offered", []edgeclaim.DocumentOffer{good.offer()}, func(a *application, w *wire.Want) *wire.DocumentPart {
			return part(a, good, w.Part, func(p *wire.DocumentPart) { p.Parts++ })
		}, edgeclaim.AlarmMalformed},
		{"a short part", []edgeclaim.DocumentOffer{good.offer()}, func(a *application, w *wire.Want) *wire.DocumentPart {
			return part(a, good, w.Part, func(p *wire.DocumentPart) { p.Data = "eA" })
		}, edgeclaim.AlarmMalformed},
		{"a longer end", []edgeclaim.DocumentOffer{good.offer()}, func(a *application, w *wire.Want) *wire.DocumentPart {
			return part(a, good, w.Part, func(p *wire.DocumentPart) {
				if w.Part == 2 {
					p.Data += "AAAA"
				}
			})
		}, edgeclaim.AlarmMalformed},
		{"another version inside", []edgeclaim.DocumentOffer{good.offer()}, func(a *application, w *wire.Want) *wire.DocumentPart {
			other := paper{id: id, version: 2, size: good.size}
			return part(a, other, w.Part, func(p *wire.DocumentPart) { p.Version, p.Hash = 1, good.offer().Hash })
		}, edgeclaim.AlarmMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, wants := newKeeper(), 0
			a := newApplication(t, newSigner(t))
			list := 0
			offer := func() {
				list++
				a.say(wire.KindDocument, &wire.Offers{
					Head: a.head(wire.TypeOffers), List: fmt.Sprint(list), Page: 1, Last: true, Documents: tc.offers,
				})
			}
			a.onWant = func(a *application, w *wire.Want) {
				if wants++; w.What == wire.WantDocument && tc.answer != nil {
					a.say(wire.KindDocument, tc.answer(a, w))
				}
			}
			m := newMemory()
			parts := m.parts()
			parts.Documents = k
			b := startWith(t, appConf(a), parts, a.enrolled())
			b.awaitStatus(t, appUp)
			a.do(offer)
			b.awaitStatus(t, alarmed(tc.alarm, 1))
			before := 0
			a.do(func() { before = wants; offer(); offer() })
			m.add(edgeclaim.LaneProv, 1)
			m.awaitAcked(t, edgeclaim.LaneProv, 1)
			a.do(func() {
				if wants > before+2 { // of the list at most
					t.Errorf("asked %d times more", wants-before)
				}
			})
			b.stop()
			if slices.ContainsFunc(k.takes, func(one string) bool { return strings.HasSuffix(one, "/ 1") }) {
				t.Errorf("took %v", k.takes)
			}
		})
	}
}

// TestAppDocumentsRestored: a box that turns out to be an old copy trusts no
// document of its own until upstream says so; but for the signer it states none.
func TestAppDocumentsRestored(t *testing.T) {
	signer := paper{id: document(t, edgeclaim.DocumentSigner), version: 1}
	papers := []paper{signer, {id: document(t, edgeclaim.DocumentRevocations), version: 5, signer: 1}}
	newer := paper{id: document(t, edgeclaim.DocumentRevocations), version: 6, signer: 1}
	s, k := newShelf(append(papers, newer)...), newKeeper()
	k.put(papers...)
	fails := true
	k.fail = func(call string) error {
		if call == "restored" && fails {
			fails = false
			return errors.New("said, and gone on without")
		}
		return nil
	}
	a := newApplication(t, newSigner(t))
	s.on(a)
	welcome := a.onHello
	a.onHello = func(a *application, h *wire.Hello) bool {
		if h.Epoch != epoch {
			return welcome(a, h)
		}
		a.say(wire.KindControl, &wire.Refused{Head: a.head(wire.TypeRefused), Code: wire.RefusedStale})
		return true
	}
	a.welcome = func(w *wire.Welcome) { w.Recover = true }
	m := newMemory()
	parts := m.parts()
	parts.Documents, parts.Restored = k, k.restore
	b := startWith(t, appConf(a), parts, a.enrolled())
	k.await(t, "the newest", func() bool { return len(k.takes) == 1 && k.confirms > 0 })
	b.stop()
	if len(a.hellos) < 2 || len(a.hellos[0].Documents) != 2 {
		t.Fatalf("hellos %+v", a.hellos)
	}
	if k.restored != 0 { // the first try failed, and the box goes on
		t.Errorf("restored %d times", k.restored)
	}
}

// TestAppDocumentsDoubted: as above, where it is noted.
func TestAppDocumentsDoubted(t *testing.T) {
	signer := paper{id: document(t, edgeclaim.DocumentSigner), version: 1}
	papers := []paper{signer, {id: document(t, edgeclaim.DocumentRevocations), version: 5, signer: 1}}
	for _, how := range []string{"refused", "recover"} {
		t.Run(how, func(t *testing.T) {
			s, k := newShelf(papers...), newKeeper()
			k.put(papers...)
			a := newApplication(t, newSigner(t))
			s.on(a)
			welcome := a.onHello
			a.onHello = func(a *application, h *wire.Hello) bool {
				if how == "recover" || h.Epoch != epoch {
					return welcome(a, h)
				}
				a.say(wire.KindControl, &wire.Refused{Head: a.head(wire.TypeRefused), Code: wire.RefusedStale})
				return true
			}
			a.welcome = func(w *wire.Welcome) { w.Recover = how == "recover" }
			parts := newMemory().parts()
			parts.Documents, parts.Restored = k, k.restore
			b := startWith(t, appConf(a), parts, a.enrolled())
			k.await(t, "noted, and confirmed anew", func() bool { return k.restored == 1 && k.confirms > 0 && k.has(s) })
			s.reported(t, a, k)
			b.stop()
			if last := a.hellos[len(a.hellos)-1]; how == "refused" && (len(last.Documents) != 1 || last.Documents[0].Type != edgeclaim.DocumentSigner) {
				t.Errorf("stated %v", last.Documents)
			}
			if len(k.takes)+len(k.refused) != 0 {
				t.Errorf("took %v, refused %v", k.takes, k.refused)
			}
		})
	}
}

// TestAppDocumentsMany: as many as a box can hold are stated, offered and
// reported in messages that each are small enough.
func TestAppDocumentsMany(t *testing.T) {
	var all []paper
	for i := range edgeclaim.MaxDocuments {
		name := fmt.Sprintf("%03d-%s", i, strings.Repeat("n", edgeclaim.MaxDocumentName-4))
		all = append(all, paper{id: document(t, edgeclaim.DocumentAllowList, name), version: 1})
	}
	s, k := newShelf(all...), newKeeper()
	s.page = wire.MaxOffers
	k.put(all[1:]...)
	a, _, b := startDocuments(t, s, k)
	k.await(t, "the one that it had not", func() bool { return len(k.takes) == 1 })
	s.reported(t, a, k)
	b.stop()
	if n := len(a.hellos[0].Documents); n != wire.MaxStated {
		t.Errorf("stated %d", n)
	}
}

// TestAppDocumentsBusy: a session ends while the box is busy with a document of
// it. What comes of that means nothing to the next one, which begins from what is
// there.
func TestAppDocumentsBusy(t *testing.T) {
	for _, how := range []string{"again", "refused"} {
		t.Run(how, func(t *testing.T) {
			s, k := newShelf(everything(t)...), newKeeper()
			begun, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			k.hold = func() {
				once.Do(func() {
					close(begun)
					<-release
				})
			}
			a, _, _ := startDocuments(t, s, k)
			<-begun
			hellos := 0
			a.do(func() {
				hellos = len(a.hellos)
				s.lose = func(m any) bool { _, is := m.(*wire.Hello); return is } // no list until it is asked for
				if how == "again" {
					a.say(wire.KindControl, &wire.Again{Head: a.head(wire.TypeAgain)})
				} else {
					a.say(wire.KindControl, &wire.Refused{Head: a.head(wire.TypeRefused), Code: wire.RefusedUnknown})
				}
			})
			a.await(t, "another hello", func() bool { return len(a.hellos) > hellos })
			close(release)
			k.await(t, "all", func() bool { return len(k.takes) == 6 })
		})
	}
}
