package document

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/signeddoc"
)

// DefaultMaxAge is how long a document counts as fresh without a word from
// upstream, where neither it nor the configuration says.
const DefaultMaxAge = 30 * 24 * time.Hour

// Config is whose documents the box takes, and what holds for those that do not
// say themselves.
type Config struct {
	// Box and Site are the box's names: what is for another is not taken.
	Box, Site string
	// MaxAge is how long a document counts as fresh without a word from upstream,
	// a minute to ten years; 0 for DefaultMaxAge.
	MaxAge time.Duration
	// Stale is what follows then; empty for edgeclaim.StaleWarn.
	Stale edgeclaim.StalePolicy
}

func (c *Config) withDefaults() (Config, error) {
	cfg := *c
	if cfg.MaxAge == 0 {
		cfg.MaxAge = DefaultMaxAge
	}
	if cfg.Stale == "" {
		cfg.Stale = edgeclaim.StaleWarn
	}
	switch {
	case cfg.Box == "":
		return cfg, errors.New("box: required")
	case cfg.MaxAge < time.Minute || cfg.MaxAge > signeddoc.MaxAge*time.Second:
		return cfg, fmt.Errorf("max_age: want %s to %s", time.Minute, signeddoc.MaxAge*time.Second)
	case cfg.Stale != edgeclaim.StaleWarn && cfg.Stale != edgeclaim.StaleDeny:
		return cfg, fmt.Errorf("stale: want %s or %s", edgeclaim.StaleWarn, edgeclaim.StaleDeny)
	}
	return cfg, nil
}

// Store keeps how the box stands to its documents, and their signed texts. Its
// methods are safe for many goroutines. *store.DB is one.
type Store interface {
	// Documents returns all rows, in any order.
	Documents(ctx context.Context) ([]edgeclaim.HeldDocument, error)
	// DocumentText returns the signed text of the version that is held,
	// ErrNotFound for none.
	DocumentText(ctx context.Context, id edgeclaim.DocumentID) ([]byte, error)
	// SetHeld stores confirmation, age and refusal of rows, in one transaction; nil
	// means fsynced. A row that is not there yet has Version 0.
	SetHeld(ctx context.Context, held ...edgeclaim.HeldDocument) error
	// ForgetSigner strikes the signer's row and text, so that its versions begin
	// anew; nil means fsynced, or that there is none.
	ForgetSigner(ctx context.Context) error
}

// Rule does what documents say. *provision.Service is one.
type Rule interface {
	// Obey does what a document says that was verified, and stores it with held
	// and s.Text in the same transaction; nil means fsynced, and every session
	// ended that has to be. *edgeclaim.DocumentError: it cannot be taken, and
	// nothing of it was; other errors: not now.
	Obey(ctx context.Context, s *signeddoc.Signed, held edgeclaim.HeldDocument) error
	// Share takes upstream's word on shares of keys; nil means fsynced.
	Share(ctx context.Context, grants []edgeclaim.ShareGrant) error
}

// Clock tells the time. *clock.Clock is one.
type Clock interface {
	// Now is max(wall clock, floor) in UTC (P10).
	Now() time.Time
	// Stamp is the wall clock with all that is known of its worth, and the time
	// since boot, which ages are measured by.
	Stamp() edgeclaim.Stamp
	// Raise raises the floor: when a document was signed is time to be trusted.
	Raise(t time.Time)
}

// Auditor is the log of decisions.
type Auditor interface {
	// Add takes an entry and never waits.
	Add(e audit.Entry)
	// Must returns nil when the entry is fsynced.
	Must(ctx context.Context, e audit.Entry) error
}

// Parts is what the service works with.
type Parts struct {
	Store Store
	Rule  Rule
	Clock Clock
	// Key returns the key for documents that the box was enrolled with, HubKey
	// the hub's own; nil for none. Both are asked often.
	Key    func() ed25519.PublicKey
	HubKey func() ed25519.PublicKey
	// Who says who imports, as the audit log has it; nil: the box.
	Who func(context.Context) string
	// Observe is told each alarm; nil: nobody is.
	Observe func(edgeclaim.Alarm)
	Auditor Auditor // nil: nothing is written down
}

func (p *Parts) withDefaults(logger *slog.Logger) (Parts, error) {
	parts := *p
	if parts.Store == nil || parts.Rule == nil || parts.Clock == nil || parts.Key == nil || parts.HubKey == nil || logger == nil {
		return parts, errors.New("want a store, a rule, a clock, both keys and a logger")
	}
	if parts.Who == nil {
		parts.Who = func(context.Context) string { return audit.WhoBox }
	}
	if parts.Observe == nil {
		parts.Observe = func(edgeclaim.Alarm) {}
	}
	if parts.Auditor == nil {
		parts.Auditor = nobody{}
	}
	return parts, nil
}

// nobody writes nothing down.
type nobody struct{}

func (nobody) Add(audit.Entry)                         {}
func (nobody) Must(context.Context, audit.Entry) error { return nil }
