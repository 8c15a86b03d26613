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
	ParkedID       = parkedID
)

// DecodeParked reads a row of the quarantine.
func DecodeParked(key, value []byte) error {
	_, _, _, err := decodeParked(key, value)
	return err
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
