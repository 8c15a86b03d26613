// Package token is the bearer tokens of the admin API: what is kept of one, what
// it may do, and who is let in by it. Keeping them is the store's: a Token is
// plain data, without the secret (P5).
package token

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"edgeclaim"
)

// Prefix starts every token, so that people and scanners of leaked secrets know
// one when they see it. It is followed by base64url, unpadded, of secretBytes.
const Prefix = "ec_admin_"

const (
	// secretBytes is a token's entropy, in bytes.
	secretBytes = 32
	// idBytes tell tokens apart; they are no secret.
	idBytes = 8
	// maxYear is the last that RFC 3339 can say.
	maxYear = 9999
)

// ID names a token, in lists and in what the audit says of its deeds: 16
// lower-case hexadecimal digits.
type ID struct{ text string }

// ParseID reads an id; other input is an edgeclaim.ErrInvalid.
func ParseID(text string) (ID, error) {
	if len(text) != hex.EncodedLen(idBytes) || strings.Trim(text, "0123456789abcdef") != "" {
		return ID{}, edgeclaim.Invalid("token_id", "want %d lower-case hexadecimal digits", hex.EncodedLen(idBytes))
	}
	return ID{text}, nil
}

func (id ID) String() string { return id.text }

// IsZero reports whether the id was never set.
func (id ID) IsZero() bool { return id.text == "" }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}

// Scope is what a token may do. Each includes the one before it.
type Scope string

// The scopes.
const (
	// ScopeRead looks, and changes nothing.
	ScopeRead Scope = "read"
	// ScopeOperate is the line's daily work on keys and devices.
	ScopeOperate Scope = "operate"
	// ScopeAdmin is everything, tokens among it.
	ScopeAdmin Scope = "admin"
)

// rank orders the scopes; 0 is none.
func (s Scope) rank() int {
	switch s {
	case ScopeRead:
		return 1
	case ScopeOperate:
		return 2
	case ScopeAdmin:
		return 3
	default:
		return 0
	}
}

// ParseScope reads a scope; other input is an edgeclaim.ErrInvalid.
func ParseScope(text string) (Scope, error) {
	if scope := Scope(text); scope.rank() > 0 {
		return scope, nil
	}
	return "", edgeclaim.Invalid("scope", "want read, operate or admin")
}

// Allows reports whether who has scope s may do what needs that scope. What is
// no scope allows nothing, and is allowed to nobody.
func (s Scope) Allows(need Scope) bool { return need.rank() > 0 && s.rank() >= need.rank() }

// Status says whether a token is still good, its expiry aside.
type Status string

// The states of a token. Revoked is terminal.
const (
	Active  Status = "active"
	Revoked Status = "revoked"
)

// Token is one as it is kept: by its hash.
type Token struct {
	ID    ID     `json:"token_id"`
	Name  string `json:"name"` // whose it is; see edgeclaim.CheckName
	Scope Scope  `json:"scope"`
	// Hash is the SHA-256 of the token as it is presented.
	Hash      edgeclaim.KeyHash `json:"sha256"`
	CreatedAt time.Time         `json:"created_at"`
	// ExpiresAt is the UTC instant from which it is refused, judged by P10's
	// clock. Every token has one.
	ExpiresAt time.Time `json:"expires_at"`
	Status    Status    `json:"status"`
}

// New makes a token, and its secret, which is to be said once and never kept
// (P5). Both times are P10's clock's. The name has to be one by
// edgeclaim.CheckName, the scope one of the three, and expires after created:
// other input is an edgeclaim.ErrInvalid.
func New(name string, scope Scope, created, expires time.Time) (Token, edgeclaim.Secret, error) {
	if err := edgeclaim.CheckName("name", name); err != nil {
		return Token{}, edgeclaim.Secret{}, err
	}
	scope, err := ParseScope(string(scope))
	if err != nil {
		return Token{}, edgeclaim.Secret{}, err
	}
	if created, expires = created.UTC(), expires.UTC(); !expires.After(created) || expires.Year() > maxYear {
		return Token{}, edgeclaim.Secret{}, edgeclaim.Invalid("expires_at", "want a time to come, until the year %d", maxYear)
	}
	var id [idBytes]byte
	var random [secretBytes]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	_, _ = rand.Read(random[:])
	secret := edgeclaim.NewSecret(Prefix + base64.RawURLEncoding.EncodeToString(random[:]))
	return Token{
		ID: ID{hex.EncodeToString(id[:])}, Name: name, Scope: scope, Hash: secret.Hash(),
		CreatedAt: created, ExpiresAt: expires, Status: Active,
	}, secret, nil
}

// Good reports whether the token lets anybody in at now, which is P10's.
func (t *Token) Good(now time.Time) bool { return t.Status == Active && now.Before(t.ExpiresAt) }

// Set is the tokens of a box in memory. It is safe for concurrent use. It holds
// what it is given: who changes a token first commits it, then puts it here.
type Set struct {
	mu     sync.RWMutex
	byHash map[edgeclaim.KeyHash]Token
}

// NewSet returns a set of those tokens.
func NewSet(tokens ...Token) *Set {
	s := &Set{byHash: make(map[edgeclaim.KeyHash]Token, len(tokens))}
	for _, t := range tokens {
		s.byHash[t.Hash] = t
	}
	return s
}

// Put adds the token, or replaces the one of the same id. It holds from the next
// Check on.
func (s *Set) Put(t Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byHash, func(_ edgeclaim.KeyHash, old Token) bool { return old.ID == t.ID })
	s.byHash[t.Hash] = t
}

// Remove takes the token of that id out, if it is there.
func (s *Set) Remove(id ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byHash, func(_ edgeclaim.KeyHash, old Token) bool { return old.ID == id })
}

// Check returns the token whose secret that is. One that is unknown, revoked or
// expired at now, which is P10's, is edgeclaim.ErrUnauthenticated without more:
// the three look alike. It costs one SHA-256 and one look-up by it, and how long
// that takes tells nothing of any secret: nobody knows how to choose a secret by
// the hash that it will have.
func (s *Set) Check(secret edgeclaim.Secret, now time.Time) (Token, error) {
	hash := secret.Hash()
	s.mu.RLock()
	t := s.byHash[hash] // where there is none, the zero Token, which is not good
	s.mu.RUnlock()
	if !t.Good(now) {
		return Token{}, fmt.Errorf("admin token: %w", edgeclaim.ErrUnauthenticated)
	}
	return t, nil
}
