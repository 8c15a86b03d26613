package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"
)

// neighbours are the devices that work beside a bad one, and claims.
type neighbours struct {
	box  *box
	work sync.WaitGroup
	stop context.CancelFunc

	mu     sync.Mutex
	acked  map[string][]string // by device: the points that the box has acknowledged
	waited map[string][]time.Duration
	faults []string
}

// startNeighbours lets devices say a point every 20 ms, over both faces, and
// somebody claim every 50 ms, until end is called.
func startNeighbours(t *testing.T, b *box, key string, devices []claimed) *neighbours {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	n := &neighbours{box: b, stop: stop, acked: map[string][]string{}, waited: map[string][]time.Duration{}}
	for i, d := range devices {
		say := n.overHTTP(d)
		if i%3 > 0 {
			say = n.overMQTT(t, d, []mqttwire.Version{mqttwire.V311, mqttwire.V5}[i%2])
		}
		n.work.Go(func() {
			each(ctx, 20*time.Millisecond, func(i int) { n.note("point", say(fmt.Sprintf(`{"numeric_values":{"n":%d}}`, i))) })
		})
	}
	n.work.Go(func() {
		each(ctx, 50*time.Millisecond, func(i int) {
			n.note("claim", func() error {
				said, err := httpClaim(http.DefaultClient, b.httpAddr, "application/json", claimBody(key, "n", fmt.Sprint("NEIGHBOUR-", i)))
				if err == nil && said.status != http.StatusOK {
					err = fmt.Errorf("claim: %d %s", said.status, said.body)
				}
				return err
			})
		})
	})
	t.Cleanup(n.end)
	return n
}

func (n *neighbours) end() {
	n.stop()
	n.work.Wait()
}

// note times what is done, and keeps what goes wrong.
func (n *neighbours) note(what string, do func() error) {
	start := time.Now()
	err := do()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waited[what] = append(n.waited[what], time.Since(start))
	if err != nil && len(n.faults) < 20 {
		n.faults = append(n.faults, err.Error())
	}
}

func (n *neighbours) took(d claimed, point string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.acked[d.id] = append(n.acked[d.id], point)
}

func (n *neighbours) overHTTP(d claimed) func(string) func() error {
	return func(point string) func() error {
		return func() error {
			said, err := n.box.asks(d, http.MethodPost, telemetryPath, "application/json", point)
			if err != nil || said.status != http.StatusOK {
				return fmt.Errorf("%s over HTTP: %d %s %w", d.hardware, said.status, said.body, err)
			}
			n.took(d, point)
			return nil
		}
	}
}

func (n *neighbours) overMQTT(t *testing.T, d claimed, v mqttwire.Version) func(string) func() error {
	client := at(t, n.box, d, v, nil)
	if err := client.SetDeadline(time.Now().Add(4 * patience)); err != nil {
		t.Fatal(err)
	}
	return func(point string) func() error {
		return func() error {
			if code, err := say(client, telemetryOf(d.id), point); err != nil || code != 0 {
				return fmt.Errorf("%s over MQTT: code %#x, %w", d.hardware, code, err)
			}
			n.took(d, point)
			return nil
		}
	}
}

// settle ends their work and waits until upstream has all that was acknowledged.
func (n *neighbours) settle(t *testing.T, heard *ear) {
	t.Helper()
	n.end()
	for _, fault := range n.faults {
		t.Errorf("a neighbour was disturbed: %s", fault)
	}
	for id, points := range n.acked {
		until(t, "upstream has the neighbours' points", func() bool { return len(heard.on(telemetryOf(id))) >= len(points) })
		if got := heard.on(telemetryOf(id)); !slices.Equal(got, points) {
			t.Errorf("upstream has %d points of %s that are not the %d acknowledged", len(got), id, len(points))
		}
	}
	for what, waited := range n.waited {
		slices.Sort(waited)
		t.Logf("%ss: %d, p50 %v, p99 %v", what, len(waited), waited[len(waited)/2], waited[len(waited)*99/100])
	}
	if len(n.waited["claim"]) == 0 || len(n.acked) < 4 {
		t.Error("the neighbours did not work")
	}
}

// badPoint is what a device may not say as telemetry.
type badPoint struct {
	name, body string
	member     string // the refusal over HTTP begins with it
	reason     string // in the box's status
	mqttTakes  bool   // MQTT's flat form allows it
}

func badPoints(other string) []badPoint {
	points := "[" + strings.Repeat(`{"numeric_values":{"n":1}},`, 1000) + `{"numeric_values":{"n":1}}]`
	return []badPoint{
		{"another's id", `{"device_id":"` + other + `","numeric_values":{"evil":1}}`, "device_id", "wrong_device", false},
		{"no JSON", `temperature=21.5`, "body", "malformed", false},
		{"binary", string([]byte{0, 1, 2, 0xff, 0xfe, 0x80}), "body", "malformed", false},
		{"nothing", ``, "body", "malformed", false},
		{"invalid UTF-8", "{\"numeric_values\":{\"evil\xff\":1}}", "", "malformed", false},
		{"nested", `{"numeric_values":{"evil":{"a":1}}}`, "numeric_values.evil", "malformed", false},
		{"a text for a number", `{"numeric_values":{"evil":"hot"}}`, "numeric_values.evil", "malformed", false},
		{"a truth", `{"numeric_values":{"evil":true}}`, "numeric_values.evil", "malformed", false},
		{"null", `{"string_values":{"evil":null}}`, "string_values.evil", "malformed", false},
		{"twice", `{"numeric_values":{"evil":1,"evil":2}}`, "numeric_values.evil", "malformed", false},
		{"another member", `{"numeric_values":{"evil":1},"tenant_id":"` + tenant + `"}`, "tenant_id", "malformed", false},
		{"beyond float64", `{"numeric_values":{"evil":1e999}}`, "numeric_values.evil", "malformed", false},
		{"no values", `{"timestamp":1}`, "", "malformed", true},
		{"deep", strings.Repeat("[", 50_000), "", "malformed", false},
		{"deep objects", strings.Repeat(`{"a":`, 10_000), "", "malformed", false},
		{"1001 points", points, "body", "too_many", false},
		{"257 metrics", `{"numeric_values":{` + metrics(257) + `}}`, "numeric_values", "too_many", false},
	}
}

func metrics(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"evil%d":1`, i))
	}
	return strings.Join(all, ",")
}

// TestBadDevices: whatever a device says, asks for and floods the box with, it
// is refused or bounded by name; others do not notice.
func TestBadDevices(t *testing.T) {
	t.Parallel()
	upstream := mosquitto.Start(t, mosquitto.Options{})
	heard := hearken(t, upstream.Addr(), "devices/+/telemetry")
	told := watch(t, upstream.Addr())
	b := startBox(t, append(impatient(t), "--upstream", "mqtt://"+upstream.Addr(), "--log-level", "debug")...)
	key := b.key()
	good, bad := b.claimSome(key, "GOOD-", 6), b.claimSome(key, "BAD-", 8)
	victim := b.claimOne(key, "VICTIM")
	b.json(nil, "device", "command", victim.id, "--payload", "1", "--command-id", "theirs")
	others := startNeighbours(t, b, key, good)

	for i, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
		t.Run(fmt.Sprint("telemetry over MQTT ", v), func(t *testing.T) { saysBadThings(t, b, bad[i], victim, v) })
		t.Run(fmt.Sprint("others' topics over MQTT ", v), func(t *testing.T) { reachesForOthers(t, b, bad[i], victim, v) })
		t.Run(fmt.Sprint("a flood over MQTT ", v), func(t *testing.T) { floods(t, b, bad[i+2], v) })
	}
	t.Run("10,000 messages a second", func(t *testing.T) { hurries(t, b, bad[7]) })
	t.Run("telemetry over HTTP", func(t *testing.T) { postsBadThings(t, b, bad[4], victim) })
	t.Run("a flood over HTTP", func(t *testing.T) { postsTooMuch(t, b, bad[5]) })
	t.Run("a flood of events", func(t *testing.T) { floodsEvents(t, b, bad[6], told) })

	others.settle(t, heard)
	for _, name := range []string{"not authorized", "packet too large"} {
		said := regexp.MustCompile(`level=WARN msg="device did what it may not[^\n]*` + name)
		if !said.MatchString(b.log.String()) {
			t.Errorf("the log does not warn of %q", name)
		}
	}
	for _, m := range heard.all() {
		if bytes.Contains(m.Payload, []byte("evil")) {
			t.Errorf("upstream was told %.200q on %s", m.Payload, m.Topic)
		}
	}
	var theirs struct{ Status string }
	b.json(&theirs, "command", "show", "theirs", "--device", victim.id)
	if theirs.Status != "queued" {
		t.Errorf("the command of another device is %s", theirs.Status)
	}
	if code, err := say(at(t, b, victim, mqttwire.V311, nil), telemetryOf(victim.id), `{"n":1}`); err != nil || code != 0 {
		t.Errorf("the victim: code %#x, %v", code, err)
	}
}

// saysBadThings says what cannot be taken, one after the other, over one
// connection, which lasts.
func saysBadThings(t *testing.T, b *box, d, victim claimed, v mqttwire.Version) {
	client := at(t, b, d, v, nil)
	for _, bad := range badPoints(victim.id) {
		if bad.mqttTakes || len(bad.body) > 60_000 {
			continue
		}
		before := b.working().Telemetry.Rejected[bad.reason]
		want := byte(0)
		if v == mqttwire.V5 {
			want = 0x99
		}
		if code, err := say(client, telemetryOf(d.id), bad.body); err != nil || code != want {
			t.Errorf("%s: code %#x, %v; want %#x", bad.name, code, err, want)
			client = at(t, b, d, v, nil)
		}
		if after := b.working().Telemetry.Rejected[bad.reason]; after <= before {
			t.Errorf("%s: %d were rejected as %s, and %d before: %v", bad.name, after, bad.reason, before, b.working().Telemetry.Rejected)
		}
	}
	if code, err := say(client, telemetryOf(d.id), `{"good":1}`); err != nil || code != 0 {
		t.Errorf("a good point afterwards: code %#x, %v", code, err)
	}
	large := `{"evil":"` + strings.Repeat("x", 1<<20) + `"}`
	code, err := say(client, telemetryOf(d.id), large)
	if err == nil {
		t.Errorf("1 MB was answered with %#x", code)
	}
}

// reachesForOthers says things for another device, and asks for what it is told.
func reachesForOthers(t *testing.T, b *box, d, victim claimed, v mqttwire.Version) {
	client := at(t, b, d, v, nil)
	theirs := "devices/" + victim.id
	for _, bad := range [][2]string{
		{theirs + "/telemetry", `{"evil":1}`}, {theirs + "/events", `{"evil":1}`},
		{theirs + "/events", `{"command_id":"theirs","status":"successful"}`}, {theirs + "/commands", `{"payload":"evil"}`},
		{"devices/" + d.id + "/commands", `{"payload":"evil"}`}, {"edgeclaim/v1/default/x/up/tel", `{"evil":1}`},
	} {
		code, err := say(client, bad[0], bad[1])
		switch {
		case v == mqttwire.V5 && (err != nil || code != 0x87):
			t.Errorf("on %s: code %#x, %v; want 0x87", bad[0], code, err)
		case v == mqttwire.V311 && err == nil: // it has no word for it
			t.Errorf("on %s: acknowledged", bad[0])
		}
		if err != nil {
			client = at(t, b, d, v, nil)
		}
		// At QoS 0 nothing is said, or the connection ends.
		if err := client.Publish(mqttwire.Message{Topic: bad[0], Payload: []byte(bad[1])}); err != nil {
			t.Error(err)
		}
		if code, err := say(client, telemetryOf(d.id), `{"n":1}`); err != nil {
			client = at(t, b, d, v, nil)
		} else if code != 0 {
			t.Errorf("behind QoS 0 on %s: code %#x", bad[0], code)
		}
	}
	// On its own topic it may say what it likes of a command that is not its own.
	if code, err := say(client, "devices/"+d.id+"/events", `{"command_id":"theirs","status":"successful"}`); err != nil || code != 0 {
		t.Errorf("an answer to nothing: code %#x, %v", code, err)
	}
	suback, err := client.Subscribe(theirs+"/commands", theirs+"/config", "devices/+/commands", "#", "$share/g/"+theirs+"/commands")
	if err != nil {
		t.Fatal(err)
	}
	for i, code := range suback.Codes {
		if code < 0x80 {
			t.Errorf("filter %d is granted", i)
		}
	}
}

// floods says 20,000 points in bodies of 500 as fast as it can.
func floods(t *testing.T, b *box, d claimed, v mqttwire.Version) {
	client := at(t, b, d, v, nil)
	body := "[" + strings.Repeat(`{"numeric_values":{"n":1}},`, 499) + `{"numeric_values":{"n":1}}]`
	before := b.working().Telemetry.Rejected["throttled"]
	codes := map[byte]int{}
	for range 40 {
		code, err := say(client, telemetryOf(d.id), body)
		if err != nil {
			t.Fatalf("%v after %v", err, codes)
		}
		codes[code]++
	}
	after := b.working().Telemetry.Rejected["throttled"]
	t.Logf("%v by code, %d points throttled", codes, after-before)
	if after <= before || (v == mqttwire.V5) != (codes[0x97] > 0) {
		t.Errorf("%d were throttled: %v", after-before, codes)
	}
}

// hurries sends 10,000 messages at once: they are taken at the pace that the
// configuration allows one device, and the rest stays in its socket.
func hurries(t *testing.T, b *box, d claimed) {
	client := at(t, b, d, mqttwire.V311, nil)
	var flood []byte
	for i := range 10_000 {
		flood = mqttwire.AppendPublish(flood, mqttwire.V311, &mqttwire.Message{
			Topic: telemetryOf(d.id), Payload: []byte(`{"n":1}`), QoS: 1, ID: uint16(i + 1),
		})
	}
	var sending sync.WaitGroup
	sending.Go(func() { _ = client.Send(flood) }) // it does not come to its end
	defer sending.Wait()
	defer client.Close()
	const burst, rate = 1000, 200 // mqtt.max_device_burst and max_device_rate
	start, acked := time.Now(), 0
	for ; acked < burst+rate; acked++ { // two seconds of it
		if p, err := client.Read(); err != nil || p.Type != mqttwire.Puback {
			t.Fatalf("behind %d acknowledgements: packet %d, %v", acked, p.Type, err)
		}
	}
	if took := time.Since(start); took < 800*time.Millisecond {
		t.Errorf("%d messages were taken in %v", acked, took)
	}
}

// postsBadThings is the same over HTTP.
func postsBadThings(t *testing.T, b *box, d, victim claimed) {
	ask := func(contentType, body string) answer {
		t.Helper()
		said, err := b.asks(d, http.MethodPost, telemetryPath, contentType, body)
		if err != nil {
			t.Fatal(err)
		}
		return said
	}
	for _, bad := range badPoints(victim.id) {
		before := b.working().Telemetry.Rejected[bad.reason]
		said := ask("application/json", bad.body)
		if said.status != http.StatusBadRequest || said.code(t) != 3 || !strings.HasPrefix(said.text(t, "message"), bad.member) {
			t.Errorf("%s: %d %.300s, want 400, code 3, of %q", bad.name, said.status, said.body, bad.member)
		}
		if after := b.working().Telemetry.Rejected[bad.reason]; after <= before {
			t.Errorf("%s: %d were rejected as %s, and %d before: %v", bad.name, after, bad.reason, before, b.working().Telemetry.Rejected)
		}
	}
	for body, want := range map[string]int{
		`[{"numeric_values":{"n":1}},{"device_id":"` + victim.id + `","numeric_values":{"evil":1}},{"numeric_values":{"n":2}}]`: http.StatusOK,
		`{"flat":"` + strings.Repeat("x", 1<<20) + `"}`: http.StatusRequestEntityTooLarge,
	} {
		if said := ask("application/json", body); said.status != want || (want == http.StatusOK && said.body != `{"accepted":2,"rejected":1}`) {
			t.Errorf("%.60s: %d %s, want %d", body, said.status, said.body, want)
		}
	}
	if said := ask("text/plain", `{"numeric_values":{"evil":1}}`); said.status != http.StatusUnsupportedMediaType {
		t.Errorf("as text: %d %s", said.status, said.body)
	}
	d.apiKey += "x"
	if said := ask("application/json", `{"numeric_values":{"evil":1}}`); said.status != http.StatusUnauthorized || said.code(t) != 16 {
		t.Errorf("a wrong key: %d %s", said.status, said.body)
	}
}

// postsTooMuch posts 10,000 points at once.
func postsTooMuch(t *testing.T, b *box, d claimed) {
	body := "[" + strings.Repeat(`{"numeric_values":{"n":1}},`, 999) + `{"numeric_values":{"n":1}}]`
	statuses := map[int]int{}
	for range 10 {
		said, err := b.asks(d, http.MethodPost, telemetryPath, "application/json", body)
		if err != nil {
			t.Fatal(err)
		}
		if statuses[said.status]++; said.status == http.StatusTooManyRequests && (said.code(t) != 8 || said.header.Get("Retry-After") == "") {
			t.Errorf("429 %s without code 8 or Retry-After", said.body)
		}
	}
	if statuses[http.StatusTooManyRequests] == 0 || statuses[http.StatusOK] == 0 || len(statuses) != 2 {
		t.Errorf("by status: %v", statuses)
	}
}

// floodsEvents posts events over eight connections: each that was acknowledged
// is told, or counted by a gap record.
func floodsEvents(t *testing.T, b *box, d claimed, told *watcher) {
	var mu sync.Mutex
	acked := 0
	parallel(t, 8, func() error {
		for range 250 {
			said, err := b.asks(d, http.MethodPost, eventsPath, "application/json", `{"flood":"`+strings.Repeat("x", 500)+`"}`)
			if err != nil {
				return err
			}
			if said.status == http.StatusOK {
				mu.Lock()
				acked++
				mu.Unlock()
			} else if said.status != http.StatusTooManyRequests && said.status != http.StatusServiceUnavailable {
				return fmt.Errorf("%d %s", said.status, said.body)
			}
		}
		return nil
	})
	arrived := 0
	until(t, "upstream has heard of all events", func() bool {
		arrived = 0
		for _, e := range told.all() {
			switch {
			case e.Type == "device.event" && e.Data["device_id"] == d.id:
				arrived++
			case e.Type == "gap" && e.Lane == "evt":
				count, _ := e.Data["count"].(float64)
				arrived += int(count)
			}
		}
		return arrived >= acked
	})
	t.Logf("%d events acknowledged, %d told or counted, %d of them dropped", acked, arrived, b.working().Telemetry.EventsDropped)
	if acked == 0 {
		t.Error("no event was acknowledged")
	}
	if said, err := b.asks(d, http.MethodPost, eventsPath, "application/json", `"text"`); err != nil || said.status != http.StatusBadRequest {
		t.Errorf("an event that is no object: %d %s %v", said.status, said.body, err)
	}
}
