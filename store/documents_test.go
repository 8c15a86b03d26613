package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/store"
)

// other is a tenant beside the one of most tests.
func other(tb testing.TB) edgeclaim.TenantID {
	return must(edgeclaim.ParseTenantID("11111111-2222-4333-8444-555555555555"))(tb)
}

// document is a document of the one tenant, as the box keeps it; the hash is of
// what says what is in it.
func document(tb testing.TB, kind edgeclaim.DocumentType, version uint64, content ...any) edgeclaim.HeldDocument {
	tb.Helper()
	h := edgeclaim.HeldDocument{
		ID: edgeclaim.DocumentID{Type: kind, Tenant: tenant(tb)}, Version: version,
		Hash:      edgeclaim.NewSecret(fmt.Sprint(kind, version, content)).Hash().String(),
		AppliedAt: moment, ConfirmedAt: moment, IssuedAt: moment.Add(-time.Hour),
	}
	if kind == edgeclaim.DocumentSigner {
		h.ID.Tenant = edgeclaim.TenantID{}
	}
	return h
}

// textOf stands for a signed text.
func textOf(h edgeclaim.HeldDocument) []byte {
	return []byte(fmt.Sprintf("%s version %d of %s", h.ID, h.Version, h.Hash))
}

// voiding is what the rule does to devices that revocations name and reinstate.
func voiding(d *edgeclaim.Device) (*edgeclaim.Record, error) {
	if d.Status == edgeclaim.DeviceRevoked {
		d.Status = edgeclaim.DeviceReleased
	} else {
		d.Status = edgeclaim.DeviceRevoked
	}
	d.Credential, d.Previous, d.Mint = edgeclaim.Credential{}, edgeclaim.Credential{}, nil
	return conflict(d.ID), nil
}

func conflict(id edgeclaim.DeviceID) *edgeclaim.Record {
	r := record(id)
	r.Type = edgeclaim.TypeDeviceConflict
	return r
}

func wantRefusal(tb testing.TB, err error, want edgeclaim.DocumentRefusal) {
	tb.Helper()
	var refused *edgeclaim.DocumentError
	if !errors.As(err, &refused) || refused.Reason != want {
		tb.Fatalf("got %v, want a refusal of %s", err, want)
	}
}

// whole is all that a caller can see of a store, its documents included.
func whole(tb testing.TB, db *store.DB) []string {
	tb.Helper()
	documents, err := db.Documents(tb.Context())
	noErr(tb, err)
	var texts []string
	for _, h := range documents {
		text, err := db.DocumentText(tb.Context(), h.ID)
		if h.Version == 0 {
			wantErr(tb, err, edgeclaim.ErrNotFound)
			continue
		}
		noErr(tb, err)
		texts = append(texts, string(text))
	}
	return append(snapshot(tb, db), fmt.Sprintf("%+v", documents), fmt.Sprint(texts))
}

// appliers apply one document of each type that takes no more than a version.
func appliers(tb testing.TB, db *store.DB) map[edgeclaim.DocumentType]func(edgeclaim.HeldDocument) error {
	ctx := tb.Context()
	return map[edgeclaim.DocumentType]func(edgeclaim.HeldDocument) error{
		edgeclaim.DocumentSigner: func(h edgeclaim.HeldDocument) error { return db.ApplySigner(ctx, h, textOf(h)) },
		edgeclaim.DocumentRevocations: func(h edgeclaim.HeldDocument) error {
			_, err := db.ApplyRevocations(ctx, h, textOf(h), &edgeclaim.Revocations{}, voiding)
			return err
		},
		edgeclaim.DocumentTemplates: func(h edgeclaim.HeldDocument) error {
			_, err := db.ApplyTemplates(ctx, h, textOf(h), &edgeclaim.Templates{}, true, moment)
			return err
		},
		edgeclaim.DocumentProfiles: func(h edgeclaim.HeldDocument) error {
			return db.ApplyProfiles(ctx, h, textOf(h), &edgeclaim.Profiles{})
		},
		edgeclaim.DocumentAliases: func(h edgeclaim.HeldDocument) error {
			_, err := db.ApplyAliases(ctx, h, textOf(h), &edgeclaim.Aliases{}, nil)
			return err
		},
		edgeclaim.DocumentAllowList: func(h edgeclaim.HeldDocument) error {
			return db.ApplyAllowList(ctx, h, textOf(h), &edgeclaim.AllowList{Template: template(tb, "t").ID})
		},
	}
}

// TestDocumentsVersionsNeverGoBack: of each type, through a reopen.
func TestDocumentsVersionsNeverGoBack(t *testing.T) {
	for _, kind := range edgeclaim.DocumentTypes() {
		t.Run(string(kind), func(t *testing.T) {
			cfg := config(t)
			db := open(t, cfg)
			noErr(t, appliers(t, db)[kind](document(t, kind, 5)))
			checkAndClose(t, db)
			db = open(t, cfg)
			apply := appliers(t, db)[kind]
			before := whole(t, db)
			noErr(t, apply(document(t, kind, 5))) // said again
			wantRefusal(t, apply(document(t, kind, 4)), edgeclaim.DocumentOldVersion)
			wantRefusal(t, apply(document(t, kind, 5, "else")), edgeclaim.DocumentSameVersion)
			wantErr(t, apply(document(t, kind, 0)), edgeclaim.ErrInvalid)
			for _, wrong := range edgeclaim.DocumentTypes() {
				if wrong != kind {
					wantErr(t, apply(document(t, wrong, 9)), edgeclaim.ErrInvalid)
				}
			}
			equal(t, "after refusals", whole(t, db), before)
			next := document(t, kind, 7)
			noErr(t, apply(next))
			got, err := db.Documents(t.Context())
			noErr(t, err)
			equal(t, "documents", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", []edgeclaim.HeldDocument{next}))
			text, err := db.DocumentText(t.Context(), next.ID)
			noErr(t, err)
			equal(t, "text", string(text), string(textOf(next)))
		})
	}
}

func TestDocumentsTextIsBounded(t *testing.T) {
	db := open(t, config(t))
	h := document(t, edgeclaim.DocumentSigner, 1)
	wantErr(t, db.ApplySigner(t.Context(), h, nil), edgeclaim.ErrInvalid)
	wantErr(t, db.ApplySigner(t.Context(), h, make([]byte, edgeclaim.MaxDocument*4/3+5<<10)), edgeclaim.ErrInvalid)
	noErr(t, db.ApplySigner(t.Context(), h, make([]byte, edgeclaim.MaxDocument*4/3+1<<10)))
}

// TestSetHeldChangesHowADocumentStands, and never what it is.
func TestSetHeldChangesHowADocumentStands(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	ctx := t.Context()
	signer := document(t, edgeclaim.DocumentSigner, 3)
	noErr(t, db.ApplySigner(ctx, signer, textOf(signer)))

	want := signer
	want.Confirmed, want.ConfirmedAt, want.Synced, want.Aged = true, moment.Add(time.Minute), true, 5*time.Second
	want.Refused, want.RefusedDetail = edgeclaim.DocumentOldVersion, "why"
	want.RefusedVersion, want.RefusedAt = 2, moment.Add(time.Hour)
	forged := want
	forged.Box, forged.Site, forged.IssuedAt, forged.MaxAge = "box", "site", moment.Add(9*time.Hour), time.Hour
	fresh := document(t, edgeclaim.DocumentTemplates, 0)
	fresh.Refused, fresh.RefusedVersion, fresh.RefusedAt = edgeclaim.DocumentMalformed, 4, moment
	fresh.Hash = "of nothing"
	unknown := document(t, edgeclaim.DocumentProfiles, 8)
	noErr(t, db.SetHeld(ctx, forged, fresh, unknown))
	checkAndClose(t, db)
	db = open(t, cfg)
	bare := edgeclaim.HeldDocument{ID: fresh.ID, Refused: fresh.Refused, RefusedVersion: 4, RefusedAt: moment}
	got, err := db.Documents(ctx)
	noErr(t, err)
	equal(t, "documents", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", []edgeclaim.HeldDocument{want, bare}))
	_, err = db.DocumentText(ctx, fresh.ID)
	wantErr(t, err, edgeclaim.ErrNotFound)

	// What was meant for a version that is no longer held says no more than why
	// an offer was refused.
	newer := document(t, edgeclaim.DocumentSigner, 4)
	noErr(t, db.ApplySigner(ctx, newer, textOf(newer)))
	late := want
	late.Refused = ""
	noErr(t, db.SetHeld(ctx, late))
	got, err = db.Documents(ctx)
	noErr(t, err)
	equal(t, "documents", fmt.Sprintf("%+v", got[0]), fmt.Sprintf("%+v", newer))
	noErr(t, db.SetHeld(ctx, want))
	newer.Refused, newer.RefusedDetail, newer.RefusedVersion, newer.RefusedAt = want.Refused, want.RefusedDetail, want.RefusedVersion, want.RefusedAt
	got, err = db.Documents(ctx)
	noErr(t, err)
	equal(t, "documents", fmt.Sprintf("%+v", got[0]), fmt.Sprintf("%+v", newer))

	for name, wrong := range map[string]edgeclaim.HeldDocument{
		"no id": {}, "too large": {ID: fresh.ID, Refused: "x", RefusedDetail: strings.Repeat("x", store.MaxRecord)},
	} {
		if err := db.SetHeld(ctx, newer, wrong); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRefusalsMakeRoomForDocuments: MaxDocuments are kept, and no refusal keeps a
// document out.
func TestRefusalsMakeRoomForDocuments(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	list := func(n int) edgeclaim.HeldDocument {
		h := document(t, edgeclaim.DocumentAllowList, 0)
		h.ID.Name = fmt.Sprintf("list-%04d", n)
		h.Refused, h.RefusedAt = edgeclaim.DocumentMalformed, moment.Add(-time.Duration(n)*time.Second)
		return h
	}
	var all []edgeclaim.HeldDocument
	for n := range edgeclaim.MaxDocuments {
		all = append(all, list(n))
	}
	noErr(t, db.SetHeld(ctx, all...))
	signer := document(t, edgeclaim.DocumentSigner, 1)
	noErr(t, db.ApplySigner(ctx, signer, textOf(signer)))
	noErr(t, db.SetHeld(ctx, list(edgeclaim.MaxDocuments)))
	got, err := db.Documents(ctx)
	noErr(t, err)
	equal(t, "documents", len(got), edgeclaim.MaxDocuments)
	for _, h := range got { // the two oldest went
		if h.ID.Name == "list-0999" || h.ID.Name == "list-0998" {
			t.Errorf("%s is still there", h.ID)
		}
	}
	for n := range edgeclaim.MaxDocuments - 1 {
		h := list(n)
		h.Version, h.Hash = 1, "x"
		noErr(t, db.ApplyAllowList(ctx, h, textOf(h), &edgeclaim.AllowList{Template: template(t, "t").ID}))
	}
	wantErr(t, db.SetHeld(ctx, list(5000)), edgeclaim.ErrInvalid)
	one := list(5000)
	one.Version = 1
	wantErr(t, db.ApplyAllowList(ctx, one, textOf(one), &edgeclaim.AllowList{Template: template(t, "t").ID}), edgeclaim.ErrInvalid)
}

// TestForgottenSignerBeginsAnew: the chain hangs on the enrolled key.
func TestForgottenSignerBeginsAnew(t *testing.T) {
	db := open(t, config(t))
	ctx := t.Context()
	noErr(t, db.ForgetSigner(ctx))
	for _, version := range []uint64{9, 1} {
		h := document(t, edgeclaim.DocumentSigner, version)
		noErr(t, db.ApplySigner(ctx, h, textOf(h)))
		noErr(t, db.ForgetSigner(ctx))
		got, err := db.Documents(ctx)
		noErr(t, err)
		equal(t, "documents", len(got), 0)
		_, err = db.DocumentText(ctx, h.ID)
		wantErr(t, err, edgeclaim.ErrNotFound)
	}
}
