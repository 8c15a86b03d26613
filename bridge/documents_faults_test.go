package bridge_test

import (
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttproxy"
	"edgeclaim/internal/protocolschema"
)

// rounds changes what a shelf has again and again: lists and revocations, large
// and small, and twice the signer, from where on all is signed by the next.
func rounds(t testing.TB, n int, publish func(round int, papers ...paper)) {
	t.Helper()
	chance := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test has to be repeatable, not secret
	kinds := []edgeclaim.DocumentID{
		document(t, edgeclaim.DocumentRevocations), document(t, edgeclaim.DocumentTemplates), document(t, edgeclaim.DocumentProfiles),
		document(t, edgeclaim.DocumentAliases, "a"), document(t, edgeclaim.DocumentAllowList, "part-1"), document(t, edgeclaim.DocumentAllowList, "part-2"),
	}
	signer := uint64(0)
	for round := 1; round <= n; round++ {
		var papers []paper
		if round == n/3 || round == 2*n/3 {
			papers = append(papers, paper{id: document(t, edgeclaim.DocumentSigner), version: signer + 1, signer: signer})
			signer++
			for _, id := range kinds { // all anew: nobody else may have signed them
				papers = append(papers, paper{id: id, version: uint64(2 * round), signer: signer})
			}
		}
		papers = append(papers, paper{
			id: kinds[chance.IntN(len(kinds))], version: uint64(2*round + 1), signer: signer, size: chance.IntN(4 * wire.PartBytes),
		})
		publish(round, papers...)
	}
}

// TestDocumentsThroughFaults: what comes down is lost, late, twice and in another
// order, connections break, and documents change all the while. Afterwards the
// box has the newest of each, and upstream knows that it has; and claims were
// told as ever.
func TestDocumentsThroughFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("some ten seconds")
	}
	a := newApplication(t, newSigner(t))
	s, k := newShelf(paper{id: document(t, edgeclaim.DocumentTemplates), version: 1}), newKeeper()
	s.on(a)
	proxy := mqttproxy.Start(t, a.listener.Addr().String(), 7)
	proxy.Set(mqttproxy.Faults{
		Lost: 0.15, Twice: 0.1, Late: 0.1, LateBy: 60 * time.Millisecond, Reordered: 0.1, Kick: 0.1, PubackLost: 0.01,
	})
	m := newMemory()
	parts := m.parts()
	parts.Documents, parts.Restored = k, k.restore
	conf := appConf(a)
	conf.URL = "mqtt://" + proxy.Addr()
	conf.WelcomeTimeout, conf.ProbeLimit = 50*time.Millisecond, 200*time.Millisecond
	conf.AckTimeout = 500 * time.Millisecond
	startWith(t, conf, parts, a.enrolled(), func(b *bridge.Bridge) { bridge.ConfirmEvery(b, 100*time.Millisecond) })
	pace := time.NewTicker(80 * time.Millisecond)
	defer pace.Stop()
	a.await(t, "a hello", func() bool { return a.hello != nil })
	rounds(t, 60, func(round int, papers ...paper) {
		<-pace.C
		a.do(func() { s.publish(a, papers...) })
		m.add(edgeclaim.LaneProv, 3)
		if round%8 == 0 {
			proxy.Reset()
		}
	})
	proxy.Heal()
	k.await(t, "the newest of all", func() bool { return k.has(s) })
	s.reported(t, a, k)
	m.awaitAcked(t, edgeclaim.LaneProv, 180)
	a.check(t, edgeclaim.LaneProv, 180, 0)
	counts := proxy.Counts()
	if counts.Lost == 0 || counts.Twice == 0 || counts.Late == 0 || counts.Reordered == 0 || counts.Reset == 0 {
		t.Errorf("too little befell it: %+v", counts)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	t.Logf("%d taken, %d refused, %d lists confirmed, %+v", len(k.takes), len(k.refused), k.confirms, counts)
	last := map[string]uint64{}
	for _, one := range k.takes {
		var id string
		var version uint64
		if _, err := fmt.Sscanf(one, "%s %d", &id, &version); err != nil || version <= last[id] {
			t.Errorf("took %s behind %d", one, last[id])
		}
		last[id] = version
	}
}

// client is an application behind a real broker, which speaks of a shelf.
type client struct {
	conn  mqtt.Client
	key   ed25519.PrivateKey
	shelf *shelf
	names wire.Names

	mu       sync.Mutex
	hello    *wire.Hello               // guarded by mu
	marks    map[edgeclaim.Lane]uint64 // guarded by mu
	problems []string                  // guarded by mu
	changed  chan struct{}             // guarded by mu; closed by every message
}

func newClient(t testing.TB, addr string, s *shelf) *client {
	t.Helper()
	c := &client{
		key: newSigner(t), shelf: s, names: wire.Names{Site: site, Box: box},
		marks: map[edgeclaim.Lane]uint64{}, changed: make(chan struct{}),
	}
	options := plain(addr).SetProtocolVersion(4).SetMaxReconnectInterval(50 * time.Millisecond).SetOnConnectHandler(func(conn mqtt.Client) {
		conn.Subscribe(wire.UpFilter, 1, func(_ mqtt.Client, m mqtt.Message) { c.take(m.Topic(), m.Payload()) })
	})
	c.conn = mqtt.NewClient(options)
	if token := c.conn.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	t.Cleanup(func() {
		c.conn.Disconnect(100)
		for _, problem := range c.problems {
			t.Error(problem)
		}
	})
	return c
}

func (c *client) head(kind string) wire.Head {
	return wire.Head{Type: kind, Box: box, Epoch: c.hello.Epoch, Nonce: c.hello.Nonce, Time: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
}

func (c *client) say(kind string, m wire.Down) {
	text, err := wire.Seal(c.key, m)
	if err == nil {
		err = protocolschema.Check(c.names.Down(kind), text)
	}
	if err != nil {
		c.problems = append(c.problems, err.Error())
		return
	}
	c.conn.Publish(c.names.Down(kind), 1, false, text) // nobody waits: the box asks again
}

func (c *client) take(topic string, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		close(c.changed)
		c.changed = make(chan struct{})
	}()
	if err := protocolschema.Check(topic, payload); err != nil {
		c.problems = append(c.problems, err.Error())
	}
	_, kind, _ := wire.ParseUp(topic)
	if kind == "prov" || kind == "evt" {
		c.takeBatch(payload)
		return
	}
	m, err := wire.DecodeUp(c.names, payload)
	if err != nil {
		c.problems = append(c.problems, err.Error())
		return
	}
	if h, ok := m.(*wire.Hello); ok {
		c.hello = h
		c.say(wire.KindControl, &wire.Welcome{
			Head: c.head(wire.TypeWelcome), Version: wire.Version, Upstream: "hub-1", Credit: 1000,
			Resume: map[edgeclaim.Lane]wire.Resume{edgeclaim.LaneProv: {Upto: c.marks["prov"]}, edgeclaim.LaneEvt: {Upto: c.marks["evt"]}},
		})
	}
	if c.hello != nil {
		c.shelf.hear(c, m)
	}
}

func (c *client) takeBatch(payload []byte) {
	b, err := wire.DecodeBatch(c.names, payload)
	if err != nil || c.hello == nil || b.Nonce != c.hello.Nonce || b.First > c.marks[b.Lane]+1 {
		return
	}
	c.marks[b.Lane] = max(c.marks[b.Lane], b.Last)
	c.say(wire.KindAck, &wire.Ack{Head: c.head(wire.TypeAck), Upto: map[edgeclaim.Lane]uint64{b.Lane: c.marks[b.Lane]}})
}

// TestMosquittoDocuments: through a real broker, which is killed on the way.
func TestMosquittoDocuments(t *testing.T) {
	broker := mosquitto.New(t, mosquitto.Options{})
	broker.Restart()
	s, k := newShelf(everything(t)...), newKeeper()
	c := newClient(t, broker.Addr(), s)
	m := newMemory()
	parts := m.parts()
	parts.Documents = k
	conf := quick("mqtt://" + broker.Addr())
	conf.Ack, conf.StartSpread = bridge.AckApp, 0
	conf.WelcomeTimeout, conf.ProbeLimit = 200*time.Millisecond, 400*time.Millisecond
	b := startWith(t, conf, parts,
		func(b *bridge.Bridge) { b.Enrol(c.key.Public().(ed25519.PublicKey), "hub-1") },
		func(b *bridge.Bridge) { bridge.ConfirmEvery(b, 200*time.Millisecond) })
	k.await(t, "the first", func() bool { return k.has(s) })
	rounds(t, 12, func(round int, papers ...paper) {
		if round == 6 {
			broker.Kill()
			broker.Restart()
		}
		c.mu.Lock()
		for i := range papers {
			papers[i].version += 10 // above those that are there
			if papers[i].id.Type == edgeclaim.DocumentSigner {
				papers[i].version -= 10
			}
		}
		s.publish(c, papers...)
		c.mu.Unlock()
		m.add(edgeclaim.LaneProv, 10)
	})
	k.await(t, "the newest of all", func() bool { return k.has(s) })
	m.awaitAcked(t, edgeclaim.LaneProv, 120)
	awaitUnder(t, &c.mu, &c.changed, func() (string, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, p := range s.newest() {
			if told := s.reports[p.id]; told.Version != p.version || !told.Confirmed {
				return fmt.Sprintf("told of %s: %+v", p.id, told), false
			}
		}
		return "", true
	})
	if alarms := b.Status().Alarms; len(alarms) != 0 {
		t.Errorf("alarms %v", alarms)
	}
}
