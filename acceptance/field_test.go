package acceptance

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// working is what the tests of devices at work read of `edgeclaim status --json`.
type working struct {
	Outbox    map[string]laneState
	Telemetry struct {
		Online, Accepted uint64
		Rejected         map[string]uint64
		EventsDropped    uint64 `json:"events_dropped"`
		Reserved         bool   `json:"disk_reserved"`
	}
	Connections struct{ Devices, Consumers int }
}

func (b *box) working() working {
	b.t.Helper()
	var w working
	b.json(&w, "status")
	return w
}

// at logs a device in to a box, in that version of MQTT.
func at(t testing.TB, b *box, d claimed, v mqttwire.Version, will *mqttwire.Message) *mqttwire.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, ack, err := mqttwire.Dial(ctx, b.mqttAddr, v, mqttwire.Login{ClientID: "d", Username: d.id, Password: d.apiKey, Clean: true, KeepAlive: 60, Will: will})
	if err != nil || ack.Code() != 0 {
		t.Fatalf("log in: %v, code %#x", err, ack.Code())
	}
	t.Cleanup(func() { client.Close() })
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return client
}

// say publishes at QoS 1 and returns the PUBACK's code, or the error of a
// connection that ended instead.
func say(client *mqttwire.Client, topic, body string) (code byte, err error) {
	if err := client.Publish(mqttwire.Message{Topic: topic, Payload: []byte(body), QoS: 1}); err != nil {
		return 0, err
	}
	for {
		p, err := client.Read()
		if err != nil {
			return 0, err
		}
		switch p.Type {
		case mqttwire.Puback:
			return p.Code(), nil
		case mqttwire.Disconnect:
			return p.Code(), fmt.Errorf("disconnected, %#x", p.Code())
		}
	}
}

// asks is a device's request over HTTP.
func (b *box) asks(d claimed, method, path, contentType, body string) (answer, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+b.httpAddr+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+d.apiKey)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(said)}, err
}

// telemetryPath takes what devices measure, over HTTP.
const telemetryPath, eventsPath = "/api/v1/telemetry", "/api/v1/events"

func telemetryOf(id string) string { return "devices/" + id + "/telemetry" }

// ear hears what comes to a plain broker, as a platform does that knows nothing
// of boxes.
type ear struct {
	subscribed atomic.Bool

	mu    sync.Mutex
	heard []mqttwire.Message // in the order they came
}

// hearken subscribes at addr until the test ends, again after each restart of the
// broker. At QoS 0, as watch does.
func hearken(t testing.TB, addr string, filters ...string) *ear {
	t.Helper()
	e := &ear{}
	all := map[string]byte{}
	for _, filter := range filters {
		all[filter] = 0
	}
	options := mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("platform").SetCleanSession(true).SetProtocolVersion(4).
		SetAutoReconnect(true).SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond).
		SetMaxReconnectInterval(200 * time.Millisecond).
		SetConnectionLostHandler(func(mqtt.Client, error) { e.subscribed.Store(false) }).
		SetOnConnectHandler(func(c mqtt.Client) {
			token := c.SubscribeMultiple(all, func(_ mqtt.Client, m mqtt.Message) {
				e.mu.Lock()
				defer e.mu.Unlock()
				e.heard = append(e.heard, mqttwire.Message{Topic: m.Topic(), Payload: m.Payload(), Retain: m.Retained()})
			})
			e.subscribed.Store(token.WaitTimeout(patience) && token.Error() == nil)
		})
	client := mqtt.NewClient(options)
	client.Connect()
	t.Cleanup(func() { client.Disconnect(100) })
	e.ready(t)
	return e
}

func (e *ear) ready(t testing.TB) {
	t.Helper()
	until(t, "the platform is subscribed", e.subscribed.Load)
}

// on is what came on a topic, in order.
func (e *ear) on(topic string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var bodies []string
	for _, m := range e.heard {
		if m.Topic == topic {
			bodies = append(bodies, string(m.Payload))
		}
	}
	return bodies
}

// all is what came, in order.
func (e *ear) all() []mqttwire.Message {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.heard)
}
