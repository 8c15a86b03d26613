package provision

import (
	"bytes"
	"encoding/base64"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"edgeclaim"

	"github.com/fxamacker/cbor/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits of what a claim may carry besides edgeclaim's own.
const (
	minNonce = 16 // bytes, decoded
	maxNonce = 64 // bytes, decoded
	// maxEchoedName bounds an unknown field's name in the error that names it.
	maxEchoedName = 64
)

// request is a claim as it is spelled on the wire; see DESIGN.md for the rules
// of strictness and why two libraries are needed to keep them.
type request struct {
	ProvisionKey text `json:"provision_key"`
	DeviceName   text `json:"device_name"`
	HardwareID   text `json:"hardware_id"`
	ClaimNonce   text `json:"claim_nonce"`
	CSR          text `json:"csr"`
	RequestID    text `json:"request_id"`
}

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

// decode reads a claim request. Every error is an edgeclaim.InvalidError that
// names the field at fault and never repeats a value (P5).
func decode(body []byte, format edgeclaim.Format) (request, error) {
	if len(body) > edgeclaim.MaxClaimBody {
		return request{}, edgeclaim.ErrBodyTooLarge
	}
	switch format {
	case edgeclaim.FormatJSON:
		return decodeJSON(body)
	case edgeclaim.FormatCBOR:
		return decodeCBOR(body)
	default:
		return request{}, edgeclaim.Invalid("content_type", "want %s or %s", edgeclaim.FormatJSON, edgeclaim.FormatCBOR)
	}
}

func decodeJSON(body []byte) (request, error) {
	if kind := jsontext.Value(body).Kind(); kind != '{' {
		return request{}, edgeclaim.Invalid("body", "want a JSON object")
	}
	var req request
	err := json.Unmarshal(body, &req, json.RejectUnknownMembers(true))
	if err == nil {
		return req, nil
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		field := topField(semantic.JSONPointer)
		if errors.Is(err, json.ErrUnknownName) {
			return request{}, unknownField(field)
		}
		return request{}, edgeclaim.Invalid(field, "want a string")
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		field := topField(syntactic.JSONPointer)
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return request{}, edgeclaim.Invalid(field, "given more than once")
		}
		// The library's text may quote the input; ours does not (P5).
		return request{}, edgeclaim.Invalid(field, "not well-formed JSON in UTF-8 at byte %d", syntactic.ByteOffset)
	}
	return request{}, edgeclaim.Invalid("body", "not a claim")
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

func decodeCBOR(body []byte) (request, error) {
	if errCBORMode != nil { // the options are constants: any test of CBOR would show it
		return request{}, errCBORMode
	}
	var raw map[string]cbor.RawMessage
	if err := cborMode.Unmarshal(body, &raw); err != nil {
		if dup, ok := errors.AsType[*cbor.DupMapKeyError](err); ok {
			if name, ok := dup.Key.(string); ok {
				return request{}, edgeclaim.Invalid(echoed(name), "given more than once")
			}
		}
		return request{}, edgeclaim.Invalid("body", "not a well-formed CBOR map of text keys")
	}
	if raw == nil {
		return request{}, edgeclaim.Invalid("body", "want a CBOR map")
	}
	var req request
	fields := map[string]*text{
		"provision_key": &req.ProvisionKey, "device_name": &req.DeviceName, "hardware_id": &req.HardwareID,
		"claim_nonce": &req.ClaimNonce, "request_id": &req.RequestID,
	}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if name == "csr" { // DER here, PEM in JSON
			var der []byte
			if err := cborMode.Unmarshal(raw[name], &der); err != nil || cborMajor(raw[name]) != cborBytes {
				return request{}, edgeclaim.Invalid(name, "want a byte string")
			}
			req.CSR = text{value: string(der), set: true}
			continue
		}
		field, known := fields[name]
		if !known {
			return request{}, unknownField(echoed(name))
		}
		if err := cborMode.Unmarshal(raw[name], &field.value); err != nil || cborMajor(raw[name]) != cborText {
			return request{}, edgeclaim.Invalid(name, "want a string of UTF-8")
		}
		field.set = true
	}
	return req, nil
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

// claim is a request whose every field is known to be well-formed.
type claim struct {
	via       edgeclaim.Via
	source    netip.Addr
	now       time.Time // max(wall clock, floor) when it was asked
	key       edgeclaim.Secret
	name      string
	hardware  edgeclaim.HardwareID
	requestID *string
}

// validate checks the fields in the order the documentation lists them.
func (r *request) validate() (claim, error) {
	for _, f := range []struct {
		name string
		text text
	}{{"provision_key", r.ProvisionKey}, {"device_name", r.DeviceName}, {"hardware_id", r.HardwareID}} {
		if !f.text.set {
			return claim{}, edgeclaim.Invalid(f.name, "required")
		}
	}
	if err := checkKey("provision_key", r.ProvisionKey.value); err != nil {
		return claim{}, err
	}
	if err := edgeclaim.CheckName("device_name", r.DeviceName.value); err != nil {
		return claim{}, err
	}
	hardware, err := edgeclaim.ParseHardwareID(r.HardwareID.value)
	if err != nil {
		return claim{}, err
	}
	if err := r.checkOptional(); err != nil {
		return claim{}, err
	}
	c := claim{key: edgeclaim.NewSecret(r.ProvisionKey.value), name: r.DeviceName.value, hardware: hardware}
	if r.RequestID.set {
		c.requestID = &r.RequestID.value
	}
	return c, nil
}

// checkOptional checks what a device may send besides. The nonce and the CSR
// are for credentials that this version does not make yet: they are held to
// their form, so that no device learns to send rubbish, and have no effect.
func (r *request) checkOptional() error {
	if r.ClaimNonce.set {
		nonce, err := base64.RawURLEncoding.Strict().DecodeString(r.ClaimNonce.value)
		// The decoder skips line ends; the device has to mean what it sends.
		if err != nil || strings.ContainsAny(r.ClaimNonce.value, "\r\n") || len(nonce) < minNonce || len(nonce) > maxNonce {
			return edgeclaim.Invalid("claim_nonce", "want %d to %d bytes in unpadded base64url", minNonce, maxNonce)
		}
	}
	if r.CSR.set && r.CSR.value == "" {
		return edgeclaim.Invalid("csr", "empty")
	}
	if r.RequestID.set {
		return edgeclaim.CheckName("request_id", r.RequestID.value)
	}
	return nil
}

// checkKey accepts any string of 1 to MaxKey characters: a wrong key is an
// unknown one, not a malformed one.
func checkKey(field, key string) error {
	if n := utf8.RuneCountInString(key); n == 0 || n > edgeclaim.MaxKey {
		return edgeclaim.Invalid(field, "want 1 to %d characters", edgeclaim.MaxKey)
	}
	return nil
}

// accepted is the body of a good answer: exactly two fields, request_id third
// only when it was sent.
type accepted struct {
	DeviceID  string  `json:"device_id"`
	APIKey    string  `json:"api_key"`
	RequestID *string `json:"request_id,omitzero"`
}

// envelope is the platform's error document (google.rpc.Status).
type envelope struct {
	Code    edgeclaim.Code `json:"code"`
	Message string         `json:"message"`
	Details []struct{}     `json:"details"`
	// RetryAfter is in whole seconds; over HTTP the header says it.
	RetryAfter int `json:"retry_after,omitzero"`
}

// encode writes a body in the asker's format; an unknown format is answered in
// JSON.
func encode(format edgeclaim.Format, body any) ([]byte, error) {
	if format == edgeclaim.FormatCBOR {
		return cbor.Marshal(body)
	}
	var buf bytes.Buffer
	if err := json.MarshalWrite(&buf, body); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
