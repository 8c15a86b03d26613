package httpapi

import (
	"encoding/csv"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"edgeclaim"
)

const (
	// maxManifestRow bounds one row of a manifest, in bytes of CSV.
	maxManifestRow = 64 << 10
	// readAhead is what encoding/csv may read beyond the row that it returns.
	readAhead = 4 << 10
	// listSeparator stands between the groups of a row, and between its tags.
	listSeparator = ";"
	// tagSeparator stands between the name of a tag and its value: the first of
	// them does.
	tagSeparator  = "="
	byteOrderMark = "\ufeff"
)

// The columns of a manifest. The first is required.
const (
	columnHardware = "hardware_id"
	columnProfile  = "profile_id"
	columnName     = "name"
	columnGroups   = "groups"
	columnTags     = "tags"
)

var manifestColumns = []string{columnHardware, columnProfile, columnName, columnGroups, columnTags}

// rowError is a row that is not taken.
type rowError struct {
	Line    int    `json:"line"`  // from 1
	Field   string `json:"field"` // the column; "row" for the whole
	Message string `json:"message"`
}

func (e *rowError) Error() string { return e.Field + ": " + e.Message }

// manifestReader reads a manifest: CSV (RFC 4180) in UTF-8, with a header that
// names its columns, in any order. Memory holds one row.
type manifestReader struct {
	csv     *csv.Reader
	source  *rationed
	columns []string
}

// newManifestReader reads the header; its error is ErrInvalid, or the source's.
func newManifestReader(r io.Reader) (*manifestReader, error) {
	m := &manifestReader{source: &rationed{Reader: r}}
	m.csv = csv.NewReader(m.source)
	m.csv.ReuseRecord = true
	m.source.left = maxManifestRow
	header, err := m.csv.Read()
	if errors.Is(err, io.EOF) {
		return nil, edgeclaim.Invalid("body", "empty; want a header of %s", strings.Join(manifestColumns, ","))
	}
	if _, ok := errors.AsType[*csv.ParseError](err); ok {
		return nil, edgeclaim.Invalid("body", "line 1 is not well-formed CSV")
	}
	if err != nil {
		return nil, err
	}
	m.columns = slices.Clone(header)
	m.columns[0] = strings.TrimPrefix(m.columns[0], byteOrderMark)
	for i, column := range m.columns {
		if !slices.Contains(manifestColumns, column) {
			return nil, edgeclaim.Invalid("body", "line 1: column %d: want some of %s", i+1, strings.Join(manifestColumns, ","))
		}
		if slices.Contains(m.columns[:i], column) {
			return nil, edgeclaim.Invalid("body", "line 1: %s: given more than once", column)
		}
	}
	if !slices.Contains(m.columns, columnHardware) {
		return nil, edgeclaim.Invalid("body", "line 1: %s: required", columnHardware)
	}
	return m, nil
}

// next returns a row and its line. A *rowError is a row to be passed over;
// io.EOF the end; any other error ends the reading.
func (m *manifestReader) next() (edgeclaim.ManifestRow, int, error) {
	m.source.left = maxManifestRow + readAhead
	record, err := m.csv.Read()
	if parse, ok := errors.AsType[*csv.ParseError](err); ok {
		what := "not well-formed CSV"
		if errors.Is(err, csv.ErrFieldCount) {
			what = "not as many columns as the header has"
		}
		return edgeclaim.ManifestRow{}, parse.StartLine, &rowError{Line: parse.StartLine, Field: "row", Message: what}
	}
	if err != nil {
		return edgeclaim.ManifestRow{}, 0, err
	}
	line, _ := m.csv.FieldPos(0)
	row, err := m.row(record)
	if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); ok {
		return row, line, &rowError{Line: line, Field: invalid.Field, Message: invalid.Problem}
	}
	return row, line, err
}

func (m *manifestReader) row(record []string) (edgeclaim.ManifestRow, error) {
	var row edgeclaim.ManifestRow
	for i, text := range record {
		if !utf8.ValidString(text) {
			return row, edgeclaim.Invalid(m.columns[i], "invalid UTF-8")
		}
		text = strings.Clone(text) // the record is one string, and is kept with any part of it
		switch m.columns[i] {
		case columnHardware:
			var err error
			if row.Hardware, err = edgeclaim.ParseHardwareID(text); err != nil {
				return row, err
			}
		case columnProfile:
			row.Profile = text
		case columnName:
			row.Name = text
		case columnGroups:
			if text != "" {
				row.Groups = strings.Split(text, listSeparator)
			}
		case columnTags:
			var err error
			if row.Tags, err = readTags(text); err != nil {
				return row, err
			}
		}
	}
	return row, nil
}

// readTags reads the tags of a row; nil for none.
func readTags(text string) (map[string]string, error) {
	if text == "" {
		return nil, nil
	}
	tags := map[string]string{}
	for tag := range strings.SplitSeq(text, listSeparator) {
		name, value, ok := strings.Cut(tag, tagSeparator)
		if !ok || name == "" {
			return nil, edgeclaim.Invalid(columnTags, "want name=value, with %s between several", listSeparator)
		}
		if _, twice := tags[name]; twice {
			return nil, edgeclaim.Invalid(columnTags, "a name is given more than once")
		}
		tags[name] = value
	}
	return tags, nil
}

// errRowTooLong: a row has no end, or a quote none.
var errRowTooLong = edgeclaim.Invalid("body", "a row is longer than %d bytes", maxManifestRow)

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

// manifestWriter writes rows as a manifestReader reads them.
type manifestWriter struct{ csv *csv.Writer }

func newManifestWriter(w io.Writer) (manifestWriter, error) {
	m := manifestWriter{csv.NewWriter(w)}
	return m, m.csv.Write(manifestColumns)
}

// write writes rows, all or none: an unspeakableError is of one that CSV has no
// words for.
func (m manifestWriter) write(rows []edgeclaim.ManifestRow) error {
	for i := range rows {
		if !speakable(&rows[i]) {
			return unspeakableError{rows[i].Hardware}
		}
	}
	for _, row := range rows {
		err := m.csv.Write([]string{
			row.Hardware.String(), row.Profile, row.Name, strings.Join(row.Groups, listSeparator), tagsText(row.Tags),
		})
		if err != nil {
			return err
		}
	}
	m.csv.Flush()
	return m.csv.Error()
}

// speakable reports whether no group or tag has a separator in it.
func speakable(row *edgeclaim.ManifestRow) bool {
	for _, group := range row.Groups {
		if strings.Contains(group, listSeparator) {
			return false
		}
	}
	for name, value := range row.Tags {
		if strings.Contains(name, tagSeparator) || strings.Contains(name+value, listSeparator) {
			return false
		}
	}
	return true
}

// tagsText writes tags in order of their names: the same list is the same file.
func tagsText(tags map[string]string) string {
	all := make([]string, 0, len(tags))
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, name+tagSeparator+tags[name])
	}
	return strings.Join(all, listSeparator)
}

// unspeakableError is of a row that came in JSON, in a document from upstream:
// read again as CSV it would be another.
type unspeakableError struct{ hardware edgeclaim.HardwareID }

func (e unspeakableError) Error() string {
	return "the row of " + e.hardware.String() + " has " + listSeparator + " in a group or tag, or " + tagSeparator +
		" in a tag's name, which CSV cannot say: ask for JSON"
}
