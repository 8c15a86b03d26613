// Package protocolschema holds messages against the schemas in docs/protocol,
// as they went over the wire. It is for tests, and shares no code with
// bridge/wire: a message that both ends spell wrongly in the same way does not
// pass here.
package protocolschema

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// ending is how the files of the schemas end.
const ending = ".schema.json"

// Schemas are those of docs/protocol, compiled, by what stands before
// ".schema.json" in the file's name.
type Schemas struct {
	compiled map[string]*jsonschema.Schema
}

// Check holds one message of this version's programs against its schema, with
// no member that the schema does not name. It may be called from anywhere in
// the repository, by many goroutines at once.
func Check(topic string, payload []byte) error {
	schemas, err := sent()
	if err != nil {
		return err
	}
	return schemas.Check(topic, payload)
}

// sent is a table, read when the first test needs it.
var sent = sync.OnceValues(func() (*Schemas, error) {
	folder, err := Folder()
	if err != nil {
		return nil, err
	}
	return Load(folder, true)
})

// Folder finds docs/protocol from the folder that a test runs in.
func Folder() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		protocol := filepath.Join(folder, "docs", "protocol")
		if _, err := os.Stat(filepath.Join(protocol, "up"+ending)); err == nil {
			return protocol, nil
		}
		above := filepath.Dir(folder)
		if above == folder {
			return "", errors.New("no docs/protocol above the working folder")
		}
		folder = above
	}
}

// Load compiles the schemas of a folder. As they are published, members that
// they do not name are passed over, as a reader does; with closed, an object
// has no others, which is what a sender of this version is held to.
func Load(folder string, closed bool) (*Schemas, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*"+ending))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertContent() // else nobody looks into an envelope
	compiler.RegisterContentEncoding(&jsonschema.Decoder{
		Name: "base64url", Decode: base64.RawURLEncoding.Strict().DecodeString,
	})
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if closed {
			closeObjects(document)
		}
		if err := compiler.AddResource(file, document); err != nil {
			return nil, err
		}
	}
	s := &Schemas{compiled: map[string]*jsonschema.Schema{}}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ending)
		if s.compiled[name], err = compiler.Compile(file); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// closeObjects forbids members that are not named. A schema that says of itself
// that it is an object, and names members, is whole; one without a type is a
// part of another, which has members of its own.
func closeObjects(value any) {
	switch value := value.(type) {
	case map[string]any:
		_, members := value["properties"]
		if value["type"] == "object" && members {
			value["unevaluatedProperties"] = false
		}
		for keyword, below := range value {
			if keyword != "examples" && keyword != "const" && keyword != "enum" {
				closeObjects(below)
			}
		}
	case []any:
		for _, below := range value {
			closeObjects(below)
		}
	}
}

// Validate holds a JSON text against one schema by its name: "enrolment" for
// docs/protocol/enrolment.schema.json.
func (s *Schemas) Validate(name string, text []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return s.validate(name, value)
}

func (s *Schemas) validate(name string, value any) error {
	schema, ok := s.compiled[name]
	if !ok {
		return fmt.Errorf("no schema %q", name)
	}
	return schema.Validate(value)
}
