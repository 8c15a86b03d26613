package client

import (
	"net"
	"net/url"
	"strconv"
	"time"

	"edgeclaim"
)

// Ports of MQTT, plain and over TLS (IANA).
const (
	portPlain = "1883"
	portTLS   = "8883"
)

// maxPasswordFile is the largest password file that is read, in bytes; MQTT's
// own limit (section 3.1.3.5).
const maxPasswordFile = 65535

// Config is how to reach a broker. Files are read anew for each connection, so
// that rotated ones are taken up and missing ones never hinder a start (P2).
type Config struct {
	// URL is mqtt://host[:1883] or mqtts://host[:8883]. User information in it
	// is used as Username and password, and never shown.
	URL string `yaml:"url"`
	// Username and PasswordFile log in upstream. One line end after the
	// password is not part of it.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	// ClientID is the MQTT client id; empty for "edgeclaim-" and the box id,
	// or "edgehub-" and the upstream id.
	ClientID string `yaml:"client_id"`
	// CAFile holds the PEM certificates to trust the broker by; empty for the
	// system's.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile hold the client certificate and its key, both PEM.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// ServerName is what the broker's certificate must be for; empty for the
	// URL's host.
	ServerName string `yaml:"server_name"`

	// KeepAlive is MQTT's keep-alive, in whole seconds, 1 s to 18 h.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// WriteTimeout bounds every single write to the connection.
	WriteTimeout time.Duration `yaml:"write_timeout"`
	// ConnectTimeout bounds name lookup, TCP, TLS and CONNECT together.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`

	// Now is the clock that the broker's certificate is judged by: the box's,
	// which does not start in 1970 (P10). nil is time.Now.
	Now func() time.Time `yaml:"-"`
}

// Defaults returns a Config that is whole but for its URL.
func Defaults() Config {
	return Config{KeepAlive: 30 * time.Second, WriteTimeout: 3 * time.Second, ConnectTimeout: 10 * time.Second}
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
	switch {
	case c.WriteTimeout <= 0:
		return edgeclaim.Invalid("write_timeout", "want more than zero")
	case c.ConnectTimeout <= 0:
		return edgeclaim.Invalid("connect_timeout", "want more than zero")
	case c.KeepAlive < time.Second || c.KeepAlive > 18*time.Hour || c.KeepAlive%time.Second != 0:
		return edgeclaim.Invalid("keep_alive", "want whole seconds, 1s to 18h")
	}
	return nil
}

// Shown is the URL without user information, as it may be said anywhere (P5);
// empty when it is not valid.
func (c *Config) Shown() string {
	t, err := parseTarget(c.URL)
	if err != nil {
		return ""
	}
	return t.shown()
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
