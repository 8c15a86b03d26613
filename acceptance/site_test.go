package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttproxy"
)

// quickBox is a box's configuration whose waits are short.
const quickBox = `upstream:
  ack: app
  keep_alive: 1s
  connect_timeout: 1s
  write_timeout: 1s
  ack_timeout: 1s
  ack_flush: 20ms
  backoff_base: 20ms
  backoff_limit: 200ms
  stable_after: 1s
  welcome_timeout: 300ms
  probe_limit: 1s
  start_spread: 100ms
  spread_after: 1m
`

// quickConfig writes a box's impatient configuration with more lines to it.
func quickConfig(t testing.TB, more string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "edgeclaim.yaml")
	if err := os.WriteFile(path, []byte(quickBox+more), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// appBox makes a box, not running yet, that tells an application behind addr.
func appBox(t testing.TB, addr string, args ...string) *box {
	t.Helper()
	line := []string{"--config", quickConfig(t, ""), "--upstream", "mqtt://" + addr}
	return newBox(t, append(line, args...)...)
}

// enrol makes the box take only what h signs.
func (b *box) enrol(h *hub, more ...string) {
	b.t.Helper()
	if _, errOut, code := b.command("", append([]string{"enroll", h.enrolment()}, more...)...); code != 0 {
		b.t.Fatalf("enroll: exit code %d: %s", code, errOut)
	}
}

// synced is what the tests of the way up read of `edgeclaim status --json`.
type synced struct {
	BoxID    string `json:"box_id"`
	Devices  uint64 `json:"devices"`
	Outbox   map[string]laneState
	Upstream struct {
		Link, Broker, App string
		Enrolled          bool
		Alarms            []struct {
			Alarm string
			Count uint64
		}
	}
	Store struct {
		SetAside string `json:"set_aside"`
	}
}

// laneState is a lane as its box counts it.
type laneState struct {
	Pending, Appended, Acked, Dropped, Parked, Quarantined uint64
}

func (b *box) trySynced() (synced, error) {
	var s synced
	out, errOut, code := b.command("", "status", "--json")
	if code != 0 {
		return s, fmt.Errorf("status: exit code %d: %s", code, errOut)
	}
	return s, json.Unmarshal(out, &s)
}

func (b *box) synced() synced {
	b.t.Helper()
	s, err := b.trySynced()
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// alarms counts those of a kind.
func (s *synced) alarms(kind string) uint64 {
	for _, a := range s.Upstream.Alarms {
		if a.Alarm == kind {
			return a.Count
		}
	}
	return 0
}

// waitAlarm waits until the box has raised an alarm of that kind.
func (b *box) waitAlarm(kind string) {
	b.t.Helper()
	until(b.t, "the alarm "+kind, func() bool {
		s, err := b.trySynced()
		return err == nil && s.alarms(kind) > 0
	})
}

// welcome waits until the application has welcomed the box.
func (b *box) welcome() {
	b.t.Helper()
	until(b.t, "the box is welcome", func() bool {
		s, err := b.trySynced()
		return err == nil && s.Upstream.App == "up"
	})
}

// drained waits until nothing is left to tell.
func (b *box) drained() synced {
	b.t.Helper()
	var s synced
	until(b.t, "everything is told", func() bool {
		var err error
		s, err = b.trySynced()
		return err == nil && s.Outbox["prov"].Pending == 0 && s.Outbox["evt"].Pending == 0
	})
	return s
}

// claimed is what a device was answered.
type claimed struct{ id, apiKey, hardware string }

// claimOne claims over HTTP and must be answered with a fresh key.
func (b *box) claimOne(key, hardware string) claimed {
	b.t.Helper()
	said := b.post(claimBody(key, "n", hardware))
	if said.status != http.StatusOK || said.text(b.t, "api_key") == "" {
		b.t.Fatalf("claim of %s: %d %s", hardware, said.status, said.body)
	}
	return claimed{said.text(b.t, "device_id"), said.text(b.t, "api_key"), hardware}
}

// claimSome claims count devices, named by prefix.
func (b *box) claimSome(key, prefix string, count int) []claimed {
	b.t.Helper()
	var all []claimed
	for i := range count {
		all = append(all, b.claimOne(key, fmt.Sprint(prefix, i)))
	}
	return all
}

// wantHas fails unless the hub lists every one of the devices.
func (h *hub) wantHas(devices ...[]claimed) {
	h.t.Helper()
	listed := h.devices()
	for _, d := range slices.Concat(devices...) {
		if listed[d.id].HardwareID != d.hardware {
			h.t.Errorf("device %s of %s was answered, and the hub does not list it", d.id, d.hardware)
		}
	}
}

// untilHas waits until it does.
func (h *hub) untilHas(devices ...[]claimed) {
	h.t.Helper()
	until(h.t, "the hub lists what was claimed", func() bool {
		listed := h.devices()
		return !slices.ContainsFunc(slices.Concat(devices...), func(d claimed) bool { return listed[d.id].HardwareID != d.hardware })
	})
}

// wantLogins fails unless every one logs in to the box with its key.
func (b *box) wantLogins(devices ...[]claimed) {
	b.t.Helper()
	for _, d := range slices.Concat(devices...) {
		if code := loginCode(b.t, b.mqttAddr, d.id, d.apiKey); code != 0 {
			b.t.Errorf("the key of %s does not log in: %#x", d.hardware, code)
		}
	}
}

// broker is an MQTT broker between box and hub. Restart starts it anew at its
// address, after Kill.
type broker interface {
	Addr() string
	Kill()
	Restart()
}

// site is a broker, a hub and a box, with a bad cable on either side of the
// broker.
type site struct {
	t        testing.TB
	broker   broker
	boxCable *mqttproxy.Proxy // between box and broker
	hubCable *mqttproxy.Proxy // between hub and broker
	hub      *hub
	box      *box
	id       string   // of the box
	log      []string // what was suffered
}

// newSite starts all of it. more is added to the box's configuration.
func newSite(t testing.TB, seed uint64, more string) *site {
	t.Helper()
	return newSiteOf(t, mosquitto.Start(t, mosquitto.Options{}), "", seed, more)
}

// newSiteOf starts a site on that broker, and that database of the hub's;
// empty for SQLite.
func newSiteOf(t testing.TB, between broker, database string, seed uint64, more string) *site {
	t.Helper()
	s := &site{t: t, broker: between}
	s.boxCable = mqttproxy.Start(t, s.broker.Addr(), seed)
	s.hubCable = mqttproxy.Start(t, s.broker.Addr(), seed+1)
	s.hub = newHub(t, s.hubCable.Addr()).quick()
	s.hub.database = database
	s.hub.start()
	s.box = newBox(t, "--config", quickConfig(t, more), "--upstream", "mqtt://"+s.boxCable.Addr(), "--site", "plant7")
	s.box.start()
	s.id = s.box.synced().BoxID
	return s
}

// copyFolder copies a data folder as an operator's cp -a does, sockets left out.
func copyFolder(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o700)
		case !entry.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// within runs a wait that is not about a condition: somebody else's time passes.
func within(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return false
	case <-timer.C:
		return true
	}
}
