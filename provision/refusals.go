package provision

import (
	"context"
	"errors"
	"sync"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// refusalKey is what refusals are added up by: a closed set, so the tally is
// bounded however many come.
type refusalKey struct {
	reason edgeclaim.Reason
	via    edgeclaim.Via
}

// tally adds refusals up between two tellings.
type tally struct {
	mu     sync.Mutex // guards both; held for a map operation
	counts map[refusalKey]uint64
	since  time.Time // of the first one counted
}

func (t *tally) add(key refusalKey, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.counts) == 0 {
		t.since = now
	}
	t.counts[key]++
}

func (t *tally) take() (map[refusalKey]uint64, time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts := t.counts
	t.counts = map[refusalKey]uint64{}
	return counts, t.since
}

// deny counts a refusal under its reason, says it in the local log, and
// returns the error that is the same for all (P3). present is nil for an
// unknown key. A source that has failed too often is put off instead, whatever
// the reason; who is not refused never comes by here.
func (s *Service) deny(reason edgeclaim.Reason, c *claim, present *edgeclaim.Present) error {
	if present != nil && (reason == edgeclaim.ReasonKeyUsed || reason == edgeclaim.ReasonKeyExhausted) {
		s.noteUse(present.Grant)
		s.noteExhausted(&present.Grant)
	}
	entry := audit.Entry{
		Kind: audit.KindClaimRefused, Who: audit.WhoDevice, Source: addressText(c.source), Hardware: c.hardware.String(),
		Reason: string(reason), Detail: map[string]string{"via": string(c.via)},
	}
	if present != nil {
		entry.Tenant, entry.Key = present.Grant.Template.Tenant.String(), present.Grant.Key.ID.String()
		entry.Template = present.Grant.Template.ID.String()
	}
	if wait := s.parts.Throttle.Wait(c.source); wait > 0 {
		s.alarm(edgeclaim.AlarmThrottled, edgeclaim.KeyID{})
		entry.Reason = string(OutcomeThrottled)
		s.parts.Auditor.Add(entry)
		return &throttledError{wait: wait, refused: true}
	}
	s.parts.Throttle.Fail(c.source)
	s.parts.Auditor.Add(entry)
	s.refused.add(refusalKey{reason, c.via}, c.now)
	if say, unsaid := s.refusalLog.take(time.Now()); say {
		s.logger.Info("claim refused", "reason", reason, "via", c.via, "hardware_id", c.hardware, "source", c.source, "unsaid", unsaid)
	}
	return &edgeclaim.Refusal{Reason: reason}
}

// refusalsLogged is how many refusals are logged one by one in a second, and how
// many claims that could not be decided: a stranger must not fill the disk that
// the log is on. The others are counted into the next line, and all refusals
// are in the audit log.
const refusalsLogged = 20

// lineBudget bounds the lines of a log by the second.
type lineBudget struct {
	mu     sync.Mutex // guards what follows, for the length of an addition
	since  time.Time  // monotonic
	said   int
	unsaid uint64
}

// take reports whether to say a line, and how many were not said before it.
func (b *lineBudget) take(now time.Time) (say bool, unsaid uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.since) >= time.Second {
		b.since, b.said = now, 0
	}
	if b.said >= refusalsLogged {
		b.unsaid++
		return false, 0
	}
	b.said++
	unsaid, b.unsaid = b.unsaid, 0
	return true, unsaid
}

// outcomeOf names what became of a claim that failed.
func outcomeOf(err error) Outcome {
	if refusal, ok := errors.AsType[*edgeclaim.Refusal](err); ok {
		return "denied_" + Outcome(refusal.Reason)
	}
	switch {
	case errors.Is(err, edgeclaim.ErrInvalid):
		return OutcomeInvalid
	case errors.Is(err, edgeclaim.ErrThrottled):
		return OutcomeThrottled
	case errors.Is(err, edgeclaim.ErrWaiting):
		return OutcomeWaiting
	case errors.Is(err, edgeclaim.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return OutcomeUnavailable
	default:
		return OutcomeInternal
	}
}

// refusedFacts is the data of claim.refused.
type refusedFacts struct {
	Reason edgeclaim.Reason `json:"reason"`
	Via    edgeclaim.Via    `json:"via"`
	Count  uint64           `json:"count"`
	Since  time.Time        `json:"since"`
	Until  time.Time        `json:"until"`
	BoxID  string           `json:"box_id"`
	Site   string           `json:"site"`
}

// tellRefused appends one record for each reason and face that refused since
// the last telling. What cannot be stored is counted again the next time.
func (s *Service) tellRefused(ctx context.Context) {
	counts, since := s.refused.take()
	now := s.clock.Now()
	for key, count := range counts {
		record, err := s.record(edgeclaim.LaneEvt, edgeclaim.TypeClaimRefused, refusedFacts{
			Reason: key.reason, Via: key.via, Count: count, Since: since, Until: now, BoxID: s.cfg.BoxID, Site: s.cfg.Site,
		})
		if err == nil {
			err = s.store.Append(ctx, *record)
		}
		if err != nil {
			s.logger.Warn("refusals not told yet", "reason", key.reason, "count", count, "err", err)
			s.refused.restore(key, count, since)
		}
	}
}

// restore puts a count back that could not be told.
func (t *tally) restore(key refusalKey, count uint64, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.counts) == 0 || since.Before(t.since) {
		t.since = since
	}
	t.counts[key] += count
}
