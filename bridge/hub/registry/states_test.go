package registry_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

// stateOf is device n's, since so many seconds after now.
func stateOf(t testing.TB, n int, online bool, seconds int) edgeclaim.DeviceState {
	t.Helper()
	s := edgeclaim.DeviceState{
		Device: deviceID(t, n), Tenant: tenant(t, tenantID), Presence: edgeclaim.PresenceOffline, Since: now.Add(time.Duration(seconds) * time.Second),
	}
	if online {
		s.Presence, s.Seen = edgeclaim.PresenceOnline, s.Since
	}
	return s
}

// ahead is a state that carries the telemetry of a sequence.
func ahead(t testing.TB, box string, s edgeclaim.DeviceState, sequence uint64, n int) wire.DeviceState {
	t.Helper()
	item := batch(t, box, 1, edgeclaim.LaneTel, sequence, sequence, point(t, sequence, n))
	return wire.DeviceState{DeviceState: s, Telemetry: item.Batch.Events[0]}
}

// states is a box's message, in the session of a nonce.
func states(box, nonce string, upto uint64, reset bool, devices ...wire.DeviceState) registry.Item {
	return registry.Item{Names: names(box), States: &wire.States{
		Type: wire.TypeState, Box: box, Epoch: epoch(box, 1), Nonce: "nonce-of-a-session-" + nonce, Reset: reset, Upto: upto, Devices: devices,
	}}
}

// presenceOf is what the one box that holds device n says of it.
func presenceOf(t testing.TB, db *registry.DB, n int) registry.Holding {
	t.Helper()
	found, err := db.Devices(context.Background(), registry.DeviceFilter{Device: deviceID(t, n)})
	if err != nil || len(found) != 1 || len(found[0].Holdings) != 1 {
		t.Fatalf("device %d: %+v, %v", n, found, err)
	}
	return found[0].Holdings[0]
}

// shown is a presence in short.
func shown(h registry.Holding) string {
	text := string(h.Presence)
	if text == "" {
		text = "unknown"
	}
	if !h.Since.IsZero() {
		text += fmt.Sprintf(" since %d", int(h.Since.Sub(now).Seconds()))
	}
	if h.Newest != nil {
		e, err := wire.DecodeEvent(h.Newest)
		if err != nil {
			return err.Error()
		}
		sequence, _ := e.Number()
		text += fmt.Sprintf(" ahead %d", sequence)
	}
	if !h.BoxOnline {
		text += " (box away)"
	}
	return text
}

// TestStates follows the states of three devices; the steps build on each other.
func TestStates(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		db := open(t, "states", registry.Config{Tenants: []edgeclaim.TenantID{tenant(t, tenantID)}})
		greet(t, db, hello(box, 1, 100))
		apply(t, db, prov(t, box, 1, 3, provisioned(t, 1, 1, 1), provisioned(t, 2, 2, 1), provisioned(t, 3, 3, 1)))
		plain := func(n int, online bool, seconds int) wire.DeviceState {
			return wire.DeviceState{DeviceState: stateOf(t, n, online, seconds)}
		}
		foreign := plain(1, true, 1)
		foreign.Tenant = tenant(t, otherID)
		strange := ahead(t, "box-2", stateOf(t, 1, true, 5), 90, 1) // of another box
		for _, step := range []struct {
			name    string
			item    registry.Item
			applied int
			skipped int
			want    [3]string
		}{
			{"nothing yet", states(box, "a", 0, true), 0, 0, [3]string{"unknown", "unknown", "unknown"}},
			{"two", states(box, "a", 2, false, plain(1, true, 1), plain(2, true, 2)), 2, 0, [3]string{"online since 1", "online since 2", "unknown"}},
			{"again", states(box, "a", 2, false, plain(1, false, 9)), 0, 0, [3]string{"online since 1", "online since 2", "unknown"}},
			{"twice in one", states(box, "a", 4, false, plain(1, false, 3), plain(1, true, 4)), 2, 0, [3]string{"online since 4", "online since 2", "unknown"}},
			{"newest ahead", states(box, "a", 5, false, ahead(t, box, stateOf(t, 1, true, 4), 50, 1)), 1, 0,
				[3]string{"online since 4 ahead 50", "online since 2", "unknown"}},
			{"an older one", states(box, "a", 6, false, ahead(t, box, stateOf(t, 1, true, 4), 40, 1), strange), 2, 0,
				[3]string{"online since 5 ahead 50", "online since 2", "unknown"}},
			{"another's telemetry", states(box, "a", 7, false, ahead(t, box, stateOf(t, 2, true, 2), 60, 1)), 1, 0,
				[3]string{"online since 5 ahead 50", "online since 2", "unknown"}},
			{"not served", states(box, "a", 8, false, foreign), 0, 1, [3]string{"online since 5 ahead 50", "online since 2", "unknown"}},
			{"the box was started anew", states(box, "b", 1, true, plain(3, true, 7)), 1, 0,
				[3]string{"offline since 0 ahead 50", "offline since 0", "online since 7"}},
			{"its reset comes late", states(box, "b", 1, true, plain(1, true, 7)), 0, 0,
				[3]string{"offline since 0 ahead 50", "offline since 0", "online since 7"}},
			{"the rest of it", states(box, "b", 2, false, plain(2, true, 2)), 1, 0,
				[3]string{"offline since 0 ahead 50", "online since 2", "online since 7"}},
		} {
			r := apply(t, db, step.item)[0]
			if r.State == nil || *r.State != step.item.States.Upto || r.Applied != step.applied || r.Skipped != step.skipped {
				t.Errorf("%s: %+v", step.name, r)
			}
			got := [3]string{shown(presenceOf(t, db, 1)), shown(presenceOf(t, db, 2)), shown(presenceOf(t, db, 3))}
			if diff := cmp.Diff(step.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", step.name, diff)
			}
		}
		if r := apply(t, db, states("box-9", "a", 1, true))[0]; r.Refused == nil || r.State != nil {
			t.Errorf("of an unknown box: %+v", r)
		}
		stranger := point(t, 51, 1)
		stranger.data = strings.ReplaceAll(stranger.data, tenantID, otherID)
		r := apply(t, db, batch(t, box, 1, edgeclaim.LaneTel, 1, 51, point(t, 50, 1), stranger))[0]
		if r.Upto != 50 || r.Nack == nil || r.Nack.Reason != "tenant_id: not served here" {
			t.Errorf("telemetry of a tenant that is not served: %+v", r)
		}
		// The lane has caught up: its records are the newest.
		if got := shown(presenceOf(t, db, 1)); got != "offline since 0" {
			t.Error(got)
		}
		if err := db.SetStates(t.Context(), []registry.BoxState{{Names: names(box), At: now}}); err != nil {
			t.Fatal(err)
		}
		if got := shown(presenceOf(t, db, 3)); got != "online since 7 (box away)" {
			t.Error(got)
		}
	})
}

// TestStatesModel tells states as a box and a network might, several in one
// transaction: each device is as it was told last in its session.
func TestStatesModel(t *testing.T) {
	if testing.Short() {
		t.Skip("many rounds")
	}
	each(t, func(t *testing.T, open opener) {
		const devices = 4
		rapid.Check(t, func(r *rapid.T) {
			quiet := &keeper{TB: t}
			defer quiet.end()
			db := open(quiet, "model", registry.Config{})
			empty(quiet, db)
			greet(quiet, db, hello(box, 1, 1000))
			var lines []line
			for n := range devices {
				lines = append(lines, provisioned(quiet, uint64(n+1), n, 1))
			}
			apply(quiet, db, prov(quiet, box, 1, devices, lines...))
			want := map[int]string{}
			session, upto, seconds := 0, uint64(0), 1
			told := []registry.Item{}
			for range rapid.IntRange(1, 10).Draw(r, "steps") {
				var items []registry.Item
				for range rapid.IntRange(1, 3).Draw(r, "items") {
					reset := session == 0 || rapid.IntRange(0, 4).Draw(r, "reset") == 0
					if reset {
						session, upto = session+1, 0
						for n, text := range want {
							if text[:2] == "on" {
								want[n] = "offline since 0"
							}
						}
					}
					var list []wire.DeviceState
					for range rapid.IntRange(1, devices).Draw(r, "devices") {
						n, online := rapid.IntRange(0, devices-1).Draw(r, "device"), rapid.Bool().Draw(r, "online")
						seconds++
						list = append(list, wire.DeviceState{DeviceState: stateOf(quiet, n, online, seconds)})
						want[n] = fmt.Sprintf("%s since %d", list[len(list)-1].Presence, seconds)
					}
					upto += uint64(len(list))
					items = append(items, states(box, fmt.Sprint(session), upto, reset, list...))
					told = append(told, items[len(items)-1])
					if rapid.IntRange(0, 2).Draw(r, "late") == 0 { // of this session: the hub lets no other pass
						late := rapid.SampledFrom(told).Draw(r, "which")
						if late.States.Nonce == told[len(told)-1].States.Nonce {
							items = append(items, late)
						}
					}
				}
				apply(quiet, db, items...)
			}
			for n, text := range want {
				if got := shown(presenceOf(quiet, db, n)); got != text {
					r.Fatalf("device %d is %s, want %s", n, got, text)
				}
			}
		})
	})
}

// TestGreetOlderBox: a box that does not know the lane of telemetry is welcome,
// also when it is an older program on a box that told some.
func TestGreetOlderBox(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		db := open(t, "older", registry.Config{})
		if g := greet(t, db, hello(box, 1, 100)); len(g.Resume) != 3 {
			t.Errorf("resume %+v", g.Resume)
		}
		apply(t, db, batch(t, box, 1, edgeclaim.LaneTel, 1, 4, point(t, 1, 1), point(t, 4, 1)))
		older := hello(box, 1, 100)
		delete(older.Lanes, edgeclaim.LaneTel)
		g := greet(t, db, older)
		if _, said := g.Resume[edgeclaim.LaneTel]; said || len(g.Resume) != 2 || g.Refused != nil {
			t.Errorf("%+v", g)
		}
		if g := greet(t, db, hello(box, 1, 100)); g.Resume[edgeclaim.LaneTel].Upto != 4 {
			t.Errorf("resume %+v", g.Resume)
		}
		if g := greet(t, db, hello(box, 1, 3)); g.Refused == nil || g.Refused.Code != wire.RefusedStale {
			t.Errorf("less telemetry than was applied: %+v", g)
		}
		boxes, err := db.Boxes(t.Context(), registry.BoxFilter{})
		if err != nil || boxes[0].Lanes[edgeclaim.LaneTel] != (registry.LaneState{Upto: 4, Appended: 100, Lag: 96}) {
			t.Errorf("%+v, %v", boxes, err)
		}
		// Telemetry belongs to its lane.
		r := apply(t, db, batch(t, box, 1, edgeclaim.LaneEvt, 1, 1, point(t, 1, 1)))[0]
		if r.Nack == nil || r.Nack.Reason != "lane: telemetry goes in tel" {
			t.Errorf("telemetry in evt: %+v", r)
		}
		if n, err := db.Prune(t.Context(), now.Add(time.Second)); n != 2 || err != nil {
			t.Errorf("%d pruned, %v", n, err)
		}
		if r := apply(t, db, batch(t, box, 1, edgeclaim.LaneTel, 1, 5, point(t, 1, 1), point(t, 4, 1), point(t, 5, 1)))[0]; r.Applied != 1 || r.Upto != 5 {
			t.Errorf("behind what was pruned: %+v", r)
		}
	})
}
