package main

import (
	"context"
	"sync"
	"time"

	"edgeclaim"
	"edgeclaim/internal/token"
)

// tokenKeeper keeps the tokens of the admin API. *store.DB is one.
type tokenKeeper interface {
	// Tokens returns all of them.
	Tokens(ctx context.Context) ([]token.Token, error)
	// PutToken adds one, or replaces that of the same id; nil means durable.
	// ErrInvalid: there are too many.
	PutToken(ctx context.Context, t token.Token) error
	// RemoveToken forgets one; nil means durable. ErrNotFound.
	RemoveToken(ctx context.Context, id token.ID) error
}

// tokens is who may use the admin API over TCP. It implements httpapi.Tokens.
type tokens struct {
	keeper tokenKeeper
	set    *token.Set
	now    func() time.Time
	mu     sync.Mutex // held over a change, so that file and memory agree
}

// loadTokens reads the tokens; now is the box's clock (P10).
func loadTokens(ctx context.Context, keeper tokenKeeper, now func() time.Time) (*tokens, error) {
	kept, err := keeper.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	return &tokens{keeper: keeper, set: token.NewSet(kept...), now: now}, nil
}

// Check implements httpapi.Tokens.
func (t *tokens) Check(secret edgeclaim.Secret) (token.Token, error) {
	return t.set.Check(secret, t.now())
}

// List implements httpapi.Tokens.
func (t *tokens) List(ctx context.Context) ([]token.Token, error) { return t.keeper.Tokens(ctx) }

// Create implements httpapi.Tokens.
func (t *tokens) Create(ctx context.Context, made token.Token) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.keeper.PutToken(ctx, made); err != nil {
		return err
	}
	t.set.Put(made)
	return nil
}

// Revoke implements httpapi.Tokens. A revoked token is kept no longer: the audit
// log has it.
func (t *tokens) Revoke(ctx context.Context, id token.ID) (token.Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept, err := t.keeper.Tokens(ctx)
	if err != nil {
		return token.Token{}, err
	}
	for _, found := range kept {
		if found.ID != id {
			continue
		}
		if err := t.keeper.RemoveToken(ctx, id); err != nil {
			return token.Token{}, err
		}
		t.set.Remove(id)
		found.Status = token.Revoked
		return found, nil
	}
	return token.Token{}, edgeclaim.ErrNotFound
}
