package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// credentialPage is how many rows one read transaction takes in while the index
// is built.
const credentialPage = 2048

// credentials finds the rows of devices by what they present. On disk such an
// index would cost every claim a random page, or a second folded index; so it is
// in memory, and is made when a device is first asked for by its credential
// alone: a box that is never asked pays nothing, and its start is as quick (P7).
// It holds the first 8 bytes of the hashes, current and previous; whoever finds a
// row reads it and compares the whole hash.
type credentials struct {
	// noting: what is committed is noted, because the index is made or in the
	// making.
	noting atomic.Bool
	// building has one place, for whoever takes rows in. It guards next.
	building chan struct{}
	next     uint64 // the row to be taken in next
	complete atomic.Bool

	mu   sync.RWMutex        // guards rows and more
	rows map[uint64]uint64   // by the start of a hash
	more map[uint64][]uint64 // where two hashes start alike
}

// live reports whether what is put has to be noted. A batch that began before it
// turned true is published before any row is taken in: see build.
func (c *credentials) live() bool { return c.noting.Load() }

func (c *credentials) find(hash edgeclaim.KeyHash) []uint64 {
	at := prefixOf(hash.Bytes())
	c.mu.RLock()
	defer c.mu.RUnlock()
	row, ok := c.rows[at]
	if !ok {
		return nil
	}
	return append([]uint64{row}, c.more[at]...)
}

// add makes a row found by a hash. The caller holds mu.
func (c *credentials) add(at, row uint64) {
	if c.rows == nil {
		c.rows, c.more = make(map[uint64]uint64), make(map[uint64][]uint64)
	}
	first, ok := c.rows[at]
	switch {
	case !ok:
		c.rows[at] = row
	case first != row:
		for _, other := range c.more[at] {
			if other == row {
				return
			}
		}
		c.more[at] = append(c.more[at], row)
	}
}

// remove undoes add. The caller holds mu.
func (c *credentials) remove(at, row uint64) {
	others := c.more[at]
	delete(c.more, at)
	if first, ok := c.rows[at]; ok && first == row {
		delete(c.rows, at)
	} else if ok {
		others = append([]uint64{first}, others...)
		delete(c.rows, at)
	}
	for _, other := range others {
		if other != row {
			c.add(at, other)
		}
	}
}

// changes are what a batch does to the index, in order.
type changes []change

type change struct {
	at, row uint64
	gone    bool
}

// note takes down what a row's credentials were, nil for a new row, and what they
// become.
func (n *changes) note(row uint64, before, after []byte) {
	for _, at := range prefixes(before) {
		*n = append(*n, change{at: at, row: row, gone: true})
	}
	for _, at := range prefixes(after) {
		*n = append(*n, change{at: at, row: row})
	}
}

// committed takes over what a commit changed. The leader calls it.
func (c *credentials) committed(all changes) {
	if len(all) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range all {
		if one.gone {
			c.remove(one.at, one.row)
		} else {
			c.add(one.at, one.row)
		}
	}
}

// prefixes reads no more of a device's row than the starts of its hashes; none
// of a row that cannot be read.
func prefixes(value []byte) []uint64 {
	var row struct {
		Hash     []byte `cbor:"11,keyasint,omitempty"`
		Previous struct {
			Hash []byte `cbor:"2,keyasint,omitempty"`
		} `cbor:"17,keyasint,omitempty"`
	}
	if len(value) < idSize || cbor.Unmarshal(value[idSize:], &row) != nil {
		return nil
	}
	var starts []uint64
	for _, hash := range [][]byte{row.Hash, row.Previous.Hash} {
		if len(hash) >= numberSize {
			starts = append(starts, prefixOf(hash))
		}
	}
	return starts
}

func prefixOf(hash []byte) uint64 { return binary.BigEndian.Uint64(hash) }

// DeviceByCredential returns the device that has that credential, the present
// one or the one before; whether it is still good is the caller's to judge.
// ErrNotFound: nobody has it. The first call takes in all devices, 1 to 2 µs of
// work each, and those that come meanwhile wait for it; claims do not.
func (db *DB) DeviceByCredential(ctx context.Context, hash edgeclaim.KeyHash) (edgeclaim.Device, error) {
	var device edgeclaim.Device
	if err := db.readable(ctx); err != nil {
		return device, err
	}
	if !db.credentials.complete.Load() {
		if err := db.build(ctx); err != nil {
			return device, err
		}
	}
	for _, row := range db.credentials.find(hash) {
		found := false
		err := db.view(ctx, func(tx *bolt.Tx) (err error) {
			v := tx.Bucket(bucketDevices).Get(number(row))
			if v == nil {
				return damaged("device row", nil)
			}
			device, err = db.readRow(v)
			found = device.Credential.Hash.Equal(hash) || device.Previous.Hash.Equal(hash)
			return err
		})
		if err != nil {
			return edgeclaim.Device{}, err
		}
		if found && !hash.IsZero() {
			return device, nil
		}
	}
	return edgeclaim.Device{}, fmt.Errorf("device by credential: %w", edgeclaim.ErrNotFound)
}

// build takes all rows into the index. Where ctx ends it, the next caller goes
// on from there.
func (db *DB) build(ctx context.Context) error {
	c := &db.credentials
	select {
	case c.building <- struct{}{}:
		defer func() { <-c.building }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.complete.Load() {
		return nil
	}
	// From here on commits are noted. One that began before this has ended, and
	// is seen below, once a write has had its turn. A row that is taken in just
	// as its credential changes leaves an entry too many, which finds nobody.
	c.noting.Store(true)
	if err := db.Ping(ctx); err != nil {
		return err
	}
	for {
		more, err := db.takeIn(ctx)
		if err != nil {
			return err
		}
		if !more {
			c.complete.Store(true)
			return nil
		}
	}
}

// takeIn takes a page of rows into the index, and reports whether there are more.
func (db *DB) takeIn(ctx context.Context) (more bool, err error) {
	c := &db.credentials
	var page changes
	next := c.next
	err = db.view(ctx, func(tx *bolt.Tx) error {
		cursor := tx.Bucket(bucketDevices).Cursor()
		k, v := cursor.Seek(number(c.next))
		for n := 0; k != nil && n < credentialPage; n++ {
			row, err := parseNumber(k)
			if err != nil {
				return err
			}
			page.note(row, nil, v)
			next = row + 1
			k, v = cursor.Next()
		}
		more = k != nil
		return nil
	})
	if err != nil {
		return false, err
	}
	c.next = next
	c.committed(page)
	return more, nil
}
