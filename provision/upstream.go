package provision

import (
	"context"
	"time"

	"edgeclaim"
)

// Documents keeps what upstream rules over who may claim and who is who. Each
// method is one transaction that keeps the document too, as held says and in its
// signed text; nil means that all of it is fsynced, an error that none of it is
// there. A *edgeclaim.DocumentError refuses: the version is not above the one
// that is kept, or its content contradicts what is. Callbacks may be called more
// than once and never call the store; their errors are returned as they are.
type Documents interface {
	// ApplySigner keeps the next key's document, and does no more.
	ApplySigner(ctx context.Context, held edgeclaim.HeldDocument, text []byte) error
	// ApplyRevocations refuses where something is no longer revoked and not
	// reinstated by name. change is given each device, as it is, that is named and
	// is not revoked, and each that is revoked and reinstated: it sets the status
	// and makes the record. What is unknown is kept for the day on which it comes.
	ApplyRevocations(ctx context.Context, held edgeclaim.HeldDocument, text []byte, r *edgeclaim.Revocations,
		change func(*edgeclaim.Device) (*edgeclaim.Record, error)) (edgeclaim.Revoked, error)
	// ApplyTemplates puts the tenant's templates and keys, and disables those of
	// upstream's that are not named. leased: what bounds a key is shared out, and
	// its share is kept. A key's claims, and that it was used up or revoked, stay.
	ApplyTemplates(ctx context.Context, held edgeclaim.HeldDocument, text []byte, t *edgeclaim.Templates,
		leased bool, now time.Time) (edgeclaim.TemplatesApplied, error)
	// ApplyAliases gives hardware the ids that the document says. change is given
	// the device of an alias's id, as it is, that has other hardware, and is to
	// give it the alias's as Swap does; or the active device of an alias's hardware
	// that goes by another id, which stays as it is (P9). What stands already calls
	// nothing.
	ApplyAliases(ctx context.Context, held edgeclaim.HeldDocument, text []byte, a *edgeclaim.Aliases,
		change func(*edgeclaim.Device, edgeclaim.Alias) (*edgeclaim.Record, error)) (edgeclaim.AliasesApplied, error)
}

// Inheritance keeps what devices inherit, and the lists of expected hardware
// from upstream. Its Apply methods are as those of Documents.
type Inheritance interface {
	ApplyProfiles(ctx context.Context, held edgeclaim.HeldDocument, text []byte, p *edgeclaim.Profiles) error
	// ApplyAllowList replaces the rows that the version before brought, and no
	// others.
	ApplyAllowList(ctx context.Context, held edgeclaim.HeldDocument, text []byte, a *edgeclaim.AllowList) error
	// Inherited reads memory only.
	Inherited(tenant edgeclaim.TenantID, profile string) edgeclaim.Inherited
}

// Shares keeps what upstream shares out between boxes, and what it says of
// devices that several have. A nil error of a change means fsynced.
type Shares interface {
	// GrantShares raises the shares of those keys that there are, and returns
	// which of them changed.
	GrantShares(ctx context.Context, grants []edgeclaim.ShareGrant) (changed []edgeclaim.KeyID, err error)
	// Shares returns up to max shares that follow after, in order of their keys'
	// ids: those of leased templates' keys.
	Shares(ctx context.Context, after edgeclaim.KeyID, max int) ([]edgeclaim.Share, error)
	// DevicesByKey returns up to max devices that follow after and that the key
	// made: their present credential, or the one that they had when they were
	// revoked.
	DevicesByKey(ctx context.Context, key edgeclaim.KeyID, after edgeclaim.DeviceID, max int) ([]edgeclaim.Device, error)
	// AdoptVerdict gives a device the verdict's credential in the place of the one
	// that is void by it, and reports whether it did; a device with another one is
	// left alone. change is given the device with the credential that stays.
	AdoptVerdict(ctx context.Context, v edgeclaim.Verdict,
		change func(*edgeclaim.Device) (*edgeclaim.Record, error)) (edgeclaim.Device, bool, error)
}

// Upstream is all that the platform rules by documents and words.
type Upstream interface {
	Documents
	Inheritance
	Shares
}

// Freshness knows how old the word from upstream is.
type Freshness interface {
	// Denies reports whether a tenant's documents have gone without confirmation
	// for so long that its new hardware is refused. It is asked for each claim, also
	// within transactions: it is quick and calls nobody.
	Denies(tenant edgeclaim.TenantID) bool
}
