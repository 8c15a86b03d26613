package provision

import (
	"edgeclaim"
)

// compose makes what an accepted claim leaves behind, but for the key's
// accounting, and what it is answered.
func (s *Service) compose(m *minting) error {
	o := m.c.order(m.seen)
	var from edgeclaim.Inherited
	if m.next == doReissue {
		o.validity = s.policyOf(m.seen.Known.Tenant, m.seen.Known.Profile).validity
	} else {
		from = s.store.Inherited(o.tenant, profileOf(m.seen))
		o.validity = s.policyIn(from).validity
	}
	made, err := s.make(o)
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
		device = newDevice(m.c, m.seen, from, &made)
		kind, data = edgeclaim.TypeDeviceProvisioned, provisioned{
			deviceFacts: s.facts(&device), Name: device.Name, Template: device.Template, Key: device.Key,
			Profile: device.Profile, Groups: device.Groups, Tags: device.Tags, Credential: made.facts,
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
// before the template's word and the claim's, and inherited is what neither of
// them says.
func newDevice(c *claim, p *edgeclaim.Present, from edgeclaim.Inherited, made *made) edgeclaim.Device {
	t := &p.Grant.Template
	d := edgeclaim.Device{
		ID: p.Next, Tenant: t.Tenant, Hardware: c.hardware, Name: c.name,
		Template: t.ID, Key: p.Grant.Key.ID, Profile: profileOf(p), Groups: t.Groups,
		Generation: p.Generation, Status: edgeclaim.DeviceActive, Credential: made.credential,
		ClaimedAt: c.now, ClaimedVia: c.via, Mint: made.mint,
	}
	if row := p.Listed; row != nil {
		if row.Name != "" {
			d.Name = row.Name
		}
		if len(row.Groups) > 0 {
			d.Groups = row.Groups
		}
		d.Tags = row.Tags
	}
	own := inherit(from, d.Groups, d.Tags)
	d.Groups, d.Tags = own.groups, own.tags
	return d
}
