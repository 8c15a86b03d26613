package store

import (
	"bytes"
	"fmt"
	"slices"

	"edgeclaim"
)

// plan gathers what a document does to many devices before anything of it is
// put: what is refused half-way leaves nothing behind, and costs the others of
// the group nothing.
type plan struct {
	b       *batch
	devices map[edgeclaim.DeviceID]*planned
	changed []*planned // in the order in which they were changed first
	records []plannedRecord
	bytes   uint64 // of records
}

// planned is a device as the plan leaves it.
type planned struct {
	edgeclaim.Device
	row     uint64
	changed bool
	value   []byte // the row; nil until it is changed
}

type plannedRecord struct {
	device edgeclaim.DeviceID
	value  []byte
}

func (b *batch) newPlan() *plan {
	return &plan{b: b, devices: map[edgeclaim.DeviceID]*planned{}}
}

// device returns a device as the plan has it so far; nil when there is none.
func (p *plan) device(id edgeclaim.DeviceID) (*planned, error) {
	if d, ok := p.devices[id]; ok {
		return d, nil
	}
	found, row, err := p.b.device(id)
	if err != nil || found == nil {
		return nil, err
	}
	d := &planned{Device: *found, row: row}
	p.devices[id] = d
	return d, nil
}

// alter lets change edit a device, and finish do the rest, nil for nothing. What
// change returns goes with it.
func (p *plan) alter(d *planned, change func(*edgeclaim.Device) (*edgeclaim.Record, error),
	finish func(*edgeclaim.Device) error,
) error {
	next := d.Device
	var record *edgeclaim.Record
	if err := guard(func() (err error) { record, err = change(&next); return err }); err != nil {
		return err
	}
	if next.ID != d.ID || next.Tenant != d.Tenant {
		return fmt.Errorf("document: id and tenant of a device stay: %w", edgeclaim.ErrInvalid)
	}
	if err := finish(&next); err != nil {
		return err
	}
	value, err := encodeDevice(&next)
	if err != nil {
		return err
	}
	if record != nil {
		told, err := p.b.admitBeside(edgeclaim.LaneProv, record, uint64(len(p.records)), p.bytes)
		if err != nil {
			return err
		}
		p.records = append(p.records, plannedRecord{device: record.Device, value: told})
		p.bytes += uint64(len(told))
	}
	if !d.changed {
		p.changed = append(p.changed, d)
	}
	d.Device, d.value, d.changed = next, value, true
	return nil
}

// put does what was planned.
func (p *plan) put() error {
	inOrder := slices.Clone(p.changed)
	slices.SortFunc(inOrder, func(x, y *planned) int { return bytes.Compare(number(x.row), number(y.row)) }) // neighbours share pages
	for _, d := range inOrder {
		if err := p.b.putDevice(d.ID, d.row, d.value); err != nil {
			return err
		}
	}
	for _, r := range p.records {
		if err := p.b.append(edgeclaim.LaneProv, r.device, r.value); err != nil {
			return err
		}
	}
	for _, d := range p.changed {
		if err := p.b.settled(&d.Device); err != nil {
			return err
		}
	}
	return nil
}
