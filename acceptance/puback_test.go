package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttproxy"
	"edgeclaim/internal/mqttwire"
)

// oddPoints are points that are easily changed on the way.
var oddPoints = []string{
	`{"temperature":21.50}`,
	"{ \"b\" : 1e0 ,\n\t\"a\" : \"\\u00fc \u00fc <&>\" }",
	`{"big":123456789012345678901234567890,"small":-0.0}`,
	`{"numeric_values":{"z":1,"a":2},"timestamp":"2026-03-04T05:06:07.1+01:00"}`,
	`{"timestamp":1772600767,"string_values":{"state":"on"}, "numeric_values" : {} }`,
}

// TestPubackTopics: to a plain broker each point goes as its device sent it, on
// a topic that the platform understands.
func TestPubackTopics(t *testing.T) {
	t.Parallel()
	upstream := mosquitto.Start(t, mosquitto.Options{})
	for _, tt := range []struct {
		name, template, topic string
	}{
		{"the default", "", "devices/{device_id}/telemetry"},
		{"a template", "  telemetry_topic: plants/{site}/{tenant_id}/{box_id}/{device_id}/t\n", "plants/plant7/" + tenant + "/{box_id}/{device_id}/t"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			heard := hearken(t, upstream.Addr(), "devices/#", "plants/#", "edgeclaim/+/+/+/up/tel")
			config := quickPuback(t, "")
			b := newBox(t, "--config", config, "--upstream", "mqtt://"+upstream.Addr(), "--site", "plant7")
			b.reconfigure("  ack: puback\n", "  ack: puback\n"+tt.template)
			b.start()
			d := b.claimOne(b.key(), "ODD")
			topic := strings.NewReplacer("{device_id}", d.id, "{box_id}", b.status().BoxID).Replace(tt.topic)

			var want []string
			for _, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
				client := at(t, b, d, v, nil)
				for _, point := range oddPoints {
					if code, err := say(client, telemetryOf(d.id), point); err != nil || code != 0 {
						t.Fatalf("%s: code %#x, %v", point, code, err)
					}
					want = append(want, point)
				}
				if err := client.Publish(mqttwire.Message{Topic: telemetryOf(d.id), Payload: []byte(`{"qos": 0}`)}); err != nil {
					t.Fatal(err)
				}
				want = append(want, `{"qos": 0}`)
				until(t, "QoS 0 came as well", func() bool { return len(heard.on(topic)) >= len(want) })
			}
			platform := oddPoints[3:]
			for _, body := range append(slices.Clone(platform), "[ "+strings.Join(platform, " ,\n ")+" ]") {
				if said, err := b.asks(d, http.MethodPost, telemetryPath, "application/json", body); err != nil || said.status != http.StatusOK {
					t.Fatalf("%s: %d %s %v", body, said.status, said.body, err)
				}
			}
			want = append(want, platform...)
			want = append(want, platform...)
			until(t, "upstream has all points", func() bool { return len(heard.on(topic)) >= len(want) })
			if got := heard.on(topic); !slices.Equal(got, want) {
				t.Errorf("on %s upstream heard\n%q\nand the device said\n%q", topic, got, want)
			}
			for _, m := range heard.all() {
				if m.Topic != topic && !strings.HasSuffix(m.Topic, "/presence") {
					t.Errorf("something came on %s: %s", m.Topic, m.Payload)
				}
			}
		})
	}
}

// TestNewestFirst: after an outage, what devices say now overtakes what waits;
// all of it comes.
func TestNewestFirst(t *testing.T) {
	t.Parallel()
	upstream := mosquitto.Start(t, mosquitto.Options{})
	heard := hearken(t, upstream.Addr(), "devices/+/telemetry")
	cable := mqttproxy.Start(t, upstream.Addr(), 1)
	cable.Set(mqttproxy.Faults{Delay: 20 * time.Millisecond})
	b := newBox(t, "--config", quickPuback(t, ""), "--upstream", "mqtt://"+cable.Addr())
	b.reconfigure("  ack: puback\n", "  ack: puback\n  window: 64\n") // some seconds for what waits
	b.start()
	devices := b.claimSome(b.key(), "OUT-", 4)
	until(t, "upstream is there", func() bool { return b.status().Upstream.Broker == "up" })

	cable.Cut(mqttproxy.Both)
	until(t, "the box knows that upstream is gone", func() bool { return b.status().Upstream.Broker != "up" })
	for i, d := range devices[1:] {
		for part := range 2 {
			var points []string
			for n := range 500 {
				points = append(points, fmt.Sprintf(`{"numeric_values":{"waits":%d}}`, i*1000+part*500+n))
			}
			body := "[" + strings.Join(points, ",") + "]"
			if said, err := b.asks(d, http.MethodPost, telemetryPath, "application/json", body); err != nil || said.body != `{"accepted":500,"rejected":0}` {
				t.Fatalf("%d %s %v", said.status, said.body, err)
			}
		}
	}
	const waiting = 3000
	cable.Heal()
	cable.Set(mqttproxy.Faults{Delay: 20 * time.Millisecond})
	live := goesOn(t, b, devices[0], func() bool { return b.working().Outbox["tel"].Pending < 100 })
	until(t, "upstream has all of it", func() bool { return heard.distinct("waits") >= waiting && heard.distinct("live") >= live })
	behind := 0 // of what waited, when the first of what is said now came
	for _, m := range heard.all() {
		if strings.Contains(string(m.Payload), "live") {
			break
		}
		behind++
	}
	t.Logf("%d points were said while %d waited; the first came after %d of those", live, waiting, behind)
	if behind > waiting/2 {
		t.Errorf("what is said now came after %d of %d that waited", behind, waiting)
	}
}

// goesOn has a device say a point every 10 ms until all is told, and returns how
// many.
func goesOn(t *testing.T, b *box, d claimed, done func() bool) (said int) {
	t.Helper()
	client := at(t, b, d, mqttwire.V311, nil)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	each(ctx, 10*time.Millisecond, func(i int) {
		if code, err := say(client, telemetryOf(d.id), fmt.Sprintf(`{"live":%d}`, i)); err != nil || code != 0 {
			t.Errorf("code %#x, %v", code, err)
		}
		if said++; said%20 == 0 && done() {
			stop()
		}
	})
	return said
}

// distinct counts the values of a metric that came.
func (e *ear) distinct(metric string) int {
	values := map[float64]bool{}
	for _, m := range e.all() {
		var flat map[string]json.RawMessage
		var value float64
		if json.Unmarshal(m.Payload, &flat) != nil {
			continue
		}
		if nested, ok := flat["numeric_values"]; ok && json.Unmarshal(nested, &flat) != nil {
			continue
		}
		if raw, ok := flat[metric]; ok && json.Unmarshal(raw, &value) == nil {
			values[value] = true
		}
	}
	return len(values)
}
