package hub

import (
	"context"
	"slices"

	"golang.org/x/sync/semaphore"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// maxInbound is the largest message that is read, topic and payload together,
// in bytes.
const maxInbound = wire.MaxMessage + 512

// item is one message that came up.
type item struct {
	names wire.Names
	// message is a *wire.Hello, *wire.Want, *wire.SnapshotPage, *wire.States,
	// *wire.DocumentsReport, *wire.SharesWant, *wire.Batch, *wire.State, or a
	// malformed.
	message any
	bytes   int64
}

// malformed stands for a message that nobody can read.
type malformed struct{ err error }

// intake is the one way in: a queue bounded in messages and bytes. Many put,
// one takes.
type intake struct {
	queue chan item
	room  *semaphore.Weighted
}

func newIntake(messages, bytes int) *intake {
	return &intake{queue: make(chan item, messages), room: semaphore.NewWeighted(int64(bytes))}
}

// put waits for room, which is the back-pressure on the broker: credit keeps
// the wait short. False: ctx ended, and the item is not in the queue.
func (q *intake) put(ctx context.Context, it item) bool {
	if q.room.Acquire(ctx, it.bytes) != nil {
		return false
	}
	select {
	case q.queue <- it:
		return true
	case <-ctx.Done():
		q.room.Release(it.bytes)
		return false
	}
}

// more returns first and what else is in the queue, up to the bounds.
func (q *intake) more(first item, messages, bytes int) []item {
	group := []item{first}
	size := first.bytes
	for len(group) < messages && size < int64(bytes) {
		select {
		case it := <-q.queue:
			group = append(group, it)
			size += it.bytes
		default:
			return group
		}
	}
	return group
}

// done gives the room of items back.
func (q *intake) done(group []item) {
	var size int64
	for i := range group {
		size += group[i].bytes
	}
	q.room.Release(size)
}

// decode reads one message; nil for one of a kind that this version does not
// know.
func decode(n wire.Names, kind string, payload []byte) any {
	var message any
	var err error
	switch kind {
	case kindState:
		if len(payload) == 0 {
			return nil // somebody has cleared the retained state
		}
		var state wire.State
		if state, err = wire.DecodeState(payload); err == nil {
			message = &state
		}
	case wire.KindControl, wire.KindSnapshot:
		message, err = wire.DecodeUp(n, payload)
	default:
		if !isLane(kind) {
			return nil
		}
		var batch wire.Batch
		if batch, err = wire.DecodeBatch(n, payload); err == nil {
			err = checkLane(kind, &batch)
			message = &batch
		}
	}
	if err != nil {
		return malformed{err}
	}
	return message
}

// checkLane refuses a batch that came under another lane's topic: the broker
// may judge topics, and it must not be told one thing and the registry another.
func checkLane(kind string, b *wire.Batch) error {
	switch {
	case string(b.Lane) != kind:
		return edgeclaim.Invalid("lane", "not the lane of the topic")
	case !wire.IsEpoch(b.Epoch):
		return edgeclaim.Invalid("epoch", "want 26 to 36 characters of A-Z a-z 0-9")
	}
	return nil
}

func isLane(kind string) bool { return slices.Contains(edgeclaim.Lanes(), edgeclaim.Lane(kind)) }
