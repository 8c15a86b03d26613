package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
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

// offlineSoon makes silence of two seconds count as absence.
const offlineSoon = "telemetry: {offline_after: 2s}\n"

// coming and leaving are the ways to come and to go.
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

// TestPresence: a device is online from its first telemetry on, whichever way it
// comes, and offline when it leaves, by any of the ways to leave; the box and
// both kinds of upstream say the same.
func TestPresence(t *testing.T) {
	t.Run("upstream is a hub", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, 1, offlineSoon)
		s.box.welcome()
		comeAndGo(t, s.box, func(id string, want seen) bool {
			got, online := s.hub.shows(id)
			return online && got.Presence == want.Presence && sameTime(got.Since, want.Since) && sameTime(got.Seen, want.Seen)
		})
	})
	t.Run("upstream is a broker", func(t *testing.T) {
		t.Parallel()
		upstream := mosquitto.Start(t, mosquitto.Options{})
		b := startBox(t, "--config", quickPuback(t, offlineSoon), "--upstream", "mqtt://"+upstream.Addr())
		comeAndGo(t, b, func(id string, want seen) bool {
			// Whoever comes now hears what is retained.
			for _, m := range retained(t, upstream.Addr(), "devices/"+id+"/presence") {
				var got struct {
					DeviceID string `json:"device_id"`
					seen
				}
				if err := json.Unmarshal([]byte(m), &got); err != nil || got.DeviceID != id {
					t.Errorf("presence of %s: %q", id, m)
				}
				return got.Presence == want.Presence && sameTime(got.Since, want.Since) && sameTime(got.Seen, want.Seen)
			}
			return false
		})
	})
}

// sameTime compares what went through formats that keep µs.
func sameTime(a, b time.Time) bool {
	return a.Truncate(time.Microsecond).Equal(b.Truncate(time.Microsecond))
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
	for i, in := range coming {
		d := b.claimOne(key, fmt.Sprint("COMES-", i))
		if got := b.shows(d.id); got.Presence != "offline" || !got.Seen.IsZero() {
			t.Errorf("a device that has said nothing: %+v", got)
		}
		in.come(t, b, d)
		state(d, in.name, "online")
		state(d, in.name+", then silence", "offline")
	}
	for _, out := range leaving {
		d := b.claimOne(key, out.name)
		out.leave(t, b, d, func() { state(d, "before "+out.name, "online") })
		state(d, out.name, "offline")
	}
}
