package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"
)

// seen is what is said of a device's presence, on the box and upstream.
type seen struct {
	Presence string    `json:"presence"`
	Since    time.Time `json:"presence_since"`
	Seen     time.Time `json:"last_seen"`
}

// shows is what `edgeclaim device show` says.
func (b *box) shows(id string) seen {
	b.t.Helper()
	var s seen
	b.json(&s, "device", "show", id)
	return s
}

// shows is what `edgehub devices` says, by the one box.
func (h *hub) shows(id string) (seen, bool) {
	h.t.Helper()
	var rows []struct {
		DeviceID string `json:"device_id"`
		Holdings []struct {
			seen
			BoxOnline bool `json:"box_online"`
		}
	}
	h.json(&rows, "devices")
	for _, d := range rows {
		if d.DeviceID == id && len(d.Holdings) == 1 {
			return d.Holdings[0].seen, d.Holdings[0].BoxOnline
		}
	}
	return seen{}, false
}

// Silence that counts as absence soon, and silence that does not in a test's time.
const offlineSoon, offlineLate = "telemetry: {offline_after: 5s}\n", "telemetry: {offline_after: 10m}\n"

// coming is the ways to come.
var coming = []struct {
	name string
	come func(t *testing.T, b *box, d claimed) *mqttwire.Client
}{
	{"MQTT, QoS 1", func(t *testing.T, b *box, d claimed) *mqttwire.Client {
		client := at(t, b, d, mqttwire.V311, nil)
		if code, err := say(client, telemetryOf(d.id), `{"n":1}`); err != nil || code != 0 {
			t.Fatalf("code %#x, %v", code, err)
		}
		return client
	}},
	{"MQTT, QoS 0", func(t *testing.T, b *box, d claimed) *mqttwire.Client {
		client := at(t, b, d, mqttwire.V5, nil)
		if err := client.Publish(mqttwire.Message{Topic: telemetryOf(d.id), Payload: []byte(`{"n":1}`)}); err != nil {
			t.Fatal(err)
		}
		return client
	}},
	{"HTTP", func(t *testing.T, b *box, d claimed) *mqttwire.Client {
		said, err := b.asks(d, http.MethodPost, telemetryPath, "application/json", `{"numeric_values":{"n":1}}`)
		if err != nil || said.status != http.StatusOK {
			t.Fatalf("%d %s %v", said.status, said.body, err)
		}
		return nil
	}},
}

// leaving is the ways to go; before each the device has been seen online.
var leaving = []struct {
	name  string
	will  func(d claimed) *mqttwire.Message
	leave func(b *box, d claimed, client *mqttwire.Client) error
}{
	{"DISCONNECT", noWill, func(_ *box, _ claimed, client *mqttwire.Client) error { return client.Disconnect() }},
	{"a will of an event", func(d claimed) *mqttwire.Message {
		return &mqttwire.Message{Topic: "devices/" + d.id + "/events", Payload: []byte(`{"last":"words"}`), QoS: 1}
	}, func(_ *box, _ claimed, client *mqttwire.Client) error { return client.Close() }},
	{"a will of telemetry", func(d claimed) *mqttwire.Message {
		return &mqttwire.Message{Topic: telemetryOf(d.id), Payload: []byte(`{"n":0}`)}
	}, func(_ *box, _ claimed, client *mqttwire.Client) error { return client.Close() }},
	{"revocation", noWill, func(b *box, d claimed, _ *mqttwire.Client) error {
		b.json(nil, "device", "revoke", d.id)
		return nil
	}},
}

func noWill(claimed) *mqttwire.Message { return nil }

// retained is what the broker keeps for a topic, by whoever comes now.
func retained(t testing.TB, addr, topic string) []string {
	t.Helper()
	client := brokerClient(t, addr, "late")
	defer client.Close()
	if _, err := client.Subscribe(topic); err != nil {
		t.Fatal(err)
	}
	if err := client.Ping(); err != nil {
		t.Fatal(err)
	}
	var all []string
	for {
		p, err := client.Read()
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case p.Type == mqttwire.Pingresp:
			return all
		case p.Type == mqttwire.Publish && p.Retain:
			all = append(all, string(p.Payload))
		}
	}
}

// TestPresence: a device is online from its first telemetry on, whichever way it
// comes, and offline when it leaves, by any of the ways to leave; the box and
// both kinds of upstream say the same.
func TestPresence(t *testing.T) {
	t.Parallel()
	t.Run("upstream is a hub", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, 1, offlineSoon)
		s.box.welcome()
		comeAndGo(t, s.box, func(id string, want seen) bool {
			got, online := s.hub.shows(id)
			return online && got.agrees(want)
		})
	})
	t.Run("upstream is a broker", func(t *testing.T) {
		t.Parallel()
		upstream := mosquitto.Start(t, mosquitto.Options{})
		b := startBox(t, "--config", quickPuback(t, offlineSoon), "--upstream", "mqtt://"+upstream.Addr())
		comeAndGo(t, b, func(id string, want seen) bool {
			// Whoever comes now hears what is retained.
			kept := retained(t, upstream.Addr(), "devices/"+id+"/presence")
			if len(kept) == 0 {
				return false
			}
			var got struct {
				DeviceID string `json:"device_id"`
				seen
			}
			if err := json.Unmarshal([]byte(kept[0]), &got); err != nil || got.DeviceID != id {
				t.Errorf("presence of %s: %q", id, kept)
			}
			return got.agrees(want)
		})
	})
}

// agrees compares what went through formats that keep µs.
func (s seen) agrees(with seen) bool {
	same := func(a, b time.Time) bool { return a.Truncate(time.Microsecond).Equal(b.Truncate(time.Microsecond)) }
	return s.Presence == with.Presence && same(s.Since, with.Since) && same(s.Seen, with.Seen)
}

// comeAndGo has devices come in every way and go in every way. upstream reports
// whether it says what the box says.
func comeAndGo(t *testing.T, b *box, upstream func(id string, want seen) bool) {
	t.Helper()
	key := b.key()
	state := func(d claimed, what, want string) {
		t.Helper()
		var last seen
		until(t, what+": the box says "+want, func() bool {
			last = b.shows(d.id)
			return last.Presence == want
		})
		if want == "online" && (last.Since.IsZero() || last.Seen.Before(last.Since)) {
			t.Errorf("%s: %+v", what, last)
		}
		until(t, fmt.Sprintf("%s: upstream says %+v", what, last), func() bool { return upstream(d.id, b.shows(d.id)) })
	}
	var came []claimed
	for i, in := range coming {
		d := b.claimOne(key, fmt.Sprint("COMES-", i))
		if got := b.shows(d.id); got.Presence != "offline" || !got.Seen.IsZero() {
			t.Errorf("a device that has said nothing: %+v", got)
		}
		in.come(t, b, d)
		came = append(came, d)
	}
	for i, in := range coming {
		state(came[i], in.name, "online")
	}
	for i, in := range coming {
		state(came[i], in.name+", then silence", "offline")
	}
	b.stop()
	b.reconfigure(offlineSoon, offlineLate)
	b.start()
	came = nil
	var leave []func() error
	for i, out := range leaving {
		d := b.claimOne(key, fmt.Sprint("LEAVES-", i))
		client := at(t, b, d, mqttwire.V311, out.will(d))
		if code, err := say(client, telemetryOf(d.id), `{"n":1}`); err != nil || code != 0 {
			t.Fatalf("code %#x, %v", code, err)
		}
		came = append(came, d)
		leave = append(leave, func() error { return out.leave(b, d, client) })
	}
	for i, out := range leaving {
		state(came[i], "before "+out.name, "online")
	}
	for i, out := range leaving {
		if err := leave[i](); err != nil {
			t.Errorf("%s: %v", out.name, err)
		}
	}
	for i, out := range leaving {
		state(came[i], out.name, "offline")
	}
	lost := b.claimOne(key, "LOST")
	client := coming[0].come(t, b, lost)
	client.Close() // it says nothing: a cable may have been moved
	within(500*time.Millisecond, t.Context().Done())
	state(lost, "a lost connection", "online")
	b.kill() // it forgets who was there, and upstream is told to forget it as well
	b.start()
	state(lost, "a restart of the box", "offline")
}

// reconfigure replaces text in the box's configuration.
func (b *box) reconfigure(old, with string) {
	b.t.Helper()
	path := b.args[slices.Index(b.args, "--config")+1]
	text, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		b.t.Fatalf("%s does not say %q", path, old)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), old, with)), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// quickPuback is an impatient configuration for a plain broker upstream.
func quickPuback(t testing.TB, more string) string {
	t.Helper()
	path := quickConfig(t, more)
	text := strings.Replace(quickBox, "  ack: app\n", "  ack: puback\n", 1) + more
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
