package main

import (
	"net"
	"strings"
	"time"

	"edgeclaim/bridge"
	"edgeclaim/broker"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
)

// settings is the configuration file: one struct for each component, with the
// component's own defaults. Flags change it afterwards. configs/edgeclaim.yaml
// says what each key means.
type settings struct {
	Data     string        `yaml:"data"`
	Site     string        `yaml:"site"`
	Log      cli.LogConfig `yaml:"log"`
	HTTP     httpKeys      `yaml:"http"`
	MQTT     mqttKeys      `yaml:"mqtt"`
	Admin    adminKeys     `yaml:"admin"`
	Upstream bridge.Config `yaml:"upstream"`
	Store    storeKeys     `yaml:"store"`
}

// httpKeys is the claim listener over HTTP.
type httpKeys struct {
	Address string     `yaml:"address"`
	Limits  httpLimits `yaml:",inline"`
}

// httpLimits is an httpapi.Config, field by field.
type httpLimits struct {
	MaxConnections    int           `yaml:"max_connections"`
	ReadHeaderTimeout time.Duration `yaml:"read_header_timeout"`
	ReadTimeout       time.Duration `yaml:"read_timeout"`
	WriteTimeout      time.Duration `yaml:"write_timeout"`
	IdleTimeout       time.Duration `yaml:"idle_timeout"`
	MaxHeaderBytes    int           `yaml:"max_header_bytes"`
	ClaimTimeout      time.Duration `yaml:"claim_timeout"`
	DrainTimeout      time.Duration `yaml:"drain_timeout"`
}

// mqttKeys is a broker.Config, field by field.
type mqttKeys struct {
	Address           string        `yaml:"address"`
	MaxDevices        int           `yaml:"max_devices"`
	MaxClaimants      int           `yaml:"max_claimants"`
	MaxConnecting     int           `yaml:"max_connecting"`
	ConnectTimeout    time.Duration `yaml:"connect_timeout"`
	IdleTimeout       time.Duration `yaml:"idle_timeout"`
	ClaimTimeout      time.Duration `yaml:"claim_timeout"`
	WriteTimeout      time.Duration `yaml:"write_timeout"`
	MaxKeepAlive      time.Duration `yaml:"max_keep_alive"`
	MaxClaimantPacket int           `yaml:"max_claimant_packet"`
	MaxDevicePacket   int           `yaml:"max_device_packet"`
	MaxSubscriptions  int           `yaml:"max_subscriptions"`
	ReceiveMaximum    int           `yaml:"receive_maximum"`
	MaxInflight       int           `yaml:"max_inflight"`
	MaxPendingWrites  int           `yaml:"max_pending_writes"`
	MaxSessions       int           `yaml:"max_sessions"`
	SessionExpiry     time.Duration `yaml:"session_expiry"`
	DrainTimeout      time.Duration `yaml:"drain_timeout"`
}

// adminKeys is the admin side over TCP; empty for the Unix socket alone.
type adminKeys struct {
	Address string `yaml:"address"`
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
	kept := store.Defaults()
	return settings{
		Site:     "default",
		Log:      cli.DefaultLog(),
		HTTP:     httpKeys{Address: "127.0.0.1:8080", Limits: httpLimits(httpapi.Defaults())},
		MQTT:     mqttKeys(broker.Defaults()),
		Upstream: bridge.Defaults(),
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

func (s *settings) httpConfig() httpapi.Config  { return httpapi.Config(s.HTTP.Limits) }
func (s *settings) brokerConfig() broker.Config { return broker.Config(s.MQTT) }

// stopWithin is how long a stop may take: the longest of the parts, which stop
// side by side, and some time for the store.
func (s *settings) stopWithin() time.Duration {
	const forTheStore = 5 * time.Second
	// The bridge waits for PUBACKs, says its state and tells the outbox.
	return forTheStore + max(s.HTTP.Limits.DrainTimeout, s.MQTT.DrainTimeout, 3*s.Upstream.StopTimeout)
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
	if _, _, err := net.SplitHostPort(s.HTTP.Address); err != nil {
		return cli.Usagef("http.address: want host:port: %v", err)
	}
	if s.Admin.Address != "" {
		if _, _, err := net.SplitHostPort(s.Admin.Address); err != nil {
			return cli.Usagef("admin.address: want host:port: %v", err)
		}
	}
	if err := s.Log.Validate(); err != nil {
		return err
	}
	if s.Upstream.Ack != bridge.AckPuback && s.Upstream.Ack != bridge.AckApp { // also with nothing upstream yet
		return cli.Usagef("upstream.ack: want %s or %s", bridge.AckPuback, bridge.AckApp)
	}
	return s.validateSections()
}

func (s *settings) validateSections() error {
	http, mqtt, kept := s.httpConfig(), s.brokerConfig(), s.storeConfig()
	for _, section := range []struct {
		name     string
		validate func() error
		skip     bool
	}{
		{name: "http", validate: http.Validate},
		{name: "mqtt", validate: mqtt.Validate},
		{name: "store", validate: kept.Validate},
		{name: "upstream", validate: s.Upstream.Validate, skip: s.Upstream.URL == ""},
	} {
		if section.skip {
			continue
		}
		if err := section.validate(); err != nil {
			return cli.Usagef("%s.%v", section.name, err)
		}
	}
	return nil
}
