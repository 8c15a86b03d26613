package mint

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"

	"edgeclaim"
)

// sealLabel begins the info of every sealing, so that a key that is used for
// something else as well opens nothing of it.
const sealLabel = "edgeclaim/v1/psk\x00"

// keyIDBytes is how much of a public key's SHA-256 names it.
const keyIDBytes = 16

// errUnsealable: not sealed for this key, or for another box, device or PSK.
var errUnsealable = errors.New("sealed PSK cannot be opened")

// GenerateOpener makes a key pair that PSKs may be sealed for (X25519).
func GenerateOpener() (hpke.PrivateKey, error) { return hpke.DHKEM(ecdh.X25519()).GenerateKey() }

// ParseOpener takes the 32 bytes of a private key.
func ParseOpener(raw []byte) (hpke.PrivateKey, error) {
	key, err := hpke.DHKEM(ecdh.X25519()).NewPrivateKey(raw)
	if err != nil {
		return nil, edgeclaim.Invalid("seal_key", "want the %d bytes of an X25519 key", Size)
	}
	return key, nil
}

// ParseRecipient takes the 32 bytes of a public key; other input is ErrInvalid.
func ParseRecipient(raw []byte) (hpke.PublicKey, error) {
	key, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(raw)
	if err != nil {
		return nil, edgeclaim.Invalid("seal_key", "want the %d bytes of an X25519 key", Size)
	}
	return key, nil
}

// KeyID names a public key: 22 characters, base64url of the first 16 bytes of
// its SHA-256.
func KeyID(key hpke.PublicKey) string {
	sum := sha256.Sum256(key.Bytes())
	return base64.RawURLEncoding.EncodeToString(sum[:keyIDBytes])
}

// SealPSK encrypts a PSK for upstream: HPKE (RFC 9180), base mode,
// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305. The result is the
// encapsulated key and the ciphertext, bound to the box, the device and the
// SHA-256 that the device's record tells.
func SealPSK(to hpke.PublicKey, box string, device edgeclaim.DeviceID, psk edgeclaim.Secret) ([]byte, error) {
	return hpke.Seal(to, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), sealInfo(box, device, psk.Hash()), []byte(psk.Reveal()))
}

// OpenPSK decrypts what SealPSK made for that box and device, and says only a
// PSK of that hash.
func OpenPSK(key hpke.PrivateKey, box string, device edgeclaim.DeviceID, hash edgeclaim.KeyHash, sealed []byte) (edgeclaim.Secret, error) {
	text, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), sealInfo(box, device, hash), sealed)
	if err != nil {
		return edgeclaim.Secret{}, errUnsealable
	}
	psk := edgeclaim.NewSecret(string(text))
	if !psk.Hash().Equal(hash) { // the box sealed another than it told
		return edgeclaim.Secret{}, errUnsealable
	}
	return psk, nil
}

func sealInfo(box string, device edgeclaim.DeviceID, hash edgeclaim.KeyHash) []byte {
	info := []byte(sealLabel)
	info = binary.BigEndian.AppendUint32(info, uint32(len(box))) //nolint:gosec // a box id is short
	info = append(info, box...)
	info = append(info, device.Bytes()...)
	return append(info, hash.Bytes()...)
}
