// Package provision holds the one rule of the box: who may claim, what they
// get, and how templates, keys and devices live. It is pure: it knows no
// protocol and no file; its faces decode, call and encode, and the store makes
// its decisions durable.
package provision

import (
	"context"
	"log/slog"
	"time"

	"edgeclaim"
)

// Claims is what the rule needs of the store to decide claims and log-ins. Its
// methods are safe for many goroutines.
type Claims interface {
	// Grant returns the key of that hash with its template, ErrNotFound when
	// there is none. It reads only what is committed.
	Grant(ctx context.Context, hash edgeclaim.KeyHash) (edgeclaim.Grant, error)
	// Holder returns the device that the hardware of a tenant is on record as,
	// aliases followed; ErrNotFound when it is new.
	Holder(ctx context.Context, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (edgeclaim.Device, error)
	// Claim calls decide with the present state of both, in the one write
	// transaction that many claims share; known is nil for new hardware. What
	// decide returns is stored whole, and Claim returns nil only when that is
	// fsynced (P1). An error of decide is returned as it is and leaves nothing
	// behind; so does nil for both. decide may be called more than once and
	// never calls the store. ErrUnavailable: not committed, try later.
	Claim(ctx context.Context, ref edgeclaim.ClaimRef, decide Decide) error
	// Device returns a device by its id, ErrNotFound when there is none.
	Device(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.Device, error)
}

// Decide is a verdict over the present state: what to store, nothing, or a
// refusal.
type Decide = func(grant edgeclaim.Grant, known *edgeclaim.Device) (*edgeclaim.Minted, error)

// Catalog keeps the templates. A nil error of a change means fsynced.
type Catalog interface {
	// CreateTemplate stores a new template: ErrExists when its id is taken,
	// ErrInvalid when a limit forbids one more.
	CreateTemplate(ctx context.Context, t edgeclaim.Template) error
	// Template returns one, ErrNotFound when there is none.
	Template(ctx context.Context, id edgeclaim.TemplateID) (edgeclaim.Template, error)
	// Templates returns all, in order of creation.
	Templates(ctx context.Context) ([]edgeclaim.Template, error)
	// ChangeTemplate reads, lets change edit and stores, in one transaction.
	ChangeTemplate(ctx context.Context, id edgeclaim.TemplateID, change func(*edgeclaim.Template) error) (edgeclaim.Template, error)
}

// Keyring keeps the provisioning keys, by their hashes. A nil error of a
// change means fsynced.
type Keyring interface {
	// AddKeys stores all or none: ErrExists when a hash is known already,
	// ErrNotFound when a template is not.
	AddKeys(ctx context.Context, keys []edgeclaim.Key) error
	// Key returns one by id, ErrNotFound when there is none.
	Key(ctx context.Context, id edgeclaim.KeyID) (edgeclaim.Key, error)
	// Keys returns up to max keys that follow after, in order of their ids;
	// the zero after begins at the start.
	Keys(ctx context.Context, after edgeclaim.KeyID, max int) ([]edgeclaim.Key, error)
	// ChangeKey reads, lets change edit and stores, in one transaction.
	ChangeKey(ctx context.Context, id edgeclaim.KeyID, change func(*edgeclaim.Key) error) (edgeclaim.Key, error)
}

// Registry keeps the devices and what is told of them.
type Registry interface {
	// Devices returns up to max devices that follow after in an order that is
	// stable while paging; the zero after begins at the start.
	Devices(ctx context.Context, after edgeclaim.DeviceID, max int) ([]edgeclaim.Device, error)
	// ChangeDevice reads, lets change edit, and stores the device with the
	// record that change returns, nil for none, in one transaction (P1).
	ChangeDevice(ctx context.Context, id edgeclaim.DeviceID, change func(*edgeclaim.Device) (*edgeclaim.Record, error)) (edgeclaim.Device, error)
	// Append puts a record in LaneEvt; nil means fsynced.
	Append(ctx context.Context, r edgeclaim.Record) error
}

// Store is all that the service needs kept.
type Store interface {
	Claims
	Catalog
	Keyring
	Registry
}

// Clock tells the time that expiry is judged by, and stamps records.
type Clock interface {
	// Now is max(wall clock, floor) in UTC (P10).
	Now() time.Time
	// Stamp is the wall clock with all that is known of its worth.
	Stamp() edgeclaim.Stamp
}

// Config is what the service is told at its making.
type Config struct {
	// BoxID and Site say in every record where it comes from.
	BoxID string
	Site  string
	// Observe is told the outcome of every claim; nil for nobody. It must not
	// block.
	Observe func(via edgeclaim.Via, outcome Outcome, took time.Duration)
	// Void is told that a device's credential is void, after the commit, so
	// that its open sessions end; nil for nobody. A release waits for it: it
	// returns within moments, and from then on only a credential that was
	// valid after the call began lets the device in.
	Void func(id edgeclaim.DeviceID)
}

// Outcome is what became of a claim: a closed set, so that a metric may label
// by it. A refusal is "denied_" and its edgeclaim.Reason.
type Outcome string

// The outcomes that are not refusals.
const (
	OutcomeMinted      Outcome = "minted"
	OutcomeKnown       Outcome = "known"
	OutcomeInvalid     Outcome = "invalid"
	OutcomeThrottled   Outcome = "throttled"
	OutcomeUnavailable Outcome = "unavailable"
	OutcomeInternal    Outcome = "internal"
)

// Service is the rule. It is safe for many goroutines.
type Service struct {
	cfg    Config
	store  Store
	clock  Clock
	logger *slog.Logger

	patterns patterns // compiled once each
	pace     pace     // max_claims_per_minute
	refused  tally    // refusals not yet told upstream
}

// New returns the service. Run tells upstream about refusals; claims are
// answered with or without it.
func New(cfg Config, store Store, clock Clock, logger *slog.Logger) *Service {
	if cfg.Observe == nil {
		cfg.Observe = func(edgeclaim.Via, Outcome, time.Duration) {}
	}
	if cfg.Void == nil {
		cfg.Void = func(edgeclaim.DeviceID) {}
	}
	return &Service{
		cfg: cfg, store: store, clock: clock, logger: logger,
		pace:    pace{claims: map[edgeclaim.KeyID][]time.Time{}},
		refused: tally{counts: map[refusalKey]uint64{}},
	}
}
