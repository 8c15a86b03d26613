package bridge

import (
	"net"
	"net/url"
	"strconv"
	"time"

	"edgeclaim"
)

// AckPuback is the acknowledgement mode in which a record is told when the
// broker upstream has sent PUBACK for it. It is weaker than an application's
// word: the broker has the record, the platform may not.
const AckPuback = "puback"

// Ports of MQTT, plain and over TLS (IANA).
const (
	portPlain = "1883"
	portTLS   = "8883"
)

// MaxWindow is the largest Window: half of MQTT's packet ids, so that none
// comes round while it is still in flight.
const MaxWindow = 32768

// maxPasswordFile is the largest password file that is read, in bytes; MQTT's
// own limit (section 3.1.3.5).
const maxPasswordFile = 65535

// Config is how to reach upstream. Files are read anew for each connection, so
// that rotated ones are taken up and missing ones never hinder a start (P2).
type Config struct {
	// URL is mqtt://host[:1883] or mqtts://host[:8883]. User information in it
	// is used as Username and password, and never shown.
	URL string `yaml:"url"`
	// Username and PasswordFile log in upstream. One line end after the
	// password is not part of it.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	// ClientID is the MQTT client id; empty for "edgeclaim-" and the box id.
	ClientID string `yaml:"client_id"`
	// CAFile holds the PEM certificates to trust upstream by; empty for the
	// system's.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile hold the client certificate and its key, both PEM.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// ServerName is what upstream's certificate must be for; empty for the
	// URL's host.
	ServerName string `yaml:"server_name"`
	// Ack is the acknowledgement mode: AckPuback.
	Ack string `yaml:"ack"`

	// Window is how many records may be on their way at once, 1 to MaxWindow.
	// It bounds memory, and the rate: at most Window records in each round
	// trip.
	Window int `yaml:"window"`
	// ReadBatch is how many records one read of the outbox asks for, 1 to
	// MaxWindow.
	ReadBatch int `yaml:"read_batch"`
	// KeepAlive is MQTT's keep-alive, in whole seconds, 1 s to 18 h.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// WriteTimeout bounds every single write to the connection.
	WriteTimeout time.Duration `yaml:"write_timeout"`
	// ConnectTimeout bounds name lookup, TCP, TLS and CONNECT together.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// AckTimeout is how long the oldest record on its way may wait for its
	// PUBACK before the connection is given up.
	AckTimeout time.Duration `yaml:"ack_timeout"`
	// AckFlush is how long a PUBACK may wait, for others to share its commit
	// in the outbox.
	AckFlush time.Duration `yaml:"ack_flush"`
	// StopTimeout is how long a stop waits for the PUBACKs of what is on its
	// way, and again for the state to be said and the outbox to be told.
	StopTimeout time.Duration `yaml:"stop_timeout"`
	// BackoffBase and BackoffLimit are the shortest and the longest wait
	// between two connections. StableAfter is how long a connection must have
	// lasted for the next wait to be a short one.
	BackoffBase  time.Duration `yaml:"backoff_base"`
	BackoffLimit time.Duration `yaml:"backoff_limit"`
	StableAfter  time.Duration `yaml:"stable_after"`

	// Now is the clock that upstream's certificate is judged by: the box's,
	// which does not start in 1970 (P10). nil is time.Now.
	Now func() time.Time `yaml:"-"`
}

// Defaults returns a Config that is whole but for its URL.
func Defaults() Config {
	return Config{
		Ack:            AckPuback,
		Window:         1024,
		ReadBatch:      256,
		KeepAlive:      30 * time.Second,
		WriteTimeout:   3 * time.Second,
		ConnectTimeout: 10 * time.Second,
		AckTimeout:     30 * time.Second,
		AckFlush:       200 * time.Millisecond,
		StopTimeout:    2 * time.Second,
		BackoffBase:    2 * time.Second,
		BackoffLimit:   5 * time.Minute,
		StableAfter:    time.Minute,
	}
}

// Validate returns an edgeclaim.InvalidError that names the key at fault, as
// it is spelled in the configuration file, and never its value: a URL may hold
// a password (P5).
func (c *Config) Validate() error {
	t, err := parseTarget(c.URL)
	if err != nil {
		return err
	}
	if err := c.validateLogin(t); err != nil {
		return err
	}
	if c.Ack != AckPuback {
		return edgeclaim.Invalid("ack", "this version knows %q only", AckPuback)
	}
	return c.validateLimits()
}

func (c *Config) validateLogin(t target) error {
	switch {
	case t.hasUser && (c.Username != "" || c.PasswordFile != ""):
		return edgeclaim.Invalid("username", "given in the url as well")
	case c.PasswordFile != "" && c.Username == "":
		return edgeclaim.Invalid("password_file", "needs username (MQTT 3.1.1, section 3.1.2.9)")
	case (c.CertFile == "") != (c.KeyFile == ""):
		return edgeclaim.Invalid("cert_file", "cert_file and key_file go together")
	case !t.secure && (c.CAFile != "" || c.CertFile != "" || c.ServerName != ""):
		return edgeclaim.Invalid("url", "ca_file, cert_file and server_name need mqtts://")
	case len(c.ClientID) > 65535:
		return edgeclaim.Invalid("client_id", "want at most 65535 bytes")
	}
	return nil
}

func (c *Config) validateLimits() error {
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
		{"write_timeout", c.WriteTimeout}, {"connect_timeout", c.ConnectTimeout},
		{"ack_timeout", c.AckTimeout}, {"ack_flush", c.AckFlush}, {"stop_timeout", c.StopTimeout},
		{"backoff_base", c.BackoffBase}, {"stable_after", c.StableAfter},
	} {
		if d.value <= 0 {
			return edgeclaim.Invalid(d.key, "want more than zero")
		}
	}
	if c.BackoffLimit < c.BackoffBase {
		return edgeclaim.Invalid("backoff_limit", "want at least backoff_base")
	}
	if c.KeepAlive < time.Second || c.KeepAlive > 18*time.Hour || c.KeepAlive%time.Second != 0 {
		return edgeclaim.Invalid("keep_alive", "want whole seconds, 1s to 18h")
	}
	return nil
}

// target is a URL taken apart.
type target struct {
	secure   bool
	host     string
	address  string // host:port
	hasUser  bool
	username string
	password edgeclaim.Secret
}

// parseTarget reads mqtt://[user[:password]@]host[:port] and its mqtts form.
// Errors never repeat the input.
func parseTarget(text string) (target, error) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Hostname() == "" {
		return target{}, edgeclaim.Invalid("url", "want mqtt://host[:port] or mqtts://host[:port]")
	}
	t := target{host: u.Hostname()}
	port := portPlain
	switch u.Scheme {
	case "mqtt":
	case "mqtts":
		t.secure, port = true, portTLS
	default:
		return target{}, edgeclaim.Invalid("url", "want mqtt:// or mqtts://")
	}
	if (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return target{}, edgeclaim.Invalid("url", "want nothing after the host and port")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return target{}, edgeclaim.Invalid("url", "want a port of 1 to 65535")
		}
		port = p
	}
	t.address = net.JoinHostPort(t.host, port)
	if u.User != nil {
		password, _ := u.User.Password()
		t.hasUser, t.username, t.password = true, u.User.Username(), edgeclaim.NewSecret(password)
		if t.username == "" {
			return target{}, edgeclaim.Invalid("url", "a password needs a user name")
		}
	}
	return t, nil
}

// shown is the target as it may be said anywhere (P5).
func (t target) shown() string {
	if t.secure {
		return "mqtts://" + t.address
	}
	return "mqtt://" + t.address
}
