package bridge_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"edgeclaim"
	"edgeclaim/bridge"
)

// points is a memory's lane of telemetry, as bridge.Telemetry.
type points struct {
	*memory

	life    string          // guarded by memory's mu
	refused map[string]bool // guarded by memory's mu; devices
}

// withTelemetry is all that a bridge wants of a box where devices are at work.
func (m *memory) withTelemetry() bridge.Parts {
	p := m.parts()
	p.Telemetry = &points{memory: m, refused: map[string]bool{}}
	return p
}

func (p *points) Appended() <-chan struct{} { return p.came }

func (p *points) Begin(_ context.Context, epoch string) error {
	if err := p.called("begin", edgeclaim.LaneTel); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life == "" {
		p.life = epoch
	}
	if p.life != epoch {
		p.life = epoch
		p.lanes[edgeclaim.LaneTel].renew()
	}
	return nil
}

func (p *points) Marks(context.Context) (string, string, map[edgeclaim.Lane]edgeclaim.LaneMarks, error) {
	if err := p.called("marks", edgeclaim.LaneTel); err != nil {
		return "", "", nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.life, "", map[edgeclaim.Lane]edgeclaim.LaneMarks{edgeclaim.LaneTel: p.lanes[edgeclaim.LaneTel].marks()}, nil
}

func (p *points) Next(ctx context.Context, after edgeclaim.Mark, limit int) ([]edgeclaim.Record, error) {
	if !p.lives(&after) {
		return nil, edgeclaim.ErrConflict
	}
	return p.memory.Next(ctx, after, limit)
}

func (p *points) Ack(ctx context.Context, upto edgeclaim.Mark) error {
	if !p.lives(&upto) {
		return edgeclaim.ErrConflict
	}
	return p.memory.Ack(ctx, upto)
}

// lives says whether a mark is of the lane's life, and makes it one of the
// outbox's.
func (p *points) lives(m *edgeclaim.Mark) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	lives := m.Epoch == p.life
	m.Epoch = p.epoch
	return lives
}

func (p *points) Refuse(_ context.Context, at edgeclaim.Mark, reason string) error {
	if err := p.called("refuse", edgeclaim.LaneTel); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	records := p.lanes[edgeclaim.LaneTel].records
	i := slices.IndexFunc(records, func(r edgeclaim.Record) bool { return r.Sequence == at.Upto })
	if i < 0 {
		return edgeclaim.ErrNotFound
	}
	device := records[i].Device
	for j := i; j < len(records); j++ {
		if records[j].Device == device {
			records[j] = newGap(records[j].Sequence, records[j].Sequence, "refused")
		}
	}
	p.parked = append(p.parked, fmt.Sprintf("%s %d %s", at.Lane, at.Upto, reason))
	p.changed()
	return nil
}

// lose drops what is pending up to a sequence, as a lane does that is full: one
// gap record, right behind what is acknowledged, takes its place.
func (m *memory) lose(upto uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.lanes[edgeclaim.LaneTel]
	rest := slices.DeleteFunc(l.records, func(r edgeclaim.Record) bool { return r.Sequence <= upto })
	l.records = append([]edgeclaim.Record{newGap(l.acked+1, upto, "quota")}, rest...)
}

func newGap(from, to uint64, reason string) edgeclaim.Record {
	r := newRecord(edgeclaim.LaneEvt, to)
	r.Lane, r.Type = edgeclaim.LaneTel, edgeclaim.TypeGap
	r.Data = fmt.Appendf(nil, `{"lane":"tel","from":%d,"to":%d,"count":%d,"reason":%q,"epoch":%q}`, from, to, to-from+1, reason, epoch)
	return r
}

// newPoint is the telemetry of one of ten devices.
func newPoint(sequence uint64) edgeclaim.Record {
	r := newRecord(edgeclaim.LaneEvt, sequence)
	r.Lane, r.Type, r.Device = edgeclaim.LaneTel, edgeclaim.TypeTelemetry, deviceAt(int(sequence%10))
	r.Payload = fmt.Appendf(nil, `{"n": %d}`, sequence)
	r.Data = fmt.Appendf(nil, `{"device_id":"%s","tenant_id":"%s","values":%s}`, r.Device, tenant, r.Payload)
	return r
}

func deviceAt(i int) edgeclaim.DeviceID {
	tenantID, _ := edgeclaim.ParseTenantID(tenant)
	hardware, _ := edgeclaim.ParseHardwareID(fmt.Sprintf("sensor-%d", i))
	return edgeclaim.NewDeviceID(tenantID, hardware, 1)
}

// presences is the state of devices in memory, as bridge.States.
type presences struct {
	signal chan struct{}
	fail   func() error

	mu      sync.Mutex
	states  []edgeclaim.DeviceState // in the order of their versions
	version uint64
	asked   []bool // withNewest, of each call
}

func newPresences() *presences { return &presences{signal: make(chan struct{}, 1)} }

func (s *presences) StatesChanged() <-chan struct{} { return s.signal }

func (s *presences) Changed(_ context.Context, after uint64, maximum int, withNewest bool) ([]edgeclaim.DeviceState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, withNewest)
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return nil, err
		}
	}
	var list []edgeclaim.DeviceState
	for _, one := range s.states {
		if one.Version > after && len(list) < maximum {
			if !withNewest {
				one.Newest = nil
			}
			list = append(list, one)
		}
	}
	return list, nil
}

// set changes the state of a device, number i.
func (s *presences) set(i int, presence edgeclaim.Presence, newest *edgeclaim.Record) {
	s.change(i, presence, newest)
	signalTo(s.signal)
}

// speak notes that one at work sent telemetry, which nobody is told of.
func (s *presences) speak(i int, newest *edgeclaim.Record) {
	s.change(i, edgeclaim.PresenceOnline, newest)
}

func (s *presences) change(i int, presence edgeclaim.Presence, newest *edgeclaim.Record) {
	tenantID, _ := edgeclaim.ParseTenantID(tenant)
	s.mu.Lock()
	id := deviceAt(i)
	s.states = slices.DeleteFunc(s.states, func(d edgeclaim.DeviceState) bool { return d.Device == id })
	s.version++
	s.states = append(s.states, edgeclaim.DeviceState{
		Device: id, Tenant: tenantID, Presence: presence, Version: s.version, Newest: newest,
		Since: time.Date(2026, 10, 4, 9, 0, 0, 0, time.UTC),
	})
	s.mu.Unlock()
}
