package store_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/store"
)

// TestCommandsModel compares the store with a list of commands, each as it was
// last changed, and a count of records.
func TestCommandsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := config(t)
		db, err := store.Open(cfg)
		noErr(t, err)
		ctx := t.Context()
		var all []edgeclaim.Command
		records, events := 0, uint64(0)
		statuses := []edgeclaim.CommandStatus{
			edgeclaim.CommandQueued, edgeclaim.CommandSent, edgeclaim.CommandDelivered, edgeclaim.CommandSuccessful, edgeclaim.CommandExpired,
		}
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(rt *rapid.T) {
				c := order(t, rapid.IntRange(1, 3).Draw(rt, "board"), strconv.Itoa(rapid.IntRange(0, 6).Draw(rt, "id")))
				c.Status = rapid.SampledFrom(statuses).Draw(rt, "status")
				known := slices.IndexFunc(all, func(other edgeclaim.Command) bool { return other.ID == c.ID && other.Device == c.Device })
				kept, fresh, err := db.AddCommand(ctx, c, *status(&c))
				noErr(t, err)
				if c.Number = uint64(len(all) + 1); known >= 0 {
					c = all[known]
				} else {
					all = append(all, c)
					records++
				}
				equal(t, "kept", kept, c)
				equal(t, "fresh", fresh, known < 0)
			},
			"change": func(rt *rapid.T) {
				numbers := rapid.SliceOfNDistinct(rapid.Uint64Range(1, uint64(len(all)+1)), 1, 4, rapid.ID).Draw(rt, "numbers")
				to := rapid.SampledFrom(statuses).Draw(rt, "status")
				var want error
				for _, n := range numbers {
					switch {
					case want != nil:
					case n > uint64(len(all)):
						want = edgeclaim.ErrNotFound
					case all[n-1].Status.Final() && !to.Final():
						want = edgeclaim.ErrInvalid
					}
				}
				changed, err := db.ChangeCommands(ctx, numbers, become(to))
				if !errors.Is(err, want) {
					t.Fatalf("changed %v to %s: %v, want %v", numbers, to, err, want)
				}
				if want != nil {
					return
				}
				for i, n := range numbers {
					if all[n-1].Status != to {
						all[n-1].Status = to
						records++
					}
					equal(t, "changed", changed[i], all[n-1])
				}
			},
			"events": func(rt *rapid.T) {
				upto := rapid.Uint64Range(0, events+2).Draw(rt, "upto")
				noErr(t, db.TakeEvents(ctx, upto, []edgeclaim.Record{event(1), event(2)}))
				if upto > events {
					events = upto
					records += 2
				}
			},
			"reopen": func(*rapid.T) {
				checkAndClose(t, db)
				db, err = store.Open(cfg)
				noErr(t, err)
			},
			"": func(*rapid.T) { compareCommands(t, db, all, records, events) },
		})
		checkAndClose(t, db)
	})
}

func compareCommands(t *testing.T, db *store.DB, all []edgeclaim.Command, records int, events uint64) {
	t.Helper()
	ctx := t.Context()
	live := slices.DeleteFunc(slices.Clone(all), func(c edgeclaim.Command) bool { return c.Status.Final() })
	got, err := db.LiveCommands(ctx, 0, 100)
	noErr(t, err)
	equal(t, "live", len(got), len(live))
	for i := range got {
		equal(t, "live", got[i], live[i])
	}
	newest, err := db.Commands(ctx, edgeclaim.DeviceID{}, 0, 100)
	noErr(t, err)
	slices.SortFunc(newest, func(a, b edgeclaim.Command) int { return cmp.Compare(a.Number, b.Number) })
	equal(t, "commands", len(newest), len(all))
	for i := range newest {
		equal(t, "command", newest[i], all[i])
	}
	equal(t, "appended", stats(t, db, evt).Appended, uint64(records))
	upto, err := db.EventsTaken(ctx)
	noErr(t, err)
	equal(t, "events", upto, events)
}

// commandsDir, when set, makes the test binary the child of the crash test: it
// queues and ends commands in that folder until it is killed.
const commandsDir = "EDGECLAIM_STORE_COMMANDS_DIR"

func commandsChild(dir string) int {
	cfg := store.Defaults()
	cfg.Dir = dir
	db, err := store.Open(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx := context.Background()
	tenant, _ := edgeclaim.ParseTenantID(tenantText)
	var out sync.Mutex
	say := func(what string, n int) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf("%s %d\n", what, n)
	}
	newest, _ := db.Commands(ctx, edgeclaim.DeviceID{}, 0, 1)
	first := 0
	if len(newest) > 0 {
		first = int(newest[0].Number) * 100
	}
	taken, _ := db.EventsTaken(ctx)
	var g errgroup.Group
	for w := range 8 {
		g.Go(func() error {
			for n := first + w; ; n += 8 {
				id, err := edgeclaim.ParseCommandID(strconv.Itoa(n))
				if err != nil {
					return err
				}
				hw, err := edgeclaim.ParseHardwareID(board(w))
				if err != nil {
					return err
				}
				c := edgeclaim.Command{
					ID: id, Device: edgeclaim.NewDeviceID(tenant, hw, 1), Tenant: tenant,
					Payload: json.RawMessage(`1`), Status: edgeclaim.CommandQueued,
				}
				if c, _, err = db.AddCommand(ctx, c, *status(&c)); err != nil {
					return err
				}
				say("queued", n)
				if _, err := db.ChangeCommands(ctx, []uint64{c.Number}, become(edgeclaim.CommandSent)); err != nil {
					return err
				}
				if _, err := db.ChangeCommands(ctx, []uint64{c.Number}, become(edgeclaim.CommandSuccessful)); err != nil {
					return err
				}
				say("ended", n)
			}
		})
	}
	g.Go(func() error {
		for upto := taken + 1; ; upto++ {
			r := event(int(upto))
			r.Type = edgeclaim.TypeDeviceEvent
			if err := db.TakeEvents(ctx, upto, []edgeclaim.Record{r}); err != nil {
				return err
			}
			say("taken", int(upto))
		}
	})
	fmt.Fprintln(os.Stderr, g.Wait())
	return 1
}

// TestCrashOfCommands kills a process that queues and ends commands: each that
// was acknowledged is there, each status has its record and no other has, and
// each event went in once (P1, P8).
func TestCrashOfCommands(t *testing.T) {
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	checkAndClose(t, db)
	done := map[string]map[int]bool{"queued": {}, "ended": {}, "taken": {}}
	for round := range rounds {
		commandsUntilKilled(t, cfg.Dir, 150+40*round, done)
		noErr(t, store.CheckFile(t.Context(), cfg.Dir))
		db, err := store.Open(cfg)
		noErr(t, err)
		verifyCommands(t, db, done)
		checkAndClose(t, db)
	}
	if len(done["ended"]) < rounds*30 || len(done["taken"]) < rounds {
		t.Fatalf("only %d ended and %d taken: nothing was tested", len(done["ended"]), len(done["taken"]))
	}
}

func commandsUntilKilled(t *testing.T, dir string, steps int, done map[string]map[int]bool) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), commandsDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	noErr(t, err)
	noErr(t, child.Start())
	seen := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		what, number, ok := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(number)
		if !ok || err != nil || done[what] == nil {
			continue // cut short by the kill
		}
		done[what][n] = true
		if seen++; seen == steps {
			noErr(t, child.Process.Kill())
		}
	}
	_ = child.Wait() // it was killed
	if seen < steps {
		t.Fatalf("the child ended by itself after %d steps", seen)
	}
}

func verifyCommands(t *testing.T, db *store.DB, done map[string]map[int]bool) {
	t.Helper()
	if set := db.Info().SetAside; set != "" {
		t.Fatalf("a kill made the store set %s aside", set)
	}
	records, events := map[string]int{}, 0
	for _, r := range pending(t, db, evt) {
		if r.Type == edgeclaim.TypeDeviceEvent {
			if events++; string(r.Data) != fmt.Sprintf(`{"n":%d}`, events) {
				t.Fatalf("event %d is %s", events, r.Data)
			}
			continue
		}
		var told struct {
			ID string `json:"command_id"`
		}
		noErr(t, json.Unmarshal(r.Data, &told))
		records[told.ID]++
	}
	upto, err := db.EventsTaken(t.Context())
	noErr(t, err)
	if int(upto) != events {
		t.Fatalf("%d events, taken up to %d", events, upto)
	}
	all, err := db.Commands(t.Context(), edgeclaim.DeviceID{}, 0, 1<<20)
	noErr(t, err)
	found := map[string]bool{}
	for _, c := range all {
		found[c.ID.String()] = true
		steps := map[edgeclaim.CommandStatus]int{edgeclaim.CommandQueued: 1, edgeclaim.CommandSent: 2, edgeclaim.CommandSuccessful: 3}
		if n, _ := strconv.Atoi(c.ID.String()); records[c.ID.String()] != steps[c.Status] || done["ended"][n] && !c.Status.Final() {
			t.Fatalf("command %s is %s, and %d records tell of it", c.ID, c.Status, records[c.ID.String()])
		}
	}
	for n := range done["queued"] {
		if !found[strconv.Itoa(n)] {
			t.Fatalf("command %d was acknowledged and is lost", n)
		}
	}
	for n := range done["taken"] {
		if n > events {
			t.Fatalf("event %d was taken and is lost", n)
		}
	}
}
