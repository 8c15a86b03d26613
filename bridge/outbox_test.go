package bridge_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"edgeclaim"
)

const (
	epoch  = "01K0ABCDEFGHJKMNPQRSTVWXYZ"
	tenant = "6f6f6f6f-0000-4000-8000-000000000001"
)

// memory is an outbox in memory that keeps the real one's contract.
type memory struct {
	// fail, when not nil, is asked before every call; its error is returned.
	fail     func(call string, lane edgeclaim.Lane) error
	appended chan struct{}

	mu    sync.Mutex
	lanes map[edgeclaim.Lane]*memoryLane
	calls map[string]int
	told  chan struct{} // closed and made anew by every Ack
}

type memoryLane struct {
	records []edgeclaim.Record
	acked   uint64
}

func newMemory() *memory {
	m := &memory{
		appended: make(chan struct{}, 1),
		lanes:    map[edgeclaim.Lane]*memoryLane{},
		calls:    map[string]int{},
		told:     make(chan struct{}),
	}
	for _, lane := range edgeclaim.Lanes() {
		m.lanes[lane] = &memoryLane{}
	}
	return m
}

func (m *memory) Epoch() string { return epoch }

func (m *memory) Appended() <-chan struct{} { return m.appended }

func (m *memory) Next(_ context.Context, lane edgeclaim.Lane, after uint64, limit int) ([]edgeclaim.Record, error) {
	if err := m.called("next", lane); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.lanes[lane]
	from := min(max(after, l.acked), uint64(len(l.records)))
	to := min(from+uint64(limit), uint64(len(l.records)))
	return append([]edgeclaim.Record(nil), l.records[from:to]...), nil
}

func (m *memory) Ack(_ context.Context, lane edgeclaim.Lane, upto uint64) error {
	if err := m.called("ack", lane); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.lanes[lane]
	if upto > uint64(len(l.records)) {
		return fmt.Errorf("%w: upto %d above %d", edgeclaim.ErrInvalid, upto, len(l.records))
	}
	l.acked = max(l.acked, upto)
	close(m.told)
	m.told = make(chan struct{})
	return nil
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
	m.mu.Lock()
	l := m.lanes[lane]
	for range n {
		l.records = append(l.records, newRecord(lane, uint64(len(l.records)+1)))
	}
	m.mu.Unlock()
	select {
	case m.appended <- struct{}{}:
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
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		m.mu.Lock()
		acked, told := m.lanes[lane].acked, m.told
		m.mu.Unlock()
		if acked >= want {
			return
		}
		select {
		case <-told:
		case <-timer.C:
			t.Fatalf("lane %s: told up to %d within %v, want %d", lane, acked, patience, want)
		}
	}
}

func newRecord(lane edgeclaim.Lane, sequence uint64) edgeclaim.Record {
	r := edgeclaim.Record{
		Lane: lane, Sequence: sequence, Type: edgeclaim.TypeClaimRefused,
		Stamp: edgeclaim.Stamp{
			Time:  time.Date(2026, 10, 4, 9, 12, 33, int(sequence)*1000, time.UTC),
			Clock: edgeclaim.ClockSynced, Boot: "5f0c2a3e-6a0f-4d1e-9b7e-2f6b8a1c0d9e",
		},
		Data: []byte(`{"reason":"unknown_key","count":1}`),
	}
	if lane == edgeclaim.LaneProv {
		tenantID, _ := edgeclaim.ParseTenantID(tenant)
		hardware, _ := edgeclaim.ParseHardwareID(fmt.Sprintf("board-%d", sequence))
		r.Type = edgeclaim.TypeDeviceProvisioned
		r.Device = edgeclaim.NewDeviceID(tenantID, hardware, 1)
		r.Data = fmt.Appendf(nil, `{"device_id":"%s","hardware_id":"%s"}`, r.Device, hardware)
	}
	return r
}
