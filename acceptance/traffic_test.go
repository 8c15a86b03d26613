package acceptance

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// traffic is a line at work: devices claim over both faces all the while,
// some are released and claim again, some claims are refused. Whatever breaks,
// a device tries again until it is answered.
type traffic struct {
	box    *box
	key    string
	stop   context.CancelFunc
	work   sync.WaitGroup
	client *http.Client

	mu sync.Mutex
	// answered are the devices of claims answered with a success, and the keys
	// that each was given, in order; a key whose answer was lost is not there.
	answered map[string][]string
	hardware map[string]string // device id → hardware id
	claims   int
	odd      []string // answers that nobody may get
}

// pace is how often each worker claims: some hundreds of claims a second in
// all, so that the schedule's other processes get a turn.
const pace = 8 * time.Millisecond

// startTraffic lets devices claim with key until end is called. refused are
// bodies of claims that must be refused.
func startTraffic(t testing.TB, b *box, key string, refused ...string) *traffic {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	f := &traffic{
		box: b, key: key, stop: stop, client: &http.Client{Timeout: 2 * time.Second},
		answered: map[string][]string{}, hardware: map[string]string{},
	}
	for worker := range 3 {
		f.work.Go(func() { f.claimAll(ctx, worker) })
	}
	f.work.Go(func() { f.releaseSome(ctx) })
	if len(refused) > 0 {
		f.work.Go(func() { f.refuse(ctx, refused) })
	}
	t.Cleanup(f.end)
	return f
}

// end stops the line and waits for it.
func (f *traffic) end() {
	f.stop()
	f.work.Wait()
	f.client.CloseIdleConnections()
}

// each runs do at every tick until ctx ends.
func each(ctx context.Context, every time.Duration, do func(i int)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do(i)
		}
	}
}

// claimAll claims one device after the other, each until it is answered.
func (f *traffic) claimAll(ctx context.Context, worker int) {
	next := 0
	each(ctx, pace, func(int) {
		hardware := fmt.Sprintf("W%d-%d", worker, next)
		if f.claim(ctx, worker%3 == 2, hardware) {
			next++
		}
	})
}

// claim claims once and reports whether it was answered.
func (f *traffic) claim(ctx context.Context, overMQTT bool, hardware string) bool {
	body := claimBody(f.key, "n", hardware)
	said, err := f.ask(ctx, overMQTT, body)
	if err != nil || said.body == "" || said.status >= 500 || strings.Contains(said.body, `"code":14`) {
		return false // broken, or the box says that it cannot now
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var fields struct{ DeviceID, APIKey string }
	if !readAnswer(said.body, &fields.DeviceID, &fields.APIKey) {
		f.odd = append(f.odd, hardware+": "+said.body)
		return true
	}
	f.claims++
	f.hardware[fields.DeviceID] = hardware
	if fields.APIKey != "" {
		f.answered[fields.DeviceID] = append(f.answered[fields.DeviceID], fields.APIKey)
	}
	return true
}

func (f *traffic) ask(ctx context.Context, overMQTT bool, body string) (answer, error) {
	if overMQTT {
		said, _, err := mqttClaim(f.box.mqttAddr, mqttwire.V311, body)
		if said.body != "" {
			return said, nil
		}
		return said, err
	}
	if ctx.Err() != nil {
		return answer{}, ctx.Err()
	}
	return httpClaim(f.client, f.box.httpAddr, "application/json", body)
}

// readAnswer reads a success: exactly these two members.
func readAnswer(body string, id, apiKey *string) bool {
	rest, ok := strings.CutPrefix(body, `{"device_id":"`)
	if !ok {
		return false
	}
	var ok2, ok3 bool
	*id, rest, ok2 = strings.Cut(rest, `","api_key":"`)
	*apiKey, ok3 = strings.CutSuffix(rest, `"}`)
	return ok2 && ok3
}

// releaseSome releases a device now and then, which claims again at once.
func (f *traffic) releaseSome(ctx context.Context) {
	each(ctx, 300*time.Millisecond, func(int) {
		id, hardware := f.some()
		if id == "" {
			return
		}
		// The box may be down, or go down before it says that it has done it:
		// the claim that follows tells.
		_, _, _ = f.box.command("", "device", "release", id)
		for !f.claim(ctx, false, hardware) && ctx.Err() == nil {
			if !within(pace, ctx.Done()) {
				return
			}
		}
	})
}

func (f *traffic) some() (id, hardware string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, hardware := range f.hardware { // a map's order is random
		return id, hardware
	}
	return "", ""
}

func (f *traffic) refuse(ctx context.Context, bodies []string) {
	each(ctx, 2*pace, func(i int) {
		_, _ = f.ask(ctx, i%2 == 0, bodies[i/2%len(bodies)]) // a box that is down refuses nobody
	})
}

// settle ends the line and says what was answered and is not on record
// upstream, or not as it was answered.
func (f *traffic) settle(listed map[string]hubDevice, records []told) []string {
	f.end()
	f.mu.Lock()
	defer f.mu.Unlock()
	found := slices.Clone(f.odd)
	for id, hardware := range f.hardware {
		if listed[id].HardwareID != hardware {
			found = append(found, fmt.Sprintf("%s was answered device %s, which the hub does not list", hardware, id))
		}
	}
	return append(found, misordered(records, f.answered)...)
}
