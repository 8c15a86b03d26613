package seglog

import (
	"hash/crc32"
	"os"
)

// Disk is what may fail, for tests.
type Disk struct {
	Write func(f *os.File, b []byte, off int64) (int, error)
	Sync  func(f *os.File) error
	Names func(folder *os.File) error
	Free  func(dir string) (int64, error)
}

// OpenOn is Open on a disk that may fail; nil functions are the real disk's.
func OpenOn(cfg Config, d Disk) (*Log, error) {
	on := realDisk()
	if d.Write != nil {
		on.write = d.Write
	}
	if d.Sync != nil {
		on.sync = d.Sync
	}
	if d.Names != nil {
		on.names = d.Names
	}
	if d.Free != nil {
		on.free = d.Free
	}
	return openOn(cfg, on)
}

// What the format is made of.
const (
	SegmentHeader = segmentHeader
	EntryHeader   = entryHeader
	SlotBytes     = slotBytes
)

var (
	SegmentName = segmentName
	FindEntry   = findEntry
	AppendEntry = appendEntry
	DecodeMarks = func(b []byte) error { _, err := decodeMarks(b); return err }
)

// Checksum is a header's.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
