package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
)

const (
	// maxRow bounds one row of the platform's file, in bytes of CSV.
	maxRow = 64 << 10
	// readAhead is what encoding/csv may read beyond the row that it returns.
	readAhead = 4 << 10
	// listSeparator stands between the groups of a row, and between its tags.
	listSeparator = ";"
)

// The columns of the platform's file. The first is required.
const (
	columnHardware = "hardware_id"
	columnProfile  = "profile_id"
	columnName     = "name"
	columnGroups   = "groups"
	columnTags     = "tags"
	columnDevice   = "device_id"
)

var rowColumns = []string{columnHardware, columnProfile, columnName, columnGroups, columnTags, columnDevice}

// rowError is a row that is not taken.
type rowError struct {
	Line    int    `json:"line"`  // from 1
	Field   string `json:"field"` // the column; "row" for the whole
	Message string `json:"message"`
}

func (e *rowError) Error() string { return fmt.Sprintf("line %d: %s: %s", e.Line, e.Field, e.Message) }

// expectedRow is a row of the platform's file.
type expectedRow struct {
	edgeclaim.ManifestRow
	// Device is the id by which the platform knows the board; zero for the
	// derived one (P4).
	Device edgeclaim.DeviceID
	line   int
}

// rowReader reads the platform's file: CSV (RFC 4180) in UTF-8, with or without
// a byte order mark, with a header that names its columns, in any order. Memory
// holds one row.
type rowReader struct {
	csv     *csv.Reader
	source  *rationed
	columns []string
	line    int // of the last row that was read
}

// newRowReader reads the header. Errors: a UsageError of the file, or the
// source's.
func newRowReader(r io.Reader) (*rowReader, error) {
	m := &rowReader{source: &rationed{Reader: r, left: maxRow}, line: 1}
	ahead := bufio.NewReaderSize(m.source, readAhead)
	if err := skipMark(ahead); err != nil {
		return nil, err
	}
	m.csv = csv.NewReader(ahead)
	m.csv.ReuseRecord = true
	header, err := m.csv.Read()
	if errors.Is(err, io.EOF) {
		return nil, cli.Usagef("the file is empty; want a header of %s", strings.Join(rowColumns, ","))
	}
	if _, ok := errors.AsType[*csv.ParseError](err); ok {
		return nil, cli.Usagef("line 1: not well-formed CSV")
	}
	if err != nil {
		return nil, m.fault(err)
	}
	m.columns = slices.Clone(header)
	m.line, _ = m.csv.FieldPos(0)
	return m, m.checkHeader()
}

// skipMark passes over the byte order mark that spreadsheets put before UTF-8.
func skipMark(r *bufio.Reader) error {
	start, _ := r.Peek(3) // less where there is less; the error comes again
	switch {
	case bytes.Equal(start, []byte("\ufeff")):
		_, _ = r.Discard(len(start)) // they are there
	case bytes.HasPrefix(start, []byte{0xff, 0xfe}), bytes.HasPrefix(start, []byte{0xfe, 0xff}):
		return cli.Usagef("the file is UTF-16; want CSV in UTF-8")
	}
	return nil
}

func (m *rowReader) checkHeader() error {
	for i, column := range m.columns {
		if !slices.Contains(rowColumns, column) {
			return cli.Usagef("line %d: column %d: want some of %s, with commas between them", m.line, i+1, strings.Join(rowColumns, ","))
		}
		if slices.Contains(m.columns[:i], column) {
			return cli.Usagef("line %d: %s: given more than once", m.line, column)
		}
	}
	if !slices.Contains(m.columns, columnHardware) {
		return cli.Usagef("line %d: %s: required", m.line, columnHardware)
	}
	return nil
}

// next returns a row. A *rowError is a row to be passed over; io.EOF the end;
// any other error ends the reading.
func (m *rowReader) next() (expectedRow, error) {
	m.source.left = maxRow + readAhead
	record, err := m.csv.Read()
	if parse, ok := errors.AsType[*csv.ParseError](err); ok {
		m.line = parse.Line
		what := "not well-formed CSV"
		if errors.Is(err, csv.ErrFieldCount) {
			what = fmt.Sprintf("%d columns, and the header has %d", len(record), len(m.columns))
		}
		return expectedRow{}, &rowError{Line: parse.StartLine, Field: "row", Message: what}
	}
	if err != nil {
		return expectedRow{}, m.fault(err)
	}
	first, _ := m.csv.FieldPos(0)
	m.line, _ = m.csv.FieldPos(len(record) - 1)
	row, err := m.row(record)
	if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); ok {
		return row, &rowError{Line: first, Field: invalid.Field, Message: invalid.Problem}
	}
	row.line = first
	return row, err
}

// errRowTooLong: a row has no end, or a quote none.
var errRowTooLong = errors.New("a row is too long")

// fault says where a row without an end begins.
func (m *rowReader) fault(err error) error {
	if errors.Is(err, errRowTooLong) {
		return cli.Usagef("a row behind line %d is longer than %d bytes: a quote that is not closed?", m.line, maxRow)
	}
	return err
}

func (m *rowReader) row(record []string) (row expectedRow, err error) {
	for i, text := range record {
		if !utf8.ValidString(text) {
			return row, edgeclaim.Invalid(m.columns[i], "invalid UTF-8")
		}
		text = strings.Clone(text) // the record is one string, and is kept with any part of it
		switch m.columns[i] {
		case columnHardware:
			row.Hardware, err = edgeclaim.ParseHardwareID(text)
		case columnProfile:
			row.Profile, err = optionalName(columnProfile, text)
		case columnName:
			row.Name, err = optionalName(columnName, text)
		case columnGroups:
			row.Groups, err = readGroups(text)
		case columnTags:
			row.Tags, err = readTags(text)
		case columnDevice:
			if text != "" {
				row.Device, err = edgeclaim.ParseDeviceID(text)
			}
		}
		if err != nil {
			return row, err
		}
	}
	return row, nil
}

func optionalName(column, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	return text, edgeclaim.CheckName(column, text)
}

// readGroups reads "line-1;hall-2".
func readGroups(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	groups := strings.Split(text, listSeparator)
	if len(groups) > edgeclaim.MaxGroups {
		return nil, edgeclaim.Invalid(columnGroups, "more than %d", edgeclaim.MaxGroups)
	}
	for i, group := range groups {
		if err := edgeclaim.CheckName(columnGroups, group); err != nil {
			return nil, err
		}
		if slices.Contains(groups[:i], group) {
			return nil, edgeclaim.Invalid(columnGroups, "group %d: given more than once", i+1)
		}
	}
	return groups, nil
}

// readTags reads "batch=7;colour=red".
func readTags(text string) (map[string]string, error) {
	if text == "" {
		return nil, nil
	}
	pairs := strings.Split(text, listSeparator)
	if len(pairs) > edgeclaim.MaxTags {
		return nil, edgeclaim.Invalid(columnTags, "more than %d", edgeclaim.MaxTags)
	}
	tags := make(map[string]string, len(pairs))
	for i, pair := range pairs {
		name, value, found := strings.Cut(pair, "=")
		if !found {
			return nil, edgeclaim.Invalid(columnTags, "tag %d: want name=value", i+1)
		}
		if err := edgeclaim.CheckName(columnTags, name); err != nil {
			return nil, err
		}
		if _, err := optionalName(columnTags, value); err != nil { // a tag may be empty, its name not
			return nil, err
		}
		if _, twice := tags[name]; twice {
			return nil, edgeclaim.Invalid(columnTags, "tag %d: given more than once", i+1)
		}
		tags[name] = value
	}
	return tags, nil
}

// rationed lets no more be read than is left, so that a row without an end takes
// no memory without one.
type rationed struct {
	io.Reader
	left int
}

func (r *rationed) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, errRowTooLong
	}
	n, err := r.Reader.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}
