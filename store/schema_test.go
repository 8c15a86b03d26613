package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/store"
)

// FuzzRows: no row, however damaged, does more than fail as damaged, and what
// can be read is the same after it was written again.
func FuzzRows(f *testing.F) {
	ref := refer(f, key(f, "key-1", "template-1"), "board-1")
	minted, err := mint(ref)(edgeclaim.Grant{
		Key: key(f, "key-1", "template-1"), Template: template(f, "template-1"),
	}, nil)
	noErr(f, err)
	tpl := template(f, "template-1")
	f.Add(must(store.EncodeDevice(&minted.Device))(f))
	f.Add(must(store.EncodeTemplate(&tpl))(f))
	f.Add(must(store.EncodeKey(&minted.Key))(f))
	f.Add(must(store.EncodeRecord(minted.Record))(f))
	f.Add([]byte{})
	f.Add(make([]byte, 17))
	id := key(f, "key-1", "template-1").ID
	f.Fuzz(func(t *testing.T, row []byte) {
		again(t, row, store.DecodeDevice, store.EncodeDevice)
		again(t, row, store.DecodeTemplate, store.EncodeTemplate)
		again(t, row, func(b []byte) (edgeclaim.Key, error) { return store.DecodeKey(id, b) }, store.EncodeKey)
		again(t, row, func(b []byte) (edgeclaim.Record, error) {
			return store.DecodeRecord(edgeclaim.LaneEvt, 7, b)
		}, store.EncodeRecord)
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
	if fmt.Sprintf("%+v", back) != fmt.Sprintf("%+v", v) {
		t.Errorf("%T changed:\n%+v\n%+v", v, v, back)
	}
}
