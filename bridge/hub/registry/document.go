package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// MaxPublished is how many documents may be in force, for all boxes together.
// One box is offered edgeclaim.MaxDocuments at most.
const MaxPublished = 20_000

// Published is a signed document that was published, without its text.
type Published struct {
	edgeclaim.DocumentOffer
	// Box and Site are whom it is for; both empty: for all.
	Box  string `json:"box_id,omitempty"`
	Site string `json:"site,omitempty"`

	IssuedAt    time.Time `json:"issued_at"`
	PublishedAt time.Time `json:"published_at"`
	// InForce: some box may be offered it. Others are kept to be looked at.
	InForce bool `json:"in_force"`
	// Number orders them as they were published.
	Number int64 `json:"-"`
}

// Fits reports whether the document is for that box.
func (p *Published) Fits(n wire.Names) bool {
	return (p.Box == "" || p.Box == n.Box) && (p.Site == "" || p.Site == n.Site)
}

// DocumentFilter chooses documents; the zero value takes all.
type DocumentFilter struct {
	Type    edgeclaim.DocumentType
	Tenant  edgeclaim.TenantID
	ID      edgeclaim.DocumentID // zero: whichever
	InForce bool                 // only those that are
	After   int64                // a Number
	Limit   int                  // 1 to MaxPage; other values are MaxPage
}

// publishedColumns are of documents d.
const publishedColumns = `d.number, d.id, d.version, d.box, d.site, d.hash, d.key_id, d.issued_at, d.published_at, d.in_force, d.size`

// scanPublished reads publishedColumns, then more.
func scanPublished(rows *sql.Rows, more ...any) (Published, error) {
	var p Published
	var id string
	var issued, published int64
	err := rows.Scan(append([]any{
		&p.Number, &id, &p.Version, &p.Box, &p.Site, &p.Hash, &p.KeyID, &issued, &published, &p.InForce, &p.Size,
	}, more...)...)
	if err != nil {
		return p, err
	}
	p.IssuedAt, p.PublishedAt = fromMicros(issued), fromMicros(published)
	p.DocumentID, err = edgeclaim.ParseDocumentID(id)
	return p, err
}

// Documents pages through the documents in the order they were published.
func (db *DB) Documents(ctx context.Context, f DocumentFilter) ([]Published, error) {
	text, args := ``, []any{f.After}
	add := func(condition string, arg any) { text, args = text+` AND `+condition, append(args, arg) }
	if f.Type != "" {
		add(`type = ?`, string(f.Type))
	}
	if !f.Tenant.IsZero() {
		add(`tenant = ?`, f.Tenant.String())
	}
	if f.ID != (edgeclaim.DocumentID{}) {
		add(`id = ?`, f.ID.String())
	}
	if f.InForce {
		text += ` AND in_force = 1`
	}
	rows, err := db.query(ctx, `SELECT `+publishedColumns+` FROM documents d WHERE number > ?`+text+` ORDER BY number LIMIT ?`,
		append(args, pageLimit(f.Limit))...)
	var found []Published
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		p, err := scanPublished(rows)
		found = append(found, p)
		return err
	})
	return found, err
}

// DocumentText returns the signed text of a version; 0 is the newest. At most one
// text is in memory. ErrNotFound: no such version, or it is kept no more.
func (db *DB) DocumentText(ctx context.Context, id edgeclaim.DocumentID, version uint64) (Published, []byte, error) {
	return db.documentPart(ctx, id, version, 0, wire.MaxDocumentText+1)
}

// DocumentPart returns length bytes of a text from offset on, or what there are,
// and reads no more than those.
func (db *DB) DocumentPart(ctx context.Context, id edgeclaim.DocumentID, version uint64, offset, length int) (Published, []byte, error) {
	return db.documentPart(ctx, id, version, offset, length)
}

func (db *DB) documentPart(ctx context.Context, id edgeclaim.DocumentID, version uint64, offset, length int) (p Published, text []byte, err error) {
	missing := fmt.Errorf("document %s, version %d: %w", id, version, edgeclaim.ErrNotFound)
	if version > maxSequence {
		return p, nil, missing
	}
	which, args := ``, []any{offset + 1, length, id.String()}
	if version > 0 {
		which, args = ` AND version = ?`, append(args, int64(version))
	}
	rows, err := db.query(ctx, `SELECT `+publishedColumns+`, substr(signed, CAST(? AS INTEGER), CAST(? AS INTEGER))
		FROM documents d WHERE id = ?`+which+` ORDER BY version DESC LIMIT 1`, args...)
	err = eachRow(rows, err, func(rows *sql.Rows) (err error) {
		p, err = scanPublished(rows, &text)
		return err
	})
	if err == nil && p.Version == 0 {
		err = missing
	}
	return p, text, err
}

// Generations count what boxes have to hear of. Any change of a process, this or
// another, makes the number that it concerns larger.
type Generations struct {
	Documents int64 // something was published
	Shares    int64 // there may be more to give of some key
}

// Generations reads them; it costs one small query.
func (db *DB) Generations(ctx context.Context) (Generations, error) {
	var g Generations
	rows, err := db.query(ctx, `SELECT name, value FROM meta WHERE name IN (?, ?)`, metaDocuments, metaShares)
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return err
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if name == metaDocuments {
			g.Documents = n
		} else {
			g.Shares = n
		}
		return err
	})
	return g, err
}

// raise makes a generation larger.
func (w *writer) raise(ctx context.Context, name string) error {
	return w.run(ctx, `INSERT INTO meta (name, value) VALUES (?, '1')
		ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(meta.value AS BIGINT) + 1 AS TEXT)`, name)
}
