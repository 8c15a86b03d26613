package registry

import "edgeclaim/bridge/wire"

// Source is where a registry's rows can be looked at.
func Source(db *DB) (driver, source string) { return db.driver, db.source }

// Decoded is what is read of an event.
type Decoded struct {
	Sequence uint64
	Changes  bool // a device
	Fault    string
}

// Decode reads the events of a batch as Apply does.
func Decode(n wire.Names, b *wire.Batch) []Decoded {
	var all []Decoded
	for _, e := range decodeBatch(n, b, true) {
		all = append(all, Decoded{e.sequence, e.what != saysNothing && e.what != saysHead && e.what != saysCommand, e.fault})
	}
	return all
}
