package command

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// noConfig is the configuration of a device that nobody has set one for.
const noConfig = `{}`

// Config returns a device's configuration as it holds: its own, merged over its
// profile's and that over its tenant's default (RFC 7396). Where nothing is
// inherited, its own stands as it was set; where there is none either, it is {}.
// The version is that of its own and that of its tenant's profiles in sum, so it
// rises with either; 0: nobody has set anything. It may rise without a word
// changing for this device. ErrNotFound: no such device.
func (s *Service) Config(ctx context.Context, device edgeclaim.DeviceID) (edgeclaim.DeviceConfig, error) {
	own, err := s.store.DeviceConfig(ctx, device)
	if err != nil || own.Version > 0 && s.parts.Inherited == nil {
		return own, err
	}
	known, err := s.parts.Devices.Device(ctx, device)
	if err != nil {
		return edgeclaim.DeviceConfig{}, err
	}
	return s.merged(&known, own)
}

// merged lays a device's own configuration over what it inherits.
func (s *Service) merged(device *edgeclaim.Device, own edgeclaim.DeviceConfig) (edgeclaim.DeviceConfig, error) {
	if own.Version == 0 {
		own.Config = json.RawMessage(noConfig)
	}
	if s.parts.Inherited == nil {
		return own, nil
	}
	in := s.parts.Inherited(device.Tenant, device.Profile)
	base, err := s.bases.of(device.Tenant, &in)
	if err != nil {
		return edgeclaim.DeviceConfig{}, fmt.Errorf("configuration of a profile: %w", err)
	}
	both := edgeclaim.DeviceConfig{Version: own.Version + in.Version, Config: own.Config}
	switch {
	case base == nil:
	case own.Version == 0:
		both.Config = base.text
	default:
		patch, err := parseTree(own.Config)
		if err != nil {
			return edgeclaim.DeviceConfig{}, fmt.Errorf("configuration of a device: %w", err)
		}
		both.Config = base.tree.merge(patch).text()
	}
	return both, nil
}

// ProfilesChanged says that a tenant's profiles have changed: the devices that
// listen are looked at, and told where their configuration is another one now.
// It never blocks.
func (s *Service) ProfilesChanged() { s.parts.WakeAll() }

// SetConfig replaces a device's own configuration with another JSON object, and
// returns what holds for the device then (see Config); nil means that this is
// durable. The same once more changes nothing. Where the device inherits one, a
// member that is null takes away the inherited. A device that listens is told at once, any other when it
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
	now, err := s.merged(&known, set)
	if err != nil || set.Version == before.Version {
		return now, err
	}
	s.wake(device)
	s.write(ctx, edgeclaim.OriginOperator, by, audit.Entry{
		Kind: audit.KindConfigChanged, Device: device.String(), Tenant: known.Tenant.String(), Hardware: known.Hardware.String(),
		Detail: map[string]string{"version": strconv.FormatUint(now.Version, 10)},
	})
	return now, nil
}
