package hub

import (
	"time"

	"edgeclaim"
	"edgeclaim/bridge/internal/client"
)

// Broker is how to reach the broker.
type Broker = client.Config

// Config is how to reach the broker, and what the hub holds itself to.
type Config struct {
	// Broker is where the boxes' messages come and the hub's go. Its files
	// are read anew for each connection. In the configuration file it is a
	// section of its own.
	Broker Broker `yaml:"-"`

	// AckTimeout is how long the broker may take to acknowledge anything
	// before the connection is given up.
	AckTimeout time.Duration `yaml:"ack_timeout"`
	// StopTimeout is how long a stop takes at most to commit and answer what
	// has come, and again to say offline.
	StopTimeout time.Duration `yaml:"stop_timeout"`
	// BackoffBase and BackoffLimit are the shortest and the longest wait
	// between two connections. StableAfter is how long a connection must have
	// lasted for the next wait to be a short one.
	BackoffBase  time.Duration `yaml:"backoff_base"`
	BackoffLimit time.Duration `yaml:"backoff_limit"`
	StableAfter  time.Duration `yaml:"stable_after"`

	// MaxBoxes is how many boxes may have a session at once. A box above it
	// takes the place of the one silent longest, and is not welcome while
	// none was silent for a minute.
	MaxBoxes int `yaml:"max_boxes"`
	// SessionIdle is how long a box may be silent before its session is
	// forgotten; it says hello again when it next tells something.
	SessionIdle time.Duration `yaml:"session_idle"`

	// QueueMessages and QueueBytes bound what has come and is not applied
	// yet. When it is full, nothing more is read from the broker.
	QueueMessages int `yaml:"queue_messages"`
	QueueBytes    int `yaml:"queue_bytes"`
	// GroupMessages and GroupBytes bound what shares one transaction.
	GroupMessages int `yaml:"group_messages"`
	GroupBytes    int `yaml:"group_bytes"`
	// ApplyTimeout bounds one transaction.
	ApplyTimeout time.Duration `yaml:"apply_timeout"`
	// RetryBase and RetryLimit are the shortest and the longest time that the
	// registry is left alone after it failed.
	RetryBase  time.Duration `yaml:"retry_base"`
	RetryLimit time.Duration `yaml:"retry_limit"`

	// CreditTotal is how many records all boxes together may have on their
	// way. The boxes that are telling share it evenly; each gets CreditMin at
	// least and CreditMax at most.
	CreditTotal int `yaml:"credit_total"`
	CreditMin   int `yaml:"credit_min"`
	CreditMax   int `yaml:"credit_max"`
	// RushBoxes is how many hellos within ten seconds make a rush. Each one
	// above it is told to start RushStep later than the one before, RushLimit
	// at most; LaneProv never waits.
	RushBoxes int           `yaml:"rush_boxes"`
	RushStep  time.Duration `yaml:"rush_step"`
	RushLimit time.Duration `yaml:"rush_limit"`
	// AgainEvery is how often a box at most is asked for a new hello.
	AgainEvery time.Duration `yaml:"again_every"`

	// OnCommit is told how long each transaction took, and how many records it
	// applied; nil for nobody. It must not block.
	OnCommit func(took time.Duration, records int) `yaml:"-"`
	// Now is the time that boxes are told; nil is time.Now.
	Now func() time.Time `yaml:"-"`
}

// Defaults returns a whole Config, for a broker on this machine.
func Defaults() Config {
	broker := client.Defaults()
	broker.URL = "mqtt://127.0.0.1:1883"
	return Config{
		Broker:        broker,
		AckTimeout:    30 * time.Second,
		StopTimeout:   5 * time.Second,
		BackoffBase:   500 * time.Millisecond,
		BackoffLimit:  30 * time.Second,
		StableAfter:   time.Minute,
		MaxBoxes:      10_000,
		SessionIdle:   time.Hour,
		QueueMessages: 8192,
		QueueBytes:    64 << 20,
		GroupMessages: 512,
		GroupBytes:    4 << 20,
		ApplyTimeout:  30 * time.Second,
		RetryBase:     500 * time.Millisecond,
		RetryLimit:    30 * time.Second,
		CreditTotal:   50_000,
		CreditMin:     256,
		CreditMax:     4096,
		RushBoxes:     50,
		RushStep:      20 * time.Millisecond,
		RushLimit:     time.Minute,
		AgainEvery:    5 * time.Second,
	}
}

// maxCredit is the largest credit, in records.
const maxCredit = 1_000_000

// Validate returns an edgeclaim.InvalidError that names the key at fault, and
// never its value.
func (c *Config) Validate() error {
	if err := c.Broker.Validate(); err != nil {
		return err
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"ack_timeout", c.AckTimeout}, {"stop_timeout", c.StopTimeout}, {"backoff_base", c.BackoffBase},
		{"stable_after", c.StableAfter}, {"session_idle", c.SessionIdle}, {"apply_timeout", c.ApplyTimeout},
		{"retry_base", c.RetryBase}, {"rush_step", c.RushStep}, {"rush_limit", c.RushLimit}, {"again_every", c.AgainEvery},
	} {
		if d.value <= 0 {
			return edgeclaim.Invalid(d.key, "want more than zero")
		}
	}
	for _, n := range []struct {
		key   string
		value int
	}{
		{"max_boxes", c.MaxBoxes}, {"queue_messages", c.QueueMessages}, {"group_messages", c.GroupMessages},
		{"group_bytes", c.GroupBytes}, {"credit_min", c.CreditMin}, {"rush_boxes", c.RushBoxes},
	} {
		if n.value < 1 {
			return edgeclaim.Invalid(n.key, "want at least 1")
		}
	}
	return c.validateOrder()
}

// validateOrder judges the pairs.
func (c *Config) validateOrder() error {
	switch {
	case c.BackoffLimit < c.BackoffBase:
		return edgeclaim.Invalid("backoff_limit", "want at least backoff_base")
	case c.RetryLimit < c.RetryBase:
		return edgeclaim.Invalid("retry_limit", "want at least retry_base")
	case c.QueueBytes < maxInbound:
		return edgeclaim.Invalid("queue_bytes", "want at least %d, the largest message", maxInbound)
	case c.CreditMax < c.CreditMin || c.CreditMax > maxCredit:
		return edgeclaim.Invalid("credit_max", "want credit_min to %d", maxCredit)
	case c.CreditTotal < c.CreditMin:
		return edgeclaim.Invalid("credit_total", "want at least credit_min")
	}
	return nil
}
