package hub

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim/bridge/internal/client"
	"edgeclaim/bridge/wire"
)

// maxFlight is how many messages down may wait for their PUBACK. What does not
// fit is not sent: all that comes down is cumulative, or asked for again.
const maxFlight = 4096

// outbound is the way down over whatever connection there is.
type outbound struct {
	mu   sync.Mutex
	link *connection // guarded by mu; nil for none
}

// connection is one connection to the broker.
type connection struct {
	conn   *client.Conn
	flight chan *sent // in order; collect takes
}

// sent is a message on its way down.
type sent struct {
	delivery *client.Delivery
	at       time.Time
}

func (o *outbound) set(l *connection) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.link = l
}

// send reports whether the message is on its way. It waits no longer than the
// broker's write timeout.
func (o *outbound) send(topic string, payload []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.link == nil || len(o.link.flight) == cap(o.link.flight) {
		return false
	}
	select {
	case <-o.link.conn.Done():
		return false
	default:
	}
	d := o.link.conn.Publish(client.Message{Topic: topic, Payload: payload})
	o.link.flight <- &sent{d, time.Now()} // never waits: send alone fills it, under the lock
	return true
}

// waiting is how many messages down have no PUBACK yet.
func (o *outbound) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.link == nil {
		return 0
	}
	return len(o.link.flight)
}

// attempt is one connection, and the wait after it. finish returns when what
// has come is committed and answered.
func (h *Hub) attempt(ctx context.Context, finish func()) {
	lasted, err := h.connected(ctx, finish)
	if ctx.Err() != nil {
		h.lamps.stopped()
		return
	}
	if lasted >= h.conf.StableAfter && !errors.Is(err, client.ErrNoPuback) {
		h.pace.Reset()
	}
	wait := h.pace.Next()
	why := client.Words(err)
	h.lamps.down(why, time.Now().Add(wait))
	h.logger.Warn("broker is not reachable", "url", h.conf.Broker.Shown(), "err", why, "retry_in", wait)
	pause(ctx, wait)
}

// connected is one connection from its dial to its end. Its error says why it
// ended; it is nil after an orderly stop.
func (h *Hub) connected(ctx context.Context, finish func()) (time.Duration, error) {
	offline, err := h.host(wire.Offline)
	if err != nil {
		return 0, err
	}
	conn, err := client.Dial(ctx, h.conf.Broker, client.Options{
		ClientID: "edgehub-" + h.upstream, Will: offline, MaxInbound: maxInbound,
		OnMessage:   func(topic string, payload []byte, retained bool) { h.receive(ctx, topic, payload, retained) },
		OnOversized: func(int) { h.figures.count(func(f *Figures) { f.Oversized++ }) },
		OnLink:      h.lamps.link,
	})
	if err != nil {
		return 0, err
	}
	// The way down stands before the first message can come up.
	link := &connection{conn: conn, flight: make(chan *sent, maxFlight)}
	collecting, stop := context.WithCancel(context.WithoutCancel(ctx))
	var collector errgroup.Group
	collector.Go(func() error { h.collect(collecting, link); return nil })
	h.out.set(link)
	err = h.open(ctx, conn)
	if err == nil {
		select {
		case <-ctx.Done():
			finish()
		case <-conn.Done():
		}
	}
	h.out.set(nil)
	stop()
	_ = collector.Wait() // it has no error
	if err != nil {
		conn.Cut()
		return conn.Lasted(), err
	}
	return conn.Lasted(), h.leave(ctx, conn, offline)
}

// open subscribes, and says that the hub is there: in that order, so that
// nobody's hello comes too early. The PUBACK for it lights the broker's lamp.
func (h *Hub) open(ctx context.Context, conn *client.Conn) error {
	opening, cancel := context.WithTimeout(ctx, h.conf.AckTimeout)
	defer cancel()
	if err := conn.Subscribe(opening, 1, wire.StateFilter, wire.UpFilter); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return client.ErrNoPuback
		}
		return err
	}
	online, err := h.host(wire.Online)
	if err != nil {
		return err
	}
	if err := conn.Wait(ctx, conn.Publish(*online), h.conf.AckTimeout); err != nil {
		return err
	}
	h.lamps.broker()
	h.figures.count(func(f *Figures) { f.Links++ })
	h.logger.Info("broker connected", "url", h.conf.Broker.Shown())
	return nil
}

// leave ends the connection: orderly when the hub stops, so that what it says
// last is its own word, and not the will's.
func (h *Hub) leave(ctx context.Context, conn *client.Conn, offline *client.Message) error {
	if ctx.Err() == nil {
		err := conn.Cause()
		conn.Cut()
		return err
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.conf.StopTimeout)
	defer cancel()
	return conn.Close(closing, offline)
}

// collect waits for the PUBACKs, oldest first, and gives the connection up when
// one does not come in time: an open socket proves nothing.
func (h *Hub) collect(ctx context.Context, link *connection) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var oldest *sent
		select {
		case oldest = <-link.flight:
		case <-ctx.Done():
			return
		}
		timer.Reset(time.Until(oldest.at.Add(h.conf.AckTimeout)))
		select {
		case <-oldest.delivery.Done():
			if err := oldest.delivery.Err(); err != nil {
				link.conn.Fail(err)
				return
			}
		case <-link.conn.Done():
			return
		case <-ctx.Done():
			return
		case <-timer.C:
			link.conn.Fail(client.ErrNoPuback)
			return
		}
	}
}

// host is the retained word on whether the hub is there.
func (h *Hub) host(status string) (*client.Message, error) {
	payload, err := wire.Encode(&wire.Host{Status: status, Upstream: h.upstream, Instance: h.instance, Time: h.now().UTC()})
	return &client.Message{Topic: wire.HostTopic, Payload: payload, Retained: true}, err
}

// receive puts one message in the queue. It waits while that is full.
func (h *Hub) receive(ctx context.Context, topic string, payload []byte, retained bool) {
	names, kind, ok := wire.ParseUp(topic)
	if !ok {
		h.figures.count(func(f *Figures) { f.Malformed++ })
		return
	}
	if retained && kind != kindState {
		// It says what was, not what is: a box tells nothing retained.
		h.figures.count(func(f *Figures) { f.Retained++ })
		return
	}
	message := decode(names, kind, payload)
	if message == nil {
		return
	}
	h.intake.put(ctx, item{names: names, message: message, bytes: int64(len(topic) + len(payload))})
}

// pause waits for d, or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
