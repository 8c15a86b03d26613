package store_test

import (
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/token"
	"edgeclaim/store"
)

func TestTokens(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	ctx := t.Context()
	byID := map[token.ID]token.Token{}
	var last token.Token
	for n := range store.MaxTokens {
		made, _, err := token.New(board(n), token.ScopeOperate, moment, moment.Add(time.Hour))
		noErr(t, err)
		noErr(t, db.PutToken(ctx, made))
		byID[made.ID], last = made, made
	}
	extra, _, err := token.New("one more", token.ScopeRead, moment, moment.Add(time.Hour))
	noErr(t, err)
	wantErr(t, db.PutToken(ctx, extra), edgeclaim.ErrInvalid)
	last.Status = token.Revoked
	byID[last.ID] = last
	noErr(t, db.PutToken(ctx, last))
	checkAndClose(t, db)
	db = open(t, cfg)
	tokens, err := db.Tokens(ctx)
	noErr(t, err)
	for _, got := range tokens {
		equal(t, "token", got, byID[got.ID])
	}
	equal(t, "tokens", len(tokens), store.MaxTokens)
	noErr(t, db.RemoveToken(ctx, last.ID))
	wantErr(t, db.RemoveToken(ctx, last.ID), edgeclaim.ErrNotFound)
	noErr(t, db.PutToken(ctx, extra))
	wantErr(t, db.PutToken(ctx, token.Token{Name: "nobody"}), edgeclaim.ErrInvalid)
}
