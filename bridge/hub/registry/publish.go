package registry

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"fmt"
	"slices"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/signeddoc"
)

// PublishDocument keeps a signed document for the boxes that it is for; nil means
// that this is durable, and a running hub offers it within a second or so. What
// is published already changes nothing (P8); the same content under another key's
// signature takes the place of the one before. isNew: boxes have to take it.
//
// Versions are the document's, whomever it is for: of one id each is given out
// once. Revocations are in force here at once, for whatever box (P9).
//
// ErrInvalid: nobody could take it; a *edgeclaim.DocumentError says why.
// ErrConflict: a version that is not above the last one, revocations that shrink
// without a word, or what else contradicts what is published; the text says what.
// ErrUnavailable: MaxPublished are in force.
func (db *DB) PublishDocument(ctx context.Context, s *signeddoc.Signed) (isNew bool, err error) {
	if err := db.mayPublish(s.Document); err != nil {
		return false, err
	}
	err = db.change(ctx, func(w *writer) error {
		p := &publisher{writer: w, signed: s, doc: s.Document, now: micros(db.now())}
		isNew, err = p.publish(ctx)
		return err
	})
	return isNew && err == nil, err
}

// mayPublish refuses what no box of this hub could take.
func (db *DB) mayPublish(d *edgeclaim.Document) error {
	switch {
	case d.Version > maxSequence:
		return edgeclaim.Invalid("version", "more than any document has")
	case !d.Tenant.IsZero() && !db.serves(d.Tenant):
		return edgeclaim.Invalid("tenant_id", "not served here")
	}
	return nil
}

// publisher is one change's view of a document and those beside it.
type publisher struct {
	*writer
	signed *signeddoc.Signed
	doc    *edgeclaim.Document
	now    int64
	kept   []Published // of the same id, by version
}

func (p *publisher) publish(ctx context.Context) (bool, error) {
	err := p.each(ctx, `SELECT `+publishedColumns+` FROM documents d WHERE id = ? ORDER BY version`, []any{p.doc.String()},
		func(rows *sql.Rows) error {
			one, err := scanPublished(rows)
			p.kept = append(p.kept, one)
			return err
		})
	if err != nil {
		return false, err
	}
	if i := slices.IndexFunc(p.kept, func(k Published) bool { return k.Version == p.doc.Version }); i >= 0 {
		return false, p.again(ctx, &p.kept[i])
	}
	if n := len(p.kept); n > 0 && p.kept[n-1].Version > p.doc.Version {
		return false, fmt.Errorf("%w: %s: version %d is published, this is %d", edgeclaim.ErrConflict, p.doc.DocumentID, p.kept[n-1].Version, p.doc.Version)
	}
	if err := p.verify(ctx); err != nil {
		return false, err
	}
	if err := p.fits(ctx); err != nil {
		return false, err
	}
	return true, p.store(ctx)
}

// again takes a version that is there: the same content may be signed anew, by a
// next key.
func (p *publisher) again(ctx context.Context, old *Published) error {
	switch {
	case old.Hash != p.signed.Hash:
		return fmt.Errorf("%w: %s: another version %d is published", edgeclaim.ErrConflict, p.doc.DocumentID, old.Version)
	case old.KeyID == p.signed.KeyID:
		return nil
	case old.Type == edgeclaim.DocumentSigner:
		// It was signed by the key before, and no other one's word counts.
		return fmt.Errorf("%w: %s: version %d is published, signed by %s", edgeclaim.ErrConflict, p.doc.DocumentID, old.Version, old.KeyID)
	}
	if err := p.verify(ctx); err != nil {
		return err
	}
	err := p.run(ctx, `UPDATE documents SET key_id = ?, signed = ?, size = ?, published_at = ? WHERE number = ?`,
		p.signed.KeyID, p.signed.Text, len(p.signed.Text), p.now, old.Number)
	if err != nil {
		return err
	}
	return p.raise(ctx, metaDocuments)
}

// verify checks the signature, where the database knows whose it has to be: the
// newest signer's, or the key that boxes are enrolled with.
func (p *publisher) verify(ctx context.Context) error {
	key, err := p.signer(ctx)
	if err != nil || key == nil {
		return err
	}
	_, err = signeddoc.Open(p.signed.Text, key)
	return err
}

// signer is the key that signs now; nil where nobody said which.
func (w *writer) signer(ctx context.Context) (ed25519.PublicKey, error) {
	var root string
	found, err := w.one(ctx, `SELECT value FROM meta WHERE name = ?`, []any{metaDocument}, &root)
	if err != nil || !found {
		return nil, err
	}
	var text []byte
	found, err = w.one(ctx, `SELECT signed FROM documents WHERE type = ? AND in_force = 1 ORDER BY version DESC LIMIT 1`,
		[]any{string(edgeclaim.DocumentSigner)}, &text)
	if err != nil || !found {
		key, bad := signeddoc.ParsePublic(root)
		if err == nil {
			err = bad
		}
		return key, err
	}
	newest, err := signeddoc.Peek(text)
	if err != nil {
		return nil, err
	}
	return signeddoc.ParsePublic(newest.Document.Signer.Key)
}

// covers reports whether whoever one is for, the other is for as well.
func covers(wide, narrow *Published) bool {
	return (wide.Box == "" || wide.Box == narrow.Box) && (wide.Site == "" || wide.Site == narrow.Site)
}

// overlaps reports whether there may be a box that both are for.
func overlaps(one, other *Published) bool {
	return (one.Box == "" || other.Box == "" || one.Box == other.Box) && (one.Site == "" || other.Site == "" || one.Site == other.Site)
}

// published is the document as a row.
func (p *publisher) published() Published {
	d := p.doc
	return Published{
		DocumentOffer: edgeclaim.DocumentOffer{DocumentID: d.DocumentID, Version: d.Version, Hash: p.signed.Hash, Size: len(p.signed.Text), KeyID: p.signed.KeyID},
		Box:           d.Box, Site: d.Site, InForce: true,
	}
}

// fits refuses what contradicts what is published.
func (p *publisher) fits(ctx context.Context) error {
	own := p.published()
	all, beside := 0, 0
	err := p.each(ctx, `SELECT `+publishedColumns+` FROM documents d WHERE in_force = 1 AND id <> ?`, []any{own.String()},
		func(rows *sql.Rows) error {
			other, err := scanPublished(rows)
			all++
			if overlaps(&other, &own) {
				beside++
			}
			return err
		})
	switch {
	case err != nil:
		return err
	case all >= MaxPublished:
		return fmt.Errorf("%w: %d documents are in force", edgeclaim.ErrUnavailable, all)
	case beside >= edgeclaim.MaxDocuments:
		return fmt.Errorf("%w: a box holds %d documents, and there are as many for one", edgeclaim.ErrConflict, edgeclaim.MaxDocuments)
	case p.doc.Type == edgeclaim.DocumentRevocations:
		return p.grows(ctx, &own)
	case p.doc.Type == edgeclaim.DocumentTemplates:
		return p.keysFit(ctx, &own)
	}
	return nil
}

// store writes the document, and what follows from it.
func (p *publisher) store(ctx context.Context) error {
	own, d := p.published(), p.doc
	number, err := p.next(ctx, "documents", "number")
	if err != nil {
		return err
	}
	own.Number = number
	tenant := ""
	if !d.Tenant.IsZero() {
		tenant = d.Tenant.String()
	}
	err = p.run(ctx, `INSERT INTO documents (number, id, type, tenant, version, box, site, hash, key_id, issued_at, published_at,
		in_force, size, signed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?)`,
		number, d.String(), string(d.Type), tenant, int64(d.Version), d.Box, d.Site, own.Hash, own.KeyID,
		micros(d.IssuedAt), p.now, own.Size, p.signed.Text)
	if err != nil {
		return err
	}
	if err := p.retire(ctx, &own); err != nil {
		return err
	}
	switch d.Type {
	case edgeclaim.DocumentRevocations:
		err = p.revoke(ctx)
	case edgeclaim.DocumentTemplates:
		if err = p.keys(ctx, number); err == nil {
			err = p.raise(ctx, metaShares) // a bound may be higher now
		}
	case edgeclaim.DocumentSigner, edgeclaim.DocumentProfiles, edgeclaim.DocumentAliases, edgeclaim.DocumentAllowList:
	}
	if err != nil {
		return err
	}
	return p.raise(ctx, metaDocuments)
}

// keptVersions is how many versions are kept of what is for the same boxes: the
// newest, and the one before. Of signers all are: boxes walk from one to the next.
const keptVersions = 2

// retire takes out of force what nobody is offered any more, and drops what is
// kept no more.
func (p *publisher) retire(ctx context.Context, own *Published) error {
	if own.Type == edgeclaim.DocumentSigner {
		return nil
	}
	of := map[wire.Names]int{{Site: own.Site, Box: own.Box}: 1}
	for _, old := range slices.Backward(p.kept) {
		scope := wire.Names{Site: old.Site, Box: old.Box}
		of[scope]++
		if of[scope] > keptVersions {
			if err := p.drop(ctx, old.Number); err != nil {
				return err
			}
			continue
		}
		if !old.InForce || !covers(own, &old) {
			continue
		}
		if err := p.run(ctx, `UPDATE documents SET in_force = 0 WHERE number = ?`, old.Number); err != nil {
			return err
		}
		if err := p.run(ctx, `DELETE FROM document_keys WHERE document = ?`, old.Number); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) drop(ctx context.Context, number int64) error {
	if err := p.run(ctx, `DELETE FROM document_keys WHERE document = ?`, number); err != nil {
		return err
	}
	return p.run(ctx, `DELETE FROM documents WHERE number = ?`, number)
}
