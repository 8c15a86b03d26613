// Package mqttwire writes and reads MQTT 3.1.1 and 5.0 packets, and has a small
// client on top of them.
//
// It is for answers that the broker puts on a connection itself, and for tests
// and benchmarks that need hundreds of cheap clients or bytes that no honest
// client sends. It depends on nothing, starts no goroutine and keeps no state
// but a packet id. Sections named in comments are those of MQTT 5.0.
package mqttwire

import (
	"encoding/binary"
	"errors"
)

// Version is a protocol level, as CONNECT says it.
type Version byte

// The versions.
const (
	V311 Version = 4
	V5   Version = 5
)

// Type is the kind of a control packet (section 2.1.2).
type Type byte

// The kinds of packets.
const (
	Connect     Type = 1
	Connack     Type = 2
	Publish     Type = 3
	Puback      Type = 4
	Subscribe   Type = 8
	Suback      Type = 9
	Unsubscribe Type = 10
	Unsuback    Type = 11
	Pingreq     Type = 12
	Pingresp    Type = 13
	Disconnect  Type = 14
)

// MaxRemaining is the largest remaining length, in bytes (section 1.5.5).
const MaxRemaining = 268_435_455

// Errors of Read.
var (
	// ErrMalformed: the bytes are not a packet.
	ErrMalformed = errors.New("mqttwire: malformed packet")
	// ErrTooLarge: the packet is above the reader's limit.
	ErrTooLarge = errors.New("mqttwire: packet too large")
)

// Login is what a CONNECT says.
type Login struct {
	ClientID string
	// Username and Password are sent when they are not empty.
	Username, Password string
	Clean              bool
	KeepAlive          uint16 // seconds; 0 for none
	Will               *Message
	Properties         Properties // of CONNECT; not sent with V311
}

// Message is what a PUBLISH carries.
type Message struct {
	Topic      string
	Payload    []byte
	QoS        byte
	Retain     bool
	Dup        bool
	ID         uint16     // of the packet; QoS 1 and 2 only
	Properties Properties // not sent with V311
}

// Properties are those that the product uses (section 2.2.2). The zero value of
// each is "not sent", except where a pointer says so.
type Properties struct {
	ContentType           string
	ResponseTopic         string
	CorrelationData       []byte
	ReasonString          string
	AssignedClientID      string
	SessionExpiry         *uint32
	MaximumPacketSize     uint32
	ReceiveMaximum        uint16
	TopicAlias            uint16
	ServerKeepAlive       uint16
	TopicAliasMaximum     uint16
	MaximumQoS            *byte
	RetainAvailable       *byte
	SharedAvailable       *byte
	PayloadFormatUTF8     bool
	WildcardAvailable     *byte
	SubscriptionIDs       *byte
	MessageExpiryInterval uint32
}

// The identifiers of the properties above (section 2.2.2.2).
const (
	propPayloadFormat     = 0x01
	propMessageExpiry     = 0x02
	propContentType       = 0x03
	propResponseTopic     = 0x08
	propCorrelationData   = 0x09
	propSessionExpiry     = 0x11
	propAssignedClientID  = 0x12
	propServerKeepAlive   = 0x13
	propReasonString      = 0x1f
	propReceiveMaximum    = 0x21
	propTopicAliasMaximum = 0x22
	propTopicAlias        = 0x23
	propMaximumQoS        = 0x24
	propRetainAvailable   = 0x25
	propMaximumPacketSize = 0x27
	propWildcardAvailable = 0x28
	propSubscriptionIDs   = 0x29
	propSharedAvailable   = 0x2a
)

// AppendConnect appends a CONNECT to b.
func AppendConnect(b []byte, v Version, l *Login) []byte {
	flags := byte(0)
	if l.Clean {
		flags |= 0x02
	}
	if l.Will != nil {
		flags |= 0x04 | l.Will.QoS<<3
		if l.Will.Retain {
			flags |= 0x20
		}
	}
	if l.Password != "" {
		flags |= 0x40
	}
	if l.Username != "" {
		flags |= 0x80
	}
	body := appendString(nil, "MQTT")
	body = append(body, byte(v), flags)
	body = binary.BigEndian.AppendUint16(body, l.KeepAlive)
	body = appendProperties(body, v, &l.Properties)
	body = appendString(body, l.ClientID)
	if l.Will != nil {
		body = appendProperties(body, v, &l.Will.Properties)
		body = appendString(body, l.Will.Topic)
		body = appendBytes(body, l.Will.Payload)
	}
	if l.Username != "" {
		body = appendString(body, l.Username)
	}
	if l.Password != "" {
		body = appendString(body, l.Password)
	}
	return appendPacket(b, byte(Connect)<<4, body)
}

// AppendPublish appends a PUBLISH to b.
func AppendPublish(b []byte, v Version, m *Message) []byte {
	head := byte(Publish)<<4 | m.QoS<<1
	if m.Dup {
		head |= 0x08
	}
	if m.Retain {
		head |= 0x01
	}
	size := 2 + len(m.Topic) + len(m.Payload)
	if m.QoS > 0 {
		size += 2
	}
	var props []byte
	if v == V5 {
		props = appendProperties(nil, v, &m.Properties)
		size += len(props)
	}
	b = append(b, head)
	b = appendLength(b, size)
	b = appendString(b, m.Topic)
	if m.QoS > 0 {
		b = binary.BigEndian.AppendUint16(b, m.ID)
	}
	b = append(b, props...)
	return append(b, m.Payload...)
}

// AppendPuback appends a PUBACK to b. With V311 there is no reason to give.
func AppendPuback(b []byte, v Version, id uint16, reason byte) []byte {
	if v != V5 || reason == 0 {
		return append(b, byte(Puback)<<4, 2, byte(id>>8), byte(id))
	}
	return append(b, byte(Puback)<<4, 3, byte(id>>8), byte(id), reason)
}

// AppendSubscribe appends a SUBSCRIBE to b, every filter with the same QoS.
func AppendSubscribe(b []byte, v Version, id uint16, qos byte, filters ...string) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	body = appendProperties(body, v, &Properties{})
	for _, f := range filters {
		body = append(appendString(body, f), qos)
	}
	return appendPacket(b, byte(Subscribe)<<4|0x02, body)
}

// AppendUnsubscribe appends an UNSUBSCRIBE to b.
func AppendUnsubscribe(b []byte, v Version, id uint16, filters ...string) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	body = appendProperties(body, v, &Properties{})
	for _, f := range filters {
		body = appendString(body, f)
	}
	return appendPacket(b, byte(Unsubscribe)<<4|0x02, body)
}

// AppendPingreq appends a PINGREQ to b.
func AppendPingreq(b []byte) []byte { return append(b, byte(Pingreq)<<4, 0) }

// AppendDisconnect appends a DISCONNECT to b. With V311 there is no reason.
func AppendDisconnect(b []byte, v Version, reason byte) []byte {
	if v != V5 || reason == 0 {
		return append(b, byte(Disconnect)<<4, 0)
	}
	return append(b, byte(Disconnect)<<4, 1, reason)
}

func appendPacket(b []byte, head byte, body []byte) []byte {
	b = append(b, head)
	b = appendLength(b, len(body))
	return append(b, body...)
}

// appendLength appends a variable byte integer (section 1.5.5).
func appendLength(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendBytes(b, s []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// appendProperties appends the length and the properties that are set; nothing
// with V311, which has none.
func appendProperties(b []byte, v Version, p *Properties) []byte {
	if v != V5 {
		return b
	}
	var buf [128]byte
	props := buf[:0]
	if p.PayloadFormatUTF8 {
		props = append(props, propPayloadFormat, 1)
	}
	props = appendProp32(props, propMessageExpiry, p.MessageExpiryInterval)
	props = appendPropString(props, propContentType, p.ContentType)
	props = appendPropString(props, propResponseTopic, p.ResponseTopic)
	if len(p.CorrelationData) > 0 {
		props = appendBytes(append(props, propCorrelationData), p.CorrelationData)
	}
	if p.SessionExpiry != nil {
		props = binary.BigEndian.AppendUint32(append(props, propSessionExpiry), *p.SessionExpiry)
	}
	props = appendPropString(props, propAssignedClientID, p.AssignedClientID)
	props = appendProp16(props, propServerKeepAlive, p.ServerKeepAlive)
	props = appendPropString(props, propReasonString, p.ReasonString)
	props = appendProp16(props, propReceiveMaximum, p.ReceiveMaximum)
	props = appendProp16(props, propTopicAliasMaximum, p.TopicAliasMaximum)
	props = appendProp16(props, propTopicAlias, p.TopicAlias)
	props = appendPropByte(props, propMaximumQoS, p.MaximumQoS)
	props = appendPropByte(props, propRetainAvailable, p.RetainAvailable)
	props = appendProp32(props, propMaximumPacketSize, p.MaximumPacketSize)
	props = appendPropByte(props, propWildcardAvailable, p.WildcardAvailable)
	props = appendPropByte(props, propSubscriptionIDs, p.SubscriptionIDs)
	props = appendPropByte(props, propSharedAvailable, p.SharedAvailable)
	b = appendLength(b, len(props))
	return append(b, props...)
}

func appendPropString(b []byte, id byte, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, id), s)
}

func appendProp16(b []byte, id byte, n uint16) []byte {
	if n == 0 {
		return b
	}
	return binary.BigEndian.AppendUint16(append(b, id), n)
}

func appendProp32(b []byte, id byte, n uint32) []byte {
	if n == 0 {
		return b
	}
	return binary.BigEndian.AppendUint32(append(b, id), n)
}

func appendPropByte(b []byte, id byte, n *byte) []byte {
	if n == nil {
		return b
	}
	return append(b, id, *n)
}
