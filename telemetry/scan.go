package telemetry

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep arrays and objects may lie in each other.
const maxDepth = 64

// The scanner goes over JSON twice: value makes sure of the grammar (RFC 8259,
// with valid UTF-8 and no lone surrogates, as RFC 7493 wants), and what reads
// members after that trusts it. Both are quicker than a decoder that makes
// values, for nothing here needs the values.

// document reports whether b is one JSON value with nothing around it but
// blanks, and where it begins and ends. Else end is where it goes wrong.
func document(b []byte) (start, end int, ok bool) {
	start = blanks(b, 0)
	end, ok = value(b, start, 0)
	if !ok {
		return start, end, false
	}
	if after := blanks(b, end); after != len(b) {
		return start, after, false
	}
	return start, end, true
}

func blanks(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// value goes over the value at i and returns its end, or where it goes wrong.
func value(b []byte, i, depth int) (end int, ok bool) {
	if i >= len(b) || depth > maxDepth {
		return i, false
	}
	switch c := b[i]; {
	case c == '"':
		return text(b, i)
	case c == '-' || c >= '0' && c <= '9':
		return number(b, i)
	case c == '{':
		return object(b, i, depth)
	case c == '[':
		return array(b, i, depth)
	case c == 't':
		return word(b, i, "true")
	case c == 'f':
		return word(b, i, "false")
	case c == 'n':
		return word(b, i, "null")
	default:
		return i, false
	}
}

func word(b []byte, i int, want string) (end int, ok bool) {
	if len(b)-i < len(want) || string(b[i:i+len(want)]) != want {
		return i, false
	}
	return i + len(want), true
}

func object(b []byte, i, depth int) (end int, ok bool) {
	i = blanks(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1, true
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return i, false
		}
		if i, ok = text(b, i); !ok {
			return i, false
		}
		if i = blanks(b, i); i >= len(b) || b[i] != ':' {
			return i, false
		}
		if i, ok = value(b, blanks(b, i+1), depth+1); !ok {
			return i, false
		}
		i = blanks(b, i)
		switch {
		case i < len(b) && b[i] == '}':
			return i + 1, true
		case i < len(b) && b[i] == ',':
			i = blanks(b, i+1)
		default:
			return i, false
		}
	}
}

func array(b []byte, i, depth int) (end int, ok bool) {
	i = blanks(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1, true
	}
	for {
		if i, ok = value(b, i, depth+1); !ok {
			return i, false
		}
		i = blanks(b, i)
		switch {
		case i < len(b) && b[i] == ']':
			return i + 1, true
		case i < len(b) && b[i] == ',':
			i = blanks(b, i+1)
		default:
			return i, false
		}
	}
}

// number goes over a number of RFC 8259, section 6.
func number(b []byte, i int) (end int, ok bool) {
	if b[i] == '-' {
		i++
	}
	whole := digits(b, i)
	if whole == i || b[i] == '0' && whole > i+1 {
		return i, false
	}
	i = whole
	if i < len(b) && b[i] == '.' {
		fraction := digits(b, i+1)
		if fraction == i+1 {
			return fraction, false
		}
		i = fraction
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		exponent := digits(b, i)
		if exponent == i {
			return i, false
		}
		i = exponent
	}
	return i, true
}

func digits(b []byte, i int) int {
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i
}

// text goes over a string.
func text(b []byte, i int) (end int, ok bool) {
	for i++; i < len(b); {
		switch c := b[i]; {
		case c == '"':
			return i + 1, true
		case c == '\\':
			if i, ok = escape(b, i); !ok {
				return i, false
			}
		case c < ' ':
			return i, false
		case c < utf8.RuneSelf:
			i++
		default:
			r, size := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && size == 1 {
				return i, false
			}
			i += size
		}
	}
	return i, false
}

// escape goes over one escaped character, a pair of surrogates as one.
func escape(b []byte, i int) (end int, ok bool) {
	if i+1 >= len(b) {
		return i, false
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2, true
	case 'u':
	default:
		return i, false
	}
	first, ok := unit(b, i)
	if !ok || !utf16.IsSurrogate(first) {
		return i + 6, ok
	}
	second, ok := unit(b, i+6)
	return i + 12, ok && utf16.DecodeRune(first, second) != utf8.RuneError
}

// unit reads the \uXXXX at i.
func unit(b []byte, i int) (r rune, ok bool) {
	if len(b)-i < 6 || b[i] != '\\' || b[i+1] != 'u' {
		return 0, false
	}
	for _, c := range b[i+2 : i+6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// members walks over the members of an object whose grammar was made sure of.
type members struct {
	b []byte
	i int
}

// membersOf stands before the first member of the object that b is.
func membersOf(b []byte) members { return members{b, 1} }

// next returns the next member, its name and its value as they are spelled.
func (m *members) next() (name, val []byte, ok bool) {
	i := blanks(m.b, m.i)
	if m.b[i] == ',' {
		i = blanks(m.b, i+1)
	}
	if m.b[i] == '}' {
		return nil, nil, false
	}
	end := skip(m.b, i)
	name = m.b[i+1 : end-1]
	i = blanks(m.b, blanks(m.b, end)+1)
	m.i = skip(m.b, i)
	return name, m.b[i:m.i], true
}

// elements walks over an array whose grammar was made sure of.
type elements struct {
	b []byte
	i int
}

func elementsOf(b []byte) elements { return elements{b, 1} }

func (e *elements) next() (val []byte, ok bool) {
	i := blanks(e.b, e.i)
	if e.b[i] == ',' {
		i = blanks(e.b, i+1)
	}
	if e.b[i] == ']' {
		return nil, false
	}
	e.i = skip(e.b, i)
	return e.b[i:e.i], true
}

// skip returns the end of the value at i, whose grammar was made sure of.
func skip(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipText(b, i)
	case '{', '[':
		for depth := 0; ; {
			switch b[i] {
			case '"':
				i = skipText(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			i++
			if depth == 0 {
				return i
			}
		}
	default:
		for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] > ' ' {
			i++
		}
		return i
	}
}

func skipText(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// unquote returns what stands between the quotes with nothing escaped: raw
// itself where nothing is.
func unquote(raw []byte) []byte {
	at := bytes.IndexByte(raw, '\\')
	if at < 0 {
		return raw
	}
	out := append(make([]byte, 0, len(raw)), raw[:at]...)
	for i := at; i < len(raw); {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			i++
			continue
		}
		if raw[i+1] != 'u' {
			out = append(out, plain(raw[i+1]))
			i += 2
			continue
		}
		r, _ := unit(raw, i)
		i += 6
		if utf16.IsSurrogate(r) {
			low, _ := unit(raw, i)
			r = utf16.DecodeRune(r, low)
			i += 6
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}

// plain is what an escaped letter stands for.
func plain(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default:
		return c
	}
}
