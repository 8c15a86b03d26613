package registry_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/postgres"
)

const (
	site     = "plant-7"
	tenantID = "5f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33"
	otherID  = "6f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33"
)

// now is what every registry's clock says.
var now = time.Date(2026, 10, 4, 9, 12, 33, 1000, time.UTC)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashVariable); dir != "" {
		os.Exit(crashHelper(dir))
	}
	goleak.VerifyTestMain(m)
}

// each runs a test over both databases. open opens one registry, the same for
// the same name within a test.
func each(t *testing.T, test func(t *testing.T, open opener)) {
	t.Helper()
	t.Parallel()
	t.Run("database=sqlite", func(t *testing.T) {
		dir := t.TempDir()
		test(t, func(t testing.TB, name string, cfg registry.Config) *registry.DB {
			cfg.URL = "sqlite:" + filepath.Join(dir, name+".db")
			return openAt(t, cfg)
		})
	})
	t.Run("database=postgres", func(t *testing.T) {
		server := postgres.Start(t)
		urls := map[string]string{}
		test(t, func(t testing.TB, name string, cfg registry.Config) *registry.DB {
			if urls[name] == "" {
				urls[name] = server.URL()
			}
			cfg.URL = urls[name]
			return openAt(t, cfg)
		})
	})
}

type opener func(t testing.TB, name string, cfg registry.Config) *registry.DB

func openAt(t testing.TB, cfg registry.Config) *registry.DB {
	t.Helper()
	cfg.Now = func() time.Time { return now }
	db, err := registry.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // again, where the test did
	return db
}

// raw opens the database beside the registry, to look at its rows.
func raw(t testing.TB, db *registry.DB) *sql.DB {
	t.Helper()
	driver, source := registry.Source(db)
	opened, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	return opened
}

func tenant(t testing.TB, text string) edgeclaim.TenantID {
	t.Helper()
	id, err := edgeclaim.ParseTenantID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func names(box string) wire.Names { return wire.Names{Site: site, Box: box} }

// epoch is the nth life of a box.
func epoch(box string, n int) string {
	text := fmt.Sprintf("%s%04d", strings.ReplaceAll(box, "-", ""), n)
	return text + strings.Repeat("E", 26-len(text))
}

// hello is one of a box that has forgotten nothing.
func hello(box string, life int, appended uint64) *wire.Hello {
	marks := edgeclaim.LaneMarks{First: 1, Appended: appended}
	return &wire.Hello{
		Type: wire.TypeHello, Versions: []int{1}, Box: box, Site: site, Epoch: epoch(box, life), Nonce: "AAAAAAAAAAAAAAAAAAAAAA",
		Program: "1.2.3", Lanes: map[edgeclaim.Lane]edgeclaim.LaneMarks{edgeclaim.LaneProv: marks, edgeclaim.LaneEvt: marks, edgeclaim.LaneTel: marks},
		Time: now, Clock: edgeclaim.ClockSynced,
	}
}

func greet(t testing.TB, db *registry.DB, h *wire.Hello) registry.Greeting {
	t.Helper()
	g, err := db.Greet(context.Background(), names(h.Box), h)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// record is one line of a lane.
type line struct {
	sequence uint64
	kind     edgeclaim.RecordType
	device   edgeclaim.DeviceID
	data     string
}

func hardware(n int) edgeclaim.HardwareID {
	id, _ := edgeclaim.ParseHardwareID(fmt.Sprintf("board-%d", n))
	return id
}

func deviceID(t testing.TB, n int) edgeclaim.DeviceID {
	t.Helper()
	return edgeclaim.NewDeviceID(tenant(t, tenantID), hardware(n), 1)
}

// secret is the nth credential of a device.
func secret(device, n int) edgeclaim.KeyHash {
	return edgeclaim.NewSecret(fmt.Sprintf("sk_live_%d_%d", device, n)).Hash()
}

// provisioned says that device n has its credential'th one.
func provisioned(t testing.TB, sequence uint64, n, credential int) line {
	t.Helper()
	id := deviceID(t, n)
	return line{sequence, edgeclaim.TypeDeviceProvisioned, id, fmt.Sprintf(`{"device_id":%q,"tenant_id":%q,"hardware_id":%q,`+
		`"box_id":"b","site":"s","name":"Pump %d","template_id":"t-1","key_id":"k-1","groups":["line-1"],`+
		`"credential":{"type":"api_key","sha256":%q},"claimed_via":"mqtt","claimed_at":"2026-10-04T09:12:33Z"}`,
		id, tenantID, hardware(n), n, secret(n, credential))}
}

func released(t testing.TB, sequence uint64, n int) line {
	t.Helper()
	id := deviceID(t, n)
	return line{sequence, edgeclaim.TypeDeviceReleased, id, fmt.Sprintf(`{"device_id":%q,"tenant_id":%q,"hardware_id":%q,`+
		`"box_id":"b","site":"s","released_at":"2026-10-04T09:12:33Z"}`, id, tenantID, hardware(n))}
}

// point is what device n measured.
func point(t testing.TB, sequence uint64, n int) line {
	t.Helper()
	id := deviceID(t, n)
	return line{sequence, edgeclaim.TypeTelemetry, id, fmt.Sprintf(`{"device_id":%q,"tenant_id":%q,"timestamp":"2026-10-04T09:12:33Z",`+
		`"values":{"temperature":%d.5,"humidity":61,"door":"closed","rpm":1480,"vibration":0.031}}`, id, tenantID, sequence%40)}
}

// noise is a record that changes nothing here.
func noise(sequence uint64) line {
	return line{sequence: sequence, kind: "a.later.type", data: `{"n":1}`}
}

// batch makes a batch as it comes from the wire, through both codecs.
func batch(t testing.TB, box string, life int, lane edgeclaim.Lane, first, last uint64, lines ...line) registry.Item {
	t.Helper()
	n := names(box)
	b := wire.Batch{Box: box, Epoch: epoch(box, life), Lane: lane, Nonce: "AAAAAAAAAAAAAAAAAAAAAA", First: first, Last: last}
	for _, l := range lines {
		r := edgeclaim.Record{
			Lane: lane, Sequence: l.sequence, Type: l.kind, Device: l.device, Data: []byte(l.data),
			Stamp: edgeclaim.Stamp{Time: now, Clock: edgeclaim.ClockSynced, Boot: "boot"},
		}
		text, err := wire.EncodeEvent(n, b.Epoch, &r)
		if err != nil {
			t.Fatal(err)
		}
		b.Events = append(b.Events, text)
	}
	text, err := wire.EncodeBatch(n, &b)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := wire.DecodeBatch(n, text)
	if err != nil {
		t.Fatal(err)
	}
	return registry.Item{Names: n, Batch: &decoded}
}

func prov(t testing.TB, box string, first, last uint64, lines ...line) registry.Item {
	t.Helper()
	return batch(t, box, 1, edgeclaim.LaneProv, first, last, lines...)
}

func apply(t testing.TB, db *registry.DB, items ...registry.Item) []registry.Result {
	t.Helper()
	results, err := db.Apply(context.Background(), items)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

// lane is what a database holds of a box's first epoch and a lane.
type held struct {
	Upto    uint64
	Records []uint64
	Holes   [][2]uint64
}

func heldOf(t testing.TB, db *registry.DB, box string, lane int) held {
	t.Helper()
	var h held
	look := raw(t, db)
	defer look.Close()
	of := fmt.Sprintf(` FROM %%s m JOIN epochs e ON e.number = m.epoch JOIN boxes b ON b.number = e.box
		WHERE b.box = '%s' AND e.epoch = '%s' AND m.lane = %d`, box, epoch(box, 1), lane)
	rows := func(columns, table, order string, into ...any) func() bool {
		r, err := look.Query("SELECT " + columns + fmt.Sprintf(of, table) + order)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return func() bool {
			if !r.Next() {
				return false
			}
			if err := r.Scan(into...); err != nil {
				t.Fatal(err)
			}
			return true
		}
	}
	rows("m.upto", "marks", "", &h.Upto)()
	var first, last uint64
	for next := rows("m.sequence", "records", " ORDER BY m.sequence", &first); next(); {
		h.Records = append(h.Records, first)
	}
	for next := rows("m.first, m.last", "holes", " ORDER BY m.first", &first, &last); next(); {
		h.Holes = append(h.Holes, [2]uint64{first, last})
	}
	return h
}

// whole reports whether records and holes are 1..upto, each once.
func (h held) whole() error {
	count := map[uint64]int{}
	for _, sequence := range h.Records {
		count[sequence]++
	}
	for _, hole := range h.Holes {
		for sequence := hole[0]; sequence <= hole[1]; sequence++ {
			count[sequence]++
		}
	}
	for sequence := uint64(1); sequence <= h.Upto; sequence++ {
		if count[sequence] != 1 {
			return fmt.Errorf("sequence %d is there %d times of upto %d", sequence, count[sequence], h.Upto)
		}
	}
	if len(count) != int(h.Upto) {
		return fmt.Errorf("%d sequences, upto %d", len(count), h.Upto)
	}
	return nil
}
