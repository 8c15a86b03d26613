package bridge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"edgeclaim"
)

const (
	specVersion = "1.0" // of CloudEvents
	typeJSON    = "application/json"
	typeBytes   = "application/octet-stream"
)

// event is a record on the wire: a CloudEvent 1.0 in structured JSON. The
// order of the fields is the order of the bytes, and part of the golden test.
type event struct {
	SpecVersion  string          `json:"specversion"`
	ID           string          `json:"id"`
	Source       string          `json:"source"`
	Type         string          `json:"type"`
	Subject      string          `json:"subject,omitempty"`
	Time         string          `json:"time"`
	RecordedTime string          `json:"recordedtime"`
	ContentType  string          `json:"datacontenttype"`
	Sequence     string          `json:"sequence"`
	PartitionKey string          `json:"partitionkey,omitempty"`
	Epoch        string          `json:"epoch"`
	Lane         edgeclaim.Lane  `json:"lane"`
	BootID       string          `json:"bootid,omitempty"`
	Clock        string          `json:"clk,omitempty"`
	Data         json.RawMessage `json:"data,omitempty"`
	DataBase64   []byte          `json:"data_base64,omitempty"`
}

// encode returns the one line of JSON for r. The same record gives the same
// bytes on every send, whatever the time and the connection (P8): all of it
// comes from the record and the names of the box.
func (n names) encode(epoch string, r *edgeclaim.Record) ([]byte, error) {
	sequence := fmt.Sprintf("%020d", r.Sequence)
	when := r.Time.UTC().Format(time.RFC3339Nano)
	e := event{
		SpecVersion:  specVersion,
		ID:           epoch + "-" + string(r.Lane) + "-" + sequence,
		Source:       n.source,
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
	case utf8.Valid(r.Data) && json.Valid(r.Data):
		e.Data = r.Data
	case len(r.Data) > 0:
		// A record that is not JSON is a fault of the box. It must neither
		// stop the lane nor vanish (P6), so it is told as the bytes it is.
		e.ContentType, e.DataBase64 = typeBytes, r.Data
	}
	return line(e)
}

// state is the retained word on whether the box is there.
type state struct {
	Status  string `json:"status"`
	BoxID   string `json:"box_id"`
	Epoch   string `json:"epoch"`
	Version string `json:"version,omitempty"`
}

const (
	stateOnline  = "online"
	stateOffline = "offline"
)

// line encodes v as one line of JSON, without escapes for HTML's sake.
func line(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// maxLevel is the longest name of a site or box, in characters.
const maxLevel = 64

// names are the box's topics and its CloudEvents source.
type names struct {
	source string
	st     string
	up     map[edgeclaim.Lane]string
}

func newNames(id Identity) (names, error) {
	for _, level := range []struct{ key, text string }{{"site", id.Site}, {"box_id", id.Box}} {
		if !isLevel(level.text) {
			return names{}, edgeclaim.Invalid(level.key, "want 1 to %d characters of A-Z a-z 0-9 . _ -", maxLevel)
		}
	}
	root := "edgeclaim/v1/" + id.Site + "/" + id.Box
	n := names{
		// Without the site: a box may be given another while records wait, and
		// what is sent again has to be the same bytes (P8).
		source: "urn:edgeclaim:" + id.Box,
		st:     root + "/st",
		up:     map[edgeclaim.Lane]string{},
	}
	for _, lane := range edgeclaim.Lanes() {
		n.up[lane] = root + "/up/" + string(lane)
	}
	return n, nil
}

// isLevel reports whether text is one topic level without wildcards.
func isLevel(text string) bool {
	if text == "" || len(text) > maxLevel {
		return false
	}
	for _, c := range []byte(text) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
