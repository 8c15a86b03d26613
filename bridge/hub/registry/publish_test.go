package registry_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/signeddoc"
)

// sign makes a signed document: head says type, version and whom it is for.
func sign(t testing.TB, key ed25519.PrivateKey, kind edgeclaim.DocumentType, version uint64, members, body string) *signeddoc.Signed {
	t.Helper()
	tenant := fmt.Sprintf(`"tenant_id":%q,`, tenantID)
	if kind == edgeclaim.DocumentSigner {
		tenant = ""
	}
	s, err := signeddoc.Sign(key, fmt.Appendf(nil, `{"type":%q,%s"version":%d,%s"issued_at":"2026-10-04T09:12:33Z",%q:{%s}}`,
		kind, tenant, version, members, kind, body))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// revocations are a document of that version, for whom members say.
func revocations(t testing.TB, version uint64, members, body string) *signeddoc.Signed {
	t.Helper()
	return sign(t, docKey(1), edgeclaim.DocumentRevocations, version, members, body)
}

// docKey is the nth key that signs documents.
func docKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func signer(t testing.TB, version uint64, by, next byte) *signeddoc.Signed {
	t.Helper()
	return sign(t, docKey(by), edgeclaim.DocumentSigner, version, "", fmt.Sprintf(`"public_key":%q`, signeddoc.EncodePublic(publicOf(docKey(next)))))
}

func aliasesDoc(t testing.TB, version uint64, members, body string) *signeddoc.Signed {
	t.Helper()
	return sign(t, docKey(1), edgeclaim.DocumentAliases, version, members, `"aliases":[`+body+`]`)
}

// publish returns "new", "same", or which sentinel an error is.
func publish(t testing.TB, db *registry.DB, s *signeddoc.Signed) string {
	t.Helper()
	isNew, err := db.PublishDocument(context.Background(), s)
	var refused *edgeclaim.DocumentError
	switch {
	case errors.As(err, &refused):
		return string(refused.Reason)
	case errors.Is(err, edgeclaim.ErrConflict):
		return "conflict"
	case errors.Is(err, edgeclaim.ErrInvalid):
		return "invalid"
	case err != nil:
		t.Fatal(err)
	case isNew:
		return "new"
	}
	return "same"
}

func offersTo(t testing.TB, db *registry.DB, box string, held registry.HeldSigner) []string {
	t.Helper()
	c, err := db.Catalogue(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range c.For(names(box), held) {
		got = append(got, shownOffer(o))
	}
	return got
}

func shownOffer(o edgeclaim.DocumentOffer) string {
	return strings.TrimRight(fmt.Sprintf("%s %d %s", o.Type, o.Version, o.Name), " ")
}

func generation(t testing.TB, db *registry.DB) int64 {
	t.Helper()
	g, err := db.Generations(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return g.Documents
}

// TestDocuments runs what follows over both databases, one server for all of it.
func TestDocuments(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		for name, test := range map[string]func(*testing.T, opener){
			"versions": testVersions, "scopes": testScopes, "signers": testSigners, "text": testDocumentText, "reports": testReports,
			"revoked": testRevoked, "shares": testShares, "lease": testLease, "claims": testClaims, "verdicts": testVerdicts, "two boards": testNoVerdictBetweenBoards,
			"disputes": testDisputes, "swapped elsewhere": testSwappedElsewhere, "expected": testExpected, "tags": testTags,
		} {
			t.Run(name, func(t *testing.T) { test(t, open) })
		}
	})
}

// testVersions: versions rise, a repeat does nothing, and revocations only grow.
func testVersions(t *testing.T, open opener) {
	db := open(t, "versions", registry.Config{})
	other := open(t, "versions", registry.Config{}) // another process
	one := fmt.Sprintf(`"devices":[%q]`, deviceID(t, 1))
	two := fmt.Sprintf(`"devices":[%q],"hardware":["board-2"]`, deviceID(t, 1))
	var got []string
	last := int64(0)
	for _, step := range []struct {
		s    *signeddoc.Signed
		want string
	}{
		{revocations(t, 3, "", one), "new"},
		{revocations(t, 3, "", one), "same"},
		{revocations(t, 3, "", two), "conflict"},                  // the same version
		{revocations(t, 2, "", one), "conflict"},                  // a lower one
		{revocations(t, 5, "", two), "new"},                       //
		{revocations(t, 6, "", one), "conflict"},                  // board-2 is gone without a word
		{revocations(t, 6, `"box_id":"box-a",`, one), "conflict"}, // and would be there
		{revocations(t, 6, "", one+`,"reinstated":{"devices":[]}`), "conflict"},
		{revocations(t, 6, "", one+`,"reinstated":{"hardware":["board-2"]}`), "new"},
		{revocations(t, 5, "", two), "same"}, // it is kept, and out of force
		{revocations(t, 3, "", one), "conflict"},
		{aliasesDoc(t, 1, `"box_id":"box-a",`, ""), "new"},
		{aliasesDoc(t, 1, `"box_id":"box-b",`, ""), "conflict"}, // versions are the document's, whomever it is for
	} {
		became := publish(t, db, step.s)
		got = append(got, became)
		if became != step.want {
			t.Fatalf("%s %d: %s, want %s", step.s.Document.Type, step.s.Document.Version, became, step.want)
		}
		if now := generation(t, other); now > last != (became == "new") {
			t.Errorf("%v: generation %d, before %d", got, now, last)
		} else {
			last = now
		}
	}
	if diff := cmp.Diff([]string{"revocations 6", "aliases 1"}, offersTo(t, other, "box-a", registry.HeldSigner{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	kept, err := other.Documents(context.Background(), registry.DocumentFilter{Type: edgeclaim.DocumentRevocations})
	if err != nil || len(kept) != 2 || kept[0].Version != 5 || kept[0].InForce || !kept[1].InForce {
		t.Errorf("%+v, %v", kept, err)
	}
	served := open(t, "versions of another tenant", registry.Config{Tenants: []edgeclaim.TenantID{tenant(t, otherID)}})
	if became := publish(t, served, revocations(t, 1, "", one)); became != "invalid" {
		t.Errorf("of a tenant that is not served: %s", became)
	}
}

// testScopes: a box is offered the highest version of those that are for it.
func testScopes(t *testing.T, open opener) {
	db := open(t, "scopes", registry.Config{})
	for _, s := range []*signeddoc.Signed{
		aliasesDoc(t, 1, "", ""), aliasesDoc(t, 2, `"site":"plant-7",`, ""), aliasesDoc(t, 3, `"box_id":"box-a",`, ""),
		aliasesDoc(t, 4, `"box_id":"box-b","site":"elsewhere",`, ""), aliasesDoc(t, 5, `"site":"elsewhere",`, ""),
	} {
		if became := publish(t, db, s); became != "new" {
			t.Fatal(became)
		}
	}
	offered := func() []string {
		return []string{
			strings.Join(offersTo(t, db, "box-a", registry.HeldSigner{}), ", "), strings.Join(offersTo(t, db, "box-b", registry.HeldSigner{}), ", "),
		}
	}
	if diff := cmp.Diff([]string{"aliases 3", "aliases 2"}, offered()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// What is for all again takes the place of all that it covers.
	if became := publish(t, db, aliasesDoc(t, 6, `"site":"plant-7",`, "")); became != "new" {
		t.Fatal(became)
	}
	if diff := cmp.Diff([]string{"aliases 6", "aliases 6"}, offered()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if became := publish(t, db, aliasesDoc(t, 7, "", "")); became != "new" {
		t.Fatal(became)
	}
	inForce, err := db.Documents(context.Background(), registry.DocumentFilter{InForce: true})
	if err != nil || len(inForce) != 1 || inForce[0].Version != 7 {
		t.Errorf("%+v, %v", inForce, err)
	}
}

// testSigners: only the newest signer's word counts, and boxes walk from one to
// the next.
func testSigners(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "signers", registry.Config{})
	empty := `"profiles":[]`
	profiles := func(by byte, version uint64) *signeddoc.Signed {
		return sign(t, docKey(by), edgeclaim.DocumentProfiles, version, "", empty)
	}
	if key, err := db.DocumentKey(ctx); key != nil || err != nil {
		t.Fatal(key, err)
	}
	if became := publish(t, db, profiles(9, 1)); became != "new" { // nobody said whose word counts
		t.Error(became)
	}
	if err := db.BindDocumentKey(ctx, publicOf(docKey(1)), false); err != nil {
		t.Fatal(err)
	}
	if err := db.BindDocumentKey(ctx, publicOf(docKey(2)), false); !errors.Is(err, edgeclaim.ErrConflict) {
		t.Errorf("another key: %v", err)
	}
	if key, err := db.DocumentKey(ctx); !key.Equal(publicOf(docKey(1))) || err != nil {
		t.Error(key, err)
	}
	for _, step := range []struct {
		s    *signeddoc.Signed
		want string
	}{
		{profiles(9, 2), "bad_signature"}, {profiles(1, 2), "new"},
		{signer(t, 1, 9, 2), "bad_signature"}, {signer(t, 1, 1, 2), "new"}, {signer(t, 1, 1, 2), "same"},
		{profiles(1, 3), "bad_signature"}, {profiles(2, 3), "new"},
		{signer(t, 2, 1, 3), "bad_signature"}, {signer(t, 4, 2, 4), "new"},
		{profiles(2, 3), "same"}, {profiles(9, 3), "bad_signature"}, {profiles(4, 3), "same"}, // signed anew
	} {
		if became := publish(t, db, step.s); became != step.want {
			t.Fatalf("%s %d by %s: %s, want %s", step.s.Document.Type, step.s.Document.Version, step.s.KeyID, became, step.want)
		}
	}
	if p, text, err := db.DocumentText(ctx, profiles(4, 3).Document.DocumentID, 0); err != nil || p.KeyID != profiles(4, 3).KeyID || !bytes.Equal(text, profiles(4, 3).Text) {
		t.Errorf("%+v, %v", p, err)
	}
	for held, want := range map[registry.HeldSigner][]string{
		{}:                       {"signer 1"},
		{Version: 1}:             {"signer 4"},
		{Version: 4}:             {"signer 4", "profiles 3"},
		{Version: 1, Refused: 4}: {"signer 4", "profiles 3"}, // it is offered the rest all the same
		{Refused: 1}:             {"signer 4"},
	} {
		if diff := cmp.Diff(want, offersTo(t, db, "box-a", held)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", held, diff)
		}
	}
	var all []string
	offers, err := db.DocumentsFor(ctx, names("box-a"))
	for _, o := range offers {
		all = append(all, shownOffer(o))
	}
	if diff := cmp.Diff([]string{"signer 1", "signer 4", "profiles 3"}, all); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	// Another key altogether: the chain begins anew.
	if err := db.BindDocumentKey(ctx, publicOf(docKey(7)), true); err != nil {
		t.Fatal(err)
	}
	if got := []string{publish(t, db, profiles(4, 4)), publish(t, db, profiles(7, 4)), publish(t, db, signer(t, 1, 7, 8))}; !cmp.Equal(got, []string{"bad_signature", "new", "new"}) {
		t.Error(got)
	}
}

// testDocumentText: a large text comes back as it was, whole and in parts.
func testDocumentText(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "text", registry.Config{})
	var rows []string
	for n := range 9000 {
		rows = append(rows, fmt.Sprintf(`{"hardware_id":"board-%d","name":"Pump of some length, number %d"}`, n, n))
	}
	s := sign(t, docKey(1), edgeclaim.DocumentAllowList, 1, `"name":"a.1",`, `"template_id":"t-1","rows":[`+strings.Join(rows, ",")+`]`)
	if became := publish(t, db, s); became != "new" {
		t.Fatal(became)
	}
	id := s.Document.DocumentID
	p, text, err := db.DocumentText(ctx, id, 1)
	if err != nil || !bytes.Equal(text, s.Text) || p.Size != len(s.Text) || p.Hash != s.Hash || p.DocumentID != id || !p.IssuedAt.Equal(s.Document.IssuedAt) {
		t.Errorf("%+v, %d bytes of %d, %v", p, len(text), len(s.Text), err)
	}
	var parts []byte
	for n := range wire.Parts(len(s.Text)) {
		_, part, err := db.DocumentPart(ctx, id, 1, int(n)*wire.PartBytes, wire.PartBytes)
		if err != nil || len(part) > wire.PartBytes {
			t.Fatal(len(part), err)
		}
		parts = append(parts, part...)
	}
	if !bytes.Equal(parts, s.Text) || len(s.Text) < 5*wire.PartBytes {
		t.Errorf("%d bytes in parts, of %d", len(parts), len(s.Text))
	}
	if _, beyond, err := db.DocumentPart(ctx, id, 1, len(s.Text), 10); len(beyond) != 0 || err != nil {
		t.Errorf("%d bytes beyond the end, %v", len(beyond), err)
	}
	for _, version := range []uint64{2, 1 << 63} {
		if _, _, err := db.DocumentText(ctx, id, version); !errors.Is(err, edgeclaim.ErrNotFound) {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

// testReports: a box's word on its documents, beside what is published for it.
func testReports(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "reports", registry.Config{})
	greet(t, db, hello("box-a", 1, 0))
	greet(t, db, hello("box-b", 1, 0))
	old, next := revocations(t, 1, "", ""), revocations(t, 2, "", "")
	for _, s := range []*signeddoc.Signed{old, next, aliasesDoc(t, 3, "", ""), sign(t, docKey(1), edgeclaim.DocumentProfiles, 1, `"box_id":"box-b",`, "")} {
		if became := publish(t, db, s); became != "new" {
			t.Fatal(became)
		}
	}
	report := func(list string, page uint64, last bool, documents ...wire.DocumentReport) {
		t.Helper()
		r := &wire.DocumentsReport{Type: wire.TypeDocuments, Box: "box-a", Epoch: epoch("box-a", 1), List: list, Page: page, Last: last, Documents: documents}
		apply(t, db, registry.Item{Names: names("box-a"), Report: r}, registry.Item{Names: names("box-a"), Report: r})
	}
	state := func() (all []string) {
		t.Helper()
		rows, err := db.BoxDocuments(ctx, "box-a")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range rows {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %d of %d behind=%v confirmed=%v stale=%v %v %s", d.Type, d.Name, d.Version, d.Newest, d.Behind, d.Confirmed, d.Stale, d.Age, d.Refused)))
		}
		return all
	}
	held := func(s *signeddoc.Signed) wire.DocumentReport {
		return wire.DocumentReport{DocumentID: s.Document.DocumentID, Version: s.Document.Version, Hash: s.Hash}
	}
	want := func(wanted ...string) {
		t.Helper()
		if diff := cmp.Diff(wanted, state()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	want("revocations  0 of 2 behind=true confirmed=false stale=false 0", "aliases  0 of 3 behind=true confirmed=false stale=false 0")
	stale := held(old)
	stale.Stale, stale.Age = true, 12.5
	lists := wire.DocumentReport{DocumentID: edgeclaim.DocumentID{Type: edgeclaim.DocumentAllowList, Tenant: tenant(t, tenantID), Name: "x"}, Version: 1, Hash: old.Hash}
	report("one", 1, false, stale)
	report("one", 2, true, lists)
	want("revocations  1 of 2 behind=true confirmed=false stale=true 12", "aliases  0 of 3 behind=true confirmed=false stale=false 0",
		"allow_list x 1 of 0 behind=false confirmed=false stale=false 0")
	// The first page of the next list got lost: nobody can say what is not in it.
	fresh := held(next)
	fresh.Confirmed = true
	report("two", 2, true, fresh)
	if got := state(); len(got) != 3 {
		t.Error(got)
	}
	refused := wire.DocumentReport{DocumentID: aliasesDoc(t, 1, "", "").Document.DocumentID, Refused: "conflicting", RefusedVersion: 3}
	report("three", 1, true, fresh, refused)
	want("revocations  2 of 2 behind=false confirmed=true stale=false 0", "aliases  0 of 3 behind=true confirmed=false stale=false 0 conflicting")
	report("four", 1, true) // it was restored
	want("revocations  0 of 2 behind=true confirmed=false stale=false 0", "aliases  0 of 3 behind=true confirmed=false stale=false 0")
	n := map[string]int{}
	if err := db.EachBoxDocument(ctx, func(d registry.BoxDocument) error { n[d.Box]++; return nil }); err != nil || !cmp.Equal(n, map[string]int{"box-a": 2, "box-b": 3}) {
		t.Errorf("%v, %v", n, err)
	}
	if _, err := db.BoxDocuments(ctx, "box-z"); !errors.Is(err, edgeclaim.ErrNotFound) {
		t.Error(err)
	}
	if err := db.ReportDocuments(ctx, &wire.DocumentsReport{Box: "box-z", Page: 1, Last: true}); err != nil {
		t.Error(err)
	}
}
