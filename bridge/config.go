package bridge

import (
	"time"

	"edgeclaim"
	"edgeclaim/bridge/internal/client"
)

// The modes of acknowledgement.
const (
	// AckPuback: a record is told when the broker upstream has sent PUBACK for
	// it. It is weaker than an application's word: the broker has the record,
	// the platform may not.
	AckPuback = "puback"
	// AckApp: a record is told when the application behind the broker has
	// committed it and said so.
	AckApp = "app"
)

// MaxWindow is the largest Window: half of MQTT's packet ids, so that none
// comes round while it is still in flight.
const MaxWindow = 32768

// Config is how to reach upstream.
type Config struct {
	client.Config `yaml:",inline"`

	// Ack is the acknowledgement mode: AckPuback or AckApp.
	Ack string `yaml:"ack"`

	// TelemetryTopic is, with AckPuback, where what devices measure goes, each
	// point as it came; PresenceTopic where it is retained whether they are at
	// work, empty for nowhere. Both may name {device_id}, which they have to,
	// {tenant_id}, {site} and {box_id}, and are MQTT topics of at most MaxTopic
	// bytes and 7 slashes, without wildcards.
	TelemetryTopic string `yaml:"telemetry_topic"`
	PresenceTopic  string `yaml:"presence_topic"`

	// Window is how many records may be on their way at once, 1 to MaxWindow.
	// It bounds memory, and the rate: at most Window records in each round
	// trip. An application may set a lower bound.
	Window int `yaml:"window"`
	// ReadBatch is how many records one read of the outbox asks for, 1 to
	// MaxWindow.
	ReadBatch int `yaml:"read_batch"`
	// AckTimeout is how long the oldest record on its way may wait for its
	// PUBACK, and with AckApp how long what is on its way may make no
	// progress, before the connection is given up.
	AckTimeout time.Duration `yaml:"ack_timeout"`
	// AckFlush is how long an acknowledgement may wait, for others to share
	// its commit in the outbox.
	AckFlush time.Duration `yaml:"ack_flush"`
	// StopTimeout is how long a stop waits for the acknowledgements of what is
	// on its way, and again for the state to be said and the outbox to be told.
	StopTimeout time.Duration `yaml:"stop_timeout"`
	// BackoffBase and BackoffLimit are the shortest and the longest wait
	// between two connections. StableAfter is how long a connection must have
	// lasted for the next wait to be a short one.
	BackoffBase  time.Duration `yaml:"backoff_base"`
	BackoffLimit time.Duration `yaml:"backoff_limit"`
	StableAfter  time.Duration `yaml:"stable_after"`

	// WelcomeTimeout is how long an application has to answer a hello before
	// it is said again; the wait grows from there, with jitter, to ProbeLimit.
	// A tenth of it, 1 s at most, is the least time between two hellos.
	WelcomeTimeout time.Duration `yaml:"welcome_timeout"`
	// ProbeLimit is the longest wait between two hellos, and the usual one
	// once the application has refused the box.
	ProbeLimit time.Duration `yaml:"probe_limit"`
	// StartSpread is the longest that a box waits, after an outage of more
	// than SpreadAfter or its own start, before it tells an application
	// anything but LaneProv: each box a random time up to it. 0 for none.
	StartSpread time.Duration `yaml:"start_spread"`
	SpreadAfter time.Duration `yaml:"spread_after"`
}

// Defaults returns a Config that is whole but for its URL.
func Defaults() Config {
	return Config{
		Config:         client.Defaults(),
		Ack:            AckPuback,
		TelemetryTopic: "devices/{device_id}/telemetry",
		PresenceTopic:  "devices/{device_id}/presence",
		Window:         4096,
		ReadBatch:      256,
		AckTimeout:     30 * time.Second,
		AckFlush:       200 * time.Millisecond,
		StopTimeout:    2 * time.Second,
		BackoffBase:    2 * time.Second,
		BackoffLimit:   5 * time.Minute,
		StableAfter:    time.Minute,
		WelcomeTimeout: 10 * time.Second,
		ProbeLimit:     5 * time.Minute,
		StartSpread:    30 * time.Second,
		SpreadAfter:    time.Minute,
	}
}

// Validate returns an edgeclaim.InvalidError that names the key at fault, as
// it is spelled in the configuration file, and never its value: a URL may hold
// a password (P5).
func (c *Config) Validate() error {
	if err := c.Config.Validate(); err != nil {
		return err
	}
	if c.Ack != AckPuback && c.Ack != AckApp {
		return edgeclaim.Invalid("ack", "want %s or %s", AckPuback, AckApp)
	}
	if err := c.validateTopics(); err != nil {
		return err
	}
	for _, n := range []struct {
		key   string
		value int
	}{{"window", c.Window}, {"read_batch", c.ReadBatch}} {
		if n.value < 1 || n.value > MaxWindow {
			return edgeclaim.Invalid(n.key, "want 1 to %d", MaxWindow)
		}
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"ack_timeout", c.AckTimeout}, {"ack_flush", c.AckFlush}, {"stop_timeout", c.StopTimeout},
		{"backoff_base", c.BackoffBase}, {"stable_after", c.StableAfter},
		{"welcome_timeout", c.WelcomeTimeout}, {"spread_after", c.SpreadAfter},
	} {
		if d.value <= 0 {
			return edgeclaim.Invalid(d.key, "want more than zero")
		}
	}
	switch {
	case c.BackoffLimit < c.BackoffBase:
		return edgeclaim.Invalid("backoff_limit", "want at least backoff_base")
	case c.ProbeLimit < c.WelcomeTimeout:
		return edgeclaim.Invalid("probe_limit", "want at least welcome_timeout")
	case c.StartSpread < 0:
		return edgeclaim.Invalid("start_spread", "want zero or more")
	}
	return nil
}

// validateTopics judges the topics of AckPuback, in either mode.
func (c *Config) validateTopics() error {
	if _, err := parseTopic("telemetry_topic", c.TelemetryTopic); err != nil {
		return err
	}
	if c.PresenceTopic == "" {
		return nil
	}
	if _, err := parseTopic("presence_topic", c.PresenceTopic); err != nil {
		return err
	}
	if c.PresenceTopic == c.TelemetryTopic {
		return edgeclaim.Invalid("presence_topic", "want another one than telemetry_topic")
	}
	return nil
}
