package protocolschema_test

import (
	"crypto/ed25519"
	"maps"
	"reflect"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	epoch = "01K0ABCDEFGHJKMNPQRSTVWXYZ"
	other = "01K0BBCDEFGHJKMNPQRSTVWXYZ"
	nonce = "q83vEjRWeJCrze8SNFZ4kA"
)

// names are those of the box that all samples are of.
func names() wire.Names { return wire.Names{Site: "plant-7", Box: "box-17"} }

// sample is one message as the wire package's types say it.
type sample struct {
	name  string
	topic string
	// schema is where the document speaks of it: file and JSON pointer.
	schema string
	value  any // pointer to the wire's type; nil for a batch, which is no plain struct
	text   []byte
	// again decodes and encodes text.
	again func(t *testing.T, text []byte) []byte
}

// samples returns each message twice: with every member, and with the least.
func samples(t *testing.T) []sample {
	t.Helper()
	n := names()
	up := func(t *testing.T, text []byte) []byte { return encode(t)(wire.DecodeUp(n, text)) }
	all := []sample{
		{name: "hello", topic: n.Up(wire.KindControl), schema: "up#/$defs/hello", value: fullHello(), again: up},
		{name: "hello least", topic: n.Up(wire.KindControl), schema: "up#/$defs/hello", value: leastHello(), again: up},
		{name: "want", topic: n.Up(wire.KindControl), schema: "up#/$defs/want", again: up, value: &wire.Want{
			Type: wire.TypeWant, Box: n.Box, Epoch: epoch, Nonce: nonce, What: wire.WantRegistry, After: device(t).ID.String(), Done: true,
		}},
		{name: "want least", topic: n.Up(wire.KindControl), schema: "up#/$defs/want", again: up, value: &wire.Want{
			Type: wire.TypeWant, Box: n.Box, Epoch: epoch, Nonce: nonce, What: wire.WantRegistry,
		}},
		{name: "want of a part", topic: n.Up(wire.KindControl), schema: "up#/$defs/want", again: up, value: &wire.Want{
			Type: wire.TypeWant, Box: n.Box, Epoch: epoch, Nonce: nonce, What: wire.WantDocument,
			Document: list(t), Version: 7, Hash: digest, Part: 3,
		}},
		{name: "documents", topic: n.Up(wire.KindControl), schema: "up#/$defs/documents", again: up, value: &wire.DocumentsReport{
			Type: wire.TypeDocuments, Box: n.Box, Epoch: epoch, Nonce: nonce, List: "l1", Page: 1, Last: true,
			Documents: []wire.DocumentReport{
				{DocumentID: list(t), Version: 7, Hash: digest, Confirmed: true, Stale: true, Age: 1.5, Refused: "shrunk", RefusedVersion: 8},
				{DocumentID: edgeclaim.DocumentID{Type: edgeclaim.DocumentSigner}},
			},
		}},
		{name: "documents least", topic: n.Up(wire.KindControl), schema: "up#/$defs/documents", again: up, value: &wire.DocumentsReport{
			Type: wire.TypeDocuments, Box: n.Box, Epoch: epoch, Nonce: nonce, List: "l1", Page: 1,
		}},
		{name: "shares wanted", topic: n.Up(wire.KindControl), schema: "up#/$defs/shares_want", again: up, value: &wire.SharesWant{
			Type: wire.TypeShares, Box: n.Box, Epoch: epoch, Nonce: nonce,
			Wants: []wire.ShareWant{{Key: device(t).Key, Granted: 1<<32 - 1, Claims: 3, Want: 1}},
		}},
		{name: "snapshot", topic: n.Up(wire.KindSnapshot), schema: "up#/$defs/snapshot", again: up, value: &wire.SnapshotPage{
			Type: wire.TypeSnapshot, Box: n.Box, Epoch: epoch, Nonce: nonce, ID: "s1", Page: 2, Last: true,
			Devices: []edgeclaim.Device{device(t), bareDevice(t)},
		}},
		{name: "snapshot least", topic: n.Up(wire.KindSnapshot), schema: "up#/$defs/snapshot", again: up, value: &wire.SnapshotPage{
			Type: wire.TypeSnapshot, Box: n.Box, Epoch: epoch, Nonce: nonce, ID: "s1", Page: 1,
		}},
		{name: "states", topic: n.Up(wire.KindControl), schema: "up#/$defs/state", again: up, value: &wire.States{
			Type: wire.TypeState, Box: n.Box, Epoch: epoch, Nonce: nonce, Reset: true, Upto: 7,
			Devices: []wire.DeviceState{{
				DeviceState: edgeclaim.DeviceState{Device: device(t).ID, Tenant: device(t).Tenant, Presence: edgeclaim.PresenceOnline, Since: moment(), Seen: moment()},
				Telemetry:   eventOf(t, edgeclaim.LaneTel, 5, "a.later.type", device(t).ID, `{"x":1}`),
			}, {
				DeviceState: edgeclaim.DeviceState{Device: device(t).ID, Tenant: device(t).Tenant, Presence: edgeclaim.PresenceOffline, Since: moment()},
			}},
		}},
		{name: "states least", topic: n.Up(wire.KindControl), schema: "up#/$defs/state", again: up, value: &wire.States{
			Type: wire.TypeState, Box: n.Box, Epoch: epoch, Nonce: nonce, Reset: true,
		}},
		{name: "state", topic: n.State(), schema: "state#", value: &wire.State{Status: wire.Online, Box: n.Box, Epoch: epoch, Program: "v1"},
			again: func(t *testing.T, text []byte) []byte { return encode(t)(wire.DecodeState(text)) }},
		{name: "state least", topic: n.State(), schema: "state#", value: &wire.State{Status: wire.Offline, Box: n.Box, Epoch: epoch},
			again: func(t *testing.T, text []byte) []byte { return encode(t)(wire.DecodeState(text)) }},
		{name: "host", topic: wire.HostTopic, schema: "host#", again: func(t *testing.T, text []byte) []byte { return encode(t)(wire.DecodeHost(text)) },
			value: &wire.Host{Status: wire.Online, Upstream: "hub-1", Instance: "i1", Time: moment()}},
	}
	for i := range all {
		all[i].text = encode(t)(all[i].value, nil)
	}
	return append(append(all, downSamples(t)...), batchSamples(t)...)
}

func fullHello() *wire.Hello {
	h := leastHello()
	h.Program, h.Previous, h.Upstream, h.Enrolled, h.Devices = "v1", other, "hub-1", true, 7
	h.Lanes[edgeclaim.LaneProv] = edgeclaim.LaneMarks{First: 5, Appended: 9, Check: check(4)}
	h.Lanes[edgeclaim.LaneTel] = edgeclaim.LaneMarks{First: 1, Appended: 9}
	h.Documents = []wire.DocumentVersion{{DocumentID: edgeclaim.DocumentID{Type: edgeclaim.DocumentSigner}, Version: 2, Hash: digest}}
	h.Shares = true
	return h
}

func leastHello() *wire.Hello {
	n := names()
	return &wire.Hello{
		Type: wire.TypeHello, Versions: []int{wire.Version}, Box: n.Box, Site: n.Site, Epoch: epoch, Nonce: nonce, Time: moment(),
		Clock: edgeclaim.ClockUnsynced,
		Lanes: map[edgeclaim.Lane]edgeclaim.LaneMarks{edgeclaim.LaneProv: {First: 1}, edgeclaim.LaneEvt: {First: 1}},
	}
}

// downSamples are sealed on their topics; text is what is inside the envelope.
func downSamples(t *testing.T) []sample {
	t.Helper()
	n := names()
	head := func(kind string) wire.Head {
		return wire.Head{Type: kind, Box: n.Box, Epoch: epoch, Nonce: nonce, Time: moment()}
	}
	zero, version := 0, uint64(7)
	resume := map[edgeclaim.Lane]wire.Resume{edgeclaim.LaneProv: {Upto: 4, Check: check(4)}, edgeclaim.LaneEvt: {}}
	whole := maps.Clone(resume)
	whole[edgeclaim.LaneTel] = wire.Resume{Upto: 9}
	name := wire.OrderName{ID: parsed(t, edgeclaim.ParseCommandID, "c-1"), Device: device(t).ID}
	offer := edgeclaim.DocumentOffer{DocumentID: list(t), Version: 7, Hash: digest, Size: 2*wire.PartBytes + 1}
	part, err := wire.PartOf(head(wire.TypeDocument), &offer, 2, make([]byte, offer.Size))
	if err != nil {
		t.Fatal(err)
	}
	messages := []struct {
		name    string
		message wire.Down
	}{
		{"offers", &wire.Offers{Head: head(wire.TypeOffers), List: "l1", Page: 2, Last: true, Documents: []edgeclaim.DocumentOffer{offer}}},
		{"offers least", &wire.Offers{Head: head(wire.TypeOffers), List: "l1", Page: 1}},
		{"document", part},
		{"shares", &wire.Shares{Head: head(wire.TypeShares), Shares: []edgeclaim.ShareGrant{{Key: device(t).Key, Granted: 7, Claims: 3, Exhausted: true}}}},
		{"verdicts", &wire.Verdicts{Head: head(wire.TypeVerdicts), Verdicts: []edgeclaim.Verdict{
			{Device: device(t), Void: edgeclaim.NewSecret("v").Hash(), KeptBox: "box-18"},
		}}},
		{"welcome", &wire.Welcome{
			Head: head(wire.TypeWelcome), Version: wire.Version, Upstream: "hub-1", Resume: whole, Credit: 256, StartAfter: 5,
			Snapshot: true, Held: 3, Recover: true,
		}},
		{"welcome least", &wire.Welcome{Head: head(wire.TypeWelcome), Version: wire.Version, Upstream: "hub-1", Resume: resume}},
		{"ack", &wire.Ack{
			Head: head(wire.TypeAck), Upto: map[edgeclaim.Lane]uint64{edgeclaim.LaneProv: 9, edgeclaim.LaneEvt: 0, edgeclaim.LaneTel: 3}, State: &version,
			Snapshot: &wire.SnapshotAck{ID: "s1", Upto: 2}, Credit: &zero,
			Nack: []wire.Nack{{Lane: edgeclaim.LaneEvt, Sequence: 3, Code: wire.NackRetry, RetryAfter: 9, Reason: "busy"}},
		}},
		{"ack least", &wire.Ack{Head: head(wire.TypeAck), Nack: []wire.Nack{{Lane: edgeclaim.LaneProv, Sequence: 3, Code: wire.NackGap}}}},
		{"refused", &wire.Refused{Head: head(wire.TypeRefused), Code: wire.RefusedVersion, Reason: "none in common", Versions: []int{1}}},
		{"refused least", &wire.Refused{Head: head(wire.TypeRefused), Code: wire.RefusedFenced}},
		{"again", &wire.Again{Head: head(wire.TypeAgain)}},
		{"registry", &wire.RegistryPage{
			Head: head(wire.TypeRegistry), After: device(t).ID.String(), Devices: []edgeclaim.Device{device(t)}, More: true,
		}},
		{"registry least", &wire.RegistryPage{Head: head(wire.TypeRegistry)}},
		{"command", &wire.Commands{
			Head: head(wire.TypeCommand), Cancel: []wire.OrderName{name},
			Commands: []wire.Order{{OrderName: name, ExpiresAt: moment(), Payload: jsontext.Value(`{"x":1}`)}},
		}},
		{"command least", &wire.Commands{Head: head(wire.TypeCommand), Commands: []wire.Order{{OrderName: name, Payload: jsontext.Value(`1`)}}}},
	}
	var all []sample
	for _, m := range messages {
		kind := m.message.Header().Type
		topic := n.Down(wire.KindControl)
		switch kind {
		case wire.TypeAck:
			topic = n.Down(wire.KindAck)
		case wire.TypeCommand:
			topic = n.Down(wire.KindCommand)
		case wire.TypeOffers, wire.TypeDocument:
			topic = n.Down(wire.KindDocument)
		}
		all = append(all, sample{
			name: m.name, topic: topic, schema: "down#/$defs/" + kind, value: m.message, text: encode(t)(m.message, nil),
			again: func(t *testing.T, text []byte) []byte { return encode(t)(wire.DecodeDown(text)) },
		})
	}
	return all
}

func batchSamples(t *testing.T) []sample {
	t.Helper()
	n := names()
	event := func(sequence uint64, kind edgeclaim.RecordType, about edgeclaim.DeviceID, data string) []byte {
		return eventOf(t, edgeclaim.LaneProv, sequence, kind, about, data)
	}
	batch := func(first, last uint64, events ...jsontext.Value) []byte {
		text, err := wire.EncodeBatch(n, &wire.Batch{
			Box: n.Box, Epoch: epoch, Lane: edgeclaim.LaneProv, Nonce: nonce, First: first, Last: last, Events: events,
		})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	again := func(t *testing.T, text []byte) []byte {
		b, err := wire.DecodeBatch(n, text)
		if err != nil {
			t.Fatal(err)
		}
		return batch(b.First, b.Last, b.Events...)
	}
	one := func(t *testing.T, text []byte) []byte { return encode(t)(wire.DecodeEvent(text)) }
	id := device(t).ID
	gap := `{"lane":"prov","from":5,"to":5,"count":1,"reason":"damaged"}`
	topic := n.Up(string(edgeclaim.LaneProv))
	return []sample{
		{name: "batch", topic: topic, schema: "batch#", again: again, text: batch(3, 9,
			event(5, edgeclaim.TypeGap, edgeclaim.DeviceID{}, gap), event(8, "a.later.type", id, `{"x":{"y":1}}`))},
		{name: "batch of nothing", topic: topic, schema: "batch#", again: again, text: batch(3, 9)},
		{name: "record", topic: topic, schema: "cloudevent#", again: one, value: &wire.Event{}, text: event(5, "a.later.type", id, `{"x":1}`)},
		{name: "record as bytes", topic: topic, schema: "cloudevent#", again: one, text: event(5, "a.later.type", id, `no JSON`)},
	}
}

// eventOf is a record on the wire.
func eventOf(t *testing.T, lane edgeclaim.Lane, sequence uint64, kind edgeclaim.RecordType, about edgeclaim.DeviceID, data string) []byte {
	t.Helper()
	text, err := wire.EncodeEvent(names(), epoch, &edgeclaim.Record{
		Lane: lane, Sequence: sequence, Type: kind, Device: about, Data: []byte(data),
		Stamp: edgeclaim.Stamp{Time: moment(), Clock: edgeclaim.ClockSynced, Boot: "b1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// onWire returns the payload that carries the sample: what comes down is sealed.
func (s *sample) onWire(t *testing.T, text []byte) []byte {
	t.Helper()
	if _, down := s.value.(wire.Down); !down {
		return text
	}
	return envelope(text)
}

func key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) }

// list is a document with all that names one.
func list(t *testing.T) edgeclaim.DocumentID {
	t.Helper()
	return edgeclaim.DocumentID{Type: edgeclaim.DocumentAllowList, Tenant: bareDevice(t).Tenant, Name: "part-1"}
}

func moment() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 800, time.UTC) }

func check(sequence uint64) edgeclaim.Check {
	return edgeclaim.Check{Sequence: sequence, Hash: "3q2-7wECAwQFBgcICQoLDA"}
}

func device(t *testing.T) edgeclaim.Device {
	t.Helper()
	d := bareDevice(t)
	d.Profile, d.Groups, d.Tags = "p", []string{"g"}, map[string]string{"x": "y"}
	d.Credential = edgeclaim.Credential{
		Type: edgeclaim.CredentialAPIKey, Hash: edgeclaim.NewSecret("k").Hash(), IssuedAt: moment(), NotAfter: moment(), ConfirmedAt: moment(),
	}
	d.Previous, d.PreviousUntil, d.RotatedBy = d.Credential, moment(), edgeclaim.RotatorDevice
	return d
}

// bareDevice is one whose credential is void.
func bareDevice(t *testing.T) edgeclaim.Device {
	t.Helper()
	tenant := parsed(t, edgeclaim.ParseTenantID, "5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10")
	hardware := parsed(t, edgeclaim.ParseHardwareID, "AA:BB:CC:00:11:22")
	return edgeclaim.Device{
		ID: edgeclaim.NewDeviceID(tenant, hardware, 1), Tenant: tenant, Hardware: hardware, Name: "n",
		Template: parsed(t, edgeclaim.ParseTemplateID, "t1"), Key: parsed(t, edgeclaim.ParseKeyID, "k1"),
		Generation: 1, Status: edgeclaim.DeviceReleased, ClaimedAt: moment().In(time.FixedZone("", 7200)), ClaimedVia: edgeclaim.ViaMQTT,
	}
}

func parsed[T any](t *testing.T, parse func(string) (T, error), text string) T {
	t.Helper()
	value, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// encode returns a function that takes what a decoder returns.
func encode(t *testing.T) func(any, error) []byte {
	t.Helper()
	return func(value any, err error) []byte {
		t.Helper()
		if err != nil || value == nil || reflect.ValueOf(value).IsZero() {
			t.Fatalf("decoded %v, %v", value, err)
		}
		text, err := wire.Encode(value)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
}
