// Package provision holds the one rule of the box: who may claim, what they
// get, and how templates, keys and devices live. It is pure: it knows no
// protocol and no file; its faces decode, call and encode, and the store makes
// its decisions durable.
package provision

import (
	"cmp"
	"context"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/ca"
)

// Claims is what the rule needs of the store to decide claims and log-ins. Its
// methods are safe for many goroutines.
type Claims interface {
	// Look reads what a claim is decided on, of committed state: the grant
	// alone where ref names no hardware. ErrNotFound: no such key.
	Look(ctx context.Context, ref edgeclaim.ClaimRef) (edgeclaim.Present, error)
	// Mint calls decide with the same, as it is inside the one write
	// transaction that many claims share. What decide returns is stored whole,
	// and Mint returns nil only when that is fsynced (P1). An error of decide is
	// returned as it is and leaves nothing behind; so does nil for both. decide
	// may be called more than once and never calls the store. ErrUnavailable:
	// not committed, try later.
	Mint(ctx context.Context, ref edgeclaim.ClaimRef, decide Decide) error
	// Device returns a device by its id, ErrNotFound when there is none.
	Device(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.Device, error)
	// DeviceByCredential returns the device whose present or previous
	// credential has that hash, ErrNotFound when there is none.
	DeviceByCredential(ctx context.Context, hash edgeclaim.KeyHash) (edgeclaim.Device, error)
}

// Decide is a verdict over the present state: what to store, nothing, or a
// refusal.
type Decide = func(edgeclaim.Present) (*edgeclaim.Minted, error)

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
	// Swap is ChangeDevice that also gives the device another hardware: to
	// leads to it from now on, and what it had is denied. ErrConflict: to is
	// another device's, denied, or this one's already.
	Swap(ctx context.Context, id edgeclaim.DeviceID, to edgeclaim.HardwareID,
		change func(*edgeclaim.Device) (*edgeclaim.Record, error)) (edgeclaim.Device, error)
	// Append puts a record in LaneEvt; nil means fsynced.
	Append(ctx context.Context, r edgeclaim.Record) error
}

// Denials keeps the hardware that may not claim. A nil error of a change means
// fsynced.
type Denials interface {
	// Deny leaves what is denied already as it is. ErrInvalid: there are too
	// many. The record goes up with it, nil for none.
	Deny(ctx context.Context, d edgeclaim.Denial, r *edgeclaim.Record) error
	// Undeny lifts one, ErrNotFound when there is none. Hardware that was
	// swapped out gets its next generation.
	Undeny(ctx context.Context, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (edgeclaim.Denial, error)
	// Denials returns up to max that follow after, in order of the bytes of
	// tenant and hardware.
	Denials(ctx context.Context, after edgeclaim.Denial, max int) ([]edgeclaim.Denial, error)
}

// Approvals keeps the claims that wait for an operator. A nil error of a change
// means fsynced.
type Approvals interface {
	// Pend notes one, and returns it as it stands: approved, perhaps, since it
	// was looked for. ErrThrottled: too many wait.
	Pend(ctx context.Context, p edgeclaim.Pending) (edgeclaim.Pending, error)
	// ChangePending lets change edit the status, or forget the claim, in one
	// transaction; ErrNotFound when there is none.
	ChangePending(ctx context.Context, id edgeclaim.DeviceID, change func(*edgeclaim.Pending) (keep bool, err error)) (edgeclaim.Pending, error)
	// PendingClaims returns up to max that follow after.
	PendingClaims(ctx context.Context, after edgeclaim.DeviceID, max int) ([]edgeclaim.Pending, error)
}

// Manifests keeps the hardware that templates expect. A nil error of a change
// means fsynced.
type Manifests interface {
	// ImportManifest adds or replaces rows, all or none.
	ImportManifest(ctx context.Context, t edgeclaim.TemplateID, rows []edgeclaim.ManifestRow) (added, changed int, err error)
	// RemoveManifest takes rows off, those that are there.
	RemoveManifest(ctx context.Context, t edgeclaim.TemplateID, hardware []edgeclaim.HardwareID) (removed int, err error)
	// Manifest returns up to max rows that follow after.
	Manifest(ctx context.Context, t edgeclaim.TemplateID, after edgeclaim.HardwareID, max int) ([]edgeclaim.ManifestRow, error)
}

// Scopes is the templates and the keys that are issued from them.
type Scopes interface {
	Catalog
	Keyring
}

// Lists bound who may claim, beside the keys.
type Lists interface {
	Denials
	Approvals
	Manifests
}

// Rulings are what an operator and upstream rule, beside templates and keys.
type Rulings interface {
	Lists
	Upstream
}

// Store is all that the service needs kept.
type Store interface {
	Claims
	Scopes
	Registry
	Rulings
}

// Clock tells the time that expiry is judged by, and stamps records.
type Clock interface {
	// Now is max(wall clock, floor) in UTC (P10).
	Now() time.Time
	// Stamp is the wall clock with all that is known of its worth.
	Stamp() edgeclaim.Stamp
}

// Issuer is the box's certificate authority. Its methods are safe for many
// goroutines and touch no disk.
type Issuer interface {
	// Issue signs a device's certificate. ErrUnavailable: it cannot now.
	Issue(req ca.Request) (ca.Issued, error)
	// Identify says whose certificate the first of a proven chain is, judged
	// at now; what is not good for a log-in wraps ErrUnauthenticated. Whether
	// it is still the device's own is for the registry to say.
	Identify(chain []*x509.Certificate, now time.Time) (edgeclaim.DeviceID, edgeclaim.KeyHash, error)
}

// Auditor is the log of decisions.
type Auditor interface {
	// Add takes an entry and never waits.
	Add(e audit.Entry)
	// Must returns nil when the entry is fsynced.
	Must(ctx context.Context, e audit.Entry) error
}

// Throttle counts failed claims by source. It is asked about refusals only.
type Throttle interface {
	// Wait is how long the source has to wait before it may fail again; 0: not
	// at all.
	Wait(source netip.Addr) time.Duration
	// Fail counts a failure.
	Fail(source netip.Addr)
}

// Defaults of Config.
const (
	DefaultX509Validity     = 90 * 24 * time.Hour
	DefaultUnconfirmedAfter = 24 * time.Hour
	DefaultDeviceOverlap    = 24 * time.Hour
	// DefaultOverlap is that of an operator's rotation.
	DefaultOverlap = 24 * time.Hour
	// MaxOverlap is the longest that an operator may ask for.
	MaxOverlap = 30 * 24 * time.Hour
)

// Config is what the service is told at its making. Each function may be nil
// for nobody, and none of them may block but Void.
type Config struct {
	// BoxID and Site say in every record where it comes from.
	BoxID string
	Site  string
	// BoxKey is the 32 bytes that secrets are derived with (P5).
	BoxKey edgeclaim.Secret
	// X509Validity is how long a certificate lives that is issued while the
	// clock is synchronised; 0 for DefaultX509Validity.
	X509Validity time.Duration
	// UnconfirmedAfter is when a credential that was never used is told of
	// upstream; 0 for DefaultUnconfirmedAfter.
	UnconfirmedAfter time.Duration
	// DeviceOverlap is how long the old credential stays good beside one that
	// the device asked for itself; 0 for DefaultDeviceOverlap.
	DeviceOverlap time.Duration

	// Observe is told the outcome of every claim.
	Observe func(via edgeclaim.Via, outcome Outcome, took time.Duration)
	// Void is told that a device's credential is void, after the commit, so
	// that its open sessions end. A release waits for it: it returns within
	// moments, and from then on only a credential that was valid after the
	// call began lets the device in.
	Void func(id edgeclaim.DeviceID)
	// Shorten is told that sessions that logged in with that credential have
	// to end after in.
	Shorten func(id edgeclaim.DeviceID, credential edgeclaim.KeyHash, in time.Duration)
	// Decided is told that an operator approved or refused a claim, by what
	// Answer.Waiting said: who waits is to ask again.
	Decided func(ref edgeclaim.ClaimRef)
	// Seal encrypts a PSK for upstream; nil without an error: upstream has no
	// key for it.
	Seal func(id edgeclaim.DeviceID, psk edgeclaim.Secret) (*Sealed, error)
}

// Sealed is a PSK that only upstream can read.
type Sealed struct {
	KeyID string `json:"key_id"` // names upstream's key
	Value string `json:"value"`  // unpadded base64url
}

// Parts is what the service works with. Issuer may be nil: nobody gets a
// certificate then, or is let in by one. So may Auditor and Throttle: nothing
// is written down, nobody put off.
type Parts struct {
	Store    Store
	Clock    Clock
	Issuer   Issuer
	Auditor  Auditor
	Throttle Throttle
	// Documents knows how old the word from upstream is; nil: it never keeps
	// anybody from claiming.
	Documents Freshness
	// Precedence is told while claims are decided, so that they go before
	// what else the box does; nil: nobody is.
	Precedence Precedence
}

// Precedence lets claims go first. Its methods are quick, and called from many
// goroutines at once; each Enter is followed by one Leave.
type Precedence interface {
	Enter()
	Leave()
}

type noPrecedence struct{}

func (noPrecedence) Enter() {}
func (noPrecedence) Leave() {}

// Outcome is what became of a claim: a closed set, so that a metric may label
// by it. A refusal is "denied_" and its edgeclaim.Reason.
type Outcome string

// The outcomes that are not refusals.
const (
	OutcomeMinted      Outcome = "minted"
	OutcomeKnown       Outcome = "known"
	OutcomeAgain       Outcome = "again"   // the same secret once more, to the same nonce
	OutcomeWaiting     Outcome = "waiting" // for an operator
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
	parts  Parts
	logger *slog.Logger

	// csrTurns has room for the CSRs that are looked at at one time.
	csrTurns chan struct{}
	// creating is held while a template is checked against the others.
	creating sync.Mutex

	patterns  patterns                    // compiled once each
	pace      pace                        // max_claims_per_minute
	rotations *ration[edgeclaim.DeviceID] // new credentials that devices ask for

	// Not yet told upstream, and how much of it is said in the log.
	refused    tally
	refusalLog lineBudget
	failureLog lineBudget
	// conflictLog is of what upstream undid.
	conflictLog lineBudget
	alarms      alarms
	alarmLog    *ration[alarmKey]

	wants        *wanted                     // shares to ask upstream for
	askedAgain   *ration[edgeclaim.KeyID]    // although it has said that there are none
	overused     overuse                     // the keys of late
	suspicions   chan edgeclaim.Suspicion    // for Run
	suspected    *ration[edgeclaim.DeviceID] // records of suspicions
	suspectedAll *ration[struct{}]
	sweep        sweep // Run's own
}

// Bounds of what devices may ask for.
const (
	// deviceRotations is how many new credentials a device may ask for in
	// rotationSpan; rotationDevices are remembered.
	deviceRotations = 6
	rotationSpan    = time.Hour
	rotationDevices = 16_384
)

// New returns the service. Run tells upstream about refusals and alarms; claims
// are answered with or without it.
func New(cfg Config, parts Parts, logger *slog.Logger) *Service {
	if cfg.Observe == nil {
		cfg.Observe = func(edgeclaim.Via, Outcome, time.Duration) {}
	}
	if parts.Precedence == nil {
		parts.Precedence = noPrecedence{}
	}
	if cfg.Void == nil {
		cfg.Void = func(edgeclaim.DeviceID) {}
	}
	if cfg.Shorten == nil {
		cfg.Shorten = func(edgeclaim.DeviceID, edgeclaim.KeyHash, time.Duration) {}
	}
	if cfg.Decided == nil {
		cfg.Decided = func(edgeclaim.ClaimRef) {}
	}
	if cfg.Seal == nil {
		cfg.Seal = func(edgeclaim.DeviceID, edgeclaim.Secret) (*Sealed, error) { return nil, nil }
	}
	cfg.X509Validity = cmp.Or(cfg.X509Validity, DefaultX509Validity)
	cfg.UnconfirmedAfter = cmp.Or(cfg.UnconfirmedAfter, DefaultUnconfirmedAfter)
	cfg.DeviceOverlap = cmp.Or(cfg.DeviceOverlap, DefaultDeviceOverlap)
	if parts.Auditor == nil {
		parts.Auditor = nobody{}
	}
	if parts.Throttle == nil {
		parts.Throttle = nobody{}
	}
	if parts.Documents == nil {
		parts.Documents = nobody{}
	}
	return &Service{
		cfg: cfg, store: parts.Store, clock: parts.Clock, parts: parts, logger: logger,
		csrTurns:     make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		pace:         pace{claims: map[edgeclaim.KeyID][]time.Time{}},
		rotations:    newRation[edgeclaim.DeviceID](deviceRotations, rotationSpan, rotationDevices),
		refused:      tally{counts: map[refusalKey]uint64{}},
		alarms:       alarms{all: map[edgeclaim.Alarm]edgeclaim.AlarmCount{}, untold: map[alarmKey]uint64{}},
		alarmLog:     newRation[alarmKey](1, tellEvery, overuseKeys),
		wants:        newWanted(),
		askedAgain:   newRation[edgeclaim.KeyID](1, askAgainEvery, wantedKeys),
		overused:     overuse{keys: map[edgeclaim.KeyID]usage{}, raised: newRation[edgeclaim.KeyID](1, overuseAlarmEvery, overuseKeys)},
		suspicions:   make(chan edgeclaim.Suspicion, suspicions),
		suspected:    newRation[edgeclaim.DeviceID](1, suspectEvery, suspectDevices),
		suspectedAll: newRation[struct{}](suspectRecords, suspectEvery, 1),
	}
}

// nobody stands for the parts that are not there.
type nobody struct{}

func (nobody) Add(audit.Entry)                         {}
func (nobody) Must(context.Context, audit.Entry) error { return nil }
func (nobody) Wait(netip.Addr) time.Duration           { return 0 }
func (nobody) Fail(netip.Addr)                         {}
func (nobody) Denies(edgeclaim.TenantID) bool          { return false }
