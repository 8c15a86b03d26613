package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// lease is a box's shares: bridge.Shares. A key is wanted until it was granted
// something.
type lease struct {
	fail func(call string) error // asked with mu held; constant
	came chan struct{}

	mu      sync.Mutex
	wanted  []edgeclaim.Share          // guarded by mu
	granted map[edgeclaim.KeyID]uint32 // guarded by mu
	changed chan struct{}              // guarded by mu
}

func newLease() *lease {
	return &lease{came: make(chan struct{}, 1), granted: map[edgeclaim.KeyID]uint32{}, changed: make(chan struct{})}
}

func keyID(t testing.TB, text string) edgeclaim.KeyID {
	t.Helper()
	id, err := edgeclaim.ParseKeyID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// want has more wanted of keys, and says so.
func (l *lease) want(t testing.TB, keys ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		l.wanted = append(l.wanted, edgeclaim.Share{Key: keyID(t, key), Granted: 4, Claims: 3})
	}
	signalTo(l.came)
}

func (l *lease) Changed() <-chan struct{} { return l.came }

func (l *lease) Wanted(context.Context) ([]edgeclaim.Share, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		if err := l.fail("wanted"); err != nil {
			return nil, err
		}
	}
	return append([]edgeclaim.Share(nil), l.wanted...), nil
}

func (l *lease) Share(_ context.Context, grants []edgeclaim.ShareGrant) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		if err := l.fail("share"); err != nil {
			return err
		}
	}
	for _, g := range grants {
		l.granted[g.Key] = max(l.granted[g.Key], g.Granted)
	}
	var left []edgeclaim.Share
	for _, w := range l.wanted {
		if _, ok := l.granted[w.Key]; !ok {
			left = append(left, w)
		}
	}
	l.wanted = left
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

func (l *lease) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	awaitUnder(t, &l.mu, &l.changed, func() (string, bool) { return fmt.Sprintf("%s: granted %v", what, l.granted), ok() })
}

// judge takes verdicts: bridge.Verdicts.
type judge struct {
	fail func() error // asked with mu held; constant

	mu      sync.Mutex
	heard   []edgeclaim.Verdict // guarded by mu
	changed chan struct{}       // guarded by mu
}

func newJudge() *judge { return &judge{changed: make(chan struct{})} }

func (j *judge) Adjudge(_ context.Context, v edgeclaim.Verdict) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != nil {
		if err := j.fail(); err != nil {
			return err
		}
	}
	j.heard = append(j.heard, v)
	close(j.changed)
	j.changed = make(chan struct{})
	return nil
}

func verdictsOf(t testing.TB, a *application, n int) *wire.Verdicts {
	t.Helper()
	m := &wire.Verdicts{Head: a.head(wire.TypeVerdicts)}
	for _, d := range someDevices(t, n) {
		m.Verdicts = append(m.Verdicts, edgeclaim.Verdict{Device: d, Void: edgeclaim.NewSecret("void").Hash(), KeptBox: "box43"})
	}
	return m
}

// TestAppShares: what is wanted is asked for when the session begins, when
// something more is wanted, and again until it came.
func TestAppShares(t *testing.T) {
	a := newApplication(t, newSigner(t))
	l := newLease()
	l.want(t, "k1")
	failures := map[string]int{}
	l.fail = func(call string) error {
		if failures[call]++; failures[call] == 1 {
			return edgeclaim.ErrUnavailable
		}
		return nil
	}
	asked := map[edgeclaim.KeyID]int{}
	a.onRuled = func(a *application, m any) {
		w, ok := m.(*wire.SharesWant)
		if !ok {
			return
		}
		answer := &wire.Shares{Head: a.head(wire.TypeShares)}
		for _, one := range w.Wants {
			if asked[one.Key]++; asked[one.Key] == 1 {
				continue // lost
			}
			if one.Granted != 4 || one.Claims != 3 || one.Want < 1000 {
				a.problem("wants %+v", one)
			}
			answer.Shares = append(answer.Shares, edgeclaim.ShareGrant{Key: one.Key, Granted: one.Granted + 10, Claims: 3})
		}
		a.say(wire.KindControl, answer)
		a.say(wire.KindControl, answer) // twice does nothing
	}
	m := newMemory()
	parts := m.parts()
	parts.Shares = l
	b := startWith(t, appConf(a), parts, a.enrolled())
	l.await(t, "k1", func() bool { return l.granted[keyID(t, "k1")] == 14 })
	var many []string
	for i := range 2*wire.MaxShares + 1 {
		many = append(many, fmt.Sprintf("m%d", i))
	}
	l.want(t, many...)
	l.await(t, "the others", func() bool { return len(l.wanted) == 0 && len(l.granted) == len(many)+1 })
	b.stop()
	if !a.hellos[0].Shares || a.hellos[0].Documents != nil {
		t.Errorf("hello %+v", a.hellos[0])
	}
	if n := len(b.Status().Alarms); n != 0 {
		t.Errorf("alarms %v", b.Status().Alarms)
	}
}

// TestAppVerdicts: each is put into force; one that fails keeps no other out, and
// is heard when it is said again.
func TestAppVerdicts(t *testing.T) {
	a := newApplication(t, newSigner(t))
	j := newJudge()
	calls := 0
	j.fail = func() error {
		if calls++; calls == 2 {
			return errors.New("not now")
		}
		return nil
	}
	parts := newMemory().parts()
	parts.Verdicts = j
	b := startWith(t, appConf(a), parts, a.enrolled())
	b.awaitStatus(t, appUp)
	said := verdictsOf(t, a, 3)
	a.do(func() {
		said.Head = a.head(wire.TypeVerdicts)
		a.sayAs(newSigner(t), wire.KindControl, said)
		a.say(wire.KindControl, said)
	})
	count := func(n int) {
		awaitUnder(t, &j.mu, &j.changed, func() (string, bool) { return fmt.Sprintf("%d verdicts", len(j.heard)), len(j.heard) == n })
	}
	count(2)
	a.do(func() { a.say(wire.KindControl, said) })
	count(5)
	b.awaitStatus(t, alarmed(edgeclaim.AlarmForged, 1))
	if got := j.heard[0]; got.Device.ID != said.Verdicts[0].Device.ID || got.Void != said.Verdicts[0].Void || got.KeptBox != "box43" {
		t.Errorf("heard %+v", got)
	}
}
