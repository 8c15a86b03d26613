package store_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/store"
)

// denied is an operator's denial, of the one tenant's hardware or of all's.
func denied(tb testing.TB, hw string, ours bool) edgeclaim.Denial {
	tb.Helper()
	d := edgeclaim.Denial{Hardware: hardware(tb, hw), Reason: edgeclaim.DeniedByOperator, By: "uid:0", At: moment}
	if ours {
		d.Tenant = tenant(tb)
	}
	return d
}

func TestDeny(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	ctx := t.Context()
	noErr(t, claim(t, db, k, "known"))
	all := []edgeclaim.Denial{denied(t, "a", false), denied(t, "known", false), denied(t, "a", true), denied(t, "b", true)}
	for _, d := range all {
		noErr(t, db.Deny(ctx, d, record(derived(t, "a", 1))))
	}
	again := denied(t, "b", true)
	again.By = "uid:1"
	noErr(t, db.Deny(ctx, again, record(derived(t, "a", 1)))) // as it was, and nothing is told
	equal(t, "records", len(sequences(t, db, edgeclaim.LaneProv)), 5)
	if p := look(t, db, k, "known"); p.Denied == nil || *p.Denied != all[1] || p.Known == nil {
		t.Errorf("denied, the known board sees %+v", p)
	}
	if p := look(t, db, k, "a"); p.Denied == nil || *p.Denied != all[2] || p.Next.IsZero() {
		t.Errorf("the tenant's own denial is the first: %+v", p)
	}
	noErr(t, db.Mint(ctx, refer(t, k, "b"), func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		if p.Denied == nil || *p.Denied != all[3] {
			t.Errorf("a claim sees %+v", p)
		}
		return nil, nil
	}))
	checkAndClose(t, db)
	db = open(t, cfg)
	var paged []edgeclaim.Denial
	for after := (edgeclaim.Denial{}); ; {
		page, err := db.Denials(ctx, after, 3)
		noErr(t, err)
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
		after = page[len(page)-1]
	}
	equal(t, "denials", paged, all)
	for i, d := range all {
		lifted, err := db.Undeny(ctx, d.Tenant, d.Hardware)
		noErr(t, err)
		equal(t, "lifted", lifted, all[i])
		_, err = db.Undeny(ctx, d.Tenant, d.Hardware)
		wantErr(t, err, edgeclaim.ErrNotFound)
	}
	noErr(t, claim(t, db, k, "a"))
	if d, err := holder(db, "a"); err != nil || d.Generation != 1 {
		t.Errorf("an operator's denial took its identity: %+v, %v", d, err)
	}
	bad := denied(t, "x", true)
	bad.Reason = edgeclaim.DeniedSwapped
	wantErr(t, db.Deny(ctx, bad, nil), edgeclaim.ErrInvalid)
	wantErr(t, db.Deny(ctx, edgeclaim.Denial{Reason: edgeclaim.DeniedByOperator}, nil), edgeclaim.ErrInvalid)
}

// TestDenialsAmongClaims: denials and claims that share transactions, in any
// order; in the end nobody gets anything.
func TestDenialsAmongClaims(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	var g errgroup.Group
	for n := range 40 {
		g.Go(func() error { return db.Deny(t.Context(), denied(t, board(n), true), nil) })
		g.Go(func() error {
			if err := claim(t, db, k, board(n)); !errors.Is(err, edgeclaim.ErrDenied) {
				return err
			}
			return nil
		})
	}
	noErr(t, g.Wait())
	for n := range 40 {
		wantErr(t, claim(t, db, k, board(n)), edgeclaim.ErrDenied)
	}
}

func TestApproval(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	ctx := t.Context()
	second, third := template(t, "template-2"), template(t, "template-3")
	second.Approval, third.Approval = edgeclaim.ApprovalManual, edgeclaim.ApprovalManual
	noErr(t, db.CreateTemplate(ctx, second))
	noErr(t, db.CreateTemplate(ctx, third))
	k2, k3 := key(t, "key-2", "template-2"), key(t, "key-3", "template-3")
	noErr(t, db.AddKeys(ctx, []edgeclaim.Key{k2, k3}))
	wish := edgeclaim.Pending{
		ID: derived(t, "a", 1), Tenant: tenant(t), Hardware: hardware(t, "a"), Template: k2.Template, Key: k2.ID,
		Name: "pump", Via: edgeclaim.ViaMQTT, Source: "192.0.2.1", AskedAt: moment, Status: edgeclaim.PendingApproved, By: "nobody",
	}
	got, err := db.Pend(ctx, wish)
	noErr(t, err)
	want := wish
	want.Asked, want.Status, want.By = 1, edgeclaim.PendingWaiting, "" // whatever the caller says
	equal(t, "pending", got, want)
	wish.Source, wish.AskedAt = "192.0.2.2", moment.Add(time.Hour)
	got, err = db.Pend(ctx, wish)
	noErr(t, err)
	want.Asked, want.Source = 2, "192.0.2.2"
	equal(t, "pending again", got, want)
	if look(t, db, k2, "a").Approved {
		t.Error("approved by itself")
	}
	spend := func(k edgeclaim.Key) error {
		ref := refer(t, k, "a")
		return db.Mint(ctx, ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
			minted, err := mint(ref)(p)
			if minted != nil {
				minted.SpendApproval = true
			}
			return minted, err
		})
	}
	wantErr(t, spend(k2), edgeclaim.ErrInvalid)
	approve := func(p *edgeclaim.Pending) (bool, error) {
		p.Status, p.By = edgeclaim.PendingApproved, "uid:0"
		return true, nil
	}
	_, err = db.ChangePending(ctx, derived(t, "b", 1), approve)
	wantErr(t, err, edgeclaim.ErrNotFound)
	got, err = db.ChangePending(ctx, wish.ID, approve)
	noErr(t, err)
	want.Status, want.By = edgeclaim.PendingApproved, "uid:0"
	equal(t, "approved", got, want)
	got, err = db.Pend(ctx, wish)
	noErr(t, err)
	want.Asked = 3
	equal(t, "asked again once approved", got, want)
	for _, k := range []edgeclaim.Key{k, k3} {
		if look(t, db, k, "a").Approved {
			t.Errorf("approved for %s", k.Template)
		}
	}
	checkAndClose(t, db)
	db = open(t, cfg)
	if !look(t, db, k2, "a").Approved {
		t.Fatal("approved, and it does not count")
	}
	noErr(t, spend(k2))
	if n, err := db.CountPending(ctx); err != nil || n != 0 || look(t, db, k2, "a").Approved {
		t.Errorf("spent, %d wait, %v", n, err)
	}
	other := wish
	other.ID, other.Hardware = derived(t, "b", 1), hardware(t, "b")
	_, err = db.Pend(ctx, other)
	noErr(t, err)
	_, err = db.ChangePending(ctx, other.ID, approve)
	noErr(t, err)
	other.Template, other.Key = k3.Template, k3.ID
	got, err = db.Pend(ctx, other)
	if err != nil || got.Asked != 1 || got.Status != edgeclaim.PendingWaiting || look(t, db, k3, "b").Approved || look(t, db, k2, "b").Approved {
		t.Errorf("approved for one template, it asks by another as %+v, %v", got, err)
	}
	// It claims by a template that asks nobody: what waits is over, and no
	// approval is left behind for whoever comes after a release.
	_, err = db.ChangePending(ctx, other.ID, approve)
	noErr(t, err)
	noErr(t, claim(t, db, k, "b"))
	if n, err := db.CountPending(ctx); err != nil || n != 0 || look(t, db, k3, "b").Approved {
		t.Errorf("claimed by another template, %d wait, %v", n, err)
	}
}

func TestPendingRefusals(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	ctx := t.Context()
	wish := edgeclaim.Pending{
		ID: derived(t, "a", 1), Tenant: tenant(t), Hardware: hardware(t, "a"), Template: k.Template, Key: k.ID, AskedAt: moment,
	}
	_, err := db.Pend(ctx, edgeclaim.Pending{ID: wish.ID})
	wantErr(t, err, edgeclaim.ErrInvalid)
	lost := wish
	lost.Template = must(edgeclaim.ParseTemplateID("gone"))(t)
	_, err = db.Pend(ctx, lost)
	wantErr(t, err, edgeclaim.ErrNotFound)
	_, err = db.Pend(ctx, wish)
	noErr(t, err)
	boom := errors.New("boom")
	for name, tc := range map[string]struct {
		change func(*edgeclaim.Pending) (bool, error)
		want   error
	}{
		"decided against": {func(p *edgeclaim.Pending) (bool, error) { p.By = "x"; return true, boom }, boom},
		"another name":    {func(p *edgeclaim.Pending) (bool, error) { p.Name = "x"; return true, nil }, edgeclaim.ErrInvalid},
		"no status":       {func(p *edgeclaim.Pending) (bool, error) { p.Status = "x"; return true, nil }, edgeclaim.ErrInvalid},
		"nothing":         {func(*edgeclaim.Pending) (bool, error) { return true, nil }, nil},
	} {
		_, err := db.ChangePending(ctx, wish.ID, tc.change)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	claims, err := db.PendingClaims(ctx, edgeclaim.DeviceID{}, 10)
	wish.Asked, wish.Status = 1, edgeclaim.PendingWaiting
	if err != nil || len(claims) != 1 || claims[0] != wish {
		t.Errorf("pending are %+v, %v", claims, err)
	}
	_, err = db.ChangePending(ctx, wish.ID, func(*edgeclaim.Pending) (bool, error) { return false, nil })
	noErr(t, err)
	claims, err = db.PendingClaims(ctx, edgeclaim.DeviceID{}, 10)
	if err != nil || len(claims) != 0 {
		t.Errorf("pending are %+v, %v", claims, err)
	}
}

func TestPendingIsBounded(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	wish := func(n int) edgeclaim.Pending {
		hw := must(edgeclaim.ParseHardwareID(board(n)))(t)
		return edgeclaim.Pending{
			ID: edgeclaim.NewDeviceID(tenant(t), hw, 1), Tenant: tenant(t), Hardware: hw, Template: k.Template, Key: k.ID, AskedAt: moment,
		}
	}
	var g errgroup.Group
	for w := range 100 {
		g.Go(func() error {
			for n := w; n < edgeclaim.MaxPending; n += 100 {
				if _, err := db.Pend(t.Context(), wish(n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	noErr(t, g.Wait())
	_, err := db.Pend(t.Context(), wish(edgeclaim.MaxPending))
	wantErr(t, err, edgeclaim.ErrThrottled)
	_, err = db.Pend(t.Context(), wish(7)) // who is on record already
	noErr(t, err)
	var paged int
	for after := (edgeclaim.DeviceID{}); ; {
		page, err := db.PendingClaims(t.Context(), after, 3333)
		noErr(t, err)
		if len(page) == 0 {
			break
		}
		paged += len(page)
		after = page[len(page)-1].ID
	}
	equal(t, "paged", paged, edgeclaim.MaxPending)
}

func TestManifest(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	ctx := t.Context()
	second := template(t, "template-2")
	second.AllowList, second.ExpectedClaims = true, 7
	noErr(t, db.CreateTemplate(ctx, second))
	k2 := key(t, "key-2", "template-2")
	noErr(t, db.AddKeys(ctx, []edgeclaim.Key{k2}))

	rows := make([]edgeclaim.ManifestRow, 0, store.MaxManifestRows)
	for n := range store.MaxManifestRows {
		rows = append(rows, edgeclaim.ManifestRow{Hardware: hardware(t, fmt.Sprintf("hw-%04d", n)), Name: board(n), Groups: []string{"a", "b"}})
	}
	imported := func(rows []edgeclaim.ManifestRow, wantAdded, wantChanged int) {
		t.Helper()
		added, changed, err := db.ImportManifest(ctx, second.ID, rows)
		if err != nil || added != wantAdded || changed != wantChanged {
			t.Fatalf("%d added, %d changed, %v, want %d and %d", added, changed, err, wantAdded, wantChanged)
		}
	}
	imported(rows, len(rows), 0)
	imported(rows, 0, 0)
	rows[3].Profile = "other"
	imported([]edgeclaim.ManifestRow{{Hardware: rows[3].Hardware}, rows[3]}, 0, 1) // the last one counts
	checkAndClose(t, db)
	db = open(t, cfg)
	var paged []edgeclaim.ManifestRow
	for after := (edgeclaim.HardwareID{}); ; {
		page, err := db.Manifest(ctx, second.ID, after, 300)
		noErr(t, err)
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
		after = page[len(page)-1].Hardware
	}
	equal(t, "rows", paged, rows)
	if p := look(t, db, k2, "hw-0003"); p.Listed == nil || p.Listed.Profile != "other" || p.Grant.Template.ExpectedClaims != 7 {
		t.Errorf("the listed board sees %+v", p)
	}
	if p := look(t, db, k2, "hw-9999"); p.Listed != nil {
		t.Errorf("an unlisted board sees %+v", p.Listed)
	}
	if p := look(t, db, k, "hw-0003"); p.Listed != nil { // its template asks for no list
		t.Errorf("another template's claim sees %+v", p.Listed)
	}
	removed, err := db.RemoveManifest(ctx, second.ID, []edgeclaim.HardwareID{rows[0].Hardware, rows[1].Hardware, rows[0].Hardware})
	noErr(t, err)
	equal(t, "removed", removed, 2)
	left, err := db.Manifest(ctx, second.ID, edgeclaim.HardwareID{}, 5000)
	if err != nil || len(left) != len(rows)-2 || slices.ContainsFunc(left, func(r edgeclaim.ManifestRow) bool { return r.Hardware == rows[0].Hardware }) {
		t.Errorf("%d left, %v", len(left), err)
	}
	none, err := db.Manifest(ctx, k.Template, edgeclaim.HardwareID{}, 5000)
	if err != nil || len(none) > 0 {
		t.Errorf("another template's rows: %v, %v", none, err)
	}
	_, _, err = db.ImportManifest(ctx, second.ID, append(rows, rows[0]))
	wantErr(t, err, edgeclaim.ErrInvalid)
	_, _, err = db.ImportManifest(ctx, second.ID, []edgeclaim.ManifestRow{rows[0], {}})
	wantErr(t, err, edgeclaim.ErrInvalid)
	gone := must(edgeclaim.ParseTemplateID("gone"))(t)
	_, _, err = db.ImportManifest(ctx, gone, rows[:1])
	wantErr(t, err, edgeclaim.ErrNotFound)
	_, err = db.Manifest(ctx, gone, edgeclaim.HardwareID{}, 1)
	wantErr(t, err, edgeclaim.ErrNotFound)
	_, err = db.RemoveManifest(ctx, gone, nil)
	wantErr(t, err, edgeclaim.ErrNotFound)
}

func TestLookWithoutATenant(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	noErr(t, claim(t, db, k, "a"))
	ref := edgeclaim.ClaimRef{Key: k.Hash, Hardware: hardware(t, "a")}
	for range 2 { // the key from the file, and from the cache
		p, err := db.Look(t.Context(), ref)
		if err != nil || p.Known == nil || p.Known.ID != derived(t, "a", 1) || p.Next != p.Known.ID {
			t.Errorf("present is %+v, %v", p, err)
		}
	}
	ref.Tenant = must(edgeclaim.ParseTenantID("00000000-0000-4000-8000-000000000001"))(t)
	_, err := db.Look(t.Context(), ref)
	wantErr(t, err, edgeclaim.ErrInvalid)
	wantErr(t, db.Mint(t.Context(), ref, mint(ref)), edgeclaim.ErrInvalid)
	wantErr(t, db.Mint(t.Context(), edgeclaim.ClaimRef{Key: k.Hash}, mint(ref)), edgeclaim.ErrInvalid)
	_, err = db.Look(t.Context(), edgeclaim.ClaimRef{Key: hashOf("x"), Hardware: ref.Hardware})
	wantErr(t, err, edgeclaim.ErrNotFound)
}
