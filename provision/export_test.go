package provision

import (
	"time"

	"edgeclaim"
)

// What the external tests reach into: the decoder, whose strictness is a
// contract of its own, and the pace.

// DecodeClaim decodes and validates a claim and returns its fields.
func DecodeClaim(body []byte, format edgeclaim.Format) (key edgeclaim.Secret, name string, hardware edgeclaim.HardwareID, requestID *string, err error) {
	req, err := decode(body, format)
	if err != nil {
		return edgeclaim.Secret{}, "", edgeclaim.HardwareID{}, nil, err
	}
	c, err := req.validate()
	return c.key, c.name, c.hardware, c.requestID, err
}

// Pace counts claims by key and minute.
type Pace struct{ pace }

// NewPace returns an empty one.
func NewPace() *Pace { return &Pace{pace{claims: map[edgeclaim.KeyID][]time.Time{}}} }

// Take, GiveBack and Keys are pace's own.
func (p *Pace) Take(key edgeclaim.KeyID, limit uint32, now time.Time) (time.Duration, bool) {
	return p.take(key, limit, now)
}

// GiveBack undoes a Take.
func (p *Pace) GiveBack(key edgeclaim.KeyID, at time.Time) { p.giveBack(key, at) }

// Keys is how many keys it holds times for.
func (p *Pace) Keys() int { return len(p.claims) }
