package hub_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/internal/client"
	"edgeclaim/bridge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	site     = "plant-7"
	tenantID = "5f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33"
	// patience is how long anything may take.
	patience = 20 * time.Second
)

// rig is a hub on a real broker and a real registry.
type rig struct {
	t    testing.TB
	db   *registry.DB
	hub  *hub.Hub
	key  ed25519.PrivateKey
	log  *logBuffer
	stop func() // idempotent: the hub stops, and its registry is closed
}

// start runs a hub with its data in dir, until the test ends or stop, and waits
// until the broker has it.
func start(t testing.TB, broker, dir string, change ...func(*hub.Config)) *rig {
	t.Helper()
	r := &rig{t: t, log: new(logBuffer)}
	logger := slog.New(slog.NewTextHandler(r.log, nil))
	var err error
	if r.key, err = hub.LoadKey(dir); err != nil {
		t.Fatal(err)
	}
	if r.db, err = registry.Open(t.Context(), registry.Config{Dir: dir, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	conf := hub.Defaults()
	conf.Broker.URL = "mqtt://" + broker
	conf.BackoffBase, conf.BackoffLimit = 10*time.Millisecond, 100*time.Millisecond
	for _, c := range change {
		c(&conf)
	}
	if r.hub, err = hub.New(conf, r.db, r.key, logger); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.hub.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := r.db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if t.Failed() {
			t.Logf("the hub said:\n%s", r.log)
		}
	})
	t.Cleanup(r.stop)
	r.awaitUp()
	return r
}

func (r *rig) awaitUp() {
	r.t.Helper()
	await(r.t, "the broker", func() bool { return r.hub.Status().Broker == edgeclaim.LampUp })
}

// gate makes a hub wait after each commit until it is opened; waiting holds a
// signal once it does.
func gate(c *hub.Config) (waiting <-chan struct{}, open func()) {
	arrived, opened := make(chan struct{}, 1), make(chan struct{})
	c.OnCommit = func(time.Duration, int) {
		select {
		case arrived <- struct{}{}:
		default:
		}
		<-opened
	}
	return arrived, sync.OnceFunc(func() { close(opened) })
}

// await polls until something holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("in vain: %s", what)
		}
	}
}

func (r *rig) public() ed25519.PublicKey { return r.key.Public().(ed25519.PublicKey) }

// boxOf returns what the registry knows of a box.
func (r *rig) boxOf(name string) registry.Box {
	r.t.Helper()
	found, err := r.db.Boxes(context.Background(), registry.BoxFilter{Box: name})
	if err != nil || len(found) != 1 {
		r.t.Fatalf("box %s: %v, %v", name, found, err)
	}
	return found[0]
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// box is a scripted box: it says what it is told to, and nothing by itself.
type box struct {
	t     testing.TB
	names wire.Names
	conn  *client.Conn
	key   ed25519.PublicKey
	down  chan []byte // under down/, in order
	host  chan wire.Host

	epoch, nonce string
	first        map[edgeclaim.Lane]uint64
	appended     map[edgeclaim.Lane]uint64
}

// newBox connects a box and subscribes as boxes do.
func newBox(t testing.TB, broker, name string, key ed25519.PublicKey) *box {
	t.Helper()
	b := &box{
		t: t, names: wire.Names{Site: site, Box: name}, key: key,
		down: make(chan []byte, 4096), host: make(chan wire.Host, 64),
		epoch:    epochOf(name, 1),
		first:    map[edgeclaim.Lane]uint64{edgeclaim.LaneProv: 1, edgeclaim.LaneEvt: 1, edgeclaim.LaneTel: 1},
		appended: map[edgeclaim.Lane]uint64{},
	}
	conf := client.Defaults()
	conf.URL = "mqtt://" + broker
	var err error
	b.conn, err = client.Dial(t.Context(), conf, client.Options{
		ClientID: "test-" + rand.Text(), MaxInbound: 2 * wire.MaxMessage,
		OnMessage: func(topic string, payload []byte, _ bool) {
			if topic == wire.HostTopic {
				h, err := wire.DecodeHost(payload)
				if err != nil {
					t.Errorf("host: %v", err)
				}
				b.host <- h
				return
			}
			b.down <- payload
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.conn.Close(context.Background(), nil) })
	if err := b.conn.Subscribe(t.Context(), 0, b.names.Down("#"), wire.HostTopic); err != nil {
		t.Fatal(err)
	}
	return b
}

// epochOf is the nth life of a box.
func epochOf(name string, n int) string {
	text := fmt.Sprintf("%s%02d", strings.ReplaceAll(name, "-", ""), n)
	return text + strings.Repeat("E", 26-len(text))
}

// publish sends a message and waits until the broker has it.
func (b *box) publish(topic string, payload []byte, retained bool) {
	b.t.Helper()
	d := b.conn.Publish(client.Message{Topic: topic, Payload: payload, Retained: retained})
	if err := b.conn.Wait(b.t.Context(), d, patience); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) say(kind string, message any) {
	b.t.Helper()
	payload, err := wire.Encode(message)
	if err != nil {
		b.t.Fatal(err)
	}
	b.publish(b.names.Up(kind), payload, false)
}

// greeting is the box's hello, with a new nonce.
func (b *box) greeting() *wire.Hello {
	b.nonce = rand.Text()[:22]
	lanes := map[edgeclaim.Lane]edgeclaim.LaneMarks{}
	for lane, first := range b.first {
		lanes[lane] = edgeclaim.LaneMarks{First: first, Appended: b.appended[lane]}
	}
	return &wire.Hello{
		Type: wire.TypeHello, Versions: []int{1, 7}, Box: b.names.Box, Site: b.names.Site, Program: "1.0", Epoch: b.epoch,
		Nonce: b.nonce, Lanes: lanes, Time: time.Now().UTC(), Clock: edgeclaim.ClockSynced,
	}
}

// hello says hello and returns the welcome.
func (b *box) hello() *wire.Welcome {
	b.t.Helper()
	b.say(wire.KindControl, b.greeting())
	return next[*wire.Welcome](b)
}

// next waits for what comes down next, which has to be a T for this box and
// session, signed by the hub.
func next[T wire.Down](b *box) T {
	b.t.Helper()
	message := b.nextDown()
	got, ok := message.(T)
	if !ok {
		b.t.Fatalf("%T came down, want %T: %+v", message, got, message)
	}
	head := message.Header()
	if head.Box != b.names.Box || head.Epoch != b.epoch || head.Nonce != b.nonce || time.Since(head.Time) > time.Minute {
		b.t.Fatalf("head %+v, want that of %s, %s, %s", head, b.names.Box, b.epoch, b.nonce)
	}
	return got
}

func (b *box) nextDown() wire.Down {
	b.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case text := <-b.down:
		if len(text) > wire.MaxMessage {
			b.t.Errorf("%d bytes came down", len(text))
		}
		payload, err := wire.Open(b.key, text)
		if err != nil {
			b.t.Fatal(err)
		}
		message, err := wire.DecodeDown(payload)
		if err != nil || message == nil {
			b.t.Fatalf("%s: %v", payload, err)
		}
		return message
	case <-timer.C:
		b.t.Fatal("nothing came down")
		return nil
	}
}

// nextHost waits for what is said of the hub next.
func (b *box) nextHost() wire.Host {
	b.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case h := <-b.host:
		return h
	case <-timer.C:
		b.t.Fatal("nothing was said of the hub")
		return wire.Host{}
	}
}

// ack waits for acks until one names that much of a lane.
func (b *box) ack(lane edgeclaim.Lane, upto uint64) *wire.Ack {
	b.t.Helper()
	for {
		a := next[*wire.Ack](b)
		if a.Upto[lane] > upto {
			b.t.Fatalf("acknowledged up to %d, told up to %d", a.Upto[lane], upto)
		}
		if a.Upto[lane] == upto {
			return a
		}
	}
}

// event is the box's record of a sequence, the same each time.
func (b *box) event(lane edgeclaim.Lane, sequence uint64) []byte {
	b.t.Helper()
	r := edgeclaim.Record{
		Lane: lane, Sequence: sequence, Type: "claim.refused", Data: []byte(`{"n":1}`),
		Stamp: edgeclaim.Stamp{Time: time.Unix(1_800_000_000, 0), Clock: edgeclaim.ClockSynced, Boot: "boot"},
	}
	switch lane {
	case edgeclaim.LaneTel:
		r.Type, r.Device = edgeclaim.TypeTelemetry, b.device(1)
		r.Data = fmt.Appendf(nil, `{"device_id":%q,"tenant_id":%q,"values":{"temperature":%d}}`, r.Device, tenantID, sequence)
	case edgeclaim.LaneProv:
		r.Type, r.Device = edgeclaim.TypeDeviceProvisioned, b.device(sequence)
		r.Data = fmt.Appendf(nil, `{"device_id":%q,"tenant_id":%q,"hardware_id":%q,"box_id":%q,"site":%q,"name":"Pump %d",`+
			`"template_id":"t-1","key_id":"k-1","credential":{"type":"api_key","sha256":%q},"claimed_via":"mqtt",`+
			`"claimed_at":"2026-10-04T09:12:33Z"}`, r.Device, tenantID, b.hardware(sequence), b.names.Box, site, sequence,
			edgeclaim.NewSecret(b.secret(sequence)).Hash())
	}
	text, err := wire.EncodeEvent(b.names, b.epoch, &r)
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

func (b *box) hardware(n uint64) edgeclaim.HardwareID {
	id, err := edgeclaim.ParseHardwareID(fmt.Sprintf("%s-%d", b.names.Box, n))
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b *box) device(n uint64) edgeclaim.DeviceID {
	tenant, err := edgeclaim.ParseTenantID(tenantID)
	if err != nil {
		b.t.Fatal(err)
	}
	return edgeclaim.NewDeviceID(tenant, b.hardware(n), 1)
}

// secret is the API key of the device that a record of prov is about.
func (b *box) secret(n uint64) string { return fmt.Sprintf("sk_live_%s_%d", b.names.Box, n) }

// batch is the records from first to last, all there.
func (b *box) batch(lane edgeclaim.Lane, first, last uint64) *wire.Batch {
	batch := &wire.Batch{Box: b.names.Box, Epoch: b.epoch, Lane: lane, Nonce: b.nonce, First: first, Last: last}
	for sequence := first; sequence <= last; sequence++ {
		batch.Events = append(batch.Events, b.event(lane, sequence))
	}
	b.appended[lane] = max(b.appended[lane], last)
	return batch
}

func (b *box) encode(batch *wire.Batch) []byte {
	b.t.Helper()
	text, err := wire.EncodeBatch(b.names, batch)
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

// tell sends the records from first to last.
func (b *box) tell(lane edgeclaim.Lane, first, last uint64) {
	b.t.Helper()
	b.publish(b.names.Up(string(lane)), b.encode(b.batch(lane, first, last)), false)
}

// silent checks that nothing comes down before the answer to a hello, which is
// returned.
func (b *box) silent() *wire.Welcome {
	b.t.Helper()
	return b.hello() // next takes nothing else
}
