// Package mqttproxy is a bad cable for tests: a TCP proxy between an MQTT 3.1.1
// client and its broker that knows where packets begin and end, and loses,
// delays, repeats, reorders and forges them, or falls silent, when it is told.
//
// What it draws by chance comes from a seed. The same seed and the same packets
// give the same faults; which packets come when is the programs' own doing.
//
// It holds in memory what is on its way, without a bound: a reader that stalls
// does not make the other end stall.
package mqttproxy

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// Way is a direction, or both.
type Way uint8

// The ways.
const (
	Up   Way = 1 << iota // from the client to the broker
	Down                 // from the broker to the client
	Both = Up | Down
)

// Faults is what befalls packets. Chances are 0 to 1 for each packet, drawn one
// after the other; at most one of them befalls a packet.
type Faults struct {
	// Delay is how long every packet takes, each way. Packets overlap: it
	// costs time, not throughput.
	Delay time.Duration

	// PubackLost is the chance of a PUBACK on its way to the client.
	PubackLost float64
	// Lost, Twice, Late and Reordered are the chances of a PUBLISH on its way
	// to the client. One that is late comes up to LateBy later, one that is
	// reordered behind what comes within a few milliseconds.
	Lost, Twice, Late, Reordered float64
	LateBy                       time.Duration

	// Kick is the chance of a connection to be reset right behind its CONNACK.
	Kick float64
}

// Counts is what befell packets and connections since the proxy began.
type Counts struct {
	Connections, Kicked, Silenced, Reset int
	PubacksLost                          int
	Lost, Twice, Late, Reordered         int
	Injected                             int
}

// Proxy is one cable. Its methods may be called at any time by anybody.
type Proxy struct {
	listener net.Listener
	target   string
	work     sync.WaitGroup // all goroutines; Close awaits them

	mu     sync.Mutex
	faults Faults
	chance *rand.Rand
	silent Way // what new connections are deaf or dumb to
	refuse bool
	closed bool
	counts Counts
	links  map[*link]struct{}
}

// Start listens on loopback and forwards to target until the test ends.
func Start(t testing.TB, target string, seed uint64) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		listener: listener, target: target,
		chance: rand.New(rand.NewPCG(seed, seed)), //nolint:gosec // a test has to be repeatable, not secret
		links:  map[*link]struct{}{},
	}
	p.work.Go(p.serve)
	t.Cleanup(p.Close)
	return p
}

// Addr returns host:port to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Set makes f befall what comes from now on.
func (p *Proxy) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// Cut makes every open connection silent that way, for good and without a FIN:
// what is said is thrown away, and neither end hears the other close. New ones
// are the same until Heal. Both is a cable pulled; one way is half open.
func (p *Proxy) Cut(w Way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = w
	for l := range p.links {
		l.silence(w)
		p.counts.Silenced++
	}
}

// Reset breaks every open connection off, with a RST to both ends.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
		p.counts.Reset++
	}
}

// Refuse makes new connections end at once, until Heal.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = true
}

// Heal ends all faults for what comes. Connections that fell silent stay so:
// what was said on them is lost.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults, p.silent, p.refuse = Faults{}, 0, false
}

// Inject says a PUBLISH of QoS 0 to every client that is connected, as if the
// broker had, and returns to how many.
func (p *Proxy) Inject(topic string, payload []byte) int {
	packet := mqttwire.AppendPublish(nil, mqttwire.V311, &mqttwire.Message{Topic: topic, Payload: payload})
	p.mu.Lock()
	defer p.mu.Unlock()
	told := 0
	for l := range p.links {
		if l.greeted && l.silenced&Down == 0 {
			l.down.push(piece{bytes: packet, due: l.down.inOrder(time.Now(), p.faults.Delay)})
			told++
		}
	}
	p.counts.Injected += told
	return told
}

// Counts returns what befell so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// Close ends every connection and waits for the proxy's goroutines. It may be
// called again.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.listener.Close()
	for l := range p.links {
		l.close()
	}
	p.mu.Unlock()
	p.work.Wait()
}

func (p *Proxy) serve() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refused := p.refuse
		p.mu.Unlock()
		if refused {
			near.Close()
			continue
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			near.Close()
			continue
		}
		p.join(near, far)
	}
}

// join makes a link of two connections and starts it.
func (p *Proxy) join(near, far net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := newLink(p, near, far)
	if p.closed {
		l.close()
		return
	}
	l.silence(p.silent)
	p.links[l] = struct{}{}
	p.counts.Connections++
	p.work.Go(func() { l.read(near, Up, l.up) })
	p.work.Go(func() { l.read(far, Down, l.down) })
	p.work.Go(l.up.write)
	p.work.Go(l.down.write)
}
