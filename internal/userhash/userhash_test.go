package userhash_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"edgeclaim"
	"edgeclaim/internal/userhash"
)

func secret(text string) edgeclaim.Secret { return edgeclaim.NewSecret(text) }

func TestHash(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", userhash.MaxPassword)
	for _, password := range []string{"p", "correct horse", "päss\x00wörd", long} {
		hash, err := userhash.Hash(secret(password))
		if err != nil {
			t.Fatalf("Hash of %d bytes: %v", len(password), err)
		}
		if cost, err := userhash.CostOf(hash); err != nil || cost != userhash.Cost {
			t.Errorf("CostOf = %d, %v, want %d", cost, err, userhash.Cost)
		}
		if !userhash.Check(hash, secret(password)) {
			t.Errorf("the password of %d bytes is not its own", len(password))
		}
		for _, other := range []string{"", password + "x", strings.ToUpper(password) + "."} {
			if userhash.Check(hash, secret(other)) {
				t.Errorf("a password of %d bytes passes for one of %d", len(other), len(password))
			}
		}
	}
}

func TestHashRefuses(t *testing.T) {
	t.Parallel()
	for _, password := range []string{"", strings.Repeat("x", userhash.MaxPassword+1)} {
		if _, err := userhash.Hash(secret(password)); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("Hash of %d bytes: %v, want ErrInvalid", len(password), err)
		}
	}
}

// A hash of the empty password, made elsewhere, lets nobody in.
func TestCheckRefusesEmpty(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword(nil, userhash.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if userhash.Check(string(hash), secret("")) {
		t.Error("the empty password lets in")
	}
}

func TestCostOf(t *testing.T) {
	t.Parallel()
	const rest = "N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"
	for _, tt := range []struct {
		hash string
		want int // 0: refused
	}{
		{"$2a$10$" + rest, 10},
		{"$2b$12$" + rest, 12},
		{"$2y$14$" + rest, 14},
		{"$2x$10$" + rest, 0},
		{"$2$10$" + rest, 0},
		{"$2a$09$" + rest, 0},
		{"$2a$15$" + rest, 0},
		{"$2a$99$" + rest, 0},
		{"$2a$10$" + rest[1:], 0},
		{"$2a$10$" + rest + "y", 0},
		{"$2a$10$" + rest + "\n", 0},
		{"$2a$10$" + "=" + rest[1:], 0},
		{"$6$rounds=5000$salt$hash", 0},
		{"hunter2", 0},
		{"", 0},
	} {
		got, err := userhash.CostOf(tt.hash)
		if got != tt.want || (err == nil) != (tt.want > 0) {
			t.Errorf("CostOf(%q) = %d, %v, want %d", tt.hash, got, err, tt.want)
		}
		if err != nil && tt.hash != "" && strings.Contains(err.Error(), tt.hash) {
			t.Errorf("the error repeats the value: %v", err)
		}
	}
}

// What stands for nobody's hash has to cost as much as one: bcrypt refuses at
// once what it cannot read.
func TestIdleComputes(t *testing.T) {
	t.Parallel()
	for cost := userhash.MinCost; cost <= userhash.MaxCost; cost++ {
		if got, err := userhash.CostOf(fmt.Sprintf("$2a$%02d$%s", cost, userhash.Nobody)); err != nil || got != cost {
			t.Errorf("CostOf = %d, %v, want %d", got, err, cost)
		}
	}
	err := bcrypt.CompareHashAndPassword([]byte("$2a$10$"+userhash.Nobody), []byte("x"))
	if !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		t.Errorf("compare: %v, want a mismatch", err)
	}
}

func BenchmarkCheck(b *testing.B) {
	for cost := userhash.MinCost; cost <= userhash.MinCost+1; cost++ {
		hash := fmt.Sprintf("$2a$%02d$%s", cost, userhash.Nobody)
		b.Run(fmt.Sprintf("cost=%d", cost), func(b *testing.B) {
			for b.Loop() {
				userhash.Check(hash, secret("wrong"))
			}
		})
	}
}
