package registry

import (
	"cmp"
	"context"
	"database/sql"
	"slices"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// Catalogue is what is in force at one moment, without texts: what a hub answers
// its boxes from. It is not changed once it was read.
type Catalogue struct {
	Generation int64
	// byScope has the documents by whom they are for, in the order of their
	// numbers. A box looks at four scopes and at no other box's.
	byScope map[wire.Names][]Published
}

// Catalogue reads what is in force: MaxPublished documents at most.
func (db *DB) Catalogue(ctx context.Context) (*Catalogue, error) {
	// Read before the rows: were something published between, it is read again.
	before, err := db.Generations(ctx)
	if err != nil {
		return nil, err
	}
	c := &Catalogue{Generation: before.Documents, byScope: map[wire.Names][]Published{}}
	rows, err := db.query(ctx, `SELECT `+publishedColumns+` FROM documents d WHERE in_force = 1 ORDER BY number`)
	return c, eachRow(rows, err, func(rows *sql.Rows) error {
		p, err := scanPublished(rows)
		scope := wire.Names{Site: p.Site, Box: p.Box}
		c.byScope[scope] = append(c.byScope[scope], p)
		return err
	})
}

// HeldSigner is what has to be known of a box before it is offered documents.
type HeldSigner struct {
	// Version is that of the signer document that the box has; 0 for none.
	Version uint64
	// Refused is the highest one that it has refused; 0 for none.
	Refused uint64
}

// For lists what is offered to a box, in the order in which it is applied: of
// each document the highest version of those that are for it. While there is a
// signer above the box's, the lowest such one is all that is offered: what the
// later ones have signed is nothing to the box yet, and it would refuse it. Those
// up to one that the box has refused are passed by.
func (c *Catalogue) For(n wire.Names, held HeldSigner) []edgeclaim.DocumentOffer {
	newest := map[edgeclaim.DocumentID]edgeclaim.DocumentOffer{}
	for _, scope := range []wire.Names{{}, {Site: n.Site}, {Box: n.Box}, n} {
		for i := range c.byScope[scope] {
			p := &c.byScope[scope][i]
			if p.Type == edgeclaim.DocumentSigner && p.Version > max(held.Version, held.Refused) {
				return []edgeclaim.DocumentOffer{p.DocumentOffer}
			}
			if p.Version > newest[p.DocumentID].Version {
				newest[p.DocumentID] = p.DocumentOffer
			}
		}
	}
	return sortedOffers(newest)
}

func sortedOffers(newest map[edgeclaim.DocumentID]edgeclaim.DocumentOffer) []edgeclaim.DocumentOffer {
	offers := make([]edgeclaim.DocumentOffer, 0, len(newest))
	for _, o := range newest {
		offers = append(offers, o)
	}
	slices.SortFunc(offers, compareOffers)
	return offers
}

// compareOffers orders documents as they are applied.
func compareOffers(x, y edgeclaim.DocumentOffer) int {
	types := edgeclaim.DocumentTypes()
	return cmp.Or(cmp.Compare(slices.Index(types, x.Type), slices.Index(types, y.Type)),
		slices.Compare(x.Tenant.Bytes(), y.Tenant.Bytes()), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Version, y.Version))
}

// DocumentsFor lists all that a box needs that has nothing: every signer, from
// the lowest version on, and of each other document the highest version of those
// that are for it, in the order in which they are applied.
func (db *DB) DocumentsFor(ctx context.Context, n wire.Names) ([]edgeclaim.DocumentOffer, error) {
	c, err := db.Catalogue(ctx)
	if err != nil {
		return nil, err
	}
	var signers []edgeclaim.DocumentOffer
	for i := range c.byScope[wire.Names{}] {
		if p := &c.byScope[wire.Names{}][i]; p.Type == edgeclaim.DocumentSigner {
			signers = append(signers, p.DocumentOffer)
		}
	}
	slices.SortFunc(signers, compareOffers)
	rest := c.For(n, HeldSigner{Version: maxSequence})
	rest = slices.DeleteFunc(rest, func(o edgeclaim.DocumentOffer) bool { return o.Type == edgeclaim.DocumentSigner })
	return append(signers, rest...), nil
}
