package document_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/document"
	"edgeclaim/internal/signeddoc"
)

// model is what a box has to hold, said in the plainest way.
type model struct {
	*rig
	root  byte
	chain []byte // the keys from the enrolled one to the one that signs
	// have is the version and hash of each document, and led those of the signers
	// on the way to the present one.
	have map[string]heldModel
	led  map[string]bool
}

type heldModel struct {
	version   uint64
	hash      string
	confirmed bool
}

const modelKeys = 4

// TestModel: whatever comes, in whatever order, signed by whomever, with restarts,
// failures of the store and new enrolments between: the box holds what the model
// does, and no version goes back.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{rig: newRig(t, document.Config{}), chain: []byte{0}, have: map[string]heldModel{}, led: map[string]bool{}}
		defer m.close()
		rt.Repeat(map[string]func(*rapid.T){
			"take": m.take, "takeAnother": m.take, "import": m.imports, "confirm": m.confirm, "unavailable": m.fail,
			"restart":  func(*rapid.T) { m.restart(0) },
			"restored": func(*rapid.T) { m.noErr(m.Restored(t.Context())); m.doubt() },
			"enrol":    m.enrolAnew, "": m.compare,
		})
	})
}

// draw is any document, and who signed it; of a signer also whom it names.
func (m *model) draw(rt *rapid.T) (s *signeddoc.Signed, by, names byte) {
	p := paper{
		kind:    rapid.SampledFrom(edgeclaim.DocumentTypes()).Draw(rt, "type"),
		tenant:  rapid.SampledFrom([]string{tenantA, tenantB}).Draw(rt, "tenant"),
		version: rapid.Uint64Range(1, 6).Draw(rt, "version"),
		more:    rapid.SampledFrom([]string{"", "", `,"stale":"deny"`, `,"box_id":"box-1"`, `,"box_id":"box-2"`}).Draw(rt, "more"),
	}
	by = rapid.SampledFrom([]byte{m.signer(), m.signer(), m.root, rapid.ByteRange(0, modelKeys-1).Draw(rt, "any")}).Draw(rt, "by")
	names = rapid.ByteRange(0, modelKeys-1).Draw(rt, "names")
	if p.kind == edgeclaim.DocumentSigner {
		p.body, p.more = `{"public_key":"`+signeddoc.EncodePublic(public(key(names)))+`"}`, ""
	}
	return signs(m.tb, key(by), p), by, names
}

func (m *model) signer() byte { return m.chain[len(m.chain)-1] }

// judge says what has to become of a document.
func (m *model) judge(s *signeddoc.Signed, by byte) (document.Outcome, edgeclaim.DocumentRefusal) {
	d := s.Document
	have := m.have[d.String()]
	switch {
	case m.led[s.Hash] || have.version == d.Version && have.hash == s.Hash:
		return document.OutcomeSame, ""
	case by != m.signer():
		return document.OutcomeRefused, edgeclaim.DocumentBadSignature
	case d.Box != "" && d.Box != box:
		return document.OutcomeRefused, edgeclaim.DocumentOtherBox
	case d.Version < have.version:
		return document.OutcomeRefused, edgeclaim.DocumentOldVersion
	case d.Version == have.version:
		return document.OutcomeRefused, edgeclaim.DocumentSameVersion
	}
	return document.OutcomeApplied, ""
}

func (m *model) apply(s *signeddoc.Signed, outcome document.Outcome, names byte, upstream bool) {
	id := s.Document.String()
	switch have := m.have[id]; {
	case outcome == document.OutcomeApplied:
		m.have[id] = heldModel{version: s.Document.Version, hash: s.Hash}
		if s.Document.Type == edgeclaim.DocumentSigner {
			m.chain = append(m.chain, names)
			m.led[s.Hash] = true
		}
	case outcome == document.OutcomeSame && upstream && have.hash == s.Hash:
		have.confirmed = true
		m.have[id] = have
	}
}

func (m *model) take(rt *rapid.T) {
	s, by, names := m.draw(rt)
	outcome, reason := m.judge(s, by)
	_, err := m.Take(rt.Context(), s.Text, "upstream")
	why, refused := errors.AsType[*edgeclaim.DocumentError](err)
	if refused != (outcome == document.OutcomeRefused) || refused && why.Reason != reason || !refused && err != nil {
		rt.Fatalf("%s version %d by %d: %v, want %s %s", s.Document, s.Document.Version, by, err, outcome, reason)
	}
	m.apply(s, outcome, names, true)
}

func (m *model) imports(rt *rapid.T) {
	s, by, names := m.draw(rt)
	outcome, reason := m.judge(s, by)
	done, err := m.Import(rt.Context(), newReader(s))
	if err != nil || done.Documents[0].Outcome != outcome || !strings.HasPrefix(done.Documents[0].Reason, string(reason)) {
		rt.Fatalf("imported as %+v, %v, want %s %s", done.Documents, err, outcome, reason)
	}
	m.apply(s, outcome, names, false)
}

func newReader(s *signeddoc.Signed) *bytes.Reader { return bytes.NewReader(s.Text) }

func (m *model) confirm(rt *rapid.T) {
	s, _, _ := m.draw(rt)
	have := m.have[s.Document.String()]
	wanted, err := m.Confirm(rt.Context(), []edgeclaim.DocumentOffer{offer(s)})
	want := s.Document.Version > have.version || s.Document.Version == have.version && s.Hash != have.hash
	if err != nil || want != (len(wanted) == 1) {
		rt.Fatalf("wanted %v, %v, held %+v", wanted, err, have)
	}
	if have.hash == s.Hash {
		m.apply(s, document.OutcomeSame, 0, true)
	}
	_, err = m.Confirm(rt.Context(), nil) // it is taken back: what is taken then is not confirmed
	m.noErr(err)
}

// fail has a document come while nothing can be stored.
func (m *model) fail(rt *rapid.T) {
	s, by, _ := m.draw(rt)
	outcome, _ := m.judge(s, by)
	m.unavailable(true)
	_, err := m.Take(rt.Context(), s.Text, "upstream")
	m.unavailable(false)
	older := m.led[s.Hash] && m.have["signer//"].hash != s.Hash // nothing is to be stored of it
	if outcome != document.OutcomeRefused && !older && !errors.Is(err, edgeclaim.ErrUnavailable) {
		rt.Fatalf("without the store: %v", err)
	}
}

func (m *model) enrolAnew(rt *rapid.T) {
	root := rapid.ByteRange(0, modelKeys-1).Draw(rt, "root")
	m.enrol(public(key(root)))
	if root == m.root {
		return
	}
	m.root, m.chain, m.led = root, []byte{root}, map[string]bool{}
	delete(m.have, "signer//")
	m.doubt()
}

func (m *model) doubt() {
	for id, have := range m.have {
		have.confirmed = false
		m.have[id] = have
	}
}

// compare holds the box against the model.
func (m *model) compare(rt *rapid.T) {
	held := m.Held()
	for i := range held {
		id := held[i].String()
		if got := (heldModel{held[i].Version, held[i].Hash, held[i].Confirmed}); got != m.have[id] {
			rt.Fatalf("%s is %+v, want %+v", id, got, m.have[id])
		}
	}
	for id, have := range m.have {
		if !slices.ContainsFunc(held, func(s edgeclaim.DocumentState) bool { return s.String() == id }) {
			rt.Fatalf("%s version %d is not held", id, have.version)
		}
	}
}
