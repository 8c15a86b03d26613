package registry

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// A share is what one box may make with a key that others have too. It is said
// from the beginning: what a box was granted never falls by itself, so that an
// answer may be lost, repeated or late. What is granted over all boxes never
// exceeds the key's bound, in the newest templates document of those that are for
// the box; it is counted in the transaction of the grant.

// BoxShare is a box's share of a key.
type BoxShare struct {
	Key      edgeclaim.KeyID      `json:"key_id"`
	Template edgeclaim.TemplateID `json:"template_id,omitzero"` // of a key in a document
	Tenant   edgeclaim.TenantID   `json:"tenant_id,omitzero"`   // likewise
	Box      string               `json:"box_id"`
	Site     string               `json:"site"`
	// Bound is the key's over all boxes, 0 for none that is shared out.
	Bound   uint32 `json:"bound"`
	Granted uint32 `json:"granted"`
	// Claims is how many devices the box is known to have made with it.
	Claims  uint32    `json:"claims"`
	AskedAt time.Time `json:"asked_at,omitzero"` // the last time; zero: never

	number int64 // the box's
}

// ShareFilter chooses shares; the zero value takes all.
type ShareFilter struct {
	Key edgeclaim.KeyID
	Box string
	// AfterKey and AfterBox are the last row's.
	AfterKey edgeclaim.KeyID
	AfterBox string
	Limit    int // 1 to MaxPage; other values are MaxPage
}

// Shares pages through what boxes may make and have made, by key and box. A key
// that no document speaks of has no bound here; what was made with it is counted
// all the same.
func (db *DB) Shares(ctx context.Context, f ShareFilter) ([]BoxShare, error) {
	text, args := ``, []any{f.AfterKey.String(), f.AfterKey.String(), f.AfterBox}
	if !f.Key.IsZero() {
		text, args = text+` AND s.key_id = ?`, append(args, f.Key.String())
	}
	if f.Box != "" {
		text, args = text+` AND b.box = ?`, append(args, f.Box)
	}
	rows, err := db.query(ctx, `SELECT s.key_id, b.number, b.box, b.site, s.granted, s.claims, s.asked_at
		FROM shares s JOIN boxes b ON b.number = s.box WHERE (s.key_id > ? OR s.key_id = ? AND b.box > ?)`+text+`
		ORDER BY s.key_id, b.box LIMIT ?`, append(args, pageLimit(f.Limit))...)
	var found []BoxShare
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var s BoxShare
		var key string
		var asked int64
		err := rows.Scan(&key, &s.number, &s.Box, &s.Site, &s.Granted, &s.Claims, &asked)
		if err != nil {
			return err
		}
		s.AskedAt = fromMicros(asked)
		s.Key, err = edgeclaim.ParseKeyID(key)
		found = append(found, s)
		return err
	})
	for i := range found {
		if err != nil {
			return nil, err
		}
		var l lease
		s := &found[i]
		rows, asked := db.query(ctx, leaseQuery, leaseArgs(s.Key, wire.Names{Site: s.Site, Box: s.Box})...)
		if l, err = readLease(rows, asked); err == nil {
			s.Bound, s.Template, s.Tenant = l.bound, l.template, l.tenant
		}
	}
	return found, err
}

// lease is what is shared out of a key, as a box has to see it.
type lease struct {
	bound    uint32 // 0: nothing
	template edgeclaim.TemplateID
	tenant   edgeclaim.TenantID
	site     string // whose boxes have it; empty: all
}

// leaseQuery finds a key in the newest templates document of those that are for
// a box. In one for that box alone nothing is shared out.
const leaseQuery = `SELECT k.bound, k.template, d.tenant, d.site FROM document_keys k JOIN documents d ON d.number = k.document
	WHERE k.key_id = ? AND d.in_force = 1 AND d.box = '' AND d.site IN ('', ?) AND d.version = (SELECT MAX(v.version) FROM documents v
		WHERE v.id = d.id AND v.in_force = 1 AND v.box IN ('', ?) AND v.site IN ('', ?)) ORDER BY d.number DESC LIMIT 1`

func leaseArgs(key edgeclaim.KeyID, n wire.Names) []any {
	return []any{key.String(), n.Site, n.Box, n.Site}
}

// readLease reads a leaseQuery's answer.
func readLease(rows *sql.Rows, err error) (l lease, _ error) {
	return l, eachRow(rows, err, func(rows *sql.Rows) (err error) {
		var template, tenant string
		if err := rows.Scan(&l.bound, &template, &tenant, &l.site); err != nil {
			return err
		}
		if l.template, err = edgeclaim.ParseTemplateID(template); err != nil {
			return err
		}
		l.tenant, err = edgeclaim.ParseTenantID(tenant)
		return err
	})
}

// GrantShares answers a box that wants to make more: one transaction counts what
// all boxes have and grants this one its part. nil means that it is durable. Keys
// that nobody shares out to the box are passed over. What is granted follows from
// what the box says it has: one that says less than it was granted has not heard,
// and is told again, and no more (P8). ErrNotFound: the box never said hello.
func (db *DB) GrantShares(ctx context.Context, box string, wants []wire.ShareWant) (grants []edgeclaim.ShareGrant, err error) {
	err = db.change(ctx, func(w *writer) error {
		b, err := w.box(ctx, box)
		if err == nil && b == nil {
			err = fmt.Errorf("box %s: %w", box, edgeclaim.ErrNotFound)
		}
		if err != nil {
			return err
		}
		grants, err = w.grant(ctx, b, wants, micros(db.now()))
		return err
	})
	if err != nil {
		return nil, err
	}
	return grants, nil
}

// grant is GrantShares within a change.
func (w *writer) grant(ctx context.Context, b *box, wants []wire.ShareWant, now int64) ([]edgeclaim.ShareGrant, error) {
	grants := make([]edgeclaim.ShareGrant, 0, len(wants))
	for i := range wants {
		want := &wants[i]
		l, err := w.lease(ctx, want.Key, wire.Names{Site: b.site, Box: b.name})
		if err != nil {
			return nil, err
		}
		if l.bound == 0 {
			continue
		}
		g, err := w.grantOne(ctx, b, want, &l, now)
		if err != nil {
			return nil, err
		}
		grants = append(grants, g)
	}
	return grants, nil
}

func (w *writer) lease(ctx context.Context, key edgeclaim.KeyID, n wire.Names) (lease, error) {
	prepared, err := w.prepare(ctx, leaseQuery)
	if err != nil {
		return lease{}, err
	}
	rows, err := prepared.QueryContext(ctx, leaseArgs(key, n)...)
	return readLease(rows, err)
}

// grantOne grants a box its part of one key.
func (w *writer) grantOne(ctx context.Context, b *box, want *wire.ShareWant, l *lease, now int64) (edgeclaim.ShareGrant, error) {
	var granted, claims, all, boxes int64
	key := want.Key.String()
	if _, err := w.one(ctx, `SELECT granted, claims FROM shares WHERE key_id = ? AND box = ?`, []any{key, b.number}, &granted, &claims); err != nil {
		return edgeclaim.ShareGrant{}, err
	}
	if _, err := w.one(ctx, `SELECT CAST(COALESCE(SUM(granted), 0) AS BIGINT) FROM shares WHERE key_id = ?`, []any{key}, &all); err != nil {
		return edgeclaim.ShareGrant{}, err
	}
	if _, err := w.one(ctx, `SELECT COUNT(*) FROM boxes WHERE CAST(? AS TEXT) = '' OR site = ?`, []any{l.site, l.site}, &boxes); err != nil {
		return edgeclaim.ShareGrant{}, err
	}
	told := int64(want.Granted)
	heard := told >= granted
	if told > granted {
		// It was granted that by a database before this one, or has come back
		// after its share was released: it will use it, so it counts.
		all += told - granted
		granted = told
	}
	left := max(0, int64(l.bound)-all)
	if heard && left > 0 {
		more := min(int64(want.Want), max(1, left/(2*max(1, boxes))), math.MaxUint32-granted)
		granted, left = granted+more, left-more
	}
	claims = max(claims, int64(want.Claims))
	err := w.run(ctx, `INSERT INTO shares (key_id, box, granted, claims, asked_at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (key_id, box) DO UPDATE SET granted = excluded.granted, claims = excluded.claims, asked_at = excluded.asked_at`,
		key, b.number, granted, claims, now)
	return grantOf(want.Key, granted, claims, left), err
}

func grantOf(key edgeclaim.KeyID, granted, claims, left int64) edgeclaim.ShareGrant {
	return edgeclaim.ShareGrant{
		Key: key, Granted: uint32(min(granted, math.MaxUint32)), Claims: uint32(min(claims, math.MaxUint32)), Exhausted: left <= 0,
	}
}

// SharesFor is what a box was granted, of the keys that are shared out to it, as
// it stands: for a file, and for boxes that were told that there is no more.
// Nothing is granted by it. It looks at limit keys behind after, 1 to MaxPage; more
// is the last of them when there may be others, else zero.
func (db *DB) SharesFor(ctx context.Context, n wire.Names, after edgeclaim.KeyID, limit int) (grants []edgeclaim.ShareGrant, more edgeclaim.KeyID, err error) {
	rows, err := db.query(ctx, `SELECT s.key_id, s.granted, s.claims, (SELECT CAST(SUM(o.granted) AS BIGINT) FROM shares o WHERE o.key_id = s.key_id)
		FROM shares s WHERE s.box = (SELECT number FROM boxes WHERE box = ?) AND s.key_id > ? AND (s.granted > 0 OR s.asked_at > 0)
		ORDER BY s.key_id LIMIT ?`, n.Box, after.String(), pageLimit(limit))
	type row struct {
		key                  edgeclaim.KeyID
		granted, claims, all int64
	}
	var shares []row
	err = eachRow(rows, err, func(rows *sql.Rows) (err error) {
		var r row
		var key string
		if err = rows.Scan(&key, &r.granted, &r.claims, &r.all); err != nil {
			return err
		}
		r.key, err = edgeclaim.ParseKeyID(key)
		shares = append(shares, r)
		return err
	})
	if err != nil {
		return nil, more, err
	}
	for _, s := range shares {
		rows, asked := db.query(ctx, leaseQuery, leaseArgs(s.key, n)...)
		l, err := readLease(rows, asked)
		if err != nil {
			return nil, more, err
		}
		if l.bound > 0 {
			grants = append(grants, grantOf(s.key, s.granted, s.claims, int64(l.bound)-s.all))
		}
	}
	if len(shares) == pageLimit(limit) {
		more = shares[len(shares)-1].key
	}
	return grants, more, nil
}

// ReleaseShares gives back what a box was granted of a key and has not used, as
// far as it told: an operator's word that the box is gone, or will never use it.
// A box that comes back all the same says what it has, and that counts again, be
// it above the bound. freed is how many devices others may make instead.
// ErrNotFound: no such box, or it was granted nothing.
func (db *DB) ReleaseShares(ctx context.Context, box string, key edgeclaim.KeyID) (freed uint32, err error) {
	err = db.change(ctx, func(w *writer) error {
		var number, granted, claims int64
		found, err := w.one(ctx, `SELECT s.box, s.granted, s.claims FROM shares s JOIN boxes b ON b.number = s.box WHERE s.key_id = ? AND b.box = ?`,
			[]any{key.String(), box}, &number, &granted, &claims)
		switch {
		case err != nil:
			return err
		case !found || granted == 0:
			return fmt.Errorf("share of box %s in key %s: %w", box, key, edgeclaim.ErrNotFound)
		case granted <= claims:
			return nil
		}
		freed = uint32(granted - claims) //nolint:gosec // both are of uint32
		if err := w.run(ctx, `UPDATE shares SET granted = claims WHERE key_id = ? AND box = ?`, key.String(), number); err != nil {
			return err
		}
		return w.raise(ctx, metaShares)
	})
	return freed, err
}

// keysFit refuses a document whose keys are another's as well, in a way that
// nobody could keep count of.
func (p *publisher) keysFit(ctx context.Context, own *Published) error {
	for i := range p.doc.Templates.Keys {
		key := p.doc.Templates.Keys[i].ID
		err := p.each(ctx, `SELECT `+publishedColumns+` FROM document_keys k JOIN documents d ON d.number = k.document
			WHERE k.key_id = ? AND d.in_force = 1`, []any{key.String()}, func(rows *sql.Rows) error {
			other, err := scanPublished(rows)
			switch {
			case err != nil:
				return err
			case other.Tenant != own.Tenant:
				return fmt.Errorf("%w: the key %s is another tenant's", edgeclaim.ErrConflict, key)
			case (other.Box != "") != (own.Box != "") && !covers(own, &other), other.Box != "" && own.Box != "" && other.Box != own.Box:
				return fmt.Errorf("%w: the key %s is in a document for other boxes, version %d, and one of the two is for one box alone: "+
					"its claims would not be counted together", edgeclaim.ErrConflict, key, other.Version)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const documentKeyColumns = 4

// keys notes the keys of a document, where they are shared out by it.
func (p *publisher) keys(ctx context.Context, number int64) error {
	bounds := map[edgeclaim.TemplateID]uint32{}
	for i := range p.doc.Templates.Templates {
		t := &p.doc.Templates.Templates[i]
		bounds[t.ID] = t.Bound()
	}
	rows := make([]any, 0, len(p.doc.Templates.Keys)*documentKeyColumns)
	for i := range p.doc.Templates.Keys {
		k := &p.doc.Templates.Keys[i]
		rows = append(rows, number, k.ID.String(), k.Template.String(), int64(bounds[k.Template]))
	}
	return p.insert(ctx, bulk{head: `INTO document_keys (document, key_id, template, bound) VALUES `, columns: documentKeyColumns}, rows)
}

// claimKey is whose claims are counted, with which key.
type claimKey struct {
	key string
	box int64
}

// isClaim reports whether a box's word means a claim that was not counted yet. A
// page tells of one that no record told of; a rotation is none, and keeps the time
// of the claim.
func (h *holding) isClaim(t *told) bool {
	switch {
	case t.holding.key == "" || t.holding.hash.IsZero() || h.hash.Equal(t.holding.hash):
		return false
	case t.what == saysProvisioned:
		return true
	default:
		return t.isPage && (h.key != t.holding.key || h.claimedAt != t.holding.claimedAt)
	}
}

// flushClaims writes the claims noted so far.
func (a *applier) flushClaims(ctx context.Context) error {
	for of, n := range a.claims {
		err := a.run(ctx, `INSERT INTO shares (key_id, box, granted, claims, asked_at) VALUES (?, ?, 0, ?, 0)
			ON CONFLICT (key_id, box) DO UPDATE SET claims = shares.claims + excluded.claims`, of.key, of.box, n)
		if err != nil {
			return err
		}
	}
	clear(a.claims)
	return nil
}

// wish answers a box that asks for shares, from what is told so far: also in
// this change.
func (a *applier) wish(ctx context.Context, m *wire.SharesWant) (Result, error) {
	b, refused, err := a.admit(ctx, m.Box, m.Epoch)
	if refused != nil || err != nil {
		return Result{Refused: refused}, err
	}
	if err := a.flushClaims(ctx); err != nil {
		return Result{}, err
	}
	grants, err := a.grant(ctx, b, m.Wants, a.now)
	return Result{Shares: grants}, err
}
