package hub

import (
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

// answers gathers what a transaction's outcome is to each box, so that one
// message says it: acknowledgements are cumulative.
type answers struct {
	applier *applier
	order   []*session
	of      map[*session]*answer
}

// answer is one box's.
type answer struct {
	ack     wire.Ack
	nacks   map[edgeclaim.Lane]*wire.Nack // the first one of each lane
	refused *wire.Refused
	shares  []edgeclaim.ShareGrant // of a wish
	said    bool                   // the ack says something
}

func newAnswers(a *applier) *answers { return &answers{applier: a, of: map[*session]*answer{}} }

func (t *answers) to(s *session) *answer {
	if t.of[s] == nil {
		t.order = append(t.order, s)
		t.of[s] = newAnswer()
	}
	return t.of[s]
}

func newAnswer() *answer {
	return &answer{ack: wire.Ack{Upto: map[edgeclaim.Lane]uint64{}}, nacks: map[edgeclaim.Lane]*wire.Nack{}}
}

// take notes what was committed.
func (t *answers) take(pending []work, results []registry.Result) {
	for i := range results {
		s, batch := pending[i].session, pending[i].item.Batch
		upto := results[i].Upto
		if batch != nil {
			// The mark may be ahead of what this session told: a stick may
			// have brought it meanwhile. An ack above what was sent alarms.
			s.sent[batch.Lane] = max(s.sent[batch.Lane], batch.Last)
			upto = min(upto, s.sent[batch.Lane])
		}
		t.to(s).take(batch, &results[i], upto)
		if r := pending[i].item.Report; r != nil && results[i].Refused == nil {
			t.applier.heard(s, r)
		}
		if n := results[i].Skipped; n > 0 && s.mayGrumble(time.Now()) {
			t.applier.logger.Warn("devices of a box are not taken: is their tenant served here?",
				"site", s.names.Site, "box_id", s.names.Box, "devices", n)
		}
	}
	t.applier.figures.count(func(f *Figures) {
		for i := range results {
			f.Records += uint64(results[i].Applied)
			f.Skipped += uint64(results[i].Skipped)
			switch it := &pending[i].item; {
			case it.Page != nil:
				f.Pages++
			case it.States != nil:
				f.States++
			case it.Report != nil: // counted where it is heard
			case it.Wish != nil:
				f.Wishes++
			default:
				f.Batches++
			}
		}
	})
}

// take notes one result: upto of it is acknowledged. batch is nil for that of a
// page, or of states.
func (w *answer) take(batch *wire.Batch, r *registry.Result, upto uint64) {
	switch {
	case r.Refused != nil:
		w.refused = r.Refused
		return
	case batch == nil:
		if r.Snapshot != nil {
			w.ack.Snapshot, w.said = r.Snapshot, true
		}
		if r.State != nil {
			w.ack.State, w.said = r.State, true
		}
		w.shares = append(w.shares, r.Shares...)
		return
	}
	w.said = true
	w.ack.Upto[batch.Lane] = upto
	if old := w.nacks[batch.Lane]; old != nil && r.Upto >= old.Sequence {
		delete(w.nacks, batch.Lane) // the lane has gone on since
	}
	if r.Nack != nil && w.nacks[batch.Lane] == nil {
		w.nacks[batch.Lane] = r.Nack
	}
}

// retry notes that nothing of the work was committed.
func (t *answers) retry(pending []work) {
	for i := range pending {
		if it := &pending[i].item; it.States != nil || it.Report != nil || it.Wish != nil {
			continue // its box says them again, what they are by then
		}
		w := t.to(pending[i].session)
		batch := pending[i].item.Batch
		if batch == nil {
			// A page has no nack. Its box begins the snapshot anew with a
			// hello, which waits here for the registry if it has to.
			t.askAnew(pending[i].session)
			continue
		}
		w.said = true
		if w.nacks[batch.Lane] == nil {
			w.nacks[batch.Lane] = &wire.Nack{
				Lane: batch.Lane, Sequence: batch.First, Code: wire.NackRetry,
				RetryAfter: spread(t.applier.health.wait(pending[i].session, time.Now())).Milliseconds(), Reason: "the registry cannot commit now",
			}
		}
	}
}

// askAnew asks a box for a hello.
func (t *answers) askAnew(s *session) {
	a := t.applier
	now := time.Now()
	if now.Sub(s.asked) < a.conf.AgainEvery {
		return
	}
	s.asked = now
	a.figures.count(func(f *Figures) { f.Asked++ })
	a.say(s.names, wire.KindControl, &wire.Again{Head: a.head(wire.TypeAgain, s.names, s.epoch, s.nonce)})
}

// send says everything.
func (t *answers) send() {
	for _, s := range t.order {
		w := t.of[s]
		if w.said {
			t.acknowledge(s, w)
		}
		for part := range slices.Chunk(w.shares, wire.MaxShares) {
			t.applier.sayShares(s, part)
		}
		if w.refused != nil {
			t.applier.refuse(s, s.names, w.refused)
		}
	}
}

func (t *answers) acknowledge(s *session, w *answer) {
	a := t.applier
	for _, lane := range edgeclaim.Lanes() {
		nack := w.nacks[lane]
		if nack == nil || s.repeats(nack, time.Now()) {
			continue
		}
		w.ack.Nack = append(w.ack.Nack, *nack)
		if nack.Code == wire.NackPermanent {
			a.logger.Warn("record can never be taken", "site", s.names.Site, "box_id", s.names.Box,
				"lane", nack.Lane, "sequence", nack.Sequence, "reason", nack.Reason)
		}
	}
	// Said each time: an ack may be lost, and the last one counts.
	credit := a.sessions.credit()
	w.ack.Credit = &credit
	w.ack.Head = a.head(wire.TypeAck, s.names, s.epoch, s.nonce)
	a.say(s.names, wire.KindAck, &w.ack)
	a.figures.count(func(f *Figures) {
		f.Acks++
		for _, nack := range w.ack.Nack {
			f.Nacks[nack.Code]++
		}
	})
}
