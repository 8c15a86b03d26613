package command

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// tree is a JSON value that is merged. It is never changed: what is merged shares
// parts with what it is made of.
type tree struct {
	members map[string]*tree // of an object; nil: it is none
	raw     jsontext.Value   // of any other value, as it is spelled without blanks
}

// errTrailing: a JSON text is followed by something.
var errTrailing = errors.New("something follows the JSON value")

// parseTree reads one JSON value. A name that an object has twice is an error,
// and so is what is no UTF-8.
func parseTree(text []byte) (*tree, error) {
	decoder := jsontext.NewDecoder(bytes.NewReader(text))
	t, err := readTree(decoder)
	if err != nil {
		return nil, err
	}
	if _, err := decoder.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errTrailing
	}
	return t, nil
}

// readTree goes no deeper than the decoder lets it: 10,000 levels.
func readTree(decoder *jsontext.Decoder) (*tree, error) {
	if decoder.PeekKind() != '{' {
		value, err := decoder.ReadValue()
		if err != nil {
			return nil, err
		}
		raw := value.Clone() // it is only valid until the next read
		return &tree{raw: raw}, raw.Compact()
	}
	if _, err := decoder.ReadToken(); err != nil {
		return nil, err
	}
	t := &tree{members: map[string]*tree{}}
	for decoder.PeekKind() != '}' {
		token, err := decoder.ReadToken()
		if err != nil {
			return nil, err
		}
		name := token.String() // before the next read, as above
		if t.members[name], err = readTree(decoder); err != nil {
			return nil, err
		}
	}
	_, err := decoder.ReadToken()
	return t, err
}

// merge is MergePatch of RFC 7396, section 2: t, or nothing where it is nil, with
// patch laid over it.
func (t *tree) merge(patch *tree) *tree {
	if patch.members == nil {
		return patch
	}
	merged := &tree{members: map[string]*tree{}}
	if t != nil {
		maps.Copy(merged.members, t.members)
	}
	for name, value := range patch.members {
		if value.members == nil && value.raw.Kind() == 'n' {
			delete(merged.members, name)
			continue
		}
		merged.members[name] = merged.members[name].merge(value)
	}
	return merged
}

// text is the value's JSON without blanks, its members in the order of their
// names: the same values make the same text.
func (t *tree) text() []byte { return t.append(nil) }

func (t *tree) append(text []byte) []byte {
	if t.members == nil {
		return append(text, t.raw...)
	}
	text = append(text, '{')
	for i, name := range slices.Sorted(maps.Keys(t.members)) {
		if i > 0 {
			text = append(text, ',')
		}
		text, _ = jsontext.AppendQuote(text, name) // it came out of valid JSON
		text = append(text, ':')
		text = t.members[name].append(text)
	}
	return append(text, '}')
}
