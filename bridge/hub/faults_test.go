package hub_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mosquitto"

	_ "modernc.org/sqlite"
)

// lock takes the right to write away from everybody, until the returned
// function is called.
func lock(t *testing.T, dir string) (unlock func()) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, registry.FileName))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return func() {
		_, err := conn.ExecContext(context.Background(), "ROLLBACK")
		if err != nil {
			t.Error(err)
		}
		_ = conn.Close()
		_ = db.Close()
	}
}

// While the registry cannot commit, nothing is acknowledged and boxes are told
// to try later; when it can again, all goes on by itself, and who said hello
// meanwhile is answered.
func TestRegistryFails(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	dir := t.TempDir()
	r := start(t, broker, dir, func(c *hub.Config) {
		c.ApplyTimeout, c.RetryBase, c.RetryLimit = 100*time.Millisecond, 50*time.Millisecond, 300*time.Millisecond
	})
	b := newBox(t, broker, "box-1", r.public())
	late := newBox(t, broker, "box-2", r.public())
	b.hello()
	b.tell(prov, 1, 5)
	b.ack(prov, 5)

	unlock := lock(t, dir)
	for range 3 {
		b.tell(prov, 6, 10)
		a := next[*wire.Ack](b)
		if len(a.Nack) != 1 || a.Nack[0].Code != wire.NackRetry || a.Nack[0].Sequence != 6 || a.Nack[0].RetryAfter < 1 {
			t.Errorf("ack %+v, want to be told to try again", a)
		}
		if _, acked := a.Upto[prov]; acked {
			t.Errorf("ack %+v of what cannot be committed", a)
		}
	}
	late.say(wire.KindControl, late.greeting())
	b.tell(prov, 6, 10)
	next[*wire.Ack](b)
	if len(late.down) != 0 {
		t.Errorf("%T came down", late.nextDown())
	}
	if !r.hub.Figures().Failing {
		t.Error("nothing is said of the registry's failing")
	}
	unlock()

	next[*wire.Welcome](late) // it did not say hello again
	for again := true; again; {
		b.tell(prov, 6, 10)
		a := next[*wire.Ack](b)
		again = a.Upto[prov] != 10
	}
	if f := r.hub.Figures(); f.Failing || f.Failures == 0 || f.Nacks[wire.NackRetry] < 4 || f.Records != 10 {
		t.Errorf("figures %+v", f)
	}
}

// A box whose records the registry cannot take, whatever else it can, does not
// stop the others.
func TestRegistryFailsForOneBox(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	dir := t.TempDir()
	r := start(t, broker, dir, func(c *hub.Config) { c.RetryBase, c.RetryLimit = 20*time.Millisecond, 200*time.Millisecond })
	bad := newBox(t, broker, "box-1", r.public())
	good := newBox(t, broker, "box-2", r.public())
	bad.hello()
	good.hello()
	db, err := sql.Open("sqlite", filepath.Join(dir, registry.FileName))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec(`CREATE TRIGGER poison BEFORE INSERT ON records WHEN instr(CAST(NEW.event AS TEXT), 'urn:edgeclaim:box-1"') > 0
		BEGIN SELECT RAISE(ABORT, 'poisoned'); END`)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(100) {
		bad.tell(prov, i+1, i+1)
		good.tell(prov, 5*i+1, 5*i+5)
	}
	good.ack(prov, 500)
	for len(good.down) > 0 {
		t.Errorf("%+v came down to the good one", good.nextDown())
	}
	for len(bad.down) > 0 {
		if a := next[*wire.Ack](bad); a.Upto[prov] != 0 {
			t.Errorf("%+v came down to the bad one", a)
		}
	}
	f := r.hub.Figures()
	if f.Failures == 0 || f.Records != 500 {
		t.Errorf("figures %+v", f)
	}
	if _, err := db.Exec("DROP TRIGGER poison"); err != nil {
		t.Fatal(err)
	}
	for again := true; again; {
		bad.tell(prov, 1, 100)
		again = next[*wire.Ack](bad).Upto[prov] != 100
	}
}

// A box that says hello while the registry cannot answer, once or again, is
// answered once, for the last time it said so.
func TestHelloWaits(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	dir := t.TempDir()
	r := start(t, broker, dir, func(c *hub.Config) {
		c.ApplyTimeout, c.RetryBase, c.RetryLimit = 50*time.Millisecond, 50*time.Millisecond, 100*time.Millisecond
	})
	said := uint64(0)
	for i, hellos := range []uint64{1, 3} {
		b := newBox(t, broker, fmt.Sprintf("box-%d", i), r.public())
		failed := r.hub.Figures().Failures
		unlock := lock(t, dir)
		for range hellos {
			b.say(wire.KindControl, b.greeting())
		}
		said += hellos
		await(t, "the hellos", func() bool { f := r.hub.Figures(); return f.Hellos == said && f.Failures > failed })
		unlock()
		next[*wire.Welcome](b)
		b.tell(prov, 1, 1)
		b.ack(prov, 1)
	}
	if f := r.hub.Figures(); f.Welcomes != 2 {
		t.Errorf("%d welcomes", f.Welcomes)
	}
}

// 200 boxes at once: each gets all it told acknowledged, none is told more
// credit than its share, and the rush is spread.
func TestManyBoxes(t *testing.T) {
	if testing.Short() {
		t.Skip("200 connections")
	}
	broker := mosquitto.Start(t, mosquitto.Options{}).Addr()
	r := start(t, broker, t.TempDir())
	const boxes, batches, size = 200, 10, 20
	all := make([]*box, boxes)
	for i := range all {
		all[i] = newBox(t, broker, fmt.Sprintf("box-%d", i), r.public())
	}
	delays := make([]int64, boxes)
	credits := make([]int, boxes)
	var group errgroup.Group
	for i, b := range all {
		group.Go(func() error {
			w := b.hello()
			delays[i] = w.StartAfter
			for n := range uint64(batches) {
				b.tell(prov, size*n+1, size*(n+1))
			}
			credits[i] = *b.ack(prov, batches*size).Credit
			return nil
		})
	}
	_ = group.Wait()
	spread, limited := 0, 0
	for i := range all {
		if delays[i] > 0 {
			spread++
		}
		if credits[i] < 4096 {
			limited++
		}
		if credits[i] < 256 {
			t.Errorf("box %d has a credit of %d", i, credits[i])
		}
	}
	if want := boxes - hub.Defaults().RushBoxes; spread < want/2 {
		t.Errorf("%d boxes are told to start later, want about %d", spread, want)
	}
	if limited == 0 {
		t.Error("all boxes have all the credit there is")
	}
	if f := r.hub.Figures(); f.Records != boxes*batches*size {
		t.Errorf("%d records applied, want %d; %+v", f.Records, boxes*batches*size, f)
	}
	if sites, err := r.db.Sites(t.Context(), "", 10); err != nil || len(sites) != 1 || sites[0].Held != boxes*batches*size {
		t.Errorf("sites %+v, %v", sites, err)
	}
}
