package seglog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
)

// The marks say what is forgotten. Their file has two slots that are written in
// turn, so that one is whole whenever the power goes:
//
//	magic [8], version u32, counter u64, acked u64, lost u64,
//	length of own u32, own [MaxOwn], CRC32C u32 of all these
//
// The higher counter holds. A slot has a block of its own.
const (
	marksName    = "marks"
	marksMagic   = "edgemark"
	marksVersion = 1
	slotBytes    = 4096
	slotSum      = 8 + 4 + 8 + 8 + 8 + 4 + MaxOwn
)

var errNewer = errors.New("written by a newer version of the program")

// marks say up to which place all was acknowledged, up to which it was dropped
// (0: none behind acked), and keep the caller's own bytes.
type marks struct {
	counter uint64
	acked   uint64
	lost    uint64
	own     []byte
}

// floor is the last place that is forgotten.
func (m marks) floor() uint64 { return max(m.acked, m.lost) }

func (m marks) encode() []byte {
	b := make([]byte, 0, slotBytes)
	b = append(b, marksMagic...)
	b = binary.LittleEndian.AppendUint32(b, marksVersion)
	b = binary.LittleEndian.AppendUint64(b, m.counter)
	b = binary.LittleEndian.AppendUint64(b, m.acked)
	b = binary.LittleEndian.AppendUint64(b, m.lost)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.own)))
	b = append(b, m.own...)
	b = append(b, make([]byte, slotSum-len(b))...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return b[:slotBytes]
}

// decodeMarks returns what a slot says; errNewer, or errDamaged.
func decodeMarks(b []byte) (marks, error) {
	if len(b) < slotSum+4 || string(b[:8]) != marksMagic {
		return marks{}, errDamaged
	}
	if binary.LittleEndian.Uint32(b[slotSum:]) != crc32.Checksum(b[:slotSum], castagnoli) {
		return marks{}, errDamaged
	}
	if binary.LittleEndian.Uint32(b[8:]) > marksVersion {
		return marks{}, errNewer
	}
	m := marks{
		counter: binary.LittleEndian.Uint64(b[12:]),
		acked:   binary.LittleEndian.Uint64(b[20:]),
		lost:    binary.LittleEndian.Uint64(b[28:]),
	}
	n := binary.LittleEndian.Uint32(b[36:])
	if n > MaxOwn {
		return marks{}, errDamaged
	}
	m.own = bytes.Clone(b[40 : 40+n])
	return m, nil
}

// marksFile is the open file of the marks.
type marksFile struct {
	file *os.File
	disk disk
	slot int    // to be written next: not the one that holds
	used uint64 // the highest counter that was ever written
	// unsure: the last write failed, and what it wrote may be on the disk.
	unsure bool
	// missing: there was no room for the file yet.
	missing bool
}

// write makes m durable. After an error either of the old and the new may hold;
// the next write goes to the same slot again, so that the good one stays.
func (f *marksFile) write(m marks) error {
	if f.file == nil {
		return fs.ErrClosed
	}
	f.used++
	m.counter = f.used
	f.unsure = true
	if _, err := f.disk.write(f.file, m.encode(), int64(f.slot)*slotBytes); err != nil {
		return err
	}
	if err := f.disk.sync(f.file); err != nil {
		return err
	}
	f.slot, f.unsure = 1-f.slot, false
	return nil
}

func (f *marksFile) close() {
	f.missing = false
	if f.file != nil {
		f.file.Close()
		f.file = nil
	}
}

// loadMarks opens the marks and returns what they say. found is false where
// there is no file, or neither slot is good; the file is nil then.
func loadMarks(path string, d disk) (f marksFile, m marks, found bool, err error) {
	f.disk = d
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return f, marks{}, false, nil
	}
	if err != nil {
		return f, marks{}, false, err
	}
	for slot := range 2 {
		b := make([]byte, slotBytes)
		if _, err := file.ReadAt(b, int64(slot)*slotBytes); err != nil && !errors.Is(err, io.EOF) {
			continue // the other one may do
		}
		one, err := decodeMarks(b)
		if errors.Is(err, errNewer) {
			file.Close()
			return f, marks{}, false, fmt.Errorf("%s: %w", path, err)
		}
		if err == nil && (!found || one.counter > m.counter) {
			m, found = one, true
			f.slot, f.used = 1-slot, one.counter
		}
	}
	if !found {
		file.Close()
		return f, marks{}, false, nil
	}
	f.file = file
	// What a process that was killed had written may not be on the disk yet.
	return f, m, true, d.sync(file)
}

// createMarks makes the file anew, whole or not at all.
func (l *Log) createMarks(m marks) error {
	b := make([]byte, 2*slotBytes)
	m.counter = 1
	copy(b, m.encode())
	file, err := l.create(marksName, b)
	if err != nil {
		return err
	}
	l.marksFile = marksFile{file: file, disk: l.disk, slot: 1, used: 1}
	return nil
}

// create makes a file with that content, or replaces it, so that after any
// crash there is all of it or what was there before. It is durable when create
// has returned; after an error it may be there.
func (l *Log) create(name string, content []byte) (*os.File, error) {
	temporary := l.path(name + newSuffix)
	file, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = l.disk.write(file, content, 0); err == nil {
		err = l.disk.sync(file)
	}
	if err == nil {
		err = os.Rename(temporary, l.path(name))
	}
	if err == nil {
		err = l.disk.names(l.folder)
	}
	if err != nil {
		file.Close()
		return nil, errors.Join(err, ignoreMissing(os.Remove(temporary)))
	}
	return file, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
