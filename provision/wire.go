package provision

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"edgeclaim"

	"github.com/fxamacker/cbor/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxEchoedName bounds an unknown field's name in the error that names it.
const maxEchoedName = 64

// form is a request as it is spelled on the wire; see DESIGN.md for the rules of
// strictness and why two libraries are needed to keep them.
type form interface {
	// fields are the form's own, by name; csr is DER in CBOR, text in JSON.
	fields() map[string]*text
}

// request is a claim.
type request struct {
	ProvisionKey text `json:"provision_key"`
	DeviceName   text `json:"device_name"`
	HardwareID   text `json:"hardware_id"`
	ClaimNonce   text `json:"claim_nonce"`
	CSR          text `json:"csr"`
	RequestID    text `json:"request_id"`
}

func (r *request) fields() map[string]*text {
	return map[string]*text{
		"provision_key": &r.ProvisionKey, "device_name": &r.DeviceName, "hardware_id": &r.HardwareID,
		nameNonce: &r.ClaimNonce, nameCSR: &r.CSR, nameRequestID: &r.RequestID,
	}
}

// renewal is a device's wish for another credential. Nothing is required.
type renewal struct {
	ClaimNonce text `json:"claim_nonce"`
	CSR        text `json:"csr"`
	RequestID  text `json:"request_id"`
}

func (r *renewal) fields() map[string]*text {
	return map[string]*text{nameNonce: &r.ClaimNonce, nameCSR: &r.CSR, nameRequestID: &r.RequestID}
}

// Names of the fields that both forms have.
const (
	nameNonce     = "claim_nonce"
	nameCSR       = "csr"
	nameRequestID = "request_id"
)

// text is a string field that tells absent from empty and takes no other type,
// null included.
type text struct {
	value string
	set   bool
}

var errWantString = errors.New("want a string")

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (t *text) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if dec.PeekKind() != '"' {
		if err := dec.SkipValue(); err != nil {
			return err
		}
		return errWantString
	}
	token, err := dec.ReadToken()
	if err != nil {
		return err
	}
	*t = text{value: token.String(), set: true}
	return nil
}

// decode reads a request. Every error is an edgeclaim.InvalidError that names
// the field at fault and never repeats a value (P5).
func decode(body []byte, format edgeclaim.Format, into form) error {
	if len(body) > edgeclaim.MaxClaimBody {
		return edgeclaim.ErrBodyTooLarge
	}
	switch format {
	case edgeclaim.FormatJSON:
		return decodeJSON(body, into)
	case edgeclaim.FormatCBOR:
		return decodeCBOR(body, into)
	default:
		return edgeclaim.Invalid("content_type", "want %s or %s", edgeclaim.FormatJSON, edgeclaim.FormatCBOR)
	}
}

func decodeJSON(body []byte, into form) error {
	if kind := jsontext.Value(body).Kind(); kind != '{' {
		return edgeclaim.Invalid("body", "want a JSON object")
	}
	err := json.Unmarshal(body, into, json.RejectUnknownMembers(true))
	if err == nil {
		return nil
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		field := topField(semantic.JSONPointer)
		if errors.Is(err, json.ErrUnknownName) {
			return unknownField(field)
		}
		return edgeclaim.Invalid(field, "want a string")
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		field := topField(syntactic.JSONPointer)
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return edgeclaim.Invalid(field, "given more than once")
		}
		// The library's text may quote the input; ours does not (P5).
		return edgeclaim.Invalid(field, "not well-formed JSON in UTF-8 at byte %d", syntactic.ByteOffset)
	}
	return edgeclaim.Invalid("body", "not a request")
}

// topField returns the first name of a JSON pointer, or "body" for the root.
func topField(pointer jsontext.Pointer) string {
	for name := range pointer.Tokens() {
		return echoed(name)
	}
	return "body"
}

// cborMode reads CBOR (RFC 8949) as strictly as JSON is read: no duplicate
// keys, no invalid UTF-8, no tags, no indefinite lengths, nothing nested.
var cborMode, errCBORMode = cbor.DecOptions{
	DupMapKey:        cbor.DupMapKeyEnforcedAPF,
	IndefLength:      cbor.IndefLengthForbidden,
	TagsMd:           cbor.TagsForbidden,
	UTF8:             cbor.UTF8RejectInvalid,
	MaxNestedLevels:  4,
	MaxMapPairs:      16,
	MaxArrayElements: 16,
}.DecMode()

func decodeCBOR(body []byte, into form) error {
	if errCBORMode != nil { // the options are constants: any test of CBOR would show it
		return errCBORMode
	}
	var raw map[string]cbor.RawMessage
	if err := cborMode.Unmarshal(body, &raw); err != nil {
		if dup, ok := errors.AsType[*cbor.DupMapKeyError](err); ok {
			if name, ok := dup.Key.(string); ok {
				return edgeclaim.Invalid(echoed(name), "given more than once")
			}
		}
		return edgeclaim.Invalid("body", "not a well-formed CBOR map of text keys")
	}
	if raw == nil {
		return edgeclaim.Invalid("body", "want a CBOR map")
	}
	fields := into.fields()
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		field, known := fields[name]
		if !known {
			return unknownField(echoed(name))
		}
		if name == nameCSR { // DER here, PEM in JSON
			var der []byte
			if err := cborMode.Unmarshal(raw[name], &der); err != nil || cborMajor(raw[name]) != cborBytes {
				return edgeclaim.Invalid(name, "want a byte string")
			}
			*field = text{value: string(der), set: true}
			continue
		}
		if err := cborMode.Unmarshal(raw[name], &field.value); err != nil || cborMajor(raw[name]) != cborText {
			return edgeclaim.Invalid(name, "want a string of UTF-8")
		}
		field.set = true
	}
	return nil
}

// Major types of CBOR (RFC 8949, section 3.1).
const (
	cborBytes = 2
	cborText  = 3
)

// cborMajor returns the major type of an item: the library would read a null or
// a byte string into a string too.
func cborMajor(item cbor.RawMessage) byte { return item[0] >> 5 }

func unknownField(name string) error { return edgeclaim.Invalid(name, "unknown field") }

// echoed bounds and cleans a name that came from outside before an error names
// it back to who sent it.
func echoed(name string) string {
	name = strings.ToValidUTF8(name, "?")
	if name == "" {
		return `""`
	}
	if len(name) > maxEchoedName {
		cut := maxEchoedName
		for !utf8.RuneStart(name[cut]) {
			cut--
		}
		name = name[:cut] + "..."
	}
	return name
}
