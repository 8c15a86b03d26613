package telemetry_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/telemetry"
)

const (
	bootID = "8f7a1c52-6f0e-4b70-9d3c-2f6b1f7a9c01"
	soon   = 20 * time.Second // what has to happen does, within
)

// ticking is a clock that stands still until told.
type ticking struct {
	mu sync.Mutex
	up time.Duration
}

var began = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func (c *ticking) stamp() edgeclaim.Stamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	return edgeclaim.Stamp{Time: began.Add(c.up), Clock: edgeclaim.ClockSynced, Boot: bootID, Uptime: c.up}
}

func (c *ticking) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up += d
}

// registry is an event store in memory, that fails as told.
type registry struct {
	mu      sync.Mutex
	records []edgeclaim.Record
	taken   uint64
	room    int
	fail    func() error
}

func (r *registry) TakeEvents(_ context.Context, upto uint64, records []edgeclaim.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		if err := r.fail(); err != nil {
			return err
		}
	}
	if upto > r.taken {
		r.records, r.taken = append(r.records, records...), upto
	}
	return nil
}

func (r *registry) EventsTaken(context.Context) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken, nil
}

func (r *registry) EventRoom(context.Context) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.room, nil
}

func (r *registry) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *registry) all() []edgeclaim.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]edgeclaim.Record(nil), r.records...)
}

// box is a service with what it needs.
type box struct {
	*telemetry.Service
	t      *testing.T
	cfg    telemetry.Config
	parts  telemetry.Parts
	clock  *ticking
	events *registry
	stop   func()
}

func newBox(t *testing.T, change func(*box)) *box {
	t.Helper()
	b := &box{t: t, cfg: telemetry.Defaults(), clock: &ticking{up: time.Hour}, events: &registry{room: 1 << 20}}
	b.cfg.Dir, b.cfg.DiskReserve = t.TempDir(), 0
	b.cfg.SegmentBytes, b.cfg.MaxBytes, b.cfg.EventsMaxBytes = 64<<10, 16<<20, 1<<20
	b.cfg.MaxDevicePoints = 100_000
	b.parts = telemetry.Parts{Stamp: b.clock.stamp, Epoch: func() string { return "EPOCH1" }, Events: b.events}
	if change != nil {
		change(b)
	}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

// start opens and runs the service; restart ends it first.
func (b *box) start() {
	b.t.Helper()
	s, err := telemetry.Open(b.cfg, b.parts, slog.New(slog.DiscardHandler))
	if err != nil {
		b.t.Fatal(err)
	}
	b.Service = s
	s.ListAtOnce()
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Errorf("run: %v", err)
		}
		if err := s.Close(); err != nil {
			b.t.Errorf("close: %v", err)
		}
	})
}

func (b *box) restart() {
	b.t.Helper()
	b.stop()
	b.start()
}

// until waits for what has to become true.
func (b *box) until(what string, is func() bool) {
	b.t.Helper()
	deadline := time.NewTimer(soon)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			b.t.Fatalf("not within %s: %s", soon, what)
		}
	}
}

func report(t testing.TB, device int, body string) edgeclaim.Report {
	t.Helper()
	return edgeclaim.Report{
		By: admission(t, device), Body: []byte(body), Via: edgeclaim.ViaMQTT, Source: netip.MustParseAddr("127.0.0.1"),
	}
}

// say has a device say something and waits until it is durable.
func (b *box) say(device int, body string) edgeclaim.Receipt {
	b.t.Helper()
	receipt, err := b.Telemetry(b.t.Context(), report(b.t, device, body))
	if err == nil {
		err = receipt.Commit.Wait(b.t.Context())
	}
	if err != nil {
		b.t.Fatalf("%s: %v", body, err)
	}
	return receipt
}

func (b *box) mark(upto uint64) edgeclaim.Mark {
	return edgeclaim.Mark{Epoch: b.parts.Epoch(), Lane: edgeclaim.LaneTel, Upto: upto}
}

// next reads all that is pending behind a sequence.
func (b *box) next(after uint64) []edgeclaim.Record {
	b.t.Helper()
	var all []edgeclaim.Record
	for {
		records, err := b.Lane().Next(b.t.Context(), b.mark(after), 1000)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(records) == 0 {
			return all
		}
		all, after = append(all, records...), records[len(records)-1].Sequence
	}
}

func (b *box) ack(upto uint64) {
	b.t.Helper()
	if err := b.Lane().Ack(b.t.Context(), b.mark(upto)); err != nil {
		b.t.Fatal(err)
	}
	b.sums()
}

// sums holds the lane's counters against its promise.
func (b *box) sums() edgeclaim.LaneStats {
	b.t.Helper()
	s := b.Lane().Stats()
	if s.Appended != s.Acked+s.Dropped+s.Parked+s.Pending {
		b.t.Fatalf("appended is not the sum of the others: %+v", s)
	}
	return s
}

// gapOf reads a gap record.
func gapOf(t *testing.T, r edgeclaim.Record) (g struct {
	Lane, Reason, Epoch string
	From, To, Count     uint64
},
) {
	t.Helper()
	if r.Type != edgeclaim.TypeGap {
		t.Fatalf("%s is no gap", r.Type)
	}
	if err := json.Unmarshal(r.Data, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

var errDisk = errors.New("the disk is at fault")
