package acceptance

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"
)

// soon is within what time a session has to end once its device was revoked.
const soon = time.Second

// sitting is a device's open connection, read all the while.
type sitting struct {
	t       testing.TB
	client  *mqttwire.Client
	packets chan mqttwire.Packet
	ended   chan struct{} // closed when the box has closed the connection
}

// open logs in over MQTT and keeps the connection.
func (b *box) open(id, secret string) *sitting {
	b.t.Helper()
	return listen(b.t, login(b.t, b.mqttAddr, id, secret))
}

// listen reads a client's packets from now on.
func listen(t testing.TB, client *mqttwire.Client) *sitting {
	s := &sitting{t: t, client: client, packets: make(chan mqttwire.Packet, 16), ended: make(chan struct{})}
	var reading sync.WaitGroup
	t.Cleanup(func() {
		client.Close()
		reading.Wait()
	})
	reading.Go(func() {
		defer close(s.ended)
		for {
			p, err := client.Read()
			if err != nil {
				return
			}
			select {
			case s.packets <- p:
			default: // nobody asked
			}
		}
	})
	return s
}

// next returns the next packet of a type.
func (s *sitting) next(want mqttwire.Type) mqttwire.Packet {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case p := <-s.packets:
			if p.Type == want {
				return p
			}
		case <-s.ended:
			s.t.Fatalf("the connection ended before a packet of type %d", want)
		case <-deadline:
			s.t.Fatalf("no packet of type %d within %v", want, patience)
		}
	}
}

// wantOpen fails unless the box still answers the device.
func (s *sitting) wantOpen(when string) {
	s.t.Helper()
	select {
	case <-s.ended:
		s.t.Fatalf("%s: the session has ended", when)
	default:
	}
	if err := s.client.Ping(); err != nil {
		s.t.Fatalf("%s: %v", when, err)
	}
	s.next(mqttwire.Pingresp)
}

// wantGone fails unless the box has closed the connection within that time.
func (s *sitting) wantGone(within time.Duration, when string) {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(within):
		s.t.Errorf("%s: the session is open after %v", when, within)
	}
}

// wantLogin fails unless an MQTT log-in ends so.
func (b *box) wantLogin(id, secret string, good bool, when string) {
	b.t.Helper()
	if code := loginCode(b.t, b.mqttAddr, id, secret); (code == 0) != good {
		b.t.Errorf("%s: log-in answered %#x, want it good: %v", when, code, good)
	}
}

// state is what an operator sees of a device.
func (b *box) state(id string) string {
	b.t.Helper()
	var shown struct{ State string }
	b.json(&shown, "device", "show", id)
	return shown.State
}

func (b *box) wantState(id, want, when string) {
	b.t.Helper()
	if got := b.state(id); got != want {
		b.t.Errorf("%s: the device is %s, want %s", when, got, want)
	}
}

// rotated is what a rotation answers.
type rotated struct {
	DeviceID      string    `json:"device_id"`
	APIKey        string    `json:"api_key"`
	PreviousUntil time.Time `json:"previous_until"`
}

// rotate rotates as an operator.
func (b *box) rotate(id, overlap string) rotated {
	b.t.Helper()
	var said rotated
	b.json(&said, "device", "rotate", id, "--overlap", overlap)
	if said.DeviceID != id || said.APIKey == "" {
		b.t.Fatalf("device rotate of %s: device %s, with a key: %v", id, said.DeviceID, said.APIKey != "")
	}
	return said
}

// rotateSelf rotates as the device does over HTTP.
func (b *box) rotateSelf(secret, body string) answer {
	b.t.Helper()
	return send(b.t, http.DefaultClient, http.MethodPost, "http://"+b.httpAddr+"/api/v1/credentials/rotate", body,
		"Authorization", "Bearer "+secret, "Content-Type", "application/json")
}

// send makes a request with headers, name and value in turn.
func send(t testing.TB, client *http.Client, method, url, body string, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
			continue
		}
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(said)}
}

func (a answer) renewal(t testing.TB) rotated {
	t.Helper()
	var said rotated
	if err := json.Unmarshal([]byte(a.body), &said); err != nil || a.status >= http.StatusBadRequest || said.APIKey == "" {
		t.Fatalf("renewal: %d %s: %v", a.status, a.body, err)
	}
	return said
}

// generation is the device id of a hardware's generation, by the contract's own
// words: UUIDv5 of the tenant and "H#2".
func generation(t testing.TB, hardware string) string {
	t.Helper()
	space, err := hex.DecodeString(strings.ReplaceAll(tenant, "-", ""))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(append(space, hardware...))
	sum[6], sum[8] = sum[6]&0x0f|0x50, sum[8]&0x3f|0x80 // RFC 9562, section 5.5
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// linked is a box that tells a hub, and the hub.
type linked struct {
	*box
	hub *hub
}

func newLinked(t testing.TB) linked {
	t.Helper()
	between := mosquitto.Start(t, mosquitto.Options{})
	h := newHub(t, between.Addr()).quick()
	h.start()
	b := appBox(t, between.Addr())
	b.start()
	b.enrol(h)
	return linked{b, h}
}

// of is the same for a subtest.
func (l linked) of(t testing.TB) linked {
	h := *l.hub
	h.t = t
	return linked{l.box.of(t), &h}
}

// wantAgreed fails unless the hub, once told, calls valid what the box lets in,
// and void what it does not.
func (l linked) wantAgreed(when, id string, valid, void []string) {
	l.t.Helper()
	l.drained()
	for want, secrets := range map[bool][]string{true: valid, false: void} {
		for i, secret := range secrets {
			l.wantLogin(id, secret, want, when)
			if of, got := l.hub.verify(secret); got != want || got && of != id {
				l.t.Errorf("%s: upstream calls key %d of device %q valid: %v, want %v", when, i, of, got, want)
			}
		}
	}
}

// TestLifecycle: what becomes of a device, by the operator and by itself, and
// that upstream knows it. Each part has a device of its own on one box.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	for name, part := range map[string]func(t *testing.T, l linked){
		"operator rotates": operatorRotates, "overlap ends": overlapEnds, "device rotates": deviceRotates,
		"revoked": deviceRevoked, "released": deviceReleased, "swapped": deviceSwapped, "cloned": deviceCloned,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			part(t, l.of(t))
		})
	}
}

func operatorRotates(t *testing.T, l linked) {
	d := l.claimOne(l.key(), "ROTATED")
	l.wantState(d.id, "claimed", "before its first use")
	old := l.open(d.id, d.apiKey)
	l.wantState(d.id, "confirmed", "after its first use")

	first := l.rotate(d.id, "1h")
	if left := time.Until(first.PreviousUntil); left < 50*time.Minute || left > 70*time.Minute {
		t.Errorf("the key before is good for %v, want an hour", left)
	}
	old.wantOpen("within the overlap")
	l.wantState(d.id, "rotating", "within the overlap")
	l.wantAgreed("within the overlap", d.id, []string{d.apiKey, first.APIKey}, nil)

	// Two are good at the most: another rotation ends the oldest.
	second := l.rotate(d.id, "1h")
	l.wantAgreed("rotated again", d.id, []string{first.APIKey, second.APIKey}, []string{d.apiKey})

	open := l.open(d.id, second.APIKey)
	third := l.rotate(d.id, "0s")
	open.wantGone(soon, "rotated without an overlap")
	l.wantAgreed("rotated without an overlap", d.id, []string{third.APIKey}, []string{d.apiKey, first.APIKey, second.APIKey})
	l.wantState(d.id, "confirmed", "after all of it")
}

func overlapEnds(t *testing.T, l linked) {
	d := l.claimOne(l.key(), "OVERLAP")
	before := l.open(d.id, d.apiKey)
	said := l.rotate(d.id, "3s")
	before.wantOpen("within the overlap")
	before.wantGone(time.Until(said.PreviousUntil)+soon, "at the overlap's end")
	if early := time.Until(said.PreviousUntil); early > 100*time.Millisecond {
		t.Errorf("the session ended %v before the overlap did", early)
	}
	l.wantAgreed("after the overlap", d.id, []string{said.APIKey}, []string{d.apiKey})
	if said := l.rotateSelf(d.apiKey, "{}"); said.status != http.StatusUnauthorized {
		t.Errorf("after the overlap, over HTTP: %d %s", said.status, said.body)
	}
}

// deviceRotates: over both faces, with a nonce the same answer again, and the
// old key until the new one is used, whatever is lost.
func deviceRotates(t *testing.T, l linked) {
	d := l.claimOne(l.key(), "SELF")
	ask := fmt.Sprintf(`{"claim_nonce":%q}`, randomNonce())
	first := l.rotateSelf(d.apiKey, ask).renewal(t)
	if again := l.rotateSelf(d.apiKey, ask).renewal(t); again.APIKey != first.APIKey {
		t.Error("the same nonce did not get the same key")
	}
	l.wantAgreed("after its own rotation", d.id, []string{d.apiKey, first.APIKey}, nil)
	// wantAgreed has used the new one: somebody holds it, so that the old one asks in vain.
	if said := l.rotateSelf(d.apiKey, ask); said.status != http.StatusForbidden || said.body != denied {
		t.Errorf("asked with the key before: %d %s", said.status, said.body)
	}

	s := l.open(d.id, first.APIKey)
	topics := "devices/" + d.id + "/credentials/"
	if err := s.client.Send(mqttwire.AppendSubscribe(nil, mqttwire.V311, 7, 1, topics+"response")); err != nil {
		t.Fatal(err)
	}
	if code := s.next(mqttwire.Suback).Codes[0]; code >= 0x80 {
		t.Fatalf("subscribed with code %#x", code)
	}
	request := mqttwire.Message{Topic: topics + "request", QoS: 1, ID: 8, Payload: []byte(`{"request_id":"r1"}`)}
	if err := s.client.Publish(request); err != nil {
		t.Fatal(err)
	}
	said := s.next(mqttwire.Publish)
	if s.next(mqttwire.Puback).ID != 8 {
		t.Error("another packet was acknowledged")
	}
	second := answer{body: string(said.Payload)}.renewal(t)
	if said.Topic != topics+"response" || second.DeviceID != d.id || !strings.Contains(string(said.Payload), `"request_id":"r1"`) {
		t.Errorf("over MQTT, on %s: device %s", said.Topic, second.DeviceID)
	}
	s.wantOpen("after its own rotation")
	l.wantAgreed("after both", d.id, []string{first.APIKey, second.APIKey}, []string{d.apiKey})
}

func deviceRevoked(t *testing.T, l linked) {
	key := l.key()
	d := l.claimOne(key, "REVOKED")
	renewed := l.rotate(d.id, "1h")
	s := l.open(d.id, d.apiKey)
	l.json(nil, "device", "revoke", d.id, "--reason", "stolen")
	s.wantGone(soon, "revoked")
	both := []string{d.apiKey, renewed.APIKey}
	l.wantAgreed("revoked", d.id, nil, both)
	l.wantState(d.id, "revoked", "revoked")
	for _, secret := range both {
		if said := l.rotateSelf(secret, "{}"); said.status != http.StatusUnauthorized {
			t.Errorf("revoked, over HTTP: %d %s", said.status, said.body)
		}
	}
	if said := l.post(claimBody(key, "n", d.hardware)); said.status != http.StatusForbidden || said.body != denied {
		t.Errorf("the claim of a revoked device: %d %s", said.status, said.body)
	}
	if _, errOut, code := l.command("", "device", "release", d.id); code == 0 {
		t.Errorf("released a revoked device without a word: %s", errOut)
	}
	l.json(nil, "device", "release", d.id, "--reinstate")
	again := l.claimOne(key, d.hardware)
	if again.id != d.id {
		t.Errorf("it came back as %s, it was %s", again.id, d.id)
	}
	l.wantAgreed("reinstated", d.id, []string{again.apiKey}, both)
}

// deviceReleased: what was void is never said again, though the nonce is the
// same.
func deviceReleased(t *testing.T, l linked) {
	key := l.key()
	ask := fmt.Sprintf(`{"provision_key":%q,"device_name":"n","hardware_id":"RELEASED","claim_nonce":%q}`, key, randomNonce())
	first := l.post(ask)
	id, secret := first.text(t, "device_id"), first.text(t, "api_key")
	if again := l.post(ask); again.body != first.body {
		t.Errorf("the same nonce before the first use: %d %s", again.status, again.body)
	}
	s := l.open(id, secret)
	if after := l.post(ask); after.text(t, "api_key") != "" {
		t.Error("the key was said again after its first use")
	}
	l.json(nil, "device", "release", id)
	s.wantGone(soon, "released")
	l.wantAgreed("released", id, nil, []string{secret})
	l.wantState(id, "released", "released")
	second := l.post(ask)
	if second.text(t, "device_id") != id || second.text(t, "api_key") == "" || second.text(t, "api_key") == secret {
		t.Errorf("claimed anew: device %s, the old key again: %v", second.text(t, "device_id"), second.text(t, "api_key") == secret)
	}
	l.wantAgreed("claimed anew", id, []string{second.text(t, "api_key")}, []string{secret})
}

// deviceSwapped: a new board has the old one's id, and the old one is nobody
// until an operator lets it be somebody else.
func deviceSwapped(t *testing.T, l linked) {
	key := l.key()
	old := l.claimOne(key, "BOARD-0")
	s := l.open(old.id, old.apiKey)
	l.json(nil, "device", "swap", old.id, "--hardware-id", "BOARD-1")
	s.wantGone(soon, "swapped")
	if said := l.post(claimBody(key, "n", "BOARD-0")); said.status != http.StatusForbidden || said.body != denied {
		t.Errorf("the old board's claim: %d %s", said.status, said.body)
	}
	l.wantAgreed("swapped", old.id, nil, []string{old.apiKey})
	fresh := l.claimOne(key, "BOARD-1")
	if fresh.id != old.id {
		t.Errorf("the new board is %s, want %s", fresh.id, old.id)
	}
	l.wantAgreed("the new board claimed", old.id, []string{fresh.apiKey}, []string{old.apiKey})
	if listed := l.hub.devices()[old.id]; listed.HardwareID != "BOARD-1" {
		t.Errorf("upstream the device is %s, want BOARD-1", listed.HardwareID)
	}

	l.json(nil, "deny", "--hardware-id", "BOARD-0", "--tenant", tenant, "--remove")
	second := l.claimOne(key, "BOARD-0")
	if want := generation(t, "BOARD-0#2"); second.id != want {
		t.Errorf("the old board came back as %s, want %s", second.id, want)
	}
	l.wantAgreed("the old board is another device", second.id, []string{second.apiKey}, nil)
	l.wantAgreed("the new board beside it", old.id, []string{fresh.apiKey}, []string{old.apiKey})
}

// deviceCloned: another nonce for a device whose key was never used is somebody
// else's. It gets nothing, takes nothing away, and is told.
func deviceCloned(t *testing.T, l linked) {
	key := l.key()
	ask := func(nonce string) answer {
		return l.post(fmt.Sprintf(`{"provision_key":%q,"device_name":"n","hardware_id":"CLONED","claim_nonce":%q}`, key, nonce))
	}
	own := randomNonce()
	first := ask(own)
	if other := ask(randomNonce()); other.text(t, "api_key") != "" || other.text(t, "device_id") != first.text(t, "device_id") {
		t.Errorf("another nonce: device %s, with a key: %v", other.text(t, "device_id"), other.text(t, "api_key") != "")
	}
	if again := ask(own); again.body != first.body {
		t.Error("its own nonce does not get the same answer any more")
	}
	until(t, "the suspicion is told", func() bool { return l.alarm("device_cloned") > 0 && l.hub.hasConflict("clone_suspected") })
	l.wantAgreed("cloned", first.text(t, "device_id"), []string{first.text(t, "api_key")}, nil)
}
