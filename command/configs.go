package command

import (
	"context"
	"encoding/json"
	"strconv"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// noConfig is the configuration of a device that nobody has set one for.
const noConfig = `{}`

// Config returns a device's configuration; version 0 and {} where nobody has set
// one. ErrNotFound: no such device.
func (s *Service) Config(ctx context.Context, device edgeclaim.DeviceID) (edgeclaim.DeviceConfig, error) {
	c, err := s.store.DeviceConfig(ctx, device)
	if err != nil || c.Version > 0 {
		return c, err
	}
	if _, err := s.parts.Devices.Device(ctx, device); err != nil {
		return edgeclaim.DeviceConfig{}, err
	}
	return edgeclaim.DeviceConfig{Config: json.RawMessage(noConfig)}, nil
}

// SetConfig replaces a device's configuration with another JSON object, and
// returns it with its version; nil means that this is durable. The same once
// more changes nothing. A device that listens is told at once, any other when it
// asks or subscribes. by is who set it: "uid:0", "token:NAME".
//
// ErrNotFound: no such device. ErrConflict: it is revoked. ErrInvalid: it is no
// JSON object, or larger than edgeclaim.MaxDeviceConfig. ErrUnavailable: later.
func (s *Service) SetConfig(ctx context.Context, device edgeclaim.DeviceID, config []byte, by string) (edgeclaim.DeviceConfig, error) {
	object, err := compact("config", config, edgeclaim.MaxDeviceConfig)
	if err == nil && object[0] != '{' {
		err = edgeclaim.Invalid("config", "want a JSON object")
	}
	if err != nil {
		return edgeclaim.DeviceConfig{}, err
	}
	known, err := s.parts.Devices.Device(ctx, device)
	if err != nil {
		return edgeclaim.DeviceConfig{}, err
	}
	if known.Status == edgeclaim.DeviceRevoked {
		return edgeclaim.DeviceConfig{}, errRevoked
	}
	before, err := s.store.DeviceConfig(ctx, device)
	if err != nil {
		return edgeclaim.DeviceConfig{}, err
	}
	set, err := s.store.SetDeviceConfig(ctx, device, object)
	if err != nil {
		return edgeclaim.DeviceConfig{}, err
	}
	if set.Version == before.Version {
		return set, nil
	}
	s.wake(device)
	s.write(ctx, edgeclaim.OriginOperator, by, audit.Entry{
		Kind: audit.KindConfigChanged, Device: device.String(), Tenant: known.Tenant.String(), Hardware: known.Hardware.String(),
		Detail: map[string]string{"version": strconv.FormatUint(set.Version, 10)},
	})
	return set, nil
}
