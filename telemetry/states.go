package telemetry

import (
	"bytes"
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/internal/seglog"
)

const (
	// lookAtLeast and lookAtMost are how often those at work are looked through
	// for one that was silent too long: an eighth of the threshold.
	lookAtLeast = 5 * time.Millisecond
	lookAtMost  = time.Second
	// newestBytes is how much is read at once of what devices said last.
	newestBytes = 1 << 20
	// alarmEvery is how often the log, and the alarm, tells of one trouble.
	alarmEvery = time.Minute
)

// Changed returns the states whose version is above after, in the order of
// their versions, maximum at most. One that came is among them when it is on the
// list by which the next run takes that back, soon after. A device's state has another version when it
// comes or leaves; asked withNewest, when it speaks too, and what it said last
// comes along where that is durable and upstream does not have it yet.
func (s *Service) Changed(_ context.Context, after uint64, maximum int, withNewest bool) ([]edgeclaim.DeviceState, error) {
	states, places := s.presence.since(after, maximum, withNewest)
	if !withNewest {
		return states, nil
	}
	for i, place := range places {
		states[i].Newest = s.lane.newest(place, states[i].Device)
	}
	return states, nil
}

// since returns a page of states, and where their newest telemetry is.
func (p *presence) since(after uint64, maximum int, spoken bool) (states []edgeclaim.DeviceState, places []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = max(p.told, after)
	turn := p.turns.above(after, turnedAt, p.page)
	var said *device
	if spoken {
		from := p.page
		if from != nil && !from.online {
			from = nil // a link of another chain
		}
		said = p.online.above(after, spokeAt, from)
	}
	for len(states) < maximum {
		// Who came and spoke on is told where it came: whoever asks for those
		// who came alone, the next time, would not hear of it else.
		for said != nil && said.turned > after {
			said = said.links[byPlace].next
		}
		var next *device
		switch {
		case turn == nil && said == nil:
			return states, places
		case said == nil || turn != nil && turn.turned < said.spoke:
			if turn.online && turn.turned > p.rolled {
				return states, places
			}
			next, turn = turn, turn.links[byTurn].next
			states = append(states, next.state(next.turned))
		default:
			next, said = said, said.links[byPlace].next
			states = append(states, next.state(next.spoke))
		}
		places = append(places, next.newest)
		p.page = next
	}
	return states, places
}

func turnedAt(d *device) uint64 { return d.turned }
func spokeAt(d *device) uint64  { return d.spoke }

// newest returns what a device said last, which is at that place; nil where
// upstream has it, or the disk does not. What cannot be read is Next's to tell:
// states wait for no disk.
func (l *Lane) newest(place uint64, device edgeclaim.DeviceID) *edgeclaim.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.log.Bounds()
	if place <= max(b.Acked, b.Lost) || place > b.Last {
		return nil
	}
	entries, err := l.log.Read(place-1, 1, newestBytes)
	if err != nil || len(entries) == 0 || entries[0].Place != place || entries[0].Lost > 0 {
		return nil
	}
	e, err := parseEntry(entries[0].Payload)
	if err != nil || e.device != device || l.refuses(place, device) {
		return nil
	}
	r, err := telemetryRecord(&e)
	if err != nil {
		return nil
	}
	r.Sequence = place - l.own.Base
	r.Payload = bytes.Clone(r.Payload) // or each holds all that was read with it
	return &r
}

// watch notices who has fallen silent, and what an operator has to know, until
// ctx ends.
func (s *Service) watch(ctx context.Context) error {
	every := lookEvery(s.cfg.OfflineAfter)
	look := time.NewTicker(every)
	defer look.Stop()
	w := trouble{Service: s, lost: s.points.Bounds().Lost}
	r := s.newRoll()
	for {
		select {
		case <-ctx.Done():
			r.end()
			return nil
		case <-s.presence.came:
			r.look()
		case <-look.C:
			now := s.parts.Stamp()
			if shortest := lookEvery(s.presence.sweep(now)); shortest != every {
				every = shortest
				look.Reset(every)
			}
			r.look()
			w.look(s.points.Bounds(), now)
		}
	}
}

func lookEvery(threshold time.Duration) time.Duration {
	return min(max(threshold/8, lookAtLeast), lookAtMost)
}

// trouble is what was seen of the disk. It is of one goroutine.
type trouble struct {
	*Service
	lost     uint64 // up to where telemetry was lost, at the last look
	reserved bool
	next     time.Duration // the uptime from which on a loss is told again
}

func (t *trouble) look(b seglog.Bounds, now edgeclaim.Stamp) {
	if b.Lost > t.lost && now.Uptime >= t.next {
		t.logger.Warn("telemetry was lost: its quota is full, or the disk",
			"waiting", b.Last-max(b.Acked, b.Lost), "lost", b.Dropped, "disk_reserved", b.Reserved)
		t.observe(edgeclaim.AlarmTelemetryDropped)
		t.lost, t.next = b.Lost, now.Uptime+alarmEvery
	}
	if b.Reserved && !t.reserved {
		t.logger.Error("the disk is down to what only claims may use; the oldest telemetry goes")
		t.observe(edgeclaim.AlarmDiskReserve)
	}
	t.reserved = b.Reserved
}

func (s *Service) observe(alarm edgeclaim.Alarm) {
	if s.parts.Observe != nil {
		s.parts.Observe(alarm)
	}
}
