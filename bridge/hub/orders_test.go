package hub_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/protocolschema"
)

const tel = edgeclaim.LaneTel

// give keeps a command for a box's nth device.
func (r *rig) give(b *box, n uint64, id string, payload string) {
	r.t.Helper()
	name, err := edgeclaim.ParseCommandID(id)
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = r.db.GiveCommand(r.t.Context(), edgeclaim.Order{
		ID: name, Device: b.device(n), Payload: json.RawMessage(payload), ExpiresAt: time.Now().Add(time.Hour), By: "uid:0",
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// ordered waits for the next message of commands, and checks its shape on the wire.
func (b *box) ordered() *wire.Commands {
	b.t.Helper()
	c := next[*wire.Commands](b)
	text, err := wire.Encode(c)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := protocolschema.Check(b.names.Down(wire.KindCommand), sealed(text)); err != nil {
		b.t.Error(err)
	}
	return c
}

// sealed is an envelope that nobody signed; the one that came was opened.
func sealed(payload []byte) []byte {
	return fmt.Appendf(nil, `{"payload":%q,"key_id":"0123456789abcdef","signature":%q}`, base64.RawURLEncoding.EncodeToString(payload), strings.Repeat("A", 86))
}

// says is a box's record of a command's status.
func (b *box) says(sequence, n uint64, id string, status edgeclaim.CommandStatus) []byte {
	b.t.Helper()
	text, err := wire.EncodeEvent(b.names, b.epoch, &edgeclaim.Record{
		Lane: evt, Sequence: sequence, Type: edgeclaim.TypeCommandStatus, Device: b.device(n),
		Stamp: edgeclaim.Stamp{Time: time.Unix(1_800_000_000, 0), Clock: edgeclaim.ClockSynced, Boot: "boot"},
		Data: fmt.Appendf(nil, `{"command_id":%q,"device_id":%q,"tenant_id":%q,"status":%q,"at":"2026-10-04T09:12:33Z",`+
			`"origin":"upstream","attempts":0}`, id, b.device(n), tenantID, status),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

// answer tells records of statuses from a sequence on.
func (b *box) answer(first uint64, events ...[]byte) {
	b.t.Helper()
	batch := &wire.Batch{Box: b.names.Box, Epoch: b.epoch, Lane: evt, Nonce: b.nonce, First: first, Last: first + uint64(len(events)) - 1}
	for _, e := range events {
		batch.Events = append(batch.Events, e)
	}
	b.publish(b.names.Up("evt"), b.encode(batch), false)
	b.ack(evt, batch.Last)
}

func (r *rig) status(b *box, n uint64, id string) edgeclaim.CommandStatus {
	r.t.Helper()
	name, _ := edgeclaim.ParseCommandID(id)
	c, err := r.db.Command(r.t.Context(), b.device(n), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return c.Status
}

// TestOrders: a command given while its box is away is told with its welcome, one
// given while it is there soon after; a new session hears again what has no
// status, and what was taken back; then nothing more.
func TestOrders(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	b.tell(prov, 1, 3)
	b.ack(prov, 3)
	r.give(b, 1, "c-1", `{"valve":"open"}`)
	c := b.ordered()
	if len(c.Commands) != 1 || c.Commands[0].ID.String() != "c-1" || c.Commands[0].Device != b.device(1) ||
		string(c.Commands[0].Payload) != `{"valve":"open"}` || time.Until(c.Commands[0].ExpiresAt) > time.Hour {
		t.Errorf("%+v", c)
	}
	b.hello() // a new session, and nothing was heard of c-1
	if c := b.ordered(); len(c.Commands) != 1 || c.Commands[0].ID.String() != "c-1" {
		t.Errorf("%+v", c)
	}
	b.answer(1, b.says(1, 1, "c-1", edgeclaim.CommandQueued), b.says(2, 1, "c-1", edgeclaim.CommandSent))
	if got := r.status(b, 1, "c-1"); got != edgeclaim.CommandSent {
		t.Error(got)
	}
	name, _ := edgeclaim.ParseCommandID("c-1")
	if _, err := r.db.CancelCommand(t.Context(), b.device(1), name, "uid:0"); err != nil {
		t.Fatal(err)
	}
	if c := b.ordered(); len(c.Commands) != 0 || len(c.Cancel) != 1 || c.Cancel[0] != (wire.OrderName{ID: name, Device: b.device(1)}) {
		t.Errorf("%+v", c)
	}
	b.answer(3, b.says(3, 1, "c-1", edgeclaim.CommandCancelled))
	r.give(b, 2, "c-2", `1`)
	if c := b.ordered(); len(c.Commands) != 1 || len(c.Cancel) != 0 || c.Commands[0].ID.String() != "c-2" {
		t.Errorf("%+v", c)
	}
	if f := r.hub.Figures(); f.Orders != 4 || f.Malformed+f.Foreign != 0 {
		t.Errorf("figures %+v", f)
	}
}

// TestManyOrders: no message is too large, a box is told 256 at most that it has
// not answered, and the others as it answers. A box of another name hears none.
func TestManyOrders(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b, other := newBox(t, broker, "box-1", r.public()), newBox(t, broker, "box-2", r.public())
	b.hello()
	b.tell(prov, 1, 3)
	b.ack(prov, 3)
	const n = 300
	payload := `"` + strings.Repeat("x", 2000) + `"`
	for i := range n {
		r.give(b, uint64(i%3+1), fmt.Sprintf("c-%03d", i), payload)
	}
	begun, told, waits, acked := time.Now(), map[string]bool{}, []string{}, uint64(0)
	hear := func() {
		switch m := b.nextDown().(type) { // which judges its size
		case *wire.Ack:
			acked = m.Upto[evt]
		case *wire.Commands:
			for _, o := range m.Commands {
				if id := o.ID.String(); !told[id] {
					told[id] = true
					waits = append(waits, id)
				}
			}
		}
	}
	for sequence := uint64(0); len(told) < n; {
		for len(told) < 256 { // as many come without an answer
			hear()
		}
		if len(waits) > 256 && time.Since(begun) < 10*time.Second { // then they are told again, and others with them
			t.Errorf("%d at once", len(waits))
		}
		some := waits[:min(len(waits), 100)] // a message holds no more
		waits = waits[len(some):]
		batch := &wire.Batch{Box: b.names.Box, Epoch: b.epoch, Lane: evt, Nonce: b.nonce, First: sequence + 1}
		for _, id := range some {
			var i uint64
			if _, err := fmt.Sscanf(id, "c-%d", &i); err != nil {
				t.Fatal(err)
			}
			sequence++
			batch.Events = append(batch.Events, b.says(sequence, i%3+1, id, edgeclaim.CommandQueued))
		}
		if batch.Last = sequence; len(some) > 0 {
			b.publish(b.names.Up("evt"), b.encode(batch), false)
		}
		for len(told) < n && (acked < sequence || len(waits) == 0) {
			hear()
		}
	}
	other.hello()
	other.silent()
}

// TestStatesAndTelemetry: states are acknowledged by their version after they are
// committed, telemetry as the other lanes, and both are seen by who asks.
func TestStatesAndTelemetry(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	b.hello()
	b.tell(prov, 1, 2)
	b.ack(prov, 2)
	tenant, err := edgeclaim.ParseTenantID(tenantID)
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now().UTC().Truncate(time.Microsecond)
	say := func(upto uint64, reset bool, devices ...wire.DeviceState) {
		t.Helper()
		message := &wire.States{
			Type: wire.TypeState, Box: b.names.Box, Epoch: b.epoch, Nonce: b.nonce, Reset: reset, Upto: upto, Devices: devices,
		}
		text, err := wire.Encode(message)
		if err != nil {
			t.Fatal(err)
		}
		if err := protocolschema.Check(b.names.Up(wire.KindControl), text); err != nil {
			t.Error(err)
		}
		b.publish(b.names.Up(wire.KindControl), text, false)
	}
	online := edgeclaim.DeviceState{Device: b.device(1), Tenant: tenant, Presence: edgeclaim.PresenceOnline, Since: since, Seen: since}
	say(7, true, wire.DeviceState{DeviceState: online, Telemetry: b.event(tel, 90)})
	a := next[*wire.Ack](b)
	if a.State == nil || *a.State != 7 || len(a.Upto) != 0 {
		t.Errorf("%+v", a)
	}
	b.tell(tel, 1, 50)
	b.ack(tel, 50)
	found, err := r.db.Devices(t.Context(), registry.DeviceFilter{Device: b.device(1)})
	if err != nil || len(found) != 1 {
		t.Fatal(err)
	}
	h := found[0].Holdings[0]
	if h.Presence != edgeclaim.PresenceOnline || !h.Since.Equal(since) || !h.BoxOnline || !cmp.Equal([]byte(h.Newest), b.event(tel, 90)) {
		t.Errorf("%+v", h)
	}
	say(7, true, wire.DeviceState{DeviceState: online}) // again, and answered again
	if a := next[*wire.Ack](b); a.State == nil || *a.State != 7 {
		t.Errorf("%+v", a)
	}
	say(0, false)         // of no version
	b.nonce = b.nonce[1:] // of another session
	say(8, false)
	await(t, "what is not taken", func() bool { f := r.hub.Figures(); return f.Malformed == 1 && f.Foreign == 1 })
	if f := r.hub.Figures(); f.States != 2 || f.Batches != 2 || f.Skipped != 0 {
		t.Errorf("figures %+v", f)
	}
}

// TestOlderBox: one that knows neither telemetry nor commands is served as ever.
func TestOlderBox(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	b := newBox(t, broker, "box-1", r.public())
	delete(b.first, tel)
	if w := b.hello(); len(w.Resume) != 2 {
		t.Errorf("resume %+v", w.Resume)
	}
	b.tell(prov, 1, 3)
	b.ack(prov, 3)
	if w := b.hello(); w.Resume[prov].Upto != 3 || len(w.Resume) != 2 {
		t.Errorf("resume %+v", w.Resume)
	}
}

// TestIngestTelemetry: a stick's file may have the third lane, or nothing of it.
func TestIngestTelemetry(t *testing.T) {
	s, b := stick(t)
	ingest := func() hub.Ingested {
		t.Helper()
		got, err := s.Ingest(t.Context(), strings.NewReader(string(b.export(3, 1))))
		if err != nil && !errors.Is(err, hub.ErrOlder) {
			t.Fatal(err)
		}
		return got
	}
	b.first[tel] = 1
	if got := ingest(); got.Records != 4 || len(got.Upto) != 2 { // a box that has nothing of it yet
		t.Errorf("%+v", got)
	}
	b.appended[tel] = 5
	file := append(b.export(3, 1), append(b.encode(b.batch(tel, 1, 5)), '\n')...)
	got, err := s.Ingest(t.Context(), strings.NewReader(string(file)))
	if err != nil || got.Records != 5 || got.Upto[tel] != 5 {
		t.Errorf("%+v, %v", got, err)
	}
	if ack, ok := b.opened(got.Answer).(*wire.Ack); !ok || ack.Upto[tel] != 5 {
		t.Errorf("%s", got.Answer)
	}
	delete(b.first, tel) // its telemetry was turned off since
	if got := ingest(); got.Batches != 2 || got.Records != 0 || got.Upto[prov] != 3 {
		t.Errorf("%+v", got)
	}
}
