package provision_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/provision"
)

func askFrom(source string, body fields, t testing.TB) edgeclaim.Ask {
	t.Helper()
	return edgeclaim.Ask{
		Body: []byte(body.json(t)), Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaHTTP, Source: addr(source),
		ReceivedAt: time.Now().Add(-time.Hour),
	}
}

// TestThrottle: thousands of bad claims are put off, and every good one from the
// same address gets through: new, known, with a nonce.
func TestThrottle(t *testing.T) {
	r := newRig(t)
	const source, bad, good = "192.0.2.1", 5000, 300
	key := r.key(nil)
	known := r.wantMinted(r.claimNonce(key, "KNOWN", nonceA))
	var mu sync.Mutex
	codes := map[edgeclaim.Code]int{}
	var wg sync.WaitGroup
	for worker := range 10 {
		wg.Go(func() {
			for i := range bad / 10 {
				s := r.answer(askFrom(source, claimOf(edgeclaim.NewSecret(fmt.Sprint("bad", worker, i)), "H"), t))
				mu.Lock()
				codes[s.Code]++
				mu.Unlock()
				if s.Code == edgeclaim.CodeResourceExhausted && (s.answer.RetryAfter < time.Second || s.raw != `{"code":8,"message":"too many requests","details":[]}`) {
					t.Errorf("answer %s, retry after %s", s.raw, s.answer.RetryAfter)
				}
			}
		})
		wg.Go(func() {
			for i := range good / 10 {
				if s := r.answer(askFrom(source, claimOf(key, fmt.Sprint("GOOD-", worker, "-", i)), t)); s.APIKey == "" {
					t.Errorf("a good claim hears %s", s.raw)
				}
				if s := r.answer(askFrom(source, claimOf(key, "KNOWN").with("claim_nonce", nonceA), t)); s.raw != known.raw {
					t.Errorf("a good re-claim hears %s", s.raw)
				}
			}
		})
	}
	wg.Wait()
	if codes[edgeclaim.CodePermissionDenied] < 100 || codes[edgeclaim.CodeResourceExhausted] < bad/2 ||
		codes[edgeclaim.CodePermissionDenied]+codes[edgeclaim.CodeResourceExhausted] != bad {
		t.Errorf("bad claims heard %v", codes)
	}
	// Malformed ones do not count; neither does another address.
	for range 200 {
		r.answer(edgeclaim.Ask{Body: []byte("x"), Format: edgeclaim.FormatJSON, Source: addr("192.0.2.2"), ReceivedAt: time.Now()})
	}
	if s := r.answer(askFrom("192.0.2.2", claimOf(edgeclaim.NewSecret("bad"), "H"), t)); s.raw != refusal {
		t.Errorf("another address hears %s", s.raw)
	}
	alarms := r.Alarms()
	if len(alarms) != 1 || alarms[0].Alarm != edgeclaim.AlarmThrottled || alarms[0].Count != uint64(codes[edgeclaim.CodeResourceExhausted]) {
		t.Errorf("alarms %+v", alarms)
	}
	r.runOnce()
	told := map[edgeclaim.RecordType]int{}
	for _, record := range r.records(edgeclaim.LaneEvt) {
		told[record.Type]++
	}
	if told[edgeclaim.TypeAlarmRaised] != 1 || told[edgeclaim.TypeClaimRefused] != 1 {
		t.Errorf("told upstream %v", told)
	}
}

// TestRefusalsAreAlike: byte by byte and not sooner than the fixed delay,
// whatever the reason, in both formats and over both faces.
func TestRefusalsAreAlike(t *testing.T) {
	r := newRig(t)
	type refused struct {
		reason edgeclaim.Reason
		body   fields
	}
	plain := r.template(nil)
	key := func(change func(*edgeclaim.Template)) edgeclaim.Secret { return r.key(change) }
	gone := r.issue(plain)
	if _, err := r.SetKeyStatus(t.Context(), gone.Key.ID, edgeclaim.KeyRevoked); err != nil {
		t.Fatal(err)
	}
	revoked := r.wantMinted(r.claim(r.issue(plain).Secret, "REVOKED"))
	if _, err := r.Revoke(r.operator(), revoked.id(t), ""); err != nil {
		t.Fatal(err)
	}
	swapped := r.wantMinted(r.claim(r.issue(plain).Secret, "SWAPPED"))
	if _, err := r.Swap(r.operator(), swapped.id(t), hardwareOf(t, "INSTEAD")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Deny(r.operator(), plain.Tenant, hardwareOf(t, "DENIED")); err != nil {
		t.Fatal(err)
	}
	csr := csrPEM(t, newSigner(t))
	var cases []refused
	for _, c := range []refused{
		{edgeclaim.ReasonUnknownKey, claimOf(edgeclaim.NewSecret("unknown"), "H")},
		{edgeclaim.ReasonKeyRevoked, claimOf(gone.Secret, "H")},
		{edgeclaim.ReasonHardwareRevoked, claimOf(r.issue(plain).Secret, "REVOKED")},
		{edgeclaim.ReasonHardwareSwapped, claimOf(r.issue(plain).Secret, "SWAPPED")},
		{edgeclaim.ReasonHardwareDenied, claimOf(r.issue(plain).Secret, "DENIED")},
		{edgeclaim.ReasonHardwareDenied, claimOf(key(func(t *edgeclaim.Template) { t.Approval = edgeclaim.ApprovalManual }), "DENIED")},
		{edgeclaim.ReasonNotListed, claimOf(key(func(t *edgeclaim.Template) { t.AllowList = true }), "H")},
		{edgeclaim.ReasonPatternMismatch, claimOf(key(func(t *edgeclaim.Template) { t.Pattern = "X"; t.Credential = edgeclaim.CredentialX509 }), "H")},
	} {
		cases = append(cases, c, refused{c.reason, c.body.with("claim_nonce", nonceA)}, refused{c.reason, c.body.with("csr", csr)})
	}
	var wg sync.WaitGroup
	for _, c := range cases {
		for _, via := range []edgeclaim.Via{edgeclaim.ViaMQTT, edgeclaim.ViaHTTP} {
			wg.Go(func() {
				start := time.Now()
				a := r.Answer(t.Context(), edgeclaim.Ask{Body: []byte(c.body.json(t)), Format: edgeclaim.FormatJSON, Via: via, ReceivedAt: start})
				if took := time.Since(start); took < edgeclaim.RefusalDelay {
					t.Errorf("%s: refused after %v (P3)", c.reason, took)
				}
				if string(a.Body) != refusal || a.Code != edgeclaim.CodePermissionDenied || a.RetryAfter != 0 || !a.Waiting.IsZero() {
					t.Errorf("%s: %+v %s", c.reason, a, a.Body)
				}
			})
		}
	}
	wg.Wait()
	counted := map[provision.Outcome]int{}
	for _, o := range r.outcomes {
		counted[o]++
	}
	for _, c := range cases {
		if counted["denied_"+provision.Outcome(c.reason)] == 0 {
			t.Errorf("nothing was refused for %s: %v", c.reason, counted)
		}
	}
	for i := range 200 { // and one that is put off is as late
		r.answer(askFrom("192.0.2.3", claimOf(edgeclaim.NewSecret(fmt.Sprint("u", i)), "H"), t))
	}
	start := time.Now()
	ask := askFrom("192.0.2.3", claimOf(edgeclaim.NewSecret("u"), "H"), t)
	ask.ReceivedAt = start
	if s := r.answer(ask); s.Code != edgeclaim.CodeResourceExhausted || time.Since(start) < edgeclaim.RefusalDelay {
		t.Errorf("%s after %v", s.raw, time.Since(start))
	}
}

// TestSuspicionsAreBounded: whatever a stranger causes, the provisioning lane
// gets one record of a device in an hour and a hundred of the box, and nobody
// waits.
func TestSuspicionsAreBounded(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	var ids []edgeclaim.DeviceID
	for i := range 150 {
		ids = append(ids, r.wantMinted(r.claim(key, fmt.Sprint("H", i))).id(t))
	}
	before := len(r.records(edgeclaim.LaneProv))
	many := make([]netip.Addr, 50)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
	}
	const each = 20
	for range each {
		for _, id := range ids {
			r.Suspect(edgeclaim.Suspicion{Device: id, Kind: edgeclaim.SuspicionTakeover, Count: 9, Window: time.Minute, Sources: many})
		}
		r.runOnce()
	}
	r.Suspect(edgeclaim.Suspicion{Kind: edgeclaim.SuspicionTakeover}) // of nobody
	r.runOnce()
	records := r.records(edgeclaim.LaneProv)[before:]
	if len(records) != 100 {
		t.Errorf("%d records, want 100", len(records))
	}
	for _, record := range records {
		if n := strings.Count(string(record.Data), "192.0.2."); n != 4 {
			t.Errorf("%d sources in %s", n, record.Data)
		}
	}
	if got := r.Alarms(); len(got) != 1 || got[0].Count != each*150+1 {
		t.Errorf("alarms %+v", got)
	}
	if got := len(r.audited(audit.KindAlarm)); got > 102 {
		t.Errorf("%d audited", got)
	}
}

// TestOverusedKey raises an alarm where somebody knows how many to expect, once.
func TestOverusedKey(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*edgeclaim.Template)
		claims int
		want   uint64
	}{
		"expected 15, 30 came":      {func(t *edgeclaim.Template) { t.ExpectedClaims = 15 }, 30, 0},
		"expected 15, 31 came":      {func(t *edgeclaim.Template) { t.ExpectedClaims = 15 }, 31, 1},
		"expected 15, 60 came":      {func(t *edgeclaim.Template) { t.ExpectedClaims = 15 }, 60, 1},
		"one-time, tried 20 times":  {func(t *edgeclaim.Template) { t.OneTime = true }, 20, 0},
		"one-time, tried 21 times":  {func(t *edgeclaim.Template) { t.OneTime = true }, 21, 1},
		"max 10 of them, 40 tried":  {func(t *edgeclaim.Template) { t.MaxClaims = 10 }, 40, 1},
		"nobody knows":              {nil, 60, 0},
		"paced, expected 5, 30 try": {func(t *edgeclaim.Template) { t.ExpectedClaims = 5; t.MaxClaimsPerMinute = 3 }, 30, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			issued := r.issue(r.template(c.change))
			for i := range c.claims {
				r.claim(issued.Secret, fmt.Sprint("H", i))
			}
			var got uint64
			for _, alarm := range r.Alarms() {
				if alarm.Alarm == edgeclaim.AlarmKeyOverused {
					got = alarm.Count
				}
			}
			if got != c.want {
				t.Errorf("%d alarms, want %d", got, c.want)
			}
			if c.want == 0 {
				return
			}
			r.runOnce()
			found := false
			for _, record := range r.records(edgeclaim.LaneEvt) {
				found = found || record.Type == edgeclaim.TypeAlarmRaised && bytes.Contains(record.Data, []byte(issued.Key.ID.String()))
			}
			if !found {
				t.Error("upstream does not hear which key")
			}
		})
	}
}

// TestRefusalsDoNotFillTheLog: twenty lines a second, and the others counted.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var lines bytes.Buffer
	r := newRig(t)
	service := provision.New(provision.Config{BoxID: "box", Site: "site"},
		provision.Parts{Store: r.store, Clock: r.clock}, slog.New(slog.NewTextHandler(&lines, nil)))
	start := time.Now()
	for i := range 500 {
		service.Answer(t.Context(), askFrom("192.0.2.1", claimOf(edgeclaim.NewSecret(fmt.Sprint("secret-", i)), "H"), t))
	}
	seconds := int(time.Since(start)/time.Second) + 2
	if got := strings.Count(lines.String(), "claim refused"); got > 20*seconds || got < 20 {
		t.Errorf("%d lines in %d seconds", got, seconds)
	}
	if strings.Contains(lines.String(), "secret-") {
		t.Error("a key is in the log (P5)")
	}
}

// TestFailuresDoNotFillTheLog: nor do claims that could not be decided, and those
// whose asker went away say nothing.
func TestFailuresDoNotFillTheLog(t *testing.T) {
	var lines bytes.Buffer
	r := newRig(t)
	var outcomes []provision.Outcome
	service := provision.New(provision.Config{
		Observe: func(_ edgeclaim.Via, o provision.Outcome, _ time.Duration) { outcomes = append(outcomes, o) },
	}, provision.Parts{Store: r.store, Clock: r.clock}, slog.New(slog.NewTextHandler(&lines, nil)))
	ask := askFrom("192.0.2.1", claimOf(r.key(nil), "H"), t)
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range 10 {
		if a := service.Answer(gone, ask); a.Code != edgeclaim.CodeUnavailable {
			t.Fatalf("answer %s", a.Body)
		}
	}
	if lines.Len() > 0 || outcomes[9] != provision.OutcomeUnavailable {
		t.Errorf("outcome %s, and logged of askers that went away:\n%s", outcomes[9], lines.String())
	}
	if r.closed = true; r.store.Close() != nil {
		t.Fatal("close")
	}
	start := time.Now()
	for range 500 {
		service.Answer(t.Context(), ask)
	}
	seconds := int(time.Since(start)/time.Second) + 2
	if got := strings.Count(lines.String(), "request not decided"); got > 20*seconds || got < 20 {
		t.Errorf("%d lines in %d seconds", got, seconds)
	}
}

// TestUnconfirmed: a credential that nobody used is told of once, and again when
// another took its place.
func TestUnconfirmed(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	var never []said
	for i := range 3 {
		never = append(never, r.wantMinted(r.claim(key, fmt.Sprint("NEVER", i))))
	}
	used := r.wantMinted(r.claim(key, "USED"))
	r.wantLogin(used.id(t), used.APIKey)
	released := r.wantMinted(r.claim(key, "RELEASED"))
	if _, err := r.Release(r.operator(), released.id(t), false); err != nil {
		t.Fatal(err)
	}
	wantTold := func(when string, want int) {
		t.Helper()
		r.Sweep(t.Context())
		if got := len(r.records(edgeclaim.LaneEvt)); got != want {
			t.Errorf("%s: %d records, want %d", when, got, want)
		}
	}
	wantTold("at once", 0)
	r.pass(provision.DefaultUnconfirmedAfter)
	wantTold("a moment early", 0)
	r.pass(time.Second)
	wantTold("after a day", 3)
	r.restart()
	wantTold("told already", 3)
	if _, err := r.Rotate(r.operator(), never[0].id(t), rotation(0)); err != nil {
		t.Fatal(err)
	}
	r.pass(provision.DefaultUnconfirmedAfter + time.Second)
	wantTold("another one", 4)
	if got := r.Alarms(); len(got) != 1 || got[0].Alarm != edgeclaim.AlarmUnconfirmed || got[0].Count != 1 {
		t.Errorf("alarms %+v", got)
	}
	r.wantLogin(never[1].id(t), never[1].APIKey)
	for _, record := range r.records(edgeclaim.LaneEvt) {
		if record.Type != edgeclaim.TypeDeviceUnconfirmed || record.Device.IsZero() {
			t.Errorf("told %+v", record)
		}
	}
}

// TestManyUnconfirmed: a hundred one by one, and how many more there are on each
// page; a box that stops in between tells nobody less.
func TestManyUnconfirmed(t *testing.T) {
	r := newRig(t)
	key := r.key(nil)
	var wg sync.WaitGroup
	for worker := range 11 { // more than a page
		wg.Go(func() {
			for i := range 100 {
				r.wantMinted(r.claim(key, fmt.Sprint("H", worker, "-", i)))
			}
		})
	}
	wg.Wait()
	r.pass(25 * time.Hour)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	r.SweepPage(stopped)
	if got := len(r.records(edgeclaim.LaneEvt)); got != 0 {
		t.Errorf("%d records of a box that stops", got)
	}
	r.SweepPage(t.Context())
	records := r.records(edgeclaim.LaneEvt)
	if len(records) != 101 || !bytes.Contains(records[100].Data, []byte(`"count":900`)) {
		t.Fatalf("%d records, the last %s", len(records), records[len(records)-1].Data)
	}
	r.restart()
	for range 2 {
		r.Sweep(t.Context())
		if got := len(r.records(edgeclaim.LaneEvt)); got != 201 { // the second page's hundred one by one
			t.Errorf("%d records after another look", got)
		}
	}
}

// TestRunSweeps: ten minutes after the start, and then by the hour.
func TestRunSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := &countingStore{}
		s := provision.New(provision.Config{}, provision.Parts{Store: looks, Clock: standing{}}, discard())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		for _, c := range []struct {
			after time.Duration
			looks int32
		}{{9 * time.Minute, 0}, {2 * time.Minute, 1}, {58 * time.Minute, 1}, {2 * time.Minute, 2}, {time.Hour, 3}} {
			timer := time.NewTimer(c.after)
			<-timer.C
			synctest.Wait()
			if got := looks.devices.Load(); got != c.looks {
				t.Errorf("%d looks, want %d", got, c.looks)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// countingStore counts the looks at devices, of which it has none.
type countingStore struct {
	provision.Store
	devices atomic.Int32
}

func (s *countingStore) Devices(context.Context, edgeclaim.DeviceID, int) ([]edgeclaim.Device, error) {
	s.devices.Add(1)
	return nil, nil
}

// standing is a clock that stands.
type standing struct{}

func (standing) Now() time.Time         { return built }
func (standing) Stamp() edgeclaim.Stamp { return edgeclaim.Stamp{Time: built} }
