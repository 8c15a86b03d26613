package document_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/document"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/clock"
	"edgeclaim/internal/signeddoc"
	"edgeclaim/store"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() { // each step of a model is an fsync
		_ = flag.Set("rapid.checks", "10")
	}
	_ = flag.Set("rapid.nofailfile", "true")
	goleak.VerifyTestMain(m)
}

const (
	tenantA = "3f0e3f5e-7f4e-4a57-9a0b-6a1c2d3e4f50"
	tenantB = "7d4f6d1e-3a56-4f7a-9a55-0f7c1d1b8a01"
	box     = "box-1"
	site    = "berlin"
)

// rig is the service over a real store and a real clock, whose readings are the
// bubble's.
type rig struct {
	*document.Service
	tb    testing.TB
	dir   string
	cfg   document.Config
	db    *store.DB
	clock *clock.Clock
	began time.Time // of the boot

	step   atomic.Int64 // how far the wall clock is off
	synced atomic.Bool
	failed atomic.Pointer[error] // what the store and the rule say from now on, nil for what they do

	mu     sync.Mutex
	root   ed25519.PublicKey // the enrolled key
	hub    ed25519.PublicKey
	alarms []edgeclaim.Alarm
	wrote  []audit.Entry
	shares []edgeclaim.ShareGrant
	saves  int
	stop   func()
}

// inBubble runs a test in which time passes only where the test says so.
func inBubble(t *testing.T, cfg document.Config, test func(*testing.T, *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cfg)
		defer r.close()
		test(t, r)
	})
}

func newRig(tb testing.TB, cfg document.Config) *rig {
	r := &rig{tb: tb, dir: tb.TempDir(), cfg: cfg, began: time.Now(), root: public(key(0)), hub: public(key(9))}
	r.cfg.Box, r.cfg.Site = box, site
	r.open()
	return r
}

// open begins a run of the program; the boot is the one before's.
func (r *rig) open() {
	r.clock = clock.New(clock.Config{
		Wall: func() time.Time { return time.Now().Add(time.Duration(r.step.Load())) }, Uptime: func() time.Duration { return time.Since(r.began) },
		Synced: r.synced.Load, Boot: "1b4e28ba-2fa1-41d2-883f-0016d3cca427", Build: time.Unix(0, 0),
	}, slog.New(slog.DiscardHandler))
	cfg := store.Defaults()
	cfg.Dir, cfg.Stamp = r.dir, r.clock.Stamp
	var err error
	r.db, err = store.Open(cfg)
	r.noErr(err)
	r.Service, err = document.Open(context.Background(), r.cfg, document.Parts{
		Store: meddled{r.db, r}, Rule: rule{r}, Clock: r.clock, Auditor: r, Key: r.key, HubKey: r.hubKey,
		Observe: r.observe, Who: func(context.Context) string { return "uid:0" },
	}, slog.New(slog.DiscardHandler))
	r.noErr(err)
}

// run runs the service until close, or restart.
func (r *rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	service := r.Service
	go func() { ended <- service.Run(ctx) }()
	r.stop = func() {
		cancel()
		r.noErr(<-ended)
		r.stop = nil
	}
	synctest.Wait()
}

func (r *rig) close() {
	if r.stop != nil {
		r.stop()
	}
	r.noErr(r.db.Check(context.Background()))
	r.noErr(r.db.Close())
}

// restart ends the program and begins it again; off is how long the box has no
// power meanwhile, 0 for none at all.
func (r *rig) restart(off time.Duration) {
	running := r.stop != nil
	r.close()
	if off > 0 {
		<-time.After(off)
		r.began = time.Now()
	}
	r.open()
	if running {
		r.run()
	}
}

// pass lets time pass, and Run do what it has to.
func (r *rig) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) noErr(err error) {
	r.tb.Helper()
	if err != nil {
		r.tb.Fatal(err)
	}
}

func (r *rig) key() ed25519.PublicKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.root
}

func (r *rig) hubKey() ed25519.PublicKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hub
}

// enrol changes whose documents are taken; nil for nobody's.
func (r *rig) enrol(root ed25519.PublicKey) {
	r.mu.Lock()
	r.root = root
	r.mu.Unlock()
	r.Rekeyed(context.Background())
}

func (r *rig) observe(a edgeclaim.Alarm) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alarms = append(r.alarms, a)
}

// rose returns the alarms since it was asked last.
func (r *rig) rose() []edgeclaim.Alarm {
	r.mu.Lock()
	defer r.mu.Unlock()
	rose := r.alarms
	r.alarms = nil
	return rose
}

// Add and Must are the audit log's.
func (r *rig) Add(e audit.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrote = append(r.wrote, e)
}

func (r *rig) Must(_ context.Context, e audit.Entry) error {
	r.Add(e)
	return nil
}

// entries are what was written down since it was asked last: kind, who, reason and
// document.
func (r *rig) entries() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for _, e := range r.wrote {
		lines = append(lines, strings.TrimSpace(strings.Join([]string{e.Kind, e.Who, e.Detail["document"], e.Detail["version"], e.Reason}, " ")))
	}
	r.wrote = nil
	return lines
}

// unavailable has store and rule refuse all changes, or not.
func (r *rig) unavailable(is bool) {
	err := edgeclaim.ErrUnavailable
	if r.failed.Store(nil); is {
		r.failed.Store(&err)
	}
}

// meddled is a store that can be told to fail.
type meddled struct {
	*store.DB
	r *rig
}

func (m meddled) SetHeld(ctx context.Context, held ...edgeclaim.HeldDocument) error {
	if err := m.r.failed.Load(); err != nil {
		return *err
	}
	m.r.mu.Lock()
	m.r.saves++
	m.r.mu.Unlock()
	return m.DB.SetHeld(ctx, held...)
}

// rule does what documents say to a box without devices: the store's part of it.
type rule struct{ r *rig }

func (u rule) Obey(ctx context.Context, s *signeddoc.Signed, held edgeclaim.HeldDocument) error {
	if err := u.r.failed.Load(); err != nil {
		return *err
	}
	d, db := s.Document, u.r.db
	switch d.Type {
	case edgeclaim.DocumentSigner:
		return db.ApplySigner(ctx, held, s.Text)
	case edgeclaim.DocumentRevocations:
		_, err := db.ApplyRevocations(ctx, held, s.Text, d.Revocations, nil)
		return err
	case edgeclaim.DocumentTemplates:
		_, err := db.ApplyTemplates(ctx, held, s.Text, d.Templates, d.Box == "", held.AppliedAt)
		return err
	case edgeclaim.DocumentProfiles:
		return db.ApplyProfiles(ctx, held, s.Text, d.Profiles)
	case edgeclaim.DocumentAliases:
		_, err := db.ApplyAliases(ctx, held, s.Text, d.Aliases, nil)
		return err
	default:
		return db.ApplyAllowList(ctx, held, s.Text, d.AllowList)
	}
}

func (u rule) Share(_ context.Context, grants []edgeclaim.ShareGrant) error {
	if err := u.r.failed.Load(); err != nil {
		return *err
	}
	u.r.mu.Lock()
	defer u.r.mu.Unlock()
	u.r.shares = append(u.r.shares, grants...)
	return nil
}

// key is one that every run has.
func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{'a' + n}, ed25519.SeedSize))
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// paper is a document that is not signed yet.
type paper struct {
	kind    edgeclaim.DocumentType
	tenant  string
	version uint64
	body    string // of the type's own; empty for the least there is
	more    string // members behind it, each with a comma before it
}

var least = map[edgeclaim.DocumentType]string{
	edgeclaim.DocumentRevocations: `{}`, edgeclaim.DocumentTemplates: `{"templates":[]}`, edgeclaim.DocumentProfiles: `{}`,
	edgeclaim.DocumentAliases: `{"aliases":[]}`, edgeclaim.DocumentAllowList: `{"template_id":"t","rows":[]}`,
}

// signs signs a paper.
func signs(tb testing.TB, by ed25519.PrivateKey, p paper) *signeddoc.Signed {
	tb.Helper()
	if p.tenant == "" {
		p.tenant = tenantA
	}
	if p.body == "" {
		p.body = least[p.kind]
	}
	tenant := `,"tenant_id":"` + p.tenant + `"`
	if p.kind == edgeclaim.DocumentSigner {
		tenant = ""
	}
	signed, err := signeddoc.Sign(by, fmt.Appendf(nil, `{"type":%q%s,"version":%d,"issued_at":"2000-01-01T00:00:00Z",%q:%s%s}`,
		p.kind, tenant, p.version, p.kind, p.body, p.more))
	if err != nil {
		tb.Fatal(err)
	}
	return signed
}

// handsOver is a signer document: from one key to the next.
func handsOver(tb testing.TB, from, to ed25519.PrivateKey, version uint64) *signeddoc.Signed {
	tb.Helper()
	return signs(tb, from, paper{kind: edgeclaim.DocumentSigner, version: version, body: `{"public_key":"` + signeddoc.EncodePublic(public(to)) + `"}`})
}

// offer is what upstream says of a document.
func offer(s *signeddoc.Signed) edgeclaim.DocumentOffer {
	return edgeclaim.DocumentOffer{DocumentID: s.Document.DocumentID, Version: s.Document.Version, Hash: s.Hash, Size: len(s.Text)}
}

// hears has the box hear upstream's whole list, and take what it wants of it, up to
// a signer.
func (r *rig) hears(documents ...*signeddoc.Signed) (taken []string) {
	r.tb.Helper()
	var offers []edgeclaim.DocumentOffer
	for _, s := range documents {
		offers = append(offers, offer(s))
	}
	wanted, err := r.Confirm(context.Background(), offers)
	r.noErr(err)
	for _, w := range wanted {
		at := slices.IndexFunc(documents, func(s *signeddoc.Signed) bool { return s.Document.DocumentID == w.DocumentID })
		_, err := r.Take(context.Background(), documents[at].Text, "upstream")
		line := fmt.Sprintf("%s %d", w.Type, w.Version)
		if err != nil {
			line += ": " + err.Error()
		}
		taken = append(taken, line)
		if err == nil && w.Type == edgeclaim.DocumentSigner {
			break
		}
	}
	return taken
}

// takes has a document taken, which has to go well.
func (r *rig) takes(s *signeddoc.Signed) edgeclaim.DocumentState {
	r.tb.Helper()
	state, err := r.Take(context.Background(), s.Text, "upstream")
	r.noErr(err)
	return state
}

// state is how the box stands to a document; zero where there is nothing of it.
func (r *rig) state(of *signeddoc.Signed) edgeclaim.DocumentState {
	for _, state := range r.Held() {
		if state.DocumentID == of.Document.DocumentID {
			return state
		}
	}
	return edgeclaim.DocumentState{}
}

// changes reports whether Changed has a signal.
func (r *rig) changes() bool {
	select {
	case <-r.Changed():
		return true
	default:
		return false
	}
}

func tenant(tb testing.TB, text string) edgeclaim.TenantID {
	tb.Helper()
	id, err := edgeclaim.ParseTenantID(text)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// payloadOf is what a signature covers.
func payloadOf(tb testing.TB, s *signeddoc.Signed) []byte {
	tb.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(string(s.Text), `"`)[7])
	if err != nil {
		tb.Fatal(err)
	}
	return text
}
