// Package signeddoc reads and writes documents from upstream as they travel and
// as they are kept: one line of JSON, with the document as raw bytes and an
// Ed25519 signature over them. Documents are signed far from any box, by a key
// that no server has, and read on boxes that nobody can reach: both stand on
// this one reading, and what it does not know it refuses.
package signeddoc

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
)

const (
	// Type is the type of a signed document's line.
	Type = "edgeclaim.document.v1"
	// SharesType is the type of a bundle's line of shares.
	SharesType = "edgeclaim.shares.v1"
	// MaxText is the longest signed text, in bytes: a document of MaxDocument in
	// base64, and what stands around it.
	MaxText = edgeclaim.MaxDocument*4/3 + 1<<10

	// What a signature covers before the payload, so that no signature made for
	// another purpose fits.
	documentPrefix = "edgeclaim/v1/document\x00"
	sharesPrefix   = "edgeclaim/v1/shares\x00"
)

// Signed is a signed document.
type Signed struct {
	Document *edgeclaim.Document
	Hash     string // hex SHA-256 of the payload: the same whoever signed it
	KeyID    string // KeyName of the key that is said to have signed it
	Text     []byte // one line without its end, spelled as Sign spells it
}

// envelope is a signed text.
type envelope struct {
	Type      string `json:"type"`
	Payload   string `json:"payload"` // unpadded base64url, as is the signature
	Key       string `json:"key_id"`
	Signature string `json:"signature"`
}

// Sign signs a document's JSON as it is, but for the blanks between its tokens. A
// document that Decode refuses is not signed: its InvalidError.
func Sign(key ed25519.PrivateKey, payload []byte) (*Signed, error) {
	compacted := jsontext.Value(append([]byte(nil), payload...))
	if err := compacted.Compact(); err != nil {
		return nil, malformed(err)
	}
	document, err := Decode(compacted)
	if err != nil {
		return nil, err
	}
	text, e, err := seal(key, Type, documentPrefix, compacted)
	if err != nil {
		return nil, err
	}
	return &Signed{Document: document, Hash: hash(compacted), KeyID: e.Key, Text: text}, nil
}

// Open reads a signed document that one of the keys has signed. Errors are
// *edgeclaim.DocumentError: bad_signature where none of them has, malformed for
// what nobody can read. Nothing of the document is looked at before its signature
// is.
func Open(text []byte, keys ...ed25519.PublicKey) (*Signed, error) {
	e, payload, err := unseal(text, Type, documentPrefix, keys...)
	if err != nil {
		return nil, err
	}
	return read(e, payload)
}

// Peek reads a signed document without a key: who signed it nobody has looked
// at. It is for showing, and for finding out whether it is there already.
func Peek(text []byte) (*Signed, error) {
	e, payload, err := split(text, Type)
	if err != nil {
		return nil, err
	}
	return read(e, payload)
}

func read(e *envelope, payload []byte) (*Signed, error) {
	document, err := Decode(payload)
	if err != nil {
		return nil, refused(err)
	}
	text, err := json.Marshal(e)
	if err != nil {
		return nil, refused(err)
	}
	return &Signed{Document: document, Hash: hash(payload), KeyID: e.Key, Text: text}, nil
}

func hash(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:])
}

func seal(key ed25519.PrivateKey, kind, prefix string, payload []byte) ([]byte, *envelope, error) {
	public, _ := key.Public().(ed25519.PublicKey) // always: crypto/ed25519 says so
	e := &envelope{
		Type: kind, Payload: base64.RawURLEncoding.EncodeToString(payload), Key: KeyName(public),
		Signature: base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, append([]byte(prefix), payload...))),
	}
	text, err := json.Marshal(e)
	return text, e, err
}

// split takes a signed text apart, and believes nothing of it.
func split(text []byte, kind string) (*envelope, []byte, error) {
	if len(text) > MaxText {
		return nil, nil, refusedAs(edgeclaim.DocumentMalformed, "larger than a signed text may be")
	}
	var e envelope
	if err := decode(text, &e); err != nil {
		return nil, nil, refused(err)
	}
	if e.Type != kind {
		return nil, nil, refused(edgeclaim.Invalid("type", "want %q", kind))
	}
	payload, err := decodeBase64(e.Payload)
	if err != nil {
		return nil, nil, refused(edgeclaim.Invalid("payload", "want base64url without padding"))
	}
	if len(e.Key) != keyNameLength {
		return nil, nil, refused(edgeclaim.Invalid("key_id", "want %d hexadecimal digits", keyNameLength))
	}
	return &e, payload, nil
}

// keyNameLength is how long what KeyName returns is.
const keyNameLength = 16

// unseal returns the payload of a signed text, if one of the keys has signed it.
func unseal(text []byte, kind, prefix string, keys ...ed25519.PublicKey) (*envelope, []byte, error) {
	e, payload, err := split(text, kind)
	if err != nil {
		return nil, nil, err
	}
	signature, err := decodeBase64(e.Signature)
	if err != nil {
		return nil, nil, refused(edgeclaim.Invalid("signature", "want base64url without padding"))
	}
	for _, key := range keys {
		if len(key) == ed25519.PublicKeySize && e.Key == KeyName(key) &&
			ed25519.Verify(key, append([]byte(prefix), payload...), signature) {
			return e, payload, nil
		}
	}
	return nil, nil, refusedAs(edgeclaim.DocumentBadSignature, "")
}

func refusedAs(reason edgeclaim.DocumentRefusal, detail string) error {
	return &edgeclaim.DocumentError{Reason: reason, Detail: detail}
}

// refused is the refusal of what nobody can read.
func refused(err error) error {
	detail := "not the JSON it should be"
	var invalid *edgeclaim.InvalidError
	if errors.As(err, &invalid) {
		detail = invalid.Error()
	}
	return refusedAs(edgeclaim.DocumentMalformed, detail)
}
