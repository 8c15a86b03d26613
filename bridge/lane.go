package bridge

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// Pauses of a lane that was sent back.
const (
	// turnLeast and turnMost are the pauses of a lane that is sent back again
	// and again to where it was, the first time without one: between them it
	// grows twofold.
	turnLeast = 100 * time.Millisecond
	turnMost  = 30 * time.Second
	// retryMost is the longest that a lane waits on upstream's word.
	retryMost = 5 * time.Minute
)

// lane is one lane of a conversation; the conversation's goroutine owns it.
type lane struct {
	name edgeclaim.Lane

	acked uint64 // upstream has everything up to here
	sent  uint64 // upstream was told up to here: where the next batch begins
	read  uint64 // the outbox was read up to here

	ready  []line // read and not sent, in order
	bytes  int    // of ready, as they take in a batch
	more   bool   // the outbox may hold more than was read
	gone   uint64 // nothing up to here will come any more, if above read
	flight []flown
	flying int       // bytes of flight, as they take in a batch
	since  time.Time // since when the first of flight is awaited; zero for nothing

	paused   time.Time // nothing is sent before
	turnedTo uint64    // the sequence it was last sent back to
	turns    uint      // how often, one after the other
	moved    bool      // something was sent since
}

// line is a record as it is told.
type line struct {
	sequence uint64
	text     jsontext.Value
}

// flown is a batch on its way.
type flown struct {
	last    uint64
	records int
	bytes   int  // as they take in a batch
	final   line // the last record in it; zero without records
}

// begin starts behind what upstream has.
func (l *lane) begin(upto uint64) {
	*l = lane{name: l.name, acked: upto}
	l.rewind(upto)
}

// rewind forgets what was read, and goes on behind upto.
func (l *lane) rewind(upto uint64) {
	l.sent, l.read, l.gone, l.more = upto, upto, 0, true
	l.ready, l.bytes = nil, 0
}

// add takes a record that was read.
func (l *lane) add(sequence uint64, text []byte) {
	l.ready = append(l.ready, line{sequence, text})
	l.bytes += len(text) + 1
	l.read = sequence
}

// pending reports whether there is something to send.
func (l *lane) pending() bool { return len(l.ready) > 0 || l.gone > l.sent }

// fits returns how many that are ready make up the next batch: as many as a
// message carries, room at most. whole means that one more would not do.
func (l *lane) fits(room int) (n int, whole bool) {
	size := wire.BatchOverhead
	for n < len(l.ready) && n < room {
		size += len(l.ready[n].text) + 1
		if size > wire.MaxMessage {
			return n, true
		}
		n++
	}
	return n, n == room
}

// take moves the first n that are ready into a batch, which speaks for what
// is gone behind the last of them too.
func (l *lane) take(n int) wire.Batch {
	b := wire.Batch{Lane: l.name, First: l.sent + 1, Events: make([]jsontext.Value, n)}
	sent := flown{records: n, bytes: l.bytes}
	for i, one := range l.ready[:n] {
		b.Events[i] = one.text
		l.bytes -= len(one.text) + 1
		b.Last = one.sequence
	}
	if n > 0 {
		sent.final = l.ready[n-1]
	}
	sent.bytes -= l.bytes
	clear(l.ready[:n]) // for the garbage collector: the array lives on
	if l.ready = l.ready[n:]; len(l.ready) == 0 {
		l.ready = nil
		b.Last = max(b.Last, l.gone)
	}
	sent.last = b.Last
	l.flight = append(l.flight, sent)
	l.flying += sent.bytes
	l.sent, l.read, l.moved = b.Last, max(l.read, b.Last), true
	return b
}

// reach notes that upstream has everything up to there. It returns how many
// records left the way, and the check of the last one when it is known.
func (l *lane) reach(upto uint64) (records int, check edgeclaim.Check) {
	l.acked = upto
	var final line
	n := 0
	for n < len(l.flight) && l.flight[n].last <= upto {
		records += l.flight[n].records
		l.flying -= l.flight[n].bytes
		if l.flight[n].records > 0 {
			final = l.flight[n].final
		}
		n++
	}
	l.flight = append(l.flight[:0], l.flight[n:]...)
	if upto > l.sent {
		// It was sent before the lane went back.
		l.rewind(upto)
	}
	if final.text == nil {
		return records, check
	}
	if event, err := wire.DecodeEvent(final.text); err == nil {
		check, _ = event.Check() // zero when nobody knows
	}
	return records, check
}

// back sends the lane back to a sequence, and returns how many records left
// the way. Sent back to the same place again, it pauses before it goes on: a
// peer that never gets further must not turn the line into a loop.
func (l *lane) back(sequence uint64, now time.Time) (records int) {
	switch {
	case sequence != l.turnedTo:
		l.turnedTo, l.turns = sequence, 0
	case l.moved:
		wait := min(turnLeast<<min(l.turns, 16), turnMost)
		l.turns++
		l.pause(now.Add(wait))
	}
	l.moved = false
	keep := 0
	for keep < len(l.flight) && l.flight[keep].last < sequence {
		keep++
	}
	for _, gone := range l.flight[keep:] {
		records += gone.records
		l.flying -= gone.bytes
	}
	l.flight = l.flight[:keep]
	l.rewind(sequence - 1)
	return records
}

// await notes when something was sent.
func (l *lane) await(now time.Time) {
	if l.since.IsZero() {
		l.since = now
	}
}

// progressed notes when what is on its way made progress.
func (l *lane) progressed(now time.Time) {
	l.since = time.Time{}
	if len(l.flight) > 0 {
		l.since = now
	}
}

// pause holds the lane until then, or longer when it is held already.
func (l *lane) pause(until time.Time) {
	if until.After(l.paused) {
		l.paused = until
	}
}
