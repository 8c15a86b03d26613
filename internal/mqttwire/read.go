package mqttwire

import (
	"bufio"
	"encoding/binary"
	"io"
)

// Packet is a packet as it was read. Fields that its type does not have are
// zero.
type Packet struct {
	Type Type
	// Message is a PUBLISH; its ID is also that of the other packets with one.
	Message
	// Codes are the return or reason codes: one of CONNACK, PUBACK and
	// DISCONNECT (0 where the packet leaves it out), one for each filter of
	// SUBACK and UNSUBACK.
	Codes          []byte
	SessionPresent bool // CONNACK
}

// Code is the first of Codes, 0 where there is none.
func (p *Packet) Code() byte {
	if len(p.Codes) == 0 {
		return 0
	}
	return p.Codes[0]
}

// Read reads one packet that a server sends. limit bounds its remaining length,
// in bytes, before anything is allocated for it. Errors are those of r,
// ErrMalformed and ErrTooLarge.
func Read(r *bufio.Reader, v Version, limit int) (Packet, error) {
	head, err := r.ReadByte()
	if err != nil {
		return Packet{}, err
	}
	size, err := readLength(r)
	if err != nil {
		return Packet{}, err
	}
	if size > limit {
		return Packet{}, ErrTooLarge
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return Packet{}, err
	}
	return decode(v, head, body)
}

func readLength(r io.ByteReader) (int, error) {
	n := 0
	for shift := 0; shift < 28; shift += 7 {
		c, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		n |= int(c&0x7f) << shift
		if c < 0x80 {
			return n, nil
		}
	}
	return 0, ErrMalformed
}

func decode(v Version, head byte, body []byte) (Packet, error) {
	d := &decoder{rest: body}
	p := Packet{Type: Type(head >> 4)}
	switch p.Type {
	case Connack:
		p.SessionPresent = d.byte()&1 == 1
		p.Codes = []byte{d.byte()}
		d.properties(v, &p.Properties)
	case Publish:
		p.QoS, p.Retain, p.Dup = head>>1&3, head&1 == 1, head&8 == 8
		p.Topic = string(d.bytes())
		if p.QoS > 0 {
			p.ID = d.uint16()
		}
		d.properties(v, &p.Properties)
		p.Payload = d.rest
	case Puback:
		p.ID = d.uint16()
		d.reason(v, &p)
	case Suback, Unsuback:
		p.ID = d.uint16()
		d.properties(v, &p.Properties)
		p.Codes = d.rest
	case Disconnect:
		d.reason(v, &p)
	case Pingresp:
	default:
		return Packet{}, ErrMalformed
	}
	if d.bad {
		return Packet{}, ErrMalformed
	}
	return p, nil
}

// decoder takes fields off the front of a packet's body. Once it is bad, it
// stays so and gives zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if n > len(d.rest) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) bytes() []byte { return d.take(int(d.uint16())) }

// reason reads the optional reason code and properties that end a packet
// (sections 3.4.2.1 and 3.14.2.1).
func (d *decoder) reason(v Version, p *Packet) {
	p.Codes = []byte{0}
	if v != V5 || len(d.rest) == 0 {
		return
	}
	p.Codes[0] = d.byte()
	if len(d.rest) > 0 {
		d.properties(v, &p.Properties)
	}
}

func (d *decoder) properties(v Version, p *Properties) {
	if v != V5 {
		return
	}
	n, err := readLength(d)
	if err != nil {
		d.bad = true
		return
	}
	props := &decoder{rest: d.take(n)}
	for len(props.rest) > 0 && !props.bad {
		props.property(p)
	}
	d.bad = d.bad || props.bad
}

// ReadByte implements io.ByteReader for readLength.
func (d *decoder) ReadByte() (byte, error) {
	b := d.byte()
	if d.bad {
		return 0, ErrMalformed
	}
	return b, nil
}

func (d *decoder) property(p *Properties) {
	switch d.byte() {
	case propPayloadFormat:
		p.PayloadFormatUTF8 = d.byte() == 1
	case propMessageExpiry:
		p.MessageExpiryInterval = d.uint32()
	case propContentType:
		p.ContentType = string(d.bytes())
	case propResponseTopic:
		p.ResponseTopic = string(d.bytes())
	case propCorrelationData:
		p.CorrelationData = d.bytes()
	case propSessionExpiry:
		p.SessionExpiry = new(d.uint32())
	case propAssignedClientID:
		p.AssignedClientID = string(d.bytes())
	case propServerKeepAlive:
		p.ServerKeepAlive = d.uint16()
	case propReasonString:
		p.ReasonString = string(d.bytes())
	case propReceiveMaximum:
		p.ReceiveMaximum = d.uint16()
	case propTopicAliasMaximum:
		p.TopicAliasMaximum = d.uint16()
	case propTopicAlias:
		p.TopicAlias = d.uint16()
	case propMaximumQoS:
		p.MaximumQoS = new(d.byte())
	case propRetainAvailable:
		p.RetainAvailable = new(d.byte())
	case propMaximumPacketSize:
		p.MaximumPacketSize = d.uint32()
	case propWildcardAvailable:
		p.WildcardAvailable = new(d.byte())
	case propSubscriptionIDs:
		p.SubscriptionIDs = new(d.byte())
	case propSharedAvailable:
		p.SharedAvailable = new(d.byte())
	default:
		d.bad = true
	}
}
