package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// settings is the configuration file: one struct for each component, with the
// component's own defaults. Flags change it afterwards. configs/edgehub.yaml
// says what each key means.
type settings struct {
	Data     string     `yaml:"data"`
	Database string     `yaml:"database"`
	Policy   string     `yaml:"policy"`
	Tenants  []string   `yaml:"tenants"`
	Log      logKeys    `yaml:"log"`
	HTTP     httpKeys   `yaml:"http"`
	Broker   hub.Broker `yaml:"broker"`
	Hub      hub.Config `yaml:"hub"`
}

// logKeys is how the log is written, to the error output.
type logKeys struct {
	Format string `yaml:"format"` // text or json
	Level  string `yaml:"level"`  // debug, info, warn or error
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
		Log:    logKeys{Format: "text", Level: "info"},
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
			return registry.Config{}, usagef("tenants: %v", err)
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
		if s, err = readSettings(a.config); err != nil {
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
		return s, usagef("--tenant: %v", err)
	}
	return s, s.validate()
}

// readSettings reads a configuration file over the defaults.
func readSettings(path string) (settings, error) {
	document, err := os.ReadFile(path)
	if err != nil {
		return settings{}, usagef("--config: %v", err)
	}
	return parseSettings(path, document)
}

// parseSettings reads a document over the defaults. Unknown and repeated keys
// are refused with their line; path is for the error's text.
func parseSettings(path string, document []byte) (settings, error) {
	s := defaults()
	decoder := yaml.NewDecoder(bytes.NewReader(document), yaml.Strict())
	err := decoder.Decode(&s)
	if errors.Is(err, io.EOF) {
		return defaults(), nil // nothing but comments; the decoder has emptied s
	}
	if err != nil {
		return settings{}, usagef("--config: %s%s", path, yamlProblem(err))
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return settings{}, usagef("--config: %s: want one document", path)
	}
	return s, nil
}

// yamlProblem is a decoder's error in one line, led by its place: ":3:1: …".
// The line itself is not repeated, it may hold a secret in the wrong place (P5).
func yamlProblem(err error) string {
	text := strings.TrimSpace(yaml.FormatError(err, false, false))
	if place, problem, ok := strings.Cut(text, "] "); ok && strings.HasPrefix(place, "[") {
		return ":" + place[1:] + ": " + problem
	}
	return ": " + text
}

// validate names the first key at fault, with its section, and never its value.
func (s *settings) validate() error {
	if _, err := s.registryConfig(nil); err != nil {
		return err
	}
	scheme, rest, _ := strings.Cut(s.Database, ":")
	if s.Database != "" && (!slices.Contains([]string{"sqlite", "postgres", "postgresql"}, scheme) || rest == "") {
		return usagef("database: want sqlite:PATH or postgres://…")
	}
	if s.Policy != string(registry.PolicyOperator) && s.Policy != string(registry.PolicyFirst) {
		return usagef("policy: want %s or %s", registry.PolicyOperator, registry.PolicyFirst)
	}
	if s.HTTP.Address != "" {
		if _, _, err := net.SplitHostPort(s.HTTP.Address); err != nil {
			return usagef("http.address: want host:port: %v", err)
		}
	}
	if s.HTTP.Timeout <= 0 || s.HTTP.DrainTimeout <= 0 {
		return usagef("http.timeout: want more than zero, and so for drain_timeout")
	}
	if _, err := s.Log.level(); err != nil {
		return err
	}
	if s.Log.Format != "text" && s.Log.Format != "json" {
		return usagef("log.format: want text or json")
	}
	if err := s.Broker.Validate(); err != nil {
		return usagef("broker.%v", err)
	}
	conf := s.hubConfig()
	if err := conf.Validate(); err != nil {
		return usagef("hub.%v", err)
	}
	return nil
}

func (l logKeys) level() (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return 0, usagef("log.level: want debug, info, warn or error")
	}
	return level, nil
}

// logger writes to w as the keys say.
func (l logKeys) logger(w io.Writer) (*slog.Logger, error) {
	level, err := l.level()
	if err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: level}
	switch l.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	default:
		return nil, fmt.Errorf("log.format: %w", errors.ErrUnsupported)
	}
}
