package hub_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

func TestDefaultsAreValid(t *testing.T) {
	conf := hub.Defaults()
	if err := conf.Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	for key, change := range map[string]func(*hub.Config){
		"url":            func(c *hub.Config) { c.Broker.URL = "http://user:secret@host" },
		"ack_timeout":    func(c *hub.Config) { c.AckTimeout = 0 },
		"stop_timeout":   func(c *hub.Config) { c.StopTimeout = -time.Second },
		"backoff_base":   func(c *hub.Config) { c.BackoffBase = 0 },
		"backoff_limit":  func(c *hub.Config) { c.BackoffLimit = c.BackoffBase - 1 },
		"stable_after":   func(c *hub.Config) { c.StableAfter = 0 },
		"max_boxes":      func(c *hub.Config) { c.MaxBoxes = 0 },
		"session_idle":   func(c *hub.Config) { c.SessionIdle = 0 },
		"queue_messages": func(c *hub.Config) { c.QueueMessages = 0 },
		"queue_bytes":    func(c *hub.Config) { c.QueueBytes = wire.MaxMessage },
		"group_messages": func(c *hub.Config) { c.GroupMessages = 0 },
		"group_bytes":    func(c *hub.Config) { c.GroupBytes = 0 },
		"apply_timeout":  func(c *hub.Config) { c.ApplyTimeout = 0 },
		"retry_base":     func(c *hub.Config) { c.RetryBase = 0 },
		"retry_limit":    func(c *hub.Config) { c.RetryLimit = c.RetryBase - 1 },
		"credit_min":     func(c *hub.Config) { c.CreditMin = 0 },
		"credit_max":     func(c *hub.Config) { c.CreditMax = c.CreditMin - 1 },
		"credit_total":   func(c *hub.Config) { c.CreditTotal = c.CreditMin - 1 },
		"rush_boxes":     func(c *hub.Config) { c.RushBoxes = 0 },
		"rush_step":      func(c *hub.Config) { c.RushStep = 0 },
		"rush_limit":     func(c *hub.Config) { c.RushLimit = 0 },
		"again_every":    func(c *hub.Config) { c.AgainEvery = 0 },
	} {
		conf := hub.Defaults()
		change(&conf)
		err := conf.Validate()
		if !errors.Is(err, edgeclaim.ErrInvalid) || !strings.HasPrefix(err.Error(), key+": ") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// Whatever comes up, under whatever topic, is taken, counted or passed over.
func FuzzReceive(f *testing.F) {
	dir := f.TempDir()
	key, err := hub.LoadKey(dir)
	if err != nil {
		f.Fatal(err)
	}
	db, err := registry.Open(f.Context(), registry.Config{Dir: dir})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = db.Close() })
	h, err := hub.New(hub.Defaults(), db, key, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	b := &box{
		t: f, names: wire.Names{Site: site, Box: "box-1"}, epoch: epochOf("box-1", 1),
		first: map[edgeclaim.Lane]uint64{prov: 1, evt: 1}, appended: map[edgeclaim.Lane]uint64{},
	}
	hello, err := wire.Encode(b.greeting())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.names.Up("ctl"), hello, false)
	f.Add(b.names.Up("prov"), b.encode(b.batch(prov, 1, 2)), false)
	f.Add(b.names.Up("prov"), b.encode(b.batch(evt, 1, 2)), true)
	f.Add(b.names.State(), []byte(`{"status":"online","box_id":"box-1","epoch":"`+b.epoch+`"}`), true)
	f.Add("edgeclaim/v1/a/b/up/snap", []byte("{}"), false)
	f.Fuzz(func(t *testing.T, topic string, payload []byte, retained bool) {
		h.Receive(context.Background(), topic, payload, retained)
		if err := h.Work(context.Background()); err != nil {
			t.Error(err)
		}
		if h.Figures().Failures != 0 {
			t.Error("the registry failed of it")
		}
	})
}
