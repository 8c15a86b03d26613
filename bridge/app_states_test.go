package bridge_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// shrinking says fewer states the second time that it is asked.
type shrinking struct {
	*presences
	calls atomic.Int64
}

func (s *shrinking) Changed(ctx context.Context, after uint64, maximum int, withNewest bool) ([]edgeclaim.DeviceState, error) {
	if s.calls.Add(1) == 2 {
		maximum = 1
		defer signalTo(s.signal) // there is more
	}
	return s.presences.Changed(ctx, after, maximum, withNewest)
}

// TestAppLateStates: an ack of states that were told again since, in a smaller
// message, is late, and no alarm: what was told again takes back what the first
// one said of the others.
func TestAppLateStates(t *testing.T) {
	a := newApplication(t, nil)
	a.onState = func(a *application, s *wire.States) bool {
		if len(a.stated) == 2 {
			a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), State: &a.stated[0].Upto})
		}
		return len(a.stated) < 3
	}
	m := newMemory()
	states := &shrinking{presences: newPresences()}
	states.set(1, edgeclaim.PresenceOnline, nil)
	states.set(2, edgeclaim.PresenceOnline, nil)
	parts := m.withTelemetry()
	parts.States = states
	conf := appConf(a)
	conf.AckTimeout = 100 * time.Millisecond
	b := startWith(t, conf, parts)
	states.set(3, edgeclaim.PresenceOnline, nil)
	a.await(t, "all", func() bool {
		n := len(a.stated)
		return n > 2 && a.stated[n-1].Upto == 3
	})
	a.do(func() {
		first, again, next := a.stated[0], a.stated[1], a.stated[2]
		if len(first.Devices) < 2 || len(again.Devices) != 1 || len(next.Devices) != 3 || !again.Reset || !next.Reset {
			t.Errorf("told %+v, %+v, %+v", first, again, next)
		}
	})
	if alarms := b.Status().Alarms; len(alarms) != 0 {
		t.Errorf("alarms %+v", alarms)
	}
}
