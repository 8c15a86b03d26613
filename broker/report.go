package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim"
	"edgeclaim/internal/mqttwire"
	"edgeclaim/internal/precedence"
)

// owed is a message of QoS 1 that came and is not acknowledged yet.
type owed struct {
	id     uint16
	reason byte              // PUBACK's
	commit *edgeclaim.Commit // nil: there is nothing to wait for
	// What users hear once it is durable: nothing of what was refused.
	name     string
	messages [][]byte
}

// ledger is what a device said and is not acknowledged yet. A connection pays
// before it reads from its socket again: what came in one go shares one wait
// and one write, and who is not read from has TCP's own back-pressure. So it
// never holds more messages than fit into netBuffer. It belongs to the reading
// goroutine.
type ledger struct {
	owed []owed
	out  []byte // the acknowledgements, kept for the next
	// turn is held while points are looked at, never while anything but
	// processors is waited for.
	turn precedence.Turn
	// paying: they are waited for; any goroutine may look.
	paying atomic.Bool
}

var (
	errNotCommitted = errors.New("not committed in time")
	errBoxStopping  = errors.New("stopping")
)

// report gives what a device said to Reports, and notes what it is owed for it.
// mochi acknowledges nothing.
func (b *Broker) report(c *conn, cl *mqtt.Client, pk *packets.Packet) {
	fleeting, began := pk.FixedHeader.Qos == 0, time.Now()
	receipt, err := b.takeInTurn(c, pk, fleeting)
	if fleeting {
		b.deliverAll(pk.TopicName, receipt.Messages(pk.Payload), 0)
		return
	}
	if errors.Is(err, edgeclaim.ErrUnavailable) {
		if b.pay(c, cl) != nil { // what came before
			return
		}
		receipt, err = b.insist(c, pk, began)
	}
	o := owed{id: pk.PacketID, commit: receipt.Commit}
	switch {
	case err == nil:
		o.name, o.messages = pk.TopicName, receipt.Messages(pk.Payload)
	case errors.Is(err, edgeclaim.ErrInvalid):
		o.reason = ackPayloadInvalid
	case errors.Is(err, edgeclaim.ErrThrottled):
		o.reason = ackQuotaExceeded
	default:
		if b.pay(c, cl) == nil {
			b.giveUp(c, cl, err)
		}
		return
	}
	c.owed = append(c.owed, o)
}

// reportAgain is when what the box could not take is put to Reports again: not
// sooner, for each time counts against the device's rate.
const reportAgain = time.Second

// insist puts to Reports again what could not be taken when it came, for as long
// as a commit may take. Meanwhile the device waits: to come back and say it again
// would keep the box from its claims, when all of them do.
func (b *Broker) insist(c *conn, pk *packets.Packet, began time.Time) (edgeclaim.Receipt, error) {
	for {
		b.parts.Precedence.Give(&c.ledger.turn)
		left := b.cfg.ReportTimeout - time.Since(began)
		if left <= 0 || waitFor(c.gone, min(left, reportAgain)) {
			return edgeclaim.Receipt{}, edgeclaim.ErrUnavailable
		}
		receipt, err := b.takeInTurn(c, pk, false)
		if !errors.Is(err, edgeclaim.ErrUnavailable) {
			return receipt, err
		}
	}
}

// errNoneTaken: of an array, all was refused.
var errNoneTaken = edgeclaim.Invalid("body", "no point of it can be taken")

// takeInTurn is take for the reading goroutine. Points of one go share a turn; an
// event may be the answer to a command, which waits for the disk.
func (b *Broker) takeInTurn(c *conn, pk *packets.Packet, fleeting bool) (edgeclaim.Receipt, error) {
	if c.topics.telemetry(pk.TopicName) {
		b.parts.Precedence.Take(&c.ledger.turn)
	} else {
		b.parts.Precedence.Give(&c.ledger.turn)
	}
	return b.take(c, pk.TopicName, pk.Payload, fleeting)
}

// take puts what came on that topic to Reports. The body is the packet's own:
// mochi copies each off its buffer.
func (b *Broker) take(c *conn, name string, body []byte, fleeting bool) (edgeclaim.Receipt, error) {
	if b.parts.Reports == nil {
		return edgeclaim.Receipt{Accepted: 1}, nil
	}
	r := edgeclaim.Report{By: c.admission, Body: body, Via: edgeclaim.ViaMQTT, Source: c.source(), Fleeting: fleeting}
	if c.topics.telemetry(name) {
		receipt, err := b.parts.Reports.Telemetry(b.ctx, r)
		if err == nil && receipt.Accepted == 0 {
			err = errNoneTaken
		}
		return receipt, err
	}
	// An event may be the answer to a command, which is decided at once.
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.ReportTimeout)
	defer cancel()
	return b.parts.Reports.Event(ctx, r)
}

// pay waits until what the device said is durable (P1), and writes its PUBACKs,
// all in one write, in the order in which the messages came (MQTT 5.0, section
// 4.6). What was not committed is not acknowledged: the connection ends, and an
// error says so.
func (b *Broker) pay(c *conn, cl *mqtt.Client) error {
	b.parts.Precedence.Give(&c.ledger.turn)
	if len(c.owed) == 0 {
		return nil
	}
	c.paying.Store(true)
	began := time.Now()
	good, err := b.await(c)
	b.inTurn(&c.ledger.turn)
	version, out := mqttwire.Version(cl.Properties.ProtocolVersion), c.out[:0]
	for _, o := range c.owed[:good] {
		out = mqttwire.AppendPuback(out, version, o.id, o.reason)
	}
	b.write(c, cl, out)
	for _, o := range c.owed[:good] {
		b.deliverAll(o.name, o.messages, 1)
	}
	clear(c.owed)
	c.owed, c.out = c.owed[:0], out[:0]
	c.paying.Store(false)
	if err != nil {
		b.giveUp(c, cl, err)
		return err
	}
	b.stopping(cl)
	return c.putOff(time.Since(began))
}

// inTurn waits for a turn. All that share a commit are told of its end at one
// time, and each writes: in turn, or a claim would be behind all of them. A
// client that does not read holds up a write, so the turn ends before it.
func (b *Broker) inTurn(t *precedence.Turn) {
	b.parts.Precedence.Take(t)
	b.parts.Precedence.Give(t)
}

// await waits for the commits, and returns for how many of the messages, from
// the first, there is nothing more to wait for.
func (b *Broker) await(c *conn) (good int, err error) {
	var last *edgeclaim.Commit // most share one
	var limit *time.Timer
	for _, o := range c.owed {
		if o.commit != nil && o.commit != last {
			select {
			case <-o.commit.Done():
			default:
				if limit == nil {
					limit = time.NewTimer(b.cfg.ReportTimeout)
					defer limit.Stop()
				}
				if err := b.awaitOne(o.commit, limit, c.gone); err != nil {
					return good, err
				}
			}
			if err := o.commit.Wait(b.ctx); err != nil {
				return good, err
			}
			last = o.commit
		}
		good++
	}
	return good, nil
}

func (b *Broker) awaitOne(commit *edgeclaim.Commit, limit *time.Timer, gone <-chan struct{}) error {
	select {
	case <-commit.Done():
		return nil
	case <-limit.C:
		return errNotCommitted
	case <-gone:
		return net.ErrClosed
	case <-b.ctx.Done():
		return errBoxStopping
	}
}

// giveUp ends a connection on which something was not committed, so that the
// device says it again on the next.
func (b *Broker) giveUp(c *conn, cl *mqtt.Client, err error) {
	select {
	case <-c.gone: // nobody is there to be told, and it is not the box's fault
		return
	default:
	}
	if say, unsaid := b.uncommitted.take(time.Now()); say {
		b.log.LogAttrs(b.ctx, slog.LevelError, "report not committed",
			slog.Any("device_id", c.device), slog.Any("error", err), slog.Int("unsaid", unsaid))
	}
	b.hangUp(cl, packets.ErrServerBusy)
}

// lastWord takes a device's will, when mochi says that it is due: on the
// goroutine of the connection that has just ended, or on mochi's event loop where
// it was delayed. Nobody is there to be acknowledged: what cannot be committed is
// lost, and counted by Reports.
func (b *Broker) lastWord(c *conn, cl *mqtt.Client, pk *packets.Packet) {
	if c.discard.Load() { // its credential is void, and so is what it says
		return
	}
	qos := pk.FixedHeader.Qos
	receipt, err := b.take(c, pk.TopicName, pk.Payload, qos == 0)
	if commit := receipt.Commit; err == nil && commit != nil {
		limit := time.NewTimer(b.cfg.ReportTimeout)
		defer limit.Stop()
		if err = b.awaitOne(commit, limit, nil); err == nil {
			err = commit.Wait(b.ctx)
		}
	}
	if err == nil {
		b.deliverAll(pk.TopicName, receipt.Messages(pk.Payload), qos)
	}
	if !b.replaced(cl, c.device) {
		b.left(c.device)
	}
}

// replaced reports whether another connection has the device's place, or is
// about to: then its will does not say that it has left.
func (b *Broker) replaced(cl *mqtt.Client, id edgeclaim.DeviceID) bool {
	// In this order: a login is on mochi's map before it is registered no more.
	if next := b.ids.entering(id); next != nil && next != cl {
		return true
	}
	now, ok := b.server.Clients.Get(id.String())
	return ok && now != cl
}

// left tells that the device has left.
func (b *Broker) left(id edgeclaim.DeviceID) {
	if b.parts.Reports != nil {
		b.parts.Reports.Gone(id)
	}
}
