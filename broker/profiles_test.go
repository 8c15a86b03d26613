package broker_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/command"
	"edgeclaim/internal/clock"
	"edgeclaim/internal/mqttwire"
	"edgeclaim/store"
	"edgeclaim/telemetry"
)

// profiled is a broker whose devices inherit, over the real store, rule of commands
// and telemetry.
type profiled struct {
	*broker.Broker
	t        *testing.T
	db       *store.DB
	commands *command.Service
	points   *telemetry.Service
	tenant   edgeclaim.TenantID
	version  uint64
}

// heirs lets devices in by their keys, each with what is on record of it.
type heirs struct {
	*rule
	db *store.DB
}

func (h heirs) Identify(ctx context.Context, l edgeclaim.Login) (edgeclaim.Admission, error) {
	by, err := h.rule.Identify(ctx, l)
	if err != nil {
		return by, err
	}
	known, err := h.db.Device(ctx, l.Device)
	by.Tenant, by.Profile = known.Tenant, known.Profile
	return by, err
}

func (h heirs) Admit(ctx context.Context, l edgeclaim.Login) (edgeclaim.Admission, error) {
	return h.Identify(ctx, l)
}

func startProfiled(t *testing.T) *profiled {
	t.Helper()
	p := &profiled{t: t}
	log := slog.New(slog.DiscardHandler)
	began := time.Now()
	ticks := clock.New(clock.Config{
		Wall: time.Now, Uptime: func() time.Duration { return time.Since(began) }, Synced: func() bool { return true },
		Boot: "1b4e28ba-2fa1-41d2-883f-0016d3cca427", Build: time.Unix(0, 0),
	}, log)
	cfg := store.Defaults()
	cfg.Dir, cfg.Stamp = t.TempDir(), ticks.Stamp
	p.db = must(store.Open(cfg))(t)
	p.tenant = must(edgeclaim.ParseTenantID("7d4f6d1e-3a56-4f7a-9a55-0f7c1d1b8a01"))(t)
	p.commands = must(command.New(command.Defaults(), command.Parts{
		Store: p.db, Devices: p.db, Clock: ticks, Wake: func(id edgeclaim.DeviceID) { p.Wake(id) }, WakeAll: func() { p.WakeAll() },
		Inherited: p.db.Inherited,
	}, log))(t)
	points := telemetry.Defaults()
	points.Dir, points.DiskReserve = cfg.Dir, 0
	p.points = must(telemetry.Open(points, telemetry.Parts{
		Stamp: ticks.Stamp, Epoch: p.db.Epoch, Events: p.db, Answers: p.commands, Inherited: p.db.Inherited,
	}, log))(t)
	group, ctx := errgroup.WithContext(context.Background())
	ctx, cancel := context.WithCancel(ctx)
	group.Go(func() error { return p.commands.Run(ctx) })
	group.Go(func() error { return p.points.Run(ctx) })
	t.Cleanup(func() { // behind the broker's own end
		cancel()
		for _, err := range []error{group.Wait(), p.points.Close(), p.db.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	r := &rule{login: knowsAll}
	r.change = func(parts *broker.Parts) {
		parts.Devices, parts.Reports = heirs{r, p.db}, p.points
		parts.Commands, parts.Configs, parts.Encode, parts.Now = p.commands, p.commands, p.commands.Encode, ticks.Now
	}
	p.Broker = start(t, r, nil)
	return p
}

// claimed has boards of a profile claim, and returns their devices.
func (p *profiled) claimed(profile string, boards int) []edgeclaim.DeviceID {
	p.t.Helper()
	ctx := context.Background()
	template := edgeclaim.Template{
		ID: must(edgeclaim.ParseTemplateID("of-" + profile))(p.t), Tenant: p.tenant, Name: "line", Profile: profile,
		Credential: edgeclaim.CredentialAPIKey, Approval: edgeclaim.ApprovalAuto, Status: edgeclaim.TemplateActive,
	}
	key := edgeclaim.Key{
		ID: must(edgeclaim.ParseKeyID("key-" + profile))(p.t), Template: template.ID, Hash: edgeclaim.NewSecret(profile).Hash(), Status: edgeclaim.KeyActive,
	}
	noErr(p.t, p.db.CreateTemplate(ctx, template))
	noErr(p.t, p.db.AddKeys(ctx, []edgeclaim.Key{key}))
	var made []edgeclaim.DeviceID
	for n := range boards {
		ref := edgeclaim.ClaimRef{Key: key.Hash, Tenant: p.tenant, Hardware: must(edgeclaim.ParseHardwareID(fmt.Sprint(profile, "-", n)))(p.t)}
		noErr(p.t, p.db.Mint(ctx, ref, func(at edgeclaim.Present) (*edgeclaim.Minted, error) {
			made = append(made, at.Next)
			return &edgeclaim.Minted{Key: at.Grant.Key, Device: edgeclaim.Device{
				ID: at.Next, Tenant: ref.Tenant, Hardware: ref.Hardware, Name: "sensor", Template: template.ID, Key: key.ID, Profile: profile,
				Generation: 1, Status: edgeclaim.DeviceActive, ClaimedVia: edgeclaim.ViaMQTT,
				Credential: edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: edgeclaim.NewSecret(passwordOf(at.Next)).Hash()},
			}, Record: &edgeclaim.Record{Type: edgeclaim.TypeDeviceProvisioned, Device: at.Next, Data: []byte(`{}`)}}, nil
		}))
	}
	return made
}

// rules has the next version of the tenant's profiles applied.
func (p *profiled) rules(byDefault edgeclaim.Profile, others ...edgeclaim.Profile) {
	p.t.Helper()
	p.version++
	held := edgeclaim.HeldDocument{
		ID: edgeclaim.DocumentID{Type: edgeclaim.DocumentProfiles, Tenant: p.tenant}, Version: p.version, Hash: strings.Repeat("0", 63) + fmt.Sprint(p.version),
	}
	noErr(p.t, p.db.ApplyProfiles(context.Background(), held, []byte("signed"), &edgeclaim.Profiles{Default: &byDefault, Profiles: others}))
	p.commands.ProfilesChanged()
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		noErr(t, err)
		return v
	}
}

func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A profile is lived: its configuration reaches the devices when they subscribe
// and when it changes, and no others; its schema judges what they say, by the
// point.
func TestProfilesAreLived(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		p := startProfiled(t)
		press, oven := p.claimed("press", 1)[0], p.claimed("oven", 1)[0]
		no := false
		low, high := 0.0, 100.0
		schema := &edgeclaim.TelemetrySchema{
			Properties: map[string]edgeclaim.MetricSchema{"temperature": {Type: edgeclaim.MetricNumber, Minimum: &low, Maximum: &high}}, Additional: &no,
		}
		byDefault := edgeclaim.Profile{Config: []byte(`{"interval":30,"log":"warn"}`)}
		p.rules(byDefault, edgeclaim.Profile{ID: "press", Config: []byte(`{"interval":5}`), Schema: schema}, edgeclaim.Profile{ID: "oven"})

		one, other := device(t, p.Broker, v, press), device(t, p.Broker, v, oven)
		subscribe(t, one, 1, configOf(press), commandsOf(press))
		told := func(c *mqttwire.Client, id edgeclaim.DeviceID, want string) {
			t.Helper()
			ack(t, c, hears(t, c, configOf(id), want).ID, 0)
		}
		told(one, press, `{"version":1,"config":{"interval":5,"log":"warn"}}`)
		subscribe(t, other, 1, configOf(oven))
		told(other, oven, `{"version":1,"config":{"interval":30,"log":"warn"}}`)
		_, err := p.commands.SetConfig(t.Context(), press, []byte(`{"log":null,"name":"press 4"}`), "uid:0")
		noErr(t, err)
		told(one, press, `{"version":2,"config":{"interval":5,"name":"press 4"}}`)

		p.says(one, press, `{"temperature":21}`, 0)
		p.says(one, press, `{"temperature":101}`, 0x99)
		p.says(one, press, `[{"numeric_values":{"temperature":-1}},{"numeric_values":{"temperature":1}}]`, 0)
		p.says(other, oven, `{"temperature":101,"state":"on"}`, 0)
		if got := p.points.Status(); got.Accepted != 3 || got.Rejected["schema"] != 2 {
			t.Errorf("counted %+v", got)
		}

		// Of the oven nothing changes but the version; the press gets both.
		byDefault.Config = []byte(`{"log":"warn","interval":30}`)
		p.rules(byDefault, edgeclaim.Profile{ID: "press", Config: []byte(`{"interval":7}`)})
		told(one, press, `{"version":3,"config":{"interval":7,"name":"press 4"}}`)
		eventually(t, "the round is over", func() bool { return !p.Rounding() && p.Errands() == 0 })
		silent(t, other)
		p.says(one, press, `{"temperature":101}`, 0)

		_, err = p.commands.Give(t.Context(), edgeclaim.Order{Device: press, Payload: []byte(`"blink"`), Origin: edgeclaim.OriginOperator})
		noErr(t, err)
		if got := string(next(t, one, mqttwire.Publish).Payload); !strings.Contains(got, `"payload":"blink"`) {
			t.Errorf("told %s", got)
		}
	})
}

// says has a device publish telemetry, and the broker acknowledge it with code,
// which MQTT 3.1.1 does not tell.
func (p *profiled) says(c *mqttwire.Client, id edgeclaim.DeviceID, body string, code byte) {
	p.t.Helper()
	if c.Version() < mqttwire.V5 {
		code = 0
	}
	publish(p.t, c, mqttwire.Message{Topic: telemetryOf(id), QoS: 1, ID: 9, Payload: []byte(body)})
	if got := next(p.t, c, mqttwire.Puback); got.Code() != code {
		p.t.Errorf("%s: PUBACK %#x, want %#x", body, got.Code(), code)
	}
}
