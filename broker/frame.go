package broker

import "errors"

// errPacketTooLarge ends a connection whose packet is above its limit.
var errPacketTooLarge = errors.New("packet too large")

// errMalformedLength ends a connection whose packet has no legal length.
var errMalformedLength = errors.New("malformed remaining length")

// framer follows the packets in a stream of bytes, to refuse a large one by
// its header: mochi has one limit for everybody and allocates what a header
// announces, twice, before anybody has logged in.
type framer struct {
	limit int // of a packet, in bytes, header included

	header int // bytes of the current header seen so far
	length int // remaining length as far as it is known
	body   int // bytes of the body still to come
}

// feed takes the next bytes of the stream. It returns how many of them belong
// to packets up to and including the first that ends among them, and whether
// one ended; with an error the stream is not to be read any further.
func (f *framer) feed(p []byte) (n int, ended bool, err error) {
	for n < len(p) {
		if f.body > 0 {
			step := min(f.body, len(p)-n)
			f.body -= step
			n += step
			if f.body == 0 {
				return n, true, nil
			}
			continue
		}
		done, err := f.head(p[n])
		n++
		if err != nil {
			return n, false, err
		}
		if done && f.body == 0 {
			return n, true, nil
		}
	}
	return n, false, nil
}

// head takes one byte of a header: the type, then up to four bytes of length,
// seven bits each (MQTT 5.0, sections 2.1.1 and 1.5.5).
func (f *framer) head(b byte) (done bool, err error) {
	f.header++
	if f.header == 1 {
		f.length = 0
		return false, nil
	}
	f.length |= int(b&0x7f) << (7 * (f.header - 2))
	if b >= 0x80 {
		if f.header == 5 {
			return false, errMalformedLength
		}
		return false, nil
	}
	if f.header+f.length > f.limit {
		return false, errPacketTooLarge
	}
	f.header, f.body = 0, f.length
	return true, nil
}
