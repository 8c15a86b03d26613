package store

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

	ParkedID = parkedID
)

// DecodeParked reads a row of the quarantine.
func DecodeParked(key, value []byte) error {
	_, _, _, err := decodeParked(key, value)
	return err
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
