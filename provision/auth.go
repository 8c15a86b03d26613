package provision

import (
	"context"
	"errors"

	"edgeclaim"
)

// Authenticate checks a device's API key: nil, ErrUnauthenticated, or another
// error where the box cannot tell. An unknown device takes the same path as a
// wrong key. The key has 256 bits of entropy, so one SHA-256 is all the
// stretching it needs.
func (s *Service) Authenticate(ctx context.Context, id edgeclaim.DeviceID, key edgeclaim.Secret) error {
	device, err := s.store.Device(ctx, id)
	if err != nil && !errors.Is(err, edgeclaim.ErrNotFound) {
		return err
	}
	match := device.Credential.Hash.Equal(key.Hash()) // the zero hash is nobody's
	if err != nil || !match || device.Status != edgeclaim.DeviceActive {
		return edgeclaim.ErrUnauthenticated
	}
	return nil
}
