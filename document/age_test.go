package document_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/document"
	"edgeclaim/internal/signeddoc"
)

const day = 24 * time.Hour

// aged is a document's age in days.
func (r *rig) aged(s *signeddoc.Signed) float64 { return r.state(s).Age / day.Seconds() }

// TestSixtyDays: a box without upstream and without a clock to be trusted, which
// jumps by months, for sixty days of running time. What ages is what runs.
func TestSixtyDays(t *testing.T) {
	inBubble(t, document.Config{Stale: edgeclaim.StaleWarn}, func(t *testing.T, r *rig) {
		warn := signs(t, key(0), paper{kind: edgeclaim.DocumentRevocations, version: 1})
		deny := signs(t, key(0), paper{kind: edgeclaim.DocumentTemplates, tenant: tenantB, version: 1, more: `,"max_age_seconds":3456000,"stale":"deny"`})
		r.takes(warn)
		r.takes(deny)
		r.run()
		jumps := map[int]time.Duration{3: 400 * day, 10: -900 * day, 31: 20 * 365 * day, 45: 0, 50: -3 * time.Hour}
		alarms := map[int]int{}
		for n := 1; n <= 60; n++ {
			if jump, ok := jumps[n]; ok {
				r.step.Store(int64(jump))
			}
			if n == 20 {
				r.restart(0)
			}
			r.pass(day)
			alarms[n] = len(r.rose())
			if got := r.aged(warn); got < float64(n)-0.001 || got > float64(n)+0.001 {
				t.Fatalf("day %d: the age is %g days", n, got)
			}
			state := r.state(warn)
			if state.Stale != (n > 30) && n != 30 || state.Policy != edgeclaim.StaleWarn {
				t.Errorf("day %d: %+v", n, state)
			}
			if state = r.state(deny); state.Stale != (n > 40) && n != 40 || state.Policy != edgeclaim.StaleDeny {
				t.Errorf("day %d: %+v", n, state)
			}
			if n != 40 && r.Denies(tenant(t, tenantB)) != (n > 40) || r.Denies(tenant(t, tenantA)) {
				t.Errorf("day %d: denies %t and %t", n, r.Denies(tenant(t, tenantB)), r.Denies(tenant(t, tenantA)))
			}
		}
		for n, count := range alarms {
			want := 0
			if n > 30 {
				want++
			}
			if n > 40 {
				want++
			}
			if count != want && n != 30 && n != 40 && n != 31 && n != 41 {
				t.Errorf("day %d: %d alarms, want %d", n, count, want)
			}
		}
		// At last somebody hears upstream.
		r.hears(warn, deny)
		if r.Denies(tenant(t, tenantB)) || r.state(warn).Stale || r.state(deny).Stale || r.aged(deny) != 0 {
			t.Errorf("heard from upstream: %+v", r.Held())
		}
		r.rose()
		r.pass(day)
		if got := r.rose(); len(got) != 0 {
			t.Errorf("alarms of what is fresh: %v", got)
		}
	})
}

// trusts says whether the kernel calls the clock synchronised, and waits until
// somebody has asked it.
func (r *rig) trusts(is bool) {
	r.synced.Store(is)
	r.pass(2 * time.Second)
}

// TestSynchronised: while the clock was synchronised then and is now, the time
// that the box was off counts, and goes on to count when it is not any more.
func TestSynchronised(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p := profiles(t, key(0), 1)
		r.trusts(true)
		r.takes(p)
		r.run()
		r.pass(day)
		r.restart(9 * day)
		r.pass(2 * time.Second) // the clock is looked at now and then
		if got := r.aged(p); got < 9.99 || got > 10.01 {
			t.Errorf("the age is %g days, want 10", got)
		}
		r.pass(time.Hour)
		r.trusts(false)
		r.step.Store(int64(365 * day))
		r.pass(day)
		if got := r.aged(p); got < 11.03 || got > 11.06 {
			t.Errorf("not synchronised any more: the age is %g days, want 11 and an hour", got)
		}
		r.restart(9 * day) // nobody knows how long
		if got := r.aged(p); got < 11.03 || got > 11.06 {
			t.Errorf("after a rest without a clock: the age is %g days, want 11 and an hour", got)
		}
		r.step.Store(0)
		r.trusts(true)
		r.pass(time.Minute)
		if got := r.aged(p); got < 20.03 || got > 20.06 {
			t.Errorf("synchronised again: the age is %g days, want 20 and an hour", got)
		}
		r.step.Store(int64(-100 * day)) // a time server that is wrong
		r.pass(time.Minute)
		if got := r.aged(p); got != 0 {
			t.Errorf("before it was confirmed: the age is %g days", got)
		}
	})
}

// TestUnsynchronisedThen: what was confirmed without a clock never ages by it.
func TestUnsynchronisedThen(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p := profiles(t, key(0), 1)
		r.step.Store(int64(-1000 * day))
		r.takes(p)
		r.run()
		r.step.Store(0)
		r.trusts(true)
		r.pass(day)
		if got := r.aged(p); got < 0.999 || got > 1.001 {
			t.Errorf("the age is %g days, want 1", got)
		}
	})
}

// TestAgesAreSaved: a crash makes documents younger by an hour at most, an orderly
// end by nothing.
func TestAgesAreSaved(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p := profiles(t, key(0), 1)
		r.takes(p)
		r.run()
		r.pass(2*time.Hour + 50*time.Minute)
		rows, err := r.db.Documents(t.Context())
		if err != nil || len(rows) != 1 {
			t.Fatal(rows, err)
		}
		if lost := r.state(p).Age - rows[0].Aged.Seconds(); lost > document.SaveEvery.Seconds() {
			t.Errorf("a crash would lose %g s", lost)
		}
		r.mu.Lock()
		saves := r.saves
		r.mu.Unlock()
		if saves != 2 {
			t.Errorf("%d saves in less than three hours", saves)
		}
		before := r.state(p).Age
		r.restart(0)
		if got := r.state(p).Age; got != before {
			t.Errorf("the age is %g s, was %g", got, before)
		}
		r.unavailable(true)
		r.pass(time.Hour)
		r.pass(time.Hour)
		r.unavailable(false) // and goes on
		if got := r.state(p).Age; got < before+7200 {
			t.Errorf("the age is %g s", got)
		}
	})
}

// TestWhoIsDenied: documents that say who may claim, and who may not, deny; others
// do not, and neither does one that is fresh.
func TestWhoIsDenied(t *testing.T) {
	for kind, want := range map[edgeclaim.DocumentType]bool{
		edgeclaim.DocumentRevocations: true, edgeclaim.DocumentTemplates: true,
		edgeclaim.DocumentProfiles: false, edgeclaim.DocumentAliases: false, edgeclaim.DocumentAllowList: false,
	} {
		t.Run(string(kind), func(t *testing.T) {
			inBubble(t, document.Config{MaxAge: time.Hour, Stale: edgeclaim.StaleDeny}, func(t *testing.T, r *rig) {
				p := signs(t, key(0), paper{kind: kind, version: 1})
				r.takes(p)
				r.run()
				r.pass(59 * time.Minute)
				if r.Denies(tenant(t, tenantA)) {
					t.Error("denies while it is fresh")
				}
				r.pass(3 * time.Minute)
				for range 2 {
					if got := r.Denies(tenant(t, tenantA)); got != want || r.Denies(tenant(t, tenantB)) {
						t.Errorf("denies %t, want %t", got, want)
					}
					if !r.state(p).Stale {
						t.Error("not stale")
					}
					r.restart(0)
				}
				r.takes(signs(t, key(0), paper{kind: kind, version: 2, more: `,"stale":"warn"`}))
				if r.Denies(tenant(t, tenantA)) {
					t.Error("denies what came just now")
				}
				r.pass(2 * time.Hour)
				if r.Denies(tenant(t, tenantA)) || !r.state(p).Stale {
					t.Errorf("denies against the document's own word, %+v", r.state(p))
				}
			})
		})
	}
}

// TestConfig: what cannot be meant is refused.
func TestConfig(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		for _, cfg := range []document.Config{
			{}, {Box: box, MaxAge: time.Second}, {Box: box, MaxAge: -time.Hour}, {Box: box, MaxAge: 11 * 365 * day}, {Box: box, Stale: "panic"},
		} {
			if _, err := document.Open(t.Context(), cfg, document.Parts{}, nil); err == nil {
				t.Errorf("%+v was taken", cfg)
			}
		}
		_, err := document.Open(t.Context(), document.Config{Box: box}, document.Parts{Store: r.db}, nil)
		if diff := cmp.Diff("documents: want a store, a rule, a clock, both keys and a logger", err.Error()); diff != "" {
			t.Error(diff)
		}
	})
}
