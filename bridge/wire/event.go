package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
)

const (
	specVersion = "1.0" // of CloudEvents
	typeJSON    = "application/json"
	typeBytes   = "application/octet-stream"
)

// Event is a record on the wire: a CloudEvent 1.0 in structured JSON, on one
// line. The order of the fields is the order of the bytes.
type Event struct {
	SpecVersion  string         `json:"specversion"`
	ID           string         `json:"id"`
	Source       string         `json:"source"`
	Type         string         `json:"type"`
	Subject      string         `json:"subject,omitempty"`
	Time         string         `json:"time"`
	RecordedTime string         `json:"recordedtime"`
	ContentType  string         `json:"datacontenttype"`
	Sequence     string         `json:"sequence"`
	PartitionKey string         `json:"partitionkey,omitempty"`
	Epoch        string         `json:"epoch"`
	Lane         edgeclaim.Lane `json:"lane"`
	BootID       string         `json:"bootid,omitempty"`
	Clock        string         `json:"clk,omitempty"`
	Data         jsontext.Value `json:"data,omitzero"`
	DataBase64   []byte         `json:"data_base64,omitempty"`
}

// EncodeEvent returns the one line of JSON for r. The same record gives the
// same bytes on every send, whatever the time and the connection (P8): all of
// it comes from the record and the names of the box.
func EncodeEvent(n Names, epoch string, r *edgeclaim.Record) ([]byte, error) {
	sequence := Sequence(r.Sequence)
	when := r.Time.UTC().Format(time.RFC3339Nano)
	e := Event{
		SpecVersion:  specVersion,
		ID:           epoch + "-" + string(r.Lane) + "-" + sequence,
		Source:       n.Source(),
		Type:         string(r.Type),
		Time:         when,
		RecordedTime: when,
		ContentType:  typeJSON,
		Sequence:     sequence,
		Epoch:        epoch,
		Lane:         r.Lane,
		BootID:       r.Boot,
		Clock:        string(r.Clock),
	}
	if !r.Device.IsZero() {
		e.Subject = r.Device.String()
		e.PartitionKey = e.Subject
	}
	switch {
	case utf8.Valid(r.Data) && jsontext.Value(r.Data).IsValid():
		data := jsontext.Value(bytes.Clone(r.Data))
		if err := data.Compact(); err != nil {
			return nil, err
		}
		e.Data = data
	case len(r.Data) > 0:
		// A record that is not JSON is a fault of the box. It must neither
		// stop the lane nor vanish (P6), so it is told as the bytes it is.
		e.ContentType, e.DataBase64 = typeBytes, r.Data
	}
	return json.Marshal(&e)
}

// DecodeEvent reads one event as EncodeEvent writes it. Members it does not
// know are passed over; ErrInvalid says what is wrong.
func DecodeEvent(line []byte) (Event, error) {
	var e Event
	if err := decode(line, &e); err != nil {
		return Event{}, err
	}
	if e.SpecVersion != specVersion || e.Type == "" {
		return Event{}, edgeclaim.Invalid("event", "want CloudEvents 1.0 with a type")
	}
	return e, nil
}

// Number returns the event's sequence.
func (e *Event) Number() (uint64, error) { return ParseSequence(e.Sequence) }

// Check is the first 16 bytes of SHA-256 over type, subject, time, boot id and
// data, each with its length in front: what no version of the program changes
// in a record once it is written.
func (e *Event) Check() (edgeclaim.Check, error) {
	sequence, err := e.Number()
	if err != nil {
		return edgeclaim.Check{}, err
	}
	data := e.DataBase64
	if e.Data != nil {
		data = e.Data
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte(e.Type), []byte(e.Subject), []byte(e.Time), []byte(e.BootID), data} {
		_, _ = fmt.Fprintf(h, "%d:", len(part)) // a hash never fails to be written to
		_, _ = h.Write(part)
	}
	return edgeclaim.Check{Sequence: sequence, Hash: base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])}, nil
}

// sequenceDigits is how a sequence is written, so that texts sort as numbers;
// a JSON number could not hold it.
const sequenceDigits = 20

// Sequence writes a sequence as CloudEvents carry it: 20 digits.
func Sequence(n uint64) string {
	text := strconv.FormatUint(n, 10)
	return "00000000000000000000"[:sequenceDigits-len(text)] + text
}

// ParseSequence reads what Sequence writes.
func ParseSequence(text string) (uint64, error) {
	if len(text) != sequenceDigits {
		return 0, edgeclaim.Invalid("sequence", "want %d digits", sequenceDigits)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, edgeclaim.Invalid("sequence", "want %d digits", sequenceDigits)
	}
	return n, nil
}
