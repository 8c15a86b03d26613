package main

import (
	"crypto/tls"
	"net"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/broker"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/throttle"
	"edgeclaim/internal/tlsconf"
	"edgeclaim/provision"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
)

// settings is the configuration file: one struct for each component, with the
// component's own defaults. Flags change it afterwards. configs/edgeclaim.yaml
// says what each key means.
type settings struct {
	Data        string         `yaml:"data"`
	Site        string         `yaml:"site"`
	Log         cli.LogConfig  `yaml:"log"`
	HTTP        httpKeys       `yaml:"http"`
	MQTT        mqttKeys       `yaml:"mqtt"`
	Admin       adminKeys      `yaml:"admin"`
	CA          caKeys         `yaml:"ca"`
	X509        x509Keys       `yaml:"x509"`
	Credentials credentialKeys `yaml:"credentials"`
	Throttle    throttleKeys   `yaml:"throttle"`
	Audit       auditKeys      `yaml:"audit"`
	Users       []broker.User  `yaml:"users"`
	Telemetry   telemetryKeys  `yaml:"telemetry"`
	Commands    commandKeys    `yaml:"commands"`
	Documents   documentKeys   `yaml:"documents"`
	Upstream    bridge.Config  `yaml:"upstream"`
	Store       storeKeys      `yaml:"store"`
}

// tlsKeys are a listener's with TLS, and the word that lets the other one be
// plain outside loopback.
type tlsKeys struct {
	CertFile  string `yaml:"cert_file"`
	KeyFile   string `yaml:"key_file"`
	Plaintext bool   `yaml:"plaintext_outside_loopback"`
}

func (k *tlsKeys) files() tlsconf.Files {
	return tlsconf.Files{CertFile: k.CertFile, KeyFile: k.KeyFile}
}

// httpKeys are the listeners for devices over HTTP.
type httpKeys struct {
	Address    string     `yaml:"address"`
	TLSAddress string     `yaml:"tls_address"`
	TLS        tlsKeys    `yaml:",inline"`
	Limits     httpLimits `yaml:",inline"`
}

// httpLimits is an httpapi.Config, field by field.
type httpLimits struct {
	MaxConnections    int           `yaml:"max_connections"`
	MaxPerSource      int           `yaml:"max_per_source"`
	MaxRefused        int           `yaml:"max_refused"`
	MaxPolls          int           `yaml:"max_polls"`
	ReadHeaderTimeout time.Duration `yaml:"read_header_timeout"`
	ReadTimeout       time.Duration `yaml:"read_timeout"`
	WriteTimeout      time.Duration `yaml:"write_timeout"`
	IdleTimeout       time.Duration `yaml:"idle_timeout"`
	MaxHeaderBytes    int           `yaml:"max_header_bytes"`
	ClaimTimeout      time.Duration `yaml:"claim_timeout"`
	DrainTimeout      time.Duration `yaml:"drain_timeout"`
}

// mqttKeys are the listeners for devices over MQTT.
type mqttKeys struct {
	Limits mqttLimits `yaml:",inline"`
	TLS    tlsKeys    `yaml:",inline"`
}

// mqttLimits is a broker.Config, field by field.
type mqttLimits struct {
	Address           string                    `yaml:"address"`
	TLSAddress        string                    `yaml:"tls_address"`
	MaxDevices        int                       `yaml:"max_devices"`
	MaxClaimants      int                       `yaml:"max_claimants"`
	MaxConnecting     int                       `yaml:"max_connecting"`
	ConnectTimeout    time.Duration             `yaml:"connect_timeout"`
	IdleTimeout       time.Duration             `yaml:"idle_timeout"`
	ClaimTimeout      time.Duration             `yaml:"claim_timeout"`
	ReportTimeout     time.Duration             `yaml:"report_timeout"`
	WriteTimeout      time.Duration             `yaml:"write_timeout"`
	MaxKeepAlive      time.Duration             `yaml:"max_keep_alive"`
	MaxClaimantPacket int                       `yaml:"max_claimant_packet"`
	MaxDevicePacket   int                       `yaml:"max_device_packet"`
	MaxSubscriptions  int                       `yaml:"max_subscriptions"`
	ReceiveMaximum    int                       `yaml:"receive_maximum"`
	MaxInflight       int                       `yaml:"max_inflight"`
	MaxPendingWrites  int                       `yaml:"max_pending_writes"`
	MaxSessions       int                       `yaml:"max_sessions"`
	MaxPerSource      int                       `yaml:"max_per_source"`
	MaxRefused        int                       `yaml:"max_refused"`
	MaxDeviceRate     int                       `yaml:"max_device_rate"`
	MaxDeviceBurst    int                       `yaml:"max_device_burst"`
	MaxHandshakes     int                       `yaml:"max_handshakes"`
	Users             []broker.User             `yaml:"-"` // settings.Users
	MaxConsumers      int                       `yaml:"max_consumers"`
	SessionExpiry     time.Duration             `yaml:"session_expiry"`
	DrainTimeout      time.Duration             `yaml:"drain_timeout"`
	TLS               *tls.Config               `yaml:"-"`
	Suspect           func(edgeclaim.Suspicion) `yaml:"-"`
}

// adminKeys is the admin side over TCP; empty for the Unix socket alone.
type adminKeys struct {
	Address   string   `yaml:"address"`
	TLS       bool     `yaml:"tls"`
	Hosts     []string `yaml:"hosts"`
	Plaintext bool     `yaml:"plaintext_outside_loopback"`
}

// caKeys are the box's own certificate.
type caKeys struct {
	Names []string `yaml:"names"`
}

// x509Keys are the certificates of devices.
type x509Keys struct {
	Validity time.Duration `yaml:"validity"`
}

// credentialKeys are how long a credential waits.
type credentialKeys struct {
	DeviceOverlap    time.Duration `yaml:"device_overlap"`
	UnconfirmedAfter time.Duration `yaml:"unconfirmed_after"`
}

// throttleKeys are a throttle.Config's.
type throttleKeys struct {
	Burst      int     `yaml:"burst"`
	PerSecond  float64 `yaml:"per_second"`
	MaxSources int     `yaml:"max_sources"`
}

// auditKeys are an audit.Config's.
type auditKeys struct {
	SegmentBytes      int64 `yaml:"segment_bytes"`
	MaxBytes          int64 `yaml:"max_bytes"`
	RefusalsPerMinute int   `yaml:"refusals_per_minute"`
}

// storeKeys are the limits of the registry's file and of the outbox.
type storeKeys struct {
	MaxBytes       int64         `yaml:"max_bytes"`
	ProvMaxRecords uint64        `yaml:"prov_max_records"`
	ProvMaxBytes   uint64        `yaml:"prov_max_bytes"`
	EvtMaxRecords  uint64        `yaml:"evt_max_records"`
	EvtMaxBytes    uint64        `yaml:"evt_max_bytes"`
	MaxTemplates   int           `yaml:"max_templates"`
	Linger         time.Duration `yaml:"linger"`
}

// defaults is a box that nobody configured: on loopback, without upstream.
func defaults() settings {
	kept, slow := store.Defaults(), throttle.Defaults()
	return settings{
		Site:  "default",
		Log:   cli.DefaultLog(),
		HTTP:  httpKeys{Address: "127.0.0.1:8080", Limits: httpLimits(httpapi.Defaults())},
		MQTT:  mqttKeys{Limits: mqttLimits(broker.Defaults())},
		Admin: adminKeys{Hosts: []string{}},
		CA:    caKeys{Names: []string{}},
		X509:  x509Keys{Validity: provision.DefaultX509Validity},
		Credentials: credentialKeys{
			DeviceOverlap: provision.DefaultDeviceOverlap, UnconfirmedAfter: provision.DefaultUnconfirmedAfter,
		},
		Throttle: throttleKeys{Burst: slow.Burst, PerSecond: slow.PerSecond, MaxSources: slow.MaxSources},
		Audit: auditKeys{
			SegmentBytes: audit.DefaultSegmentBytes, MaxBytes: audit.DefaultMaxBytes, RefusalsPerMinute: audit.DefaultRefusalsPerMinute,
		},
		Users:     []broker.User{},
		Telemetry: defaultTelemetry(),
		Commands:  defaultCommands(),
		Documents: defaultDocuments(),
		Upstream:  bridge.Defaults(),
		Store: storeKeys{
			MaxBytes:       kept.MaxBytes,
			ProvMaxRecords: kept.ProvMaxRecords, ProvMaxBytes: kept.ProvMaxBytes,
			EvtMaxRecords: kept.EvtMaxRecords, EvtMaxBytes: kept.EvtMaxBytes,
			MaxTemplates: kept.MaxTemplates,
			Linger:       kept.Linger,
		},
	}
}

// storeConfig is the store's own form of its keys; what the program adds is
// left to the caller.
func (s *settings) storeConfig() store.Config {
	c := store.Defaults()
	c.Dir, c.MaxBytes = s.Data, s.Store.MaxBytes
	c.ProvMaxRecords, c.ProvMaxBytes = s.Store.ProvMaxRecords, s.Store.ProvMaxBytes
	c.EvtMaxRecords, c.EvtMaxBytes = s.Store.EvtMaxRecords, s.Store.EvtMaxBytes
	c.MaxTemplates, c.Linger = s.Store.MaxTemplates, s.Store.Linger
	return c
}

func (s *settings) httpConfig() httpapi.Config { return httpapi.Config(s.HTTP.Limits) }

// brokerConfig is the broker's own form of its keys, and of the users.
func (s *settings) brokerConfig() broker.Config {
	c := broker.Config(s.MQTT.Limits)
	c.Users = s.Users
	return c
}

func (s *settings) throttleConfig() throttle.Config {
	return throttle.Config{Burst: s.Throttle.Burst, PerSecond: s.Throttle.PerSecond, MaxSources: s.Throttle.MaxSources}
}

func (s *settings) auditConfig() audit.Config {
	return audit.Config{
		Dir: s.Data, SegmentBytes: s.Audit.SegmentBytes, MaxBytes: s.Audit.MaxBytes, RefusalsPerMinute: s.Audit.RefusalsPerMinute,
	}
}

// stopWithin is how long a stop may take: the longest of the parts, which stop
// side by side, and some time for the store.
func (s *settings) stopWithin() time.Duration {
	// The store writes what it has, and before it the audit log what was said last.
	const forTheStore, forTheAudit = 5 * time.Second, 2 * time.Second
	// The bridge waits for PUBACKs, says its state and tells the outbox.
	return forTheStore + forTheAudit + max(s.HTTP.Limits.DrainTimeout, s.MQTT.Limits.DrainTimeout, 3*s.Upstream.StopTimeout)
}

// siteLetters are what a site's name may hold: it is a topic level upstream and
// stands in every record.
const siteLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

// maxSite is the longest name of a site, in characters.
const maxSite = 64

// validate names the first key at fault, with its section.
func (s *settings) validate() error {
	if s.Site == "" || len(s.Site) > maxSite || strings.Trim(s.Site, siteLetters) != "" {
		return cli.Usagef("site: want 1 to %d characters of A-Z, a-z, 0-9, '.', '_' and '-'", maxSite)
	}
	if err := s.validateListeners(); err != nil {
		return err
	}
	if err := s.Log.Validate(); err != nil {
		return err
	}
	if s.Upstream.Ack != bridge.AckPuback && s.Upstream.Ack != bridge.AckApp { // also with nothing upstream yet
		return cli.Usagef("upstream.ack: want %s or %s", bridge.AckPuback, bridge.AckApp)
	}
	if err := s.validateTrust(); err != nil {
		return err
	}
	return s.validateSections()
}

// validateListeners looks at the addresses, and at who may be reached without
// TLS.
func (s *settings) validateListeners() error {
	if s.HTTP.Address == "" && s.HTTP.TLSAddress == "" {
		return cli.Usagef("http.address: want one, or a tls_address")
	}
	for _, at := range []struct{ key, address string }{
		{"http.address", s.HTTP.Address}, {"http.tls_address", s.HTTP.TLSAddress}, {"admin.address", s.Admin.Address},
	} {
		if at.address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(at.address); err != nil {
			return cli.Usagef("%s: want host:port: %v", at.key, err)
		}
	}
	for _, plain := range []struct {
		key, address string
		allowed      bool
	}{
		{"http.address", s.HTTP.Address, s.HTTP.TLS.Plaintext},
		{"mqtt.address", s.MQTT.Limits.Address, s.MQTT.TLS.Plaintext},
		{"admin.address", s.Admin.Address, s.Admin.Plaintext || s.Admin.TLS},
	} {
		if err := tlsconf.CheckPlain(plain.key, plain.address, plain.allowed); err != nil {
			return cli.Usagef("%v", err)
		}
	}
	for _, pair := range []struct {
		section string
		files   tlsconf.Files
	}{{"http", s.HTTP.TLS.files()}, {"mqtt", s.MQTT.TLS.files()}} {
		if err := pair.files.Validate(); err != nil {
			return cli.Usagef("%s.%v", pair.section, err)
		}
	}
	return nil
}

// Bounds of what credentials, certificates and the audit log may be told. A
// certificate outlives a shift at least; longer than the root it cannot be.
const (
	minValidity      = time.Hour
	maxValidity      = 25 * 365 * cli.Day
	minUnconfirmed   = time.Minute
	maxUnconfirmed   = 365 * cli.Day
	minAuditSegment  = 64 << 10
	maxAuditRefusals = 1_000_000
)

func (s *settings) validateTrust() error {
	for _, d := range []struct {
		key             string
		value, min, max time.Duration
	}{
		{"x509.validity", s.X509.Validity, minValidity, maxValidity},
		{"credentials.device_overlap", s.Credentials.DeviceOverlap, time.Second, provision.MaxOverlap},
		{"credentials.unconfirmed_after", s.Credentials.UnconfirmedAfter, minUnconfirmed, maxUnconfirmed},
	} {
		if d.value < d.min || d.value > d.max {
			return cli.Usagef("%s: want %v to %v", d.key, d.min, d.max)
		}
	}
	switch {
	case s.Audit.SegmentBytes < minAuditSegment:
		return cli.Usagef("audit.segment_bytes: want at least %d", minAuditSegment)
	case s.Audit.MaxBytes < 2*s.Audit.SegmentBytes:
		return cli.Usagef("audit.max_bytes: want at least twice segment_bytes")
	case s.Audit.RefusalsPerMinute < 1 || s.Audit.RefusalsPerMinute > maxAuditRefusals:
		return cli.Usagef("audit.refusals_per_minute: want 1 to %d", maxAuditRefusals)
	}
	return nil
}

func (s *settings) validateSections() error {
	http, mqtt, kept, slow := s.httpConfig(), s.brokerConfig(), s.storeConfig(), s.throttleConfig()
	said, told := s.telemetryConfig(), s.commandConfig()
	for _, section := range []struct {
		name     string
		validate func() error
		skip     bool
	}{
		{name: "http", validate: http.Validate},
		{name: "mqtt", validate: mqtt.Validate},
		{name: "throttle", validate: slow.Validate},
		{name: "telemetry", validate: said.Validate},
		{name: "commands", validate: told.Validate},
		{name: "documents", validate: s.Documents.validate},
		{name: "store", validate: kept.Validate},
		{name: "upstream", validate: s.Upstream.Validate, skip: s.Upstream.URL == ""},
	} {
		if section.skip {
			continue
		}
		err := section.validate()
		if err != nil && strings.HasPrefix(err.Error(), "users[") { // a section of its own
			return cli.Usagef("%v", err)
		}
		if err != nil {
			return cli.Usagef("%s.%v", section.name, err)
		}
	}
	return nil
}
