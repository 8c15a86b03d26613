package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// Identify says who a login is, and changes nothing: by a certificate when
// there is a chain, else by the key. Errors: ErrUnauthenticated, or a fault of
// the box. An unknown device takes the same path as a wrong key; the key has
// 256 bits of entropy, so one SHA-256 is all the stretching it needs.
func (s *Service) Identify(ctx context.Context, l edgeclaim.Login) (edgeclaim.Admission, error) {
	in, err := s.identify(ctx, &l)
	return in.Admission, err
}

// Admit is Identify that counts as a use of the credential: nil means that all
// that its first use changes is durable (P1, P5). A box that cannot store that
// lets in all the same who could not be told the credential again.
func (s *Service) Admit(ctx context.Context, l edgeclaim.Login) (edgeclaim.Admission, error) {
	in, err := s.identify(ctx, &l)
	if err != nil || !firstUse(&in.device, &in.Admission) {
		return in.Admission, err
	}
	confirmed, err := s.confirm(ctx, &in)
	switch {
	case errors.Is(err, edgeclaim.ErrUnauthenticated), errors.Is(err, edgeclaim.ErrNotFound): // void meanwhile
		return edgeclaim.Admission{}, s.unauthenticated(&l, err)
	case err != nil && in.device.Mint != nil:
		return edgeclaim.Admission{}, err
	case err != nil:
		s.logger.Warn("first use of a credential not noted", "device_id", in.device.ID, "err", err)
		return in.Admission, nil
	}
	// Over MQTT the new session takes the place of the old one by itself.
	if !in.dropped.IsZero() && l.Via != edgeclaim.ViaMQTT {
		s.cfg.Shorten(in.device.ID, in.dropped, 0)
	}
	return confirmed, nil
}

// login is one that was let in.
type login struct {
	edgeclaim.Admission
	presented
	device edgeclaim.Device
	// dropped is the credential that its first use made void; zero for none. Set
	// by confirm.
	dropped edgeclaim.KeyHash
}

func (s *Service) identify(ctx context.Context, l *edgeclaim.Login) (login, error) {
	p, err := s.read(l)
	if err != nil {
		return login{}, s.unauthenticated(l, err)
	}
	device, err := s.holder(ctx, &p)
	if err != nil {
		return login{}, err
	}
	a, ok := p.match(&device)
	if !ok {
		return login{}, s.unauthenticated(l, errVoid)
	}
	return login{Admission: a, presented: p, device: device}, nil
}

// errVoid: the credential is nobody's, or no longer.
var errVoid = fmt.Errorf("not a valid credential: %w", edgeclaim.ErrUnauthenticated)

// presented is what a login shows, read.
type presented struct {
	id   edgeclaim.DeviceID // zero where only the credential speaks
	hash edgeclaim.KeyHash
	x509 bool
	now  time.Time
}

// read reads a login's credential. A certificate goes before everything else.
func (s *Service) read(l *edgeclaim.Login) (presented, error) {
	p := presented{id: l.Device, now: s.clock.Now()}
	if len(l.Chain) == 0 {
		p.hash = l.Key.Hash()
		return p, nil
	}
	if s.parts.Issuer == nil {
		return p, edgeclaim.ErrUnauthenticated
	}
	id, hash, err := s.parts.Issuer.Identify(l.Chain, p.now)
	if err != nil {
		return p, err
	}
	if !l.Device.IsZero() && l.Device != id {
		return p, edgeclaim.ErrUnauthenticated
	}
	p.id, p.hash, p.x509 = id, hash, true
	return p, nil
}

// holder reads whom a login says to be; the zero device when there is none.
func (s *Service) holder(ctx context.Context, p *presented) (edgeclaim.Device, error) {
	var device edgeclaim.Device
	var err error
	if p.id.IsZero() {
		device, err = s.store.DeviceByCredential(ctx, p.hash)
	} else {
		device, err = s.store.Device(ctx, p.id)
	}
	if errors.Is(err, edgeclaim.ErrNotFound) {
		return edgeclaim.Device{}, nil
	}
	return device, err
}

// match reports whether what was presented lets in as that device, and for how
// long: the end of an overlap or of a certificate, whichever comes first. The
// zero hash is nobody's.
func (p *presented) match(d *edgeclaim.Device) (edgeclaim.Admission, bool) {
	current := p.is(&d.Credential)
	previous := p.is(&d.Previous) && d.PreviousValid(p.now)
	if d.Status != edgeclaim.DeviceActive || !current && !previous {
		return edgeclaim.Admission{}, false
	}
	a := edgeclaim.Admission{Device: d.ID, Tenant: d.Tenant, Profile: d.Profile, Credential: p.hash}
	ends := []time.Time{d.Credential.NotAfter}
	if !current {
		ends = []time.Time{d.Previous.NotAfter, d.PreviousUntil}
	}
	for _, end := range ends {
		left := end.Sub(p.now)
		if end.IsZero() || left <= 0 { // a void overlap that holds for an unused successor has no end
			continue
		}
		if a.ValidFor == 0 || left < a.ValidFor {
			a.ValidFor = left
		}
	}
	return a, true
}

// is reports whether the credential is the one presented: a certificate never
// passes for a key of the same hash, nor the other way round.
func (p *presented) is(c *edgeclaim.Credential) bool {
	same := c.Hash.Equal(p.hash)
	return same && !c.Hash.IsZero() && p.x509 == (c.Type == edgeclaim.CredentialX509)
}

// firstUse reports whether the admission is by a credential that was never
// used before.
func firstUse(d *edgeclaim.Device, a *edgeclaim.Admission) bool {
	return d.Credential.Hash.Equal(a.Credential) && (d.Credential.ConfirmedAt.IsZero() || d.Mint != nil)
}

// confirm notes the first use, with which the box forgets how to say the
// credential again. Two at once are one.
func (s *Service) confirm(ctx context.Context, in *login) (edgeclaim.Admission, error) {
	var a edgeclaim.Admission
	var noted bool
	device, err := s.store.ChangeDevice(ctx, in.device.ID, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		var ok bool
		in.dropped = edgeclaim.KeyHash{}
		if a, ok = in.match(d); !ok {
			return nil, edgeclaim.ErrUnauthenticated
		}
		if noted = firstUse(d, &a); !noted {
			return nil, nil
		}
		d.Credential.ConfirmedAt, d.Mint, d.Told = in.now, nil, false
		if !in.now.Before(d.PreviousUntil) {
			in.dropped = d.Previous.Hash
			d.Previous, d.PreviousUntil = edgeclaim.Credential{}, time.Time{}
		}
		return nil, nil
	})
	if err != nil {
		return a, err
	}
	if noted {
		entry := entryOf(audit.KindDeviceConfirmed, &device)
		entry.Who = audit.WhoDevice
		s.parts.Auditor.Add(entry)
	}
	return a, nil
}

// unauthenticated writes a refused login down, with why: the operator sees what
// the wire does not say. It returns ErrUnauthenticated, without that text.
func (s *Service) unauthenticated(l *edgeclaim.Login, why error) error {
	entry := audit.Entry{
		Kind: audit.KindLoginRefused, Who: audit.WhoDevice, Source: addressText(l.Source), Reason: "credential",
		Detail: map[string]string{"via": string(l.Via), "problem": why.Error()},
	}
	if len(l.Chain) > 0 {
		entry.Reason = "certificate"
	}
	if !l.Device.IsZero() {
		entry.Device = l.Device.String()
	}
	s.parts.Auditor.Add(entry)
	return edgeclaim.ErrUnauthenticated
}
