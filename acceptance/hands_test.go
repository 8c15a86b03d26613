package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"edgeclaim/internal/mqttwire"
)

// hand is a device that does what it is told, and remembers what it did, as a
// device with a little flash does: its memory outlives its connections.
type hand struct {
	claimed
	// mqttAddr is where it finds the box: straight, or over a bad cable.
	mqttAddr, httpAddr string
	version            mqttwire.Version
	// calm, once closed, ends its bad habits: it stays, listens and answers.
	calm <-chan struct{}

	mu      sync.Mutex
	chance  *rand.Rand
	errands map[string]*errand // by command_id
	odd     []string           // what no device may be sent
	said    map[uint16]string

	watches sync.WaitGroup // of tokens; its life awaits them
}

// errand is a command that its device has executed, once.
type errand struct {
	expires  time.Time     // as the message said
	late     time.Duration // how long after that it came, at the latest; 0 for in time
	heard    int
	status   string // what it answers
	answered bool   // the box has acknowledged that
}

func newHand(d claimed, seed uint64, calm <-chan struct{}) *hand {
	return &hand{claimed: d, calm: calm, chance: rand.New(rand.NewPCG(seed, 1)), errands: map[string]*errand{}, said: map[uint16]string{}, version: mqttwire.V311}
}

func (h *hand) commands() string { return "devices/" + h.id + "/commands" }
func (h *hand) events() string   { return "devices/" + h.id + "/events" }

// rough draws whether a bad habit shows, one in n; never once it is calm.
func (h *hand) rough(n int) bool {
	select {
	case <-h.calm:
		return false
	default:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.chance.IntN(n) == 0
}

// rest waits up to a time drawn, and no longer than until it is calm.
func (h *hand) rest(ctx context.Context, most time.Duration) {
	h.mu.Lock()
	d := time.Duration(h.chance.Int64N(int64(most)))
	h.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-h.calm:
		within(20*time.Millisecond, ctx.Done()) // a box that is down is not asked without a pause
	case <-timer.C:
	}
}

// do executes what a message says, unless it was done before, and returns the
// answer. It looks at no clock: that a command comes in time is the box's doing.
func (h *hand) do(message []byte) (id string, answer []byte) {
	now := time.Now()
	var m struct {
		ID        string    `json:"command_id"`
		ExpiresAt time.Time `json:"expires_at"`
		ExpiresIn int       `json:"expires_in"`
		Payload   struct {
			Device string `json:"device"`
			Fail   bool   `json:"fail"`
		} `json:"payload"`
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	err := json.Unmarshal(message, &m)
	if err != nil || m.ID == "" || m.ExpiresAt.IsZero() || m.ExpiresIn < 1 || m.Payload.Device != h.id {
		h.odd = append(h.odd, fmt.Sprintf("%s was sent %q (%v)", h.hardware, message, err))
		return "", nil
	}
	d := h.errands[m.ID]
	if d == nil {
		d = &errand{expires: m.ExpiresAt, status: "successful"}
		if m.Payload.Fail {
			d.status = "failed"
		}
		h.errands[m.ID] = d
	}
	d.heard++
	d.late = max(d.late, now.Sub(m.ExpiresAt))
	return m.ID, answerTo(m.ID, d)
}

func answerTo(id string, d *errand) []byte {
	return fmt.Appendf(nil, `{"command_id":%q,"status":%q,"result":{"heard":%d}}`, id, d.status, d.heard)
}

// owed are the answers that the box has not acknowledged, by command.
func (h *hand) owed() map[string][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[string][]byte{}
	for id, d := range h.errands {
		if !d.answered {
			all[id] = answerTo(id, d)
		}
	}
	return all
}

func (h *hand) acknowledged(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.errands[id]; d != nil {
		d.answered = true
	}
}

// liveWire is the device's life over MQTT, packet by packet: it sleeps, is cut
// off in the middle of anything, repeats itself and loses acknowledgements.
func (h *hand) liveWire(ctx context.Context) {
	for ctx.Err() == nil {
		h.rest(ctx, 2*time.Second)
		h.wireSession(ctx)
	}
}

// liveLate is a life that begins when it is calm.
func (h *hand) liveLate(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-h.calm:
		h.liveWire(ctx)
	}
}

// wireSession is one connection, to its end.
func (h *hand) wireSession(ctx context.Context) {
	dialing, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, ack, err := mqttwire.Dial(dialing, h.mqttAddr, h.version, mqttwire.Login{
		ClientID: "board", Username: h.id, Password: h.apiKey, Clean: !h.rough(3), KeepAlive: 10,
	})
	if err != nil {
		return
	}
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	if ack.Code() != 0 || client.SetDeadline(time.Now().Add(5*time.Second)) != nil {
		return
	}
	if p, err := client.Subscribe(h.commands()); err != nil || p.Code() >= 0x80 {
		return
	}
	for id, answer := range h.afresh() {
		if h.answer(client, id, answer) != nil {
			return
		}
	}
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); {
		if client.SetDeadline(time.Now().Add(2*time.Second)) != nil {
			return
		}
		p, err := client.Read()
		if err != nil || !h.meet(client, &p) {
			return
		}
	}
	_ = client.Disconnect() // it sleeps
}

// afresh are the answers that it owes on a new connection, where the packet ids
// of the last one mean nothing.
func (h *hand) afresh() map[string][]byte {
	h.mu.Lock()
	clear(h.said)
	h.mu.Unlock()
	return h.owed()
}

// meet deals with one packet and reports whether the connection lasts.
func (h *hand) meet(client *mqttwire.Client, p *mqttwire.Packet) bool {
	switch p.Type {
	case mqttwire.Puback:
		if h.rough(6) {
			return true // lost
		}
		h.mu.Lock()
		id := h.said[p.ID]
		h.mu.Unlock()
		h.acknowledged(id)
		return true
	case mqttwire.Publish:
	default:
		return p.Type != mqttwire.Disconnect
	}
	if h.rough(8) {
		return false // it crashed before it did anything
	}
	id, answer := h.do(p.Payload)
	if h.rough(8) {
		return false // it crashed when it had done it
	}
	if p.QoS == 1 && !h.rough(4) && client.Send(mqttwire.AppendPuback(nil, h.version, p.ID, 0)) != nil {
		return false
	}
	if h.rough(5) {
		return true // it says so another time
	}
	for range 2 {
		if h.answer(client, id, answer) != nil {
			return false
		}
		if !h.rough(4) {
			break
		}
	}
	return true
}

// answer publishes an answer and remembers which acknowledgement it waits for.
func (h *hand) answer(client *mqttwire.Client, id string, answer []byte) error {
	if answer == nil {
		return nil
	}
	packet := client.NextID()
	h.mu.Lock()
	h.said[packet] = id
	h.mu.Unlock()
	return client.Publish(mqttwire.Message{Topic: h.events(), Payload: answer, QoS: 1, ID: packet})
}

// livePolls is the device's life over HTTP: it asks, does, and answers.
func (h *hand) livePolls(ctx context.Context) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		if h.rough(3) {
			h.rest(ctx, 2*time.Second)
		}
		if !h.poll(ctx, client) {
			within(100*time.Millisecond, ctx.Done())
		}
	}
}

// poll asks once and answers all it owes.
func (h *hand) poll(ctx context.Context, client *http.Client) bool {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	if h.rough(4) { // it loses its network while it waits
		timer := time.AfterFunc(300*time.Millisecond, cancel)
		defer timer.Stop()
	}
	status, said, err := h.request(asking, client, http.MethodGet, "/api/v1/commands?wait=1", "")
	if err != nil || status != http.StatusOK {
		return false
	}
	var list struct{ Commands []json.RawMessage }
	if err := json.Unmarshal(said, &list); err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.odd = append(h.odd, fmt.Sprintf("%s polled %q", h.hardware, said))
		return false
	}
	for _, message := range list.Commands {
		if h.rough(8) {
			return true // it crashed
		}
		h.do(message)
	}
	for id, answer := range h.owed() {
		if h.rough(5) {
			continue
		}
		status, _, err := h.request(ctx, client, http.MethodPost, "/api/v1/events", string(answer))
		if err == nil && status == http.StatusOK && !h.rough(6) {
			h.acknowledged(id)
		}
	}
	return true
}

func (h *hand) request(ctx context.Context, client *http.Client, method, path, body string) (status int, said []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+h.httpAddr+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+h.apiKey)
	r.Header.Set("Content-Type", "application/json")
	response, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	said, err = io.ReadAll(response.Body)
	return response.StatusCode, said, err
}
