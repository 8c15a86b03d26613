package acceptance

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttproxy"
	"edgeclaim/store"
)

// The benchmarks of the way up. With -short they run on a fiftieth of what they
// are for, to show that they run.

// scaled is n, or a fiftieth of it with -short.
func scaled(n int) int {
	if testing.Short() {
		return n / 50
	}
	return n
}

// BenchmarkSyncDrain: a backlog of provisioning records told to edgehub, each
// committed in SQLite before the box forgets it. Over loopback against a
// Mosquitto bridge that drains as many queued messages of the same size to a
// second Mosquitto, which stores nothing; with 50 ms each way between site and
// data centre against a client with Mosquitto's default window. Rates are from
// the first record that arrives to the last.
func BenchmarkSyncDrain(b *testing.B) {
	b.Run("delay=0s", func(b *testing.B) {
		records := scaled(100_000)
		var box, bridge float64
		for b.Loop() {
			rate, size := drainBox(b, records, 0)
			box += rate
			bridge += drainMosquitto(b, records, size)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(box/float64(b.N), "records/s")
		b.ReportMetric(bridge/float64(b.N), "mosquitto-bridge/s")
		b.ReportMetric(box/bridge, "of-mosquitto-bridge")
	})
	b.Run("delay=50ms", func(b *testing.B) {
		const delay = 50 * time.Millisecond
		var box, window float64
		for b.Loop() {
			rate, size := drainBox(b, scaled(100_000), delay)
			box += rate
			window += drainWindow(b, 50*mosquittoWindow, size, delay)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(box/float64(b.N), "records/s")
		b.ReportMetric(window/float64(b.N), "window-of-20/s")
		b.ReportMetric(box/window, "of-window-of-20")
	})
}

// cable is what lies between a site and its data centre: shut at first.
func cable(b *testing.B, target string, delay time.Duration) (addr string, open func()) {
	b.Helper()
	if delay == 0 {
		g := newGate(b, target)
		return g.addr(), func() { g.set(true) }
	}
	p := mqttproxy.Start(b, target, 1)
	p.Refuse()
	return p.Addr(), func() {
		p.Heal()
		p.Set(mqttproxy.Faults{Delay: delay})
	}
}

// drainBox returns the rate at which the hub commits, and how many bytes an
// event has.
func drainBox(b *testing.B, records int, delay time.Duration) (rate float64, size int) {
	b.Helper()
	upstream := mosquitto.Start(b, mosquitto.Options{Extra: []string{"log_type none", "set_tcp_nodelay true"}})
	addr, open := cable(b, upstream.Addr(), delay)
	h := newHub(b, upstream.Addr())
	h.start()
	defer h.kill()
	box := backlogBox(b, addr, records)
	box.start()
	defer box.kill()
	open()
	return watchMark(b, h, 1, uint64(records)), len(firstEvent(b, h))
}

// backlogBox is a box with so many records to tell.
func backlogBox(b *testing.B, addr string, records int) *box {
	b.Helper()
	path := filepath.Join(b.TempDir(), "edgeclaim.yaml")
	text := "upstream: {ack: app, backoff_base: 50ms, backoff_limit: 200ms}\nstore: {prov_max_records: 2000000, prov_max_bytes: 4294967296}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	box := newBox(b, "--config", path, "--upstream", "mqtt://"+addr)
	backlog(b, box.data, records)
	return box
}

// backlog fills a data folder with devices and what is to be told of them.
func backlog(b *testing.B, dir string, devices int) {
	b.Helper()
	names := wire.Names{Site: "default", Box: "bench-" + strings.ToLower(rand.Text()[:12])}
	cfg := store.Defaults()
	cfg.Dir, cfg.ProvMaxRecords, cfg.ProvMaxBytes = dir, 2_000_000, 4<<30
	db, err := store.Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	ids := parsed(b)
	template := edgeclaim.Template{ID: ids.template, Tenant: ids.tenant, Name: "T", Credential: edgeclaim.CredentialAPIKey, Approval: edgeclaim.ApprovalAuto, Status: edgeclaim.TemplateActive}
	key := edgeclaim.Key{ID: ids.key, Template: ids.template, Hash: edgeclaim.NewSecret("k").Hash(), Status: edgeclaim.KeyActive}
	err = errors.Join(db.CreateTemplate(b.Context(), template), db.AddKeys(b.Context(), []edgeclaim.Key{key}),
		os.WriteFile(filepath.Join(dir, "box-id"), []byte(names.Box+"\n"), 0o600))
	if err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	parallel(b, 512, func() error {
		for i := next.Add(1); i <= int64(devices); i = next.Add(1) {
			d, err := aDevice(fmt.Sprint("FILL-", i), names.Box)
			if err != nil {
				return err
			}
			ref := edgeclaim.ClaimRef{Key: key.Hash, Tenant: ids.tenant, Hardware: d.Hardware}
			err = db.Mint(context.Background(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
				p.Grant.Key.Claims++
				return &edgeclaim.Minted{Key: p.Grant.Key, Device: d, Record: provisionedRecord(&d, names)}, nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// watchMark waits until the hub stands at want in a lane, of the one box that it
// knows, and returns the records a second since the first ones.
func watchMark(b *testing.B, h *hub, lane int, want uint64) float64 {
	b.Helper()
	db := h.openTables()
	defer db.Close()
	var first uint64
	var start time.Time
	deadline := time.After(10 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var upto uint64
		err := db.QueryRowContext(b.Context(), `SELECT upto FROM marks WHERE lane = `+strconv.Itoa(lane)).Scan(&upto)
		switch {
		case err != nil && !errors.Is(err, sql.ErrNoRows):
			b.Fatal(err)
		case upto >= want && first == 0:
			b.Fatal("all came at once: too few records to measure")
		case upto >= want:
			return float64(upto-first) / time.Since(start).Seconds()
		case upto > 0 && first == 0:
			first, start = upto, time.Now()
		}
		select {
		case <-tick.C:
		case <-deadline:
			b.Fatalf("the hub stands at %d of %d", upto, want)
		}
	}
}

func firstEvent(b *testing.B, h *hub) []byte {
	b.Helper()
	db := h.openTables()
	defer db.Close()
	var event []byte
	if err := db.QueryRowContext(b.Context(), `SELECT event FROM records LIMIT 1`).Scan(&event); err != nil {
		b.Fatal(err)
	}
	return event
}

// BenchmarkWaiting: a box with a million records to tell and no upstream: its
// start to ready against the limit of a second, its resident memory against
// that of an empty box, and the most it takes while it tells them.
func BenchmarkWaiting(b *testing.B) {
	upstream := mosquitto.Start(b, mosquitto.Options{Extra: []string{"log_type none", "set_tcp_nodelay true"}})
	g := newGate(b, upstream.Addr())
	empty := newBox(b, "--upstream", "mqtt://"+g.addr())
	full := backlogBox(b, g.addr(), scaled(1_000_000))
	var took []time.Duration
	var resident, base float64
	for b.Loop() {
		empty.start()
		base += memory(b, empty.cmd.Process.Pid, "VmRSS")
		empty.stop()
		start := time.Now()
		full.start()
		took = append(took, time.Since(start))
		resident += memory(b, full.cmd.Process.Pid, "VmRSS")
		full.stop()
	}
	h := newHub(b, upstream.Addr())
	h.start()
	full.start()
	g.set(true)
	var heap atomic.Uint64 // MiB, the most seen
	ended := sample(b, func() { heap.Store(max(heap.Load(), uint64(memory(b, full.cmd.Process.Pid, "RssAnon")))) })
	rate := watchMark(b, h, 1, uint64(scaled(1_000_000)))
	ended()
	slices.Sort(took)
	median := took[len(took)/2].Seconds()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median, "s/start")
	b.ReportMetric(median/1, "of-1s")
	b.ReportMetric(resident/float64(b.N), "MiB-waiting")
	b.ReportMetric(resident/base, "of-an-empty-box")
	b.ReportMetric(float64(heap.Load()), "MiB-telling")
	b.ReportMetric(memory(b, full.cmd.Process.Pid, "RssFile"), "MiB-mapped")
	b.ReportMetric(rate, "records/s")
	b.ReportMetric(memory(b, h.cmd.Process.Pid, "VmHWM"), "MiB-hub")
}

// sample calls look every 50 ms until it is told that this ended.
func sample(b *testing.B, look func()) (ended func()) {
	b.Helper()
	var work sync.WaitGroup
	stop := make(chan struct{})
	work.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			look()
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	return func() { close(stop); work.Wait() }
}

// memory returns a figure of a process's /proc status, in MiB.
func memory(b *testing.B, pid int, figure string) float64 {
	b.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, figure+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatal("no " + figure)
	return 0
}

// BenchmarkMerge: 20 boxes tell the hub 50,000 devices each at once, every
// hundredth of them claimed on the next box as well, against as many bare rows
// of the same size written to SQLite by one writer, a thousand to a commit.
func BenchmarkMerge(b *testing.B) {
	const boxes = 20
	each := scaled(50_000)
	upstream := mosquitto.Start(b, mosquitto.Options{Extra: []string{"log_type none", "set_tcp_nodelay true"}})
	var merged, bare, peak float64
	for b.Loop() {
		h := newHub(b, upstream.Addr())
		h.start()
		members := swarm(b, boxes, uint64(each))
		for i, m := range members {
			m.hardware = func(n uint64) string {
				if n%100 == 0 {
					return fmt.Sprintf("SHARED-%d-%d", i/2, n) // with the neighbour
				}
				return fmt.Sprintf("%s-%d", m.names.Box, n)
			}
		}
		start := time.Now()
		tellAll(b, members, upstream.Addr())
		merged += float64(boxes*each) / time.Since(start).Seconds()
		peak = max(peak, memory(b, h.cmd.Process.Pid, "VmHWM"))
		wantMerged(b, h, boxes*each-boxes/2*(each/100))
		bare += bareSQLite(b, boxes*each, firstEvent(b, h))
		h.kill()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(merged/float64(b.N), "devices/s")
	b.ReportMetric(bare/float64(b.N), "bare-sqlite/s")
	b.ReportMetric(merged/bare, "of-bare-sqlite")
	b.ReportMetric(peak, "MiB-hub")
}

// wantMerged fails unless the hub's list has so many devices.
func wantMerged(b *testing.B, h *hub, want int) {
	b.Helper()
	db := h.openTables()
	defer db.Close()
	var devices int
	if err := db.QueryRowContext(b.Context(), `SELECT count(*) FROM devices`).Scan(&devices); err != nil || devices != want {
		b.Fatalf("the hub has %d devices, want %d (%v)", devices, want, err)
	}
}

// bareSQLite returns the rows a second that SQLite takes, as durably as the hub
// has them.
func bareSQLite(b *testing.B, count int, event []byte) float64 {
	b.Helper()
	path := filepath.Join(b.TempDir(), "bare.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=page_size(8192)")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(b.Context(), `CREATE TABLE records (sequence INTEGER PRIMARY KEY, event BLOB NOT NULL)`); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	for done := 0; done < count; {
		tx, err := db.BeginTx(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		insert, err := tx.PrepareContext(b.Context(), `INSERT INTO records VALUES (?, ?)`)
		if err != nil {
			b.Fatal(err)
		}
		for range min(1000, count-done) {
			if _, err := insert.ExecContext(b.Context(), done, event); err != nil {
				b.Fatal(err)
			}
			done++
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	return float64(count) / time.Since(start).Seconds()
}

// swarm makes boxes with so many records each.
func swarm(b *testing.B, boxes int, records uint64) []*member {
	b.Helper()
	var members []*member
	for i := range boxes {
		m := newMember(b, i)
		m.appended = records
		members = append(members, m)
	}
	return members
}

// tellAll lets all of them tell at once, and again where the broker has not
// taken a connection, until everything is acknowledged.
func tellAll(b *testing.B, members []*member, addr string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 15*time.Minute)
	defer cancel()
	var work sync.WaitGroup
	failed := make(chan error, len(members))
	for _, m := range members {
		work.Go(func() {
			err := m.tell(ctx, addr)
			for err != nil && !errors.Is(err, errRefused) && ctx.Err() == nil {
				within(50*time.Millisecond, ctx.Done())
				err = m.tell(ctx, addr)
			}
			if err != nil {
				failed <- fmt.Errorf("%s: %w", m.names.Box, err)
			}
		})
	}
	work.Wait()
	close(failed)
	for err := range failed {
		b.Fatal(err)
	}
}

// BenchmarkReconnect: the broker is killed and comes back, and 500 boxes that
// the hub knows connect at once, each with a hundred records to tell: the time
// until all are acknowledged, against the 30 s that boxes spread themselves
// over for anything but prov.
func BenchmarkReconnect(b *testing.B) {
	const spread = 30.0
	boxes := max(20, scaled(500))
	upstream := mosquitto.Start(b, mosquitto.Options{Extra: []string{"log_type none", "set_tcp_nodelay true"}})
	h := newHub(b, upstream.Addr()).quick()
	h.start()
	members := swarm(b, boxes, 1)
	tellAll(b, members, upstream.Addr())
	var seconds float64
	for b.Loop() {
		upstream.Kill()
		for _, m := range members {
			m.appended += 100
		}
		upstream.Restart()
		until(b, "the broker takes connections", func() bool {
			conn, err := net.Dial("tcp", upstream.Addr())
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		start := time.Now()
		tellAll(b, members, upstream.Addr())
		seconds += time.Since(start).Seconds()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(seconds/float64(b.N), "s/all-acked")
	b.ReportMetric(seconds/float64(b.N)/spread, "of-30s")
	b.ReportMetric(memory(b, h.cmd.Process.Pid, "VmHWM"), "MiB-hub")
}
