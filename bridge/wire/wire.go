// Package wire is what a box and the application upstream say to each other:
// topics, messages, and the signature on what comes down. docs/protocol.md
// says what they mean; both ends stand on this package, and nothing in it
// knows a connection, a file or a clock.
package wire

import (
	"errors"
	"io"
	"strings"

	"github.com/go-json-experiment/json"

	"edgeclaim"
)

const (
	// Version is the protocol's version that this program speaks.
	Version = 1
	// MaxMessage is the largest message either side sends, in bytes; a larger
	// one is refused unread.
	MaxMessage = 100_000
	// MaxReason is the longest text for people in a message, in bytes; a
	// longer one is cut by whoever reads it.
	MaxReason = 512
	// MaxEntries is how many records or devices a message holds at most. No real
	// ones are so short that more would fit; made-up ones are, and would take a
	// hundred times their bytes in memory.
	MaxEntries = 1000
)

// decode reads one JSON value. Members it does not know are passed over, so
// that a later version may say more; duplicate members, invalid UTF-8 and
// trailing bytes are refused.
func decode(text []byte, into any) error {
	if len(text) > MaxMessage {
		return edgeclaim.Invalid("message", "larger than %d bytes", MaxMessage)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return malformed(err)
	}
	return nil
}

// malformed is an ErrInvalid without the input's own words (P5).
func malformed(err error) error {
	var semantic *json.SemanticError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return edgeclaim.Invalid("message", "cut short")
	case errors.As(err, &semantic):
		return edgeclaim.Invalid("message", "wrong type at %q", strings.ToValidUTF8(string(semantic.JSONPointer), "?"))
	}
	return edgeclaim.Invalid("message", "not the JSON it should be")
}
