package wire

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
)

// typeBatch is the CloudEvents type of a batch.
const typeBatch = "batch"

// BatchOverhead is more than a batch takes beside its events and the comma
// after each, in bytes.
const BatchOverhead = 640

// BatchHead is a batch without its events: a CloudEvent whose data is an array
// of events, because the MQTT binding of CloudEvents has no batch of its own.
type BatchHead struct {
	SpecVersion string         `json:"specversion"`
	ID          string         `json:"id"`
	Source      string         `json:"source"`
	Type        string         `json:"type"`
	ContentType string         `json:"datacontenttype"`
	Epoch       string         `json:"epoch"`
	Lane        edgeclaim.Lane `json:"lane"`
	// Nonce is that of the hello that the session began with.
	Nonce string `json:"nonce"`
	// First and Last are what the batch speaks for, both included, as
	// Sequence writes them: a sequence between them that is not in the data
	// will never come. It was dropped, parked or forgotten.
	First string `json:"first"`
	Last  string `json:"last"`
	Count int    `json:"count"`
}

// Batch is one message of a lane.
type Batch struct {
	Box, Epoch  string
	Lane        edgeclaim.Lane
	Nonce       string
	First, Last uint64
	// Events are the raw events, in order of their sequence.
	Events []jsontext.Value
}

// EncodeBatch writes a batch; the events are taken as they are.
func EncodeBatch(n Names, b *Batch) ([]byte, error) {
	first, last := Sequence(b.First), Sequence(b.Last)
	head, err := json.Marshal(&BatchHead{
		SpecVersion: specVersion,
		ID:          b.Epoch + "-" + string(b.Lane) + "-" + first + "-" + last,
		Source:      n.Source(), Type: typeBatch, ContentType: typeJSON,
		Epoch: b.Epoch, Lane: b.Lane, Nonce: b.Nonce, First: first, Last: last, Count: len(b.Events),
	})
	if err != nil {
		return nil, err
	}
	size := len(head) + len(`,"data":[]`)
	for _, e := range b.Events {
		size += len(e) + 1
	}
	text := make([]byte, 0, size)
	text = append(text, head[:len(head)-1]...)
	text = append(text, `,"data":[`...)
	for i, e := range b.Events {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(text, e...)
	}
	return append(text, "]}"...), nil
}

// DecodeBatch reads what EncodeBatch writes; the events stay raw, see
// DecodeEvent. ErrInvalid says what is wrong. Whether the events' own
// sequences fit is the reader's to see.
func DecodeBatch(n Names, text []byte) (Batch, error) {
	var b struct {
		BatchHead `json:",inline"`
		Data      []jsontext.Value `json:"data"`
	}
	if err := decode(text, &b); err != nil {
		return Batch{}, err
	}
	first, err := ParseSequence(b.First)
	if err != nil {
		return Batch{}, err
	}
	last, err := ParseSequence(b.Last)
	if err != nil {
		return Batch{}, err
	}
	switch {
	case b.SpecVersion != specVersion || b.Type != typeBatch:
		return Batch{}, edgeclaim.Invalid("type", "want a CloudEvents 1.0 %q", typeBatch)
	case b.Source != n.Source():
		return Batch{}, edgeclaim.Invalid("source", "not the box of the topic")
	case first == 0 || last < first:
		return Batch{}, edgeclaim.Invalid("first", "want 1 to last")
	case b.Count != len(b.Data):
		return Batch{}, edgeclaim.Invalid("count", "not the number of events")
	case len(b.Data) > MaxEntries:
		return Batch{}, edgeclaim.Invalid("data", "more than %d events", MaxEntries)
	}
	return Batch{
		Box: n.Box, Epoch: b.Epoch, Lane: b.Lane, Nonce: b.Nonce,
		First: first, Last: last, Events: b.Data,
	}, nil
}
