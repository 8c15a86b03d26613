package store_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/store"
)

// gate holds the store's leader inside its transaction, so that all who call
// meanwhile become one group.
type gate struct {
	entered, release chan struct{}
	done             errgroup.Group
}

func hold(t *testing.T, db *store.DB, k edgeclaim.Key) *gate {
	t.Helper()
	g := &gate{entered: make(chan struct{}), release: make(chan struct{})}
	ref := refer(t, k, "holder")
	g.done.Go(func() error {
		return db.Mint(context.Background(), ref, func(edgeclaim.Present) (*edgeclaim.Minted, error) {
			close(g.entered)
			<-g.release
			return nil, nil
		})
	})
	<-g.entered
	return g
}

// open lets the leader go on, once everybody else waits.
func (g *gate) open(t *testing.T) {
	t.Helper()
	synctest.Wait()
	close(g.release)
	noErr(t, g.done.Wait())
}

// commits counts a store's commits and the claims in each.
type commits struct {
	mu     sync.Mutex
	claims []int
}

func (c *commits) add(_ time.Duration, claims int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.claims = append(c.claims, claims)
}

func (c *commits) seen() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.claims)
}

func TestGroupSharesOneCommit(t *testing.T) {
	cfg := config(t)
	var seen commits
	cfg.OnCommit = seen.add
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(cfg)
		noErr(t, err)
		k := stock(t, db)
		before := len(seen.seen())
		boom := errors.New("boom")

		held := hold(t, db, k)
		var good, bad, same errgroup.Group
		for n := range 20 {
			good.Go(func() error { return claim(t, db, k, board(n)) })
			same.Go(func() error { return claim(t, db, k, "the-same") })
			ref := refer(t, k, board(1000+n))
			bad.Go(func() error {
				return db.Mint(t.Context(), ref, func(edgeclaim.Present) (*edgeclaim.Minted, error) {
					return nil, boom
				})
			})
		}
		held.open(t)
		noErr(t, good.Wait())
		noErr(t, same.Wait())
		wantErr(t, bad.Wait(), boom)

		if got := seen.seen()[before:]; !slices.Equal(got, []int{21}) {
			t.Errorf("commits held %v claims, want one with 21", got)
		}
		if n, err := db.Count(t.Context()); err != nil || n != 21 {
			t.Errorf("count is %d, %v", n, err)
		}
		checkAndClose(t, db)
	})
}

func TestGroupIsCapped(t *testing.T) {
	cfg := config(t)
	var seen commits
	cfg.OnCommit = seen.add
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(cfg)
		noErr(t, err)
		k := stock(t, db)
		before := len(seen.seen())
		held := hold(t, db, k)
		var g errgroup.Group
		for n := range store.MaxGroup + 100 {
			g.Go(func() error { return claim(t, db, k, board(n)) })
		}
		held.open(t)
		noErr(t, g.Wait())
		if got := seen.seen()[before:]; !slices.Equal(got, []int{store.MaxGroup, 100}) {
			t.Errorf("commits held %v claims, want %d and 100", got, store.MaxGroup)
		}
		checkAndClose(t, db)
	})
}

func TestOneTimeKeyTwiceInOneGroupMintsOnce(t *testing.T) {
	cfg := config(t)
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(cfg)
		noErr(t, err)
		holder := stock(t, db)
		once := template(t, "template-2")
		once.OneTime = true
		noErr(t, db.CreateTemplate(t.Context(), once))
		k := key(t, "key-2", "template-2")
		noErr(t, db.AddKeys(t.Context(), []edgeclaim.Key{k}))

		held := hold(t, db, holder)
		results := make(chan error, 10)
		var g errgroup.Group
		for n := range 10 {
			g.Go(func() error {
				results <- claim(t, db, k, board(n))
				return nil
			})
		}
		held.open(t)
		noErr(t, g.Wait())
		minted := 0
		for range 10 {
			err := <-results
			if err == nil {
				minted++
			} else if !errors.Is(err, edgeclaim.ErrDenied) {
				t.Errorf("claim: %v", err)
			}
		}
		if n, err := db.Count(t.Context()); err != nil || n != 1 || minted != 1 {
			t.Errorf("minted %d, %d devices, %v: want one", minted, n, err)
		}
		checkAndClose(t, db)
	})
}

func TestCancelledWhileWaiting(t *testing.T) {
	cfg := config(t)
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(cfg)
		noErr(t, err)
		k := stock(t, db)
		held := hold(t, db, k)
		ctx, cancel := context.WithCancel(t.Context())
		ref := refer(t, k, "board-1")
		var waiting errgroup.Group
		waiting.Go(func() error { return db.Mint(ctx, ref, mint(ref)) })
		synctest.Wait()
		cancel()
		wantErr(t, waiting.Wait(), context.Canceled) // while the leader is still held
		held.open(t)
		if n, err := db.Count(t.Context()); err != nil || n != 0 {
			t.Errorf("count is %d, %v: a cancelled claim was stored", n, err)
		}
		checkAndClose(t, db)
	})
}

func TestCancelledInsideTheTransactionHearsTheOutcome(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	ref := refer(t, k, "board-1")
	noErr(t, db.Mint(ctx, ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		cancel()
		return mint(ref)(p)
	}))
	wantErr(t, db.Mint(ctx, ref, mint(ref)), context.Canceled)
}

// TestLinger uses the bubble's clock, which stands still unless somebody
// waits: the time that passes is the time that was lingered.
func TestLinger(t *testing.T) {
	cfg := config(t)
	cfg.Linger = 2 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(cfg)
		noErr(t, err)
		k := stock(t, db)
		slow := func(hw string) error { // its commit takes 5 ms
			ref := refer(t, k, hw)
			return db.Mint(t.Context(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
				<-time.After(5 * time.Millisecond)
				return mint(ref)(p)
			})
		}
		start := time.Now()
		for n := range 10 {
			noErr(t, slow(board(n)))
		}
		if got := time.Since(start); got != 50*time.Millisecond {
			t.Errorf("ten lone callers took %v, want 50ms: they lingered", got)
		}

		held := hold(t, db, k)
		var g errgroup.Group
		for n := range 8 {
			g.Go(func() error { return claim(t, db, k, board(100+n)) })
		}
		<-time.After(5 * time.Millisecond)
		held.open(t)
		noErr(t, g.Wait())
		noErr(t, slow(board(20))) // takes 5 ms, so that the next could linger for 2
		held = hold(t, db, k)
		g.Go(func() error { return claim(t, db, k, board(200)) })
		g.Go(func() error { return claim(t, db, k, board(201)) })
		<-time.After(5 * time.Millisecond)
		held.open(t)
		noErr(t, g.Wait())
		start = time.Now()
		noErr(t, claim(t, db, k, board(30)))
		if got := time.Since(start); got > cfg.Linger {
			t.Errorf("after a group, a lone caller lingered %v", got)
		}
		start = time.Now()
		noErr(t, claim(t, db, k, board(31)))
		if got := time.Since(start); got != 0 {
			t.Errorf("the second lone caller lingered %v", got)
		}
		checkAndClose(t, db)
	})
}

func TestCloseServesThoseWhoWaitAndRefusesTheRest(t *testing.T) {
	for range 20 {
		cfg := config(t)
		db, err := store.Open(cfg)
		noErr(t, err)
		k := stock(t, db)
		var g errgroup.Group
		stored := make([]int, 16)
		for w := range 16 {
			g.Go(func() error {
				for n := w; ; n += 16 {
					err := claim(t, db, k, board(n))
					if errors.Is(err, edgeclaim.ErrUnavailable) {
						return nil
					}
					if err != nil {
						return err
					}
					stored[w]++
				}
			})
		}
		for n, _ := db.Count(t.Context()); n < 50; n, _ = db.Count(t.Context()) {
			<-db.Appended()
		}
		noErr(t, db.Close())
		noErr(t, g.Wait())
		noErr(t, db.Close())
		wantErr(t, claim(t, db, k, "late"), edgeclaim.ErrUnavailable)
		_, err = db.Key(t.Context(), k.ID)
		wantErr(t, err, edgeclaim.ErrUnavailable)

		db = open(t, cfg)
		want := 0
		for _, n := range stored {
			want += n
		}
		if n, err := db.Count(t.Context()); err != nil || n != uint64(want) {
			t.Fatalf("count is %d, %v, want the %d that were acknowledged", n, err, want)
		}
	}
}
