package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/store"
)

// order is a command as the rule queues it, for the n-th board.
func order(tb testing.TB, n int, id string) edgeclaim.Command {
	tb.Helper()
	return edgeclaim.Command{
		ID: must(edgeclaim.ParseCommandID(id))(tb), Device: deviceID(tb, n), Tenant: tenant(tb), Payload: json.RawMessage(`{"relay":"on"}`),
		Origin: edgeclaim.OriginOperator, By: "uid:0", Status: edgeclaim.CommandQueued,
		QueuedAt: moment, ExpiresAt: moment.Add(time.Hour), ChangedAt: moment,
	}
}

// status is the record of a command's status.
func status(c *edgeclaim.Command) *edgeclaim.Record {
	return &edgeclaim.Record{
		Lane: evt, Type: edgeclaim.TypeCommandStatus, Device: c.Device, Stamp: edgeclaim.Stamp{Time: moment, Clock: edgeclaim.ClockSynced},
		Data: fmt.Appendf(nil, `{"command_id":%q,"status":%q}`, c.ID, c.Status),
	}
}

// add queues a command that is not there yet.
func add(tb testing.TB, db *store.DB, c edgeclaim.Command) edgeclaim.Command {
	tb.Helper()
	kept, fresh, err := db.AddCommand(tb.Context(), c, *status(&c))
	noErr(tb, err)
	if !fresh {
		tb.Fatalf("%s is there already", c.ID)
	}
	return kept
}

// become gives commands a status, and tells.
func become(to edgeclaim.CommandStatus) func(*edgeclaim.Command) (*edgeclaim.Record, error) {
	return func(c *edgeclaim.Command) (*edgeclaim.Record, error) {
		if c.Status == to {
			return nil, nil
		}
		c.Status = to
		return status(c), nil
	}
}

func TestCommands(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	ctx := t.Context()
	a, b := add(t, db, order(t, 1, "a")), add(t, db, order(t, 2, "a"))
	c := order(t, 1, "b")
	c.Result, c.Reason, c.Attempts = json.RawMessage(`[1]`), "because", 7
	c = add(t, db, c)
	equal(t, "numbers", []uint64{a.Number, b.Number, c.Number}, []uint64{1, 2, 3})
	again := order(t, 1, "a")
	again.Payload = json.RawMessage(`2`)
	kept, fresh, err := db.AddCommand(ctx, again, *status(&again))
	noErr(t, err)
	if fresh {
		t.Error("one id, two commands of a device")
	}
	equal(t, "kept", kept, a)
	equal(t, "records", len(pending(t, db, evt)), 3)

	sent, err := db.ChangeCommands(ctx, []uint64{3, 1}, become(edgeclaim.CommandSent))
	noErr(t, err)
	if len(sent) != 2 || sent[0].ID != c.ID || sent[1].Status != edgeclaim.CommandSent {
		t.Errorf("changed are %+v", sent)
	}
	_, err = db.ChangeCommands(ctx, []uint64{1}, become(edgeclaim.CommandSent)) // as it is
	noErr(t, err)
	equal(t, "records", len(pending(t, db, evt)), 5)
	_, err = db.ChangeCommands(ctx, []uint64{2}, func(c *edgeclaim.Command) (*edgeclaim.Record, error) {
		c.Attempts = 3
		return nil, nil // stored, and nobody is told
	})
	noErr(t, err)
	_, err = db.ChangeCommands(ctx, []uint64{1}, become(edgeclaim.CommandExpired))
	noErr(t, err)
	_, err = db.ChangeCommands(ctx, []uint64{1}, become(edgeclaim.CommandSuccessful)) // late, and longer
	noErr(t, err)
	for range 2 {
		equal(t, "records", len(pending(t, db, evt)), 7)
		live, err := db.LiveCommands(ctx, 0, 10)
		noErr(t, err)
		equal(t, "live", ids(live), "2/a 1/b")
		live, err = db.LiveCommands(ctx, 2, 10)
		noErr(t, err)
		equal(t, "live after 2", ids(live), "1/b")
		one, err := db.Command(ctx, deviceID(t, 2), a.ID)
		if want := b; err == nil {
			want.Attempts = 3
			equal(t, "command", one, want)
		}
		noErr(t, err)
		n, err := db.CountCommands(ctx)
		noErr(t, err)
		equal(t, "count", n, uint64(2))
		checkAndClose(t, db)
		db = open(t, cfg)
	}
	_, err = db.Command(ctx, deviceID(t, 3), a.ID)
	wantErr(t, err, edgeclaim.ErrNotFound)
}

// ids names commands by their boards, for those of the first few.
func ids(commands []edgeclaim.Command) string {
	var names []string
	for _, c := range commands {
		for n := range 10 {
			hw, _ := edgeclaim.ParseHardwareID(board(n))
			tenant, _ := edgeclaim.ParseTenantID(tenantText)
			if edgeclaim.NewDeviceID(tenant, hw, 1) == c.Device {
				names = append(names, fmt.Sprint(n, "/", c.ID))
			}
		}
	}
	return strings.Join(names, " ")
}

func TestCommandsNewestFirst(t *testing.T) {
	db := open(t, config(t))
	for n := range 9 {
		add(t, db, order(t, 1+n%3, fmt.Sprintf("%c", 'i'-n)))
	}
	for name, tc := range map[string]struct {
		board, limit int
		before       uint64
		want         string
	}{
		"all":                {0, 100, 0, "3/a 2/b 1/c 3/d 2/e 1/f 3/g 2/h 1/i"},
		"a page":             {0, 2, 0, "3/a 2/b"},
		"the next page":      {0, 3, 8, "1/c 3/d 2/e"},
		"behind the last":    {0, 3, 1, ""},
		"none asked for":     {0, 0, 0, ""},
		"one device":         {2, 100, 0, "2/b 2/e 2/h"},
		"a page of one":      {2, 1, 8, "2/e"},
		"a device with none": {4, 100, 0, ""},
	} {
		var device edgeclaim.DeviceID
		if tc.board > 0 {
			device = deviceID(t, tc.board)
		}
		commands, err := db.Commands(t.Context(), device, tc.before, tc.limit)
		noErr(t, err)
		equal(t, name, ids(commands), tc.want)
	}
}

func TestCommandRefusals(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	for name, spoil := range map[string]func(*edgeclaim.Command){
		"no id":     func(c *edgeclaim.Command) { c.ID = edgeclaim.CommandID{} },
		"no device": func(c *edgeclaim.Command) { c.Device = edgeclaim.DeviceID{} },
		"no tenant": func(c *edgeclaim.Command) { c.Tenant = edgeclaim.TenantID{} },
		"no status": func(c *edgeclaim.Command) { c.Status = "" },
	} {
		c := order(t, 1, "a")
		spoil(&c)
		if _, _, err := db.AddCommand(ctx, c, *status(&c)); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	large := order(t, 1, "a")
	r := status(&large)
	r.Data = make([]byte, store.MaxRecord)
	_, _, err := db.AddCommand(ctx, large, *r)
	wantErr(t, err, edgeclaim.ErrInvalid)
	one, two := add(t, db, order(t, 1, "a")), add(t, db, order(t, 1, "b"))
	_, err = db.ChangeCommands(ctx, []uint64{two.Number}, become(edgeclaim.CommandFailed))
	noErr(t, err)
	boom := errors.New("boom")
	edit := func(change func(*edgeclaim.Command)) func(*edgeclaim.Command) (*edgeclaim.Record, error) {
		return func(c *edgeclaim.Command) (*edgeclaim.Record, error) {
			change(c)
			return status(c), nil
		}
	}
	for name, tc := range map[string]struct {
		numbers []uint64
		change  func(*edgeclaim.Command) (*edgeclaim.Record, error)
		want    error
	}{
		"decided against": {[]uint64{1, 2}, func(c *edgeclaim.Command) (*edgeclaim.Record, error) {
			if c.Reason = "x"; c.Number == 2 {
				return nil, boom
			}
			return status(c), nil
		}, boom},
		"unknown":        {[]uint64{1, 9}, become(edgeclaim.CommandSent), edgeclaim.ErrNotFound},
		"twice":          {[]uint64{1, 1}, become(edgeclaim.CommandSent), edgeclaim.ErrInvalid},
		"too many":       {make([]uint64, store.MaxChange+1), become(edgeclaim.CommandSent), edgeclaim.ErrInvalid},
		"lives again":    {[]uint64{2}, become(edgeclaim.CommandSent), edgeclaim.ErrInvalid},
		"no status":      {[]uint64{1}, become(""), edgeclaim.ErrInvalid},
		"another id":     {[]uint64{1}, edit(func(c *edgeclaim.Command) { c.ID = two.ID }), edgeclaim.ErrInvalid},
		"another device": {[]uint64{1}, edit(func(c *edgeclaim.Command) { c.Device = deviceID(t, 2) }), edgeclaim.ErrInvalid},
		"another number": {[]uint64{1}, edit(func(c *edgeclaim.Command) { c.Number = 7 }), edgeclaim.ErrInvalid},
		"another task":   {[]uint64{1}, edit(func(c *edgeclaim.Command) { c.Payload = json.RawMessage("2") }), edgeclaim.ErrInvalid},
	} {
		if _, err := db.ChangeCommands(ctx, tc.numbers, tc.change); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if _, err := db.ChangeCommands(ctx, []uint64{1}, func(*edgeclaim.Command) (*edgeclaim.Record, error) { panic("x") }); err == nil {
		t.Error("a panic is no answer")
	}
	kept, err := db.Command(ctx, one.Device, one.ID)
	noErr(t, err)
	equal(t, "command", kept, one)
	equal(t, "records", len(pending(t, db, evt)), 3)
}

// TestEndedCommandsAreBounded: what has ended goes by its number, oldest first,
// and what waits stays, however old it is.
func TestEndedCommandsAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of commits")
	}
	cfg := config(t)
	cfg.EvtMaxRecords = 1000
	db := open(t, cfg)
	ctx := t.Context()
	old := add(t, db, order(t, 1, "waits"))
	const extra = 50
	for n := range store.MaxEnded + extra {
		c := order(t, 2, fmt.Sprint("c", n))
		c.Status = edgeclaim.CommandFailed
		add(t, db, c)
	}
	all, err := db.Commands(ctx, edgeclaim.DeviceID{}, 0, 2*store.MaxEnded)
	noErr(t, err)
	equal(t, "commands", len(all), store.MaxEnded+2) // one too many until the next
	equal(t, "the oldest", all[len(all)-1], old)
	equal(t, "the oldest that ended", all[len(all)-2].ID.String(), fmt.Sprint("c", extra-1))
	_, err = db.Command(ctx, deviceID(t, 2), must(edgeclaim.ParseCommandID("c0"))(t))
	wantErr(t, err, edgeclaim.ErrNotFound)
}

// TestEndedCommandsAreBoundedByBytes: the largest commands there may be.
func TestEndedCommandsAreBoundedByBytes(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of commits")
	}
	db := open(t, config(t))
	for n := range 2500 {
		c := order(t, 2, fmt.Sprint("c", n))
		c.Payload = bytes.Repeat([]byte("1"), edgeclaim.MaxCommandPayload)
		c = add(t, db, c)
		_, err := db.ChangeCommands(t.Context(), []uint64{c.Number}, become(edgeclaim.CommandSuccessful))
		noErr(t, err)
	}
	all, err := db.Commands(t.Context(), edgeclaim.DeviceID{}, 0, 5000)
	noErr(t, err)
	if limit := store.MaxEndedBytes/edgeclaim.MaxCommandPayload + 2; len(all) > limit || len(all) < limit*9/10 || all[0].Number != 2500 {
		t.Errorf("%d commands are kept, the newest is %d, want about %d", len(all), all[0].Number, limit)
	}
}

func TestDeviceConfig(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	ctx := t.Context()
	k := stock(t, db)
	noErr(t, claim(t, db, k, board(1)))
	id := deviceID(t, 1)
	none, err := db.DeviceConfig(ctx, id)
	noErr(t, err)
	equal(t, "nothing set", none, edgeclaim.DeviceConfig{})
	for n, want := range []edgeclaim.DeviceConfig{
		{Version: 1, Config: json.RawMessage(`{"a":1}`)}, {Version: 1, Config: json.RawMessage(`{"a":1}`)}, {Version: 2, Config: json.RawMessage(`{}`)},
	} {
		set, err := db.SetDeviceConfig(ctx, id, want.Config)
		noErr(t, err)
		equal(t, fmt.Sprint("set ", n), set, want)
		got, err := db.DeviceConfig(ctx, id)
		noErr(t, err)
		equal(t, fmt.Sprint("read ", n), got, want)
	}
	_, err = db.SetDeviceConfig(ctx, deviceID(t, 2), []byte(`{}`))
	wantErr(t, err, edgeclaim.ErrNotFound)
	for _, bad := range [][]byte{nil, make([]byte, edgeclaim.MaxDeviceConfig+1)} {
		_, err = db.SetDeviceConfig(ctx, id, bad)
		wantErr(t, err, edgeclaim.ErrInvalid)
	}
	checkAndClose(t, db)
	db = open(t, cfg)
	got, err := db.DeviceConfig(ctx, id)
	noErr(t, err)
	equal(t, "after a reopen", got.Version, uint64(2))
}

// TestTakeEvents: each goes in once, a large one is told as a gap, and room ends
// at half of the lane.
func TestTakeEvents(t *testing.T) {
	cfg := config(t)
	cfg.EvtMaxRecords, cfg.EvtMaxBytes = 64, 4<<20
	db := open(t, cfg)
	ctx := t.Context()
	batch := func(numbers ...int) (all []edgeclaim.Record) {
		for _, n := range numbers {
			r := event(n)
			r.Type, r.Device = edgeclaim.TypeDeviceEvent, deviceID(t, n)
			all = append(all, r)
		}
		return all
	}
	room := func(want int) {
		t.Helper()
		got, err := db.EventRoom(ctx)
		noErr(t, err)
		equal(t, "room", got, want)
	}
	room(32)
	noErr(t, db.TakeEvents(ctx, 3, batch(1, 2)))
	noErr(t, db.TakeEvents(ctx, 3, batch(1, 2)))
	noErr(t, db.TakeEvents(ctx, 2, batch(1)))
	large := batch(3, 4)
	large[0].Data = make([]byte, store.MaxRecord)
	noErr(t, db.TakeEvents(ctx, 9, large))
	wantErr(t, db.TakeEvents(ctx, 1000, make([]edgeclaim.Record, store.MaxChange+1)), edgeclaim.ErrInvalid)
	wantErr(t, db.TakeEvents(ctx, 1000, []edgeclaim.Record{{Lane: edgeclaim.LaneTel}}), edgeclaim.ErrInvalid)
	room(28)
	noErr(t, db.TakeEvents(ctx, 10, nil)) // nothing is left of it but its place
	for range 2 {
		upto, err := db.EventsTaken(ctx)
		noErr(t, err)
		equal(t, "taken", upto, uint64(10))
		var told []string
		for _, r := range pending(t, db, evt) {
			told = append(told, string(r.Type)+" "+string(r.Data))
		}
		equal(t, "told", told, []string{
			`device.event {"n":1}`, `device.event {"n":2}`,
			`gap {"lane":"evt","count":1,"reason":"too_large","epoch":"` + db.Epoch() + `"}`, `device.event {"n":4}`,
		})
		checkAndClose(t, db)
		db = open(t, cfg)
	}
	noErr(t, db.TakeEvents(ctx, 40, batch(slices.Repeat([]int{5}, 28)...)))
	room(0)
	noErr(t, db.Ack(ctx, at(db, evt, 20)))
	room(20)
}

// TestEventRoomByBytes: large events leave less room than the count says.
func TestEventRoomByBytes(t *testing.T) {
	cfg := config(t)
	cfg.EvtMaxBytes = 1 << 20
	db := open(t, cfg)
	ctx := t.Context()
	for upto := uint64(1); ; upto++ {
		room, err := db.EventRoom(ctx)
		noErr(t, err)
		if room == 0 {
			if upto != 10 { // the last one began below half
				t.Errorf("%d of 60 KiB fit into half of 1 MiB", upto-1)
			}
			break
		}
		if room > 8 {
			t.Fatalf("room for %d", room)
		}
		r := event(1)
		r.Data = make([]byte, 60<<10)
		noErr(t, db.TakeEvents(ctx, upto, []edgeclaim.Record{r}))
	}
	for range 3 { // the box's own may go on
		r := event(1)
		r.Data = make([]byte, 60<<10)
		noErr(t, db.Append(ctx, r))
		room, err := db.EventRoom(ctx)
		noErr(t, err)
		equal(t, "room", room, 0)
	}
}

// TestMigrationFromVersion3 opens a registry that version 3 of the program left:
// 30 devices, board-1 swapped for "other"; a denial, a claim that waits, 11 of 31
// records acknowledged, and two events of one device in quarantine.
func TestMigrationFromVersion3(t *testing.T) {
	cfg := config(t)
	unpack(t, cfg, "registry-v3.db.gz")
	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	k := key(t, "key-1", "template-1")
	for life := range 2 {
		if n, err := db.Count(ctx); err != nil || n != 30 || db.Info().SetAside != "" {
			t.Errorf("life %d: %d devices, %v, set aside %q", life, n, err, db.Info().SetAside)
		}
		if s := stats(t, db, edgeclaim.LaneProv); s.Appended != 31 || s.Pending != 20 {
			t.Errorf("life %d: stats %+v", life, s)
		}
		equal(t, "quarantined", quarantined(t, db), []uint64{3, 5})
		if p := look(t, db, k, "bad"); p.Denied == nil {
			t.Errorf("life %d: the denial is lost", life)
		}
		if n, err := db.CountPending(ctx); err != nil || n != 1 {
			t.Errorf("life %d: %d claims wait, %v", life, n, err)
		}
		commands, err := db.Commands(ctx, edgeclaim.DeviceID{}, 0, 10)
		noErr(t, err)
		equal(t, "commands", len(commands), life)
		upto, err := db.EventsTaken(ctx)
		noErr(t, err)
		equal(t, "events taken", upto, uint64(life))
		if life == 0 {
			add(t, db, order(t, 5, "first"))
			noErr(t, db.TakeEvents(ctx, 1, []edgeclaim.Record{event(1)}))
			_, err = db.SetDeviceConfig(ctx, deviceID(t, 5), []byte(`{}`))
			noErr(t, err)
		}
		checkAndClose(t, db)
		db, err = store.Open(cfg)
		noErr(t, err)
	}
	checkAndClose(t, db)
}
