package bridge_test

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge"
)

const (
	epoch  = "01K0ABCDEFGHJKMNPQRSTVWXYZ"
	tenant = "6f6f6f6f-0000-4000-8000-000000000001"
)

// memory is a box's store in memory that keeps the real one's contract.
type memory struct {
	// fail, when not nil, is asked before every call; its error is returned.
	fail     func(call string, lane edgeclaim.Lane) error
	appended chan struct{}
	came     chan struct{} // as appended, for telemetry
	clock    floor

	mu       sync.Mutex
	epoch    string
	previous string
	lanes    map[edgeclaim.Lane]*memoryLane
	parked   []string // event ids, and why
	devices  []edgeclaim.Device
	calls    map[string]int
	told     chan struct{} // closed and made anew by every change
}

type memoryLane struct {
	records []edgeclaim.Record // pending
	last    uint64             // appended
	acked   uint64
	check   edgeclaim.Check
}

func newMemory() *memory {
	m := &memory{
		appended: make(chan struct{}, 1),
		came:     make(chan struct{}, 1),
		epoch:    epoch,
		lanes:    map[edgeclaim.Lane]*memoryLane{},
		calls:    map[string]int{},
		told:     make(chan struct{}),
	}
	for _, lane := range edgeclaim.Lanes() {
		m.lanes[lane] = &memoryLane{}
	}
	return m
}

// parts is all that a bridge wants of a box.
func (m *memory) parts() bridge.Parts {
	return bridge.Parts{Outbox: m, Quarantine: m, Life: m, Registry: m, Clock: &m.clock}
}

func (m *memory) Appended() <-chan struct{} { return m.appended }

func (m *memory) Marks(context.Context) (string, string, map[edgeclaim.Lane]edgeclaim.LaneMarks, error) {
	if err := m.called("marks", ""); err != nil {
		return "", "", nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	marks := map[edgeclaim.Lane]edgeclaim.LaneMarks{}
	for name, l := range m.lanes {
		if name != edgeclaim.LaneTel {
			marks[name] = l.marks()
		}
	}
	return m.epoch, m.previous, marks, nil
}

// marks is called with mu held.
func (l *memoryLane) marks() edgeclaim.LaneMarks {
	first := l.last + 1
	if len(l.records) > 0 {
		first = l.records[0].Sequence
	}
	return edgeclaim.LaneMarks{First: first, Appended: l.last, Check: l.check}
}

func (m *memory) Next(_ context.Context, after edgeclaim.Mark, limit int) ([]edgeclaim.Record, error) {
	if err := m.called("next", after.Lane); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if after.Epoch != m.epoch {
		return nil, edgeclaim.ErrConflict
	}
	pending := m.lanes[after.Lane].records
	from := sort.Search(len(pending), func(i int) bool { return pending[i].Sequence > after.Upto })
	pending = pending[from:]
	return append([]edgeclaim.Record(nil), pending[:min(limit, len(pending))]...), nil
}

func (m *memory) Ack(_ context.Context, upto edgeclaim.Mark) error {
	if err := m.called("ack", upto.Lane); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.lanes[upto.Lane]
	switch {
	case upto.Epoch != m.epoch:
		return edgeclaim.ErrConflict
	case upto.Upto > l.last:
		return fmt.Errorf("%w: upto %d above %d", edgeclaim.ErrInvalid, upto.Upto, l.last)
	}
	n := sort.Search(len(l.records), func(i int) bool { return l.records[i].Sequence > upto.Upto })
	l.records = l.records[n:]
	l.acked = max(l.acked, upto.Upto)
	if !upto.Check.IsZero() {
		l.check = upto.Check
	}
	m.changed()
	return nil
}

func (m *memory) Park(_ context.Context, at edgeclaim.Mark, reason string) error {
	if err := m.called("park", at.Lane); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if at.Epoch != m.epoch {
		return edgeclaim.ErrConflict
	}
	l := m.lanes[at.Lane]
	var kept []edgeclaim.Record
	var device *edgeclaim.DeviceID
	for i := range l.records {
		r := &l.records[i]
		switch {
		case r.Sequence == at.Upto:
			device = &r.Device
			m.parked = append(m.parked, fmt.Sprintf("%s %d %s", at.Lane, r.Sequence, reason))
		case device != nil && !device.IsZero() && r.Device == *device:
			m.parked = append(m.parked, fmt.Sprintf("%s %d", at.Lane, r.Sequence))
		default:
			kept = append(kept, *r)
		}
	}
	if device == nil {
		return edgeclaim.ErrNotFound
	}
	l.records = kept
	m.changed()
	return nil
}

func (m *memory) Renew(context.Context) (string, error) {
	if err := m.called("renew", ""); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.previous, m.epoch = m.epoch, fmt.Sprintf("01K1RENEWED%015d", m.calls["renew"])
	for name, l := range m.lanes {
		if name != edgeclaim.LaneTel {
			l.renew()
		}
	}
	m.changed()
	m.signal()
	return m.epoch, nil
}

// renew is called with mu held.
func (l *memoryLane) renew() {
	for i := range l.records {
		l.records[i].Sequence = uint64(i + 1)
	}
	l.last, l.acked, l.check = uint64(len(l.records)), 0, edgeclaim.Check{}
}

func (m *memory) Devices(_ context.Context, after edgeclaim.DeviceID, maximum int) ([]edgeclaim.Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := sort.Search(len(m.devices), func(i int) bool { return m.devices[i].ID.String() > after.String() })
	if after.IsZero() {
		from = 0
	}
	rest := m.devices[from:]
	return append([]edgeclaim.Device(nil), rest[:min(maximum, len(rest))]...), nil
}

func (m *memory) Count(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.devices)), nil
}

func (m *memory) Adopt(_ context.Context, devices []edgeclaim.Device) (int, error) {
	if err := m.called("adopt", ""); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	adopted := 0
	for _, d := range devices {
		if !slices.ContainsFunc(m.devices, func(have edgeclaim.Device) bool { return have.ID == d.ID }) {
			m.devices = append(m.devices, d)
			adopted++
		}
	}
	slices.SortFunc(m.devices, func(a, b edgeclaim.Device) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	m.changed()
	return adopted, nil
}

// changed wakes those who wait. It is called with mu held.
func (m *memory) changed() {
	close(m.told)
	m.told = make(chan struct{})
}

func (m *memory) called(call string, lane edgeclaim.Lane) error {
	m.mu.Lock()
	m.calls[call]++
	fail := m.fail
	m.mu.Unlock()
	if fail != nil {
		return fail(call, lane)
	}
	return nil
}

// add appends n records to a lane, as one commit.
func (m *memory) add(lane edgeclaim.Lane, n int) {
	records := make([]edgeclaim.Record, n)
	m.mu.Lock()
	last := m.lanes[lane].last
	m.mu.Unlock()
	for i := range records {
		records[i] = newRecord(lane, last+uint64(i)+1)
	}
	m.append(lane, records...)
}

// append appends records under the next sequences, as one commit.
func (m *memory) append(lane edgeclaim.Lane, records ...edgeclaim.Record) {
	m.mu.Lock()
	l := m.lanes[lane]
	for _, r := range records {
		l.last++
		r.Lane, r.Sequence = lane, l.last
		l.records = append(l.records, r)
	}
	m.mu.Unlock()
	if lane == edgeclaim.LaneTel {
		signalTo(m.came)
		return
	}
	m.signal()
}

// drop removes pending records, as a full lane does.
func (m *memory) drop(lane edgeclaim.Lane, which func(sequence uint64) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.lanes[lane]
	l.records = slices.DeleteFunc(l.records, func(r edgeclaim.Record) bool { return which(r.Sequence) })
}

func (m *memory) signal() { signalTo(m.appended) }

func signalTo(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (m *memory) acked(lane edgeclaim.Lane) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lanes[lane].acked
}

func (m *memory) count(call string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[call]
}

// awaitAcked waits until the outbox was told that upstream has a lane's records
// up to want.
func (m *memory) awaitAcked(t testing.TB, lane edgeclaim.Lane, want uint64) {
	t.Helper()
	m.await(t, func() bool { return m.lanes[lane].acked >= want }, func() string {
		return fmt.Sprintf("lane %s: told up to %d, want %d", lane, m.lanes[lane].acked, want)
	})
}

// await waits until something holds; both functions are called with mu held.
func (m *memory) await(t testing.TB, ok func() bool, instead func() string) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		m.mu.Lock()
		done, told, text := ok(), m.told, instead()
		m.mu.Unlock()
		if done {
			return
		}
		select {
		case <-told:
		case <-timer.C:
			t.Fatalf("not within %v: %s", patience, text)
		}
	}
}

// floor is a clock that remembers what it was raised to.
type floor struct {
	mu     sync.Mutex
	raised time.Time
}

func (*floor) Stamp() edgeclaim.Stamp {
	return edgeclaim.Stamp{Time: time.Date(2026, 10, 4, 9, 0, 0, 0, time.UTC), Clock: edgeclaim.ClockSynced}
}

func (f *floor) Raise(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.After(f.raised) {
		f.raised = t
	}
}

func (f *floor) at() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.raised
}

func newRecord(lane edgeclaim.Lane, sequence uint64) edgeclaim.Record {
	r := edgeclaim.Record{
		Lane: lane, Sequence: sequence, Type: edgeclaim.TypeClaimRefused,
		Stamp: edgeclaim.Stamp{
			Time:  time.Date(2026, 10, 4, 9, 12, 33, int(sequence)*1000, time.UTC),
			Clock: edgeclaim.ClockSynced, Boot: "5f0c2a3e-6a0f-4d1e-9b7e-2f6b8a1c0d9e",
		},
		Data: []byte(`{"reason":"unknown_key","via":"http","count":1,"since":"2026-10-04T09:12:00Z","until":"2026-10-04T09:13:00Z","box_id":"` +
			box + `","site":"` + site + `"}`),
	}
	if lane == edgeclaim.LaneTel {
		return newPoint(sequence)
	}
	if lane == edgeclaim.LaneProv {
		tenantID, _ := edgeclaim.ParseTenantID(tenant)
		hardware, _ := edgeclaim.ParseHardwareID(fmt.Sprintf("board-%d", sequence))
		r.Type = edgeclaim.TypeDeviceProvisioned
		r.Device = edgeclaim.NewDeviceID(tenantID, hardware, 1)
		r.Data = fmt.Appendf(nil, `{"device_id":"%s","tenant_id":"%s","hardware_id":"%s","name":"n","template_id":"t1","key_id":"k1",`+
			`"groups":[],"credential":{"type":"api_key","sha256":"%s"},"claimed_via":"http","claimed_at":"2026-10-04T09:12:33Z",`+
			`"box_id":"%s","site":"%s"}`, r.Device, tenant, hardware, edgeclaim.NewSecret("k").Hash(), box, site)
	}
	return r
}
