package edgeclaim

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
)

// redacted is what a Secret prints as, wherever it is printed (P5).
const redacted = "[secret]"

// Secret is a key, password or token in the clear. It cannot be compared with
// == and prints as "[secret]" through fmt, slog and encoding/json. The zero
// Secret is the empty string.
type Secret struct {
	_ [0]func() // no ==: comparing secrets takes Equal, in constant time

	// text is a pointer because fmt does not call methods on unexported
	// fields: nested in another struct, a string would print in the clear.
	text *string
}

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal returns the secret in the clear. Every call is a place to review.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Equal compares in constant time for secrets of equal length.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// Hash returns the SHA-256 of the secret, the only form that is ever stored.
func (s Secret) Hash() KeyHash { return KeyHash{sum: sha256.Sum256([]byte(s.Reveal()))} }

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// String implements fmt.Stringer and never tells the secret.
func (Secret) String() string { return redacted }

// GoString implements fmt.GoStringer, for %#v.
func (Secret) GoString() string { return redacted }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, so that a Secret that ends up
// in a JSON document by mistake tells nothing.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// KeyHash is the SHA-256 of a provisioning key or of a device's credential.
type KeyHash struct{ sum [sha256.Size]byte }

// ParseKeyHash reads 64 hexadecimal digits, in either case.
func ParseKeyHash(text string) (KeyHash, error) {
	var h KeyHash
	if len(text) != hex.EncodedLen(len(h.sum)) {
		return KeyHash{}, invalidf("sha256", "want %d hexadecimal digits", hex.EncodedLen(len(h.sum)))
	}
	if _, err := hex.Decode(h.sum[:], []byte(text)); err != nil {
		return KeyHash{}, invalidf("sha256", "want %d hexadecimal digits", hex.EncodedLen(len(h.sum)))
	}
	return h, nil
}

// KeyHashFromBytes takes the 32 raw bytes of a SHA-256.
func KeyHashFromBytes(b []byte) (KeyHash, error) {
	var h KeyHash
	if len(b) != len(h.sum) {
		return KeyHash{}, fmt.Errorf("sha256: %d bytes, want %d", len(b), len(h.sum))
	}
	copy(h.sum[:], b)
	return h, nil
}

// Equal compares in constant time.
func (h KeyHash) Equal(other KeyHash) bool {
	return subtle.ConstantTimeCompare(h.sum[:], other.sum[:]) == 1
}

// Bytes returns the 32 raw bytes.
func (h KeyHash) Bytes() []byte { return h.sum[:] }

// IsZero reports whether the hash was never set.
func (h KeyHash) IsZero() bool { return h == KeyHash{} }

// String returns 64 lower-case hexadecimal digits.
func (h KeyHash) String() string { return hex.EncodeToString(h.sum[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h KeyHash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *KeyHash) UnmarshalText(text []byte) error { return unmarshalText(h, text, ParseKeyHash) }
