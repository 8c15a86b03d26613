package main

import (
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

// settings is the configuration file: one struct for each component, with the
// component's own defaults. Flags change it afterwards. configs/edgehub.yaml
// says what each key means.
type settings struct {
	Data     string   `yaml:"data"`
	Database string   `yaml:"database"`
	Policy   string   `yaml:"policy"`
	Tenants  []string `yaml:"tenants"`
	// DocumentKey is a public key, or a file *.pub with one; empty: the database
	// knows it, or there is none.
	DocumentKey string        `yaml:"document_key"`
	Log         cli.LogConfig `yaml:"log"`
	HTTP        httpKeys      `yaml:"http"`
	Broker      hub.Broker    `yaml:"broker"`
	Hub         hub.Config    `yaml:"hub"`
}

// httpKeys is the listener for health and metrics.
type httpKeys struct {
	Address      string        `yaml:"address"` // host:port; empty for none
	Timeout      time.Duration `yaml:"timeout"` // of a request, and of its answer
	DrainTimeout time.Duration `yaml:"drain_timeout"`
}

// defaults is a hub that nobody configured: on loopback.
func defaults() settings {
	conf := hub.Defaults()
	return settings{
		Policy: string(registry.PolicyOperator), Tenants: []string{},
		Log:    cli.DefaultLog(),
		HTTP:   httpKeys{Address: "127.0.0.1:9180", Timeout: 10 * time.Second, DrainTimeout: 2 * time.Second},
		Broker: conf.Broker,
		Hub:    conf,
	}
}

// hubConfig is the hub's own form of its keys.
func (s *settings) hubConfig() hub.Config {
	c := s.Hub
	c.Broker = s.Broker
	return c
}

// registryConfig is the registry's own form of its keys.
func (s *settings) registryConfig(logger *slog.Logger) (registry.Config, error) {
	tenants := make([]edgeclaim.TenantID, len(s.Tenants))
	for i, text := range s.Tenants {
		var err error
		if tenants[i], err = edgeclaim.ParseTenantID(text); err != nil {
			return registry.Config{}, cli.Usagef("tenants: %v", err)
		}
	}
	return registry.Config{
		URL: s.Database, Dir: s.Data, Policy: registry.Policy(s.Policy), Tenants: tenants, Logger: logger,
	}, nil
}

// stopWithin is how long a stop may take: the hub answers what has come, and
// says offline.
func (s *settings) stopWithin() time.Duration {
	const forTheDatabase = 5 * time.Second
	return forTheDatabase + max(s.HTTP.DrainTimeout, 2*s.Hub.StopTimeout)
}

// textFlag is a flag that stands for a key of the configuration file.
type textFlag struct {
	name, usage string
	key         func(*settings) *string
}

// serveFlags are those of `edgehub serve`. All are text, and a flag given wins
// over the file.
var serveFlags = []textFlag{
	{"broker", "MQTT broker, mqtt://host[:port] or mqtts://host[:port]", func(s *settings) *string { return &s.Broker.URL }},
	{"broker-user", "user name at the broker", func(s *settings) *string { return &s.Broker.Username }},
	{"broker-password-file", "file with the password at the broker", func(s *settings) *string { return &s.Broker.PasswordFile }},
	{"broker-ca", "file with the certificates to trust the broker by (default the system's)", func(s *settings) *string { return &s.Broker.CAFile }},
	{"broker-cert", "file with the client certificate", func(s *settings) *string { return &s.Broker.CertFile }},
	{"broker-key", "file with the client certificate's key", func(s *settings) *string { return &s.Broker.KeyFile }},
	{"http", "listener for health and metrics, host:port; it asks nobody who they are; empty for none", func(s *settings) *string { return &s.HTTP.Address }},
	{"log-format", "text or json", func(s *settings) *string { return &s.Log.Format }},
	{"log-level", "debug, info, warn or error", func(s *settings) *string { return &s.Log.Level }},
}

// applyFlags are those of the commands that apply what boxes tell.
var applyFlags = []textFlag{
	{"policy", "whose credential of a device that two boxes hold is valid: operator (all, until one decides) or first", func(s *settings) *string { return &s.Policy }},
}

// documentFlags are those of the commands that know what boxes are enrolled with.
var documentFlags = []textFlag{
	{"document-key", "key that documents for boxes are signed by: its public half, or a file *.pub with it; the database keeps it", func(s *settings) *string { return &s.DocumentKey }},
}

// addFlags gives a command flags, with their defaults.
func addFlags(c *cobra.Command, flags ...textFlag) {
	unset := defaults()
	for _, flag := range flags {
		c.Flags().String(flag.name, *flag.key(&unset), flag.usage)
	}
}

// addTenants gives a command the flag --tenant.
func addTenants(c *cobra.Command) {
	c.Flags().StringArray("tenant", nil, "tenant that is served, a UUID; may be repeated (default all)")
}

// settings puts flags over the file over the environment over the defaults.
func (a *app) settings(cmd *cobra.Command, flags ...textFlag) (settings, error) {
	s := defaults()
	if a.config != "" {
		var err error
		if s, err = cli.ReadConfig(a.config, defaults); err != nil {
			return settings{}, err
		}
	}
	f := cmd.Flags()
	for _, flag := range flags {
		if f.Changed(flag.name) {
			*flag.key(&s) = f.Lookup(flag.name).Value.String()
		}
	}
	if a.data != "" || s.Data == "" {
		s.Data = a.dir()
	}
	switch {
	case a.database != "":
		s.Database = a.database
	case s.Database == "":
		s.Database = os.Getenv("EDGEHUB_DATABASE")
	}
	return s, s.validate()
}

// applySettings is settings for the commands that apply what boxes tell.
func (a *app) applySettings(cmd *cobra.Command, flags ...textFlag) (settings, error) {
	s, err := a.settings(cmd, append(flags[:len(flags):len(flags)], applyFlags...)...)
	if err != nil || !cmd.Flags().Changed("tenant") {
		return s, err
	}
	if s.Tenants, err = cmd.Flags().GetStringArray("tenant"); err != nil {
		return s, cli.Usagef("--tenant: %v", err)
	}
	return s, s.validate()
}

// validate names the first key at fault, with its section, and never its value.
func (s *settings) validate() error {
	if _, err := s.registryConfig(nil); err != nil {
		return err
	}
	scheme, rest, _ := strings.Cut(s.Database, ":")
	if s.Database != "" && (!slices.Contains([]string{"sqlite", "postgres", "postgresql"}, scheme) || rest == "") {
		return cli.Usagef("database: want sqlite:PATH or postgres://…")
	}
	if s.Policy != string(registry.PolicyOperator) && s.Policy != string(registry.PolicyFirst) {
		return cli.Usagef("policy: want %s or %s", registry.PolicyOperator, registry.PolicyFirst)
	}
	if s.HTTP.Address != "" {
		if _, _, err := net.SplitHostPort(s.HTTP.Address); err != nil {
			return cli.Usagef("http.address: want host:port: %v", err)
		}
	}
	if s.HTTP.Timeout <= 0 || s.HTTP.DrainTimeout <= 0 {
		return cli.Usagef("http.timeout: want more than zero, and so for drain_timeout")
	}
	if err := s.Log.Validate(); err != nil {
		return err
	}
	if err := s.Broker.Validate(); err != nil {
		return cli.Usagef("broker.%v", err)
	}
	conf := s.hubConfig()
	if err := conf.Validate(); err != nil {
		return cli.Usagef("hub.%v", err)
	}
	return nil
}
