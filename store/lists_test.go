package store_test

import (
	"fmt"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/store"
)

func rowOf(tb testing.TB, hw, name string) edgeclaim.ManifestRow {
	return edgeclaim.ManifestRow{
		Hardware: hardware(tb, hw), Name: name, Profile: "p", Groups: []string{"g"}, Tags: map[string]string{"b": "2", "a": "1"},
	}
}

// expect applies an allow list of that name.
func expect(tb testing.TB, db *store.DB, list string, version uint64, templateID string, rows ...edgeclaim.ManifestRow) error {
	tb.Helper()
	h := document(tb, edgeclaim.DocumentAllowList, version)
	h.ID.Name = list
	return db.ApplyAllowList(tb.Context(), h, textOf(h), &edgeclaim.AllowList{Template: must(edgeclaim.ParseTemplateID(templateID))(tb), Rows: rows})
}

// listed are the names of a template's rows, in pages of two.
func listed(tb testing.TB, db *store.DB, templateID string) string {
	tb.Helper()
	id := must(edgeclaim.ParseTemplateID(templateID))(tb)
	var names []string
	for after := (edgeclaim.HardwareID{}); ; {
		page := must(db.Manifest(tb.Context(), id, after, 2))(tb)
		for _, row := range page {
			names = append(names, row.Hardware.String()+"="+row.Name)
		}
		if len(page) < 2 {
			return strings.Join(names, " ")
		}
		after = page[1].Hardware
	}
}

// TestAllowListsCountTogether: each document replaces its own rows, those of a
// template that is not there yet count once it is, and upstream's word goes before
// the box's own.
func TestAllowListsCountTogether(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	ctx := t.Context()
	if p := look(t, db, k, "H1"); p.Listed != nil {
		t.Errorf("listed %+v", p.Listed)
	}
	noErr(t, expect(t, db, "a", 1, "template-1", rowOf(t, "H1", "a1"), rowOf(t, "H2", "a2"), rowOf(t, "H3", "a3")))
	noErr(t, expect(t, db, "b", 1, "template-1", rowOf(t, "H1", "b1"), rowOf(t, "H4", "b4")))
	noErr(t, expect(t, db, "c", 1, "template-2", rowOf(t, "H1", "c1")))
	_, _, err := db.ImportManifest(ctx, template(t, "template-1").ID, []edgeclaim.ManifestRow{rowOf(t, "H0", "own"), rowOf(t, "H2", "own")})
	noErr(t, err)
	equal(t, "rows", listed(t, db, "template-1"), "H0=own H1=a1 H2=a2 H3=a3 H4=b4")
	p := look(t, db, k, "H2")
	equal(t, "row", fmt.Sprintf("%+v", *p.Listed), fmt.Sprintf("%+v", rowOf(t, "H2", "a2")))
	equal(t, "own row", look(t, db, k, "H0").Listed.Name, "own")
	checkAndClose(t, db)
	db = open(t, cfg)

	noErr(t, expect(t, db, "a", 2, "template-1", rowOf(t, "H3", "a3 again"), rowOf(t, "H5", "a5")))
	equal(t, "rows", listed(t, db, "template-1"), "H0=own H1=b1 H2=own H3=a3 again H4=b4 H5=a5")
	noErr(t, expect(t, db, "a", 3, "template-2", rowOf(t, "H5", "moved")))
	equal(t, "rows", listed(t, db, "template-1"), "H0=own H1=b1 H2=own H4=b4")
	second := template(t, "template-2")
	second.AllowList = true
	noErr(t, db.CreateTemplate(ctx, second))
	k2 := key(t, "key-2", "template-2")
	noErr(t, db.AddKeys(ctx, []edgeclaim.Key{k2}))
	equal(t, "rows", listed(t, db, "template-2"), "H1=c1 H5=moved")
	noErr(t, db.Mint(ctx, refer(t, k2, "H5"), func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		equal(t, "listed", p.Listed.Name, "moved")
		return nil, nil
	}))
	if p := look(t, db, k2, "H4"); p.Listed != nil {
		t.Errorf("listed by another template: %+v", p.Listed)
	}
	noErr(t, expect(t, db, "b", 2, "template-1"))
	equal(t, "rows", listed(t, db, "template-1"), "H0=own H2=own")
}

func TestAllowListsAreATenantsOwn(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	h := document(t, edgeclaim.DocumentAllowList, 1)
	h.ID.Tenant = other(t)
	noErr(t, db.ApplyAllowList(t.Context(), h, textOf(h), &edgeclaim.AllowList{Template: k.Template, Rows: []edgeclaim.ManifestRow{rowOf(t, "H1", "theirs")}}))
	if p := look(t, db, k, "H1"); p.Listed != nil {
		t.Errorf("listed %+v", p.Listed)
	}
	equal(t, "rows", listed(t, db, "template-1"), "")
}

func TestAllowListsAreRefused(t *testing.T) {
	db := open(t, config(t))
	stock(t, db)
	large := rowOf(t, "H1", strings.Repeat("x", store.MaxManifestRow))
	wantRefusal(t, expect(t, db, "a", 1, "template-1", large), edgeclaim.DocumentMalformed)
	wantRefusal(t, expect(t, db, "a", 1, "template-1", rowOf(t, "H1", "x"), rowOf(t, "H1", "y")), edgeclaim.DocumentMalformed)
	wantRefusal(t, expect(t, db, "a", 1, "template-1", edgeclaim.ManifestRow{}), edgeclaim.DocumentMalformed)
	equal(t, "rows", listed(t, db, "template-1"), "")
}

// fullProfile has all that a profile may have.
func fullProfile(id string) edgeclaim.Profile {
	low, high, longest, none := -40.5, 85.0, 8, false
	return edgeclaim.Profile{
		ID: id, Tags: map[string]string{"line": "7", "": "empty"}, Groups: []string{"g2", "g1"}, Config: []byte(`{"a":{"b":null}}`),
		Schema: &edgeclaim.TelemetrySchema{
			Properties: map[string]edgeclaim.MetricSchema{
				"t": {Type: edgeclaim.MetricNumber, Minimum: &low, Maximum: &high}, "state": {Enum: []string{"on", "off"}, MaxLength: &longest}, "any": {},
			},
			Required: []string{"t"}, Additional: &none,
		},
		OfflineAfter: 90, Credentials: &edgeclaim.CredentialsPolicy{X509Validity: 3600, Overlap: 60},
	}
}

// TestProfiles are inherited as they were said, through a reopen, and replaced as
// a whole.
func TestProfiles(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	standard, pump := fullProfile(""), fullProfile("pump")
	pump.OfflineAfter, pump.Schema = 0, nil
	h := document(t, edgeclaim.DocumentProfiles, 3)
	theirs := document(t, edgeclaim.DocumentProfiles, 9)
	theirs.ID.Tenant = other(t)
	equal(t, "before", db.Inherited(tenant(t), "pump"), edgeclaim.Inherited{})
	noErr(t, db.ApplyProfiles(t.Context(), h, textOf(h), &edgeclaim.Profiles{Default: &standard, Profiles: []edgeclaim.Profile{pump, {ID: "bare"}}}))
	noErr(t, db.ApplyProfiles(t.Context(), theirs, textOf(theirs), &edgeclaim.Profiles{Profiles: []edgeclaim.Profile{{ID: "pump", OfflineAfter: 1}}}))
	standard.Groups[0] = "changed by its maker" // shared by nobody
	standard = fullProfile("")
	for life := range 2 {
		got := db.Inherited(tenant(t), "pump")
		same(t, "default", got.Default, &standard)
		same(t, "profile", got.Profile, &pump)
		equal(t, "version", got.Version, 3)
		same(t, "bare", db.Inherited(tenant(t), "bare").Profile, &edgeclaim.Profile{ID: "bare"})
		if got := db.Inherited(tenant(t), ""); got.Profile != nil || got.Default == nil {
			t.Errorf("life %d: no profile is %+v", life, got)
		}
		if got := db.Inherited(tenant(t), "none"); got.Profile != nil || got.Default == nil {
			t.Errorf("life %d: an unknown profile is %+v", life, got)
		}
		if got := db.Inherited(other(t), "pump"); got.Default != nil || got.Profile.OfflineAfter != 1 || got.Version != 9 {
			t.Errorf("life %d: another tenant's is %+v", life, got)
		}
		checkAndClose(t, db)
		db = open(t, cfg)
	}
	if allocs := testing.AllocsPerRun(100, func() { db.Inherited(tenant(t), "pump") }); allocs > 0 {
		t.Errorf("%.0f allocations", allocs)
	}
	next := document(t, edgeclaim.DocumentProfiles, 4)
	for _, wrong := range []*edgeclaim.Profiles{{Profiles: []edgeclaim.Profile{pump, pump}}, {Profiles: []edgeclaim.Profile{{}}}} {
		wantRefusal(t, db.ApplyProfiles(t.Context(), next, textOf(next), wrong), edgeclaim.DocumentMalformed)
	}
	noErr(t, db.ApplyProfiles(t.Context(), next, textOf(next), &edgeclaim.Profiles{}))
	for range 2 {
		equal(t, "nothing left but the version", db.Inherited(tenant(t), "pump"), edgeclaim.Inherited{Version: 4})
		equal(t, "another tenant's", db.Inherited(other(t), "pump").Version, 9)
		checkAndClose(t, db)
		db = open(t, cfg)
	}
}
