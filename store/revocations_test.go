package store_test

import (
	"errors"
	"fmt"
	"testing"

	"edgeclaim"
	"edgeclaim/store"
)

// named is a document of revocations.
func named(devices []edgeclaim.DeviceID, hardware []edgeclaim.HardwareID, keys ...edgeclaim.KeyHash) *edgeclaim.Revocations {
	return &edgeclaim.Revocations{Devices: devices, Hardware: hardware, Keys: keys}
}

func revoke(tb testing.TB, db *store.DB, version uint64, r *edgeclaim.Revocations) (edgeclaim.Revoked, error) {
	tb.Helper()
	h := document(tb, edgeclaim.DocumentRevocations, version)
	return db.ApplyRevocations(tb.Context(), h, textOf(h), r, voiding)
}

func statusOf(tb testing.TB, db *store.DB, id edgeclaim.DeviceID) edgeclaim.DeviceStatus {
	tb.Helper()
	return must(db.Device(tb.Context(), id))(tb).Status
}

func keyStatus(tb testing.TB, db *store.DB, id edgeclaim.KeyID) edgeclaim.KeyStatus {
	tb.Helper()
	return must(db.Key(tb.Context(), id))(tb).Status
}

func release1(d *edgeclaim.Device) (*edgeclaim.Record, error) {
	d.Status, d.Credential = edgeclaim.DeviceReleased, edgeclaim.Credential{}
	return record(d.ID), nil
}

// TestRevocationsWin over what the box decided, before and after, and through a
// reopen; and are taken back by name alone.
func TestRevocationsWin(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	ctx := t.Context()
	k := stock(t, db)
	spareKey := key(t, "key-2", "template-1")
	noErr(t, db.AddKeys(ctx, []edgeclaim.Key{spareKey}))
	for n := range 4 {
		noErr(t, claim(t, db, k, board(n)))
	}
	_, err := db.ChangeDevice(ctx, deviceID(t, 2), release1)
	noErr(t, err)
	late := key(t, "late", "template-1")
	never := edgeclaim.NewDeviceID(tenant(t), hardware(t, "never-1"), 1)
	r := named([]edgeclaim.DeviceID{deviceID(t, 0), deviceID(t, 2), never}, []edgeclaim.HardwareID{hardware(t, board(1)), hardware(t, "never-2")},
		k.Hash, spareKey.Hash, late.Hash)
	records := stats(t, db, edgeclaim.LaneProv).Appended
	got, err := revoke(t, db, 1, r)
	noErr(t, err)
	equal(t, "voided", len(got.Devices), 2) // board-2 was released already
	for _, d := range got.Devices {
		if d.Status != edgeclaim.DeviceRevoked || d.ID != deviceID(t, 0) && d.ID != deviceID(t, 1) {
			t.Errorf("voided %+v", d)
		}
	}
	if len(got.Keys) != 1 || got.Keys[0].ID != k.ID || got.Keys[0].Claims != 4 || got.Keys[0].Status != edgeclaim.KeyRevoked {
		t.Errorf("keys %+v", got.Keys)
	}
	equal(t, "records", stats(t, db, edgeclaim.LaneProv).Appended, records+3)
	checkAndClose(t, db)
	db = open(t, cfg)

	for n, want := range []edgeclaim.DeviceStatus{"revoked", "revoked", "revoked", "active"} {
		equal(t, board(n), statusOf(t, db, deviceID(t, n)), want)
	}
	noErr(t, db.AddKeys(ctx, []edgeclaim.Key{late}))
	for _, id := range []edgeclaim.KeyID{k.ID, spareKey.ID, late.ID} {
		equal(t, "key", keyStatus(t, db, id), edgeclaim.KeyRevoked)
	}
	denyWins(t, db, k, late)

	// It shrinks by name alone.
	before := whole(t, db)
	less := named(r.Devices[1:], r.Hardware, r.Keys...)
	_, err = revoke(t, db, 2, less)
	wantRefusal(t, err, edgeclaim.DocumentShrunk)
	equal(t, "refused", whole(t, db), before)

	less = named(nil, r.Hardware[1:], late.Hash)
	less.Reinstated = &edgeclaim.Reinstations{Devices: r.Devices, Hardware: r.Hardware[:1], Keys: r.Keys[:2]}
	got, err = revoke(t, db, 2, less)
	noErr(t, err)
	equal(t, "voided", len(got.Devices)+len(got.Keys), 0)
	for n, want := range []edgeclaim.DeviceStatus{"released", "released", "released", "active"} {
		equal(t, board(n), statusOf(t, db, deviceID(t, n)), want)
	}
	for id, want := range map[edgeclaim.KeyID]edgeclaim.KeyStatus{k.ID: "active", spareKey.ID: "active", late.ID: "revoked"} {
		equal(t, "key", keyStatus(t, db, id), want)
	}
	noErr(t, claim(t, db, k, board(0)))
	noErr(t, claim(t, db, k, "never-1"))
	wantErr(t, claim(t, db, k, "never-2"), edgeclaim.ErrDenied)
}

// denyWins tries what would get around a revocation.
func denyWins(t *testing.T, db *store.DB, k, late edgeclaim.Key) {
	t.Helper()
	ctx := t.Context()
	before := whole(t, db)
	for _, hw := range []string{"never-1", "never-2"} {
		p := look(t, db, k, hw)
		if p.Denied == nil || p.Denied.Reason != edgeclaim.DeniedUpstream {
			t.Errorf("%s: denied %+v", hw, p.Denied)
		}
		ref := refer(t, k, hw)
		noErr(t, db.Mint(ctx, ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
			if p.Denied == nil || p.Denied.Reason != edgeclaim.DeniedUpstream {
				t.Errorf("%s: denied %+v", hw, p.Denied)
			}
			return nil, nil
		}))
		wantErr(t, db.Mint(ctx, ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
			p.Denied, p.Grant.Key.Status = nil, edgeclaim.KeyActive
			return mint(ref)(p)
		}), edgeclaim.ErrConflict)
	}
	_, err := db.Undeny(ctx, tenant(t), hardware(t, "never-2"))
	wantErr(t, err, edgeclaim.ErrConflict)
	for n := range 3 {
		_, err := db.ChangeDevice(ctx, deviceID(t, n), release1)
		wantErr(t, err, edgeclaim.ErrConflict)
	}
	_, err = db.Swap(ctx, deviceID(t, 0), hardware(t, "fresh"), release1) // the device itself is revoked
	wantErr(t, err, edgeclaim.ErrConflict)
	_, err = db.Swap(ctx, deviceID(t, 3), hardware(t, "never-2"), release1) // to a revoked board
	wantErr(t, err, edgeclaim.ErrConflict)
	for _, id := range []edgeclaim.KeyID{k.ID, late.ID} {
		_, err = db.ChangeKey(ctx, id, func(k *edgeclaim.Key) error { k.Status = edgeclaim.KeyActive; return nil })
		wantErr(t, err, edgeclaim.ErrConflict)
	}
	denials, err := db.Denials(ctx, edgeclaim.Denial{}, 10)
	noErr(t, err)
	equal(t, "denials", len(denials), 2)
	equal(t, "after all tries", whole(t, db), before)
}

// TestRevocationsAreATenantsOwn: another tenant's device, board and key of the
// same name are not meant.
func TestRevocationsAreATenantsOwn(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	noErr(t, claim(t, db, k, board(0)))
	h := document(t, edgeclaim.DocumentRevocations, 1)
	h.ID.Tenant = other(t)
	got, err := db.ApplyRevocations(t.Context(), h, textOf(h),
		named([]edgeclaim.DeviceID{deviceID(t, 0), deviceID(t, 1)}, []edgeclaim.HardwareID{hardware(t, board(0)), hardware(t, board(1))}, k.Hash), voiding)
	noErr(t, err)
	equal(t, "voided", len(got.Devices)+len(got.Keys), 0)
	equal(t, "device", statusOf(t, db, deviceID(t, 0)), edgeclaim.DeviceActive)
	noErr(t, claim(t, db, k, board(1)))
}

// TestRevokedKeyIsAgainWhatItWas: reinstated, a key is what the document found,
// and one that an operator revoked stays revoked.
func TestRevokedKeyIsAgainWhatItWas(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	stock(t, db)
	r := named(nil, nil)
	for _, status := range []edgeclaim.KeyStatus{"active", "disabled", "used", "revoked"} {
		k := key(t, "k-"+string(status), "template-1")
		k.Status = status
		noErr(t, db.AddKeys(ctx, []edgeclaim.Key{k}))
		r.Keys = append(r.Keys, k.Hash)
	}
	_, err := revoke(t, db, 1, r)
	noErr(t, err)
	_, err = revoke(t, db, 2, &edgeclaim.Revocations{Reinstated: &edgeclaim.Reinstations{Keys: r.Keys}})
	noErr(t, err)
	for _, status := range []edgeclaim.KeyStatus{"active", "disabled", "used", "revoked"} {
		equal(t, "key", keyStatus(t, db, key(t, "k-"+string(status), "template-1").ID), status)
	}
}

// TestRevocationsAreWholeOrNotAtAll: an error of the rule half-way, a rule that
// does not revoke, and a lane without room leave nothing, and fail nobody else.
func TestRevocationsAreWholeOrNotAtAll(t *testing.T) {
	cfg := config(t)
	cfg.ProvMaxRecords = 32 // and two beyond
	db := open(t, cfg)
	k := stock(t, db)
	fill(t, db, always(k), 0, 32, 1)
	var all []edgeclaim.DeviceID
	for n := range 5 {
		all = append(all, deviceID(t, n))
	}
	h := document(t, edgeclaim.DocumentRevocations, 1)
	before := whole(t, db)
	failure := errors.New("the rule's")
	for name, tc := range map[string]struct {
		change func(*edgeclaim.Device) (*edgeclaim.Record, error)
		want   error
	}{
		"error": {func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
			if d.ID == deviceID(t, 3) {
				return nil, failure
			}
			d.Status = edgeclaim.DeviceRevoked
			return nil, nil
		}, failure},
		"not revoked": {func(*edgeclaim.Device) (*edgeclaim.Record, error) { return nil, nil }, edgeclaim.ErrInvalid},
		"other device": {func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
			d.ID, d.Status = deviceID(t, 9), edgeclaim.DeviceRevoked
			return nil, nil
		}, edgeclaim.ErrInvalid},
		"no room": {voiding, edgeclaim.ErrUnavailable},
	} {
		_, err := db.ApplyRevocations(t.Context(), h, textOf(h), named(all, nil), tc.change)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		equal(t, name, whole(t, db), before)
	}
	_, err := db.ApplyRevocations(t.Context(), h, textOf(h), named(all[:2], nil), voiding) // the room beyond
	noErr(t, err)
}

// TestAdoptedDevicesThatARevocationNames are revoked as they come back.
func TestAdoptedDevicesThatARevocationNames(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	_, err := revoke(t, db, 1, named([]edgeclaim.DeviceID{deviceID(t, 1)}, []edgeclaim.HardwareID{hardware(t, board(2))}))
	noErr(t, err)
	var back []edgeclaim.Device
	for n := range 3 {
		back = append(back, told(t, k, board(n), 1))
	}
	_, err = db.Adopt(t.Context(), back)
	noErr(t, err)
	for n, want := range []edgeclaim.DeviceStatus{"active", "revoked", "revoked"} {
		equal(t, board(n), statusOf(t, db, deviceID(t, n)), want)
	}
}

// TestDenialsOfBothKindsArePaged in one order, each hardware once.
func TestDenialsOfBothKindsArePaged(t *testing.T) {
	db := open(t, config(t))
	stock(t, db)
	var theirs []edgeclaim.HardwareID
	for n := range 20 {
		if n%2 == 0 {
			noErr(t, db.Deny(t.Context(), denied(t, fmt.Sprintf("H-%02d", n), n != 4), nil)) // one is of every tenant
		}
		if n%3 == 0 {
			theirs = append(theirs, hardware(t, fmt.Sprintf("H-%02d", n)))
		}
	}
	_, err := revoke(t, db, 1, named(nil, theirs))
	noErr(t, err)
	var got []string
	for after := (edgeclaim.Denial{}); ; {
		page, err := db.Denials(t.Context(), after, 3)
		noErr(t, err)
		for _, d := range page {
			got = append(got, d.Hardware.String()+" "+string(d.Reason))
		}
		if len(page) < 3 {
			break
		}
		after = page[2]
	}
	equal(t, "denials", got, "[H-04 operator H-00 operator H-02 operator H-03 upstream H-06 operator H-08 operator "+
		"H-09 upstream H-10 operator H-12 operator H-14 operator H-15 upstream H-16 operator H-18 operator]")
}
