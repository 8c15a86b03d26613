package registry_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

// said is a greeting in short.
func said(g registry.Greeting) string {
	if g.Refused != nil {
		return string(g.Refused.Code)
	}
	text := "welcome"
	if g.Snapshot {
		text += " snapshot"
	}
	if g.Recover {
		text += " recover"
	}
	return text
}

func with(h *wire.Hello, change func(*wire.Hello)) *wire.Hello {
	change(h)
	return h
}

// told changes what a hello says of LaneProv.
func told(h *wire.Hello, first, appended uint64, check edgeclaim.Check) *wire.Hello {
	h.Lanes[edgeclaim.LaneProv] = edgeclaim.LaneMarks{First: first, Appended: appended, Check: check}
	return h
}

// TestGreet follows one box through its lives; the steps build on each other.
func TestGreet(t *testing.T) {
	ctx := context.Background()
	each(t, func(t *testing.T, open opener) {
		db := open(t, "greet", registry.Config{})
		expect := func(step string, h *wire.Hello, want string) registry.Greeting {
			t.Helper()
			g := greet(t, db, h)
			if said(g) != want {
				t.Errorf("%s: %s, want %s", step, said(g), want)
			}
			return g
		}
		none := edgeclaim.Check{}
		expect("a new box", hello(box, 1, 5), "welcome")
		apply(t, db, prov(t, box, 1, 3, noise(1), provisioned(t, 2, 2, 1), provisioned(t, 3, 3, 1)))
		g := expect("the same again", told(hello(box, 1, 5), 4, 5, none), "welcome")
		check := g.Resume[edgeclaim.LaneProv].Check
		if diff := cmp.Diff(wire.Resume{Upto: 3, Check: check}, g.Resume[edgeclaim.LaneProv]); diff != "" || check.Sequence != 3 || g.Held != 2 {
			t.Errorf("resume, held %d (-want +got):\n%s", g.Held, diff)
		}
		expect("its check agrees", told(hello(box, 1, 5), 4, 5, check), "welcome")
		expect("evt has dropped", with(hello(box, 1, 5), func(h *wire.Hello) {
			h.Lanes[edgeclaim.LaneEvt] = edgeclaim.LaneMarks{First: 50, Appended: 60}
		}), "welcome")

		expect("we are behind what it forgot", told(hello(box, 1, 9), 6, 9, none), "welcome snapshot")
		expect("still wanted", hello(box, 1, 9), "welcome snapshot")
		r := apply(t, db, pageOf(box, "s1", 1, false, row(t, 4, 1)), pageOf(box, "s1", 3, true), pageOf(box, "s2", 2, true), pageOf(box, "s1", 1, false))
		for i, want := range []wire.SnapshotAck{{ID: "s1", Upto: 1}, {ID: "s1", Upto: 1}, {ID: "s2"}, {ID: "s1", Upto: 1}} {
			if r[i].Snapshot == nil || *r[i].Snapshot != want {
				t.Errorf("page %d: %+v, want %+v", i, r[i].Snapshot, want)
			}
		}
		expect("half told", hello(box, 1, 9), "welcome snapshot")
		apply(t, db, pageOf(box, "s1", 2, true, row(t, 5, 1)))
		if g := expect("told", hello(box, 1, 9), "welcome"); g.Held != 4 {
			t.Errorf("held %d, want 4", g.Held)
		}
		expect("we are behind what it knows", told(hello(box, 1, 9), 4, 9, edgeclaim.Check{Sequence: 5, Hash: "x"}), "welcome snapshot")
		apply(t, db, pageOf(box, "s3", 1, true))

		expect("fewer appended than applied", hello(box, 1, 2), "stale_epoch")
		expect("another record under the check", told(hello(box, 1, 5), 4, 5, edgeclaim.Check{Sequence: 3, Hash: "other"}), "stale_epoch")
		renewed := func(life int, previous string) *wire.Hello {
			return with(hello(box, life, 1), func(h *wire.Hello) { h.Previous = previous })
		}
		if g := expect("a new life after that", renewed(2, epoch(box, 1)), "welcome snapshot recover"); g.Resume[edgeclaim.LaneProv].Upto != 0 {
			t.Errorf("resume %+v of a new epoch", g.Resume)
		}
		if err := db.Recovered(ctx, box, epoch(box, 1)); err != nil {
			t.Fatal(err)
		}
		expect("another epoch has recovered", renewed(2, epoch(box, 1)), "welcome snapshot recover")
		if err := db.Recovered(ctx, box, epoch(box, 2)); err != nil {
			t.Fatal(err)
		}
		expect("recovered", renewed(2, epoch(box, 1)), "welcome snapshot")

		expect("the life before", hello(box, 1, 9), "fenced")
		expect("and again", hello(box, 1, 9), "fenced")
		if got := apply(t, db, prov(t, box, 4, 4, noise(4)))[0]; got.Refused == nil || got.Refused.Code != wire.RefusedFenced {
			t.Errorf("a batch of the life before: %+v", got)
		}
		if got := apply(t, db, pageOf(box, "s1", 3, true))[0]; got.Refused == nil || got.Refused.Code != wire.RefusedFenced {
			t.Errorf("a page of the life before: %+v", got)
		}
		cloned := conflicts(t, db, registry.ConflictFilter{Open: true})
		if len(cloned) != 1 || cloned[0].Kind != registry.KindCloned || !cmp.Equal(cloned[0].Boxes, []string{box}) {
			t.Errorf("conflicts: %+v", cloned)
		}
		expect("an operator renewed it", renewed(3, epoch(box, 1)), "welcome snapshot recover")
		if left := conflicts(t, db, registry.ConflictFilter{Open: true}); len(left) != 0 {
			t.Errorf("still open: %+v", left)
		}
		expect("now the other is fenced", renewed(2, epoch(box, 1)), "fenced")
		expect("an empty box of that name", with(hello(box, 4, 0), func(*wire.Hello) {}), "welcome recover")

		expect("it renews by itself", renewed(5, epoch(box, 4)), "welcome snapshot")
		expect("a box that has told another", with(hello("box-2", 2, 5), func(h *wire.Hello) { h.Previous = epoch("box-2", 1) }), "welcome snapshot")
		expect("a box that has forgotten", told(hello("box-3", 1, 5), 4, 5, none), "welcome snapshot")

		// One that never said hello here is no new one when another took its place.
		expect("its life before, told late", hello("box-2", 1, 5), "fenced")
		expect("and again", hello("box-2", 1, 5), "fenced")
		expect("the holder is the holder", with(hello("box-2", 2, 5), func(h *wire.Hello) { h.Previous = epoch("box-2", 1) }), "welcome snapshot")
		fenced, err := db.Boxes(ctx, registry.BoxFilter{Box: "box-2"})
		if err != nil || len(fenced) != 1 || !fenced[0].Fenced {
			t.Errorf("%+v, %v, want it to be shown as fenced", fenced, err)
		}
		expect("an operator renewed that", with(hello("box-2", 3, 5), func(h *wire.Hello) { h.Previous = epoch("box-2", 1) }), "welcome snapshot")
		if left := conflicts(t, db, registry.ConflictFilter{Open: true}); len(left) != 1 || left[0].Boxes[0] != box {
			t.Errorf("open: %+v", left)
		}
	})
}

// TestLaneOfALaterVersion: a mark that a later program left is passed over.
func TestLaneOfALaterVersion(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		db := open(t, "later", registry.Config{})
		greet(t, db, hello(box, 1, 5))
		_, err := raw(t, db).Exec(`INSERT INTO marks (epoch, lane, upto, appended, check_sequence, check_hash, pruned)
			SELECT number, 9, 7, 7, 0, '', 0 FROM epochs`)
		if err != nil {
			t.Fatal(err)
		}
		if g := greet(t, db, hello(box, 1, 5)); said(g) != "welcome" {
			t.Error(said(g))
		}
	})
}

// TestHeld takes a box's devices back a page at a time, as the box told them.
func TestHeld(t *testing.T) {
	ctx := context.Background()
	each(t, func(t *testing.T, open opener) {
		db := open(t, "held", registry.Config{})
		greet(t, db, hello(box, 1, 100))
		greet(t, db, hello("box-2", 1, 100))
		want := map[edgeclaim.DeviceID]edgeclaim.Device{}
		var rows []edgeclaim.Device
		for n := range 25 {
			d := row(t, n, 1)
			if n == 7 {
				d.Status, d.Generation, d.Groups = edgeclaim.DeviceReleased, 3, nil
			}
			want[d.ID], rows = d, append(rows, d)
		}
		apply(t, db, pageOf(box, "s1", 1, true, rows...), pageOf("box-2", "s1", 1, true, row(t, 99, 1)), prov(t, box, 1, 1, released(t, 1, 50)))
		var after edgeclaim.DeviceID
		for more := true; more; {
			var page []edgeclaim.Device
			var err error
			if page, more, err = db.Held(ctx, box, after, 10); err != nil {
				t.Fatal(err)
			}
			for _, d := range page {
				if diff := cmp.Diff(describe(t, want[d.ID]), describe(t, d)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				delete(want, d.ID)
				after = d.ID
			}
		}
		if len(want) != 0 {
			t.Errorf("%d never came", len(want))
		}
	})
}

// describe is a device as it goes over the wire.
func describe(t testing.TB, d edgeclaim.Device) string {
	t.Helper()
	text, err := wire.Encode(&d)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestStatesAndLists(t *testing.T) {
	ctx := context.Background()
	each(t, func(t *testing.T, open opener) {
		db := open(t, "lists", registry.Config{})
		greet(t, db, hello("box-a", 1, 10))
		greet(t, db, hello("box-b", 1, 0))
		apply(t, db, prov(t, "box-a", 1, 2, provisioned(t, 1, 1, 1), provisioned(t, 2, 2, 1)))
		err := db.SetStates(ctx, []registry.BoxState{
			{Names: names("box-a"), Epoch: epoch("box-a", 9), At: now}, // of another life
			{Names: names("box-b"), Epoch: epoch("box-b", 1), At: now.Add(time.Second)},
			{Names: names("box-z"), Online: true, At: now},
		})
		if err != nil {
			t.Fatal(err)
		}
		boxes, err := db.Boxes(ctx, registry.BoxFilter{})
		if err != nil || len(boxes) != 2 {
			t.Fatalf("%+v, %v", boxes, err)
		}
		if a, b := boxes[0], boxes[1]; !a.Online || a.Fenced || b.Fenced || b.Online || a.Held != 2 || !b.LastSeen.Equal(now.Add(time.Second)) ||
			a.Lanes[edgeclaim.LaneProv] != (registry.LaneState{Upto: 2, Appended: 10, Lag: 8}) || a.Epoch != epoch("box-a", 1) {
			t.Errorf("%+v", boxes)
		}
		if after, err := db.Boxes(ctx, registry.BoxFilter{After: "box-a", Site: site}); err != nil || len(after) != 1 {
			t.Errorf("%+v, %v", after, err)
		}
		sites, err := db.Sites(ctx, "", 0)
		want := []registry.Site{{Site: site, Boxes: 2, Online: 1, Held: 2, LastSeen: now.Add(time.Second)}}
		if diff := cmp.Diff(want, sites); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		for _, tc := range []struct {
			filter registry.DeviceFilter
			want   int
		}{
			{registry.DeviceFilter{}, 2},
			{registry.DeviceFilter{Limit: 1}, 1},
			{registry.DeviceFilter{Device: deviceID(t, 2)}, 1},
			{registry.DeviceFilter{Hardware: "board-2", Tenant: tenant(t, tenantID)}, 1},
			{registry.DeviceFilter{Tenant: tenant(t, otherID)}, 0},
			{registry.DeviceFilter{Box: "box-a"}, 2},
			{registry.DeviceFilter{Box: "box-b"}, 0},
			{registry.DeviceFilter{Site: site}, 2},
			{registry.DeviceFilter{Site: site, Box: "box-a", Limit: 1}, 1},
			{registry.DeviceFilter{Site: "plant-8"}, 0},
		} {
			devices, err := db.Devices(ctx, tc.filter)
			if err != nil || len(devices) != tc.want {
				t.Errorf("%+v: %+v, %v", tc.filter, devices, err)
			}
			for _, d := range devices {
				if len(d.Holdings) != 1 || d.Holdings[0].Box != "box-a" || !d.Holdings[0].Valid {
					t.Errorf("%+v", d)
				}
			}
		}
	})
}

func TestTenantsAndPrune(t *testing.T) {
	ctx := context.Background()
	each(t, func(t *testing.T, open opener) {
		db := open(t, "tenants", registry.Config{Tenants: []edgeclaim.TenantID{tenant(t, otherID)}})
		greet(t, db, hello(box, 1, 10))
		got := apply(t, db, prov(t, box, 1, 2, noise(1), provisioned(t, 2, 2, 1)))[0]
		want := registry.Result{Upto: 1, Applied: 1, Nack: &wire.Nack{
			Lane: edgeclaim.LaneProv, Sequence: 2, Code: wire.NackPermanent, Reason: "tenant_id: not served here",
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		foreign := row(t, 3, 1)
		foreign.Tenant = tenant(t, otherID)
		page := apply(t, db, pageOf(box, "s1", 1, true, row(t, 2, 1), foreign))[0]
		if diff := cmp.Diff(registry.Result{Snapshot: &wire.SnapshotAck{ID: "s1", Upto: 1}, Applied: 1, Skipped: 1}, page); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		apply(t, db, batch(t, box, 1, edgeclaim.LaneEvt, 1, 3, noise(1), noise(2), noise(3)))
		for _, tc := range []struct {
			plus time.Duration
			want int64
		}{{-time.Second, 0}, {time.Second, 3}, {time.Second, 0}} {
			if n, err := db.Prune(ctx, now.Add(tc.plus)); err != nil || n != tc.want {
				t.Errorf("pruned %d, want %d: %v", n, tc.want, err)
			}
		}
		if h := heldOf(t, db, box, 2); h.Upto != 3 || len(h.Records) != 0 {
			t.Errorf("%+v after pruning", h)
		}
		if h := heldOf(t, db, box, 1); len(h.Records) != 1 {
			t.Errorf("pruning took %+v", h)
		}
	})
}
