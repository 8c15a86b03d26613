// Package document keeps the documents that upstream rules the box by: whose
// signature counts, which version holds, and how old the last word on each is.
// What a document does is the rule's, where it lies the store's. DESIGN.md in
// this folder says how and why.
package document

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"edgeclaim"
)

const (
	// lookEvery is how often Run looks for documents that have become stale.
	lookEvery = time.Minute
	// saveEvery is how often Run saves ages: a crash makes documents younger by
	// that much at most.
	saveEvery = time.Hour
	// alarmEvery is how often the alarm of a stale document rises again.
	alarmEvery = 24 * time.Hour
	// saveWithin bounds the last save, when the program stops.
	saveWithin = 5 * time.Second
	// maxRefused is how many rows there may be of documents that the box does not
	// have and whose offer was refused: their names are anybody's.
	maxRefused = 100
)

// Service keeps the documents. It is safe for many goroutines.
type Service struct {
	cfg    Config
	parts  Parts
	logger *slog.Logger

	// taking is held while a document is verified and obeyed, and over every call
	// of the store: one after the other. It guards the fields below it, and is
	// taken before mu.
	taking  sync.Mutex
	trust   trust
	rooted  ed25519.PublicKey                                // the last enrolled key, also while there is none
	offered map[edgeclaim.DocumentID]edgeclaim.DocumentOffer // upstream's newest, since it spoke last
	told    map[told]struct{}                                // refusals that have been alarmed
	unsaved bool                                             // the store does not know that Restored or Rekeyed was called
	savedAt time.Duration                                    // uptime at the last save of ages

	mu   sync.RWMutex
	held map[edgeclaim.DocumentID]*entry

	denied  atomic.Pointer[map[edgeclaim.TenantID]struct{}] // whose new devices are refused; replaced, never changed
	changed chan struct{}                                   // capacity 1
}

// Open reads what the box holds, and whom it trusts. Errors are the
// configuration's, and the store's.
func Open(ctx context.Context, cfg Config, parts Parts, logger *slog.Logger) (*Service, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("documents: %w", err)
	}
	if parts, err = parts.withDefaults(logger); err != nil {
		return nil, fmt.Errorf("documents: %w", err)
	}
	s := &Service{
		cfg: cfg, parts: parts, logger: logger,
		held: map[edgeclaim.DocumentID]*entry{}, told: map[told]struct{}{}, changed: make(chan struct{}, 1),
	}
	rows, err := parts.Store.Documents(ctx)
	if err != nil {
		return nil, fmt.Errorf("documents: %w", err)
	}
	now := parts.Clock.Stamp()
	s.savedAt = now.Uptime
	for _, row := range rows {
		if row.Version > 0 || row.Refused != "" {
			s.held[row.ID] = newEntry(row, now)
		}
	}
	s.taking.Lock()
	defer s.taking.Unlock()
	if err := s.rehang(ctx); err != nil {
		return nil, fmt.Errorf("documents: %w", err)
	}
	s.look(now)
	return s, nil
}

// Run looks at the documents' ages: it raises the alarm of those that have become
// stale, and saves them. It blocks until ctx ends, and returns nil then, after a
// last save.
func (s *Service) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for s.tick(ctx); ; {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveWithin)
			defer cancel()
			s.taking.Lock()
			defer s.taking.Unlock()
			s.save(last)
			return nil
		case <-ticker.C:
			s.tick(ctx)
		}
	}
}

// Held returns how the box stands to each document, computed now from memory: in
// the order of types, tenants and names. One of version 0 was offered and
// refused, and none was ever taken.
func (s *Service) Held() []edgeclaim.DocumentState {
	now := s.parts.Clock.Stamp()
	s.mu.RLock()
	states := make([]edgeclaim.DocumentState, 0, len(s.held))
	for _, e := range s.held {
		states = append(states, e.state(&s.cfg, now))
	}
	s.mu.RUnlock()
	sortStates(states)
	return states
}

// Denies reports whether new devices of the tenant are to be refused: a document
// that says who may not claim, or who may, is stale, and its policy is deny. It
// is asked for every claim and takes no lock; what it says is a minute old at
// most.
func (s *Service) Denies(tenant edgeclaim.TenantID) bool {
	_, denied := (*s.denied.Load())[tenant]
	return denied
}

// Changed is told, once for several, when Held has changed in a version, a
// confirmation or a refusal.
func (s *Service) Changed() <-chan struct{} { return s.changed }

func (s *Service) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Text returns the signed text of a document that is held, one line without its
// end, ErrNotFound for none.
func (s *Service) Text(ctx context.Context, id edgeclaim.DocumentID) ([]byte, error) {
	text, err := s.parts.Store.DocumentText(ctx, id)
	if err != nil {
		return nil, err
	}
	return text[bytes.LastIndexByte(text, '\n')+1:], nil // of the signer there is the whole chain
}

// Restored is called when the box was restored, or has lost its registry: what it
// holds may be older than what it held, and counts as confirmed only when
// upstream says so again. An error is the store's; Run tries again then.
func (s *Service) Restored(ctx context.Context) error {
	s.taking.Lock()
	defer s.taking.Unlock()
	return s.doubt(ctx)
}

// doubt has nothing count as confirmed. The caller holds taking.
func (s *Service) doubt(ctx context.Context) error {
	s.mu.Lock()
	for _, e := range s.held {
		e.row.Confirmed = false
	}
	s.mu.Unlock()
	s.offered, s.unsaved = nil, true
	s.notify()
	return s.saveDoubt(ctx)
}

func (s *Service) saveDoubt(ctx context.Context) error {
	if err := s.saveAges(ctx, s.parts.Clock.Stamp()); err != nil {
		return err
	}
	s.unsaved = false
	return nil
}

// Rekeyed is called when the enrolment has changed. What is held stays in force;
// whose word counts from now on hangs on the key of this enrolment.
func (s *Service) Rekeyed(ctx context.Context) {
	s.taking.Lock()
	defer s.taking.Unlock()
	if err := s.rehang(ctx); err != nil {
		s.logger.Error("the key for documents is not in use yet", "err", err) // every document asks again
	}
}
