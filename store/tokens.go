package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
	"edgeclaim/internal/token"
)

// MaxTokens is how many tokens of the admin API there may be.
const MaxTokens = 256

// tokenRow is what the key of a token, its id, does not say.
type tokenRow struct {
	Name      string  `cbor:"1,keyasint"`
	Scope     string  `cbor:"2,keyasint"`
	Hash      []byte  `cbor:"3,keyasint"`
	CreatedAt instant `cbor:"4,keyasint"`
	ExpiresAt instant `cbor:"5,keyasint"`
	Status    string  `cbor:"6,keyasint"`
}

func encodeToken(t *token.Token) ([]byte, error) {
	return cbor.Marshal(&tokenRow{
		Name: t.Name, Scope: string(t.Scope), Hash: t.Hash.Bytes(),
		CreatedAt: toInstant(t.CreatedAt), ExpiresAt: toInstant(t.ExpiresAt), Status: string(t.Status),
	})
}

func decodeToken(key, value []byte) (token.Token, error) {
	var row tokenRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return token.Token{}, damaged("token", err)
	}
	t := token.Token{
		Name: row.Name, CreatedAt: row.CreatedAt.time(), ExpiresAt: row.ExpiresAt.time(), Status: token.Status(row.Status),
	}
	var errs [3]error
	t.ID, errs[0] = token.ParseID(string(key))
	t.Scope, errs[1] = token.ParseScope(row.Scope)
	t.Hash, errs[2] = edgeclaim.KeyHashFromBytes(row.Hash)
	if err := errors.Join(errs[:]...); err != nil {
		return token.Token{}, damaged("token", err)
	}
	return t, nil
}

// PutToken stores a token, or replaces the one of the same id; nil means that
// this is durable. ErrInvalid: it has no id, no scope or no hash, or there are
// MaxTokens already.
func (db *DB) PutToken(ctx context.Context, t token.Token) error {
	if _, err := token.ParseScope(string(t.Scope)); err != nil || t.ID.IsZero() || t.Hash.IsZero() {
		return edgeclaim.Invalid("token", "not whole")
	}
	value, err := encodeToken(&t)
	if err != nil {
		return err
	}
	return db.update(ctx, func(b *batch) error {
		bucket, key := b.tx.Bucket(bucketTokens), []byte(t.ID.String())
		fresh := bucket.Get(key) == nil
		if fresh && b.state.Tokens >= MaxTokens {
			return edgeclaim.Invalid("token", "the limit of %d tokens is reached", MaxTokens)
		}
		if fresh {
			b.state.Tokens++
		}
		b.dirty = true
		return halfDone(bucket.Put(key, value))
	})
}

// Tokens returns all tokens, at most MaxTokens, in order of their ids.
func (db *DB) Tokens(ctx context.Context) ([]token.Token, error) {
	var tokens []token.Token
	err := db.view(ctx, func(tx *bolt.Tx) error {
		return eachAfter(tx.Bucket(bucketTokens), nil, MaxTokens, &tokens, decodeToken)
	})
	return tokens, err
}

// RemoveToken forgets a token; nil means that this is durable. ErrNotFound: it
// is not there.
func (db *DB) RemoveToken(ctx context.Context, id token.ID) error {
	return db.update(ctx, func(b *batch) error {
		bucket, key := b.tx.Bucket(bucketTokens), []byte(id.String())
		if bucket.Get(key) == nil {
			return fmt.Errorf("token: %w", edgeclaim.ErrNotFound)
		}
		b.dirty = true
		b.state.Tokens--
		return halfDone(bucket.Delete(key))
	})
}
