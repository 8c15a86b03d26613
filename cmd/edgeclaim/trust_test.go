package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mint"
	"edgeclaim/provision/httpapi"
)

// file is an enrolment file in memory.
type file struct {
	document []byte
	fail     error
}

func (f *file) Enrolment(context.Context) ([]byte, error) { return f.document, f.fail }

func (f *file) SetEnrolment(_ context.Context, document []byte) error {
	if f.fail == nil {
		f.document = document
	}
	return f.fail
}

// keyPair makes a key pair and its enrolment file.
func keyPair(fatalf func(string, ...any), upstream string) (ed25519.PrivateKey, []byte) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		fatalf("%v", err)
	}
	document, err := json.Marshal(wire.Enrolment{
		Type: wire.EnrolmentType, Upstream: upstream, Key: base64.RawURLEncoding.EncodeToString(public),
	})
	if err != nil {
		fatalf("%v", err)
	}
	return private, document
}

// What cannot be read opens no door: everything from upstream is forged then,
// until the box is enrolled anew or not at all.
func TestDamagedEnrolmentIsClosed(t *testing.T) {
	found := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	somebody, good := keyPair(t.Fatalf, "hub")
	sealed, err := wire.Seal(somebody, &wire.Ack{})
	if err != nil {
		t.Fatal(err)
	}
	for name, kept := range map[string]*file{
		"cut short":  {document: good[:len(good)/2]},
		"empty":      {document: []byte{}},
		"another":    {document: []byte(`{"type":"edgeclaim.enrolment.v2","upstream_id":"hub","public_key":""}`)},
		"no key":     {document: []byte(`{"type":"edgeclaim.enrolment.v1","upstream_id":"hub","public_key":""}`)},
		"unreadable": {fail: errors.New("input/output error")},
	} {
		t.Run(name, func(t *testing.T) {
			x := newTrust(kept, slog.New(slog.DiscardHandler))
			if err := x.load(t.Context(), found); err != nil {
				t.Fatalf("keeps the box from starting: %v", err)
			}
			key, _ := x.pinned()
			for _, said := range [][]byte{sealed, []byte(`{"type":"ack"}`)} {
				if _, err := wire.Open(key, said); !errors.Is(err, wire.ErrForged) {
					t.Errorf("%s is taken: %v", said, err)
				}
			}
			var up edgeclaim.UpstreamStatus
			x.show(&up)
			if want := (edgeclaim.AlarmCount{Alarm: edgeclaim.AlarmEnrolment, Count: 1, Last: found}); !up.Enrolled ||
				up.LastError != enrolmentDamaged || !slices.Equal(up.Alarms, []edgeclaim.AlarmCount{want}) {
				t.Errorf("status %+v", up)
			}
			if shown, _ := x.Enrolment(t.Context()); shown != (httpapi.Enrolment{Enrolled: true, Damaged: true}) {
				t.Errorf("shown %+v", shown)
			}

			kept.fail = nil
			var told ed25519.PublicKey
			x.changed = func(key ed25519.PublicKey, _ string) { told = key }
			if _, err := x.Enrol(t.Context(), good, false); err != nil {
				t.Fatal(err)
			}
			up = edgeclaim.UpstreamStatus{}
			if x.show(&up); !up.Enrolled || up.LastError != "" || len(up.Alarms) > 0 {
				t.Errorf("mended, status %+v", up)
			}
			if _, err := wire.Open(told, sealed); err != nil {
				t.Errorf("mended, the bridge does not take the key's word: %v", err)
			}
		})
	}
}

// Enrolling: durable first, then memory and bridge; another key only on demand.
func TestTrust(t *testing.T) {
	_, first := keyPair(t.Fatalf, "hub")
	_, renamed := keyPair(t.Fatalf, "hub")
	var e wire.Enrolment
	if err := json.Unmarshal(first, &e); err != nil {
		t.Fatal(err)
	}
	sameKey, err := json.Marshal(wire.Enrolment{Type: e.Type, Upstream: "hub-2", Key: e.Key})
	if err != nil {
		t.Fatal(err)
	}
	kept := &file{}
	x := newTrust(kept, slog.New(slog.DiscardHandler))
	var told []string
	x.changed = func(key ed25519.PublicKey, upstream string) {
		told = append(told, upstream+" "+base64.RawURLEncoding.EncodeToString(key))
	}
	if err := x.load(t.Context(), time.Time{}); err != nil {
		t.Fatal(err)
	}
	disk := errors.New("disk")
	for _, step := range []struct {
		document []byte
		replace  bool
		fail     error
		want     error
	}{
		{document: []byte("{}"), want: edgeclaim.ErrInvalid},
		{document: first, fail: disk, want: disk},
		{document: first},
		{document: sameKey},
		{document: renamed, want: edgeclaim.ErrConflict},
		{document: renamed, replace: true, fail: disk, want: disk},
		{document: renamed, replace: true},
	} {
		before, _ := x.Enrolment(t.Context())
		heard := len(told)
		kept.fail = step.fail
		got, err := x.Enrol(t.Context(), step.document, step.replace)
		kept.fail = nil
		if !errors.Is(err, step.want) {
			t.Fatalf("%s: %v, want %v", step.document, err, step.want)
		}
		after, _ := x.Enrolment(t.Context())
		switch {
		case err != nil && (after != before || len(told) != heard):
			t.Errorf("%s: failed and changed %v to %v, told %v", step.document, before, after, told)
		case err == nil && (after != got || len(told) != heard+1 || string(kept.document) != string(step.document)):
			t.Errorf("%s: %v, shown %v, told %v, kept %s", step.document, got, after, told, kept.document)
		}
	}
	again := newTrust(kept, slog.New(slog.DiscardHandler))
	if err := again.load(t.Context(), time.Time{}); err != nil {
		t.Fatal(err)
	}
	mine, _ := x.Enrolment(t.Context())
	if kept, _ := again.Enrolment(t.Context()); kept != mine || !mine.Enrolled || mine.Upstream != "hub" {
		t.Errorf("%+v after a start, want %+v", kept, mine)
	}
	kept.fail = disk
	if err := x.Unenrol(t.Context()); !errors.Is(err, disk) {
		t.Error(err)
	}
	if still, _ := x.Enrolment(t.Context()); still != mine {
		t.Errorf("not unenrolled, and %+v", still)
	}
	kept.fail = nil
	for range 2 {
		if err := x.Unenrol(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if key, _ := x.pinned(); key != nil || kept.document != nil || told[len(told)-1] != " " {
		t.Errorf("unenrolled: key %x, kept %s, told %v", key, kept.document, told)
	}
}

// A PSK is sealed for whom the box is enrolled with, and for nobody else.
func TestSealing(t *testing.T) {
	opener, err := mint.GenerateOpener()
	if err != nil {
		t.Fatal(err)
	}
	_, plain := keyPair(t.Fatalf, "hub-7")
	var e wire.Enrolment
	if err := json.Unmarshal(plain, &e); err != nil {
		t.Fatal(err)
	}
	e.SealKey = base64.RawURLEncoding.EncodeToString(opener.PublicKey().Bytes())
	sealing, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	psk := edgeclaim.NewSecret("a pre-shared key")
	var id edgeclaim.DeviceID
	kept := &file{}
	x := newTrust(kept, slog.New(slog.DiscardHandler))
	for _, step := range []struct {
		name   string
		do     func() error
		sealed bool
	}{
		{"nobody", func() error { return nil }, false},
		{"without a key", func() error { _, err := x.Enrol(t.Context(), plain, false); return err }, false},
		{"with one", func() error { _, err := x.Enrol(t.Context(), sealing, false); return err }, true},
		{"after a restart", func() error {
			x = newTrust(kept, slog.New(slog.DiscardHandler))
			return x.load(t.Context(), time.Now())
		}, true},
		{"without one by mistake", func() error {
			if _, err := x.Enrol(t.Context(), plain, false); !errors.Is(err, edgeclaim.ErrConflict) {
				t.Errorf("sealing was given up without a word: %v", err)
			}
			return nil
		}, true},
		{"forgotten", func() error { return x.Unenrol(t.Context()) }, false},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		sealed, err := x.seal("box-1", id, psk)
		if err != nil || (sealed != nil) != step.sealed {
			t.Errorf("%s: %+v, %v", step.name, sealed, err)
		}
		if sealed == nil {
			continue
		}
		raw, err := base64.RawURLEncoding.DecodeString(sealed.Value)
		if err != nil {
			t.Fatal(err)
		}
		got, err := mint.OpenPSK(opener, "box-1", id, psk.Hash(), raw)
		if err != nil || got.Reveal() != psk.Reveal() || sealed.KeyID != mint.KeyID(opener.PublicKey()) {
			t.Errorf("%s: opened %v, %v, key %s", step.name, got, err, sealed.KeyID)
		}
	}
}
