package hub

import (
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

const (
	// verdictsEvery is how often the registry is asked for verdicts that are due.
	verdictsEvery = time.Second
	// verdictAgain is how long a box is given to obey before it is told again.
	verdictAgain = 30 * time.Second
	// boxVerdicts is how many verdicts a box is told within that time.
	boxVerdicts = 256
)

// verdicts is where the round through what is due stands. What is forgotten is
// told once more, which does nothing (P8).
type verdicts struct {
	next  time.Time
	after registry.VerdictMark
}

// verdictKey is a verdict: a box's, on a device's credential.
type verdictKey struct {
	mark registry.VerdictMark
	void edgeclaim.KeyHash
}

// tellVerdicts tells the boxes that are welcome what was decided against them, a
// page of what is due a second.
func (a *applier) tellVerdicts(ctx context.Context, now time.Time) {
	if now.Before(a.verdicts.next) || a.health.wait(nil, now) > 0 {
		return
	}
	a.verdicts.next = now.Add(verdictsEvery)
	ctx, cancel := context.WithTimeout(ctx, a.conf.ApplyTimeout)
	defer cancel()
	page, err := a.db.Verdicts(ctx, a.verdicts.after)
	if err != nil {
		a.verdicts.next = time.Now().Add(a.conf.RetryLimit)
		a.logger.Error("verdicts could not be read", "err", err, "retry_in", a.conf.RetryLimit)
		return
	}
	a.verdicts.after = registry.VerdictMark{}
	if page.More {
		a.verdicts.after = page.Last
	}
	of := map[*session][]edgeclaim.Verdict{}
	for i := range page.Verdicts {
		v := &page.Verdicts[i]
		s := a.sessions.byBox[v.Box.Box]
		if s == nil || !s.welcomed || !s.enrolled || s.names != v.Box || !s.mayJudge(v, now) {
			continue
		}
		of[s] = append(of[s], v.Verdict)
	}
	for s, list := range of {
		a.sayVerdicts(s, list)
	}
}

// mayJudge reports whether the box is to be told now, and notes it.
func (s *session) mayJudge(v *registry.Verdict, now time.Time) bool {
	key := verdictKey{v.Mark, v.Void}
	if at, told := s.judged[key]; told && now.Sub(at) < verdictAgain {
		return false
	}
	for other, at := range s.judged {
		if now.Sub(at) >= verdictAgain {
			delete(s.judged, other)
		}
	}
	if len(s.judged) >= boxVerdicts {
		return false
	}
	if s.judged == nil {
		s.judged = map[verdictKey]time.Time{}
	}
	s.judged[key] = now
	return true
}

// sayVerdicts tells one box, in as many messages as it takes.
func (a *applier) sayVerdicts(s *session, list []edgeclaim.Verdict) {
	fresh := func() *wire.Verdicts {
		return &wire.Verdicts{Head: a.head(wire.TypeVerdicts, s.names, s.epoch, s.nonce)}
	}
	message, size := fresh(), pageHead
	send := func() {
		if n := len(message.Verdicts); n > 0 {
			a.say(s.names, wire.KindControl, message)
			a.figures.count(func(f *Figures) { f.Verdicts += uint64(n) })
		}
		message, size = fresh(), pageHead
	}
	for i := range list {
		encoded, err := wire.Encode(&list[i])
		if err != nil || pageHead+len(encoded)+1 > pageBytes {
			a.logger.Error("verdict cannot be written", "box_id", s.names.Box, "device_id", list[i].Device.ID)
			continue
		}
		if size+len(encoded)+1 > pageBytes {
			send()
		}
		message.Verdicts = append(message.Verdicts, list[i])
		size += len(encoded) + 1
	}
	send()
}
