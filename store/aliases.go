package store

import (
	"context"
	"fmt"
	"slices"

	"edgeclaim"
)

// ApplyAliases keeps a tenant's list of aliases and lets hardware go by the ids
// that it says, all in one transaction; nil means that it is durable. Of an alias
// from hardware H to a device id:
//
//   - No such device, and none of H's that is not released: H's next claim gets
//     the id, and Replaces is denied as swapped.
//   - The device has other hardware: it becomes H's as by Swap, which lifts what
//     a swap had against H. change is given it while it names the old hardware,
//     and is not to leave it active.
//   - H has an active device under another id: nothing is renamed (P9). The alias
//     waits until that is released, and change is given that device, to tell of
//     it; it leaves its id and hardware as they are. One that is revoked waits
//     without a word.
//
// What stands already, or waits already, and what the version before said as
// well, calls nothing. An alias that is no longer in the list stays: ids never
// change. Of several for one device, as a chain of swaps leaves them, the one
// counts whose hardware no other one replaces, else the last. A device that a
// revocation names stays revoked whatever change makes of it.
//
// The devices that change was given are returned as they are now. Records and
// errors are as ApplyRevocations says; DocumentConflicting: the id is another
// tenant's device, or there would be more than MaxDenied denials.
func (db *DB) ApplyAliases(ctx context.Context, held edgeclaim.HeldDocument, text []byte, a *edgeclaim.Aliases,
	change func(*edgeclaim.Device, edgeclaim.Alias) (*edgeclaim.Record, error),
) (edgeclaim.AliasesApplied, error) {
	var applied edgeclaim.AliasesApplied
	err := db.apply(ctx, edgeclaim.DocumentAliases, held, text, func(b *batch) (err error) {
		applied, err = b.applyAliases(held.ID, a.Aliases, change)
		return err
	})
	if err != nil {
		return edgeclaim.AliasesApplied{}, err
	}
	return applied, nil
}

// naming is a list of aliases on its way in.
type naming struct {
	*plan
	tenant  edgeclaim.TenantID
	change  func(*edgeclaim.Device, edgeclaim.Alias) (*edgeclaim.Record, error)
	aliases map[edgeclaim.HardwareID]edgeclaim.DeviceID // as they become
	denials map[edgeclaim.HardwareID]*edgeclaim.Denial  // the same; nil for one that is lifted
	waiting map[edgeclaim.HardwareID]*waitingAlias      // the same
}

func (b *batch) applyAliases(id edgeclaim.DocumentID, aliases []edgeclaim.Alias,
	change func(*edgeclaim.Device, edgeclaim.Alias) (*edgeclaim.Record, error),
) (edgeclaim.AliasesApplied, error) {
	var applied edgeclaim.AliasesApplied
	n := &naming{
		plan: b.newPlan(), tenant: id.Tenant, change: change,
		aliases: map[edgeclaim.HardwareID]edgeclaim.DeviceID{},
		denials: map[edgeclaim.HardwareID]*edgeclaim.Denial{},
		waiting: map[edgeclaim.HardwareID]*waitingAlias{},
	}
	before, err := broughtBy(b.tx, id)
	if err != nil {
		return applied, err
	}
	brought := rowsRow{Rows: make([][]byte, len(aliases))}
	last := lastOf(aliases)
	for i, a := range aliases {
		brought.Rows[i] = aliasText(a)
		if before.has(brought.Rows[i]) || last[a.Device] != i {
			continue
		}
		if err := n.take(a); err != nil {
			return applied, err
		}
	}
	if err := n.mayDeny(); err != nil {
		return applied, err
	}
	if err := n.put(); err != nil {
		return applied, halfDone(err)
	}
	for _, d := range n.changed { // by change alone
		applied.Devices = append(applied.Devices, d.Device)
	}
	return applied, halfDone(b.putBrought(id, brought))
}

// aliasText is an alias as the next version of its document finds it.
func aliasText(a edgeclaim.Alias) []byte {
	return []byte(a.Hardware.String() + "\x00" + a.Device.String() + "\x00" + a.Replaces.String())
}

// lastOf returns, for each device, the index of the alias that counts.
func lastOf(aliases []edgeclaim.Alias) map[edgeclaim.DeviceID]int {
	type place struct {
		id edgeclaim.DeviceID
		hw edgeclaim.HardwareID
	}
	replaced := make(map[place]bool, len(aliases))
	for _, a := range aliases {
		if !a.Replaces.IsZero() && a.Replaces != a.Hardware {
			replaced[place{a.Device, a.Replaces}] = true
		}
	}
	last := make(map[edgeclaim.DeviceID]int, len(aliases))
	for i, a := range aliases {
		at, known := last[a.Device]
		if !known || !replaced[place{a.Device, a.Hardware}] || replaced[place{a.Device, aliases[at].Hardware}] {
			last[a.Device] = i
		}
	}
	return last
}

// take plans one alias.
func (n *naming) take(a edgeclaim.Alias) error {
	leads, err := n.leadsTo(a.Hardware)
	if err != nil {
		return err
	}
	target, err := n.device(a.Device)
	if err != nil {
		return err
	}
	if target != nil && target.Tenant != n.tenant {
		return conflicting("device %s is another tenant's", a.Device)
	}
	if leads != a.Device {
		own, err := n.device(leads)
		if err != nil {
			return err
		}
		own = n.only(own, a.Hardware)
		if own != nil && own.Status != edgeclaim.DeviceReleased {
			return n.wait(own, a)
		}
	}
	if target != nil && target.Hardware != a.Hardware {
		return n.takeOver(target, a)
	}
	return n.point(a, leads)
}

// only is a device where it is that hardware's, and nil where it is not.
func (n *naming) only(d *planned, hardware edgeclaim.HardwareID) *planned {
	if d != nil && d.Tenant == n.tenant && d.Hardware == hardware {
		return d
	}
	return nil
}

// wait plans an alias whose hardware keeps the device that it has.
func (n *naming) wait(own *planned, a edgeclaim.Alias) error {
	w, err := n.waits(a.Hardware)
	if err != nil {
		return err
	}
	if w != nil && w.Device == a.Device && w.Replaces == a.Replaces {
		return nil
	}
	n.waiting[a.Hardware] = &waitingAlias{Device: a.Device, Replaces: a.Replaces}
	if own.Status != edgeclaim.DeviceActive {
		return nil
	}
	return n.call(own, a, func(d *edgeclaim.Device) error {
		if d.Hardware != a.Hardware || d.Status != edgeclaim.DeviceActive {
			return fmt.Errorf("aliases: the device of another id stays as it is: %w", edgeclaim.ErrInvalid)
		}
		return nil
	})
}

// takeOver plans that a device becomes another board's.
func (n *naming) takeOver(target *planned, a edgeclaim.Alias) error {
	old := target.Hardware
	err := n.call(target, a, func(d *edgeclaim.Device) error {
		if d.Status == edgeclaim.DeviceActive || d.Hardware != old && d.Hardware != a.Hardware {
			return fmt.Errorf("aliases: a device of another board is not active: %w", edgeclaim.ErrInvalid)
		}
		d.Hardware = a.Hardware
		named, err := n.b.named(d)
		if named {
			d.Status = edgeclaim.DeviceRevoked
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := n.deny(old, a.Device); err != nil {
		return err
	}
	if err := n.point(a, edgeclaim.DeviceID{}); err != nil {
		return err
	}
	// The board that is out may be one that waited for another place.
	w, err := n.waits(old)
	if err != nil || w == nil {
		return err
	}
	n.waiting[old] = nil
	return n.take(edgeclaim.Alias{Hardware: old, Device: w.Device, Replaces: w.Replaces})
}

// call lets change edit a device, of which finish judges what it became.
func (n *naming) call(d *planned, a edgeclaim.Alias, finish func(*edgeclaim.Device) error) error {
	change := func(d *edgeclaim.Device) (*edgeclaim.Record, error) { return n.change(d, a) }
	return n.alter(d, change, finish)
}

// point plans that a hardware goes by an id from now on; leads is the one that it
// goes by.
func (n *naming) point(a edgeclaim.Alias, leads edgeclaim.DeviceID) error {
	if leads != a.Device {
		n.aliases[a.Hardware] = a.Device
		// It has a place of its own now, so that no swap keeps it out.
		denied, err := n.denied(a.Hardware)
		if err != nil {
			return err
		}
		if denied != nil && denied.Reason == edgeclaim.DeniedSwapped {
			n.denials[a.Hardware] = nil
		}
	}
	w, err := n.waits(a.Hardware)
	if err != nil {
		return err
	}
	if w != nil {
		n.waiting[a.Hardware] = nil
	}
	if a.Replaces.IsZero() || a.Replaces == a.Hardware {
		return nil
	}
	return n.deny(a.Replaces, a.Device)
}

// deny plans that a board is denied as swapped out, unless it is denied already
// or has a place of its own: by an alias, or a device under another id.
func (n *naming) deny(hardware edgeclaim.HardwareID, id edgeclaim.DeviceID) error {
	denied, err := n.denied(hardware)
	if err != nil || denied != nil {
		return err
	}
	leads, err := n.leadsTo(hardware)
	if err != nil || leads != id && leads != edgeclaim.NewDeviceID(n.tenant, hardware, 1) {
		return err
	}
	if own, err := n.device(leads); err != nil || leads != id && n.only(own, hardware) != nil {
		return err
	}
	n.denials[hardware] = n.b.swappedOut(n.tenant, hardware, id)
	return nil
}

// leadsTo returns the id that a hardware goes by, as planned so far.
func (n *naming) leadsTo(hardware edgeclaim.HardwareID) (edgeclaim.DeviceID, error) {
	if id, ok := n.aliases[hardware]; ok {
		return id, nil
	}
	id, _, err := n.b.sight().resolve(n.tenant, hardware)
	return id, err
}

func (n *naming) denied(hardware edgeclaim.HardwareID) (*edgeclaim.Denial, error) {
	if d, ok := n.denials[hardware]; ok {
		return d, nil
	}
	return exactDenial(n.b.tx, n.tenant, hardware)
}

func (n *naming) waits(hardware edgeclaim.HardwareID) (*waitingAlias, error) {
	if w, ok := n.waiting[hardware]; ok {
		return w, nil
	}
	return n.b.waiting(n.tenant, hardware)
}

// mayDeny refuses a list that would deny more than there may be denied.
func (n *naming) mayDeny() error {
	more := 0
	for _, d := range n.denials {
		if d != nil {
			more++
		}
	}
	if more > 0 && n.b.state.Denied+uint64(more) > edgeclaim.MaxDenied {
		return conflicting("the limit of %d denials is reached", edgeclaim.MaxDenied)
	}
	return nil
}

// put does what was planned.
func (n *naming) put() error {
	for _, hw := range inOrder(n.denials) {
		old, err := exactDenial(n.b.tx, n.tenant, hw)
		if err != nil {
			return err
		}
		switch next := n.denials[hw]; {
		case next == nil && old != nil:
			err = n.b.removeDenial(old)
		case next != nil && old == nil:
			err = n.b.putDenial(next)
		}
		if err != nil {
			return err
		}
	}
	for _, hw := range inOrder(n.aliases) {
		if err := n.b.giveAlias(n.tenant, hw, n.aliases[hw]); err != nil {
			return err
		}
	}
	for _, hw := range inOrder(n.waiting) {
		var err error
		if w := n.waiting[hw]; w == nil {
			err = n.b.removeWaiting(n.tenant, hw)
		} else {
			err = n.b.putWaiting(n.tenant, hw, w)
		}
		if err != nil {
			return err
		}
	}
	return n.plan.put()
}

// inOrder are the hardware ids of a plan, neighbours beside each other.
func inOrder[T any](set map[edgeclaim.HardwareID]T) []edgeclaim.HardwareID {
	all := make([]edgeclaim.HardwareID, 0, len(set))
	for hw := range set {
		all = append(all, hw)
	}
	slices.SortFunc(all, byText)
	return all
}
