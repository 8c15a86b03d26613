package provision

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"edgeclaim"
)

// tellRefusals is how often refusals are told upstream, added up.
const tellRefusals = time.Minute

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
// returns the error that is the same for all (P3).
func (s *Service) deny(reason edgeclaim.Reason, c *claim) error {
	s.refused.add(refusalKey{reason, c.via}, c.now)
	s.logger.Info("claim refused", "reason", reason, "via", c.via, "hardware_id", c.hardware, "source", c.source)
	return &edgeclaim.Refusal{Reason: reason}
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
	case errors.Is(err, edgeclaim.ErrUnavailable):
		return OutcomeUnavailable
	default:
		return OutcomeInternal
	}
}

// Run tells upstream once a minute what was refused, and once more when ctx
// ends. It returns nil.
func (s *Service) Run(ctx context.Context) error {
	ticker := time.NewTicker(tellRefusals)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.tellRefused(ctx)
		case <-ctx.Done():
			s.tellRefused(context.WithoutCancel(ctx)) // the store closes after us
			return nil
		}
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
		data, err := json.Marshal(refusedFacts{
			Reason: key.reason, Via: key.via, Count: count, Since: since, Until: now, BoxID: s.cfg.BoxID, Site: s.cfg.Site,
		})
		if err == nil {
			err = s.store.Append(ctx, edgeclaim.Record{
				Lane: edgeclaim.LaneEvt, Type: edgeclaim.TypeClaimRefused, Stamp: s.clock.Stamp(), Data: data,
			})
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
