package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/store"
)

// told makes a device as upstream tells it.
func told(tb testing.TB, k edgeclaim.Key, hw string, generation int) edgeclaim.Device {
	ref := refer(tb, k, hw)
	minted, err := mint(ref)(firstLife(tb, k, ref))
	noErr(tb, err)
	d := minted.Device
	d.ID, d.Generation = edgeclaim.NewDeviceID(d.Tenant, d.Hardware, generation), generation
	return d
}

func TestAdopt(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	k := stock(t, db)
	noErr(t, claim(t, db, k, board(0)))
	before, err := db.Device(ctx, deviceID(t, 0))
	noErr(t, err)

	const count = 700 // more than two transactions
	var devices []edgeclaim.Device
	for n := range count {
		d := told(t, k, board(n), 1)
		d.Previous, d.PreviousUntil, d.RotatedBy = d.Credential, moment, edgeclaim.RotatorOperator
		d.Mint = &edgeclaim.Mint{Salt: [32]byte{1}} // which upstream cannot know
		devices = append(devices, d)
	}
	devices[0].Name = "as upstream has it"
	devices = append(devices, devices[5]) // twice in one call
	n, err := db.Adopt(ctx, devices)
	noErr(t, err)
	equal(t, "adopted", n, count-1)
	n, err = db.Adopt(ctx, devices)
	noErr(t, err)
	equal(t, "adopted again", n, 0)
	if s := stats(t, db, edgeclaim.LaneProv); s.Appended != 1 {
		t.Errorf("upstream is told what it told: %+v", s)
	}
	for life := range 2 {
		after, err := db.Device(ctx, deviceID(t, 0))
		noErr(t, err)
		equal(t, "the one that was known", after, before)
		for n := 1; n < count; n++ {
			got, err := holder(db, board(n))
			noErr(t, err)
			want := devices[n]
			want.Mint, want.Told = nil, true // no word goes up of what upstream told
			if diff := cmp.Diff(fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got)); diff != "" {
				t.Fatalf("life %d: adopted device changed:\n%s", life, diff)
			}
		}
		if n, err := db.Count(ctx); err != nil || n != count {
			t.Errorf("count %d, %v", n, err)
		}
		checkAndClose(t, db)
		db, err = store.Open(cfg)
		noErr(t, err)
	}
	defer checkAndClose(t, db)
	noErr(t, claim(t, db, k, board(3))) // it is known: no second one
	if n, err := db.Count(ctx); err != nil || n != count {
		t.Errorf("count %d, %v", n, err)
	}
	page, err := db.Devices(ctx, devices[count-2].ID, 10)
	if err != nil || len(page) != 1 || page[0].ID != devices[count-1].ID {
		t.Errorf("page %v, %v", page, err)
	}
}

func TestAdoptFollowsAliases(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	k := stock(t, db)
	noErr(t, claim(t, db, k, "taken"))
	swapped := told(t, k, "new-board", 1)
	swapped.ID = edgeclaim.NewDeviceID(tenant(t), hardware(t, "old-board"), 1)
	second := told(t, k, "old-board", 2) // the board that was swapped out, in its second life
	late := told(t, k, "taken", 2)       // whose hardware has claimed here meanwhile
	n, err := db.Adopt(ctx, []edgeclaim.Device{swapped, second, late})
	noErr(t, err)
	equal(t, "adopted", n, 3)
	for hw, want := range map[string]edgeclaim.DeviceID{
		"new-board": swapped.ID, "old-board": second.ID, "taken": edgeclaim.NewDeviceID(tenant(t), hardware(t, "taken"), 1),
	} {
		got, err := holder(db, hw)
		if err != nil || got.ID != want {
			t.Errorf("%s is %v, %v, want %v", hw, got.ID, err, want)
		}
	}
	noErr(t, db.Mint(ctx, refer(t, k, "new-board"), func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		if p.Known == nil || p.Known.ID != swapped.ID {
			t.Errorf("a claim sees %+v", p)
		}
		return nil, nil
	}))
	if _, err := db.Device(ctx, late.ID); err != nil {
		t.Errorf("its credential is not known: %v", err)
	}
}

func TestAdoptTakesOnlyWholeDevices(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	for field, spoil := range map[string]func(*edgeclaim.Device){
		"device_id":   func(d *edgeclaim.Device) { d.ID = edgeclaim.DeviceID{} },
		"tenant_id":   func(d *edgeclaim.Device) { d.Tenant = edgeclaim.TenantID{} },
		"hardware_id": func(d *edgeclaim.Device) { d.Hardware = edgeclaim.HardwareID{} },
		"template_id": func(d *edgeclaim.Device) { d.Template = edgeclaim.TemplateID{} },
		"key_id":      func(d *edgeclaim.Device) { d.Key = edgeclaim.KeyID{} },
		"status":      func(d *edgeclaim.Device) { d.Status = "" },
		"device":      func(d *edgeclaim.Device) { d.Name = strings.Repeat("x", store.MaxRecord) },
	} {
		good, bad := told(t, k, "board-1", 1), told(t, k, "board-2", 1)
		spoil(&bad)
		n, err := db.Adopt(t.Context(), []edgeclaim.Device{good, bad})
		wantErr(t, err, edgeclaim.ErrInvalid)
		if count, _ := db.Count(t.Context()); n != 0 || count != 0 || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("%s: adopted %d, on record %d, %v", field, n, count, err)
		}
	}
}

func TestExports(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	marks := func(n uint64) []edgeclaim.Mark {
		prov := at(db, edgeclaim.LaneProv, n)
		prov.Check = edgeclaim.Check{Sequence: n, Hash: "hash"}
		return []edgeclaim.Mark{prov, at(db, evt, 2*n), at(db, edgeclaim.LaneTel, 3*n)} // tel lies elsewhere
	}
	_, err = db.Export(ctx, "nonce-0")
	wantErr(t, err, edgeclaim.ErrNotFound)
	for n := range uint64(store.MaxExports + 6) {
		noErr(t, db.AddExport(ctx, fmt.Sprintf("nonce-%d", n), marks(n)))
		if n%7 == 6 { // said again with other marks
			noErr(t, db.AddExport(ctx, "nonce-6", marks(1000+n)))
		}
	}
	checkAndClose(t, db)
	db = open(t, cfg)
	for n, there := range map[uint64]bool{0: false, 5: false, 7: true, store.MaxExports + 5: true} {
		got, err := db.Export(ctx, fmt.Sprintf("nonce-%d", n))
		if !there {
			wantErr(t, err, edgeclaim.ErrNotFound)
			continue
		}
		noErr(t, err)
		equal(t, "export", got, marks(n))
	}
	got, err := db.Export(ctx, "nonce-6")
	noErr(t, err)
	equal(t, "replaced", got, marks(1000+store.MaxExports+5))
	wantErr(t, db.AddExport(ctx, "", nil), edgeclaim.ErrInvalid)
	wantErr(t, db.AddExport(ctx, strings.Repeat("x", store.MaxNonce+1), nil), edgeclaim.ErrInvalid)
	wantErr(t, db.AddExport(ctx, "x", []edgeclaim.Mark{{Lane: "other"}}), edgeclaim.ErrInvalid)
	wantErr(t, db.AddExport(ctx, "x", []edgeclaim.Mark{{Lane: evt}, {Lane: evt}}), edgeclaim.ErrInvalid)
}

func TestEnrolment(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	get := func() string {
		text, err := db.Enrolment(ctx)
		noErr(t, err)
		return string(text)
	}
	equal(t, "new", get(), "")
	noErr(t, db.SetEnrolment(ctx, nil)) // there is none to remove
	noErr(t, db.SetEnrolment(ctx, []byte("{1}")))
	noErr(t, db.SetEnrolment(ctx, []byte("{2}")))
	wantErr(t, db.SetEnrolment(ctx, make([]byte, store.MaxEnrolment+1)), edgeclaim.ErrInvalid)
	equal(t, "set", get(), "{2}")
	name := filepath.Join(cfg.Dir, "enrolment.json")
	info, err := os.Stat(name)
	noErr(t, err)
	equal(t, "mode", info.Mode().Perm(), os.FileMode(0o600))
	checkAndClose(t, db)
	wantErr(t, db.SetEnrolment(ctx, []byte("{3}")), edgeclaim.ErrUnavailable)

	noErr(t, os.WriteFile(registry(cfg), []byte("damage"), 0o600))
	noErr(t, os.WriteFile(name+".tmp", []byte("half"), 0o600))
	db = open(t, cfg)
	if db.Info().SetAside == "" {
		t.Error("not set aside: nothing was tested")
	}
	equal(t, "after the registry was set aside", get(), "{2}")
	if _, err := os.Stat(name + ".tmp"); err == nil {
		t.Error("what a crash left half-made stays")
	}
	noErr(t, db.SetEnrolment(ctx, nil))
	equal(t, "removed", get(), "")
	noErr(t, os.WriteFile(name, make([]byte, store.MaxEnrolment+1), 0o600))
	if _, err := db.Enrolment(ctx); err == nil {
		t.Error("an enrolment above its limit is read")
	}
}
