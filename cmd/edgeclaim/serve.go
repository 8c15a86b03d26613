package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"edgeclaim/cmd/internal/cli"
)

// serveFlags are the flags that stand for a key of the configuration file. All
// are text, and a flag given wins over the file.
var serveFlags = []struct {
	name, usage string
	key         func(*settings) *string
}{
	{"http", "claim listener over HTTP, host:port", func(s *settings) *string { return &s.HTTP.Address }},
	{"mqtt", "MQTT listener, host:port", func(s *settings) *string { return &s.MQTT.Limits.Address }},
	{"https", "the same over HTTPS, host:port (default none)", func(s *settings) *string { return &s.HTTP.TLSAddress }},
	{"mqtt-tls", "MQTT over TLS, host:port (default none)", func(s *settings) *string { return &s.MQTT.Limits.TLSAddress }},
	{"admin", "admin API over TCP, by token, and metrics, host:port (default none)", func(s *settings) *string { return &s.Admin.Address }},
	{"site", "name of the site, one MQTT topic level", func(s *settings) *string { return &s.Site }},
	{"upstream", "MQTT broker upstream, mqtt://host[:port] or mqtts://host[:port] (default none)", func(s *settings) *string { return &s.Upstream.URL }},
	{"upstream-ack", "who acknowledges upstream: puback, the broker; app, the application behind it", func(s *settings) *string { return &s.Upstream.Ack }},
	{"upstream-user", "user name upstream", func(s *settings) *string { return &s.Upstream.Username }},
	{"upstream-password-file", "file with the password upstream", func(s *settings) *string { return &s.Upstream.PasswordFile }},
	{"upstream-ca", "file with the certificates to trust upstream by (default the system's)", func(s *settings) *string { return &s.Upstream.CAFile }},
	{"upstream-cert", "file with the client certificate", func(s *settings) *string { return &s.Upstream.CertFile }},
	{"upstream-key", "file with the client certificate's key", func(s *settings) *string { return &s.Upstream.KeyFile }},
	{"log-format", "text or json", func(s *settings) *string { return &s.Log.Format }},
	{"log-level", "debug, info, warn or error", func(s *settings) *string { return &s.Log.Level }},
}

func (a *app) serveCommand() *cobra.Command {
	var config string
	c := &cobra.Command{
		Use: "serve", Short: "Run the box", Args: cli.NoArguments,
		Example: `  edgeclaim serve                                   # on loopback, without upstream
  edgeclaim serve --config /etc/edgeclaim/edgeclaim.yaml
  edgeclaim serve --https 192.168.7.1:8443 --mqtt-tls 192.168.7.1:8883
  edgeclaim serve --site plant-7 --upstream mqtts://hub.example --upstream-ack app`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.settings(cmd, config)
			if err != nil {
				return err
			}
			return a.serve(cmd.Context(), s)
		},
	}
	f := c.Flags()
	f.StringVar(&config, "config", "", "configuration file, YAML; flags win over it")
	unset := defaults()
	for _, flag := range serveFlags {
		f.String(flag.name, *flag.key(&unset), flag.usage)
	}
	return c
}

// settings puts flags over the file over the defaults.
func (a *app) settings(cmd *cobra.Command, config string) (settings, error) {
	f := cmd.Flags()
	s := defaults()
	if config != "" {
		var err error
		if s, err = cli.ReadConfig(config, defaults); err != nil {
			return settings{}, err
		}
	}
	for _, flag := range serveFlags {
		if f.Changed(flag.name) {
			*flag.key(&s) = f.Lookup(flag.name).Value.String()
		}
	}
	if a.data != "" || s.Data == "" {
		s.Data = a.dir()
	}
	return s, s.validate()
}

// serve runs the box until ctx ends.
func (a *app) serve(ctx context.Context, s settings) error {
	logger, err := s.Log.Logger(a.stderr)
	if err != nil {
		return err
	}
	// Opening is quick; broken off half-way it would be a failure, not a stop.
	b, err := openBox(context.WithoutCancel(ctx), s, readBuild(), logger)
	if err != nil {
		return err
	}
	b.ready = a.announce
	ballast := make([]byte, ballastBytes)
	defer runtime.KeepAlive(ballast)
	return b.run(ctx)
}

// ballastBytes are allocated and never touched, so they take no memory, but the
// collector counts them: a box of a few megabytes would else be swept every few
// milliseconds in a storm of claims, at a sixth of its time. The price is as
// much garbage more before a sweep.
const ballastBytes = 16 << 20

// announce says on the output where the box listens, a line each.
func (a *app) announce(listeners map[string]string) {
	for _, name := range listenerNames {
		address, ok := listeners[name]
		switch {
		case !ok:
		case a.json:
			_ = a.printJSON(map[string]string{"listener": name, "address": address}) // whoever started the box may have gone
		default:
			_, _ = fmt.Fprintf(a.stdout, "%s listening on %s\n", name, address)
		}
	}
}
