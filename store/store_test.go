package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/store"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		os.Exit(crashChild(dir))
	}
	if dir := os.Getenv(commandsDir); dir != "" {
		os.Exit(commandsChild(dir))
	}
	if dir := os.Getenv(moversDir); dir != "" {
		os.Exit(moversChild(dir))
	}
	if dir := os.Getenv(documentsDir); dir != "" {
		os.Exit(documentsChild(dir))
	}
	flag.Parse()
	if testing.Short() { // each step of a model is an fsync
		_ = flag.Set("rapid.checks", "10")
	}
	_ = flag.Set("rapid.nofailfile", "true")
	goleak.VerifyTestMain(m)
}

// tenant is the one tenant of most tests.
const tenantText = "7d4f6d1e-3a56-4f7a-9a55-0f7c1d1b8a01"

func tenant(tb testing.TB) edgeclaim.TenantID { return must(edgeclaim.ParseTenantID(tenantText))(tb) }

// must unwraps a value that cannot fail in a sound test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

// config is a configuration for tests, in a folder of its own.
func config(tb testing.TB) store.Config {
	cfg := store.Defaults()
	cfg.Dir = tb.TempDir()
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.Stamp = func() edgeclaim.Stamp { return edgeclaim.Stamp{Time: moment, Clock: edgeclaim.ClockSynced} }
	return cfg
}

// open opens a store that is checked and closed when the test ends.
func open(tb testing.TB, cfg store.Config) *store.DB {
	tb.Helper()
	db, err := store.Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { checkAndClose(tb, db) })
	return db
}

// checkAndClose is what every test ends with; a test may have closed the store
// already.
func checkAndClose(tb testing.TB, db *store.DB) {
	tb.Helper()
	if err := db.Err(); err == nil {
		if err := db.Check(context.Background()); err != nil && !errors.Is(err, edgeclaim.ErrUnavailable) {
			tb.Errorf("check: %v", err)
		}
	}
	if err := db.Close(); err != nil {
		tb.Errorf("close: %v", err)
	}
}

// at is a mark of the present epoch.
func at(db *store.DB, lane edgeclaim.Lane, upto uint64) edgeclaim.Mark {
	return edgeclaim.Mark{Epoch: db.Epoch(), Lane: lane, Upto: upto}
}

func hardware(tb testing.TB, text string) edgeclaim.HardwareID {
	tb.Helper()
	return must(edgeclaim.ParseHardwareID(text))(tb)
}

func template(tb testing.TB, id string) edgeclaim.Template {
	return edgeclaim.Template{
		ID: must(edgeclaim.ParseTemplateID(id))(tb), Tenant: tenant(tb), Name: "sensor line",
		Profile: "profile-7", Groups: []string{"hall-2", "sensors"}, Credential: edgeclaim.CredentialAPIKey,
		Approval: edgeclaim.ApprovalAuto, Status: edgeclaim.TemplateActive, CreatedAt: moment,
		Owner: edgeclaim.OwnerLocal,
	}
}

var moment = time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)

func key(tb testing.TB, id, templateID string) edgeclaim.Key {
	return edgeclaim.Key{
		ID: must(edgeclaim.ParseKeyID(id))(tb), Template: must(edgeclaim.ParseTemplateID(templateID))(tb),
		Hash: edgeclaim.NewSecret("pk_factory_" + id).Hash(), Status: edgeclaim.KeyActive, CreatedAt: moment,
	}
}

// stock gives a store one template and one key, and returns the key.
func stock(tb testing.TB, db *store.DB) edgeclaim.Key {
	tb.Helper()
	k := key(tb, "key-1", "template-1")
	if err := db.CreateTemplate(tb.Context(), template(tb, "template-1")); err != nil {
		tb.Fatal(err)
	}
	if err := db.AddKeys(tb.Context(), []edgeclaim.Key{k}); err != nil {
		tb.Fatal(err)
	}
	return k
}

// mint is the rule in short: new hardware gets a device, and a one-time key is
// used up by it. It returns nil, nil for hardware that is on record.
func mint(ref edgeclaim.ClaimRef) func(edgeclaim.Present) (*edgeclaim.Minted, error) {
	return func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		g := p.Grant
		switch {
		case p.Denied != nil:
			return nil, &edgeclaim.Refusal{Reason: edgeclaim.ReasonHardwareDenied}
		case p.Known != nil && p.Known.Status == edgeclaim.DeviceActive:
			return nil, nil
		case g.Key.Status != edgeclaim.KeyActive:
			return nil, &edgeclaim.Refusal{Reason: edgeclaim.ReasonKeyUsed}
		}
		d := edgeclaim.Device{
			ID: p.Next, Tenant: ref.Tenant, Hardware: ref.Hardware, Name: "device " + ref.Hardware.String(),
			Template: g.Template.ID, Key: g.Key.ID, Profile: g.Template.Profile, Groups: g.Template.Groups,
			Generation: p.Generation, Status: edgeclaim.DeviceActive, ClaimedAt: moment, ClaimedVia: edgeclaim.ViaMQTT,
			Credential: edgeclaim.Credential{Type: g.Template.Credential, Hash: secretOf(p.Next).Hash(), IssuedAt: moment},
		}
		k := g.Key
		k.Claims++
		if g.Template.OneTime {
			k.Status, k.UsedBy = edgeclaim.KeyUsed, p.Next
		}
		return &edgeclaim.Minted{Key: k, Device: d, Record: record(p.Next)}, nil
	}
}

// secretOf is what mint gives to a device.
func secretOf(id edgeclaim.DeviceID) edgeclaim.Secret { return edgeclaim.NewSecret(id.String()) }

// firstLife is what is present for hardware that was never seen.
func firstLife(tb testing.TB, k edgeclaim.Key, ref edgeclaim.ClaimRef) edgeclaim.Present {
	return edgeclaim.Present{
		Grant: edgeclaim.Grant{Key: k, Template: template(tb, k.Template.String())},
		Next:  edgeclaim.NewDeviceID(ref.Tenant, ref.Hardware, 1), Generation: 1,
	}
}

// holder is the device that a hardware of the one tenant is on record as. It
// asks with key-1.
func holder(db *store.DB, hw string) (edgeclaim.Device, error) {
	hardware, err := edgeclaim.ParseHardwareID(hw)
	if err != nil {
		return edgeclaim.Device{}, err
	}
	p, err := db.Look(context.Background(), edgeclaim.ClaimRef{Key: edgeclaim.NewSecret("pk_factory_key-1").Hash(), Hardware: hardware})
	if err == nil && p.Known == nil {
		err = edgeclaim.ErrNotFound
	}
	if err != nil {
		return edgeclaim.Device{}, err
	}
	return *p.Known, nil
}

// record is about as long as the real device.provisioned.
func record(id edgeclaim.DeviceID) *edgeclaim.Record {
	data := `{"device_id":"` + id.String() + `","tenant_id":"` + tenantText + `","hardware_id":"AA:BB:CC:00:11:22",` +
		`"name":"sensor 12","template_id":"0197c2a0-7e1c-7e4b-8b1e-3f8f0d1c2a01","key_id":"0197c2a0-7e1c-7e4b-8b1e-3f8f0d1c2a02",` +
		`"profile_id":"profile-7","groups":["hall-2","sensors"],"credential":{"type":"api_key","sha256":` +
		`"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"},"claimed_via":"mqtt",` +
		`"box_id":"5a0f7f6e-6f9e-4c0e-9d4f-0d7f5b7c9a11","site":"plant-1","claimed_at":"2026-03-04T05:06:07Z"}`
	return &edgeclaim.Record{
		Lane: edgeclaim.LaneProv, Type: edgeclaim.TypeDeviceProvisioned, Device: id, Data: []byte(data),
		Stamp: edgeclaim.Stamp{
			Time: moment, Clock: edgeclaim.ClockSynced,
			Boot: "1b4e28ba-2fa1-41d2-883f-0016d3cca427", Uptime: time.Hour,
		},
	}
}

func refer(tb testing.TB, k edgeclaim.Key, hw string) edgeclaim.ClaimRef {
	tb.Helper()
	return edgeclaim.ClaimRef{Key: k.Hash, Tenant: tenant(tb), Hardware: hardware(tb, hw)}
}

// claim claims as the rule would.
func claim(tb testing.TB, db *store.DB, k edgeclaim.Key, hw string) error {
	tb.Helper()
	ref := refer(tb, k, hw)
	return db.Mint(context.Background(), ref, mint(ref))
}

func board(n int) string { return "board-" + strconv.Itoa(n) }

func event(n int) edgeclaim.Record {
	data, _ := json.Marshal(map[string]int{"n": n})
	return edgeclaim.Record{
		Type: edgeclaim.TypeClaimRefused, Data: data,
		Stamp: edgeclaim.Stamp{Time: moment.Add(time.Duration(n) * time.Second), Clock: edgeclaim.ClockUnsynced},
	}
}

func wantErr(tb testing.TB, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("got error %v, want %v", err, want)
	}
}

func noErr(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
