package wire_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

const (
	epoch = "01K0ABCDEFGHJKMNPQRSTVWXYZ"
	nonce = "AAECAwQFBgcICQoLDA0ODw"
)

var (
	names = wire.Names{Site: "plant-7", Box: "box42"}
	when  = time.Date(2026, 10, 4, 9, 12, 33, 5000, time.UTC)
)

// marks are a box's, in both lanes.
func marks() map[edgeclaim.Lane]edgeclaim.LaneMarks {
	return map[edgeclaim.Lane]edgeclaim.LaneMarks{
		edgeclaim.LaneProv: {First: 3, Appended: 1<<64 - 1, Check: edgeclaim.Check{Sequence: 2, Hash: strings.Repeat("h", 22)}},
		edgeclaim.LaneEvt:  {First: 1},
	}
}

func device(t testing.TB) edgeclaim.Device {
	t.Helper()
	tenant, err := edgeclaim.ParseTenantID("6f6f6f6f-0000-4000-8000-000000000001")
	if err != nil {
		t.Fatal(err)
	}
	hardware, _ := edgeclaim.ParseHardwareID("board-1")
	template, _ := edgeclaim.ParseTemplateID("t1")
	key, _ := edgeclaim.ParseKeyID("k1")
	return edgeclaim.Device{
		ID: edgeclaim.NewDeviceID(tenant, hardware, 1), Tenant: tenant, Hardware: hardware, Name: "Tür 3 <&>", Template: template, Key: key,
		Groups: []string{"a"}, Generation: 1, Status: edgeclaim.DeviceActive, ClaimedAt: when, ClaimedVia: edgeclaim.ViaHTTP,
		Credential: edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: edgeclaim.NewSecret("x").Hash(), IssuedAt: when},
	}
}

func ups(t testing.TB) []any {
	return []any{
		&wire.Hello{
			Type: wire.TypeHello, Versions: []int{1, 2}, Box: "box42", Site: "plant-7", Program: "v1", Epoch: epoch, Previous: "x",
			Nonce: nonce, Upstream: "hub", Enrolled: true, Lanes: marks(), Devices: 7, Time: when, Clock: edgeclaim.ClockSynced,
		},
		&wire.Want{
			Type: wire.TypeWant, Box: "box42", Epoch: epoch, Nonce: nonce, What: wire.WantRegistry,
			After: "8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33", Done: true,
		},
		&wire.SnapshotPage{
			Type: wire.TypeSnapshot, Box: "box42", Epoch: epoch, Nonce: nonce, ID: "s1", Page: 1, Last: true,
			Devices: []edgeclaim.Device{device(t)},
		},
		states(t),
		&wire.States{Type: wire.TypeState, Box: "box42", Epoch: epoch, Nonce: nonce, Reset: true, Devices: []wire.DeviceState{}},
		stated(t), &wire.Want{
			Type: wire.TypeWant, Box: "box42", Epoch: epoch, Nonce: nonce, What: wire.WantDocument,
			Document: documentID(t), Version: 7, Hash: documentHash, Part: 2,
		},
		documentsReport(t), sharesWant(t),
	}
}

func downs(t testing.TB) []wire.Down {
	head := func(kind string) wire.Head {
		return wire.Head{Type: kind, Box: "box42", Epoch: epoch, Nonce: nonce, Time: when}
	}
	zero, state := 0, uint64(1<<64-1)
	return []wire.Down{
		&wire.Welcome{
			Head: head(wire.TypeWelcome), Version: 1, Upstream: "hub", Credit: 9, StartAfter: 5, Snapshot: true, Held: 3, Recover: true,
			Resume: map[edgeclaim.Lane]wire.Resume{edgeclaim.LaneProv: {Upto: 1<<64 - 1, Check: edgeclaim.Check{Sequence: 1, Hash: "h"}}},
		},
		&wire.Refused{Head: head(wire.TypeRefused), Code: wire.RefusedVersion, Reason: "r", Versions: []int{2}},
		&wire.Again{Head: head(wire.TypeAgain)},
		&wire.Ack{
			Head: head(wire.TypeAck), Upto: map[edgeclaim.Lane]uint64{edgeclaim.LaneEvt: 5}, Credit: &zero,
			Snapshot: &wire.SnapshotAck{ID: "s1", Upto: 2}, State: &state,
			Nack: []wire.Nack{{Lane: edgeclaim.LaneProv, Sequence: 6, Code: wire.NackRetry, RetryAfter: 100, Reason: "later"}},
		},
		&wire.RegistryPage{Head: head(wire.TypeRegistry), After: "a", Devices: []edgeclaim.Device{device(t)}, More: true},
		commands(t, head(wire.TypeCommand)),
		offers(t, head(wire.TypeOffers)), documentPart(t, head(wire.TypeDocument)),
		shares(t, head(wire.TypeShares)), verdicts(t, head(wire.TypeVerdicts)),
	}
}

var same = cmp.Options{
	cmp.Comparer(func(a, b edgeclaim.Device) bool { return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b) }),
	cmpopts.EquateComparable(edgeclaim.DeviceID{}, edgeclaim.TenantID{}, edgeclaim.CommandID{}, edgeclaim.KeyID{}, edgeclaim.KeyHash{}),
}

func TestUpRoundTrips(t *testing.T) {
	for _, message := range ups(t) {
		text, err := wire.Encode(message)
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.DecodeUp(names, text)
		if diff := cmp.Diff(message, got, same); err != nil || diff != "" {
			t.Errorf("%T: %v, (-said +heard):\n%s", message, err, diff)
		}
		// A later version may say more.
		later := bytes.Replace(text, []byte("{"), []byte(`{"later":[1],`), 1)
		if _, err := wire.DecodeUp(names, later); err != nil {
			t.Errorf("with an unknown member: %v", err)
		}
	}
}

func TestDownRoundTrips(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range downs(t) {
		sealed, err := wire.Seal(private, message)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []ed25519.PublicKey{public, nil} {
			payload, err := wire.Open(key, sealed)
			if err != nil {
				t.Fatal(err)
			}
			got, err := wire.DecodeDown(payload)
			if diff := cmp.Diff(message, got, same); err != nil || diff != "" {
				t.Errorf("%T: %v, (-said +heard):\n%s", message, err, diff)
			}
		}
	}
}

func TestDecodeUpRefuses(t *testing.T) {
	hello, _ := wire.Encode(ups(t)[0])
	want, _ := wire.Encode(ups(t)[1])
	page, _ := wire.Encode(ups(t)[2])
	replace := func(text []byte, old, new string) string {
		if !bytes.Contains(text, []byte(old)) {
			t.Fatalf("no %s in %s", old, text)
		}
		return strings.Replace(string(text), old, new, 1)
	}
	for _, tc := range []struct{ text, field string }{
		{"", "message"}, {"{", "message"}, {"null", "box_id"}, {"[]", "message"}, {"{}{}", "message"}, {`{"type":"hello","type":"hello"}`, "message"},
		{"{\"type\":\"\xff\"}", "message"},
		{strings.Repeat(" ", wire.MaxMessage) + string(hello), "message"},
		{replace(hello, `"box_id":"box42"`, `"box_id":"box43"`), "box_id"},
		{replace(hello, `[1,2]`, `[]`), "versions"},
		{replace(hello, `[1,2]`, `"1"`), "message"},
		{replace(hello, epoch, "short"), "epoch"},
		{replace(hello, nonce, "short"), "nonce"},
		{replace(hello, `"first":1`, `"first":0`), "lanes"},
		{replace(hello, `"first":1`, `"first":2`), "lanes"},
		{replace(hello, `"first":1`, `"first":-1`), "message"},
		{replace(want, `"after":"8f`, `"after":"zf`), "after"},
		{replace(want, nonce, strings.Repeat("+", 22)), "nonce"},
		{replace(page, `"page":1`, `"page":0`), "page"},
		{replace(page, `"id":"s1"`, `"id":""`), "page"},
		{replace(page, `"devices":[`, `"devices":[`+strings.Repeat("{},", wire.MaxEntries)), "devices"},
	} {
		_, err := wire.DecodeUp(names, []byte(tc.text))
		var invalid *edgeclaim.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != tc.field {
			t.Errorf("%.120q: error %v, want field %s", tc.text, err, tc.field)
		}
	}
	if message, err := wire.DecodeUp(names, []byte(`{"type":"of a later version","box_id":"box42"}`)); message != nil || err != nil {
		t.Errorf("an unknown type is %v, %v; want neither", message, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	bare, _ := wire.Encode(downs(t)[3])
	sealed, err := wire.Seal(private, downs(t)[3])
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		payload, err := wire.Open(public, changed)
		if err == nil && !bytes.Equal(payload, bare) {
			t.Errorf("byte %d changed: taken as %s", i, payload)
		}
	}
	for name, tc := range map[string]struct {
		key  ed25519.PublicKey
		text string
		want error
	}{
		"another key":       {other, string(sealed), wire.ErrForged},
		"half a key":        {public[:16], string(sealed), wire.ErrForged},
		"bare":              {public, string(bare), wire.ErrForged},
		"empty":             {public, "{}", wire.ErrForged},
		"no JSON":           {public, "x", edgeclaim.ErrInvalid},
		"no JSON, any":      {nil, "x", edgeclaim.ErrInvalid},
		"no base64, any":    {nil, `{"payload":"+"}`, edgeclaim.ErrInvalid},
		"larger than right": {public, string(sealed) + strings.Repeat(" ", wire.MaxMessage), edgeclaim.ErrInvalid},
	} {
		if _, err := wire.Open(tc.key, []byte(tc.text)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if got, err := wire.Open(nil, bare); err != nil || !bytes.Equal(got, bare) {
		t.Errorf("bare, to a box that is not enrolled: %s, %v", got, err)
	}
	// A signature made for another purpose does not fit.
	raw := ed25519.Sign(private, bare)
	plain := fmt.Sprintf(`{"payload":%q,"key_id":"k","signature":%q}`, base64url(bare), base64url(raw))
	if _, err := wire.Open(public, []byte(plain)); !errors.Is(err, wire.ErrForged) {
		t.Errorf("signed without the context: %v", err)
	}
}

func record() *edgeclaim.Record {
	return &edgeclaim.Record{
		Lane: edgeclaim.LaneEvt, Sequence: 5, Type: edgeclaim.TypeClaimRefused,
		Stamp: edgeclaim.Stamp{Time: when, Clock: edgeclaim.ClockSynced, Boot: "5f0c2a3e"}, Data: []byte(`{ "a" : "<>" }`),
	}
}

func TestBatchRoundTrips(t *testing.T) {
	event, err := wire.EncodeEvent(names, epoch, record())
	if err != nil {
		t.Fatal(err)
	}
	for _, events := range [][]jsontext.Value{{}, {event}, {event, event, event}} {
		b := wire.Batch{Box: "box42", Epoch: epoch, Lane: edgeclaim.LaneEvt, Nonce: nonce, First: 5, Last: 9, Events: events}
		text, err := wire.EncodeBatch(names, &b)
		if err != nil {
			t.Fatal(err)
		}
		size := wire.BatchOverhead
		for _, e := range events {
			size += len(e) + 1
		}
		if len(text) > size {
			t.Errorf("%d bytes for %d events, more than BatchOverhead says", len(text), len(events))
		}
		got, err := wire.DecodeBatch(names, text)
		if diff := cmp.Diff(b, got); err != nil || diff != "" {
			t.Errorf("%v, (-said +heard):\n%s", err, diff)
		}
	}
	crowd := wire.Batch{Box: "box42", Epoch: epoch, Lane: edgeclaim.LaneEvt, Nonce: nonce, First: 1, Last: 9, Events: make([]jsontext.Value, wire.MaxEntries+1)}
	for i := range crowd.Events {
		crowd.Events[i] = jsontext.Value("1")
	}
	many, err := wire.EncodeBatch(names, &crowd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.DecodeBatch(names, many); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("%d events in a message: %v", len(crowd.Events), err)
	}
	longest := wire.Names{Site: strings.Repeat("s", wire.MaxLevel), Box: strings.Repeat("b", wire.MaxLevel)}
	text, err := wire.EncodeBatch(longest, &wire.Batch{
		Epoch: strings.Repeat("E", 36), Lane: edgeclaim.LaneProv, Nonce: strings.Repeat("n", wire.MaxLevel), First: 1, Last: 1<<64 - 1,
	})
	if err != nil || len(text) > wire.BatchOverhead {
		t.Errorf("a batch without events takes %d bytes of %d: %v", len(text), wire.BatchOverhead, err)
	}
}

// TestCheck: the same record has the same check at both ends, whatever its
// data, and another record another one.
func TestCheck(t *testing.T) {
	seen := map[string]string{}
	for _, data := range []string{``, `{}`, `{"a":1}`, `{"a":"\u0041"}`, `{"a":"<"}`, "\xff", `not JSON`} {
		r := record()
		r.Data = []byte(data)
		text, err := wire.EncodeEvent(names, epoch, r)
		if err != nil {
			t.Fatal(err)
		}
		event, err := wire.DecodeEvent(text)
		if err != nil {
			t.Fatal(err)
		}
		check, err := event.Check()
		if err != nil || check.Sequence != 5 || len(check.Hash) != 22 {
			t.Errorf("%q: %+v, %v", data, check, err)
		}
		if before, ok := seen[check.Hash]; ok {
			t.Errorf("%q and %q have one check", data, before)
		}
		seen[check.Hash] = data
		if data == `{}` && !bytes.Contains(text, []byte(`"data":{}`)) {
			t.Errorf("empty data is left out: %s", text)
		}
	}
}

func TestEnrolment(t *testing.T) {
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	good := fmt.Sprintf(`{"type":%q,"upstream_id":"hub-1","public_key":%q,"later":1}`, wire.EnrolmentType, base64url(public))
	e, key, err := wire.DecodeEnrolment([]byte(good))
	if err != nil || e.Upstream != "hub-1" || !key.Equal(public) {
		t.Errorf("%+v, %v", e, err)
	}
	for field, text := range map[string]string{
		"message":     "{",
		"type":        strings.Replace(good, "v1", "v2", 1),
		"upstream_id": strings.Replace(good, "hub-1", "hub 1", 1),
		"public_key":  strings.Replace(good, base64url(public), base64url(public[:31]), 1),
		"seal_key":    withSeal(good, base64url(public[:31])),
	} {
		_, _, err := wire.DecodeEnrolment([]byte(text))
		var invalid *edgeclaim.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != field {
			t.Errorf("%s: %v, want field %s", text, err, field)
		}
	}
}

// withSeal adds a key to seal PSKs for to an enrolment.
func withSeal(enrolment, key string) string {
	return strings.Replace(enrolment, `"later":1`, fmt.Sprintf(`"seal_key":%q`, key), 1)
}

// TestSealKey: an enrolment without one is good, as those of before are; one that
// nothing can be sealed for is refused when it is read, and not at the first claim.
func TestSealKey(t *testing.T) {
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	enrolment := fmt.Sprintf(`{"type":%q,"upstream_id":"hub-1","public_key":%q,"later":1}`, wire.EnrolmentType, base64url(public))
	own, err := hpke.DHKEM(ecdh.X25519()).GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	good := base64url(own.PublicKey().Bytes())
	for _, tc := range []struct {
		name, key string
		isGood    bool
	}{
		{"good", good, true},
		{"short", good[:42], false},
		{"of low order", base64url(make([]byte, 32)), false},
		{"padded", good + "=", false},
		{"bits left over", good[:42] + "_", false},
		{"no base64url", strings.Repeat("+", 43), false},
		{"long", base64url(make([]byte, 33)), false},
	} {
		e, _, err := wire.DecodeEnrolment([]byte(withSeal(enrolment, tc.key)))
		if (err == nil) != tc.isGood {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err != nil {
			if strings.Contains(err.Error(), tc.key) {
				t.Errorf("%s: the error repeats it: %v", tc.name, err)
			}
			continue
		}
		key, err := wire.SealKeyOf(&e)
		if err != nil || base64url(key.Bytes()) != tc.key {
			t.Errorf("%s: %v, %v", tc.name, key, err)
		}
	}
	e, _, err := wire.DecodeEnrolment([]byte(enrolment))
	if err != nil {
		t.Fatal(err)
	}
	if key, err := wire.SealKeyOf(&e); key != nil || err != nil {
		t.Errorf("of none: %v, %v", key, err)
	}
}

func TestTopics(t *testing.T) {
	for topic, want := range map[string]string{
		names.State(): "st", names.Up("prov"): "prov", names.Up(wire.KindControl): "ctl",
		names.Down("ack"): "", wire.HostTopic: "", "edgeclaim/v1/a/b/up/": "", "edgeclaim/v1/a/+/up/prov": "",
		"edgeclaim/v2/plant-7/box42/st": "", "edgeclaim/v1/plant-7/box42/up/prov/x": "", "": "",
	} {
		n, kind, ok := wire.ParseUp(topic)
		if ok != (want != "") || ok && (kind != want || n != names) {
			t.Errorf("%q: %v, %q, %v", topic, n, kind, ok)
		}
	}
}
