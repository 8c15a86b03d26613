package store_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/store"
)

// crashDir, when set, makes the test binary the child of the crash test: it
// claims in that folder until it is killed.
const crashDir = "EDGECLAIM_STORE_CRASH_DIR"

// crashChild claims with many callers, and says each claim and each ack on
// standard output once the store has acknowledged it.
func crashChild(dir string) int {
	cfg := store.Defaults()
	cfg.Dir = dir
	db, err := store.Open(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx := context.Background()
	keys, err := db.Keys(ctx, edgeclaim.KeyID{}, 1)
	if err != nil || len(keys) == 0 {
		fmt.Fprintln(os.Stderr, "no key:", err)
		return 1
	}
	owner, _ := edgeclaim.ParseTenantID(tenantText)
	count, _ := db.Count(ctx)
	var out sync.Mutex
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	var g errgroup.Group
	for w := range 16 {
		g.Go(func() error {
			for n := int(count)*100 + w; ; n += 16 {
				hw, err := edgeclaim.ParseHardwareID(board(n))
				if err != nil {
					return err
				}
				ref := edgeclaim.ClaimRef{Key: keys[0].Hash, Tenant: owner, Hardware: hw}
				if err := db.Mint(ctx, ref, mint(ref)); err != nil {
					return err
				}
				say("claimed %d", n)
				if err := crashSteps(ctx, db, ref, say, n); err != nil {
					return err
				}
			}
		})
	}
	g.Go(func() error { // what the bridge does
		for last := uint64(0); ; {
			<-db.Appended()
			records, err := db.Next(ctx, at(db, edgeclaim.LaneProv, last), 100)
			if err != nil || len(records) < 2 {
				continue
			}
			upto := records[len(records)/2].Sequence
			if err := db.Ack(ctx, at(db, edgeclaim.LaneProv, upto)); err != nil {
				return err
			}
			last = upto
			say("acked %d", upto)
		}
	})
	fmt.Fprintln(os.Stderr, g.Wait())
	return 1
}

// crashSteps does to every fourth board what may happen to one: its first use,
// a swap, and the old board's next life.
func crashSteps(ctx context.Context, db *store.DB, ref edgeclaim.ClaimRef, say func(string, ...any), n int) error {
	if n%4 != 0 {
		return nil
	}
	id := edgeclaim.NewDeviceID(ref.Tenant, ref.Hardware, 1)
	_, err := db.ChangeDevice(ctx, id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.Credential.ConfirmedAt = moment
		return nil, nil
	})
	if err != nil {
		return err
	}
	say("used %d", n)
	to, err := edgeclaim.ParseHardwareID(spare(n))
	if err != nil {
		return err
	}
	_, err = db.Swap(ctx, id, to, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		void(d)
		return record(id), nil
	})
	if err != nil {
		return err
	}
	say("swapped %d", n)
	if n%8 != 0 {
		return nil
	}
	if _, err := db.Undeny(ctx, ref.Tenant, ref.Hardware); err != nil {
		return err
	}
	say("undenied %d", n)
	if err := db.Mint(ctx, ref, mint(ref)); err != nil {
		return err
	}
	say("reborn %d", n)
	return nil
}

// spare is the board that takes the place of the n-th.
func spare(n int) string { return "spare-" + strconv.Itoa(n) }

// TestCrashLosesNothingAcknowledged kills a claiming process and looks for
// every claim that it heard a success of (P1), and for every record that was
// not acknowledged (P6).
func TestCrashLosesNothingAcknowledged(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	k := stock(t, db)
	checkAndClose(t, db)

	done := map[string]map[int]bool{"claimed": {}, "used": {}, "swapped": {}, "undenied": {}, "reborn": {}}
	for round := range rounds {
		acked := runUntilKilled(t, cfg.Dir, 200+100*round, done)
		verifyAfterCrash(t, cfg, k, done, acked)
	}
	if len(done["claimed"]) < rounds*200 || len(done["reborn"]) < rounds {
		t.Fatalf("only %d claims and %d second lives in %d rounds: nothing was tested",
			len(done["claimed"]), len(done["reborn"]), rounds)
	}
}

// runUntilKilled runs a child, kills it in the middle of its work after so
// many steps, and gathers what it said until the end.
func runUntilKilled(t *testing.T, dir string, claims int, done map[string]map[int]bool) (acked uint64) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	noErr(t, err)
	noErr(t, child.Start())
	seen := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		what, number, ok := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue // cut short by the kill
		}
		if what == "acked" {
			acked = uint64(n)
			continue
		}
		if done[what] == nil {
			t.Fatalf("the child says %q", lines.Text())
		}
		done[what][n] = true
		if seen++; seen == claims {
			noErr(t, child.Process.Kill())
		}
	}
	_ = child.Wait() // it was killed
	if seen < claims {
		t.Fatalf("the child ended by itself after %d steps", seen)
	}
	return acked
}

func verifyAfterCrash(t *testing.T, cfg store.Config, k edgeclaim.Key, done map[string]map[int]bool, acked uint64) {
	t.Helper()
	ctx := t.Context()
	noErr(t, store.CheckFile(ctx, cfg.Dir))
	db, err := store.Open(cfg)
	noErr(t, err)
	defer checkAndClose(t, db)
	if set := db.Info().SetAside; set != "" {
		t.Fatalf("a kill made the store set %s aside", set)
	}
	swaps := verifyBoards(t, db, k, done)
	count, err := db.Count(ctx)
	noErr(t, err)
	stored, err := db.Key(ctx, k.ID)
	noErr(t, err)
	stats, err := db.LaneStats(ctx)
	noErr(t, err)
	prov := stats[edgeclaim.LaneProv]
	if prov.Appended != count+swaps || uint64(stored.Claims) != count {
		t.Fatalf("%d devices, %d swaps, %d records, %d claims of the key", count, swaps, prov.Appended, stored.Claims)
	}
	if prov.Acked < acked {
		t.Fatalf("acked %d, on record are %d", acked, prov.Acked)
	}
	first, err := db.Next(ctx, at(db, edgeclaim.LaneProv, 0), 1)
	noErr(t, err)
	if len(first) == 1 && first[0].Sequence != prov.Acked+1 {
		t.Fatalf("first pending is %d after %d acked", first[0].Sequence, prov.Acked)
	}
}

// verifyBoards looks for each step that was acknowledged, and makes sure that of
// each swap and second life, acknowledged or not, all is there or nothing. It
// returns how many swaps there are.
func verifyBoards(t *testing.T, db *store.DB, k edgeclaim.Key, done map[string]map[int]bool) (swaps uint64) {
	t.Helper()
	for n := range done["claimed"] {
		first := deviceID(t, n)
		d, err := db.Device(t.Context(), first)
		if err != nil {
			t.Fatalf("claim %d was acknowledged and is lost: %v", n, err)
		}
		old, next := look(t, db, k, board(n)), look(t, db, k, spare(n))
		if d.Hardware.String() == board(n) { // not swapped
			if done["swapped"][n] || old.Known == nil || old.Denied != nil || next.Known != nil {
				t.Fatalf("board %d is not swapped, or half: %+v, %+v", n, old, next)
			}
			if done["used"][n] && d.Credential.ConfirmedAt.IsZero() {
				t.Fatalf("the first use of board %d is lost", n)
			}
			continue
		}
		swaps++
		if next.Known == nil || next.Known.ID != first || d.Status != edgeclaim.DeviceReleased {
			t.Fatalf("board %d is half swapped: %+v", n, next)
		}
		denied, second := old.Denied != nil, derived(t, board(n), 2)
		if denied == (old.Next == second) || done["undenied"][n] && denied || done["reborn"][n] && old.Known == nil {
			t.Fatalf("board %d, swapped out, is %+v", n, old)
		}
	}
	return swaps
}
