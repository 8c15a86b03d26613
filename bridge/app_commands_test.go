package bridge_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// orders takes commands, as bridge.Commands.
type orders struct {
	fail func() error
	undo func() // nil: a command is taken back at once

	mu      sync.Mutex
	taken   []edgeclaim.Order // guarded by mu
	undone  []string          // guarded by mu
	changed chan struct{}     // guarded by mu
}

func newOrders() *orders { return &orders{changed: make(chan struct{})} }

func (o *orders) Order(_ context.Context, one edgeclaim.Order) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		if err := o.fail(); err != nil {
			return err
		}
	}
	o.taken = append(o.taken, one)
	close(o.changed)
	o.changed = make(chan struct{})
	return nil
}

func (o *orders) Cancel(_ context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID, by string) error {
	if o.undo != nil {
		o.undo()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.undone = append(o.undone, device.String()+" "+id.String()+" "+by)
	close(o.changed)
	o.changed = make(chan struct{})
	return nil
}

func (o *orders) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		o.mu.Lock()
		done, changed := ok(), o.changed
		o.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func orderOf(i, device int) wire.Order {
	id, _ := edgeclaim.ParseCommandID(fmt.Sprintf("c-%d", i))
	return wire.Order{OrderName: wire.OrderName{ID: id, Device: deviceAt(device)}, Payload: jsontext.Value(`{"relay":"on"}`)}
}

// TestAppCommands: what is signed is taken, those of one device in their order;
// what is not changes nothing.
func TestAppCommands(t *testing.T) {
	a := newApplication(t, newSigner(t))
	m := newMemory()
	got := newOrders()
	failed := make(chan struct{})
	var once sync.Once
	got.fail = func() (err error) {
		once.Do(func() {
			err = edgeclaim.ErrUnavailable
			close(failed)
		})
		return err
	}
	parts := m.withTelemetry()
	parts.Commands = got
	b := startWith(t, appConf(a), parts, a.enrolled())
	b.awaitStatus(t, appUp)
	command := func(list ...wire.Order) *wire.Commands {
		return &wire.Commands{Head: a.head(wire.TypeCommand), Commands: list}
	}
	expires := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)
	a.do(func() {
		a.sayAs(newSigner(t), wire.KindCommand, command(orderOf(66, 1)))
		a.sayAs(nil, wire.KindCommand, command(orderOf(66, 2)))
		late := command(orderOf(66, 3))
		late.Nonce = "AAECAwQFBgcICQoLDA0ODw"
		a.say(wire.KindCommand, late)
		a.say(wire.KindCommand, command(orderOf(1, 0)))
	})
	<-failed
	a.do(func() {
		first := orderOf(1, 0)
		first.ExpiresAt = expires
		a.say(wire.KindCommand, command(first))
	})
	b.awaitStatus(t, alarmed(edgeclaim.AlarmForged, 2))
	got.await(t, "the command", func() bool { return len(got.taken) == 1 })
	id, _ := edgeclaim.ParseCommandID("c-1")
	want := edgeclaim.Order{ID: id, Device: deviceAt(0), Payload: []byte(`{"relay":"on"}`), ExpiresAt: expires, Origin: edgeclaim.OriginUpstream, By: "hub-1"}
	if fmt.Sprintf("%+v", got.taken[0]) != fmt.Sprintf("%+v", want) {
		t.Errorf("took %+v, want %+v", got.taken[0], want)
	}
	got.mu.Lock()
	got.taken = nil
	got.mu.Unlock()
	a.do(func() {
		var many []wire.Order
		for i := range 200 {
			many = append(many, orderOf(i+1, i%7))
		}
		taken := command(many...)
		taken.Cancel = []wire.OrderName{many[0].OrderName}
		a.say(wire.KindCommand, taken)
	})
	got.await(t, "all", func() bool { return len(got.taken) == 200 && len(got.undone) == 1 })
	last := map[edgeclaim.DeviceID]int{}
	for _, o := range got.taken {
		var n int
		if _, err := fmt.Sscanf(o.ID.String(), "c-%d", &n); err != nil || n <= last[o.Device] {
			t.Errorf("%s after %d of %s", o.ID, last[o.Device], o.Device)
		}
		last[o.Device] = n
	}
	if want := deviceAt(0).String() + " c-1 hub-1"; got.undone[0] != want {
		t.Errorf("undone %q, want %q", got.undone[0], want)
	}
}

// TestAppCommandsFlood: what comes while the box is busy takes no more than so
// much memory; the rest comes again.
func TestAppCommandsFlood(t *testing.T) {
	a := newApplication(t, nil)
	m := newMemory()
	got := newOrders()
	busy, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	got.fail = func() error {
		once.Do(func() {
			close(busy)
			<-free
		})
		return nil
	}
	parts := m.withTelemetry()
	parts.Commands = got
	b := startWith(t, appConf(a), parts)
	b.awaitStatus(t, appUp)
	a.do(func() {
		a.say(wire.KindCommand, &wire.Commands{Head: a.head(wire.TypeCommand), Commands: []wire.Order{orderOf(0, 0)}})
	})
	<-busy
	a.do(func() {
		for batch := range 10 {
			var many []wire.Order
			for i := range 100 {
				many = append(many, orderOf(batch*100+i+1, i))
			}
			a.say(wire.KindCommand, &wire.Commands{Head: a.head(wire.TypeCommand), Commands: many})
		}
		above := uint64(1)
		a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Upto: map[edgeclaim.Lane]uint64{edgeclaim.LaneProv: above}})
	})
	b.awaitStatus(t, alarmed(edgeclaim.AlarmAckAbove, 1)) // it came last
	close(free)
	got.await(t, "what was kept", func() bool { return len(got.taken) >= 257 })
	m.add(edgeclaim.LaneProv, 1)
	m.awaitAcked(t, edgeclaim.LaneProv, 1)
	if n := len(got.taken); n != 257 {
		t.Errorf("%d commands were taken, want the one and 256", n)
	}
}

// TestAppCancelsShareACommit: many commands taken back at once do not wait for
// the disk one by one, while acks of claims wait behind them.
func TestAppCancelsShareACommit(t *testing.T) {
	a := newApplication(t, nil)
	m := newMemory()
	got := newOrders()
	const many = 64
	var together sync.WaitGroup
	together.Add(many)
	got.undo = func() {
		together.Done()
		together.Wait()
	}
	parts := m.withTelemetry()
	parts.Commands = got
	b := startWith(t, appConf(a), parts)
	b.awaitStatus(t, appUp)
	a.do(func() {
		back := &wire.Commands{Head: a.head(wire.TypeCommand)}
		for i := range many {
			back.Cancel = append(back.Cancel, orderOf(i+1, i%7).OrderName)
		}
		a.say(wire.KindCommand, back)
	})
	got.await(t, "all", func() bool { return len(got.undone) == many })
}
