package store_test

import (
	"fmt"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/store"
)

// BenchmarkApply is one document of 10,000 rows on a box of 100,000 devices, in
// one transaction: its first version, and one that says the same again and one
// row more. Beside it, one claim.
func BenchmarkApply(b *testing.B) {
	const rows, devices = 10_000, 100_000
	db, k := filled(b, devices, nil)
	text := make([]byte, edgeclaim.MaxDocument*4/3)
	version := uint64(0)
	held := func(kind edgeclaim.DocumentType) edgeclaim.HeldDocument {
		version++
		return document(b, kind, version)
	}
	last := uint64(0)
	b.Run("what=claim", func(b *testing.B) {
		for b.Loop() {
			last++
			noErr(b, claim(b, db, k, fmt.Sprint("one-", last)))
		}
	})
	// Each is called with which version it is to be of a document that grows by a
	// row, its first row at a place of its own.
	kinds := []struct {
		kind  edgeclaim.DocumentType
		apply func(from, rows int) error
	}{
		{edgeclaim.DocumentRevocations, func(from, rows int) error {
			r := &edgeclaim.Revocations{}
			for n := range rows { // of claimed boards, so that each device is voided
				r.Hardware = append(r.Hardware, hardware(b, board((from+n)*7%devices)))
			}
			_, err := db.ApplyRevocations(b.Context(), held(edgeclaim.DocumentRevocations), text, r, voiding)
			return err
		}},
		{edgeclaim.DocumentTemplates, func(from, rows int) error {
			t := &edgeclaim.Templates{Templates: []edgeclaim.Template{ruled(b, "t-1")}}
			for n := range rows {
				t.Keys = append(t.Keys, ruledKey(b, fmt.Sprint("bench-", from+n), "t-1", ""))
			}
			_, err := db.ApplyTemplates(b.Context(), held(edgeclaim.DocumentTemplates), text, t, true, moment)
			return err
		}},
		{edgeclaim.DocumentAliases, func(from, rows int) error {
			a := &edgeclaim.Aliases{}
			for n := range rows {
				a.Aliases = append(a.Aliases, aliasOf(b, fmt.Sprint("alias-", from+n), platformID(b, from+n), ""))
			}
			_, err := db.ApplyAliases(b.Context(), held(edgeclaim.DocumentAliases), text, a, (&calls{}).change)
			return err
		}},
		{edgeclaim.DocumentAllowList, func(from, rows int) error {
			a := &edgeclaim.AllowList{Template: k.Template}
			for n := range rows {
				a.Rows = append(a.Rows, rowOf(b, fmt.Sprint("row-", from+n), "pump"))
			}
			return db.ApplyAllowList(b.Context(), held(edgeclaim.DocumentAllowList), text, a)
		}},
	}
	for _, kind := range kinds {
		var took [2]time.Duration
		b.Run(fmt.Sprintf("what=%s/rows=%d/devices=%d", kind.kind, rows, devices), func(b *testing.B) {
			for n := 0; b.Loop(); n++ {
				if kind.kind == edgeclaim.DocumentRevocations && n > 0 {
					b.Skip("the first version alone voids devices")
				}
				start := time.Now()
				noErr(b, kind.apply(0, rows))
				took[0] = time.Since(start)
				start = time.Now()
				noErr(b, kind.apply(0, rows+1))
				took[1] = time.Since(start)
			}
			b.ReportMetric(float64(took[0].Milliseconds()), "ms/first")
			b.ReportMetric(float64(took[1].Milliseconds()), "ms/next")
		})
	}
	b.Run("what=claim_beside_documents", func(b *testing.B) {
		for b.Loop() {
			last++
			noErr(b, claim(b, db, k, fmt.Sprint("one-", last)))
		}
	})
}

// BenchmarkInherited is what each point of telemetry asks.
func BenchmarkInherited(b *testing.B) {
	db, err := store.Open(config(b))
	noErr(b, err)
	defer db.Close() //nolint:errcheck // only read
	var p edgeclaim.Profiles
	for n := range 1000 {
		p.Profiles = append(p.Profiles, edgeclaim.Profile{ID: fmt.Sprint("profile-", n), OfflineAfter: 60})
	}
	h := document(b, edgeclaim.DocumentProfiles, 1)
	noErr(b, db.ApplyProfiles(b.Context(), h, textOf(h), &p))
	owner := tenant(b)
	b.ReportAllocs()
	for b.Loop() {
		if db.Inherited(owner, "profile-7").Profile == nil {
			b.Fatal("nothing is inherited")
		}
	}
}
