package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"
)

// groupLog is Reports that end on a disk: what waits is written and synced
// together, as the box's own log does it.
type groupLog struct {
	file *os.File

	mu     sync.Mutex // guards what follows
	buf    []byte
	commit *edgeclaim.Commit // of what is in buf; nil: nothing is
	signal chan struct{}
}

func newGroupLog(b *testing.B) *groupLog {
	b.Helper()
	file, err := os.Create(filepath.Join(b.TempDir(), "telemetry"))
	if err != nil {
		b.Fatal(err)
	}
	g := &groupLog{file: file, signal: make(chan struct{}, 1)}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() { // ends with the benchmark
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-g.signal:
				g.sync()
			}
		}
	}()
	b.Cleanup(func() {
		close(done)
		<-ended
		file.Close()
	})
	return g
}

func (g *groupLog) Telemetry(_ context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.buf = append(g.buf, r.Body...)
	if g.commit == nil {
		g.commit = edgeclaim.NewCommit()
		select {
		case g.signal <- struct{}{}:
		default:
		}
	}
	return edgeclaim.Receipt{Accepted: 1, Commit: g.commit}, nil
}

func (g *groupLog) Event(ctx context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	return g.Telemetry(ctx, r)
}

func (*groupLog) Gone(edgeclaim.DeviceID) {}

func (g *groupLog) sync() {
	g.mu.Lock()
	buf, commit := g.buf, g.commit
	g.buf, g.commit = nil, nil
	g.mu.Unlock()
	if commit == nil {
		return
	}
	_, err := g.file.Write(buf)
	if err == nil {
		err = g.file.Sync()
	}
	commit.End(err)
}

// BenchmarkTelemetry is QoS 1 over held connections, each with so many messages
// on the way, acknowledged when they are on the disk. Its peer is the same of
// Mosquitto, which keeps nothing; ratio is how much of its rate that is.
func BenchmarkTelemetry(b *testing.B) {
	const clients = 50
	payload := fmt.Appendf(nil, `{"temperature":21.5,"pressure":1013.2,"state":"running","pad":"%s"}`, bytes.Repeat([]byte("x"), 35))
	for _, window := range []int{1, 20} {
		b.Run(fmt.Sprintf("clients=%d/window=%d/bytes=%d", clients, window, len(payload)), func(b *testing.B) {
			log := newGroupLog(b)
			box, stop := runWith(b, func(p *broker.Parts) { p.Reports = log }, func(c *broker.Config) {
				c.MaxDeviceRate, c.MaxDeviceBurst = 1_000_000, 1_000_000
			})
			durable := flood(b, box.Addr().String(), clients, window, payload)
			if err := stop(); err != nil {
				b.Error(err)
			}
			peer := mosquitto.Start(b, mosquitto.Options{Extra: []string{"set_tcp_nodelay true"}})
			kept := flood(b, peer.Addr(), clients, window, payload)
			b.ReportMetric(float64(b.N)/durable.Seconds(), "msg/s")
			b.ReportMetric(float64(b.N)/kept.Seconds(), "mosquitto-msg/s")
			b.ReportMetric(kept.Seconds()/durable.Seconds(), "ratio")
		})
	}
}

// runWith runs a broker that lets every device in.
func runWith(b *testing.B, parts func(*broker.Parts), change func(*broker.Config)) (*broker.Broker, func() error) {
	b.Helper()
	r := &rule{login: knowsAll, change: parts}
	return run(b, r, change, discard())
}

// flood publishes b.N messages, and is how long that took until the last was
// acknowledged.
func flood(b *testing.B, addr string, clients, window int, payload []byte) time.Duration {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	conns := make([]net.Conn, clients)
	floods := make([][]byte, clients)
	for i := range conns {
		id := deviceID(b, i+1)
		login := deviceLogin(id)
		login.ClientID = id.String()
		c, ack, err := mqttwire.Dial(b.Context(), addr, mqttwire.V311, login)
		if err != nil || ack.Code() != 0 {
			b.Fatalf("CONNACK %#x, %v", ack.Code(), err)
		}
		defer c.Close()
		conns[i] = c.Conn()
		for n := range window {
			floods[i] = mqttwire.AppendPublish(floods[i], mqttwire.V311, &mqttwire.Message{
				Topic: "devices/" + id.String() + "/telemetry", QoS: 1, ID: uint16(n + 1), Payload: payload,
			})
		}
	}
	var group errgroup.Group
	b.ResetTimer()
	began := time.Now()
	for i, c := range conns {
		group.Go(func() error {
			acks, each := make([]byte, 4*window), len(floods[i])/window
			for {
				rest := left.Add(-int64(window))
				n := window + int(min(rest, 0))
				if n <= 0 {
					return nil
				}
				if _, err := c.Write(floods[i][:n*each]); err != nil {
					return err
				}
				if _, err := io.ReadFull(c, acks[:4*n]); err != nil {
					return err
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}
