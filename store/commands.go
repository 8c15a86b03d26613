package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

const (
	// MaxChange is how many commands one ChangeCommands may change, so that
	// claims never wait behind a large one.
	MaxChange = 256

	// MaxEnded is how many commands are kept that have come to their end. Beyond,
	// those with the lowest numbers go, whatever the clock says (P10).
	MaxEnded = 10_000
	// MaxEndedBytes bounds them likewise, as encoded.
	MaxEndedBytes = 32 << 20
	// pruneChunk is how many of them an AddCommand removes, at most: more than
	// it adds, and no more than claims can wait for.
	pruneChunk = 4
)

// AddCommand stores a command under the next number, with the record of its
// status in the event lane, in one transaction, and returns it; nil means that
// this is durable. Where the device has a command of that id, that one is
// returned as it is, fresh is false, and nothing is stored.
//
// It also forgets a few of the oldest commands that have come to their end,
// where there are more than MaxEnded, or MaxEndedBytes. ErrInvalid: it is not
// whole, or the record is too large.
func (db *DB) AddCommand(ctx context.Context, c edgeclaim.Command, r edgeclaim.Record) (kept edgeclaim.Command, fresh bool, err error) {
	if c.ID.IsZero() || c.Device.IsZero() || c.Tenant.IsZero() || c.Status == "" {
		return edgeclaim.Command{}, false, edgeclaim.Invalid("command", "not whole")
	}
	err = db.update(ctx, func(b *batch) (err error) {
		kept, fresh, err = b.addCommand(c, &r)
		return err
	})
	if err != nil {
		return edgeclaim.Command{}, false, err
	}
	return kept, fresh, nil
}

func (b *batch) addCommand(c edgeclaim.Command, r *edgeclaim.Record) (kept edgeclaim.Command, fresh bool, err error) {
	key := commandKey(c.Device, c.ID)
	present, err := commandOf(b.tx, key)
	if err != nil || present != nil {
		return orNone(present), false, err
	}
	c.Number = b.state.LastCommand + 1
	value, err := encodeCommand(&c)
	if err != nil {
		return c, false, err
	}
	record, err := b.admit(edgeclaim.LaneEvt, r)
	if err != nil {
		return c, false, err
	}
	old, err := b.tooOld()
	if err != nil {
		return c, false, err
	}
	b.dirty = true
	b.state.LastCommand = c.Number
	b.state.Commands++
	n := number(c.Number)
	return c, true, halfDone(errors.Join(
		b.ascending(bucketCommands).Put(n, value),
		b.tx.Bucket(bucketCommandIDs).Put(key, n),
		b.file(&c, len(value)),
		b.append(edgeclaim.LaneEvt, r.Device, record),
		b.forget(old),
	))
}

func orNone(c *edgeclaim.Command) edgeclaim.Command {
	if c == nil {
		return edgeclaim.Command{}
	}
	return *c
}

// filed is the value of an entry whose key says all.
var filed = []byte{1}

// file puts a row's number among those that live, or have ended.
func (b *batch) file(c *edgeclaim.Command, size int) error {
	if !c.Status.Final() {
		b.state.LiveCommands++
		return b.ascending(bucketLive).Put(number(c.Number), filed)
	}
	b.state.EndedBytes += uint64(size)
	return b.tx.Bucket(bucketEnded).Put(number(c.Number), filed)
}

// refile moves a row's number where it belongs now.
func (b *batch) refile(one *changed) error {
	was, is := one.before.Status.Final(), one.after.Status.Final()
	n := number(one.after.Number)
	switch {
	case was:
		b.state.EndedBytes += uint64(len(one.value))
		b.state.EndedBytes -= min(b.state.EndedBytes, uint64(one.size))
		return nil
	case !is:
		return nil
	}
	b.state.LiveCommands--
	return errors.Join(b.tx.Bucket(bucketLive).Delete(n), b.file(&one.after, len(one.value)))
}

// ended is a command to be forgotten.
type ended struct {
	edgeclaim.Command
	size int
}

// tooOld returns the oldest few of the commands that have ended, where there are
// too many of them.
func (b *batch) tooOld() ([]ended, error) {
	count, size := b.state.Commands-b.state.LiveCommands, b.state.EndedBytes
	var old []ended
	cursor := b.tx.Bucket(bucketEnded).Cursor()
	for k, _ := cursor.First(); len(old) < pruneChunk && (count > MaxEnded || size > MaxEndedBytes); k, _ = cursor.Next() {
		if k == nil {
			return nil, damaged("ended commands", nil)
		}
		value := b.tx.Bucket(bucketCommands).Get(k)
		c, err := decodeCommand(k, value)
		if err != nil {
			return nil, err
		}
		old = append(old, ended{c, len(value)})
		count--
		size -= min(size, uint64(len(value)))
	}
	return old, nil
}

func (b *batch) forget(old []ended) error {
	for i := range old {
		c, n := &old[i], number(old[i].Number)
		b.state.Commands--
		b.state.EndedBytes -= min(b.state.EndedBytes, uint64(c.size))
		err := errors.Join(
			b.tx.Bucket(bucketEnded).Delete(n),
			b.tx.Bucket(bucketCommandIDs).Delete(commandKey(c.Device, c.ID)),
			b.tx.Bucket(bucketCommands).Delete(n),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// changed is a command that is to be put, with its record.
type changed struct {
	before, after edgeclaim.Command
	size          int // of the row before
	value, record []byte
}

// ChangeCommands lets change edit the commands of those numbers, one after the
// other, and stores them with the records that change returns, nil for none, in
// the event lane, in one transaction; nil means that this is durable. It returns
// the commands as they are then, in the order of the numbers. A command that is
// not edited, and has no record, is not written. Who and what a command is for
// cannot change, nor can one that has come to its end live again.
//
// change must be pure and quick, and replace a slice rather than write to it; its
// error is returned as it is and leaves nothing behind. ErrNotFound: there is no
// command of one of the numbers. ErrInvalid: there are more than MaxChange, or
// one twice, or change edited what stays.
func (db *DB) ChangeCommands(ctx context.Context, numbers []uint64,
	change func(*edgeclaim.Command) (*edgeclaim.Record, error),
) ([]edgeclaim.Command, error) {
	sorted := slices.Sorted(slices.Values(numbers))
	if len(numbers) > MaxChange || len(slices.Compact(sorted)) != len(numbers) {
		return nil, edgeclaim.Invalid("commands", "want each once, at most %d", MaxChange)
	}
	var commands []edgeclaim.Command
	err := db.update(ctx, func(b *batch) error {
		commands = commands[:0]
		var all []changed
		for _, n := range numbers {
			one, err := b.decideCommand(n, change)
			if err != nil {
				return err
			}
			commands = append(commands, one.after)
			if one.value != nil || one.record != nil {
				all = append(all, one)
			}
		}
		for i := range all {
			if err := b.putChanged(&all[i]); err != nil {
				return halfDone(err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return commands, nil
}

// decideCommand asks change of one command, and puts nothing.
func (b *batch) decideCommand(n uint64, change func(*edgeclaim.Command) (*edgeclaim.Record, error)) (changed, error) {
	var one changed
	row := b.tx.Bucket(bucketCommands).Get(number(n))
	if row == nil {
		return one, fmt.Errorf("command: %w", edgeclaim.ErrNotFound)
	}
	c, err := decodeCommand(number(n), row)
	if err != nil {
		return one, err
	}
	one.before, one.size = c, len(row)
	var record *edgeclaim.Record
	if err := guard(func() (err error) { record, err = change(&c); return err }); err != nil {
		return one, err
	}
	if c.ID != one.before.ID || c.Device != one.before.Device || c.Tenant != one.before.Tenant || c.Number != n ||
		!bytes.Equal(c.Payload, one.before.Payload) || one.before.Status.Final() && !c.Status.Final() || c.Status == "" {
		return one, fmt.Errorf("change command: only its status may change: %w", edgeclaim.ErrInvalid)
	}
	one.after = c
	if !reflect.DeepEqual(one.before, c) {
		if one.value, err = encodeCommand(&c); err != nil {
			return one, err
		}
	}
	if record != nil {
		one.record, err = b.admit(edgeclaim.LaneEvt, record)
	}
	return one, err
}

func (b *batch) putChanged(one *changed) error {
	if one.value != nil {
		b.dirty = true
		err := errors.Join(b.refile(one), b.tx.Bucket(bucketCommands).Put(number(one.after.Number), one.value))
		if err != nil {
			return err
		}
	}
	if one.record == nil {
		return nil
	}
	return b.append(edgeclaim.LaneEvt, one.after.Device, one.record)
}

// commandOf reads the command of a key of bucketCommandIDs; nil for none.
func commandOf(tx *bolt.Tx, key []byte) (*edgeclaim.Command, error) {
	n := tx.Bucket(bucketCommandIDs).Get(key)
	if n == nil {
		return nil, nil
	}
	c, err := decodeCommand(n, tx.Bucket(bucketCommands).Get(n))
	if err == nil && !bytes.Equal(commandKey(c.Device, c.ID), key) {
		err = damaged("command ids", nil)
	}
	return &c, err
}

// Command returns a device's command; ErrNotFound when there is none.
func (db *DB) Command(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID) (edgeclaim.Command, error) {
	var c edgeclaim.Command
	err := db.view(ctx, func(tx *bolt.Tx) error {
		found, err := commandOf(tx, commandKey(device, id))
		if err != nil || found == nil {
			return orNotFound(err)
		}
		c = *found
		return nil
	})
	return c, err
}

// LiveCommands returns up to maximum commands that have not come to their end,
// those with a number above after, in the order of their numbers.
func (db *DB) LiveCommands(ctx context.Context, after uint64, maximum int) ([]edgeclaim.Command, error) {
	var commands []edgeclaim.Command
	err := db.view(ctx, func(tx *bolt.Tx) error {
		rows := tx.Bucket(bucketCommands)
		return eachAfter(tx.Bucket(bucketLive), number(after), maximum, &commands, func(k, _ []byte) (edgeclaim.Command, error) {
			return decodeCommand(k, rows.Get(k))
		})
	})
	return commands, err
}

// Commands returns up to maximum commands, the newest first, those with a number
// below before, 0 for all; of one device, the zero device for all.
func (db *DB) Commands(ctx context.Context, device edgeclaim.DeviceID, before uint64, maximum int) ([]edgeclaim.Command, error) {
	if before == 0 {
		before = ^uint64(0)
	}
	var commands []edgeclaim.Command
	err := db.view(ctx, func(tx *bolt.Tx) error {
		numbers, err := newestFirst(tx, device, before, maximum)
		if err != nil {
			return err
		}
		rows := tx.Bucket(bucketCommands)
		for _, n := range numbers {
			c, err := decodeCommand(n, rows.Get(n))
			if err != nil {
				return err
			}
			commands = append(commands, c)
		}
		return nil
	})
	return commands, err
}

// newestFirst returns the keys of bucketCommands that Commands reads. There are
// no more of one device than commands in all, which are bounded.
func newestFirst(tx *bolt.Tx, device edgeclaim.DeviceID, before uint64, maximum int) ([][]byte, error) {
	end := number(before)
	var numbers [][]byte
	if device.IsZero() {
		cursor := tx.Bucket(bucketCommands).Cursor()
		k, _ := cursor.Seek(end)
		if k == nil {
			k, _ = cursor.Last()
		}
		for ; k != nil && len(numbers) < maximum; k, _ = cursor.Prev() {
			if bytes.Compare(k, end) < 0 {
				numbers = append(numbers, k)
			}
		}
		return numbers, nil
	}
	cursor, prefix := tx.Bucket(bucketCommandIDs).Cursor(), device.Bytes()
	for k, n := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, n = cursor.Next() {
		if _, err := parseNumber(n); err != nil {
			return nil, err
		}
		if bytes.Compare(n, end) < 0 {
			numbers = append(numbers, n)
		}
	}
	slices.SortFunc(numbers, func(a, b []byte) int { return bytes.Compare(b, a) })
	return numbers[:min(len(numbers), max(0, maximum))], nil
}

// CountCommands returns how many commands have not come to their end, without
// reading them.
func (db *DB) CountCommands(ctx context.Context) (uint64, error) {
	if err := db.readable(ctx); err != nil {
		return 0, err
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.state.LiveCommands, nil
}
