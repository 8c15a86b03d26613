package acceptance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/document"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/clock"
	"edgeclaim/internal/precedence"
	"edgeclaim/internal/signeddoc"
	"edgeclaim/internal/throttle"
	"edgeclaim/provision"
	"edgeclaim/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	islandDay    = 24 * time.Hour
	islandMaxAge = 30 * islandDay
	islandDays   = 60
	// islandVisit is when on each day the box is looked at. Whatever happens on a
	// day has happened by then.
	islandVisit = 12 * time.Hour
	islandLie   = 10 * 365 * islandDay // by which the wall clock is wrong for a while
)

// islandKeys are the provisioning keys, by what their templates are called.
var islandKeys = []string{"t15", "t45", "forever"}

// TestSixtyDays: a box that hears nobody for sixty days, with a clock that nobody
// sets right. Templates expire on days 15 and 45, documents are stale after day 30,
// the wall clock lies in between, the power fails. What it refuses and says, day
// by day, is in testdata/sixty_days; -update writes that anew. What has to hold
// whatever is written there is checked as well.
func TestSixtyDays(t *testing.T) {
	t.Parallel()
	for _, policy := range []edgeclaim.StalePolicy{edgeclaim.StaleWarn, edgeclaim.StaleDeny} {
		t.Run(string(policy), func(t *testing.T) {
			if testing.Short() && policy == edgeclaim.StaleWarn {
				t.Skip("the box that denies will do")
			}
			t.Parallel()
			var told string
			synctest.Test(t, func(t *testing.T) { told = newIsland(t, policy).live() })
			golden := filepath.Join("testdata", "sixty_days", string(policy)+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(told), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(told, "\n")); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
		})
	}
}

// island is a box without its listeners: the parts that decide, put together as
// the program does it. All its time is the bubble's.
type island struct {
	t      *testing.T
	dir    string
	policy edgeclaim.StalePolicy
	papers []*signeddoc.Signed // revocations and templates, as upstream has them
	began  time.Time           // of day 0

	boots     int
	booted    time.Time
	lie       atomic.Int64 // how far the wall clock is off
	db        *store.DB
	clock     *clock.Clock
	rule      *provision.Service
	documents *document.Service
	stop      func()

	known edgeclaim.Login // of a device that was claimed on day 0

	mu      sync.Mutex // guards what follows
	outcome provision.Outcome
	alarms  map[string]int // since the last visit
}

func newIsland(t *testing.T, policy edgeclaim.StalePolicy) *island {
	t.Helper()
	i := &island{t: t, dir: t.TempDir(), policy: policy, began: time.Now(), alarms: map[string]int{}}
	i.papers = []*signeddoc.Signed{
		i.sign(edgeclaim.DocumentRevocations, &edgeclaim.Revocations{}), i.sign(edgeclaim.DocumentTemplates, i.templates()),
	}
	i.boot()
	return i
}

// islandRoot is the key that the box was enrolled with.
func islandRoot() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{'i'}, ed25519.SeedSize))
}

func islandKey(name string) edgeclaim.Secret { return edgeclaim.NewSecret("pk_factory_" + name) }

func (i *island) sign(kind edgeclaim.DocumentType, body any) *signeddoc.Signed {
	i.t.Helper()
	text, err := json.Marshal(map[string]any{
		"type": kind, "tenant_id": tenant, "version": 1, "issued_at": i.began.UTC(), string(kind): body,
	})
	i.noErr(err)
	signed, err := signeddoc.Sign(islandRoot(), text)
	i.noErr(err)
	return signed
}

// templates are spelled by hand, for a document does not say what a row has.
func (i *island) templates() any {
	expires := map[string]any{"t15": i.began.Add(15 * islandDay).UTC(), "t45": i.began.Add(45 * islandDay).UTC()}
	var templates, keys []map[string]any
	for _, name := range islandKeys {
		template := map[string]any{"template_id": name, "name": name}
		if at, ends := expires[name]; ends {
			template["expires_at"] = at
		}
		templates = append(templates, template)
		keys = append(keys, map[string]any{"key_id": "key-" + name, "template_id": name, "sha256": islandKey(name).Hash()})
	}
	return map[string]any{"templates": templates, "keys": keys}
}

// boot opens the store and makes and runs what stands on it, in the program's
// order. The uptime begins anew.
func (i *island) boot() {
	i.t.Helper()
	logger := slog.New(slog.DiscardHandler)
	i.boots++
	i.booted = time.Now()
	booted := i.booted
	i.clock = clock.New(clock.Config{
		Wall:   func() time.Time { return time.Now().Add(time.Duration(i.lie.Load())) },
		Uptime: func() time.Duration { return time.Since(booted) }, Synced: func() bool { return false },
		Boot: fmt.Sprintf("1b4e28ba-2fa1-41d2-883f-%012d", i.boots), Build: i.began,
	}, logger)
	cfg := store.Defaults()
	cfg.Dir, cfg.Stamp, cfg.Logger = i.dir, i.clock.Stamp, logger
	var err error
	i.db, err = store.Open(cfg)
	i.noErr(err)
	i.noErr(i.clock.Load(i.t.Context(), i.db))
	slow, err := throttle.New(throttle.Defaults())
	i.noErr(err)
	i.rule = provision.New(provision.Config{BoxID: i.db.BoxID(), Site: "island", BoxKey: i.db.BoxKey(), Observe: i.observe},
		provision.Parts{
			Store: i.db, Clock: i.clock, Auditor: i, Throttle: slow, Precedence: precedence.New(), Documents: i,
		}, logger)
	root := func() ed25519.PublicKey { return islandRoot().Public().(ed25519.PublicKey) }
	i.documents, err = document.Open(i.t.Context(),
		document.Config{Box: i.db.BoxID(), Site: "island", MaxAge: islandMaxAge, Stale: i.policy},
		document.Parts{Store: i.db, Rule: i.rule, Clock: i.clock, Key: root, HubKey: root, Who: provision.Who, Auditor: i}, logger)
	i.noErr(err)
	i.run()
}

// run runs the parts until stop, which ends the program in good order. Nobody here
// is to be told when the wall clock steps: of the clock's own goroutine there is
// only its last save, of the floor.
func (i *island) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var group errgroup.Group
	rule, documents := i.rule, i.documents
	group.Go(func() error { return rule.Run(ctx) })
	group.Go(func() error { return documents.Run(ctx) })
	i.stop = func() {
		cancel()
		i.noErr(group.Wait())
		i.noErr(i.clock.Run(ctx, func(context.Context, clock.Change) {}))
		i.noErr(i.db.Check(context.Background()))
		i.noErr(i.db.Close())
	}
	synctest.Wait()
}

// Denies implements provision.Freshness: the documents are made after the rule.
func (i *island) Denies(tenant edgeclaim.TenantID) bool {
	return i.documents != nil && i.documents.Denies(tenant)
}

func (i *island) observe(_ edgeclaim.Via, outcome provision.Outcome, _ time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.outcome = outcome
}

// Add and Must are the audit log's. Of what is written there the alarms are kept.
func (i *island) Add(e audit.Entry) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e.Kind == audit.KindAlarm {
		i.alarms[strings.TrimSpace(e.Reason+" "+strings.Split(e.Detail["document"], "/")[0])]++
	}
}

func (i *island) Must(_ context.Context, e audit.Entry) error {
	i.Add(e)
	return nil
}

func (i *island) noErr(err error) {
	i.t.Helper()
	if err != nil {
		i.t.Fatal(err)
	}
}

// claim is the claim of a board, which logs in where it gets a credential, and
// what the operator hears of it.
func (i *island) claim(name, hardware string) (string, edgeclaim.Login) {
	i.t.Helper()
	body, err := json.Marshal(map[string]string{
		"provision_key": islandKey(name).Reveal(), "device_name": "Pump", "hardware_id": hardware,
	})
	i.noErr(err)
	answer := i.rule.Answer(i.t.Context(), edgeclaim.Ask{
		Body: body, Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaHTTP,
		Source: netip.MustParseAddr("192.0.2.1"), ReceivedAt: time.Now(),
	})
	i.mu.Lock()
	outcome := string(i.outcome)
	i.mu.Unlock()
	if outcome == string(provision.OutcomeMinted) && answer.Code == edgeclaim.CodeOK {
		login := i.credential(answer)
		i.login(login)
		return "ok", login
	}
	reason, denied := strings.CutPrefix(outcome, "denied_")
	if denied != (answer.Code == edgeclaim.CodePermissionDenied) || !denied && answer.Code != edgeclaim.CodeOK {
		i.t.Errorf("%s claims by %s: %s, answered with code %d", hardware, name, outcome, answer.Code)
	}
	if denied {
		return "refused: " + reason, edgeclaim.Login{}
	}
	return outcome, edgeclaim.Login{}
}

// credential is what an answer gives a device to log in with.
func (i *island) credential(answer edgeclaim.Answer) edgeclaim.Login {
	i.t.Helper()
	var said struct {
		DeviceID string `json:"device_id"`
		APIKey   string `json:"api_key"`
	}
	i.noErr(json.Unmarshal(answer.Body, &said))
	id, err := edgeclaim.ParseDeviceID(said.DeviceID)
	i.noErr(err)
	return edgeclaim.Login{Device: id, Key: edgeclaim.NewSecret(said.APIKey), Via: edgeclaim.ViaMQTT}
}

func (i *island) login(l edgeclaim.Login) string {
	i.t.Helper()
	_, err := i.rule.Identify(i.t.Context(), l)
	if err == nil {
		_, err = i.rule.Admit(i.t.Context(), l)
	}
	if err != nil {
		i.t.Errorf("a known device was kept out: %v", err)
		return err.Error()
	}
	return "ok"
}

// begin is day 0: a file brings the documents, and two boards claim.
func (i *island) begin() {
	i.t.Helper()
	done, err := i.documents.Import(i.t.Context(), bytes.NewReader(slices.Concat(i.papers[0].Text, []byte("\n"), i.papers[1].Text)))
	i.noErr(err)
	if done.Applied != 2 || done.Refused != 0 {
		i.t.Fatalf("imported as %+v", done)
	}
	i.claim("t15", "KNOWN-t15")
	_, i.known = i.claim("forever", "KNOWN-forever")
}

// happens is what comes to pass at the beginning of a day, and how it is called.
func (i *island) happens(day int) string {
	switch day {
	case 0:
		i.begin()
		return "documents come by a file"
	case 20:
		i.lie.Store(int64(islandLie))
		return "the wall clock jumps ten years ahead"
	case 22, 26:
		i.lie.Store(0)
		return "the wall clock is right again"
	case 24:
		i.lie.Store(-int64(islandLie))
		return "the wall clock jumps ten years back"
	case 40:
		i.stop()
		i.boot()
		return "restarted: another boot, uptime from 0"
	default:
		return ""
	}
}

// waitUntil lets time pass, and everybody do what is to be done by then.
func (i *island) waitUntil(day int, hour time.Duration) {
	<-time.After(time.Until(i.began.Add(time.Duration(day)*islandDay + hour)))
	synctest.Wait()
}

// live is the sixty days, and the link that comes back on the last of them.
func (i *island) live() string {
	defer func() { i.stop() }()
	var told strings.Builder
	fmt.Fprintf(&told, "stale: %s, max_age: 30 days. The clock is not synchronised. Documents age by running time; templates expire by the\n"+
		"later of the wall clock and the documents' date. Days begin at 00:00, and are told of at 12:00.\n\n", i.policy)
	table := tabwriter.NewWriter(&told, 0, 0, 2, ' ', 0)
	heads := []string{"day", "new board by t15", "new board by t45", "new board by forever", "known board by t15", "known board by forever",
		"login", "revocations, days", "templates, days", "alarms since the last line", "what happened"}
	fmt.Fprintln(table, strings.Join(heads, "\t"))
	for day := range islandDays + 1 {
		i.waitUntil(day, 0)
		note := i.happens(day)
		i.waitUntil(day, islandVisit)
		row := i.visit(day, "")
		i.holds(day, row)
		fmt.Fprintln(table, strings.Join(append(row, note), "\t"))
	}
	i.linkComesBack()
	row := i.visit(islandDays, "-LINKED")
	if row[3] != "ok" || strings.Contains(row[7]+row[8], "stale") {
		i.t.Errorf("upstream was heard: %q", row)
	}
	fmt.Fprintln(table, strings.Join(append(row, "the link is back: the same versions are confirmed"), "\t"))
	i.noErr(table.Flush())
	lines := strings.Split(told.String(), "\n")
	for n := range lines {
		lines[n] = strings.TrimRight(lines[n], " ")
	}
	return strings.Join(lines, "\n")
}

// visit is one line: what the box says at that moment.
func (i *island) visit(day int, suffix string) []string {
	i.t.Helper()
	row := []string{fmt.Sprintf("%3d", day)}
	for _, name := range islandKeys {
		outcome, _ := i.claim(name, fmt.Sprintf("NEW-%s-%d%s", name, day, suffix))
		row = append(row, outcome)
	}
	for _, name := range []string{"t15", "forever"} {
		outcome, _ := i.claim(name, "KNOWN-"+name)
		row = append(row, outcome)
	}
	row = append(row, i.login(i.known))
	for _, state := range i.documents.Held() {
		words := fmt.Sprintf("%.1f", state.Age/islandDay.Seconds())
		if state.Stale {
			words += " stale, " + string(state.Policy)
		}
		if state.Confirmed {
			words += " confirmed"
		}
		row = append(row, words)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	var alarms []string
	for _, alarm := range slices.Sorted(maps.Keys(i.alarms)) {
		if n := i.alarms[alarm]; n > 1 {
			alarm = fmt.Sprintf("%s x%d", alarm, n)
		}
		alarms = append(alarms, alarm)
	}
	clear(i.alarms)
	return append(row, strings.Join(alarms, ", "))
}

// holds is what has to be so whatever the golden file says: ages are of running
// time alone, known boards go on, and only a stale box that denies refuses the key
// that does not expire.
func (i *island) holds(day int, row []string) {
	i.t.Helper()
	stale := day >= 30
	want := "ok"
	if stale && i.policy == edgeclaim.StaleDeny {
		want = "refused: " + string(edgeclaim.ReasonDocumentsStale)
	}
	if row[3] != want || row[5] != "known" {
		i.t.Errorf("day %d: the key that does not expire: %q, want %q; a known board: %q", day, row[3], want, row[5])
	}
	held := i.documents.Held()
	if len(held) != len(i.papers) {
		i.t.Fatalf("day %d: held is %+v", day, held)
	}
	age := (time.Duration(day)*islandDay + islandVisit).Seconds()
	for _, state := range held {
		if state.Age < age-60 || state.Age > age+60 || state.Stale != stale || state.Confirmed {
			i.t.Errorf("day %d: %+v", day, state)
		}
	}
	if lies := day >= 20 && day < 22 || day >= 24 && day < 26; !lies && (row[1] == "ok") != (day < 15) {
		i.t.Errorf("day %d: t15: %q", day, row[1])
	} else if !lies && (row[2] == "ok") != (day < 45 && want == "ok") {
		i.t.Errorf("day %d: t45: %q", day, row[2])
	}
}

// linkComesBack: upstream says that there is nothing newer.
func (i *island) linkComesBack() {
	i.t.Helper()
	var offers []edgeclaim.DocumentOffer
	for _, s := range i.papers {
		offers = append(offers, edgeclaim.DocumentOffer{
			DocumentID: s.Document.DocumentID, Version: s.Document.Version, Hash: s.Hash, Size: len(s.Text),
		})
	}
	wanted, err := i.documents.Confirm(i.t.Context(), offers)
	i.noErr(err)
	if len(wanted) != 0 {
		i.t.Errorf("wanted again: %+v", wanted)
	}
}
