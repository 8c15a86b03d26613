package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// checkLanes: as many records are pending as the counters say, all of them
// between Front and Appended; each can be read, and the bytes add up.
func checkLanes(tx *bolt.Tx, s state) error {
	for _, lane := range lanes() {
		l := s.lane(lane)
		if l.Front == 0 || l.Front > l.Appended+1 || l.Acked+l.Dropped+l.Parked > l.Appended ||
			l.pending() > l.Appended+1-l.Front || l.CheckAt >= l.Front {
			return fmt.Errorf("outbox %s: counters that cannot be: %+v", lane, *l)
		}
		count, size := uint64(0), uint64(0)
		err := tx.Bucket(laneBucket(lane)).ForEach(func(k, v []byte) error {
			place, err := parseNumber(k)
			if err != nil {
				return err
			}
			if place < l.place(l.Front) || place > l.place(l.Appended) {
				return fmt.Errorf("outbox %s: a record at %d, outside the lane", lane, place)
			}
			if _, err := decodeRecord(lane, place-l.Base, v); err != nil {
				return err
			}
			count++
			size += uint64(len(v))
			return nil
		})
		if err != nil {
			return err
		}
		if count != l.pending() || size != l.Bytes {
			return fmt.Errorf("outbox %s: holds %d records and %d bytes, the state says %d and %d",
				lane, count, size, l.pending(), l.Bytes)
		}
	}
	return nil
}

// checkQuarantine: the sums agree, no record is in its lane too, and each that
// has a device, and no other, is found by it.
func checkQuarantine(tx *bolt.Tx, s state) error {
	byDevice, found := tx.Bucket(bucketParkedBy), 0
	held := make(map[edgeclaim.Lane]laneState)
	err := tx.Bucket(bucketParked).ForEach(func(k, v []byte) error {
		lane, place, row, err := decodeParked(k, v)
		if err != nil {
			return err
		}
		l := s.lane(lane)
		if place > l.place(l.Appended) || tx.Bucket(laneBucket(lane)).Get(number(place)) != nil {
			return fmt.Errorf("quarantine: %s has a place that is not its own", parkedID(lane, place, row.Epoch))
		}
		if _, err := decodeRecord(lane, row.Sequence, row.Record); err != nil {
			return err
		}
		if row.Device != nil {
			if found++; byDevice.Get(binary.BigEndian.AppendUint64(parkedByKey(lane, row.Device), place)) == nil {
				return fmt.Errorf("quarantine: %s is not found by its device", parkedID(lane, place, row.Epoch))
			}
		}
		sum := held[lane]
		sum.Held++
		sum.HeldBytes += uint64(len(row.Record))
		held[lane] = sum
		return nil
	})
	if err != nil {
		return err
	}
	for _, lane := range lanes() {
		if l, sum := s.lane(lane), held[lane]; l.Held != sum.Held || l.HeldBytes != sum.HeldBytes {
			return fmt.Errorf("quarantine %s: holds %d records and %d bytes, the state says %d and %d",
				lane, sum.Held, sum.HeldBytes, l.Held, l.HeldBytes)
		}
	}
	return byDevice.ForEach(func(_, _ []byte) error {
		if found--; found < 0 {
			return fmt.Errorf("quarantine_devices: more entries than records")
		}
		return nil
	})
}

// checkMoves: as many moves wait to be finished as the state says.
func checkMoves(tx *bolt.Tx, s state) error {
	count := uint64(0)
	err := tx.Bucket(bucketMoves).ForEach(func(k, _ []byte) error {
		if count++; len(k) != 1+idSize || !bytes.ContainsRune([]byte("pe"), rune(k[0])) {
			return fmt.Errorf("moves: not the key of a device")
		}
		return nil
	})
	if err == nil && count != s.Moves {
		return fmt.Errorf("moves: %d wait, the state says %d", count, s.Moves)
	}
	return err
}
