package broker

import (
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"edgeclaim"
)

// When takeovers of a device's connection look like two boards with one
// identity. A link that flaps is none: its old connection has gone, or has been
// silent since, or was never much used.
const (
	// suspectWindow is how far back is looked.
	suspectWindow = 60 * time.Second
	// suspectSettled is how long the displaced connection must have been logged in
	// where the new one comes from the same source: a device may log in again at
	// once. From another source it is somebody else, however fast they fight.
	suspectSettled = time.Second
	// suspectAlive is how lately it must have sent something.
	suspectAlive = 15 * time.Second
	// suspectBetween is how many takeovers are enough between two sources that
	// displace each other, and suspectWithin where there is one source: clones
	// behind one router.
	suspectBetween = 4
	suspectWithin  = 8
	// suspectAgain is how long a device that was reported is left out.
	suspectAgain = 10 * time.Minute
	// suspectDevices is how many devices are remembered; the one whose last
	// takeover is longest ago goes.
	suspectDevices = 4096
	// suspectSources is how many sources a report names.
	suspectSources = 4
)

// clones remembers who took whose connection over.
type clones struct {
	mu    sync.Mutex
	order *list.List // of *contested, the longest ago first
	byID  map[edgeclaim.DeviceID]*list.Element
}

// contested is a device whose connection was taken over lately.
type contested struct {
	id        edgeclaim.DeviceID
	takeovers []takeover // those within the window, at most suspectWithin
	reported  time.Time  // zero: never
}

type takeover struct {
	at       time.Time
	old, new netip.Addr
}

func newClones() clones {
	return clones{order: list.New(), byID: map[edgeclaim.DeviceID]*list.Element{}}
}

// displaced is a connection at the time it was taken over.
type displaced struct {
	source netip.Addr
	age    time.Duration // since it logged in
	silent time.Duration // since it sent something
}

// takenOver notes that a device's connection was taken over from source, and
// returns what to report, if there is something.
func (k *clones) takenOver(now time.Time, id edgeclaim.DeviceID, old displaced, source netip.Addr) (edgeclaim.Suspicion, bool) {
	if old.silent > suspectAlive || old.age < suspectSettled && old.source == source {
		return edgeclaim.Suspicion{}, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.getLocked(id)
	d.takeovers = slices.DeleteFunc(d.takeovers, func(t takeover) bool { return now.Sub(t.at) > suspectWindow })
	if len(d.takeovers) == suspectWithin {
		d.takeovers = slices.Delete(d.takeovers, 0, 1)
	}
	d.takeovers = append(d.takeovers, takeover{at: now, old: old.source, new: source})
	if !d.suspect() || !d.reported.IsZero() && now.Sub(d.reported) < suspectAgain {
		return edgeclaim.Suspicion{}, false
	}
	d.reported = now
	return edgeclaim.Suspicion{
		Device: id, Kind: edgeclaim.SuspicionTakeover, Count: len(d.takeovers),
		Window: suspectWindow, Sources: d.sources(),
	}, true
}

// getLocked is what is remembered of a device, now the last of all.
func (k *clones) getLocked(id edgeclaim.DeviceID) *contested {
	if e, ok := k.byID[id]; ok {
		k.order.MoveToBack(e)
		d, _ := e.Value.(*contested)
		return d
	}
	if k.order.Len() >= suspectDevices {
		oldest := k.order.Front()
		if d, ok := k.order.Remove(oldest).(*contested); ok {
			delete(k.byID, d.id)
		}
	}
	d := &contested{id: id}
	k.byID[id] = k.order.PushBack(d)
	return d
}

// suspect reports whether that many takeovers are too many.
func (d *contested) suspect() bool {
	if len(d.takeovers) >= suspectWithin {
		return true
	}
	if len(d.takeovers) < suspectBetween {
		return false
	}
	for i, t := range d.takeovers {
		if t.old != t.new && slices.ContainsFunc(d.takeovers[i+1:], func(u takeover) bool { return u.old == t.new && u.new == t.old }) {
			return true
		}
	}
	return false
}

func (d *contested) sources() []netip.Addr {
	var sources []netip.Addr
	for _, t := range d.takeovers {
		for _, source := range []netip.Addr{t.old, t.new} {
			if len(sources) < suspectSources && !slices.Contains(sources, source) {
				sources = append(sources, source)
			}
		}
	}
	return sources
}
