package broker

import (
	"time"

	"edgeclaim"
)

// A round goes over all connected devices at roundStep of them each roundEvery,
// so 1,000 a second: each is a look at the disk, and commands and claims want it
// too.
const (
	roundEvery = 20 * time.Millisecond
	roundStep  = 20
)

// round is the devices that are to be looked at although nobody named them. It
// is guarded by the couriers' mu.
type round struct {
	left []edgeclaim.DeviceID
	// again: whatever it was that changed has changed once more, and those that
	// were looked at are to be looked at again. They wait for the end of this
	// round: one that began anew each time might never come to the last.
	again bool
}

// WakeAll says that there may be something for any device: what they inherit has
// changed. All that are connected are looked at, 1,000 a second, and told what is
// not what they were told. It never blocks, and any goroutine may call it. One
// round covers all calls before it began.
func (b *Broker) WakeAll() {
	b.couriers.mu.Lock()
	b.couriers.round.again = true
	b.couriers.mu.Unlock()
	select {
	case b.couriers.rounds <- struct{}{}:
	default:
	}
}

// goRound wakes the next few devices of a round, or begins one that is asked
// for, and reports whether to go on. It is of the goroutine of carry.
func (b *Broker) goRound() bool {
	if b.couriers.beginsRound() {
		devices := b.devices()
		b.couriers.mu.Lock()
		b.couriers.round.left = devices
		b.couriers.mu.Unlock()
	}
	b.couriers.mu.Lock()
	defer b.couriers.mu.Unlock()
	r := &b.couriers.round
	step := min(roundStep, len(r.left))
	for _, id := range r.left[:step] {
		b.couriers.wakeLocked(id)
	}
	if r.left = r.left[step:]; len(r.left) == 0 {
		r.left = nil
	}
	return len(r.left) > 0 || r.again
}

// beginsRound reports whether a round is asked for, and none is under way. What
// changes from now on asks for another.
func (k *couriers) beginsRound() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.round.left) > 0 || !k.round.again {
		return false
	}
	k.round.again = false
	return true
}

// devices are those that are connected.
func (b *Broker) devices() []edgeclaim.DeviceID {
	clients := b.server.Clients.GetAll()
	devices := make([]edgeclaim.DeviceID, 0, len(clients))
	for _, cl := range clients {
		if c := connOf(cl); c != nil && c.role == roleDevice && !cl.Closed() {
			devices = append(devices, c.device)
		}
	}
	return devices
}
