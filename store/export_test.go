package store

import "edgeclaim"

// The rows' parsers, for the fuzz tests.
var (
	DecodeDevice   = decodeDevice
	EncodeDevice   = encodeDevice
	DecodeTemplate = decodeTemplate
	EncodeTemplate = encodeTemplate
	DecodeKey      = decodeKey
	EncodeKey      = encodeKey
	DecodeRecord   = decodeRecord
	EncodeRecord   = encodeRecord
	ErrDamaged     = errDamaged
	ParseParkedID  = parseParkedID

	DecodeDenial      = decodeDenial
	EncodeDenial      = encodeDenial
	DecodePending     = decodePending
	EncodePending     = encodePending
	DecodeManifestRow = decodeManifestRow
	EncodeManifestRow = encodeManifestRow
	DecodeToken       = decodeToken
	EncodeToken       = encodeToken
	DecodeCommand     = decodeCommand
	EncodeCommand     = encodeCommand
	DecodeConfig      = decodeConfig
	EncodeConfig      = encodeConfig

	DecodeHeld    = decodeHeld
	EncodeHeld    = encodeHeld
	EncodeProfile = encodeProfile
	EncodeRevoked = encodeRevoked

	ParkedID = parkedID
)

// DecodeParked reads a row of the quarantine.
func DecodeParked(key, value []byte) error {
	_, _, _, err := decodeParked(key, value)
	return err
}

// RevokedRow, AliasRow and WaitingAlias are rows.
type (
	RevokedRow   = revokedRow
	AliasRow     = aliasRow
	WaitingAlias = waitingAlias
)

// DecodeRevoked reads a revocation of a hardware.
func DecodeRevoked(value []byte) (RevokedRow, error) {
	return decodeRevoked(append(make([]byte, 0, 18), "h0123456789abcdefH"...), value)
}

// DecodeProfile reads a profile of that key.
func DecodeProfile(key, value []byte) (edgeclaim.Profile, error) {
	_, p, err := decodeProfile(key, value)
	return p, err
}

// DecodeAlias and EncodeAlias are of an alias's row.
func DecodeAlias(value []byte) (AliasRow, error)    { return decodeAlias(value) }
func EncodeAlias(a *AliasRow) ([]byte, error)       { return a.encode(), nil }
func DecodeWaiting(v []byte) (WaitingAlias, error)  { return decodeWaiting(v) }
func EncodeWaiting(w *WaitingAlias) ([]byte, error) { return encodeWaiting(w) }

// KeysOfDocuments parses what may lie in the buckets of documents as a key.
func KeysOfDocuments(key, value []byte) []error {
	_, err := decodeRevoked(key, value)
	_, err2 := decodeExpected(key, value)
	_, err3 := decodeHeld(key, value)
	_, _, err4 := decodeProfile(key, value)
	_, _, err5 := parseAliasKey(key)
	return []error{err, err2, err3, err4, err5}
}

// Gap is what a gap record tells.
type Gap = gap

// GapsOf are the gap records that losses leave.
func GapsOf(lost ...Gap) []Gap {
	var all losses
	for _, one := range lost {
		all.add(one)
	}
	return all
}

// TailLen is how many ids the tail of the device index holds.
func TailLen(db *DB) int {
	db.mu.RLock()
	defer db.mu.RUnlock()
	n := 0
	for _, rows := range db.tail.rows {
		n += len(rows)
	}
	return n
}

// CredentialEntries is how many entries the index of credentials has.
func CredentialEntries(db *DB) int {
	c := &db.credentials
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := len(c.rows)
	for _, more := range c.more {
		n += len(more)
	}
	return n
}

// ForgetCredentials has the index of credentials made anew by the next look-up.
// Nobody else may use the store meanwhile.
func ForgetCredentials(db *DB) {
	c := &db.credentials
	c.noting.Store(false)
	c.complete.Store(false)
	c.next, c.rows, c.more = 0, nil, nil
}
