package hub_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/protocolschema"
	"edgeclaim/internal/signeddoc"
)

// documentKey is the nth key that signs documents.
func documentKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

// document signs one of a type and version; body is what its member holds.
func document(t testing.TB, by byte, kind edgeclaim.DocumentType, version uint64, body string) *signeddoc.Signed {
	t.Helper()
	tenant := fmt.Sprintf(`"tenant_id":%q,`, tenantID)
	if kind == edgeclaim.DocumentSigner {
		tenant = ""
	}
	s, err := signeddoc.Sign(documentKey(by), fmt.Appendf(nil, `{"type":%q,%s"version":%d,"issued_at":"2026-10-04T09:12:33Z",%q:{%s}}`, kind, tenant, version, kind, body))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func nextSigner(t testing.TB, version uint64, by, next byte) *signeddoc.Signed {
	t.Helper()
	public, _ := documentKey(next).Public().(ed25519.PublicKey)
	return document(t, by, edgeclaim.DocumentSigner, version, fmt.Sprintf(`"public_key":%q`, signeddoc.EncodePublic(public)))
}

// beside opens the hub's registry as another process does, and closes it again.
func beside(t testing.TB, dir string, do func(*registry.DB)) {
	t.Helper()
	db, err := registry.Open(context.Background(), registry.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	do(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// publish publishes beside the hub.
func publish(t testing.TB, dir string, documents ...*signeddoc.Signed) {
	t.Helper()
	beside(t, dir, func(db *registry.DB) {
		for _, s := range documents {
			if isNew, err := db.PublishDocument(context.Background(), s); !isNew || err != nil {
				t.Fatal(isNew, err)
			}
		}
	})
}

// obedient is a hello of an enrolled box that takes documents and shares, and
// holds some.
func (b *box) obedient(held ...*signeddoc.Signed) *wire.Hello {
	h := b.greeting()
	h.Enrolled, h.Shares, h.Documents = true, true, []wire.DocumentVersion{}
	for _, s := range held {
		h.Documents = append(h.Documents, wire.DocumentVersion{DocumentID: s.Document.DocumentID, Version: s.Document.Version, Hash: s.Hash})
	}
	return h
}

// checked holds what came down against the schema.
func (b *box) checked(kind string, message wire.Down) {
	b.t.Helper()
	text, err := wire.Encode(message)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := protocolschema.Check(b.names.Down(kind), sealed(text)); err != nil {
		b.t.Error(err)
	}
}

// offers waits for the next list that is offered, whole.
func (b *box) offers() []string {
	b.t.Helper()
	all := []string{}
	var list string
	for page := uint64(1); ; page++ {
		o := next[*wire.Offers](b)
		b.checked(wire.KindDocument, o)
		if o.Page != page || page > 1 && o.List != list {
			b.t.Fatalf("page %d of %s, want %d of %s", o.Page, o.List, page, list)
		}
		list = o.List
		for i := range o.Documents {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s %d %s", o.Documents[i].Type, o.Documents[i].Version, o.Documents[i].Name)))
		}
		if o.Last {
			return all
		}
	}
}

// offered waits until a list is offered that is want; others may come before.
func (b *box) offered(want ...string) {
	b.t.Helper()
	var got []string
	for range 10 {
		if got = b.offers(); cmp.Equal(append([]string{}, want...), got) {
			return
		}
	}
	b.t.Fatalf("offered %q, want %q", got, want)
}

// wants asks for a part of a document.
func (b *box) wants(s *signeddoc.Signed, version, part uint64) {
	b.t.Helper()
	b.say(wire.KindControl, &wire.Want{
		Type: wire.TypeWant, Box: b.names.Box, Epoch: b.epoch, Nonce: b.nonce, What: wire.WantDocument,
		Document: s.Document.DocumentID, Version: version, Hash: s.Hash, Part: part,
	})
}

// fetch asks for a document, part by part; parts that come twice are nothing new.
func (b *box) fetch(s *signeddoc.Signed) []byte {
	b.t.Helper()
	var text []byte
	for part, parts := uint64(1), uint64(1); part <= parts; part++ {
		b.wants(s, s.Document.Version, part)
		p := next[*wire.DocumentPart](b)
		data, err := p.Text()
		if err != nil || p.Part != part || p.Document != s.Document.DocumentID || p.Version != s.Document.Version || p.Hash != s.Hash {
			b.t.Fatalf("%+v, %v", p, err)
		}
		b.checked(wire.KindDocument, p)
		text, parts = append(text, data...), p.Parts
	}
	return text
}

// reports tells which documents the box has.
func (b *box) reports(held ...*signeddoc.Signed) {
	b.t.Helper()
	r := &wire.DocumentsReport{
		Type: wire.TypeDocuments, Box: b.names.Box, Epoch: b.epoch, Nonce: b.nonce, List: "l", Page: 1, Last: true, Documents: []wire.DocumentReport{},
	}
	for _, s := range held {
		r.Documents = append(r.Documents, wire.DocumentReport{DocumentID: s.Document.DocumentID, Version: s.Document.Version, Hash: s.Hash, Confirmed: true})
	}
	b.say(wire.KindControl, r)
}

// TestDocuments: a box is offered what is for it after its welcome and whenever
// that changes, also by another process, and gets it part by part.
func TestDocuments(t *testing.T) {
	broker, dir := mosquitto.Start(t, mosquitto.Options{}).Addr(), t.TempDir()
	r := start(t, broker, dir)
	b := newBox(t, broker, "box-a", r.public())
	b.say(wire.KindControl, b.obedient())
	next[*wire.Welcome](b)
	b.offered()

	var rows []string
	for n := range 3000 {
		rows = append(rows, fmt.Sprintf(`{"hardware_id":"board-%d","name":"Pump of some length, number %d"}`, n, n))
	}
	revocations := document(t, 1, edgeclaim.DocumentRevocations, 1, "")
	large := document(t, 1, edgeclaim.DocumentAllowList, 7, `"template_id":"t-1","rows":[`+strings.Join(rows, ",")+`]`)
	begun := time.Now()
	publish(t, dir, large, revocations)
	b.offered("revocations 1", "allow_list 7")
	t.Logf("offered after %v", time.Since(begun))
	for _, s := range []*signeddoc.Signed{revocations, large, large} {
		if got := b.fetch(s); !bytes.Equal(got, s.Text) {
			t.Errorf("%s: %d bytes, want %d", s.Document.Type, len(got), len(s.Text))
		}
	}
	b.reports(revocations, large)
	await(t, "the report", func() bool {
		all, err := r.db.BoxDocuments(t.Context(), "box-a")
		return err == nil && len(all) == 2 && !all[0].Behind && !all[1].Behind && all[1].Confirmed
	})

	// What is not there, or another one by now, is answered with what is.
	b.wants(revocations, 9, 1)
	b.offered("revocations 1", "allow_list 7")
	wrong := *revocations
	wrong.Hash = large.Hash
	b.wants(&wrong, 1, 1)
	b.offered("revocations 1", "allow_list 7")
	b.wants(revocations, 1, 20) // a part beyond the last: nothing
	b.say(wire.KindControl, b.obedient(revocations, large))
	next[*wire.Welcome](b)
	b.offered("revocations 1", "allow_list 7")
	if f := r.hub.Figures(); f.Offers < 5 || f.Parts < 6 || f.Reports != 1 {
		t.Errorf("%+v", f)
	}
}

// TestDocumentsAreNotForAll: a box that is not enrolled, or takes none, is offered
// nothing, and gets nothing that it asks for.
func TestDocumentsAreNotForAll(t *testing.T) {
	broker, dir := mosquitto.Start(t, mosquitto.Options{}).Addr(), t.TempDir()
	r := start(t, broker, dir)
	s := document(t, 1, edgeclaim.DocumentRevocations, 1, "")
	publish(t, dir, s)
	for name, change := range map[string]func(*wire.Hello){
		"box-a": func(h *wire.Hello) { h.Enrolled = false },
		"box-b": func(h *wire.Hello) { h.Documents, h.Shares = nil, false },
	} {
		b := newBox(t, broker, name, r.public())
		for range 2 {
			h := b.obedient()
			change(h)
			b.say(wire.KindControl, h)
			next[*wire.Welcome](b)
			b.wants(s, 1, 1)
			b.asks("k-1", 0)
			b.reports()
			b.tell(prov, 1, 1)
			b.ack(prov, 1) // behind the others: whatever were said would have come before
		}
	}
}

// TestSigners: a box walks from one signer to the next, and only then is it
// offered what the last one has signed. A report that comes late takes nothing back.
func TestSigners(t *testing.T) {
	broker, dir := mosquitto.Start(t, mosquitto.Options{}).Addr(), t.TempDir()
	r := start(t, broker, dir)
	public, _ := documentKey(1).Public().(ed25519.PublicKey)
	if err := r.db.BindDocumentKey(t.Context(), public, false); err != nil {
		t.Fatal(err)
	}
	one, two := nextSigner(t, 1, 1, 2), nextSigner(t, 5, 2, 3)
	publish(t, dir, one, two, document(t, 3, edgeclaim.DocumentRevocations, 1, ""))
	b := newBox(t, broker, "box-a", r.public())
	b.say(wire.KindControl, b.obedient())
	next[*wire.Welcome](b)
	b.offered("signer 1")
	b.reports(one)
	b.offered("signer 5")
	b.reports(two)
	b.offered("signer 5", "revocations 1")
	b.reports(one) // late
	publish(t, dir, document(t, 3, edgeclaim.DocumentRevocations, 2, ""))
	b.offered("signer 5", "revocations 2")

	c := newBox(t, broker, "box-c", r.public())
	c.say(wire.KindControl, c.obedient(one))
	next[*wire.Welcome](c)
	c.offered("signer 5")
	report := &wire.DocumentsReport{
		Type: wire.TypeDocuments, Box: "box-c", Epoch: c.epoch, Nonce: c.nonce, List: "l", Page: 1, Last: true,
		Documents: []wire.DocumentReport{{DocumentID: one.Document.DocumentID, Version: 1, Hash: one.Hash, Refused: "bad_signature", RefusedVersion: 5}},
	}
	c.say(wire.KindControl, report)
	c.offered("signer 5", "revocations 2")
}

// TestOffersAreSaidAgain: a box that says nothing of what it was offered is
// offered it again; one that has all is not.
func TestOffersAreSaidAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for what is said again")
	}
	t.Parallel()
	broker, dir := mosquitto.Start(t, mosquitto.Options{}).Addr(), t.TempDir()
	r := start(t, broker, dir)
	s := document(t, 1, edgeclaim.DocumentRevocations, 1, "")
	publish(t, dir, s)
	deaf, good := newBox(t, broker, "box-a", r.public()), newBox(t, broker, "box-b", r.public())
	for _, b := range []*box{deaf, good} {
		b.say(wire.KindControl, b.obedient())
		next[*wire.Welcome](b)
		b.offered("revocations 1")
	}
	good.reports(s)
	deaf.offered("revocations 1")
	good.silentAfter()
}

// silentAfter checks that nothing has come down before the answer to a hello.
func (b *box) silentAfter() {
	b.t.Helper()
	b.hello()
}
