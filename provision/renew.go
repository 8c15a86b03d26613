package provision

import (
	"context"
	"errors"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/mint"
)

// Renew answers a device that asks for another credential, on a session that
// was let in. The old one goes on beside it for the overlap and, so that a lost
// answer locks nobody out, until the new one was used; until then the old one
// may ask again, and gets the same once more for the same nonce. Like Answer it
// never fails; CodeUnavailable means that nothing is known to be stored.
func (s *Service) Renew(ctx context.Context, ask edgeclaim.RotateAsk) edgeclaim.Answer {
	body, err := s.renew(ctx, &ask)
	if err != nil {
		return s.fail(&ask.Ask, err)
	}
	return edgeclaim.Answer{Body: body}
}

func (s *Service) renew(ctx context.Context, ask *edgeclaim.RotateAsk) ([]byte, error) {
	var req renewal
	if len(ask.Body) > 0 { // nothing is required
		if err := decode(ask.Body, ask.Format, &req); err != nil {
			return nil, err
		}
	}
	e, err := req.validate()
	if err != nil {
		return nil, err
	}
	if err := s.readCSR(ctx, &e, req.CSR, ask.Format); err != nil {
		return nil, err
	}
	return s.renewWith(ctx, ask, &e)
}

// turn is what to do for a device that asks.
type turn int

const (
	// turnSame: the new credential, once more.
	turnSame turn = iota
	// turnNew: a new one; the present one becomes the previous.
	turnNew
	// turnInstead: a new one in the place of one that was never used; the
	// previous one, which asks, stays.
	turnInstead
)

// turnOf says what to do for a device that asks by that credential. It reads its
// arguments only, and is quick enough for a transaction.
func (s *Service) turnOf(d *edgeclaim.Device, by edgeclaim.KeyHash, o *order) (turn, said, error) {
	switch {
	case d.Status != edgeclaim.DeviceActive || by.IsZero():
		return 0, said{}, edgeclaim.ErrUnauthenticated
	case by.Equal(d.Credential.Hash):
		return turnNew, said{}, nil
	case !by.Equal(d.Previous.Hash) || !d.PreviousValid(o.now):
		return 0, said{}, edgeclaim.ErrUnauthenticated
	// The operator's end of a credential is its end, and what was made instead
	// is the operator's to give; and one that is in use is somebody's already.
	case d.RotatedBy != edgeclaim.RotatorDevice || !d.Credential.ConfirmedAt.IsZero():
		return 0, said{}, edgeclaim.ErrDenied
	}
	again, found := s.repeat(d, o)
	if found == repeatSame {
		return turnSame, again, nil
	}
	return turnInstead, said{}, nil
}

// renewWith looks first, so that what is said again or refused costs no commit.
func (s *Service) renewWith(ctx context.Context, ask *edgeclaim.RotateAsk, e *extras) ([]byte, error) {
	id, by := ask.By.Device, ask.By.Credential
	device, err := s.store.Device(ctx, id)
	if errors.Is(err, edgeclaim.ErrNotFound) {
		return nil, edgeclaim.ErrUnauthenticated
	}
	if err != nil {
		return nil, err
	}
	policy := s.policyOf(device.Tenant, device.Profile)
	o := order{
		purpose: mint.ForRotate, kind: device.Credential.Type, tenant: device.Tenant, device: id, key: by, now: s.clock.Now(),
		validity: policy.validity, extras: *e,
	}
	what, again, err := s.turnOf(&device, by, &o)
	if err != nil {
		return nil, s.refuseRenewal(ask, &device, err)
	}
	if what == turnSame {
		return fitting(ask.Format, again.body(id, ask.Format, e.requestID, device.PreviousUntil), ask.Room)
	}
	at := time.Now() // monotonic
	if wait := s.rotations.take(id, at); wait > 0 {
		return nil, &throttledError{wait: wait}
	}
	body, err := s.renewNow(ctx, ask, &o, policy.overlap)
	if err != nil { // a box that cannot now is not to say "too often" later
		s.rotations.giveBack(id, at)
	}
	return body, err
}

// renewNow makes another credential and stores it.
func (s *Service) renewNow(ctx context.Context, ask *edgeclaim.RotateAsk, o *order, overlap time.Duration) ([]byte, error) {
	made, err := s.make(o)
	if err != nil {
		return nil, err
	}
	put := replacement{made: made, now: o.now, overlap: overlap, by: edgeclaim.RotatorDevice}
	until := o.now.Add(put.overlap)
	body, err := fitting(ask.Format, made.said.body(o.device, ask.Format, o.requestID, until), ask.Room)
	if err != nil {
		return nil, err
	}
	return s.replace(ctx, &renewing{ask: ask, order: o, put: &put, body: body, requestID: o.requestID})
}

// renewing is a device's new credential on its way into the store.
type renewing struct {
	ask       *edgeclaim.RotateAsk
	order     *order
	put       *replacement
	body      []byte
	requestID *string
}

// replace stores the new credential, where the state inside the transaction says
// that it goes, or not at all: a device that asks twice at once with one nonce
// hears the same twice.
func (s *Service) replace(ctx context.Context, r *renewing) ([]byte, error) {
	var what turn
	var again said
	device, err := s.store.ChangeDevice(ctx, r.order.device, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		var err error
		if what, again, err = s.turnOf(d, r.ask.By.Credential, r.order); err != nil {
			return nil, err
		}
		switch what {
		case turnSame:
			return nil, nil
		case turnNew:
			return r.put.apply(s, d)
		default:
			d.PreviousUntil = r.order.now.Add(r.put.overlap)
			r.put.old = d.Previous // whose session may have had no end, see match
			return r.put.install(s, d)
		}
	})
	if err != nil {
		return nil, s.refuseRenewal(r.ask, &device, err)
	}
	if what == turnSame {
		return fitting(r.ask.Format, again.body(device.ID, r.ask.Format, r.requestID, device.PreviousUntil), r.ask.Room)
	}
	r.put.endSessions(s, device.ID)
	entry := entryOf(audit.KindDeviceRotated, &device)
	entry.Who, entry.Source = audit.WhoDevice, addressText(r.ask.Source)
	s.parts.Auditor.Add(entry)
	s.logger.Info("credential rotated", "device_id", device.ID, "by", edgeclaim.RotatorDevice, "previous_until", device.PreviousUntil)
	return r.body, nil
}

// refuseRenewal writes down that a credential on its way out asked, and returns
// err.
func (s *Service) refuseRenewal(ask *edgeclaim.RotateAsk, d *edgeclaim.Device, err error) error {
	if !errors.Is(err, edgeclaim.ErrDenied) && !errors.Is(err, edgeclaim.ErrUnauthenticated) {
		return err
	}
	s.parts.Auditor.Add(audit.Entry{
		Kind: audit.KindRotationRefused, Who: audit.WhoDevice, Source: addressText(ask.Source), Device: ask.By.Device.String(),
		Reason: "previous_credential",
	})
	if errors.Is(err, edgeclaim.ErrDenied) && d.RotatedBy == edgeclaim.RotatorDevice {
		s.Suspect(edgeclaim.Suspicion{Device: ask.By.Device, Kind: edgeclaim.SuspicionRotation, Count: 1, Sources: sources(ask.Source)})
	}
	return err
}
