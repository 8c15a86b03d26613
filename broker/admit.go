package broker

import (
	"context"
	"errors"
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
		if code == packets.ErrServerBusy || code == packets.ErrServerUnavailable {
			code = packets.Err3ServerUnavailable
		} else {
			code = packets.Err3NotAuthorized
		}
	}
	_ = b.server.SendConnack(cl, code, false, nil)
}

// admit decides who a client is. A certificate whose key it holds, and that is
// a device's present one, says so alone: then its username has to be empty,
// provision or the device's, and its password is not looked at. Any other
// certificate counts for nothing.
func (b *Broker) admit(c *conn, cl *mqtt.Client, pk *packets.Packet) packets.Code {
	received := time.Now()
	code, refused := b.admitAs(c, cl, pk)
	if refused {
		// All of a kind look alike, and answer alike (P3).
		b.holdBack(c, edgeclaim.RefusalDelay-time.Since(received))
	}
	return code
}

// holdBack waits, unless the connection is closed.
func (b *Broker) holdBack(c *conn, d time.Duration) { _ = waitFor(c.gone, d) }

// admitAs also reports whether something that the client showed was refused.
func (b *Broker) admitAs(c *conn, cl *mqtt.Client, pk *packets.Packet) (code packets.Code, refused bool) {
	name := string(pk.Connect.Username)
	claims := name == "" || name == claimantName
	login := edgeclaim.Login{Via: edgeclaim.ViaMQTT, Source: c.source(), Chain: c.chain()}
	if len(login.Chain) > 0 {
		by, code := b.who(b.parts.Devices.Identify, login)
		switch {
		case code == packets.CodeSuccess:
			if id, err := edgeclaim.ParseDeviceID(name); !claims && (err != nil || id != by.Device) {
				return packets.ErrBadUsernameOrPassword, true
			}
			login.Device = by.Device
			code = b.admitDevice(c, cl, pk, login)
			return code, code == packets.ErrBadUsernameOrPassword
		case code != packets.ErrBadUsernameOrPassword:
			return code, false
		}
		login.Chain, refused = nil, true
	}
	if claims {
		return b.admitClaimant(c, cl, pk), refused
	}
	var err error
	if login.Device, err = edgeclaim.ParseDeviceID(name); err != nil {
		code = b.admitUser(c, cl, pk)
		return code, refused || code == packets.ErrBadUsernameOrPassword
	}
	login.Key = edgeclaim.NewSecret(string(pk.Connect.Password))
	if _, code = b.who(b.parts.Devices.Identify, login); code == packets.CodeSuccess {
		code = b.admitDevice(c, cl, pk, login)
	}
	return code, refused || code == packets.ErrBadUsernameOrPassword
}

// who asks within the time that a connection has to log in. What the box cannot
// tell is no refusal: a device that took it for one might throw its credential
// away.
func (b *Broker) who(about func(context.Context, edgeclaim.Login) (edgeclaim.Admission, error), login edgeclaim.Login) (edgeclaim.Admission, packets.Code) {
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.ConnectTimeout)
	defer cancel()
	by, err := about(ctx, login)
	switch {
	case err == nil:
		return by, packets.CodeSuccess
	case errors.Is(err, edgeclaim.ErrUnauthenticated):
		return by, packets.ErrBadUsernameOrPassword
	}
	b.logUndecided(err)
	return by, packets.ErrServerUnavailable
}

// admitClaimant lets a client in that may claim and nothing else. Its client id
// means nothing: devices burnt with one image all have the same, and mochi
// would let each put the one before out. What it asks to have kept is not.
func (b *Broker) admitClaimant(c *conn, cl *mqtt.Client, pk *packets.Packet) packets.Code {
	if pk.Connect.WillFlag { // mochi publishes wills without asking anybody
		return packets.ErrNotAuthorized
	}
	b.rename(c, cl, "claimant-")
	b.connecting.leave(c)
	if !b.claimants.enter(c) {
		return packets.ErrServerBusy
	}
	c.act()
	c.role = roleClaimant
	c.frame.limit = b.cfg.MaxClaimantPacket
	c.pace = newPace(b.cfg.MaxDeviceRate, b.cfg.MaxDeviceBurst)
	return packets.CodeSuccess
}

// rename gives a client an id of the box's own, and a clean session.
func (b *Broker) rename(c *conn, cl *mqtt.Client, prefix string) {
	cl.ID = prefix + strconv.FormatUint(b.lastID.Add(1), 36)
	props := &cl.Properties.Props
	if props.AssignedClientID != "" {
		props.AssignedClientID = cl.ID
	}
	cl.Properties.Clean = true
	c.tell = props.SessionExpiryInterval > 0
	props.SessionExpiryInterval, props.SessionExpiryIntervalFlag = 0, false
}

// admitDevice lets a device in that Identify knows. Its client id is its device
// id, whatever it says. It returns with the device's lock held.
func (b *Broker) admitDevice(c *conn, cl *mqtt.Client, pk *packets.Packet, login edgeclaim.Login) packets.Code {
	id, topics := login.Device, topicsOf(login.Device)
	if pk.Connect.WillFlag && (pk.Connect.WillRetain || !topics.mayWill(pk.Connect.WillTopic)) {
		return packets.ErrNotAuthorized
	}
	// Only who knows the credential gets to wait for the lock. It is asked
	// for again behind it, once it is registered: see Disconnect.
	c.device, c.unlock = id, b.ids.lock(id)
	b.ids.enter(id, cl)
	by, code := b.who(b.parts.Devices.Admit, login)
	if code != packets.CodeSuccess {
		return code
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
	c.admission, c.since = by, time.Since(c.born)
	c.frame.limit = b.cfg.MaxDevicePacket
	c.pace = newPace(b.cfg.MaxDeviceRate, b.cfg.MaxDeviceBurst)
	b.connecting.leave(c)
	b.leaveCrowd(c)
	b.limitSession(c, cl, pk)
	if by.ValidFor > 0 {
		b.endIn(c, cl, by.ValidFor)
	}
	if known && !old.Closed() {
		b.suspect(connOf(old), c)
	}
	if known && !pk.Connect.Clean {
		b.partWith(old, c)
	}
	if tcp, ok := c.sock.Conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}) // without it, MQTT's own is left
	}
	return packets.CodeSuccess
}

// endIn ends a device's connection when what it was let in with ends: its
// session stays, for the credential that took its place.
func (b *Broker) endIn(c *conn, cl *mqtt.Client, in time.Duration) {
	c.curfew.set(in, func() {
		b.farewell(cl, packets.ErrNotAuthorized)
		cl.Stop(packets.ErrNotAuthorized)
	})
}

// suspect reports a takeover that looks like a clone's.
func (b *Broker) suspect(old, c *conn) {
	if old == nil || b.cfg.Suspect == nil {
		return
	}
	now := time.Now()
	age := now.Sub(old.born)
	s, ok := b.clones.takenOver(now, c.device, displaced{
		source: old.source(), age: age - old.since, silent: age - time.Duration(old.heard.Load()),
	}, c.source())
	if ok {
		b.cfg.Suspect(s)
	}
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
	limitWill(cl, asked)
}

// limitWill has a will wait no longer than the session lasts (MQTT 5.0, section
// 3.1.3.2.2): mochi would publish it, then find nobody whose it was.
func limitWill(cl *mqtt.Client, seconds int64) {
	will := &cl.Properties.Will
	will.WillDelayInterval = uint32(min(int64(will.WillDelayInterval), seconds))
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
