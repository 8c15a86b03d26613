package provision

import (
	"context"
	"time"

	"edgeclaim"
)

// Device returns one device, ErrNotFound when there is none.
func (s *Service) Device(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.Device, error) {
	return s.store.Device(ctx, id)
}

// Devices returns up to max devices that follow after.
func (s *Service) Devices(ctx context.Context, after edgeclaim.DeviceID, max int) ([]edgeclaim.Device, error) {
	return s.store.Devices(ctx, after, max)
}

// releasedFacts is the data of device.released.
type releasedFacts struct {
	deviceFacts
	ReleasedAt time.Time `json:"released_at"`
}

// Release voids a device's credential and lets its hardware claim anew, under
// the same id: the operator's way out for a device that lost its answer. It is
// told upstream in the same transaction, and open sessions end. Releasing a
// released device changes nothing; a revoked one is ErrConflict.
func (s *Service) Release(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.Device, error) {
	now := s.clock.Now()
	device, err := s.store.ChangeDevice(ctx, id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		switch d.Status {
		case edgeclaim.DeviceReleased:
			return nil, nil
		case edgeclaim.DeviceRevoked:
			return nil, edgeclaim.ErrConflict
		case edgeclaim.DeviceActive:
		}
		d.Status, d.Credential = edgeclaim.DeviceReleased, edgeclaim.Credential{}
		return s.deviceRecord(edgeclaim.TypeDeviceReleased, d, releasedFacts{deviceFacts: s.facts(d), ReleasedAt: now})
	})
	if err != nil {
		return edgeclaim.Device{}, err
	}
	s.cfg.Void(id)
	s.logger.Info("device released", "device_id", id, "hardware_id", device.Hardware)
	return device, nil
}
