package bridge

import (
	"crypto/ed25519"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// maxNacks is how many nacks wait at most; one beyond is thrown away, for the
// application says it again when the same records come again.
const maxNacks = 64

// maxOrders is how many commands, and words that take one back, wait at most;
// one beyond is thrown away, for the application says it again until it hears
// what became of it.
const maxOrders = 256

// Limits of what waits of documents, shares and verdicts.
const (
	// maxOffered is how many offers wait: two whole lists.
	maxOffered = 2 * edgeclaim.MaxDocuments
	// maxGrants is how many words on keys wait.
	maxGrants = 10 * wire.MaxShares
	// maxVerdicts: while there are so many verdicts, no more are taken in.
	maxVerdicts = 64
)

// letter is what came down since the last look, judged and merged: however
// much comes, it stays small.
type letter struct {
	host     *wire.Host // the last that was said while the box listened
	again    bool
	greeting wire.Down // the last *wire.Welcome or *wire.Refused
	upto     map[edgeclaim.Lane]uint64
	credit   *int
	snapshot *wire.SnapshotAck
	nacks    []wire.Nack
	page     *wire.RegistryPage
	state    *uint64
	orders   []wire.Order
	cancels  []wire.OrderName
	ruled
}

// ruled is what came down of documents, shares and verdicts. Of it all too much
// is thrown away that is too much: the box asks again, or upstream says it again.
type ruled struct {
	offers   []*wire.Offers
	offered  int                // documents in offers
	part     *wire.DocumentPart // the last
	grants   []edgeclaim.ShareGrant
	verdicts []edgeclaim.Verdict
}

// inbox takes what comes down on one connection. Messages are judged where
// they come in, one after the other: one that nobody signed takes no place
// from one that somebody did.
type inbox struct {
	names  wire.Names
	epoch  string
	former string            // the epoch before: what is late is not foreign
	key    ed25519.PublicKey // nil: not enrolled
	clock  Clock
	alarms *alarms
	logger *slog.Logger

	wake   chan struct{} // capacity 1: there is something to read
	warned bool          // the reader's: that nothing has to be signed
	unruly bool          // the reader's: that what came has to be signed

	sent *reached

	mu    sync.Mutex
	nonce string // guarded by mu; of the last hello
	next  letter // guarded by mu
}

func newInbox(s *session) *inbox {
	return &inbox{
		names: s.names, epoch: s.epoch, former: s.previous, key: s.key,
		clock: s.parts.Clock, alarms: s.alarms, logger: s.logger,
		wake: make(chan struct{}, 1), sent: s.sent,
	}
}

// reached is, for each lane, the highest sequence of an epoch that was ever
// sent, on whatever connection: what one sent last, the application may commit
// when the next one stands. The maps are constant.
type reached struct {
	epoch string
	lanes map[edgeclaim.Lane]*atomic.Uint64
}

func newReached(epoch string) *reached {
	r := &reached{epoch: epoch, lanes: map[edgeclaim.Lane]*atomic.Uint64{}}
	for _, lane := range edgeclaim.Lanes() {
		r.lanes[lane] = new(atomic.Uint64)
	}
	return r
}

// note is called by one goroutine; others may read meanwhile.
func (r *reached) note(lane edgeclaim.Lane, upto uint64) {
	if at := r.lanes[lane]; upto > at.Load() {
		at.Store(upto)
	}
}

// begin names a new session: what was said to the one before is late from now
// on.
func (in *inbox) begin(nonce string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.nonce = nonce
	in.next = letter{}
}

// read returns what has come since the last call.
func (in *inbox) read() letter {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.next
	in.next = letter{}
	return l
}

// take judges a message. It is the connection's OnMessage.
func (in *inbox) take(topic string, payload []byte, retained bool) {
	if topic == wire.HostTopic {
		in.takeHost(payload, retained)
		return
	}
	opened, err := wire.Open(in.key, payload)
	if errors.Is(err, wire.ErrForged) {
		in.alarms.raise(edgeclaim.AlarmForged)
		return
	}
	if err != nil {
		in.alarms.raise(edgeclaim.AlarmMalformed)
		return
	}
	message, err := wire.DecodeDown(opened)
	switch {
	case err != nil:
		in.alarms.raise(edgeclaim.AlarmMalformed)
		return
	case message == nil: // of a later version
		return
	}
	in.judge(message)
}

// takeHost takes the unsigned word on the application. The retained one, which
// every subscription brings, is no news.
func (in *inbox) takeHost(payload []byte, retained bool) {
	host, err := wire.DecodeHost(payload)
	if err != nil {
		in.alarms.raise(edgeclaim.AlarmMalformed)
		return
	}
	if retained {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.next.host = &host
	signal(in.wake)
}

// judge takes a message that names this session.
func (in *inbox) judge(message wire.Down) {
	head := message.Header()
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case head.Box != in.names.Box:
		in.alarms.raise(edgeclaim.AlarmForeign)
		return
	case head.Epoch != in.epoch:
		if head.Epoch != in.former || in.former == "" {
			in.alarms.raise(edgeclaim.AlarmForeign)
		}
		return
	case head.Nonce != in.nonce:
		return // it may be merely late
	}
	if in.key != nil {
		in.clock.Raise(head.Time)
	} else if !in.warned {
		in.warned = true
		in.logger.Warn("whoever may publish below this box's down topics can make it forget records, and command its devices: it is not enrolled")
	}
	in.merge(message)
	signal(in.wake)
}

// merge adds a message to what waits. It is called with mu held.
func (in *inbox) merge(message wire.Down) {
	switch m := message.(type) {
	case *wire.Welcome, *wire.Refused:
		in.next.greeting = m
	case *wire.Again:
		in.next.again = true
	case *wire.RegistryPage:
		in.next.page = m
	case *wire.Ack:
		in.mergeAck(m)
	case *wire.Commands:
		room := maxOrders - len(in.next.orders) - len(in.next.cancels)
		orders := m.Commands[:min(len(m.Commands), room)]
		cancels := m.Cancel[:min(len(m.Cancel), room-len(orders))]
		in.next.orders = append(in.next.orders, orders...)
		in.next.cancels = append(in.next.cancels, cancels...)
	case *wire.Offers, *wire.DocumentPart, *wire.Shares, *wire.Verdicts:
		in.mergeRuled(m)
	}
}

// mergeRuled adds what only an upstream may say that the box knows by its key.
// From another it raises one alarm, and does nothing.
func (in *inbox) mergeRuled(message wire.Down) {
	if in.key == nil {
		if !in.unruly {
			in.unruly = true
			in.alarms.raise(edgeclaim.AlarmDocumentRefused)
		}
		return
	}
	r := &in.next.ruled
	switch m := message.(type) {
	case *wire.Offers:
		if len(r.offers) < maxPages && r.offered+len(m.Documents) <= maxOffered {
			r.offers = append(r.offers, m)
			r.offered += len(m.Documents)
		}
	case *wire.DocumentPart:
		r.part = m
	case *wire.Shares:
		r.grants = append(r.grants, m.Shares[:min(len(m.Shares), maxGrants-len(r.grants))]...)
	case *wire.Verdicts:
		if len(r.verdicts) < maxVerdicts {
			r.verdicts = append(r.verdicts, m.Verdicts...)
		}
	}
}

func (in *inbox) mergeAck(ack *wire.Ack) {
	for lane, upto := range ack.Upto {
		if !in.reached(lane, upto) {
			continue
		}
		if in.next.upto == nil {
			in.next.upto = map[edgeclaim.Lane]uint64{}
		}
		in.next.upto[lane] = max(in.next.upto[lane], upto)
	}
	for _, nack := range ack.Nack {
		if !in.reached(nack.Lane, nack.Sequence) {
			continue
		}
		if len(in.next.nacks) < maxNacks {
			in.next.nacks = append(in.next.nacks, nack)
		}
	}
	if ack.Credit != nil {
		in.next.credit = ack.Credit
	}
	if ack.Snapshot != nil {
		in.next.snapshot = ack.Snapshot
	}
	if ack.State != nil {
		in.next.state = ack.State
	}
}

// reached reports whether a sequence was ever sent, and raises the alarm when
// it was not. A lane that this version does not know is passed over.
func (in *inbox) reached(lane edgeclaim.Lane, sequence uint64) bool {
	sent := in.sent.lanes[lane]
	if sent == nil {
		return false
	}
	if sequence > sent.Load() {
		in.alarms.raise(edgeclaim.AlarmAckAbove)
		return false
	}
	return true
}
