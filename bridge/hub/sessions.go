package hub

import (
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

const (
	// activeFor is how long after its last batch a box counts as telling, for
	// the sharing of credit.
	activeFor = 10 * time.Second
	// rushWindow is how long a hello counts towards a rush.
	rushWindow = 10 * time.Second
	// settled is how long a box must have been silent before another may take
	// its place.
	settled = time.Minute
	// grumbleEvery is how often at most something is logged about a box.
	grumbleEvery = time.Minute
	// nackEvery is how often at most a box is told of the same gap: what is on
	// its way behind the gap says nothing new.
	nackEvery = time.Second
	// formerNonces is how many sessions a hello may be late by.
	formerNonces = 8
)

// session is what the hub remembers of a box: nothing that is not said again
// when it is forgotten.
type session struct {
	names    wire.Names
	epoch    string
	nonce    string // of the last hello that was answered; empty for none
	welcomed bool   // and not refused since
	// former are the nonces of the sessions before, the last formerNonces.
	former []string

	seen     time.Time // anything of it came
	told     time.Time // a batch or page of it came
	greeted  time.Time // its last hello was answered
	asked    time.Time // it was last asked for a hello
	grumbled time.Time // something was last logged about it

	sent  map[edgeclaim.Lane]uint64 // told in this session, or known at its begin
	gap   map[edgeclaim.Lane]uint64 // the sequence last nacked
	gapAt time.Time                 // when that was

	// ordered is what the box was told of commands in this session, boxOrders at
	// most, and when.
	ordered map[orderKey]time.Time

	// enrolled: the box takes nothing that is not signed, and all that is.
	enrolled bool
	offering offering
	shares   sharing
	// judged is which verdicts the box was told in this session, boxVerdicts at
	// most, and when.
	judged map[verdictKey]time.Time

	// hello waits for a registry that failed; nil for none.
	hello *waiting
	// failures counts how often in a row the registry failed for it, and
	// retryAt is when it may be tried again.
	failures int
	retryAt  time.Time
}

// orderKey is a command by its number in the registry, or its cancelling.
type orderKey struct {
	number int64
	cancel bool
}

// waiting is a hello that could not be answered yet.
type waiting struct {
	names wire.Names
	hello *wire.Hello
}

// sessions is the applier's alone.
type sessions struct {
	conf   *Config
	byBox  map[string]*session
	hellos []time.Time // those within the rush window, at most rushMost
	active int         // boxes telling, as last counted
}

// rushMost bounds what is remembered of a rush.
const rushMost = 10_000

func newSessions(conf *Config) *sessions {
	return &sessions{conf: conf, byBox: map[string]*session{}, active: 1}
}

// of returns what is remembered of a box, and makes it where there is room;
// nil where there is none.
func (t *sessions) of(n wire.Names, now time.Time) *session {
	if s := t.byBox[n.Box]; s != nil {
		s.seen = now
		return s
	}
	if len(t.byBox) >= t.conf.MaxBoxes && !t.evict(now) {
		return nil
	}
	s := &session{names: n, seen: now}
	t.byBox[n.Box] = s
	return s
}

// evict makes room for one: whoever never said hello goes first, and then the
// box silent longest. It looks at all, but only when the table is full.
func (t *sessions) evict(now time.Time) bool {
	var first *session
	for _, s := range t.byBox {
		if s.nonce != "" && now.Sub(s.seen) < settled {
			continue
		}
		if first == nil || s.goesBefore(first) {
			first = s
		}
	}
	if first == nil {
		return false
	}
	delete(t.byBox, first.names.Box)
	return true
}

// goesBefore reports whether a session is forgotten before another.
func (s *session) goesBefore(other *session) bool {
	if (s.nonce == "") != (other.nonce == "") {
		return s.nonce == ""
	}
	return s.seen.Before(other.seen)
}

// sweep forgets who was silent too long, and counts who is telling and who is
// welcome.
func (t *sessions) sweep(now time.Time) (welcome int) {
	t.active = 1
	for box, s := range t.byBox {
		switch {
		case now.Sub(s.seen) > t.conf.SessionIdle:
			delete(t.byBox, box)
			continue
		case s.welcomed:
			welcome++
		}
		if !s.told.IsZero() && now.Sub(s.told) < activeFor {
			t.active++
		}
	}
	return welcome
}

// credit is each box's share.
func (t *sessions) credit() int {
	return min(max(t.conf.CreditTotal/t.active, t.conf.CreditMin), t.conf.CreditMax)
}

// rush notes a hello, and returns how long its box is to wait before it tells
// anything but prov: 500 boxes that come back at once get a slot each.
func (t *sessions) rush(now time.Time) time.Duration {
	kept := t.hellos[:0]
	for _, at := range t.hellos {
		if now.Sub(at) < rushWindow {
			kept = append(kept, at)
		}
	}
	t.hellos = kept
	if len(t.hellos) < rushMost {
		t.hellos = append(t.hellos, now)
	}
	above := len(t.hellos) - t.conf.RushBoxes
	if above <= 0 {
		return 0
	}
	return min(time.Duration(above)*t.conf.RushStep, t.conf.RushLimit)
}

// speaks reports whether a message is of the session: else its box has to say
// hello first.
func (s *session) speaks(n wire.Names, epoch, nonce string) bool {
	return s.nonce != "" && s.names == n && s.epoch == epoch && s.nonce == nonce
}

// isLate reports whether a hello is that of a session which another followed:
// the network brings it again, and it says what was true then.
func (s *session) isLate(h *wire.Hello) bool { return slices.Contains(s.former, h.Nonce) }

// begin starts the session that a hello asked for.
func (s *session) begin(n wire.Names, h *wire.Hello, now time.Time) {
	if s.welcomed && s.nonce != h.Nonce {
		s.former = append(s.former[max(0, len(s.former)-formerNonces+1):], s.nonce)
	}
	offers := offering{takes: h.Enrolled && h.Documents != nil}
	if s.nonce == h.Nonce { // it says again what was true when it was said first
		offers.signer = s.offering.signer
	}
	for i := range h.Documents {
		if d := &h.Documents[i]; d.Type == edgeclaim.DocumentSigner {
			offers.signer.Version = max(offers.signer.Version, d.Version)
		}
	}
	s.names, s.epoch, s.nonce, s.welcomed = n, h.Epoch, h.Nonce, true
	s.greeted, s.hello, s.ordered, s.judged = now, nil, nil, nil
	s.enrolled, s.offering = h.Enrolled, offers
	s.shares = sharing{takes: h.Enrolled && h.Shares, isDue: true}
	s.sent, s.gap = map[edgeclaim.Lane]uint64{}, map[edgeclaim.Lane]uint64{}
}

// mayAsk reports whether the box may be asked for a hello now, and notes it.
// One that was just greeted has said what it can: what comes of an older
// session is on its way still.
func (s *session) mayAsk(now time.Time, every time.Duration) bool {
	if now.Sub(s.asked) < every || now.Sub(s.greeted) < every {
		return false
	}
	s.asked = now
	return true
}

// mayGrumble reports whether something may be logged about the box, and notes
// it.
func (s *session) mayGrumble(now time.Time) bool {
	if now.Sub(s.grumbled) < grumbleEvery {
		return false
	}
	s.grumbled = now
	return true
}

// repeats reports whether a gap was told a moment ago, and notes it.
func (s *session) repeats(n *wire.Nack, now time.Time) bool {
	if n.Code == wire.NackGap && s.gap[n.Lane] == n.Sequence && now.Sub(s.gapAt) < nackEvery {
		return true
	}
	s.gap[n.Lane], s.gapAt = n.Sequence, now
	return false
}
