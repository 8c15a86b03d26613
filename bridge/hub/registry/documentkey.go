package registry

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/signeddoc"
)

// DocumentKey is the public key that boxes are enrolled with for documents, as
// BindDocumentKey noted it; nil while nobody did. The key that signs now is
// another one once a signer document is published.
func (db *DB) DocumentKey(ctx context.Context) (ed25519.PublicKey, error) {
	var text string
	err := db.read.QueryRowContext(ctx, db.dialect.text(`SELECT value FROM meta WHERE name = ?`), metaDocument).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return signeddoc.ParsePublic(text)
}

// BindDocumentKey notes the public key that boxes are enrolled with for
// documents: from then on only what it, or a next key, has signed is published.
// ErrConflict: another one is noted, unless replace says that it shall not be any
// more. Then the signers are dropped, for the chain begins anew; all other
// documents have to be signed and published again.
func (db *DB) BindDocumentKey(ctx context.Context, key ed25519.PublicKey, replace bool) error {
	text := signeddoc.EncodePublic(key)
	return db.change(ctx, func(w *writer) error {
		var bound string
		found, err := w.one(ctx, `SELECT value FROM meta WHERE name = ?`, []any{metaDocument}, &bound)
		switch {
		case err != nil || found && bound == text:
			return err
		case found && !replace:
			return fmt.Errorf("%w: boxes are enrolled with another key for documents, not %s", edgeclaim.ErrConflict, wire.KeyName(key))
		}
		if found {
			if err := w.run(ctx, `DELETE FROM documents WHERE type = ?`, string(edgeclaim.DocumentSigner)); err != nil {
				return err
			}
			if err := w.raise(ctx, metaDocuments); err != nil {
				return err
			}
		}
		return w.run(ctx, `INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, metaDocument, text)
	})
}
