package acceptance

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// seedVariable, set in the environment, makes the ledger test run the one
// schedule of that seed.
const seedVariable = "EDGECLAIM_SEED"

// seeds returns the seeds of so many schedules, and prints how to run one again.
func seeds(t *testing.T, count int) []uint64 {
	t.Helper()
	if text := os.Getenv(seedVariable); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
		return []uint64{seed}
	}
	first := rand.Uint64N(1 << 32)
	var all []uint64
	for i := range uint64(count) {
		all = append(all, first+i)
	}
	t.Logf("seeds %d to %d; one again: %s=%d go test -run %s", first, all[count-1], seedVariable, first, t.Name())
	return all
}

// TestLedger breaks a site in every way that troubles lists, by random
// schedules, while devices claim. When all is healed, for each lane: what the
// hub has applied, what gap records name and what is in quarantine is together
// what the box has appended, each once, in order; and every claim that was
// answered is a device in the hub's list (P6, P8).
func TestLedger(t *testing.T) {
	schedules := 30
	if testing.Short() {
		schedules = 3
	}
	var dropped, parked uint64
	for _, seed := range seeds(t, schedules) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			state := runLedger(t, newSite(t, seed, smallEvents), seed)
			dropped += state.Outbox["evt"].Dropped
			parked += state.Outbox["prov"].Parked
		})
	}
	t.Logf("%d records were dropped with a gap record, %d parked", dropped, parked)
	if schedules == 30 && os.Getenv(seedVariable) == "" && (dropped == 0 || parked == 0) {
		t.Error("the schedules have made no holes")
	}
}

// smallEvents makes the event lane drop its oldest.
const smallEvents = "store: {evt_max_records: 16}\n"

func runLedger(t *testing.T, s *site, seed uint64) synced {
	t.Helper()
	if seed%2 == 0 {
		s.box.enrol(s.hub)
	}
	foreign := ""
	if seed%3 == 0 { // the hub serves one tenant, the box two
		s.hub.stop()
		s.hub.args = append(s.hub.args, "--tenant", tenant)
		s.hub.start()
		foreign = s.box.issue(s.box.foreignTemplate(), 1)[0].ProvisionKey
	}
	var refused []string
	for _, kind := range refusals(s.box) {
		refused = append(refused, kind.body)
	}
	line := startTraffic(t, s.box, s.box.key(), refused...)
	start := time.Now()
	for round := range 2 {
		if foreign != "" {
			s.box.claimSome(foreign, fmt.Sprint("FOREIGN-", round, "-"), 3)
		}
		s.schedule(seed+uint64(round)<<32, 4)
	}
	t.Logf("%v: %q", time.Since(start).Round(time.Millisecond), s.log)
	line.end()
	s.hub.waitReady()
	s.box.drained()
	s.discardSome()
	state := s.box.drained()

	listed := s.hub.devices()
	records := s.hub.wantWhole(s.box)
	for _, fault := range line.settle(listed, records) {
		t.Error(fault)
	}
	t.Logf("%v: %d claims answered, prov %+v, evt %+v, cables %+v, %+v", time.Since(start).Round(time.Millisecond),
		line.claims, state.Outbox["prov"], state.Outbox["evt"], s.boxCable.Counts(), s.hubCable.Counts())
	if line.claims == 0 || len(records) < line.claims/2 {
		t.Errorf("%d claims were answered and %d records told: the line did not work", line.claims, len(records))
	}
	if foreign != "" && state.Outbox["prov"].Parked == 0 {
		t.Error("nothing of the tenant that the hub does not serve was parked")
	}
	wantNoAlarm(t, state, foreign != "")
	return state
}

// discardSome throws away every other record in quarantine, as an operator may.
func (s *site) discardSome() {
	s.t.Helper()
	for i, q := range s.box.quarantine() {
		if i%2 == 0 {
			s.box.json(nil, "outbox", "discard", q.ID)
		}
	}
}

// wantNoAlarm fails on alarms that nothing in a schedule may raise: breaking
// links and programs never makes one side think that the other has lost or
// forged something.
func wantNoAlarm(t *testing.T, state synced, foreign bool) {
	t.Helper()
	for _, a := range state.Upstream.Alarms {
		switch a.Alarm {
		case "forged", "malformed", "oversized", "foreign": // the garbage
		case "quarantine":
			if !foreign {
				t.Error("a record was parked")
			}
		default:
			t.Errorf("alarm %s, %d times", a.Alarm, a.Count)
		}
	}
}

// foreignTemplate makes a template of another tenant.
func (b *box) foreignTemplate() string {
	b.t.Helper()
	var made struct {
		TemplateID string `json:"template_id"`
	}
	b.json(&made, "template", "create", "--tenant", "7b0e3f5e-7f4e-4a57-9a0b-6a1c2d3e4f51", "--name", "F")
	return made.TemplateID
}
