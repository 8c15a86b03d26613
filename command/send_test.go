package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/command"
)

// TestRetries: a command that is not answered is sent again after pauses that
// double, and at once when the device comes back.
func TestRetries(t *testing.T) {
	inBubble(t, func(c *command.Config) { c.RetryLimit = 30 * time.Second }, func(t *testing.T, r *rig) {
		r.give("a", time.Hour)
		r.give("b", time.Hour)
		equal(t, "due", r.due(), "a b")
		equal(t, "due, and nobody sent it", r.send(), "a b")
		r.noErr(r.Delivered(t.Context(), device(t, 1), id(t, "b")))
		r.wakes()
		for n, pause := range []time.Duration{10, 20, 30, 30} {
			r.pass(pause*time.Second - time.Second)
			equal(t, fmt.Sprint("due too early ", n), r.due(), "")
			equal(t, "woken too early", len(r.wakes()), 0)
			r.pass(2 * time.Second)
			equal(t, "woken", r.wakes(), []edgeclaim.DeviceID{device(t, 1)})
			equal(t, fmt.Sprint("due ", n), r.send(), "a b")
		}
		r.Listening(device(t, 1))
		equal(t, "woken", len(r.wakes()), 1)
		equal(t, "due when it comes back", r.send(), "a b")
		r.pass(11 * time.Second)
		equal(t, "due", r.send(), "a b") // the pauses have begun anew
		r.noErr(r.answer("a", "successful"))
		r.pass(time.Minute)
		equal(t, "due", r.due(), "b")
		wantTold(r, "a", "queued", "sent", "successful")
		wantTold(r, "b", "queued", "sent", "delivered")
		c, err := r.Show(t.Context(), device(t, 1), id(t, "a"))
		r.noErr(err)
		equal(t, "attempts", c.Attempts, 7)
	})
}

// TestUnheard: somebody who was woken and did nothing is woken again.
func TestUnheard(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.give("a", 24*time.Hour)
		r.wakes()
		r.pass(16 * time.Minute)
		if n := len(r.wakes()); n != 3 {
			t.Errorf("woken %d times in 16 minutes, want 3", n)
		}
	})
}

// TestInFlight: the third of two is sent when one of them has come to its end,
// and in the order they were queued.
func TestInFlight(t *testing.T) {
	inBubble(t, func(c *command.Config) { c.MaxInFlight = 2 }, func(t *testing.T, r *rig) {
		r.give("a", time.Hour)
		r.give("b", time.Minute)
		r.give("c", time.Hour)
		r.give("d", time.Hour)
		r.give("e", time.Hour)
		some, err := r.Due(t.Context(), device(t, 1), 1)
		r.noErr(err)
		equal(t, "one is asked for", names(some), "a")
		equal(t, "sent", r.send(), "a b")
		r.noErr(r.answer("a", "delivered")) // is no end
		equal(t, "due", r.due(), "")
		r.wakes()
		r.noErr(r.answer("a", "failed"))
		equal(t, "woken", len(r.wakes()), 1)
		equal(t, "sent", r.send(), "c")
		r.pass(time.Minute + time.Second) // b is over
		r.wakes()
		equal(t, "sent", r.send(), "c d")
		_, err = r.TakeBack(t.Context(), device(t, 1), id(t, "d"), "uid:0")
		r.noErr(err)
		equal(t, "due", r.due(), "e")
	})
}

// TestSentIsDurableFirst: what cannot be stored is not written.
func TestSentIsDurableFirst(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		ctx, first := t.Context(), device(t, 1)
		r.give("a", 0)
		r.unavailable(true)
		wantErr(t, r.Sent(ctx, first, id(t, "a")), edgeclaim.ErrUnavailable)
		r.unavailable(false)
		equal(t, "due", r.due(), "a")
		equal(t, "status", r.status("a"), "queued")
		r.send()
		r.unavailable(true) // the second time nothing is stored
		r.noErr(r.Sent(ctx, first, id(t, "a")))
		r.unavailable(false)
		r.restart()
		equal(t, "due after a restart", r.due(), "a")
		c, err := r.Show(ctx, first, id(t, "a"))
		r.noErr(err)
		equal(t, "attempts that are durable", c.Attempts, 1)
		r.give("b", 0)
		r.noErr(r.answer("a", "failed"))
		wantErr(t, r.Sent(ctx, first, id(t, "b"), id(t, "a")), edgeclaim.ErrConflict)
		equal(t, "none is sent", r.status("b"), "queued")
		wantErr(t, r.Sent(ctx, device(t, 2), id(t, "b")), edgeclaim.ErrConflict)
		r.noErr(r.Delivered(ctx, first, id(t, "a"))) // after its end
		r.noErr(r.Delivered(ctx, first, id(t, "never")))
		equal(t, "status", r.status("a"), "failed")
	})
}

// TestSlowDisk: what goes over while it becomes durable that it is sent is not
// written.
func TestSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		defer r.close()
		r.give("a", 5*time.Second)
		r.before = func() { <-time.After(4500 * time.Millisecond) }
		wantErr(t, r.Sent(t.Context(), device(t, 1), id(t, "a")), edgeclaim.ErrConflict)
	})
}

// TestBehindTheStore: a command that ended before memory had it is not sent, and
// does not stay.
func TestBehindTheStore(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.after = func() {
			_, err := r.db.ChangeCommands(t.Context(), []uint64{1}, func(c *edgeclaim.Command) (*edgeclaim.Record, error) {
				c.Status = edgeclaim.CommandCancelled
				return nil, nil
			})
			r.noErr(err)
		}
		r.give("a", time.Hour)
		r.after = nil
		r.give("b", time.Hour)
		r.waiting(2)
		wantErr(t, r.Sent(t.Context(), device(t, 1), id(t, "b"), id(t, "a")), edgeclaim.ErrConflict)
		equal(t, "none is sent", r.status("b"), "queued")
		equal(t, "status", r.status("a"), "cancelled")
		equal(t, "due", r.due(), "b")
		r.waiting(1)
	})
}

// TestForgottenRow: a command that memory has and the store does not, for it
// ended before memory had it and newer ones took its place, goes; and it keeps
// no other from its end.
func TestForgottenRow(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.give("a", time.Minute)
		r.give("b", time.Minute)
		r.gone.Store(1)
		r.pass(time.Minute + 30*time.Second)
		equal(t, "status", r.status("b"), "expired not_sent")
		r.waiting(0)
	})
}

// TestShortPauses: Run knows of a pause that began after it last looked.
func TestShortPauses(t *testing.T) {
	inBubble(t, func(c *command.Config) { c.RetryBase = time.Second }, func(t *testing.T, r *rig) {
		r.give("a", time.Hour)
		r.pass(time.Second)
		r.send()
		r.wakes()
		r.pass(time.Second + 200*time.Millisecond)
		equal(t, "woken", len(r.wakes()), 1)
	})
}

func TestEncode(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		c := r.give("a", 90*time.Second)
		r.pass(500 * time.Millisecond)
		text, err := r.Encode(c)
		r.noErr(err)
		equal(t, "message", string(text), fmt.Sprintf(
			`{"command_id":"a","expires_at":%q,"expires_in":89,"payload":{"relay":"on"}}`, c.ExpiresAt.Format(time.RFC3339Nano)))
		r.pass(88*time.Second + 400*time.Millisecond)
		text, err = r.Encode(c)
		r.noErr(err)
		var told struct {
			In int `json:"expires_in"`
		}
		r.noErr(json.Unmarshal(text, &told))
		equal(t, "left", told.In, 1)
		r.pass(200 * time.Millisecond)
		_, err = r.Encode(c)
		wantErr(t, err, edgeclaim.ErrConflict)
		equal(t, "due", r.due(), "")
		wantErr(t, r.Sent(t.Context(), device(t, 1), c.ID), edgeclaim.ErrConflict)
		equal(t, "it has not expired", r.status("a"), "queued")
		r.pass(time.Second)
		equal(t, "status", r.status("a"), "expired not_sent")
	})
}

// TestEncodeAsGiven: a payload is told in the bytes that it was given in, and
// takes no more room on its way to a small device.
func TestEncodeAsGiven(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		o := r.order("a")
		o.Payload = json.RawMessage(`{"if":"a<b && c>d","sign":"  é","large":1e400}`)
		c, err := r.Give(t.Context(), o)
		r.noErr(err)
		message, err := r.Encode(c)
		r.noErr(err)
		if !bytes.Contains(message, o.Payload) {
			t.Errorf("told as %s", message)
		}
	})
}

func TestExpiry(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.give("never", 10*time.Second)
		r.give("silent", 20*time.Second)
		r.give("late", 20*time.Second)
		r.give("delivered", 20*time.Second)
		r.noErr(r.Sent(t.Context(), device(t, 1), id(t, "silent"), id(t, "late"), id(t, "delivered")))
		r.pass(30 * time.Second)
		for text, want := range map[string]string{"never": "expired not_sent", "silent": "expired no_answer"} {
			equal(t, text, r.status(text), want)
		}
		r.waiting(0)
		r.noErr(r.answer("late", "successful"))
		wantErr(t, r.answer("late", "failed"), edgeclaim.ErrNotFound)      // the first one stands
		wantErr(t, r.answer("never", "successful"), edgeclaim.ErrNotFound) // it cannot have done it
		wantErr(t, r.answer("silent", "delivered"), edgeclaim.ErrNotFound) // that does not help any more
		r.noErr(r.answer("delivered", "failed"))                           // what a device did, it did
		wantTold(r, "late", "queued", "sent", "expired no_answer", "successful")
		wantTold(r, "never", "queued", "expired not_sent")
		wantTold(r, "silent", "queued", "sent", "expired no_answer")
		wantTold(r, "delivered", "queued", "sent", "expired no_answer", "failed")
		equal(t, "seen", r.saw, map[edgeclaim.CommandStatus]int{"queued": 4, "sent": 3, "expired": 4, "successful": 1, "failed": 1})
	})
}

// TestExpiryByTheFloor: expiry is judged by the later of wall clock and floor,
// pauses by running time (P10).
func TestExpiryByTheFloor(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.give("a", time.Hour)
		r.send()
		r.step.Store(int64(-100 * 24 * time.Hour)) // the battery is empty
		r.pass(11 * time.Second)
		equal(t, "due by running time", r.due(), "a")
		r.clock.Raise(time.Now().Add(2 * time.Hour)) // upstream knows better
		equal(t, "due", r.due(), "")
		r.pass(11 * time.Second)
		equal(t, "status", r.status("a"), "expired no_answer")
		c := r.give("b", time.Hour)
		equal(t, "queued at the floor", c.QueuedAt, r.clock.Now())
		r.step.Store(int64(3 * time.Hour)) // a step ahead is believed, or an offline box would never expire anything
		r.pass(11 * time.Second)
		equal(t, "status", r.status("b"), "expired not_sent")
	})
}

// TestExpiryAfterARestart: what went over meanwhile is told, in as few commits as
// may be, and nothing of it is sent.
func TestExpiryAfterARestart(t *testing.T) {
	inBubble(t, func(c *command.Config) { c.MaxPerDevice, c.MaxInFlight = 1000, 64 }, func(t *testing.T, r *rig) {
		var g errgroup.Group
		for n := range 600 {
			g.Go(func() error {
				o := r.order(fmt.Sprint("c", n))
				o.ExpiresAt = r.clock.Now().Add(time.Minute)
				_, err := r.Give(t.Context(), o)
				return err
			})
		}
		r.noErr(g.Wait())
		r.give("lives", time.Hour)
		r.close()
		r.pass(2 * time.Minute)
		r.open()
		r.waiting(601)
		equal(t, "due before Run", r.due(), "lives")
		r.unavailable(true)
		r.run()
		r.pass(time.Second)
		r.waiting(601)
		r.unavailable(false)
		r.pass(11 * time.Second) // it is tried again
		r.waiting(1)
		wantTold(r, "c17", "queued", "expired not_sent")
		equal(t, "due", r.due(), "lives")
	})
}

func TestWait(t *testing.T) {
	inBubble(t, func(c *command.Config) { c.MaxInFlight = 1 }, func(t *testing.T, r *rig) {
		wait := func(n int) <-chan error {
			heard := make(chan error, 1)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			go func() {
				defer cancel()
				heard <- r.Wait(ctx, device(t, n), asGood)
			}()
			synctest.Wait()
			return heard
		}
		one, other, elsewhere := wait(1), wait(1), wait(2)
		r.give("a", time.Hour)
		r.noErr(<-one)
		r.noErr(<-other)
		r.noErr(<-wait(1)) // it is still due
		r.send()
		again := wait(1)
		r.pass(11 * time.Second)
		r.noErr(<-again) // it was not answered
		r.send()
		next := wait(1)
		r.give("b", time.Hour) // has no place yet
		select {
		case err := <-next:
			t.Errorf("something is due: %v", err)
		default:
		}
		r.noErr(r.answer("a", "successful"))
		r.noErr(<-next)
		r.pass(time.Hour)
		wantErr(t, <-elsewhere, context.DeadlineExceeded)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		wantErr(t, r.Wait(gone, device(t, 1), asGood), context.Canceled)
	})
}

// asGood is a device that is let in as before.
func asGood() error { return nil }

// TestWaitIsJudgedAgain: who waits is looked at again when the device's
// credentials are void, also when that came between his login and his wait.
func TestWaitIsJudgedAgain(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		var void atomic.Bool
		looks := 0
		good := func() error {
			if looks++; void.Load() {
				return edgeclaim.ErrUnauthenticated
			}
			return nil
		}
		heard := map[int]chan error{1: make(chan error, 1), 2: make(chan error, 1)}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		go func() { heard[1] <- r.Wait(ctx, device(t, 1), good) }()
		go func() { heard[2] <- r.Wait(ctx, device(t, 2), asGood) }()
		synctest.Wait()
		r.Voided(ctx, device(t, 1)) // another credential of the device's
		synctest.Wait()
		equal(t, "looks", looks, 2)
		equal(t, "answers", len(heard[1])+len(heard[2]), 0)
		void.Store(true)
		began := time.Now()
		r.Voided(ctx, device(t, 1))
		wantErr(t, <-heard[1], edgeclaim.ErrUnauthenticated)
		equal(t, "after", time.Since(began), time.Duration(0))
		wantErr(t, r.Wait(ctx, device(t, 1), good), edgeclaim.ErrUnauthenticated) // it was void before
		void.Store(false)
		wantErr(t, r.Wait(ctx, device(t, 1), func() error { // it is void from just after the look
			err := good()
			if !void.Swap(true) {
				r.Voided(ctx, device(t, 1))
			}
			return err
		}), edgeclaim.ErrUnauthenticated)
		equal(t, "after", time.Since(began), time.Duration(0))
		r.give("a", 0)
		wantErr(t, r.Wait(ctx, device(t, 1), good), edgeclaim.ErrUnauthenticated) // though something is due
		wantErr(t, <-heard[2], context.DeadlineExceeded)
	})
}
