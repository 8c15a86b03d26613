package hub

import (
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

// Sessions is the table of sessions, for its rules to be tested by.
type Sessions struct{ *sessions }

// NewSessions makes an empty one.
func NewSessions(conf *Config) Sessions { return Sessions{newSessions(conf)} }

// Greet begins a session; false when there is no room.
func (t Sessions) Greet(box string, now time.Time) bool {
	n := wire.Names{Site: "s", Box: box}
	s := t.of(n, now)
	if s == nil {
		return false
	}
	s.begin(n, &wire.Hello{Epoch: "e", Nonce: "n"}, now)
	return true
}

// Tell notes that a box told something.
func (t Sessions) Tell(box string, now time.Time) {
	t.of(wire.Names{Site: "s", Box: box}, now).told = now
}

// Knows reports whether a box has a session.
func (t Sessions) Knows(box string) bool { return t.byBox[box] != nil }

// Sweep, Credit and Rush are the table's own.
func (t Sessions) Sweep(now time.Time) int          { return t.sweep(now) }
func (t Sessions) Credit() int                      { return t.credit() }
func (t Sessions) Rush(now time.Time) time.Duration { return t.rush(now) }

// MayAsk reports whether a box may be asked for a hello.
func (t Sessions) MayAsk(box string, now time.Time, every time.Duration) bool {
	return t.of(wire.Names{Site: "s", Box: box}, now).mayAsk(now, every)
}

// Receive is what the connection calls for each message that comes up.
func (h *Hub) Receive(ctx context.Context, topic string, payload []byte, retained bool) {
	h.receive(ctx, topic, payload, retained)
}

// Work applies what has come.
func (h *Hub) Work(ctx context.Context) error {
	a, err := newApplier(h)
	if err != nil {
		return err
	}
	a.drain(ctx)
	return nil
}

// Health says how long the registry is left alone, by boxes of some names.
type Health struct {
	health *health
	boxes  map[string]*session
}

// NewHealth is one for which the registry works.
func NewHealth(conf *Config) (Health, error) {
	h, err := newHealth(conf)
	return Health{h, map[string]*session{}}, err
}

func (h Health) box(name string) *session {
	if h.boxes[name] == nil {
		h.boxes[name] = &session{}
	}
	return h.boxes[name]
}

// Failed, Worked and Wait are of a box.
func (h Health) Failed(box string, now time.Time) { h.health.failed(h.box(box), now) }
func (h Health) Worked(box string) bool           { return h.health.worked(h.box(box)) }
func (h Health) Wait(box string, now time.Time) time.Duration {
	return h.health.wait(h.box(box), now)
}

// MayJudge reports whether a box is told a verdict on its nth credential.
func (t Sessions) MayJudge(box string, n byte, now time.Time) bool {
	v := &registry.Verdict{}
	v.Void, _ = edgeclaim.KeyHashFromBytes(append(make([]byte, 31), n))
	return t.of(wire.Names{Site: "s", Box: box}, now).mayJudge(v, now)
}

// What a box is told again, and how much of it at once.
const (
	OfferAgain   = offerAgain
	VerdictAgain = verdictAgain
	BoxVerdicts  = boxVerdicts
)
