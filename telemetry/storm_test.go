package telemetry_test

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
)

// TestStorm: many devices at once, the way up beside them, a quota that is too
// small: what was acknowledged to a device is told, or in a gap, once.
func TestStorm(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(b *box) {
		small(b)
		b.parts.Told = func() bool { return true }
	})
	const devices, points = 20, 300
	var acknowledged, over atomic.Int64
	group, ctx := errgroup.WithContext(t.Context())
	var saying errgroup.Group
	for n := range devices {
		saying.Go(func() error {
			for i := range points {
				r := report(t, n, `{"n":`+strconv.Itoa(i)+`}`)
				r.Fleeting = i%10 == 9
				receipt, err := b.Telemetry(ctx, r)
				if err == nil {
					err = receipt.Commit.Wait(ctx)
				}
				if err != nil && !errors.Is(err, edgeclaim.ErrUnavailable) {
					return err
				}
				if err == nil && !r.Fleeting {
					acknowledged.Add(1)
				}
				if i%50 == 0 {
					b.Gone(r.By.Device)
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer over.Store(1)
		return saying.Wait()
	})
	// Those that nobody waits for come when they come.
	counted := func() bool {
		status := b.Status()
		return status.Accepted+status.FleetingDropped+status.Rejected["disk_full"] == devices*points
	}
	told, lost := map[uint64]bool{}, uint64(0)
	group.Go(func() error {
		var after uint64
		for states := uint64(0); ; {
			ended := over.Load() == 1
			records, err := b.Lane().Next(ctx, b.mark(after), 100)
			if err != nil {
				return err
			}
			for _, r := range records {
				if told[r.Sequence] {
					return fmt.Errorf("%d is told twice", r.Sequence)
				}
				told[r.Sequence], after = true, r.Sequence
				if r.Type == edgeclaim.TypeGap {
					g := gapOf(t, r)
					for n := g.From; n < g.To; n++ {
						told[n] = true
					}
					lost += g.Count
				}
			}
			if err := b.Lane().Ack(ctx, b.mark(after)); err != nil {
				return err
			}
			changed, err := b.Changed(ctx, states, 5, true)
			if err != nil {
				return err
			}
			for _, s := range changed {
				states = s.Version
			}
			if ended && len(records) == 0 && counted() && b.Lane().Stats().Pending == 0 {
				return nil
			}
		}
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	stats := b.sums()
	if uint64(len(told)) != stats.Appended || stats.Appended < uint64(acknowledged.Load()) || acknowledged.Load() == 0 {
		t.Errorf("%d told (%d lost), %d acknowledged, %+v", len(told), lost, acknowledged.Load(), stats)
	}
}
