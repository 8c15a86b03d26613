package registry

import (
	"cmp"
	"context"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// Item is one message to apply: a batch, a page, states, a report on documents or
// a wish for shares, one of them.
type Item struct {
	Names  wire.Names
	Batch  *wire.Batch
	Page   *wire.SnapshotPage
	States *wire.States
	Report *wire.DocumentsReport
	Wish   *wire.SharesWant
}

// Result is what became of an Item.
type Result struct {
	// Upto is the lane's mark after a batch; 0 where it was refused.
	Upto     uint64
	Snapshot *wire.SnapshotAck // of a page
	State    *uint64           // of states, their Upto
	// Shares are those that a wish asked for, as they stand now.
	Shares []edgeclaim.ShareGrant
	// Nack says why a batch was not applied, or not wholly. What is before
	// its sequence is.
	Nack    *wire.Nack
	Refused *wire.Refused // Code and Reason only
	// Applied counts the records, or the devices of a page or states.
	Applied int
	// Skipped counts the devices of a page or states that were not taken: their
	// tenant is not served, or they name nobody.
	Skipped int
}

// laneRetry is how long a box waits before it tells a lane again that this
// version does not know, in milliseconds.
const laneRetry = 60_000

// Apply takes items in their order, in one transaction. Result i belongs to
// item i. A nil error means that all of it is committed, and may be
// acknowledged; an error, that nothing is.
func (db *DB) Apply(ctx context.Context, items []Item) ([]Result, error) {
	events, err := decodeAll(ctx, items, len(db.tenants) > 0)
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(items))
	err = db.change(ctx, func(w *writer) error {
		a := &applier{DB: db, writer: w, now: micros(db.now()), devices: map[edgeclaim.DeviceID]*device{}, present: map[stateKey]deviceState{}, claims: map[claimKey]int64{}}
		if err := a.begin(ctx, items, events); err != nil {
			return err
		}
		for i := range items {
			var err error
			switch it := &items[i]; {
			case it.Page != nil:
				results[i], err = a.page(ctx, it.Page)
			case it.States != nil:
				results[i], err = a.states(ctx, it.Names, it.States)
			case it.Report != nil:
				results[i], err = a.report(ctx, it.Report)
			case it.Wish != nil:
				results[i], err = a.wish(ctx, it.Wish)
			default:
				results[i], err = a.batch(ctx, it.Batch, events[i])
			}
			if err != nil {
				return err
			}
		}
		return a.flush(ctx)
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// decodeAll reads all batches before the transaction begins, on all processors.
// ofTenants: it matters whose each record is.
func decodeAll(ctx context.Context, items []Item, ofTenants bool) ([][]event, error) {
	events := make([][]event, len(items))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range items {
		if items[i].Batch == nil {
			continue
		}
		group.Go(func() error {
			events[i] = decodeBatch(items[i].Names, items[i].Batch, ofTenants)
			return ctx.Err()
		})
	}
	return events, group.Wait()
}

// applier is one change's view of what it is about. All is decided in memory
// and written at the end, in the order of the keys.
type applier struct {
	*DB
	*writer
	now     int64
	boxes   map[string]*box
	devices map[edgeclaim.DeviceID]*device
	present map[stateKey]deviceState
	claims  map[claimKey]int64 // made since the last flush, by key and box
	records []any              // recordColumns each
	holes   []any              // holeColumns each
}

// begin reads the boxes and devices that the items are about.
func (a *applier) begin(ctx context.Context, items []Item, events [][]event) (err error) {
	var names []any
	var ids []edgeclaim.DeviceID
	for i := range items {
		if name := any(items[i].Names.Box); !slices.Contains(names, name) {
			names = append(names, name)
		}
		for j := range events[i] {
			if e := &events[i][j]; e.holding != nil {
				ids = append(ids, e.device)
			}
		}
		if p := items[i].Page; p != nil {
			for j := range p.Devices {
				ids = append(ids, p.Devices[j].ID)
			}
		}
	}
	if a.boxes, err = a.writer.boxes(ctx, names); err != nil {
		return err
	}
	return a.load(ctx, ids)
}

// admit returns the box of a message when the message is of its present epoch.
func (a *applier) admit(ctx context.Context, name, epoch string) (*box, *wire.Refused, error) {
	b := a.boxes[name]
	if b == nil {
		return nil, refuse(wire.RefusedUnknown, "this box never said hello here"), nil
	}
	if b.epochName == epoch {
		if b.lastSeen != a.now {
			b.lastSeen, b.isDirty = a.now, true
		}
		return b, nil, nil
	}
	_, found, err := a.epoch(ctx, b.number, epoch)
	if err != nil {
		return nil, nil, err
	}
	if !found {
		return nil, refuse(wire.RefusedUnknown, "this epoch never said hello here"), nil
	}
	return nil, refuse(wire.RefusedFenced, "a later epoch took the place of this one"), nil
}

// batch applies what is above the mark.
func (a *applier) batch(ctx context.Context, batch *wire.Batch, events []event) (Result, error) {
	b, refused, err := a.admit(ctx, batch.Box, batch.Epoch)
	if refused != nil || err != nil {
		return Result{Refused: refused}, err
	}
	m := b.marks[batch.Lane]
	switch {
	case m == nil:
		return Result{Nack: &wire.Nack{
			Lane: batch.Lane, Sequence: batch.First, Code: wire.NackRetry, RetryAfter: laneRetry, Reason: "lane: not known",
		}}, nil
	case batch.First > m.upto+1 || batch.Last > maxSequence:
		return Result{Upto: m.upto, Nack: &wire.Nack{Lane: batch.Lane, Sequence: m.upto + 1, Code: wire.NackGap}}, nil
	}
	stale, err := contradicts(m, events)
	switch {
	case err != nil:
		return Result{}, err
	case stale:
		// The box's next epoch will name this one: it was an old copy.
		err := a.run(ctx, `UPDATE epochs SET stale = 1 WHERE number = ?`, b.epoch)
		return Result{Upto: m.upto, Refused: refuse(wire.RefusedStale, string(batch.Lane)+": the last record applied is another one")}, err
	case batch.Last <= m.upto:
		return Result{Upto: m.upto}, nil
	}
	return a.advance(ctx, b, batch, events)
}

// contradicts reports whether a batch repeats the sequence of the last record
// applied with another record.
func contradicts(m *mark, events []event) (bool, error) {
	for i := range events {
		e := &events[i]
		if m.check.IsZero() || e.sequence != m.check.Sequence || e.fault != "" {
			continue
		}
		check, err := e.Check()
		if err != nil || m.check.Contradicts(check) {
			return err == nil, err
		}
	}
	return false, nil
}

// advance moves the mark record by record, up to the batch's end or a record
// that will never be taken. What was passed over becomes a hole.
func (a *applier) advance(ctx context.Context, b *box, batch *wire.Batch, events []event) (Result, error) {
	m := b.marks[batch.Lane]
	m.isDirty = true
	m.appended = max(m.appended, batch.Last)
	var r Result
	var newest *event
	place := batch.First - 1 // of the last event looked at
	for i := range events {
		e := &events[i]
		sequence, fault := e.sequence, e.fault
		if sequence <= place || sequence > batch.Last {
			// It stands where the next one would; in a batch with holes nobody
			// can say whether it is a repeat, and it must not pass for one.
			sequence = place + 1
			if uint64(len(events)) != batch.Last-batch.First+1 {
				sequence = max(sequence, m.upto+1)
			}
			fault = cmp.Or(fault, "sequence: not in order, or not in the batch")
		}
		place = sequence
		if sequence <= m.upto {
			continue
		}
		fault = cmp.Or(fault, a.unserved(e))
		if fault != "" {
			a.hole(b, batch.Lane, m.upto+1, sequence-1)
			m.upto = sequence - 1
			r.Nack = &wire.Nack{Lane: batch.Lane, Sequence: sequence, Code: wire.NackPermanent, Reason: fault}
			break
		}
		if err := a.record(ctx, b, e); err != nil {
			return Result{}, err
		}
		a.hole(b, batch.Lane, m.upto+1, sequence-1)
		m.upto, newest = sequence, e
		r.Applied++
	}
	if r.Nack == nil {
		a.hole(b, batch.Lane, m.upto+1, batch.Last)
		m.upto = batch.Last
	}
	if newest != nil {
		check, err := newest.Check()
		if err != nil {
			return Result{}, err
		}
		m.check = check
	}
	r.Upto = m.upto
	return r, nil
}

// unserved says why a good record will still never be taken.
func (a *applier) unserved(e *event) string {
	if !e.tenant.IsZero() && !a.serves(e.tenant) {
		return "tenant_id: not served here"
	}
	return ""
}

// serves reports whether a tenant's devices are taken.
func (db *DB) serves(tenant edgeclaim.TenantID) bool {
	return len(db.tenants) == 0 || db.tenants[tenant]
}

const recordColumns = 8

// record keeps a record, and what it says of a device.
func (a *applier) record(ctx context.Context, b *box, e *event) error {
	var id any
	if !e.device.IsZero() {
		id = e.device.Bytes()
	}
	a.records = append(a.records, b.epoch, laneNumber(e.Lane), int64(e.sequence), clean(e.Type), id, e.time, a.now, e.raw)
	switch e.what {
	case saysNothing:
		return nil
	case saysSuspected:
		return a.suspect(ctx, b, e)
	case saysHead:
		return a.head(ctx, b, &e.head)
	case saysCommand:
		return a.command(ctx, b, e.command)
	case saysDiffers:
		return a.differs(ctx, b, e)
	case saysProvisioned, saysRotated, saysReleased, saysRevoked, saysSwapped, saysSuperseded:
	}
	err := a.merge(ctx, told{box: b, device: e.device, tenant: e.tenant, hardware: e.hardware, what: e.what, holding: e.holding})
	if err == nil && edgeclaim.RecordType(e.Type) == edgeclaim.TypeDeviceSwapped {
		err = a.swapped(ctx, b, e)
	}
	return err
}

const holeColumns = 5

// hole notes that the sequences from first to last will never come.
func (a *applier) hole(b *box, lane edgeclaim.Lane, first, last uint64) {
	if first <= last {
		a.holes = append(a.holes, b.epoch, laneNumber(lane), int64(first), int64(last), a.now)
	}
}
