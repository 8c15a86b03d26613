package document_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/document"
	"edgeclaim/internal/signeddoc"
)

// TestTake: a document that was signed for this box is in force, durably, and its
// signing time raises the clock's floor.
func TestTake(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p := signs(t, key(0), paper{kind: edgeclaim.DocumentProfiles, version: 3, more: `,"box_id":"box-1","site":"berlin","max_age_seconds":60,"stale":"deny"`})
		p = reissued(t, p, "2000-06-01T00:00:00Z")
		state := r.takes(p)
		want := edgeclaim.DocumentState{
			DocumentID: p.Document.DocumentID, Version: 3, Hash: p.Hash, IssuedAt: time.Date(2000, 6, 1, 0, 0, 0, 0, time.UTC),
			AppliedAt: time.Date(2000, 6, 1, 0, 0, 0, 0, time.UTC), Policy: edgeclaim.StaleDeny,
		}
		same := cmp.Comparer(func(a, b edgeclaim.DocumentID) bool { return a == b })
		if diff := cmp.Diff(want, state, same); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if !r.changes() || r.changes() {
			t.Error("want one signal of a change")
		}
		if got := r.clock.Status().Floor; !got.Equal(want.IssuedAt) {
			t.Errorf("the floor is %s", got)
		}
		if diff := cmp.Diff([]string{"document.applied upstream profiles/" + tenantA + "/ 3"}, r.entries()); diff != "" {
			t.Errorf("audit (-want +got):\n%s", diff)
		}
		r.restart(0)
		if diff := cmp.Diff([]edgeclaim.DocumentState{want}, r.Held(), same); diff != "" {
			t.Errorf("after a restart (-want +got):\n%s", diff)
		}
		if text, err := r.Text(t.Context(), p.Document.DocumentID); err != nil || !bytes.Equal(text, p.Text) {
			t.Errorf("the text is %s, %v", text, err)
		}
		if _, err := r.Text(t.Context(), edgeclaim.DocumentID{Type: edgeclaim.DocumentSigner}); !errors.Is(err, edgeclaim.ErrNotFound) {
			t.Errorf("a text that is not there: %v", err)
		}
	})
}

// reissued is the same document, signed at another time.
func reissued(tb testing.TB, s *signeddoc.Signed, at string) *signeddoc.Signed {
	tb.Helper()
	payload := payloadOf(tb, s)
	next, err := signeddoc.Sign(key(0), bytes.Replace(payload, []byte("2000-01-01T00:00:00Z"), []byte(at), 1))
	if err != nil {
		tb.Fatal(err)
	}
	return next
}

// TestTakeRefuses: each refusal has its reason, changes nothing but the note of
// it, and is alarmed and written down once.
func TestTakeRefuses(t *testing.T) {
	held := paper{kind: edgeclaim.DocumentRevocations, version: 5, body: `{"hardware":["H1"]}`}
	with := func(version uint64, more string) paper {
		return paper{kind: held.kind, version: version, body: held.body, more: more}
	}
	for name, c := range map[string]struct {
		text   []byte
		reason edgeclaim.DocumentRefusal
		noted  uint64 // the version that the row tells of; 0: it tells of nothing
	}{
		"another key's":        {signs(t, key(1), with(6, "")).Text, edgeclaim.DocumentBadSignature, 6},
		"cut short":            {signs(t, key(0), with(6, "")).Text[:200], edgeclaim.DocumentMalformed, 0},
		"huge":                 {bytes.Repeat([]byte("x"), signeddoc.MaxText+1), edgeclaim.DocumentMalformed, 0},
		"another box's":        {signs(t, key(0), with(6, `,"box_id":"box-2"`)).Text, edgeclaim.DocumentOtherBox, 6},
		"another site's":       {signs(t, key(0), with(6, `,"site":"paris"`)).Text, edgeclaim.DocumentOtherBox, 6},
		"this box, other site": {signs(t, key(0), with(6, `,"site":"paris","box_id":"box-1"`)).Text, edgeclaim.DocumentOtherBox, 6},
		"lower":                {signs(t, key(0), with(4, "")).Text, edgeclaim.DocumentOldVersion, 4},
		"same, other content":  {signs(t, key(0), with(5, `,"stale":"deny"`)).Text, edgeclaim.DocumentSameVersion, 5},
		"shrunk":               {signs(t, key(0), paper{kind: held.kind, version: 6}).Text, edgeclaim.DocumentShrunk, 6},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
				first := signs(t, key(0), held)
				before := r.takes(first)
				r.entries()
				r.changes()
				for n := range 2 { // it comes again with every session
					_, err := r.Take(t.Context(), c.text, "upstream")
					if why, ok := errors.AsType[*edgeclaim.DocumentError](err); !ok || why.Reason != c.reason {
						t.Fatalf("error %v, want %s", err, c.reason)
					}
					if got := r.changes(); got != (c.noted > 0 && n == 0) {
						t.Errorf("changed: %t", got)
					}
				}
				if diff := cmp.Diff([]edgeclaim.Alarm{edgeclaim.AlarmDocumentRefused}, r.rose()); diff != "" {
					t.Errorf("alarms (-want +got):\n%s", diff)
				}
				if got := r.entries(); len(got) != 1 || !strings.HasPrefix(got[0], "document.refused upstream") || !strings.HasSuffix(got[0], string(c.reason)) {
					t.Errorf("audit: %q", got)
				}
				r.restart(0)
				state := r.state(first)
				if state.Version != 5 || state.Hash != before.Hash || state.RefusedVersion != c.noted || c.noted > 0 && state.Refused != string(c.reason) {
					t.Errorf("state %+v", state)
				}
				// What is taken then leaves no note of it.
				if state = r.takes(signs(t, key(0), with(7, ""))); state.Refused != "" || state.RefusedVersion != 0 || !state.RefusedAt.IsZero() {
					t.Errorf("a later version has %+v", state)
				}
			})
		})
	}
}

// TestTakeAgain: what is there already is no error, and upstream's word makes it
// fresh, whoever signed it.
func TestTakeAgain(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p := signs(t, key(0), paper{kind: edgeclaim.DocumentTemplates, version: 1})
		r.takes(p)
		r.pass(time.Hour)
		if state := r.state(p); state.Confirmed || state.Age != 3600 {
			t.Errorf("before: %+v", state)
		}
		r.takes(handsOver(t, key(0), key(1), 1))
		for _, again := range []*signeddoc.Signed{p, signs(t, key(1), paper{kind: edgeclaim.DocumentTemplates, version: 1})} {
			r.pass(time.Hour)
			if state := r.takes(again); !state.Confirmed || state.Age != 0 {
				t.Errorf("after: %+v", state)
			}
		}
		if alarms := r.rose(); len(alarms) > 0 {
			t.Errorf("alarms %v", alarms)
		}
	})
}

// TestTakeUnenrolled: a box without a key for documents takes none, says so once,
// and keeps what it had.
func TestTakeUnenrolled(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p := signs(t, key(0), paper{kind: edgeclaim.DocumentTemplates, version: 1})
		r.takes(p)
		r.enrol(nil)
		for n := range uint64(3) {
			_, err := r.Take(t.Context(), signs(t, key(0), paper{kind: edgeclaim.DocumentTemplates, version: 2 + n}).Text, "upstream")
			_, listed := r.Confirm(t.Context(), []edgeclaim.DocumentOffer{offer(p)})
			for _, err := range []error{err, listed} {
				if why, ok := errors.AsType[*edgeclaim.DocumentError](err); !ok || why.Reason != edgeclaim.DocumentUnenrolled {
					t.Fatalf("error %v", err)
				}
			}
		}
		if alarms := r.rose(); len(alarms) != 1 {
			t.Errorf("alarms %v, want one", alarms)
		}
		if state := r.state(p); state.Version != 1 || state.Refused != "" {
			t.Errorf("state %+v", state)
		}
		r.enrol(public(key(0)))
		r.takes(signs(t, key(0), paper{kind: edgeclaim.DocumentTemplates, version: 2}))
		r.enrol(nil)
		if _, err := r.Take(t.Context(), p.Text, "upstream"); err == nil || len(r.rose()) != 1 {
			t.Errorf("not enrolled once more: %v", err)
		}
	})
}

// TestTakeUnavailable: what cannot be stored now is not refused, and nothing is
// remembered of it.
func TestTakeUnavailable(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p := signs(t, key(0), paper{kind: edgeclaim.DocumentTemplates, version: 1})
		hand := handsOver(t, key(0), key(1), 1)
		r.unavailable(true)
		for _, s := range []*signeddoc.Signed{p, hand} {
			if _, err := r.Take(t.Context(), s.Text, "upstream"); !errors.Is(err, edgeclaim.ErrUnavailable) {
				t.Fatalf("error %v", err)
			}
		}
		if len(r.Held()) != 0 || len(r.rose()) != 0 || r.changes() {
			t.Errorf("held %v", r.Held())
		}
		r.unavailable(false)
		r.takes(p) // the key before still signs
		r.takes(hand)
		r.unavailable(true)
		if _, err := r.Take(t.Context(), p.Text, "upstream"); !errors.Is(err, edgeclaim.ErrUnavailable) || r.state(p).Confirmed {
			t.Errorf("confirmed without the store: %+v, %v", r.state(p), err)
		}
		// A refusal stands all the same.
		_, err := r.Take(t.Context(), signs(t, key(0), paper{kind: edgeclaim.DocumentTemplates, version: 2}).Text, "upstream")
		if !errors.Is(err, edgeclaim.ErrInvalid) || r.state(p).Refused != string(edgeclaim.DocumentBadSignature) {
			t.Errorf("%v, state %+v", err, r.state(p))
		}
		r.unavailable(false)
	})
}

// TestRuleRefuses: what the rule will never do is a refusal, and is not asked for
// again and again.
func TestRuleRefuses(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		p := signs(t, key(0), paper{kind: edgeclaim.DocumentTemplates, version: 1})
		for _, err := range []error{
			edgeclaim.Invalid("x", "y"), fmt.Errorf("a: %w", edgeclaim.ErrConflict), edgeclaim.ErrNotFound, edgeclaim.ErrExists,
			&edgeclaim.DocumentError{Reason: edgeclaim.DocumentConflicting},
		} {
			r.failed.Store(&err)
			_, got := r.Take(t.Context(), p.Text, "upstream")
			if why, ok := errors.AsType[*edgeclaim.DocumentError](got); !ok || why.Reason != edgeclaim.DocumentConflicting {
				t.Errorf("%v became %v", err, got)
			}
			r.failed.Store(nil)
		}
	})
}

// TestBounds: names that nobody here knows take so much room only, and leave it to
// documents.
func TestBounds(t *testing.T) {
	if testing.Short() {
		t.Skip("every document is an fsync")
	}
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		list := func(by byte, n int) *signeddoc.Signed {
			return signs(t, key(by), paper{kind: edgeclaim.DocumentAllowList, version: 1, more: fmt.Sprintf(`,"name":"part-%d"`, n)})
		}
		for n := range document.MaxRefused + 20 {
			_, err := r.Take(t.Context(), list(1, n).Text, "upstream")
			if !errors.Is(err, edgeclaim.ErrInvalid) {
				t.Fatal(err)
			}
		}
		if held := r.Held(); len(held) != document.MaxRefused || held[0].Version != 0 || held[0].Refused == "" {
			t.Fatalf("%d rows, the first %+v", len(held), held[0])
		}
		for n := range edgeclaim.MaxDocuments {
			r.takes(list(0, n))
		}
		_, err := r.Take(t.Context(), list(0, edgeclaim.MaxDocuments).Text, "upstream")
		if why, ok := errors.AsType[*edgeclaim.DocumentError](err); !ok || why.Reason != edgeclaim.DocumentConflicting {
			t.Errorf("one too many: %v", err)
		}
		r.restart(0)
		held := 0
		for _, state := range r.Held() {
			if state.Version == 1 {
				held++
			}
		}
		if held != edgeclaim.MaxDocuments {
			t.Errorf("%d documents", held)
		}
	})
}
