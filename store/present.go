package store

import (
	"strings"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// MaxGeneration bounds how many lives a hardware may have: each but the first
// takes a swap, and an operator who lets the board back in.
const MaxGeneration = 1000

// sight is how one transaction sees what a claim is decided on.
type sight struct {
	tx       *bolt.Tx
	catalog  *catalog
	aliases  bool // there may be some
	denied   bool // the same
	revoked  bool // the same
	listed   bool // the same, of the box's own manifests
	expected bool // the same, of those from upstream
	// find reads a device and says at which row it is; nil when there is none.
	find func(edgeclaim.DeviceID) (*edgeclaim.Device, uint64, error)
}

// sight is as the callers before this one in the group left it.
func (b *batch) sight() *sight {
	if b.aliases == nil {
		first, _ := b.tx.Bucket(bucketAliases).Cursor().First()
		some := first != nil
		b.aliases = &some
	}
	if b.seen == nil {
		b.seen = &sight{tx: b.tx, find: b.device}
	}
	b.seen.catalog, b.seen.aliases, b.seen.denied = b.catalog, *b.aliases, b.state.Denied > 0
	b.seen.revoked, b.seen.listed, b.seen.expected = b.state.Revoked > 0, b.state.Listed > 0, b.state.Expected > 0
	return b.seen
}

// identity is who a hardware is, or would be with its next claim.
type identity struct {
	id         edgeclaim.DeviceID
	generation int
	known      *edgeclaim.Device // nil when there is no such device
	row        uint64            // of known
	// taken: that device is another board's by now, or kept for another board,
	// and this one is to get neither its credential nor its place.
	taken bool
}

// identity follows an alias, or derives the id (P4), and makes sure that what it
// finds is this hardware's: a board that was swapped out still has the id that
// the new one goes by, and a board may be named like a later generation of
// another.
func (s *sight) identity(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (who identity, err error) {
	var given bool
	if who.id, given, err = s.resolve(tenant, hardware); err != nil {
		return who, err
	}
	if who.known, who.row, err = s.find(who.id); err != nil {
		return who, err
	}
	if who.known != nil {
		who.generation = who.known.Generation
		who.taken = who.known.Hardware != hardware || who.known.Tenant != tenant
		return who, nil
	}
	who.generation = 1
	if !s.aliases || given {
		return who, nil
	}
	if who.generation, err = generationOf(tenant, hardware, who.id); err != nil {
		return who, err
	}
	who.taken, err = s.kept(tenant, hardware, who.id)
	return who, err
}

// resolve returns the id that a hardware has, or will have: an alias's, else
// the derived one (P4). given: upstream gave it, and it need not be derived.
func (s *sight) resolve(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (id edgeclaim.DeviceID, given bool, err error) {
	if s.aliases {
		if a, ok, err := alias(s.tx, tenant, hardware); err != nil || ok {
			return a.id, a.given, err
		}
	}
	return edgeclaim.NewDeviceID(tenant, hardware, 1), false, nil
}

// kept reports whether the id of hardware "H#2" is the second generation of "H",
// which an operator let back in and which has not claimed yet.
func (s *sight) kept(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID, id edgeclaim.DeviceID) (bool, error) {
	at := strings.LastIndexByte(hardware.String(), '#')
	if at <= 0 {
		return false, nil
	}
	base, err := edgeclaim.ParseHardwareID(hardware.String()[:at])
	if err != nil {
		return false, err
	}
	next, ok, err := alias(s.tx, tenant, base)
	return ok && next.id == id, err
}

// generationOf is which life of a hardware an id without a device is.
func generationOf(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID, id edgeclaim.DeviceID) (int, error) {
	for g := 1; g <= MaxGeneration; g++ {
		if edgeclaim.NewDeviceID(tenant, hardware, g) == id {
			return g, nil
		}
	}
	return 0, damaged("alias", nil)
}

func aliasKey(tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) []byte {
	return []byte(tenant.String() + "/" + hardware.String())
}

// present gathers what a claim is decided on: the grant alone where ref has no
// hardware. The tenant is the template's in any case; another one is ErrInvalid.
func (s *sight) present(grant edgeclaim.Grant, ref edgeclaim.ClaimRef) (p edgeclaim.Present, row uint64, err error) {
	p.Grant = grant
	if ref.Hardware.IsZero() {
		return p, 0, nil
	}
	tenant, hardware := grant.Template.Tenant, ref.Hardware
	if !ref.Tenant.IsZero() && ref.Tenant != tenant {
		return p, 0, edgeclaim.Invalid("tenant_id", "not the template's")
	}
	if s.denied {
		if p.Denied, err = denial(s.tx, tenant, hardware); err != nil {
			return p, 0, err
		}
	}
	who, err := s.identity(tenant, hardware)
	if err != nil {
		return p, 0, err
	}
	switch {
	case !who.taken:
		p.Known, p.Next, p.Generation, row = who.known, who.id, who.generation, who.row
	case p.Denied == nil: // as a swap leaves it, where its denial was lost with the file
		p.Denied = &edgeclaim.Denial{Tenant: tenant, Hardware: hardware, Reason: edgeclaim.DeniedSwapped, Device: who.id}
	}
	if err := s.revocation(&p, tenant, hardware, who.id); err != nil {
		return p, 0, err
	}
	// A row says a device's name, groups and tags, whether or not the template
	// insists on one.
	if p.Listed, err = s.row(&grant.Template, hardware); err != nil {
		return p, 0, err
	}
	if grant.Template.Approval == edgeclaim.ApprovalManual {
		p.Approved, err = approved(s.tx, &p, hardware)
	}
	return p, row, err
}

// revocation adds what a document has against the hardware. What an operator has
// against it goes before: he is to see his own word.
func (s *sight) revocation(p *edgeclaim.Present, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID, id edgeclaim.DeviceID) error {
	if !s.revoked || p.Denied != nil && p.Denied.Reason == edgeclaim.DeniedByOperator {
		return nil
	}
	denied, err := denialUpstream(s.tx, tenant, hardware, id)
	if denied != nil && err == nil {
		p.Denied = denied
	}
	return err
}
