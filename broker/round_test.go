package broker_test

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// inherit changes what every one of the devices is told, without a word to the
// broker.
func (x *inbox) inherit(version uint64, text string, ids ...edgeclaim.DeviceID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.configs == nil {
		x.configs = map[edgeclaim.DeviceID]edgeclaim.DeviceConfig{}
	}
	for _, id := range ids {
		x.configs[id] = edgeclaim.DeviceConfig{Version: version, Config: json.RawMessage(text)}
	}
}

// What all devices inherit reaches those that listen, and only where it is not
// what they were told: a version alone is nothing new.
func TestProfilesReachTheDevices(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		one, other, deaf, away := deviceID(t, 1), deviceID(t, 2), deviceID(t, 3), deviceID(t, 4)
		r := &rule{login: knowsAll}
		b := start(t, r, nil)
		r.inherit(1, `{"interval":5}`, one, other, deaf, away)
		first, second, third := device(t, b, v, one), device(t, b, v, other), device(t, b, v, deaf)
		subscribe(t, first, 1, configOf(one))
		hears(t, first, configOf(one), `{"version":1,"config":{"interval":5}}`)
		subscribe(t, second, 1, configOf(other))
		hears(t, second, configOf(other), `{"version":1,"config":{"interval":5}}`)
		claims := claimant(t, b, v, "provision/response")

		r.inherit(2, `{"interval":6}`, one, deaf, away)
		r.inherit(2, `{"interval":5}`, other)
		b.WakeAll()
		hears(t, first, configOf(one), `{"version":2,"config":{"interval":6}}`)
		eventually(t, "the round is over", func() bool { return !b.Rounding() && b.Errands() == 0 })
		for _, c := range []*mqttwire.Client{first, second, third, claims} {
			silent(t, c)
		}
		// Who subscribes again is told again, though nothing has changed.
		subscribe(t, second, 1, configOf(other))
		hears(t, second, configOf(other), `{"version":2,"config":{"interval":5}}`)
		late := device(t, b, v, away)
		subscribe(t, late, 1, configOf(away))
		hears(t, late, configOf(away), `{"version":2,"config":{"interval":6}}`)
	})
}

// A round is no burst: it takes its time. One round covers all calls before it,
// and what changes during a round reaches those too that it has looked at.
func TestRoundIsPaced(t *testing.T) {
	const devices = 3*broker.RoundStep + 1
	var looks atomic.Int64
	var armed atomic.Bool
	var b *broker.Broker
	r := &rule{login: knowsAll}
	r.fail = func(method string) error {
		if method != "config" {
			return nil
		}
		if looks.Add(1); armed.CompareAndSwap(true, false) {
			for range 1000 {
				b.WakeAll()
			}
		}
		return nil
	}
	b = start(t, r, nil)
	clients := map[edgeclaim.DeviceID]*mqttwire.Client{}
	for n := range devices {
		id := deviceID(t, n+1)
		clients[id] = device(t, b, mqttwire.V311, id)
	}
	for id, c := range clients {
		subscribe(t, c, 1, configOf(id))
	}
	eventually(t, "who has subscribed is looked at", func() bool { return looks.Load() == devices && b.Errands() == 0 })
	for id := range clients {
		r.inherit(1, fmt.Sprintf(`{"own":%q}`, id), id)
	}
	looks.Store(0)
	armed.Store(true)
	began := time.Now()
	b.WakeAll()
	for id, c := range clients {
		hears(t, c, configOf(id), fmt.Sprintf(`{"version":1,"config":{"own":%q}}`, id))
	}
	if least := 4 * broker.RoundEvery; time.Since(began) < least-broker.RoundEvery {
		t.Errorf("%d devices in %v, want %v at least", devices, time.Since(began), least)
	}
	eventually(t, "two rounds", func() bool { return looks.Load() >= 2*devices })
	eventually(t, "the rounds are over", func() bool { return !b.Rounding() && b.Errands() == 0 })
	if n := looks.Load(); n != 2*devices {
		t.Errorf("%d looks at %d devices, want two rounds", n, devices)
	}
	for _, c := range clients {
		silent(t, c) // told once, all the same
		break
	}
}
