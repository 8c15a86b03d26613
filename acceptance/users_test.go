package acceptance

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// readerPassword is that of all users here.
const readerPassword = "correct horse battery"

// reader is a mosquitto_sub that is a named user.
type reader struct {
	out *logBuffer
	end func()
}

// read starts one and returns when it is subscribed.
func (b *box) read(t testing.TB, user, filter string) *reader {
	t.Helper()
	host, port, _ := strings.Cut(b.mqttAddr, ":")
	// Else it keeps what it hears to itself until it ends.
	cmd := exec.Command("stdbuf", "-oL", "mosquitto_sub", "-h", host, "-p", port, "-u", user, "-P", readerPassword, "-q", "1",
		"-d", "-F", "heard %t %p", "-t", filter)
	r := &reader{out: &logBuffer{}}
	cmd.Stdout, cmd.Stderr = r.out, r.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() { _ = cmd.Wait() }) // it is killed
	r.end = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // it may have ended
		work.Wait()
	})
	t.Cleanup(r.end)
	until(t, user+" is subscribed", func() bool { return strings.Contains(r.out.String(), "Subscribed") })
	return r
}

// heard is what it was told, "topic payload".
func (r *reader) heard() []string {
	var all []string
	for line := range strings.Lines(r.out.String()) {
		if text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "heard "); ok {
			all = append(all, text)
		}
	}
	return all
}

// withUsers starts the box anew with named users: scada, who hears and commands
// all, and panel, who is for one device.
func (b *box) withUsers(device string) {
	b.t.Helper()
	out, errOut, code := b.command(readerPassword+"\n", "user", "hash")
	hash := strings.TrimSpace(string(out))
	if code != 0 || !strings.HasPrefix(hash, "$2") {
		b.t.Fatalf("user hash: exit code %d, %q %s", code, hash, errOut)
	}
	b.stop()
	b.reconfigure("users: []\n", fmt.Sprintf(`users:
  - {name: scada, password_hash: %[1]q, read: ["devices/+/telemetry", "devices/+/events"], command: ["devices/+/commands"]}
  - {name: panel, password_hash: %[1]q, read: ["devices/%[2]s/telemetry"], command: ["devices/%[2]s/commands"]}
`, hash, device))
	b.start()
}

// TestUsersOnTheLine: named users hear what devices say, alone and in a group of
// whom each message reaches one that is there, and give commands; each within
// his filters.
func TestUsersOnTheLine(t *testing.T) {
	t.Parallel()
	b := startBox(t, "--config", quickConfig(t, "users: []\n"))
	devices := b.claimSome(b.key(), "LINE-", 3)
	b.withUsers(devices[0].id)

	t.Run("reading", func(t *testing.T) { usersRead(t, b.of(t), devices) })
	t.Run("commanding", func(t *testing.T) { usersCommand(t, b.of(t), devices[1]) })
	for _, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
		t.Run(fmt.Sprint("beyond the filters, MQTT ", v), func(t *testing.T) { usersReach(t, b.of(t), devices, v) })
	}
}

// usersRead has devices speak, and looks who hears it.
func usersRead(t *testing.T, b *box, devices []claimed) {
	all, one := b.read(t, "scada", "devices/+/telemetry"), b.read(t, "panel", telemetryOf(devices[0].id))
	var group []*reader
	for range 3 {
		group = append(group, b.read(t, "scada", "$share/historian/devices/+/telemetry"))
	}
	var clients []*mqttwire.Client
	for _, d := range devices {
		clients = append(clients, at(t, b, d, mqttwire.V311, nil))
	}
	var said, ofOne []string
	speak := func(round int) {
		t.Helper()
		for i := range 60 {
			d := devices[i%len(devices)]
			body := fmt.Sprintf(`{"round":%d,"n":%d}`, round, i)
			if code, err := say(clients[i%len(devices)], telemetryOf(d.id), body); err != nil || code != 0 {
				t.Fatalf("code %#x, %v", code, err)
			}
			said = append(said, telemetryOf(d.id)+" "+body)
			if d == devices[0] {
				ofOne = append(ofOne, said[len(said)-1])
			}
		}
	}
	check := func() {
		t.Helper()
		var shared []string
		until(t, "the users have heard all", func() bool {
			shared = nil
			for _, r := range group {
				shared = append(shared, r.heard()...)
			}
			return len(all.heard()) >= len(said) && len(one.heard()) >= len(ofOne) && len(shared) >= len(said)
		})
		slices.Sort(shared)
		if got, want := byTopic(all.heard()), byTopic(said); !slices.Equal(got, want) {
			t.Errorf("scada heard %d messages that are not the %d that were said, in each device's order", len(got), len(want))
		}
		if got := one.heard(); !slices.Equal(got, ofOne) {
			t.Errorf("panel heard %q, want %q", got, ofOne)
		}
		if want := slices.Sorted(slices.Values(said)); !slices.Equal(shared, want) {
			t.Errorf("the group heard %d messages that are not the %d that were said, each once", len(shared), len(want))
		}
	}
	speak(1)
	check()
	for i, r := range group {
		if len(r.heard()) == 0 {
			t.Errorf("member %d of the group heard nothing", i)
		}
	}
	group[0].end()
	until(t, "the box knows that a member is gone", func() bool { return b.working().Connections.Consumers == 4 })
	speak(2)
	check()
}

// byTopic sorts by the topic alone: nobody promises an order among devices.
func byTopic(heard []string) []string {
	sorted := slices.Clone(heard)
	slices.SortStableFunc(sorted, func(a, b string) int {
		topicA, _, _ := strings.Cut(a, " ")
		topicB, _, _ := strings.Cut(b, " ")
		return strings.Compare(topicA, topicB)
	})
	return sorted
}

// usersCommand gives a command with mosquitto_pub, which a device executes.
func usersCommand(t *testing.T, b *box, d claimed) {
	host, port, _ := strings.Cut(b.mqttAddr, ":")
	shell(t, "mosquitto_pub", "-h", host, "-p", port, "-u", "scada", "-P", readerPassword, "-q", "1", "-t", "devices/"+d.id+"/commands",
		"-m", fmt.Sprintf(`{"command_id":"line-1","expires_in":600,"payload":{"device":%q}}`, d.id))
	var given struct{ Status, Origin, By string }
	b.json(&given, "command", "show", "line-1", "--device", d.id)
	if given.Status != "queued" || given.Origin != "local" || given.By != "scada" {
		t.Errorf("a command that was acknowledged: %+v", given)
	}
	calm := make(chan struct{})
	close(calm)
	h := newHand(d, 1, calm)
	h.mqttAddr = b.mqttAddr
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { h.liveWire(ctx) })
	until(t, "the command is executed", func() bool {
		b.json(&given, "command", "show", "line-1", "--device", d.id)
		return given.Status == "successful"
	})
	stop()
	work.Wait()
	if len(h.errands) != 1 || len(h.odd) > 0 {
		t.Errorf("the device did %d things, %q", len(h.errands), h.odd)
	}
}

// usersReach tries what users may not do.
func usersReach(t *testing.T, b *box, devices []claimed, v mqttwire.Version) {
	user := func(name, password string) (*mqttwire.Client, byte) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		client, ack, err := mqttwire.Dial(ctx, b.mqttAddr, v, mqttwire.Login{ClientID: "u", Username: name, Password: password, Clean: true, KeepAlive: 60})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		return client, ack.Code()
	}
	for _, who := range [][2]string{{"scada", "wrong"}, {"nobody", readerPassword}, {"panel", ""}, {devices[0].id, readerPassword}} {
		if _, code := user(who[0], who[1]); code == 0 {
			t.Errorf("%s with %q is let in", who[0], who[1])
		}
	}
	panel, code := user("panel", readerPassword)
	if code != 0 {
		t.Fatalf("panel: %#x", code)
	}
	own, others := "devices/"+devices[0].id, "devices/"+devices[1].id
	for _, filter := range []string{others + "/telemetry", own + "/events", own + "/commands", "devices/+/telemetry", "#", "$share/g/devices/+/telemetry", "edgeclaim/#", "$SYS/#"} {
		if suback, err := panel.Subscribe(filter); err != nil || suback.Code() < 0x80 {
			t.Errorf("%s: code %#x, %v", filter, suback.Code(), err)
		}
	}
	if suback, err := panel.Subscribe(own+"/telemetry", "$share/g/"+own+"/telemetry"); err != nil || suback.Codes[0] > 1 || suback.Codes[1] > 1 {
		t.Errorf("its own filter: %v, %v", suback.Codes, err)
	}
	for _, topic := range []string{others + "/commands", own + "/telemetry", own + "/events", own + "/config", "provision/request"} {
		code, err := say(panel, topic, `{"payload":1}`)
		if (v == mqttwire.V5 && (err != nil || code != 0x87)) || (v == mqttwire.V311 && err == nil) {
			t.Errorf("on %s: code %#x, %v", topic, code, err)
		}
		if err != nil {
			panel, _ = user("panel", readerPassword)
		}
	}
	if code, err := say(panel, own+"/commands", `{"payload":1}`); err != nil || code != 0 {
		t.Errorf("its own device: code %#x, %v", code, err)
	}
	var waiting []struct {
		By string `json:"by"`
	}
	b.json(&waiting, "command", "list", "--device", devices[1].id, "--status", "queued")
	if len(waiting) > 0 {
		t.Errorf("a user gave another device %d commands", len(waiting))
	}
}
