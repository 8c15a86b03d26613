// Package mint derives the secrets that a box can say twice, and seals those
// that must not be read on their way. Pure functions: what is kept where, and
// who may hear it, is its callers'.
package mint

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"edgeclaim"
)

// Size is the length of the box's key, of a salt and of a derived secret, in
// bytes.
const Size = 32

// Purpose is what a secret is derived for.
type Purpose string

// The purposes.
const (
	ForClaim  Purpose = "claim"
	ForRotate Purpose = "rotate"
)

// Input is what a secret is derived from, besides the box's key. Two inputs
// that differ in anything give different secrets.
type Input struct {
	Purpose Purpose
	Type    edgeclaim.CredentialType
	Tenant  edgeclaim.TenantID
	Device  edgeclaim.DeviceID
	// Key is the hash of what was asked with: the provisioning key of a claim,
	// the credential of a rotation.
	Key   edgeclaim.KeyHash
	Nonce []byte // claim_nonce, decoded
	Salt  [Size]byte
}

// Derive returns HMAC-SHA256 (RFC 2104) of the box's key over label, tenant (16
// bytes), device (16), key (32), nonce and salt (32), each preceded by its
// length as four bytes, big endian. The label is
// edgeclaim/v1/{purpose}/{credential type}. Who lacks the box's key, the nonce
// or the salt knows nothing of it.
func Derive(boxKey edgeclaim.Secret, in *Input) [Size]byte {
	mac := hmac.New(sha256.New, []byte(boxKey.Reveal()))
	mac.Write(in.message())
	return [Size]byte(mac.Sum(nil))
}

// message encodes an input so that no two have the same bytes.
func (in *Input) message() []byte {
	var m []byte
	for _, part := range [][]byte{
		[]byte("edgeclaim/v1/" + string(in.Purpose) + "/" + string(in.Type)),
		in.Tenant.Bytes(), in.Device.Bytes(), in.Key.Bytes(), in.Nonce, in.Salt[:],
	} {
		m = binary.BigEndian.AppendUint32(m, uint32(len(part))) //nolint:gosec // 64 bytes at most
		m = append(m, part...)
	}
	return m
}

// errSealed: what is kept is not what was sealed, or was sealed under another
// secret.
var errSealed = errors.New("sealed key cannot be opened")

// SealKey encrypts a private key (PKCS #8, DER) under a derived secret, by
// AES-256-GCM. A secret seals one key and no other: its salt is new with every
// mint, so that the nonce may stand still.
func SealKey(derived [Size]byte, pkcs8 []byte) ([]byte, error) {
	aead, err := sealer(derived)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, make([]byte, aead.NonceSize()), pkcs8, nil), nil //nolint:gosec // see above
}

// OpenKey decrypts what SealKey made.
func OpenKey(derived [Size]byte, sealed []byte) ([]byte, error) {
	aead, err := sealer(derived)
	if err != nil {
		return nil, err
	}
	pkcs8, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed, nil)
	if err != nil {
		return nil, errSealed
	}
	return pkcs8, nil
}

func sealer(derived [Size]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(derived[:])
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return aead, nil
}
