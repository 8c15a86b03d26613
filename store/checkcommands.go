package store

import (
	"bytes"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// checkCommands: each can be read, is found by its id, and is either among those
// that live or among those that have ended; and the sums agree.
func checkCommands(tx *bolt.Tx, s state) error {
	ids, live, ended := tx.Bucket(bucketCommandIDs), tx.Bucket(bucketLive), tx.Bucket(bucketEnded)
	var got struct{ all, live, ended, endedBytes uint64 }
	err := tx.Bucket(bucketCommands).ForEach(func(k, v []byte) error {
		c, err := decodeCommand(k, v)
		if err != nil {
			return err
		}
		got.all++
		if c.Number > s.LastCommand {
			return fmt.Errorf("commands: %d is above the last number, %d", c.Number, s.LastCommand)
		}
		if !bytes.Equal(ids.Get(commandKey(c.Device, c.ID)), k) {
			return fmt.Errorf("commands: %d is not found by its id", c.Number)
		}
		if final := c.Status.Final(); (ended.Get(k) != nil) != final || (live.Get(k) != nil) == final {
			return fmt.Errorf("commands: %d is %s, and filed elsewhere", c.Number, c.Status)
		}
		if c.Status.Final() {
			got.endedBytes += uint64(len(v))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, part := range []struct {
		bucket []byte
		count  *uint64
		want   uint64
	}{
		{bucketCommandIDs, new(uint64), s.Commands},
		{bucketLive, &got.live, s.LiveCommands},
		{bucketEnded, &got.ended, s.Commands - s.LiveCommands},
	} {
		err := tx.Bucket(part.bucket).ForEach(func(_, _ []byte) error { *part.count++; return nil })
		if err == nil && *part.count != part.want {
			err = fmt.Errorf("%s: %d entries, the state says %d", part.bucket, *part.count, part.want)
		}
		if err != nil {
			return err
		}
	}
	if got.all != s.Commands || got.endedBytes != s.EndedBytes {
		return fmt.Errorf("commands: %d rows and %d bytes of ended ones, the state says %d and %d",
			got.all, got.endedBytes, s.Commands, s.EndedBytes)
	}
	return checkConfigs(tx, s)
}

// checkConfigs: each can be read, and so can whom it is for.
func checkConfigs(tx *bolt.Tx, s state) error {
	count := uint64(0)
	err := tx.Bucket(bucketConfigs).ForEach(func(k, v []byte) error {
		count++
		if _, err := edgeclaim.DeviceIDFromBytes(k); err != nil {
			return damaged("device configuration", err)
		}
		c, err := decodeConfig(v)
		if err == nil && c.Version == 0 {
			err = fmt.Errorf("device_configs: one of version 0")
		}
		return err
	})
	if err == nil && count != s.Configs {
		err = fmt.Errorf("device_configs: %d rows, the state says %d", count, s.Configs)
	}
	return err
}
