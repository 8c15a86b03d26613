package provision

import (
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// Device returns one device, ErrNotFound when there is none.
func (s *Service) Device(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.Device, error) {
	return s.store.Device(ctx, id)
}

// Devices returns up to max devices that follow after.
func (s *Service) Devices(ctx context.Context, after edgeclaim.DeviceID, max int) ([]edgeclaim.Device, error) {
	return s.store.Devices(ctx, after, max)
}

// void leaves a device with no credential.
func void(d *edgeclaim.Device, status edgeclaim.DeviceStatus) {
	d.Status, d.Credential, d.Mint, d.Told = status, edgeclaim.Credential{}, nil, false
	d.Previous, d.PreviousUntil, d.RotatedBy = edgeclaim.Credential{}, time.Time{}, ""
}

// Release voids a device's credential and lets its hardware claim anew, under
// the same id: the operator's way out for a device that lost its answer. It is
// told upstream in the same transaction, and open sessions end. Releasing a
// released device changes nothing; a revoked one is ErrConflict, unless
// reinstate says that the revocation is taken back.
func (s *Service) Release(ctx context.Context, id edgeclaim.DeviceID, reinstate bool) (edgeclaim.Device, error) {
	now := s.clock.Now()
	var reinstated, changed bool
	device, err := s.store.ChangeDevice(ctx, id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		reinstated = d.Status == edgeclaim.DeviceRevoked
		changed = d.Status != edgeclaim.DeviceReleased
		switch {
		case !changed:
			return nil, nil
		case reinstated && !reinstate:
			return nil, edgeclaim.ErrConflict
		}
		void(d, edgeclaim.DeviceReleased)
		return s.deviceRecord(edgeclaim.TypeDeviceReleased, d, released{deviceFacts: s.facts(d), ReleasedAt: now, Reinstated: reinstated})
	})
	if err != nil {
		return edgeclaim.Device{}, err
	}
	s.cfg.Void(id)
	entry := entryOf(audit.KindDeviceReleased, &device)
	entry.Detail = map[string]string{"changed": yes(changed), "reinstated": yes(reinstated)}
	s.write(ctx, entry)
	s.logger.Info("device released", "device_id", id, "hardware_id", device.Hardware, "reinstated", reinstated)
	return device, nil
}

// Revoke voids a device's credential and keeps its hardware from claiming. It
// is told upstream in the same transaction, and open sessions end. reason is
// the operator's word, at most edgeclaim.MaxName characters, empty for none.
// Revoking a revoked device changes nothing.
func (s *Service) Revoke(ctx context.Context, id edgeclaim.DeviceID, reason string) (edgeclaim.Device, error) {
	if reason != "" {
		if err := edgeclaim.CheckName("reason", reason); err != nil {
			return edgeclaim.Device{}, err
		}
	}
	device, _, err := s.revoke(ctx, id, reason, func(*edgeclaim.Device) bool { return true })
	return device, err
}

// revoke is Revoke of a device that is such as it is meant, within the
// transaction, and reports whether it changed.
func (s *Service) revoke(ctx context.Context, id edgeclaim.DeviceID, reason string,
	meant func(*edgeclaim.Device) bool,
) (edgeclaim.Device, bool, error) {
	now := s.clock.Now()
	var changed, other bool
	device, err := s.store.ChangeDevice(ctx, id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		other = !meant(d)
		if changed = !other && d.Status != edgeclaim.DeviceRevoked; !changed {
			return nil, nil
		}
		void(d, edgeclaim.DeviceRevoked)
		return s.deviceRecord(edgeclaim.TypeCredentialRevoked, d, revoked{
			deviceFacts: s.facts(d), Reason: reason, RevokedAt: now, By: Who(ctx),
		})
	})
	if err != nil || other {
		return device, false, err
	}
	s.cfg.Void(id)
	entry := entryOf(audit.KindDeviceRevoked, &device)
	entry.Reason, entry.Detail = reason, map[string]string{"changed": yes(changed)}
	s.write(ctx, entry)
	s.logger.Info("device revoked", "device_id", id, "hardware_id", device.Hardware)
	return device, changed, nil
}

// Swap gives another board the identity of a device: it claims, and gets that
// id, with a credential of its own. The old board's is void, and the old board
// is denied until Undeny lets it claim as its next generation. It is told
// upstream in the same transaction, and open sessions end. Errors: ErrNotFound,
// ErrInvalid, ErrConflict for a revoked device and for a board that is
// another's, denied, or this device's already.
func (s *Service) Swap(ctx context.Context, id edgeclaim.DeviceID, to edgeclaim.HardwareID) (edgeclaim.Device, error) {
	before, err := s.store.Device(ctx, id)
	if err != nil {
		return edgeclaim.Device{}, err
	}
	if to, err = s.folded(ctx, before.Tenant, to); err != nil {
		return edgeclaim.Device{}, err
	}
	now := s.clock.Now()
	var old edgeclaim.HardwareID
	device, err := s.store.Swap(ctx, id, to, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		if d.Status == edgeclaim.DeviceRevoked {
			return nil, edgeclaim.ErrConflict
		}
		old = d.Hardware
		d.Hardware = to
		void(d, edgeclaim.DeviceReleased)
		return s.deviceRecord(edgeclaim.TypeDeviceSwapped, d, swapped{
			deviceFacts: s.facts(d), OldHardware: old, Generation: d.Generation, SwappedAt: now, By: Who(ctx),
		})
	})
	if err != nil {
		return edgeclaim.Device{}, err
	}
	s.cfg.Void(id)
	entry := entryOf(audit.KindDeviceSwapped, &device)
	entry.Detail = map[string]string{"old_hardware_id": old.String()}
	s.write(ctx, entry)
	s.logger.Info("device swapped", "device_id", id, "hardware_id", device.Hardware, "old_hardware_id", old)
	return device, nil
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
