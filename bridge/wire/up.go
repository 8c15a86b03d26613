package wire

import (
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
)

// The types of the messages under up/ctl and up/snap.
const (
	TypeHello    = "hello"
	TypeWant     = "want"
	TypeSnapshot = "snapshot"
	TypeState    = "state"
	TypeShares   = "shares" // down too: its answer
	// TypeDocuments is a DocumentsReport's.
	TypeDocuments = "documents"
)

// Hello begins a session: the first message of a connection, said again until
// a Welcome or a Refused comes, and whenever an Again does.
type Hello struct {
	Type string `json:"type"` // TypeHello
	// Versions are the protocol's versions that the box speaks.
	Versions []int  `json:"versions"`
	Box      string `json:"box_id"`
	Site     string `json:"site"`
	Program  string `json:"program,omitempty"`
	Epoch    string `json:"epoch"`
	// Previous is the epoch that this one took the place of, empty when the
	// box does not know of one.
	Previous string `json:"previous_epoch,omitempty"`
	// Nonce names the session: 22 characters, base64url of 16 random bytes.
	Nonce string `json:"nonce"`
	// Upstream is the application that the box was last welcomed by.
	Upstream string `json:"upstream_id,omitempty"`
	// Enrolled: the box takes nothing that is not signed.
	Enrolled bool                                   `json:"enrolled"`
	Lanes    map[edgeclaim.Lane]edgeclaim.LaneMarks `json:"lanes"`
	Devices  uint64                                 `json:"devices"`
	Time     time.Time                              `json:"time"`
	Clock    edgeclaim.ClockState                   `json:"clk"`
	// Documents are those that the box holds, MaxStated at most, a signer before
	// all; the DocumentsReport tells of all. nil: it takes none. One that nobody
	// has confirmed since the box was restored is not among them, but for the
	// signer: the one behind it is to be offered.
	Documents []DocumentVersion `json:"documents,omitzero"`
	// Shares: the box honours shares of keys, and asks for them.
	Shares bool `json:"shares,omitzero"`
}

// Want asks for something beside the lanes.
type Want struct {
	Type  string `json:"type"` // TypeWant
	Box   string `json:"box_id"`
	Epoch string `json:"epoch"`
	Nonce string `json:"nonce"`
	// What is WantRegistry, WantDocument or WantOffers.
	What string `json:"what"`
	// After is the last device that the box has; empty for the first page.
	After string `json:"after,omitempty"`
	// Done: the box has all, upstream need not offer it any more.
	Done bool `json:"done,omitempty"`

	// Document, Version and Hash are those of an offer, and Part which part of
	// it, from 1; of WantDocument.
	Document edgeclaim.DocumentID `json:"document,omitzero"`
	Version  uint64               `json:"version,omitzero"`
	Hash     string               `json:"sha256,omitzero"`
	Part     uint64               `json:"part,omitzero"`
}

// What a Want may ask for.
const (
	// WantRegistry: the devices that the box once told, a page at a time.
	WantRegistry = "registry"
	// WantDocument: a part of a document that was offered.
	WantDocument = "document"
	// WantOffers: the Offers, all of them, again. A box asks when the list did not
	// come or not wholly, when it has taken a signer, and now and then: what nobody
	// confirms grows old.
	WantOffers = "offers"
)

// SnapshotPage tells a part of the box's registry as it is. Pages count from 1
// within their id.
type SnapshotPage struct {
	Type    string             `json:"type"` // TypeSnapshot
	Box     string             `json:"box_id"`
	Epoch   string             `json:"epoch"`
	Nonce   string             `json:"nonce"`
	ID      string             `json:"id"`
	Page    uint64             `json:"page"`
	Last    bool               `json:"last"`
	Devices []edgeclaim.Device `json:"devices"`
}

// States tells what only the latest of counts: of each device the last word, in
// the order of their changes. One is on its way at a time, and an Ack with its
// Upto answers it.
type States struct {
	Type  string `json:"type"` // TypeState
	Box   string `json:"box_id"`
	Epoch string `json:"epoch"`
	Nonce string `json:"nonce"`
	// Reset: it is the first of a session. A device of this box that is not
	// told in it or after it is offline.
	Reset bool `json:"reset,omitempty"`
	// Upto is the box's version of the last state here; 0 only of a first one
	// without devices. A box that was started anew counts from 1 again.
	Upto    uint64        `json:"upto"`
	Devices []DeviceState `json:"devices"`
}

// DeviceState is the latest of one device.
type DeviceState struct {
	edgeclaim.DeviceState `json:",inline"`
	// Telemetry is its newest record of edgeclaim.LaneTel, the event as it is in
	// a batch; nil for none, or one that upstream has.
	Telemetry jsontext.Value `json:"telemetry,omitzero"`
}

// Encode writes a message as one line of JSON.
func Encode(message any) ([]byte, error) { return json.Marshal(message) }

// DecodeUp reads a message under up/ctl or up/snap: *Hello, *Want,
// *SnapshotPage, *States, *DocumentsReport or *SharesWant. ErrInvalid says what is wrong, and that the topic's box is
// not the message's. A type that is not known is nil without an error: a later
// version may say more.
func DecodeUp(n Names, text []byte) (any, error) {
	var head struct {
		Type string `json:"type"`
		Box  string `json:"box_id"`
	}
	if err := decode(text, &head); err != nil {
		return nil, err
	}
	if head.Box != n.Box {
		return nil, edgeclaim.Invalid("box_id", "not the box of the topic")
	}
	switch head.Type {
	case TypeHello:
		return decodeAs(text, (*Hello).check)
	case TypeWant:
		return decodeAs(text, (*Want).check)
	case TypeSnapshot:
		return decodeAs(text, (*SnapshotPage).check)
	case TypeState:
		return decodeAs(text, (*States).check)
	case TypeDocuments:
		return decodeAs(text, (*DocumentsReport).check)
	case TypeShares:
		return decodeAs(text, (*SharesWant).check)
	}
	return nil, nil
}

func decodeAs[T any](text []byte, check func(*T) error) (any, error) {
	message := new(T)
	if err := decode(text, message); err != nil {
		return nil, err
	}
	if err := check(message); err != nil {
		return nil, err
	}
	return message, nil
}

func (h *Hello) check() error {
	if len(h.Versions) == 0 {
		return edgeclaim.Invalid("versions", "want at least one")
	}
	for _, lane := range edgeclaim.Lanes() {
		marks, told := h.Lanes[lane]
		if !told && lane == edgeclaim.LaneTel {
			continue // a box of an earlier version has none
		}
		if marks.First == 0 || marks.First-1 > marks.Appended {
			return edgeclaim.Invalid("lanes", "%s: want first from 1 to appended+1", lane)
		}
	}
	if len(h.Documents) > MaxStated {
		return edgeclaim.Invalid("documents", "more than %d", MaxStated)
	}
	for i := range h.Documents {
		if err := checkVersion(h.Documents[i].DocumentID, h.Documents[i].Version, h.Documents[i].Hash); err != nil {
			return err
		}
	}
	return checkSession(h.Epoch, h.Nonce)
}

func (w *Want) check() error {
	if w.After != "" {
		if _, err := edgeclaim.ParseDeviceID(w.After); err != nil {
			return edgeclaim.Invalid("after", "want a device id")
		}
	}
	if w.What == WantDocument {
		if w.Part == 0 || w.Part > Parts(MaxDocumentText) {
			return edgeclaim.Invalid("part", "want 1 to %d", Parts(MaxDocumentText))
		}
		if err := checkVersion(w.Document, w.Version, w.Hash); err != nil {
			return err
		}
	}
	return checkSession(w.Epoch, w.Nonce)
}

func (p *SnapshotPage) check() error {
	if p.Page == 0 || !isLevel(p.ID) {
		return edgeclaim.Invalid("page", "want an id, and pages from 1")
	}
	if len(p.Devices) > MaxEntries {
		return edgeclaim.Invalid("devices", "more than %d", MaxEntries)
	}
	return checkSession(p.Epoch, p.Nonce)
}

func (s *States) check() error {
	if len(s.Devices) > MaxEntries {
		return edgeclaim.Invalid("devices", "more than %d", MaxEntries)
	}
	if s.Upto == 0 && (len(s.Devices) > 0 || !s.Reset) {
		return edgeclaim.Invalid("upto", "want a version from 1 on")
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		if d.Device.IsZero() || d.Tenant.IsZero() {
			return edgeclaim.Invalid("devices", "want a device_id and a tenant_id in each")
		}
		if d.Presence != edgeclaim.PresenceOnline && d.Presence != edgeclaim.PresenceOffline {
			return edgeclaim.Invalid("devices", "presence: want %s or %s", edgeclaim.PresenceOnline, edgeclaim.PresenceOffline)
		}
	}
	return checkSession(s.Epoch, s.Nonce)
}

// checkSession judges the names that a session is known by.
func checkSession(epoch, nonce string) error {
	if !IsEpoch(epoch) {
		return edgeclaim.Invalid("epoch", "want 26 to 36 characters of A-Z a-z 0-9")
	}
	if !isLevel(nonce) || len(nonce) < minNonce {
		return edgeclaim.Invalid("nonce", "want %d to %d characters of base64url", minNonce, MaxLevel)
	}
	return nil
}

// minNonce is the shortest nonce, in characters: 96 bits.
const minNonce = 16

// IsEpoch reports whether text can name a life of an outbox: 26 to 36
// characters of A-Z, a-z and 0-9.
func IsEpoch(text string) bool {
	if len(text) < 26 || len(text) > 36 {
		return false
	}
	for _, c := range []byte(text) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		default:
			return false
		}
	}
	return true
}
