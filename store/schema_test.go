package store_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"edgeclaim"
	"edgeclaim/internal/token"
	"edgeclaim/store"
)

// FuzzRows: no row, however damaged, does more than fail as damaged, and what
// can be read is the same after it was written again.
func FuzzRows(f *testing.F) {
	ref := refer(f, key(f, "key-1", "template-1"), "board-1")
	minted, err := mint(ref)(firstLife(f, key(f, "key-1", "template-1"), ref))
	noErr(f, err)
	tpl := template(f, "template-1")
	f.Add(must(store.EncodeDevice(&minted.Device))(f))
	whole := minted.Device
	whole.Credential.Type, whole.Credential.NotAfter, whole.Credential.ConfirmedAt = edgeclaim.CredentialX509, moment, moment
	whole.Tags = map[string]string{"line": "7", "": ""}
	whole.Previous, whole.PreviousUntil, whole.RotatedBy, whole.Told = whole.Credential, moment, edgeclaim.RotatorDevice, true
	whole.Mint = &edgeclaim.Mint{
		Salt: [32]byte{1}, Proof: hashOf("x"), Certificate: []byte("c"), Chain: [][]byte{[]byte("i"), []byte("r")}, SealedKey: []byte("k"),
	}
	f.Add(must(store.EncodeDevice(&whole))(f))
	f.Add(must(store.EncodeTemplate(&tpl))(f))
	f.Add(must(store.EncodeKey(&minted.Key))(f))
	f.Add(must(store.EncodeRecord(minted.Record))(f))
	f.Add([]byte{})
	f.Add(make([]byte, 17))
	id := key(f, "key-1", "template-1").ID
	admissionRows(f)
	seedDocumentRows(f)
	f.Fuzz(func(t *testing.T, row []byte) {
		again(t, row, store.DecodeDevice, store.EncodeDevice)
		again(t, row, store.DecodeTemplate, store.EncodeTemplate)
		again(t, row, func(b []byte) (edgeclaim.Key, error) { return store.DecodeKey(id, b) }, store.EncodeKey)
		again(t, row, func(b []byte) (edgeclaim.Record, error) {
			return store.DecodeRecord(edgeclaim.LaneEvt, 7, b)
		}, store.EncodeRecord)
		denialKey, tokenKey := append(tenant(t).Bytes(), "H"...), []byte("00112233445566aa")
		again(t, row, func(b []byte) (edgeclaim.Denial, error) { return store.DecodeDenial(denialKey, b) }, store.EncodeDenial)
		again(t, row, func(b []byte) (edgeclaim.Pending, error) { return store.DecodePending(make([]byte, 16), b) }, store.EncodePending)
		again(t, row, func(b []byte) (edgeclaim.ManifestRow, error) {
			return store.DecodeManifestRow([]byte("01234567H"), b)
		}, store.EncodeManifestRow)
		again(t, row, func(b []byte) (token.Token, error) { return store.DecodeToken(tokenKey, b) }, store.EncodeToken)
		again(t, row, func(b []byte) (edgeclaim.Command, error) { return store.DecodeCommand([]byte("01234567"), b) }, store.EncodeCommand)
		again(t, row, store.DecodeConfig, store.EncodeConfig)
		documentRows(t, row)
	})
}

// documentRows reads a row as each that documents have.
func documentRows(t *testing.T, row []byte) {
	t.Helper()
	held, profile := []byte("signer//"), append(tenant(t).Bytes(), "p"...)
	again(t, row, func(b []byte) (edgeclaim.HeldDocument, error) { return store.DecodeHeld(held, b) }, store.EncodeHeld)
	again(t, row, func(b []byte) (edgeclaim.Profile, error) { return store.DecodeProfile(profile, b) }, store.EncodeProfile)
	again(t, row, store.DecodeRevoked, store.EncodeRevoked)
	again(t, row, store.DecodeAlias, store.EncodeAlias)
	again(t, row, store.DecodeWaiting, store.EncodeWaiting)
}

// seedDocumentRows adds a row of each kind that documents have.
func seedDocumentRows(f *testing.F) {
	f.Helper()
	held := document(f, edgeclaim.DocumentSigner, 7)
	held.Box, held.Site, held.MaxAge, held.Stale, held.Confirmed, held.Synced, held.Aged = "b", "s", time.Hour, edgeclaim.StaleDeny, true, true, 3
	held.Refused, held.RefusedDetail, held.RefusedVersion, held.RefusedAt = edgeclaim.DocumentShrunk, "d", 9, moment
	f.Add(must(store.EncodeHeld(&held))(f))
	profile := fullProfile("p")
	f.Add(must(store.EncodeProfile(&profile))(f))
	f.Add(must(store.EncodeRevoked(&store.RevokedRow{Version: 3, Was: "active"}))(f))
	f.Add(append(platformID(f, 1).Bytes(), 'u'))
	f.Add(must(store.EncodeWaiting(&store.WaitingAlias{Device: platformID(f, 1), Replaces: hardware(f, "H0")}))(f))
}

// admissionRows adds a row of each list.
func admissionRows(f *testing.F) {
	f.Helper()
	swapped := denied(f, "H", true)
	swapped.Reason, swapped.Device = edgeclaim.DeniedSwapped, derived(f, "H", 1)
	f.Add(must(store.EncodeDenial(&swapped))(f))
	f.Add(must(store.EncodePending(&edgeclaim.Pending{
		ID: derived(f, "H", 1), Tenant: tenant(f), Hardware: hardware(f, "H"), Template: template(f, "template-1").ID,
		Key: key(f, "key-1", "template-1").ID, Name: "pump", Via: edgeclaim.ViaHTTP, Source: "192.0.2.1",
		AskedAt: moment, Asked: 3, Status: edgeclaim.PendingApproved, By: "uid:0",
	}))(f))
	f.Add(must(store.EncodeManifestRow(&edgeclaim.ManifestRow{Profile: "p", Name: "n", Groups: []string{"g"}}))(f))
	command := order(f, 1, "a")
	command.Result, command.Reason, command.Attempts = []byte("1"), "r", 3
	f.Add(must(store.EncodeCommand(&command))(f))
	f.Add(must(store.EncodeConfig(&edgeclaim.DeviceConfig{Version: 3, Config: []byte("{}")}))(f))
	made, _, err := token.New("ops", token.ScopeAdmin, moment, moment.Add(time.Hour))
	noErr(f, err)
	f.Add(must(store.EncodeToken(&made))(f))
}

// FuzzKeysOfRows: whatever lies in a bucket as a key is one of ours, or damaged.
func FuzzKeysOfRows(f *testing.F) {
	f.Add(append(tenant(f).Bytes(), "H"...))
	f.Add([]byte("01234567H"))
	f.Add([]byte("00112233445566aa"))
	f.Add([]byte("0123456789abcdefT\x00H\x00list"))
	f.Add([]byte("allow_list/" + tenantText + "/list"))
	f.Add([]byte(tenantText + "/H"))
	f.Add([]byte{})
	swapped, row := denied(f, "H", true), edgeclaim.ManifestRow{Name: "n"}
	denial := must(store.EncodeDenial(&swapped))(f)
	listed := must(store.EncodeManifestRow(&row))(f)
	f.Fuzz(func(t *testing.T, key []byte) {
		d, err := store.DecodeDenial(key, denial)
		if err == nil && string(key) != string(d.Tenant.Bytes())+d.Hardware.String() {
			t.Errorf("%q is read as %+v", key, d)
		}
		m, err2 := store.DecodeManifestRow(key, listed)
		if err2 == nil && string(key[8:]) != m.Hardware.String() {
			t.Errorf("%q is read as %+v", key, m)
		}
		made, err3 := store.DecodeToken(key, nil)
		if err3 == nil {
			t.Errorf("no row is read as %+v", made)
		}
		for _, err := range append(store.KeysOfDocuments(key, []byte{0xa0}), err, err2, err3) {
			if err != nil && !errors.Is(err, store.ErrDamaged) {
				t.Errorf("%v is not ErrDamaged", err)
			}
		}
	})
}

// FuzzQuarantine: whatever is asked for or lies in the file, it is a record's
// ID and row, or it is refused as what it is.
func FuzzQuarantine(f *testing.F) {
	f.Add("evt-00000000000000000002-ABCDEF", []byte("e\x00\x00\x00\x00\x00\x00\x00\x02"), []byte{0xa0})
	f.Add("prov-18446744073709551615-", []byte("p"), []byte{0xff})
	f.Fuzz(func(t *testing.T, id string, key, value []byte) {
		lane, place, err := store.ParseParkedID(id)
		switch {
		case err != nil && !errors.Is(err, edgeclaim.ErrInvalid):
			t.Errorf("%q: %v is not ErrInvalid", id, err)
		case err == nil && !strings.HasPrefix(id, store.ParkedID(lane, place, "")):
			t.Errorf("%q is read as %s %d", id, lane, place)
		}
		if err := store.DecodeParked(key, value); err != nil && !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%v is not ErrDamaged", err)
		}
	})
}

func again[T any](t *testing.T, row []byte, decode func([]byte) (T, error), encode func(*T) ([]byte, error)) {
	t.Helper()
	v, err := decode(row)
	if err != nil {
		if !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%T: %v is not ErrDamaged", v, err)
		}
		return
	}
	written, err := encode(&v)
	noErr(t, err)
	back, err := decode(written)
	noErr(t, err)
	whole := cmp.Exporter(func(reflect.Type) bool { return true })
	if diff := cmp.Diff(v, back, whole, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%T changed:\n%s", v, diff)
	}
}
