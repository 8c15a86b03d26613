package command

import (
	"context"
	"time"

	"edgeclaim"
)

// maxRefused is how many orders are remembered that the box did not take.
const maxRefused = 4096

// refusedKey names an order of upstream's that the box did not take.
type refusedKey struct {
	device edgeclaim.DeviceID
	id     edgeclaim.CommandID
}

// fate is what upstream was told of one.
type fate struct {
	status edgeclaim.CommandStatus
	reason string
	told   time.Duration // since boot
}

// refusedBefore returns what upstream was told of an order that was not taken,
// or was taken back before it came. That was its end: if the box took it now,
// upstream would hold for failed what a device does.
func (s *Service) refusedBefore(device edgeclaim.DeviceID, id edgeclaim.CommandID) (fate, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, known := s.refused[refusedKey{device, id}]
	return f, known
}

// refuse tells upstream what became of an order that the box does not keep; once
// more where it asks long after.
func (s *Service) refuse(ctx context.Context, o edgeclaim.Order, f fate) error {
	up := s.moment().up
	if before, known := s.refusedBefore(o.Device, o.ID); known {
		if f = before; up-f.told < tellAgainAfter {
			return nil
		}
	}
	r, err := told(&edgeclaim.Command{
		ID: o.ID, Device: o.Device, Origin: o.Origin, By: name(o.By), Status: f.status,
		ExpiresAt: o.ExpiresAt, ChangedAt: s.clock.Now(), Reason: f.reason,
	}, s.clock.Stamp())
	if err != nil {
		return err
	}
	if err := s.store.Append(ctx, *r); err != nil {
		return err
	}
	f.told = up
	s.mu.Lock()
	if len(s.refused) >= maxRefused {
		clear(s.refused) // some are judged anew
	}
	s.refused[refusedKey{o.Device, o.ID}] = f
	s.mu.Unlock()
	s.cfg.Observe(f.status)
	return nil
}
