package token_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/internal/token"
)

var (
	made  = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	until = made.Add(24 * time.Hour)
)

func newToken(t testing.TB, name string, scope token.Scope) (token.Token, edgeclaim.Secret) {
	t.Helper()
	tok, secret, err := token.New(name, scope, made, until)
	if err != nil {
		t.Fatal(err)
	}
	return tok, secret
}

func TestNew(t *testing.T) {
	form := regexp.MustCompile(`^ec_admin_[A-Za-z0-9_-]{43}$`)
	seen := map[string]bool{}
	for range 100 {
		tok, secret := newToken(t, "line 3", token.ScopeOperate)
		if !form.MatchString(secret.Reveal()) {
			t.Fatalf("a token of the form %q", secret.Reveal())
		}
		if !tok.Hash.Equal(secret.Hash()) {
			t.Fatal("kept by another hash")
		}
		if seen[secret.Reveal()] || seen[tok.ID.String()] {
			t.Fatal("made twice")
		}
		seen[secret.Reveal()], seen[tok.ID.String()] = true, true
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		why, name       string
		scope           token.Scope
		created, expire time.Time
		field           string
	}{
		{"no name", "", token.ScopeRead, made, until, "name"},
		{"control characters", "a\nb", token.ScopeRead, made, until, "name"},
		{"long name", strings.Repeat("x", edgeclaim.MaxName+1), token.ScopeRead, made, until, "name"},
		{"no scope", "x", "", made, until, "scope"},
		{"scope in another case", "x", "Admin", made, until, "scope"},
		{"no expiry", "x", token.ScopeRead, made, time.Time{}, "expires_at"},
		{"expires as it is made", "x", token.ScopeRead, made, made, "expires_at"},
		{"a year that JSON cannot say", "x", token.ScopeRead, made, time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC), "expires_at"},
		{"such a year by its zone", "x", token.ScopeRead, made,
			time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -2*60*60)), "expires_at"},
	} {
		tok, secret, err := token.New(tt.name, tt.scope, tt.created, tt.expire)
		var invalid *edgeclaim.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != tt.field || !secret.IsZero() || !tok.ID.IsZero() {
			t.Errorf("%s: %v, want %s to be at fault", tt.why, err, tt.field)
		}
	}
}

// What is kept and listed tells nothing of the secret, and reads back the same.
func TestJSON(t *testing.T) {
	tok, secret := newToken(t, "line 3", token.ScopeOperate)
	text, err := json.Marshal(tok)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"token_id":%q,"name":"line 3","scope":"operate","sha256":%q,`+
		`"created_at":"2026-11-01T12:00:00Z","expires_at":"2026-11-02T12:00:00Z","status":"active"}`, tok.ID, tok.Hash)
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if all := fmt.Sprintf("%s %v %+v %#v", text, tok, tok, tok); strings.Contains(all, secret.Reveal()[len(token.Prefix):]) {
		t.Error("the secret is told")
	}
	var back token.Token
	if err := json.Unmarshal(text, &back); err != nil || back != tok {
		t.Errorf("read back: %+v, %v", back, err)
	}
}

func TestParseID(t *testing.T) {
	for text, ok := range map[string]bool{
		"0123456789abcdef": true, "0123456789ABCDEF": false, "0123456789abcde": false, "0123456789abcdef0": false,
		"0123456789abcdeg": false, "": false, "01234567 9abcdef": false,
	} {
		id, err := token.ParseID(text)
		if (err == nil) != ok || ok && id.String() != text || !ok && !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%q: %v, %v", text, id, err)
		}
		var read token.ID
		if err := json.Unmarshal(fmt.Appendf(nil, "%q", text), &read); (err == nil) != ok || read != id {
			t.Errorf("%q from JSON: %v, %v", text, read, err)
		}
	}
}

func TestScopeAllows(t *testing.T) {
	order := []token.Scope{token.ScopeRead, token.ScopeOperate, token.ScopeAdmin}
	for i, has := range order {
		for j, need := range order {
			if got := has.Allows(need); got != (i >= j) {
				t.Errorf("%s allows %s: %v", has, need, got)
			}
		}
		for _, none := range []token.Scope{"", "root", "ADMIN", "read "} {
			if has.Allows(none) || none.Allows(has) || none.Allows(none) {
				t.Errorf("%q and %s", none, has)
			}
		}
		if parsed, err := token.ParseScope(string(has)); err != nil || parsed != has {
			t.Errorf("%s: %v", has, err)
		}
	}
	if _, err := token.ParseScope("root"); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("root: %v", err)
	}
}

// Unknown, revoked and expired look alike; expiry is to the instant.
func TestCheck(t *testing.T) {
	good, goodSecret := newToken(t, "good", token.ScopeAdmin)
	revoked, revokedSecret := newToken(t, "revoked", token.ScopeAdmin)
	revoked.Status = token.Revoked
	odd, oddSecret := newToken(t, "odd", token.ScopeAdmin)
	odd.Status = ""
	_, unknown := newToken(t, "never put", token.ScopeAdmin)
	set := token.NewSet(good, revoked, odd, token.Token{Status: token.Active, ExpiresAt: until})
	for _, tt := range []struct {
		name   string
		secret edgeclaim.Secret
		at     time.Time
		ok     bool
	}{
		{"good", goodSecret, made, true},
		{"good before it was made, by a clock set back", goodSecret, made.Add(-time.Hour), true},
		{"good at its last", goodSecret, until.Add(-1), true},
		{"expired", goodSecret, until, false},
		{"long expired", goodSecret, until.AddDate(50, 0, 0), false},
		{"revoked", revokedSecret, made, false},
		{"of no status", oddSecret, made, false},
		{"unknown", unknown, made, false},
		{"empty", edgeclaim.Secret{}, made, false},
		{"with more behind it", edgeclaim.NewSecret(goodSecret.Reveal() + "="), made, false},
		{"its hash", edgeclaim.NewSecret(good.Hash.String()), made, false},
	} {
		got, err := set.Check(tt.secret, tt.at)
		switch {
		case tt.ok && (err != nil || got != good):
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		case !tt.ok && (err == nil || got != token.Token{} || err.Error() != "admin token: unauthenticated" ||
			!errors.Is(err, edgeclaim.ErrUnauthenticated)):
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
	if _, err := new(token.Set).Check(goodSecret, made); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
		t.Errorf("an empty set: %v", err)
	}
}

// What is put holds at once, and replaces what had its id.
func TestPutAndRemove(t *testing.T) {
	set := token.NewSet()
	first, firstSecret := newToken(t, "first", token.ScopeRead)
	second, secondSecret := newToken(t, "second", token.ScopeRead)
	lets := func(secret edgeclaim.Secret) bool {
		_, err := set.Check(secret, made)
		return err == nil
	}
	set.Put(first)
	set.Put(second)
	if !lets(firstSecret) || !lets(secondSecret) {
		t.Fatal("one that was put is not let in")
	}
	revoked := first
	revoked.Status = token.Revoked
	set.Put(revoked)
	if lets(firstSecret) || !lets(secondSecret) {
		t.Error("after the first was revoked")
	}
	renewed, renewedSecret := newToken(t, "first", token.ScopeRead)
	renewed.ID = first.ID
	set.Put(renewed)
	if lets(firstSecret) || !lets(renewedSecret) {
		t.Error("after the first got another secret")
	}
	set.Remove(second.ID)
	set.Remove(second.ID)
	if lets(secondSecret) || !lets(renewedSecret) {
		t.Error("after the second was removed")
	}
}

func TestSetConcurrent(t *testing.T) {
	set := token.NewSet()
	kept, keptSecret := newToken(t, "kept", token.ScopeRead)
	set.Put(kept)
	var wg sync.WaitGroup
	for range 4 {
		other, otherSecret := newToken(t, "other", token.ScopeAdmin)
		wg.Go(func() {
			for range 500 {
				set.Put(other)
				if _, err := set.Check(otherSecret, made); err != nil {
					t.Error("not let in after it was put")
				}
				set.Remove(other.ID)
				if _, err := set.Check(keptSecret, made); err != nil {
					t.Error("the one that stays is not let in")
				}
			}
		})
	}
	wg.Wait()
}

func TestParse(t *testing.T) {
	_, secret := newToken(t, "x", token.ScopeRead)
	text := secret.Reveal()
	for _, tt := range []struct{ name, header, want string }{
		{"ours", "Bearer " + text, text},
		{"scheme in lower case", "bearer " + text, text},
		{"scheme in upper case", "BEARER " + text, text},
		{"every letter", "Bearer aZ09-._~+/==", "aZ09-._~+/=="},
		{"one letter", "Bearer a", "a"},
		{"the longest", "Bearer " + strings.Repeat("a", token.MaxHeader-7), strings.Repeat("a", token.MaxHeader-7)},
		{"too long", "Bearer " + strings.Repeat("a", token.MaxHeader-6), ""},
		{"nothing", "", ""},
		{"scheme alone", "Bearer", ""},
		{"scheme and space", "Bearer ", ""},
		{"token alone", text, ""},
		{"two spaces", "Bearer  " + text, ""},
		{"a tab", "Bearer\t" + text, ""},
		{"space before", " Bearer " + text, ""},
		{"space behind", "Bearer " + text + " ", ""},
		{"line feed behind", "Bearer " + text + "\n", ""},
		{"two tokens", "Bearer " + text + " " + text, ""},
		{"two by a comma", "Bearer " + text + ",Bearer " + text, ""},
		{"'=' alone", "Bearer =", ""},
		{"'=' within", "Bearer a=b", ""},
		{"quoted", `Bearer "` + text + `"`, ""},
		{"Basic", "Basic dXNlcjpwYXNz", ""},
		{"a longer scheme", "Bearers " + text, ""},
		{"a null byte", "Bearer a\x00b", ""},
		{"not ASCII", "Bearer ä", ""},
		{"not UTF-8", "Bearer \xff", ""},
	} {
		got, err := token.Parse(tt.header)
		switch {
		case got.Reveal() != tt.want || (err == nil) != (tt.want != ""):
			t.Errorf("%s: %q, %v, want %q", tt.name, got.Reveal(), err, tt.want)
		case err != nil && (!errors.Is(err, edgeclaim.ErrUnauthenticated) || err.Error() != "authorization header: unauthenticated"):
			t.Errorf("%s: error %q", tt.name, err)
		}
	}
}

// bearer says the grammar in another way (RFC 6750, section 2.1).
var bearer = regexp.MustCompile(`\A[Bb][Ee][Aa][Rr][Ee][Rr] ([A-Za-z0-9\-._~+/]+=*)\z`)

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, header string) {
		want := ""
		if m := bearer.FindStringSubmatch(header); m != nil && len(header) <= token.MaxHeader {
			want = m[1]
		}
		got, err := token.Parse(header)
		if got.Reveal() != want || (err == nil) != (want != "") {
			t.Fatalf("%q: %q, %v, want %q", header, got.Reveal(), err, want)
		}
		if err != nil && (!errors.Is(err, edgeclaim.ErrUnauthenticated) || err.Error() != "authorization header: unauthenticated") {
			t.Fatalf("%q: error %q", header, err)
		}
	})
}
