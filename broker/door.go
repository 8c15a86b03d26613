package broker

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// door is one listener, in place of mochi's own, which ends for good at the
// first error of accept, and starts goroutines that nobody awaits and whose
// panics end the process.
type door struct {
	id     string
	b      *Broker
	ln     net.Listener
	secure *tls.Config // nil: plain
	once   sync.Once
}

func (b *Broker) addDoor(id string, ln net.Listener, secure *tls.Config) error {
	d := &door{id: id, b: b, ln: ln, secure: secure}
	b.doors = append(b.doors, d)
	return b.server.AddListener(d)
}

// Init implements listeners.Listener.
func (*door) Init(*slog.Logger) error { return nil }

// ID implements listeners.Listener.
func (d *door) ID() string { return d.id }

// Address implements listeners.Listener.
func (d *door) Address() string { return d.ln.Addr().String() }

// Protocol implements listeners.Listener.
func (d *door) Protocol() string { return d.ln.Addr().Network() }

// Close implements listeners.Listener. mochi calls it when Run has closed
// everything already.
func (d *door) Close(listeners.CloseFn) { d.shut() }

func (d *door) shut() { d.once.Do(func() { d.ln.Close() }) }

// The wait after an accept that failed, for want of file descriptors mostly.
const (
	minAcceptWait = 5 * time.Millisecond
	maxAcceptWait = time.Second
)

// Serve implements listeners.Listener: it accepts until the door is shut.
// mochi starts it, and Run awaits it.
func (d *door) Serve(establish listeners.EstablishFn) {
	defer d.b.open.Done()
	wait := minAcceptWait
	for {
		nc, err := d.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			d.b.log.Warn("accept failed", "listener", d.id, "error", err, "retry_after", wait)
			if waitFor(d.b.stopped, wait) {
				return
			}
			wait = min(2*wait, maxAcceptWait)
			continue
		}
		wait = minAcceptWait
		d.admit(nc, establish)
	}
}

// admit starts the connection's goroutine, unless it cannot be had.
func (d *door) admit(nc net.Conn, establish listeners.EstablishFn) {
	c, err := newConn(d.b, nc, d.secure, time.Now())
	if err != nil {
		nc.Close()
		return
	}
	if c.crowding = d.b.crowd.Enter(c.source()); !c.crowding {
		c.Close() // the newest goes
		d.b.log.LogAttrs(d.b.ctx, slog.LevelDebug, "connection refused",
			slog.Any("source", c.source()), slog.String("reason", "too many of one source"))
		return
	}
	d.b.put(c) // before it enters: drain shuts the pool, then closes whom it finds
	if !d.b.connecting.enter(c) {
		c.Close()
		d.b.leaveCrowd(c)
		d.b.drop(c)
		return
	}
	// One goroutine for each connection, awaited by Run; it reads.
	d.b.open.Go(func() { d.attend(c, establish) })
}

// attend is a connection's life. A packet that mochi's decoder panics on (a
// SUBSCRIBE cut off before its options is one) ends this connection only.
func (d *door) attend(c *conn, establish listeners.EstablishFn) {
	panicked := true
	defer func() {
		if panicked {
			d.b.logPanic("connection", recover())
		}
		d.b.end(c)
	}()
	err := c.handshake(d.b.turns)
	if err == nil {
		err = establish(d.id, c)
	}
	panicked = false
	d.b.logEnd(c, err)
}

// logEnd says why a connection ended: at debug, but for a device that did what it
// may not. MQTT 3.1.1 has no word for that, and its maker wants one.
func (b *Broker) logEnd(c *conn, err error) {
	if c.role == roleDevice && (errors.Is(err, packets.ErrNotAuthorized) || errors.Is(err, errPacketTooLarge)) {
		if say, unsaid := b.cutOff.take(time.Now()); say {
			b.log.LogAttrs(b.ctx, slog.LevelWarn, "device did what it may not, its connection ended",
				slog.Any("device_id", c.device), slog.Any("error", err), slog.Int("unsaid", unsaid))
		}
		return
	}
	b.log.LogAttrs(b.ctx, slog.LevelDebug, "connection ended",
		slog.Any("source", c.source()), slog.Any("error", err))
}

// end undoes what the connection had. It is the last thing its goroutine does.
func (b *Broker) end(c *conn) {
	c.Close()
	c.curfew.lift()
	b.waiting.begin(c) // what waits, waits no more
	if c.consumer != nil {
		b.consumers.leave(c.consumer)
	}
	b.leaveCrowd(c)
	b.connecting.leave(c)
	b.claimants.leave(c)
	if c.seated {
		b.seats.Add(-1)
	}
	if c.client != nil && !c.settled {
		// mochi panicked, or could not write the CONNACK: either way it left
		// the client on its maps, for good.
		b.settle(c)
		b.forget(c.client)
	}
	if c.unlock != nil {
		c.unlock()
	}
	b.drop(c)
}

// leaveCrowd takes the connection out of the count of its source: it ended, or
// has shown a credential.
func (b *Broker) leaveCrowd(c *conn) {
	if c.crowding {
		c.crowding = false
		b.crowd.Leave(c.source())
	}
}

func (b *Broker) put(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns[c] = struct{}{}
}

func (b *Broker) drop(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
}
