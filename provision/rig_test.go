package provision_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/ca"
	"edgeclaim/internal/clock"
	"edgeclaim/internal/protocolschema"
	"edgeclaim/internal/throttle"
	"edgeclaim/provision"
	"edgeclaim/store"
)

const tenantText = "3f0e3f5e-7f4e-4a57-9a0b-6a1c2d3e4f50"

// rig is the rule over a real store, certificate authority, audit log and
// throttle, and a clock whose hands the test holds.
type rig struct {
	*provision.Service
	t     testing.TB
	dir   string
	store *store.DB
	clock *clock.Clock
	ca    *ca.Authority
	audit *audit.Log
	// closed: the test closed the store itself.
	closed bool
	// more changes the configuration at each opening.
	more func(*provision.Config)
	// stale says whose documents nobody has confirmed for too long; nil: nobody's.
	stale func(edgeclaim.TenantID) bool
	// meddle runs before each transaction of a claim or a rotation, nil for
	// nothing.
	meddle func()

	mu       sync.Mutex // guards what follows: claims run in parallel
	wall     time.Time
	synced   bool
	uptime   time.Duration
	outcomes []provision.Outcome
	voided   []edgeclaim.DeviceID
	shorter  []shortened
	decided  []edgeclaim.ClaimRef
}

// shortened is a call of Config.Shorten.
type shortened struct {
	id   edgeclaim.DeviceID
	hash edgeclaim.KeyHash
	in   time.Duration
}

var built = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

func newRig(t testing.TB) *rig { return newRigWith(t, nil) }

func newRigWith(t testing.TB, more func(*provision.Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), wall: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), synced: true, more: more}
	r.startAudit()
	r.open()
	t.Cleanup(func() {
		if r.closed {
			return
		}
		if _, bench := t.(*testing.B); !bench {
			r.checkRecords()
		}
		if err := r.store.Check(context.Background()); err != nil {
			t.Errorf("check: %v", err)
		}
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// startAudit runs the audit log to the end of the test.
func (r *rig) startAudit() {
	r.t.Helper()
	var err error
	cfg := audit.Config{Dir: r.dir}
	if _, bench := r.t.(*testing.B); !bench {
		cfg.SyncEvery = time.Millisecond
	}
	if r.audit, err = audit.Open(cfg); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.audit.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, r.audit.Close()); err != nil {
			r.t.Error(err)
		}
	})
}

// open opens the store and makes the service over it.
func (r *rig) open() {
	r.t.Helper()
	cfg := store.Defaults()
	cfg.Dir = r.dir
	db, err := store.Open(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	r.store, r.closed = db, false
	r.clock = clock.New(clock.Config{
		Wall:   func() time.Time { r.mu.Lock(); defer r.mu.Unlock(); return r.wall },
		Uptime: func() time.Duration { r.mu.Lock(); defer r.mu.Unlock(); return r.uptime },
		Synced: func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.synced },
		Boot:   "boot", Build: built,
	}, logger)
	if err := r.clock.Load(context.Background(), db); err != nil {
		r.t.Fatal(err)
	}
	if r.ca, err = ca.Open(ca.Config{Dir: r.dir, BoxID: "box", Now: r.clock.Now}); err != nil {
		r.t.Fatal(err)
	}
	failures, err := throttle.New(throttle.Defaults())
	if err != nil {
		r.t.Fatal(err)
	}
	config := provision.Config{
		BoxID: "box", Site: "site", BoxKey: db.BoxKey(),
		Observe: func(_ edgeclaim.Via, o provision.Outcome, _ time.Duration) {
			r.note(func() { r.outcomes = append(r.outcomes, o) })
		},
		Void: func(id edgeclaim.DeviceID) { r.note(func() { r.voided = append(r.voided, id) }) },
		Shorten: func(id edgeclaim.DeviceID, hash edgeclaim.KeyHash, in time.Duration) {
			r.note(func() { r.shorter = append(r.shorter, shortened{id, hash, in}) })
		},
		Decided: func(ref edgeclaim.ClaimRef) { r.note(func() { r.decided = append(r.decided, ref) }) },
	}
	if r.more != nil {
		r.more(&config)
	}
	r.Service = provision.New(config, provision.Parts{
		Store: meddled{db, r}, Clock: r.clock, Issuer: r.ca, Auditor: r.audit, Throttle: failures, Documents: freshness{r},
	}, logger)
}

// meddled is the store, with an operator who is quicker.
type meddled struct {
	*store.DB
	r *rig
}

func (m meddled) Mint(ctx context.Context, ref edgeclaim.ClaimRef, decide provision.Decide) error {
	if m.r.meddle != nil {
		m.r.meddle()
	}
	return m.DB.Mint(ctx, ref, decide)
}

func (m meddled) ChangeDevice(ctx context.Context, id edgeclaim.DeviceID,
	change func(*edgeclaim.Device) (*edgeclaim.Record, error),
) (edgeclaim.Device, error) {
	if meddle := m.r.meddle; meddle != nil {
		m.r.meddle = nil // what it does comes by here too
		meddle()
	}
	return m.DB.ChangeDevice(ctx, id, change)
}

func (r *rig) note(what func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	what()
}

// restart is a crash and a start: what was answered is all that is left.
func (r *rig) restart() {
	r.t.Helper()
	if err := r.store.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.open()
}

func (r *rig) setClock(wall time.Time, synced bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wall, r.synced = wall, synced
	r.uptime += 2 * time.Second // the clock looks at the kernel once a second
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	wall := r.wall
	r.mu.Unlock()
	r.setClock(wall.Add(d), true)
}

// checkRecords holds what was told upstream against the protocol's schema.
func (r *rig) checkRecords() {
	r.t.Helper()
	names := wire.Names{Site: "site", Box: "box"}
	for _, lane := range []edgeclaim.Lane{edgeclaim.LaneProv, edgeclaim.LaneEvt} {
		for _, record := range r.records(lane) {
			event, err := wire.EncodeEvent(names, r.store.Epoch(), &record)
			if err == nil {
				err = protocolschema.Check(names.Up(string(lane)), event)
			}
			if err != nil {
				r.t.Errorf("%s: %v\n%s", record.Type, err, record.Data)
			}
		}
	}
}

// template makes a template of the tenant with those changes.
func (r *rig) template(change func(*edgeclaim.Template)) edgeclaim.Template {
	r.t.Helper()
	t := edgeclaim.Template{Name: "T", Profile: "profile-1", Groups: []string{"g1", "g2"}}
	var err error
	if t.Tenant, err = edgeclaim.ParseTenantID(tenantText); err != nil {
		r.t.Fatal(err)
	}
	if change != nil {
		change(&t)
	}
	if t, err = r.CreateTemplate(r.t.Context(), t); err != nil {
		r.t.Fatal(err)
	}
	return t
}

func (r *rig) issue(t edgeclaim.Template) provision.IssuedKey {
	r.t.Helper()
	keys, err := r.IssueKeys(r.t.Context(), t.ID, 1)
	if err != nil {
		r.t.Fatal(err)
	}
	return keys[0]
}

func (r *rig) key(change func(*edgeclaim.Template)) edgeclaim.Secret {
	r.t.Helper()
	return r.issue(r.template(change)).Secret
}

// keyOf is a key of a template for that type of credential.
func (r *rig) keyOf(kind edgeclaim.CredentialType) edgeclaim.Secret {
	r.t.Helper()
	return r.key(func(t *edgeclaim.Template) { t.Credential = kind })
}

// said is an answer, decoded.
type said struct {
	Code          edgeclaim.Code
	DeviceID      string `json:"device_id"`
	APIKey        string `json:"api_key"`
	PSKIdentity   string `json:"psk_identity"`
	PSK           string `json:"psk"`
	Certificate   string `json:"certificate"`
	CAChain       string `json:"ca_chain"`
	PrivateKey    string `json:"private_key"`
	PreviousUntil string `json:"previous_until"`
	Message       string
	raw           string
	answer        edgeclaim.Answer
}

// id is the device that the answer names.
func (s said) id(t testing.TB) edgeclaim.DeviceID {
	t.Helper()
	id, err := edgeclaim.ParseDeviceID(s.DeviceID)
	if err != nil {
		t.Fatalf("%s: %v", s.raw, err)
	}
	return id
}

// fields of a claim.
type fields map[string]string

func claimOf(key edgeclaim.Secret, hardware string) fields {
	return fields{"provision_key": key.Reveal(), "device_name": "Cold Store", "hardware_id": hardware}
}

func (f fields) with(name, value string) fields {
	more := fields{name: value}
	for n, v := range f {
		if n != name {
			more[n] = v
		}
	}
	return more
}

func (f fields) json(t testing.TB) string {
	t.Helper()
	body, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func (r *rig) claim(key edgeclaim.Secret, hardware string) said {
	r.t.Helper()
	return r.ask(claimOf(key, hardware).json(r.t))
}

// claimNonce claims with a nonce.
func (r *rig) claimNonce(key edgeclaim.Secret, hardware, nonce string) said {
	r.t.Helper()
	return r.ask(claimOf(key, hardware).with("claim_nonce", nonce).json(r.t))
}

func (r *rig) ask(body string) said {
	r.t.Helper()
	// Received long ago, so that the tests do not wait for refusals.
	return r.answer(edgeclaim.Ask{
		Body: []byte(body), Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaHTTP, ReceivedAt: time.Now().Add(-time.Hour),
	})
}

func (r *rig) answer(ask edgeclaim.Ask) said {
	r.t.Helper()
	return r.read(r.Answer(r.t.Context(), ask))
}

func (r *rig) read(a edgeclaim.Answer) said {
	r.t.Helper()
	s := said{raw: string(a.Body), answer: a}
	if err := json.Unmarshal(a.Body, &s); err != nil {
		r.t.Fatal(err)
	}
	if s.Code != a.Code {
		r.t.Errorf("answer of code %d says %s", a.Code, a.Body)
	}
	return s
}

func (r *rig) lastOutcome() provision.Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outcomes[len(r.outcomes)-1]
}

func (r *rig) records(lane edgeclaim.Lane) []edgeclaim.Record {
	r.t.Helper()
	var all []edgeclaim.Record
	at := edgeclaim.Mark{Epoch: r.store.Epoch(), Lane: lane}
	for {
		page, err := r.store.Next(context.Background(), at, 1000)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		at.Upto = page[len(page)-1].Sequence
	}
}

// lastRecord decodes the data of the last record of a lane.
func (r *rig) lastRecord(lane edgeclaim.Lane, kind edgeclaim.RecordType) map[string]any {
	r.t.Helper()
	records := r.records(lane)
	if len(records) == 0 {
		r.t.Fatalf("nothing was told, want %s", kind)
	}
	last := records[len(records)-1]
	if last.Type != kind {
		r.t.Fatalf("told %s last, want %s", last.Type, kind)
	}
	data := map[string]any{}
	if err := json.Unmarshal(last.Data, &data); err != nil {
		r.t.Fatal(err)
	}
	return data
}

func (r *rig) device(id edgeclaim.DeviceID) edgeclaim.Device {
	r.t.Helper()
	d, err := r.Device(context.Background(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

func (r *rig) wantMinted(s said) said {
	r.t.Helper()
	if s.Code != 0 || s.APIKey == "" && s.PSK == "" && s.Certificate == "" {
		r.t.Fatalf("answer %s (%s), want a credential", s.raw, r.lastOutcome())
	}
	return s
}

func (r *rig) wantKnown(s said, id string) {
	r.t.Helper()
	if want := fmt.Sprintf(`{"device_id":%q,"api_key":""}`, id); s.raw != want {
		r.t.Fatalf("answer %s (%s), want %s", s.raw, r.lastOutcome(), want)
	}
}

const refusal = `{"code":7,"message":"permission denied","details":[]}`

func (r *rig) wantDenied(s said, reason edgeclaim.Reason) {
	r.t.Helper()
	if s.raw != refusal {
		r.t.Errorf("answer %s, want the refusal", s.raw)
	}
	if got := r.lastOutcome(); got != "denied_"+provision.Outcome(reason) {
		r.t.Errorf("outcome %s, want a refusal for %s", got, reason)
	}
}

// login is Admit with a key.
func (r *rig) login(id edgeclaim.DeviceID, key string) (edgeclaim.Admission, error) {
	return r.Admit(context.Background(), edgeclaim.Login{Device: id, Key: edgeclaim.NewSecret(key), Via: edgeclaim.ViaMQTT})
}

func (r *rig) wantLogin(id edgeclaim.DeviceID, key string) edgeclaim.Admission {
	r.t.Helper()
	a, err := r.login(id, key)
	if err != nil {
		r.t.Fatalf("not let in: %v", err)
	}
	if a.Device != id {
		r.t.Fatalf("let in as %s, want %s", a.Device, id)
	}
	return a
}

func (r *rig) wantNoLogin(id edgeclaim.DeviceID, key string) {
	r.t.Helper()
	if _, err := r.login(id, key); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
		r.t.Errorf("log-in: %v, want it refused", err)
	}
}

// operator is a context of a request on the admin side.
func (r *rig) operator() context.Context { return provision.WithWho(context.Background(), "token:ops") }

// audited returns the entries of a kind, when all that was handed over is on
// the disk.
func (r *rig) audited(kind string) []audit.Entry {
	r.t.Helper()
	if err := r.audit.Must(context.Background(), audit.Entry{Kind: "test.flush", Who: "test"}); err != nil {
		r.t.Fatal(err)
	}
	var text strings.Builder
	if err := audit.Export(r.dir, &text, time.Time{}, time.Time{}); err != nil {
		r.t.Fatal(err)
	}
	var entries []audit.Entry
	for line := range strings.Lines(text.String()) {
		var e struct {
			Kind, Who, Source, Reason string
			Device                    string `json:"device_id"`
			Tenant                    string `json:"tenant_id"`
			Hardware                  string `json:"hardware_id"`
			Key                       string `json:"key_id"`
			Template                  string `json:"template_id"`
			Count                     uint64
			Detail                    map[string]string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			r.t.Fatal(err)
		}
		if e.Kind == kind {
			entries = append(entries, audit.Entry{
				Kind: e.Kind, Who: e.Who, Source: e.Source, Device: e.Device, Tenant: e.Tenant, Hardware: e.Hardware,
				Key: e.Key, Template: e.Template, Reason: e.Reason, Count: e.Count, Detail: e.Detail,
			})
		}
	}
	return entries
}

func types(records []edgeclaim.Record) []edgeclaim.RecordType {
	all := []edgeclaim.RecordType{}
	for _, record := range records {
		all = append(all, record.Type)
	}
	return all
}

func wantTypes(t testing.TB, records []edgeclaim.Record, want ...edgeclaim.RecordType) {
	t.Helper()
	if got := types(records); !slices.Equal(got, want) {
		t.Errorf("told upstream %v, want %v", got, want)
	}
}

func hardwareOf(t testing.TB, text string) edgeclaim.HardwareID {
	t.Helper()
	h, err := edgeclaim.ParseHardwareID(text)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func tenantOf(t testing.TB) edgeclaim.TenantID {
	t.Helper()
	tenant, err := edgeclaim.ParseTenantID(tenantText)
	if err != nil {
		t.Fatal(err)
	}
	return tenant
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// Nonces, in base64url.
const (
	nonceA = "AAAAAAAAAAAAAAAAAAAAAA"
	nonceB = "BBBBBBBBBBBBBBBBBBBBBA"
)
