package bridge

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// maxAckFile is the largest file with acks that is read, in bytes.
const maxAckFile = 1 << 20

// Exports remembers what went out on sticks, so that an ack counts for nothing
// else.
type Exports interface {
	// AddExport notes the marks that an export went up to; nil means that this
	// is durable.
	AddExport(ctx context.Context, nonce string, upto []edgeclaim.Mark) error
	// Export returns them. ErrNotFound: no export of that nonce, or one of
	// long ago.
	Export(ctx context.Context, nonce string) ([]edgeclaim.Mark, error)
}

// Stick tells the outbox's records by files, where there is no link. It may be
// used while a Bridge runs: what one told, the other need not.
type Stick struct {
	Parts    Parts // all but Life
	Exports  Exports
	Identity Identity
	// Key is the one that acks have to be signed by; nil: not enrolled.
	Key    ed25519.PublicKey
	Logger *slog.Logger
}

// StickError says, in words for an operator, why an ack was not taken.
type StickError struct {
	// Err is edgeclaim.ErrInvalid, ErrDenied, ErrNotFound or ErrConflict.
	Err error
	// Refused is upstream's code, when it refused the export; else empty.
	Refused wire.RefusedCode
	Words   string
}

func (e *StickError) Error() string { return e.Words }

// Unwrap returns the sentinel.
func (e *StickError) Unwrap() error { return e.Err }

// Accepted is what an ack did.
type Accepted struct {
	// Upto is, for each lane it names, the sequence up to which all is
	// forgotten.
	Upto map[edgeclaim.Lane]uint64
	// Parked counts the records that upstream will never take. Later ones of
	// the same devices are in quarantine with them.
	Parked int
}

// Export writes a hello and everything pending in batches, one message a line.
// Only when it returns nil is the export known, and its ack taken.
func (s *Stick) Export(ctx context.Context, w io.Writer) error {
	names, err := wire.NewNames(s.Identity.Site, s.Identity.Box)
	if err != nil {
		return err
	}
	epoch, previous, marks, err := s.Parts.Outbox.Marks(ctx)
	if err != nil {
		return err
	}
	lanes := []edgeclaim.Lane{edgeclaim.LaneProv, edgeclaim.LaneEvt}
	if s.telemetry(ctx, epoch, marks) {
		lanes = append(lanes, edgeclaim.LaneTel)
	}
	devices, err := s.Parts.Registry.Count(ctx)
	if err != nil {
		return err
	}
	stamp := s.Parts.Clock.Stamp()
	e := &export{Stick: s, names: names, epoch: epoch, nonce: newNonce(), to: w}
	err = e.write(wire.Encode(&wire.Hello{
		Type: wire.TypeHello, Versions: []int{wire.Version},
		Box: s.Identity.Box, Site: s.Identity.Site, Program: s.Identity.Version,
		Epoch: epoch, Previous: previous, Nonce: e.nonce, Enrolled: s.Key != nil,
		Lanes: marks, Devices: devices, Time: stamp.Time.UTC(), Clock: stamp.Clock,
	}))
	if err != nil {
		return err
	}
	var upto []edgeclaim.Mark
	for _, lane := range lanes {
		mark := edgeclaim.Mark{Epoch: epoch, Lane: lane, Upto: marks[lane].Appended}
		if err := e.lane(ctx, &mark); err != nil {
			return err
		}
		upto = append(upto, mark)
	}
	return s.Exports.AddExport(ctx, e.nonce, upto)
}

// telemetry adds where that lane stands to the marks. Where it cannot be read,
// the export goes without it.
func (s *Stick) telemetry(ctx context.Context, epoch string, marks map[edgeclaim.Lane]edgeclaim.LaneMarks) bool {
	if s.Parts.Telemetry == nil {
		return false
	}
	err := s.Parts.Telemetry.Begin(ctx, epoch)
	if err == nil {
		var own map[edgeclaim.Lane]edgeclaim.LaneMarks
		if _, _, own, err = s.Parts.Telemetry.Marks(ctx); err == nil {
			marks[edgeclaim.LaneTel] = own[edgeclaim.LaneTel]
			return true
		}
	}
	s.Logger.Error("telemetry cannot be read; the export goes without it", "err", err)
	return false
}

// export is one file being written.
type export struct {
	*Stick
	names        wire.Names
	epoch, nonce string
	to           io.Writer
}

// lane writes a lane up to a mark. Its batches speak from 1 on: where upstream
// stands nobody here knows, and what the box has forgotten will not come.
// Telemetry that cannot be read on the way lowers the mark.
func (e *export) lane(ctx context.Context, to *edgeclaim.Mark) error {
	l := &lane{name: to.Lane}
	l.begin(0)
	for l.sent < to.Upto {
		if err := e.fill(ctx, l, *to); err != nil {
			if to.Lane != edgeclaim.LaneTel || ctx.Err() != nil {
				return err
			}
			e.Logger.Error("telemetry cannot be read; the export ends before it", "err", err)
			to.Upto = l.sent
			return nil
		}
		n, _ := l.fits(MaxWindow)
		b := l.take(n)
		b.Box, b.Epoch, b.Nonce = e.Identity.Box, e.epoch, e.nonce
		l.flight = nil
		if err := e.write(wire.EncodeBatch(e.names, &b)); err != nil {
			return err
		}
	}
	return nil
}

// fill reads the outbox until a message would be full, or the mark is reached.
func (e *export) fill(ctx context.Context, l *lane, to edgeclaim.Mark) error {
	const atOnce = 256
	for l.more && l.bytes < wire.MaxMessage {
		after := edgeclaim.Mark{Epoch: e.epoch, Lane: l.name, Upto: l.read}
		records, err := e.Parts.outbox(l.name).Next(ctx, after, atOnce)
		if err != nil {
			return err
		}
		n := len(records)
		records = slices.DeleteFunc(records, func(r edgeclaim.Record) bool { return r.Sequence > to.Upto })
		if l.more = n > 0 && n == len(records); !l.more {
			l.gone = to.Upto
		}
		p := preparing{names: e.names, epoch: e.epoch, parts: &e.Parts}
		if _, err := p.add(ctx, l, records); err != nil {
			return err
		}
	}
	return nil
}

func (e *export) write(message []byte, err error) error {
	if err != nil {
		return err
	}
	_, err = e.to.Write(append(message, '\n'))
	return err
}

// AcceptAck reads what upstream answered to an export, and forgets what it
// names. It may be repeated. A *StickError says why nothing was taken; after
// another error a part may be forgotten, and the ack may be read again.
func (s *Stick) AcceptAck(ctx context.Context, r io.Reader) (Accepted, error) {
	out := Accepted{Upto: map[edgeclaim.Lane]uint64{}}
	text, err := io.ReadAll(io.LimitReader(r, maxAckFile+1))
	switch {
	case err != nil:
		return out, err
	case len(text) > maxAckFile:
		return out, &StickError{Err: edgeclaim.ErrInvalid, Words: fmt.Sprintf("an ack is never larger than %d bytes", maxAckFile)}
	}
	// All are judged before one counts.
	var acks []*ackOf
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		ack, err := s.judge(ctx, line)
		if err != nil {
			return out, err
		}
		acks = append(acks, ack)
	}
	if len(acks) == 0 {
		return out, &StickError{Err: edgeclaim.ErrInvalid, Words: "there is no ack in this file"}
	}
	if s.Key == nil {
		s.Logger.Warn("an ack was taken that nobody had to sign: this box is not enrolled")
	}
	for _, ack := range acks {
		if err := s.apply(ctx, ack, &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

// ackOf is an ack and the marks of the export that it answers.
type ackOf struct {
	*wire.Ack
	marks []edgeclaim.Mark
}

// judge opens one answer and holds it against its export.
func (s *Stick) judge(ctx context.Context, line []byte) (*ackOf, error) {
	payload, err := wire.Open(s.Key, line)
	if errors.Is(err, wire.ErrForged) {
		return nil, &StickError{Err: edgeclaim.ErrDenied, Words: "not signed by the key that this box is enrolled with"}
	}
	if err != nil {
		return nil, errUnreadable
	}
	message, err := wire.DecodeDown(payload)
	if err != nil || message == nil {
		return nil, errUnreadable
	}
	head := message.Header()
	if head.Box != s.Identity.Box {
		return nil, &StickError{Err: edgeclaim.ErrDenied, Words: "this ack is for another box"}
	}
	marks, err := s.Exports.Export(ctx, head.Nonce)
	if errors.Is(err, edgeclaim.ErrNotFound) {
		return nil, &StickError{
			Err:   edgeclaim.ErrNotFound,
			Words: "this ack answers no export of this box, or one of long ago: export anew, and ingest that",
		}
	}
	if err != nil {
		return nil, err
	}
	if s.Key != nil {
		s.Parts.Clock.Raise(head.Time)
	}
	switch m := message.(type) {
	case *wire.Refused:
		return nil, refusedStick(m.Code)
	case *wire.Ack:
		return held(m, marks)
	}
	return nil, errUnreadable
}

// errUnreadable is the answer to what is not an ack.
var errUnreadable = &StickError{Err: edgeclaim.ErrInvalid, Words: "this is not an ack as edgehub ingest writes it"}

// refusedStick says what to do about a refusal.
func refusedStick(code wire.RefusedCode) error {
	words := map[wire.RefusedCode]string{
		wire.RefusedStale: "upstream has more of this outbox than the box: the box is an old copy of itself; " +
			"run edgeclaim outbox renew, then export anew",
		wire.RefusedFenced: "another box holds this one's identity; " +
			"if this one is to hold it, run edgeclaim outbox renew, then export anew",
		wire.RefusedVersion: "upstream speaks another version of the protocol: bring both to the same release",
		wire.RefusedUnknown: "upstream does not take this box",
	}[code]
	if words == "" {
		words = "upstream refused the export"
	}
	return &StickError{Err: edgeclaim.ErrDenied, Refused: code, Words: words}
}

// held reports whether an ack names nothing that its export did not hold.
func held(ack *wire.Ack, marks []edgeclaim.Mark) (*ackOf, error) {
	most := map[edgeclaim.Lane]uint64{}
	for _, mark := range marks {
		if mark.Epoch != ack.Epoch {
			return nil, &StickError{
				Err:   edgeclaim.ErrConflict,
				Words: "this ack is of another epoch than the export that it names",
			}
		}
		most[mark.Lane] = mark.Upto
	}
	above := &StickError{Err: edgeclaim.ErrConflict, Words: "this ack names more than its export held"}
	for lane, upto := range ack.Upto {
		if upto > most[lane] {
			return nil, above
		}
	}
	for _, nack := range ack.Nack {
		if nack.Sequence > most[nack.Lane] {
			return nil, above
		}
	}
	return &ackOf{Ack: ack, marks: marks}, nil
}

// apply forgets what an ack names, and parks what upstream will never take.
func (s *Stick) apply(ctx context.Context, ack *ackOf, out *Accepted) error {
	for _, mark := range ack.marks {
		upto, named := ack.Upto[mark.Lane]
		if !named || s.Parts.outbox(mark.Lane) == nil {
			continue
		}
		mark.Upto, mark.Check = upto, edgeclaim.Check{}
		if err := s.Parts.outbox(mark.Lane).Ack(ctx, mark); err != nil {
			return ended(err)
		}
		out.Upto[mark.Lane] = max(out.Upto[mark.Lane], upto)
	}
	for i := range ack.Nack {
		nack := &ack.Nack[i]
		if nack.Code != wire.NackPermanent || s.Parts.outbox(nack.Lane) == nil {
			s.Logger.Warn("upstream did not take all of an export; export anew",
				"lane", string(nack.Lane), "sequence", nack.Sequence)
			continue
		}
		at := edgeclaim.Mark{Epoch: ack.Epoch, Lane: nack.Lane, Upto: nack.Sequence}
		err := s.Parts.refuse(ctx, at, reason(nack.Reason))
		switch {
		case err == nil:
			out.Parked++
		case !errors.Is(err, edgeclaim.ErrNotFound): // by an earlier reading
			return ended(err)
		}
	}
	return nil
}

// ended says an outbox's ErrConflict in words.
func ended(err error) error {
	if errors.Is(err, edgeclaim.ErrConflict) {
		return &StickError{
			Err:   edgeclaim.ErrConflict,
			Words: "the outbox has begun a new epoch since that export: export anew, and ingest that",
		}
	}
	return err
}
