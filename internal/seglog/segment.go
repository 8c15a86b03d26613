package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"
)

// A segment is a file: its header, and entries one behind the other. Numbers
// are little-endian.
//
//	header  magic [8], version u32, place of the first entry u64, CRC32C u32 of these
//	entry   length of the payload u32, CRC32C u32 of payload, length and place, payload
//
// An entry's place is in its checksum, not in its bytes: what stands where it
// does not belong does not verify.
const (
	segmentMagic   = "edgeseg\x00"
	segmentVersion = 1
	segmentHeader  = 8 + 4 + 8 + 4
	entryHeader    = 4 + 4
	minEntry       = entryHeader + 1 // nothing has no payload: zeros are no entry

	segmentSuffix = ".seg"
	newSuffix     = ".new" // made, but not whole yet

	// pointStep is how many bytes lie between two points of a segment's index at
	// least: a thousandth of the quota is what the indexes take at most.
	pointStep = 16 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged: what stands there is no entry of its place.
var errDamaged = errors.New("damaged")

// segment is one file, as the log knows it. Its fields are under Log.mu.
type segment struct {
	first  uint64
	end    int64   // what is durable of it, and may be read
	points []point // ascending
	faults int     // reads of it that failed
}

// point says where an entry begins.
type point struct {
	place uint64
	off   int64
}

// note adds a point that lies far enough behind the last one.
func (s *segment) note(p point) {
	behind := int64(segmentHeader)
	if n := len(s.points); n > 0 {
		behind = s.points[n-1].off
	}
	if p.off >= behind+pointStep {
		s.points = append(s.points, p)
	}
}

// start returns the last known beginning of an entry that is not behind place.
func (s *segment) start(place uint64) point {
	low, high := 0, len(s.points)
	for low < high {
		if mid := (low + high) / 2; s.points[mid].place <= place {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return point{place: s.first, off: segmentHeader}
	}
	return s.points[low-1]
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

// parseName returns the first place of the segment with that name.
func parseName(name string) (first uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0 && segmentName(first) == name
}

func encodeHeader(first uint64) []byte {
	b := make([]byte, 0, segmentHeader)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint32(b, segmentVersion)
	b = binary.LittleEndian.AppendUint64(b, first)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeHeader returns the version and first place; ok says that they verify.
func decodeHeader(b []byte) (version uint32, first uint64, ok bool) {
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic {
		return 0, 0, false
	}
	sum := binary.LittleEndian.Uint32(b[20:])
	return binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint64(b[12:]), sum == crc32.Checksum(b[:20], castagnoli)
}

// checksum is that of an entry: begun by its payload and length, ended by its
// place, so that places can be tried at the price of eight bytes.
func checksum(payload []byte, place uint64) uint32 {
	return endChecksum(beginChecksum(payload), place)
}

func beginChecksum(payload []byte) uint32 {
	return addNumber(crc32.Checksum(payload, castagnoli), uint64(len(payload)), 4)
}

func endChecksum(begun uint32, place uint64) uint32 { return addNumber(begun, place, 8) }

// addNumber goes on with a checksum by the lowest size bytes of n. The standard
// library would have them on the heap.
func addNumber(sum uint32, n uint64, size int) uint32 {
	sum = ^sum
	for range size {
		sum = castagnoli[byte(sum)^byte(n)] ^ sum>>8
		n >>= 8
	}
	return ^sum
}

func appendEntry(b, payload []byte, place uint64) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.LittleEndian.AppendUint32(b, checksum(payload, place))
	return append(b, payload...)
}

// entrySize returns how long the entry is that b begins with, by its own word;
// 0 when that cannot be, or it would not end within left bytes.
func entrySize(b []byte, left int64) int64 {
	if len(b) < entryHeader {
		return 0
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n == 0 || n > MaxPayload || entryHeader+n > left {
		return 0
	}
	return entryHeader + n
}

// verifies says whether b, an entry by its length, is the one of place.
func verifies(b []byte, place uint64) bool {
	return binary.LittleEndian.Uint32(b[4:]) == checksum(b[entryHeader:], place)
}

// scanner walks along the entries of a segment. Each payload that it returns
// lies in a buffer that it never uses again.
type scanner struct {
	file   *os.File
	off    int64  // of what comes next
	end    int64  // nothing is read from here on
	place  uint64 // of what comes next
	window int    // bytes to read at a time; it grows
	patch  bool   // pages that cannot be read are zeros

	buf     []byte // what the file has from at on
	at      int64
	patched bool // some were
}

// next returns the next entry's payload; io.EOF at the end, errDamaged where
// there is no entry, which it does not pass, or an error of the disk.
func (s *scanner) next() ([]byte, error) {
	left := s.end - s.off
	if left <= 0 {
		return nil, io.EOF
	}
	b, err := s.peek(min(left, entryHeader))
	if err != nil {
		return nil, err
	}
	size := entrySize(b, left)
	if size == 0 {
		return nil, errDamaged
	}
	if b, err = s.peek(size); err != nil {
		return nil, err
	}
	if !verifies(b, s.place) {
		return nil, errDamaged
	}
	s.off += size
	s.place++
	return b[entryHeader:size:size], nil
}

// skip passes damage: it goes on to the next entry that verifies, and returns
// how many places that cost. ok is false when there is none of a place up to
// limit; the scanner stays where it is then.
func (s *scanner) skip(limit uint64) (lost uint64, ok bool, err error) {
	rest, err := s.read(s.off, s.end-s.off)
	if err != nil {
		return 0, false, err
	}
	off, lost := findEntry(rest, s.place, limit)
	if lost == 0 {
		return 0, false, nil
	}
	s.off += int64(off)
	s.place += lost
	return lost, true, nil
}

// peek returns the next n bytes, which are not behind the end.
func (s *scanner) peek(n int64) ([]byte, error) {
	from := s.off - s.at
	if from < 0 || from+n > int64(len(s.buf)) {
		buf, err := s.read(s.off, min(max(n, int64(s.window)), s.end-s.off))
		if err != nil {
			return nil, err
		}
		s.buf, s.at, from = buf, s.off, 0
		s.window = min(2*s.window, maxWindow)
	}
	return s.buf[from : from+n], nil
}

// page is what a disk fails to read at a time.
const page = 4096

// read returns n bytes of the file. What lies behind its end are zeros: no entry.
func (s *scanner) read(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	_, err := s.file.ReadAt(b, off)
	if err == nil || errors.Is(err, io.EOF) {
		return b, nil
	}
	if !s.patch {
		return nil, err
	}
	s.patched = true
	for at := int64(0); at < n; {
		to := min(n, at+page-(off+at)%page)
		if _, err := s.file.ReadAt(b[at:to], off+at); err != nil && !errors.Is(err, io.EOF) {
			clear(b[at:to])
		}
		at = to
	}
	return b, nil
}
