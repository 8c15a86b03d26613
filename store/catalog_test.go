package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
)

func TestTemplateRoundTrip(t *testing.T) {
	full := template(t, "full")
	full.Pattern, full.OneTime, full.MaxClaims, full.MaxClaimsPerMinute = "[0-9A-F]+", true, 7, 8
	full.HardwareIDFormat, full.Approval = edgeclaim.FormatExact, edgeclaim.ApprovalManual
	full.Expires = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	expired := template(t, "expired-in-1970") // its instant is not "never"
	expired.Expires = time.Unix(0, 0).UTC()
	ancient := template(t, "ancient")
	ancient.Expires = time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)
	bare := edgeclaim.Template{ID: must(edgeclaim.ParseTemplateID("bare"))(t), Tenant: tenant(t), Owner: edgeclaim.OwnerLocal}

	cfg := config(t)
	db := open(t, cfg)
	want := []edgeclaim.Template{full, expired, ancient, bare}
	for _, tpl := range want {
		noErr(t, db.CreateTemplate(t.Context(), tpl))
	}
	checkAndClose(t, db)
	db = open(t, cfg)
	got, err := db.Templates(t.Context())
	noErr(t, err)
	if diff := cmp.Diff(fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got)); diff != "" {
		t.Errorf("templates changed on their way through the store:\n%s", diff)
	}
	for i := range want {
		if !got[i].Expires.Equal(want[i].Expires) || got[i].Expires.IsZero() != want[i].Expires.IsZero() {
			t.Errorf("%s expires %v, want %v", want[i].ID, got[i].Expires, want[i].Expires)
		}
	}
}

func TestTemplateRefusals(t *testing.T) {
	cfg := config(t)
	cfg.MaxTemplates = 2
	db := open(t, cfg)
	ctx := t.Context()
	noErr(t, db.CreateTemplate(ctx, template(t, "one")))
	before := snapshot(t, db)

	wantErr(t, db.CreateTemplate(ctx, template(t, "one")), edgeclaim.ErrExists)
	mac := template(t, "mac")
	mac.HardwareIDFormat = edgeclaim.FormatMAC
	wantErr(t, db.CreateTemplate(ctx, mac), edgeclaim.ErrInvalid)
	_, err := db.Template(ctx, mac.ID)
	wantErr(t, err, edgeclaim.ErrNotFound)
	_, err = db.ChangeTemplate(ctx, mac.ID, nil)
	wantErr(t, err, edgeclaim.ErrNotFound)
	one := template(t, "one").ID
	_, err = db.ChangeTemplate(ctx, one, func(t *edgeclaim.Template) error {
		t.Groups[0] = "changed"
		return edgeclaim.ErrExists
	})
	wantErr(t, err, edgeclaim.ErrExists)
	_, err = db.ChangeTemplate(ctx, one, func(t *edgeclaim.Template) error {
		t.HardwareIDFormat = edgeclaim.FormatMAC
		return nil
	})
	wantErr(t, err, edgeclaim.ErrInvalid)
	if diff := cmp.Diff(before, snapshot(t, db)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}

	mac.Tenant = must(edgeclaim.ParseTenantID("11111111-2222-3333-4444-555555555555"))(t)
	noErr(t, db.CreateTemplate(ctx, mac)) // another tenant's rule is its own
	wantErr(t, db.CreateTemplate(ctx, template(t, "three")), edgeclaim.ErrInvalid)
}

func TestChangeTemplateReachesTheNextClaim(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	changed, err := db.ChangeTemplate(t.Context(), k.Template, func(t *edgeclaim.Template) error {
		t.Status = edgeclaim.TemplateDisabled
		return nil
	})
	noErr(t, err)
	changed.Groups[0] = "a caller's own copy"
	ref := refer(t, k, "board-1")
	noErr(t, db.Mint(t.Context(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		if p.Grant.Template.Status != edgeclaim.TemplateDisabled || p.Grant.Template.Groups[0] != "hall-2" {
			t.Errorf("the claim sees %+v", p.Grant.Template)
		}
		return nil, nil
	}))
	seen, err := db.Look(t.Context(), edgeclaim.ClaimRef{Key: k.Hash})
	noErr(t, err)
	if seen.Grant.Template.Status != edgeclaim.TemplateDisabled {
		t.Errorf("the grant is %+v", seen.Grant.Template)
	}
	checkAndClose(t, db)
	db = open(t, cfg)
	got, err := db.Template(t.Context(), k.Template)
	noErr(t, err)
	if got.Status != edgeclaim.TemplateDisabled {
		t.Errorf("reopened, it is %+v", got)
	}
}

func TestKeys(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	stock(t, db)
	before := snapshot(t, db)
	fresh := key(t, "key-2", "template-1")
	sameID := key(t, "key-1", "template-1")
	sameID.Hash = edgeclaim.NewSecret("another").Hash()
	sameHash := key(t, "key-3", "template-1")
	sameHash.Hash = key(t, "key-1", "template-1").Hash
	for name, tc := range map[string]struct {
		keys []edgeclaim.Key
		want error
	}{
		"known id":          {[]edgeclaim.Key{fresh, sameID}, edgeclaim.ErrExists},
		"known hash":        {[]edgeclaim.Key{fresh, sameHash}, edgeclaim.ErrExists},
		"twice among them":  {[]edgeclaim.Key{fresh, fresh}, edgeclaim.ErrExists},
		"unknown template":  {[]edgeclaim.Key{fresh, key(t, "key-4", "template-9")}, edgeclaim.ErrNotFound},
		"nothing to be put": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			wantErr(t, db.AddKeys(ctx, tc.keys), tc.want)
			if diff := cmp.Diff(before, snapshot(t, db)); diff != "" {
				t.Errorf("left behind:\n%s", diff)
			}
		})
	}

	var more []edgeclaim.Key
	for n := range 25 {
		more = append(more, key(t, fmt.Sprintf("more-%02d", n), "template-1"))
	}
	noErr(t, db.AddKeys(ctx, more))
	var ids []string
	for after := (edgeclaim.KeyID{}); ; {
		page, err := db.Keys(ctx, after, 10)
		noErr(t, err)
		if len(page) == 0 {
			break
		}
		for _, k := range page {
			ids = append(ids, k.ID.String())
		}
		after = page[len(page)-1].ID
	}
	if len(ids) != 26 || ids[0] != "key-1" || ids[25] != "more-24" {
		t.Errorf("pages hold %v", ids)
	}
}

func TestChangeKey(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	k := stock(t, db)
	noErr(t, claim(t, db, k, "board-1"))
	revoked, err := db.ChangeKey(ctx, k.ID, func(k *edgeclaim.Key) error {
		k.Status = edgeclaim.KeyRevoked
		return nil
	})
	noErr(t, err)
	if revoked.Status != edgeclaim.KeyRevoked || revoked.Claims != 1 {
		t.Errorf("key is %+v", revoked)
	}
	wantErr(t, claim(t, db, k, "board-2"), edgeclaim.ErrDenied)
	before := snapshot(t, db)
	_, err = db.ChangeKey(ctx, key(t, "key-9", "template-1").ID, nil)
	wantErr(t, err, edgeclaim.ErrNotFound)
	_, err = db.ChangeKey(ctx, k.ID, func(k *edgeclaim.Key) error {
		k.Claims = 99
		return edgeclaim.ErrExists
	})
	wantErr(t, err, edgeclaim.ErrExists)
	_, err = db.ChangeKey(ctx, k.ID, func(k *edgeclaim.Key) error {
		k.Hash = edgeclaim.NewSecret("another").Hash()
		return nil
	})
	wantErr(t, err, edgeclaim.ErrInvalid)
	if diff := cmp.Diff(before, snapshot(t, db)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

func TestTimeFloorIsStoredAsGiven(t *testing.T) {
	db := open(t, config(t))
	if floor, err := db.TimeFloor(t.Context()); err != nil || !floor.IsZero() {
		t.Errorf("a new store's floor is %v, %v", floor, err)
	}
	for _, want := range []time.Time{moment, moment.Add(-time.Hour), time.Unix(0, 0).UTC()} {
		noErr(t, db.SetTimeFloor(t.Context(), want))
		if floor, err := db.TimeFloor(t.Context()); err != nil || !floor.Equal(want) {
			t.Errorf("floor is %v, %v, want %v", floor, err, want)
		}
	}
}
