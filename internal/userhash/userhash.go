// Package userhash keeps the passwords of named users as bcrypt hashes. People
// choose passwords, so that guessing one has to be dear; what the box makes
// itself has 32 random bytes, and needs no more than SHA-256.
package userhash

import (
	"errors"
	"fmt"
	"regexp"

	"golang.org/x/crypto/bcrypt"

	"edgeclaim"
)

const (
	// Cost is what Hash takes: some 0.1 s on a desktop, 0.5 s on a small board,
	// which a login has to fit in.
	Cost = 11
	// MinCost is the least that a hash made elsewhere may cost.
	MinCost = 10
	// MaxCost is the most. Each step doubles the time.
	MaxCost = 14
	// MaxPassword is the longest password, in bytes: bcrypt reads no further,
	// and two that differ only there would be one.
	MaxPassword = 72
)

// Hash returns the bcrypt hash of a password of 1 to MaxPassword bytes; others
// are edgeclaim.ErrInvalid.
func Hash(password edgeclaim.Secret) (string, error) {
	if !sound(password) {
		return "", edgeclaim.Invalid("password", "want 1 to %d bytes", MaxPassword)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password.Reveal()), Cost)
	if err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	return string(hash), nil
}

func sound(password edgeclaim.Secret) bool {
	return !password.IsZero() && len(password.Reveal()) <= MaxPassword
}

// shape is that of a hash: version, cost, 22 characters of salt and 31 of hash,
// in bcrypt's own base64. The library takes more, and finds out at the login.
// 2x is what a broken implementation made.
var shape = regexp.MustCompile(`^\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}$`)

// errShape does not repeat the value, which may be a password in the wrong place.
var errShape = errors.New("want a bcrypt hash, as edgeclaim user hash prints it")

// CostOf returns what a hash costs, or an error when it is not one that Check
// can judge.
func CostOf(hash string) (int, error) {
	if !shape.MatchString(hash) {
		return 0, errShape
	}
	cost, err := bcrypt.Cost([]byte(hash))
	if err != nil {
		return 0, errShape
	}
	if cost < MinCost || cost > MaxCost {
		return 0, fmt.Errorf("want a bcrypt hash of cost %d to %d", MinCost, MaxCost)
	}
	return cost, nil
}

// Check reports whether the password is that of the hash, which CostOf has
// taken. It computes for the hash's cost, whatever the password.
func Check(hash string, password edgeclaim.Secret) bool {
	err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password.Reveal()))
	return err == nil && sound(password)
}

// Idle computes for as long as a Check of that cost, MinCost to MaxCost, and
// finds nothing.
func Idle(cost int, password edgeclaim.Secret) {
	_ = bcrypt.CompareHashAndPassword(fmt.Appendf(nil, "$2a$%02d$%s", cost, nobody), []byte(password.Reveal()))
}

// nobody is a salt and a hash of no password that anybody knows.
const nobody = "EdgeclaimEdgeclaimEdgeuNobodyNobodyNobodyNobodyNobody"
