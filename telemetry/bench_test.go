package telemetry_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"

	"edgeclaim"
	"edgeclaim/telemetry"
)

const (
	flatBody     = `{"temperature":21.53,"humidity":48.1,"pressure":1013.25,"state":"running","count":123456}`
	wholeSchema  = `{"properties":{"temperature":{"type":"number","minimum":-40,"maximum":125},"humidity":{"type":"number","minimum":0,"maximum":100},"pressure":{"type":"number","minimum":300},"state":{"type":"string","enum":["running","idle"]},"count":{"type":"integer","minimum":0}},"required":["temperature","state"],"additionalProperties":false}`
	platformBody = `{"timestamp":"2026-03-01T08:00:00.250Z","numeric_values":{"temperature":21.53,"humidity":48.1,"pressure":1013.25,"count":123456},"string_values":{"state":"running"}}`
)

// BenchmarkLook: looking through one point, against what libraries take to make
// values of the same.
func BenchmarkLook(b *testing.B) {
	by := admission(b, 1)
	for form, body := range map[string][]byte{"flat": []byte(flatBody), "platform": []byte(platformBody)} {
		b.Run("form="+form+"/by=scanner", func(b *testing.B) {
			looker := telemetry.NewLooker()
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if !looker.Look(body, by.Device) {
					b.Fatal("not taken")
				}
			}
		})
		b.Run("form="+form+"/by=scanner/schema=five_metrics", func(b *testing.B) {
			looker := telemetry.NewLooker().Under(schema(b, wholeSchema))
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if !looker.Look(body, by.Device) {
					b.Fatal("not taken")
				}
			}
		})
		for peer, unmarshal := range map[string]func([]byte, any) error{
			"encoding_json": json.Unmarshal,
			"json_v2":       func(b []byte, into any) error { return jsonv2.Unmarshal(b, into) },
		} {
			b.Run("form="+form+"/by="+peer, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(body)))
				for b.Loop() {
					var into map[string]any
					if err := unmarshal(body, &into); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func benchService(b *testing.B, inherited func(edgeclaim.TenantID, string) edgeclaim.Inherited) *telemetry.Service {
	b.Helper()
	clock := &ticking{}
	cfg := telemetry.Defaults()
	cfg.Dir, cfg.DiskReserve, cfg.MaxDevicePoints, cfg.MaxBytes = b.TempDir(), 0, 100_000, 4<<30
	stamp := func() edgeclaim.Stamp { // so quick that nobody is throttled
		clock.pass(1e6)
		return clock.stamp()
	}
	s, err := telemetry.Open(cfg, telemetry.Parts{
		Stamp: stamp, Epoch: func() string { return "EPOCH1" }, Events: &registry{}, Inherited: inherited,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// BenchmarkTelemetry: points that are waited for one by one on each of many
// connections, and those that one connection sends without waiting.
func BenchmarkTelemetry(b *testing.B) {
	b.Run("wait=each/devices=50", func(b *testing.B) {
		s := benchService(b, nil)
		var device atomic.Int64
		b.SetParallelism(25) // of two processors
		b.RunParallel(func(p *testing.PB) {
			r := report(b, int(device.Add(1)), flatBody)
			for p.Next() {
				receipt, err := s.Telemetry(b.Context(), r)
				if err == nil {
					err = receipt.Commit.Wait(b.Context())
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "points/s")
	})
	for _, window := range []int{1, 20} {
		b.Run("wait=window/window="+strconv.Itoa(window), func(b *testing.B) {
			s := benchService(b, nil)
			r := report(b, 1, flatBody)
			var last edgeclaim.Receipt
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				var err error
				if last, err = s.Telemetry(b.Context(), r); err != nil {
					b.Fatal(err)
				}
				if i%window == 0 {
					if err := last.Commit.Wait(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "points/s")
		})
	}
}

// BenchmarkNext: what the way up reads of a backlog.
func BenchmarkNext(b *testing.B) {
	s := benchService(b, nil)
	var last edgeclaim.Receipt
	const backlog = 20_000
	for i := range backlog {
		var err error
		if last, err = s.Telemetry(b.Context(), report(b, i%50, flatBody)); err != nil {
			b.Fatal(err)
		}
	}
	if err := last.Commit.Wait(b.Context()); err != nil {
		b.Fatal(err)
	}
	read := 0
	b.ReportAllocs()
	for b.Loop() {
		for after := uint64(0); after < backlog; {
			records, err := s.Lane().Next(b.Context(), edgeclaim.Mark{Epoch: "EPOCH1", Lane: edgeclaim.LaneTel, Upto: after}, 512)
			if err != nil || len(records) == 0 {
				b.Fatal(err)
			}
			read, after = read+len(records), records[len(records)-1].Sequence
		}
	}
	b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkSweep: a look at who has fallen silent, and the same when a profile
// has changed.
func BenchmarkSweep(b *testing.B) {
	const devices = 100_000
	for _, changed := range []bool{false, true} {
		b.Run("devices="+strconv.Itoa(devices)+"/changed="+strconv.FormatBool(changed), func(b *testing.B) {
			var in inheritance
			in.set(1, edgeclaim.Profile{OfflineAfter: 3600}, edgeclaim.Profile{ID: "0", OfflineAfter: 7200})
			s := benchService(b, in.of)
			for n := range devices {
				r := report(b, n, `{"a":1}`)
				r.By.Profile = strconv.Itoa(n % 10)
				if _, err := s.Telemetry(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}
			version := uint64(1)
			for b.Loop() {
				if changed {
					version++
					in.set(version, edgeclaim.Profile{OfflineAfter: 3600})
				}
				s.Sweep()
			}
		})
	}
}
