package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/broker"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/adminsocket"
	"edgeclaim/internal/clock"
	"edgeclaim/provision"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
)

// The names of the listeners, in Status.Listeners and on the output.
const (
	listenerHTTP    = "http"
	listenerMQTT    = "mqtt"
	listenerAdmin   = "admin"
	listenerMetrics = "metrics"
)

var listenerNames = []string{listenerHTTP, listenerMQTT, listenerAdmin, listenerMetrics}

// box is the running program: its parts and how they hang together.
type box struct {
	settings settings
	build    cli.Build
	logger   *slog.Logger
	started  time.Time // with a monotonic reading

	clock   *clock.Clock
	db      *store.DB
	trust   *trust
	rule    *provision.Service
	broker  *broker.Broker
	claims  *httpapi.Server
	admin   *httpapi.Server
	metrics *httpapi.Server // nil when nobody asked for it
	bridge  *bridge.Bridge  // nil without upstream
	gauges  *gauges

	listeners map[string]string
	// ready is told the listeners when everything is bound and runs.
	ready func(listeners map[string]string)
}

// openBox makes every part and binds every listener; run starts them. An error
// leaves nothing open. Nothing waits for upstream, names or time (P2).
func openBox(ctx context.Context, s settings, built cli.Build, logger *slog.Logger) (*box, error) {
	b := &box{
		settings: s, build: built, logger: logger, started: time.Now(),
		gauges: newGauges(built), listeners: map[string]string{}, ready: func(map[string]string) {},
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
		return nil, errors.Join(err, bound.close(), db.Close())
	}
	return b, nil
}

// assemble makes what stands on the store.
func (b *box) assemble(ctx context.Context, bound *bindings) error {
	if err := b.clock.Load(ctx, b.db); err != nil {
		return err
	}
	b.rule = provision.New(provision.Config{
		BoxID: b.db.BoxID(), Site: b.settings.Site, Observe: b.gauges.claim,
		// The broker is there before the first claim or release can be.
		Void: func(id edgeclaim.DeviceID) { b.broker.Disconnect(id) },
	}, b.db, b.clock, b.logger)
	if err := b.faceUpstream(ctx); err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	if err := b.serveHTTP(bound); err != nil {
		return err
	}
	// The broker binds for itself, and so comes last: it is never to be undone.
	mqtt, err := broker.New(b.settings.brokerConfig(), b.rule, b.rule, b.logger)
	if err != nil {
		return listenFailed(listenerMQTT, b.settings.MQTT.Address, err)
	}
	b.broker = mqtt
	b.listeners[listenerMQTT] = mqtt.Addr().String()
	return nil
}

// faceUpstream makes the way up, and reads whom to trust there. The bridge is
// told before it runs, so that it never hears anything from anybody else.
func (b *box) faceUpstream(ctx context.Context) error {
	b.trust = newTrust(b.db, b.logger)
	if err := b.trust.load(ctx, b.clock.Now()); err != nil {
		return err
	}
	if b.settings.Upstream.URL == "" {
		return nil
	}
	up := b.settings.Upstream
	up.Now = b.clock.Now
	parts := bridge.Parts{Outbox: b.db, Quarantine: b.db, Life: b.db, Registry: b.db, Clock: b.clock}
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

// serveHTTP makes the three HTTP servers.
func (b *box) serveHTTP(bound *bindings) error {
	cfg := b.settings.httpConfig()
	listener, err := bound.tcp(b.settings.HTTP.Address)
	if err != nil {
		return listenFailed(listenerHTTP, b.settings.HTTP.Address, err)
	}
	if b.claims, err = httpapi.NewClaims(cfg, listener, b.rule, b.isReady, b.logger); err != nil {
		return err
	}
	b.listeners[listenerHTTP] = b.claims.Addr().String()

	if listener, err = bound.add(adminsocket.Listen(b.settings.Data)); err != nil {
		return err
	}
	if b.admin, err = httpapi.NewAdmin(cfg, listener, b.adminParts(), b.logger); err != nil {
		return err
	}
	b.listeners[listenerAdmin] = b.admin.Addr().String()

	if b.settings.Admin.Address == "" {
		return nil
	}
	if listener, err = bound.tcp(b.settings.Admin.Address); err != nil {
		return listenFailed("admin", b.settings.Admin.Address, err)
	}
	if b.metrics, err = httpapi.NewMetrics(cfg, listener, b.gauges.handler(b.Status, b.logger), b.isReady, b.logger); err != nil {
		return err
	}
	b.listeners[listenerMetrics] = b.metrics.Addr().String()
	return nil
}

// adminParts are what the admin API is the face of.
func (b *box) adminParts() httpapi.Admin {
	return httpapi.Admin{
		Rule: b.rule, Box: b, Enroller: b.trust, Quarantine: quarantine{db: b.db},
		Outbox: stick{db: b.db, clock: b.clock, trust: b.trust, identity: b.identity(), logger: b.logger},
	}
}

// listenFailed names the flag that would help.
func listenFailed(flag, address string, err error) error {
	return fmt.Errorf("--%s %s: %w", flag, address, err)
}

// bindings are the listeners bound so far, to be closed should a later step
// fail.
type bindings []io.Closer

func (b *bindings) tcp(address string) (net.Listener, error) { return b.add(httpapi.Listen(address)) }

func (b *bindings) add(listener net.Listener, err error) (net.Listener, error) {
	if err == nil {
		*b = append(*b, listener)
	}
	return listener, err
}

func (b *bindings) close() error {
	var errs []error
	for _, listener := range *b {
		errs = append(errs, listener.Close())
	}
	return errors.Join(errs...)
}

// isReady: the store takes writes, and the listeners were bound before anybody
// could ask. Offline is ready (P2).
func (b *box) isReady(context.Context) error { return b.db.Err() }

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
	s := edgeclaim.Status{
		BoxID: b.db.BoxID(), Site: b.settings.Site, Version: b.build.Version,
		UptimeSeconds: time.Since(b.started).Seconds(),
		Devices:       devices,
		Outbox:        outbox,
		Upstream:      edgeclaim.UpstreamStatus{Link: edgeclaim.LampOff, Broker: edgeclaim.LampOff, App: edgeclaim.LampOff},
		Clock:         b.clock.Status(),
		Connections:   b.broker.Connections(),
		Listeners:     b.listeners,
		Store:         b.db.Info(),
	}
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
