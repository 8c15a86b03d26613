package wire

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"

	"github.com/go-json-experiment/json"

	"edgeclaim"
)

// ErrForged: a message that had to be signed by the key that the box was
// enrolled with, and was not.
var ErrForged = errors.New("not signed by the enrolled key")

// envelope is how everything comes down: a payload as raw bytes, so that
// nobody has to agree on how JSON is spelled, and a signature over them.
type envelope struct {
	Payload   string `json:"payload"` // base64url without padding, as is the signature
	Key       string `json:"key_id"`
	Signature string `json:"signature"`
}

// signed is what the signature covers before the payload, so that no signature
// made for another purpose fits here.
const signed = "edgeclaim/v1/down\x00"

// KeyName is how a public key is named: 16 hex digits of its SHA-256.
func KeyName(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// Seal signs a message for the way down.
func Seal(key ed25519.PrivateKey, message Down) ([]byte, error) {
	payload, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	public, _ := key.Public().(ed25519.PublicKey) // always: crypto/ed25519 says so
	signature := ed25519.Sign(key, append([]byte(signed), payload...))
	return json.Marshal(&envelope{
		Payload: base64.RawURLEncoding.EncodeToString(payload), Key: KeyName(public),
		Signature: base64.RawURLEncoding.EncodeToString(signature),
	})
}

// Open returns an envelope's payload. With a key, only a payload that the key
// has signed (ErrForged); with none, as it is, and a bare payload without an
// envelope as well. ErrInvalid: it is neither.
func Open(key ed25519.PublicKey, text []byte) ([]byte, error) {
	var e envelope
	if err := decode(text, &e); err != nil {
		return nil, err
	}
	if len(key) == 0 && e.Payload == "" {
		return text, nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(e.Payload)
	if len(key) == 0 {
		if err != nil {
			return nil, edgeclaim.Invalid("payload", "want base64url without padding")
		}
		return payload, nil
	}
	signature, bad := base64.RawURLEncoding.DecodeString(e.Signature)
	if err != nil || bad != nil || len(key) != ed25519.PublicKeySize ||
		!ed25519.Verify(key, append([]byte(signed), payload...), signature) {
		return nil, ErrForged
	}
	return payload, nil
}

// Enrolment is the file that tells a box whom to trust upstream.
type Enrolment struct {
	Type     string `json:"type"` // EnrolmentType
	Upstream string `json:"upstream_id"`
	// Key is the Ed25519 public key, base64url without padding.
	Key string `json:"public_key"`
	// SealKey is the X25519 public key that PSKs are sealed for on their way
	// up, spelled likewise; empty where upstream wants none.
	SealKey string `json:"seal_key,omitempty"`
	// DocumentKey is the Ed25519 public key that documents are signed by,
	// spelled likewise: another than Key, and not the application's. Empty: the
	// box takes no documents.
	DocumentKey string `json:"document_key,omitempty"`
}

// EnrolmentType is an Enrolment's type.
const EnrolmentType = "edgeclaim.enrolment.v1"

// DecodeEnrolment reads an enrolment file and its key. ErrInvalid names the
// member at fault.
func DecodeEnrolment(text []byte) (Enrolment, ed25519.PublicKey, error) {
	var e Enrolment
	if err := decode(text, &e); err != nil {
		return e, nil, err
	}
	if e.Type != EnrolmentType {
		return e, nil, edgeclaim.Invalid("type", "want %q", EnrolmentType)
	}
	if !isLevel(e.Upstream) {
		return e, nil, edgeclaim.Invalid("upstream_id", "want 1 to %d characters of A-Z a-z 0-9 . _ -", MaxLevel)
	}
	key, err := base64.RawURLEncoding.DecodeString(e.Key)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return e, nil, edgeclaim.Invalid("public_key", "want %d bytes, base64url without padding", ed25519.PublicKeySize)
	}
	if _, err := SealKeyOf(&e); err != nil {
		return e, nil, err
	}
	if _, err := DocumentKeyOf(&e); err != nil {
		return e, nil, err
	}
	return e, key, nil
}

// DocumentKeyOf reads an enrolment's key for documents. Nil where it has none;
// ErrInvalid for what is no key, and for the application's own: a document has to
// be signed by somebody whom nobody gets at through it.
func DocumentKeyOf(e *Enrolment) (ed25519.PublicKey, error) {
	if e.DocumentKey == "" {
		return nil, nil
	}
	key, err := base64.RawURLEncoding.Strict().DecodeString(e.DocumentKey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, edgeclaim.Invalid("document_key", "want %d bytes, base64url without padding", ed25519.PublicKeySize)
	}
	if e.DocumentKey == e.Key {
		return nil, edgeclaim.Invalid("document_key", "want another than public_key")
	}
	return key, nil
}

// SealKeyOf reads an enrolment's key for sealing PSKs: of HPKE (RFC 9180),
// DHKEM(X25519, HKDF-SHA256). Nil where it has none; ErrInvalid for one that
// nothing can be sealed for.
func SealKeyOf(e *Enrolment) (hpke.PublicKey, error) {
	if e.SealKey == "" {
		return nil, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(e.SealKey)
	if err == nil {
		var key hpke.PublicKey
		if key, err = hpke.DHKEM(ecdh.X25519()).NewPublicKey(raw); err == nil {
			// A point of low order parses, and fails only when it is used.
			if _, _, err = hpke.NewSender(key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), nil); err == nil {
				return key, nil
			}
		}
	}
	return nil, edgeclaim.Invalid("seal_key", "want the 32 bytes of an X25519 key, base64url without padding")
}
