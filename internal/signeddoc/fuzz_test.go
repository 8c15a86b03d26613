package signeddoc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/signeddoc"
)

// FuzzDecode: what is read is within its limits, can be signed, and means the same
// when it is written again. What is not is an InvalidError.
func FuzzDecode(f *testing.F) {
	for _, payload := range good() {
		f.Add([]byte(payload))
	}
	for _, payloads := range bad(f) {
		for _, payload := range payloads {
			if len(payload) < 4096 {
				f.Add([]byte(payload))
			}
		}
	}
	key := seeded(1)
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := signeddoc.Decode(payload)
		if err != nil {
			var invalid *edgeclaim.InvalidError
			if !errors.As(err, &invalid) || invalid.Field == "" {
				t.Fatalf("error %v", err)
			}
			return
		}
		if err := d.Check(); err != nil || d.Version == 0 || d.IssuedAt.IsZero() {
			t.Fatalf("read %+v: %v", d.DocumentID, err)
		}
		signed, err := signeddoc.Sign(key, payload)
		if err != nil {
			t.Fatalf("read, and not signed: %v", err)
		}
		opened, err := signeddoc.Open(signed.Text, public(key))
		if err != nil || opened.Hash != signed.Hash {
			t.Fatalf("signed, and not opened: %v", err)
		}
		written, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if len(written) > edgeclaim.MaxDocument {
			return
		}
		again, err := signeddoc.Decode(written)
		if err != nil {
			t.Fatalf("written, and not read: %v\n%s", err, written)
		}
		if same, _ := json.Marshal(again); !bytes.Equal(same, written) {
			t.Fatalf("written as %s, then as %s", written, same)
		}
	})
}

// FuzzOpen: nothing opens that was not signed, and what can be looked at is said in
// one way.
func FuzzOpen(f *testing.F) {
	key, hub := seeded(1), seeded(5)
	texts := map[string]bool{}
	for _, payload := range good() {
		signed, err := signeddoc.Sign(key, []byte(payload))
		if err != nil {
			f.Fatal(err)
		}
		texts[string(signed.Text)] = true
		f.Add(signed.Text)
		f.Add(signed.Text[:len(signed.Text)/2])
	}
	shares, err := signeddoc.SignShares(hub, &signeddoc.Shares{Box: "b", Time: time.Unix(1, 0), Shares: grants(f, "k1")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shares)
	f.Fuzz(func(t *testing.T, text []byte) {
		var why *edgeclaim.DocumentError
		opened, err := signeddoc.Open(text, public(key))
		if err == nil && !texts[string(opened.Text)] {
			t.Fatalf("opened what was never signed: %s", opened.Text)
		}
		if err != nil && !errors.As(err, &why) {
			t.Fatalf("error %v", err)
		}
		peeked, err := signeddoc.Peek(text)
		if err != nil && !errors.As(err, &why) {
			t.Fatalf("error %v", err)
		}
		if err == nil {
			again, err := signeddoc.Peek(peeked.Text)
			if err != nil || !bytes.Equal(again.Text, peeked.Text) || again.Hash != peeked.Hash {
				t.Fatalf("%s is then %+v, %v", peeked.Text, again, err)
			}
		}
		if s, err := signeddoc.OpenShares(text, public(hub)); err == nil && s.Box != "b" {
			t.Fatalf("opened shares that were never signed: %+v", s)
		}
	})
}

// FuzzReadBundle: every line is somewhere, once and in order.
func FuzzReadBundle(f *testing.F) {
	signed, err := signeddoc.Sign(seeded(1), []byte(good()["profiles"]))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed.Text)
	f.Add([]byte("\n{}\r\n\n" + `{"type":"edgeclaim.shares.v1"}` + "\nx"))
	f.Add([]byte(`{"type":"edgeclaim.shares.v1"}` + "\n" + `{"type":"edgeclaim.shares.v1"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		bundle, err := signeddoc.ReadBundle(bytes.NewReader(text))
		if err != nil {
			if !errors.Is(err, edgeclaim.ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if len(bundle.Documents) != len(bundle.Lines) {
			t.Fatalf("%d documents in %d lines", len(bundle.Documents), len(bundle.Lines))
		}
		lines := bytes.Split(text, []byte("\n"))
		full := 0
		for _, line := range lines {
			if len(bytes.TrimSpace(line)) > 0 {
				full++
			}
		}
		if bundle.Shares != nil {
			full--
		}
		if full != len(bundle.Documents) {
			t.Fatalf("%d documents of %d lines", len(bundle.Documents), full)
		}
		for i, document := range bundle.Documents {
			if line := bytes.TrimSpace(lines[bundle.Lines[i]-1]); !bytes.HasPrefix(line, document) {
				t.Fatalf("line %d is %q, not %q", bundle.Lines[i], line, document)
			}
		}
	})
}
