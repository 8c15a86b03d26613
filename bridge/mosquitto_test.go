package bridge_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"edgeclaim"
	"edgeclaim/internal/mosquitto"
)

// tap stands between a bridge and a real broker and reads along.
type tap struct {
	*upstream
	told // what the bridge sent

	mu      sync.Mutex
	arrived map[string]bool // guarded by mu; event ids that the broker sent PUBACK for
}

func newTap(t testing.TB, broker string) *tap {
	tp := &tap{arrived: map[string]bool{}}
	tp.upstream = listen(t, "", func(p *peer) { tp.forward(p, broker) })
	return tp
}

func (tp *tap) forward(p *peer, broker string) {
	conn, err := net.Dial("tcp", broker)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	defer back.Wait()
	defer conn.Close()
	var flight sync.Map // event id by packet id
	back.Go(func() {
		defer p.Close()
		for {
			packet, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			if ack, ok := packet.(*packets.PubackPacket); ok {
				if id, ok := flight.LoadAndDelete(ack.MessageID); ok {
					tp.mu.Lock()
					tp.arrived[id.(string)] = true
					tp.mu.Unlock()
				}
			}
			if packet.Write(p) != nil {
				return
			}
		}
	})
	for packet := p.read(); packet != nil; packet = p.read() {
		if m, ok := packet.(*packets.PublishPacket); ok {
			if id := tp.take(m.TopicName, m.Payload); id != "" {
				flight.Store(m.MessageID, id)
			}
		}
		if packet.Write(conn) != nil {
			return
		}
	}
}

// watcher is a plain client that notes what a filter brings.
type watcher struct {
	messages chan mqtt.Message
}

func watch(t testing.TB, options *mqtt.ClientOptions, filter string) *watcher {
	t.Helper()
	w := &watcher{messages: make(chan mqtt.Message, 10_000)}
	options.SetProtocolVersion(4).SetAutoReconnect(false).SetConnectTimeout(patience)
	client := mqtt.NewClient(options)
	if token := client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("watcher: %v", token.Error())
	}
	t.Cleanup(func() { client.Disconnect(100) })
	token := client.Subscribe(filter, 1, func(_ mqtt.Client, m mqtt.Message) { w.messages <- m })
	if !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("watcher: %v", token.Error())
	}
	return w
}

func plain(addr string) *mqtt.ClientOptions {
	return mqtt.NewClientOptions().AddBroker("tcp://" + addr)
}

// next waits for a message.
func (w *watcher) next(t testing.TB) mqtt.Message {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case m := <-w.messages:
		return m
	case <-timer.C:
		t.Fatal("no message came")
		return nil
	}
}

// awaitState waits until the state is said to be status.
func (w *watcher) awaitState(t testing.TB, status string) mqtt.Message {
	t.Helper()
	for {
		m := w.next(t)
		if strings.Contains(string(m.Payload()), `"status":"`+status+`"`) {
			return m
		}
	}
}

// TestMosquittoDownUpKilled: upstream is down before the start, up after 200
// records, and killed and restarted twice while 200 more come.
func TestMosquittoDownUpKilled(t *testing.T) {
	broker := mosquitto.New(t, mosquitto.Options{})
	tp := newTap(t, broker.Addr())
	outbox := newMemory()
	b := start(t, quick(tp.url()), outbox)
	outbox.add(edgeclaim.LaneProv, 200)
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.LastError != "" })
	if acked := outbox.acked(edgeclaim.LaneProv); acked != 0 {
		t.Fatalf("told up to %d with nothing upstream", acked)
	}
	broker.Restart()
	outbox.awaitAcked(t, edgeclaim.LaneProv, 200)
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for i := range 200 {
		<-pace.C
		outbox.add(edgeclaim.LaneProv, 1)
		switch i {
		case 40, 120:
			broker.Kill()
		case 80, 160:
			broker.Restart()
			b.awaitStatus(t, up)
		}
	}
	outbox.awaitAcked(t, edgeclaim.LaneProv, 400)
	b.stop()

	tp.check(t, edgeclaim.LaneProv, 400)
	for i := range 400 {
		if id := eventID(edgeclaim.LaneProv, i+1); !tp.arrived[id] {
			t.Errorf("the outbox forgot %s, which Mosquitto never acknowledged", id)
		}
	}
	if n := tp.connections(); n < 3 {
		t.Errorf("%d connections, want three at least", n)
	}
}

func TestMosquittoBringsTheRecords(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{})
	w := watch(t, plain(broker.Addr()), root+"/up/+")
	outbox := newMemory()
	outbox.add(edgeclaim.LaneProv, 2000)
	outbox.add(edgeclaim.LaneEvt, 2000)
	start(t, quick("mqtt://"+broker.Addr()), outbox)
	var got told
	for range 4000 {
		m := w.next(t)
		if m.Retained() || m.Qos() != 1 {
			t.Fatalf("retained %v, QoS %d", m.Retained(), m.Qos())
		}
		got.take(m.Topic(), m.Payload())
	}
	got.check(t, edgeclaim.LaneProv, 2000)
	got.check(t, edgeclaim.LaneEvt, 2000)
	outbox.awaitAcked(t, edgeclaim.LaneEvt, 2000)
}

// TestMosquittoState: online while there, offline by the will when cut off, and
// by its own word when stopped; retained each time.
func TestMosquittoState(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{})
	tp := newTap(t, broker.Addr())
	w := watch(t, plain(broker.Addr()), root+"/st")
	b := start(t, quick(tp.url()), newMemory())
	w.awaitState(t, "online")
	retained := func(status string) {
		t.Helper()
		late := watch(t, plain(broker.Addr()), root+"/st")
		if m := late.awaitState(t, status); !m.Retained() {
			t.Errorf("%s is not retained", status)
		}
	}
	retained("online")
	_, said := tp.snapshot()
	tp.cut()
	w.awaitState(t, "offline")
	if _, now := tp.snapshot(); len(now) > len(said) && strings.Contains(now[len(said)], "offline") {
		t.Error("offline was said, not willed")
	}
	w.awaitState(t, "online")
	b.stop()
	w.awaitState(t, "offline")
	retained("offline")
}

func TestMosquittoLogin(t *testing.T) {
	const password = "s3cret/with@signs"
	broker := mosquitto.Start(t, mosquitto.Options{Users: map[string]string{"box": password}})
	file := filepath.Join(t.TempDir(), "password")
	conf := quick("mqtt://" + broker.Addr())
	conf.Username, conf.PasswordFile = "box", file
	outbox := newMemory()
	outbox.add(edgeclaim.LaneProv, 1)
	b := start(t, conf, outbox)
	says := func(want string) func(edgeclaim.UpstreamStatus) bool {
		return func(s edgeclaim.UpstreamStatus) bool { return strings.Contains(s.LastError, want) }
	}
	b.awaitStatus(t, says("password_file"))
	write(t, file, "wrong\n")
	b.awaitStatus(t, says("not authorised"))
	write(t, file, password+"\n")
	outbox.awaitAcked(t, edgeclaim.LaneProv, 1)
	b.stop()

	outbox.add(edgeclaim.LaneProv, 1)
	inURL := start(t, quick("mqtt://box:s3cret%2Fwith%40signs@"+broker.Addr()), outbox)
	outbox.awaitAcked(t, edgeclaim.LaneProv, 2)
	if shown := inURL.Status().URL; shown != "mqtt://"+broker.Addr() {
		t.Errorf("status shows %q", shown)
	}
	inURL.stop()
	for _, secret := range []string{password, "s3cret"} {
		if strings.Contains(b.log.String()+inURL.log.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestMosquittoTLS(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := newCA(t, dir, "ours"), newCA(t, dir, "theirs")
	server, client := ours.issue(t, dir, "server"), ours.issue(t, dir, "client")
	stranger := theirs.issue(t, dir, "stranger")
	broker := mosquitto.Start(t, mosquitto.Options{CAFile: ours.file, CertFile: server.cert, KeyFile: server.key})
	for _, tc := range []struct {
		name         string
		ca           string
		pair         pair
		serverName   string
		now          func() time.Time
		want         string // in the last error; empty for success
		wantAnything bool   // the alert's text is the TLS libraries' affair
	}{
		{name: "good", ca: ours.file, pair: client},
		{name: "no client certificate", ca: ours.file, wantAnything: true},
		{name: "a stranger's client certificate", ca: ours.file, pair: stranger, wantAnything: true},
		{name: "unknown authority", ca: theirs.file, pair: client, want: "unknown authority"},
		{name: "system's authorities", pair: client, want: "unknown authority"},
		{name: "another name", ca: ours.file, pair: client, serverName: "elsewhere.example", want: "elsewhere.example"},
		{name: "clock of the box", ca: ours.file, pair: client, want: "not yet valid",
			now: func() time.Time { return time.Unix(0, 0) }},
		{name: "no CA file", ca: filepath.Join(dir, "none"), pair: client, want: "ca_file"},
		{name: "CA file without one", ca: client.key, pair: client, want: "no certificate in it"},
		{name: "key of another", ca: ours.file, pair: pair{client.cert, stranger.key}, want: "cert_file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conf := quick("mqtts://" + broker.Addr())
			conf.CAFile, conf.CertFile, conf.KeyFile = tc.ca, tc.pair.cert, tc.pair.key
			conf.ServerName, conf.Now = tc.serverName, tc.now
			outbox := newMemory()
			outbox.add(edgeclaim.LaneProv, 10)
			b := start(t, conf, outbox)
			if tc.want == "" && !tc.wantAnything {
				outbox.awaitAcked(t, edgeclaim.LaneProv, 10)
				return
			}
			status := b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return s.LastError != "" })
			if !strings.Contains(status.LastError, tc.want) {
				t.Errorf("last error %q, want %q in it", status.LastError, tc.want)
			}
			if acked := outbox.acked(edgeclaim.LaneProv); acked != 0 {
				t.Errorf("told up to %d", acked)
			}
		})
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMosquittoTelemetry: points reach a plain subscriber as devices said them,
// through a broker that is killed in between; who comes late hears who is at
// work.
func TestMosquittoTelemetry(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{})
	m := newMemory()
	m.add(edgeclaim.LaneTel, 3000)
	states := newPresences()
	states.set(4, edgeclaim.PresenceOnline, nil)
	parts := m.withTelemetry()
	parts.States = states
	conf := quick("mqtt://" + broker.Addr())
	conf.Window, conf.WriteTimeout = 64, 200*time.Millisecond
	w := watch(t, plain(broker.Addr()), "devices/+/telemetry")
	b := startWith(t, conf, parts)
	for range 100 {
		w.next(t)
	}
	broker.Kill()
	b.awaitStatus(t, func(s edgeclaim.UpstreamStatus) bool { return !up(s) })
	m.add(edgeclaim.LaneTel, 500)
	broker.Restart()
	w = watch(t, plain(broker.Addr()), "devices/+/telemetry")
	m.awaitAcked(t, edgeclaim.LaneTel, 3500)
	late := watch(t, plain(broker.Addr()), "devices/+/presence").next(t)
	if late.Topic() != "devices/"+deviceAt(4).String()+"/presence" || !late.Retained() {
		t.Errorf("%s, retained %v", late.Topic(), late.Retained())
	}
	m.add(edgeclaim.LaneTel, 1)
	last := string(newPoint(3501).Payload)
	for string(w.next(t).Payload()) != last {
	}
}
