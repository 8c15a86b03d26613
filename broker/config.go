package broker

import (
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"edgeclaim"
)

// Config says where the broker listens and what it bounds (P7). The defaults
// suit a box with 512 MiB of memory.
type Config struct {
	// Address is the plain TCP listener, host:port; port 0 for any free one.
	// Empty: none.
	Address string
	// TLSAddress is the listener with TLS; empty: none. One of the two is
	// there.
	TLSAddress string

	// MaxDevices bounds the connections of logged-in devices, 1 to MaxConnections.
	MaxDevices int
	// MaxClaimants bounds the connections of claimants, 1 to MaxConnections.
	// They never take a device's. Full, the one that was idle longest goes.
	MaxClaimants int
	// MaxConnecting bounds the connections that have not logged in, 1 to
	// MaxConnections. Full, the oldest goes.
	MaxConnecting int

	// ConnectTimeout is how long a connection may take to say CONNECT.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a claimant may neither subscribe nor claim.
	// Pings do not count.
	IdleTimeout time.Duration
	// ClaimTimeout is how long a claim may wait for its commit before it is
	// answered as unavailable; a commit that is under way is waited for.
	ClaimTimeout time.Duration
	// ReportTimeout is how long what a device said may wait for its commit. Then
	// it is not acknowledged, and the connection ends: the device says it again.
	ReportTimeout time.Duration
	// WriteTimeout is how long one write to a connection may block before it
	// is given up for dead.
	WriteTimeout time.Duration
	// MaxKeepAlive is imposed on an MQTT 5 client that asks for more or for
	// none, and on an MQTT 3.1.1 client that asks for none. 1 s to 10 h.
	MaxKeepAlive time.Duration

	// MaxClaimantPacket and MaxDevicePacket bound a packet, in bytes, header
	// included. Before login a packet is bounded as a claimant's.
	MaxClaimantPacket int
	MaxDevicePacket   int

	// MaxSubscriptions bounds the subscriptions of one connection, 1 to 1,000.
	MaxSubscriptions int
	// ReceiveMaximum is how many QoS 1 messages a client may have on the way
	// to the broker, 1 to 65,535.
	ReceiveMaximum int
	// MaxInflight is how many QoS 1 messages may wait for one device's
	// acknowledgement, 1 to 16,384; more wait until it has given some. A device
	// that says less in MQTT 5 (Receive Maximum) gets less.
	MaxInflight int
	// MaxPendingWrites is the length of mochi's queue of each connection, 1 to
	// 8,192; eight bytes each, always. Nothing goes through it any more: what a
	// device is told waits where it is durable.
	MaxPendingWrites int

	// MaxSessions bounds the sessions kept for devices that are away, 1 to
	// MaxConnections. Full, the one that was away longest is forgotten.
	MaxSessions int
	// MaxPerSource bounds the connections of one source, an IPv4 address or a
	// /64 of IPv6, that have not logged in as a device, 1 to MaxConnections.
	// Full, the newest goes. Loopback has no bound.
	MaxPerSource int
	// MaxRefused is how many claims may be refused on one connection before it
	// is ended, 1 to 1,000,000.
	MaxRefused int
	// MaxDeviceRate is how many packets a second are read of one client that
	// is let in, and MaxDeviceBurst how many at once, 1 to 1,000,000. Above,
	// they stay in the socket: TCP slows the client down, nothing is lost. A
	// claim does not count, its own pace is the rule's, nor does the
	// acknowledgement of a message that the client was sent.
	MaxDeviceRate, MaxDeviceBurst int
	// MaxHandshakes is how many TLS handshakes may compute at once, 1 to
	// MaxConnections; the others wait, within ConnectTimeout. One that waits
	// for its client takes no place.
	MaxHandshakes int

	// Users are let in by name and password, besides devices; none by default.
	Users []User
	// MaxConsumers bounds their connections, 1 to MaxConnections. Full, the
	// newest is refused. Each may have 4 MiB waiting.
	MaxConsumers int

	// SessionExpiry is how long such a session is kept at most.
	SessionExpiry time.Duration

	// DrainTimeout is how long Run waits, once stopped, for claims that have
	// begun.
	DrainTimeout time.Duration

	// TLS is what TLSAddress serves. It asks for the client's certificate and
	// leaves it to Devices to say whose that is.
	TLS *tls.Config
	// Suspect is told of devices whose connections take each other over as two
	// boards with one identity do. It is called behind the device's lock, and
	// never blocks; nil for nobody.
	Suspect func(edgeclaim.Suspicion)
}

// Bounds of a Config.
const (
	// MaxConnections is the most connections of one kind that may be asked for.
	MaxConnections = 1_000_000
	// minPacket holds a claim of MaxClaimBody with its topic and properties.
	minPacket = 9 << 10
	maxPacket = 1 << 20
	// maxKeepAlive keeps one and a half of it within mochi's 16 bits: its
	// deadline for 43,691 s wraps to now.
	maxKeepAlive = 43_690 * time.Second
	maxTimeout   = time.Hour
	// maxCount is the most that may be asked for of what is only counted.
	maxCount = 1_000_000
	// minClaimTimeout leaves a slow flash the time of a few commits.
	minClaimTimeout = 100 * time.Millisecond
)

// Defaults returns the configuration of a box that nobody configured.
func Defaults() Config {
	return Config{
		Address:           "127.0.0.1:1883",
		MaxDevices:        12_000,
		MaxClaimants:      4_096,
		MaxConnecting:     4_096,
		ConnectTimeout:    5 * time.Second,
		IdleTimeout:       60 * time.Second,
		ClaimTimeout:      10 * time.Second,
		ReportTimeout:     10 * time.Second,
		WriteTimeout:      2 * time.Second,
		MaxKeepAlive:      5 * time.Minute,
		MaxClaimantPacket: 9 << 10,
		MaxDevicePacket:   64 << 10,
		MaxSubscriptions:  8,
		ReceiveMaximum:    32,
		MaxInflight:       256,
		MaxPendingWrites:  64,
		MaxSessions:       4_096,
		MaxPerSource:      1_024,
		MaxRefused:        16,
		MaxDeviceRate:     200,
		MaxDeviceBurst:    1_000,
		MaxHandshakes:     64,
		MaxConsumers:      64,
		SessionExpiry:     24 * time.Hour,
		DrainTimeout:      5 * time.Second,
	}
}

// Validate returns an error that names the first key at fault, as it is spelled
// in the configuration file.
func (c *Config) Validate() error {
	if err := c.validateAddresses(); err != nil {
		return err
	}
	for _, n := range []struct {
		key             string
		value, min, max int
	}{
		{"max_devices", c.MaxDevices, 1, MaxConnections},
		{"max_claimants", c.MaxClaimants, 1, MaxConnections},
		{"max_connecting", c.MaxConnecting, 1, MaxConnections},
		{"max_claimant_packet", c.MaxClaimantPacket, minPacket, maxPacket},
		{"max_device_packet", c.MaxDevicePacket, minPacket, maxPacket},
		{"max_subscriptions", c.MaxSubscriptions, 1, 1000},
		{"receive_maximum", c.ReceiveMaximum, 1, 65_535},
		{"max_inflight", c.MaxInflight, 1, 16_384},
		{"max_pending_writes", c.MaxPendingWrites, 1, 8_192},
		{"max_sessions", c.MaxSessions, 1, MaxConnections},
		{"max_per_source", c.MaxPerSource, 1, MaxConnections},
		{"max_refused", c.MaxRefused, 1, maxCount},
		{"max_device_rate", c.MaxDeviceRate, 1, maxCount},
		{"max_device_burst", c.MaxDeviceBurst, 1, maxCount},
		{"max_handshakes", c.MaxHandshakes, 1, MaxConnections},
		{"max_consumers", c.MaxConsumers, 1, MaxConnections},
	} {
		if n.value < n.min || n.value > n.max {
			return fmt.Errorf("%s: want %d to %d", n.key, n.min, n.max)
		}
	}
	for _, d := range []struct {
		key             string
		value, min, max time.Duration
	}{
		{"connect_timeout", c.ConnectTimeout, 10 * time.Millisecond, maxTimeout},
		{"idle_timeout", c.IdleTimeout, 10 * time.Millisecond, maxTimeout},
		{"claim_timeout", c.ClaimTimeout, minClaimTimeout, maxTimeout},
		{"report_timeout", c.ReportTimeout, minClaimTimeout, maxTimeout},
		{"write_timeout", c.WriteTimeout, 10 * time.Millisecond, maxTimeout},
		{"max_keep_alive", c.MaxKeepAlive, time.Second, 10 * time.Hour},
		{"session_expiry", c.SessionExpiry, time.Second, 366 * 24 * time.Hour},
		{"drain_timeout", c.DrainTimeout, 0, maxTimeout},
	} {
		if d.value < d.min || d.value > d.max {
			return fmt.Errorf("%s: want %v to %v", d.key, d.min, d.max)
		}
	}
	return c.validateUsers()
}

func (c *Config) validateAddresses() error {
	if c.Address == "" && c.TLSAddress == "" {
		return fmt.Errorf("address: want one, or a tls_address")
	}
	for _, at := range []struct{ key, address string }{{"address", c.Address}, {"tls_address", c.TLSAddress}} {
		if at.address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(at.address); err != nil {
			return fmt.Errorf("%s: want host:port: %w", at.key, err)
		}
	}
	return nil
}
