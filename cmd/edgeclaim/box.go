package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/broker"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/command"
	"edgeclaim/document"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/ca"
	"edgeclaim/internal/clock"
	"edgeclaim/internal/precedence"
	"edgeclaim/internal/throttle"
	"edgeclaim/provision"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
	"edgeclaim/telemetry"
)

// box is the running program: its parts and how they hang together.
type box struct {
	settings settings
	build    cli.Build
	logger   *slog.Logger
	started  time.Time // with a monotonic reading

	clock     *clock.Clock
	db        *store.DB
	alarms    *alarms
	authority *ca.Authority // nil when its files are damaged
	audit     *audit.Log    // nil when it cannot be used
	tokens    *tokens
	trust     *trust
	rule      *provision.Service
	telemetry *telemetry.Service
	commands  *command.Service
	documents *document.Service
	broker    *broker.Broker    // nil when no listener of its is left
	http      []*httpapi.Server // of devices and of the operator, all that are bound
	sources   map[string]tlsSource
	bridge    *bridge.Bridge // nil without upstream
	gauges    *gauges
	// precedence is what claims and telemetry pass, over either face.
	precedence *precedence.Gate
	// told is whether upstream took telemetry when it was last asked, toldAsked
	// when that was, in nanoseconds after the start; see telling.
	told      atomic.Bool
	toldAsked atomic.Int64

	listeners map[string]string
	// unbound is why a listener that was asked for is not there; nil for none.
	unbound error
	// ready is told the listeners when everything is bound and runs.
	ready func(listeners map[string]string)
}

// openBox makes every part and binds every listener; run starts them. An error
// leaves nothing open. Nothing waits for upstream, names or time (P2).
func openBox(ctx context.Context, s settings, built cli.Build, logger *slog.Logger) (*box, error) {
	b := &box{
		settings: s, build: built, logger: logger, started: time.Now(), alarms: newAlarms(time.Now()),
		gauges: newGauges(built), precedence: precedence.New(), listeners: map[string]string{}, sources: map[string]tlsSource{}, ready: func(map[string]string) {},
	}
	b.clock = clock.New(clock.Config{Build: built.Built}, logger)
	kept := s.storeConfig()
	kept.Stamp, kept.OnCommit, kept.Logger = b.clock.Stamp, b.gauges.commit, logger
	db, err := store.Open(kept)
	if errors.Is(err, store.ErrLocked) {
		return nil, fmt.Errorf("a box is running already: %w", err)
	}
	if err != nil {
		return nil, err
	}
	b.db = db
	var bound bindings
	if err := b.assemble(ctx, &bound); err != nil {
		return nil, errors.Join(err, bound.close(), b.closeTelemetry(), b.closeAudit(), db.Close())
	}
	return b, nil
}

// assemble makes what stands on the store.
func (b *box) assemble(ctx context.Context, bound *bindings) error {
	if err := b.clock.Load(ctx, b.db); err != nil {
		return err
	}
	b.openAudit()
	b.openAuthority()
	var err error
	if b.tokens, err = loadTokens(ctx, b.db, b.clock.Now); err != nil {
		return err
	}
	// Before the rule: it seals for whom the box trusts upstream.
	b.trust = newTrust(b.db, b.logger)
	if err := b.trust.load(ctx, b.clock.Now()); err != nil {
		return err
	}
	if err := b.makeRule(); err != nil {
		return err
	}
	if err := b.makeWork(ctx); err != nil {
		return err
	}
	if err := b.openDocuments(ctx); err != nil {
		return err
	}
	if err := b.faceUpstream(); err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	if err := b.serveHTTP(bound); err != nil {
		return err
	}
	// The broker binds for itself, and so comes last: it is never to be undone.
	return b.serveMQTT()
}

// makeRule makes the rule with what there is to work with.
func (b *box) makeRule() error {
	slow, err := throttle.New(b.settings.throttleConfig())
	if err != nil {
		return fmt.Errorf("throttle: %w", err)
	}
	parts := provision.Parts{Store: b.db, Clock: b.clock, Throttle: slow, Precedence: b.precedence, Documents: freshness{b}}
	if b.authority != nil {
		parts.Issuer = b.authority
	}
	if b.audit != nil {
		parts.Auditor = b.audit
	}
	b.rule = provision.New(provision.Config{
		BoxID: b.db.BoxID(), Site: b.settings.Site, BoxKey: b.db.BoxKey(),
		X509Validity:     b.settings.X509.Validity,
		UnconfirmedAfter: b.settings.Credentials.UnconfirmedAfter,
		DeviceOverlap:    b.settings.Credentials.DeviceOverlap,
		Observe:          b.gauges.claim,
		Seal: func(id edgeclaim.DeviceID, psk edgeclaim.Secret) (*provision.Sealed, error) {
			return b.trust.seal(b.db.BoxID(), id, psk)
		},
		Void: b.disconnect, Shorten: b.shorten, Decided: b.decided,
	}, parts, b.logger)
	return nil
}

// What the rule tells the broker. It is there before the first claim or change
// can be, where there is one.

func (b *box) disconnect(id edgeclaim.DeviceID) {
	if b.broker != nil {
		b.broker.Disconnect(id)
	}
	b.voided(id)
}

func (b *box) shorten(id edgeclaim.DeviceID, credential edgeclaim.KeyHash, in time.Duration) {
	if b.broker != nil {
		b.broker.Shorten(id, credential, in)
	}
	if in <= 0 { // whoever waits with it over HTTP is to be judged anew
		ctx, cancel := context.WithTimeout(context.Background(), voidedWithin)
		defer cancel()
		b.commands.Voided(ctx, id)
	}
}

func (b *box) decided(ref edgeclaim.ClaimRef) {
	if b.broker != nil {
		b.broker.Decided(ref)
	}
}

// faceUpstream makes the way up. The bridge is told whom to trust before it
// runs, so that it never hears anything from anybody else.
func (b *box) faceUpstream() error {
	if b.settings.Upstream.URL == "" {
		return nil
	}
	up := b.settings.Upstream
	up.Now = b.clock.Now
	parts := bridge.Parts{
		Outbox: b.db, Quarantine: b.db, Life: b.db, Registry: b.db, Clock: b.clock,
		Telemetry: b.telemetry.Lane(), States: b.telemetry, Commands: b.commands,
		Documents: b.documents, Shares: leases{b.rule}, Verdicts: b.rule, Restored: b.documents.Restored,
	}
	var err error
	if b.bridge, err = bridge.New(up, parts, b.identity(), b.logger); err != nil {
		return err
	}
	b.bridge.Enrol(b.trust.pinned())
	b.trust.changed = b.bridge.Enrol
	return nil
}

// identity is who the box is upstream.
func (b *box) identity() bridge.Identity {
	return bridge.Identity{Site: b.settings.Site, Box: b.db.BoxID(), Version: b.build.Version}
}

// isReady: the store takes writes, and the listeners were bound before anybody
// could ask, but for one that has no certificate. Offline is ready (P2).
func (b *box) isReady(context.Context) error { return errors.Join(b.db.Err(), b.unbound) }

// Status implements httpapi.Box.
func (b *box) Status(ctx context.Context) (edgeclaim.Status, error) {
	devices, err := b.db.Count(ctx)
	if err != nil {
		return edgeclaim.Status{}, err
	}
	outbox, err := b.db.LaneStats(ctx)
	if err != nil {
		return edgeclaim.Status{}, err
	}
	outbox[edgeclaim.LaneTel] = b.telemetry.Lane().Stats()
	pending, err := b.db.CountPending(ctx)
	if err != nil {
		return edgeclaim.Status{}, err
	}
	s := edgeclaim.Status{
		BoxID: b.db.BoxID(), Site: b.settings.Site, Version: b.build.Version,
		UptimeSeconds: time.Since(b.started).Seconds(),
		Devices:       devices,
		Outbox:        outbox,
		Upstream:      edgeclaim.UpstreamStatus{Link: edgeclaim.LampOff, Broker: edgeclaim.LampOff, App: edgeclaim.LampOff},
		Clock:         b.clock.Status(),
		Listeners:     b.listeners,
		Store:         b.db.Info(),
		Pending:       pending,
		Audit:         b.auditStatus(),
		Telemetry:     b.telemetry.Status(),
		Commands:      b.commands.Status(),
		Certificates:  b.certificates(),
		Documents:     b.documents.Held(),
	}
	if s.Shares, err = b.lowShares(ctx); err != nil {
		return edgeclaim.Status{}, err
	}
	if b.broker != nil {
		s.Connections, s.Users = b.broker.Connections(), b.usersStatus()
	}
	b.alarms.countLost(s.Audit.Lost, b.clock.Now())
	s.Alarms = b.alarms.with(b.rule.Alarms())
	if b.bridge != nil {
		s.Upstream = b.bridge.Status()
	}
	b.trust.show(&s.Upstream)
	return s, nil
}

// ResetClock implements httpapi.Box.
func (b *box) ResetClock(ctx context.Context) error {
	_, err := b.clock.Reset(ctx)
	return err
}

// clockChanged tells upstream that the wall clock was stepped, so that times in
// records from before can be put right.
func (b *box) clockChanged(ctx context.Context, change clock.Change) {
	data, err := json.Marshal(struct {
		Before time.Time            `json:"before"`
		After  time.Time            `json:"after"`
		Offset float64              `json:"offset_seconds"`
		State  edgeclaim.ClockState `json:"state"`
	}{change.Before, change.After, change.Offset().Seconds(), change.State})
	if err == nil {
		err = b.db.Append(ctx, edgeclaim.Record{
			Lane: edgeclaim.LaneEvt, Type: edgeclaim.TypeClockChanged, Stamp: b.clock.Stamp(), Data: data,
		})
	}
	if err != nil {
		b.logger.Warn("the change of the clock was not recorded", "err", err)
	}
}
