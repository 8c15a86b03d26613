package store_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
	"edgeclaim/store"
)

// moversDir, when set, makes the test binary the child of the crash test: it
// moves devices into the quarantine and out again in that folder until it is
// killed.
const moversDir = "EDGECLAIM_STORE_MOVERS_DIR"

// The devices of the tests below have so many records each, their numbers
// interleaved: a move takes some transactions.
const (
	movers     = 3
	moverTells = 1000
)

// fillMovers puts the movers' records in the event lane: number n is of device
// n % movers.
func fillMovers(tb testing.TB, db *store.DB) {
	tb.Helper()
	for n := range movers * moverTells {
		noErr(tb, db.Append(tb.Context(), about(tb, 1+n%movers, n)))
	}
}

// checkMovers looks for every record, once, with none of a parked device's
// records before its parked ones, and all of a device in order. It returns how
// many are in quarantine.
func checkMovers(tb testing.TB, db *store.DB) int {
	tb.Helper()
	next := make(map[edgeclaim.DeviceID]int)
	for n := range movers {
		next[deviceID(tb, 1+n)] = n
	}
	see := func(r edgeclaim.Record, where string) {
		var data struct{ N int }
		noErr(tb, json.Unmarshal(r.Data, &data))
		if data.N != next[r.Device] {
			tb.Fatalf("%s: number %d of %s, want %d", where, data.N, r.Device, next[r.Device])
		}
		next[r.Device] += movers
	}
	for _, r := range pending(tb, db, evt) {
		see(r, "pending")
	}
	held, err := db.Quarantine(tb.Context(), "", movers*moverTells+1)
	noErr(tb, err)
	for _, q := range held {
		r, _, err := db.QuarantinedRecord(tb.Context(), q.ID)
		noErr(tb, err)
		see(r, "quarantined")
	}
	for device, n := range next {
		if n < movers*moverTells {
			tb.Fatalf("%s has %d records, want %d", device, n/movers, moverTells)
		}
	}
	return len(held)
}

// TestMoveStoppedHalfWayIsFinished stops a move between two of its
// transactions: whoever comes next, in this life or in another, sees it whole.
func TestMoveStoppedHalfWayIsFinished(t *testing.T) {
	const parked = moverTells - 1
	ctx := context.Background()
	full := config(t)
	db, err := store.Open(full)
	noErr(t, err)
	fillMovers(t, db)
	checkAndClose(t, db)
	data, err := os.ReadFile(registry(full))
	noErr(t, err)
	for name, first := range map[string]func(t *testing.T, db *store.DB){
		"next": func(t *testing.T, db *store.DB) { _, err := db.Next(ctx, at(db, evt, 0), 1); noErr(t, err) },
		"ack":  func(t *testing.T, db *store.DB) { noErr(t, db.Ack(ctx, at(db, evt, 0))) },
		"list": func(t *testing.T, db *store.DB) { _, err := db.Quarantine(ctx, "", 1); noErr(t, err) },
		"renew": func(t *testing.T, db *store.DB) {
			_, err := db.Renew(ctx)
			noErr(t, err)
		},
		"park again": func(t *testing.T, db *store.DB) { noErr(t, db.Park(ctx, at(db, evt, 4), "why")) },
		"requeue, twice": func(t *testing.T, db *store.DB) {
			n, err := db.Requeue(ctx, deviceID(t, 1))
			noErr(t, err)
			equal(t, "requeued", n, parked)
			noErr(t, db.Park(ctx, at(db, evt, movers*moverTells+1), ""))
		},
	} {
		for _, reopen := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/reopen=%v", name, reopen), func(t *testing.T) {
				cfg := config(t)
				noErr(t, os.WriteFile(registry(cfg), data, 0o600))
				commits, stop := 0, func() {}
				cfg.OnCommit = func(time.Duration, int) {
					if commits--; commits == 0 {
						stop()
					}
				}
				db, err := store.Open(cfg)
				noErr(t, err)
				defer func() { checkAndClose(t, db) }()
				halfWay := func(do func(ctx context.Context) error) {
					stopped, cancel := context.WithCancel(ctx)
					defer cancel()
					commits, stop = 2, cancel
					wantErr(t, do(stopped), context.Canceled)
					if !reopen {
						return
					}
					checkAndClose(t, db)
					if db, err = store.Open(cfg); err != nil {
						t.Fatal(err)
					}
				}
				halfWay(func(ctx context.Context) error { return db.Park(ctx, at(db, evt, 4), "why") })
				first(t, db)
				equal(t, "quarantined", checkMovers(t, db), parked)
				halfWay(func(ctx context.Context) error { _, err := db.Requeue(ctx, deviceID(t, 1)); return err })
				equal(t, "quarantined", checkMovers(t, db), 0)
			})
		}
	}
}

// TestAckFinishesAMoveFirst: what belongs into the quarantine and is not there
// yet is not forgotten.
func TestAckFinishesAMoveFirst(t *testing.T) {
	cfg := config(t)
	commits, stop := 0, func() {}
	cfg.OnCommit = func(time.Duration, int) {
		if commits--; commits == 0 {
			stop()
		}
	}
	db := open(t, cfg)
	fillMovers(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	commits, stop = 2, cancel
	wantErr(t, db.Park(ctx, at(db, evt, 1), "why"), context.Canceled)
	noErr(t, db.Ack(t.Context(), at(db, evt, movers*moverTells)))
	if s := stats(t, db, evt); s.Quarantined != moverTells || s.Acked != (movers-1)*moverTells || s.Pending != 0 {
		t.Errorf("lane %+v", s)
	}
}

// moversChild parks, renews and requeues, and says each commit, most of which
// end in the middle of a move.
func moversChild(dir string) int {
	cfg := store.Defaults()
	cfg.Dir = dir
	cfg.OnCommit = func(time.Duration, int) { fmt.Println("committed") }
	db, err := store.Open(cfg)
	ctx := context.Background()
	for err == nil {
		var records []edgeclaim.Record
		if records, err = db.Next(ctx, at(db, evt, 0), 10); err != nil || len(records) == 0 {
			break
		}
		r := records[len(records)-1]
		if err = db.Park(ctx, at(db, evt, r.Sequence), "why"); err != nil {
			break
		}
		if _, err = db.Renew(ctx); err != nil {
			break
		}
		_, err = db.Requeue(ctx, r.Device)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// TestCrashDuringAMove kills a process that moves records, until it was caught
// in the middle of some moves: no record is lost, none is there twice, and the
// order of each device is kept.
func TestCrashDuringAMove(t *testing.T) {
	want, rounds := 5, 60
	if testing.Short() {
		want = 1
	}
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	fillMovers(t, db)
	checkAndClose(t, db)
	caught := 0
	for round := range rounds {
		killMoving(t, cfg.Dir, 10+round)
		noErr(t, store.CheckFile(t.Context(), cfg.Dir))
		if movesLeft(t, cfg) {
			caught++
		}
		db, err := store.Open(cfg)
		noErr(t, err)
		checkMovers(t, db)
		checkAndClose(t, db)
		if caught == want {
			return
		}
	}
	t.Errorf("caught in the middle of a move %d times in %d rounds: nothing was tested", caught, rounds)
}

// killMoving runs a child and kills it after so many commits.
func killMoving(t *testing.T, dir string, commits int) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), moversDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	noErr(t, err)
	noErr(t, child.Start())
	said := bufio.NewScanner(out)
	for seen := 0; seen < commits; seen++ {
		if !said.Scan() {
			t.Error("the child ended by itself")
			break
		}
	}
	noErr(t, child.Process.Kill())
	for said.Scan() {
	}
	_ = child.Wait() // it was killed
}

// movesLeft reports whether the file of a store that was killed holds a move
// that is not finished.
func movesLeft(t *testing.T, cfg store.Config) (left bool) {
	t.Helper()
	db, err := bolt.Open(registry(cfg), 0o600, &bolt.Options{ReadOnly: true})
	noErr(t, err)
	noErr(t, db.View(func(tx *bolt.Tx) error {
		key, _ := tx.Bucket([]byte("moves")).Cursor().First()
		left = key != nil
		return nil
	}))
	noErr(t, db.Close())
	return left
}
