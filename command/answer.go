package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
)

// answer is what a device says of a command.
type answer struct {
	id     edgeclaim.CommandID
	status edgeclaim.CommandStatus
	result json.RawMessage // nil for none
	// problem is what is wrong with what it says; nil for nothing. The id is
	// good in any case.
	problem error
}

// parseAnswer reads a JSON object with the members command_id, status and, if
// there is one, result, each once and in any order. An error is an InvalidError;
// one that has an id but is wrong elsewhere is an answer with a problem.
func parseAnswer(body []byte) (*answer, error) {
	if len(body) > edgeclaim.MaxReport {
		return nil, edgeclaim.Invalid("body", "larger than %d bytes", edgeclaim.MaxReport)
	}
	members, problem, err := readObject(body)
	if err != nil {
		return nil, err
	}
	a := &answer{problem: problem}
	id, err := text("command_id", members["command_id"])
	if err != nil {
		return nil, err
	}
	if a.id, err = edgeclaim.ParseCommandID(id); err != nil {
		return nil, err
	}
	if a.problem == nil {
		a.problem = a.read(members)
	}
	return a, nil
}

// read takes the members that say what became of the command.
func (a *answer) read(members map[string]jsontext.Value) error {
	status, err := text("status", members["status"])
	if err != nil {
		return err
	}
	switch a.status = edgeclaim.CommandStatus(status); a.status {
	case edgeclaim.CommandDelivered, edgeclaim.CommandSuccessful, edgeclaim.CommandFailed:
	default:
		return edgeclaim.Invalid("status", "want delivered, successful or failed")
	}
	if result, ok := members["result"]; ok {
		a.result, err = compact("result", result, edgeclaim.MaxCommandResult)
	}
	return err
}

// readObject returns the members of a JSON object that an answer has. A member
// that an answer does not have is a problem.
func readObject(body []byte) (members map[string]jsontext.Value, problem, err error) {
	decoder := jsontext.NewDecoder(bytes.NewReader(body)) // refuses a name twice, and invalid UTF-8
	malformed := func(err error) error {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return edgeclaim.Invalid("body", "a member is there twice")
		}
		return edgeclaim.Invalid("body", "want a JSON object")
	}
	if first, err := decoder.ReadToken(); err != nil || first.Kind() != '{' {
		return nil, nil, malformed(err)
	}
	members = map[string]jsontext.Value{}
	for decoder.PeekKind() != '}' {
		token, err := decoder.ReadToken()
		if err != nil {
			return nil, nil, malformed(err)
		}
		name := token.String() // before the next read: it is only valid until then
		value, err := decoder.ReadValue()
		if err != nil {
			return nil, nil, malformed(err)
		}
		switch name {
		case "command_id", "status", "result":
			members[name] = value.Clone()
		default:
			problem = edgeclaim.Invalid("body", "want no members but command_id, status and result")
		}
	}
	if _, err := decoder.ReadToken(); err != nil {
		return nil, nil, malformed(err)
	}
	if _, err := decoder.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, nil, edgeclaim.Invalid("body", "something follows the JSON object")
	}
	return members, problem, nil
}

// text is a member that has to be a JSON string.
func text(field string, value jsontext.Value) (string, error) {
	if value == nil {
		return "", edgeclaim.Invalid(field, "required")
	}
	if value.Kind() != '"' {
		return "", edgeclaim.Invalid(field, "want text")
	}
	unquoted, err := jsontext.AppendUnquote(nil, value)
	if err != nil {
		return "", fmt.Errorf("%w: %w", edgeclaim.Invalid(field, "want text"), err)
	}
	return string(unquoted), nil
}
