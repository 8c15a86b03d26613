package document_test

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/document"
	"edgeclaim/internal/signeddoc"
)

// TestTogether: upstream, an operator with a file, claims and whoever looks, all at
// once: versions only rise, and the highest is held in the end.
func TestTogether(t *testing.T) {
	r := newRig(t, document.Config{Stale: edgeclaim.StaleDeny})
	defer r.close()
	const versions = 12
	papers := make([]*signeddoc.Signed, versions)
	for n := range papers {
		papers[n] = profiles(t, key(0), uint64(n+1))
	}
	ctx, cancel := context.WithCancel(t.Context())
	look, takers := new(errgroup.Group), new(errgroup.Group)
	look.Go(func() error { return r.Run(ctx) })
	for range 2 {
		look.Go(func() error {
			for last := uint64(0); ctx.Err() == nil; {
				state := r.state(papers[0])
				if state.Version < last {
					return fmt.Errorf("version %d after %d", state.Version, last)
				}
				last = state.Version
				if r.Denies(papers[0].Document.Tenant) {
					return fmt.Errorf("denies")
				}
			}
			return nil
		})
	}
	for n := range 4 {
		takers.Go(func() error {
			for i := range papers {
				s := papers[(i*(n+3)+n)%versions]
				switch n {
				case 0:
					_, _ = r.Import(ctx, newReader(s))
				case 1:
					_, _ = r.Confirm(ctx, []edgeclaim.DocumentOffer{offer(s)})
					r.Rekeyed(ctx)
				default:
					_, _ = r.Take(ctx, s.Text, "upstream")
				}
			}
			_, _ = r.Take(ctx, papers[versions-1].Text, "upstream")
			return r.Restored(ctx)
		})
	}
	r.noErr(takers.Wait())
	cancel()
	r.noErr(look.Wait())
	if state := r.state(papers[0]); state.Version != versions || state.Hash != papers[versions-1].Hash {
		t.Errorf("state %+v", state)
	}
}
