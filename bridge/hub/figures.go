package hub

import (
	"sync"

	"edgeclaim/bridge/wire"
)

// Figures counts what the hub did since it began.
type Figures struct {
	Hellos   uint64
	Welcomes uint64
	Wants    uint64
	Batches  uint64 // applied, or seen to be applied already
	Pages    uint64 // of snapshots
	States   uint64 // messages of states, applied or seen to be
	Records  uint64 // applied, and devices of pages and states
	Skipped  uint64 // devices of snapshots and states that were not taken
	Offers   uint64 // lists of documents told
	Parts    uint64 // of documents told
	Reports  uint64 // messages on documents that boxes have
	Wishes   uint64 // messages that asked for shares of keys
	Shares   uint64 // shares told
	Verdicts uint64 // told, each time
	Orders   uint64 // commands and cancellations told, each time
	Acks     uint64 // told
	Asked    uint64 // boxes, for a new hello
	Nacks    map[wire.NackCode]uint64
	Refusals map[wire.RefusedCode]uint64

	Malformed uint64 // messages that nobody can read
	Retained  uint64 // messages that were retained and must not be
	Oversized uint64 // messages not read
	Foreign   uint64 // messages of no session, or of one before
	Unsent    uint64 // messages down that found no connection, or too many before them
	Failures  uint64 // transactions that the registry could not do
	Links     uint64 // connections to the broker

	Failing       bool // the registry could not do its last transaction
	Sessions      int  // boxes that are welcome
	QueueMessages int  // have come and are not applied yet
}

// figures is where Figures are counted. Anyone may, concurrently.
type figures struct {
	mu sync.Mutex
	f  Figures // guarded by mu
}

func newFigures() *figures {
	f := &figures{f: Figures{Nacks: map[wire.NackCode]uint64{}, Refusals: map[wire.RefusedCode]uint64{}}}
	for _, code := range []wire.NackCode{wire.NackRetry, wire.NackPermanent, wire.NackGap} {
		f.f.Nacks[code] = 0
	}
	for _, code := range []wire.RefusedCode{wire.RefusedStale, wire.RefusedFenced, wire.RefusedVersion, wire.RefusedUnknown} {
		f.f.Refusals[code] = 0
	}
	return f
}

func (f *figures) count(change func(*Figures)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.f)
}

func (f *figures) read() Figures {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.f
	out.Nacks, out.Refusals = map[wire.NackCode]uint64{}, map[wire.RefusedCode]uint64{}
	for code, n := range f.f.Nacks {
		out.Nacks[code] = n
	}
	for code, n := range f.f.Refusals {
		out.Refusals[code] = n
	}
	return out
}
