package hub_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mosquitto"
)

// asks asks for more of a key.
func (b *box) asks(key string, granted uint32) {
	b.t.Helper()
	id, err := edgeclaim.ParseKeyID(key)
	if err != nil {
		b.t.Fatal(err)
	}
	b.say(wire.KindControl, &wire.SharesWant{
		Type: wire.TypeShares, Box: b.names.Box, Epoch: b.epoch, Nonce: b.nonce,
		Wants: []wire.ShareWant{{Key: id, Granted: granted, Claims: granted, Want: 1000}},
	})
}

// shares waits until the box is told that it may make so much; it may be told
// more than once how things stood before, and other things.
func (b *box) shares(want string) {
	b.t.Helper()
	got := ""
	for range 10 {
		m, ok := b.nextDown().(*wire.Shares)
		if !ok {
			continue
		}
		b.checked(wire.KindControl, m)
		if len(m.Shares) != 1 {
			b.t.Fatalf("%+v", m.Shares)
		}
		s := m.Shares[0]
		if got = fmt.Sprintf("%s %d claims=%d exhausted=%v", s.Key, s.Granted, s.Claims, s.Exhausted); got == want {
			return
		}
	}
	b.t.Fatalf("%s, want %s", got, want)
}

// greeted says hello and waits for the welcome; what was on its way before may
// come first.
func (b *box) greeted() {
	b.t.Helper()
	b.say(wire.KindControl, b.obedient())
	for range 10 {
		if _, ok := b.nextDown().(*wire.Welcome); ok {
			return
		}
	}
	b.t.Fatal("no welcome")
}

// TestShares: a box gets its part of a key, the same however often it asks, and
// hears of it again with each session, and when there may be more.
func TestShares(t *testing.T) {
	broker, dir := mosquitto.Start(t, mosquitto.Options{}).Addr(), t.TempDir()
	r := start(t, broker, dir)
	publish(t, dir, document(t, 1, edgeclaim.DocumentTemplates, 1, `"templates":[{"template_id":"t-1","name":"T","one_time":false,"max_claims":4}],`+
		`"keys":[{"key_id":"k-1","template_id":"t-1","sha256":"`+strings.Repeat("ab", 32)+`"}]`))
	greet := func(name string) *box {
		b := newBox(t, broker, name, r.public())
		b.greeted()
		b.offered("templates 1")
		return b
	}
	a := greet("box-a")
	a.asks("k-1", 0)
	a.shares("k-1 2 claims=0 exhausted=false")
	a.asks("k-1", 0)
	a.shares("k-1 2 claims=0 exhausted=false")
	a.tell(prov, 1, 1)
	b := greet("box-b")
	b.asks("k-1", 0)
	b.shares("k-1 1 claims=0 exhausted=false")
	b.asks("k-1", 1)
	b.shares("k-1 2 claims=1 exhausted=true")
	key, _ := edgeclaim.ParseKeyID("k-1")
	await(t, "the claim", func() bool {
		made, err := r.db.Shares(t.Context(), registry.ShareFilter{Box: "box-a"})
		return err == nil && len(made) == 1 && made[0].Claims == 1
	})
	beside(t, dir, func(db *registry.DB) {
		if freed, err := db.ReleaseShares(t.Context(), "box-a", key); freed != 1 || err != nil {
			t.Fatal(freed, err)
		}
	})
	b.shares("k-1 2 claims=1 exhausted=false")
	a.shares("k-1 1 claims=1 exhausted=false")
	// A session that begins hears of what the box has: it may have forgotten.
	b.greeted()
	b.offered("templates 1")
	b.shares("k-1 2 claims=1 exhausted=false")
}

// TestVerdicts: what an operator decides beside the hub is told the box that it
// is against, until that says that it has done it.
func TestVerdicts(t *testing.T) {
	broker, dir := mosquitto.Start(t, mosquitto.Options{}).Addr(), t.TempDir()
	r := start(t, broker, dir)
	a, b := newBox(t, broker, "box-a", r.public()), newBox(t, broker, "box-b", r.public())
	shared := a.device(1)
	for _, one := range []*box{a, b} {
		h := one.greeting()
		h.Enrolled = true
		one.say(wire.KindControl, h)
		next[*wire.Welcome](one)
		one.told(1, edgeclaim.TypeDeviceProvisioned, a, fmt.Sprintf(`"name":"Pump","template_id":"t-1","key_id":"k-1","claimed_via":"mqtt",`+
			`"claimed_at":"2026-10-04T09:12:33Z","credential":{"type":"api_key","sha256":%q}`, edgeclaim.NewSecret(one.secret(1)).Hash()))
		one.ack(prov, 1)
	}
	beside(t, dir, func(db *registry.DB) {
		open, err := db.Conflicts(t.Context(), registry.ConflictFilter{Open: true})
		if err != nil || len(open) != 1 {
			t.Fatal(open, err)
		}
		if err := db.Resolve(t.Context(), open[0].ID, "box-a"); err != nil {
			t.Fatal(err)
		}
	})
	m := next[*wire.Verdicts](b)
	b.checked(wire.KindControl, m)
	v := m.Verdicts[0]
	if len(m.Verdicts) != 1 || v.Device.ID != shared || v.KeptBox != "box-a" || !v.Void.Equal(edgeclaim.NewSecret(b.secret(1)).Hash()) ||
		!v.Device.Credential.Hash.Equal(edgeclaim.NewSecret(a.secret(1)).Hash()) {
		t.Errorf("%+v", m.Verdicts)
	}
	b.told(2, edgeclaim.TypeDeviceConflict, a, `"kind":"superseded","at":"2026-10-04T09:12:33Z"`)
	b.ack(prov, 2)
	page, err := r.db.Verdicts(t.Context(), registry.VerdictMark{})
	if err != nil || len(page.Verdicts) != 0 {
		t.Errorf("%+v, %v", page, err)
	}
	if v, err := r.db.Verify(t.Context(), edgeclaim.NewSecret(a.secret(1)).Hash()); err != nil || !v.Valid {
		t.Errorf("%+v, %v", v, err)
	}
	a.silent()
}

// told tells one record of prov on the first device of a box, which may be
// another one.
func (b *box) told(sequence uint64, kind edgeclaim.RecordType, of *box, members string) {
	b.t.Helper()
	text, err := wire.EncodeEvent(b.names, b.epoch, &edgeclaim.Record{
		Lane: prov, Sequence: sequence, Type: kind, Device: of.device(1),
		Stamp: edgeclaim.Stamp{Time: time.Unix(1_800_000_000, 0), Clock: edgeclaim.ClockSynced, Boot: "boot"},
		Data:  fmt.Appendf(nil, `{"device_id":%q,"tenant_id":%q,"hardware_id":%q,%s}`, of.device(1), tenantID, of.hardware(1), members),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.appended[prov] = sequence
	b.publish(b.names.Up("prov"), b.encode(&wire.Batch{
		Box: b.names.Box, Epoch: b.epoch, Lane: prov, Nonce: b.nonce, First: sequence, Last: sequence, Events: []jsontext.Value{text},
	}), false)
}

// TestVerdictsAreSaidAgain: after a while, and never too many at once.
func TestVerdictsAreSaidAgain(t *testing.T) {
	conf := hub.Defaults()
	s, now := hub.NewSessions(&conf), time.Now()
	told := 0
	for n := range hub.BoxVerdicts {
		if s.MayJudge("box-a", byte(n), now) {
			told++
		}
	}
	if told != hub.BoxVerdicts {
		t.Errorf("%d told", told)
	}
	for _, tc := range []struct {
		box   string
		after time.Duration
		want  bool
	}{{"box-a", hub.VerdictAgain - 1, false}, {"box-b", 0, true}, {"box-a", hub.VerdictAgain, true}, {"box-a", hub.VerdictAgain + 1, false}} {
		if got := s.MayJudge(tc.box, 3, now.Add(tc.after)); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}
