package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// DeviceConfig returns what a device is told of how to work; version 0 and
// nothing where nobody has said.
func (db *DB) DeviceConfig(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.DeviceConfig, error) {
	var c edgeclaim.DeviceConfig
	err := db.view(ctx, func(tx *bolt.Tx) (err error) {
		c, err = configOf(tx, id)
		return err
	})
	return c, err
}

func configOf(tx *bolt.Tx, id edgeclaim.DeviceID) (edgeclaim.DeviceConfig, error) {
	value := tx.Bucket(bucketConfigs).Get(id.Bytes())
	if value == nil {
		return edgeclaim.DeviceConfig{}, nil
	}
	return decodeConfig(value)
}

// SetDeviceConfig puts another configuration in the place of a device's, under
// the next version, and returns it; nil means that this is durable. The same
// bytes once more change nothing. ErrNotFound: no such device. ErrInvalid: it is
// empty, or larger than edgeclaim.MaxDeviceConfig; nothing else is judged.
func (db *DB) SetDeviceConfig(ctx context.Context, id edgeclaim.DeviceID, config []byte) (edgeclaim.DeviceConfig, error) {
	if len(config) == 0 || len(config) > edgeclaim.MaxDeviceConfig {
		return edgeclaim.DeviceConfig{}, edgeclaim.Invalid("config", "want 1 to %d bytes", edgeclaim.MaxDeviceConfig)
	}
	config = slices.Clone(config)
	var set edgeclaim.DeviceConfig
	err := db.update(ctx, func(b *batch) error {
		present, err := configOf(b.tx, id)
		if err != nil {
			return err
		}
		if _, known, err := b.locate(id); err != nil || !known {
			return fmt.Errorf("device: %w", orNotFound(err))
		}
		if set = present; set.Version > 0 && bytes.Equal(set.Config, config) {
			return nil
		}
		set = edgeclaim.DeviceConfig{Version: present.Version + 1, Config: config}
		value, err := encodeConfig(&set)
		if err != nil {
			return err
		}
		if present.Version == 0 {
			b.state.Configs++
		}
		b.dirty = true
		return halfDone(b.tx.Bucket(bucketConfigs).Put(id.Bytes(), value))
	})
	if err != nil {
		return edgeclaim.DeviceConfig{}, err
	}
	return set, nil
}
