package store_test

import (
	"errors"
	"fmt"
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
