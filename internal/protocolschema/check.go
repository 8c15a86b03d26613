package protocolschema

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// maxMessage is the largest message that docs/protocol.md allows, in bytes.
const maxMessage = 100_000

var errTopic = errors.New("not a topic of the protocol")

// carried says which types of message a topic carries, by its last levels.
var carried = map[string][]string{
	"up/ctl":   {"hello", "want", "state", "documents", "shares"},
	"up/snap":  {"snapshot"},
	"down/ctl": {"welcome", "refused", "again", "registry", "shares", "verdicts"},
	"down/ack": {"ack"},
	"down/cmd": {"command"},
	"down/doc": {"offers", "document"},
}

// Check holds a message against the schema that its topic asks for, and against
// what no schema can say: its size, the box of its topic, and that the parts of
// a batch agree with each other. A signature it does not judge.
func (s *Schemas) Check(topic string, payload []byte) error {
	if err := s.check(topic, payload); err != nil {
		return fmt.Errorf("%s: %w", topic, err)
	}
	return nil
}

func (s *Schemas) check(topic string, payload []byte) error {
	if len(payload) > maxMessage {
		return fmt.Errorf("%d bytes, at most %d may be sent", len(payload), maxMessage)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	rest, ok := strings.CutPrefix(topic, "edgeclaim/v1/")
	if !ok {
		return s.ofDevice(topic, value)
	}
	if rest == "_host/st" {
		return s.validate("host", value)
	}
	levels := strings.SplitN(rest, "/", 3)
	if len(levels) != 3 {
		return errTopic
	}
	names := map[string]string{"site": levels[0], "box_id": levels[1]}
	switch kind := levels[2]; kind {
	case "st":
		return s.said("state", value, names)
	case "up/prov", "up/evt", "up/tel":
		return s.told(value, strings.TrimPrefix(kind, "up/"), levels[1])
	case "up/ctl", "up/snap":
		return errors.Join(s.said("up", value, names), types(value, kind))
	case "down/ctl", "down/ack", "down/cmd", "down/doc":
		if err := s.validate("envelope", value); err != nil {
			return err
		}
		message, err := opened(value)
		if err != nil {
			return err
		}
		return errors.Join(s.said("down", message, names), types(message, kind))
	}
	return errTopic
}

// ofDevice judges what passes between a device and its box, and what the box
// says of it upstream on a topic of that form.
func (s *Schemas) ofDevice(topic string, value any) error {
	levels := strings.Split(topic, "/")
	if len(levels) != 3 || levels[0] != "devices" {
		return errTopic
	}
	switch schema := levels[2]; schema {
	case "telemetry", "config":
		return s.validate(schema, value)
	case "commands":
		return s.validate("command", value)
	case "presence":
		return s.said(schema, value, map[string]string{"device_id": levels[1]})
	case "events":
		if text(value, "command_id") != "" {
			return s.validate("command", value)
		}
		if _, ok := value.(map[string]any); !ok {
			return errors.New("an event is a JSON object")
		}
		return nil
	}
	return errTopic
}

// said holds a message against its schema, and the names in it against those
// of its topic.
func (s *Schemas) said(schema string, value any, names map[string]string) error {
	if err := s.validate(schema, value); err != nil {
		return err
	}
	for member, want := range names {
		if got := text(value, member); got != "" && got != want {
			return fmt.Errorf("%s is %q, and %q in the topic", member, got, want)
		}
	}
	return nil
}

// types reports a message on a topic that does not carry its type.
func types(value any, kind string) error {
	if name := text(value, "type"); !slices.Contains(carried[kind], name) {
		return fmt.Errorf("%s carries no %q", kind, name)
	}
	return nil
}

// opened returns the message in an envelope.
func opened(envelope any) (any, error) {
	payload, err := base64.RawURLEncoding.DecodeString(text(envelope, "payload"))
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(payload))
}

// told judges what comes up in a lane: a record by itself, or a batch.
func (s *Schemas) told(value any, lane, box string) error {
	schema, source := "cloudevent", "urn:edgeclaim:"+box
	if text(value, "type") == "batch" {
		schema = "batch"
	}
	if err := s.validate(schema, value); err != nil {
		return err
	}
	if got := text(value, "lane"); got != lane {
		return fmt.Errorf("lane is %q, and %q in the topic", got, lane)
	}
	if got := text(value, "source"); got != source {
		return fmt.Errorf("source is %q, want %q", got, source)
	}
	epoch := text(value, "epoch")
	if schema == "cloudevent" {
		return named(value, epoch+"-"+lane+"-"+text(value, "sequence"))
	}
	first, last := text(value, "first"), text(value, "last")
	if err := named(value, epoch+"-"+lane+"-"+first+"-"+last); err != nil {
		return err
	}
	return together(value, lane, box)
}

// together reports where a batch and its events contradict each other.
func together(batch any, lane, box string) error {
	object, _ := batch.(map[string]any)
	events, _ := object["data"].([]any)
	if count, _ := object["count"].(json.Number); count.String() != fmt.Sprint(len(events)) {
		return fmt.Errorf("count is %s, with %d events", count, len(events))
	}
	// 20 digits each: they sort as the numbers do.
	first, last := text(batch, "first"), text(batch, "last")
	if strings.Trim(first, "0") == "" || last < first {
		return fmt.Errorf("from %s to %s", first, last)
	}
	before := ""
	for i, event := range events {
		sequence := text(event, "sequence")
		if sequence < first || sequence > last || sequence <= before {
			return fmt.Errorf("event %d: sequence %s behind %q, of %s to %s", i, sequence, before, first, last)
		}
		before = sequence
		if text(event, "lane") != lane || text(event, "epoch") != text(batch, "epoch") || text(event, "source") != "urn:edgeclaim:"+box {
			return fmt.Errorf("event %d: another box's, lane's or epoch's", i)
		}
		if err := named(event, text(event, "epoch")+"-"+lane+"-"+sequence); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
	}
	return nil
}

func named(value any, id string) error {
	if got := text(value, "id"); got != id {
		return fmt.Errorf("id is %q, want %q", got, id)
	}
	return nil
}

// text returns an object's member, empty when it is no text.
func text(value any, member string) string {
	object, _ := value.(map[string]any)
	found, _ := object[member].(string)
	return found
}

// CheckStick holds a stick's file against the protocol: a hello on its first
// line, and batches of that session on all others.
func (s *Schemas) CheckStick(file []byte) error {
	lines := bytes.Split(bytes.TrimSuffix(file, []byte("\n")), []byte("\n"))
	hello, err := jsonschema.UnmarshalJSON(bytes.NewReader(lines[0]))
	if err != nil {
		return fmt.Errorf("line 1: not JSON: %w", err)
	}
	base := "edgeclaim/v1/" + text(hello, "site") + "/" + text(hello, "box_id") + "/up/"
	for i, line := range lines {
		topic := base + "ctl"
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
		if err != nil {
			return fmt.Errorf("line %d: not JSON: %w", i+1, err)
		}
		switch {
		case i == 0 && text(value, "type") != "hello":
			return errors.New("line 1: not a hello")
		case i > 0 && text(value, "type") != "batch":
			return fmt.Errorf("line %d: not a batch", i+1)
		case i > 0:
			topic = base + text(value, "lane")
		}
		if err := s.Check(topic, line); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
		if text(value, "nonce") != text(hello, "nonce") || text(value, "epoch") != text(hello, "epoch") {
			return fmt.Errorf("line %d: of another session", i+1)
		}
	}
	return nil
}
