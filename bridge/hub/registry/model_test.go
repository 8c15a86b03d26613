package registry_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

// TestModel tells batches as no box would: repeated, overlapping, from behind
// and from too far, several in one transaction, through two registries on one
// database that come and go. Records and holes have to be 1..mark, each once.
func TestModel(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		// Whatever the way, a sequence is either there or never.
		isThere := func(sequence uint64) bool { return sequence%3 != 0 && sequence%7 != 1 }
		rapid.Check(t, func(r *rapid.T) {
			quiet := &keeper{TB: t}
			defer quiet.end()
			dbs := []*registry.DB{open(quiet, "model", registry.Config{}), open(quiet, "model", registry.Config{})}
			empty(quiet, dbs[0])
			greet(quiet, dbs[0], hello(box, 1, 1000))
			want := map[edgeclaim.Lane]uint64{}
			for range rapid.IntRange(1, 12).Draw(r, "steps") {
				at := rapid.IntRange(0, 1).Draw(r, "registry")
				if rapid.IntRange(0, 9).Draw(r, "restart") == 0 {
					if err := dbs[at].Close(); err != nil {
						t.Fatal(err)
					}
					dbs[at] = open(quiet, "model", registry.Config{})
				}
				var items []registry.Item
				var results []registry.Result
				for range rapid.IntRange(1, 4).Draw(r, "items") {
					lane := rapid.SampledFrom(edgeclaim.Lanes()).Draw(r, "lane")
					mark := want[lane]
					first := uint64(max(1, int(mark)+1+rapid.IntRange(-8, 2).Draw(r, "first")))
					last := first + uint64(rapid.IntRange(0, 12).Draw(r, "length"))
					var lines []line
					expect := registry.Result{Upto: max(mark, last)}
					for sequence := first; sequence <= last; sequence++ {
						if !isThere(sequence) {
							continue
						}
						lines = append(lines, noise(sequence))
						if sequence > mark {
							expect.Applied++
						}
					}
					if first > mark+1 {
						expect = registry.Result{Upto: mark, Nack: &wire.Nack{Lane: lane, Sequence: mark + 1, Code: wire.NackGap}}
					}
					want[lane] = expect.Upto
					items = append(items, batch(quiet, box, 1, lane, first, last, lines...))
					results = append(results, expect)
				}
				if diff := cmp.Diff(results, apply(quiet, dbs[at], items...)); diff != "" {
					r.Fatalf("results (-want +got):\n%s", diff)
				}
			}
			for i, lane := range edgeclaim.Lanes() {
				h := heldOf(quiet, dbs[0], box, i+1)
				if err := h.whole(); err != nil || h.Upto != want[lane] {
					r.Fatalf("%s: upto %d, want %d: %v", lane, h.Upto, want[lane], err)
				}
				if slices.ContainsFunc(h.Records, func(sequence uint64) bool { return !isThere(sequence) }) {
					r.Fatalf("%s: records that never came: %v", lane, h.Records)
				}
			}
		})
	})
}

// keeper ends what one round of a long test opened, not what the test did.
type keeper struct {
	testing.TB
	cleanups []func()
}

func (k *keeper) Cleanup(f func()) { k.cleanups = append(k.cleanups, f) }

func (k *keeper) end() {
	for _, f := range slices.Backward(k.cleanups) {
		f()
	}
}

// TestTwoAtOnce applies the same batches through two registries at once: each
// record is applied by one of them.
func TestTwoAtOnce(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		const rounds = 40
		dbs := []*registry.DB{open(t, "two", registry.Config{}), open(t, "two", registry.Config{})}
		greet(t, dbs[0], hello(box, 1, 1000))
		applied := make([]int, len(dbs))
		var both sync.WaitGroup
		for i, db := range dbs {
			both.Go(func() {
				for n := range rounds {
					first := uint64(n*2 + 1)
					item := prov(t, box, first, first+1, provisioned(t, first, int(first), 1), noise(first+1))
					results, err := db.Apply(context.Background(), []registry.Item{item})
					if err != nil {
						t.Error(err)
						return
					}
					applied[i] += results[0].Applied
				}
			})
		}
		both.Wait()
		h := heldOf(t, dbs[0], box, 1)
		if err := h.whole(); err != nil || h.Upto != 2*rounds || applied[0]+applied[1] != 2*rounds {
			t.Errorf("upto %d, applied %v: %v", h.Upto, applied, err)
		}
	})
}

// TestOpen: what is opened again is the same database, a later version is left
// alone, and what cannot be opened says so without the URL's password.
func TestOpen(t *testing.T) {
	ctx := context.Background()
	each(t, func(t *testing.T, open opener) {
		db := open(t, "open", registry.Config{})
		if id := db.ID(); len(id) != 26 || open(t, "open", registry.Config{}).ID() != id || open(t, "other", registry.Config{}).ID() == id {
			t.Errorf("id %q", id)
		}
		if err := db.Ping(ctx); err != nil {
			t.Error(err)
		}
		look := raw(t, db)
		defer look.Close()
		if _, err := look.Exec("UPDATE meta SET value = '999' WHERE name = 'schema'"); err != nil {
			t.Fatal(err)
		}
		driver, source := registry.Source(db)
		url := source
		if driver == "sqlite" {
			url = "sqlite:" + strings.TrimPrefix(source, "file:")
		}
		if _, err := registry.Open(ctx, registry.Config{URL: url}); err == nil || !strings.Contains(err.Error(), "999") {
			t.Errorf("a later version: %v", err)
		}
	})
	dir := filepath.Join(t.TempDir(), "new")
	db, err := registry.Open(ctx, registry.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, registry.FileName): 0o600, filepath.Join(dir, registry.FileName+"-wal"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	for _, cfg := range []registry.Config{
		{}, {URL: "mysql://x"}, {URL: "sqlite:"}, {Dir: dir, Policy: "last"},
		{URL: "postgres://u:hunter2@127.0.0.1:1/x?sslmode=disable"}, {URL: "postgres://u:hunter2@127.0.0.1:x/x"},
	} {
		if _, err := registry.Open(ctx, cfg); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
