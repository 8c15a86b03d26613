package signeddoc_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/internal/signeddoc"
)

// TestDecode: what every type can say is read, and means the same when it is
// written again.
func TestDecode(t *testing.T) {
	t.Parallel()
	for kind, payload := range good() {
		first, err := signeddoc.Decode([]byte(payload))
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		written, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		second, err := signeddoc.Decode(written)
		if err != nil {
			t.Errorf("%s, written again: %v\n%s", kind, err, written)
			continue
		}
		a, _ := json.Marshal(second)
		if !bytes.Equal(a, written) {
			t.Errorf("%s came back as %s, was %s", kind, a, written)
		}
	}
}

// TestDecodeDefaults: what is left out and has a default is filled in.
func TestDecodeDefaults(t *testing.T) {
	t.Parallel()
	d, err := signeddoc.Decode([]byte(good()["templates"]))
	if err != nil {
		t.Fatal(err)
	}
	first, second := &d.Templates.Templates[0], &d.Templates.Templates[1]
	if second.Status != edgeclaim.TemplateActive || second.Credential != edgeclaim.CredentialAPIKey || second.Approval != edgeclaim.ApprovalAuto {
		t.Errorf("defaults: %+v", second)
	}
	if first.Status != edgeclaim.TemplateDisabled || first.Credential != edgeclaim.CredentialPSK || first.Approval != edgeclaim.ApprovalManual {
		t.Errorf("what was said is overridden: %+v", first)
	}
	if !first.Expires.Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)) || first.Expires.Location() != time.UTC {
		t.Errorf("expires %s", first.Expires)
	}
	if got := []edgeclaim.KeyStatus{d.Templates.Keys[0].Status, d.Templates.Keys[1].Status}; got[0] != edgeclaim.KeyRevoked || got[1] != edgeclaim.KeyActive {
		t.Errorf("keys are %v", got)
	}
}

// TestDecodeRefuses: each fault is refused by the name of the member.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for field, payloads := range bad(t) {
		for _, payload := range payloads {
			_, err := signeddoc.Decode([]byte(payload))
			var invalid *edgeclaim.InvalidError
			if !errors.As(err, &invalid) {
				t.Errorf("%s: error %v of %.300s", field, err, payload)
			} else if invalid.Field != field {
				t.Errorf("%s: the error names %q (%s) of %.300s", field, invalid.Field, invalid.Problem, payload)
			}
		}
	}
	large := wrap("profiles", `{}`, strings.Repeat(" ", edgeclaim.MaxDocument))
	if _, err := signeddoc.Decode([]byte(large)); err == nil {
		t.Error("a document above the limit was read")
	}
	if _, err := signeddoc.Decode([]byte(large[:edgeclaim.MaxDocument-1] + "}")); err != nil {
		t.Errorf("a document of just the limit: %v", err)
	}
}

// TestSignAndOpen: what one key has signed, that key's holder alone opens; blanks
// do not count.
func TestSignAndOpen(t *testing.T) {
	t.Parallel()
	key, next := seeded(1), seeded(2)
	for kind, payload := range good() {
		signed, err := signeddoc.Sign(key, []byte(payload))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if len(signed.Text) > signeddoc.MaxText || bytes.ContainsAny(signed.Text, "\n") {
			t.Errorf("%s: not a line: %s", kind, signed.Text)
		}
		opened, err := signeddoc.Open(signed.Text, public(next), public(key))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if diff := cmp.Diff(must(json.Marshal(signed)), must(json.Marshal(opened))); diff != "" {
			t.Errorf("%s opened as another (-signed +opened):\n%s", kind, diff)
		}
		peeked, err := signeddoc.Peek(append([]byte(" \t"), signed.Text...))
		if err != nil || !bytes.Equal(peeked.Text, signed.Text) || peeked.Hash != signed.Hash || peeked.KeyID != signeddoc.KeyName(public(key)) {
			t.Errorf("%s peeked as %+v, %v", kind, peeked, err)
		}
		again, err := signeddoc.Sign(next, []byte(strings.ReplaceAll(payload, ",", " ,\n\t")))
		if err != nil || again.Hash != signed.Hash || again.KeyID == signed.KeyID {
			t.Errorf("%s signed by another key, with blanks: %+v, %v, want the same hash", kind, again, err)
		}
		refusedAs(t, edgeclaim.DocumentBadSignature, signed.Text, public(next))
		refusedAs(t, edgeclaim.DocumentBadSignature, signed.Text)
		refusedAs(t, edgeclaim.DocumentBadSignature, signed.Text, nil, ed25519.PublicKey("short"))
	}
	if _, err := signeddoc.Sign(key, []byte(`{"type":"signer"}`)); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("what no box takes was signed: %v", err)
	}
}

// TestOpenRefuses: what was changed after it was signed, what was signed for
// another purpose, and what was never a signed document.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	key := seeded(1)
	signed, err := signeddoc.Sign(key, []byte(good()["revocations"]))
	if err != nil {
		t.Fatal(err)
	}
	var e map[string]string
	if err := json.Unmarshal(signed.Text, &e); err != nil {
		t.Fatal(err)
	}
	with := func(member, value string) []byte {
		changed := map[string]string{}
		for k, v := range e {
			changed[k] = v
		}
		changed[member] = value
		return must(json.Marshal(changed))
	}
	b64 := base64.RawURLEncoding.EncodeToString
	payload, _ := base64.RawURLEncoding.DecodeString(e["payload"])
	forDown := ed25519.Sign(key, append([]byte("edgeclaim/v1/down\x00"), payload...))
	junk := []byte(`{"type":"signer"}`)
	junkSigned := with("payload", b64(junk))
	var j map[string]string
	_ = json.Unmarshal(junkSigned, &j)
	j["signature"] = b64(ed25519.Sign(key, append([]byte("edgeclaim/v1/document\x00"), junk...)))
	for name, c := range map[string]struct {
		text   []byte
		reason edgeclaim.DocumentRefusal
	}{
		"another payload":               {with("payload", b64(bytes.Replace(payload, []byte("H1"), []byte("H9"), 1))), edgeclaim.DocumentBadSignature},
		"another key's name":            {with("key_id", signeddoc.KeyName(public(seeded(2)))), edgeclaim.DocumentBadSignature},
		"signed for the way down":       {with("signature", b64(forDown)), edgeclaim.DocumentBadSignature},
		"no signature":                  {with("signature", ""), edgeclaim.DocumentBadSignature},
		"half a signature":              {with("signature", e["signature"][:40]), edgeclaim.DocumentBadSignature},
		"a signed document that is bad": {must(json.Marshal(j)), edgeclaim.DocumentMalformed},
		"cut short":                     {signed.Text[:len(signed.Text)-2], edgeclaim.DocumentMalformed},
		"nothing":                       {nil, edgeclaim.DocumentMalformed},
		"trailing bytes":                {append(bytes.Clone(signed.Text), "{}"...), edgeclaim.DocumentMalformed},
		"padding":                       {with("signature", e["signature"]+"=="), edgeclaim.DocumentMalformed},
		"a line end in base64url":       {with("payload", e["payload"]+"\n"), edgeclaim.DocumentMalformed},
		"not base64url":                 {with("payload", "+"+e["payload"]), edgeclaim.DocumentMalformed},
		"an empty name of a key":        {with("key_id", ""), edgeclaim.DocumentMalformed},
		"another type":                  {with("type", signeddoc.SharesType), edgeclaim.DocumentMalformed},
		"a member too many":             {with("alg", "none"), edgeclaim.DocumentMalformed},
		"too large":                     {append(bytes.Repeat([]byte(" "), signeddoc.MaxText), signed.Text...), edgeclaim.DocumentMalformed},
	} {
		t.Run(name, func(t *testing.T) { refusedAs(t, c.reason, c.text, public(key)) })
	}
}

func refusedAs(t *testing.T, reason edgeclaim.DocumentRefusal, text []byte, keys ...ed25519.PublicKey) {
	t.Helper()
	signed, err := signeddoc.Open(text, keys...)
	var why *edgeclaim.DocumentError
	if signed != nil || !errors.As(err, &why) || why.Reason != reason {
		t.Errorf("opened %v, error %v, want %s", signed, err, reason)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // of a test's own data
	}
	return v
}

// TestLargest: the largest document there may be fits the largest text.
func TestLargest(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(wrap("allow_list", `{"template_id":"t1","rows":[`), "}"))
	for n := 0; b.Len() < edgeclaim.MaxDocument-200; n++ {
		if n > 0 {
			b.WriteString(",")
		}
		b.WriteString(`{"hardware_id":"` + hash(n) + `"}`)
	}
	b.WriteString(`]}`)
	b.WriteString(strings.Repeat(" ", edgeclaim.MaxDocument-b.Len()-1) + "}")
	signed, err := signeddoc.Sign(seeded(1), []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(signed.Text) < edgeclaim.MaxDocument*4/3-400 || len(signed.Text) > signeddoc.MaxText {
		t.Errorf("a document of %d bytes is a text of %d, more than %d", b.Len(), len(signed.Text), signeddoc.MaxText)
	}
	if _, err := signeddoc.Open(signed.Text, public(seeded(1))); err != nil {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	key := signeddoc.NewKey()
	if key.Equal(signeddoc.NewKey()) {
		t.Error("two new keys are the same")
	}
	text := signeddoc.EncodePrivate(key)
	for _, end := range []string{"", "\n", "\r\n"} {
		if back, err := signeddoc.ParsePrivate(text + end); err != nil || !back.Equal(key) {
			t.Errorf("with end %q: %v", end, err)
		}
	}
	for _, wrong := range []string{"", text[1:], text + "=", text + "\n\n", " " + text, text[:20] + "\n" + text[20:], strings.Repeat("A", 86)} {
		if _, err := signeddoc.ParsePrivate(wrong); !errors.Is(err, edgeclaim.ErrInvalid) || strings.Contains(err.Error(), text[2:20]) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	name := signeddoc.EncodePublic(public(key))
	if back, err := signeddoc.ParsePublic(name); err != nil || !back.Equal(public(key)) {
		t.Errorf("a public key: %v", err)
	}
	for _, wrong := range []string{"", name[1:], name + "\n", name[:20] + "\r" + name[20:]} {
		if _, err := signeddoc.ParsePublic(wrong); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if id := signeddoc.KeyName(public(seeded(1))); len(id) != 16 || id == signeddoc.KeyName(public(seeded(2))) {
		t.Errorf("a key's name is %q", id)
	}
}
