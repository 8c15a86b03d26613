package acceptance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/store"
	"edgeclaim/telemetry"
)

const (
	benchPoint   = `{"temperature":21.53,"humidity":48.1,"pressure":1013.25,"state":"running","count":123456}`
	benchDevices = 50
	benchWindow  = 20
)

// unbounded lets a device say as much as the box can take.
const unbounded = "mqtt: {max_device_rate: 1000000, max_device_burst: 1000000}\ntelemetry: {max_device_points: 100000}\n"

// configured writes a box's configuration.
func configured(b *testing.B, text string) (args []string) {
	b.Helper()
	path := filepath.Join(b.TempDir(), "edgeclaim.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return []string{"--config", path}
}

// BenchmarkTelemetryMQTT: telemetry over 50 connections at QoS 1, acknowledged
// when it is on the disk, against the same clients and messages at Mosquitto,
// which keeps nothing; turn by turn. The aim is 0.3.
func BenchmarkTelemetryMQTT(b *testing.B) {
	for _, window := range []int{1, benchWindow} {
		b.Run(fmt.Sprintf("devices=%d/window=%d/bytes=%d", benchDevices, window, len(benchPoint)), func(b *testing.B) {
			box := startBox(b, configured(b, unbounded)...)
			peer := mosquitto.Start(b, mosquitto.Options{Extra: []string{"log_type none", "set_tcp_nodelay true"}})
			var durable, bare []*stream
			for _, d := range box.claimSome(box.key(), "TEL-", benchDevices) {
				durable = append(durable, benchStream(b, box.mqttAddr, d.id, d.apiKey))
				bare = append(bare, benchStream(b, peer.Addr(), d.id, d.apiKey))
			}
			each := scaled(200_000) * window / benchWindow / benchDevices
			for _, streams := range [][]*stream{durable, bare} { // warm up: buffers, caches, the first file
				sayAll(b, streams, window, each/4)
			}
			var took, tookBare time.Duration
			for b.Loop() {
				took += sayAll(b, durable, window, each)
				tookBare += sayAll(b, bare, window, each)
			}
			all := float64(b.N * each * benchDevices)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(all/took.Seconds(), "points/s")
			b.ReportMetric(all/tookBare.Seconds(), "mosquitto/s")
			b.ReportMetric(tookBare.Seconds()/took.Seconds(), "of-mosquitto")
		})
	}
}

func benchStream(b *testing.B, addr, id, apiKey string) *stream {
	b.Helper()
	s, err := deviceStream(addr, id, apiKey)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.close)
	return s
}

// sayAll lets all of them say so many points each, and returns how long that
// took to the last acknowledgement.
func sayAll(b *testing.B, streams []*stream, window, each int) time.Duration {
	b.Helper()
	var next atomic.Int64
	point := []byte(benchPoint)
	start := time.Now()
	parallel(b, len(streams), func() error {
		left := each
		return streams[next.Add(1)-1].say(window, func() ([]byte, bool) {
			left--
			return point, left >= 0
		}, func() {})
	})
	return time.Since(start)
}

// BenchmarkTelemetryDrain: a backlog of points told to edgehub, each committed in
// SQLite before the box forgets it. Over loopback against a Mosquitto bridge that
// drains as many messages, as the devices sent them, to a Mosquitto that stores
// nothing; with 50 ms each way against a client with Mosquitto's default window.
func BenchmarkTelemetryDrain(b *testing.B) {
	for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
		b.Run(fmt.Sprintf("delay=%v", delay), func(b *testing.B) {
			points, name := scaled(1_000_000), "mosquitto-bridge"
			if delay > 0 {
				name = "window-of-20"
			}
			var box, peer float64
			for b.Loop() {
				box += drainPoints(b, points, delay)
				if delay == 0 {
					peer += drainMosquitto(b, points, len(benchPoint))
				} else {
					peer += drainWindow(b, 50*mosquittoWindow, len(benchPoint), delay)
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(box/float64(b.N), "points/s")
			b.ReportMetric(peer/float64(b.N), name+"/s")
			b.ReportMetric(box/peer, "of-"+name)
		})
	}
}

// laneTel is the number of telemetry's lane in the hub's tables.
const laneTel = 3

// drainPoints returns the rate at which the hub commits.
func drainPoints(b *testing.B, points int, delay time.Duration) float64 {
	b.Helper()
	upstream := mosquitto.Start(b, mosquitto.Options{Extra: []string{"log_type none", "set_tcp_nodelay true"}})
	addr, open := cable(b, upstream.Addr(), delay)
	h := newHub(b, upstream.Addr())
	h.start()
	defer h.kill()
	box := pointsBox(b, addr, points)
	box.start()
	defer box.kill()
	open()
	return watchMark(b, h, laneTel, uint64(points))
}

// manyPoints is a configuration with room for a backlog.
const manyPoints = "upstream: {ack: app, backoff_base: 50ms, backoff_limit: 200ms}\ntelemetry: {max_bytes: 4294967296}\n"

// pointsBox is a box with so many points to tell.
func pointsBox(b *testing.B, addr string, points int) *box {
	b.Helper()
	box := newBox(b, append(configured(b, manyPoints), "--upstream", "mqtt://"+addr)...)
	if err := fillPoints(b.Context(), box.data, points); err != nil {
		b.Fatal(err)
	}
	return box
}

// fillPoints lets a hundred devices say points by telemetry's own door.
func fillPoints(ctx context.Context, dir string, points int) error {
	kept := store.Defaults()
	kept.Dir = dir
	db, err := store.Open(kept)
	if err != nil {
		return err
	}
	defer db.Close()
	cfg := telemetry.Defaults()
	cfg.Dir, cfg.DiskReserve, cfg.MaxDevicePoints, cfg.MaxBytes = dir, 0, 100_000, 4<<30
	var passed atomic.Int64 // milliseconds: so many that nobody says too much in a second
	began := time.Now().Add(-24 * time.Hour)
	s, err := telemetry.Open(cfg, telemetry.Parts{Stamp: func() edgeclaim.Stamp {
		up := time.Duration(passed.Add(1)) * time.Millisecond
		return edgeclaim.Stamp{Time: began.Add(up), Clock: edgeclaim.ClockSynced, Boot: "5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10", Uptime: up}
	}, Epoch: db.Epoch, Events: db}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }() // awaited below
	err = sayPoints(ctx, s, points)
	stop()
	return errors.Join(err, <-ended, s.Close())
}

// sayPoints says them one by one, and waits for the disk now and then.
func sayPoints(ctx context.Context, s *telemetry.Service, points int) error {
	const devices, together = 100, 5000
	var by []edgeclaim.Admission
	for i := range devices {
		d, err := aDevice(fmt.Sprint("TEL-", i), "bench")
		if err != nil {
			return err
		}
		by = append(by, edgeclaim.Admission{Device: d.ID, Tenant: d.Tenant, Credential: d.Credential.Hash})
	}
	for n := range points {
		said, err := s.Telemetry(ctx, edgeclaim.Report{By: by[n%devices], Body: []byte(benchPoint), Via: edgeclaim.ViaMQTT})
		if err != nil {
			return err
		}
		if n%together == together-1 || n == points-1 {
			if err := said.Commit.Wait(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// BenchmarkTelemetryWaiting: a box with five million points to tell and no
// upstream: its start to ready against the limit of a second, its resident
// memory against that of an empty box and against 150 MiB, and the most it takes
// while it tells some of them.
func BenchmarkTelemetryWaiting(b *testing.B) {
	const limit = 150.0
	upstream := mosquitto.Start(b, mosquitto.Options{Extra: []string{"log_type none", "set_tcp_nodelay true"}})
	g := newGate(b, upstream.Addr())
	empty := newBox(b, "--upstream", "mqtt://"+g.addr())
	full := pointsBox(b, g.addr(), scaled(5_000_000))
	var took []time.Duration
	var resident, anon, base float64
	for b.Loop() {
		empty.start()
		base += memory(b, empty.cmd.Process.Pid, "VmRSS")
		empty.stop()
		start := time.Now()
		full.start()
		took = append(took, time.Since(start))
		resident += memory(b, full.cmd.Process.Pid, "VmRSS")
		anon += memory(b, full.cmd.Process.Pid, "RssAnon")
		full.stop()
	}
	h := newHub(b, upstream.Addr())
	h.start()
	full.start()
	g.set(true)
	var telling atomic.Uint64 // MiB, the most seen
	ended := sample(b, func() { telling.Store(max(telling.Load(), uint64(memory(b, full.cmd.Process.Pid, "RssAnon")))) })
	rate := watchMark(b, h, laneTel, uint64(scaled(500_000)))
	ended()
	slices.Sort(took)
	median := took[len(took)/2].Seconds()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median, "s/start")
	b.ReportMetric(median/1, "of-1s")
	b.ReportMetric(resident/float64(b.N), "MiB-waiting")
	b.ReportMetric(anon/float64(b.N), "MiB-waiting-anon")
	b.ReportMetric(resident/float64(b.N)/limit, "of-150MiB")
	b.ReportMetric(resident/base, "of-an-empty-box")
	b.ReportMetric(float64(telling.Load()), "MiB-telling-anon")
	b.ReportMetric(memory(b, full.cmd.Process.Pid, "VmHWM"), "MiB-telling-most")
	b.ReportMetric(rate, "points/s")
}

// The telemetry that BenchmarkClaimsBesideTelemetry measures against: points a
// second of all devices; 0 is as fast as they are acknowledged.
var besideRates = []int{1000, 5000, 20_000, 0}

const (
	besideDevices = 100
	besideClaims  = 4000 // the 99th percentile of fewer is a matter of luck
	besideRate    = 100  // claims a second: a line of 100 devices a second is a fast one
	besideTurn    = 100  // of them in a row, beside telemetry or quiet
)

// BenchmarkClaimsBesideTelemetry: the 99th percentile of claims while 100 devices
// send telemetry, of that while nobody does, turn by turn; the limit is 1.5. The
// devices are a process of its own that has the least claim on the processors,
// for on a line each has its own.
func BenchmarkClaimsBesideTelemetry(b *testing.B) {
	for _, rate := range besideRates {
		b.Run(fmt.Sprintf("devices=%d/points=%d", besideDevices, rate), func(b *testing.B) {
			limits := "{}\n"
			if rate == 0 {
				limits = unbounded
			}
			box := startBox(b, configured(b, limits)...)
			key := box.key()
			c := startChatter(b, box, box.claimSome(key, "TEL-", besideDevices))
			times := map[bool][]time.Duration{}
			var spoken time.Duration
			for b.Loop() {
				for turn := range max(4, scaled(besideClaims)/besideTurn) {
					busy := turn%2 == 1
					if busy {
						c.talk(rate)
					}
					start := time.Now()
					times[busy] = append(times[busy], goodClaims(b, box, key, besideTurn, besideRate)...)
					if busy {
						spoken += time.Since(start)
						c.rest()
					}
				}
			}
			percentile := func(busy bool, hundredths int) float64 {
				slices.Sort(times[busy])
				return float64(times[busy][len(times[busy])*hundredths/100].Microseconds())
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(c.said)/spoken.Seconds(), "points/s")
			b.ReportMetric(percentile(true, 50), "beside-p50-µs")
			b.ReportMetric(percentile(false, 50), "quiet-p50-µs")
			b.ReportMetric(percentile(true, 99), "beside-p99-µs")
			b.ReportMetric(percentile(false, 99), "quiet-p99-µs")
			b.ReportMetric(percentile(true, 99)/percentile(false, 99), "of-quiet")
		})
	}
}
