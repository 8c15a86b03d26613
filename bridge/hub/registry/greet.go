package registry

import (
	"context"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// Greeting is the registry's part of the answer to a hello: Refused, or what a
// Welcome says.
type Greeting struct {
	Refused *wire.Refused // Code and Reason only
	Resume  map[edgeclaim.Lane]wire.Resume
	// Snapshot and Recover stay until a snapshot is complete, and until
	// Recovered says so.
	Snapshot, Recover bool
	Held              uint64
}

// Greet judges a hello and stores what it says of the box. A nil error means
// that it is stored, a refusal with what it means as well.
func (db *DB) Greet(ctx context.Context, n wire.Names, h *wire.Hello) (Greeting, error) {
	for _, lane := range edgeclaim.Lanes() {
		if h.Lanes[lane].Appended > maxSequence {
			return Greeting{Refused: refuse(wire.RefusedUnknown, "lanes: a sequence that no box reaches")}, nil
		}
	}
	var g Greeting
	err := db.change(ctx, func(w *writer) (err error) {
		g, err = (&greeter{writer: w, names: n, hello: h, now: micros(db.now())}).greet(ctx)
		return err
	})
	if err != nil {
		return Greeting{}, err
	}
	return g, nil
}

type greeter struct {
	*writer
	names wire.Names
	hello *wire.Hello
	now   int64
}

func (g *greeter) greet(ctx context.Context) (Greeting, error) {
	b, err := g.box(ctx, g.names.Box)
	if err != nil {
		return Greeting{}, err
	}
	if b == nil {
		return g.newBox(ctx)
	}
	epoch, found, err := g.epoch(ctx, b.number, g.hello.Epoch)
	if err == nil && !found {
		epoch, found, err = g.previous(ctx, b)
	}
	switch {
	case err != nil:
		return Greeting{}, err
	case !found:
		return g.newEpoch(ctx, b)
	case epoch.number != b.epoch:
		return g.fence(ctx, b)
	}
	if why := stale(b, g.hello); why != "" {
		err := g.run(ctx, `UPDATE epochs SET stale = 1 WHERE number = ?`, b.epoch)
		return Greeting{Refused: refuse(wire.RefusedStale, why)}, err
	}
	return g.welcome(ctx, b)
}

// previous finds an epoch that never said hello here among those that others of
// the box say they took the place of: it is no new one. It is noted, so that
// the one that an operator puts in its place is known as such.
func (g *greeter) previous(ctx context.Context, b *box) (k known, found bool, err error) {
	found, err = g.one(ctx, `SELECT number FROM epochs WHERE box = ? AND previous = ?`, []any{b.number, g.hello.Epoch}, &k.supersededBy)
	if err != nil || !found {
		return known{}, false, err
	}
	if k.number, err = g.next(ctx, "epochs", "number"); err != nil {
		return known{}, false, err
	}
	return k, true, g.run(ctx, `INSERT INTO epochs (number, box, epoch, previous, opened_at, superseded_by, fenced_at, stale)
		VALUES (?, ?, ?, ?, ?, ?, ?, 0)`, k.number, b.number, g.hello.Epoch, short(g.hello.Previous), g.now, k.supersededBy, g.now)
}

// stale says why a box of the present epoch is an old copy of itself; empty
// when it is not.
func stale(b *box, h *wire.Hello) string {
	for _, lane := range edgeclaim.Lanes() {
		m := b.marks[lane]
		told, ok := h.Lanes[lane]
		switch {
		case !ok: // by a program that does not know the lane
		case told.Appended < m.upto:
			return string(lane) + ": more was applied than the box ever appended"
		case m.check.Contradicts(told.Check):
			return string(lane) + ": the last record applied is another one"
		}
	}
	return ""
}

func (g *greeter) newBox(ctx context.Context) (Greeting, error) {
	number, err := g.next(ctx, "boxes", "number")
	if err != nil {
		return Greeting{}, err
	}
	b := &box{number: number, name: g.names.Box, firstSeen: g.now, isNew: true}
	if err := g.openEpoch(ctx, b); err != nil {
		return Greeting{}, err
	}
	// A box that took the place of an epoch before we heard of it has told
	// somebody; not us.
	b.snapshot = g.hello.Previous != ""
	return g.welcome(ctx, b)
}

// newEpoch lets a box begin a new life, and fences the one before. It also ends
// the conflict of a box that was fenced, and that an operator renewed.
func (g *greeter) newEpoch(ctx context.Context, b *box) (Greeting, error) {
	before := b.epoch
	if err := g.openEpoch(ctx, b); err != nil {
		return Greeting{}, err
	}
	if err := g.run(ctx, `UPDATE epochs SET superseded_by = ?, fenced_at = ? WHERE number = ?`, b.epoch, g.now, before); err != nil {
		return Greeting{}, err
	}
	previous, found, err := g.epoch(ctx, b.number, g.hello.Previous)
	if err != nil {
		return Greeting{}, err
	}
	b.recover = b.held > 0 && (g.hello.Previous == "" || found && previous.stale)
	b.snapshot = g.hello.Previous != ""
	b.snapshotID, b.snapshotPage = "", 0
	if found && previous.number != before {
		err = g.run(ctx, `UPDATE conflicts SET resolved_at = ?, resolution = 'renewed', kept = box WHERE kind = ? AND box = ? AND resolved_at = 0`,
			g.now, KindCloned, b.number)
		if err != nil {
			return Greeting{}, err
		}
	}
	return g.welcome(ctx, b)
}

// openEpoch makes the hello's epoch the box's present one, with nothing told.
func (g *greeter) openEpoch(ctx context.Context, b *box) (err error) {
	if b.epoch, err = g.next(ctx, "epochs", "number"); err != nil {
		return err
	}
	b.epochName = g.hello.Epoch
	b.marks = map[edgeclaim.Lane]*mark{}
	for _, lane := range edgeclaim.Lanes() {
		b.marks[lane] = new(mark)
	}
	return g.run(ctx, `INSERT INTO epochs (number, box, epoch, previous, opened_at, superseded_by, fenced_at, stale)
		VALUES (?, ?, ?, ?, ?, 0, 0, 0)`, b.epoch, b.number, b.epochName, short(g.hello.Previous), g.now)
}

// fence refuses an epoch that another took the place of.
func (g *greeter) fence(ctx context.Context, b *box) (Greeting, error) {
	err := g.open(ctx, conflict{
		kind: KindCloned, box: b.number, at: g.now,
		subject: KindCloned + "|" + b.name, detail: "an epoch that another took the place of said hello",
	})
	return Greeting{Refused: refuse(wire.RefusedFenced, "a later epoch took the place of this one")}, err
}

// welcome stores what the hello says of the box and says where we stand.
func (g *greeter) welcome(ctx context.Context, b *box) (Greeting, error) {
	h := g.hello
	b.site, b.program, b.clock, b.enrolled = g.names.Site, short(h.Program), short(string(h.Clock)), h.Enrolled
	b.toldDevices, b.lastSeen, b.isDirty = min(h.Devices, maxSequence), g.now, true
	b.online, b.app = true, true
	answer := Greeting{Resume: map[edgeclaim.Lane]wire.Resume{}}
	for _, lane := range edgeclaim.Lanes() {
		m := b.marks[lane]
		told, ok := h.Lanes[lane]
		if !ok {
			continue // the box does not know the lane
		}
		if m.appended != told.Appended {
			m.appended, m.isDirty = told.Appended, true
		}
		answer.Resume[lane] = wire.Resume{Upto: m.upto, Check: m.check}
	}
	// The box has forgotten what we do not have: only its registry can tell.
	// The other lanes drop their oldest by themselves, and say nothing of devices.
	told := h.Lanes[edgeclaim.LaneProv]
	if m := b.marks[edgeclaim.LaneProv]; told.First > m.upto+1 || told.Check.Sequence > m.upto {
		b.snapshot = true
	}
	answer.Snapshot, answer.Recover, answer.Held = b.snapshot, b.recover, b.held
	return answer, g.save(ctx, b)
}

// Recovered notes that the box has taken back what it lost: Recover is not
// offered to this epoch again.
func (db *DB) Recovered(ctx context.Context, box, epoch string) error {
	return db.change(ctx, func(w *writer) error {
		return w.run(ctx, `UPDATE boxes SET recover = 0 WHERE box = ? AND epoch IN
			(SELECT number FROM epochs WHERE epoch = ? AND epochs.box = boxes.number)`, box, epoch)
	})
}
