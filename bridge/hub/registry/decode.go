package registry

import (
	"errors"
	"math"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// maxSequence keeps a sequence, and one above it, within the databases'
// numbers.
const maxSequence = math.MaxInt64 - 1

// event is one record of a batch, read once before the transaction begins.
type event struct {
	wire.Event
	raw      []byte
	sequence uint64 // 0 when it cannot be read
	device   edgeclaim.DeviceID
	time     int64
	what     what
	holding  *holding // what the box says of the device, of the types that change one
	tenant   edgeclaim.TenantID
	hardware edgeclaim.HardwareID
	// replaces is of saysSwapped, the board before; aliased of saysDiffers, the id
	// that upstream has; both zero where nobody said.
	replaces edgeclaim.HardwareID
	aliased  edgeclaim.DeviceID
	// suspicion is of saysSuspected, head of saysHead, command of saysCommand.
	suspicion edgeclaim.SuspicionKind
	head      AuditHead
	command   *commandFacts
	// fault is why this record will never be taken, naming the member; empty
	// for most.
	fault string
}

// decodeBatch reads the events of a batch. Every fault is in the event's own:
// what is before it is good.
func decodeBatch(n wire.Names, b *wire.Batch, ofTenants bool) []event {
	events := make([]event, len(b.Events))
	for i, raw := range b.Events {
		e := &events[i]
		e.raw = raw
		if err := e.decode(n, b, ofTenants); err != nil {
			e.fault = reason(err)
		}
	}
	return events
}

func (e *event) decode(n wire.Names, b *wire.Batch, ofTenants bool) (err error) {
	if e.Event, err = wire.DecodeEvent(e.raw); err != nil {
		// The sequence alone may be readable, so that the box knows which.
		var only struct {
			Sequence string `json:"sequence"`
		}
		if json.Unmarshal(e.raw, &only) == nil {
			e.sequence, _ = wire.ParseSequence(only.Sequence)
		}
		return err
	}
	if e.sequence, err = e.Number(); err != nil {
		return err
	}
	switch {
	case e.Epoch != b.Epoch:
		return edgeclaim.Invalid("epoch", "not the batch's")
	case e.Lane != b.Lane:
		return edgeclaim.Invalid("lane", "not the batch's")
	case e.Source != n.Source():
		return edgeclaim.Invalid("source", "not the box of the batch")
	}
	// A clock that has gone mad must not stop a lane (P10): the text is kept.
	if when, err := time.Parse(time.RFC3339Nano, e.Time); err == nil {
		e.time = micros(when)
	}
	if e.Subject != "" {
		if e.device, err = edgeclaim.ParseDeviceID(e.Subject); err != nil {
			return edgeclaim.Invalid("subject", "want a device id")
		}
	}
	return e.decodeData(ofTenants)
}

// maxGeneration is how many lives of a board are looked for. A device beyond,
// or one whose id is an alias, counts as in its first until a snapshot says.
const maxGeneration = 3

// generation says which life of its board a device is (P4): a record does not.
func generation(id edgeclaim.DeviceID, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) int {
	for g := 1; g <= maxGeneration; g++ {
		if edgeclaim.NewDeviceID(tenant, hardware, g) == id {
			return g
		}
	}
	return 1
}

func missing(member string) error { return edgeclaim.Invalid(member, "missing") }

// dataFault is an ErrInvalid without the data's own words (P5).
func dataFault(err error) error {
	var semantic *json.SemanticError
	if errors.As(err, &semantic) && semantic.JSONPointer != "" {
		return edgeclaim.Invalid(strings.ToValidUTF8(strings.ReplaceAll(string(semantic.JSONPointer[1:]), "/", "."), "?"), "not what it should be")
	}
	return edgeclaim.Invalid("data", "not the JSON object it should be")
}

// reason is an error as it is told to a box.
func reason(err error) string {
	text := err.Error()
	if len(text) > wire.MaxReason {
		text = strings.ToValidUTF8(text[:wire.MaxReason], "")
	}
	return text
}

// clean takes zero bytes out of a text: PostgreSQL keeps none, and a text from
// outside must not make a change fail for ever.
func clean(text string) string { return strings.ReplaceAll(text, "\x00", "") }
