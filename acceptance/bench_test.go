package acceptance

import (
	"bufio"
	"bytes"
	"context"
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
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"
	"edgeclaim/store"
)

// Every benchmark here measures the built program, in a process of its own, and
// a named peer or limit in the same run, turn by turn, and reports the ratio:
// the figures are this machine's, the ratios carry over.

// turn is how many operations each worker does, in the mean, before it is the
// other side's turn.
const turn = 100

// side is one of two that are compared.
type side struct {
	name  string
	do    func(worker, i int) error // one operation
	count int
	took  time.Duration
}

// compare lets both sides do a turn each until the benchmark has had enough,
// workers at once, and reports their rates and the ratio of the first's to the
// second's.
func compare(b *testing.B, workers int, sides [2]*side) {
	b.Helper()
	for range 2 { // warm up: connections, caches, the file's first growth
		for _, s := range sides {
			s.turn(b, workers, workers*turn/4)
		}
	}
	for _, s := range sides {
		s.took = 0
		s.count = 0
	}
	for b.Loop() {
		for _, s := range sides {
			s.turn(b, workers, workers*turn)
		}
	}
	rate := func(s *side) float64 { return float64(s.count) / s.took.Seconds() }
	b.ReportMetric(0, "ns/op") // an iteration is a turn of each: its time says nothing
	for _, s := range sides {
		b.ReportMetric(rate(s), s.name+"/s")
	}
	b.ReportMetric(rate(sides[0])/rate(sides[1]), "of-"+sides[1].name)
}

// serial numbers operations through all turns, so that hardware is new.
var serial atomic.Int64

func (s *side) turn(b *testing.B, workers, operations int) {
	b.Helper()
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(operations))
	failed := make(chan error, workers)
	start := time.Now()
	for worker := range workers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := s.do(worker, int(serial.Add(1))); err != nil {
					failed <- fmt.Errorf("%s: %w", s.name, err)
					return
				}
			}
		})
	}
	wg.Wait()
	s.took += time.Since(start)
	s.count += operations
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
}

// BenchmarkMQTTClaimCycle: whole claim cycles of new devices from new
// connections, against Mosquitto's connect-subscribe-publish-echo-disconnect,
// which decides and stores nothing.
func BenchmarkMQTTClaimCycle(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			box := startBox(b)
			key := box.key()
			peer := mosquitto.Start(b, mosquitto.Options{Extra: []string{
				"log_type none",
				// Without it the kernel holds its PUBACK back for 40 ms, and it looks ten times slower than it is.
				"set_tcp_nodelay true",
			}})
			compare(b, clients, [2]*side{
				{name: "claims", do: func(_, i int) error {
					body := fmt.Appendf(nil, `{"provision_key":%q,"device_name":"bench","hardware_id":"BENCH-%d"}`, key, i)
					return cycle(box.mqttAddr, "provision/response", "provision/request", body)
				}},
				{name: "mosquitto", do: func(_, i int) error {
					topic := fmt.Sprint("echo/", i)
					return cycle(peer.Addr(), topic, topic, []byte(`{"device_id":"5d27c51e-2d1e-5284-ba71-d8ce1b6a6055","api_key":""}`))
				}},
			})
		})
	}
}

// cycle connects, subscribes, publishes at QoS 1, reads the answer and its
// PUBACK in either order, and disconnects.
func cycle(addr, listen, say string, body []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, ack, err := mqttwire.Dial(ctx, addr, mqttwire.V311, mqttwire.Login{ClientID: "", Clean: true, KeepAlive: 30})
	if err != nil {
		return err
	}
	defer client.Close()
	if ack.Code() != 0 {
		return fmt.Errorf("connack %#x", ack.Code())
	}
	if _, err := client.Subscribe(listen); err != nil {
		return err
	}
	if err := client.Publish(mqttwire.Message{Topic: say, Payload: body, QoS: 1}); err != nil {
		return err
	}
	for range 2 {
		p, err := client.Read()
		if err != nil {
			return err
		}
		if p.Type == mqttwire.Publish && !bytes.HasPrefix(p.Payload, []byte(`{"device_id"`)) {
			return fmt.Errorf("answer %s", p.Payload)
		}
	}
	return client.Disconnect()
}

// BenchmarkHTTPClaim: new devices over kept connections, against an empty gin
// handler behind the same client, in a process of its own too.
func BenchmarkHTTPClaim(b *testing.B) {
	for _, connections := range []int{64, 256} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			box := startBox(b)
			key := box.key()
			peer := startPeer(b)
			boxConns, peerConns := dialAll(b, box.httpAddr, connections), dialAll(b, peer, connections)
			post := func(conns []*httpConn) func(worker, i int) error {
				return func(worker, i int) error {
					return conns[worker].post(fmt.Appendf(nil, `{"provision_key":%q,"device_name":"bench","hardware_id":"BENCH-%d"}`, key, i))
				}
			}
			compare(b, connections, [2]*side{{name: "claims", do: post(boxConns)}, {name: "empty-gin", do: post(peerConns)}})
		})
	}
}

func dialAll(b *testing.B, addr string, connections int) []*httpConn {
	b.Helper()
	conns := make([]*httpConn, connections)
	for i := range conns {
		conns[i] = dialHTTP(b, addr)
	}
	return conns
}

// httpConn is the cheapest honest HTTP/1.1 client there is: what it costs is
// taken from both sides of a comparison.
type httpConn struct {
	conn net.Conn
	r    *bufio.Reader
	buf  []byte
}

func dialHTTP(b *testing.B, addr string) *httpConn {
	b.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return &httpConn{conn: conn, r: bufio.NewReader(conn)}
}

func (c *httpConn) post(body []byte) error {
	c.buf = fmt.Appendf(c.buf[:0], "POST /api/v1/provision HTTP/1.1\r\nHost: box\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body))
	c.buf = append(c.buf, body...)
	if _, err := c.conn.Write(c.buf); err != nil {
		return err
	}
	status, err := c.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.Contains(status, []byte(" 200 ")) {
		return fmt.Errorf("status %s", bytes.TrimSpace(status))
	}
	length := 0
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			_, err := c.r.Discard(length)
			return err
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
}

// BenchmarkIdleConnections: what 4,000 claimants that have subscribed and wait
// cost in resident memory, each, against the limit of 36 KiB.
func BenchmarkIdleConnections(b *testing.B) {
	const connections, limit = 4000, 36.0
	for b.Loop() {
		box := startBox(b)
		key := box.key()
		if err := cycle(box.mqttAddr, "provision/response", "provision/request", []byte(claimBody(key, "n", "WARM"))); err != nil {
			b.Fatal(err)
		}
		before := residentKiB(b, box)
		clients := make([]*mqttwire.Client, connections)
		var wg sync.WaitGroup
		var next atomic.Int64
		for range 16 {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < connections; i = next.Add(1) - 1 {
					clients[i] = claimant(b, box.mqttAddr)
				}
			})
		}
		wg.Wait()
		each := (residentKiB(b, box) - before) / connections
		for _, c := range clients {
			c.Close()
		}
		box.kill()
		b.ReportMetric(each, "KiB/conn")
		b.ReportMetric(each/limit, "of-36KiB")
	}
	b.ReportMetric(0, "ns/op")
}

func residentKiB(b *testing.B, box *box) float64 {
	b.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", box.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

// BenchmarkClaimsNeverWaitForUpstream: the 99th percentile of claims on a box
// whose upstream takes the connection and never answers, of that on a box
// without an upstream; the limit is 1.2.
func BenchmarkClaimsNeverWaitForUpstream(b *testing.B) {
	hanging := startBox(b, append(impatient(b), "--upstream", "mqtt://"+blackHole(b))...)
	quiet := startBox(b)
	times := map[*box][]time.Duration{}
	conns := map[*box]*httpConn{hanging: dialHTTP(b, hanging.httpAddr), quiet: dialHTTP(b, quiet.httpAddr)}
	keys := map[*box]string{hanging: hanging.key(), quiet: quiet.key()}
	claim := func(box *box) time.Duration {
		start := time.Now()
		if err := conns[box].post([]byte(claimBody(keys[box], "n", fmt.Sprint("P99-", serial.Add(1))))); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	for b.Loop() {
		for range 500 { // one by one, so that a slow moment of the machine is both's
			for _, box := range []*box{hanging, quiet} {
				times[box] = append(times[box], claim(box))
			}
		}
	}
	p99 := func(box *box) float64 {
		slices.Sort(times[box])
		return float64(times[box][len(times[box])*99/100].Microseconds())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(p99(hanging), "hanging-p99-µs")
	b.ReportMetric(p99(quiet), "quiet-p99-µs")
	b.ReportMetric(p99(hanging)/p99(quiet), "of-quiet")
}

// BenchmarkStart: from the process's start to its first ready answer, with a
// million devices and as many records waiting, against the limit of a second
// and against an empty box.
func BenchmarkStart(b *testing.B) {
	for _, devices := range []int{0, 1_000_000} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			if devices > 0 && testing.Short() {
				b.Skip("a million devices take a minute to make")
			}
			box := newBox(b)
			prefill(b, box.data, devices)
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				box.start()
				took = append(took, time.Since(start))
				box.stop()
			}
			slices.Sort(took)
			median := took[len(took)/2].Seconds()
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median, "s/start")
			b.ReportMetric(median/1, "of-1s")
		})
	}
}

// prefill makes devices by the store's own door, many to a commit.
func prefill(b *testing.B, dir string, devices int) {
	b.Helper()
	cfg := store.Defaults()
	cfg.Dir = dir
	db, err := store.Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	ids := parsed(b)
	template := edgeclaim.Template{ID: ids.template, Tenant: ids.tenant, Name: "T", Credential: edgeclaim.CredentialAPIKey, Approval: edgeclaim.ApprovalAuto, Status: edgeclaim.TemplateActive}
	key := edgeclaim.Key{ID: ids.key, Template: ids.template, Hash: edgeclaim.NewSecret("k").Hash(), Status: edgeclaim.KeyActive}
	err = errors.Join(db.CreateTemplate(b.Context(), template), db.AddKeys(b.Context(), []edgeclaim.Key{key}))
	if err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	parallel(b, 512, func() error {
		for i := next.Add(1); i <= int64(devices); i = next.Add(1) {
			hardware, err := edgeclaim.ParseHardwareID(fmt.Sprint("FILL-", i))
			if err != nil {
				return err
			}
			ref := edgeclaim.ClaimRef{Key: key.Hash, Tenant: ids.tenant, Hardware: hardware}
			err = db.Mint(context.Background(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
				p.Grant.Key.Claims++
				d := edgeclaim.Device{
					ID: edgeclaim.NewDeviceID(ids.tenant, hardware, 1), Tenant: ids.tenant, Hardware: hardware, Name: "Cold Store Sensor",
					Template: ids.template, Key: ids.key, Generation: 1, Status: edgeclaim.DeviceActive, ClaimedVia: edgeclaim.ViaMQTT,
					Credential: edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: edgeclaim.NewSecret(fmt.Sprint(i)).Hash()},
				}
				record := &edgeclaim.Record{
					Lane: edgeclaim.LaneProv, Type: edgeclaim.TypeDeviceProvisioned, Device: d.ID,
					Data: fmt.Appendf(nil, `{"device_id":%q,"hardware_id":%q,"credential":{"type":"api_key","sha256":%q}}`, d.ID, hardware, d.Credential.Hash),
				}
				return &edgeclaim.Minted{Key: p.Grant.Key, Device: d, Record: record}, nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

type someIDs struct {
	tenant   edgeclaim.TenantID
	template edgeclaim.TemplateID
	key      edgeclaim.KeyID
}

func parsed(b *testing.B) someIDs {
	b.Helper()
	var ids someIDs
	var errs [3]error
	ids.tenant, errs[0] = edgeclaim.ParseTenantID(tenant)
	ids.template, errs[1] = edgeclaim.ParseTemplateID("template")
	ids.key, errs[2] = edgeclaim.ParseKeyID("key")
	if err := errors.Join(errs[:]...); err != nil {
		b.Fatal(err)
	}
	return ids
}

// startPeer runs this very test binary as an empty gin handler; see peer_test.go.
func startPeer(b *testing.B) string {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	addrFile := filepath.Join(b.TempDir(), "addr")
	runPeer(b, self, addrFile)
	var addr string
	until(b, "the peer listens", func() bool {
		content, err := os.ReadFile(addrFile)
		addr = string(content)
		return err == nil && strings.HasSuffix(addr, "\n")
	})
	return strings.TrimSpace(addr)
}
