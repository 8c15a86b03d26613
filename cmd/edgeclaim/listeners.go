package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/adminsocket"
	"edgeclaim/internal/ca"
	"edgeclaim/internal/tlsconf"
	"edgeclaim/provision/httpapi"
)

// The names of the listeners, in Status.Listeners and on the output.
const (
	listenerHTTP    = "http"
	listenerHTTPS   = "https"
	listenerMQTT    = "mqtt"
	listenerMQTTTLS = "mqtt_tls"
	listenerAdmin   = "admin"
	listenerMetrics = "metrics" // the admin API over TCP
)

var listenerNames = []string{listenerHTTP, listenerHTTPS, listenerMQTT, listenerMQTTTLS, listenerAdmin, listenerMetrics}

// serveHTTP makes the HTTP servers: those of devices, the operator's socket, and
// the admin API over TCP where it was asked for.
func (b *box) serveHTTP(bound *bindings) error {
	keys := &b.settings.HTTP
	if err := b.serveLine(bound, listenerHTTP, keys.Address, nil); err != nil {
		return err
	}
	if keys.TLSAddress != "" {
		secure, err := b.tlsOf(listenerHTTPS, keys.TLS.files())
		if err == nil && secure != nil {
			err = b.serveLine(bound, listenerHTTPS, keys.TLSAddress, secure)
		}
		if err != nil {
			return err
		}
	}
	listener, err := bound.add(adminsocket.Listen(b.settings.Data))
	if err != nil {
		return err
	}
	server, err := httpapi.NewAdmin(b.settings.httpConfig(), listener, b.adminParts(), b.logger)
	if err != nil {
		return err
	}
	b.serve(listenerAdmin, server)
	return b.serveAdminTCP(bound)
}

// serveLine makes a server for devices; an empty address is none.
func (b *box) serveLine(bound *bindings, name, address string, secure *tls.Config) error {
	if address == "" {
		return nil
	}
	listener, err := bound.tcp(address)
	if err != nil {
		return listenFailed(name, address, err)
	}
	line := httpapi.Line{
		Claims: b.rule, Devices: b.rule, Reports: inTurn{b.telemetry, b.precedence}, Commands: b.commands, Configs: b.commands,
		Heard: httpapi.Heard{Telemetry: b.hear((*broker.Broker).HearTelemetry), Event: b.hear((*broker.Broker).HearEvent)},
		TLS:   secure, Ready: b.isReady,
	}
	server, err := httpapi.NewClaims(b.settings.httpConfig(), listener, line, b.logger)
	if err != nil {
		return err
	}
	b.serve(name, server)
	return nil
}

// serveAdminTCP makes the admin API over TCP.
func (b *box) serveAdminTCP(bound *bindings) error {
	keys := &b.settings.Admin
	if keys.Address == "" {
		return nil
	}
	gate := httpapi.Gate{Hosts: keys.Hosts, Metrics: b.gauges.handler(b.Status, b.logger), Ready: b.isReady}
	if keys.TLS {
		var err error
		if gate.TLS, err = b.tlsOf(listenerMetrics, b.settings.HTTP.TLS.files()); err != nil || gate.TLS == nil {
			return err
		}
	}
	listener, err := bound.tcp(keys.Address)
	if err != nil {
		return listenFailed(listenerAdmin, keys.Address, err)
	}
	server, err := httpapi.NewAdminTCP(b.settings.httpConfig(), listener, b.adminParts(), gate, b.logger)
	if err != nil {
		return err
	}
	b.serve(listenerMetrics, server)
	return nil
}

// serve takes a server that is bound.
func (b *box) serve(name string, server *httpapi.Server) {
	b.http = append(b.http, server)
	b.listeners[name] = server.Addr().String()
}

// adminParts are what the admin API is the face of.
func (b *box) adminParts() httpapi.Admin {
	parts := httpapi.Admin{
		Rule: b.rule, Box: b, Enroller: b.trust, Quarantine: quarantine{db: b.db}, Tokens: b.tokens,
		Outbox: stick{db: b.db, points: b.telemetry.Lane(), clock: b.clock, trust: b.trust, identity: b.identity(), logger: b.logger},
		Orders: b.commands, Settings: b.commands, Presence: b.telemetry, Documents: library{b.documents},
		Data: b.settings.Data, Now: b.clock.Now,
	}
	if b.authority != nil {
		parts.Authority = issuer{Authority: b.authority, reload: b.reloadCertificates}
	}
	if b.audit != nil {
		parts.Audit = b.audit
	}
	return parts
}

// issuer is the authority as operators see it: after an import, the listeners
// are served from the new one at once.
type issuer struct {
	*ca.Authority

	reload func()
}

func (i issuer) Import(chainPEM []byte) error {
	err := i.Authority.Import(chainPEM)
	if err == nil {
		i.reload()
	}
	return err
}

// reloadCertificates looks for other certificates. It is called while the box
// serves, when sources is no longer changed.
func (b *box) reloadCertificates() {
	for _, source := range b.sources {
		source.Reload()
	}
}

// serveMQTT makes the broker with its one or two listeners; none where the only
// one has no certificate.
func (b *box) serveMQTT() error {
	cfg := b.settings.brokerConfig()
	cfg.Suspect = b.rule.Suspect
	if cfg.TLSAddress != "" {
		var err error
		if cfg.TLS, err = b.tlsOf(listenerMQTTTLS, b.settings.MQTT.TLS.files()); err != nil {
			return err
		}
		if cfg.TLS == nil {
			cfg.TLSAddress = ""
		}
	}
	if cfg.Address == "" && cfg.TLSAddress == "" {
		return nil
	}
	mqtt, err := broker.New(cfg, b.brokerParts(), b.logger)
	if err != nil {
		failed, ok := errors.AsType[*net.OpError](err)
		if ok && failed.Addr != nil && failed.Addr.String() == cfg.TLSAddress {
			return listenFailed(listenerMQTTTLS, cfg.TLSAddress, err)
		}
		return listenFailed(listenerMQTT, cfg.Address, err)
	}
	b.broker = mqtt
	for name, addr := range map[string]net.Addr{listenerMQTT: mqtt.Addr(), listenerMQTTTLS: mqtt.TLSAddr()} {
		if addr != nil {
			b.listeners[name] = addr.String()
		}
	}
	return nil
}

// errNoAuthority: a listener needs the box's own certificate, and there is none.
var errNoAuthority = errors.New("not bound: the box's certificate authority cannot be used")

// tlsOf is the TLS of a listener. nil without an error: its certificate would be
// the box's own, whose authority is damaged; the box starts without the
// listener, and says so wherever it can.
func (b *box) tlsOf(listener string, files tlsconf.Files) (*tls.Config, error) {
	if files.CertFile == "" && b.authority == nil {
		b.unbound = errors.Join(b.unbound, fmt.Errorf("%s: %w", listener, errNoAuthority))
		b.logger.Error("listener not bound, it has no certificate", "listener", listener)
		return nil, nil //nolint:nilnil // no certificate is a state of the box, and noted
	}
	source := b.sharedSource(files)
	if source == nil {
		made, err := tlsconf.NewSource(tlsconf.Config{
			Files: files, Now: b.clock.Now, Alarm: func() { b.alarms.raise(edgeclaim.AlarmCertificates, b.clock.Now()) }, Logger: b.logger,
		}, b.ownCertificate)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", listener, err)
		}
		source = made
	}
	b.sources[listener] = tlsSource{source, files}
	var pool func() *x509.CertPool
	if b.authority != nil {
		pool = b.authority.Pool
	}
	return tlsconf.Server(source, b.clock.Now, pool), nil
}

// sharedSource is the one that a listener before has for the same files.
func (b *box) sharedSource(files tlsconf.Files) *tlsconf.Source {
	for _, other := range b.sources {
		if other.files == files {
			return other.Source
		}
	}
	return nil
}

// ownCertificate is the box's own, for the names that it has by now.
func (b *box) ownCertificate() (tls.Certificate, error) {
	listen := []string{b.settings.HTTP.TLSAddress, b.settings.MQTT.Limits.TLSAddress}
	if b.settings.Admin.TLS {
		listen = append(listen, b.settings.Admin.Address)
	}
	names, ips := tlsconf.Names(listen, b.settings.CA.Names)
	return b.authority.ServerCertificate(names, ips)
}

// tlsSource is where a listener's certificate comes from.
type tlsSource struct {
	*tlsconf.Source
	files tlsconf.Files
}

// certificates are those that the box stands for.
func (b *box) certificates() map[string]edgeclaim.CertificateStatus {
	all := map[string]edgeclaim.CertificateStatus{}
	for listener, source := range b.sources {
		all[listener] = edgeclaim.CertificateStatus{NotAfter: source.NotAfter(), Problem: source.Problem()}
	}
	if b.authority != nil {
		all[certificateCA] = edgeclaim.CertificateStatus{NotAfter: b.authority.Info().NotAfter}
	} else {
		all[certificateCA] = edgeclaim.CertificateStatus{Problem: errNoAuthority.Error()}
	}
	return all
}

// certificateCA is what the authority's certificate is called beside those of
// the listeners.
const certificateCA = "ca"

// flagOf are the flags that would help a listener that cannot be bound.
var flagOf = map[string]string{listenerMQTTTLS: "mqtt-tls"}

// listenFailed names the flag that would help.
func listenFailed(listener, address string, err error) error {
	flag, ok := flagOf[listener]
	if !ok {
		flag = listener
	}
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
