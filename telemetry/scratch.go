package telemetry

import (
	"bytes"
	"hash/maphash"

	"edgeclaim"
)

// scratch is what looking through one report needs, kept for the next one.
type scratch struct {
	names  names
	points []point
	buf    []byte   // entries, one after the other
	parts  [][]byte // each of them
}

func newScratch() *scratch { return &scratch{names: names{seed: maphash.MakeSeed()}} }

// clear forgets what belongs to a report.
func (s *scratch) clear() {
	clear(s.points)
	clear(s.parts)
	s.points, s.parts, s.buf = s.points[:0], s.parts[:0], s.buf[:0]
	const most = 64 << 10
	if cap(s.buf) > most {
		s.buf = nil // that was a rare one
	}
}

// few is up to how many names are compared one by one.
const few = 8

// names are the metrics of one point: a set without an allocation, for it is
// made for every point.
type names struct {
	seed maphash.Seed
	n    int
	list [edgeclaim.MaxMetrics]([]byte)
	// table leads from a hash to a place in list, plus one; it is in use from
	// few names on.
	table [4 * edgeclaim.MaxMetrics]uint16
}

func (s *names) reset() {
	if s.n >= few {
		clear(s.table[:])
	}
	s.n = 0
}

// add takes a name in and reports whether it is new. There has to be room.
func (s *names) add(name []byte) bool {
	if s.n < few {
		for _, have := range s.list[:s.n] {
			if bytes.Equal(have, name) {
				return false
			}
		}
		s.list[s.n] = name
		s.n++
		return true
	}
	if s.n == few {
		for i, have := range s.list[:few] {
			s.table[s.slot(have)] = uint16(i + 1)
		}
	}
	at := s.slot(name)
	if s.table[at] != 0 {
		return false
	}
	s.list[s.n] = name
	s.n++
	s.table[at] = uint16(s.n)
	return true
}

// slot is where a name is in the table, or would be.
func (s *names) slot(name []byte) int {
	at := int(maphash.Bytes(s.seed, name) % uint64(len(s.table)))
	for s.table[at] != 0 && !bytes.Equal(s.list[s.table[at]-1], name) {
		at = (at + 1) % len(s.table)
	}
	return at
}
