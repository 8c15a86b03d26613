package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

func commandID(t testing.TB, text string) edgeclaim.CommandID {
	t.Helper()
	id, err := edgeclaim.ParseCommandID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// order is a command for device n, worth something for an hour.
func order(t testing.TB, n int, id string) edgeclaim.Order {
	t.Helper()
	o := edgeclaim.Order{Device: deviceID(t, n), Payload: json.RawMessage(`{ "n": ` + fmt.Sprint(n) + ` }`), ExpiresAt: now.Add(time.Hour), By: "uid:0"}
	if id != "" {
		o.ID = commandID(t, id)
	}
	return o
}

// status is a box's word on a command of device n.
func status(t testing.TB, sequence uint64, n int, id string, s edgeclaim.CommandStatus, more string) line {
	t.Helper()
	device := deviceID(t, n)
	return line{sequence, edgeclaim.TypeCommandStatus, device, fmt.Sprintf(`{"command_id":%q,"device_id":%q,"tenant_id":%q,"status":%q,`+
		`"at":"2026-10-04T09:13:00Z","origin":"upstream","expires_at":"2026-10-04T10:12:33Z","attempts":1%s}`, id, device, tenantID, s, more)}
}

// due is what waits, in short.
func due(t testing.TB, db *registry.DB) []string {
	t.Helper()
	page, err := db.CommandsDue(context.Background(), 0)
	if err != nil || page.More {
		t.Fatalf("%+v, %v", page, err)
	}
	var list []string
	for _, d := range page.Due {
		text := d.Name.ID.String() + " to " + d.Box.Box
		if d.Cancel {
			text = "cancel " + text
		}
		list = append(list, text)
	}
	return list
}

// tell says that all that waits is told now.
func tell(t testing.TB, db *registry.DB) []string {
	t.Helper()
	page, err := db.CommandsDue(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	orders, err := db.TellCommands(context.Background(), page.Due)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, o := range orders {
		list = append(list, fmt.Sprintf("%s %s %v", o.ID, o.Payload, o.ExpiresAt.Equal(now.Add(time.Hour))))
	}
	slices.Sort(list)
	return list
}

// become is what became of a command.
func become(t testing.TB, db *registry.DB, n int, id string) string {
	t.Helper()
	c, err := db.Command(context.Background(), deviceID(t, n), commandID(t, id))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(c.Status) + " " + c.Reason + string(c.Result))
}

// TestCommands follows commands from the hub to a box and back.
func TestCommands(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		ctx := t.Context()
		db := open(t, "commands", registry.Config{})
		greet(t, db, hello(box, 1, 100))
		apply(t, db, prov(t, box, 1, 4, provisioned(t, 1, 1, 1), provisioned(t, 2, 2, 1), provisioned(t, 3, 3, 1), released(t, 4, 3)))
		for name, tc := range map[string]struct {
			change func(*edgeclaim.Order)
			want   error
		}{
			"an unknown device":  {func(o *edgeclaim.Order) { o.Device = deviceID(t, 9) }, edgeclaim.ErrNotFound},
			"a released one":     {func(o *edgeclaim.Order) { o.Device = deviceID(t, 3) }, edgeclaim.ErrConflict},
			"no JSON":            {func(o *edgeclaim.Order) { o.Payload = json.RawMessage(`{`) }, edgeclaim.ErrInvalid},
			"nothing":            {func(o *edgeclaim.Order) { o.Payload = nil }, edgeclaim.ErrInvalid},
			"too large":          {func(o *edgeclaim.Order) { o.Payload = json.RawMessage(`"` + strings.Repeat("x", 16<<10) + `"`) }, edgeclaim.ErrInvalid},
			"worth nothing":      {func(o *edgeclaim.Order) { o.ExpiresAt = now }, edgeclaim.ErrInvalid},
			"worth nothing ever": {func(o *edgeclaim.Order) { o.ExpiresAt = time.Time{} }, edgeclaim.ErrInvalid},
		} {
			o := order(t, 1, "c-0")
			tc.change(&o)
			if _, err := db.GiveCommand(ctx, o); !errors.Is(err, tc.want) {
				t.Errorf("%s: %v, want %v", name, err, tc.want)
			}
		}
		made, err := db.GiveCommand(ctx, order(t, 1, ""))
		if err != nil || len(made.ID.String()) != 26 || string(made.Payload) != `{"n":1}` || made.Status != registry.CommandPending || made.By != "uid:0" {
			t.Fatalf("%+v, %v", made, err)
		}
		if _, err := db.CancelCommand(ctx, made.Device, made.ID, "uid:0"); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"c-1", "c-2", "c-1"} { // once more, and it is one
			if _, err := db.GiveCommand(ctx, order(t, 1, id)); err != nil {
				t.Fatal(err)
			}
		}
		other := order(t, 1, "c-1")
		other.Payload = json.RawMessage(`2`)
		if _, err := db.GiveCommand(ctx, other); !errors.Is(err, edgeclaim.ErrConflict) {
			t.Errorf("another command of the id: %v", err)
		}
		if _, err := db.GiveCommand(ctx, order(t, 2, "c-1")); err != nil { // another device's
			t.Error(err)
		}
		want := []string{"c-1 to box-1", "c-2 to box-1", "c-1 to box-1"}
		if diff := cmp.Diff(want, due(t, db)); diff != "" {
			t.Errorf("due (-want +got):\n%s", diff)
		}
		for range 2 { // told again, as long as nobody answers
			if diff := cmp.Diff([]string{`c-1 {"n":1} true`, `c-1 {"n":2} true`, `c-2 {"n":1} true`}, tell(t, db)); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
		}
		apply(t, db, batch(t, box, 1, edgeclaim.LaneEvt, 1, 4,
			status(t, 1, 1, "c-1", edgeclaim.CommandQueued, ""), status(t, 2, 1, "c-1", edgeclaim.CommandSent, ""),
			status(t, 3, 1, "c-1", edgeclaim.CommandSuccessful, `,"result":{"a":1}`), status(t, 4, 1, "local", edgeclaim.CommandQueued, `,"by":"plc"`)))
		if _, err := db.CancelCommand(ctx, deviceID(t, 1), commandID(t, "c-2"), "uid:0"); err != nil { // it was told
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"cancel c-2 to box-1", "c-1 to box-1"}, due(t, db)); diff != "" {
			t.Errorf("due (-want +got):\n%s", diff)
		}
		if got := tell(t, db); !cmp.Equal(got, []string{`c-1 {"n":2} true`}) {
			t.Errorf("told %v: a cancelled one must not be", got)
		}
		apply(t, db, batch(t, box, 1, edgeclaim.LaneEvt, 5, 6,
			status(t, 5, 1, "c-2", edgeclaim.CommandQueued, ""), status(t, 6, 2, "c-1", edgeclaim.CommandFailed, `,"reason":"too_many"`)))
		if diff := cmp.Diff([]string{"cancel c-2 to box-1"}, due(t, db)); diff != "" {
			t.Errorf("a cancel is over with the end alone (-want +got):\n%s", diff)
		}
		apply(t, db, batch(t, box, 1, edgeclaim.LaneEvt, 7, 7, status(t, 7, 1, "c-2", edgeclaim.CommandCancelled, "")))
		got := []string{
			become(t, db, 1, made.ID.String()), become(t, db, 1, "c-1"), become(t, db, 1, "c-2"), become(t, db, 2, "c-1"), become(t, db, 1, "local"),
		}
		if diff := cmp.Diff([]string{"cancelled", `successful {"a":1}`, "cancelled", "failed too_many", "queued"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if left := due(t, db); left != nil {
			t.Errorf("%v is due", left)
		}
		local, err := db.Command(ctx, deviceID(t, 1), commandID(t, "local"))
		if err != nil || local.Box != box || local.By != "plc" || local.Payload != nil || !local.SentAt.IsZero() {
			t.Errorf("%+v, %v", local, err)
		}
		if _, err := db.CancelCommand(ctx, deviceID(t, 1), commandID(t, "c-9"), ""); !errors.Is(err, edgeclaim.ErrNotFound) {
			t.Error(err)
		}
		list, err := db.Commands(ctx, registry.CommandFilter{Device: deviceID(t, 1), Status: edgeclaim.CommandCancelled})
		if err != nil || len(list) != 2 || list[0].ID != made.ID || list[1].CancelledBy != "uid:0" {
			t.Errorf("%+v, %v", list, err)
		}
		if n, err := db.Prune(ctx, now.Add(time.Second)); err != nil || n != 7+4 || become(t, db, 1, "local") != "queued" {
			t.Errorf("%d pruned, %v", n, err)
		}
		// Its box says no more of it: what is over goes all the same.
		if n, err := db.Prune(ctx, now.Add(2*time.Hour)); err != nil || n != 1 || become(t, db, 1, "local") == "queued" {
			t.Errorf("%d pruned, %v", n, err)
		}
	})
}

// TestCommandStatuses: a status only goes forward, but the device's own word
// counts after it was given up.
func TestCommandStatuses(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		db := open(t, "statuses", registry.Config{})
		greet(t, db, hello(box, 1, 100))
		apply(t, db, prov(t, box, 1, 1, provisioned(t, 1, 1, 1)))
		next := uint64(1)
		for _, tc := range []struct {
			said string
			want string
		}{
			{"queued sent delivered successful", "successful"},
			{"sent queued", "sent"},
			{"delivered sent", "delivered"},
			{"expired queued sent delivered", "expired"},
			{"expired successful failed", "successful"},
			{"expired failed", "failed"},
			{"cancelled queued sent delivered expired", "cancelled"},
			{"cancelled successful failed", "successful"},
			{"sent cancelled failed successful cancelled", "failed"},
			{"failed expired", "failed"},
			{"queued a_later_one", "queued"},
			{"successful expired cancelled", "successful"},
		} {
			id := fmt.Sprintf("c-%d", next)
			for _, s := range strings.Fields(tc.said) {
				r := apply(t, db, batch(t, box, 1, edgeclaim.LaneEvt, next, next, status(t, next, 1, id, edgeclaim.CommandStatus(s), "")))[0]
				if r.Applied != 1 {
					t.Errorf("%s: %+v", tc.said, r)
				}
				next++
			}
			if got := become(t, db, 1, id); got != tc.want {
				t.Errorf("%s is %s, want %s", tc.said, got, tc.want)
			}
		}
		for member, bad := range map[string]line{
			"command_id: missing": status(t, next, 1, "", edgeclaim.CommandSent, ""),
			"status: missing":     status(t, next, 1, "c", "", ""),
			"subject: not the device of the data": {next, edgeclaim.TypeCommandStatus, deviceID(t, 2),
				status(t, next, 1, "c", edgeclaim.CommandSent, "").data},
			"command_id: not what it should be": status(t, next, 1, "a b", edgeclaim.CommandSent, ""),
		} {
			r := apply(t, db, batch(t, box, 1, edgeclaim.LaneEvt, next, next, bad))[0]
			if r.Nack == nil || r.Nack.Code != wire.NackPermanent || r.Nack.Reason != member && member != "command_id: missing" {
				t.Errorf("%s: %+v %+v", member, r, r.Nack)
			}
		}
	})
}

// TestCommandsGoToTheHolder: to the box that says that the device is online, else
// to the one that told of it last; a cancel to the one that was told.
func TestCommandsGoToTheHolder(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		db := open(t, "holder", registry.Config{})
		for _, name := range []string{"box-1", "box-2", "box-3"} {
			greet(t, db, hello(name, 1, 100))
			apply(t, db, prov(t, name, 1, 1, provisioned(t, 1, 1, 1)))
		}
		apply(t, db, prov(t, "box-3", 2, 2, released(t, 2, 1)))
		if _, err := db.GiveCommand(t.Context(), order(t, 1, "c")); err != nil {
			t.Fatal(err)
		}
		expect := func(step, want string) {
			t.Helper()
			if got := due(t, db); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %v, want %s", step, got, want)
			}
		}
		expect("the newest", "c to box-2")
		apply(t, db, states("box-1", "a", 1, true, wire.DeviceState{DeviceState: stateOf(t, 1, true, 1)}))
		expect("online", "c to box-1")
		tell(t, db)
		apply(t, db, states("box-1", "a", 2, false, wire.DeviceState{DeviceState: stateOf(t, 1, false, 1)}))
		expect("no answer, and gone", "c to box-2")
		apply(t, db, states("box-1", "a", 3, false, wire.DeviceState{DeviceState: stateOf(t, 1, true, 1)}))
		tell(t, db)
		apply(t, db, states("box-1", "a", 4, false, wire.DeviceState{DeviceState: stateOf(t, 1, false, 1)}))
		if _, err := db.CancelCommand(t.Context(), deviceID(t, 1), commandID(t, "c"), "x"); err != nil {
			t.Fatal(err)
		}
		expect("taken back", "cancel c to box-1")
		for _, name := range []string{"box-1", "box-2"} {
			apply(t, db, prov(t, name, 2, 2, released(t, 2, 1)))
		}
		expect("taken back, and released", "cancel c to box-1")
	})
}

// TestCommandsModel gives, tells, cancels and answers in any order: a command
// goes to its box as long as nobody said a word of it, and never after.
func TestCommandsModel(t *testing.T) {
	if testing.Short() {
		t.Skip("many rounds")
	}
	each(t, func(t *testing.T, open opener) {
		rapid.Check(t, func(r *rapid.T) {
			quiet := &keeper{TB: t}
			defer quiet.end()
			db := open(quiet, "model", registry.Config{})
			empty(quiet, db)
			greet(quiet, db, hello(box, 1, 1000))
			apply(quiet, db, prov(quiet, box, 1, 1, provisioned(quiet, 1, 1, 1)))
			type row struct {
				status edgeclaim.CommandStatus
				told   bool
				waits  string // "", "order" or "cancel"
			}
			ids := []string{"a", "b", "c"}
			model := map[string]*row{}
			statuses := []edgeclaim.CommandStatus{
				edgeclaim.CommandQueued, edgeclaim.CommandSent, edgeclaim.CommandDelivered,
				edgeclaim.CommandSuccessful, edgeclaim.CommandFailed, edgeclaim.CommandExpired, edgeclaim.CommandCancelled,
			}
			for sequence, n := uint64(1), rapid.IntRange(1, 14).Draw(r, "steps"); n > 0; n-- {
				id := rapid.SampledFrom(ids).Draw(r, "id")
				c := model[id]
				switch rapid.IntRange(0, 3).Draw(r, "step") {
				case 0:
					if _, err := db.GiveCommand(context.Background(), order(quiet, 1, id)); err != nil {
						r.Fatal(err)
					}
					if c == nil {
						model[id] = &row{status: registry.CommandPending, waits: "order"}
					}
				case 1:
					tell(quiet, db)
					for _, c := range model {
						c.told = c.told || c.waits == "order"
					}
				case 2:
					_, err := db.CancelCommand(context.Background(), deviceID(quiet, 1), commandID(quiet, id), "x")
					switch {
					case (c == nil) != errors.Is(err, edgeclaim.ErrNotFound):
						r.Fatal(err)
					case c == nil || c.status.Final():
					case !c.told:
						c.status, c.waits = edgeclaim.CommandCancelled, ""
					default:
						c.waits = "cancel"
					}
				case 3:
					if c == nil || !c.told {
						continue // the box does not know it
					}
					said := rapid.SampledFrom(statuses).Draw(r, "status")
					apply(quiet, db, batch(quiet, box, 1, edgeclaim.LaneEvt, sequence, sequence, status(quiet, sequence, 1, id, said, "")))
					sequence++
					place := func(s edgeclaim.CommandStatus) int { return min(slices.Index(statuses, s), 3) }
					late := (c.status == edgeclaim.CommandExpired || c.status == edgeclaim.CommandCancelled) &&
						(said == edgeclaim.CommandSuccessful || said == edgeclaim.CommandFailed)
					if place(said) <= place(c.status) && !late {
						continue
					}
					if c.status = said; said.Final() || c.waits == "order" {
						c.waits = ""
					}
				}
			}
			var want []string
			for _, id := range ids {
				c := model[id]
				if c == nil {
					continue
				}
				if got := become(quiet, db, 1, id); got != string(c.status) {
					r.Fatalf("%s is %s, want %s", id, got, c.status)
				}
				switch c.waits {
				case "order":
					want = append(want, id+" to box-1")
				case "cancel":
					want = append(want, "cancel "+id+" to box-1")
				}
			}
			got := due(quiet, db)
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				r.Fatalf("due (-want +got):\n%s", diff)
			}
		})
	})
}
