package registry_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
)

// TestOthersCommands: a box that has nothing to do with a device says nothing of
// its commands.
func TestOthersCommands(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		db := open(t, "others", registry.Config{})
		for _, name := range []string{"box-1", "box-2", "box-3"} {
			greet(t, db, hello(name, 1, 100))
		}
		apply(t, db, prov(t, "box-1", 1, 1, provisioned(t, 1, 1, 1)))
		if _, err := db.GiveCommand(t.Context(), order(t, 1, "c")); err != nil {
			t.Fatal(err)
		}
		says := func(box string, sequence uint64, id string, s edgeclaim.CommandStatus) {
			t.Helper()
			if r := apply(t, db, batch(t, box, 1, edgeclaim.LaneEvt, sequence, sequence, status(t, sequence, 1, id, s, "")))[0]; r.Applied != 1 {
				t.Fatalf("%+v", r)
			}
		}
		says("box-2", 1, "c", edgeclaim.CommandSuccessful)
		if got := due(t, db); become(t, db, 1, "c") != "pending" || !cmp.Equal(got, []string{"c to box-1"}) {
			t.Errorf("%s, due %v", become(t, db, 1, "c"), got)
		}
		tell(t, db)
		says("box-2", 2, "c", edgeclaim.CommandFailed)
		says("box-1", 1, "c", edgeclaim.CommandQueued)
		says("box-2", 3, "c", edgeclaim.CommandExpired)
		if got := become(t, db, 1, "c"); got != "queued" {
			t.Error(got)
		}
		// A box that holds the device too may have been told before.
		apply(t, db, prov(t, "box-3", 1, 1, provisioned(t, 1, 1, 1)))
		says("box-3", 1, "c", edgeclaim.CommandSuccessful)
		if got := become(t, db, 1, "c"); got != "successful" {
			t.Error(got)
		}
	})
}

// TestCommandsExpire: what no box said a word of is over at its time; should one
// have it after all, its word counts.
func TestCommandsExpire(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		db := open(t, "expire", registry.Config{})
		greet(t, db, hello(box, 1, 100))
		apply(t, db, prov(t, box, 1, 1, provisioned(t, 1, 1, 1)))
		for _, id := range []string{"told", "never", "back", "queued"} {
			if _, err := db.GiveCommand(t.Context(), order(t, 1, id)); err != nil {
				t.Fatal(err)
			}
		}
		tell(t, db)
		apply(t, db, batch(t, box, 1, edgeclaim.LaneEvt, 1, 1, status(t, 1, 1, "queued", edgeclaim.CommandQueued, "")))
		for _, id := range []string{"back", "queued"} {
			if _, err := db.CancelCommand(t.Context(), deviceID(t, 1), commandID(t, id), "x"); err != nil {
				t.Fatal(err)
			}
		}
		look := raw(t, db)
		defer look.Close()
		if _, err := look.Exec(fmt.Sprintf("UPDATE commands SET expires_at = %d WHERE id <> 'never'", now.UnixMicro())); err != nil {
			t.Fatal(err)
		}
		page, err := db.CommandsDue(t.Context(), 0)
		if err != nil || !page.Expired || len(page.Due) != 1 || page.Due[0].Name.ID.String() != "never" {
			t.Errorf("%+v, %v", page, err)
		}
		if err := db.ExpireCommands(t.Context()); err != nil {
			t.Fatal(err)
		}
		if page, err := db.CommandsDue(t.Context(), 0); err != nil || page.Expired || len(page.Due) != 1 {
			t.Errorf("%+v, %v", page, err)
		}
		got := []string{become(t, db, 1, "told"), become(t, db, 1, "never"), become(t, db, 1, "back"), become(t, db, 1, "queued")}
		if diff := cmp.Diff([]string{"expired not_taken", "pending", "cancelled not_taken", "queued"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		// A box that was away, and had them after all.
		for i, tc := range []struct {
			id, more, want string
			said           edgeclaim.CommandStatus
		}{
			{"told", "", "expired not_taken", edgeclaim.CommandQueued},
			{"told", `,"reason":"no_answer"`, "expired no_answer", edgeclaim.CommandExpired},
			{"told", "", "successful", edgeclaim.CommandSuccessful},
			{"back", "", "cancelled not_taken", edgeclaim.CommandDelivered},
			{"back", `,"reason":"upstream"`, "cancelled upstream", edgeclaim.CommandCancelled},
			{"back", "", "failed", edgeclaim.CommandFailed},
			{"back", "", "failed", edgeclaim.CommandSuccessful},
		} {
			next := uint64(i) + 2
			apply(t, db, batch(t, box, 1, edgeclaim.LaneEvt, next, next, status(t, next, 1, tc.id, tc.said, tc.more)))
			if got := become(t, db, 1, tc.id); got != tc.want {
				t.Errorf("the box says %s of %s: %s, want %s", tc.said, tc.id, got, tc.want)
			}
		}
	})
}

// TestTellAfterCancel: a command that is taken back between the look at what is
// due and the telling is not told, the first time or again.
func TestTellAfterCancel(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		db := open(t, "race", registry.Config{})
		greet(t, db, hello(box, 1, 100))
		apply(t, db, prov(t, box, 1, 1, provisioned(t, 1, 1, 1)))
		for _, toldBefore := range []bool{false, true} {
			id := fmt.Sprintf("c-%v", toldBefore)
			if _, err := db.GiveCommand(t.Context(), order(t, 1, id)); err != nil {
				t.Fatal(err)
			}
			if toldBefore {
				tell(t, db)
			}
			page, err := db.CommandsDue(t.Context(), 0)
			if err != nil || len(page.Due) != 1 {
				t.Fatalf("%+v, %v", page, err)
			}
			if _, err := db.CancelCommand(t.Context(), deviceID(t, 1), commandID(t, id), "x"); err != nil {
				t.Fatal(err)
			}
			if orders, err := db.TellCommands(t.Context(), page.Due); err != nil || len(orders) != 0 {
				t.Errorf("told before %v: %v, %v", toldBefore, orders, err)
			}
		}
	})
}
