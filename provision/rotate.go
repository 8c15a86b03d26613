package provision

import (
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/ca"
)

// Rotation is how an operator replaces a credential.
type Rotation struct {
	// Overlap is how long the old one stays good, 0 to MaxOverlap; 0 voids it
	// at once.
	Overlap time.Duration
	// CSR is a request in DER, for an x509 device; nil: its key is made here.
	CSR []byte
}

// Issued is a credential in the clear, said once (P5).
type Issued struct {
	Device edgeclaim.Device
	// Secret is the API key or PSK; zero of x509.
	Secret edgeclaim.Secret
	// PSKIdentity goes with a PSK; empty else.
	PSKIdentity string
	// Certificate and Chain are PEM, of x509; PrivateKey too, zero where a CSR
	// came.
	Certificate string
	Chain       string
	PrivateKey  edgeclaim.Secret
	// PreviousUntil is when the old credential ends; zero: it has ended.
	PreviousUntil time.Time

	said said
}

// Answer is the document that an operator is told (JSON), as a device that asks
// itself is told it, with the secrets in the clear.
func (i *Issued) Answer() ([]byte, error) {
	return encode(edgeclaim.FormatJSON, i.said.body(i.Device.ID, edgeclaim.FormatJSON, nil, i.PreviousUntil))
}

// replacement is a credential on its way into the place of another.
type replacement struct {
	made    made
	now     time.Time
	overlap time.Duration
	by      edgeclaim.Rotator
	// dropped and old are the credentials that it made void or will: set within
	// the transaction.
	dropped, old edgeclaim.Credential
}

// apply puts the new credential into the device, the present one in its
// previous one's place; two are valid at most. It returns what to tell
// upstream.
func (r *replacement) apply(s *Service, d *edgeclaim.Device) (*edgeclaim.Record, error) {
	r.dropped, r.old = d.Previous, d.Credential
	d.Previous, d.PreviousUntil = d.Credential, r.now.Add(r.overlap)
	if r.overlap == 0 {
		d.Previous, d.PreviousUntil = edgeclaim.Credential{}, time.Time{}
	}
	return r.install(s, d)
}

// install puts the new credential in the present one's place and leaves the
// previous one.
func (r *replacement) install(s *Service, d *edgeclaim.Device) (*edgeclaim.Record, error) {
	d.Credential, d.Mint, d.RotatedBy, d.Told = r.made.credential, r.made.mint, r.by, false
	data := rotated{
		deviceFacts: s.facts(d), Credential: r.made.facts, PreviousUntil: d.PreviousUntil, RotatedBy: string(r.by), RotatedAt: r.now,
	}
	if !d.Previous.Hash.IsZero() {
		previous := factsOf(&d.Previous)
		data.Previous = &previous
	}
	return s.deviceRecord(edgeclaim.TypeCredentialRotated, d, data)
}

// endSessions has the sessions end that go by a credential that is void, or
// when it will be.
func (r *replacement) endSessions(s *Service, id edgeclaim.DeviceID) {
	if r.overlap == 0 {
		s.cfg.Void(id)
		return
	}
	if !r.dropped.Hash.IsZero() {
		s.cfg.Shorten(id, r.dropped.Hash, 0)
	}
	if !r.old.Hash.IsZero() {
		s.cfg.Shorten(id, r.old.Hash, r.overlap)
	}
}

// Rotate gives a device another credential of its own type, as an operator
// asks. The old one ends with the overlap, whatever becomes of the new one; one
// that was in its own overlap ends at once. Errors: ErrNotFound, ErrInvalid,
// ErrConflict for a device that has no credential, ErrUnavailable.
func (s *Service) Rotate(ctx context.Context, id edgeclaim.DeviceID, r Rotation) (Issued, error) {
	if r.Overlap < 0 || r.Overlap > MaxOverlap {
		return Issued{}, edgeclaim.Invalid("overlap", "want 0 to %s", MaxOverlap)
	}
	device, err := s.store.Device(ctx, id)
	if err != nil {
		return Issued{}, err
	}
	if device.Status != edgeclaim.DeviceActive {
		return Issued{}, edgeclaim.ErrConflict
	}
	o := order{
		kind: device.Credential.Type, tenant: device.Tenant, device: id, now: s.clock.Now(),
		validity: s.policyOf(device.Tenant, device.Profile).validity,
	}
	if r.CSR != nil {
		if o.kind != edgeclaim.CredentialX509 {
			return Issued{}, edgeclaim.Invalid(nameCSR, "the device's credential is no certificate")
		}
		if err := ca.CheckCSR(r.CSR); err != nil {
			return Issued{}, err
		}
		o.csr = r.CSR
	}
	made, err := s.make(&o)
	if err != nil {
		return Issued{}, err
	}
	put := replacement{made: made, now: o.now, overlap: r.Overlap, by: edgeclaim.RotatorOperator}
	device, err = s.store.ChangeDevice(ctx, id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		if d.Status != edgeclaim.DeviceActive || d.Credential.Type != o.kind {
			return nil, edgeclaim.ErrConflict
		}
		return put.apply(s, d)
	})
	if err != nil {
		return Issued{}, err
	}
	put.endSessions(s, id)
	entry := entryOf(audit.KindDeviceRotated, &device)
	entry.Detail = map[string]string{"overlap": r.Overlap.String()}
	s.write(ctx, entry)
	s.logger.Info("credential rotated", "device_id", id, "by", edgeclaim.RotatorOperator, "previous_until", device.PreviousUntil)
	return issued(&device, &made.said), nil
}

func issued(d *edgeclaim.Device, credential *said) Issued {
	i := Issued{Device: *d, Secret: credential.secret, PreviousUntil: d.PreviousUntil, said: *credential}
	switch credential.kind {
	case edgeclaim.CredentialPSK:
		i.PSKIdentity = d.ID.String()
	case edgeclaim.CredentialX509:
		i.Certificate, i.Chain, i.PrivateKey = credential.certificatePEM(), credential.chainPEM(), credential.privateKeyPEM()
	case edgeclaim.CredentialAPIKey:
	}
	return i
}
