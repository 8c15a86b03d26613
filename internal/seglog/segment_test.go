package seglog_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"edgeclaim/internal/seglog"
)

// TestFormat: the bytes of an entry are what the documentation says, by the
// standard library's checksum.
func TestFormat(t *testing.T) {
	t.Parallel()
	payload, place := []byte(`{"temperature":21.5}`), uint64(0x0123456789abcdef)
	length := binary.LittleEndian.AppendUint32(nil, uint32(len(payload)))
	summed := binary.LittleEndian.AppendUint64(append(bytes.Clone(payload), length...), place)
	sum := crc32.Checksum(summed, crc32.MakeTable(crc32.Castagnoli))
	want := append(binary.LittleEndian.AppendUint32(length, sum), payload...)
	if got := seglog.AppendEntry(nil, payload, place); !bytes.Equal(got, want) {
		t.Errorf("the entry is\n% x, want\n% x", got, want)
	}
	if got := seglog.SegmentName(42); got != "00000000000000000042.seg" {
		t.Errorf("the file is %s", got)
	}
}

// TestLengthsComeFirst: what is in a damaged payload is not taken for entries,
// whoever wrote it, where the lengths are whole.
func TestLengthsComeFirst(t *testing.T) {
	t.Parallel()
	inside := seglog.AppendEntry(seglog.AppendEntry([]byte("x"), []byte("false"), 6), []byte("false"), 7)
	rest := seglog.AppendEntry(nil, inside, 5)
	size := len(rest)
	rest[4] ^= 1 // the sum
	rest = seglog.AppendEntry(rest, []byte("true"), 6)
	if off, lost := seglog.FindEntry(rest, 5, 100); off != size || lost != 1 {
		t.Errorf("found at %d behind %d lost, want at %d behind 1", off, lost, size)
	}
	if _, lost := seglog.FindEntry(rest, 5, 5); lost != 0 {
		t.Errorf("found behind the limit, %d lost", lost)
	}
}
