package provision

import (
	"context"
	"time"

	"edgeclaim"
)

// The sweep for credentials that were never used. There is no index of them:
// one would cost every claim a page; looking at all devices costs one core a
// few seconds in an hour.
const (
	sweepFirst   = 10 * time.Minute // after the start: the line comes first
	sweepEvery   = time.Hour
	sweepPause   = 10 * time.Millisecond // between two pages
	sweepDevices = 1000                  // in a page
	// sweepRecords is how many devices a sweep tells of one by one.
	sweepRecords = 100
)

// sweep is where the sweep under way stands. Only Run touches it.
type sweep struct {
	after edgeclaim.DeviceID // the last device looked at; zero: at the start
	told  int
}

// sweepPage looks at one page of devices, and says when to look at the next.
func (s *Service) sweepPage(ctx context.Context) time.Duration {
	page, err := s.store.Devices(ctx, s.sweep.after, sweepDevices)
	if err != nil {
		s.logger.Warn("devices not looked through", "err", err)
		s.sweep = sweep{}
		return sweepEvery
	}
	now := s.clock.Now()
	var rest []*edgeclaim.Device
	for i := range page {
		switch {
		case !s.overdue(&page[i], now):
		case s.sweep.told >= sweepRecords:
			rest = append(rest, &page[i])
		default:
			s.tellUnconfirmed(ctx, &page[i])
		}
	}
	s.tellRest(ctx, rest)
	if len(page) == sweepDevices {
		s.sweep.after = page[len(page)-1].ID
		return sweepPause
	}
	s.endSweep()
	return sweepEvery
}

// overdue reports whether a device was given a credential long ago, has never
// used it, and nobody heard of that yet.
func (s *Service) overdue(d *edgeclaim.Device, now time.Time) bool {
	return d.Status == edgeclaim.DeviceActive && !d.Told && d.Credential.ConfirmedAt.IsZero() &&
		now.Sub(d.Credential.IssuedAt) > s.cfg.UnconfirmedAfter
}

// tellUnconfirmed tells of one device. It is told before it is noted that it
// was: twice is harmless, never is not.
func (s *Service) tellUnconfirmed(ctx context.Context, d *edgeclaim.Device) {
	if ctx.Err() != nil { // the next life looks again
		return
	}
	if err := s.appendUnconfirmed(ctx, d); err != nil {
		s.logger.Warn("unconfirmed device not told yet", "device_id", d.ID, "err", err)
		return
	}
	s.noteTold(ctx, d)
}

// tellRest tells of those of a page that are above a sweep's limit by their
// number, before it is noted too.
func (s *Service) tellRest(ctx context.Context, rest []*edgeclaim.Device) {
	if len(rest) == 0 || ctx.Err() != nil {
		return
	}
	record, err := s.record(edgeclaim.LaneEvt, edgeclaim.TypeDeviceUnconfirmed, unconfirmedMore{
		Count: uint64(len(rest)), BoxID: s.cfg.BoxID, Site: s.cfg.Site,
	})
	if err == nil {
		err = s.store.Append(ctx, *record)
	}
	if err != nil {
		s.logger.Warn("unconfirmed devices not told yet", "count", len(rest), "err", err)
		return
	}
	for _, d := range rest {
		s.noteTold(ctx, d)
	}
}

// noteTold keeps a device from being told of again.
func (s *Service) noteTold(ctx context.Context, d *edgeclaim.Device) {
	s.sweep.told++
	issued := d.Credential.IssuedAt
	_, err := s.store.ChangeDevice(ctx, d.ID, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		if d.Credential.IssuedAt.Equal(issued) && d.Credential.ConfirmedAt.IsZero() {
			d.Told = true
		}
		return nil, nil
	})
	if err != nil && ctx.Err() == nil {
		s.logger.Warn("unconfirmed device not noted as told", "device_id", d.ID, "err", err)
	}
	s.alarm(edgeclaim.AlarmUnconfirmed, edgeclaim.KeyID{})
}

func (s *Service) appendUnconfirmed(ctx context.Context, d *edgeclaim.Device) error {
	record, err := s.record(edgeclaim.LaneEvt, edgeclaim.TypeDeviceUnconfirmed, unconfirmed{
		deviceFacts: s.facts(d), IssuedAt: d.Credential.IssuedAt,
	})
	if err != nil {
		return err
	}
	record.Device = d.ID
	return s.store.Append(ctx, *record)
}

// endSweep begins anew.
func (s *Service) endSweep() {
	if s.sweep.told > 0 {
		s.logger.Warn("devices never used their credentials", "count", s.sweep.told)
	}
	s.sweep = sweep{}
}
