package broker_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"
)

// BenchmarkClaimCycle is whole claims from new connections: connect, CONNECT,
// SUBSCRIBE, PUBLISH at QoS 1, the answer, PUBACK, DISCONNECT, with a rule that
// answers at once. Its peer is the same cycle of Mosquitto, which gives back
// what was published, where it is installed.
func BenchmarkClaimCycle(b *testing.B) {
	const clients = 64
	answer := []byte(`{"device_id":"00000000-0000-5000-8000-000000000001","api_key":"sk_live_0123456789012345678901234567890123456789012"}`)
	b.Run(fmt.Sprintf("face=mqtt/clients=%d", clients), func(b *testing.B) {
		box := start(b, &rule{answer: func(edgeclaim.Ask) edgeclaim.Answer { return edgeclaim.Answer{Body: answer} }}, nil)
		cycles(b, clients, box.Addr().String(), "provision/request", "provision/response")
	})
	b.Run(fmt.Sprintf("face=mosquitto/clients=%d", clients), func(b *testing.B) {
		// Without TCP_NODELAY, its two small writes wait for the client's
		// delayed ACK: 40 ms a cycle.
		peer := mosquitto.Start(b, mosquitto.Options{Extra: []string{"set_tcp_nodelay true"}})
		cycles(b, clients, peer.Addr(), "echo/%d", "echo/%d")
	})
}

func cycles(b *testing.B, clients int, addr, request, response string) {
	var left atomic.Int64
	left.Store(int64(b.N))
	payload := []byte(strings.Repeat("x", 120))
	var group errgroup.Group
	b.ResetTimer()
	for i := range clients {
		ask, hear := request, response
		if strings.Contains(ask, "%d") {
			ask, hear = fmt.Sprintf(ask, i), fmt.Sprintf(hear, i)
		}
		group.Go(func() error {
			for left.Add(-1) >= 0 {
				if err := cycle(addr, ask, hear, payload, "bench"+strconv.Itoa(i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
}

func cycle(addr, ask, hear string, payload []byte, id string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	c := mqttwire.New(conn, mqttwire.V311)
	if ack, err := c.Login(mqttwire.Login{ClientID: id, Clean: true, KeepAlive: 30}); err != nil || ack.Code() != 0 {
		return fmt.Errorf("CONNACK %#x: %w", ack.Code(), err)
	}
	if _, err := c.Subscribe(hear); err != nil {
		return err
	}
	if err := c.Publish(mqttwire.Message{Topic: ask, QoS: 1, Payload: payload}); err != nil {
		return err
	}
	for got := 0; got < 2; got++ {
		if _, err := c.Read(); err != nil {
			return err
		}
	}
	return c.Disconnect()
}

// BenchmarkIdleConnections is the resident memory that a connection which does
// nothing takes of a broker in a process of its own: when all have just come
// (B/conn-fresh, which counts the garbage of their coming), and when that
// garbage has gone back to the system (B/conn).
func BenchmarkIdleConnections(b *testing.B) {
	if path := os.Getenv("BROKER_IDLE_TARGET"); path != "" {
		b.Skip("the other process")
	}
	for _, secure := range []bool{false, true} {
		for _, kind := range []string{"claimant", "device"} {
			b.Run(fmt.Sprintf("tls=%v/kind=%s", secure, kind), func(b *testing.B) {
				for b.Loop() {
					idle(b, secure, kind == "device", 4000)
				}
			})
		}
	}
}

// idle starts this test binary again as a broker, connects n clients to it and
// reports what its resident memory grew by.
func idle(b *testing.B, secure, devices bool, n int) {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestIdleTarget$")
	cmd.Env = append(os.Environ(), "BROKER_IDLE_TARGET=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	plain, addr := "", ""
	if lines.Scan() {
		plain, addr, _ = strings.Cut(lines.Text(), " ")
	}
	if !secure {
		addr = plain
	}
	before := resident(b, cmd.Process.Pid)
	var conns []*mqttwire.Client
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for i := range n {
		login := mqttwire.Login{Clean: true, KeepAlive: 60}
		filter := "provision/response"
		if devices {
			login = deviceLogin(deviceID(b, i))
			filter = "devices/" + login.Username + "/commands"
		}
		c := idleClient(b, addr, secure, devices, login)
		conns = append(conns, c)
		if _, err := c.Subscribe(filter); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(resident(b, cmd.Process.Pid)-before)/float64(n), "B/conn-fresh")
	if _, err := io.WriteString(in, "collect\n"); err != nil {
		b.Fatal(err)
	}
	lines.Scan()
	b.ReportMetric(float64(resident(b, cmd.Process.Pid)-before)/float64(n), "B/conn")
}

// idleClient logs in; over TLS as a device, by a certificate.
func idleClient(b *testing.B, addr string, secure, device bool, login mqttwire.Login) *mqttwire.Client {
	if !secure {
		c, _, err := mqttwire.Dial(context.Background(), addr, mqttwire.V311, login)
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	config := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // what it takes is all that matters
	if device {
		config.Certificates = []tls.Certificate{selfSigned(b, login.Username, 300)}
	}
	nc, err := tls.Dial("tcp", addr, config)
	if err != nil {
		b.Fatal(err)
	}
	c := mqttwire.New(nc, mqttwire.V311)
	if ack, err := c.Login(login); err != nil || ack.Code() != 0 {
		b.Fatalf("CONNACK %#x, %v", ack.Code(), err)
	}
	return c
}

// TestIdleTarget is the broker of BenchmarkIdleConnections, no test.
func TestIdleTarget(t *testing.T) {
	if os.Getenv("BROKER_IDLE_TARGET") == "" {
		t.Skip("for BenchmarkIdleConnections")
	}
	b := startSecure(t, &rule{login: knowsAll}, nil)
	b.rule.owner = func(chain []*x509.Certificate) (edgeclaim.DeviceID, error) {
		return edgeclaim.ParseDeviceID(chain[0].Subject.CommonName)
	}
	fmt.Println(b.Addr(), b.TLSAddr())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		debug.FreeOSMemory()
		fmt.Println("collected")
	}
}

// resident is a process's resident memory in bytes.
func resident(b *testing.B, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Skip(err)
	}
	fields := strings.Fields(string(text))
	pages, err := strconv.Atoi(fields[1])
	if err != nil {
		b.Fatal(err)
	}
	return pages * os.Getpagesize()
}
