package command_test

import (
	"context"
	"encoding/json"
	"errors"
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

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/command"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/clock"
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
	tenantText = "7d4f6d1e-3a56-4f7a-9a55-0f7c1d1b8a01"
	profileID  = "sensor" // of all devices
)

// rig is the service over a real store and a real clock, whose readings are the
// bubble's.
type rig struct {
	*command.Service
	tb     testing.TB
	dir    string
	cfg    command.Config
	db     *store.DB
	clock  *clock.Clock
	before func()       // called before each change of commands
	after  func()       // called after each AddCommand
	began  time.Time    // of the box
	step   atomic.Int64 // how far the wall clock is off

	failed atomic.Pointer[error] // what the store says from now on, nil for what it does
	gone   atomic.Uint64         // the number of a command that it has forgotten, 0 for none

	inherits atomic.Pointer[edgeclaim.Inherited] // what the devices' profile and tenant say; nil for nothing
	wokenAll atomic.Int64

	mu    sync.Mutex
	woken []edgeclaim.DeviceID
	wrote []audit.Entry
	saw   map[edgeclaim.CommandStatus]int
	stop  func()
}

// inBubble runs a test in which time passes only where the test says so, with
// Run under way.
func inBubble(t *testing.T, cfg func(*command.Config), test func(*testing.T, *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cfg)
		defer r.close()
		r.run()
		test(t, r)
	})
}

func newRig(tb testing.TB, cfg func(*command.Config)) *rig {
	r := &rig{tb: tb, dir: tb.TempDir(), cfg: command.Defaults(), began: time.Now(), saw: map[edgeclaim.CommandStatus]int{}}
	r.cfg.Observe = func(s edgeclaim.CommandStatus) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.saw[s]++
	}
	if cfg != nil {
		cfg(&r.cfg)
	}
	r.clock = clock.New(clock.Config{
		Wall: func() time.Time { return time.Now().Add(time.Duration(r.step.Load())) }, Uptime: func() time.Duration { return time.Since(r.began) },
		Synced: func() bool { return false }, Boot: "1b4e28ba-2fa1-41d2-883f-0016d3cca427", Build: time.Unix(0, 0),
	}, slog.New(slog.DiscardHandler))
	r.open()
	r.stock()
	return r
}

func (r *rig) open() {
	cfg := store.Defaults()
	cfg.Dir, cfg.Stamp = r.dir, r.clock.Stamp
	var err error
	r.db, err = store.Open(cfg)
	r.noErr(err)
	parts := command.Parts{Store: meddled{r.db, r}, Devices: r.db, Clock: r.clock, Auditor: r, Wake: r.wake, Inherited: r.inherited, WakeAll: func() { r.wokenAll.Add(1) }}
	r.Service, err = command.New(r.cfg, parts, slog.New(slog.DiscardHandler))
	r.noErr(err)
}

func (r *rig) inherited(tenant edgeclaim.TenantID, profile string) edgeclaim.Inherited {
	in := r.inherits.Load()
	if in == nil || tenant != must(r.tb, edgeclaim.ParseTenantID, tenantText) || profile != profileID {
		return edgeclaim.Inherited{}
	}
	return *in
}

// stock gives the store a template and a key, and some devices.
func (r *rig) stock() {
	ctx := context.Background()
	template := edgeclaim.Template{
		ID: must(r.tb, edgeclaim.ParseTemplateID, "template-1"), Tenant: must(r.tb, edgeclaim.ParseTenantID, tenantText), Name: "line",
		Credential: edgeclaim.CredentialAPIKey, Approval: edgeclaim.ApprovalAuto, Status: edgeclaim.TemplateActive,
	}
	key := edgeclaim.Key{
		ID: must(r.tb, edgeclaim.ParseKeyID, "key-1"), Template: template.ID, Hash: edgeclaim.NewSecret("key").Hash(), Status: edgeclaim.KeyActive,
	}
	r.noErr(r.db.CreateTemplate(ctx, template))
	r.noErr(r.db.AddKeys(ctx, []edgeclaim.Key{key}))
	for n := range 4 {
		ref := edgeclaim.ClaimRef{Key: key.Hash, Tenant: template.Tenant, Hardware: must(r.tb, edgeclaim.ParseHardwareID, fmt.Sprint("board-", n))}
		r.noErr(r.db.Mint(ctx, ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
			return &edgeclaim.Minted{Key: p.Grant.Key, Device: edgeclaim.Device{
				ID: p.Next, Tenant: ref.Tenant, Hardware: ref.Hardware, Name: "sensor", Template: template.ID, Key: key.ID, Profile: profileID,
				Generation: 1, Status: edgeclaim.DeviceActive, ClaimedVia: edgeclaim.ViaMQTT,
				Credential: edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: edgeclaim.NewSecret(p.Next.String()).Hash()},
			}, Record: &edgeclaim.Record{Type: edgeclaim.TypeDeviceProvisioned, Device: p.Next, Data: []byte(`{}`)}}, nil
		}))
	}
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
}

func (r *rig) close() {
	if r.stop != nil {
		r.stop()
	}
	r.noErr(r.db.Check(context.Background()))
	r.noErr(r.db.Close())
}

func (r *rig) restart() {
	r.close()
	r.open()
	r.run()
}

// pass lets time pass, and Run do what it has to.
func (r *rig) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// meddled is a store that can be told to fail.
type meddled struct {
	*store.DB
	r *rig
}

func (m meddled) AddCommand(ctx context.Context, c edgeclaim.Command, rec edgeclaim.Record) (edgeclaim.Command, bool, error) {
	if m.r.before != nil {
		m.r.before()
	}
	if err := m.r.failed.Load(); err != nil {
		return edgeclaim.Command{}, false, *err
	}
	c, fresh, err := m.DB.AddCommand(ctx, c, rec)
	if m.r.after != nil {
		m.r.after()
	}
	return c, fresh, err
}

func (m meddled) ChangeCommands(ctx context.Context, numbers []uint64,
	change func(*edgeclaim.Command) (*edgeclaim.Record, error),
) ([]edgeclaim.Command, error) {
	if m.r.before != nil {
		m.r.before()
	}
	if err := m.r.failed.Load(); err != nil {
		return nil, *err
	}
	if gone := m.r.gone.Load(); slices.Contains(numbers, gone) {
		return nil, edgeclaim.ErrNotFound
	}
	return m.DB.ChangeCommands(ctx, numbers, change)
}

// unavailable has the store refuse all changes, or not.
func (r *rig) unavailable(is bool) {
	err := edgeclaim.ErrUnavailable
	if r.failed.Store(nil); is {
		r.failed.Store(&err)
	}
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

func (r *rig) wake(id edgeclaim.DeviceID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.woken = append(r.woken, id)
}

// wakes returns who was woken since it was asked last.
func (r *rig) wakes() []edgeclaim.DeviceID {
	r.mu.Lock()
	defer r.mu.Unlock()
	woken := r.woken
	r.woken = nil
	return woken
}

func must[T any](tb testing.TB, parse func(string) (T, error), text string) T {
	tb.Helper()
	v, err := parse(text)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func device(tb testing.TB, n int) edgeclaim.DeviceID {
	tb.Helper()
	return edgeclaim.NewDeviceID(must(tb, edgeclaim.ParseTenantID, tenantText), must(tb, edgeclaim.ParseHardwareID, fmt.Sprint("board-", n)), 1)
}

func id(tb testing.TB, text string) edgeclaim.CommandID {
	tb.Helper()
	return must(tb, edgeclaim.ParseCommandID, text)
}

// order is an operator's, for the first device.
func (r *rig) order(text string) edgeclaim.Order {
	return edgeclaim.Order{
		ID: id(r.tb, text), Device: device(r.tb, 1), Payload: json.RawMessage(`{ "relay": "on" }`), Origin: edgeclaim.OriginOperator, By: "uid:0",
	}
}

// give queues a command for the first device.
func (r *rig) give(text string, in time.Duration) edgeclaim.Command {
	r.tb.Helper()
	o := r.order(text)
	if in > 0 {
		o.ExpiresAt = r.clock.Now().Add(in)
	}
	c, err := r.Give(context.Background(), o)
	r.noErr(err)
	return c
}

// due names what is due for the first device.
func (r *rig) due() string {
	r.tb.Helper()
	commands, err := r.Due(context.Background(), device(r.tb, 1), 100)
	r.noErr(err)
	return names(commands)
}

func names(commands []edgeclaim.Command) string {
	all := make([]string, len(commands))
	for i, c := range commands {
		all[i] = c.ID.String()
	}
	return strings.Join(all, " ")
}

// send sends what is due to the first device, and names it.
func (r *rig) send() string {
	r.tb.Helper()
	commands, err := r.Due(context.Background(), device(r.tb, 1), 100)
	r.noErr(err)
	ids := make([]edgeclaim.CommandID, len(commands))
	for i, c := range commands {
		ids[i] = c.ID
	}
	r.noErr(r.Sent(context.Background(), device(r.tb, 1), ids...))
	return names(commands)
}

// answer is the first device's.
func (r *rig) answer(text, status string) error {
	return r.Answer(context.Background(), device(r.tb, 1), fmt.Appendf(nil, `{"command_id":%q,"status":%q}`, text, status))
}

// status is that of a command of the first device, with its reason.
func (r *rig) status(text string) string {
	r.tb.Helper()
	c, err := r.Show(context.Background(), device(r.tb, 1), id(r.tb, text))
	r.noErr(err)
	return strings.TrimSpace(string(c.Status) + " " + c.Reason)
}

// told is what upstream was told of a command, in order: statuses and reasons.
func (r *rig) told(text string) []string {
	r.tb.Helper()
	return r.toldAll()[text]
}

// toldAll is the same of all commands whose records are pending.
func (r *rig) toldAll() map[string][]string {
	r.tb.Helper()
	records, err := r.db.Next(context.Background(), edgeclaim.Mark{Epoch: r.db.Epoch(), Lane: edgeclaim.LaneEvt}, 1_000_000)
	r.noErr(err)
	all := map[string][]string{}
	for _, rec := range records {
		var data struct {
			ID     string `json:"command_id"`
			Status string `json:"status"`
			Reason string `json:"reason"`
		}
		r.noErr(json.Unmarshal(rec.Data, &data))
		if rec.Type == edgeclaim.TypeCommandStatus {
			all[data.ID] = append(all[data.ID], strings.TrimSpace(data.Status+" "+data.Reason))
		}
	}
	return all
}

func (r *rig) waiting(want int) {
	r.tb.Helper()
	if got := r.Status().Waiting; got != want {
		r.tb.Errorf("%d wait, want %d", got, want)
	}
}

func (r *rig) noErr(err error) {
	r.tb.Helper()
	if err != nil {
		r.tb.Fatal(err)
	}
}

func wantErr(tb testing.TB, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("got error %v, want %v", err, want)
	}
}

// plain are compared as they are.
var plain = cmpopts.EquateComparable(edgeclaim.CommandID{}, edgeclaim.DeviceID{}, edgeclaim.TenantID{})

func equal(tb testing.TB, what string, got, want any) {
	tb.Helper()
	if diff := cmp.Diff(want, got, plain); diff != "" {
		tb.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantTold(r *rig, text string, want ...string) {
	r.tb.Helper()
	if got := r.told(text); !slices.Equal(got, want) {
		r.tb.Errorf("told of %s: %q, want %q", text, got, want)
	}
}
