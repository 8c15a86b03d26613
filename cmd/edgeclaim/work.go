package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/command"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/precedence"
	"edgeclaim/provision"
	"edgeclaim/telemetry"
)

// telemetryKeys are a telemetry.Config's.
type telemetryKeys struct {
	SegmentBytes    int64         `yaml:"segment_bytes"`
	MaxBytes        int64         `yaml:"max_bytes"`
	EventsMaxBytes  int64         `yaml:"events_max_bytes"`
	DiskReserve     int64         `yaml:"disk_reserve"`
	MaxUnsynced     int           `yaml:"max_unsynced"`
	MaxDevicePoints int           `yaml:"max_device_points"`
	OfflineAfter    time.Duration `yaml:"offline_after"`
	MaxPresent      int           `yaml:"max_present"`
}

func defaultTelemetry() telemetryKeys {
	d := telemetry.Defaults()
	return telemetryKeys{
		SegmentBytes: d.SegmentBytes, MaxBytes: d.MaxBytes, EventsMaxBytes: d.EventsMaxBytes, DiskReserve: d.DiskReserve,
		MaxUnsynced: d.MaxUnsynced, MaxDevicePoints: d.MaxDevicePoints, OfflineAfter: d.OfflineAfter, MaxPresent: d.MaxPresent,
	}
}

func (s *settings) telemetryConfig() telemetry.Config {
	k := &s.Telemetry
	return telemetry.Config{
		Dir: s.Data, SegmentBytes: k.SegmentBytes, MaxBytes: k.MaxBytes, EventsMaxBytes: k.EventsMaxBytes, DiskReserve: k.DiskReserve,
		MaxUnsynced: k.MaxUnsynced, MaxDevicePoints: k.MaxDevicePoints, OfflineAfter: k.OfflineAfter, MaxPresent: k.MaxPresent,
	}
}

// commandKeys is a command.Config, field by field.
type commandKeys struct {
	MaxWaiting    int           `yaml:"max_waiting"`
	MaxPerDevice  int           `yaml:"max_per_device"`
	MaxInFlight   int           `yaml:"max_in_flight"`
	DefaultExpiry time.Duration `yaml:"default_expiry"`
	MaxExpiry     time.Duration `yaml:"max_expiry"`
	RetryBase     time.Duration `yaml:"retry_base"`
	RetryLimit    time.Duration `yaml:"retry_limit"`
}

func defaultCommands() commandKeys {
	d := command.Defaults()
	return commandKeys{
		MaxWaiting: d.MaxWaiting, MaxPerDevice: d.MaxPerDevice, MaxInFlight: d.MaxInFlight,
		DefaultExpiry: d.DefaultExpiry, MaxExpiry: d.MaxExpiry, RetryBase: d.RetryBase, RetryLimit: d.RetryLimit,
	}
}

func (s *settings) commandConfig() command.Config {
	k := &s.Commands
	return command.Config{
		MaxWaiting: k.MaxWaiting, MaxPerDevice: k.MaxPerDevice, MaxInFlight: k.MaxInFlight,
		DefaultExpiry: k.DefaultExpiry, MaxExpiry: k.MaxExpiry, RetryBase: k.RetryBase, RetryLimit: k.RetryLimit,
	}
}

// makeWork makes what devices work with once they have claimed.
func (b *box) makeWork(ctx context.Context) error {
	var auditor command.Auditor
	if b.audit != nil {
		auditor = located{b.audit}
	}
	var err error
	b.commands, err = command.New(b.settings.commandConfig(), command.Parts{
		Store: b.db, Devices: b.db, Clock: b.clock, Auditor: auditor, Wake: b.wake,
		WakeAll: b.wakeAll, Inherited: b.db.Inherited,
	}, b.logger)
	if err != nil {
		return fmt.Errorf("commands: %w", err)
	}
	return b.openTelemetry(ctx)
}

// located is the audit log for those who do not know the admin API: it says where
// who asks is.
type located struct{ *audit.Log }

// Must implements command.Auditor.
func (l located) Must(ctx context.Context, e audit.Entry) error {
	e.Source = provision.Source(ctx)
	return l.Log.Must(ctx, e)
}

// openTelemetry opens what devices said before. Where that cannot be, it is set
// aside and the box begins with nothing: claims wait for no telemetry. What only
// the moment is in the way of stays where it is, and the box is started again.
func (b *box) openTelemetry(ctx context.Context) error {
	open := func() (err error) {
		b.telemetry, err = telemetry.Open(b.settings.telemetryConfig(), telemetry.Parts{
			Stamp: b.clock.Stamp, Epoch: b.db.Epoch, Events: b.db, Answers: b.commands, Told: b.telling, Inherited: b.db.Inherited,
			Observe: func(alarm edgeclaim.Alarm) { b.alarms.raise(alarm, b.clock.Now()) },
		}, b.logger)
		return err
	}
	err := open()
	if err == nil || passing(err) {
		return err
	}
	b.logger.Error("telemetry cannot be opened and is set aside", "err", err)
	folder := filepath.Join(b.settings.Data, "telemetry")
	aside := folder + ".damaged-" + time.Now().UTC().Format("20060102T150405.000000000Z")
	if moved := os.Rename(folder, aside); moved != nil {
		return errors.Join(err, moved)
	}
	b.logger.Error("an empty telemetry log takes its place", "set_aside", aside)
	b.alarms.raise(edgeclaim.AlarmTelemetryDropped, b.clock.Now())
	if err := open(); err != nil {
		return err
	}
	b.tellSetAside(ctx)
	return nil
}

// tellSetAside tells upstream that what devices said is lost, nobody knows how
// much of it (P7).
func (b *box) tellSetAside(ctx context.Context) {
	for _, lane := range []edgeclaim.Lane{edgeclaim.LaneTel, edgeclaim.LaneEvt} {
		data, err := json.Marshal(struct {
			Lane   edgeclaim.Lane `json:"lane"`
			Reason string         `json:"reason"`
			Epoch  string         `json:"epoch"`
		}{lane, "telemetry_set_aside", b.db.Epoch()})
		if err == nil {
			err = b.db.Append(ctx, edgeclaim.Record{Lane: edgeclaim.LaneEvt, Type: edgeclaim.TypeGap, Stamp: b.clock.Stamp(), Data: data})
		}
		if err != nil {
			b.logger.Error("upstream will not hear of the telemetry that was set aside", "lane", lane, "err", err)
		}
	}
}

// passing reports whether an error says nothing of the files that it came from:
// the disk is full, or the system is at its limits.
func passing(err error) bool {
	for _, limit := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, limit) {
			return true
		}
	}
	return false
}

func (b *box) closeTelemetry() error {
	if b.telemetry == nil {
		return nil
	}
	return b.telemetry.Close()
}

// brokerParts are what the MQTT face is the face of.
func (b *box) brokerParts() broker.Parts {
	return broker.Parts{
		Claims: b.rule, Devices: b.rule, Reports: b.telemetry, Commands: b.commands, Configs: b.commands, Orders: b.commands,
		Encode: b.commands.Encode, Now: b.clock.Now, Refused: b.userRefused, Precedence: b.precedence,
	}
}

// userRefused writes a refused login of a user down, as the rule does a device's.
// The audit log bounds how many a minute are written one by one.
func (b *box) userRefused(user string, source netip.Addr) {
	if b.audit == nil {
		return
	}
	entry := audit.Entry{
		Kind: audit.KindLoginRefused, Who: audit.WhoUser, Reason: "password",
		Detail: map[string]string{"via": string(edgeclaim.ViaMQTT)},
	}
	if source.IsValid() {
		entry.Source = source.Unmap().WithZone("").String()
	}
	if user != "" {
		entry.Detail["name"] = user
	}
	b.audit.Add(entry)
}

// usersStatus counts what users were told.
func (b *box) usersStatus() edgeclaim.UsersStatus {
	c := b.broker.Consumers()
	return edgeclaim.UsersStatus{Delivered: c.Delivered, Dropped: c.Dropped, LoginsRefused: c.Refused}
}

// voided tells those who work with a device that its credentials are void.
func (b *box) voided(id edgeclaim.DeviceID) {
	b.telemetry.Gone(id)
	ctx, cancel := context.WithTimeout(context.Background(), voidedWithin)
	defer cancel()
	b.commands.Voided(ctx, id)
}

// voidedWithin is how long a revocation waits for the device's commands to be
// taken back; what is left is judged again when it is to be sent.
const voidedWithin = 5 * time.Second

// wake has a device's commands looked at, wherever it may listen. The broker is
// there before the first command can be given.
func (b *box) wake(id edgeclaim.DeviceID) {
	if b.broker != nil {
		b.broker.Wake(id)
	}
}

func (b *box) wakeAll() {
	if b.broker != nil {
		b.broker.WakeAll()
	}
}

// tellingFor is how long the word on the way up is good: it is asked for with
// each point that nobody waits for.
const tellingFor = 100 * time.Millisecond

// telling reports whether upstream takes telemetry now: what nobody waits for is
// worth nothing else.
func (b *box) telling() bool {
	if b.bridge == nil {
		return false
	}
	now := time.Since(b.started)
	if asked := time.Duration(b.toldAsked.Load()); asked > 0 && now-asked < tellingFor {
		return b.told.Load()
	}
	up := b.bridge.Status()
	takes := up.App == edgeclaim.LampUp || up.App == edgeclaim.LampOff && up.Broker == edgeclaim.LampUp
	b.told.Store(takes)
	b.toldAsked.Store(int64(now))
	return takes
}

// hear has the broker's users hear what came in by another face. The broker is
// there before the first request, where there is one.
func (b *box) hear(tell func(*broker.Broker, edgeclaim.DeviceID, []byte)) func(edgeclaim.DeviceID, []byte) {
	return func(id edgeclaim.DeviceID, body []byte) {
		if b.broker != nil {
			tell(b.broker, id, body)
		}
	}
}

// inTurn takes telemetry over HTTP when claims do not need the processors.
type inTurn struct {
	*telemetry.Service
	precedence *precedence.Gate
}

// Telemetry implements httpapi.Reports.
func (t inTurn) Telemetry(ctx context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	var turn precedence.Turn
	t.precedence.Take(&turn)
	defer t.precedence.Give(&turn)
	return t.Service.Telemetry(ctx, r)
}
