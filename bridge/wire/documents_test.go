package wire_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// documentHash is of no document in particular.
var documentHash = strings.Repeat("0123456789abcdef", 4)

// longest is the document with the longest name that there can be.
func longest(t testing.TB) edgeclaim.DocumentID {
	t.Helper()
	return edgeclaim.DocumentID{
		Type: edgeclaim.DocumentAllowList, Tenant: device(t).Tenant, Name: strings.Repeat("n", edgeclaim.MaxDocumentName),
	}
}

func documentID(t testing.TB) edgeclaim.DocumentID {
	t.Helper()
	return edgeclaim.DocumentID{Type: edgeclaim.DocumentTemplates, Tenant: device(t).Tenant}
}

// stated is a hello of a box that takes documents and shares.
func stated(t testing.TB) *wire.Hello {
	t.Helper()
	h := &wire.Hello{
		Type: wire.TypeHello, Versions: []int{1}, Box: "box42", Site: "plant-7", Epoch: epoch, Nonce: nonce, Lanes: marks(),
		Time: when, Clock: edgeclaim.ClockSynced, Shares: true,
	}
	h.Documents = []wire.DocumentVersion{
		{DocumentID: edgeclaim.DocumentID{Type: edgeclaim.DocumentSigner}, Version: 1<<64 - 1, Hash: documentHash},
		{DocumentID: longest(t), Version: 1, Hash: documentHash},
	}
	return h
}

func documentsReport(t testing.TB) *wire.DocumentsReport {
	t.Helper()
	return &wire.DocumentsReport{
		Type: wire.TypeDocuments, Box: "box42", Epoch: epoch, Nonce: nonce, List: "l1", Page: 1, Last: true,
		Documents: []wire.DocumentReport{
			{DocumentID: documentID(t), Version: 7, Hash: documentHash, Confirmed: true, Stale: true, Age: 12.5},
			{DocumentID: longest(t), Refused: string(edgeclaim.DocumentBadSignature), RefusedVersion: 3},
		},
	}
}

func sharesWant(t testing.TB) *wire.SharesWant {
	t.Helper()
	return &wire.SharesWant{
		Type: wire.TypeShares, Box: "box42", Epoch: epoch, Nonce: nonce,
		Wants: []wire.ShareWant{{Key: device(t).Key, Granted: 10, Claims: 8, Want: 10}},
	}
}

func offers(t testing.TB, head wire.Head) *wire.Offers {
	t.Helper()
	return &wire.Offers{
		Head: head, List: "l1", Page: 2, Last: true,
		Documents: []edgeclaim.DocumentOffer{{DocumentID: documentID(t), Version: 7, Hash: documentHash, Size: 100_000}},
	}
}

func documentPart(t testing.TB, head wire.Head) *wire.DocumentPart {
	t.Helper()
	offer := &edgeclaim.DocumentOffer{DocumentID: documentID(t), Version: 7, Hash: documentHash}
	part, err := wire.PartOf(head, offer, 3, bytes.Repeat([]byte("x"), 2*wire.PartBytes+1))
	if err != nil {
		t.Fatal(err)
	}
	return part
}

func shares(t testing.TB, head wire.Head) *wire.Shares {
	t.Helper()
	return &wire.Shares{
		Head: head, Shares: []edgeclaim.ShareGrant{{Key: device(t).Key, Granted: 10, Claims: 1<<32 - 1, Exhausted: true}},
	}
}

func verdicts(t testing.TB, head wire.Head) *wire.Verdicts {
	t.Helper()
	return &wire.Verdicts{
		Head: head, Verdicts: []edgeclaim.Verdict{{Device: device(t), Void: edgeclaim.NewSecret("y").Hash(), KeptBox: "box43"}},
	}
}

// TestPartOf: the parts make up the text again, and nothing else is a part.
func TestPartOf(t *testing.T) {
	offer := &edgeclaim.DocumentOffer{DocumentID: documentID(t), Version: 7, Hash: documentHash}
	head := wire.Head{Box: "box42", Epoch: epoch, Nonce: nonce, Time: when}
	for _, size := range []int{1, wire.PartBytes - 1, wire.PartBytes, wire.PartBytes + 1, 3 * wire.PartBytes, wire.MaxDocumentText} {
		text := make([]byte, size)
		_, _ = rand.Read(text)
		var again []byte
		parts := wire.Parts(size)
		for n := uint64(1); n <= parts; n++ {
			said, err := wire.PartOf(head, offer, n, text)
			if err != nil {
				t.Fatal(err)
			}
			encoded, err := wire.Encode(said)
			if err != nil {
				t.Fatal(err)
			}
			heard, err := wire.DecodeDown(encoded)
			if err != nil {
				t.Fatalf("%d of %d bytes: %v", n, size, err)
			}
			part := heard.(*wire.DocumentPart)
			data, err := part.Text()
			if err != nil || part.Parts != parts || part.Part != n {
				t.Fatalf("%d of %d: %+v, %v", n, parts, part, err)
			}
			again = append(again, data...)
		}
		if !bytes.Equal(again, text) {
			t.Errorf("%d bytes came as %d others", size, len(again))
		}
		for _, none := range []uint64{0, parts + 1} {
			if _, err := wire.PartOf(head, offer, none, text); !errors.Is(err, edgeclaim.ErrInvalid) {
				t.Errorf("part %d of %d: %v", none, parts, err)
			}
		}
	}
	if _, err := wire.PartOf(head, offer, 1, nil); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("of nothing: %v", err)
	}
}

// TestDocumentsFit: as many entries as the limits allow are within a message,
// however long their names are.
func TestDocumentsFit(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	level := strings.Repeat("b", wire.MaxLevel)
	head := wire.Head{Type: wire.TypeOffers, Box: level, Epoch: strings.Repeat("E", 36), Nonce: level, Time: when}
	id, ok := edgeclaim.ParseKeyID(strings.Repeat("k", edgeclaim.MaxLocalID))
	if ok != nil {
		t.Fatal(ok)
	}
	hello, report := stated(t), documentsReport(t)
	hello.Documents, report.Documents = nil, nil
	hello.Site, hello.Box, hello.Program = level, level, level
	list := &wire.Offers{Head: head, List: level, Page: 1}
	said := &wire.Shares{Head: head}
	wants := sharesWant(t)
	wants.Wants = nil
	for range wire.MaxStated {
		hello.Documents = append(hello.Documents, wire.DocumentVersion{DocumentID: longest(t), Version: 1<<64 - 1, Hash: documentHash})
	}
	for range wire.MaxOffers {
		list.Documents = append(list.Documents, edgeclaim.DocumentOffer{DocumentID: longest(t), Version: 1<<64 - 1, Hash: documentHash, Size: wire.MaxDocumentText})
	}
	for range wire.MaxReported {
		report.Documents = append(report.Documents, wire.DocumentReport{
			DocumentID: longest(t), Version: 1<<64 - 1, Hash: documentHash, Confirmed: true, Stale: true, Age: 1e9 + 1.0/3,
			Refused: strings.Repeat("r", wire.MaxLevel), RefusedVersion: 1<<64 - 1,
		})
	}
	for range wire.MaxShares {
		said.Shares = append(said.Shares, edgeclaim.ShareGrant{Key: id, Granted: 1<<32 - 1, Claims: 1<<32 - 1, Exhausted: true})
		wants.Wants = append(wants.Wants, wire.ShareWant{Key: id, Granted: 1<<32 - 1, Claims: 1<<32 - 1, Want: 1<<32 - 1})
	}
	part, err := wire.PartOf(head, &list.Documents[0], 1, make([]byte, wire.MaxDocumentText))
	if err != nil {
		t.Fatal(err)
	}
	for _, up := range []any{hello, report, wants} {
		if text, err := wire.Encode(up); err != nil || len(text) > wire.MaxMessage {
			t.Errorf("%T takes %d bytes: %v", up, len(text), err)
		}
	}
	for _, down := range []wire.Down{list, said, part} {
		if text, err := wire.Seal(key, down); err != nil || len(text) > wire.MaxMessage {
			t.Errorf("%T takes %d bytes: %v", down, len(text), err)
		}
	}
}

// refusal is a message with something in it replaced, and the field at fault.
type refusal struct{ old, new, field string }

// refuses fails unless each replacement is refused by its field.
func refuses(t *testing.T, message any, decode func([]byte) error, cases []refusal) {
	t.Helper()
	good, err := wire.Encode(message)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range cases {
		if !strings.Contains(string(good), tc.old) {
			t.Fatalf("no %s in %s", tc.old, good)
		}
		err := decode([]byte(strings.Replace(string(good), tc.old, tc.new, 1)))
		var invalid *edgeclaim.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != tc.field {
			t.Errorf("%T, %.80s for %s: %v, want field %s", message, tc.new, tc.old, err, tc.field)
		}
	}
}

func TestDecodeDocumentsUpRefuses(t *testing.T) {
	up := func(text []byte) error { _, err := wire.DecodeUp(names, text); return err }
	want := ups(t)[6]
	refuses(t, stated(t), up, []refusal{
		{`"signer"`, `"singer"`, "type"},
		{`"version":1,`, `"version":0,`, "version"},
		{documentHash, strings.ToUpper(documentHash), "sha256"},
		{`"tenant_id":"6f6f6f6f-0000-4000-8000-000000000001",`, ``, "tenant_id"},
		{`"documents":[`, `"documents":[` + strings.Repeat("{},", wire.MaxStated), "documents"},
		{`"documents":[`, `"documents":1,"x":[`, "message"},
	})
	refuses(t, want, up, []refusal{
		{`"part":2`, `"part":0`, "part"},
		{`"part":2`, `"part":1000`, "part"},
		{`"part":2`, `"part":-1`, "message"},
		{`"version":7`, `"version":0`, "version"},
		{documentHash, documentHash[1:], "sha256"},
		{`"templates"`, `"template"`, "type"},
	})
	refuses(t, documentsReport(t), up, []refusal{
		{`"page":1`, `"page":0`, "page"},
		{`"list":"l1"`, `"list":"l 1"`, "page"},
		{`12.5`, `-1`, "age_seconds"},
		{`12.5`, `1e999`, "message"},
		{`"refused":"bad_signature"`, `"refused":"` + strings.Repeat("x", 65) + `"`, "refused"},
		{`"sha256":"` + documentHash + `",`, ``, "sha256"},
		{nonce, "short", "nonce"},
		{`"documents":[`, `"documents":[` + strings.Repeat(`{"type":"signer","version":0,"confirmed":false,"stale":false,"age_seconds":0},`, wire.MaxReported), "documents"},
	})
	refuses(t, sharesWant(t), up, []refusal{
		{`"key_id":"k1",`, ``, "wants"},
		{`"want":10`, `"want":0`, "wants"},
		{`"granted":10`, `"granted":-1`, "message"},
		{`"wants":[`, `"wants":[],"other":[`, "wants"},
		{`"wants":[`, `"wants":[` + strings.Repeat(`{},`, wire.MaxShares), "wants"},
		{nonce, "short", "nonce"},
	})
}

func TestDecodeDocumentsDownRefuses(t *testing.T) {
	down := func(text []byte) error { _, err := wire.DecodeDown(text); return err }
	head := wire.Head{Box: "box42", Epoch: epoch, Nonce: nonce, Time: when}
	of := func(kind string) wire.Head { h := head; h.Type = kind; return h }
	refuses(t, offers(t, of(wire.TypeOffers)), down, []refusal{
		{`"version":7`, `"version":0`, "version"},
		{`"size":100000`, `"size":0`, "size"},
		{`"size":100000`, `"size":1e99`, "message"},
		{documentHash, "", "sha256"},
		{`"page":2`, `"page":0`, "page"},
		{`"list":"l1"`, `"list":""`, "page"},
		{`"documents":[`, `"documents":[` + strings.Repeat(`{"type":"later","version":1,"sha256":"","size":1},`, wire.MaxOffers), "documents"},
	})
	refuses(t, documentPart(t, of(wire.TypeDocument)), down, []refusal{
		{`"part":3`, `"part":0`, "part"},
		{`"part":3`, `"part":4`, "part"},
		{`"parts":3`, `"parts":1000`, "part"},
		{`"data":"eA"`, `"data":""`, "data"},
		{`"data":"eA"`, `"data":"eA=="`, "data"},
		{`"data":"eA"`, `"data":"eB"`, "data"},
		{`"data":"eA"`, `"data":"` + strings.Repeat("AAAA", wire.PartBytes/3+1) + `"`, "data"},
		{`"version":7`, `"version":0`, "version"},
		{`"type":"templates"`, `"type":"later"`, "type"},
	})
	refuses(t, shares(t, of(wire.TypeShares)), down, []refusal{
		{`"key_id":"k1",`, ``, "shares"},
		{`"granted":10`, `"granted":4294967296`, "message"},
		{`"shares":[`, `"shares":[` + strings.Repeat(`{},`, wire.MaxShares), "shares"},
	})
	void := edgeclaim.NewSecret("y").Hash().String()
	refuses(t, verdicts(t, of(wire.TypeVerdicts)), down, []refusal{
		{`"kept_box_id":"box43"`, `"kept_box_id":""`, "verdicts"},
		{void, "00", "message"},
		{`"void_sha256":"` + void + `",`, ``, "verdicts"},
		{`"device_id":"` + device(t).ID.String() + `",`, ``, "verdicts"},
		{`"verdicts":[`, `"verdicts":[` + strings.Repeat(`{},`, wire.MaxEntries), "verdicts"},
	})
}

// TestLaterDocumentTypes: what a later version offers beside is passed over, not
// the whole list with it.
func TestLaterDocumentTypes(t *testing.T) {
	text, _ := wire.Encode(offers(t, wire.Head{Type: wire.TypeOffers, Box: "box42", Epoch: epoch, Nonce: nonce, Time: when}))
	text = bytes.Replace(text, []byte(`"documents":[`), []byte(`"documents":[{"type":"weather","version":1,"sha256":"short","size":0},`), 1)
	message, err := wire.DecodeDown(text)
	if err != nil || len(message.(*wire.Offers).Documents) != 2 {
		t.Errorf("%+v, %v", message, err)
	}
}

// TestHelloStates: a box that takes no documents says nothing of them, one that
// has none says so.
func TestHelloStates(t *testing.T) {
	for _, tc := range []struct {
		stated []wire.DocumentVersion
		want   string
	}{{nil, ""}, {[]wire.DocumentVersion{}, `"documents":[]`}} {
		hello := stated(t)
		hello.Documents = tc.stated
		text, err := wire.Encode(hello)
		if err != nil || strings.Contains(string(text), `"documents"`) != (tc.want != "") || !strings.Contains(string(text), tc.want) {
			t.Fatalf("%s, %v", text, err)
		}
		heard, err := wire.DecodeUp(names, text)
		if err != nil || (heard.(*wire.Hello).Documents == nil) != (tc.stated == nil) {
			t.Errorf("%s became %+v, %v", text, heard, err)
		}
	}
}

func TestDocumentKey(t *testing.T) {
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	signs, _, _ := ed25519.GenerateKey(rand.Reader)
	enrolment := fmt.Sprintf(`{"type":%q,"upstream_id":"hub-1","public_key":%q,"later":1}`, wire.EnrolmentType, base64url(public))
	with := func(key string) string {
		return strings.Replace(enrolment, `"later":1`, fmt.Sprintf(`"document_key":%q`, key), 1)
	}
	e, _, err := wire.DecodeEnrolment([]byte(enrolment))
	if key, bad := wire.DocumentKeyOf(&e); err != nil || key != nil || bad != nil {
		t.Errorf("of none: %v, %v, %v", key, err, bad)
	}
	e, _, err = wire.DecodeEnrolment([]byte(with(base64url(signs))))
	if key, bad := wire.DocumentKeyOf(&e); err != nil || bad != nil || !key.Equal(signs) {
		t.Errorf("%v, %v, %v", key, err, bad)
	}
	good := base64url(signs)
	for name, key := range map[string]string{
		"short": good[:42], "padded": good + "=", "long": base64url(make([]byte, 33)),
		"no base64url": strings.Repeat("+", 43), "the application's own": base64url(public),
	} {
		_, _, err := wire.DecodeEnrolment([]byte(with(key)))
		var invalid *edgeclaim.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != "document_key" || strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
