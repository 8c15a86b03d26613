package telemetry_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"edgeclaim"
)

// inheritance is the profiles of the tests' tenant, as the store would say them.
type inheritance struct {
	mu      sync.Mutex
	all     map[string]*edgeclaim.Profile // the default's id is empty
	version uint64
}

// set replaces them; the first is the default.
func (h *inheritance) set(version uint64, profiles ...edgeclaim.Profile) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all, h.version = map[string]*edgeclaim.Profile{}, version
	for _, p := range profiles {
		h.all[p.ID] = &p
	}
}

func (h *inheritance) of(_ edgeclaim.TenantID, profile string) edgeclaim.Inherited {
	h.mu.Lock()
	defer h.mu.Unlock()
	in := edgeclaim.Inherited{Default: h.all[""], Version: h.version}
	if profile != "" {
		in.Profile = h.all[profile]
	}
	return in
}

// sayAs has a device of a profile say something.
func (b *box) sayAs(device int, profile string) {
	b.t.Helper()
	r := report(b.t, device, `{"a":1}`)
	r.By.Profile = profile
	if _, err := b.Telemetry(b.t.Context(), r); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) online(device int) bool {
	s, ok := b.State(admission(b.t, device).Device)
	return ok && s.Presence == edgeclaim.PresenceOnline
}

// TestThresholds: each device may be silent for as long as its profile says, else
// its tenant's default, else the box; a new version holds for who is silent.
func TestThresholds(t *testing.T) {
	t.Parallel()
	var in inheritance
	b := newBox(t, func(b *box) { b.parts.Inherited = in.of })
	are := func(what string, online ...bool) {
		t.Helper()
		b.Sweep()
		for n, want := range online {
			if got := b.online(n); got != want {
				t.Errorf("%s: device %d is online: %v", what, n, got)
			}
		}
	}
	in.set(1, edgeclaim.Profile{OfflineAfter: 60}, edgeclaim.Profile{ID: "quick", OfflineAfter: 10},
		edgeclaim.Profile{ID: "slow", OfflineAfter: 3600}, edgeclaim.Profile{ID: "silent on this"})
	for n, profile := range []string{"quick", "slow", "silent on this", "unknown", ""} {
		b.sayAs(n, profile)
	}
	are("at first", true, true, true, true, true)
	b.clock.pass(10 * time.Second)
	are("after 10 s", false, true, true, true, true)
	b.clock.pass(49 * time.Second)
	b.sayAs(3, "unknown")
	are("after 59 s", false, true, true, true, true)
	b.clock.pass(time.Second)
	are("after 60 s", false, true, false, true, false)

	// The slow one gets less, while it is silent; the unknown profile more.
	in.set(2, edgeclaim.Profile{OfflineAfter: 60}, edgeclaim.Profile{ID: "slow", OfflineAfter: 61}, edgeclaim.Profile{ID: "unknown", OfflineAfter: 600})
	are("a new version", false, true, false, true, false)
	b.clock.pass(time.Second)
	are("after 61 s", false, false, false, true, false)
	b.clock.pass(597 * time.Second)
	are("after 658 s", false, false, false, true, false)
	b.clock.pass(time.Second)
	are("after 659 s", false, false, false, false, false)
	if lists, _ := b.Silences(); lists != 0 {
		t.Errorf("%d lists of nobody are left", lists)
	}

	// Without a word in any profile it is the box's.
	in.set(3)
	b.sayAs(0, "quick")
	b.clock.pass(119 * time.Second)
	are("the box's own", true)
	b.clock.pass(time.Second)
	are("and no longer", false)

	// A device that is of another profile now, of the same version.
	in.set(4, edgeclaim.Profile{ID: "quick", OfflineAfter: 10}, edgeclaim.Profile{ID: "slow", OfflineAfter: 3600})
	b.sayAs(0, "quick")
	b.sayAs(1, "slow")
	are("before", true, true)
	b.sayAs(0, "slow")
	b.sayAs(1, "quick")
	b.clock.pass(10 * time.Second)
	are("moved", true, false)
}

// TestThresholdModel: whatever speaks, falls silent and changes, after a look
// those are at work whose profile, as it stands, allows their silence.
func TestThresholdModel(t *testing.T) {
	const devices = 6
	rapid.Check(t, func(rt *rapid.T) {
		var in inheritance
		b := newBox(t, func(b *box) { b.parts.Inherited = in.of })
		defer b.stop()
		heard, online := [devices]time.Duration{}, [devices]bool{}
		now, version := time.Duration(0), uint64(0)
		limits := map[string]int64{}
		profile := func(n int) string { return fmt.Sprint("p", n%3) }
		limit := func(n int) time.Duration {
			for _, id := range []string{profile(n), ""} {
				if limits[id] > 0 {
					return time.Duration(limits[id]) * time.Second
				}
			}
			return b.cfg.OfflineAfter
		}
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0, 1:
				n := rapid.IntRange(0, devices-1).Draw(rt, "device")
				b.sayAs(n, profile(n))
				heard[n], online[n] = now, true
			case 2:
				d := time.Duration(rapid.IntRange(1, 100).Draw(rt, "seconds")) * time.Second
				b.clock.pass(d)
				now += d
			case 3:
				var all []edgeclaim.Profile
				for _, id := range []string{"", "p0", "p1"} {
					limits[id] = rapid.Int64Range(0, 150).Draw(rt, "limit of "+id)
					all = append(all, edgeclaim.Profile{ID: id, OfflineAfter: limits[id]})
				}
				version++
				in.set(version, all...)
			}
			if rapid.Bool().Draw(rt, "nobody looks") {
				continue
			}
			b.Sweep()
			for n := range devices {
				online[n] = online[n] && now-heard[n] < limit(n)
				if b.online(n) != online[n] {
					rt.Fatalf("device %d, silent for %v of %v, is online: %v", n, now-heard[n], limit(n), b.online(n))
				}
			}
		}
	})
}
