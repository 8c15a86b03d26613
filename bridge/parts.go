package bridge

import (
	"context"
	"errors"
	"time"

	"edgeclaim"
)

// Outbox is where the records lie until upstream has them (P6). All methods
// are safe for concurrent use and may be retried.
type Outbox interface {
	// Marks says where each lane stands, and names the present life of the
	// outbox and the one whose place it took, if it knows of one: 26 to 36
	// characters of A-Z, a-z and 0-9 each.
	Marks(ctx context.Context) (epoch, previous string, marks map[edgeclaim.Lane]edgeclaim.LaneMarks, err error)
	// Next returns up to limit pending records of after's lane with a sequence
	// above after.Upto, oldest first, and removes none. None pending is no
	// error; a sequence that is passed over will never come. ErrConflict:
	// after's epoch is not the present one.
	Next(ctx context.Context, after edgeclaim.Mark, limit int) ([]edgeclaim.Record, error)
	// Ack forgets a lane's records up to and with upto; nil means that this is
	// durable. It is idempotent. ErrUnavailable: nothing was forgotten, and
	// trying later helps. ErrInvalid: upto is above what was ever appended.
	// ErrConflict: of another epoch.
	Ack(ctx context.Context, upto edgeclaim.Mark) error
	// Appended carries a signal some time after records were committed, or the
	// epoch has changed. Its capacity is 1; many commits may share one signal.
	// It has one consumer.
	Appended() <-chan struct{}
}

// Telemetry is where the records of edgeclaim.LaneTel lie: beside the outbox,
// with an outbox's contract. Its Ack and Next know no other lane.
type Telemetry interface {
	Outbox
	// Begin makes epoch the lane's life, unless it is in it already; nil means
	// that this is durable. What is pending keeps its order and gets sequences
	// from 1 on.
	Begin(ctx context.Context, epoch string) error
	// Refuse notes that upstream will never take the record at a mark, nor, in
	// this run of the program, any later one of its device: Next tells gap
	// records in their place.
	Refuse(ctx context.Context, at edgeclaim.Mark, reason string) error
}

// States are the latest that is known of the devices at work. All methods are
// safe for concurrent use.
type States interface {
	// Changed returns the states whose version is above after, in the order of
	// their versions, maximum at most. withNewest adds the newest telemetry of
	// each that upstream does not have yet.
	Changed(ctx context.Context, after uint64, maximum int, withNewest bool) ([]edgeclaim.DeviceState, error)
	// StatesChanged carries a signal some time after a state changed. Its
	// capacity is 1, and it has one consumer.
	StatesChanged() <-chan struct{}
}

// Commands takes what upstream wants devices to do. All methods are safe for
// concurrent use, and may be repeated (P8).
type Commands interface {
	// Order keeps a command; nil means that it, and the record of its status,
	// are durable. An order of an id that the device has already changes
	// nothing. One that the box cannot take is told upstream as failed, and nil
	// too. ErrUnavailable: later.
	Order(ctx context.Context, o edgeclaim.Order) error
	// Cancel takes a command back, unless it has come to its end, or nobody
	// knows it.
	Cancel(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID, by string) error
}

// Quarantine takes records that upstream will never take as they are.
type Quarantine interface {
	// Park takes the record at a mark out of its lane, with all later ones of
	// its device; nil means that this is durable. ErrConflict: of another
	// epoch. ErrNotFound: no such record is pending. ErrUnavailable: later.
	Park(ctx context.Context, at edgeclaim.Mark, reason string) error
}

// Life is the outbox's, and can begin anew.
type Life interface {
	// Renew begins another epoch: what is pending keeps its order and gets
	// sequences from 1 on. nil means that this is durable.
	Renew(ctx context.Context) (epoch string, err error)
}

// Registry is the box's devices. All methods are safe for concurrent use.
type Registry interface {
	// Devices returns up to maximum devices with an id above after, in the
	// order of their ids.
	Devices(ctx context.Context, after edgeclaim.DeviceID, maximum int) ([]edgeclaim.Device, error)
	// Count returns how many there are.
	Count(ctx context.Context) (uint64, error)
	// Adopt stores devices that upstream holds as told by this box and that
	// the box does not have; it leaves alone those it has, and tells nobody.
	// nil means that this is durable.
	Adopt(ctx context.Context, devices []edgeclaim.Device) (adopted int, err error)
}

// Clock is the box's clock (P10).
type Clock interface {
	// Stamp says what time it is, and how far to trust it.
	Stamp() edgeclaim.Stamp
	// Raise lifts the clock's floor to a time that can be trusted; a lower one
	// changes nothing.
	Raise(trusted time.Time)
}

// Documents keeps what upstream has signed with the key for documents. All
// methods are safe for concurrent use, and may be repeated (P8).
type Documents interface {
	// Held says how the box stands to each document, in the order of their
	// types. It comes from memory.
	Held() []edgeclaim.DocumentState
	// Take applies a signed text; nil means that it is in force, and durable. A
	// DocumentError: it is refused, which is noted, and the same text is refused
	// again. Other errors: later. from is whose word it came on.
	Take(ctx context.Context, text []byte, from string) (edgeclaim.DocumentState, error)
	// Confirm takes upstream's list of what is newest, whole and each document
	// once, and returns what is to be taken, in the order in which it applies.
	// ErrInvalid: nothing of the list was believed. Other errors: later.
	Confirm(ctx context.Context, offers []edgeclaim.DocumentOffer) (wanted []edgeclaim.DocumentOffer, err error)
	// Changed carries a signal some time after Held has become another in a
	// version or a refusal. Its capacity is 1, and it has one consumer.
	Changed() <-chan struct{}
}

// Shares are this box's of the keys that several boxes have. All methods are
// safe for concurrent use, and may be repeated (P8).
type Shares interface {
	// Wanted returns the keys that more is to be asked for.
	Wanted(ctx context.Context) ([]edgeclaim.Share, error)
	// Changed carries a signal some time after Wanted has grown. Its capacity is
	// 1, and it has one consumer.
	Changed() <-chan struct{}
	// Share takes what upstream grants; nil means that it is durable. Keys that
	// the box does not have are passed over, and no share falls.
	Share(ctx context.Context, grants []edgeclaim.ShareGrant) error
}

// Verdicts takes upstream's word on devices that several boxes had given a
// credential.
type Verdicts interface {
	// Adjudge puts a verdict into force, and tells upstream by a record; nil
	// means that both are durable. One that is in force, or of another credential
	// than the box's present one, changes nothing. It may be repeated (P8).
	Adjudge(ctx context.Context, v edgeclaim.Verdict) error
}

// Parts are the box's other halves. AckPuback needs the Outbox alone, and asks
// nothing of Documents, Shares and Verdicts. Those three, Telemetry, States and
// Commands may be nil: there is nothing of the kind then.
type Parts struct {
	Outbox    Outbox
	Telemetry Telemetry
	States    States
	Commands  Commands
	Documents Documents
	Shares    Shares
	Verdicts  Verdicts
	// Restored is called when the box turns out to be an old copy of itself, or
	// may have lost what it told: no document counts as confirmed from then on.
	// nil means that this is durable. It may be nil, and called again.
	Restored   func(ctx context.Context) error
	Quarantine Quarantine
	Life       Life
	Registry   Registry
	Clock      Clock
}

// validate reports what a mode has to have.
func (p *Parts) validate(ack string) error {
	if p.Outbox == nil {
		return errors.New("bridge: no outbox")
	}
	if ack == AckApp && (p.Quarantine == nil || p.Life == nil || p.Registry == nil || p.Clock == nil) {
		return errors.New("bridge: acknowledgement by the application needs all parts")
	}
	return nil
}

// outbox is where a lane's records lie.
func (p *Parts) outbox(lane edgeclaim.Lane) Outbox {
	if lane == edgeclaim.LaneTel {
		return p.Telemetry
	}
	return p.Outbox
}

// refuse takes a record that upstream will never take out of its lane. Errors
// are Quarantine's.
func (p *Parts) refuse(ctx context.Context, at edgeclaim.Mark, reason string) error {
	if at.Lane == edgeclaim.LaneTel {
		return p.Telemetry.Refuse(ctx, at, reason)
	}
	return p.Quarantine.Park(ctx, at, reason)
}

// changes are the signals of what there may be nothing of; nil for what there is
// not.
type changes struct {
	telemetry, states, documents, shares <-chan struct{}
}

func (p *Parts) changes() (c changes) {
	if p.Telemetry != nil {
		c.telemetry = p.Telemetry.Appended()
	}
	if p.States != nil {
		c.states = p.States.StatesChanged()
	}
	if p.Documents != nil {
		c.documents = p.Documents.Changed()
	}
	if p.Shares != nil {
		c.shares = p.Shares.Changed()
	}
	return c
}

// lanes are those that there are, in the order they are sent.
func (p *Parts) lanes() []edgeclaim.Lane {
	all := edgeclaim.Lanes()
	if p.Telemetry == nil {
		return all[:len(all)-1]
	}
	return all
}
