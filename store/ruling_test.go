package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/store"
)

func same[T any](tb testing.TB, what string, got, want T) {
	tb.Helper()
	opt := cmp.Comparer(func(x, y edgeclaim.KeyHash) bool { return x.Equal(y) })
	text := cmp.Transformer("text", func(id fmt.Stringer) string { return id.String() })
	if diff := cmp.Diff(want, got, opt, text); diff != "" {
		tb.Errorf("%s:\n%s", what, diff)
	}
}

// ruled is a template as a document says it: neither owner nor tenant.
func ruled(tb testing.TB, id string) edgeclaim.Template {
	t := template(tb, id)
	t.Owner, t.Tenant, t.CreatedAt, t.Status = "", edgeclaim.TenantID{}, time.Time{}, ""
	return t
}

func ruledKey(tb testing.TB, id, templateID string, status edgeclaim.KeyStatus) edgeclaim.TemplateKey {
	k := key(tb, id, templateID)
	return edgeclaim.TemplateKey{ID: k.ID, Template: k.Template, Hash: k.Hash, Status: status}
}

func rule(tb testing.TB, db *store.DB, version uint64, t *edgeclaim.Templates) (edgeclaim.TemplatesApplied, error) {
	tb.Helper()
	h := document(tb, edgeclaim.DocumentTemplates, version)
	return db.ApplyTemplates(tb.Context(), h, textOf(h), t, true, moment.Add(time.Duration(version)*time.Hour))
}

// TestTemplatesFromUpstream are made, changed, disabled and enabled again, beside
// the box's own; what their keys were used for stays.
func TestTemplatesFromUpstream(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	ctx := t.Context()
	own := stock(t, db)
	once, many := ruled(t, "t-once"), ruled(t, "t-many")
	once.OneTime, many.MaxClaims = true, 100
	first := &edgeclaim.Templates{Templates: []edgeclaim.Template{once, many, ruled(t, "t-free")}, Keys: []edgeclaim.TemplateKey{
		ruledKey(t, "once", "t-once", ""), ruledKey(t, "many", "t-many", edgeclaim.KeyActive), ruledKey(t, "free", "t-free", ""),
		ruledKey(t, "off", "t-free", edgeclaim.KeyDisabled),
	}}
	applied, err := rule(t, db, 1, first)
	noErr(t, err)
	equal(t, "applied", applied, edgeclaim.TemplatesApplied{Templates: 3, Keys: 4})
	want := many
	want.Tenant, want.Owner, want.Leased, want.Status, want.CreatedAt = tenant(t), edgeclaim.OwnerUpstream, true, edgeclaim.TemplateActive, moment.Add(time.Hour)
	for range 2 {
		got := must(db.Template(ctx, many.ID))(t)
		equal(t, "template", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
		equal(t, "without a bound", must(db.Template(ctx, ruled(t, "t-free").ID))(t).Leased, false)
		equal(t, "disabled", keyStatus(t, db, key(t, "off", "x").ID), edgeclaim.KeyDisabled)
		checkAndClose(t, db)
		db = open(t, cfg)
	}
	noErr(t, claim(t, db, key(t, "once", "t-once"), "H1"))
	noErr(t, claim(t, db, key(t, "many", "t-many"), "H2"))
	_, err = db.GrantShares(ctx, []edgeclaim.ShareGrant{{Key: key(t, "many", "x").ID, Granted: 7}})
	noErr(t, err)

	// Renamed, a key revoked that has made a device, and one template less.
	many.Name, many.CreatedAt = "another name", time.Time{}
	second := &edgeclaim.Templates{Templates: []edgeclaim.Template{once, many}, Keys: []edgeclaim.TemplateKey{
		ruledKey(t, "once", "t-once", ""), ruledKey(t, "many", "t-many", edgeclaim.KeyRevoked), ruledKey(t, "new", "t-many", ""),
	}}
	applied, err = rule(t, db, 2, second)
	noErr(t, err)
	if len(applied.Revoked) != 1 || applied.Revoked[0].Claims != 1 || applied.Disabled != 2 { // t-free, and "free": "off" was so
		t.Errorf("applied %+v", applied)
	}
	checkAndClose(t, db)
	db = open(t, cfg)
	got := must(db.Template(ctx, many.ID))(t)
	if got.Name != "another name" || !got.CreatedAt.Equal(moment.Add(time.Hour)) {
		t.Errorf("template %+v", got)
	}
	equal(t, "left out", must(db.Template(ctx, ruled(t, "t-free").ID))(t).Status, edgeclaim.TemplateDisabled)
	for id, status := range map[string]edgeclaim.KeyStatus{"once": "used", "many": "revoked", "free": "disabled", "off": "disabled", "new": "active"} {
		equal(t, id, keyStatus(t, db, key(t, id, "x").ID), status)
	}
	equal(t, "share", must(db.Key(ctx, key(t, "many", "x").ID))(t).Granted, 7)
	equal(t, "the box's own", keyStatus(t, db, own.ID), edgeclaim.KeyActive)
	equal(t, "the box's own", must(db.Template(ctx, own.Template))(t).Status, edgeclaim.TemplateActive)

	// Named again, they are as they were, but for what never goes back.
	_, err = rule(t, db, 3, first)
	noErr(t, err)
	equal(t, "again", must(db.Template(ctx, ruled(t, "t-free").ID))(t).Status, edgeclaim.TemplateActive)
	for id, status := range map[string]edgeclaim.KeyStatus{"once": "used", "many": "revoked", "free": "active", "off": "disabled", "new": "disabled"} {
		equal(t, id, keyStatus(t, db, key(t, id, "x").ID), status)
	}
	noErr(t, claim(t, db, key(t, "free", "t-free"), "H3"))
}

// TestTemplatesThatConflict leave nothing behind.
func TestTemplatesThatConflict(t *testing.T) {
	mac := ruled(t, "t-1")
	mac.HardwareIDFormat = edgeclaim.FormatMAC
	one := []edgeclaim.Template{ruled(t, "t-1")}
	stolen := ruledKey(t, "thief", "t-1", "")
	stolen.Hash = key(t, "key-1", "x").Hash
	moved := ruledKey(t, "mine", "t-1", "")
	moved.Hash = key(t, "another", "x").Hash
	for name, tc := range map[string]struct {
		t    edgeclaim.Templates
		want edgeclaim.DocumentRefusal
	}{
		"the box's own template":  {edgeclaim.Templates{Templates: []edgeclaim.Template{ruled(t, "template-1")}}, edgeclaim.DocumentConflicting},
		"another tenant's":        {edgeclaim.Templates{Templates: []edgeclaim.Template{ruled(t, "theirs")}}, edgeclaim.DocumentConflicting},
		"another format":          {edgeclaim.Templates{Templates: []edgeclaim.Template{mac}}, edgeclaim.DocumentConflicting},
		"too many templates":      {edgeclaim.Templates{Templates: []edgeclaim.Template{ruled(t, "t-1"), ruled(t, "t-2"), ruled(t, "t-3")}}, edgeclaim.DocumentConflicting},
		"template twice":          {edgeclaim.Templates{Templates: append(one, one...)}, edgeclaim.DocumentMalformed},
		"the box's own key":       {edgeclaim.Templates{Templates: one, Keys: []edgeclaim.TemplateKey{ruledKey(t, "key-1", "t-1", "")}}, edgeclaim.DocumentConflicting},
		"a hash that is known":    {edgeclaim.Templates{Templates: one, Keys: []edgeclaim.TemplateKey{stolen}}, edgeclaim.DocumentConflicting},
		"a key with another hash": {edgeclaim.Templates{Templates: []edgeclaim.Template{ruled(t, "mine"), one[0]}, Keys: []edgeclaim.TemplateKey{moved}}, edgeclaim.DocumentConflicting},
		"key twice":               {edgeclaim.Templates{Templates: one, Keys: []edgeclaim.TemplateKey{ruledKey(t, "k", "t-1", ""), ruledKey(t, "k", "t-1", "")}}, edgeclaim.DocumentMalformed},
		"key of no template":      {edgeclaim.Templates{Templates: one, Keys: []edgeclaim.TemplateKey{ruledKey(t, "k", "t-9", "")}}, edgeclaim.DocumentMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.MaxTemplates = 5
			db := open(t, cfg)
			stock(t, db)
			_, err := rule(t, db, 1, &edgeclaim.Templates{Templates: []edgeclaim.Template{ruled(t, "mine")}, Keys: []edgeclaim.TemplateKey{ruledKey(t, "mine", "mine", "")}})
			noErr(t, err)
			h := document(t, edgeclaim.DocumentTemplates, 1)
			h.ID.Tenant = other(t)
			_, err = db.ApplyTemplates(t.Context(), h, textOf(h), &edgeclaim.Templates{Templates: []edgeclaim.Template{ruled(t, "theirs")}}, false, moment)
			noErr(t, err)
			before := whole(t, db)
			_, err = rule(t, db, 2, &tc.t)
			wantRefusal(t, err, tc.want)
			equal(t, "after", whole(t, db), before)
		})
	}
}

// TestTemplatesAfterRevocations: a key whose hash is revoked comes revoked,
// whatever its document says, and is what that says once it is reinstated.
func TestTemplatesAfterRevocations(t *testing.T) {
	db := open(t, config(t))
	k := key(t, "k", "t-1")
	_, err := revoke(t, db, 1, named(nil, nil, k.Hash))
	noErr(t, err)
	for version, status := range []edgeclaim.KeyStatus{"active", "disabled"} {
		_, err := rule(t, db, uint64(version+1), &edgeclaim.Templates{
			Templates: []edgeclaim.Template{ruled(t, "t-1")}, Keys: []edgeclaim.TemplateKey{ruledKey(t, "k", "t-1", status)},
		})
		noErr(t, err)
		equal(t, "key", keyStatus(t, db, k.ID), edgeclaim.KeyRevoked)
	}
	_, err = revoke(t, db, 2, &edgeclaim.Revocations{Reinstated: &edgeclaim.Reinstations{Keys: []edgeclaim.KeyHash{k.Hash}}})
	noErr(t, err)
	equal(t, "key", keyStatus(t, db, k.ID), edgeclaim.KeyDisabled)
}

// TestShares only rise, are of leased templates' keys, and come in pages.
func TestShares(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	ctx := t.Context()
	own := stock(t, db)
	leased := ruled(t, "t-1")
	leased.MaxClaims = 100
	list := &edgeclaim.Templates{Templates: []edgeclaim.Template{leased}}
	for n := range 5 {
		list.Keys = append(list.Keys, ruledKey(t, fmt.Sprint("shared-", n), "t-1", ""))
	}
	shares, err := db.Shares(ctx, edgeclaim.KeyID{}, 10)
	noErr(t, err)
	equal(t, "before", len(shares), 0)
	_, err = rule(t, db, 1, list)
	noErr(t, err)
	noErr(t, claim(t, db, key(t, "shared-2", "t-1"), "H1"))
	third := list.Keys[2].ID
	for _, step := range []struct {
		grant   edgeclaim.ShareGrant
		changed bool
		want    edgeclaim.Share
	}{
		{edgeclaim.ShareGrant{Key: third, Granted: 10}, true, edgeclaim.Share{Granted: 10, Claims: 1}},
		{edgeclaim.ShareGrant{Key: third, Granted: 10}, false, edgeclaim.Share{Granted: 10, Claims: 1}},
		{edgeclaim.ShareGrant{Key: third, Granted: 20, Claims: 4, Exhausted: true}, true, edgeclaim.Share{Granted: 20, Claims: 4, Exhausted: true}},
		{edgeclaim.ShareGrant{Key: third, Granted: 15, Claims: 2}, false, edgeclaim.Share{Granted: 20, Claims: 4, Exhausted: true}},
		{edgeclaim.ShareGrant{Key: third, Granted: 20}, true, edgeclaim.Share{Granted: 20, Claims: 4}},
		{edgeclaim.ShareGrant{Key: own.ID, Granted: 20, Claims: 9}, false, edgeclaim.Share{Granted: 20, Claims: 4}},
		{edgeclaim.ShareGrant{Key: key(t, "unknown", "x").ID, Granted: 20}, false, edgeclaim.Share{Granted: 20, Claims: 4}},
	} {
		changed, err := db.GrantShares(ctx, []edgeclaim.ShareGrant{step.grant})
		noErr(t, err)
		equal(t, fmt.Sprintf("changed by %+v", step.grant), len(changed) == 1, step.changed)
		page, err := db.Shares(ctx, list.Keys[1].ID, 1)
		noErr(t, err)
		step.want.Key, step.want.Template = third, leased.ID
		equal(t, fmt.Sprintf("after %+v", step.grant), page, []edgeclaim.Share{step.want})
	}
	equal(t, "the box's own", must(db.Key(ctx, own.ID))(t).Claims, 0)
	checkAndClose(t, db)
	db = open(t, cfg)
	shares, err = db.Shares(ctx, edgeclaim.KeyID{}, 10)
	noErr(t, err)
	equal(t, "shares", len(shares), 5)
	equal(t, "share", shares[2].Granted, 20)
	noErr(t, claim(t, db, key(t, "shared-2", "t-1"), "H2")) // as the claim sees it too
	equal(t, "claims", must(db.Key(ctx, third))(t).Claims, 5)
}

// TestDevicesByKey finds them in order and in pages, over several read
// transactions.
func TestDevicesByKey(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	rare := key(t, "rare", "template-1")
	noErr(t, db.AddKeys(t.Context(), []edgeclaim.Key{rare}))
	noErr(t, claim(t, db, rare, "rare-0"))
	fill(t, db, always(k), 0, 5000, 64)
	noErr(t, claim(t, db, rare, "rare-1"))
	noErr(t, claim(t, db, rare, "rare-2"))
	var got []string
	for after := (edgeclaim.DeviceID{}); ; {
		page, err := db.DevicesByKey(t.Context(), rare.ID, after, 2)
		noErr(t, err)
		for _, d := range page {
			got = append(got, d.Hardware.String())
		}
		if len(page) < 2 {
			break
		}
		after = page[1].ID
	}
	equal(t, "devices", got, "[rare-0 rare-1 rare-2]")
	all, err := db.DevicesByKey(t.Context(), k.ID, edgeclaim.DeviceID{}, 10_000)
	noErr(t, err)
	equal(t, "the others", len(all), 5000)
	_, err = db.DevicesByKey(t.Context(), k.ID, platformID(t, 1), 10)
	wantErr(t, err, edgeclaim.ErrNotFound)
	none, err := db.DevicesByKey(t.Context(), key(t, "none", "x").ID, edgeclaim.DeviceID{}, 10)
	noErr(t, err)
	equal(t, "nobody", len(none), 0)
}

// TestAdoptVerdict gives the credential that stays once, and to no device that has
// another one by now.
func TestAdoptVerdict(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	for n := range 3 {
		noErr(t, claim(t, db, k, board(n)))
	}
	kept := told(t, key(t, "their-key", "template-1"), board(0), 1)
	kept.Credential.Hash, kept.Credential.Type = hashOf("theirs"), edgeclaim.CredentialPSK
	kept.Credential.ConfirmedAt = moment.Add(time.Hour)
	v := edgeclaim.Verdict{Device: kept, Void: secretOf(deviceID(t, 0)).Hash(), KeptBox: "box-2"}
	tell := func(d *edgeclaim.Device) (*edgeclaim.Record, error) { return conflict(d.ID), nil }
	records := stats(t, db, edgeclaim.LaneProv).Appended

	for name, wrong := range map[string]func(*edgeclaim.Verdict){
		"another credential": func(v *edgeclaim.Verdict) { v.Void = hashOf("never") },
		"unknown device":     func(v *edgeclaim.Verdict) { v.Device.ID = platformID(t, 1) },
		"another board":      func(v *edgeclaim.Verdict) { v.Device.Hardware = hardware(t, "else") },
		"another tenant":     func(v *edgeclaim.Verdict) { v.Device.Tenant = other(t) },
	} {
		v := v
		wrong(&v)
		if _, done, err := db.AdoptVerdict(t.Context(), v, tell); done || err != nil {
			t.Errorf("%s: %v, %v", name, done, err)
		}
	}
	_, _, err := db.AdoptVerdict(t.Context(), edgeclaim.Verdict{}, tell)
	wantErr(t, err, edgeclaim.ErrInvalid)
	_, _, err = db.AdoptVerdict(t.Context(), v, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.Credential.Hash = hashOf("forged")
		return nil, nil
	})
	wantErr(t, err, edgeclaim.ErrInvalid)

	for life := range 2 {
		d, done, err := db.AdoptVerdict(t.Context(), v, tell)
		noErr(t, err)
		equal(t, "done", done, life == 0)
		if d.Credential != kept.Credential || d.Key != kept.Key || !d.Previous.Hash.IsZero() || d.Mint != nil {
			t.Errorf("life %d: %+v", life, d)
		}
		equal(t, "found by it", finds(t, db, edgeclaim.NewSecret("theirs")), d.ID)
		equal(t, "records", stats(t, db, edgeclaim.LaneProv).Appended, records+1)
		_, err = db.DeviceByCredential(t.Context(), v.Void)
		wantErr(t, err, edgeclaim.ErrNotFound)
		checkAndClose(t, db)
		db = open(t, cfg)
	}

	// Deny wins over it.
	_, err = revoke(t, db, 1, named([]edgeclaim.DeviceID{deviceID(t, 1)}, nil))
	noErr(t, err)
	late := edgeclaim.Verdict{Device: told(t, k, board(1), 1), Void: secretOf(deviceID(t, 1)).Hash(), KeptBox: "box-2"}
	late.Device.Credential.Hash = hashOf("late")
	_, done, err := db.AdoptVerdict(t.Context(), late, tell)
	noErr(t, err)
	equal(t, "done", done, false)
	equal(t, "device", statusOf(t, db, deviceID(t, 1)), edgeclaim.DeviceRevoked)
}
