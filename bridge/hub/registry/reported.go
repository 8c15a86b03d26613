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

// BoxDocument is how a box stands to a document, as it said last, beside what is
// published for it.
type BoxDocument struct {
	Box  string `json:"box_id"`
	Site string `json:"site"`
	edgeclaim.DocumentID
	Version   uint64  `json:"version"` // 0: none was taken
	Hash      string  `json:"sha256,omitempty"`
	Confirmed bool    `json:"confirmed"`
	Stale     bool    `json:"stale"`
	Age       float64 `json:"age_seconds"` // when it said so
	Refused   string  `json:"refused,omitempty"`
	// RefusedVersion is the refused offer's.
	RefusedVersion uint64    `json:"refused_version,omitempty"`
	ReportedAt     time.Time `json:"reported_at,omitzero"` // zero: the box said nothing of it
	// Newest is the version that it is to have, 0 where nothing is published for
	// it. Behind: it has a lower one, or another content.
	Newest uint64 `json:"newest"`
	Behind bool   `json:"behind"`
}

// ReportDocuments stores what a box says of its documents. A page that comes
// twice changes nothing. When all pages of a list came, what is in none of them
// the box does not have. A box that never said hello is passed over.
func (db *DB) ReportDocuments(ctx context.Context, r *wire.DocumentsReport) error {
	return db.change(ctx, func(w *writer) error {
		b, err := w.box(ctx, r.Box)
		if err != nil || b == nil {
			return err
		}
		return w.report(ctx, b.number, r, micros(db.now()))
	})
}

const reportColumns = 12

// report is ReportDocuments within a change.
func (w *writer) report(ctx context.Context, box int64, r *wire.DocumentsReport, now int64) error {
	rows := make([]any, 0, len(r.Documents)*reportColumns)
	for i := range r.Documents {
		d := &r.Documents[i]
		rows = append(rows, box, d.String(), int64(min(d.Version, maxSequence)), short(d.Hash), flag(d.Confirmed), flag(d.Stale),
			int64(min(d.Age, math.MaxInt32)), short(d.Refused), int64(min(d.RefusedVersion, maxSequence)), short(r.List),
			int64(min(r.Page, maxSequence)), now)
	}
	for i := range r.Documents {
		// Each by itself: PostgreSQL takes no row twice in one statement, and a
		// report may name one so.
		if err := w.insert(ctx, insertReport(), rows[i*reportColumns:(i+1)*reportColumns]); err != nil {
			return err
		}
	}
	if !r.Last {
		return nil
	}
	pages := int64(0)
	_, err := w.one(ctx, `SELECT COUNT(DISTINCT page) FROM box_documents WHERE box = ? AND list = ?`, []any{box, short(r.List)}, &pages)
	if err != nil || uint64(pages) != r.Page && (r.Page != 1 || len(r.Documents) > 0) {
		return err
	}
	return w.run(ctx, `DELETE FROM box_documents WHERE box = ? AND list <> ?`, box, short(r.List))
}

func insertReport() bulk {
	return bulk{
		head: `INTO box_documents (box, id, version, hash, confirmed, stale, age, refused, refused_version, list, page, reported_at) VALUES `,
		tail: ` ON CONFLICT (box, id) DO UPDATE SET version = excluded.version, hash = excluded.hash, confirmed = excluded.confirmed,
			stale = excluded.stale, age = excluded.age, refused = excluded.refused, refused_version = excluded.refused_version,
			list = excluded.list, page = excluded.page, reported_at = excluded.reported_at`,
		columns: reportColumns,
	}
}

// BoxDocuments tells how a box stands to its documents, in the order in which
// they are applied: those that it spoke of, and those that are published for it.
// ErrNotFound: no such box.
func (db *DB) BoxDocuments(ctx context.Context, box string) ([]BoxDocument, error) {
	boxes, err := db.Boxes(ctx, BoxFilter{Box: box, Limit: 1})
	if err == nil && len(boxes) == 0 {
		err = fmt.Errorf("box %s: %w", box, edgeclaim.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	c, err := db.Catalogue(ctx)
	if err != nil {
		return nil, err
	}
	return db.boxDocuments(ctx, c, wire.Names{Site: boxes[0].Site, Box: box})
}

// EachBoxDocument is BoxDocuments for all boxes, by their ids, one box after the
// other; tell's error ends it.
func (db *DB) EachBoxDocument(ctx context.Context, tell func(BoxDocument) error) error {
	c, err := db.Catalogue(ctx)
	if err != nil {
		return err
	}
	for f := (BoxFilter{}); ; {
		boxes, err := db.Boxes(ctx, f)
		if err != nil || len(boxes) == 0 {
			return err
		}
		for i := range boxes {
			rows, err := db.boxDocuments(ctx, c, wire.Names{Site: boxes[i].Site, Box: boxes[i].Box})
			if err != nil {
				return err
			}
			for _, row := range rows {
				if err := tell(row); err != nil {
					return err
				}
			}
		}
		f.After = boxes[len(boxes)-1].Box
	}
}

func (db *DB) boxDocuments(ctx context.Context, c *Catalogue, n wire.Names) ([]BoxDocument, error) {
	said := map[edgeclaim.DocumentID]BoxDocument{}
	rows, err := db.query(ctx, `SELECT id, version, hash, confirmed, stale, age, refused, refused_version, reported_at FROM box_documents
		WHERE box = (SELECT number FROM boxes WHERE box = ?)`, n.Box)
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		d := BoxDocument{Box: n.Box, Site: n.Site}
		var id string
		var reported int64
		err := rows.Scan(&id, &d.Version, &d.Hash, &d.Confirmed, &d.Stale, &d.Age, &d.Refused, &d.RefusedVersion, &reported)
		if err != nil {
			return err
		}
		d.ReportedAt = fromMicros(reported)
		d.DocumentID, err = edgeclaim.ParseDocumentID(id)
		said[d.DocumentID] = d
		return err
	})
	if err != nil {
		return nil, err
	}
	// In the order in which they are applied, and then what else the box has.
	order := map[edgeclaim.DocumentID]edgeclaim.DocumentOffer{}
	for id, d := range said {
		order[id] = edgeclaim.DocumentOffer{DocumentID: id, Version: d.Version}
	}
	for _, o := range c.For(n, HeldSigner{Version: maxSequence}) {
		d, known := said[o.DocumentID]
		if !known {
			d = BoxDocument{Box: n.Box, Site: n.Site, DocumentID: o.DocumentID}
		}
		d.Newest = o.Version
		d.Behind = d.Version < o.Version || d.Version == o.Version && d.Hash != o.Hash
		said[o.DocumentID], order[o.DocumentID] = d, o
	}
	list := make([]BoxDocument, 0, len(said))
	for _, o := range sortedOffers(order) {
		list = append(list, said[o.DocumentID])
	}
	return list, nil
}

// report stores a page of a box's report.
func (a *applier) report(ctx context.Context, m *wire.DocumentsReport) (Result, error) {
	b, refused, err := a.admit(ctx, m.Box, m.Epoch)
	if refused != nil || err != nil {
		return Result{Refused: refused}, err
	}
	return Result{}, a.writer.report(ctx, b.number, m, a.now)
}
