package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// A device with many records enters or leaves the quarantine in more than one
// transaction, and a crash may come between two. So the first one leaves a row
// in bucketMoves, and the last one removes it. While there is one, nothing is
// read from the lanes or the quarantine, and nothing acknowledged: whoever comes
// first finishes the move. So no one ever sees half of it, and Open need not
// look for it in the backlog (P7).

const (
	// moveChunk is how many records one transaction moves at most.
	moveChunk = 256
	// movePage is how many records of a lane are looked at in one read
	// transaction.
	movePage = 4096
)

// errMoving: a move has to be finished first.
var errMoving = errors.New("records are on the move")

// viewSettled is view while no records are on the move.
func (db *DB) viewSettled(ctx context.Context, read func(*bolt.Tx, *state) error) error {
	for {
		err := db.view(ctx, func(tx *bolt.Tx) error {
			s, err := readState(tx) // not db.state: that may be newer than tx
			if err != nil {
				return err
			}
			if s.Moves > 0 {
				return errMoving
			}
			return read(tx, &s)
		})
		if !errors.Is(err, errMoving) {
			return err
		}
		if err := db.exclusively(ctx, func() error { return nil }); err != nil {
			return err
		}
	}
}

// updateSettled is update while no records are on the move.
func (db *DB) updateSettled(ctx context.Context, apply func(*batch) error) error {
	for {
		err := db.update(ctx, func(b *batch) error {
			if b.state.Moves > 0 {
				return errMoving
			}
			return apply(b)
		})
		if !errors.Is(err, errMoving) {
			return err
		}
		if err := db.exclusively(ctx, func() error { return nil }); err != nil {
			return err
		}
	}
}

// exclusively runs do when no records are on the move and nobody else begins
// to move some. One at a time: the others wait, or give up with ctx.
func (db *DB) exclusively(ctx context.Context, do func() error) error {
	select {
	case db.moving <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-db.moving }()
	if _, err := db.finishMoves(ctx); err != nil {
		return err
	}
	return do()
}

// Park moves the pending record at.Upto, and all later ones of its device in
// that lane, present and future, to the quarantine, until an operator requeues
// or discards them; a record without a device goes alone. Their sequences become
// holes in the lane. nil means that this is durable. It may be repeated, and goes
// on where a crash or a full disk stopped it. reason is upstream's word on the
// record at.Upto. ErrConflict: at.Epoch is not the present one. ErrNotFound: no
// such record is pending.
func (db *DB) Park(ctx context.Context, at edgeclaim.Mark, reason string) error {
	if err := knownLane(at.Lane); err != nil {
		return err
	}
	reason = cutReason(reason)
	return db.exclusively(ctx, func() error {
		if err := db.update(ctx, func(b *batch) error { return b.parkAt(at, reason) }); err != nil {
			return err
		}
		_, err := db.finishMoves(ctx)
		return err
	})
}

func (b *batch) parkAt(at edgeclaim.Mark, reason string) error {
	if err := sameEpoch(at.Epoch, b.epoch); err != nil {
		return err
	}
	s := b.state.lane(at.Lane)
	if at.Upto == 0 || at.Upto > s.Appended {
		return fmt.Errorf("record to park: %w", edgeclaim.ErrNotFound)
	}
	place := s.place(at.Upto)
	if b.tx.Bucket(laneBucket(at.Lane)).Get(number(place)) == nil {
		if b.tx.Bucket(bucketParked).Get(parkedKey(at.Lane, place)) != nil {
			return nil // said again
		}
		return fmt.Errorf("record to park: %w", edgeclaim.ErrNotFound)
	}
	value, err := b.take(at.Lane, place)
	if err != nil {
		return halfDone(err)
	}
	device, last := deviceOf(value), s.place(s.Appended)
	if err := b.park(at.Lane, place, value, device, reason); err != nil {
		return halfDone(err)
	}
	if device.IsZero() || place == last {
		return nil
	}
	return halfDone(b.putMove(parkedByKey(at.Lane, device.Bytes()), &moveRow{Next: place + 1, Last: last}))
}

// Requeue appends all quarantined records of a device anew, under new
// sequences and in their old order, and returns how many; the device is no
// longer parked then. nil means that this is durable; what an error or a crash
// leaves undone is done before the next read of the lanes. ErrNotFound: none of
// the device's are in quarantine.
func (db *DB) Requeue(ctx context.Context, device edgeclaim.DeviceID) (moved int, err error) {
	err = db.exclusively(ctx, func() error {
		if err := db.update(ctx, func(b *batch) error { return b.startRequeue(device) }); err != nil {
			return err
		}
		moved, err = db.finishMoves(ctx)
		return err
	})
	return moved, err
}

func (b *batch) startRequeue(device edgeclaim.DeviceID) error {
	found := false
	for _, lane := range lanes() {
		if !b.parked(lane, device) {
			continue
		}
		found = true
		if err := b.putMove(parkedByKey(lane, device.Bytes()), &moveRow{Out: true}); err != nil {
			return halfDone(err)
		}
	}
	if !found {
		return fmt.Errorf("quarantined records: %w", edgeclaim.ErrNotFound)
	}
	return nil
}

// putMove leaves a move to be finished. There is none of that key yet, because
// all before it were finished.
func (b *batch) putMove(key []byte, m *moveRow) error {
	value, err := cbor.Marshal(m)
	if err != nil {
		return err
	}
	b.dirty = true
	b.state.Moves++
	return b.tx.Bucket(bucketMoves).Put(key, value)
}

// move is a row of bucketMoves.
type move struct {
	moveRow
	key    []byte
	lane   edgeclaim.Lane
	device []byte
}

// finishMoves finishes what is on the move, and returns how many records it
// moved. The caller has db.moving's place.
func (db *DB) finishMoves(ctx context.Context) (moved int, err error) {
	for {
		m, places, next, err := db.nextMove(ctx)
		if err != nil || m == nil {
			return moved, err
		}
		n := 0
		err = db.update(ctx, func(b *batch) (err error) {
			if m.Out {
				n, err = b.moveOut(m)
			} else {
				n, err = b.moveIn(m, places, next)
			}
			return halfDone(err)
		})
		if err != nil {
			return moved, err
		}
		moved += n
	}
}

// nextMove reads the first move that is not finished, nil for none. On its way
// in, it also looks for the device's next records in the lane, a page in each
// read transaction; next is the place behind what was looked at.
func (db *DB) nextMove(ctx context.Context) (m *move, places []uint64, next uint64, err error) {
	err = db.view(ctx, func(tx *bolt.Tx) (err error) {
		m, err = readMove(tx)
		return err
	})
	if err != nil || m == nil || m.Out {
		return m, nil, 0, err
	}
	for next = m.Next; next <= m.Last && len(places) < moveChunk; {
		err := db.view(ctx, func(tx *bolt.Tx) error {
			places, next = lookFor(tx, m, places, next)
			return nil
		})
		if err != nil {
			return nil, nil, 0, err
		}
	}
	return m, places, next, nil
}

func readMove(tx *bolt.Tx) (*move, error) {
	k, v := tx.Bucket(bucketMoves).Cursor().First()
	if k == nil {
		return nil, nil
	}
	if len(k) != 1+idSize {
		return nil, damaged("move", nil)
	}
	m := &move{key: bytes.Clone(k)}
	m.device = m.key[1:]
	if err := cbor.Unmarshal(v, &m.moveRow); err != nil {
		return nil, damaged("move", err)
	}
	var err error
	m.lane, err = laneOf(k[0])
	return m, err
}

// lookFor adds a page's places to those found so far, and returns where the
// next page begins.
func lookFor(tx *bolt.Tx, m *move, found []uint64, from uint64) (places []uint64, next uint64) {
	cursor := tx.Bucket(laneBucket(m.lane)).Cursor()
	k, v := cursor.Seek(number(from))
	for range movePage {
		if k == nil {
			return found, m.Last + 1
		}
		place := binary.BigEndian.Uint64(k)
		if place > m.Last || len(found) == moveChunk {
			return found, place
		}
		if device := deviceOf(v); bytes.Equal(device.Bytes(), m.device) {
			found = append(found, place)
		}
		from = place + 1
		k, v = cursor.Next()
	}
	return found, from
}

// moveIn parks a device's records at these places of its lane; the move goes on
// from next.
func (b *batch) moveIn(m *move, places []uint64, next uint64) (moved int, err error) {
	device, err := edgeclaim.DeviceIDFromBytes(m.device)
	if err != nil {
		return 0, err
	}
	// Its earlier ones may be gone again, dropped by the quarantine's quota:
	// then there is nothing to stay behind.
	parked := b.parked(m.lane, device)
	for _, place := range places {
		if !parked {
			break
		}
		if b.tx.Bucket(laneBucket(m.lane)).Get(number(place)) == nil {
			continue // dropped meanwhile by a full lane
		}
		value, err := b.take(m.lane, place)
		if err != nil {
			return 0, err
		}
		if err := b.park(m.lane, place, value, device, ""); err != nil {
			return 0, err
		}
		moved++
		parked = b.parked(m.lane, device)
	}
	if !parked || next > m.Last {
		return moved, b.endMove(m)
	}
	m.Next = next
	value, err := cbor.Marshal(&m.moveRow)
	if err != nil {
		return 0, err
	}
	b.dirty = true
	return moved, b.tx.Bucket(bucketMoves).Put(m.key, value)
}

// moveOut requeues some of a device's records, oldest first.
func (b *batch) moveOut(m *move) (moved int, err error) {
	for ; moved < moveChunk; moved++ {
		key, _ := b.tx.Bucket(bucketParkedBy).Cursor().Seek(m.key)
		if !bytes.HasPrefix(key, m.key) {
			return moved, b.endMove(m)
		}
		key = parkedKey(m.lane, binary.BigEndian.Uint64(key[len(m.key):]))
		value := b.tx.Bucket(bucketParked).Get(key)
		if value == nil {
			return 0, damaged("quarantine", nil)
		}
		lane, place, row, err := decodeParked(key, value)
		if err != nil {
			return 0, err
		}
		if err := b.requeue(lane, place, &row); err != nil {
			return 0, err
		}
	}
	return moved, nil
}

func (b *batch) endMove(m *move) error {
	b.dirty = true
	b.state.Moves -= min(b.state.Moves, 1)
	return b.tx.Bucket(bucketMoves).Delete(m.key)
}
