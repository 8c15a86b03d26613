package acceptance

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttproxy"
)

// A telemetryLedger's box has a small disk: so many MiB, of which so many bytes
// are for claims alone, and the points in it have room for an eighth of them all.
const (
	ledgerDisk    = 96
	ledgerReserve = 16 << 20
	ledgerDevices = 100
	ledgerPoint   = 96 // bytes of a point in its file, about
)

// telemetryLedger is a site whose devices say points.
type telemetryLedger struct {
	t      *testing.T
	site   *site
	disk   *ballast
	chance *rand.Rand
	line   *traffic
	said   *reporters
	room   int // points that the box keeps, about
}

// TestTelemetryLedger breaks a site in every way that troubles lists, and lets
// its disk and its quota get full, and segment files end torn, while a hundred
// devices say numbered points and others claim. When all is healed, in each lane
// what the hub has applied and what gap records name is together what the box has
// appended, each once; every point that was acknowledged to its device is in a
// record of this device, or was in one that a gap record names; and claims were
// answered all the while (P1, P6, P7, P8).
func TestTelemetryLedger(t *testing.T) {
	points, steps := 1_000_000, 40
	if testing.Short() {
		points, steps = 20_000, 6
	}
	for _, seed := range seeds(t, 1) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			l := newTelemetryLedger(t, points, seed)
			start := time.Now()
			l.suffer(steps)
			l.t.Logf("%v: %q", time.Since(start).Round(time.Millisecond), l.site.log)
			l.settle(points)
			l.t.Logf("%v in all", time.Since(start).Round(time.Millisecond))
		})
	}
}

func newTelemetryLedger(t *testing.T, points int, seed uint64) *telemetryLedger {
	t.Helper()
	dir := smallDisk(t, ledgerDisk)
	l := &telemetryLedger{
		t: t, disk: &ballast{t, filepath.Join(dir, "ballast")}, chance: rand.New(rand.NewPCG(seed, 1)),
		room: points / 8,
	}
	s := &site{t: t, broker: mosquitto.Start(t, mosquitto.Options{})}
	s.boxCable = mqttproxy.Start(t, s.broker.Addr(), seed)
	s.hubCable = mqttproxy.Start(t, s.broker.Addr(), seed+1)
	s.hub = newHub(t, s.hubCable.Addr()).quick()
	s.hub.start()
	segment := max(64<<10, l.room*ledgerPoint/8)
	s.box = newBox(t, "--upstream", "mqtt://"+s.boxCable.Addr(), "--site", "plant7", "--config", quickConfig(t, fmt.Sprintf(
		"mqtt: {max_device_rate: 1000000, max_device_burst: 1000000}\n"+
			"telemetry: {segment_bytes: %d, max_bytes: %d, disk_reserve: %d, max_device_points: 100000}\n",
		segment, max(2*segment, l.room*ledgerPoint), ledgerReserve)))
	s.box.data = filepath.Join(dir, "data")
	s.box.start()
	l.site = s
	if seed%2 == 0 {
		s.box.enrol(s.hub)
	}
	key := s.box.key()
	l.line = startCalmTraffic(t, s.box, key)
	l.said = startReporters(t, s.box, s.box.claimSome(key, "TEL-", ledgerDevices), points/ledgerDevices, seed)
	return l
}

// startCalmTraffic lets devices claim over either face, some tens a second: the
// points are to have the machine.
func startCalmTraffic(t testing.TB, b *box, key string) *traffic {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	f := &traffic{
		box: b, key: key, stop: stop, client: &http.Client{Timeout: 2 * time.Second},
		answered: map[string][]string{}, hardware: map[string]string{},
	}
	for face := range 2 {
		next := 0
		f.work.Go(func() {
			each(ctx, 5*pace, func(int) {
				if f.claim(ctx, face == 1, fmt.Sprintf("C%d-%d", face, next)) {
					next++
				}
			})
		})
	}
	t.Cleanup(f.end)
	return f
}

// done counts the claims that were answered.
func (f *traffic) done() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.claims
}

// suffer lets the devices say their points in so many steps, each of them into
// some trouble.
func (l *telemetryLedger) suffer(steps int) {
	l.t.Helper()
	var own []int // the steps that have a trouble of telemetry's own
	for which := range ownTroubles {
		own = append(own, which*steps/ownTroubles)
	}
	for step := range steps {
		which := slices.Index(own, step)
		if which >= 0 { // or the disk takes from upstream what only waits its turn
			l.told(0)
		}
		already := int(l.said.allowed.Load())
		said := l.drip(already, (l.said.each-already)/(steps-step))
		if which >= 0 {
			l.own(which)
		} else {
			l.site.schedule(l.chance.Uint64(), 1)
		}
		said()
		l.catchUp()
	}
}

// drips is in how many drops a step's points come, dripEvery how often one does:
// while anything goes wrong, somebody is speaking.
const (
	drips     = 30
	dripEvery = 10 * time.Millisecond
)

// drip lets each device say so many more points, drop by drop, and all of them
// when it is told to end.
func (l *telemetryLedger) drip(already, more int) (end func()) {
	ctx, stop := context.WithCancel(l.t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		for drop := 1; drop <= drips && within(dripEvery, ctx.Done()); drop++ {
			l.said.allow(already + more*drop/drips)
		}
	})
	return func() {
		stop()
		work.Wait()
		l.said.allow(already + more)
	}
}

// ownTroubles is how many troubles own has.
const ownTroubles = 5

// own brings about one of the troubles that telemetry has of its own.
func (l *telemetryLedger) own(which int) {
	l.t.Helper()
	switch which {
	case 0, 4:
		l.torn()
	case 1:
		l.flood()
	case 2:
		claims := l.line.done()
		l.fullUntil(ledgerReserve/2, "the disk is down to what only claims may use, and they are answered", func() bool {
			reserved, _ := l.site.box.metric(reservedDisk)
			return reserved == 1 && l.line.done() >= claims+10
		})
	case 3: // to the last byte: nobody is answered
		start := time.Now()
		l.fullUntil(0, "the disk is full", func() bool { return time.Since(start) > time.Second })
	}
}

// torn kills the box while devices speak, and tears the file that it wrote last.
func (l *telemetryLedger) torn() {
	l.t.Helper()
	until(l.t, "there is a file", func() bool { sure, _ := l.said.sure(); return sure > 0 })
	for range 3 {
		within(time.Duration(20+l.chance.IntN(100))*time.Millisecond, l.t.Context().Done())
		l.site.box.kill()
		tear(l.t, l.site.box.data, l.chance)
		l.site.box.start()
	}
	l.site.log = append(l.site.log, "a torn tail, three times")
}

// flood lets the devices say more than the box may keep while nobody upstream
// hears it, and kills the box on top of it.
func (l *telemetryLedger) flood() {
	l.t.Helper()
	start, claims := time.Now(), l.line.done()
	l.site.boxCable.Refuse()
	l.site.boxCable.Reset()
	already, _ := l.said.sure()
	l.said.allow((int(already) + l.room*3/2) / ledgerDevices)
	l.heard()
	until(l.t, "claims are answered", func() bool { return l.line.done() > claims })
	if dropped, _ := l.site.box.metric(droppedTelemetry); dropped == 0 {
		l.t.Error("more was said than there is room for, and nothing was dropped")
	}
	l.site.box.kill()
	l.site.box.start()
	l.site.boxCable.Heal()
	l.site.log = append(l.site.log, fmt.Sprintf("flooded (%v)", time.Since(start).Round(time.Millisecond)))
}

// heard waits until all that devices may say is acknowledged.
func (l *telemetryLedger) heard() {
	l.t.Helper()
	getsOn(l.t, "what devices may say is acknowledged", func() (uint64, bool) {
		sure, allowed := l.said.sure()
		return sure, sure >= allowed
	})
}

// catchUp waits until upstream has most of it, with devices claiming meanwhile.
func (l *telemetryLedger) catchUp() {
	l.t.Helper()
	claims := l.line.done()
	l.heard()
	l.told(uint64(l.room / 2))
	until(l.t, "claims are answered", func() bool { return l.line.done() > claims })
}

// told waits until no more than so many points wait for upstream.
func (l *telemetryLedger) told(most uint64) {
	l.t.Helper()
	getsOn(l.t, "upstream has it", func() (uint64, bool) {
		waiting, ok := l.site.box.metric(pendingTelemetry)
		return uint64(waiting), ok && uint64(waiting) <= most
	})
}

// settle closes the books.
func (l *telemetryLedger) settle(points int) {
	l.t.Helper()
	s := l.site
	l.heard()
	l.said.end()
	l.line.end()
	s.hub.waitReady()
	l.told(0)
	state := s.box.drained()
	books, records := s.hub.books(s.box)
	found := outOfOrder(records)
	for _, lane := range books {
		found = append(found, lane.faults()...)
	}
	found = append(found, l.line.settle(s.hub.devices(), records)...)
	found = append(found, l.said.odd...)
	heard := s.hub.points(l.said, state.BoxID)
	heard.unapplied = int(books["tel"].appended) - heard.records
	for _, fault := range append(found, heard.faults()...) {
		l.t.Error(fault)
	}
	sure, _ := l.said.sure()
	if sure != uint64(points) {
		l.t.Errorf("%d points were acknowledged, want %d", sure, points)
	}
	wantNoAlarm(l.t, state, false)
	l.t.Logf("%d points acknowledged, %d upstream, %d records of those that were there, %d in gaps, tel %+v; %d claims, prov %+v",
		sure, heard.distinct(), heard.again, heard.unapplied, state.Outbox["tel"], l.line.claims, state.Outbox["prov"])
	s.box.stop()
	if out, errOut, code := s.box.command("", "check"); code != 0 {
		l.t.Errorf("check: exit code %d: %s%s", code, out, errOut)
	}
}

// pointBook is what upstream has of the points that devices were told were safe.
type pointBook struct {
	times     []int // how often each number is on record
	records   int
	again     int // of those, beyond a point's first
	odd       []string
	unapplied int // sequences under which upstream has no point
}

// enter notes a record of the n-th point.
func (b *pointBook) enter(sequence uint64, n int) {
	b.records++
	switch {
	case n < 0 || n >= len(b.times):
		b.note("record %d is of a point that nobody said", sequence)
		return
	case b.times[n] > 0:
		b.again++
	}
	b.times[n]++
}

func (b *pointBook) note(format string, args ...any) {
	if len(b.odd) < 20 {
		b.odd = append(b.odd, fmt.Sprintf(format, args...))
	}
}

func (b *pointBook) distinct() int {
	count := 0
	for _, times := range b.times {
		count += min(times, 1)
	}
	return count
}

// faults audits the book, all of whose numbers were acknowledged. What is not in
// it must have been in a record that is in a gap.
func (b *pointBook) faults() []string {
	lost := len(b.times) - b.distinct()
	if lost <= b.unapplied {
		return b.odd
	}
	first := slices.Index(b.times, 0)
	return append(b.odd, fmt.Sprintf("%d points were acknowledged and are not upstream, from %d on, and gaps have %d", lost, first, b.unapplied))
}

// points reads all telemetry that the hub has of a box, and whose it is.
func (h *hub) points(said *reporters, boxID string) *pointBook {
	h.t.Helper()
	db := h.openTables()
	defer db.Close()
	owners := map[edgeclaim.DeviceID]int{}
	for i, one := range said.all {
		id, err := edgeclaim.ParseDeviceID(one.id)
		if err != nil {
			h.t.Fatal(err)
		}
		owners[id] = i
	}
	book := &pointBook{times: make([]int, said.each*len(said.all))}
	rows(h.t, db, `SELECT x.sequence, x.device, x.event FROM records x`+ofBox+quote(boxID)+` AND x.lane = 3 AND x.type = 'telemetry'`,
		func(r *sql.Rows) error {
			var sequence uint64
			var device, event sql.RawBytes
			if err := r.Scan(&sequence, &device, &event); err != nil {
				return err
			}
			n, err := pointNumber(event)
			if err != nil {
				return fmt.Errorf("record %d: %w: %s", sequence, err, event)
			}
			id, err := edgeclaim.DeviceIDFromBytes(device)
			if owner, ok := owners[id]; err != nil || !ok || owner != n/said.each {
				book.note("point %d is on record as said by %s", n, id)
			}
			book.enter(sequence, n)
			return nil
		})
	return book
}

// pointNumber finds a point's number in its event.
func pointNumber(event []byte) (int, error) {
	_, rest, _ := bytes.Cut(event, []byte(`"values":{"n":`))
	digits, _, _ := bytes.Cut(rest, []byte("}"))
	return strconv.Atoi(string(digits))
}

// TestPointCheckFails plants each fault that the ledger of points looks for.
func TestPointCheckFails(t *testing.T) {
	whole := func() *pointBook { return &pointBook{times: []int{1, 2, 0, 1}, unapplied: 1} }
	if found := whole().faults(); len(found) > 0 {
		t.Fatalf("a whole book: %q", found)
	}
	for name, plant := range map[string]func(b *pointBook){
		"a point lost":            func(b *pointBook) { b.times[0] = 0 },
		"lost, and no gap":        func(b *pointBook) { b.unapplied = 0 },
		"a point that nobody had": func(b *pointBook) { b.enter(5, 4) },
	} {
		b := whole()
		plant(b)
		if len(b.faults()) == 0 {
			t.Errorf("%s: found nothing", name)
		}
	}
}
