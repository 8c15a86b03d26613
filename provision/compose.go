package provision

import (
	"edgeclaim"
)

// compose makes what an accepted claim leaves behind, but for the key's
// accounting, and what it is answered.
func (s *Service) compose(m *minting) error {
	made, err := s.make(m.c.order(m.seen))
	if err != nil {
		return err
	}
	var device edgeclaim.Device
	var kind edgeclaim.RecordType
	var data any
	if m.next == doReissue {
		device = *m.seen.Known
		device.Credential, device.Mint, device.Told = made.credential, made.mint, false
		kind, data = edgeclaim.TypeCredentialRotated, rotated{
			deviceFacts: s.facts(&device), Credential: made.facts, RotatedBy: rotatedByClaim, RotatedAt: m.c.now,
		}
	} else {
		device = newDevice(m.c, m.seen, &made)
		kind, data = edgeclaim.TypeDeviceProvisioned, provisioned{
			deviceFacts: s.facts(&device), Name: device.Name, Template: device.Template, Key: device.Key,
			Profile: device.Profile, Groups: device.Groups, Credential: made.facts,
			ClaimedVia: device.ClaimedVia, ClaimedAt: device.ClaimedAt, Generation: device.Generation,
			Alias: device.ID != edgeclaim.NewDeviceID(device.Tenant, device.Hardware, device.Generation),
		}
	}
	record, err := s.deviceRecord(kind, &device, data)
	if err != nil {
		return err
	}
	m.made = edgeclaim.Minted{Device: device, Record: record}
	m.body, err = fitting(m.c.format, made.said.body(device.ID, m.c.format, m.c.requestID, device.PreviousUntil), m.c.room)
	return err
}

// newDevice is the device of a claim. A released one keeps its id and
// generation, and nothing else; what the manifest says of the hardware goes
// before the template's word and the claim's.
func newDevice(c *claim, p *edgeclaim.Present, made *made) edgeclaim.Device {
	t := &p.Grant.Template
	d := edgeclaim.Device{
		ID: p.Next, Tenant: t.Tenant, Hardware: c.hardware, Name: c.name,
		Template: t.ID, Key: p.Grant.Key.ID, Profile: t.Profile, Groups: t.Groups,
		Generation: p.Generation, Status: edgeclaim.DeviceActive, Credential: made.credential,
		ClaimedAt: c.now, ClaimedVia: c.via, Mint: made.mint,
	}
	if row := p.Listed; row != nil {
		if row.Name != "" {
			d.Name = row.Name
		}
		if row.Profile != "" {
			d.Profile = row.Profile
		}
		if len(row.Groups) > 0 {
			d.Groups = row.Groups
		}
	}
	return d
}
