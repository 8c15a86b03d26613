package httpapi_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/document"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/clock"
	"edgeclaim/internal/signeddoc"
	"edgeclaim/provision"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
)

// papers are the box's documents, kept by their real keeper, as the program wires
// it.
type papers struct {
	*document.Service
	key ed25519.PrivateKey // signs them
	hub ed25519.PrivateKey // signs shares

	mu sync.Mutex
	// fail, when it is there, fails an import behind what it did.
	fail error
}

// openPapers opens the documents of a box that is enrolled.
func openPapers(t testing.TB, db *store.DB, rule *provision.Service, now *clock.Clock, log *audit.Log) *papers {
	t.Helper()
	p := &papers{key: signeddoc.NewKey(), hub: signeddoc.NewKey()}
	var err error
	p.Service, err = document.Open(t.Context(), document.Config{Box: "box", Site: "site"}, document.Parts{
		Store: db, Rule: rule, Clock: now, Auditor: log, Who: provision.Who,
		Key: func() ed25519.PublicKey { return public(p.key) }, HubKey: func() ed25519.PublicKey { return public(p.hub) },
	}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func (p *papers) Import(ctx context.Context, r io.Reader) (httpapi.Imported, error) {
	all, err := p.Service.Import(ctx, r)
	done := httpapi.Imported{
		Applied: all.Applied, Same: all.Same, Refused: all.Refused, Shares: httpapi.Outcome(all.Shares), SharesReason: all.SharesReason,
	}
	for _, d := range all.Documents {
		done.Documents = append(done.Documents, httpapi.ImportedDocument{
			Line: d.Line, DocumentID: d.DocumentID, Version: d.Version, Outcome: httpapi.Outcome(d.Outcome), Reason: d.Reason,
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return done, cmp.Or(err, p.fail)
}

func (p *papers) failing(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

// sign makes a signed document of the members behind its type and version.
func sign(t testing.TB, key ed25519.PrivateKey, kind edgeclaim.DocumentType, version int, rest string) []byte {
	t.Helper()
	payload, err := json.Marshal(map[string]any{"type": kind, "version": version, "issued_at": "2026-03-04T05:06:07Z"})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signeddoc.Sign(key, append(append(bytes.TrimSuffix(payload, []byte("}")), ','), rest+"}"...))
	if err != nil {
		t.Fatal(err)
	}
	return signed.Text
}

// revocations is a document that revokes a board.
func revocations(t testing.TB, key ed25519.PrivateKey, version int, board string) []byte {
	t.Helper()
	return sign(t, key, edgeclaim.DocumentRevocations, version, `"tenant_id":"`+tenant+`","revocations":{"hardware":["`+board+`"]}`)
}

const ndjson = "application/x-ndjson"

// bring uploads a bundle.
func (f *face) bring(lines ...[]byte) (*http.Response, string) {
	f.t.Helper()
	body := string(bytes.Join(lines, []byte("\n")))
	return f.ask(f.admin, f.request("POST", "http://box/api/v1/documents", body, "Content-Type", ndjson))
}

// TestDocuments: what a bundle brought is done, listed, and shown byte for byte;
// what is wrong with a line keeps no other out.
func TestDocuments(t *testing.T) {
	f := newFace(t)
	var held []edgeclaim.DocumentState
	if f.call("GET", "/api/v1/documents", "", &held); held == nil || len(held) != 0 {
		t.Errorf("no documents are %v, want []", held)
	}
	_, _, key := f.issue()
	device := f.claimed(key, "B1").DeviceID
	text := revocations(t, f.papers.key, 7, "B1")
	shares, err := signeddoc.SignShares(f.papers.hub, &signeddoc.Shares{Box: "another", Time: f.parts.Now()})
	if err != nil {
		t.Fatal(err)
	}
	response, body := f.bring(revocations(t, signeddoc.NewKey(), 8, "B2"), nil, []byte("{"), text, shares)
	done := parse[httpapi.Imported](t, body)
	outcomes := map[int]string{} // by line
	for _, d := range done.Documents {
		reason, _, _ := strings.Cut(d.Reason, ":")
		outcomes[d.Line] = strings.TrimSpace(string(d.Outcome) + " " + reason)
	}
	want := map[int]string{1: "refused bad_signature", 3: "refused malformed", 4: "applied"}
	if response.StatusCode != 200 || !maps.Equal(outcomes, want) || done.Applied != 1 || done.Refused != 2 || done.Shares != httpapi.OutcomeRefused ||
		done.SharesReason == "" {
		t.Errorf("%d %s, want %v", response.StatusCode, body, want)
	}
	if response, body := f.bring(text); response.StatusCode != 200 || parse[httpapi.Imported](t, body).Same != 1 {
		t.Errorf("again: %d %s", response.StatusCode, body)
	}
	var shown struct{ State string }
	if f.call("GET", "/api/v1/devices/"+device, "", &shown); shown.State != "revoked" {
		t.Errorf("the device is %s", shown.State)
	}
	if f.call("GET", "/api/v1/documents", "", &held); len(held) != 1 || held[0].Version != 7 || held[0].Type != edgeclaim.DocumentRevocations ||
		held[0].RefusedVersion != 8 || held[0].Refused != string(edgeclaim.DocumentBadSignature) {
		t.Errorf("held %+v", held)
	}
	f.shown(t, held[0].DocumentID, string(text)+"\n")
	for id, want := range map[string]int{
		"templates/" + tenant + "/": 404, "signer//": 404, "signer": 400, "signer//x": 400, "orders/" + tenant + "/": 400, "templates/x/": 400,
	} {
		if response, body := f.ask(f.admin, f.request("GET", "http://box/api/v1/documents/"+url.PathEscape(id), "")); response.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", id, response.StatusCode, body, want)
		}
	}
}

// shown holds a document against what the API shows of it.
func (f *face) shown(t *testing.T, id edgeclaim.DocumentID, want string) {
	t.Helper()
	path := "http://box/api/v1/documents/" + url.PathEscape(id.String())
	if response, body := f.ask(f.admin, f.request("GET", path, "")); response.StatusCode != 200 || body != want {
		t.Errorf("%s: %d %s, want %s", id, response.StatusCode, body, want)
	}
}

// TestSignersInABundle: in whatever order they come, each key is taken after the
// one that signed it, and what the last has signed behind them.
func TestSignersInABundle(t *testing.T) {
	f := newFace(t)
	second, third := signeddoc.NewKey(), signeddoc.NewKey()
	chain := [][]byte{signer(t, f.papers.key, 1, second), signer(t, second, 2, third)}
	if response, body := f.bring(chain[1], revocations(t, third, 1, "B1"), chain[0]); response.StatusCode != 200 || parse[httpapi.Imported](t, body).Applied != 3 {
		t.Errorf("%d %s", response.StatusCode, body)
	}
	f.shown(t, edgeclaim.DocumentID{Type: edgeclaim.DocumentSigner}, string(chain[1])+"\n")
}

// signer is a document that names the next key.
func signer(t testing.TB, key ed25519.PrivateKey, version int, next ed25519.PrivateKey) []byte {
	t.Helper()
	return sign(t, key, edgeclaim.DocumentSigner, version, `"signer":{"public_key":"`+signeddoc.EncodePublic(public(next))+`"}`)
}

// TestImportAudited: a bundle leaves one entry with what it did, also where it
// was broken off behind its first document; what changed nothing leaves none.
func TestImportAudited(t *testing.T) {
	f := newFace(t)
	text := revocations(t, f.papers.key, 1, "B1")
	other := signer(t, f.papers.key, 1, signeddoc.NewKey())
	refused := &edgeclaim.DocumentError{Reason: edgeclaim.DocumentUnenrolled, Detail: "enrol the box first"}
	for _, c := range []struct {
		name    string
		text    []byte
		fail    error
		want    int
		message string
		entry   string // of the log: its reason and how many were applied; empty for none
	}{
		{"applied", text, nil, 200, "", " 1"},
		{"the same", text, nil, 200, "", " 0"},
		{"refused as a whole", text, refused, 400, "document refused: not_enrolled: enrol the box first", ""},
		{"nothing", nil, nil, 400, "bundle: nothing is in it", ""},
		{"refused behind one", other, refused, 400, "document refused: not_enrolled: enrol the box first", "failed 1"},
		{"cannot", other, edgeclaim.ErrUnavailable, 503, "unavailable", "failed 0"},
	} {
		f.papers.failing(c.fail)
		before := len(f.changes())
		response, body := f.bring(c.text)
		if response.StatusCode != c.want || c.want != 200 && parse[struct{ Message string }](t, body).Message != c.message {
			t.Errorf("%s: %d %s, want %d %q", c.name, response.StatusCode, body, c.want, c.message)
		}
		var entries []string
		for _, e := range f.changes()[before:] {
			if e["kind"] != "documents.imported" {
				continue // what became of a document, by its keeper
			}
			reason, _ := e["reason"].(string)
			detail, _ := e["detail"].(map[string]any)
			applied, _ := detail["applied"].(string)
			entries = append(entries, e["kind"].(string)+" "+reason+" "+applied)
		}
		if want := slices.DeleteFunc([]string{"documents.imported " + c.entry}, func(string) bool { return c.entry == "" }); !slices.Equal(entries, want) {
			t.Errorf("%s: audited as %q, want %q", c.name, entries, want)
		}
	}
}

// TestImportIsBounded: a bundle without an end is refused when it is as long as
// one may be, and not kept in memory before.
func TestImportIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("64 MiB")
	}
	f := newFace(t)
	request, err := http.NewRequestWithContext(t.Context(), "POST", "http://box/api/v1/documents",
		io.LimitReader(endlessReader(strings.Repeat("x", 1<<10)), signeddoc.MaxBundle+1<<20))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", ndjson)
	response, body := f.ask(f.admin, request)
	if message := parse[struct{ Message string }](t, body).Message; response.StatusCode != 400 || message != "body: larger than 67108864 bytes" {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// TestSlowImport: a bundle may take longer than any other request, for as long
// as it comes, and who stops sending is not waited for.
func TestSlowImport(t *testing.T) {
	f := newFace(t)
	cfg := httpapi.Defaults()
	cfg.ReadTimeout = 400 * time.Millisecond
	cfg.WriteTimeout, cfg.ClaimTimeout = 400*time.Millisecond, 100*time.Millisecond
	addr := f.run(httpapi.NewAdminTCP(cfg, listen(t, "tcp", "127.0.0.1:0"), f.parts, httpapi.Gate{Metrics: http.NotFoundHandler()}, quiet()))
	_, secret := f.token("admin")
	text := revocations(t, f.papers.key, 1, "B1")
	upload := func(write func(*io.PipeWriter)) (*http.Response, error) {
		reader, writer := io.Pipe()
		defer reader.Close() // and so ends the one who writes
		go write(writer)
		request, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr+"/api/v1/documents", reader)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", ndjson)
		request.Header.Set("Authorization", "Bearer "+secret)
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			err = errors.Join(err, response.Body.Close())
		}
		return response, err
	}
	response, err := upload(func(w *io.PipeWriter) { // ends with the upload
		for _, part := range [][]byte{text[:9], text[9:40], text[40:70], text[70:]} {
			<-time.After(150 * time.Millisecond)
			_, _ = w.Write(part)
		}
		w.Close()
	})
	if err != nil || response.StatusCode != 200 || len(f.papers.Held()) != 1 {
		t.Errorf("slowly: %v, %v", response, err)
	}
	if response, err := upload(func(w *io.PipeWriter) { _, _ = w.Write(text[:9]) }); err == nil && response.StatusCode != 400 {
		t.Errorf("one that stops is answered %d", response.StatusCode)
	}
}
