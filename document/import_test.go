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

// brings imports a bundle, and says what became of each line.
func (r *rig) brings(lines ...[]byte) (done document.Imported, outcomes []string) {
	r.tb.Helper()
	done, err := r.Import(r.tb.Context(), bytes.NewReader(bytes.Join(lines, []byte("\n"))))
	r.noErr(err)
	for _, d := range done.Documents {
		outcomes = append(outcomes, strings.TrimSpace(fmt.Sprintf("%d %s %d %s %s", d.Line, d.Type, d.Version, d.Outcome, d.Reason)))
	}
	return done, outcomes
}

// TestImport: lines in any order are applied in theirs, and one that is bad keeps
// no other out.
func TestImport(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		old := signs(t, key(0), paper{kind: edgeclaim.DocumentTemplates, version: 1})
		r.takes(old)
		shares, err := signeddoc.SignShares(key(9), &signeddoc.Shares{Box: box, Time: time.Now(), Shares: []edgeclaim.ShareGrant{{Key: keyID(t, "k"), Granted: 5}}})
		if err != nil {
			t.Fatal(err)
		}
		revocations := signs(t, key(2), paper{kind: edgeclaim.DocumentRevocations, version: 8, body: `{"hardware":["H1"]}`})
		lines := [][]byte{
			profiles(t, key(2), 3).Text, shares, nil, handsOver(t, key(1), key(2), 4).Text, old.Text, handsOver(t, key(0), key(1), 2).Text,
			profiles(t, key(0), 9).Text, signs(t, key(2), paper{kind: edgeclaim.DocumentAliases, version: 1, more: `,"box_id":"box-2"`}).Text,
			revocations.Text, profiles(t, key(2), 2).Text, revocations.Text[:300],
		}
		want := []string{
			"6 signer 2 applied", "4 signer 4 applied", "9 revocations 8 applied", "5 templates 1 same",
			"10 profiles 2 applied", "1 profiles 3 applied", "7 profiles 9 refused bad_signature", "8 aliases 1 refused other_box: for box box-2",
			"11  0 refused malformed: document: cut short",
		}
		r.entries()
		done, outcomes := r.brings(lines...)
		if diff := cmp.Diff(want, outcomes); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if done.Applied != 5 || done.Same != 1 || done.Refused != 3 || done.Shares != document.OutcomeApplied || len(r.shares) != 1 || r.shares[0].Granted != 5 {
			t.Errorf("%+v, shares %v", done, r.shares)
		}
		if got := len(r.rose()); got != 3 {
			t.Errorf("%d alarms", got)
		}
		for _, line := range r.entries() {
			if !strings.Contains(line, " uid:0 ") && !strings.HasSuffix(line, "malformed") {
				t.Errorf("audit: %s", line)
			}
		}
		for _, state := range r.Held() {
			if state.Confirmed {
				t.Errorf("confirmed by a file: %+v", state)
			}
		}
		// The same file once more: the signers that led here are no news.
		if _, outcomes = r.brings(lines...); outcomes[0] != "6 signer 2 same" || outcomes[1] != "4 signer 4 same" || outcomes[2] != "9 revocations 8 same" {
			t.Errorf("again: %q", outcomes)
		}
	})
}

func keyID(tb testing.TB, text string) edgeclaim.KeyID {
	tb.Helper()
	id, err := edgeclaim.ParseKeyID(text)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// TestImportRenews: who brings a file vouches for its age, and not that there is
// nothing newer.
func TestImportRenews(t *testing.T) {
	inBubble(t, document.Config{MaxAge: time.Hour, Stale: edgeclaim.StaleDeny}, func(t *testing.T, r *rig) {
		p := signs(t, key(0), paper{kind: edgeclaim.DocumentTemplates, version: 1})
		r.brings(p.Text)
		r.run()
		r.pass(2 * time.Hour)
		if !r.Denies(tenant(t, tenantA)) {
			t.Fatal("not stale")
		}
		r.refusedFor(edgeclaim.DocumentBadSignature, signs(t, key(3), paper{kind: edgeclaim.DocumentTemplates, version: 2}))
		r.brings(p.Text)
		if state := r.state(p); r.Denies(tenant(t, tenantA)) || state.Age != 0 || state.Confirmed || state.RefusedVersion != 2 {
			t.Errorf("state %+v", state)
		}
	})
}

// TestImportShares: the hub's word, for this box, and on nothing else.
func TestImportShares(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		line := func(by byte, name string) []byte {
			text, err := signeddoc.SignShares(key(by), &signeddoc.Shares{Box: name, Time: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		for _, c := range []struct {
			text []byte
			want string
		}{
			{line(9, box), "applied "},
			{line(9, "box-2"), "refused other_box: for box box-2"},
			{line(0, box), "refused bad_signature"},
			{[]byte(`{"type":"edgeclaim.shares.v1"}`), "refused malformed: key_id"},
		} {
			done, _ := r.brings(c.text)
			if got := string(done.Shares) + " " + done.SharesReason; !strings.HasPrefix(got, c.want) || done.Documents == nil {
				t.Errorf("got %s, want %s", got, c.want)
			}
		}
		r.hub = nil
		if done, _ := r.brings(line(9, box)); done.SharesReason != "not_enrolled" {
			t.Errorf("without a hub: %+v", done)
		}
	})
}

// TestImportFails: what cannot be stored now ends an import, and what was done
// until then is said.
func TestImportFails(t *testing.T) {
	inBubble(t, document.Config{}, func(t *testing.T, r *rig) {
		if _, err := r.Import(t.Context(), strings.NewReader("\n")); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("an empty file: %v", err)
		}
		bad := signs(t, key(1), paper{kind: edgeclaim.DocumentRevocations, version: 1})
		r.unavailable(true)
		done, err := r.Import(t.Context(), bytes.NewReader(bytes.Join([][]byte{profiles(t, key(0), 1).Text, bad.Text}, []byte("\n"))))
		if !errors.Is(err, edgeclaim.ErrUnavailable) || done.Refused != 1 || len(done.Documents) != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		r.unavailable(false)
	})
}
