package signeddoc

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
)

// maxDepth is how deep a document may be nested. None has to be, but for a
// profile's configuration.
const maxDepth = 32

// Decode reads a document's JSON. It refuses, with an *edgeclaim.InvalidError
// that names the member: what is larger than MaxDocument, members that it does
// not know, that are there twice or are spelled in another case, null, trailing
// bytes, wrong types, any body but the one of its type, and whatever a row may
// not be. What is left out and has a default is filled in: the statuses, the
// credential type and the approval of templates.
func Decode(payload []byte) (*edgeclaim.Document, error) {
	if len(payload) > edgeclaim.MaxDocument {
		return nil, edgeclaim.Invalid("document", "larger than %d bytes", edgeclaim.MaxDocument)
	}
	var d edgeclaim.Document
	if err := decode(payload, &d); err != nil {
		return nil, err
	}
	if err := check(&d); err != nil {
		return nil, err
	}
	return &d, nil
}

// decode reads one JSON object, strictly.
func decode(text []byte, into any) error {
	if err := plain(text); err != nil {
		return err
	}
	if err := json.Unmarshal(text, into, json.RejectUnknownMembers(true)); err != nil {
		return malformed(err)
	}
	return nil
}

// plain refuses what the reading of values passes over: null, which would count
// as left out, but for a configuration's, where it is a value, and a depth that
// nobody needs.
func plain(text []byte) error {
	decoder := jsontext.NewDecoder(bytes.NewReader(text))
	for {
		token, err := decoder.ReadToken()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return malformed(err)
		case decoder.StackDepth() > maxDepth:
			return edgeclaim.Invalid("document", "nested deeper than %d", maxDepth)
		case token.Kind() == 'n' && !strings.Contains(string(decoder.StackPointer()), "/default_config/"):
			return edgeclaim.Invalid(member(decoder.StackPointer()), "null")
		}
	}
}

// malformed is an InvalidError without the input's own words (P5).
func malformed(err error) error {
	var semantic *json.SemanticError
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return edgeclaim.Invalid("document", "cut short")
	case errors.As(err, &semantic) && errors.Is(err, json.ErrUnknownName):
		return edgeclaim.Invalid(member(semantic.JSONPointer), "no such member")
	case errors.As(err, &semantic):
		return edgeclaim.Invalid(member(semantic.JSONPointer), "not what it has to be")
	case errors.As(err, &syntactic) && errors.Is(err, jsontext.ErrDuplicateName):
		return edgeclaim.Invalid(member(syntactic.JSONPointer), "there twice")
	}
	return edgeclaim.Invalid("document", "not the JSON it should be")
}

// maxMember is the longest name of a member that an error says, in bytes.
const maxMember = 128

// member is where in a document something is, "templates.templates.3.name". What
// it says was signed, or is the signer's own.
func member(at jsontext.Pointer) string {
	text := strings.ReplaceAll(strings.TrimPrefix(string(at), "/"), "/", ".")
	if text == "" {
		return "document"
	}
	return strings.ToValidUTF8(text[:min(len(text), maxMember)], "?")
}
