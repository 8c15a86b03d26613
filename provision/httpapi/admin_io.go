package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"edgeclaim"

	"github.com/gin-gonic/gin"
	jsonx "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// readJSON reads an admin request as strictly as a claim: unknown, duplicate
// and other-case names and trailing bytes are refused by name. An empty body
// leaves dst as it is.
func readJSON(c *gin.Context, dst any) error {
	body, err := readWhole(c, maxAdminBody)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	err = jsonx.Unmarshal(body, dst, jsonx.RejectUnknownMembers(true))
	if err == nil {
		return nil
	}
	if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); ok {
		return invalid
	}
	field, problem := "body", "not well-formed JSON"
	if semantic, ok := errors.AsType[*jsonx.SemanticError](err); ok {
		field, problem = fieldName(semantic.JSONPointer), "wrong type"
		if errors.Is(err, jsonx.ErrUnknownName) {
			problem = "unknown field"
		}
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok && errors.Is(err, jsontext.ErrDuplicateName) {
		field, problem = fieldName(syntactic.JSONPointer), "given more than once"
	}
	return edgeclaim.Invalid(field, "%s", problem)
}

func fieldName(pointer jsontext.Pointer) string {
	for name := range pointer.Tokens() {
		return name
	}
	return "body"
}

// withID parses the id in the path, calls do and answers what it returns.
func withID[ID any](c *gin.Context, errs errorWriter, parse func(string) (ID, error), do func(ID) (any, error)) {
	withIDStatus(c, errs, http.StatusOK, parse, do)
}

func withIDStatus[ID any](c *gin.Context, errs errorWriter, status int, parse func(string) (ID, error), do func(ID) (any, error)) {
	id, err := parse(pathValue(c, "id"))
	if err != nil {
		errs.told(c, err)
		return
	}
	result, err := do(id)
	if err != nil {
		errs.told(c, err)
		return
	}
	writeJSON(c, errs, status, result)
}

const contentTypeJSON = "application/json; charset=utf-8"

// writeJSON writes value as JSON. It is encoded before the status is written: what
// cannot be encoded is an internal error, and not an empty success.
func writeJSON(c *gin.Context, errs errorWriter, status int, value any) {
	var body bytes.Buffer
	if err := encode(&body, value); err != nil {
		errs.fault(c, err)
		return
	}
	body.WriteByte('\n')
	c.Data(status, contentTypeJSON, body.Bytes())
}

// encode appends value to body, without HTML escaping: names are for people to
// read. The error leaves a part of value behind.
func encode(body *bytes.Buffer, value any) error {
	encoder := json.NewEncoder(body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("encode an answer: %w", err)
	}
	body.Truncate(body.Len() - 1) // Encode ends a line
	return nil
}

// readFlag reads a query parameter that is true or false; false without one.
func readFlag(c *gin.Context, name string) (bool, error) {
	text, given := c.GetQuery(name)
	if !given {
		return false, nil
	}
	flag, err := strconv.ParseBool(text)
	if err != nil {
		return false, edgeclaim.Invalid(name, "want true or false")
	}
	return flag, nil
}

// readWhole reads a body of up to max bytes that is no JSON of ours.
func readWhole(c *gin.Context, max int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, max))
	if err != nil {
		return nil, edgeclaim.Invalid("body", "larger than %d bytes or not read to its end", max)
	}
	return body, nil
}

// takeTurn waits until nobody else is at it, or answers that it was not worth
// the wait. Who took the turn gives it back.
func takeTurn(c *gin.Context, errs errorWriter, turn chan struct{}) bool {
	select {
	case turn <- struct{}{}:
		return true
	case <-c.Request.Context().Done():
		errs.fault(c, c.Request.Context().Err())
		return false
	}
}
