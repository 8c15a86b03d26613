package signeddoc

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"edgeclaim"
)

// NewKey makes an Ed25519 key from the system's random source.
func NewKey() ed25519.PrivateKey {
	_, key, _ := ed25519.GenerateKey(nil) // crypto/rand ends the program rather than fail
	return key
}

// EncodePrivate is the seed's 32 bytes as unpadded base64url. It is a secret (P5).
func EncodePrivate(key ed25519.PrivateKey) string {
	return base64.RawURLEncoding.EncodeToString(key.Seed())
}

// ParsePrivate undoes EncodePrivate; one line end behind it is allowed, as an
// editor leaves it. Other text is an InvalidError.
func ParsePrivate(text string) (ed25519.PrivateKey, error) {
	seed, err := decodeBase64(strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r"))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, edgeclaim.Invalid("private_key", "want %d bytes, base64url without padding", ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// EncodePublic is the key's 32 bytes as unpadded base64url.
func EncodePublic(key ed25519.PublicKey) string { return base64.RawURLEncoding.EncodeToString(key) }

// ParsePublic undoes EncodePublic; other text is an InvalidError.
func ParsePublic(text string) (ed25519.PublicKey, error) {
	key, err := decodeBase64(text)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, edgeclaim.Invalid("public_key", "want %d bytes, base64url without padding", ed25519.PublicKeySize)
	}
	return key, nil
}

// KeyName is how a public key is named: 16 hex digits of its SHA-256, as on the
// way down.
func KeyName(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// decodeBase64 reads unpadded base64url, of each value its one spelling: the
// library passes over line ends, and over bits behind the last byte.
func decodeBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, base64.CorruptInputError(strings.IndexAny(text, "\r\n"))
	}
	return base64.RawURLEncoding.Strict().DecodeString(text)
}
