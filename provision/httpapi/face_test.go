package httpapi_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/ca"
	"edgeclaim/internal/clock"
	"edgeclaim/internal/tlsconf"
	"edgeclaim/internal/token"
	"edgeclaim/provision"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
)

// face is every listener over a real rule, store, CA and audit log.
type face struct {
	t        testing.TB
	claims   string // base URL
	secure   string // of the TLS listener
	tcp      string // of the admin API over TCP
	admin    *http.Client
	log      *safeBuffer
	logger   *slog.Logger
	way      *way
	work     *work
	papers   *papers
	db       *store.DB
	clock    *clock.Clock
	rule     *provision.Service
	parts    httpapi.Admin
	issuer   *ca.Authority
	audit    *audit.Log
	tokens   *tokens
	served   []string
	traffic  *recorder
	notReady atomic.Pointer[error]
	panics   atomic.Bool
}

// flaky lets a test make the rule panic.
type flaky struct {
	*provision.Service
	f *face
}

func (r flaky) Answer(ctx context.Context, ask edgeclaim.Ask) edgeclaim.Answer {
	if r.f.panics.Load() {
		panic(fmt.Sprintf("cannot decide on %s", ask.Body))
	}
	return r.Service.Answer(ctx, ask)
}

// safeBuffer is a bytes.Buffer for several goroutines.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

type fixedBox struct{}

func (fixedBox) Status(context.Context) (edgeclaim.Status, error) {
	return edgeclaim.Status{
		BoxID: "box", Clock: edgeclaim.ClockStatus{State: edgeclaim.ClockSynced}, Listeners: map[string]string{},
		Outbox:   map[edgeclaim.Lane]edgeclaim.LaneStats{edgeclaim.LaneProv: {}, edgeclaim.LaneEvt: {}},
		Upstream: edgeclaim.UpstreamStatus{Link: edgeclaim.LampOff, Broker: edgeclaim.LampOff, App: edgeclaim.LampOff},
	}, nil
}

func (fixedBox) ResetClock(context.Context) error { return nil }

func newFace(t testing.TB) *face {
	t.Helper()
	f := &face{t: t, log: &safeBuffer{}, way: &way{}, traffic: newRecorder(t)}
	cfg := store.Defaults()
	cfg.Dir = t.TempDir()
	db, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	f.logger = slog.New(slog.NewTextHandler(f.log, nil))
	now := systemClock(t, db)
	f.issuer, err = ca.Open(ca.Config{Dir: cfg.Dir, BoxID: "box", Site: "site", Now: now.Now})
	if err != nil {
		t.Fatal(err)
	}
	f.audit = openAudit(t, cfg.Dir)
	f.tokens = &tokens{db: db, set: token.NewSet(), now: now.Now}
	f.work = &work{audit: f.audit}
	f.rule = provision.New(provision.Config{BoxID: "box", Site: "site", BoxKey: db.BoxKey(), Void: f.work.voided},
		provision.Parts{Store: db, Clock: now, Issuer: f.issuer, Auditor: f.audit}, f.logger)
	f.parts = parts(f.rule, fixedBox{}, f.way)
	f.parts.Tokens, f.parts.Authority, f.parts.Audit, f.parts.Data, f.parts.Now = f.tokens, f.issuer, f.audit, cfg.Dir, now.Now
	f.db, f.clock = db, now
	f.work.rule, f.papers = f.rule, openPapers(t, db, f.rule, now, f.audit)
	f.parts.Documents = f.papers
	f.parts.Orders, f.parts.Settings, f.parts.Presence = f.work, f.work, f.work
	f.serve()
	return f
}

// openAudit opens an audit log that runs until the test ends, longer than who
// writes in it.
func openAudit(t testing.TB, dir string) *audit.Log {
	t.Helper()
	log, err := audit.Open(audit.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- log.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, log.Close()); err != nil {
			t.Errorf("audit: %v", err)
		}
	})
	return log
}

// serve serves all four listeners.
func (f *face) serve() {
	f.t.Helper()
	logger := f.logger
	line := httpapi.Line{Claims: flaky{f.rule, f}, Devices: f.rule, Reports: f.work, Heard: httpapi.Heard{Telemetry: f.work.hear("telemetry"), Event: f.work.hear("event")}, Commands: f.work, Configs: f.work, Ready: func(context.Context) error {
		if err := f.notReady.Load(); err != nil {
			return *err
		}
		return nil
	}}
	f.claims = "http://" + f.run(httpapi.NewClaims(httpapi.Defaults(), listen(f.t, "tcp", "127.0.0.1:0"), line, logger))
	line.TLS = serverTLS(f.t, f.issuer, f.parts.Now)
	f.secure = "https://" + f.run(httpapi.NewClaims(httpapi.Defaults(), listen(f.t, "tcp", "127.0.0.1:0"), line, logger))
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = io.WriteString(w, "up 1\n")
	})
	f.tcp = "http://" + f.run(httpapi.NewAdminTCP(httpapi.Defaults(), listen(f.t, "tcp", "127.0.0.1:0"), f.parts,
		httpapi.Gate{Hosts: []string{"Line-4.plant.example", "[2001:db8::1]:9090"}, Metrics: metrics, Ready: line.Ready}, logger))
	socket := f.t.TempDir() + "/admin.sock"
	f.run(httpapi.NewAdmin(httpapi.Defaults(), listen(f.t, "unix", socket), f.parts, logger))
	f.admin = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	f.t.Cleanup(f.admin.CloseIdleConnections)
}

// run serves until the test ends, with every exchange held against the document.
func (f *face) run(server *httpapi.Server, err error) (addr string) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	f.served = append(f.served, server.Served()...)
	server.Through(f.traffic.through(server.Served()))
	run(f.t, server)
	return server.Addr().String()
}

// serverTLS is the TLS of a listener with the box's own certificate.
func serverTLS(t testing.TB, issuer *ca.Authority, now func() time.Time) *tls.Config {
	t.Helper()
	source, err := tlsconf.NewSource(tlsconf.Config{Logger: slog.New(slog.DiscardHandler)}, func() (tls.Certificate, error) {
		return issuer.ServerCertificate([]string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)})
	})
	if err != nil {
		t.Fatal(err)
	}
	return tlsconf.Server(source, now, issuer.Pool)
}

// tokens keeps tokens in a real store.
type tokens struct {
	db  *store.DB
	set *token.Set
	now func() time.Time
}

func (k *tokens) Check(secret edgeclaim.Secret) (token.Token, error) {
	return k.set.Check(secret, k.now())
}

func (k *tokens) Create(ctx context.Context, t token.Token) error {
	err := k.db.PutToken(ctx, t)
	if err == nil {
		k.set.Put(t)
	}
	return err
}

func (k *tokens) Revoke(ctx context.Context, id token.ID) (token.Token, error) {
	all, err := k.db.Tokens(ctx)
	if err != nil {
		return token.Token{}, err
	}
	for _, t := range all {
		if t.ID == id {
			t.Status = token.Revoked
			if err := k.db.PutToken(ctx, t); err != nil {
				return t, err
			}
			k.set.Put(t)
			return t, nil
		}
	}
	return token.Token{}, edgeclaim.ErrNotFound
}

func (k *tokens) List(ctx context.Context) ([]token.Token, error) { return k.db.Tokens(ctx) }

func systemClock(t testing.TB, db *store.DB) *clock.Clock {
	t.Helper()
	now := time.Now()
	c := clock.New(clock.Config{
		Wall: time.Now, Uptime: func() time.Duration { return time.Since(now) }, Synced: func() bool { return true }, Boot: "boot",
	}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err := c.Load(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return c
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func listen(t testing.TB, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run serves until the test ends, and fails it when the stop is not orderly.
func run(t testing.TB, s *httpapi.Server) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func (f *face) call(method, path, body string, dst any) int {
	f.t.Helper()
	request, err := http.NewRequest(method, "http://box"+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	response, err := f.admin.Do(request)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	if dst != nil {
		if err := json.NewDecoder(response.Body).Decode(dst); err != nil {
			f.t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return response.StatusCode
}

const tenant = "3f0e3f5e-7f4e-4a57-9a0b-6a1c2d3e4f50"

// issue makes a template and a key.
func (f *face) issue() (templateID, keyID, key string) {
	f.t.Helper()
	var made struct {
		TemplateID string `json:"template_id"`
	}
	if status := f.call("POST", "/api/v1/templates", `{"tenant_id":"`+tenant+`","name":"T"}`, &made); status != http.StatusCreated {
		f.t.Fatalf("create: %d", status)
	}
	var keys []struct {
		KeyID        string `json:"key_id"`
		ProvisionKey string `json:"provision_key"`
		Warning      string
	}
	if status := f.call("POST", "/api/v1/templates/"+made.TemplateID+"/keys", "", &keys); status != http.StatusCreated || len(keys) != 1 {
		f.t.Fatalf("issue: %d, %d keys", status, len(keys))
	}
	if keys[0].Warning == "" {
		f.t.Error("an unbounded key was issued without a warning")
	}
	return made.TemplateID, keys[0].KeyID, keys[0].ProvisionKey
}

func (f *face) post(contentType, body string) (*http.Response, string) {
	f.t.Helper()
	response, err := http.Post(f.claims+"/api/v1/provision", contentType, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return response, string(said)
}

func claim(key, hardware string) string {
	return fmt.Sprintf(`{"provision_key":%q,"device_name":"n","hardware_id":%q}`, key, hardware)
}
