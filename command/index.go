package command

import (
	"cmp"
	"slices"
	"time"

	"edgeclaim"
)

// leastLeft is how long a command must still be worth something to be sent: a
// device is told whole seconds, and one that is told 0 has nothing to do.
const leastLeft = time.Second

// entry is a command that has not come to its end, without what it says: the
// payload is read when it is sent.
type entry struct {
	id       edgeclaim.CommandID
	device   edgeclaim.DeviceID
	number   uint64
	status   edgeclaim.CommandStatus
	expires  time.Time
	attempts int           // how often it was written to the device
	tries    int           // the same, since the device was last heard to listen
	again    time.Duration // since boot: when it is due; 0: at once
	wake     time.Duration // since boot: when somebody is woken for it, if it is due by then
}

func (e *entry) over(now time.Time) bool     { return !now.Before(e.expires) }
func (e *entry) sendable(now time.Time) bool { return e.expires.Sub(now) >= leastLeft }

// queue is what waits of one device.
type queue struct {
	entries  []*entry // in order of their numbers
	reserved int      // those that are on their way into the store
}

// index is all that waits, by number and by device. A device with nothing is not
// in it.
type index struct {
	entries map[uint64]*entry
	devices map[edgeclaim.DeviceID]*queue
	count   int // entries and reservations
}

func newIndex() index {
	return index{entries: map[uint64]*entry{}, devices: map[edgeclaim.DeviceID]*queue{}}
}

func (x *index) queue(device edgeclaim.DeviceID) *queue {
	q := x.devices[device]
	if q == nil {
		q = &queue{}
		x.devices[device] = q
	}
	return q
}

// tidy forgets a device with nothing.
func (x *index) tidy(device edgeclaim.DeviceID, q *queue) {
	if len(q.entries)+q.reserved == 0 {
		delete(x.devices, device)
	}
}

// reserve keeps a place for a command, or says why there is none.
func (x *index) reserve(device edgeclaim.DeviceID, cfg *Config) error {
	q := x.queue(device)
	if x.count >= cfg.MaxWaiting || len(q.entries)+q.reserved >= cfg.MaxPerDevice {
		x.tidy(device, q)
		if x.count >= cfg.MaxWaiting {
			return errBoxFull
		}
		return errDeviceFull
	}
	q.reserved++
	x.count++
	return nil
}

func (x *index) release(device edgeclaim.DeviceID) {
	q := x.queue(device)
	q.reserved--
	x.count--
	x.tidy(device, q)
}

// add puts a command in. The store may have given the next number to another
// one that is here already.
func (x *index) add(c *edgeclaim.Command, wake time.Duration) {
	if x.entries[c.Number] != nil {
		return
	}
	e := &entry{
		id: c.ID, device: c.Device, number: c.Number, status: c.Status, expires: c.ExpiresAt, attempts: c.Attempts, wake: wake,
	}
	q := x.queue(c.Device)
	at, _ := slices.BinarySearchFunc(q.entries, c.Number, byNumber)
	q.entries = slices.Insert(q.entries, at, e)
	x.entries[c.Number] = e
	x.count++
}

func byNumber(e *entry, number uint64) int { return cmp.Compare(e.number, number) }

// find returns a device's command that waits, nil for none.
func (x *index) find(device edgeclaim.DeviceID, id edgeclaim.CommandID) *entry {
	q := x.devices[device]
	if q == nil {
		return nil
	}
	i := slices.IndexFunc(q.entries, func(e *entry) bool { return e.id == id })
	if i < 0 {
		return nil
	}
	return q.entries[i]
}

func (x *index) remove(number uint64) {
	e := x.entries[number]
	if e == nil {
		return
	}
	q := x.devices[e.device]
	q.entries = slices.DeleteFunc(q.entries, func(other *entry) bool { return other == e })
	delete(x.entries, number)
	x.count--
	x.tidy(e.device, q)
}

// window returns those of a device that may be on their way at one time: the
// first few that are worth something yet.
func (q *queue) window(now time.Time, size int) []*entry {
	if q == nil {
		return nil
	}
	var open []*entry
	for _, e := range q.entries {
		if len(open) == size {
			break
		}
		if e.sendable(now) {
			open = append(open, e)
		}
	}
	return open
}

// due returns up to limit of the window that are to be sent now.
func (q *queue) due(m moment, size, limit int) []*entry {
	var due []*entry
	for _, e := range q.window(m.now, size) {
		if e.again <= m.up && len(due) < limit {
			due = append(due, e)
		}
	}
	return due
}

// moment is one look at the clock: expiry is judged by now, pauses by up (P10).
type moment struct {
	now time.Time
	up  time.Duration
}

// look says what is over, which devices are to be woken, and after which pause,
// longest at most, to look again; 0 when nothing waits.
func (x *index) look(m moment, cfg *Config, longest time.Duration) (over []uint64, wake []edgeclaim.DeviceID, pause time.Duration) {
	if x.count == 0 {
		return nil, nil, 0
	}
	pause = longest
	for device, q := range x.devices {
		for _, e := range q.entries {
			if e.over(m.now) {
				over = append(over, e.number)
				continue
			}
			pause = min(pause, e.expires.Sub(m.now))
		}
		woken := false
		for _, e := range q.window(m.now, cfg.MaxInFlight) {
			if at := max(e.again, e.wake); at > m.up {
				pause = min(pause, at-m.up)
				continue
			}
			woken = true
			e.wake = m.up + cfg.RetryLimit // or whoever was woken has not heard
		}
		if woken {
			wake = append(wake, device)
		}
	}
	return over, wake, pause
}
