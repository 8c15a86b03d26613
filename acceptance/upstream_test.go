package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim/internal/mosquitto"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// event is a CloudEvent as it came upstream.
type event struct {
	ID       string         `json:"id"`
	Type     string         `json:"type"`
	Sequence string         `json:"sequence"`
	Epoch    string         `json:"epoch"`
	Lane     string         `json:"lane"`
	Data     map[string]any `json:"data"`

	topic string
	raw   string
}

// watcher is a subscriber of everything at the upstream broker.
type watcher struct {
	subscribed atomic.Bool

	mu     sync.Mutex
	events []event
	states []string // what came on …/st
	raw    []string
}

// watch subscribes to all that boxes say at addr, and again after each restart
// of the broker. At QoS 0, so that it sends nothing: a broker that is killed with
// unread acknowledgements would take back what it has sent.
func watch(t testing.TB, addr string) *watcher {
	t.Helper()
	w := &watcher{}
	options := mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("watcher").SetCleanSession(true).
		SetAutoReconnect(true).SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond).
		SetMaxReconnectInterval(200 * time.Millisecond).
		SetConnectionLostHandler(func(mqtt.Client, error) { w.subscribed.Store(false) }).
		SetOnConnectHandler(func(c mqtt.Client) {
			token := c.Subscribe("edgeclaim/#", 0, func(_ mqtt.Client, m mqtt.Message) { w.take(m) })
			w.subscribed.Store(token.WaitTimeout(patience) && token.Error() == nil)
		})
	client := mqtt.NewClient(options)
	client.Connect()
	t.Cleanup(func() { client.Disconnect(100) })
	w.ready(t)
	return w
}

func (w *watcher) ready(t testing.TB) {
	t.Helper()
	until(t, "the watcher is subscribed", w.subscribed.Load)
}

func (w *watcher) take(m mqtt.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.raw = append(w.raw, string(m.Payload()))
	if strings.HasSuffix(m.Topic(), "/st") {
		w.states = append(w.states, string(m.Payload()))
		return
	}
	e := event{topic: m.Topic(), raw: string(m.Payload())}
	if json.Unmarshal(m.Payload(), &e) == nil {
		w.events = append(w.events, e)
	}
}

func (w *watcher) all() []event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]event(nil), w.events...)
}

func (w *watcher) byType(t testing.TB, kind string) []event {
	t.Helper()
	var some []event
	for _, e := range w.all() {
		if e.Type == kind {
			some = append(some, e)
		}
	}
	return some
}

func (w *watcher) everything() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.raw, "\n")
}

// impatient is a configuration whose waits between two connections are short.
func impatient(t testing.TB) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "edgeclaim.yaml")
	if err := os.WriteFile(path, []byte("upstream: {backoff_base: 50ms, backoff_limit: 200ms, ack_timeout: 5s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--config", path}
}

// TestUpstreamComesAndGoes: down from before the start, up after 200 claims,
// killed and restarted twice during 200 more. Every device is told at least
// once, none that is not, and each resend is the same bytes under the same id.
func TestUpstreamComesAndGoes(t *testing.T) {
	upstream := mosquitto.New(t, mosquitto.Options{})
	cable := newGate(t, upstream.Addr())
	b := startBox(t, append(impatient(t), "--upstream", "mqtt://"+cable.addr())...)
	key := b.key()
	client := httpClient(4)
	ids := map[string]bool{}
	claim := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			said, err := httpClaim(client, b.httpAddr, "application/json", claimBody(key, "n", fmt.Sprint("H", i)))
			if err != nil || said.status != http.StatusOK {
				t.Fatalf("claim %d: %v %s", i, err, said.body)
			}
			ids[said.text(t, "device_id")] = true
		}
	}
	claim(0, 200)
	if s := b.status(); s.Outbox["prov"].Pending != 200 || s.Upstream.Broker == "up" {
		t.Fatalf("without upstream: %+v", s)
	}
	upstream.Restart()
	told := watch(t, upstream.Addr())
	cable.set(true)
	for round := range 2 {
		until(t, "the box is connected", func() bool { return b.status().Upstream.Broker == "up" })
		claim(200+100*round, 250+100*round)
		upstream.Kill()
		cable.set(false)
		claim(250+100*round, 300+100*round)
		upstream.Restart()
		told.ready(t)
		cable.set(true)
	}
	until(t, "upstream has everything", func() bool { return b.status().Outbox["prov"].Pending == 0 })

	byID := map[string]string{}
	sequences, devices := map[string]bool{}, map[string]bool{}
	for _, e := range told.all() {
		if first, ok := byID[e.ID]; ok && first != e.raw {
			t.Errorf("event %s was sent again as\n%s\nnot as\n%s", e.ID, e.raw, first)
		}
		byID[e.ID] = e.raw
		if e.Type != "device.provisioned" {
			continue
		}
		sequences[e.Sequence] = true
		id, _ := e.Data["device_id"].(string)
		if !ids[id] {
			t.Errorf("upstream was told of %s, which nobody claimed", id)
		}
		devices[id] = true
		if e.ID != e.Epoch+"-prov-"+e.Sequence {
			t.Errorf("id %s of epoch %s, sequence %s", e.ID, e.Epoch, e.Sequence)
		}
	}
	if len(devices) != 400 || len(sequences) != 400 || len(ids) != 400 {
		t.Errorf("%d devices under %d sequences were told, want 400", len(devices), len(sequences))
	}
}

// TestStateUpstream: the box says online, retained, and its will or its stop
// says offline.
func TestStateUpstream(t *testing.T) {
	upstream := mosquitto.Start(t, mosquitto.Options{})
	told := watch(t, upstream.Addr())
	last := func() string {
		told.mu.Lock()
		defer told.mu.Unlock()
		if len(told.states) == 0 {
			return ""
		}
		return told.states[len(told.states)-1]
	}
	b := startBox(t, append(impatient(t), "--upstream", "mqtt://"+upstream.Addr())...)
	for _, end := range []func(){b.kill, func() { b.stop() }} {
		until(t, "upstream hears that the box is online", func() bool { return strings.Contains(last(), `"online"`) })
		end()
		until(t, "upstream hears that the box is offline", func() bool { return strings.Contains(last(), `"offline"`) })
		b.start()
	}
}

// TestStartsWithAnyUpstream: absent, refusing, silent or talking nonsense, the
// box starts, answers, and says what is wrong.
func TestStartsWithAnyUpstream(t *testing.T) {
	silent := newGate(t, "127.0.0.1:1") // takes the connection and breaks it off
	hole := blackHole(t)
	nonsense := talker(t, "HTTP/1.1 400 Bad Request\r\n\r\n")
	for name, url := range map[string]string{
		"nobody listens": "mqtt://127.0.0.1:1", "no such host": "mqtt://upstream.invalid", "breaks off": "mqtt://" + silent.addr(),
		"never answers": "mqtt://" + hole, "nonsense": "mqtt://" + nonsense, "TLS with nobody": "mqtts://" + hole,
	} {
		t.Run(name, func(t *testing.T) {
			b := startBox(t, append(impatient(t), "--upstream", url)...)
			key := b.key()
			if said := b.post(claimBody(key, "n", "H")); said.status != http.StatusOK {
				t.Errorf("claim: %d %s", said.status, said.body)
			}
			if s := b.status(); s.Upstream.Broker == "up" || s.Outbox["prov"].Pending != 1 {
				t.Errorf("status %+v", s)
			}
			if code := b.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}
