package acceptance

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"
)

// book is one lane of one life of a box's outbox, as box and hub tell it.
type book struct {
	lane     string
	appended uint64 // by the box's count
	mark     uint64 // where the hub says it stands
	// applied are the sequences that the hub holds a record of, as often as it
	// does.
	applied []uint64
	holes   []span // sequences that the hub has noted will never come
	named   []span // by gap records that the hub holds
	parked  []uint64
}

// span is from the first sequence to the last, both included.
type span struct {
	From, To uint64
	Reason   string
	Count    uint64
}

func (s span) holds(n uint64) bool { return s.From <= n && n <= s.To }

func anyHolds(spans []span, n uint64) bool {
	return slices.ContainsFunc(spans, func(s span) bool { return s.holds(n) })
}

// faults audits the book: applied ∪ named by gap records ∪ in quarantine is
// what was appended, and each was applied once. Nothing means it is whole.
func (b *book) faults() []string {
	var found []string
	note := func(format string, args ...any) {
		if len(found) < 20 { // the first ones tell
			found = append(found, b.lane+": "+fmt.Sprintf(format, args...))
		}
	}
	times := map[uint64]int{}
	for _, n := range b.applied {
		times[n]++
		if n == 0 || n > b.appended {
			note("%d is applied and was never appended", n)
		}
	}
	for n := uint64(1); n <= b.appended; n++ {
		applied, named, parked := times[n], anyHolds(b.named, n), slices.Contains(b.parked, n)
		switch {
		case applied > 1:
			note("%d is applied %d times", n, applied)
		case applied == 0 && !named && !parked:
			note("%d is lost", n)
		case applied > 0 && parked:
			note("%d is applied and in quarantine", n)
		case applied > 0 && anyHolds(b.discarded(), n):
			note("%d is applied and was discarded", n)
		case (applied > 0) == anyHolds(b.holes, n):
			note("%d: applied %d times, and a hole is %v", n, applied, anyHolds(b.holes, n))
		}
	}
	for _, s := range b.named {
		if s.Reason == "damaged" || s.From > s.To || s.To > b.appended || s.Count > s.To-s.From+1 {
			note("a gap record names %+v", s)
		}
	}
	if b.mark != b.appended {
		note("the hub stands at %d, the box has appended %d", b.mark, b.appended)
	}
	return found
}

// discarded are the spans that an operator threw away. What a full lane has
// dropped may have been applied before: its ack was on the way.
func (b *book) discarded() []span {
	return slices.DeleteFunc(slices.Clone(b.named), func(s span) bool { return s.Reason == "quota" })
}

// told is a record as the hub holds it.
type told struct {
	Epoch    string          `json:"epoch"`
	Lane     string          `json:"lane"`
	Sequence string          `json:"sequence"`
	Type     string          `json:"type"`
	Device   string          `json:"partitionkey"`
	Data     json.RawMessage `json:"data"`

	number   uint64
	received int64 // when it was committed, in µs
}

// lanes are the numbers of the lanes in the hub's tables.
var lanes = map[int]string{1: "prov", 2: "evt", 3: "tel"}

// openTables opens the hub's database beside the hub, to read.
func (h *hub) openTables() *sql.DB {
	h.t.Helper()
	driver, source := "sqlite", "file:"+filepath.Join(h.data, "hub.db")+"?_pragma=busy_timeout(15000)&_pragma=query_only(ON)"
	if h.database != "" {
		driver, source = "pgx", h.database
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		h.t.Fatal(err)
	}
	return db
}

// rows runs a query over the hub's tables, scan for each row.
func rows(t testing.TB, db *sql.DB, query string, scan func(*sql.Rows) error, args ...any) {
	t.Helper()
	result, err := db.QueryContext(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer result.Close()
	for result.Next() {
		if err := scan(result); err != nil {
			t.Fatal(err)
		}
	}
	if err := result.Err(); err != nil {
		t.Fatal(err)
	}
}

const ofBox = ` JOIN epochs e ON e.number = x.epoch JOIN boxes b ON b.number = e.box WHERE b.box = `

// withoutPoints leaves telemetry itself out: there is a lot of it.
const withoutPoints = ` AND x.type <> 'telemetry'`

// records are all that the hub has applied from a box but telemetry, in the
// order of their epochs, lanes and sequences.
func (h *hub) records(boxID string) []told {
	h.t.Helper()
	db := h.openTables()
	defer db.Close()
	var all []told
	rows(h.t, db, `SELECT x.sequence, x.received_at, x.event FROM records x`+ofBox+quote(boxID)+withoutPoints+` ORDER BY x.epoch, x.lane, x.sequence`,
		func(r *sql.Rows) error {
			var one told
			var event []byte
			if err := r.Scan(&one.number, &one.received, &event); err != nil {
				return err
			}
			if err := json.Unmarshal(event, &one); err != nil {
				return err
			}
			all = append(all, one)
			if one.Sequence != fmt.Sprintf("%020d", one.number) {
				return fmt.Errorf("record %d says that it is %s", one.number, one.Sequence)
			}
			return nil
		})
	return all
}

// quote writes a box id, which has no quotes in it, as SQL of both databases.
func quote(text string) string { return "'" + text + "'" }

// books opens the books of a box that has one epoch: what the box counts, what
// it has in quarantine, and the hub's tables.
func (h *hub) books(b *box) (map[string]*book, []told) {
	h.t.Helper()
	state := b.synced()
	books := map[string]*book{}
	for lane, counts := range state.Outbox {
		books[lane] = &book{lane: lane, appended: counts.Appended}
	}
	records := h.records(state.BoxID)
	epochs := map[string]bool{}
	for _, r := range records {
		epochs[r.Epoch] = true
		books[r.Lane].applied = append(books[r.Lane].applied, r.number)
		if r.Type != "gap" {
			continue
		}
		var gap struct {
			span
			Lane string
		}
		if err := json.Unmarshal(r.Data, &gap); err != nil {
			h.t.Fatal(err)
		}
		books[gap.Lane].named = append(books[gap.Lane].named, gap.span)
	}
	if len(epochs) > 1 {
		h.t.Errorf("the box told under %d epochs, want one", len(epochs))
	}
	for _, q := range b.quarantine() {
		books[q.Lane].parked = append(books[q.Lane].parked, q.Sequence)
	}
	h.readMarks(state.BoxID, books)
	h.readPoints(state.BoxID, books["tel"])
	return books, records
}

func (h *hub) readMarks(boxID string, books map[string]*book) {
	h.t.Helper()
	db := h.openTables()
	defer db.Close()
	rows(h.t, db, `SELECT x.lane, x.upto FROM marks x`+ofBox+quote(boxID), func(r *sql.Rows) error {
		var lane int
		var upto uint64
		err := r.Scan(&lane, &upto)
		if books[lanes[lane]] != nil {
			books[lanes[lane]].mark = upto
		}
		return err
	})
	rows(h.t, db, `SELECT x.lane, x.first, x.last FROM holes x`+ofBox+quote(boxID), func(r *sql.Rows) error {
		var lane int
		var s span
		err := r.Scan(&lane, &s.From, &s.To)
		books[lanes[lane]].holes = append(books[lanes[lane]].holes, s)
		return err
	})
}

// readPoints enters the sequences of telemetry.
func (h *hub) readPoints(boxID string, tel *book) {
	h.t.Helper()
	if tel == nil {
		return
	}
	db := h.openTables()
	defer db.Close()
	rows(h.t, db, `SELECT x.sequence FROM records x`+ofBox+quote(boxID)+` AND x.type = 'telemetry'`, func(r *sql.Rows) error {
		var sequence uint64
		err := r.Scan(&sequence)
		tel.applied = append(tel.applied, sequence)
		return err
	})
}

// parkedRecord is a row of `edgeclaim outbox list --json`.
type parkedRecord struct {
	ID       string
	Lane     string
	Sequence uint64
	DeviceID string `json:"device_id"`
	Reason   string
}

func (b *box) quarantine() []parkedRecord {
	b.t.Helper()
	var all []parkedRecord
	b.json(&all, "outbox", "list")
	return all
}

// wantWhole audits all lanes of a box that has nothing left to tell, and that
// prov was committed in its order.
func (h *hub) wantWhole(b *box) []told {
	h.t.Helper()
	books, records := h.books(b)
	for _, lane := range books {
		for _, fault := range lane.faults() {
			h.t.Error(fault)
		}
	}
	for _, fault := range outOfOrder(records) {
		h.t.Error(fault)
	}
	return records
}

// outOfOrder says where records of the provisioning lane were committed before
// an earlier one.
func outOfOrder(records []told) []string {
	var found []string
	latest := told{}
	for _, r := range records {
		if r.Lane != "prov" {
			continue
		}
		if r.Epoch == latest.Epoch && r.received < latest.received {
			found = append(found, "prov: "+strconv.FormatUint(latest.number, 10)+" was committed after "+r.Sequence)
		}
		latest = r
	}
	return found
}

// hash is how a credential is told upstream.
func hash(apiKey string) string {
	sum := sha256.Sum256([]byte(apiKey))
	return hex.EncodeToString(sum[:])
}

// misordered compares what each device was answered, in its order, with what
// the hub was told of it: every key that was answered, in the order of the
// answers, and between two of them a release.
func misordered(records []told, answered map[string][]string) []string {
	var found []string
	keys, last := map[string][]string{}, map[string]string{}
	for _, r := range records {
		if r.Lane != "prov" {
			continue
		}
		if last[r.Device] == r.Type || (last[r.Device] == "" && r.Type != "device.provisioned") {
			found = append(found, fmt.Sprintf("device %s: %s follows %q", r.Device, r.Type, last[r.Device]))
		}
		last[r.Device] = r.Type
		var data struct {
			Credential struct{ SHA256 string }
		}
		if err := json.Unmarshal(r.Data, &data); err != nil {
			found = append(found, err.Error())
		}
		if r.Type == "device.provisioned" {
			keys[r.Device] = append(keys[r.Device], data.Credential.SHA256)
		}
	}
	for device, answers := range answered {
		at := 0
		for _, apiKey := range answers {
			i := slices.Index(keys[device][at:], hash(apiKey))
			if i < 0 {
				found = append(found, fmt.Sprintf("device %s: a key that was answered is not told, or not in its order", device))
				break
			}
			at += i + 1
		}
	}
	return found
}
