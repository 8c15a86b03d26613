package broker

import (
	"log/slog"
	"strings"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim/internal/topic"
)

// hook is the only one mochi has, because mochi ORs the verdicts of several.
// Without it nobody may do anything. Its methods run on the goroutine that
// reads from the client, unless said otherwise, with no lock of mochi's held.
// None lets a panic out, and none returns a wrapped packets.Code: mochi would
// panic on it.
type hook struct {
	mqtt.HookBase
	b *Broker
}

// ID implements mqtt.Hook.
func (*hook) ID() string { return "edgeclaim" }

// Provides implements mqtt.Hook.
func (*hook) Provides(point byte) bool {
	switch point {
	case mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnSessionEstablish, mqtt.OnSessionEstablished,
		mqtt.OnACLCheck, mqtt.OnPacketRead, mqtt.OnPacketEncode, mqtt.OnPacketSent, mqtt.OnPublish, mqtt.OnSubscribed, mqtt.OnUnsubscribed,
		mqtt.OnWill, mqtt.OnWillSent, mqtt.OnDisconnect:
		return true
	}
	return false
}

// rescue keeps a panic in a hook from ending the process, and ends the
// connection that caused it. It is deferred directly.
func (h *hook) rescue(cl *mqtt.Client, point string) {
	if v := recover(); v != nil {
		h.b.logPanic(point, v)
		cl.Stop(packets.ErrUnspecifiedError)
	}
}

// OnConnect decides who is there. It is called before anything of the client's
// is looked at, and an error ends the connection.
func (h *hook) OnConnect(cl *mqtt.Client, pk packets.Packet) (err error) {
	err = packets.ErrUnspecifiedError // unless it returns
	defer h.rescue(cl, "on connect")
	c := connOf(cl)
	if c == nil {
		return err
	}
	c.client = cl
	// A Receive Maximum above 0 leads to where mochi takes one read lock
	// twice: any writer in between stops that client and all who publish to
	// it for ever. What a device is sent, outgoing counts.
	c.outgoing.window = h.b.cfg.MaxInflight
	if most := int(cl.Properties.Props.ReceiveMaximum); most > 0 {
		c.outgoing.window = min(most, c.outgoing.window)
	}
	cl.Properties.Props.ReceiveMaximum = 0
	cl.State.Inflight.ResetSendQuota(0)
	h.b.limitKeepAlive(cl)
	code := h.b.admit(c, cl, &pk)
	if code == packets.CodeSuccess {
		return nil
	}
	h.b.log.LogAttrs(h.b.ctx, slog.LevelDebug, "connection refused",
		slog.Any("source", c.source()), slog.String("reason", code.Reason))
	h.b.refuseConnect(cl, code)
	return code
}

// OnConnectAuthenticate implements mqtt.Hook: OnConnect has seen to it.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) (ok bool) {
	defer h.rescue(cl, "on connect authenticate")
	c := connOf(cl)
	return c != nil && c.role != roleConnecting
}

// OnSessionEstablish implements mqtt.Hook: mochi takes the old session over.
func (h *hook) OnSessionEstablish(cl *mqtt.Client, _ packets.Packet) {
	defer h.rescue(cl, "on session establish")
	if c := connOf(cl); c.role == roleDevice {
		h.b.away.remove(c.device, nil)
	}
}

// OnSessionEstablished implements mqtt.Hook: mochi has taken it over.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	defer h.rescue(cl, "on session established")
	c := connOf(cl)
	if c.unlock != nil {
		c.unlock()
		c.unlock = nil
	}
	back := c.role == roleDevice && cl.State.Subscriptions.Len() > 0
	if _, listens := cl.State.Subscriptions.Get(c.topics.prefix + commandsTopic); back && listens {
		h.b.listening(c)
	}
	c.greeted.Store(true)
	if back {
		h.b.couriers.wake(c.device)
	}
}

// OnSubscribed implements mqtt.Hook. The SUBACK is not written yet; see
// OnPacketSent.
func (h *hook) OnSubscribed(cl *mqtt.Client, pk packets.Packet, codes []byte) {
	defer h.rescue(cl, "on subscribed")
	c := connOf(cl)
	if c != nil && c.role == roleUser {
		h.b.consumers.subscribed(c.consumer, &pk, codes)
		return
	}
	if c == nil || c.role != roleDevice {
		return
	}
	for i, sub := range pk.Filters {
		switch {
		case codes[i] >= packets.ErrUnspecifiedError.Code:
		case sub.Filter == c.topics.prefix+configTopic:
			c.told.Store(0) // it asks to be told anew
			c.subscribed = true
		case sub.Filter == c.topics.prefix+commandsTopic:
			c.subscribed = true
			h.b.listening(c)
		}
	}
}

// OnUnsubscribed implements mqtt.Hook. It is called at the end of a session too.
func (h *hook) OnUnsubscribed(cl *mqtt.Client, pk packets.Packet) {
	defer h.rescue(cl, "on unsubscribed")
	if c := connOf(cl); c != nil && c.role == roleUser {
		h.b.consumers.unsubscribed(c.consumer, &pk)
	}
}

// OnPacketSent implements mqtt.Hook: behind the SUBACK comes what is due.
func (h *hook) OnPacketSent(cl *mqtt.Client, pk packets.Packet, _ []byte) {
	if pk.FixedHeader.Type != packets.Suback {
		return
	}
	defer h.rescue(cl, "on packet sent")
	c := connOf(cl)
	if c != nil && c.role == roleUser {
		c.consumer.start()
	}
	if c != nil && c.subscribed {
		c.subscribed = false
		h.b.couriers.wake(c.device)
	}
}

// aside is where mochi publishes wills: nobody subscribes there. It would route
// them, as it routes nothing else, to users who hear them from deliver.
const aside = "$aside/"

// OnWill implements mqtt.Hook. A will that was to wait is void when the device is
// back (MQTT 5.0, section 3.1.3.2.2). mochi would keep it all the same where the
// old connection ends after the new one has begun, send it in the new one's name,
// and take that one's own will away.
func (h *hook) OnWill(cl *mqtt.Client, will mqtt.Will) (mqtt.Will, error) {
	defer h.rescue(cl, "on will")
	c := connOf(cl)
	if will.WillDelayInterval > 0 && c != nil && c.role == roleDevice && h.b.replaced(cl, c.device) {
		c.resumed = true
		cl.Properties.Will.WillDelayInterval = 0 // due now, and OnWillSent drops it
	}
	will.TopicName = aside + will.TopicName
	return will, nil
}

// OnWillSent implements mqtt.Hook: a will is due.
func (h *hook) OnWillSent(cl *mqtt.Client, pk packets.Packet) {
	defer h.rescue(cl, "on will sent")
	c := connOf(cl)
	if c == nil || c.role != roleDevice {
		return
	}
	waited := pk.Connect.WillProperties.WillDelayInterval > 0
	if waited && !cl.Closed() || !waited && c.resumed { // the device is back
		return
	}
	pk.TopicName = strings.TrimPrefix(pk.TopicName, aside)
	h.b.lastWord(c, cl, &pk)
}

// OnDisconnect implements mqtt.Hook. mochi cleans up when it returns, so the
// device's lock is taken here and released at the end of the connection.
func (h *hook) OnDisconnect(cl *mqtt.Client, _ error, expire bool) {
	defer h.rescue(cl, "on disconnect")
	c := connOf(cl)
	h.b.parts.Precedence.Give(&c.ledger.turn) // where what it sent last could not be looked at to its end
	h.b.settle(c)
	if c.role != roleDevice || expire || cl.IsTakenOver() {
		return
	}
	expiry := time.Duration(c.expiry.Load()) * time.Second
	h.b.away.add(absent{id: c.device, cl: cl, until: time.Now().Add(expiry)})
	// After it was added: Disconnect first marks it, then looks who is away.
	if c.discard.Load() {
		h.b.away.remove(c.device, cl)
		h.b.forget(cl)
	}
}

// settle takes the device's lock for the cleaning up.
func (b *Broker) settle(c *conn) {
	c.settled = true
	if c.role == roleDevice && c.unlock == nil {
		c.unlock = b.ids.lock(c.device)
	}
}

// OnACLCheck implements mqtt.Hook: whatever is not allowed here is refused. It
// is asked about filters at SUBSCRIBE, about topics at PUBLISH, and about the
// topic of each message on its way to a client, then from other goroutines.
func (h *hook) OnACLCheck(cl *mqtt.Client, name string, write bool) (ok bool) {
	defer h.rescue(cl, "on acl check")
	c := connOf(cl)
	if c == nil {
		return false
	}
	switch c.role {
	case roleClaimant:
		if write {
			return name == requestTopic || name == requestTopicCBOR
		}
		return claimantMaySubscribe(name) && cl.State.Subscriptions.Len() < h.b.cfg.MaxSubscriptions
	case roleDevice:
		if write {
			return c.topics.mayPublish(name)
		}
		return c.topics.maySubscribe(name)
	case roleUser:
		if write {
			return c.consumer.user.mayPublish(name)
		}
		_, again := cl.State.Subscriptions.Get(name)
		return c.consumer.user.maySubscribe(name) && (again || cl.State.Subscriptions.Len() < h.b.cfg.MaxSubscriptions)
	default:
		return false
	}
}

// OnPacketRead implements mqtt.Hook: it refuses what mochi would let pass, or
// change in silence.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (out packets.Packet, err error) {
	out, err = pk, packets.ErrRejectPacket // unless it returns
	defer h.rescue(cl, "on packet read")
	c := connOf(cl)
	if c == nil {
		return pk, err
	}
	if c.role == roleConnecting {
		if pk.FixedHeader.Type == packets.Connect && len(pk.Connect.Password) == 0 {
			pk.Connect.PasswordFlag = false // mochi refuses a zero-length password, which both versions allow
		}
		return pk, nil
	}
	if c.reports(&pk) {
		return pk, nil
	}
	if h.b.pay(c, cl) != nil { // acknowledgements keep the order
		return pk, err
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if code := refusePublish(&pk); code != packets.CodeSuccess {
			h.b.hangUp(cl, code)
			return pk, packets.ErrRejectPacket
		}
	case packets.Subscribe, packets.Unsubscribe:
		if c.role == roleClaimant {
			h.b.touch(c)
		}
		if c.role == roleUser && len(pk.Properties.SubscriptionIdentifier) > 0 { // he was told in the CONNACK
			h.b.hangUp(cl, packets.ErrSubscriptionIdentifiersNotSupported)
			return pk, packets.ErrRejectPacket
		}
	case packets.Puback:
		if c.role == roleDevice && h.b.acknowledged(c, &pk) || c.role == roleUser && c.consumer.acknowledged(pk.PacketID) {
			c.pace.spend(time.Now(), -1) // its pace is that of what it is sent
		}
	case packets.Disconnect:
		c.disconnecting(cl, &pk)
		if c.role == roleDevice && !willFollows(cl, &pk) && !h.b.replaced(cl, c.device) {
			h.b.left(c.device)
		}
	}
	return pk, nil
}

// reports reports whether a packet is telemetry or an event of a device's, which
// is noted behind those that are owed an acknowledgement.
func (c *conn) reports(pk *packets.Packet) bool {
	return c.role == roleDevice && pk.FixedHeader.Type == packets.Publish && c.topics.mayWill(pk.TopicName) &&
		refusePublish(pk) == packets.CodeSuccess
}

// willFollows reports whether a DISCONNECT has the will published.
func willFollows(cl *mqtt.Client, pk *packets.Packet) bool {
	return pk.ReasonCode == packets.CodeDisconnectWillMessage.Code && cl.Properties.Will.Flag == 1
}

// refusePublish names what no client of this broker may send. mochi would turn
// QoS 2 into 1, keep quiet about $SYS, and take RETAIN for nothing.
func refusePublish(pk *packets.Packet) packets.Code {
	switch {
	case pk.FixedHeader.Qos > 1:
		return packets.ErrQosNotSupported
	case pk.FixedHeader.Retain:
		return packets.ErrRetainNotSupported
	case pk.TopicName == "": // an alias, or nothing: mochi refuses both
		return packets.CodeSuccess
	case !topic.ValidName(pk.TopicName) || strings.HasPrefix(pk.TopicName, "$"):
		return packets.ErrTopicNameInvalid
	}
	return packets.CodeSuccess
}

// touch counts as activity of a claimant. One that waits for approval has work.
func (b *Broker) touch(c *conn) {
	c.act()
	if !c.parked.Load() {
		b.claimants.rest(c)
	}
}

// disconnecting applies what a DISCONNECT says of the session (MQTT 5.0,
// section 3.14.2.2.2) in mochi's place, which would set the flag that
// limitSession keeps from it. To ask for a session at the end is an error,
// which mochi reports.
func (c *conn) disconnecting(cl *mqtt.Client, pk *packets.Packet) {
	if !pk.Properties.SessionExpiryIntervalFlag || c.expiry.Load() == 0 {
		return
	}
	limit := int64(c.cfg.SessionExpiry / time.Second)
	asked := min(int64(pk.Properties.SessionExpiryInterval), limit)
	c.expiry.Store(asked)
	cl.Properties.Props.SessionExpiryInterval = uint32(asked)
	limitWill(cl, asked)
	pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 0, false
}

// OnPacketEncode implements mqtt.Hook. Acknowledgements come here on the
// goroutine that reads; other packets may come on others.
func (h *hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) (out packets.Packet) {
	out = pk
	defer h.rescue(cl, "on packet encode")
	c := connOf(cl)
	if c == nil {
		return pk
	}
	if pk.FixedHeader.Type == packets.Connack {
		c.complete(&pk)
		if v := cl.Properties.ProtocolVersion; v != 5 {
			pk.ReasonCode = returnCode(pk.ReasonCode, v)
		}
	}
	return pk
}

// returnCode puts a reason code of MQTT 5 into the five words that MQTT 3.1.1
// has for a refusal (section 3.2.2.3): mochi sends some that it has not.
func returnCode(reason, version byte) byte {
	switch {
	case reason <= packets.Err3NotAuthorized.Code:
		return reason
	case version != 4:
		return packets.Err3UnsupportedProtocolVersion.Code
	}
	switch reason {
	case packets.ErrUnspecifiedError.Code, packets.ErrClientIdentifierNotValid.Code: // the first: no client id, and a session
		return packets.Err3ClientIdentifierNotValid.Code
	case packets.ErrServerUnavailable.Code, packets.ErrServerBusy.Code, packets.ErrQuotaExceeded.Code:
		return packets.Err3ServerUnavailable.Code
	default:
		return packets.Err3NotAuthorized.Code
	}
}

// complete adds to a CONNACK what mochi does not say: its limits, and what
// became of the session.
func (c *conn) complete(pk *packets.Packet) {
	if c.role == roleConnecting { // a refusal
		return
	}
	if c.fresh {
		pk.SessionPresent = false
	}
	p := &pk.Properties
	p.MaximumPacketSize = uint32(c.frame.limit)
	p.RetainAvailable, p.RetainAvailableFlag = 0, true
	p.SharedSubAvailable, p.SharedSubAvailableFlag = 0, true
	if c.role == roleUser {
		p.SharedSubAvailable = 1
		p.SubIDAvailable, p.SubIDAvailableFlag = 0, true
	}
	if c.tell {
		p.SessionExpiryInterval, p.SessionExpiryIntervalFlag = uint32(c.expiry.Load()), true
	}
}

// OnPublish implements mqtt.Hook: the claim happens here, before mochi
// acknowledges anything. Blocking is the back-pressure wanted: it stops this
// client alone. mochi routes nothing.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (out packets.Packet, err error) {
	// Of all errors only this one keeps mochi from acknowledging; see claim.
	out, err = pk, packets.ErrRejectPacket
	defer h.rescue(cl, "on publish")
	c := connOf(cl)
	switch {
	case c == nil:
	case c.role == roleDevice && c.topics.requests(pk.TopicName):
		h.b.renew(c, cl, &pk)
	case c.role == roleDevice:
		h.b.report(c, cl, &pk)
	case c.role == roleClaimant:
		h.b.claim(c, cl, &pk)
	case c.role == roleUser:
		h.b.order(c, cl, &pk)
	}
	return pk, packets.ErrRejectPacket
}
