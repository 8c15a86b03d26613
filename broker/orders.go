package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"time"
	"unicode/utf8"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim"
	"edgeclaim/internal/mqttwire"
)

// The reason codes of PUBACK that only commands use (MQTT 5.0, section 3.4.2.1).
const ackTopicInvalid = 0x90

// maxExpiresIn bounds expires_in, in seconds: a year. The rule's own limit is
// lower.
const maxExpiresIn = 366 * 24 * 60 * 60

// order puts a user's command to the rule. PUBACK comes when it is decided, and
// durable; in MQTT 3.1.1 it says no more than that, since sending a refused one
// again would not help. What could not be decided is not acknowledged.
func (b *Broker) order(c *conn, cl *mqtt.Client, pk *packets.Packet) {
	c.ordering.Store(true)
	defer func() {
		c.ordering.Store(false)
		b.stopping(cl)
	}()
	err := b.give(c, pk)
	b.log.LogAttrs(b.ctx, slog.LevelDebug, "user's command decided",
		slog.String("user", c.consumer.user.Name), slog.Any("error", err))
	ack, decided := ackOfOrder(err)
	if !decided {
		b.hangUp(cl, packets.ErrServerUnavailable)
		return
	}
	if pk.FixedHeader.Qos > 0 {
		b.write(c, cl, mqttwire.AppendPuback(nil, mqttwire.Version(cl.Properties.ProtocolVersion), pk.PacketID, ack))
	}
}

func (b *Broker) give(c *conn, pk *packets.Packet) error {
	device, ok := commanded(pk.TopicName)
	if !ok || b.parts.Orders == nil {
		return edgeclaim.ErrNotFound
	}
	o, err := parseOrder(pk.Payload, b.now())
	if err != nil {
		return err
	}
	o.Device, o.Origin, o.By = device, edgeclaim.OriginLocal, c.consumer.user.Name
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.ClaimTimeout)
	defer cancel()
	_, err = b.parts.Orders.Give(ctx, o)
	return err
}

// ackOfOrder also reports whether anything was decided.
func ackOfOrder(err error) (code byte, decided bool) {
	switch {
	case err == nil:
		return ackSuccess, true
	case errors.Is(err, edgeclaim.ErrInvalid):
		return ackPayloadInvalid, true
	case errors.Is(err, edgeclaim.ErrNotFound):
		return ackTopicInvalid, true
	case errors.Is(err, edgeclaim.ErrThrottled):
		return ackQuotaExceeded, true
	case errors.Is(err, edgeclaim.ErrConflict), errors.Is(err, edgeclaim.ErrExists), errors.Is(err, edgeclaim.ErrDenied):
		return ackImplementation, true
	default:
		return 0, false
	}
}

// parseOrder reads {"payload", "command_id"?, "expires_at"? | "expires_in"?};
// other members, and a second one of a name, are edgeclaim.ErrInvalid. What
// expires_in is counted from is now.
func parseOrder(body []byte, now time.Time) (edgeclaim.Order, error) {
	var o edgeclaim.Order
	members, err := membersOf(body)
	if err != nil {
		return o, err
	}
	for name, value := range members {
		switch name {
		case "payload":
			o.Payload = value
		case "command_id":
			o.ID, err = parseOrderID(value)
		case "expires_at":
			o.ExpiresAt, err = parseExpiresAt(value)
		case "expires_in":
			o.ExpiresAt, err = parseExpiresIn(value, now)
		default:
			err = edgeclaim.Invalid("body", "want payload, command_id, expires_at or expires_in")
		}
		if err != nil {
			return o, err
		}
	}
	if o.Payload == nil {
		return o, edgeclaim.Invalid("payload", "missing")
	}
	if members["expires_at"] != nil && members["expires_in"] != nil {
		return o, edgeclaim.Invalid("expires_in", "want it or expires_at")
	}
	return o, nil
}

func parseOrderID(value json.RawMessage) (edgeclaim.CommandID, error) {
	var text *string
	if err := json.Unmarshal(value, &text); err != nil || text == nil {
		return edgeclaim.CommandID{}, edgeclaim.Invalid("command_id", "want a string")
	}
	return edgeclaim.ParseCommandID(*text)
}

func parseExpiresAt(value json.RawMessage) (time.Time, error) {
	var text *string
	if err := json.Unmarshal(value, &text); err != nil || text == nil {
		return time.Time{}, edgeclaim.Invalid("expires_at", "want a string")
	}
	at, err := time.Parse(time.RFC3339, *text)
	if err != nil || at.IsZero() {
		return time.Time{}, edgeclaim.Invalid("expires_at", "want RFC 3339")
	}
	return at, nil
}

func parseExpiresIn(value json.RawMessage, now time.Time) (time.Time, error) {
	seconds, err := strconv.ParseUint(string(value), 10, 32)
	if err != nil || seconds < 1 || seconds > maxExpiresIn {
		return time.Time{}, edgeclaim.Invalid("expires_in", "want whole seconds, 1 to %d", maxExpiresIn)
	}
	return now.Add(time.Duration(seconds) * time.Second), nil
}

// errNoObject is the fault of a body that is not one JSON object.
func errNoObject() error { return edgeclaim.Invalid("body", "want a JSON object") }

// membersOf reads one JSON object in UTF-8, and nothing after it. Its members'
// names are unique.
func membersOf(body []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(body) {
		return nil, edgeclaim.Invalid("body", "want UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errNoObject()
	}
	members := map[string]json.RawMessage{}
	for d.More() {
		var value json.RawMessage
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, errNoObject()
		}
		if err := d.Decode(&value); err != nil {
			return nil, errNoObject()
		}
		if members[name] != nil {
			return nil, edgeclaim.Invalid("body", "a member is there twice")
		}
		members[name] = value
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, errNoObject()
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, edgeclaim.Invalid("body", "want nothing after the JSON object")
	}
	return members, nil
}
