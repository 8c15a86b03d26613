package telemetry

import (
	"math"
	"time"

	"edgeclaim"
)

// holding is what holds for a device as it speaks: how long it may be silent, and
// of which version of its tenant's profiles that is.
type holding struct {
	offlineAfter time.Duration
	version      uint64
}

// silence is those at work that may be silent for the same time, the one silent
// longest first.
type silence struct {
	list
	after time.Duration
}

// unsure is no version of profiles: what holds is to be asked again.
const unsure = math.MaxUint64

// heed puts a device that has just spoken behind all others that may be silent
// for as long. With mu held.
func (p *presence) heed(d *device, by *edgeclaim.Admission, h holding) {
	if d.silence != nil {
		d.silence.remove(d)
	}
	if d.silence == nil || d.silence.after != h.offlineAfter {
		d.silence = p.silenceOf(h.offlineAfter)
	}
	d.silence.push(d)
	if d.profile != by.Profile {
		d.profile = by.Profile
	}
	if d.version == h.version && d.online {
		return
	}
	d.version = h.version
	if known, ok := p.versions[d.tenant]; !ok {
		p.versions[d.tenant] = h.version
	} else if known != h.version {
		p.versions[d.tenant] = unsure // whichever is the older: the next sweep asks
	}
}

func (p *presence) silenceOf(after time.Duration) *silence {
	s := p.silences[after]
	if s == nil {
		s = &silence{after: after}
		s.by = bySilence
		p.silences[after] = s
	}
	return s
}

// sweep makes those leave who were silent for too long, and returns the shortest
// time that one of the others may be.
func (p *presence) sweep(now edgeclaim.Stamp) (shortest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ask()
	shortest = p.offlineAfter
	for after, s := range p.silences {
		for d := s.front; d != nil && now.Uptime-d.heard >= after; d = s.front {
			p.leave(d, now)
		}
		if s.n == 0 {
			delete(p.silences, after)
			continue
		}
		shortest = min(shortest, after)
	}
	return shortest
}

// ask finds out which tenants' profiles have changed, and lets what they say now
// hold for their devices, though they are silent. That goes over all at work, and
// comes to pass when somebody changes a profile. With mu held.
func (p *presence) ask() {
	changed := map[edgeclaim.TenantID]uint64{}
	for tenant, version := range p.versions {
		if now := p.inherited(tenant, "").Version; now != version {
			changed[tenant] = now
		}
	}
	if len(changed) == 0 {
		return
	}
	clear(p.silences)
	clear(p.versions)
	for d := p.online.front; d != nil; d = d.links[byPlace].next { // in the order in which they spoke
		after := d.silence.after
		if _, ok := changed[d.tenant]; ok {
			in := p.inherited(d.tenant, d.profile)
			after, d.version = thresholdOf(&in, p.offlineAfter), in.Version
		}
		d.silence = p.silenceOf(after)
		d.silence.push(d)
		if _, ok := p.versions[d.tenant]; !ok {
			p.versions[d.tenant] = d.version
		} else if p.versions[d.tenant] != d.version {
			p.versions[d.tenant] = unsure
		}
	}
}
