package command_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/command"
)

// BenchmarkLook is what Run does each time that something may be due, with as
// much waiting as may by default: how long the lock is held.
func BenchmarkLook(b *testing.B) {
	for _, waiting := range []int{100, command.Defaults().MaxWaiting} {
		b.Run(fmt.Sprint("waiting=", waiting), func(b *testing.B) {
			r := newRig(b, func(c *command.Config) { c.MaxPerDevice = c.MaxWaiting })
			defer r.close()
			var g errgroup.Group
			g.SetLimit(256)
			for n := range waiting {
				g.Go(func() error {
					o := r.order(fmt.Sprint("c", n))
					o.Device, o.Origin, o.ExpiresAt = device(b, n%4), edgeclaim.OriginUpstream, time.Now().Add(time.Hour)
					return r.Order(b.Context(), o)
				})
			}
			r.noErr(g.Wait())
			r.Look() // wakes
			for b.Loop() {
				r.Look()
			}
		})
	}
}
