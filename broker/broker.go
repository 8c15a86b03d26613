// Package broker is the MQTT face of the box: devices claim their identity over
// it, and log in with it afterwards. It is the only importer of mochi, and
// where mochi's defects are cured from outside; DESIGN.md lists them.
package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim"
	"edgeclaim/internal/crowd"
	"edgeclaim/internal/mqttwire"
	"edgeclaim/internal/precedence"
)

// closeTimeout is how long Run waits for connections that were closed to end.
const closeTimeout = 5 * time.Second

// Broker is the MQTT face. Make it with New.
type Broker struct {
	cfg    Config
	parts  Parts
	log    *slog.Logger
	server *mqtt.Server
	doors  []*door // the plain one, then the one with TLS, of those there are

	connecting *pool
	claimants  *pool
	consumers  *consumers
	accounts   *accounts
	seats      atomic.Int64  // devices connected
	lastID     atomic.Uint64 // of a claimant
	ids        idLocks
	away       away
	waiting    waiting
	clones     clones
	crowd      *crowd.Crowd  // those that have not logged in as a device
	turns      chan struct{} // taken by handshakes that compute
	panics     lines
	undecided  lines
	cutOff     lines
	couriers   couriers
	seed       maphash.Seed // of contentOf
	// What could not be committed, and what could not be sent.
	uncommitted, undelivered lines

	// ctx is what hooks run under: mochi's have none. Cancelled when Run
	// gives up waiting for the claims that have begun.
	ctx     context.Context
	cancel  context.CancelFunc
	stopped chan struct{}  // closed when Run stops
	open    sync.WaitGroup // doors and connections

	mu    sync.Mutex
	conns map[*conn]struct{} // all of them; guarded by mu
}

// New validates cfg and binds its listeners. Nothing is accepted before Run,
// which also closes what New bound.
func New(cfg Config, parts Parts, logger *slog.Logger) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	if cfg.TLSAddress != "" && cfg.TLS == nil {
		return nil, errors.New("broker: tls_address: no certificate to serve")
	}
	if parts.Commands != nil && parts.Encode == nil {
		return nil, errors.New("broker: commands without an encoding")
	}
	if parts.Precedence == nil {
		parts.Precedence = precedence.New()
	}
	places := &sync.Mutex{}
	b := &Broker{
		cfg: cfg, parts: parts, log: logger,
		connecting: newPool(places, cfg.MaxConnecting),
		claimants:  newPool(places, cfg.MaxClaimants),
		consumers:  newConsumers(cfg.MaxConsumers),
		accounts:   newAccounts(cfg.Users),
		ids:        idLocks{held: map[edgeclaim.DeviceID]*idLock{}},
		away:       newAway(cfg.MaxSessions),
		waiting:    newWaiting(),
		clones:     newClones(),
		crowd:      crowd.New(cfg.MaxPerSource, crowd.Loopback),
		turns:      make(chan struct{}, cfg.MaxHandshakes),
		panics:     lines{within: time.Minute, most: panicsSaid},
		undecided:  lines{within: time.Second, most: undecidedSaid},
		cutOff:     lines{within: time.Minute, most: cutOffSaid},
		couriers:   newCouriers(),
		seed:       maphash.MakeSeed(),

		uncommitted: lines{within: time.Second, most: undecidedSaid},
		undelivered: lines{within: time.Second, most: undecidedSaid},

		stopped: make(chan struct{}),
		conns:   map[*conn]struct{}{},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.server = mqtt.New(options(&cfg))
	err := b.server.AddHook(&hook{b: b}, nil)
	if err == nil {
		err = b.bind()
	}
	if err != nil {
		b.cancel()
		return nil, fmt.Errorf("broker: %w", err)
	}
	return b, nil
}

// The doors' names in the log.
const (
	doorPlain = "tcp"
	doorTLS   = "tls"
)

// bind makes the doors; an error leaves none.
func (b *Broker) bind() error {
	// TCP keep-alive costs four system calls a connection, and a claimant's
	// has a deadline anyway: it is switched on for devices only.
	lc := net.ListenConfig{KeepAlive: -1}
	for _, at := range []struct {
		id, address string
		secure      *tls.Config
	}{
		{doorPlain, b.cfg.Address, nil},
		{doorTLS, b.cfg.TLSAddress, b.cfg.TLS},
	} {
		if at.address == "" {
			continue
		}
		ln, err := lc.Listen(context.Background(), "tcp", at.address)
		if err == nil {
			err = b.addDoor(at.id, ln, at.secure)
		}
		if err != nil {
			if ln != nil {
				ln.Close()
			}
			for _, d := range b.doors {
				d.shut()
			}
			return err
		}
	}
	return nil
}

// options are mochi's: its own limits as a second fence, and nothing on that
// is not asked for.
func options(cfg *Config) *mqtt.Options {
	caps := mqtt.NewDefaultServerCapabilities() // a literal would leave zeros that mean "none"
	caps.MaximumMessageExpiryInterval = 0       // else what waits is deleted by the wall clock (P10)
	caps.MaximumClientWritesPending = int32(cfg.MaxPendingWrites)
	caps.MaximumPacketSize = uint32(max(cfg.MaxClaimantPacket, cfg.MaxDevicePacket))
	caps.ReceiveMaximum = uint16(cfg.ReceiveMaximum)
	caps.MaximumInflight = uint16(cfg.MaxInflight)
	caps.TopicAliasMaximum = 0 // an alias reaches the access check as an empty topic
	caps.SharedSubAvailable = 0
	caps.MinimumProtocolVersion = 4
	caps.MaximumQos = 1
	caps.RetainAvailable = 0
	caps.Compatibilities.NoInheritedPropertiesOnAck = true // else PUBACK says 0x01, which MQTT 5 does not have
	return &mqtt.Options{
		Capabilities:             caps,
		ClientNetReadBufferSize:  netBuffer,
		ClientNetWriteBufferSize: netBuffer,
		// mochi logs whole packets, with payloads and passwords (P5).
		Logger: slog.New(slog.DiscardHandler),
		// Nobody reads $SYS, and each round stops the world.
		SysTopicResendInterval: int64(24 * time.Hour / time.Second),
	}
}

// netBuffer is mochi's read buffer of each connection, in bytes.
const netBuffer = 1 << 10

// Addr is where the plain listener listens; nil when there is none.
func (b *Broker) Addr() net.Addr { return b.addrOf(doorPlain) }

// TLSAddr is where the listener with TLS listens; nil when there is none.
func (b *Broker) TLSAddr() net.Addr { return b.addrOf(doorTLS) }

func (b *Broker) addrOf(id string) net.Addr {
	for _, d := range b.doors {
		if d.id == id {
			return d.ln.Addr()
		}
	}
	return nil
}

// Connections counts who is connected.
func (b *Broker) Connections() edgeclaim.ConnectionStatus {
	return edgeclaim.ConnectionStatus{
		Claimants: b.claimants.len(), Devices: int(b.seats.Load()), Consumers: b.consumers.len(),
	}
}

// Disconnect closes the device's connection, if it has one, and has its
// session forgotten. Once it has returned, the device is let in only by a
// credential that Devices held valid after the call began. It takes
// farewellTimeout at most: it waits for no lock of the device's, which a slow
// socket may keep long, so what is forgotten is so a little later.
func (b *Broker) Disconnect(id edgeclaim.DeviceID) {
	// In this order: a login asks for its credential when it is registered,
	// and is on mochi's map before it is registered no more.
	if cl := b.ids.entering(id); cl != nil {
		connOf(cl).discard.Store(true)
		cl.Stop(packets.ErrAdministrativeAction) // its CONNACK cannot be written
	}
	if cl, ok := b.server.Clients.Get(id.String()); ok {
		connOf(cl).discard.Store(true)
		b.farewell(cl, packets.ErrAdministrativeAction)
		cl.Stop(packets.ErrAdministrativeAction)
	}
	b.away.void(id) // who is not away is forgotten at the end of its connection
}

// Shorten ends the device's connection in that time, if it was let in with that
// credential, which has been replaced: nobody told the connection how long it is
// still good. A login under way is ended at once, since it may have been let in
// before the change; it comes again. Shorten takes no longer than Disconnect.
func (b *Broker) Shorten(id edgeclaim.DeviceID, credential edgeclaim.KeyHash, in time.Duration) {
	// In this order: see Disconnect.
	if cl := b.ids.entering(id); cl != nil {
		cl.Stop(packets.ErrAdministrativeAction)
	}
	if cl, ok := b.server.Clients.Get(id.String()); ok {
		if c := connOf(cl); c != nil && c.admission.Credential.Equal(credential) {
			b.endIn(c, cl, in)
		}
	}
}

// farewellTimeout is how long a connection that must go may keep its last word
// waiting. There is room in the socket for a few bytes, or the client is slow.
const farewellTimeout = 100 * time.Millisecond

// farewell says why the connection ends to a client that knows such a thing,
// where nobody else is just writing to it.
func (b *Broker) farewell(cl *mqtt.Client, why packets.Code) {
	if cl.Properties.ProtocolVersion < 5 || cl.Closed() || !cl.TryLock() { // mochi's, around every write
		return
	}
	defer cl.Unlock()
	c := connOf(cl)
	if err := c.sock.hurry(farewellTimeout); err == nil {
		_, _ = c.Conn.Write(mqttwire.AppendDisconnect(nil, mqttwire.V5, why.Code))
	}
}

// hangUp ends a connection: with a DISCONNECT that says why where the client
// knows such a thing (MQTT 5.0, section 3.14), without a word where it does not.
func (b *Broker) hangUp(cl *mqtt.Client, why packets.Code) {
	if cl.Properties.ProtocolVersion >= 5 {
		_ = b.server.DisconnectClient(cl, why)
		return
	}
	cl.Stop(why)
}

// forget takes a client off mochi's maps. The caller holds the device's lock,
// and mochi is through with the client: what mochi takes off at the end of a
// connection, it takes off by id.
func (b *Broker) forget(cl *mqtt.Client) {
	if now, ok := b.server.Clients.Get(cl.ID); !ok || now != cl {
		return
	}
	cl.ClearInflights()
	b.server.UnsubscribeClient(cl)
	b.server.Clients.Delete(cl.ID)
}

// Run serves until ctx is done, then stops: it accepts no more, lets claims
// that have begun end for DrainTimeout, and closes everything. It is called
// once. The error is nil unless a connection would not end.
func (b *Broker) Run(ctx context.Context) error {
	defer b.cancel()
	for range b.doors {
		b.open.Add(1) // until its Serve returns
	}
	b.open.Go(b.tellDecided)
	b.open.Go(b.carry)
	if err := b.server.Serve(); err != nil {
		close(b.stopped)
		return fmt.Errorf("broker: %w", err)
	}
	b.keepHouse(ctx)
	close(b.stopped)
	for _, d := range b.doors {
		d.shut()
	}
	return b.drain()
}

// errNotEnded is Run's error when closed connections did not end.
var errNotEnded = errors.New("broker: connections did not end")

func (b *Broker) drain() error {
	b.connecting.close()
	b.claimants.close()
	for _, c := range b.all() {
		if !b.busy(c) {
			c.Close()
		}
	}
	ended := make(chan struct{})
	go func() { // ends with the last connection; Run waits for it
		b.open.Wait()
		close(ended)
	}()
	if !waitFor(ended, b.cfg.DrainTimeout) {
		b.cancel()
		for _, c := range b.all() {
			c.Close()
		}
		if !waitFor(ended, closeTimeout) {
			return errNotEnded
		}
	}
	// Nothing is connected and nothing will be: mochi's Close has nothing to
	// wait for, and its races nobody to race with. It is called here only,
	// because a second time it panics.
	if err := b.server.Close(); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return nil
}

// busy reports whether something is being decided for c. What waits for an
// operator is not.
func (b *Broker) busy(c *conn) bool {
	return c.renewing.Load() || c.ordering.Load() || c.paying.Load() || b.claimants.working(c) && !b.waiting.holds(c)
}

// waitFor waits for done or for d, and returns whether it was done.
func waitFor(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

func (b *Broker) all() []*conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		all = append(all, c)
	}
	return all
}
