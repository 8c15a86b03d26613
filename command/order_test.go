package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/command"
)

func TestGive(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		now := r.clock.Now()
		c, err := r.Give(t.Context(), r.order("a"))
		r.noErr(err)
		equal(t, "command", c, edgeclaim.Command{
			ID: id(t, "a"), Device: device(t, 1), Tenant: must(t, edgeclaim.ParseTenantID, tenantText), Payload: json.RawMessage(`{"relay":"on"}`),
			Origin: edgeclaim.OriginOperator, By: "uid:0", Status: edgeclaim.CommandQueued,
			QueuedAt: now, ChangedAt: now, ExpiresAt: now.Add(24 * time.Hour), Number: 1,
		})
		equal(t, "woken", r.wakes(), []edgeclaim.DeviceID{device(t, 1)})
		again, err := r.Give(t.Context(), r.order("a"))
		r.noErr(err)
		equal(t, "given again", again, c)
		other := r.order("a")
		other.Payload = json.RawMessage(`1`)
		_, err = r.Give(t.Context(), other)
		wantErr(t, err, edgeclaim.ErrExists)
		made := r.order("a")
		made.ID, made.Origin, made.By = edgeclaim.CommandID{}, edgeclaim.OriginLocal, "scada"
		c, err = r.Give(t.Context(), made)
		r.noErr(err)
		if len(c.ID.String()) < 20 || c.Number != 2 {
			t.Errorf("made %+v", c)
		}
		wantTold(r, "a", "queued")
		r.waiting(2)
		equal(t, "audit", fmt.Sprint(len(r.wrote), r.wrote[0].Kind, r.wrote[0].Who, r.wrote[1].Who, r.wrote[0].Detail["command_id"]),
			"2command.queueduid:0user:scadaa")
	})
}

// orders are the ways in which an order is wrong, what an operator hears of it
// and what upstream is told.
var orders = map[string]struct {
	spoil func(*rig, *edgeclaim.Order)
	want  error
	field string
	fate  string
}{
	"unknown device": {func(r *rig, o *edgeclaim.Order) { o.Device = device(r.tb, 77) }, edgeclaim.ErrNotFound, "", "failed unknown_device"},
	"revoked device": {func(r *rig, o *edgeclaim.Order) { o.Device = r.revoke(2) }, edgeclaim.ErrConflict, "", "failed device_revoked"},
	"no payload":     {func(r *rig, o *edgeclaim.Order) { o.Payload = nil }, edgeclaim.ErrInvalid, "payload", "failed invalid"},
	"no JSON":        {func(r *rig, o *edgeclaim.Order) { o.Payload = []byte(`{"a":1`) }, edgeclaim.ErrInvalid, "payload", "failed invalid"},
	"more than one":  {func(r *rig, o *edgeclaim.Order) { o.Payload = []byte(`1 2`) }, edgeclaim.ErrInvalid, "payload", "failed invalid"},
	"a name twice":   {func(r *rig, o *edgeclaim.Order) { o.Payload = []byte(`{"a":1,"a":2}`) }, edgeclaim.ErrInvalid, "payload", "failed invalid"},
	"no UTF-8":       {func(r *rig, o *edgeclaim.Order) { o.Payload = []byte("\"\xff\"") }, edgeclaim.ErrInvalid, "payload", "failed invalid"},
	"too large": {func(r *rig, o *edgeclaim.Order) {
		o.Payload = bytes.Repeat([]byte("1"), edgeclaim.MaxCommandPayload+1)
	}, edgeclaim.ErrInvalid, "payload", "failed invalid"},
	"over":     {func(r *rig, o *edgeclaim.Order) { o.ExpiresAt = r.clock.Now() }, edgeclaim.ErrInvalid, "expires_at", "expired expired_on_arrival"},
	"long ago": {func(r *rig, o *edgeclaim.Order) { o.ExpiresAt = time.Unix(1, 0) }, edgeclaim.ErrInvalid, "expires_at", "expired expired_on_arrival"},
}

// revoke voids a device's credential, as the rule of devices does.
func (r *rig) revoke(n int) edgeclaim.DeviceID {
	r.tb.Helper()
	_, err := r.db.ChangeDevice(context.Background(), device(r.tb, n), func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.Status, d.Credential = edgeclaim.DeviceRevoked, edgeclaim.Credential{}
		return nil, nil
	})
	r.noErr(err)
	return device(r.tb, n)
}

func TestOrdersRefused(t *testing.T) {
	for name, tc := range orders {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				o := r.order("a")
				tc.spoil(r, &o)
				_, err := r.Give(t.Context(), o)
				wantErr(t, err, tc.want)
				if bad, ok := errors.AsType[*edgeclaim.InvalidError](err); ok != (tc.field != "") || ok && bad.Field != tc.field {
					t.Errorf("refused with %v", err)
				}
				wantTold(r, "a")
				o.Origin, o.By = edgeclaim.OriginUpstream, "hub"
				r.noErr(r.Order(t.Context(), o))
				wantTold(r, "a", tc.fate)
				r.waiting(0)
				if len(r.wakes())+len(r.wrote) > 0 {
					t.Errorf("woken, or written %v", r.wrote)
				}
			})
		})
	}
}

func TestExpiryIsBounded(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		far := r.order("a")
		far.ExpiresAt = r.clock.Now().Add(command.Defaults().MaxExpiry + time.Second)
		_, err := r.Give(t.Context(), far)
		wantErr(t, err, edgeclaim.ErrInvalid)
		far.Origin = edgeclaim.OriginUpstream
		r.noErr(r.Order(t.Context(), far))
		c, err := r.Show(t.Context(), far.Device, far.ID)
		r.noErr(err)
		equal(t, "expires", c.ExpiresAt, r.clock.Now().Add(command.Defaults().MaxExpiry))
	})
}

// TestOrderAgain: whatever upstream repeats, and whenever, the command is one.
func TestOrderAgain(t *testing.T) {
	inBubble(t, func(c *command.Config) { c.MaxWaiting, c.MaxPerDevice, c.MaxInFlight = 1, 1, 1 }, func(t *testing.T, r *rig) {
		o := r.order("a")
		o.Origin, o.ExpiresAt = edgeclaim.OriginUpstream, r.clock.Now().Add(time.Minute)
		for range 3 { // the box is full of it
			r.noErr(r.Order(t.Context(), o))
		}
		equal(t, "sent", r.send(), "a")
		r.noErr(r.answer("a", "successful"))
		r.restart()
		r.pass(time.Minute)
		r.noErr(r.Order(t.Context(), o)) // though it would have expired
		wantTold(r, "a", "queued", "sent", "successful")
		// Upstream has not heard: the record may be lost.
		r.pass(9*time.Minute + time.Second)
		for range 3 {
			r.noErr(r.Order(t.Context(), o))
			r.noErr(r.Cancel(t.Context(), o.Device, o.ID, "hub"))
		}
		wantTold(r, "a", "queued", "sent", "successful", "successful")
		r.pass(11 * time.Minute)
		r.noErr(r.Order(t.Context(), o))
		wantTold(r, "a", "queued", "sent", "successful", "successful", "successful")
		r.waiting(0)
	})
}

// TestFateStands: what upstream was told of an order that the box did not take
// is true for good, though upstream, which has not heard it yet, repeats the
// order when the box could take it.
func TestFateStands(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		ctx := t.Context()
		r.noErr(r.Cancel(ctx, device(t, 1), id(t, "a"), "hub")) // it was faster than the order
		o := r.order("a")
		o.Origin, o.By = edgeclaim.OriginUpstream, "hub"
		for range 3 {
			r.noErr(r.Order(ctx, o))
			r.noErr(r.Cancel(ctx, o.Device, o.ID, "hub"))
		}
		wantTold(r, "a", "cancelled unknown_command")
		r.pass(10 * time.Minute)
		for range 3 {
			r.noErr(r.Order(ctx, o)) // upstream has not heard
		}
		wantTold(r, "a", "cancelled unknown_command", "cancelled unknown_command")
		r.waiting(0)
		r.unavailable(true)
		o.ID = id(t, "b")
		wantErr(t, r.Order(ctx, o), edgeclaim.ErrUnavailable)
		r.unavailable(false)
		r.noErr(r.Order(ctx, o)) // nothing was told of it
		wantTold(r, "b", "queued")
		r.give("a", time.Hour) // an operator's is another
		o.ID = id(t, "a")
		r.noErr(r.Order(ctx, o))
		equal(t, "status", r.status("a"), "queued")
	})
}

func TestLimits(t *testing.T) {
	inBubble(t, func(c *command.Config) { c.MaxWaiting, c.MaxPerDevice, c.MaxInFlight = 5, 3, 2 }, func(t *testing.T, r *rig) {
		ctx := t.Context()
		var g errgroup.Group
		taken := make(chan string, 100)
		for n := range 20 { // at once: none too many
			g.Go(func() error {
				_, err := r.Give(ctx, r.order(fmt.Sprint("c", n)))
				if err == nil {
					taken <- fmt.Sprint("c", n)
				}
				if errors.Is(err, edgeclaim.ErrThrottled) {
					return nil
				}
				return err
			})
		}
		r.noErr(g.Wait())
		equal(t, "taken", len(taken), 3)
		o := r.order("x")
		o.Origin = edgeclaim.OriginUpstream
		r.noErr(r.Order(ctx, o))
		wantTold(r, "x", "failed too_many_for_device")
		for n := range 2 {
			o.Device, o.ID = device(t, 2), id(t, fmt.Sprint("d", n))
			r.noErr(r.Order(ctx, o))
		}
		o.Device, o.ID = device(t, 3), id(t, "y")
		r.noErr(r.Order(ctx, o))
		wantTold(r, "y", "failed too_many")
		r.waiting(5)
		_, err := r.TakeBack(ctx, device(t, 1), id(t, <-taken), "uid:0")
		r.noErr(err)
		r.noErr(r.Order(ctx, o)) // there is room again, but y has failed
		wantTold(r, "y", "failed too_many")
		o.ID = id(t, "z")
		r.noErr(r.Order(ctx, o))
		wantTold(r, "z", "queued")
		r.restart()
		r.waiting(5)
	})
}

// TestOrderUnavailable: what cannot be stored leaves nothing behind.
func TestOrderUnavailable(t *testing.T) {
	inBubble(t, func(c *command.Config) { c.MaxWaiting, c.MaxPerDevice, c.MaxInFlight = 1, 1, 1 }, func(t *testing.T, r *rig) {
		r.unavailable(true)
		for range 3 {
			wantErr(t, r.Order(t.Context(), r.order("a")), edgeclaim.ErrUnavailable)
		}
		r.unavailable(false)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantErr(t, r.Order(ctx, r.order("a")), context.Canceled)
		r.waiting(0)
		r.give("a", 0)
		wantTold(r, "a", "queued")
	})
}

func TestTakeBack(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		ctx, first := t.Context(), device(t, 1)
		r.give("a", 0)
		for range 2 {
			c, err := r.TakeBack(ctx, first, id(t, "a"), "token:ops")
			r.noErr(err)
			equal(t, "status", c.Status, edgeclaim.CommandCancelled)
		}
		wantTold(r, "a", "queued", "cancelled operator")
		equal(t, "due", r.due(), "")
		equal(t, "audit", r.wrote[1].Kind+" "+r.wrote[1].Who, "command.cancelled token:ops")
		equal(t, "entries", len(r.wrote), 2) // it was taken back once
		_, err := r.TakeBack(ctx, first, id(t, "b"), "uid:0")
		wantErr(t, err, edgeclaim.ErrNotFound)
		r.give("b", 0)
		r.send()
		r.noErr(r.answer("b", "failed"))
		_, err = r.TakeBack(ctx, first, id(t, "b"), "uid:0")
		wantErr(t, err, edgeclaim.ErrConflict)
		r.noErr(r.Cancel(ctx, first, id(t, "b"), "hub"))
		r.give("c", 0)
		r.noErr(r.Cancel(ctx, first, id(t, "c"), "hub"))
		wantTold(r, "c", "queued", "cancelled upstream")
		wantErr(t, r.answer("c", "successful"), edgeclaim.ErrNotFound) // it was never sent
		equal(t, "status", r.status("c"), "cancelled upstream")
		r.pass(time.Hour) // upstream still asks: it never heard, or has lost what it had
		r.noErr(r.Cancel(ctx, first, id(t, "c"), "hub"))
		r.noErr(r.Cancel(ctx, first, id(t, "c"), "hub"))
		wantTold(r, "c", "queued", "cancelled upstream", "cancelled upstream")
		r.noErr(r.Cancel(ctx, first, id(t, "never-came"), "hub"))
		wantTold(r, "never-came", "cancelled unknown_command")
		r.waiting(0)
	})
}

// TestRevoked: a revoked device's commands are over, whenever the revocation
// comes.
func TestRevoked(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		ctx := t.Context()
		r.give("a", 0)
		r.send()
		r.give("b", 0)
		r.Voided(ctx, device(t, 1)) // released, or rotated
		equal(t, "due", r.due(), "b")
		r.before = func() { r.revoke(1) }
		c := r.give("c", 0) // it was revoked while this was stored
		r.before = nil
		equal(t, "given", c.Status, edgeclaim.CommandCancelled)
		for _, text := range []string{"a", "b", "c"} {
			equal(t, text, r.status(text), "cancelled device_revoked")
		}
		r.waiting(0)
	})
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.give("a", 0)
		r.revoke(1)
		r.restart() // nobody was told
		r.pass(time.Second)
		equal(t, "status", r.status("a"), "cancelled device_revoked")
	})
}

func TestConfigOfDevice(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		ctx, first := t.Context(), device(t, 1)
		got, err := r.Config(ctx, first)
		r.noErr(err)
		equal(t, "nobody has set one", got, edgeclaim.DeviceConfig{Config: json.RawMessage(`{}`)})
		for _, bad := range []string{"", "{", `[]`, `1`, `{"a":1,"a":1}`, `{"a":"` + strings.Repeat("x", edgeclaim.MaxDeviceConfig) + `"}`} {
			if _, err := r.SetConfig(ctx, first, []byte(bad), "uid:0"); !errors.Is(err, edgeclaim.ErrInvalid) {
				t.Errorf("%.20s: %v", bad, err)
			}
		}
		set, err := r.SetConfig(ctx, first, []byte(` {"interval": 30 } `), "uid:0")
		r.noErr(err)
		equal(t, "set", set, edgeclaim.DeviceConfig{Version: 1, Config: json.RawMessage(`{"interval":30}`)})
		equal(t, "woken", r.wakes(), []edgeclaim.DeviceID{first})
		equal(t, "audit", r.wrote[0].Kind+" "+r.wrote[0].Detail["version"], "config.changed 1")
		got, err = r.Config(ctx, first)
		r.noErr(err)
		equal(t, "read", got, set)
		got, err = r.SetConfig(ctx, first, []byte(`{"interval":30}`), "uid:0")
		r.noErr(err)
		equal(t, "the same", got, set)
		equal(t, "entries", len(r.wrote), 1)
		_, err = r.SetConfig(ctx, device(t, 77), []byte(`{}`), "uid:0")
		wantErr(t, err, edgeclaim.ErrNotFound)
		_, err = r.Config(ctx, device(t, 77))
		wantErr(t, err, edgeclaim.ErrNotFound)
		_, err = r.SetConfig(ctx, r.revoke(2), []byte(`{}`), "uid:0")
		wantErr(t, err, edgeclaim.ErrConflict)
	})
}

func TestNewRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*command.Config){
		"max_waiting":    func(c *command.Config) { c.MaxWaiting = 100_001 },
		"max_per_device": func(c *command.Config) { c.MaxPerDevice = c.MaxWaiting + 1 },
		"max_in_flight":  func(c *command.Config) { c.MaxInFlight = 0 },
		"default_expiry": func(c *command.Config) { c.DefaultExpiry = time.Millisecond },
		"max_expiry":     func(c *command.Config) { c.MaxExpiry = c.DefaultExpiry - 1 },
		"retry_base":     func(c *command.Config) { c.RetryBase = 0 },
		"retry_limit":    func(c *command.Config) { c.RetryLimit = c.RetryBase - 1 },
	} {
		cfg := command.Defaults()
		spoil(&cfg)
		if _, err := command.New(cfg, command.Parts{}, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := command.New(command.Defaults(), command.Parts{}, nil); err == nil {
		t.Error("made of nothing")
	}
}
