package hub

import (
	"context"
	"errors"
	"time"

	"edgeclaim/bridge/hub/registry"
)

// work is a batch, a page, states, a report or a wish of a session.
type work struct {
	session *session
	item    registry.Item
}

// apply commits work in one transaction and answers it, a message for each
// session.
func (a *applier) apply(ctx context.Context, pending []work) {
	if len(pending) == 0 {
		return
	}
	answers := newAnswers(a)
	defer answers.send()
	pending = a.withoutWaiting(answers, pending)
	if len(pending) == 0 {
		return
	}
	results, err := a.commit(ctx, pending)
	if err == nil {
		a.worked(pending...)
		answers.take(pending, results)
		return
	}
	parts := byBox(pending)
	if len(parts) == 1 || a.health.ailing() {
		for _, part := range parts {
			a.failed(part[0].session, err)
		}
		answers.retry(pending)
		return
	}
	a.applyApart(ctx, answers, parts)
}

// withoutWaiting answers those who have to leave the registry alone, and
// returns the work of the others.
func (a *applier) withoutWaiting(answers *answers, pending []work) []work {
	now := time.Now()
	var rest, waiting []work
	for _, w := range pending {
		if a.health.wait(w.session, now) > 0 {
			waiting = append(waiting, w)
			continue
		}
		rest = append(rest, w)
	}
	answers.retry(waiting)
	return rest
}

// applyApart is apply after the whole group failed: each box by itself, so that
// one whose message the registry cannot take does not stop the others.
func (a *applier) applyApart(ctx context.Context, answers *answers, parts [][]work) {
	for _, part := range parts {
		if a.health.wait(part[0].session, time.Now()) > 0 { // it is down by now
			answers.retry(part)
			continue
		}
		results, err := a.commit(ctx, part)
		if err != nil {
			a.failed(part[0].session, err)
			answers.retry(part)
			continue
		}
		a.worked(part...)
		answers.take(part, results)
	}
}

// byBox parts work by its session, in order.
func byBox(pending []work) [][]work {
	var parts [][]work
	at := map[*session]int{}
	for _, w := range pending {
		i, ok := at[w.session]
		if !ok {
			i = len(parts)
			at[w.session] = i
			parts = append(parts, nil)
		}
		parts[i] = append(parts[i], w)
	}
	return parts
}

// commit is one transaction.
func (a *applier) commit(ctx context.Context, pending []work) ([]registry.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, a.conf.ApplyTimeout)
	defer cancel()
	items := make([]registry.Item, len(pending))
	for i := range pending {
		items[i] = pending[i].item
	}
	begun := time.Now()
	results, err := a.db.Apply(ctx, items)
	if err != nil {
		return nil, err
	}
	if len(results) != len(items) {
		return nil, errors.New("hub: the registry answered for other items than it was given")
	}
	records := 0
	for i := range results {
		records += results[i].Applied
	}
	if a.conf.OnCommit != nil {
		a.conf.OnCommit(time.Since(begun), records)
	}
	return results, nil
}

// failed notes that the registry failed, for a box or, nil, for the hub.
func (a *applier) failed(s *session, err error) {
	first := !a.health.ailing()
	a.health.failed(s, time.Now())
	a.figures.count(func(f *Figures) { f.Failures, f.Failing = f.Failures+1, true })
	wait := a.health.wait(s, time.Now())
	if s != nil && s.mayGrumble(time.Now()) {
		a.logger.Error("registry failed for a box", "site", s.names.Site, "box_id", s.names.Box, "err", err, "retry_in", wait)
	} else if first {
		a.logger.Error("registry failed", "err", err, "retry_in", wait)
	}
}

// worked notes that the registry worked for those whose work it was.
func (a *applier) worked(done ...work) {
	first := a.health.worked(nil)
	for _, w := range done {
		a.health.worked(w.session)
	}
	if first {
		a.figures.count(func(f *Figures) { f.Failing = false })
		a.logger.Info("registry works again")
	}
}
