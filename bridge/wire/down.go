package wire

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
)

// The types of the messages under down/.
const (
	TypeWelcome  = "welcome"
	TypeRefused  = "refused"
	TypeAgain    = "again"
	TypeAck      = "ack"
	TypeRegistry = "registry"
	TypeCommand  = "command"
	TypeOffers   = "offers"
	TypeDocument = "document"
	TypeVerdicts = "verdicts"
)

// Head is what every message under down/ begins with. A box takes none that
// does not name it, its epoch and the nonce of its hello: nothing that was said
// to another, or earlier, can be said again to it.
type Head struct {
	Type  string `json:"type"`
	Box   string `json:"box_id"`
	Epoch string `json:"epoch"`
	Nonce string `json:"nonce"`
	// Time is upstream's; of a signed message, the box trusts it (P10).
	Time time.Time `json:"time"`
}

// Header returns the head.
func (h *Head) Header() *Head { return h }

// Welcome answers Hello: the box may tell.
type Welcome struct {
	Head     `json:",inline"`
	Version  int    `json:"version"` // the one of the hello's that is spoken
	Upstream string `json:"upstream_id"`
	// Resume is where upstream stands in each lane. It acknowledges what it
	// names.
	Resume map[edgeclaim.Lane]Resume `json:"resume"`
	// Credit is how many records may be on their way, over all lanes; see Ack.
	Credit int `json:"credit"`
	// StartAfter is how long the box waits before it tells anything but
	// LaneProv, in milliseconds: upstream's own spreading of a rush.
	StartAfter int64 `json:"start_after_ms,omitempty"`
	// Snapshot: upstream does not have all that the box once told, and asks
	// for its registry.
	Snapshot bool `json:"snapshot,omitempty"`
	// Held is how many devices upstream has as told by this box. A box that
	// has lost its registry asks for them.
	Held uint64 `json:"held"`
	// Recover: this epoch is new to upstream and took the place of another,
	// so the box may have lost what it told then.
	Recover bool `json:"recover,omitempty"`
}

// Resume is where upstream stands in a lane.
type Resume struct {
	// Upto is the last sequence that is committed; 0 for none.
	Upto uint64 `json:"upto"`
	// Check names the last record that was applied.
	Check edgeclaim.Check `json:"check,omitzero"`
}

// Ack says what upstream has committed. It is cumulative: one that is lost
// costs nothing, one that comes twice does nothing.
type Ack struct {
	Head `json:",inline"`
	// Upto is, for each lane, the sequence up to which, and with which, all
	// that will ever come is committed.
	Upto map[edgeclaim.Lane]uint64 `json:"upto,omitempty"`
	// Snapshot says up to which page a snapshot is committed.
	Snapshot *SnapshotAck `json:"snapshot,omitempty"`
	// State, when it is not nil, is the Upto of the States that are committed.
	State *uint64 `json:"state,omitempty"`
	Nack  []Nack  `json:"nack,omitempty"`
	// Credit, when it is not nil, takes the place of the last one said. 0 stops the
	// box until another comes.
	Credit *int `json:"credit,omitempty"`
}

// SnapshotAck is an Ack's word on a snapshot.
type SnapshotAck struct {
	ID   string `json:"id"`
	Upto uint64 `json:"upto"`
}

// Nack says why a lane does not go on.
type Nack struct {
	Lane edgeclaim.Lane `json:"lane"`
	// Sequence is, of NackGap, the one that upstream expects next; else the
	// one that it stopped at.
	Sequence uint64   `json:"sequence"`
	Code     NackCode `json:"code"`
	// RetryAfter is how long to wait, in milliseconds, of NackRetry.
	RetryAfter int64  `json:"retry_after_ms,omitempty"`
	Reason     string `json:"reason,omitempty"`
}

// NackCode is a kind of Nack.
type NackCode string

// The kinds. Whatever the kind, nothing from Sequence on was applied in that
// lane, and the box goes back.
const (
	// NackRetry: upstream cannot now; the lane goes on after RetryAfter.
	NackRetry NackCode = "retry"
	// NackPermanent: upstream will never take this record. It is parked, with
	// all later ones of its device; the others go on.
	NackPermanent NackCode = "permanent"
	// NackGap: something between is missing.
	NackGap NackCode = "gap"
)

// Refused answers Hello, or anything later: the box may not tell.
type Refused struct {
	Head   `json:",inline"`
	Code   RefusedCode `json:"code"`
	Reason string      `json:"reason,omitempty"`
	// Versions are those that upstream speaks, of RefusedVersion.
	Versions []int `json:"versions,omitempty"`
}

// RefusedCode says why a box is refused.
type RefusedCode string

// The reasons.
const (
	// RefusedStale: upstream has more of this epoch than the box, or other
	// records than the box holds: the box is an old copy of itself. It takes
	// a new epoch and tells its registry.
	RefusedStale RefusedCode = "stale_epoch"
	// RefusedFenced: another holder of this box's identity has taken a later
	// epoch. The box tells nothing until an operator decides.
	RefusedFenced RefusedCode = "fenced"
	// RefusedVersion: no version of the protocol in common.
	RefusedVersion RefusedCode = "version"
	// RefusedUnknown: upstream does not take this box.
	RefusedUnknown RefusedCode = "not_welcome"
)

// Again asks for a new Hello: upstream does not know this session.
type Again struct {
	Head `json:",inline"`
}

// RegistryPage answers Want: devices that this box once told, in the order of
// their ids.
type RegistryPage struct {
	Head    `json:",inline"`
	After   string             `json:"after,omitempty"` // as it was asked
	Devices []edgeclaim.Device `json:"devices"`
	More    bool               `json:"more"` // ask again, after the last one here
}

// Commands tells devices of this box what to do. Sealed, it has to be within
// MaxMessage. It is answered by records of edgeclaim.TypeCommandStatus alone,
// and said again until they come.
type Commands struct {
	Head     `json:",inline"`
	Commands []Order     `json:"commands,omitempty"`
	Cancel   []OrderName `json:"cancel,omitempty"`
}

// OrderName names a command of a device.
type OrderName struct {
	ID     edgeclaim.CommandID `json:"command_id"`
	Device edgeclaim.DeviceID  `json:"device_id"`
}

// Order is one command.
type Order struct {
	OrderName `json:",inline"`
	// ExpiresAt is when it is worth nothing any more; left out, the box's
	// default counts.
	ExpiresAt time.Time      `json:"expires_at,omitzero"`
	Payload   jsontext.Value `json:"payload"`
}

func (c *Commands) check() error {
	if len(c.Commands)+len(c.Cancel) > MaxEntries {
		return edgeclaim.Invalid("commands", "more than %d", MaxEntries)
	}
	for i := range c.Commands {
		if o := &c.Commands[i]; o.ID.IsZero() || o.Device.IsZero() || len(o.Payload) == 0 {
			return edgeclaim.Invalid("commands", "want a command_id, a device_id and a payload in each")
		}
	}
	for _, n := range c.Cancel {
		if n.ID.IsZero() || n.Device.IsZero() {
			return edgeclaim.Invalid("cancel", "want a command_id and a device_id in each")
		}
	}
	return nil
}

// Host is the retained word on whether the application is there, on HostTopic.
// It is a hint, and nothing follows from it but a hello: it is not signed.
type Host struct {
	Status   string    `json:"status"` // online or offline
	Upstream string    `json:"upstream_id"`
	Instance string    `json:"instance"` // new for each start
	Time     time.Time `json:"time"`
}

// State is the retained word on whether the box is there.
type State struct {
	Status  string `json:"status"` // online or offline
	Box     string `json:"box_id"`
	Epoch   string `json:"epoch"`
	Program string `json:"version,omitempty"`
}

// The values of a Status.
const (
	Online  = "online"
	Offline = "offline"
)

// Down is a message under down/.
type Down interface{ Header() *Head }

// DecodeDown reads a payload as Open returns it: *Welcome, *Refused, *Again,
// *Ack, *RegistryPage, *Commands, *Offers, *DocumentPart, *Shares or *Verdicts.
// ErrInvalid says what is wrong. A type that is not known is nil without an
// error: a later version may say more.
func DecodeDown(payload []byte) (Down, error) {
	var head Head
	if err := decode(payload, &head); err != nil {
		return nil, err
	}
	var message Down
	switch head.Type {
	case TypeWelcome:
		message = new(Welcome)
	case TypeRefused:
		message = new(Refused)
	case TypeAgain:
		message = new(Again)
	case TypeAck:
		message = new(Ack)
	case TypeRegistry:
		message = new(RegistryPage)
	case TypeCommand:
		message = new(Commands)
	case TypeOffers:
		message = new(Offers)
	case TypeDocument:
		message = new(DocumentPart)
	case TypeShares:
		message = new(Shares)
	case TypeVerdicts:
		message = new(Verdicts)
	default:
		return nil, nil
	}
	if err := decode(payload, message); err != nil {
		return nil, err
	}
	if checked, ok := message.(interface{ check() error }); ok {
		if err := checked.check(); err != nil {
			return nil, err
		}
	}
	return message, nil
}

// DecodeHost reads what is said on HostTopic.
func DecodeHost(text []byte) (Host, error) {
	var h Host
	return h, decode(text, &h)
}

// DecodeState reads a box's state.
func DecodeState(text []byte) (State, error) {
	var s State
	return s, decode(text, &s)
}
