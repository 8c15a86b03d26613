package document

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// An entry is a document in memory.
type entry struct {
	row edgeclaim.HeldDocument
	// up is the uptime at which row.Aged was right. It is of this program's run:
	// running time goes on from what was saved, and not while the box is off.
	up time.Duration
	// alarmed says that, and at which uptime, its age was last told.
	alarmed   bool
	alarmedAt time.Duration
}

func newEntry(row edgeclaim.HeldDocument, now edgeclaim.Stamp) *entry {
	return &entry{row: row, up: now.Uptime}
}

// age is how long ago somebody said that this is the newest version (P10): by the
// wall clock where it was synchronised then and is now, else by running time.
// An unsynchronised clock is never asked: it may jump as it likes.
func (e *entry) age(now edgeclaim.Stamp) time.Duration {
	if e.row.Synced && now.Clock == edgeclaim.ClockSynced {
		return max(0, now.Time.Sub(e.row.ConfirmedAt))
	}
	return e.row.Aged + max(0, now.Uptime-e.up)
}

// settle makes the age as it is now the one that running time is counted from, so
// that what a synchronised clock has said of the time the box was off stays true
// when it is not synchronised any more.
func (e *entry) settle(now edgeclaim.Stamp) {
	e.row.Aged, e.up = e.age(now), now.Uptime
}

// renew: somebody trustworthy says that this is the newest version.
func (e *entry) renew(now edgeclaim.Stamp) {
	e.row.ConfirmedAt, e.row.Synced, e.row.Aged = now.Time, now.Clock == edgeclaim.ClockSynced, 0
	e.up, e.alarmed = now.Uptime, false
}

func (e *entry) policy(cfg *Config) edgeclaim.StalePolicy { return cmp.Or(e.row.Stale, cfg.Stale) }

func (e *entry) stale(cfg *Config, now edgeclaim.Stamp) bool {
	return e.row.Version > 0 && e.age(now) > cmp.Or(e.row.MaxAge, cfg.MaxAge)
}

func (e *entry) state(cfg *Config, now edgeclaim.Stamp) edgeclaim.DocumentState {
	state := edgeclaim.DocumentState{
		DocumentID: e.row.ID, Version: e.row.Version, Hash: e.row.Hash,
		IssuedAt: e.row.IssuedAt, AppliedAt: e.row.AppliedAt,
		Stale: e.stale(cfg, now), Policy: e.policy(cfg), Confirmed: e.row.Confirmed,
		Refused: string(e.row.Refused), RefusedVersion: e.row.RefusedVersion, RefusedAt: e.row.RefusedAt,
	}
	if e.row.Version > 0 {
		state.Age = e.age(now).Seconds()
	}
	return state
}

// rank is the place of a type in the order in which documents are applied.
func rank(t edgeclaim.DocumentType) int { return slices.Index(edgeclaim.DocumentTypes(), t) }

func compareIDs(a, b edgeclaim.DocumentID) int {
	return cmp.Or(cmp.Compare(rank(a.Type), rank(b.Type)),
		strings.Compare(a.Tenant.String(), b.Tenant.String()), strings.Compare(a.Name, b.Name))
}

func sortStates(states []edgeclaim.DocumentState) {
	slices.SortFunc(states, func(a, b edgeclaim.DocumentState) int { return compareIDs(a.DocumentID, b.DocumentID) })
}

// tick is one round of Run.
func (s *Service) tick(ctx context.Context) {
	s.taking.Lock()
	defer s.taking.Unlock()
	now := s.parts.Clock.Stamp()
	s.look(now)
	s.alarmStale(now)
	if s.unsaved || now.Uptime-s.savedAt >= saveEvery {
		s.save(ctx)
	}
}

// look settles the ages, and says whose new devices are refused. The caller holds
// taking.
func (s *Service) look(now edgeclaim.Stamp) {
	denied := map[edgeclaim.TenantID]struct{}{}
	s.mu.Lock()
	for id, e := range s.held {
		e.settle(now)
		if (id.Type == edgeclaim.DocumentRevocations || id.Type == edgeclaim.DocumentTemplates) &&
			e.stale(&s.cfg, now) && e.policy(&s.cfg) == edgeclaim.StaleDeny {
			denied[id.Tenant] = struct{}{}
		}
	}
	s.mu.Unlock()
	s.denied.Store(&denied)
}

// alarmStale raises the alarm of every stale document, once a day.
func (s *Service) alarmStale(now edgeclaim.Stamp) {
	var due []edgeclaim.DocumentState
	s.mu.Lock()
	for _, e := range s.held {
		if !e.stale(&s.cfg, now) {
			e.alarmed = false
			continue
		}
		if !e.alarmed || now.Uptime-e.alarmedAt >= alarmEvery {
			e.alarmed, e.alarmedAt = true, now.Uptime
			due = append(due, e.state(&s.cfg, now))
		}
	}
	s.mu.Unlock()
	sortStates(due)
	for i := range due {
		d := &due[i]
		s.logger.Warn("nobody has confirmed a document for too long", "document", d.String(),
			"version", d.Version, "age_seconds", int64(d.Age), "stale_policy", d.Policy)
		s.parts.Observe(edgeclaim.AlarmDocumentStale)
		s.parts.Auditor.Add(audit.Entry{
			Kind: audit.KindAlarm, Who: audit.WhoBox, Tenant: tenantText(d.DocumentID), Reason: string(edgeclaim.AlarmDocumentStale),
			Detail: detailOf(d.DocumentID, d.Version, ""),
		})
	}
}

// save saves the ages; what cannot be saved is in memory. The caller holds taking.
func (s *Service) save(ctx context.Context) {
	now := s.parts.Clock.Stamp()
	if err := s.saveAges(ctx, now); err != nil {
		s.logger.Warn("the ages of documents could not be saved", "err", err)
		return
	}
	s.unsaved = false
}

// saveAges stores all rows as they are now. The caller holds taking.
func (s *Service) saveAges(ctx context.Context, now edgeclaim.Stamp) error {
	s.look(now)
	s.mu.RLock()
	rows := make([]edgeclaim.HeldDocument, 0, len(s.held))
	for _, e := range s.held {
		if e.row.Version > 0 {
			rows = append(rows, e.row)
		}
	}
	s.mu.RUnlock()
	s.savedAt = now.Uptime
	if len(rows) == 0 {
		return nil
	}
	return s.parts.Store.SetHeld(ctx, rows...)
}
