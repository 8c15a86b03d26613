package acceptance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mqttwire"
)

// member is a box of a swarm: it speaks the protocol of the way up, has no
// store and no face, and costs a goroutine. Its records are made as they are
// sent.
type member struct {
	names    wire.Names
	epoch    string
	appended uint64
	// hardware is that of the device behind a sequence.
	hardware func(sequence uint64) string

	// Of the connection.
	client      *mqttwire.Client
	nonce       string
	sent, acked uint64
	credit      int
	welcomed    bool
}

func newMember(t testing.TB, number int) *member {
	t.Helper()
	names, err := wire.NewNames("swarm", fmt.Sprintf("box-%04d", number))
	if err != nil {
		t.Fatal(err)
	}
	m := &member{names: names, epoch: rand.Text()}
	m.hardware = func(sequence uint64) string { return fmt.Sprintf("%s-%d", m.names.Box, sequence) }
	return m
}

// welcomeWithin is how long a member waits for its welcome.
const welcomeWithin = 5 * time.Second

var errRefused = errors.New("the application refuses the box")

// tell connects and tells all that was appended, once.
func (m *member) tell(ctx context.Context, addr string) error {
	client, ack, err := mqttwire.Dial(ctx, addr, mqttwire.V311, mqttwire.Login{ClientID: m.names.Box, Clean: true})
	if err != nil {
		return err
	}
	defer client.Close()
	if ack.Code() != 0 {
		return fmt.Errorf("connack %#x", ack.Code())
	}
	// A hello that nobody was there to hear is not answered: connect anew.
	if err := client.SetDeadline(time.Now().Add(welcomeWithin)); err != nil {
		return err
	}
	for _, filter := range []string{m.names.Down("#"), wire.HostTopic} {
		if err := m.subscribe(client, filter); err != nil {
			return err
		}
	}
	m.client, m.nonce, m.welcomed = client, rand.Text()[:22], false
	if err := m.hello(); err != nil {
		return err
	}
	for !m.welcomed || m.acked < m.appended {
		if err := m.fill(); err != nil {
			return err
		}
		if err := m.read(); err != nil {
			return err
		}
	}
	return nil
}

// subscribe subscribes at QoS 0; what is retained may come before the SUBACK
// or behind it, and is a hint in either case.
func (m *member) subscribe(client *mqttwire.Client, filter string) error {
	if err := client.Send(mqttwire.AppendSubscribe(nil, mqttwire.V311, client.NextID(), 0, filter)); err != nil {
		return err
	}
	for {
		if p, err := client.Read(); err != nil || p.Type == mqttwire.Suback {
			return err
		}
	}
}

func (m *member) hello() error {
	return m.say(wire.KindControl, &wire.Hello{
		Type: wire.TypeHello, Versions: []int{wire.Version}, Box: m.names.Box, Site: m.names.Site, Epoch: m.epoch, Nonce: m.nonce,
		Lanes: map[edgeclaim.Lane]edgeclaim.LaneMarks{
			edgeclaim.LaneProv: {First: m.acked + 1, Appended: m.appended}, edgeclaim.LaneEvt: {First: 1},
		},
		Devices: m.appended, Time: time.Now(), Clock: edgeclaim.ClockSynced,
	})
}

func (m *member) say(kind string, message any) error {
	text, err := wire.Encode(message)
	if err != nil {
		return err
	}
	return m.client.Publish(mqttwire.Message{Topic: m.names.Up(kind), Payload: text, QoS: 1})
}

// fill sends batches while there is credit.
func (m *member) fill() error {
	for m.welcomed && m.sent < m.appended && m.sent-m.acked < uint64(m.credit) {
		if err := m.batch(); err != nil {
			return err
		}
	}
	return nil
}

// batch sends as many records as fit, at most to where credit ends.
func (m *member) batch() error {
	b := wire.Batch{Box: m.names.Box, Epoch: m.epoch, Lane: edgeclaim.LaneProv, Nonce: m.nonce, First: m.sent + 1}
	size := wire.BatchOverhead
	last := min(m.appended, m.acked+uint64(m.credit))
	for n := b.First; n <= last; n++ {
		event, err := m.event(n)
		if err != nil {
			return err
		}
		if size += len(event) + 1; size > wire.MaxMessage {
			break
		}
		b.Events, b.Last = append(b.Events, event), n
	}
	text, err := wire.EncodeBatch(m.names, &b)
	if err != nil {
		return err
	}
	m.sent = b.Last
	return m.client.Publish(mqttwire.Message{Topic: m.names.Up(string(edgeclaim.LaneProv)), Payload: text, QoS: 1})
}

func (m *member) event(sequence uint64) (jsontext.Value, error) {
	d, err := aDevice(m.hardware(sequence), m.names.Box)
	if err != nil {
		return nil, err
	}
	record := provisionedRecord(&d, m.names)
	record.Sequence = sequence
	return wire.EncodeEvent(m.names, m.epoch, record)
}

// read takes one packet and does what it says.
func (m *member) read() error {
	p, err := m.client.Read()
	if err != nil || p.Type != mqttwire.Publish {
		return err
	}
	if p.Topic == wire.HostTopic {
		if m.welcomed {
			return nil
		}
		return m.hello() // the application came after the first one
	}
	payload, err := wire.Open(nil, p.Payload)
	if err != nil {
		return err
	}
	message, err := wire.DecodeDown(payload)
	if err != nil || message == nil || message.Header().Nonce != m.nonce {
		if again, ok := message.(*wire.Again); ok && again != nil {
			return m.hello()
		}
		return err
	}
	switch message := message.(type) {
	case *wire.Welcome:
		m.welcomed, m.credit = true, message.Credit
		m.acked = max(m.acked, message.Resume[edgeclaim.LaneProv].Upto)
		m.sent = m.acked
		return m.client.SetDeadline(time.Now().Add(10 * time.Minute))
	case *wire.Ack:
		m.ack(message)
	case *wire.Again:
		return m.hello()
	case *wire.Refused:
		return fmt.Errorf("%w: %s", errRefused, message.Code)
	}
	return nil
}

func (m *member) ack(a *wire.Ack) {
	m.acked = max(m.acked, a.Upto[edgeclaim.LaneProv])
	if a.Credit != nil {
		m.credit = *a.Credit
	}
	for _, nack := range a.Nack {
		if nack.Lane == edgeclaim.LaneProv {
			m.sent = max(m.acked, nack.Sequence-1) // a retry comes at once: the swarm has no patience
		}
	}
}

// someTemplate and someKey are those of all devices that no box has claimed.
const someTemplate, someKey = "template", "key"

// aDevice is a device as a claim makes it, its key made of the hardware and
// the box.
func aDevice(hardware, box string) (edgeclaim.Device, error) {
	t, err1 := edgeclaim.ParseTenantID(tenant)
	h, err2 := edgeclaim.ParseHardwareID(hardware)
	template, err3 := edgeclaim.ParseTemplateID(someTemplate)
	key, err4 := edgeclaim.ParseKeyID(someKey)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return edgeclaim.Device{}, err
	}
	return edgeclaim.Device{
		ID: edgeclaim.NewDeviceID(t, h, 1), Tenant: t, Hardware: h, Name: "Cold Store Sensor", Template: template, Key: key,
		Generation: 1, Status: edgeclaim.DeviceActive, ClaimedVia: edgeclaim.ViaMQTT,
		Credential: edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: edgeclaim.NewSecret(hardware + box).Hash()},
	}, nil
}

// provisionedRecord is what a claim tells upstream.
func provisionedRecord(d *edgeclaim.Device, names wire.Names) *edgeclaim.Record {
	return &edgeclaim.Record{
		Lane: edgeclaim.LaneProv, Type: edgeclaim.TypeDeviceProvisioned, Device: d.ID,
		Stamp: edgeclaim.Stamp{Time: time.Date(2026, 11, 1, 12, 0, 0, 123456789, time.UTC), Clock: edgeclaim.ClockSynced, Boot: "5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10"},
		Data: fmt.Appendf(nil, `{"device_id":%q,"tenant_id":%q,"hardware_id":%q,"box_id":%q,"site":%q,"name":%q,"template_id":%q,"key_id":%q,`+
			`"credential":{"type":"api_key","sha256":%q},"claimed_via":"mqtt","claimed_at":"2026-11-01T12:00:00.123456789Z"}`,
			d.ID, d.Tenant, d.Hardware, names.Box, names.Site, d.Name, d.Template, d.Key, d.Credential.Hash),
	}
}
