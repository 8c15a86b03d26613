package wire_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// invalid fails for an error that is not an ErrInvalid, or that repeats the
// input (P5).
func invalid(t *testing.T, text []byte, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("%q: %v is not an ErrInvalid", text, err)
	}
	if len(text) > 30 && strings.Contains(err.Error(), string(text)) {
		t.Errorf("%v repeats the input", err)
	}
}

// FuzzDecodeUp: what is taken is said again in the same words.
func FuzzDecodeUp(f *testing.F) {
	for _, message := range ups(f) {
		text, _ := wire.Encode(message)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		message, err := wire.DecodeUp(names, text)
		invalid(t, text, err)
		if err == nil && message != nil {
			stable(t, message, func(again []byte) (any, error) { return wire.DecodeUp(names, again) })
		}
	})
}

func FuzzDecodeDown(f *testing.F) {
	for _, message := range downs(f) {
		text, _ := wire.Encode(message)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		message, err := wire.DecodeDown(text)
		invalid(t, text, err)
		if err == nil && message != nil {
			stable(t, message, func(again []byte) (any, error) { return wire.DecodeDown(again) })
		}
	})
}

// stable says a message twice, and wants the same words.
func stable(t *testing.T, message any, decode func([]byte) (any, error)) {
	t.Helper()
	switch message.(type) {
	case *wire.SnapshotPage, *wire.RegistryPage, *wire.Verdicts:
		return // a device without members can be heard, and not be said
	}
	once, err := wire.Encode(message)
	if err != nil {
		return // such as a time that JSON cannot say
	}
	if len(once) > wire.MaxMessage {
		return
	}
	back, err := decode(once)
	if err != nil {
		t.Fatalf("%s: %v", once, err)
	}
	twice, err := wire.Encode(back)
	// The members of a map come in any order.
	a, b := jsontext.Value(once), jsontext.Value(twice)
	if err != nil || a.Canonicalize() != nil || b.Canonicalize() != nil || !bytes.Equal(a, b) {
		t.Errorf("%s\nbecame %s, %v", once, twice, err)
	}
}

func FuzzDecodeBatch(f *testing.F) {
	event, _ := wire.EncodeEvent(names, epoch, record())
	text, _ := wire.EncodeBatch(names, &wire.Batch{Epoch: epoch, Lane: edgeclaim.LaneEvt, Nonce: nonce, First: 5, Last: 5, Events: []jsontext.Value{event}})
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := wire.DecodeBatch(names, text)
		invalid(t, text, err)
		if err != nil {
			return
		}
		if b.First == 0 || b.Last < b.First {
			t.Errorf("%q: from %d to %d", text, b.First, b.Last)
		}
		again, err := wire.EncodeBatch(names, &b)
		if err != nil {
			return
		}
		if len(again) > wire.MaxMessage {
			return
		}
		back, err := wire.DecodeBatch(names, again)
		if err != nil || fmt.Sprint(back) != fmt.Sprint(b) {
			t.Errorf("%s\nbecame %+v, %v", again, back, err)
		}
	})
}

func FuzzDecodeEvent(f *testing.F) {
	event, _ := wire.EncodeEvent(names, epoch, record())
	f.Add([]byte(event))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := wire.DecodeEvent(text)
		invalid(t, text, err)
		if err != nil {
			return
		}
		_, err = e.Check()
		invalid(t, text, err)
	})
}

// FuzzOpen: with a key, nothing comes out but what the key signed.
func FuzzOpen(f *testing.F) {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	public := private.Public().(ed25519.PublicKey)
	good := map[string]bool{}
	for _, message := range downs(f) {
		sealed, _ := wire.Seal(private, message)
		payload, _ := wire.Encode(message)
		good[string(payload)] = true
		f.Add(sealed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		payload, err := wire.Open(public, text)
		if err == nil && !good[string(payload)] {
			t.Errorf("%q was opened, which nobody signed", payload)
		}
		if err != nil && !errors.Is(err, wire.ErrForged) {
			invalid(t, text, err)
		}
		_, err = wire.Open(nil, text)
		invalid(t, text, err)
	})
}

func FuzzDecodeEnrolment(f *testing.F) {
	f.Add([]byte(`{"type":"edgeclaim.enrolment.v1","upstream_id":"hub-1","public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`))
	f.Add([]byte(`{"type":"edgeclaim.enrolment.v1","upstream_id":"hub-1","public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","seal_key":"hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo"}`))
	f.Add([]byte(`{"type":"edgeclaim.enrolment.v1","upstream_id":"hub-1","public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","seal_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`))
	f.Add([]byte(`{"type":"edgeclaim.enrolment.v1","upstream_id":"hub-1","public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","document_key":"hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, key, err := wire.DecodeEnrolment(text)
		invalid(t, text, err)
		if signs, bad := wire.DocumentKeyOf(&e); err == nil && (bad != nil || (signs == nil) != (e.DocumentKey == "")) {
			t.Errorf("%q: document key of %d bytes, %v", text, len(signs), bad)
		}
		if seal, bad := wire.SealKeyOf(&e); err == nil && (bad != nil || (seal == nil) != (e.SealKey == "")) {
			t.Errorf("%q: seal key %v, %v", text, seal, bad)
		}
		if err == nil && (len(key) != ed25519.PublicKeySize || e.Upstream == "") {
			t.Errorf("%q: key of %d bytes, upstream %q", text, len(key), e.Upstream)
		}
	})
}

func FuzzParseUp(f *testing.F) {
	f.Add(names.State())
	f.Add(names.Up("prov"))
	f.Fuzz(func(t *testing.T, topic string) {
		n, kind, ok := wire.ParseUp(topic)
		if !ok {
			return
		}
		if again := n.Up(kind); again != topic && n.State() != topic {
			t.Errorf("%q is not %q", topic, again)
		}
		if _, err := wire.NewNames(n.Site, n.Box); err != nil {
			t.Errorf("%q: %v", topic, err)
		}
	})
}
