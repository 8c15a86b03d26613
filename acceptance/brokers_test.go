package acceptance

import (
	"fmt"
	"net"
	"strconv"
	"testing"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/postgres"

	"github.com/nats-io/nats-server/v2/server"
)

// nats is a NATS server with JetStream and its MQTT listener.
type nats struct {
	t       testing.TB
	options server.Options
	addr    string
	running *server.Server
}

func startNATS(t testing.TB) *nats {
	t.Helper()
	n := &nats{t: t, addr: freeAddr(t)}
	host, portText, err := net.SplitHostPort(n.addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	n.options = server.Options{
		ServerName: "edgeclaim-acceptance", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), MQTT: server.MQTTOpts{Host: host, Port: port},
	}
	t.Cleanup(n.Kill)
	n.Restart()
	return n
}

// Addr returns host:port of the MQTT listener.
func (n *nats) Addr() string { return n.addr }

// Kill ends the server. It lives in this process, so that a true kill is not
// to be had: what it has taken it may write down.
func (n *nats) Kill() {
	if n.running == nil {
		return
	}
	n.running.Shutdown()
	n.running.WaitForShutdown()
	n.running = nil
}

// Restart starts the server and waits until it takes connections.
func (n *nats) Restart() {
	n.t.Helper()
	n.Kill()
	options := n.options
	running, err := server.NewServer(&options)
	if err != nil {
		n.t.Fatal(err)
	}
	running.Start()
	n.running = running
	if !running.ReadyForConnections(patience) {
		n.t.Fatal("the NATS server takes no connections")
	}
	until(n.t, "the MQTT listener is there", func() bool {
		conn, err := net.Dial("tcp", n.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// TestLedgerElsewhere runs some of the ledger test's schedules on a broker and
// on a database that nobody here has written.
func TestLedgerElsewhere(t *testing.T) {
	schedules := 3
	if testing.Short() {
		schedules = 1
	}
	for name, start := range map[string]func(t *testing.T, seed uint64) *site{
		"nats": func(t *testing.T, seed uint64) *site {
			return newSiteOf(t, startNATS(t), "", seed, smallEvents)
		},
		"postgres": func(t *testing.T, seed uint64) *site {
			database := postgres.Start(t).URL()
			return newSiteOf(t, mosquitto.Start(t, mosquitto.Options{}), database, seed, smallEvents)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, seed := range seeds(t, schedules) {
				t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { runLedger(t, start(t, seed), seed) })
			}
		})
	}
}
