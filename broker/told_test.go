package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
)

// inbox is what devices are told: Commands and Configs. A command is its payload,
// on the wire too. Its zero value has nothing for anybody.
type inbox struct {
	fail func(method string) error // nil: nothing fails

	mu      sync.Mutex // guards what follows
	number  uint64
	orders  map[edgeclaim.DeviceID][]*order
	configs map[edgeclaim.DeviceID]edgeclaim.DeviceConfig
	heard   map[edgeclaim.DeviceID]int // how often it was listening
}

type order struct {
	edgeclaim.Command
	due       bool
	sent      int
	delivered bool
}

func (x *inbox) failing(method string) error {
	if x.fail == nil {
		return nil
	}
	return x.fail(method)
}

func (x *inbox) Due(_ context.Context, id edgeclaim.DeviceID, maximum int) ([]edgeclaim.Command, error) {
	if err := x.failing("due"); err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	var due []edgeclaim.Command
	for _, o := range x.orders[id] {
		if o.due && len(due) < maximum {
			due = append(due, o.Command)
		}
	}
	return due, nil
}

func (x *inbox) Sent(_ context.Context, id edgeclaim.DeviceID, ids ...edgeclaim.CommandID) error {
	if err := x.failing("sent"); err != nil {
		return err
	}
	for _, cid := range ids {
		x.with(id, cid, func(o *order) { o.due, o.sent = false, o.sent+1 })
	}
	return nil
}

func (x *inbox) Delivered(_ context.Context, id edgeclaim.DeviceID, cid edgeclaim.CommandID) error {
	if err := x.failing("delivered"); err != nil {
		return err
	}
	x.with(id, cid, func(o *order) { o.delivered = true })
	return nil
}

func (x *inbox) Listening(id edgeclaim.DeviceID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.heard == nil {
		x.heard = map[edgeclaim.DeviceID]int{}
	}
	x.heard[id]++
	for _, o := range x.orders[id] {
		o.due = !o.delivered
	}
}

func (x *inbox) Config(_ context.Context, id edgeclaim.DeviceID) (edgeclaim.DeviceConfig, error) {
	if err := x.failing("config"); err != nil {
		return edgeclaim.DeviceConfig{}, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.configs[id], nil
}

func (x *inbox) with(id edgeclaim.DeviceID, cid edgeclaim.CommandID, f func(*order)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, o := range x.orders[id] {
		if o.ID == cid {
			f(o)
		}
	}
}

// tell has a device told something, as the rule of commands would.
func (x *inbox) tell(b *broker.Broker, id edgeclaim.DeviceID, payload []byte) edgeclaim.CommandID {
	return x.tellUntil(b, id, payload, time.Now().Add(time.Hour))
}

func (x *inbox) tellUntil(b *broker.Broker, id edgeclaim.DeviceID, payload []byte, until time.Time) edgeclaim.CommandID {
	cid := x.put(id, payload, until)
	b.Wake(id)
	return cid
}

func (x *inbox) put(id edgeclaim.DeviceID, payload []byte, until time.Time) edgeclaim.CommandID {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.number++
	cid, _ := edgeclaim.ParseCommandID(fmt.Sprintf("c%d", x.number))
	if x.orders == nil {
		x.orders = map[edgeclaim.DeviceID][]*order{}
	}
	x.orders[id] = append(x.orders[id], &order{
		Command: edgeclaim.Command{ID: cid, Device: id, Payload: payload, ExpiresAt: until, Number: x.number}, due: true,
	})
	return cid
}

func (x *inbox) setConfig(b *broker.Broker, id edgeclaim.DeviceID, text string) {
	x.mu.Lock()
	if x.configs == nil {
		x.configs = map[edgeclaim.DeviceID]edgeclaim.DeviceConfig{}
	}
	x.configs[id] = edgeclaim.DeviceConfig{Version: x.configs[id].Version + 1, Config: json.RawMessage(text)}
	x.mu.Unlock()
	b.Wake(id)
}

func (x *inbox) forget(id edgeclaim.DeviceID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.orders, id)
}

// state is what became of a command.
func (x *inbox) state(id edgeclaim.DeviceID, cid edgeclaim.CommandID) (sent int, delivered bool) {
	x.with(id, cid, func(o *order) { sent, delivered = o.sent, o.delivered })
	return sent, delivered
}

func (x *inbox) listened(id edgeclaim.DeviceID) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.heard[id]
}

func encode(c edgeclaim.Command) ([]byte, error) { return c.Payload, nil }

// notebook is what devices said: Reports. Each is durable at once, unless it has
// a commit to wait for.
type notebook struct {
	// answer says what becomes of a report; nil: it is taken.
	answer func(r edgeclaim.Report) (edgeclaim.Receipt, error)

	mu    sync.Mutex // guards what follows
	taken []note
	gone  []edgeclaim.DeviceID
}

type note struct {
	event    bool
	device   edgeclaim.DeviceID
	body     string
	fleeting bool
	report   edgeclaim.Report
}

func (n *notebook) Telemetry(_ context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	return n.take(r, false)
}

func (n *notebook) Event(_ context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	return n.take(r, true)
}

func (n *notebook) take(r edgeclaim.Report, event bool) (edgeclaim.Receipt, error) {
	n.mu.Lock()
	n.taken = append(n.taken, note{event, r.By.Device, string(bytes.Clone(r.Body)), r.Fleeting, r})
	n.mu.Unlock()
	if n.answer != nil {
		return n.answer(r)
	}
	return edgeclaim.Receipt{Accepted: 1}, nil
}

func (n *notebook) Gone(id edgeclaim.DeviceID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = append(n.gone, id)
}

// notes are those taken so far.
func (n *notebook) notes() []note {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]note(nil), n.taken...)
}

func (n *notebook) left() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.gone)
}

// awaitNotes waits until so many are taken.
func (n *notebook) awaitNotes(t testing.TB, count int) []note {
	t.Helper()
	eventually(t, fmt.Sprintf("%d reports", count), func() bool { return len(n.notes()) >= count })
	return n.notes()
}
