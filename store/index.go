package store

import (
	"bytes"
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// Device ids are random, so an index of them costs a random page for each new
// device, which is most of what a claim costs. So new ids stay in memory, in
// the tail, and reach the index later, sorted and many to a page: the id space
// is cut into partitions, and for each pace new devices the next partition's
// tail is folded into the index in the same transaction. After a crash the
// tail is rebuilt from the device rows, which are in order of claiming.
const (
	partitions = 1024
	// pace makes a round over all partitions take 65,536 new devices. The tail
	// then holds half of that in the mean, some 2 MiB, and a folded partition
	// 64 ids: few enough for no commit to stall.
	pace = 64
)

func partition(id []byte) int { return int(binary.BigEndian.Uint16(id)) * partitions >> 16 }

// tail holds the rows whose ids are not in the index yet.
type tail struct {
	rows [partitions]map[edgeclaim.DeviceID]uint64
	next int // the partition to be folded next
	debt int // new devices since the last fold
}

func (t *tail) find(id edgeclaim.DeviceID) (row uint64, ok bool) {
	row, ok = t.rows[partition(id.Bytes())][id]
	return row, ok
}

func (t *tail) add(id edgeclaim.DeviceID, row uint64) {
	p := partition(id.Bytes())
	if t.rows[p] == nil {
		t.rows[p] = make(map[edgeclaim.DeviceID]uint64)
	}
	t.rows[p][id] = row
}

// apply takes over what a committed batch did.
func (t *tail) apply(fresh map[edgeclaim.DeviceID]uint64, folds []int) {
	for _, p := range folds { // before fresh, which are not folded
		t.rows[p] = nil
		t.next = (p + 1) % partitions
		t.debt -= pace
	}
	for id, row := range fresh {
		t.add(id, row)
	}
	t.debt += len(fresh)
}

// foldIndex writes the next partitions of the tail, as many as new devices
// ask for.
func (b *batch) foldIndex() error {
	t := &b.db.tail
	for debt, p := t.debt+len(b.fresh), t.next; debt >= pace; debt -= pace {
		if err := b.fold(p, t.rows[p]); err != nil {
			return err
		}
		b.folds = append(b.folds, p)
		p = (p + 1) % partitions
	}
	return nil
}

func (b *batch) fold(p int, rows map[edgeclaim.DeviceID]uint64) error {
	ids := make([][]byte, 0, len(rows))
	for id := range rows {
		ids = append(ids, id.Bytes())
	}
	slices.SortFunc(ids, bytes.Compare) // neighbours share pages
	index := b.tx.Bucket(bucketIndex)
	for _, raw := range ids {
		id, err := edgeclaim.DeviceIDFromBytes(raw)
		if err != nil {
			return err
		}
		if err := index.Put(raw, number(rows[id])); err != nil {
			return err
		}
	}
	// The tail holds no row of this very transaction.
	upto := b.db.state.Rows
	return b.tx.Bucket(bucketFolds).Put(binary.BigEndian.AppendUint16(nil, uint16(p)), number(upto))
}

// loadTail rebuilds the tail at Open. The rows to look at are those since the
// start of the last round of folds, whatever the number of devices.
func loadTail(tx *bolt.Tx, t *tail, rows uint64) error {
	var folded [partitions]uint64
	err := tx.Bucket(bucketFolds).ForEach(func(k, v []byte) error {
		upto, err := parseNumber(v)
		if err != nil || len(k) != 2 || int(binary.BigEndian.Uint16(k)) >= partitions {
			return damaged("device_folds", err)
		}
		folded[binary.BigEndian.Uint16(k)] = upto
		return nil
	})
	if err != nil {
		return err
	}
	oldest := slices.Min(folded[:])
	t.next = slices.Index(folded[:], oldest)
	t.debt = int(rows - min(rows, slices.Max(folded[:]))) // or many short lives would never fold
	cursor := tx.Bucket(bucketDevices).Cursor()
	for k, v := cursor.Seek(number(oldest + 1)); k != nil; k, v = cursor.Next() {
		row, err := parseNumber(k)
		if err != nil || len(v) < idSize {
			return damaged("device row", err)
		}
		if row <= folded[partition(v)] {
			continue
		}
		id, err := edgeclaim.DeviceIDFromBytes(v[:idSize])
		if err != nil {
			return err
		}
		t.add(id, row)
	}
	return nil
}

// indexed looks an id up in the index alone.
func indexed(tx *bolt.Tx, id edgeclaim.DeviceID) (row uint64, ok bool, err error) {
	v := tx.Bucket(bucketIndex).Get(id.Bytes())
	if v == nil {
		return 0, false, nil
	}
	row, err = parseNumber(v)
	return row, err == nil, err
}

// locate finds the row of a device as the transactions before it and the
// callers before it in this one left it.
func (b *batch) locate(id edgeclaim.DeviceID) (row uint64, ok bool, err error) {
	if row, ok := b.fresh[id]; ok {
		return row, true, nil
	}
	// Only the leader changes the tail, and this is the leader.
	if row, ok := b.db.tail.find(id); ok {
		return row, true, nil
	}
	return indexed(b.tx, id)
}

// inTail looks an id up in the tail. A reader asks it before it begins its
// transaction: an id that has left the tail by then is in the index that the
// transaction sees.
func (db *DB) inTail(id edgeclaim.DeviceID) (row uint64, ok bool) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.tail.find(id)
}
