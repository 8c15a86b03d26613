package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// A line is a JSON object on one line of printable ASCII:
//
//	{"seq":7,"prev":"64 hex digits","time":"…","kind":"…", …,"sum":"32 hex digits"}
//
// prev is the SHA-256 of the whole line before it, without its newline, in hex:
// that is the chain. sum is the first half of the SHA-256 of the line's own
// bytes before ,"sum": it finds a change of the last line, which no other line
// stands for yet, and tells a whole line from a torn one without its successor.
const (
	// MaxLine is how long a line can be: every field at its limit, and each of
	// its bytes six of an escape.
	MaxLine = 64 << 10

	seqMark   = `{"seq":`
	prevMark  = `,"prev":"`
	timeMark  = `","time":"`
	sumMark   = `,"sum":"`
	sumEnd    = `"}`
	sumDigits = 32
	trailer   = len(sumMark) + sumDigits + len(sumEnd)
	maxSeq    = 1 << 62 // far beyond what a box writes; so that adding one is safe
)

type hash [sha256.Size]byte

func (h hash) String() string { return hex.EncodeToString(h[:]) }

// appendLine appends the line of e without its newline.
func appendLine(dst []byte, e *Entry, seq uint64, prev hash) []byte {
	start := len(dst)
	dst = appendStart(dst, seq, prev)
	dst = e.Time.AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, '"')
	for _, m := range [...]struct{ name, value string }{
		{"kind", e.Kind}, {"who", e.Who}, {"source", e.Source}, {"device_id", e.Device},
		{"tenant_id", e.Tenant}, {"hardware_id", e.Hardware}, {"key_id", e.Key},
		{"template_id", e.Template}, {"reason", e.Reason},
	} {
		if m.value != "" {
			dst = append(append(append(dst, `,"`...), m.name...), `":`...)
			dst = appendString(dst, m.value)
		}
	}
	if e.Count > 0 {
		dst = strconv.AppendUint(append(dst, `,"count":`...), e.Count, 10)
	}
	if len(e.Detail) > 0 {
		separator := `,"detail":{`
		for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
			dst = appendString(append(dst, separator...), k)
			dst = appendString(append(dst, ':'), e.Detail[k])
			separator = ","
		}
		dst = append(dst, '}')
	}
	sum := sha256.Sum256(dst[start:])
	dst = hex.AppendEncode(append(dst, sumMark...), sum[:sumDigits/2])
	return append(dst, sumEnd...)
}

// appendStart appends what a line begins with, up to its time.
func appendStart(dst []byte, seq uint64, prev hash) []byte {
	dst = strconv.AppendUint(append(dst, seqMark...), seq, 10)
	dst = hex.AppendEncode(append(dst, prevMark...), prev[:])
	return append(dst, timeMark...)
}

// appendString appends s as a JSON string of printable ASCII: whoever looks at
// the file in a terminal sees what is there, and nothing steers the terminal.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, r := range s { // what is no UTF-8 becomes U+FFFD
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r >= ' ' && r <= '~':
			dst = append(dst, byte(r))
		case r > 0xffff:
			r -= 0x10000
			dst = appendEscape(appendEscape(dst, 0xd800+(r>>10)), 0xdc00+(r&0x3ff))
		default:
			dst = appendEscape(dst, r)
		}
	}
	return append(dst, '"')
}

func appendEscape(dst []byte, unit rune) []byte {
	const digits = "0123456789abcdef"
	return append(dst, '\\', 'u', digits[unit>>12&15], digits[unit>>8&15], digits[unit>>4&15], digits[unit&15])
}

// What is wrong with a line.
var (
	errNoFrame = errors.New("is no line of the log")
	errSum     = errors.New("was changed: its sum is wrong")
	errNoEntry = errors.New("holds no entry")
)

// unframe checks a line's sum and returns its place in the chain. It does not
// read the entry.
func unframe(line []byte) (seq uint64, prev hash, err error) {
	rest, ok := bytes.CutPrefix(line, []byte(seqMark))
	digits, rest, found := bytes.Cut(rest, []byte(prevMark))
	if !ok || !found || len(rest) < hex.EncodedLen(len(prev))+len(timeMark)+trailer || len(line) > MaxLine {
		return 0, prev, errNoFrame
	}
	body, end := line[:len(line)-trailer], line[len(line)-trailer:]
	sum := sha256.Sum256(body)
	want := hex.AppendEncode([]byte(sumMark), sum[:sumDigits/2]) // as text: A is not a
	if string(end) != string(append(want, sumEnd...)) {
		return 0, prev, errSum
	}
	seq, err = strconv.ParseUint(string(digits), 10, 64)
	if err != nil || seq == 0 || seq > maxSeq {
		return 0, prev, errNoFrame
	}
	if _, err := hex.Decode(prev[:], rest[:hex.EncodedLen(len(prev))]); err != nil {
		return 0, prev, errNoFrame
	}
	if !bytes.HasPrefix(line, appendStart(nil, seq, prev)) { // one spelling: no zeros in front, no A for a
		return 0, prev, errNoFrame
	}
	return seq, prev, nil
}

// A stored entry is what readers want to know of a line.
type stored struct {
	Time   time.Time         `json:"time"`
	Kind   string            `json:"kind"`
	Count  uint64            `json:"count"`
	Detail map[string]string `json:"detail"`
}

// decode reads the entry of a line whose frame is right.
func decode(line []byte) (stored, error) {
	var s stored
	if err := json.Unmarshal(line, &s); err != nil || !validKind(s.Kind) || s.Time.IsZero() {
		return stored{}, errNoEntry
	}
	return s, nil
}

// unfinished reports whether tail, the bytes behind the last newline of a
// file, is what a crash leaves of the line that follows seq and prev: its
// beginning, and zeros where blocks were not written. Anything else there is
// damage, a whole line and something else instead of its newline too.
func unfinished(tail []byte, seq uint64, prev hash) bool {
	if i := bytes.LastIndex(tail, []byte(sumMark)); i >= 0 && len(tail) > i+trailer {
		if _, _, err := unframe(tail[:i+trailer]); err == nil {
			return false
		}
	}
	tail = bytes.TrimRight(tail, "\x00")
	start := appendStart(nil, seq, prev)
	if n := min(len(start), len(tail)); !bytes.Equal(tail[:n], start[:n]) {
		return false
	}
	return bytes.IndexFunc(tail, func(r rune) bool { return r < ' ' || r > '~' || r == utf8.RuneError }) < 0
}
