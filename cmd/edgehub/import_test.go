package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/internal/signeddoc"
)

func openDatabase(t testing.TB) *registry.DB {
	t.Helper()
	db, err := registry.Open(context.Background(), registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func someTenant(t testing.TB) edgeclaim.TenantID {
	t.Helper()
	id, err := edgeclaim.ParseTenantID(tenantID)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func someTemplate(t testing.TB) edgeclaim.TemplateID {
	t.Helper()
	id, err := edgeclaim.ParseTemplateID("pumps")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newImporter(t testing.TB, db *registry.DB) *importer {
	t.Helper()
	return &importer{
		db: db, tenant: someTenant(t), template: someTemplate(t), progress: &progress{},
		report: importReport{Refused: []rowError{}},
	}
}

// platformFile is a file of so many boards, some of them with ids of the
// platform's own.
func platformFile(rows int) []byte {
	var text bytes.Buffer
	text.WriteString("hardware_id,profile_id,name,groups,tags,device_id\n")
	for i := range rows {
		device := ""
		if i%10 == 0 {
			device = fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
		}
		fmt.Fprintf(&text, "00:11:22:%02X:%02X:%02X,pump,Pump %d,line-%d;hall-2,batch=%d,%s\n", i>>16, i>>8&0xff, i&0xff, i, i%7, i/1000, device)
	}
	return text.Bytes()
}

// An id is one board's, whether the platform gave it or it is the derived one.
func TestImportRefusesIDsOfOthers(t *testing.T) {
	i := newImporter(t, openDatabase(t))
	tenant := someTenant(t)
	idOf := func(text string) string {
		hardware, err := edgeclaim.ParseHardwareID(text)
		if err != nil {
			t.Fatal(err)
		}
		return edgeclaim.NewDeviceID(tenant, hardware, 1).String()
	}
	file := "hardware_id,device_id\nA," + idOf("B") + "\nB,\nC," + idOf("C") + "\nD," + idOf("C") + "\nE," + idOf("F") + "\nF," + idOf("E") + "\n"
	if err := i.read(t.Context(), strings.NewReader(file)); err != nil {
		t.Fatal(err)
	}
	want := []rowError{{3, "device_id", "that of the board on line 2"}, {5, "device_id", "that of the board on line 4"}}
	if fmt.Sprint(i.report.Refused) != fmt.Sprint(want) || i.report.Added != 4 || i.report.Rows != 6 {
		t.Errorf("%+v, want refused %v", i.report, want)
	}
	var aliases []string
	err := eachExpected(t.Context(), i.db, registry.ExpectedFilter{Tenant: tenant}, func(e *registry.Expected) error {
		if !e.Device.IsZero() {
			aliases = append(aliases, e.Hardware.String())
		}
		return nil
	})
	if err != nil || strings.Join(aliases, " ") != "A E F" {
		t.Errorf("ids of their own: %v, %v, want A E F", aliases, err)
	}
}

// What was stored before a file broke off stays, is counted, and the same again
// goes on.
func TestImportBreaksOff(t *testing.T) {
	db := openDatabase(t)
	const rows = rowsAtOnce + 10
	whole := platformFile(rows)
	i := newImporter(t, db)
	if err := i.read(t.Context(), failing{bytes.NewReader(whole[:len(whole)-5])}); !errors.Is(err, errBroken) {
		t.Fatalf("%v, want %v", err, errBroken)
	}
	if i.report.Added != rows-1 {
		t.Errorf("added %d, want %d", i.report.Added, rows-1)
	}
	again := newImporter(t, db)
	if err := again.read(t.Context(), bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	if again.report.Added != 1 || again.report.Known != rows-1 {
		t.Errorf("again: %+v", again.report)
	}
}

// A list that one document does not hold goes into several; rows stay where they
// are, and only what changed is drafted again.
func TestAllowListInParts(t *testing.T) {
	if testing.Short() {
		t.Skip("imports 20,000 boards")
	}
	const rows = 20_000
	db, key := openDatabase(t), signeddoc.NewKey()
	a := &app{stdout: io.Discard, stderr: io.Discard}
	take := func(file []byte) []publication {
		t.Helper()
		i := newImporter(t, db)
		err := errors.Join(i.read(t.Context(), bytes.NewReader(file)), i.publish(t.Context(), a, key), i.report.fault())
		if err != nil {
			t.Fatal(err)
		}
		return i.report.Documents
	}
	listed := func() map[string]string { // by hardware id, in which document
		t.Helper()
		d := drafter{db: db, tenant: someTenant(t)}
		known, err := d.known(t.Context(), edgeclaim.DocumentAllowList)
		if err != nil {
			t.Fatal(err)
		}
		in := map[string]string{}
		for i := range known {
			if !known[i].InForce {
				continue
			}
			document, payload, err := d.read(t.Context(), &known[i])
			if err != nil || len(payload) > edgeclaim.MaxDocument {
				t.Fatalf("%d bytes, %v", len(payload), err)
			}
			for _, row := range document.AllowList.Rows {
				if before, twice := in[row.Hardware.String()]; twice {
					t.Fatalf("%s is in %s and %s", row.Hardware, before, known[i].Name)
				}
				in[row.Hardware.String()] = known[i].Name
			}
		}
		return in
	}
	first := take(platformFile(rows))
	before := listed()
	if len(before) != rows || len(first) < 4 { // aliases, and three lists at least
		t.Fatalf("%d boards in %d documents", len(before), len(first))
	}
	// One board more, before all others, and another name of one in the middle.
	second := take([]byte("hardware_id,name\n00:00:00:00:00:01,First\n00:11:22:00:10:00,Renamed\n"))
	names := map[string]bool{}
	for _, one := range second {
		names[one.Name] = true
	}
	after := listed()
	if len(after) != rows+1 || !names[before["00:11:22:00:10:00"]] || !names[after["00:00:00:00:00:01"]] || len(second) != len(names) || len(names) > 2 {
		t.Errorf("%d boards; drafted %v", len(after), names)
	}
	for hardware, name := range before {
		if after[hardware] != name {
			t.Fatalf("%s went from %s to %s", hardware, name, after[hardware])
		}
	}
	if third := take([]byte("hardware_id,name\n00:00:00:00:00:01,First\n")); len(third) != 0 {
		t.Errorf("the same again: %v", third)
	}
}

// The bar is for a terminal, and leaves nothing behind.
func TestProgress(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var out bytes.Buffer
	p := progress{out: &out, size: 200, now: func() time.Time { return now }}
	p.show(50, 10, 0)
	p.show(60, 12, 0) // too soon
	now = now.Add(progressEvery)
	p.show(100, 20, 3)
	p.clear()
	p.clear()
	const bar = "\r\x1b[K[#######                       ]  25% 10 rows" + "\r\x1b[K[###############               ]  50% 20 rows, 3 refused" + "\r\x1b[K"
	if out.String() != bar {
		t.Errorf("%q, want %q", &out, bar)
	}
	out.Reset()
	p.size = 0
	p.show(100, 20, 0)
	if out.String() != "\r\x1b[K20 rows" {
		t.Errorf("of a pipe: %q", &out)
	}
	(&progress{}).show(1, 1, 1)
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if p := (&app{stderr: file}).newProgress(1); p.out != nil {
		t.Error("a file is no terminal")
	}
}

// BenchmarkImport holds what an import takes against reading the file alone.
func BenchmarkImport(b *testing.B) {
	const rows = 100_000
	file := platformFile(rows)
	run := func(step string, do func(b *testing.B)) {
		b.Run(fmt.Sprintf("rows=%d/step=%s", rows, step), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do(b)
			}
			b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
	run("csv", func(b *testing.B) { // the peer: encoding/csv alone
		if _, err := csv.NewReader(bytes.NewReader(file)).ReadAll(); err != nil {
			b.Fatal(err)
		}
	})
	run("parse", func(b *testing.B) {
		reader, err := newRowReader(bytes.NewReader(file))
		for err == nil {
			_, err = reader.next()
		}
		if !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
	})
	run("dry_run", func(b *testing.B) {
		i := newImporter(b, openDatabase(b))
		i.dry = true
		if err := i.read(b.Context(), bytes.NewReader(file)); err != nil || i.report.Added != rows {
			b.Fatal(err)
		}
	})
	run("store", func(b *testing.B) {
		i := newImporter(b, openDatabase(b))
		if err := i.read(b.Context(), bytes.NewReader(file)); err != nil || i.report.Added != rows {
			b.Fatal(err)
		}
	})
	run("store_and_publish", func(b *testing.B) {
		i := newImporter(b, openDatabase(b))
		a := &app{stdout: io.Discard, stderr: io.Discard}
		err := errors.Join(i.read(b.Context(), bytes.NewReader(file)), i.publish(b.Context(), a, signeddoc.NewKey()), i.report.fault())
		if err != nil {
			b.Fatal(err)
		}
	})
}
