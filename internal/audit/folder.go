package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The names of segments: the sequence of the first line, with leading zeros so
// that their order by name is the order of the chain.
const (
	segmentPrefix = "audit-"
	segmentSuffix = ".jsonl"
	segmentDigits = 20
)

// A segment is one file of the log.
type segment struct {
	first uint64 // sequence of its first line, from its name
	size  int64
	gone  bool // an entry that it was dropped is on its way
	said  bool // and durable
}

func (s segment) name() string { return segmentName(s.first) }

func segmentName(first uint64) string {
	return fmt.Sprintf("%s%0*d%s", segmentPrefix, segmentDigits, first, segmentSuffix)
}

// segmentsIn lists the segments of a folder, oldest first. Other files are
// none of the log's.
func segmentsIn(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segments []segment
	for _, e := range entries {
		digits := strings.TrimSuffix(strings.TrimPrefix(e.Name(), segmentPrefix), segmentSuffix)
		first, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || first == 0 || first > maxSeq || e.Name() != segmentName(first) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped by the box that runs
		}
		if err != nil {
			return nil, err
		}
		segments = append(segments, segment{first: first, size: info.Size()})
	}
	slices.SortFunc(segments, func(a, b segment) int { return strings.Compare(a.name(), b.name()) })
	return segments, nil
}

// A folder is where the log changes files, and the one place that does.
type folder struct {
	dir    string
	before func(op, name string) error // of tests: asked before every change; nil for none
}

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

func (f folder) ask(op, name string) error {
	if f.before == nil {
		return nil
	}
	return f.before(op, name)
}

// make makes the folder, durably and for us alone.
func (f folder) make() error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(f.dir, 0o700); err != nil { //nolint:gosec // a folder needs its x bit
		return err
	}
	return syncFolder(filepath.Dir(f.dir))
}

// create makes an empty file, and its name durable. One that is there and
// empty is what a crash or a full disk left of an earlier try.
func (f folder) create(name string) (*os.File, error) {
	if err := f.ask("create", name); err != nil {
		return nil, err
	}
	file, err := f.open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && info.Size() > 0 {
		err = fmt.Errorf("%s: %w", name, fs.ErrExist)
	}
	if err == nil {
		err = f.ask("sync folder", name)
	}
	if err == nil {
		err = syncFolder(f.dir)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// open opens a segment for writing, and makes it if need be.
func (f folder) open(name string) (*os.File, error) {
	file, err := os.OpenFile(f.path(name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Chmod(0o600); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func (f folder) write(file *os.File, b []byte, at int64) error {
	if err := f.ask("write", filepath.Base(file.Name())); err != nil {
		return err
	}
	_, err := file.WriteAt(b, at)
	return err
}

func (f folder) sync(file *os.File) error {
	if err := f.ask("sync", filepath.Base(file.Name())); err != nil {
		return err
	}
	return file.Sync()
}

func (f folder) truncate(file *os.File, size int64) error {
	if err := f.ask("truncate", filepath.Base(file.Name())); err != nil {
		return err
	}
	return file.Truncate(size)
}

// remove is not followed by an fsync of the folder: a file that comes back
// after a power cut is dropped again.
func (f folder) remove(name string) error {
	if err := f.ask("remove", name); err != nil {
		return err
	}
	err := os.Remove(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncFolder(dir string) error {
	f, err := os.Open(dir) //nolint:gosec // the operator's own data folder
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// A rawLine is what stands between two newlines.
type rawLine struct {
	number int    // in its file, from 1
	text   []byte // valid until the next line is read; cut off after MaxLine
	hash   hash   // of all of it
	whole  bool   // a newline follows
	size   int64  // without the newline
}

// eachLine reads lines however long they are, in bounded memory. A last line
// of nothing is none.
func eachLine(r io.Reader, each func(rawLine) error) error {
	reader := bufio.NewReaderSize(r, MaxLine+2)
	for number := 1; ; number++ {
		line, err := readLine(reader)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err != nil && line.size == 0 {
			return nil
		}
		line.number = number
		if failed := each(line); failed != nil || err != nil {
			return failed
		}
	}
}

// readLine returns io.EOF with what follows the last newline.
func readLine(reader *bufio.Reader) (rawLine, error) {
	part, err := reader.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		text, whole := bytes.CutSuffix(part, []byte{'\n'})
		return rawLine{text: text, hash: sha256.Sum256(text), whole: whole, size: int64(len(text))}, err
	}
	line := rawLine{text: slices.Clone(part)}
	sum := sha256.New()
	for {
		part, line.whole = bytes.CutSuffix(part, []byte{'\n'})
		sum.Write(part) // never fails
		line.size += int64(len(part))
		if !errors.Is(err, bufio.ErrBufferFull) {
			line.hash = hash(sum.Sum(nil))
			return line, err
		}
		part, err = reader.ReadSlice('\n')
	}
}
