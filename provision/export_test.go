package provision

import (
	"context"
	"time"

	"edgeclaim"
)

// What the external tests reach into: the decoder, whose strictness is a
// contract of its own, and the pace.

// DecodeClaim decodes and validates a claim and returns its fields.
func DecodeClaim(body []byte, format edgeclaim.Format) (key edgeclaim.Secret, name string, hardware edgeclaim.HardwareID, requestID *string, err error) {
	var req request
	if err := decode(body, format, &req); err != nil {
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

// Sweep looks through all devices at once.
func (s *Service) Sweep(ctx context.Context) {
	for s.sweepPage(ctx) == sweepPause {
	}
}

// SweepPage looks through one page of them.
func (s *Service) SweepPage(ctx context.Context) { s.sweepPage(ctx) }

// DecodeRenewal decodes and validates a device's wish for another credential,
// its CSR too.
func (s *Service) DecodeRenewal(ctx context.Context, body []byte, format edgeclaim.Format) (csr []byte, err error) {
	var req renewal
	if err := decode(body, format, &req); err != nil {
		return nil, err
	}
	e, err := req.validate()
	if err == nil {
		err = s.readCSR(ctx, &e, req.CSR, format)
	}
	return e.csr, err
}

// DecodeWhole is DecodeClaim with what is in the CSR.
func (s *Service) DecodeWhole(ctx context.Context, body []byte, format edgeclaim.Format) (csr []byte, err error) {
	c, err := s.readClaim(ctx, &edgeclaim.Ask{Body: body, Format: format})
	return c.csr, err
}

// Ration lets each name take so many within a span.
type Ration struct{ *ration[string] }

// NewRation returns one that remembers so many names.
func NewRation(limit int, span time.Duration, names int) Ration {
	return Ration{newRation[string](limit, span, names)}
}

// Take is ration's own, and Names how many it remembers.
func (r Ration) Take(name string, now time.Time) time.Duration { return r.take(name, now) }

// Names is how many it remembers.
func (r Ration) Names() int { return len(r.byKey) }

// RaiseFor raises an alarm of each key, and returns how many alarms are to be
// told apart.
func (s *Service) RaiseFor(alarm edgeclaim.Alarm, keys []edgeclaim.KeyID) int {
	for _, key := range keys {
		s.alarm(alarm, key)
	}
	s.alarms.mu.Lock()
	defer s.alarms.mu.Unlock()
	return len(s.alarms.untold)
}
