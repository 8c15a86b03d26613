package broker

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/sync/errgroup"

	"edgeclaim"
)

const (
	// couriersAtOnce is how many devices are written to side by side. A device
	// that does not read keeps one for two write timeouts at worst.
	couriersAtOnce = 16
	// dueAtOnce is how many commands are asked for in one go.
	dueAtOnce = 16
	// courierTimeout bounds one errand's waits for the disk.
	courierTimeout = 10 * time.Second
	// courierAgain is how soon an errand that failed is tried again.
	courierAgain = 2 * time.Second
)

// errand is how far a device is served.
type errand byte

const (
	errandWaiting errand = iota + 1
	errandRunning
	errandAgain // it is running, and something came meanwhile
)

// couriers knows the devices that there may be something for. All of them are
// connected, so they are bounded as devices are. One errand of a device runs at a
// time: that keeps its messages in order.
type couriers struct {
	mu      sync.Mutex
	errands map[edgeclaim.DeviceID]errand
	due     []edgeclaim.DeviceID            // those that wait, in order
	failed  map[edgeclaim.DeviceID]struct{} // to be tried again
	signal  chan struct{}                   // some are due; capacity 1

	round  round
	rounds chan struct{} // a round is to begin; capacity 1
}

func newCouriers() couriers {
	return couriers{
		errands: map[edgeclaim.DeviceID]errand{},
		failed:  map[edgeclaim.DeviceID]struct{}{},
		signal:  make(chan struct{}, 1),
		rounds:  make(chan struct{}, 1),
	}
}

func (k *couriers) wake(id edgeclaim.DeviceID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wakeLocked(id)
}

func (k *couriers) wakeLocked(id edgeclaim.DeviceID) {
	switch k.errands[id] {
	case 0:
		k.errands[id] = errandWaiting
		k.due = append(k.due, id)
		select {
		case k.signal <- struct{}{}:
		default:
		}
	case errandRunning:
		k.errands[id] = errandAgain
	case errandWaiting, errandAgain:
	}
}

// next is the device to be served next, if there is one; see done.
func (k *couriers) next() (edgeclaim.DeviceID, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.due) == 0 {
		k.due = nil
		return edgeclaim.DeviceID{}, false
	}
	id := k.due[0]
	k.due = k.due[1:]
	k.errands[id] = errandRunning
	return id, true
}

// done ends what next began.
func (k *couriers) done(id edgeclaim.DeviceID, failed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	again := k.errands[id] == errandAgain
	delete(k.errands, id)
	switch {
	case failed:
		k.failed[id] = struct{}{}
	case again:
		k.wakeLocked(id)
	}
}

// retry makes due who failed.
func (k *couriers) retry() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range k.failed {
		k.wakeLocked(id)
	}
	clear(k.failed)
}

// Wake says that there may be something for the device: a command is due, or its
// configuration has changed. It never blocks, and any goroutine may call it. A
// device that is not connected is told when it is.
func (b *Broker) Wake(id edgeclaim.DeviceID) {
	if cl, ok := b.server.Clients.Get(id.String()); ok && !cl.Closed() {
		b.couriers.wake(id)
	}
}

// carry serves the devices that are due, until the broker stops. Run starts and
// awaits it.
func (b *Broker) carry() {
	var group errgroup.Group
	group.SetLimit(couriersAtOnce)
	defer func() { _ = group.Wait() }() // serve has no error
	tick := time.NewTicker(courierAgain)
	defer tick.Stop()
	step := time.NewTicker(roundEvery)
	step.Stop()
	defer step.Stop()
	for going := false; ; {
		select {
		case <-b.stopped:
			return
		case <-tick.C:
			b.couriers.retry()
		case <-b.couriers.rounds:
			if !going { // or who calls all the time would put it off for ever
				going = true
				step.Reset(roundEvery)
			}
		case <-step.C:
			if going = b.goRound(); !going {
				step.Stop()
			}
		case <-b.couriers.signal:
		}
		for id, ok := b.couriers.next(); ok; id, ok = b.couriers.next() {
			group.Go(func() error {
				b.serve(id)
				return nil
			})
		}
	}
}

// serve writes to a device what there is for it.
func (b *Broker) serve(id edgeclaim.DeviceID) {
	failed := true // unless it returns
	defer func() {
		if v := recover(); v != nil {
			b.logPanic("serve", v)
		}
		b.couriers.done(id, failed)
	}()
	cl, ok := b.server.Clients.Get(id.String())
	if !ok || cl.Closed() || !connOf(cl).greeted.Load() || b.isStopped() { // OnSessionEstablished greets, and wakes
		failed = false
		return
	}
	c := connOf(cl)
	ctx, cancel := context.WithTimeout(b.ctx, courierTimeout)
	defer cancel()
	err := b.sendConfig(ctx, c, cl)
	if err == nil {
		err = b.sendCommands(ctx, c, cl)
	}
	failed = err != nil && !cl.Closed()
	if err != nil && b.replaced(cl, id) {
		// What was marked as sent is on no connection, and the next may have
		// said that it listens before that.
		b.listening(c)
		b.couriers.wake(id)
	}
	if failed {
		if say, unsaid := b.undelivered.take(time.Now()); say {
			b.log.LogAttrs(b.ctx, slog.LevelError, "not delivered",
				slog.Any("device_id", id), slog.Any("error", err), slog.Int("unsaid", unsaid))
		}
	}
}

// sendCommands writes the commands that are due. That they are sent is durable
// before the first byte of them is.
func (b *Broker) sendCommands(ctx context.Context, c *conn, cl *mqtt.Client) error {
	if b.parts.Commands == nil {
		return nil
	}
	name := c.topics.prefix + commandsTopic
	for {
		sub, ok := cl.State.Subscriptions.Get(name)
		room := min(c.outgoing.room(), dueAtOnce)
		if !ok || room == 0 { // with room again, its PUBACK wakes
			return nil
		}
		due, err := b.parts.Commands.Due(ctx, c.device, room)
		if err != nil || len(due) == 0 {
			return err
		}
		ids := make([]edgeclaim.CommandID, len(due))
		for i := range due {
			ids[i] = due[i].ID
		}
		if err := b.parts.Commands.Sent(ctx, c.device, ids...); err != nil {
			return err
		}
		for i := range due {
			if err := b.sendCommand(c, cl, &sub, &due[i]); err != nil {
				return err
			}
		}
		if len(due) < room {
			return nil
		}
	}
}

// sendCommand writes one command, unless its time went while it became durable.
func (b *Broker) sendCommand(c *conn, cl *mqtt.Client, sub *packets.Subscription, due *edgeclaim.Command) error {
	now := b.now()
	if !now.Before(due.ExpiresAt) {
		return nil
	}
	body, err := b.parts.Encode(*due)
	switch {
	case errors.Is(err, edgeclaim.ErrConflict):
		return nil
	case err != nil: // it is due again later, and must not keep the others up
		if say, unsaid := b.undelivered.take(time.Now()); say {
			b.log.LogAttrs(b.ctx, slog.LevelError, "command cannot be written", slog.Any("device_id", c.device),
				slog.String("command_id", due.ID.String()), slog.Any("error", err), slog.Int("unsaid", unsaid))
		}
		return nil
	}
	n := notice{topic: sub.Filter, body: body, command: due.ID, expires: due.ExpiresAt.Sub(now)}
	return b.send(c, cl, sub, n)
}

// sendConfig writes the device's configuration, unless this connection has been
// told the same: a version may rise without a word changing for this device.
func (b *Broker) sendConfig(ctx context.Context, c *conn, cl *mqtt.Client) error {
	name := c.topics.prefix + configTopic
	sub, ok := cl.State.Subscriptions.Get(name)
	if !ok || b.parts.Configs == nil || c.outgoing.room() == 0 {
		return nil
	}
	told := c.told.Load()
	config, err := b.parts.Configs.Config(ctx, c.device)
	if err != nil || config.Version == 0 {
		return err
	}
	content := b.contentOf(config.Config)
	if content == told {
		return nil
	}
	body, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := b.send(c, cl, &sub, notice{topic: name, body: body}); err != nil {
		return err
	}
	c.told.CompareAndSwap(told, content) // unless it has subscribed again meanwhile
	return nil
}

// contentOf tells configurations apart; it is never 0. That two are taken for
// one comes to pass once in 2^63 changes.
func (b *Broker) contentOf(config []byte) uint64 { return maphash.Bytes(b.seed, config) | 1<<63 }

// notice is a message to a device.
type notice struct {
	topic   string
	body    []byte
	command edgeclaim.CommandID // zero: it is none
	expires time.Duration       // 0: never
}

// send writes a message, at the QoS that the device subscribed with. One that is
// too large for it is not sent: it would hold all others up.
func (b *Broker) send(c *conn, cl *mqtt.Client, sub *packets.Subscription, n notice) error {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: min(sub.Qos, 1)},
		TopicName:   n.topic,
		Payload:     n.body,
		Properties: packets.Properties{
			ContentType:           string(edgeclaim.FormatJSON),
			PayloadFormat:         1,
			PayloadFormatFlag:     true,
			MessageExpiryInterval: uint32(n.expires / time.Second),
		},
	}
	if sub.Identifier > 0 { // MQTT 5.0, section 3.3.2.3.8
		pk.Properties.SubscriptionIdentifier = []int{sub.Identifier}
	}
	if pk.FixedHeader.Qos > 0 {
		pk.PacketID = c.outgoing.begin(n.command)
	}
	err := cl.WritePacket(pk)
	if errors.Is(err, packets.ErrPacketTooLarge) {
		c.outgoing.end(pk.PacketID)
		if say, unsaid := b.undelivered.take(time.Now()); say {
			b.log.LogAttrs(b.ctx, slog.LevelWarn, "message larger than the device takes",
				slog.Any("device_id", c.device), slog.String("command_id", n.command.String()), slog.Int("unsaid", unsaid))
		}
		return nil
	}
	return err
}

func (b *Broker) isStopped() bool {
	select {
	case <-b.stopped:
		return true
	default:
		return false
	}
}

func (b *Broker) now() time.Time {
	if b.parts.Now == nil {
		return time.Now()
	}
	return b.parts.Now()
}

// acknowledged takes a device's PUBACK, and reports whether it was awaited.
func (b *Broker) acknowledged(c *conn, pk *packets.Packet) bool {
	command, full, ok := c.outgoing.end(pk.PacketID)
	if !ok {
		return false
	}
	if full {
		b.couriers.wake(c.device)
	}
	if command.IsZero() || pk.ReasonCode >= packets.ErrUnspecifiedError.Code || b.parts.Commands == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(b.ctx, courierTimeout)
	defer cancel()
	// It may fail: the command is sent again when nothing more is heard of it.
	if err := b.parts.Commands.Delivered(ctx, c.device, command); err != nil {
		if say, unsaid := b.undelivered.take(time.Now()); say {
			b.log.LogAttrs(b.ctx, slog.LevelError, "delivery not kept", slog.Any("device_id", c.device),
				slog.String("command_id", command.String()), slog.Any("error", err), slog.Int("unsaid", unsaid))
		}
	}
	return true
}

// listening says that the device has subscribed to its commands, or come back
// with such a subscription. It comes before others may write to it: what they
// send is not to be sent twice.
func (b *Broker) listening(c *conn) {
	if b.parts.Commands != nil {
		b.parts.Commands.Listening(c.device)
	}
}

// outgoing is the messages on their way to a device. The packet ids are its own,
// and so is what becomes of a message: mochi would send it again on the next
// connection, though it had expired by then.
type outgoing struct {
	window int // how many may be on their way; set at CONNECT

	mu    sync.Mutex
	last  uint16                         // packet id; guarded by mu
	onWay map[uint16]edgeclaim.CommandID // guarded by mu
}

// room is how many more may be sent.
func (o *outgoing) room() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return max(o.window-len(o.onWay), 0)
}

// begin gives a message its packet id. There is room.
func (o *outgoing) begin(command edgeclaim.CommandID) uint16 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.onWay == nil {
		o.onWay = map[uint16]edgeclaim.CommandID{}
	}
	for {
		o.last++
		if _, taken := o.onWay[o.last]; !taken && o.last != 0 {
			break
		}
	}
	o.onWay[o.last] = command
	return o.last
}

// end takes a message off. full: there was no room before.
func (o *outgoing) end(id uint16) (command edgeclaim.CommandID, full, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	full = len(o.onWay) >= o.window
	command, ok = o.onWay[id]
	delete(o.onWay, id)
	return command, full, ok
}
