package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
)

// readAll reads a file's rows as text, and what is said of those not taken.
func readAll(r io.Reader) (rows []string, refused []rowError, err error) {
	reader, err := newRowReader(r)
	if err != nil {
		return nil, nil, err
	}
	for {
		row, err := reader.next()
		if bad, ok := errors.AsType[*rowError](err); ok {
			refused = append(refused, *bad)
			continue
		}
		if errors.Is(err, io.EOF) {
			return rows, refused, nil
		}
		if err != nil {
			return rows, refused, err
		}
		device := ""
		if !row.Device.IsZero() {
			device = row.Device.String()
		}
		rows = append(rows, fmt.Sprintf("%d %s|%s|%s|%s|%s|%s", row.line, row.Hardware, row.Profile, row.Name,
			strings.Join(row.Groups, "+"), tagText(row.Tags), device))
	}
}

func tagText(tags map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, name+"="+tags[name])
	}
	return strings.Join(all, "+")
}

const (
	someDevice = "8f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33"
	someHash   = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
)

func TestRows(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"all columns": {
			"hardware_id,profile_id,name,groups,tags,device_id\nH-1,pump,Pump 1,a;b,batch=7;colour=red," + someDevice + "\n",
			[]string{"2 H-1|pump|Pump 1|a+b|batch=7+colour=red|" + someDevice},
		},
		"any order":       {"name,hardware_id\nPump,H-1\n", []string{"2 H-1||Pump|||"}},
		"one column":      {"hardware_id\nH-1\nH-2", []string{"2 H-1|||||", "3 H-2|||||"}},
		"empty cells":     {"hardware_id,profile_id,name,groups,tags,device_id\nH-1,,,,,\n", []string{"2 H-1|||||"}},
		"byte order mark": {"\ufeffhardware_id\nH-1\n", []string{"2 H-1|||||"}},
		"mark and quote":  {"\ufeff\"hardware_id\",name\nH-1,n\n", []string{"2 H-1||n|||"}},
		"CRLF":            {"hardware_id,name\r\nH-1,n\r\nH-2,m\r\n", []string{"2 H-1||n|||", "3 H-2||m|||"}},
		"blank lines":     {"\nhardware_id\n\n\nH-1\n\n", []string{"5 H-1|||||"}},
		"quoted": {
			"hardware_id,name,groups\nH-1,\"a \"\"b\"\", c\",\"x, y;z\"\nH-2,n,\n",
			[]string{`2 H-1||a "b", c|x, y+z||`, "3 H-2||n|||"},
		},
		"value with =": {"hardware_id,tags\nH-1,a=b=c\n", []string{"2 H-1||||a=b=c|"}},
		"empty tag":    {"hardware_id,tags\nH-1,a=;b=1\n", []string{"2 H-1||||a=+b=1|"}},
		"no rows":      {"hardware_id\n", nil},
	} {
		rows, refused, err := readAll(strings.NewReader(tc.text))
		if err != nil || len(refused) > 0 || !slices.Equal(rows, tc.want) {
			t.Errorf("%s: %q, refused %v, %v, want %q", name, rows, refused, err, tc.want)
		}
	}
}

// What is wrong with a row is said by its line and field, and the others count.
func TestRowsRefused(t *testing.T) {
	const all = "hardware_id,profile_id,name,groups,tags,device_id\n"
	long := strings.Repeat("x", edgeclaim.MaxName+1)
	for row, want := range map[string]string{
		"H 1,,,,,":                           "hardware_id: want printable ASCII without blanks",
		",,,,,":                              "hardware_id: want 1 to 128 characters",
		"H-1,,":                              "row: 3 columns, and the header has 6",
		"H-1,\"a\"b,,,,":                     "row: not well-formed CSV",
		"H-1,a\x01,,,,":                      "profile_id: control characters are not allowed",
		"H-1,,\xff,,,":                       "name: invalid UTF-8",
		"H-1,," + long + ",,,":               "name: want 1 to 128 characters",
		"H-1,,,a;;b,,":                       "groups: want 1 to 128 characters",
		"H-1,,,a;b;a,,":                      "groups: group 3: given more than once",
		"H-1,,," + sixtyFive("g%d") + ",,":   "groups: more than 64",
		"H-1,,,,a,":                          "tags: tag 1: want name=value",
		"H-1,,,,a=1;,":                       "tags: tag 2: want name=value",
		"H-1,,,,=1,":                         "tags: want 1 to 128 characters",
		"H-1,,,,a=1;b=2;a=3,":                "tags: tag 3: given more than once",
		"H-1,,,," + sixtyFive("t%d=v") + ",": "tags: more than 64",
		"H-1,,,,,7":                          "device_id: want a UUID of 36 characters",
	} {
		rows, refused, err := readAll(strings.NewReader(all + "H-0,,,,,\n" + row + "\nH-2,,,,,\n"))
		if err != nil || len(rows) != 2 || len(refused) != 1 {
			t.Errorf("%.40q: rows %q, refused %v, %v", row, rows, refused, err)
			continue
		}
		if got := refused[0].Field + ": " + refused[0].Message; got != want || refused[0].Line != 3 {
			t.Errorf("%.40q: line %d: %s, want line 3: %s", row, refused[0].Line, got, want)
		}
	}
}

// sixtyFive joins 65 of something.
func sixtyFive(format string) string {
	var all []string
	for i := range 65 {
		all = append(all, fmt.Sprintf(format, i))
	}
	return strings.Join(all, ";")
}

// What is no file of rows is a usage error that says why.
func TestRowsOfNoFile(t *testing.T) {
	const want = "hardware_id,profile_id,name,groups,tags,device_id"
	for text, message := range map[string]string{
		"":                             "the file is empty; want a header of " + want,
		"\ufeff":                       "the file is empty; want a header of " + want,
		"hardware_id,mac\n":            "line 1: column 2: want some of " + want + ", with commas between them",
		"hardware_id;name\n":           "line 1: column 1: want some of " + want + ", with commas between them",
		"Hardware_ID\n":                "line 1: column 1: want some of " + want + ", with commas between them",
		"name\n":                       "line 1: hardware_id: required",
		"name,hardware_id,name\n":      "line 1: name: given more than once",
		"\"hardware_id\n":              "line 1: not well-formed CSV",
		"\xff\xfeh\x00a\x00r\x00d\x00": "the file is UTF-16; want CSV in UTF-8",
		"hardware_id\nH-1\n\"" + strings.Repeat("x\n", 1<<20): "a row behind line 2 is longer than 65536 bytes: a quote that is not closed?",
		strings.Repeat("x", 1<<20):                            "a row behind line 1 is longer than 65536 bytes: a quote that is not closed?",
	} {
		_, _, err := readAll(strings.NewReader(text))
		if _, ok := errors.AsType[*cli.UsageError](err); !ok || err.Error() != message {
			t.Errorf("%.40q: %v, want %s", text, err, message)
		}
	}
}

// failing breaks off after what is left of it.
type failing struct{ io.Reader }

var errBroken = errors.New("broken")

func (f failing) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = errBroken
	}
	return n, err
}

// A file that cannot be read on is an error, never a shorter file.
func TestRowsBreakOff(t *testing.T) {
	for _, text := range []string{"", "hardware_id", "hardware_id\n", "hardware_id\nH-1\n", "hardware_id\nH-1\nH-"} {
		if _, _, err := readAll(failing{strings.NewReader(text)}); !errors.Is(err, errBroken) {
			t.Errorf("%q: %v, want %v", text, err, errBroken)
		}
	}
}

// Whatever a file says, each of its rows is taken whole or refused by its line.
func FuzzRows(f *testing.F) {
	for _, text := range []string{
		"", "hardware_id\nH-1\n", "\ufeffhardware_id,tags\r\nH-1,a=b;c=d\r\n", "hardware_id,groups\nH-1,a;b\nH-2,;\n",
		"hardware_id,device_id\nH-1," + someDevice + "\n", "hardware_id,name\n\"H-1\",\"a\nb\"\n\"", "hardware_id\n\xff\n",
		"name,hardware_id\n,\nx\n,,\n", "hardware_id\nH-1\r\rH-2\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		reader, err := newRowReader(strings.NewReader(string(text)))
		last := 0
		for err == nil {
			var row expectedRow
			row, err = reader.next()
			if bad, ok := errors.AsType[*rowError](err); ok {
				if bad.Line <= last || bad.Field == "" || bad.Message == "" || !utf8.ValidString(bad.Message) {
					t.Fatalf("refused %+v behind line %d", bad, last)
				}
				last, err = bad.Line, nil
				continue
			}
			if err != nil {
				break
			}
			if row.line <= last {
				t.Fatalf("line %d behind %d", row.line, last)
			}
			last = row.line
			checkTaken(t, &row)
		}
		if _, usage := errors.AsType[*cli.UsageError](err); !usage && !errors.Is(err, io.EOF) {
			t.Fatalf("ends with %v", err)
		}
	})
}

// checkTaken holds a row against the rules, and reads it again.
func checkTaken(t *testing.T, row *expectedRow) {
	t.Helper()
	if row.Hardware.IsZero() || len(row.Groups) > edgeclaim.MaxGroups || len(row.Tags) > edgeclaim.MaxTags {
		t.Fatalf("taken: %+v", row)
	}
	var again strings.Builder
	w := csv.NewWriter(&again)
	tags := strings.ReplaceAll(tagText(row.Tags), "+", listSeparator)
	if strings.Contains(tagText(row.Tags), listSeparator) || strings.Count(tagText(row.Tags), "+") >= max(len(row.Tags), 1) {
		tags = "" // has what stands between them here
	}
	record := []string{row.Hardware.String(), row.Profile, row.Name, strings.Join(row.Groups, listSeparator), tags}
	if err := errors.Join(w.Write(rowColumns[:5]), w.Write(record)); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	rows, refused, err := readAll(strings.NewReader(again.String()))
	if err != nil || len(rows) != 1 || len(refused) > 0 {
		t.Fatalf("%q read again: %q, %v, %v", again.String(), rows, refused, err)
	}
}
