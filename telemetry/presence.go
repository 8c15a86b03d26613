package telemetry

import (
	"sync"
	"time"

	"edgeclaim"
)

const (
	// burst is how many seconds' worth of points a device has at once.
	burst = 2
	// warnEvery is how often the log tells of one device.
	warnEvery = time.Minute
)

// presence is who is at work, and how much each has said. It is in memory:
// after a start everybody is away until heard; see roll.
type presence struct {
	offlineAfter time.Duration
	most         int
	each         time.Duration // that a point takes to be made good
	changed      chan struct{}
	came         chan struct{} // somebody has come: the list is to be written
	inherited    func(edgeclaim.TenantID, string) edgeclaim.Inherited

	mu      sync.Mutex // guards what follows, for the length of a look-up
	devices map[edgeclaim.DeviceID]*device
	version uint64
	// online are those at work, the one silent longest first, so in the order
	// of spoke too; away are the others, the one away longest first.
	online, away list
	// silences are those at work by how long they may be silent; none is empty for
	// longer than to the next sweep. versions are the versions of profiles by which
	// that was decided, of the tenants that have somebody at work or had.
	silences map[time.Duration]*silence
	versions map[edgeclaim.TenantID]uint64
	// turns are those that came or left once, in the order of turned.
	turns list
	// page is where the last page of states ended.
	page *device
	// recalled is the version of the last that was at work in the run before,
	// told that up to which somebody has heard of the states.
	recalled, told uint64
	// rolled is the version up to which those at work are on the list that a
	// program that is killed leaves behind.
	rolled uint64
}

// device is what is known of one that said something.
type device struct {
	id     edgeclaim.DeviceID
	tenant edgeclaim.TenantID
	// turned is the version at which it came or left last, 0 for never; spoke
	// that of its last telemetry.
	turned, spoke uint64
	online        bool
	since, seen   time.Time
	heard         time.Duration // uptime at its last telemetry
	newest        uint64        // place of the last that was kept, 0 for none

	good   time.Duration // the uptime at which its points are made good
	warned time.Duration // the uptime from which on the log may tell of it

	// While it is at work: among whom it is, by which version of its tenant's
	// profiles.
	silence *silence
	version uint64
	profile string

	links [3]link
}

func newPresence(cfg Config, inherited func(edgeclaim.TenantID, string) edgeclaim.Inherited) *presence {
	if inherited == nil {
		inherited = func(edgeclaim.TenantID, string) edgeclaim.Inherited { return edgeclaim.Inherited{} }
	}
	p := &presence{
		inherited: inherited, silences: map[time.Duration]*silence{}, versions: map[edgeclaim.TenantID]uint64{},
		offlineAfter: cfg.OfflineAfter, most: cfg.MaxPresent,
		each:    time.Second / time.Duration(cfg.MaxDevicePoints),
		changed: make(chan struct{}, 1), came: make(chan struct{}, 1), devices: map[edgeclaim.DeviceID]*device{},
	}
	p.online.by, p.away.by, p.turns.by = byPlace, byPlace, byTurn
	return p
}

// of returns what is known of a device, or begins to know it. With mu held.
func (p *presence) of(id edgeclaim.DeviceID) *device {
	if d, ok := p.devices[id]; ok {
		return d
	}
	d := &device{id: id}
	p.devices[id] = d
	p.away.push(d)
	p.trim()
	return d
}

// trim forgets who is away longest, when there are too many. With mu held.
func (p *presence) trim() {
	for p.away.n > p.most {
		d := p.away.front
		p.away.remove(d)
		if d.turned > 0 {
			p.turns.remove(d)
		}
		if p.page == d {
			p.page = nil
		}
		delete(p.devices, d.id)
	}
}

// charge takes points off what a device may say, and reports whether it still
// had that many. Nothing is taken else.
func (p *presence) charge(id edgeclaim.DeviceID, points int, now edgeclaim.Stamp) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.of(id)
	good := max(d.good, now.Uptime) + time.Duration(points)*p.each
	if good > now.Uptime+burst*time.Second && d.good > now.Uptime {
		return false
	}
	d.good = good
	return true
}

// mayWarn reports whether the log may tell of a device now, and then not for a
// while.
func (p *presence) mayWarn(id edgeclaim.DeviceID, now edgeclaim.Stamp) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.of(id)
	if now.Uptime < d.warned {
		return false
	}
	d.warned = now.Uptime + warnEvery
	return true
}

// spoke notes that a device sent telemetry, which is at that place of the log;
// 0 for nowhere.
func (p *presence) spoke(by *edgeclaim.Admission, now edgeclaim.Stamp, place uint64, h holding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.of(by.Device)
	d.tenant, d.seen, d.heard = by.Tenant, now.Time, now.Uptime
	p.heed(d, by, h)
	if place > 0 {
		d.newest = place
	}
	p.version++
	d.spoke = p.version
	if d.online {
		p.online.remove(d)
		p.online.push(d)
		return
	}
	p.away.remove(d)
	p.online.push(d)
	p.turn(d, true, now)
	if p.online.n > p.most {
		p.leave(p.online.front, now)
	}
}

// turn notes that a device came or left. With mu held.
func (p *presence) turn(d *device, online bool, now edgeclaim.Stamp) {
	if d.turned > 0 {
		p.turns.remove(d)
	}
	p.version++
	d.online, d.since, d.turned = online, now.Time, p.version
	if online {
		d.spoke = p.version
	}
	p.turns.push(d)
	if !online {
		p.signal()
		return
	}
	select {
	case p.came <- struct{}{}: // the list is written first
	default:
	}
}

// signal tells that there is something to tell.
func (p *presence) signal() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// leave makes a device that is at work one that is not. With mu held.
func (p *presence) leave(d *device, now edgeclaim.Stamp) {
	p.online.remove(d)
	d.silence.remove(d)
	d.silence = nil
	p.away.push(d)
	p.turn(d, false, now)
	p.trim()
}

func (p *presence) gone(id edgeclaim.DeviceID, now edgeclaim.Stamp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d, ok := p.devices[id]; ok && d.online {
		p.leave(d, now)
	}
}

func (p *presence) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.online.n
}

func (p *presence) state(id edgeclaim.DeviceID) (edgeclaim.DeviceState, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, ok := p.devices[id]
	if !ok || d.turned == 0 {
		return edgeclaim.DeviceState{}, false
	}
	return d.state(d.turned), true
}

func (d *device) state(version uint64) edgeclaim.DeviceState {
	s := edgeclaim.DeviceState{
		Device: d.id, Tenant: d.tenant, Presence: edgeclaim.PresenceOffline,
		Since: d.since, Seen: d.seen, Version: version,
	}
	if d.online {
		s.Presence = edgeclaim.PresenceOnline
	}
	return s
}
