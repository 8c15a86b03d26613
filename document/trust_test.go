package document_test

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/document"
	"edgeclaim/internal/signeddoc"
)

func profiles(tb testing.TB, by ed25519.PrivateKey, version uint64) *signeddoc.Signed {
	tb.Helper()
	return signs(tb, by, paper{kind: edgeclaim.DocumentProfiles, version: version})
}

// refusedFor takes a document that has to be refused.
func (r *rig) refusedFor(reason edgeclaim.DocumentRefusal, s *signeddoc.Signed) {
	r.tb.Helper()
	_, err := r.Take(r.tb.Context(), s.Text, "upstream")
	if why, ok := errors.AsType[*edgeclaim.DocumentError](err); !ok || why.Reason != reason {
		r.tb.Fatalf("%s version %d: error %v, want %s", s.Document.Type, s.Document.Version, err, reason)
	}
}

// TestSigner: from a signer on, its key alone signs, also after a restart.
func TestSigner(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		r.takes(profiles(t, key(0), 1))
		r.refusedFor(edgeclaim.DocumentBadSignature, handsOver(t, key(1), key(1), 1)) // nobody puts himself in
		hand := handsOver(t, key(0), key(1), 2)
		r.takes(hand)
		for range 2 {
			r.refusedFor(edgeclaim.DocumentBadSignature, profiles(t, key(0), 2))
			r.refusedFor(edgeclaim.DocumentBadSignature, handsOver(t, key(0), key(3), 9))
			r.refusedFor(edgeclaim.DocumentOldVersion, handsOver(t, key(1), key(3), 1))
			r.refusedFor(edgeclaim.DocumentSameVersion, handsOver(t, key(1), key(3), 2))
			r.restart(0)
		}
		r.takes(profiles(t, key(1), 2))
		text, err := r.Text(t.Context(), hand.Document.DocumentID)
		if err != nil || string(text) != string(hand.Text) {
			t.Errorf("the signer's text is %s, %v", text, err)
		}
	})
}

// TestMissedSteps: a box that was away walks from key to key, before it takes
// anything else.
func TestMissedSteps(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		steps := []*signeddoc.Signed{handsOver(t, key(0), key(1), 2), handsOver(t, key(1), key(2), 3), handsOver(t, key(2), key(3), 7)}
		last := profiles(t, key(3), 1)
		var taken []string
		for range 10 {
			// Upstream offers the lowest signer above the box's, or its own.
			next := slices.IndexFunc(steps, func(s *signeddoc.Signed) bool { return s.Document.Version > r.state(steps[0]).Version })
			if next < 0 {
				next = len(steps) - 1
			}
			round := r.hears(last, steps[next])
			if len(round) == 0 {
				break
			}
			taken = append(taken, round...)
			r.restart(0)
		}
		if diff := cmp.Diff([]string{"signer 2", "signer 3", "signer 7", "profiles 1"}, taken); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for _, s := range []*signeddoc.Signed{steps[2], last} {
			if state := r.state(s); !state.Confirmed || state.Refused != "" {
				t.Errorf("state %+v", state)
			}
		}
		r.takes(steps[0]) // one that led here is no refusal
		if state := r.state(steps[0]); state.Version != 7 || len(r.rose()) != 0 {
			t.Errorf("state %+v", state)
		}
	})
}

// TestSignerOfNobody: a signer that the box cannot take does not keep it from the
// rest: revocations above all.
func TestSignerOfNobody(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		wrong, p := handsOver(t, key(5), key(6), 4), profiles(t, key(0), 1)
		if diff := cmp.Diff([]string{"signer 4: document refused: bad_signature", "profiles 1"}, r.hears(p, wrong)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestEnrolledAnew: with another key the chain begins anew; what is held stays,
// and counts as confirmed only when the new upstream says so.
func TestEnrolledAnew(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		hand, p := handsOver(t, key(0), key(1), 4), profiles(t, key(1), 5)
		r.hears(hand)
		r.hears(hand, p)
		if state := r.state(p); !state.Confirmed {
			t.Fatalf("state %+v", state)
		}
		r.enrol(public(key(0))) // the same once more
		if state := r.state(p); !state.Confirmed || r.state(hand).Version != 4 {
			t.Errorf("the same key again: state %+v, signer %+v", state, r.state(hand))
		}
		r.changes()
		r.enrol(public(key(5)))
		for range 2 {
			if state := r.state(p); state.Confirmed || state.Version != 5 || r.state(hand).Version != 0 {
				t.Errorf("state %+v, signer %+v", state, r.state(hand))
			}
			r.refusedFor(edgeclaim.DocumentBadSignature, profiles(t, key(1), 6))
			r.refusedFor(edgeclaim.DocumentBadSignature, handsOver(t, key(1), key(2), 9))
			r.restart(0)
		}
		r.takes(profiles(t, key(5), 6))
		r.refusedFor(edgeclaim.DocumentOldVersion, profiles(t, key(5), 4))
		r.takes(handsOver(t, key(5), key(6), 1)) // its versions begin anew, too
		r.takes(profiles(t, key(6), 7))
	})
}

// TestEnrolmentAway: an enrolment that is not there for a while voids nothing; one
// with another key does, also while the box was off.
func TestEnrolmentAway(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		hand := handsOver(t, key(0), key(1), 1)
		r.takes(hand)
		r.root = nil
		r.restart(0)
		if r.state(hand).Version != 1 {
			t.Error("the signer is gone")
		}
		r.enrol(public(key(0)))
		r.takes(profiles(t, key(1), 1))
		r.root = public(key(4))
		r.restart(0)
		if r.state(hand).Version != 0 {
			t.Error("the signer of another enrolment is there")
		}
		r.takes(profiles(t, key(4), 2))
		r.root = public(key(7)) // and where nobody said that it is another
		r.refusedFor(edgeclaim.DocumentBadSignature, profiles(t, key(4), 3))
	})
}

// TestSignersAreBounded: all that led to a key is kept, and so has an end.
func TestSignersAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("every signer is an fsync")
	}
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		for n := range uint64(document.MaxChain) {
			r.takes(handsOver(t, key(byte(n%2)), key(byte((n+1)%2)), n+1))
		}
		r.restart(0)
		r.refusedFor(edgeclaim.DocumentConflicting, handsOver(t, key(0), key(1), document.MaxChain+1))
		r.takes(profiles(t, key(0), 1))
	})
}
