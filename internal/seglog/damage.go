package seglog

import "encoding/binary"

// What looking for the next entry behind damage may cost: bytes that are summed
// up and places that are tried. It bounds what bytes made for the purpose can
// cost, some tenths of a second.
const (
	maxSummed = 64 << 20
	maxTried  = 16 << 20
)

// findEntry looks behind damage for the next entry. rest begins with what does
// not verify as the entry of place. It returns where in rest the next one
// begins, and how many places lie before that, 1 at least; 0 when there is none
// whose place is limit or lower.
//
// First the lengths are believed: then the damage is in payloads or sums. Else
// one is looked for at every byte, with every place that it can have.
func findEntry(rest []byte, place, limit uint64) (off int, lost uint64) {
	if off, lost = followLengths(rest, place, limit); lost > 0 {
		return off, lost
	}
	return searchBytes(rest, place, limit)
}

func followLengths(rest []byte, place, limit uint64) (off int, lost uint64) {
	for {
		size := entrySize(rest[off:], int64(len(rest)-off))
		if size == 0 {
			return 0, 0
		}
		if lost > 0 && verifies(rest[off:off+int(size)], place+lost) {
			return off, lost
		}
		if lost >= limit-place {
			return 0, 0
		}
		off += int(size)
		lost++
	}
}

// searchBytes tries every byte behind the first. What it finds is believed when
// the one behind it verifies too, or it ends where rest does: among many places
// that are tried, one has the right sum by chance now and then.
func searchBytes(rest []byte, place, limit uint64) (off int, lost uint64) {
	summed, tried := 0, uint64(0)
	for off = 1; off+minEntry <= len(rest); off++ {
		size := int(entrySize(rest[off:], int64(len(rest)-off)))
		if size == 0 {
			continue
		}
		// The damaged one took a place at least, and what was there has room for
		// so many at most.
		most := min(uint64(max(off/minEntry, 1)), limit-place)
		summed += size
		tried += most
		if summed > maxSummed || tried > maxTried {
			return 0, 0
		}
		entry := rest[off : off+size]
		begun, want := beginChecksum(entry[entryHeader:]), binary.LittleEndian.Uint32(entry[4:])
		for lost = 1; lost <= most; lost++ {
			if endChecksum(begun, place+lost) == want && confirmed(rest[off+size:], place+lost+1) {
				return off, lost
			}
		}
	}
	return 0, 0
}

func confirmed(behind []byte, place uint64) bool {
	if len(behind) == 0 {
		return true
	}
	size := entrySize(behind, int64(len(behind)))
	return size > 0 && verifies(behind[:size], place)
}
