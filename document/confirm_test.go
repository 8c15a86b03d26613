package document_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/document"
	"edgeclaim/internal/signeddoc"
)

// TestConfirm: what the box has is confirmed, what it has not is wanted, who may no
// longer before who may; a lower version is refused.
func TestConfirm(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		of := func(kind edgeclaim.DocumentType, version uint64, more string) *signeddoc.Signed {
			return signs(t, key(0), paper{kind: kind, version: version, more: more})
		}
		same, newer, lower := of(edgeclaim.DocumentProfiles, 4, ""), of(edgeclaim.DocumentTemplates, 4, ""), of(edgeclaim.DocumentAliases, 4, "")
		differs, unheard := of(edgeclaim.DocumentAllowList, 4, ""), of(edgeclaim.DocumentAllowList, 4, `,"name":"old"`)
		for _, s := range []*signeddoc.Signed{same, newer, lower, differs, unheard} {
			r.takes(s)
		}
		r.pass(time.Hour)
		r.changes()
		r.rose()
		offers := []edgeclaim.DocumentOffer{
			offer(of(edgeclaim.DocumentAllowList, 4, `,"stale":"deny"`)), offer(same), offer(of(edgeclaim.DocumentAliases, 3, "")),
			offer(of(edgeclaim.DocumentTemplates, 5, "")), offer(of(edgeclaim.DocumentRevocations, 1, "")),
			offer(signs(t, key(0), paper{kind: edgeclaim.DocumentRevocations, tenant: tenantB, version: 1})),
		}
		huge := offer(of(edgeclaim.DocumentAllowList, 1, `,"name":"huge"`))
		huge.Size = signeddoc.MaxText + 1
		for range 2 {
			wanted, err := r.Confirm(t.Context(), append(slices.Clone(offers), huge))
			if err != nil {
				t.Fatal(err)
			}
			want := []edgeclaim.DocumentOffer{offers[4], offers[5], offers[3], offers[0]}
			if diff := cmp.Diff(want, wanted, cmp.Comparer(func(a, b edgeclaim.DocumentID) bool { return a == b })); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
		}
		if state := r.state(same); !state.Confirmed || state.Age != 0 {
			t.Errorf("confirmed is %+v", state)
		}
		if state := r.state(lower); state.Confirmed || state.Refused != string(edgeclaim.DocumentOldVersion) || state.RefusedVersion != 3 || state.Version != 4 {
			t.Errorf("lower is %+v", state)
		}
		for _, s := range []*signeddoc.Signed{newer, differs, unheard} {
			if state := r.state(s); state.Confirmed || state.Age != 3600 {
				t.Errorf("what was not confirmed is %+v", state)
			}
		}
		if got := r.rose(); len(got) != 2 || !r.changes() || r.changes() {
			t.Errorf("alarms %v, want one for each refusal, and one signal", got)
		}
		r.takes(of(edgeclaim.DocumentTemplates, 5, "")) // as it was offered
		if state := r.state(newer); !state.Confirmed {
			t.Errorf("taken as offered is %+v", state)
		}
		if _, err := r.Confirm(t.Context(), []edgeclaim.DocumentOffer{offer(lower)}); err != nil || r.state(lower).Refused != "" {
			t.Errorf("upstream came to its senses: %+v, %v", r.state(lower), err)
		}
		r.restart(0)
		if !r.state(same).Confirmed || !r.state(lower).Confirmed || !r.state(newer).Confirmed || r.state(unheard).Confirmed {
			t.Errorf("after a restart %+v", r.Held())
		}
	})
}

// TestForgotten: what was refused, and is offered no more, is no news for ever.
func TestForgotten(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p, wrong := profiles(t, key(0), 1), signs(t, key(5), paper{kind: edgeclaim.DocumentTemplates, version: 1})
		for range 2 {
			r.hears(p, wrong)
			if state := r.state(wrong); state.Refused != string(edgeclaim.DocumentBadSignature) || state.Version != 0 {
				t.Errorf("state %+v", state)
			}
			r.restart(0)
		}
		r.changes()
		r.hears(p)
		for range 2 {
			if got := r.Held(); len(got) != 1 || got[0].Refused != "" {
				t.Errorf("held %+v", got)
			}
			r.restart(0)
		}
	})
}

// TestConfirmRefuses: of a list that is none nothing is believed.
func TestConfirmRefuses(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p := profiles(t, key(0), 1)
		r.takes(p)
		good := offer(p)
		with := func(change func(*edgeclaim.DocumentOffer)) []edgeclaim.DocumentOffer {
			bad := good
			bad.Tenant = tenant(t, tenantB)
			change(&bad)
			return []edgeclaim.DocumentOffer{good, bad}
		}
		for name, offers := range map[string][]edgeclaim.DocumentOffer{
			"twice":          {good, good},
			"too many":       make([]edgeclaim.DocumentOffer, edgeclaim.MaxDocuments+1),
			"no type":        with(func(o *edgeclaim.DocumentOffer) { o.Type = "gossip" }),
			"no tenant":      with(func(o *edgeclaim.DocumentOffer) { o.Tenant = edgeclaim.TenantID{} }),
			"no version":     with(func(o *edgeclaim.DocumentOffer) { o.Version = 0 }),
			"high version":   with(func(o *edgeclaim.DocumentOffer) { o.Version = 1 << 53 }),
			"no hash":        with(func(o *edgeclaim.DocumentOffer) { o.Hash = "" }),
			"other spelling": with(func(o *edgeclaim.DocumentOffer) { o.Hash = "F" + o.Hash[1:] }),
			"no size":        with(func(o *edgeclaim.DocumentOffer) { o.Size = -1 }),
		} {
			if wanted, err := r.Confirm(t.Context(), offers); !errors.Is(err, edgeclaim.ErrInvalid) || wanted != nil {
				t.Errorf("%s: %v, %v", name, wanted, err)
			}
		}
		if r.state(p).Confirmed {
			t.Error("it was believed")
		}
		r.unavailable(true)
		if _, err := r.Confirm(t.Context(), []edgeclaim.DocumentOffer{good}); !errors.Is(err, edgeclaim.ErrUnavailable) || r.state(p).Confirmed {
			t.Errorf("without the store: %v, %+v", err, r.state(p))
		}
		r.unavailable(false)
	})
}

// TestRestored: a box that was restored trusts no version of its own until
// upstream has said that it is the newest.
func TestRestored(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p := profiles(t, key(0), 1)
		r.hears(p)
		if !r.state(p).Confirmed {
			t.Fatal("not confirmed")
		}
		r.changes()
		if err := r.Restored(t.Context()); err != nil || r.state(p).Confirmed || !r.changes() {
			t.Errorf("%v, state %+v", err, r.state(p))
		}
		r.restart(0)
		if r.state(p).Confirmed {
			t.Error("confirmed by a restart")
		}
		r.hears(p)
		r.unavailable(true)
		if err := r.Restored(t.Context()); !errors.Is(err, edgeclaim.ErrUnavailable) || r.state(p).Confirmed {
			t.Errorf("without the store: %v, state %+v", err, r.state(p))
		}
		r.unavailable(false)
		r.run()
		r.pass(document.LookEvery) // Run makes up for it
		rows, err := r.db.Documents(t.Context())
		if err != nil || len(rows) != 1 || rows[0].Confirmed {
			t.Errorf("stored is %+v, %v", rows, err)
		}
		offered := signs(t, key(0), paper{kind: edgeclaim.DocumentAliases, version: 1})
		if _, err := r.Confirm(t.Context(), []edgeclaim.DocumentOffer{offer(offered)}); err != nil {
			t.Fatal(err)
		}
		r.noErr(r.Restored(t.Context()))
		if r.takes(offered).Confirmed {
			t.Error("confirmed by what was said before")
		}
		if len(r.hears(profiles(t, key(0), 2))) != 1 || !r.state(p).Confirmed || r.state(p).Version != 2 {
			t.Errorf("state %+v", r.state(p))
		}
	})
}
