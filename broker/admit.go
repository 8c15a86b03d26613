package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim"
)

// claimantName is the username of those who have no identity yet; none at all
// means the same. Their password is not looked at.
const claimantName = "provision"

// limitKeepAlive sees to it that every connection has a deadline, one and a
// half times its keep-alive (MQTT 5.0, section 3.1.2.10).
func (b *Broker) limitKeepAlive(cl *mqtt.Client) {
	limit, most := uint16(b.cfg.MaxKeepAlive/time.Second), uint16(maxKeepAlive/time.Second)
	asked := cl.State.Keepalive
	switch {
	case cl.Properties.ProtocolVersion >= 5 && (asked == 0 || asked > limit):
		cl.State.Keepalive, cl.State.ServerKeepalive = limit, true
	case asked == 0: // MQTT 3.1.1 cannot be told
		cl.State.Keepalive = limit
	case asked > most:
		cl.State.Keepalive = most
	}
}

func (b *Broker) refuseConnect(cl *mqtt.Client, code packets.Code) {
	if cl.Properties.ProtocolVersion < 5 { // MQTT 3.1.1, section 3.2.2.3
		if code == packets.ErrServerBusy {
			code = packets.Err3ServerUnavailable
		} else {
			code = packets.Err3NotAuthorized
		}
	}
	_ = b.server.SendConnack(cl, code, false, nil)
}

// admitClaimant lets a client in that may claim and nothing else. Its client id
// means nothing: devices burnt with one image all have the same, and mochi
// would let each put the one before out. What it asks to have kept is not.
func (b *Broker) admitClaimant(c *conn, cl *mqtt.Client, pk *packets.Packet) packets.Code {
	if pk.Connect.WillFlag { // mochi publishes wills without asking anybody
		return packets.ErrNotAuthorized
	}
	cl.ID = "claimant-" + strconv.FormatUint(b.lastID.Add(1), 36)
	props := &cl.Properties.Props
	if props.AssignedClientID != "" {
		props.AssignedClientID = cl.ID
	}
	cl.Properties.Clean = true
	c.tell = props.SessionExpiryInterval > 0
	props.SessionExpiryInterval, props.SessionExpiryIntervalFlag = 0, false
	b.connecting.leave(c)
	if !b.claimants.enter(c) {
		return packets.ErrServerBusy
	}
	c.role, c.active = roleClaimant, time.Now()
	c.frame.limit = b.cfg.MaxClaimantPacket
	return packets.CodeSuccess
}

// admitDevice lets a device in that knows its credential. Its client id is its
// device id, whatever it says. It returns with the device's lock held.
func (b *Broker) admitDevice(c *conn, cl *mqtt.Client, pk *packets.Packet) packets.Code {
	id, err := edgeclaim.ParseDeviceID(string(pk.Connect.Username))
	if err != nil {
		return packets.ErrBadUsernameOrPassword
	}
	key := edgeclaim.NewSecret(string(pk.Connect.Password))
	if !b.authentic(id, key) {
		return packets.ErrBadUsernameOrPassword
	}
	topics := topicsOf(id)
	if pk.Connect.WillFlag && (pk.Connect.WillRetain || !topics.mayPublish(pk.Connect.WillTopic)) {
		return packets.ErrNotAuthorized
	}
	// Only who knows the credential gets to wait for the lock. It is asked
	// for again behind it, once it is registered: see Disconnect.
	c.device, c.unlock = id, b.ids.lock(id)
	b.ids.enter(id, cl)
	if !b.authentic(id, key) {
		return packets.ErrBadUsernameOrPassword
	}
	old, known := b.server.Clients.Get(id.String())
	if b.seats.Add(1) > int64(b.cfg.MaxDevices) && (!known || old.Closed()) {
		b.seats.Add(-1)
		return packets.ErrServerBusy
	}
	c.seated = true
	cl.ID = id.String()
	if cl.Properties.Props.AssignedClientID != "" {
		cl.Properties.Props.AssignedClientID = cl.ID
	}
	c.topics, c.role = topics, roleDevice
	c.frame.limit = b.cfg.MaxDevicePacket
	b.connecting.leave(c)
	b.limitSession(c, cl, pk)
	if known && !pk.Connect.Clean {
		b.partWith(old, c)
	}
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}) // without it, MQTT's own is left
	}
	return packets.CodeSuccess
}

// authentic asks within the time that a connection has to log in.
func (b *Broker) authentic(id edgeclaim.DeviceID, key edgeclaim.Secret) bool {
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.ConnectTimeout)
	defer cancel()
	err := b.devices.Authenticate(ctx, id, key)
	if err != nil && !errors.Is(err, edgeclaim.ErrUnauthenticated) {
		b.log.LogAttrs(ctx, slog.LevelError, "authentication failed", slog.Any("error", err))
	}
	return err == nil
}

// limitSession bounds how long the session is kept. mochi is left without the
// flag by which it would do so itself: see away.
func (b *Broker) limitSession(c *conn, cl *mqtt.Client, pk *packets.Packet) {
	limit := int64(b.cfg.SessionExpiry / time.Second)
	props := &cl.Properties.Props
	asked := int64(props.SessionExpiryInterval)
	if cl.Properties.ProtocolVersion < 5 {
		if !pk.Connect.Clean {
			asked = limit
		}
	} else {
		c.tell = asked > limit
	}
	asked = min(asked, limit)
	c.expiry.Store(asked)
	props.SessionExpiryInterval, props.SessionExpiryIntervalFlag = uint32(asked), false
}

// partWith empties a session that ends with its connection, before mochi hands
// it on to the connection that takes over.
func (b *Broker) partWith(old *mqtt.Client, c *conn) {
	oc := connOf(old)
	if oc == nil || oc.expiry.Load() > 0 && !oc.discard.Load() {
		return
	}
	b.hangUp(old, packets.ErrSessionTakenOver)
	old.ClearInflights()
	b.server.UnsubscribeClient(old)
	c.fresh = true
}
